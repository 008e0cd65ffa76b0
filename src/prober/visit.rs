//! One check of one backend, from its start to its finding: what a kind is given to work with, and what is the same for
//! all kinds. A check that lived through a stall of the prober is void, whatever it found.
//!
//! A kind asks the visit for lines, and may leave one with it to find it again at the backend's next check.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use socket2::SockAddr;
use tokio::time::Instant;

use crate::ids::{Address, CheckResult, Clock, Nanos};
use crate::sys::{datagram, stream};

use super::kept::Kept;
use super::kinds;
use super::line::{self, Break, Line, is_our_shortage};
use super::manners::Rest;
use super::report::Finding;
use super::roster::Assignment;
use super::stall::StallWatch;
use super::target::{Announce, Place};

/// What a kind works with during one check.
#[derive(Debug)]
pub struct Visit {
    place: Place,
    deadline: Instant,
    kept: Kept,
}

/// Makes one check that starts `now` and says what it found, after the timeout at the latest, and what is kept for the
/// next one.
pub async fn check(
    assignment: Assignment,
    started: Nanos,
    clock: Clock,
    stall: &StallWatch,
) -> (Finding, Kept) {
    let mut visit = Visit {
        place: assignment.place,
        deadline: Instant::now() + Duration::from_nanos(assignment.timeout_ns),
        kept: assignment.kept,
    };
    let mut finding = match visit.kept.rest.as_ref().and_then(Rest::finding) {
        Some(said) => visit.look_in(said).await,
        None => kinds::check(&assignment.check, &mut visit).await,
    };
    let now = clock.now();
    stall.look(now);
    if stall.stalled_since(started) {
        finding.result = CheckResult::Void;
    }
    finding.took_ns = now.since(started);
    (finding, visit.kept)
}

impl Visit {
    /// The line that the last check of this backend left, with this check's deadline. Its server may have ended it since
    /// then: that says nothing about the backend until a new one has been tried.
    pub fn take_kept(&mut self) -> Option<Line> {
        let mut line = self.kept.line.take()?;
        line.renew(self.deadline);
        Some(line)
    }

    /// Leaves a line for the next check. Nothing may be on its way on it.
    pub fn keep(&mut self, line: Line) {
        self.kept.line = Some(line);
    }

    /// Says no more to this backend for a while.
    pub fn rest(&mut self, rest: Rest) {
        self.kept.rest = Some(rest);
    }

    /// Whether a check found the server to be in a cluster of equals.
    #[must_use]
    pub fn is_in_cluster(&self) -> bool {
        self.kept.in_cluster
    }

    pub fn set_in_cluster(&mut self, in_cluster: bool) {
        self.kept.in_cluster = in_cluster;
    }

    /// Looks whether somebody listens, so that nobody notices: our acknowledgement of the server's answer is held back, and
    /// the reset that comes instead ends what was no connection yet. The server's program hears nothing of it, and has
    /// nothing to count or to log. The kernel holds it back for 200 ms.
    ///
    /// # Errors
    /// As [`Visit::open`].
    pub async fn look(&self) -> Result<(), Finding> {
        let (socket, address) = self.socket()?;
        if !address.is_unix() {
            let _ = stream::delay_acknowledgements(socket.as_fd());
        }
        self.connect(socket, address).await.map(drop)
    }

    /// In a rest: what the server said before, unless nobody listens any more.
    async fn look_in(&mut self, said: Finding) -> Finding {
        match self.look().await {
            Ok(()) => said,
            Err(finding) => {
                self.kept.rest = None;
                finding
            }
        }
    }

    /// Connects, and announces itself where the pool sends PROXY headers.
    ///
    /// # Errors
    /// What the check found, then: nobody listens, no answer, nothing to connect with.
    pub async fn open(&self) -> Result<Line, Finding> {
        let (socket, address) = self.socket()?;
        let socket = self.connect(socket, address).await?;
        let mut line = Line::stream(socket, self.deadline);
        if let Some(header) = self.place.announce.header() {
            line.send(header).await.map_err(|broken| broken.finding())?;
        }
        Ok(line)
    }

    /// A datagram socket towards the backend. Nothing is sent yet.
    ///
    /// # Errors
    /// As [`Visit::open`].
    pub fn open_datagrams(&self) -> Result<Line, Finding> {
        let Address::Inet(address) = self.place.address else {
            return Err(Finding::of(CheckResult::Other).saying(b"a unix socket takes no datagrams"));
        };
        let socket = datagram::outbound(address, self.place.source)
            .map_err(|error| not_connected(errno_of(&error), &self.place.address))?;
        let heading = self.place.announce.header().unwrap_or_default();
        Ok(Line::datagrams(socket, heading, self.deadline))
    }

