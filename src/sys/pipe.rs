//! Pipes and splice(2), by which bytes go from socket to socket without passing through user space. Plain calls, not
//! io_uring operations: IORING_OP_SPLICE always goes to the kernel's worker threads.
//!
//! A pipe must not be used again for another session while a byte is in it; the owner keeps that account.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A pipe whose ends neither block nor survive exec.
#[derive(Debug)]
pub struct Pipe {
    pub read: OwnedFd,
    pub write: OwnedFd,
    /// What the kernel gave; a page that is not full takes as much of it as a full one.
    pub capacity_bytes: usize,
}

/// What is asked of the kernel for each pipe; it may grant less to a user without privileges.
pub const BULK_BYTES: usize = 512 * 1024;

/// A pipe of `wanted_bytes` (rounded up by the kernel to a power of two of pages), or of the largest allowed size below:
/// fs.pipe-max-size and the per-user page limits hold for processes without CAP_SYS_RESOURCE.
///
/// # Errors
/// The kernel's, when no descriptor is left.
pub fn pipe(wanted_bytes: usize) -> io::Result<Pipe> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors into the local array of two.
    let answer = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: pipe2 succeeded, so `ends[0]` is open and nobody else owns it.
    let read = unsafe { OwnedFd::from_raw_fd(ends[0]) };
    // SAFETY: as for the reading end; the two are different descriptors.
    let write = unsafe { OwnedFd::from_raw_fd(ends[1]) };
    let capacity_bytes = resize(write.as_fd(), wanted_bytes)?;
    Ok(Pipe {
        read,
        write,
        capacity_bytes,
    })
}

/// Moves up to `bytes` from one descriptor to the other, one of them a pipe; returns how many, 0 at the end of stream.
/// `more` says that the source is known to hold more, so that a TCP socket may wait to fill a segment.
///
/// SPLICE_F_NONBLOCK speaks for the pipe only: whether a full or empty socket blocks is decided by the socket's own
/// O_NONBLOCK (fs/splice.c sets MSG_DONTWAIT from the file's flags alone), so sessions' sockets must have it.
///
/// # Errors
/// `WouldBlock` if the source is empty or the destination full; which of them, the kernel does not say. Else the
/// socket's own error.
pub fn splice(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    bytes: usize,
    more: bool,
) -> io::Result<usize> {
    let mut flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    if more {
        flags |= libc::SPLICE_F_MORE;
    }
    splice_with(from, into, bytes, flags)
}

/// Writes what fits, to put bytes that were received into a buffer in front of those that will be spliced.
///
/// # Errors
/// `WouldBlock` if the pipe is full.
pub fn write(into: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    uninterrupted(|| {
        // SAFETY: the pointer and length are those of one slice, which the kernel only reads during the call.
        unsafe { libc::write(into.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) }
    })
}

fn splice_with(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    bytes: usize,
    flags: libc::c_uint,
) -> io::Result<usize> {
    let (from, into) = (from.as_raw_fd(), into.as_raw_fd());
    let nowhere = std::ptr::null_mut;
    uninterrupted(|| {
        // SAFETY: both offsets are null, so the call touches no memory of this process.
        unsafe { libc::splice(from, nowhere(), into, nowhere(), bytes, flags) }
    })
}

