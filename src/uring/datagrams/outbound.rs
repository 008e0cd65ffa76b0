//! Sends on their way: cells of fixed address that hold what a sendmsg points at, filled while a turn's datagrams are
//! sorted, submitted together with the next turn, free again when that call has returned.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

use crate::ids::{FlowKey, Side, Slot};
use crate::uring::buffers::Parcel;
use crate::uring::outcome::{self, Refused};

use super::door::{Datagram, Envelope};

/// Datagrams in one send: what every kernel takes (UDP_MAX_SEGMENTS was 64 before it became 128).
const SEGMENTS_MAX: u32 = 64;
/// Payload of one send: what IPv6 takes at most.
const BYTES_MAX: u32 = 65_487;
const CONTROL_WORDS: usize = 10;

/// Whom a cell's datagrams are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Toward {
    Backend,
    Client(Envelope),
}

impl Toward {
    pub(super) fn side(&self) -> Side {
        match self {
            Toward::Backend => Side::Backend,
            Toward::Client(_) => Side::Client,
        }
    }
}

/// One send: what the kernel is shown, and what it is made of.
pub(super) struct Cell {
    header: libc::msghdr,
    name: libc::sockaddr_in6,
    control: [u64; CONTROL_WORDS],
    vectors: [libc::iovec; SEGMENTS_MAX as usize],
    pub(super) parcels: Vec<Parcel>,
    pub(super) flow: FlowKey,
    pub(super) toward: Toward,
    pub(super) socket: RawFd,
    pub(super) segment: u32,
    pub(super) count: u32,
    pub(super) bytes: u32,
    /// Nothing may join it any more.
    pub(super) sealed: bool,
    /// Number of its submission, once it is submitted.
    pub(super) submission: u64,
    /// Why the kernel took none of it.
    pub(super) refused: Option<Refused>,
    /// How many of it did not leave one by one, and why the last of these did not.
    pub(super) lost: Option<(u32, Refused)>,
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Cell")
            .field("flow", &self.flow)
            .field("toward", &self.toward)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Cell {
    fn empty() -> Cell {
        // SAFETY: all zeroes is a valid value of each: null pointers, lengths of nothing, an address of no family.
        let (header, name, vectors) = unsafe {
            (
                std::mem::zeroed(),
                std::mem::zeroed(),
                [std::mem::zeroed(); SEGMENTS_MAX as usize],
            )
        };
        Cell {
            header,
            name,
            control: [0; CONTROL_WORDS],
            vectors,
            parcels: Vec::with_capacity(SEGMENTS_MAX as usize),
            flow: FlowKey {
                slot: Slot(0),
                generation: 0,
            },
            toward: Toward::Backend,
            socket: -1,
            segment: 0,
            count: 0,
            bytes: 0,
            sealed: false,
            submission: 0,
            refused: None,
            lost: None,
        }
    }

    fn begin(&mut self, flow: FlowKey, toward: Toward, socket: RawFd, datagram: Datagram) {
        self.flow = flow;
        self.toward = toward;
        self.socket = socket;
        self.segment = datagram.segment;
        (self.count, self.bytes, self.sealed) = (0, 0, false);
        (self.refused, self.lost) = (None, None);
        self.add(datagram);
    }

    /// Whether a datagram can leave with those that are here: of the same size, or shorter and then the last.
    fn takes(&self, datagram: &Datagram) -> bool {
        let fits = if datagram.count() == 1 {
            datagram.bytes() <= self.segment
        } else {
            datagram.segment == self.segment
        };
        fits && !self.sealed
            && datagram.bytes() > 0
            && self.count + datagram.count() <= SEGMENTS_MAX
            && self.bytes + datagram.bytes() <= BYTES_MAX
    }

    fn add(&mut self, datagram: Datagram) {
        self.count += datagram.count();
        self.bytes += datagram.bytes();
        self.sealed =
            datagram.bytes() == 0 || !datagram.bytes().is_multiple_of(self.segment.max(1));
        self.parcels.push(datagram.parcel);
    }

    /// For one datagram that needs no control data the plain send, which is cheaper: the address that it is shown, which
    /// is none for a connected socket.
    pub(super) fn plain_name(&mut self) -> Option<(*const libc::sockaddr, libc::socklen_t)> {
        match self.toward {
            _ if self.count != 1 => None,
            Toward::Backend => Some((std::ptr::null(), 0)),
            Toward::Client(Envelope {
                client,
                local: None,
                ..
            }) => {
                let length = self.write_name(client);
                Some(((&raw const self.name).cast(), length))
            }
            Toward::Client(_) => None,
        }
    }

    /// Lays out what sendmsg reads, and returns where it is. `address_of` tells where a parcel's bytes are.
    pub(super) fn lay_out(
        &mut self,
        address_of: impl Fn(&Parcel) -> *const u8,
    ) -> *const libc::msghdr {
        for (vector, parcel) in self.vectors.iter_mut().zip(&self.parcels) {
            vector.iov_base = address_of(parcel).cast_mut().cast();
            vector.iov_len = parcel.bytes() as usize;
        }
        let name_bytes = match self.toward {
            Toward::Backend => 0,
            Toward::Client(envelope) => self.write_name(envelope.client),
        };
        let local = match self.toward {
            Toward::Backend => None,
            Toward::Client(envelope) => envelope.local,
        };
        let control_bytes = self.write_control(local);
        self.header.msg_name = std::ptr::from_mut(&mut self.name).cast();
        self.header.msg_namelen = name_bytes;
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.parcels.len();
        self.header.msg_control = self.control.as_mut_ptr().cast();
        self.header.msg_controllen = control_bytes;
        &raw const self.header
    }

    /// Sends each datagram by itself, now. Tells how many were refused, and why the last of these was.
    pub(super) fn send_singly(
        &mut self,
        address_of: impl Fn(&Parcel) -> *const u8,
    ) -> Option<(u32, Refused)> {
        let parcels = std::mem::take(&mut self.parcels);
        let (mut refused, mut why) = (0, None);
        self.count = 1;
        for parcel in &parcels {
            let mut start = 0;
            while start < parcel.bytes() {
                let length = self.segment.min(parcel.bytes() - start);
                self.lay_out(|_| std::ptr::null());
                // SAFETY: `start` is inside the parcel, whose bytes begin at the address.
                let bytes = unsafe { address_of(parcel).add(start as usize) };
                self.vectors[0].iov_base = bytes.cast_mut().cast();
                self.vectors[0].iov_len = length as usize;
                self.header.msg_iovlen = 1;
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                // SAFETY: the header and what it points at are laid out for one datagram inside a buffer that we hold.
                let sent = unsafe { libc::sendmsg(self.socket, &raw const self.header, flags) };
                if sent < 0 {
                    refused += 1;
                    why = Some(outcome::refusal_of(&io::Error::last_os_error()));
                }
                start += length;
            }
        }
        self.parcels = parcels;
        why.map(|why| (refused, why))
    }

    fn write_name(&mut self, client: SocketAddr) -> libc::socklen_t {
        match client {
            SocketAddr::V4(client) => {
                let mut name = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: client.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(client.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: a sockaddr_in is smaller than the sockaddr_in6 it is copied into; both are plain numbers.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        (&raw mut name).cast::<u8>(),
                        (&raw mut self.name).cast::<u8>(),
                        size_of::<libc::sockaddr_in>(),
                    );
                }
                size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            SocketAddr::V6(client) => {
                self.name = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: client.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: client.ip().octets(),
                    },
                    sin6_scope_id: client.scope_id(),
                };
                size_of::<libc::sockaddr_in6>() as libc::socklen_t
            }
        }
    }

    /// The segment size, where there are several, and the address to leave from; returns the bytes in use.
    fn write_control(&mut self, local: Option<IpAddr>) -> usize {
        let mut used = 0;
        if self.count > 1 {
            let size = (self.segment as u16).to_ne_bytes();
            used += put_message(
                &mut self.control,
                used,
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                &size,
            );
        }
        match local {
            None => {}
            Some(IpAddr::V4(local)) => {
                let mut data = [0; 12];
                data[4..8].copy_from_slice(&local.octets());
                used += put_message(
                    &mut self.control,
                    used,
                    libc::IPPROTO_IP,
                    libc::IP_PKTINFO,
                    &data,
                );
            }
            Some(IpAddr::V6(local)) => {
                let mut data = [0; 20];
                data[..16].copy_from_slice(&local.octets());
                used += put_message(
                    &mut self.control,
                    used,
                    libc::IPPROTO_IPV6,
                    libc::IPV6_PKTINFO,
                    &data,
                );
            }
        }
        used * size_of::<u64>()
    }
}

