//! A set of idle sockets that tells which of them stirs: bytes, an end of stream, an error. An epoll set and not polls
//! in a ring, because a pending poll in a ring holds the file: a socket that another thread took over could then not be
//! closed. From an epoll set a socket disappears with its last descriptor, and any thread may take it out before.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Sockets that stir are told this many at a time.
const AT_ONCE: usize = 64;

#[derive(Debug)]
pub struct IdleSet {
    epoll: OwnedFd,
}

impl IdleSet {
    /// # Errors
    /// The kernel's, when no descriptor is left.
    pub fn new() -> io::Result<IdleSet> {
        // SAFETY: epoll_create1 takes one integer and no pointer.
        let raw = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just returned by epoll_create1 and nobody else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(IdleSet { epoll })
    }

    /// Watches `socket` from now on; each change is told once, under this token.
    ///
    /// # Errors
    /// The kernel's: no memory, or too many watches.
    pub fn add(&self, socket: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let events = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event {
            events: events.cast_unsigned(),
            u64: token,
        };
        self.control(libc::EPOLL_CTL_ADD, socket, &raw mut event)
    }

    /// Watches it no more. What was told already may still be on its way.
    pub fn remove(&self, socket: BorrowedFd<'_>) {
        // It fails only for a socket that is not in the set, which is what is wanted.
        let _ = self.control(libc::EPOLL_CTL_DEL, socket, std::ptr::null_mut());
    }

    fn control(
        &self,
        what: libc::c_int,
        socket: BorrowedFd<'_>,
        event: *mut libc::epoll_event,
    ) -> io::Result<()> {
        // SAFETY: both descriptors are open, and the event is a local of the caller's that outlives the call, or null where
        // the kernel does not look at it.
        let answer =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), what, socket.as_raw_fd(), event) };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Appends the tokens of those that stirred since the last call, without waiting.
    pub fn take_stirred(&self, tokens: &mut Vec<u64>) {
        loop {
            let mut events = [libc::epoll_event { events: 0, u64: 0 }; AT_ONCE];
            // SAFETY: the kernel writes at most AT_ONCE entries into the local array; a timeout of 0 does not wait.
            let count = unsafe {
                libc::epoll_wait(
                    self.epoll.as_raw_fd(),
                    events.as_mut_ptr(),
                    AT_ONCE as libc::c_int,
                    0,
                )
            };
            let count = usize::try_from(count).unwrap_or(0);
            tokens.extend(events[..count].iter().map(|event| event.u64));
            if count < AT_ONCE {
                return;
            }
        }
    }
}

impl AsFd for IdleSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    fn stirred(set: &IdleSet, wanted: usize) -> Vec<u64> {
        let mut found = Vec::new();
        let start = Instant::now();
        while found.len() < wanted && start.elapsed() < Duration::from_secs(10) {
            set.take_stirred(&mut found);
        }
        found
    }

    #[test]
    fn each_change_is_told_once_and_not_after_removal() {
        let set = IdleSet::new().unwrap();
        let (ours, mut theirs) = pair();
        let (other, mut others_peer) = pair();
        set.add(ours.as_fd(), 7).unwrap();
        set.add(other.as_fd(), 8).unwrap();
        assert!(stirred(&set, 0).is_empty());
        theirs.write_all(b"x").unwrap();
        assert_eq!(stirred(&set, 1), [7]);
        assert!(stirred(&set, 0).is_empty());
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stirred(&set, 1), [7]);
        set.remove(other.as_fd());
        others_peer.write_all(b"x").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(stirred(&set, 0).is_empty());
        drop(ours);
        assert!(stirred(&set, 0).is_empty());
    }
}
