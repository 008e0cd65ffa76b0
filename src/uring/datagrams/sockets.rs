//! The real kernel's side of [`Datagrams`]: sockets of listeners and flows, their receives, and what these bring.

use std::io;
use std::mem::ManuallyDrop;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Instant;

use crate::ids::{ConnectFailure, FlowKey, Outlet, Side, SocketId};
use crate::sys::datagram;
use crate::uring::buffers::{Buffers, Parcel};
use crate::uring::door::Patience;
use crate::uring::ops;
use crate::uring::outcome;
use crate::uring::ring::{Listening, Ring};
use crate::uring::tag::{Op, Tag};

use super::ceiling::Ceiling;
use super::coalescing::Coalescing;
use super::door::{Datagram, Datagrams, Envelope};
use super::heading::{Head, Heading};
use super::inbound;
use super::outbound::{Outbox, Passage, Toward};
use super::seats::{NO_SEAT, Seats};

/// Buffers for datagrams, and so the most that a turn can hold.
pub(in crate::uring) const DATAGRAM_BUFFERS: u16 = 512;
/// The largest datagram there is, what the kernel writes before it, and what rounds it up to whole cache lines.
pub(in crate::uring) const DATAGRAM_BUFFER_BYTES: u32 = 64 * 1024 + 256;

/// No cell.
pub(super) const NONE: u16 = u16::MAX;

/// A flow's two directions.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) generation: u16,
    /// The cell that is filling, by the side it goes to.
    pub(super) filling: [u16; 2],
    /// By the same side: the longest datagrams of which several may leave in one send, as far as is known.
    pub(super) joined_max: [u16; 2],
    seat: u32,
}

/// All that carries datagrams.
pub(in crate::uring) struct DatagramSide {
    pub(in crate::uring) buffers: Buffers,
    pub(super) outbox: Outbox,
    pub(super) coalescing: Coalescing,
    /// What every receive shows the kernel; boxed, so that it stays where it is.
    layout: Box<libc::msghdr>,
    listeners: Vec<Listening>,
    /// Those of them on which another process receives.
    pub(super) quiet: Vec<SocketId>,
    /// By the flow's slot.
    pub(super) ways: Vec<Way>,
    pub(super) seats: Seats,
    ceiling: Ceiling,
    /// Outlets given out so far; it wraps around.
    outlets: u32,
    /// Receives that ended for want of buffers, which are there again when the next turn begins.
    pub(super) rearm: Vec<Tag>,
    /// Sends wait to be submitted that the next system call has yet to take.
    pub(super) sends_queued: bool,
    /// Sockets wait to be closed likewise.
    closes_queued: bool,
    /// The last turn has not taken all that was there.
    pub(super) behind: bool,
}

impl DatagramSide {
    /// Room for `flows_max` flows is reserved now and touched as it is used.
    /// `min_wait`: the kernel can wait for a second answer for a while.
    pub(in crate::uring) fn new(
        buffers: Buffers,
        outbox: Outbox,
        flows_max: u32,
        min_wait: bool,
    ) -> DatagramSide {
        DatagramSide {
            buffers,
            outbox,
            coalescing: Coalescing::new(min_wait, Instant::now()),
            layout: Box::new(inbound::layout()),
            listeners: Vec::new(),
            quiet: Vec::new(),
            ways: Vec::with_capacity(flows_max as usize),
            seats: Seats::new(flows_max),
            ceiling: Ceiling::look(),
            outlets: 0,
            rearm: Vec::with_capacity(64),
            sends_queued: false,
            closes_queued: false,
            behind: false,
        }
    }

    fn way(&mut self, flow: FlowKey) -> Option<&mut Way> {
        let found = self.ways.get_mut(flow.slot.index())?;
        (found.generation == flow.generation).then_some(found)
    }

    /// The socket towards a flow's backend.
    fn backend_of(&mut self, flow: FlowKey) -> Option<(Outlet, RawFd)> {
        let seat = self.way(flow)?.seat;
        let seat = self.seats.seat(seat)?;
        let (_, outlet) = seat.flow?;
        Some((outlet, seat.raw()?))
    }

