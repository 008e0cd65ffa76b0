//! Completions: this file alone reads results. errno is parsed here, once, into words; nothing above it sees a number.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use io_uring::cqueue;

use crate::ids::{Condition, ConnectFailure, Fault, Interest, ReceiveEnd};
use crate::sys::{stream, tcp_state};

use super::datagrams::Undelivered;
use super::door::{AcceptEnd, Answer, Incoming};
use super::ops;
use super::tag::{Op, Tag};

/// A completion, copied out of the shared queue. Not `Copy`: an accept's hands over a descriptor.
#[derive(Debug)]
pub(super) struct Completion {
    bits: u64,
    result: i32,
    flags: u32,
}

/// What a send without success left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// So many bytes were taken.
    Rest(u32),
    Broken(Failure),
}

/// Events that a poll found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Events(u32);

impl Events {
    pub(super) fn any(self) -> bool {
        self.0 != 0
    }

    pub(super) fn add(&mut self, more: Events) {
        self.0 |= more.0;
    }

    pub(super) fn condition(self, interest: Interest, socket: BorrowedFd<'_>) -> Condition {
        condition(interest, self.0, socket)
    }
}

/// An errno that has not been put into words yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure(i32);

impl Failure {
    pub(super) fn fault(self, socket: Option<BorrowedFd<'_>>) -> Fault {
        socket.map_or(Fault::Reset, |socket| fault(self.0, socket))
    }
}

/// Why a send or a receive of datagrams was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Several datagrams in one send are what was wrong.
    Segments,
    As(Undelivered),
}

impl From<Refused> for Undelivered {
    fn from(refused: Refused) -> Undelivered {
        match refused {
            Refused::Segments => Undelivered::TooLong,
            Refused::As(why) => why,
        }
    }
}

/// Why a receive of datagrams has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReceivePause {
    /// Nothing is wrong.
    Over,
    Cancelled,
    NoBuffer,
    Broken(Refused),
}

impl From<cqueue::Entry> for Completion {
    fn from(entry: cqueue::Entry) -> Completion {
        Completion {
            bits: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }
    }
}

impl Completion {
    pub(super) fn tag(&self) -> Option<Tag> {
        Tag::unpack(self.bits)
    }

    pub(super) fn is_last(&self) -> bool {
        !cqueue::more(self.flags)
    }

    /// Whether it is the last answer of an operation that owes one.
    pub(super) fn is_owed(&self) -> bool {
        let owes =
            |tag: Tag| !matches!(tag.op, Op::Send | Op::DatagramSend | Op::Cancel | Op::Close);
        self.is_last() && self.tag().is_some_and(owes)
    }

    /// The provided buffer that it used up.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// Bytes that were received.
    pub(super) fn bytes(&self) -> u32 {
        u32::try_from(self.result).unwrap_or(0)
    }

    pub(super) fn connected(&self) -> Answer {
        match self.result {
            // More than none is from a poll: a unix socket is connected before.
            0.. => Answer::Connected,
            _ => connect_failure(-self.result)
                .map_or(Answer::ConnectCancelled, Answer::ConnectFailed),
        }
    }

    pub(super) fn receive_end(&self, socket: BorrowedFd<'_>) -> Option<ReceiveEnd> {
        self.is_last().then(|| match self.result {
            1.. => ReceiveEnd::Stopped,
            _ => receive_end(self.result, socket),
        })
    }

    /// Whether a poll has found anything, be it asked for or not.
    pub(super) fn has_found(&self) -> bool {
        self.result >= 0
    }

    /// What a poll has found of what was asked for.
    pub(super) fn found(&self, interest: Interest) -> Events {
        let always = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
        let wanted = ops::asked(interest) | u32::from(always.unsigned_abs());
        Events(u32::try_from(self.result).unwrap_or(0) & wanted)
    }

    pub(super) fn unsent(&self) -> Unsent {
        match self.result {
            0.. => Unsent::Rest(self.bytes()),
            _ if matches!(-self.result, libc::EAGAIN | libc::EINTR | libc::ECANCELED) => {
                Unsent::Rest(0)
            }
            _ => Unsent::Broken(Failure(-self.result)),
        }
    }

    /// Why a send of datagrams failed; `None` if it did not.
    pub(super) fn refused(&self) -> Option<Refused> {
        (self.result < 0).then(|| refused(-self.result))
    }

