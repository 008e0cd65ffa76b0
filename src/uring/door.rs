//! The door: what the engine room may ask of the kernel, in typed operations. [`super::Ring`] answers with the real
//! kernel; the simulation's fake answers from a seed. It is the only seam made for tests.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::ids::{
    Address, Condition, ConnectFailure, Fault, FlowKey, Interest, Moved, Outlet, ReceiveEnd,
    SessionKey, Side, SocketId, StreamKey,
};

use super::buffers::Parcel;
use super::datagrams::{Datagram, Datagrams, Envelope, Undelivered};

/// The most that is looked at before it is read.
pub const PEEK_BYTES_MAX: usize = 16 * 1024;

/// An accepted socket that has no session yet.
#[derive(Debug)]
pub struct Incoming(pub(super) OwnedFd);

impl From<OwnedFd> for Incoming {
    fn from(socket: OwnedFd) -> Incoming {
        Incoming(socket)
    }
}

impl AsFd for Incoming {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Incoming> for OwnedFd {
    fn from(incoming: Incoming) -> OwnedFd {
        incoming.0
    }
}

/// How long a turn may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all: there is work.
    None,
    /// At most so many nanoseconds.
    Nanoseconds(u64),
    /// Until something happens.
    Endless,
}

/// Where to connect to, and how.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    pub address: &'a Address,
    pub source: Option<IpAddr>,
    /// TCP_USER_TIMEOUT in milliseconds; 0 is off.
    pub user_timeout_ms: u32,
}

/// Why an accept is not armed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptEnd {
    /// As asked.
    Stopped,
    /// Nothing is wrong: arm it again.
    Retry,
    /// Out of descriptors or kernel memory: arm it again when something was given back.
    Pressure,
}

/// One thing that happened.
#[derive(Debug)]
pub enum Outcome {
    Doorbell,
    Accepted(SocketId, Incoming),
    AcceptEnded(SocketId, AcceptEnd),
    Stream(StreamKey, Answer),
    /// From a client.
    Request(Envelope, Datagram),
    /// From the backend behind this outlet of a flow's.
    Response(FlowKey, Outlet, Datagram),
    /// This outlet of a flow's has learned that its backend cannot be reached.
    FlowBroken(FlowKey, Outlet, Undelivered),
    /// Datagrams were not taken.
    Undelivered {
        flow: FlowKey,
        /// Through which they were to go to a backend; `None`: they were for the client.
        outlet: Option<Outlet>,
        datagrams: u32,
        why: Undelivered,
        /// A heading that was to go ahead once is lost with them.
        headed: bool,
    },
    /// A receive found no buffer; what comes waits in its socket until the next turn.
    NoDatagramBuffer,
    /// A datagram was longer than any can be, or had no sender: it is dropped.
    DatagramCut(SocketId),
    /// A listener's receive has ended with an error: see [`super::Datagrams::resume_datagrams`].
    DatagramsPaused(SocketId, Undelivered),
}

/// What happened to a stream.
#[derive(Debug)]
pub enum Answer {
    Connected,
    ConnectFailed(ConnectFailure),
    ConnectCancelled,
    Received(Parcel),
    ReceiveEnded(ReceiveEnd),
    Sent(u32),
    /// Only so many bytes were taken; the rest comes back.
    SentShort(u32, Parcel),
    SendBroken(Fault),
    Ready(Interest, Condition),
    PollEnded(Interest),
}

/// The kernel as the engine room sees it. Operations that wait are queued and answered by a later [`Kernel::turn`]; the
/// others answer at once.
pub trait Kernel: Datagrams {
    /// Submits what is queued, waits for something to happen, and appends what happened: all answers of sends first.
    fn turn(&mut self, patience: Patience, outcomes: &mut Vec<Outcome>);

    /// Whether completions have overflowed into the kernel's backlog since the last call.
    fn overflowed(&mut self) -> bool;

