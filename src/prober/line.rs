//! A line to a server: one connected socket with a deadline and what was received on it. Kinds of checks speak through
//! it and never touch a socket themselves.
//!
//! The rules of tokio-uring are kept here: an operation owns socket and buffer until its answer; one that runs out of time
//! is cancelled, its answer waited for, and the line is at its end, because bytes may have gone with it. A line that a
//! kind keeps over several checks gets a new deadline each time it is taken up again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::SockAddr;
use tokio::time::{Instant, timeout_at};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform};

use crate::ids::CheckResult;
use crate::sys::stream;

use super::report::Finding;
use super::ring;

/// A cancelled operation answers at once; should the kernel not do so, the socket is left to the runtime after this.
const CANCEL_WITHIN: Duration = Duration::from_secs(1);
/// What a line holds unread at most; no check needs to read more.
pub const UNREAD_BYTES_MAX: usize = 16 * 1024;
/// Room for most answers.
const FIRST_BYTES: usize = 512;
/// Receives in one check: a server that sends byte by byte costs no more than this.
const PIECES_MAX: u32 = 128;

/// How a line ends when it is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// By reset: no TIME_WAIT stays behind, and nothing waits for the server.
    Reset,
    /// By FIN after these last words, which are sent as far as they go without waiting.
    Fin(&'static [u8]),
}

/// Why a line gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// The check's deadline.
    Timeout,
    /// The server ended its stream.
    Closed,
    /// More bytes or pieces than any answer has.
    TooMuch,
    /// The kernel's number.
    Kernel(i32),
}

#[derive(Debug)]
pub struct Line {
    /// `None` once an operation did not give it back.
    socket: Option<OwnedFd>,
    deadline: Instant,
    datagrams: bool,
    /// Bytes that go ahead of each datagram.
    heading: &'static [u8],
    farewell: Farewell,
    /// Always its full length; `buffer[read..filled]` is unread.
    buffer: Vec<u8>,
    read: usize,
    filled: usize,
    pieces: u32,
}

impl Line {
    /// Takes over a connected stream socket.
    #[must_use]
    pub fn stream(socket: OwnedFd, deadline: Instant) -> Line {
        Line::new(socket, deadline, false)
    }

    /// Takes over a connected datagram socket. `heading` goes ahead of all that is sent, in the same datagram.
    #[must_use]
    pub fn datagrams(socket: OwnedFd, heading: &'static [u8], deadline: Instant) -> Line {
        let mut line = Line::new(socket, deadline, true);
        line.heading = heading;
        line
    }

    fn new(socket: OwnedFd, deadline: Instant, datagrams: bool) -> Line {
        Line {
            socket: Some(socket),
            deadline,
            datagrams,
            heading: &[],
            farewell: Farewell::Reset,
            buffer: Vec::new(),
            read: 0,
            filled: 0,
            pieces: 0,
        }
    }

    /// For a line that was kept from an earlier check.
    pub fn renew(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.pieces = 0;
    }

    /// Decides how the line ends; by reset unless said otherwise.
    pub fn set_farewell(&mut self, farewell: Farewell) {
        self.farewell = farewell;
    }