    /// Why a receive of datagrams goes on no more; `None` while it does.
    pub(super) fn receive_pause(&self) -> Option<ReceivePause> {
        self.is_last().then(|| match -self.result {
            ..=0 | libc::EINTR | libc::EAGAIN => ReceivePause::Over,
            libc::ECANCELED => ReceivePause::Cancelled,
            libc::ENOBUFS => ReceivePause::NoBuffer,
            errno => ReceivePause::Broken(refused(errno)),
        })
    }

    pub(super) fn accept_end(&self) -> Option<AcceptEnd> {
        self.is_last().then(|| match self.result {
            0.. => AcceptEnd::Retry,
            _ => accept_end(self.result),
        })
    }

    /// Lets go of what it hands over.
    pub(super) fn discard(self) {
        if self.tag().is_some_and(|tag| tag.op == Op::Accept) {
            drop(self.accepted());
        }
    }

    /// The socket that an accept took.
    pub(super) fn accepted(self) -> Option<Incoming> {
        // SAFETY: called for an accept's completion only, whose result is a fresh descriptor that nobody else owns; the
        // completion is used up, so nobody will.
        (self.result >= 0).then(|| Incoming(unsafe { OwnedFd::from_raw_fd(self.result) }))
    }
}

/// Whether a system call of the ring may simply be made again.
pub(super) fn is_transient(error: &io::Error) -> bool {
    let errno = error.raw_os_error().unwrap_or(0);
    matches!(
        errno,
        libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN | libc::ENOMEM | libc::EBADR
    )
}

/// Whether the kernel lacked something for a submission: it will have it later, not at once.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().unwrap_or(0);
    matches!(errno, libc::ENOMEM | libc::EAGAIN | libc::EBUSY)
}

/// Why no socket could be had to connect with.
pub(super) fn socket_failure(error: &io::Error) -> ConnectFailure {
    connect_failure(error.raw_os_error().unwrap_or(0)).unwrap_or(ConnectFailure::Other)
}

/// The same for a socket of a flow, where the kernel says EAGAIN when no port is left (udp_lib_get_port).
pub(super) fn datagram_socket_failure(error: &io::Error) -> ConnectFailure {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EADDRINUSE) => ConnectFailure::Ports,
        // A source address that is not ours: no port is missing.
        Some(libc::EADDRNOTAVAIL) => ConnectFailure::Other,
        _ => socket_failure(error),
    }
}

/// Whether a call failed because this process has no descriptor left.
pub(super) fn is_out_of_descriptors(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMFILE)
}

/// Why a plain send of a datagram failed.
pub(super) fn refusal_of(error: &io::Error) -> Refused {
    refused(error.raw_os_error().unwrap_or(0))
}

fn refused(errno: i32) -> Refused {
    match errno {
        // EINVAL: more segments, or longer ones, than the way takes; EIO: the device cannot do their checksums.
        libc::EINVAL | libc::EIO => Refused::Segments,
        libc::EAGAIN | libc::EINTR | libc::ECANCELED => Refused::As(Undelivered::Full),
        libc::EMSGSIZE => Refused::As(Undelivered::TooLong),
        libc::ENOMEM | libc::ENOBUFS => Refused::As(Undelivered::Resources),
        _ => Refused::As(Undelivered::Unreachable),
    }
}

/// Why a stream broke, from a plain call on it.
pub(super) fn fault_of(error: &io::Error, socket: BorrowedFd<'_>) -> Fault {
    fault(error.raw_os_error().unwrap_or(0), socket)
}

/// Why a stream broke, from the errno of a receive or send on it.
fn fault(errno: i32, socket: BorrowedFd<'_>) -> Fault {
    match errno {
        libc::ETIMEDOUT => timeout_kind(socket),
        libc::EHOSTUNREACH
        | libc::ENETUNREACH
        | libc::ENETDOWN
        | libc::EHOSTDOWN
        | libc::ENONET => Fault::Unreachable,
        libc::ENOMEM | libc::ENOBUFS => Fault::Resources,
        // ECONNRESET, EPIPE (a reset in CLOSE_WAIT, or one that another operation has reported already), ECONNABORTED,
        // ENOTCONN; and what else a broken stream may say.
        _ => Fault::Reset,
    }
}