/// Writes one control message from word `at` on; returns how many words it took.
fn put_message(
    control: &mut [u64; CONTROL_WORDS],
    at: usize,
    level: i32,
    kind: i32,
    data: &[u8],
) -> usize {
    let length = size_of::<libc::cmsghdr>() + data.len();
    control[at] = length as u64;
    let mut words = [0; 8];
    words[..4].copy_from_slice(&level.to_ne_bytes());
    words[4..].copy_from_slice(&kind.to_ne_bytes());
    control[at + 1] = u64::from_ne_bytes(words);
    for (word, bytes) in control[at + 2..].iter_mut().zip(data.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    length.div_ceil(8)
}

/// All cells, and which of them are filling or flying.
#[derive(Debug)]
pub(in crate::uring) struct Outbox {
    /// At a fixed address: the capacity is reserved at the start.
    cells: Vec<Cell>,
    free: Vec<u16>,
    /// In the order in which they were begun; all leave with the next turn.
    pub(super) filling: Vec<u16>,
    pub(super) flying: Vec<u16>,
    cells_max: usize,
}

impl Outbox {
    /// Each cell that is filling or flying holds a buffer at least, so there need not be more than buffers.
    pub(in crate::uring) fn new(buffers: u16) -> Outbox {
        let cells_max = usize::from(buffers);
        Outbox {
            cells: Vec::with_capacity(cells_max),
            free: Vec::with_capacity(cells_max),
            filling: Vec::with_capacity(cells_max),
            flying: Vec::with_capacity(cells_max),
            cells_max,
        }
    }

    /// Begins a cell and returns its number.
    pub(super) fn begin(
        &mut self,
        flow: FlowKey,
        toward: Toward,
        socket: RawFd,
        datagram: Datagram,
    ) -> u16 {
        let number = self.free.pop().unwrap_or_else(|| {
            // Within the reserved capacity, so that no cell ever moves.
            assert!(self.cells.len() < self.cells_max, "more sends than buffers");
            self.cells.push(Cell::empty());
            (self.cells.len() - 1) as u16
        });
        self.cell(number).begin(flow, toward, socket, datagram);
        self.filling.push(number);
        number
    }

    /// Lets a datagram join a cell that is still filling; gives it back if it cannot.
    pub(super) fn join(
        &mut self,
        number: u16,
        flow: FlowKey,
        toward: Toward,
        datagram: Datagram,
    ) -> Result<(), Datagram> {
        let cell = self.cell(number);
        if cell.flow == flow && cell.toward == toward && cell.takes(&datagram) {
            cell.add(datagram);
            Ok(())
        } else {
            Err(datagram)
        }
    }

    pub(super) fn cell(&mut self, number: u16) -> &mut Cell {
        &mut self.cells[usize::from(number)]
    }

    /// The cell is answered and empty.
    pub(super) fn free(&mut self, number: u16) {
        debug_assert!(self.cells[usize::from(number)].parcels.is_empty());
        self.free.push(number);
    }
}
