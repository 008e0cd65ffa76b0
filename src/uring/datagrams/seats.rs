//! The sockets of flows. Each flow has one of its own, connected to its backend, on a port that the kernel draws. Making
//! one and closing it costs several times what connecting it does, so a socket whose flow is over is disconnected, which
//! takes its port from it, and waits in a stock for the next flow with its receive still armed.
//!
//! What an earlier flow's backend still says must not reach the next one. From the disconnection on nothing arrives; what
//! lies unread then is thrown away before the next connection; and no answer of the ring is older than that, because a
//! socket is taken from the stock only while every answer the ring has given is read (see `Ring::recycle`).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::ids::{FlowKey, Outlet};
use crate::sys::datagram;
use crate::uring::tag::{SLOTS_MAX, Tag};

pub(super) const NO_SEAT: u32 = u32::MAX;

/// Sockets of each family that wait at most.
const STOCK_MAX: usize = 1_024;

/// A place for a socket. Its number goes with the socket's receive.
#[derive(Debug)]
pub(super) struct Seat {
    socket: Option<OwnedFd>,
    /// Tells the answers for this socket from late ones for an earlier one in the same seat.
    life: u16,
    family: usize,
    /// It leaves from an address that was asked for, so it is no use to other flows.
    bound: bool,
    /// A receive is in flight, or will be with the next turn.
    pub(super) armed: bool,
    /// Another process receives here: an ended receive is not begun again.
    pub(super) quiet: bool,
    /// Whose it is, and as which of its outlets.
    pub(super) flow: Option<(FlowKey, Outlet)>,
}

#[derive(Debug)]
pub(super) struct Seats {
    seats: Vec<Seat>,
    free: Vec<u32>,
    /// By family. The last one in is the first one out: it is the warmest.
    stock: [Vec<u32>; 2],
    /// The fewest that waited since the last trimming: so many were not needed.
    unneeded: [usize; 2],
}

impl Seats {
    /// Room for the seats of `flows_max` flows and of a full stock is reserved now and touched as it is used: a warm worker
    /// allocates nothing for one flow more.
    pub(super) fn new(flows_max: u32) -> Seats {
        let seats_max = flows_max as usize + 2 * STOCK_MAX;
        Seats {
            seats: Vec::with_capacity(seats_max),
            free: Vec::with_capacity(seats_max),
            stock: [(); 2].map(|()| Vec::with_capacity(STOCK_MAX)),
            unneeded: [0; 2],
        }
    }

    /// Seats a new socket; gives it back if there are more seats than a tag can name.
    pub(super) fn add(
        &mut self,
        socket: OwnedFd,
        is_ipv4: bool,
        bound: bool,
    ) -> Result<u32, OwnedFd> {
        let family = usize::from(is_ipv4);
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.seats.len() as u32 >= SLOTS_MAX => return Err(socket),
            None => {
                self.seats.push(Seat {
                    socket: None,
                    life: 0,
                    family,
                    bound,
                    armed: false,
                    quiet: false,
                    flow: None,
                });
                self.seats.len() as u32 - 1
            }
        };
        let seat = &mut self.seats[number as usize];
        seat.life = seat.life.wrapping_add(1);
        (seat.family, seat.bound) = (family, bound);
        (seat.armed, seat.quiet, seat.flow) = (false, false, None);
        seat.socket = Some(socket);
        Ok(number)
    }

    pub(super) fn seat(&mut self, number: u32) -> Option<&mut Seat> {
        self.seats.get_mut(number as usize)
    }

    /// Whose answer it is; `None` if that socket is gone.
    pub(super) fn of(&mut self, tag: Tag) -> Option<&mut Seat> {
        let seat = self.seat(tag.seat_number())?;
        (seat.socket.is_some() && seat.life == tag.buffer).then_some(seat)
    }

    pub(super) fn tag(&self, number: u32) -> Option<Tag> {
        let seat = self.seats.get(number as usize)?;
        Some(Tag::seat(number, seat.life))
    }

    /// A disconnected socket for the next flow.
    pub(super) fn take(&mut self, is_ipv4: bool) -> Option<u32> {
        let family = usize::from(is_ipv4);
        let number = self.stock[family].pop()?;
        self.unneeded[family] = self.unneeded[family].min(self.stock[family].len());
        Some(number)
    }

    /// What was taken was not used.
    pub(super) fn put_back(&mut self, number: u32) {
        let family = self.seats[number as usize].family;
        self.stock[family].push(number);
    }

    /// The flow is over: its socket may serve another. False if it cannot, or if enough of them wait.
    pub(super) fn rest(&mut self, number: u32) -> bool {
        let Some(seat) = self.seats.get_mut(number as usize) else {
            return false;
        };
        let stock = &mut self.stock[seat.family];
        let serves = !seat.bound
            && !seat.quiet
            && stock.len() < STOCK_MAX
            && seat
                .socket()
                .is_some_and(|socket| datagram::disconnect(socket).is_ok());
        if serves {
            seat.flow = None;
            stock.push(number);
        }
        serves
    }

    /// The seat is free; its socket is the caller's to close.
    pub(super) fn remove(&mut self, number: u32) -> Option<OwnedFd> {
        let seat = self.seats.get_mut(number as usize)?;
        let socket = seat.socket.take()?;
        seat.flow = None;
        self.free.push(number);
        Some(socket)
    }

    /// One that was not needed since the last trimming.
    pub(super) fn unneeded(&mut self) -> Option<u32> {
        for (stock, unneeded) in self.stock.iter_mut().zip(&mut self.unneeded) {
            if *unneeded > 0 {
                *unneeded -= 1;
                // The coldest; the line is short, and this is no path of a datagram's.
                return (!stock.is_empty()).then(|| stock.remove(0));
            }
        }
        None
    }

    /// Any that waits for a flow; it waits no more.
    pub(super) fn waiting(&mut self) -> Option<u32> {
        let [one, other] = &mut self.stock;
        let number = one.pop().or_else(|| other.pop());
        self.unneeded = [0, 1].map(|family| self.unneeded[family].min(self.stock[family].len()));
        number
    }

    /// Begins to look anew how many are needed. Tells whether any wait.
    pub(super) fn trimmed(&mut self) -> bool {
        self.unneeded = [self.stock[0].len(), self.stock[1].len()];
        self.unneeded != [0; 2]
    }
}

impl Seat {
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn raw(&self) -> Option<RawFd> {
        self.socket.as_ref().map(AsRawFd::as_raw_fd)
    }
}