    /// Whether a PROXY header was sent ahead on every line.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.place.announce != Announce::Off
    }

    async fn connect(&self, socket: OwnedFd, address: SockAddr) -> Result<OwnedFd, Finding> {
        let socket = match line::dial(socket, address, self.deadline).await {
            Ok(socket) => socket,
            Err(Break::Kernel(errno)) => return Err(not_connected(errno, &self.place.address)),
            Err(other) => return Err(other.finding()),
        };
        if is_own_echo(&socket, &self.place.address) {
            return Err(Finding::of(CheckResult::Refused));
        }
        Ok(socket)
    }

    fn socket(&self) -> Result<(OwnedFd, SockAddr), Finding> {
        let other = |error: io::Error| with_errno(CheckResult::Other, errno_of(&error));
        let address = match &self.place.address {
            Address::Inet(address) => SockAddr::from(*address),
            Address::Unix(path) => SockAddr::unix(path).map_err(other)?,
        };
        let socket = stream::outbound(&self.place.address, self.place.source).map_err(|error| {
            let ours = error.raw_os_error().is_some_and(is_our_shortage);
            let result = if ours {
                CheckResult::Void
            } else {
                CheckResult::Other
            };
            with_errno(result, errno_of(&error))
        })?;
        stream::set_reset_on_close(socket.as_fd()).map_err(other)?;
        Ok((socket, address))
    }
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

fn with_errno(result: CheckResult, errno: i32) -> Finding {
    Finding {
        errno: Some(errno),
        ..Finding::of(result)
    }
}

/// A connect to a port of our own host where nobody listens can meet itself: the kernel picks that very port as the
/// local one, and both ends are this socket.
pub fn is_own_echo(socket: &OwnedFd, target: &Address) -> bool {
    match (stream::local_address(socket.as_fd()), target) {
        (Ok(Some(local)), Address::Inet(target)) => local == *target,
        _ => false,
    }
}

/// What a failed connect means.
fn not_connected(errno: i32, address: &Address) -> Finding {
    let is_unix = matches!(address, Address::Unix(_));
    let result = match errno {
        libc::ECONNREFUSED => CheckResult::Refused,
        // A unix socket's path that is not there: nobody listens, as surely as on a closed port.
        libc::ENOENT if is_unix => CheckResult::Refused,
        libc::ETIMEDOUT => CheckResult::Timeout,
        // A unix listener with a full queue: what would be silence from a TCP listener.
        libc::EAGAIN if is_unix => CheckResult::Timeout,
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN => {
            CheckResult::Unreachable
        }
        libc::ECONNRESET | libc::ECONNABORTED => CheckResult::Reset,
        libc::EADDRNOTAVAIL | libc::EAGAIN | libc::ECANCELED => CheckResult::Void,
        errno if is_our_shortage(errno) => CheckResult::Void,
        _ => CheckResult::Other,
    };
    with_errno(result, errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart() {
        let inet = Address::Inet("127.0.0.1:1".parse().unwrap());
        let unix = Address::Unix("/nowhere".into());
        for (errno, address, expected) in [
            (libc::ECONNREFUSED, &inet, CheckResult::Refused),
            (libc::ECONNREFUSED, &unix, CheckResult::Refused),
            (libc::ENOENT, &unix, CheckResult::Refused),
            (libc::EAGAIN, &unix, CheckResult::Timeout),
            (libc::ETIMEDOUT, &inet, CheckResult::Timeout),
            (libc::EHOSTUNREACH, &inet, CheckResult::Unreachable),
            (libc::ENETUNREACH, &inet, CheckResult::Unreachable),
            (libc::ECONNRESET, &inet, CheckResult::Reset),
            (libc::EACCES, &unix, CheckResult::Other),
            (libc::EPERM, &inet, CheckResult::Other),
            // Ours: ports, descriptors, memory, an end of the prober itself.
            (libc::EADDRNOTAVAIL, &inet, CheckResult::Void),
            (libc::EAGAIN, &inet, CheckResult::Void),
            (libc::EMFILE, &inet, CheckResult::Void),
            (libc::ENOBUFS, &inet, CheckResult::Void),
            (libc::ECANCELED, &inet, CheckResult::Void),
        ] {
            let finding = not_connected(errno, address);
            assert_eq!(
                (finding.result, finding.errno),
                (expected, Some(errno)),
                "{errno} at {address}"
            );
        }
    }
}
