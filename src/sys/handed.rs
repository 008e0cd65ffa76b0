//! Sockets that the service manager hands to this process at its start (sd_listen_fds(3)): those it listens on for us, and
//! those it kept of a process before. Takes them once, and tells what each one is.
//!
//! It does not decide whose they are; the office does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{SockRef, Type};

use crate::ids::Address;

/// One descriptor with the name that the service manager gave it.
#[derive(Debug)]
pub struct Handed {
    pub name: String,
    pub descriptor: OwnedFd,
}

/// What a socket is, as far as a listener needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub address: Address,
    pub is_udp: bool,
    /// SO_REUSEPORT: others may join its group.
    pub shares_port: bool,
    /// An IPv6 socket that takes IPv4 clients, too.
    pub takes_both_families: bool,
}

/// What `$LISTEN_FDS` and `$LISTEN_FDNAMES` announce, if they are meant for this process. The second call finds nothing.
/// Call it before anything else has opened a descriptor: it believes the environment.
///
/// # Errors
/// The environment announces what is not there, or contradicts itself.
pub fn take_handed() -> io::Result<Vec<Handed>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let announced = sd_notify::listen_fds_with_names()?;
    let handed = announced.map(|(raw, name)| Handed {
        name,
        // SAFETY: the library found the descriptor open, the environment (checked against our process id) says that it
        // was opened for us, and the flag above keeps anybody from owning it twice.
        descriptor: unsafe { OwnedFd::from_raw_fd(raw) },
    });
    Ok(handed.collect())
}

/// What a socket is; `None` if it is not one that clients can reach: not listening, not bound, of another kind.
#[must_use]
pub fn shape_of(descriptor: BorrowedFd<'_>) -> Option<Shape> {
    let socket = SockRef::from(&descriptor);
    let kind = socket.r#type().ok()?;
    let local = socket.local_addr().ok()?;
    let address = match local.as_socket() {
        Some(inet) if inet.port() != 0 => Address::Inet(inet),
        Some(_) => return None,
        None => Address::Unix(PathBuf::from(local.as_pathname()?)),
    };
    let is_udp = kind == Type::DGRAM && address.inet().is_some();
    let is_listening = kind == Type::STREAM && socket.is_listener().unwrap_or(false);
    let is_ipv6 = address.inet().is_some_and(|inet| inet.is_ipv6());
    (is_udp || is_listening).then(|| Shape {
        is_udp,
        shares_port: address.inet().is_some() && socket.reuse_port().unwrap_or(false),
        takes_both_families: is_ipv6 && !socket.only_v6().unwrap_or(false),
        address,
    })
}

/// The inode of a socket, by which the kernel lists it in /proc.
///
/// # Errors
/// The kernel's.
pub fn inode_of(descriptor: BorrowedFd<'_>) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::File::from(descriptor.try_clone_to_owned()?);
    Ok(file.metadata()?.ino())
}

/// Whether clients that open `path` reach this listening unix socket: its file is there, and no other socket that listens
/// was bound to the same path later.
///
/// # Errors
/// The kernel's list of unix sockets cannot be read.
pub fn is_reached_at(listener: BorrowedFd<'_>, path: &std::path::Path) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return Ok(false);
    }
    let list = std::fs::read("/proc/net/unix")?;
    let listening = inodes_listening_at(&String::from_utf8_lossy(&list), &path.to_string_lossy());
    Ok(listening == [inode_of(listener.as_fd())?])
}

/// Fields: address, references, protocol, flags, type, state, inode, path.
fn inodes_listening_at(list: &str, path: &str) -> Vec<u64> {
    const ACCEPTS: u32 = 0x1_0000;
    let sockets = list.lines().filter_map(|line| {
        let own = line.strip_suffix(path)?.strip_suffix(' ')?;
        let mut fields = own.split_whitespace();
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let inode = fields.nth(2)?.parse().ok()?;
        (flags & ACCEPTS != 0 && fields.next().is_none()).then_some(inode)
    });
    sockets.collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_is_what_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shape = shape_of(listener.as_fd()).unwrap();
        assert_eq!(shape.address, Address::Inet(address));
        assert!(!shape.is_udp && !shape.shares_port && !shape.takes_both_families);
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(shape_of(client.as_fd()), None, "it does not listen");
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(shape_of(udp.as_fd()).unwrap().is_udp);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(shape_of(file.as_fd()), None);
        if let Ok(both) = TcpListener::bind("[::]:0") {
            assert!(shape_of(both.as_fd()).unwrap().takes_both_families);
        }
    }

    #[test]
    fn a_unix_socket_is_reached_until_its_file_goes_or_another_takes_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b.sock");
        let first = UnixListener::bind(&path).unwrap();
        assert!(is_reached_at(first.as_fd(), &path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!is_reached_at(first.as_fd(), &path).unwrap());
        let second = UnixListener::bind(&path).unwrap();
        assert!(!is_reached_at(first.as_fd(), &path).unwrap());
        drop(first);
        assert!(is_reached_at(second.as_fd(), &path).unwrap());
    }

    #[test]
    fn the_kernels_list_is_read_by_its_columns() {
        let list = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                    ffff: 00000002 00000000 00010000 0001 01 17 /run/a b.sock\n\
                    ffff: 00000003 00000000 00000000 0001 03 18 /run/a b.sock\n\
                    ffff: 00000002 00000000 00010000 0001 01   19 /run/c\n";
        assert_eq!(inodes_listening_at(list, "/run/a b.sock"), [17]);
        assert_eq!(inodes_listening_at(list, "/run/c"), [19]);
        assert_eq!(inodes_listening_at(list, "b.sock"), Vec::<u64>::new());
    }
}
