//! An eventfd that wakes a sleeping thread. Ringing twice before the sleeper looks is one wake-up.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The bell of one thread; any thread may ring it, through a shared reference.
#[derive(Debug)]
pub struct Doorbell {
    eventfd: OwnedFd,
}

impl Doorbell {
    /// # Errors
    /// The kernel's, when no descriptor is left.
    pub fn new() -> io::Result<Doorbell> {
        // SAFETY: eventfd takes two integers and no pointer.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just returned by eventfd and nobody else owns it.
        let eventfd = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Doorbell { eventfd })
    }

    /// Wakes the sleeper. A counter at its limit (2^64 - 2 unanswered rings) means it is being woken anyway.
    pub fn ring(&self) {
        let one = 1u64;
        // SAFETY: the pointer is to eight readable bytes that outlive this call.
        unsafe { libc::write(self.eventfd.as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
    }

    /// Takes back all rings so far, without waiting.
    pub fn silence(&self) {
        let mut rings = 0u64;
        // SAFETY: the pointer is to eight writable bytes that outlive this call; the descriptor never blocks.
        unsafe {
            libc::read(
                self.eventfd.as_raw_fd(),
                std::ptr::from_mut(&mut rings).cast(),
                8,
            )
        };
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}
