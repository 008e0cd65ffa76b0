//! What TCP_INFO tells of a connection that is over: which of the kernel's clocks ended it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::SockRef;

/// Which clock ran out when a connection ended with ETIMEDOUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutCause {
    /// Probes went unanswered while nothing was under way.
    Keepalive,
    /// TCP_USER_TIMEOUT is set, and passed.
    UserTimeout,
    /// Data was sent again and again, and never acknowledged.
    Retransmission,
}

/// Read it right after the error: the counters of retransmissions and probes outlive the connection until close.
#[must_use]
pub fn timeout_cause(socket: BorrowedFd<'_>) -> TimeoutCause {
    if SockRef::from(&socket)
        .tcp_user_timeout()
        .is_ok_and(|timeout| timeout.is_some_and(|it| !it.is_zero()))
    {
        return TimeoutCause::UserTimeout;
    }
    match tcp_info(socket) {
        Ok(info) if info.tcpi_retransmits == 0 => TimeoutCause::Keepalive,
        _ => TimeoutCause::Retransmission,
    }
}

pub(super) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    let mut found = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of the local that the pointer is to.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            found.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: tcp_info is plain integers, and those that the kernel did not write are zero.
    Ok(unsafe { found.assume_init() })
}