    pub(super) fn listener(&self, id: SocketId) -> Option<RawFd> {
        let found = self.listeners.iter().find(|it| it.id == id)?;
        Some(found.socket.as_raw_fd())
    }

    pub(super) fn give_back(&mut self, parcels: Vec<Parcel>) -> Vec<Parcel> {
        let mut parcels = parcels;
        for parcel in parcels.drain(..) {
            self.buffers.give_back(parcel.buffer);
        }
        parcels
    }
}

impl Datagrams for Ring {
    fn open_datagrams(&mut self, id: SocketId, socket: BorrowedFd<'_>) -> io::Result<()> {
        let socket = socket.try_clone_to_owned()?;
        self.datagrams.listeners.push(Listening { id, socket });
        self.receive_datagrams(Tag::house(Op::DatagramReceive, u32::from(id.0)));
        Ok(())
    }

    fn close_datagrams(&mut self, id: SocketId) {
        let listeners = &mut self.datagrams.listeners;
        let Some(place) = listeners.iter().position(|it| it.id == id) else {
            return;
        };
        let socket = listeners.swap_remove(place).socket;
        self.datagrams.quiet.retain(|quiet| *quiet != id);
        // What it was to send must leave before its number can be another's.
        self.submit_filling();
        let tag = Tag::house(Op::DatagramReceive, u32::from(id.0));
        self.cancel_and_close(tag, socket);
    }

    fn pause_datagrams(&mut self, id: SocketId) {
        if !self.datagrams.quiet.contains(&id) {
            self.datagrams.quiet.push(id);
            let tag = Tag::house(Op::DatagramReceive, u32::from(id.0));
            self.push(&ops::cancel(tag, Tag::house(Op::Cancel, 0)), false);
        }
    }

    fn resume_datagrams(&mut self, id: SocketId) {
        self.datagrams.quiet.retain(|quiet| *quiet != id);
        self.receive_datagrams(Tag::house(Op::DatagramReceive, u32::from(id.0)));
    }

