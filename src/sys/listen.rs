//! Listening sockets: bound, listening, non-blocking, with the options that accepted sockets inherit from them (Linux
//! copies TCP_NODELAY, keepalive and user timeout to each new connection, which saves system calls per client).
//!
//! Errors carry the kernel's errno only; the caller knows the address and says it.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::option::{Keepalive, set_keepalive, set_user_timeout};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted, per socket; the kernel cuts it to net.core.somaxconn.
    pub backlog: u32,
    /// Bind before the address exists on this machine.
    pub freebind: bool,
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT; 0 is off.
    pub user_timeout_ms: u32,
}

/// Binds `sockets` listeners to one address; more than one become a SO_REUSEPORT group, in the order returned. With port
/// 0 the kernel chooses one port for all of them. An IPv6 address takes no IPv4 clients.
///
/// The address must be free: a SO_REUSEPORT group of another process of the same user is refused, too, instead of being
/// joined silently.
///
/// # Errors
/// The kernel's: `AddrInUse`, `PermissionDenied` (a port below ip_unprivileged_port_start), `AddrNotAvailable`, or no
/// descriptor left. Nothing stays bound then.
pub fn listen_tcp(
    address: SocketAddr,
    sockets: usize,
    options: &ListenOptions,
) -> io::Result<Vec<OwnedFd>> {
    let mut group = Vec::with_capacity(sockets);
    let first = unbound(address, options.freebind)?;
    first.bind(&address.into())?;
    // Only after the bind: with SO_REUSEPORT set before, this bind would succeed beside a stranger's group.
    if sockets > 1 {
        first.set_reuse_port(true)?;
    }
    // What the kernel chose for port 0 counts for the rest.
    let bound = first.local_addr()?;
    group.push(listening(first, options)?);
    while group.len() < sockets {
        group.push(join_tcp(&bound, options)?);
    }
    Ok(group)
}

/// One more listener for the SO_REUSEPORT group at `bound`. All of a group must belong to the same user.
///
/// # Errors
/// The kernel's; `AddrInUse` where the group is of another user, or does not share its port.
pub fn join_tcp(bound: &SockAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    let address = bound.as_socket().ok_or(ErrorKind::InvalidInput)?;
    let next = unbound(address, options.freebind)?;
    next.set_reuse_port(true)?;
    next.bind(bound)?;
    listening(next, options)
}

/// Makes a listening socket that somebody else has opened like one of ours.
///
/// # Errors
/// The kernel's.
pub fn adopt_tcp(listener: BorrowedFd<'_>, options: &ListenOptions) -> io::Result<()> {
    SockRef::from(&listener).set_nonblocking(true)?;
    apply_listen_options(listener, options)
}

/// The same for a unix listener.
///
/// # Errors
/// The kernel's.
pub fn adopt_unix(listener: BorrowedFd<'_>, backlog_length: u32) -> io::Result<()> {
    SockRef::from(&listener).set_nonblocking(true)?;
    apply_unix_backlog(listener, backlog_length)
}

/// Sets what accepted sockets inherit, and the backlog, on a socket that listens already. Connections that wait in its
/// queue keep what they have.
///
/// # Errors
/// The kernel's, for values out of its range.
pub fn apply_listen_options(listener: BorrowedFd<'_>, options: &ListenOptions) -> io::Result<()> {
    let socket = SockRef::from(&listener);
    socket.set_tcp_nodelay(true)?;
    set_keepalive(listener, options.keepalive)?;
    set_user_timeout(listener, options.user_timeout_ms)?;
    // A second listen(2) changes the backlog and nothing else.
    socket.listen(backlog(options.backlog))?;
    // Accepted sockets begin in interactive mode: the acknowledgement of a request rides on its answer instead of
    // travelling alone, which saves a packet per connection. It is a hint: a kernel that refuses it loses nothing else.
    let _ = socket.set_tcp_quickack(false);
    Ok(())
}

/// Binds a unix stream listener, readable and writable as `mode` says. A socket file on which nobody answers is the
/// leftover of a dead process and is replaced; one that answers, or any other kind of file, is left alone.
///
/// # Errors
/// `AddrInUse` if somebody listens there or the file is no socket; else the kernel's.
pub fn listen_unix(path: &Path, backlog_length: u32, mode: u32) -> io::Result<OwnedFd> {
    let socket = Socket::new_raw(Domain::UNIX, stream_type(), None)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_stale(path, &address)? => {
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        other => other?,
    }
    // Nobody can connect before listen(2), so the mode is right before the first client.
    let ready = fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .and_then(|()| socket.listen(backlog(backlog_length)));
    if let Err(error) = ready {
        // The file is ours; failing to remove it is less telling than why we gave up.
        drop(fs::remove_file(path));
        return Err(error);
    }
    Ok(socket.into())
}

/// Changes the backlog of a unix listener.
///
/// # Errors
/// The kernel's.
pub fn apply_unix_backlog(listener: BorrowedFd<'_>, backlog_length: u32) -> io::Result<()> {
    SockRef::from(&listener).listen(backlog(backlog_length))
}

fn unbound(address: SocketAddr, freebind: bool) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new_raw(domain, stream_type(), Some(Protocol::TCP))?;
    // Without it, connections of the last run in TIME_WAIT would keep the address from being bound.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if freebind {
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
    }
    Ok(socket)
}

fn listening(socket: Socket, options: &ListenOptions) -> io::Result<OwnedFd> {
    // Calls listen(2) as its last step, so that no client is accepted without the options.
    apply_listen_options(socket.as_fd(), options)?;
    Ok(socket.into())
}