    /// What was received and not consumed yet.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.read..self.filled]
    }

    /// The first `count` unread bytes are dealt with.
    pub fn consume(&mut self, count: usize) {
        self.read = (self.read + count).min(self.filled);
        if self.read == self.filled {
            (self.read, self.filled) = (0, 0);
        }
    }

    /// Sends all of it: a stream's next bytes, or one datagram.
    ///
    /// # Errors
    /// See [`Break`]. What the server had sent before may still be there to be received.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Break> {
        let mut buffer = [self.heading, bytes].concat();
        let mut sent = 0;
        while sent < bytes.len() || self.datagrams && sent == 0 {
            let socket = self.socket.take().ok_or(Break::Closed)?;
            let descriptor = socket.as_raw_fd();
            let answer = ring::send(socket, buffer, sent);
            let answer = answered(answer, descriptor, self.deadline).await;
            let (result, socket, back) = answer.map_err(|_| Break::Timeout)?;
            self.socket = Some(socket);
            buffer = back;
            sent += result.map_err(|error| kernel(&error))?;
            if self.datagrams {
                break;
            }
        }
        Ok(())
    }

    /// Waits for more: afterwards [`Line::unread`] is longer or, with datagrams, is the next one.
    ///
    /// # Errors
    /// See [`Break`].
    pub async fn receive(&mut self) -> Result<(), Break> {
        self.pieces += 1;
        if self.pieces > PIECES_MAX || !self.make_room() {
            return Err(Break::TooMuch);
        }
        let socket = self.socket.take().ok_or(Break::Closed)?;
        let descriptor = socket.as_raw_fd();
        let buffer = std::mem::take(&mut self.buffer);
        let answer = ring::receive(socket, buffer, self.filled);
        let (result, socket, buffer) = match answered(answer, descriptor, self.deadline).await {
            Ok(answer) => answer,
            Err(Some((_, _, buffer))) => {
                // What had come before is still worth telling.
                self.buffer = buffer;
                return Err(Break::Timeout);
            }
            Err(None) => {
                (self.read, self.filled) = (0, 0);
                return Err(Break::Timeout);
            }
        };
        self.socket = Some(socket);
        self.buffer = buffer;
        match result {
            Ok(0) if !self.datagrams => Err(Break::Closed),
            Ok(count) => {
                self.filled += count;
                Ok(())
            }
            Err(error) => Err(kernel(&error)),
        }
    }

    /// Whether there is room for one more byte, after making some.
    fn make_room(&mut self) -> bool {
        if self.datagrams {
            (self.read, self.filled) = (0, 0);
            if self.buffer.is_empty() {
                // What does not fit of a datagram is lost: take the largest.
                self.buffer.resize(UNREAD_BYTES_MAX, 0);
            }
            return true;
        }
        if self.read > 0 {
            self.buffer.copy_within(self.read..self.filled, 0);
            self.filled -= self.read;
            self.read = 0;
        }
        if self.filled == self.buffer.len() {
            let longer = (self.buffer.len() * 4).clamp(FIRST_BYTES, UNREAD_BYTES_MAX);
            self.buffer.resize(longer, 0);
        }
        self.filled < self.buffer.len()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let (Some(socket), Farewell::Fin(last_words)) = (&self.socket, self.farewell) {
            if !last_words.is_empty() {
                let _ = stream::send(socket.as_fd(), last_words);
            }
            let _ = stream::set_fin_on_close(socket.as_fd());
        }
    }
}

impl Break {
    /// What a check found that can say no more than this.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let (result, errno) = match self {
            Break::Timeout => (CheckResult::Timeout, None),
            Break::Closed => (CheckResult::Closed, None),
            Break::TooMuch => (CheckResult::Failed, None),
            Break::Kernel(errno) => (broken(*errno), Some(*errno)),
        };
        let finding = Finding {
            errno,
            ..Finding::of(result)
        };
        match self {
            Break::TooMuch => finding.saying(b"the answer is longer than any that is expected"),
            _ => finding,
        }
    }
}

fn kernel(error: &io::Error) -> Break {
    Break::Kernel(error.raw_os_error().unwrap_or(0))
}

/// What an error of an established connection means.
fn broken(errno: i32) -> CheckResult {
    match errno {
        // Of a datagram socket: the host says that nobody listens.
        libc::ECONNREFUSED => CheckResult::Refused,
        libc::ETIMEDOUT => CheckResult::Timeout,
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN => {
            CheckResult::Unreachable
        }
        libc::ECONNRESET | libc::ECONNABORTED => CheckResult::Reset,
        libc::EPIPE => CheckResult::Closed,
        libc::ECANCELED => CheckResult::Void,
        errno if is_our_shortage(errno) => CheckResult::Void,
        _ => CheckResult::Other,
    }
}

/// Out of descriptors, memory or buffers on our side: no fault of the backend.
pub fn is_our_shortage(errno: i32) -> bool {
    matches!(
        errno,
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS
    )
}

/// Connects `socket`, which closes by reset until something else is decided.
///
/// # Errors
/// [`Break::Timeout`] or the kernel's.
pub async fn dial(socket: OwnedFd, address: SockAddr, deadline: Instant) -> Result<OwnedFd, Break> {
    let descriptor = socket.as_raw_fd();
    let answer = ring::connect(socket, address);
    let answer = answered(answer, descriptor, deadline).await;
    let (result, socket) = answer.map_err(|_| Break::Timeout)?;
    result.map_err(|error| kernel(&error))?;
    Ok(socket)
}

/// Waits for an operation that owns the socket `descriptor`. Past the deadline it is cancelled, and its answer is an error,
/// if there is one: the socket in it must not be used any more.
async fn answered<D: Unpin + 'static, T>(
    mut answer: InFlightOneshot<D, T>,
    descriptor: RawFd,
    deadline: Instant,
) -> Result<T::Output, Option<T::Output>>
where
    T: OneshotOutputTransform<StoredData = D> + Unpin + 'static,
{
    if let Ok(answer) = timeout_at(deadline, &mut answer).await {
        return Ok(answer);
    }
    // The socket is the operation's until it answers, so the number still names it.
    let cancelled = async {
        let _ = ring::cancel(descriptor).await;
        answer.await
    };
    let late = tokio::time::timeout(CANCEL_WITHIN, cancelled).await;
    Err(late.ok())
}