    fn open_flow(
        &mut self,
        flow: FlowKey,
        backend: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<Outlet, ConnectFailure> {
        self.close_flow(flow);
        let seat = match source {
            None => self.recycle(backend)?,
            Some(_) => None,
        };
        let seat = match seat {
            Some(seat) => seat,
            None => self.new_seat(backend, source)?,
        };
        Ok(self.sit_down(flow, seat))
    }

    fn hand_out_flow(&mut self, flow: FlowKey) -> Option<OwnedFd> {
        let number = self.datagrams.way(flow)?.seat;
        let tag = self.datagrams.seats.tag(number)?;
        let seat = self.datagrams.seats.seat(number)?;
        let copy = seat.socket()?.try_clone_to_owned().ok()?;
        seat.quiet = true;
        if seat.armed {
            self.push(&ops::cancel(tag, Tag::house(Op::Cancel, 0)), false);
        }
        Some(copy)
    }

    fn take_back_flow(&mut self, flow: FlowKey) {
        let Some(number) = self.datagrams.way(flow).map(|way| way.seat) else {
            return;
        };
        if let Some(seat) = self.datagrams.seats.seat(number) {
            seat.quiet = false;
            self.arm(number);
        }
    }

    fn adopt_flow(&mut self, flow: FlowKey, socket: OwnedFd) -> Result<Outlet, ConnectFailure> {
        // A socket of another's making serves this flow and no other.
        let added = self.datagrams.seats.add(socket, true, true);
        let seat = added.map_err(|_| ConnectFailure::Resources)?;
        Ok(self.sit_down(flow, seat))
    }

    fn has_flow(&self, flow: FlowKey) -> bool {
        let found = self.datagrams.ways.get(flow.slot.index());
        found.is_some_and(|way| way.generation == flow.generation && way.seat != NO_SEAT)
    }

    fn close_flow(&mut self, flow: FlowKey) {
        let Some(way) = self.datagrams.way(flow) else {
            return;
        };
        let seat = std::mem::replace(&mut way.seat, NO_SEAT);
        if seat == NO_SEAT {
            return;
        }
        // What it was to send must leave before its socket or its number can be another's.
        let sends = way.filling[Side::Backend.index()] != NONE;
        if sends {
            self.submit_filling();
        }
        let datagrams = &mut **self.datagrams;
        let socket = datagrams.seats.seat(seat).and_then(|seat| seat.raw());
        let too_many = socket.is_some_and(|socket| datagrams.ceiling.wants(socket));
        if datagrams.sends_queued || too_many || !datagrams.seats.rest(seat) {
            self.give_up(seat);
        }
    }

    fn flow_sockets_over(&self) -> u32 {
        self.datagrams.ceiling.excess()
    }

    fn let_go_at_once(&mut self) {
        if std::mem::take(&mut self.datagrams.closes_queued) {
            self.enter(Patience::None);
        }
    }

    fn trim_flow_sockets(&mut self) -> bool {
        while let Some(seat) = self.datagrams.seats.unneeded() {
            self.give_up(seat);
        }
        self.datagrams.seats.trimmed()
    }

    fn to_backend(&mut self, flow: FlowKey, heading: Heading<'_>, datagram: Datagram) {
        let Some((outlet, socket)) = self.datagrams.backend_of(flow) else {
            self.discard(datagram);
            return;
        };
        let passage = Passage {
            flow,
            toward: Toward::Backend(outlet),
            socket,
        };
        match heading {
            Heading::Nothing => self.pass_on(passage, Head::NONE, datagram),
            Heading::Each(bytes) => self.pass_on(passage, Head::of(bytes), datagram),
            Heading::First(bytes) => self.pass_on_headed_once(passage, Head::of(bytes), datagram),
        }
    }

    fn to_client(&mut self, flow: FlowKey, envelope: Envelope, datagram: Datagram) {
        match self.datagrams.listener(envelope.socket) {
            Some(socket) => {
                let toward = Toward::Client(envelope);
                let passage = Passage {
                    flow,
                    toward,
                    socket,
                };
                self.pass_on(passage, Head::NONE, datagram);
            }
            None => self.discard(datagram),
        }
    }

    fn discard(&mut self, datagram: Datagram) {
        self.discard_datagram(datagram);
    }

    fn is_behind(&self) -> bool {
        self.datagrams.behind
    }
}

impl Ring {
    /// The flow has this seat now, and receives there.
    fn sit_down(&mut self, flow: FlowKey, seat: u32) -> Outlet {
        let DatagramSide {
            ways,
            seats,
            outlets,
            ..
        } = &mut **self.datagrams;
        *outlets = outlets.wrapping_add(1);
        let outlet = Outlet(*outlets);
        while ways.len() <= flow.slot.index() {
            ways.push(Way {
                generation: 0,
                filling: [NONE; 2],
                joined_max: [u16::MAX; 2],
                seat: NO_SEAT,
            });
        }
        ways[flow.slot.index()] = Way {
            generation: flow.generation,
            filling: [NONE; 2],
            joined_max: [u16::MAX; 2],
            seat,
        };
        if let Some(seat) = seats.seat(seat) {
            seat.flow = Some((flow, outlet));
        }
        self.arm(seat);
        outlet
    }

    pub(super) fn discard_datagram(&mut self, datagram: Datagram) {
        let Datagram { parcel, .. } = datagram;
        self.datagrams.buffers.give_back(parcel.buffer);
    }

    /// A socket from the stock, connected to `backend`; `None` if there is none that can be had.
    fn recycle(&mut self, backend: SocketAddr) -> Result<Option<u32>, ConnectFailure> {
        // An answer that nobody has read yet may be a datagram of the socket's last flow.
        if self.unread_answers {
            return Ok(None);
        }
        let seats = &mut self.datagrams.seats;
        let Some(seat) = seats.take(backend.is_ipv4()) else {
            return Ok(None);
        };
        let socket = seats.seat(seat).and_then(|seat| seat.socket());
        match socket.map(|socket| datagram::reconnect(socket, backend)) {
            Some(Ok(())) => Ok(Some(seat)),
            Some(Err(error)) if error.kind() != io::ErrorKind::InvalidData => {
                seats.put_back(seat);
                Err(outcome::datagram_socket_failure(&error))
            }
            _ => {
                self.give_up(seat);
                Ok(None)
            }
        }
    }

