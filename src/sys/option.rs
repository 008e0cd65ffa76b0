//! Socket options that listeners and outbound streams share, and the one raw setsockopt for those that socket2 does not
//! name. For this room only, except the description of keepalive.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// When the kernel asks a silent peer whether it still lives, and when it gives the connection up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe; at most 32,767.
    pub idle_s: u32,
    /// Between probes; at most 32,767.
    pub interval_s: u32,
    /// Unanswered probes until the connection ends with ETIMEDOUT; at most 127.
    pub count: u32,
}

pub(super) fn set_integer(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: `value` is a local integer that outlives the call, and the length given is its own.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets or, with `None`, switches off keepalive.
pub(super) fn set_keepalive(
    socket: BorrowedFd<'_>,
    keepalive: Option<Keepalive>,
) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    match keepalive {
        None => socket.set_keepalive(false),
        Some(keepalive) => socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(seconds(keepalive.idle_s))
                .with_interval(seconds(keepalive.interval_s))
                .with_retries(keepalive.count),
        ),
    }
}

/// TCP_USER_TIMEOUT: the longest that sent bytes may stay unacknowledged; 0 leaves it to the kernel's retry count.
pub(super) fn set_user_timeout(socket: BorrowedFd<'_>, user_timeout_ms: u32) -> io::Result<()> {
    let timeout = Duration::from_millis(u64::from(user_timeout_ms));
    SockRef::from(&socket).set_tcp_user_timeout(Some(timeout))
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}