fn stream_type() -> Type {
    Type::STREAM.nonblocking().cloexec()
}

fn backlog(length: u32) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

fn is_stale(path: &Path, address: &SockAddr) -> io::Result<bool> {
    // Connecting to a plain file is refused as well, hence the look at what it is.
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let probe = Socket::new_raw(Domain::UNIX, stream_type(), None)?;
    match probe.connect(address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        // WouldBlock is a full backlog: somebody lives there.
        _ => Ok(false),
    }
}

/// Takes one connection out of a listener's queue, non-blocking and close-on-exec.
///
/// # Errors
/// `WouldBlock` if the queue is empty; else the kernel's.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null pointers ask for no address; the descriptor is borrowed for the call.
    let raw = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            flags,
        )
    };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: accept4 just returned this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    const OPTIONS: ListenOptions = ListenOptions {
        backlog: 64,
        freebind: false,
        keepalive: Some(Keepalive {
            idle_s: 61,
            interval_s: 11,
            count: 4,
        }),
        user_timeout_ms: 4_321,
    };

    fn any_port(host: &str) -> SocketAddr {
        format!("{host}:0").parse().unwrap()
    }

    fn accept(listener: &OwnedFd) -> Option<TcpStream> {
        let listener = TcpListener::from(listener.try_clone().unwrap());
        match listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn address_of(listener: &OwnedFd) -> SocketAddr {
        SockRef::from(listener)
            .local_addr()
            .unwrap()
            .as_socket()
            .unwrap()
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let group = listen_tcp(any_port("127.0.0.1"), 1, &OPTIONS).unwrap();
        let check = |idle_s: u64, on: bool, user_timeout_ms: u128| {
            let _client = TcpStream::connect(address_of(&group[0])).unwrap();
            let accepted = accept(&group[0]).unwrap();
            let accepted = SockRef::from(&accepted);
            assert!(accepted.tcp_nodelay().unwrap());
            assert_eq!(accepted.keepalive().unwrap(), on);
            let timeout = accepted.tcp_user_timeout().unwrap();
            assert_eq!(timeout.map_or(0, |t| t.as_millis()), user_timeout_ms);
            if on {
                assert_eq!(accepted.tcp_keepalive_time().unwrap().as_secs(), idle_s);
                assert_eq!(accepted.tcp_keepalive_interval().unwrap().as_secs(), 11);
                assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 4);
            }
        };
        check(61, true, 4_321);
        let off = ListenOptions {
            keepalive: None,
            user_timeout_ms: 0,
            ..OPTIONS
        };
        apply_listen_options(group[0].as_fd(), &off).unwrap();
        check(0, false, 0);
        apply_listen_options(group[0].as_fd(), &OPTIONS).unwrap();
        check(61, true, 4_321);
        assert!(SockRef::from(&group[0]).nonblocking().unwrap());
    }

    #[test]
    fn each_socket_of_a_group_gets_clients() {
        let group = listen_tcp(any_port("127.0.0.1"), 4, &OPTIONS).unwrap();
        let ports: HashSet<u16> = group.iter().map(|l| address_of(l).port()).collect();
        assert_eq!(ports.len(), 1);
        // One socket stays without any of 200 clients with probability 4 * 0.75^200 < 1e-24.
        let clients: Vec<_> = (0..200)
            .map(|_| TcpStream::connect(address_of(&group[0])).unwrap())
            .collect();
        let shares: Vec<usize> = group
            .iter()
            .map(|l| std::iter::from_fn(|| accept(l)).count())
            .collect();
        assert!(shares.iter().all(|&share| share > 0), "{shares:?}");
        assert_eq!(shares.iter().sum::<usize>(), clients.len());
    }

    #[test]
    fn an_address_in_use_is_refused_even_if_its_owner_would_share() {
        let theirs = listen_tcp(any_port("127.0.0.1"), 2, &OPTIONS).unwrap();
        for sockets in [1, 2] {
            let error = listen_tcp(address_of(&theirs[0]), sockets, &OPTIONS).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
        }
        let address = address_of(&theirs[0]);
        drop(theirs);
        listen_tcp(address, 2, &OPTIONS).unwrap();
    }

    #[test]
    fn an_ipv6_listener_leaves_ipv4_alone() {
        let six = match listen_tcp(any_port("[::]"), 2, &OPTIONS) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return,
            other => other.unwrap(),
        };
        let port = address_of(&six[0]).port();
        let four = SocketAddr::from(([127, 0, 0, 1], port));
        // Free for IPv4, unless a stranger took this very port meanwhile.
        match listen_tcp(four, 1, &OPTIONS) {
            Ok(_) => {}
            Err(error) => assert!(TcpStream::connect(four).is_ok(), "{error}"),
        }
    }

    #[test]
    fn freebind_binds_what_is_not_there() {
        let absent: SocketAddr = "192.0.2.77:0".parse().unwrap();
        let error = listen_tcp(absent, 1, &OPTIONS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        let freebind = ListenOptions {
            freebind: true,
            ..OPTIONS
        };
        listen_tcp(absent, 2, &freebind).unwrap();
    }

    #[test]
    fn a_leftover_socket_file_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = listen_unix(&path, 16, 0o666).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
        UnixStream::connect(&path).unwrap();
        let error = listen_unix(&path, 16, 0o666).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        apply_unix_backlog(listener.as_fd(), 32).unwrap();
    }

    #[test]
    fn a_plain_file_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "data").unwrap();
        let error = listen_unix(&path, 16, 0o666).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }
}