/// Keepalive gives up with probes and without retransmissions, a user timeout where one is set.
fn timeout_kind(socket: BorrowedFd<'_>) -> Fault {
    match tcp_state::timeout_cause(socket) {
        tcp_state::TimeoutCause::UserTimeout => Fault::UserTimeout,
        tcp_state::TimeoutCause::Keepalive => Fault::Keepalive,
        tcp_state::TimeoutCause::Retransmission => Fault::TimedOut,
    }
}

fn receive_end(result: i32, socket: BorrowedFd<'_>) -> ReceiveEnd {
    match -result {
        0 => ReceiveEnd::Fin,
        libc::ECANCELED | libc::EINTR | libc::EAGAIN => ReceiveEnd::Stopped,
        libc::ENOBUFS => ReceiveEnd::NoBuffer,
        errno => ReceiveEnd::Broken(fault(errno, socket)),
    }
}

fn accept_end(result: i32) -> AcceptEnd {
    match -result {
        libc::ECANCELED => AcceptEnd::Stopped,
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS => AcceptEnd::Pressure,
        _ => AcceptEnd::Retry,
    }
}

/// `None`: it was cancelled.
fn connect_failure(errno: i32) -> Option<ConnectFailure> {
    Some(match errno {
        libc::ECANCELED | libc::EINTR => return None,
        // A unix socket that nobody listens on any more, is gone, or whose queue is full.
        libc::ECONNREFUSED | libc::ENOENT | libc::EAGAIN => ConnectFailure::Refused,
        libc::ETIMEDOUT => ConnectFailure::Timeout,
        libc::EHOSTUNREACH
        | libc::ENETUNREACH
        | libc::ENETDOWN
        | libc::EHOSTDOWN
        | libc::ENONET => ConnectFailure::Unreachable,
        libc::ECONNRESET | libc::ECONNABORTED => ConnectFailure::Reset,
        libc::EADDRNOTAVAIL => ConnectFailure::Ports,
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS => ConnectFailure::Resources,
        _ => ConnectFailure::Other,
    })
}

/// What a poll's answer means for the stream. An error is taken from the socket here, so a receive on it will see an end
/// of stream where it would have seen the error: the caller must remember that the stream broke.
fn condition(interest: Interest, events: u32, socket: BorrowedFd<'_>) -> Condition {
    let hung_up = events & u32::from((libc::POLLERR | libc::POLLHUP).unsigned_abs()) != 0;
    if hung_up {
        return match stream::take_error(socket) {
            Ok(Some(error)) => Condition::Broken(fault_of(&error, socket)),
            // No error: another operation has told of it already; or both ends of stream were exchanged, after which TCP
            // hangs up although everything arrived and may still be unread.
            _ => Condition::HungUp,
        };
    }
    let left =
        interest == Interest::Leave && stream::readable_bytes(socket).is_ok_and(|bytes| bytes == 0);
    if left {
        Condition::Left
    } else {
        Condition::Fine
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use socket2::SockRef;

    use super::*;

    /// A connection's two ends: ours, and the peer's.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (ours, _) = listener.accept().expect("accepted");
        (ours, peer)
    }

    /// What a poll for hang-up says, once there is one.
    fn condition_at_hang_up(socket: &TcpStream) -> Condition {
        let mut poll = libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(socket),
            events: 0,
            revents: 0,
        };
        // SAFETY: one entry is passed, it is a local, and the socket stays open meanwhile.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 5_000) };
        assert_eq!(ready, 1, "it hangs up");
        condition(
            Interest::HangUp,
            u32::from(poll.revents.unsigned_abs()),
            socket.as_fd(),
        )
    }

    #[test]
    fn a_hang_up_after_both_ends_of_stream_is_no_reset() {
        for ours_first in [true, false] {
            let (ours, mut peer) = connection();
            if ours_first {
                ours.shutdown(Shutdown::Write).expect("shut down");
            }
            peer.write_all(b"not read yet").expect("sent");
            peer.shutdown(Shutdown::Write).expect("shut down");
            if !ours_first {
                ours.shutdown(Shutdown::Write).expect("shut down");
            }
            assert_eq!(condition_at_hang_up(&ours), Condition::HungUp);
        }
    }

    #[test]
    fn a_reset_is_told_once() {
        let (ours, peer) = connection();
        SockRef::from(&peer)
            .set_linger(Some(std::time::Duration::ZERO))
            .expect("lingers not");
        drop(peer);
        assert_eq!(condition_at_hang_up(&ours), Condition::Broken(Fault::Reset));
        assert_eq!(condition_at_hang_up(&ours), Condition::HungUp);
    }
}
