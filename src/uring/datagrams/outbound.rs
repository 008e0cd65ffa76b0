//! Sends on their way: cells of fixed address that hold what a sendmsg points at, filled while a turn's datagrams are
//! sorted, submitted together with the next turn, free again when that call has returned.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

use crate::ids::{FlowKey, Outlet, Side, Slot};
use crate::uring::buffers::Parcel;
use crate::uring::outcome::{self, Refused};

use super::door::{Datagram, Envelope};
use super::heading::Head;

/// Datagrams in one send: what every kernel takes (UDP_MAX_SEGMENTS was 64 before it became 128).
const SEGMENTS_MAX: u32 = 64;
/// Payload of one send: what IPv6 takes at most.
const BYTES_MAX: u32 = 65_487;
/// Datagrams with a heading take two vectors each.
const HEADED_MAX: u32 = SEGMENTS_MAX / 2;
const CONTROL_WORDS: usize = 10;

/// Whom a cell's datagrams are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Toward {
    Backend(Outlet),
    Client(Envelope),
}

impl Toward {
    pub(super) fn outlet(&self) -> Option<Outlet> {
        match self {
            Toward::Backend(outlet) => Some(*outlet),
            Toward::Client(_) => None,
        }
    }

    pub(super) fn side(&self) -> Side {
        match self {
            Toward::Backend(_) => Side::Backend,
            Toward::Client(_) => Side::Client,
        }
    }
}

/// Where a send goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage {
    pub(super) flow: FlowKey,
    pub(super) toward: Toward,
    pub(super) socket: RawFd,
}

/// One send: what the kernel is shown, and what it is made of.
pub(super) struct Cell {
    header: libc::msghdr,
    name: libc::sockaddr_in6,
    control: [u64; CONTROL_WORDS],
    vectors: [libc::iovec; SEGMENTS_MAX as usize],
    head: Head,
    pub(super) parcels: Vec<Parcel>,
    /// Its parcels belong to a send that is begun after it.
    pub(super) lent: bool,
    /// Its heading goes ahead once.
    pub(super) heads_once: bool,
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
            head: Head::NONE,
            lent: false,
            heads_once: false,
            parcels: Vec::with_capacity(SEGMENTS_MAX as usize),
            flow: FlowKey {
                slot: Slot(0),
                generation: 0,
            },
            toward: Toward::Backend(Outlet(0)),
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

    fn begin(&mut self, passage: Passage, head: Head, datagram: Datagram) {
        self.flow = passage.flow;
        self.toward = passage.toward;
        self.socket = passage.socket;
        self.head = head;
        (self.lent, self.heads_once) = (false, false);
        self.segment = datagram.segment;
        (self.count, self.bytes, self.sealed) = (0, 0, false);
        (self.refused, self.lost) = (None, None);
        self.add(datagram);
    }

