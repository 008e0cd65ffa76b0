//! What the engine room may ask of the kernel about datagrams, and how it is answered.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::ids::{ConnectFailure, FlowKey, Outlet, SocketId};
use crate::uring::buffers::Parcel;

use super::heading::Heading;

/// Datagrams that came together: all of `segment` bytes, the last one perhaps shorter. Whoever holds it owns the bytes; it
/// goes back by being sent, or by [`Datagrams::discard`].
#[derive(Debug, PartialEq, Eq)]
pub struct Datagram {
    pub(super) parcel: Parcel,
    pub(super) segment: u32,
}

impl Datagram {
    /// A ticket for fakes and tests.
    #[must_use]
    pub fn new(parcel: Parcel, segment: u32) -> Datagram {
        Datagram { parcel, segment }
    }

    /// Where they lie, for fakes.
    #[must_use]
    pub fn parcel(&self) -> &Parcel {
        &self.parcel
    }

    /// Payload bytes of all of them.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.parcel.bytes()
    }

    /// Payload bytes of the longest.
    #[must_use]
    pub fn longest(&self) -> u32 {
        self.segment.min(self.bytes())
    }

    /// How many they are; at least 1.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.parcel.bytes().div_ceil(self.segment.max(1)).max(1)
    }

    /// The first `count` of them, of which there must be more, and the rest; only the rest owns the buffer.
    pub(super) fn lend(self, count: u32) -> (Datagram, Datagram) {
        let bytes = self.segment * count;
        let first = Datagram::new(self.parcel.lent(bytes), self.segment);
        (
            first,
            Datagram::new(self.parcel.without(bytes), self.segment),
        )
    }
}

/// From whom a datagram is, or for whom: a client, as one of our sockets sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub socket: SocketId,
    pub client: SocketAddr,
    /// Our own address in it, where the socket has many.
    pub local: Option<IpAddr>,
}

/// Why datagrams could not be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undelivered {
    /// The socket has no room.
    Full,
    /// The other side's host or port answers with an error, or there is no way to it.
    Unreachable,
    /// Longer than the way allows.
    TooLong,
    /// The kernel is out of memory.
    Resources,
}

/// The part of the kernel that carries datagrams. Nothing here waits; what is passed on leaves with the next turn.
pub trait Datagrams {
    /// Makes a bound socket known and receives from it.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is left.
    fn open_datagrams(&mut self, id: SocketId, socket: BorrowedFd<'_>) -> io::Result<()>;
    fn close_datagrams(&mut self, id: SocketId);
    /// Receives again on a socket whose receive had paused, with an error or by order.
    fn resume_datagrams(&mut self, id: SocketId);
    /// Receives no more on this socket. What was received already is still told, and replies still leave.
    fn pause_datagrams(&mut self, _id: SocketId) {}

    /// Gives a flow a socket towards its backend, in the place of one that it may have. No other has had this outlet.
    ///
    /// # Errors
    /// Why there is none; the flow has no socket then.
    fn open_flow(
        &mut self,
        flow: FlowKey,
        backend: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<Outlet, ConnectFailure>;
    /// Whether the flow has a socket.
    fn has_flow(&self, flow: FlowKey) -> bool;
    fn close_flow(&mut self, flow: FlowKey);
    /// A copy of the flow's socket, on which nothing is received here any more; `None` if it has none, or no descriptor is
    /// left.
    fn hand_out_flow(&mut self, _flow: FlowKey) -> Option<OwnedFd> {
        None
    }
    /// Receives again on the socket of a flow that was handed out in vain.
    fn take_back_flow(&mut self, _flow: FlowKey) {}
    /// Gives a flow the socket that another process had for it.
    ///
    /// # Errors
    /// There is no room for it.
    fn adopt_flow(&mut self, _flow: FlowKey, _socket: OwnedFd) -> Result<Outlet, ConnectFailure> {
        Err(ConnectFailure::Resources)
    }
    /// How many sockets of flows must still go until the next can be opened, as of the last attempt that found no room.
    fn flow_sockets_over(&self) -> u32;
    /// What flows that are over still hold is given back with the next turn; after this call it can be had.
    fn let_go_at_once(&mut self);
    /// Closes sockets that were kept for the next flows and were not needed since the last call. Tells whether any are
    /// left.
    fn trim_flow_sockets(&mut self) -> bool;

    /// Passes datagrams on to the flow's backend, with bytes of ours ahead of the first or of each.
    fn to_backend(&mut self, flow: FlowKey, heading: Heading<'_>, datagram: Datagram);
    /// `flow` is whose reply it is: its datagrams may leave together.
    fn to_client(&mut self, flow: FlowKey, envelope: Envelope, datagram: Datagram);
    fn discard(&mut self, datagram: Datagram);
    /// Whether more datagrams have come than the last turn could take.
    fn is_behind(&self) -> bool;
}
