//! The plain check: connect, and close by reset. It sends nothing and reads nothing, so that a server with a greeting
//! (MySQL) does not count a broken handshake, and leaves no TIME_WAIT behind.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use socket2::SockAddr;

use crate::ids::{Address, CheckResult, Clock, Nanos};
use crate::sys::stream;

use super::report::Finding;
use super::ring;
use super::roster::Assignment;
use super::stall::StallWatch;

/// A cancelled connect answers at once; should the kernel not do so, the socket is left to the runtime after this.
const CANCEL_WITHIN: Duration = Duration::from_secs(1);

/// Makes one check that starts `now` and says what it found, after the timeout at the latest.
pub async fn check(
    assignment: &Assignment,
    started: Nanos,
    clock: Clock,
    stall: &StallWatch,
) -> Finding {
    let outcome = match open(assignment) {
        Ok((socket, address)) => dial(socket, address, assignment).await,
        Err((result, error)) => (result, error.raw_os_error()),
    };
    let now = clock.now();
    stall.look(now);
    let late = stall.stalled_since(started);
    Finding {
        result: if late { CheckResult::Void } else { outcome.0 },
        errno: outcome.1,
        took_ns: now.since(started),
    }
}

fn open(assignment: &Assignment) -> Result<(OwnedFd, SockAddr), (CheckResult, io::Error)> {
    let address = match &assignment.address {
        Address::Inet(address) => SockAddr::from(*address),
        Address::Unix(path) => SockAddr::unix(path).map_err(|error| (CheckResult::Other, error))?,
    };
    let socket = stream::outbound(&assignment.address, assignment.source).map_err(|error| {
        let result = match error.raw_os_error() {
            Some(errno) if is_our_shortage(errno) => CheckResult::Void,
            _ => CheckResult::Other,
        };
        (result, error)
    })?;
    stream::set_reset_on_close(socket.as_fd()).map_err(|error| (CheckResult::Other, error))?;
    Ok((socket, address))
}

async fn dial(
    socket: OwnedFd,
    address: SockAddr,
    assignment: &Assignment,
) -> (CheckResult, Option<i32>) {
    let descriptor = socket.as_raw_fd();
    let mut answer = ring::connect(socket, address);
    let timeout = Duration::from_nanos(assignment.timeout_ns);
    match tokio::time::timeout(timeout, &mut answer).await {
        Ok((Ok(()), socket)) if is_own_echo(&socket, &assignment.address) => {
            (CheckResult::Refused, None)
        }
        Ok((Ok(()), _socket)) => (CheckResult::Ok, None),
        Ok((Err(error), _socket)) => classify(&error, &assignment.address),
        Err(_elapsed) => {
            // The socket is the connect's until it answers, so the number still names it.
            let cancelled = async {
                let _ = ring::cancel(descriptor).await;
                let _ = answer.await;
            };
            let _ = tokio::time::timeout(CANCEL_WITHIN, cancelled).await;
            (CheckResult::Timeout, None)
        }
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

fn classify(error: &io::Error, address: &Address) -> (CheckResult, Option<i32>) {
    let errno = error.raw_os_error().unwrap_or(0);
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
    (result, Some(errno))
}

/// Out of descriptors, memory or buffers on our side: no fault of the backend.
fn is_our_shortage(errno: i32) -> bool {
    matches!(
        errno,
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS
    )
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
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(
                classify(&error, address),
                (expected, Some(errno)),
                "{error} at {address}"
            );
        }
    }
}
