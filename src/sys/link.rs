//! A link between two processes of one service: a pair of connected sockets that keep messages apart (SOCK_SEQPACKET). A
//! message is bytes with descriptors; a long one goes in several packets, each of which says whether it begins or ends one,
//! so that who comes to read in the middle of a message waits for the next.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

const FIRST: u8 = 1;
const LAST: u8 = 2;
/// Below what a socket takes at once with the kernel's own settings.
const PIECE_BYTES: usize = 48 * 1024;
/// The kernel passes 253 at once.
const PIECE_DESCRIPTORS: usize = 128;
/// A message that never ends is nobody's.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// What arrives.
#[derive(Debug, Default)]
pub struct Message {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

/// Both ends, closed on exec.
///
/// # Errors
/// The kernel's, when no descriptor is left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = Socket::pair_raw(Domain::UNIX, Type::SEQPACKET.cloexec(), None)?;
    Ok((one.into(), other.into()))
}

/// Makes the socket one that answers `WouldBlock`, or one that waits, for at most `patience` where that is given.
///
/// # Errors
/// None that the kernel documents for a socket.
pub fn set_waiting(
    socket: BorrowedFd<'_>,
    waits: bool,
    patience: Option<Duration>,
) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    socket.set_nonblocking(!waits)?;
    socket.set_read_timeout(patience)?;
    socket.set_write_timeout(patience)
}

/// One packet of a message.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    flags: u8,
    bytes: &'a [u8],
    descriptors: &'a [OwnedFd],
}

/// A message as packets.
#[must_use]
pub fn pieces<'a>(bytes: &'a [u8], descriptors: &'a [OwnedFd]) -> Vec<Piece<'a>> {
    let many = bytes
        .len()
        .div_ceil(PIECE_BYTES)
        .max(descriptors.len().div_ceil(PIECE_DESCRIPTORS))
        .max(1);
    let mut texts = bytes.chunks(PIECE_BYTES);
    let mut groups = descriptors.chunks(PIECE_DESCRIPTORS);
    let piece = |number: usize| Piece {
        flags: (FIRST * u8::from(number == 0)) | (LAST * u8::from(number + 1 == many)),
        bytes: texts.next().unwrap_or_default(),
        descriptors: groups.next().unwrap_or_default(),
    };
    (0..many).map(piece).collect()
}

/// Sends one packet, whole or not at all.
///
/// # Errors
/// `WouldBlock`, or the kernel's: `BrokenPipe` when nobody is there any more.
pub fn send(socket: BorrowedFd<'_>, piece: &Piece<'_>) -> io::Result<()> {
    let flags = [piece.flags];
    let mut parts = [part(&flags), part(piece.bytes)];
    let raw: Vec<RawFd> = piece.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let length = size_of_val(raw.as_slice()) as u32;
    // SAFETY: pure arithmetic.
    let space = unsafe { libc::CMSG_SPACE(length) } as usize;
    // Words, so that the header within is aligned.
    let mut control = vec![0_u64; space.div_ceil(size_of::<u64>())];
    // SAFETY: a header of integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = parts.as_mut_ptr();
    header.msg_iovlen = parts.len() as _;
    if !raw.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = space as _;
        // SAFETY: the control area has room for exactly one header with `length` bytes of descriptors, and is zeroed.
        unsafe {
            let own = libc::CMSG_FIRSTHDR(&raw const header);
            (*own).cmsg_level = libc::SOL_SOCKET;
            (*own).cmsg_type = libc::SCM_RIGHTS;
            (*own).cmsg_len = libc::CMSG_LEN(length) as _;
            std::ptr::copy_nonoverlapping(
                raw.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(own),
                length as usize,
            );
        }
    }
    loop {
        // SAFETY: header, parts and control area are locals that outlive the call, with their own lengths.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn part(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

/// Sends a whole message on a socket that waits.
///
/// # Errors
/// The kernel's.
pub fn send_all(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    pieces(bytes, descriptors)
        .iter()
        .try_for_each(|piece| send(socket, piece))
}

/// Puts packets together to messages.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: Vec<u8>,
    begun: Option<Message>,
}

/// What one look at the socket gave.
#[derive(Debug)]
pub enum Read {
    Message(Message),
    /// Part of one.
    Part,
    /// The other end is gone.
    End,
}