/// Repeats a call that a signal cut off before it did anything.
fn uninterrupted(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        let answer = call();
        if let Ok(count) = usize::try_from(answer) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Tries the wanted size, then half of it and so on, down to what the pipe has already. Returns what it has then.
fn resize(pipe: BorrowedFd<'_>, wanted_bytes: usize) -> io::Result<usize> {
    // SAFETY: F_GETPIPE_SZ takes no argument and touches no memory of this process.
    let present = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_GETPIPE_SZ) };
    let Ok(present) = usize::try_from(present) else {
        return Err(io::Error::last_os_error());
    };
    let mut wanted = wanted_bytes.min(1 << 30);
    while wanted > present {
        // SAFETY: F_SETPIPE_SZ takes one int, which fits after the cap above, and touches no memory of this process.
        let got =
            unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, wanted as libc::c_int) };
        if let Ok(got) = usize::try_from(got) {
            return Ok(got);
        }
        // EPERM or ENOMEM alike: less may be allowed.
        wanted /= 2;
    }
    Ok(present)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::stream::readable_bytes;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        (one, other)
    }

    /// Fills the way out of `socket`, whose peer does not read, and leaves it blocking or not as it was.
    fn fill(socket: &mut TcpStream) -> usize {
        let chunk = [7u8; 65_536];
        let mut total = 0;
        // The receiver's window may still open a little after the first refusal.
        let mut full_since = Instant::now();
        while full_since.elapsed() < Duration::from_millis(100) {
            match socket.write(&chunk) {
                Ok(count) => {
                    total += count;
                    full_since = Instant::now();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        total
    }

    fn filled_pipe() -> Pipe {
        let pipe = pipe(65_536).unwrap();
        assert_eq!(write(pipe.write.as_fd(), &[9; 4_096]).unwrap(), 4_096);
        pipe
    }

    #[test]
    fn into_a_full_nonblocking_socket_splice_does_not_wait() {
        let (mut ours, _theirs) = pair();
        ours.set_nonblocking(true).unwrap();
        fill(&mut ours);
        let pipe = filled_pipe();
        let error = splice(pipe.read.as_fd(), ours.as_fd(), 4_096, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let error = splice(pipe.read.as_fd(), ours.as_fd(), 4_096, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        // The socket's own flag is enough: without SPLICE_F_NONBLOCK, too.
        let flags = libc::SPLICE_F_MOVE;
        let error = splice_with(pipe.read.as_fd(), ours.as_fd(), 4_096, flags).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert_eq!(readable_bytes(pipe.read.as_fd()).unwrap(), 4_096);
    }

    /// Why sessions' sockets are O_NONBLOCK: with a blocking one the flag of the call does not help.
    #[test]
    fn into_a_full_blocking_socket_splice_waits_in_spite_of_its_flag() {
        let (mut ours, _theirs) = pair();
        ours.set_nonblocking(true).unwrap();
        fill(&mut ours);
        ours.set_nonblocking(false).unwrap();
        let patience = Duration::from_millis(60);
        ours.set_write_timeout(Some(patience)).unwrap();
        let pipe = filled_pipe();
        let start = Instant::now();
        let error = splice(pipe.read.as_fd(), ours.as_fd(), 4_096, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(start.elapsed() >= patience, "{:?}", start.elapsed());
    }

    #[test]
    fn from_an_empty_socket_and_into_a_full_pipe_splice_does_not_wait() {
        let (mut ours, mut theirs) = pair();
        ours.set_nonblocking(true).unwrap();
        let pipe = pipe(4_096).unwrap();
        let empty = splice(ours.as_fd(), pipe.write.as_fd(), 4_096, false).unwrap_err();
        assert_eq!(empty.kind(), ErrorKind::WouldBlock);
        while write(pipe.write.as_fd(), &[1; 4_096]).is_ok() {}
        theirs.write_all(b"waiting").unwrap();
        let start = Instant::now();
        while readable_bytes(ours.as_fd()).unwrap() < 7 {
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        let full = splice(ours.as_fd(), pipe.write.as_fd(), 4_096, false).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        let mut text = [0; 7];
        ours.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"waiting");
    }

    #[test]
    fn bytes_cross_whole_and_in_order_behind_what_was_written_first() {
        let (mut source, relay_in) = pair();
        let (relay_out, mut sink) = pair();
        relay_in.set_nonblocking(true).unwrap();
        relay_out.set_nonblocking(true).unwrap();
        let pipe = pipe(65_536).unwrap();
        let sent: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let (first, rest) = sent.split_at(1_000);
        assert_eq!(write(pipe.write.as_fd(), first).unwrap(), 1_000);
        let rest = rest.to_vec();
        let sender = std::thread::spawn(move || source.write_all(&rest).unwrap());
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            sink.read_to_end(&mut received).unwrap();
            received
        });
        let start = Instant::now();
        let mut held = 1_000;
        let mut ended = false;
        while !(ended && held == 0) {
            assert!(start.elapsed() < Duration::from_secs(10));
            match splice(relay_in.as_fd(), pipe.write.as_fd(), 65_536, false) {
                Ok(0) => ended = true,
                Ok(count) => held += count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            match splice(pipe.read.as_fd(), relay_out.as_fd(), held, !ended) {
                Ok(count) => held -= count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        sender.join().unwrap();
        drop(relay_out);
        assert!(reader.join().unwrap() == sent);
    }

    #[test]
    fn a_pipe_is_as_large_as_allowed() {
        let wanted = pipe(256 * 1024).unwrap();
        assert!(wanted.capacity_bytes >= 256 * 1024, "{wanted:?}");
        // Far more than fs.pipe-max-size: falls back instead of failing (or is granted, with CAP_SYS_RESOURCE).
        let greedy = pipe(usize::MAX).unwrap();
        assert!(greedy.capacity_bytes >= 256 * 1024, "{greedy:?}");
    }

    #[test]
    fn writing_where_nobody_reads_is_an_error_and_no_signal() {
        let pipe = pipe(0).unwrap();
        drop(pipe.read);
        let error = write(pipe.write.as_fd(), b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