    /// Whether a datagram can leave with those that are here: of the same size, or shorter and then the last; with the same
    /// bytes ahead.
    fn takes(&self, head: &Head, datagram: &Datagram) -> bool {
        let fits = if datagram.count() == 1 {
            datagram.bytes() <= self.segment
        } else {
            datagram.segment == self.segment
        };
        fits && !self.sealed
            && datagram.bytes() > 0
            && self.head.as_bytes() == head.as_bytes()
            && self.count + datagram.count() <= room(self.segment, head)
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
            _ if self.count != 1 || self.head.length() > 0 => None,
            Toward::Backend(_) => Some((std::ptr::null(), 0)),
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

    /// Bytes of the longest datagram as it leaves.
    pub(super) fn longest(&self) -> u32 {
        self.segment + self.head.length()
    }

    /// Lays out what sendmsg reads, and returns where it is. `address_of` tells where a parcel's bytes are.
    pub(super) fn lay_out(
        &mut self,
        address_of: impl Fn(&Parcel) -> *const u8,
    ) -> *const libc::msghdr {
        let vectors_used = self.lay_out_vectors(address_of);
        let name_bytes = match self.toward {
            Toward::Backend(_) => 0,
            Toward::Client(envelope) => self.write_name(envelope.client),
        };
        let local = match self.toward {
            Toward::Backend(_) => None,
            Toward::Client(envelope) => envelope.local,
        };
        let control_bytes = self.write_control(local);
        self.header.msg_name = std::ptr::from_mut(&mut self.name).cast();
        self.header.msg_namelen = name_bytes;
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = vectors_used;
        self.header.msg_control = self.control.as_mut_ptr().cast();
        self.header.msg_controllen = control_bytes;
        &raw const self.header
    }

    /// One vector for each parcel or, with a heading, two for each datagram. Returns how many.
    fn lay_out_vectors(&mut self, address_of: impl Fn(&Parcel) -> *const u8) -> usize {
        let head = vector(self.head.as_bytes().as_ptr(), self.head.length());
        let mut used = 0;
        for parcel in &self.parcels {
            let bytes = address_of(parcel);
            if self.head.length() == 0 {
                self.vectors[used] = vector(bytes, parcel.bytes());
                used += 1;
                continue;
            }
            let mut start = 0;
            loop {
                let length = self.segment.min(parcel.bytes() - start);
                self.vectors[used] = head;
                self.vectors[used + 1] = vector(bytes.wrapping_add(start as usize), length);
                used += 2;
                start += length;
                if start == parcel.bytes() {
                    break;
                }
            }
        }
        used
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
                let bytes = address_of(parcel).wrapping_add(start as usize);
                self.vectors[0] = vector(self.head.as_bytes().as_ptr(), self.head.length());
                self.vectors[1] = vector(bytes, length);
                self.header.msg_iovlen = 2;
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
            let size = (self.longest() as u16).to_ne_bytes();
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

fn vector(bytes: *const u8, length: u32) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.cast_mut().cast(),
        iov_len: length as usize,
    }
}

/// How many datagrams of `segment` bytes one send takes, each with these bytes ahead; at least 1.
pub(super) fn room(segment: u32, head: &Head) -> u32 {
    match head.length() {
        0 => SEGMENTS_MAX,
        length => (BYTES_MAX / (segment + length)).clamp(1, HEADED_MAX),
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
    /// Each cell that is filling or flying holds a buffer at least, or shares one with the next: where a heading makes what
    /// came in one buffer leave in two sends.
    pub(in crate::uring) fn new(buffers: u16) -> Outbox {
        let cells_max = 2 * usize::from(buffers);
        Outbox {
            cells: Vec::with_capacity(cells_max),
            free: Vec::with_capacity(cells_max),
            filling: Vec::with_capacity(cells_max),
            flying: Vec::with_capacity(cells_max),
            cells_max,
        }
    }

    /// Begins a cell and returns its number.
    pub(super) fn begin(&mut self, passage: Passage, head: Head, datagram: Datagram) -> u16 {
        let number = self.free.pop().unwrap_or_else(|| {
            // Within the reserved capacity, so that no cell ever moves.
            assert!(self.cells.len() < self.cells_max, "more sends than buffers");
            self.cells.push(Cell::empty());
            (self.cells.len() - 1) as u16
        });
        self.cell(number).begin(passage, head, datagram);
        self.filling.push(number);
        number
    }

    /// Begins a cell for datagrams whose buffer belongs to a cell that is begun right after it. Nothing joins it.
    pub(super) fn begin_lent(&mut self, passage: Passage, head: Head, datagram: Datagram) -> u16 {
        let number = self.begin(passage, head, datagram);
        let cell = self.cell(number);
        (cell.lent, cell.sealed) = (true, true);
        number
    }

    /// Lets a datagram join a cell that is still filling; gives it back if it cannot.
    pub(super) fn join(
        &mut self,
        number: u16,
        passage: Passage,
        head: &Head,
        datagram: Datagram,
    ) -> Result<(), Datagram> {
        let cell = self.cell(number);
        let same_way = cell.flow == passage.flow && cell.toward == passage.toward;
        if same_way && cell.takes(head, &datagram) {
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