impl Reader {
    /// Receives one packet.
    ///
    /// # Errors
    /// `WouldBlock`, or the kernel's.
    pub fn read(&mut self, socket: BorrowedFd<'_>) -> io::Result<Read> {
        self.buffer.resize(PIECE_BYTES + 1, 0);
        let mut descriptors = Vec::new();
        let received = receive(socket, &mut self.buffer, &mut descriptors);
        let bytes = match received {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Read::End),
            other => other?,
        };
        let Some((flags, bytes)) = self.buffer[..bytes].split_first() else {
            return Ok(Read::End);
        };
        if flags & FIRST != 0 {
            self.begun = Some(Message::default());
        }
        let Some(message) = &mut self.begun else {
            return Ok(Read::Part);
        };
        message.bytes.extend_from_slice(bytes);
        message.descriptors.append(&mut descriptors);
        if message.bytes.len() > MESSAGE_BYTES_MAX {
            return Err(io::Error::from(ErrorKind::InvalidData));
        }
        if flags & LAST == 0 {
            return Ok(Read::Part);
        }
        Ok(self.begun.take().map_or(Read::Part, Read::Message))
    }

    /// The next whole message from a socket that waits; `None` at its end.
    ///
    /// # Errors
    /// `WouldBlock` when patience ran out; else the kernel's.
    pub fn wait(&mut self, socket: BorrowedFd<'_>) -> io::Result<Option<Message>> {
        loop {
            match self.read(socket)? {
                Read::Message(message) => return Ok(Some(message)),
                Read::Part => {}
                Read::End => return Ok(None),
            }
        }
    }
}

fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let length = (PIECE_DESCRIPTORS * size_of::<RawFd>()) as u32;
    // SAFETY: pure arithmetic.
    let space = unsafe { libc::CMSG_SPACE(length) } as usize;
    let mut control = vec![0_u64; space.div_ceil(size_of::<u64>())];
    // SAFETY: a header of integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = space as _;
    let received = loop {
        // SAFETY: header, part, buffer and control area outlive the call, with their own lengths.
        let received =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        if received >= 0 {
            break received as usize;
        }
        let error = io::Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    };
    // SAFETY: the kernel has filled in the control area and its length; each header in it is whole, and the descriptors in
    // it were opened for this process and have no other owner.
    unsafe {
        let mut own = libc::CMSG_FIRSTHDR(&raw const header);
        while !own.is_null() {
            if (*own).cmsg_level == libc::SOL_SOCKET && (*own).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*own).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let first = libc::CMSG_DATA(own).cast::<RawFd>();
                for place in 0..bytes / size_of::<RawFd>() {
                    let raw = first.add(place).read_unaligned();
                    descriptors.push(OwnedFd::from_raw_fd(raw));
                }
            }
            own = libc::CMSG_NXTHDR(&raw const header, own);
        }
    }
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        // The rest would be taken for what they are not.
        return Err(io::Error::other(
            "descriptors were lost on the way: too few are left here",
        ));
    }
    Ok(received)
}

/// The descriptor of this number, which the environment says is this process's end of a link. `None` if there is no socket
/// of that kind. Call it once, before anything else has opened a descriptor.
#[must_use]
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: asks for the descriptor's flags only.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and the caller says that it was opened for this process and that nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    let is_link = SockRef::from(&socket)
        .r#type()
        .is_ok_and(|kind| kind == Type::SEQPACKET);
    // SAFETY: sets a flag of a descriptor that is open.
    unsafe { libc::fcntl(socket.as_fd().as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    is_link.then_some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_long_message_arrives_whole_with_its_descriptors_in_order() {
        let (here, there) = pair().unwrap();
        let text: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let files: Vec<OwnedFd> = (0..300_u32)
            .map(|n| {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&n.to_le_bytes()).unwrap();
                file.into()
            })
            .collect();
        let sent = text.clone();
        let sender = std::thread::spawn(move || send_all(here.as_fd(), &sent, &files).unwrap());
        let mut reader = Reader::default();
        let message = reader.wait(there.as_fd()).unwrap().unwrap();
        sender.join().unwrap();
        assert!(message.bytes == text);
        for (n, file) in (0..300_u32).zip(message.descriptors) {
            let mut bytes = [0; 4];
            File::from(file).read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), n);
        }
        assert!(matches!(reader.read(there.as_fd()).unwrap(), Read::End));
    }

    /// The kernel drops what finds no room, and says so in a flag only.
    #[test]
    fn a_message_that_lost_a_descriptor_is_none() {
        let (here, there) = pair().unwrap();
        let many: Vec<OwnedFd> = (0..=PIECE_DESCRIPTORS)
            .map(|_| tempfile::tempfile().unwrap().into())
            .collect();
        let piece = Piece {
            flags: FIRST | LAST,
            bytes: b"one too many",
            descriptors: &many,
        };
        send(here.as_fd(), &piece).unwrap();
        assert!(Reader::default().wait(there.as_fd()).is_err());
    }

    #[test]
    fn who_comes_in_the_middle_waits_for_the_next_message() {
        let (here, there) = pair().unwrap();
        let long = vec![7; 2 * PIECE_BYTES];
        let parts = pieces(&long, &[]);
        send(here.as_fd(), &parts[1]).unwrap();
        send_all(here.as_fd(), b"next", &[]).unwrap();
        let message = Reader::default().wait(there.as_fd()).unwrap().unwrap();
        assert_eq!(message.bytes, b"next");
        let flags = |piece: &Piece<'_>| piece.flags;
        assert_eq!(parts.iter().map(flags).collect::<Vec<_>>(), [FIRST, LAST]);
    }
}