    fn new_seat(
        &mut self,
        backend: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<u32, ConnectFailure> {
        let socket = match self.new_socket(backend, source) {
            // Those that wait for other flows are worth less than this one.
            Err(ConnectFailure::Resources) if self.give_up_stock() => {
                self.new_socket(backend, source)?
            }
            made => made?,
        };
        let seats = &mut self.datagrams.seats;
        let added = seats.add(socket, backend.is_ipv4(), source.is_some());
        added.map_err(|_| ConnectFailure::Resources)
    }

    fn new_socket(
        &mut self,
        backend: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<OwnedFd, ConnectFailure> {
        let ceiling = &mut self.datagrams.ceiling;
        match datagram::outbound(backend, source) {
            Ok(socket) if ceiling.admits(socket.as_fd()) => {
                datagram::make_roomy(socket.as_fd());
                Ok(socket)
            }
            Ok(_) => Err(ConnectFailure::Resources),
            Err(error) => {
                if outcome::is_out_of_descriptors(&error) {
                    ceiling.none_left();
                }
                Err(outcome::datagram_socket_failure(&error))
            }
        }
    }

    /// Closes all sockets that wait for flows, at once. False if none did.
    fn give_up_stock(&mut self) -> bool {
        let mut any = false;
        while let Some(seat) = self.datagrams.seats.waiting() {
            self.give_up(seat);
            any = true;
        }
        self.let_go_at_once();
        any
    }

    /// Receives on a flow's socket, if that does not go on already.
    fn arm(&mut self, number: u32) {
        let seats = &mut self.datagrams.seats;
        let tag = seats.tag(number);
        if let Some(seat) = seats.seat(number)
            && !std::mem::replace(&mut seat.armed, true)
            && let Some((socket, tag)) = seat.raw().zip(tag)
        {
            let layout = &raw const *self.datagrams.layout;
            self.push(&ops::receive_messages(socket, layout, true, tag), true);
        }
    }

    /// A flow's socket goes for good.
    fn give_up(&mut self, seat: u32) {
        let tag = self.datagrams.seats.tag(seat);
        if let Some((tag, socket)) = tag.zip(self.datagrams.seats.remove(seat)) {
            self.datagrams.closes_queued = true;
            self.cancel_and_close(tag, socket);
        }
    }

    pub(super) fn receive_datagrams(&mut self, tag: Tag) {
        let datagrams = &mut **self.datagrams;
        let socket = match tag.op {
            Op::DatagramReceive if datagrams.quiet.contains(&tag.socket()) => None,
            Op::DatagramReceive => datagrams.listener(tag.socket()),
            _ => {
                let seat = datagrams.seats.of(tag);
                seat.filter(|seat| !seat.quiet).and_then(|seat| seat.raw())
            }
        };
        if let Some(socket) = socket {
            let layout = &raw const *datagrams.layout;
            self.push(&ops::receive_messages(socket, layout, false, tag), true);
        }
    }

    /// What a turn begins with: buffers go to the kernel, sends leave, receives that had found no buffer are armed again.
    /// Tells whether that has to wait for the buffers of these sends: then the turn must not sleep.
    pub(in crate::uring) fn begin_datagrams(&mut self) -> bool {
        self.datagrams.buffers.publish();
        self.submit_filling();
        self.datagrams.closes_queued = false;
        if self.datagrams.rearm.is_empty() {
            return false;
        }
        if !self.datagrams.buffers.are_with_kernel() && !self.datagrams.outbox.flying.is_empty() {
            return true;
        }
        let mut rearm = std::mem::take(&mut self.datagrams.rearm);
        for tag in rearm.drain(..) {
            self.receive_datagrams(tag);
        }
        self.datagrams.rearm = rearm;
        false
    }

    /// The receive keeps the socket alive until it has answered; the number is free at once.
    fn cancel_and_close(&mut self, receive: Tag, socket: OwnedFd) {
        self.push(&ops::cancel(receive, Tag::house(Op::Cancel, 0)), false);
        let close = ops::close(socket.into_raw_fd(), Tag::house(Op::Close, 0));
        self.push(&close, false);
    }
}

/// The kernel may still read what is in here when a ring could not be quieted: then it is leaked.
pub(in crate::uring) type KeptDatagrams = ManuallyDrop<Box<DatagramSide>>;