    /// Makes a bound and listening socket known.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is left.
    fn open_listener(&mut self, id: SocketId, socket: BorrowedFd<'_>) -> io::Result<()>;
    fn accept(&mut self, id: SocketId);
    fn stop_accept(&mut self, id: SocketId);
    /// Takes one more connection out of the queue of a listener whose accept is not armed.
    fn accept_now(&mut self, id: SocketId) -> Option<Incoming>;
    fn close_listener(&mut self, id: SocketId);

    fn peer_address(&self, incoming: &Incoming) -> Option<SocketAddr>;
    /// Closes by reset.
    fn refuse(&mut self, incoming: Incoming);
    /// Gives the socket to a session's client side. The session's slot is new.
    fn attach(&mut self, session: SessionKey, incoming: Incoming);

    /// Starts to connect a new socket for the backend side.
    ///
    /// # Errors
    /// What kept the socket from being made.
    fn connect(&mut self, session: SessionKey, route: Route<'_>) -> Result<(), ConnectFailure>;
    fn cancel_connect(&mut self, session: SessionKey);
    /// Gives a connected socket to a session's backend side; false, with the socket closed, if the session is gone.
    fn adopt(&mut self, session: SessionKey, socket: OwnedFd) -> bool;
    fn receive(&mut self, stream: StreamKey);
    fn stop_receive(&mut self, stream: StreamKey);
    /// Is answered by the next turn, whatever the socket does: it is never left waiting in the kernel.
    fn send(&mut self, stream: StreamKey, parcel: Parcel);
    /// Sends what the socket takes now by a plain call, while the parcel stays with the caller; returns how many bytes. An
    /// error passes for all of them: who receives from this socket will be told of it.
    fn send_now(&mut self, stream: StreamKey, parcel: &Parcel) -> u32;
    /// A parcel's bytes.
    fn bytes(&self, parcel: &Parcel) -> &[u8];
    fn poll(&mut self, stream: StreamKey, interest: Interest);
    fn cancel_poll(&mut self, stream: StreamKey, interest: Interest);
    /// Closes the socket; by reset if asked.
    fn close(&mut self, stream: StreamKey, reset: bool);

    /// The first bytes that wait in a stream, at most so many (and never more than [`PEEK_BYTES_MAX`]); they stay there.
    ///
    /// # Errors
    /// Why the stream broke.
    fn peek(&mut self, stream: StreamKey, bytes_max: u32) -> Result<&[u8], Fault>;
    /// Takes so many bytes, which a look has shown, out of a stream and forgets them.
    fn skip(&mut self, stream: StreamKey, bytes: u32);
    /// Whether the peer has ended its stream, whatever of it is still to be read.
    fn has_ended(&self, stream: StreamKey) -> bool;
    /// Sends a few bytes as the first ones on a new connection; false if they were not taken whole.
    fn send_first(&mut self, stream: StreamKey, bytes: &[u8]) -> bool;
    /// The address that the peer has reached.
    fn local_address(&self, stream: StreamKey) -> Option<SocketAddr>;

    /// Gives a parcel's buffer back.
    fn release(&mut self, parcel: Parcel);
    /// Buffers that the kernel can fill now.
    fn buffers_free(&self) -> usize;
    /// Buffers that are with sessions: filled, and neither sent nor given back.
    fn buffers_held(&self) -> usize;
    /// Keeps a parcel that came from `stream` in that direction's pipe, or in memory where there is none, and gives its
    /// buffer back; what did not fit comes back.
    fn stash(&mut self, stream: StreamKey, parcel: Parcel) -> (u32, Option<Parcel>);
    /// Moves bytes from `stream` through a pipe to the other side; takes from the socket only if `fill`.
    fn move_bytes(&mut self, stream: StreamKey, fill: bool) -> Moved;
    /// Closes the pipe of the direction from `stream` with all that is in it.
    fn drop_pipe(&mut self, stream: StreamKey);
    /// Pipes held open by this worker.
    fn pipes_open(&self) -> usize;

    fn finish(&mut self, stream: StreamKey);
    /// Whether the peer has acknowledged all that was sent to it.
    fn is_delivered(&self, stream: StreamKey) -> bool;
    fn set_watermark(&mut self, stream: StreamKey, bytes: u32);
    fn set_keepalive(&mut self, stream: StreamKey, idle_s: u32, interval_s: u32, count: u32);
    /// Round trip time in microseconds and retransmitted segments.
    fn tcp_info(&self, stream: StreamKey) -> (u32, u32);
    /// The address of the stream's peer; `None` for a unix socket, or one that is gone.
    fn peer_of(&self, stream: StreamKey) -> Option<SocketAddr>;
    /// Ends the slot's life: everything of it is closed and answered.
    fn vacate(&mut self, session: SessionKey);
    /// Stashes that found no pipe and were kept in memory, so far.
    fn memory_stashes(&self) -> u64 {
        0
    }
    /// Answers that carried a stale generation so far.
    fn stale_answers(&self) -> u64;
}

/// The other direction's end of the same session.
#[must_use]
pub(super) fn opposite(stream: StreamKey) -> StreamKey {
    StreamKey {
        side: stream.side.other(),
        ..stream
    }
}

#[must_use]
pub(super) fn backend(session: SessionKey) -> StreamKey {
    StreamKey {
        session,
        side: Side::Backend,
    }
}

/// Why a ring could not be started: the step, the kernel's word, and the remedy.
#[derive(Debug)]
pub struct StartError {
    pub step: &'static str,
    pub cause: io::Error,
}

impl StartError {
    pub(super) fn at(step: &'static str) -> impl FnOnce(io::Error) -> StartError {
        move |cause| StartError { step, cause }
    }

    fn remedy(&self) -> &'static str {
        match self.cause.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "io_uring is forbidden here: set sysctl kernel.io_uring_disabled=0, or let the container's seccomp profile \
                 allow io_uring_setup, io_uring_enter and io_uring_register"
            }
            Some(libc::ENOSYS) => {
                "this kernel has no io_uring: Linux 6.1 or later is needed, with CONFIG_IO_URING"
            }
            Some(libc::ENOMEM) => {
                "not enough lockable memory: raise RLIMIT_MEMLOCK (systemd: LimitMEMLOCK=infinity)"
            }
            Some(libc::EMFILE | libc::ENFILE) => {
                "no descriptor left: raise RLIMIT_NOFILE (systemd: LimitNOFILE=)"
            }
            Some(libc::EINVAL) => "this kernel lacks a feature of io_uring that Linux 6.1 has",
            _ => "see the kernel's message",
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "io_uring: {} failed ({}); {}",
            self.step,
            self.cause,
            self.remedy()
        )
    }
}

impl std::error::Error for StartError {}
