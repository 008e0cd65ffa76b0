//! Tools for one connected or connecting stream socket, all plain calls that never block. The caller keeps the
//! descriptor; nothing here closes one.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::ids::Address;

use super::option::{self, Keepalive};
use super::tcp_state;

/// A non-blocking stream socket that fits `address`, not connected yet. With `source`, bound to that local address; the
/// port is then left to the connect (IP_BIND_ADDRESS_NO_PORT), which knows the destination and can give one local port
/// to many backends.
///
/// # Errors
/// The kernel's: no descriptor left, the source address is not ours (`AddrNotAvailable`) or of the other family.
pub fn outbound(address: &Address, source: Option<IpAddr>) -> io::Result<OwnedFd> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let Address::Inet(target) = address else {
        return Ok(Socket::new_raw(Domain::UNIX, kind, None)?.into());
    };
    let domain = Domain::for_address(*target);
    let socket = Socket::new_raw(domain, kind, Some(Protocol::TCP))?;
    if let Some(source) = source {
        option::set_integer(
            socket.as_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            1,
        )?;
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    Ok(socket.into())
}

/// Sends what the socket takes now, without waiting and without a signal; returns how many bytes.
///
/// # Errors
/// `WouldBlock` if the socket is full; else its own error.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<u32> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    SockRef::from(&socket)
        .send_with_flags(bytes, flags)
        .map(|sent| sent as u32)
}

/// Looks at what could be received now, without waiting and without taking it; 0 bytes is the end of stream.
///
/// # Errors
/// `WouldBlock` if there is nothing; else what broke the socket, which is taken from it.
pub fn peek(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes at most `bytes.len()` bytes, into the slice that the pointer is to.
    let count = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            bytes.as_mut_ptr().cast(),
            bytes.len(),
            flags,
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Takes bytes that can be received now, as many as are there and have room; 0 is the end of stream.
///
/// # Errors
/// As [`peek`].
pub fn take(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `bytes.len()` bytes, into the slice that the pointer is to.
    let count = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            bytes.as_mut_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Whether the peer has ended or broken its stream, whatever of it is still to be read.
#[must_use]
pub fn has_ended(socket: BorrowedFd<'_>) -> bool {
    let mut asked = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one entry is passed, it is a local, and the timeout of 0 keeps the call from waiting.
    let ready = unsafe { libc::poll(&raw mut asked, 1, 0) };
    ready > 0
}

/// TCP_NODELAY on: small messages leave at once.
///
/// # Errors
/// The kernel's; `OPNOTSUPP` for a unix socket.
pub fn set_nodelay(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_nodelay(true)
}

/// TCP_QUICKACK off: acknowledgements wait for data to ride on, until the kernel decides otherwise again.
///
/// # Errors
/// The kernel's.
pub fn delay_acknowledgements(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_quickack(false)
}

/// # Errors
/// The kernel's, for values out of its range.
pub fn set_keepalive(socket: BorrowedFd<'_>, keepalive: Option<Keepalive>) -> io::Result<()> {
    option::set_keepalive(socket, keepalive)
}

/// TCP_USER_TIMEOUT in milliseconds; 0 is off.
///
/// # Errors
/// The kernel's.
pub fn set_user_timeout(socket: BorrowedFd<'_>, user_timeout_ms: u32) -> io::Result<()> {
    option::set_user_timeout(socket, user_timeout_ms)
}

/// SO_RCVLOWAT: the socket counts as readable from this many bytes on (or at the end of stream, or when its buffer is
/// full). 1 is the kernel's default.
///
/// # Errors
/// The kernel's.
pub fn set_receive_low_water(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    option::set_integer(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

/// SO_LINGER {1, 0}: closing this socket now sends a reset and drops what is still to be sent.
///
/// # Errors
/// The kernel's.
pub fn set_reset_on_close(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))
}

/// Takes [`set_reset_on_close`] back: closing sends what is left, and FIN.
///
/// # Errors
/// The kernel's.
pub fn set_fin_on_close(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_linger(None)
}

/// Sends FIN after everything written so far; reading goes on.
///
/// # Errors
/// `NotConnected` if the connection is gone.
pub fn shutdown_write(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).shutdown(Shutdown::Write)
}

/// Takes the pending error of a socket (SO_ERROR); it is gone from the socket then.
///
/// # Errors
/// Not the pending one, but of the question itself.
pub fn take_error(socket: BorrowedFd<'_>) -> io::Result<Option<io::Error>> {
    SockRef::from(&socket).take_error()
}

/// Bytes that can be read without waiting, from a socket or a pipe.
///
/// # Errors
/// The kernel's; `InvalidInput` for a listening socket.
pub fn readable_bytes(source: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, into the local that the pointer is to.
    let answer = unsafe { libc::ioctl(source.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Bytes (and a FIN, as one more) that were sent and that the peer has not acknowledged: what closing by reset would drop.
/// 0 for a unix socket, whose bytes are with the peer as soon as they are sent.
///
/// # Errors
/// The kernel's.
pub fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int, into the local that the pointer is to.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    if count > 0 && SockRef::from(&socket).domain()? == Domain::UNIX {
        return Ok(0);
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

/// The other end's address; `None` for a unix socket.
///
/// # Errors
/// `NotConnected` if the connection is gone.
pub fn peer_address(socket: BorrowedFd<'_>) -> io::Result<Option<SocketAddr>> {
    Ok(SockRef::from(&socket).peer_addr()?.as_socket())
}

/// This end's address; `None` for a unix socket.
///
/// # Errors
/// The kernel's.
pub fn local_address(socket: BorrowedFd<'_>) -> io::Result<Option<SocketAddr>> {
    Ok(SockRef::from(&socket).local_addr()?.as_socket())
}

/// What the kernel measured on a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round trip time.
    pub rtt_us: u32,
    /// Segments sent again over the connection's life.
    pub retransmits: u32,
    /// Segments sent and not acknowledged yet.
    pub unacknowledged: u32,
}

/// # Errors
/// The kernel's; `OPNOTSUPP` for a unix socket.
pub fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let found = tcp_state::tcp_info(socket)?;
    Ok(TcpInfo {
        rtt_us: found.tcpi_rtt,
        retransmits: found.tcpi_total_retrans,
        unacknowledged: found.tcpi_unacked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        for stream in [&one, &other] {
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
        }
        (one, other)
    }

    /// Asks until `condition` holds; fails after ten seconds.
    fn within_ten_seconds(mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
    }

    fn connect(socket: &OwnedFd, address: SocketAddr) {
        let socket = SockRef::from(socket);
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            other => other.unwrap(),
        }
        within_ten_seconds(|| socket.peer_addr().is_ok());
    }

    #[test]
    fn reset_on_close_is_a_reset_for_the_peer() {
        let (ours, mut theirs) = pair();
        set_reset_on_close(ours.as_fd()).unwrap();
        drop(ours);
        let error = theirs.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn the_pending_error_is_taken_once() {
        let (ours, theirs) = pair();
        assert!(take_error(ours.as_fd()).unwrap().is_none());
        set_reset_on_close(theirs.as_fd()).unwrap();
        drop(theirs);
        let mut taken = None;
        within_ten_seconds(|| {
            taken = take_error(ours.as_fd()).unwrap();
            taken.is_some()
        });
        assert_eq!(taken.unwrap().kind(), ErrorKind::ConnectionReset);
        assert!(take_error(ours.as_fd()).unwrap().is_none());
    }

    #[test]
    fn what_is_peeked_at_stays() {
        let (mut ours, mut theirs) = pair();
        let mut first = [0; 2];
        let nothing = peek(ours.as_fd(), &mut first).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        theirs.write_all(b"abc").unwrap();
        within_ten_seconds(|| peek(ours.as_fd(), &mut first).is_ok());
        assert_eq!(&first, b"ab");
        let mut all = [0; 3];
        ours.read_exact(&mut all).unwrap();
        assert_eq!(&all, b"abc");
        drop(theirs);
        within_ten_seconds(|| peek(ours.as_fd(), &mut first).is_ok_and(|count| count == 0));
    }

    #[test]
    fn after_shutdown_the_other_direction_goes_on() {
        let (mut ours, mut theirs) = pair();
        shutdown_write(ours.as_fd()).unwrap();
        assert_eq!(theirs.read(&mut [0; 8]).unwrap(), 0);
        theirs.write_all(b"still here").unwrap();
        within_ten_seconds(|| readable_bytes(ours.as_fd()).unwrap() == 10);
        let mut text = [0; 10];
        ours.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"still here");
        assert_eq!(readable_bytes(ours.as_fd()).unwrap(), 0);
    }

    #[test]
    fn options_reach_the_socket() {
        let (ours, theirs) = pair();
        let socket = SockRef::from(&ours);
        set_nodelay(ours.as_fd()).unwrap();
        assert!(socket.tcp_nodelay().unwrap());
        delay_acknowledgements(ours.as_fd()).unwrap();
        assert!(!socket.tcp_quickack().unwrap());
        let keepalive = Keepalive {
            idle_s: 7,
            interval_s: 5,
            count: 2,
        };
        set_keepalive(ours.as_fd(), Some(keepalive)).unwrap();
        assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), 7);
        assert_eq!(socket.tcp_keepalive_interval().unwrap().as_secs(), 5);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 2);
        set_keepalive(ours.as_fd(), None).unwrap();
        assert!(!socket.keepalive().unwrap());
        set_user_timeout(ours.as_fd(), 9_000).unwrap();
        assert_eq!(socket.tcp_user_timeout().unwrap().unwrap().as_secs(), 9);
        let told = peer_address(ours.as_fd()).unwrap().unwrap();
        assert_eq!(told, theirs.local_addr().unwrap());
        let told = local_address(ours.as_fd()).unwrap().unwrap();
        assert_eq!(told, theirs.peer_addr().unwrap());
    }

    /// Whether a poll for reading would be answered at once.
    fn is_readable(socket: &TcpStream) -> bool {
        let mut ask = libc::pollfd {
            fd: socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, a local that outlives the call, which does not wait.
        unsafe { libc::poll(&raw mut ask, 1, 0) == 1 }
    }

    #[test]
    fn below_the_low_water_mark_a_socket_is_not_readable() {
        let (ours, mut theirs) = pair();
        set_receive_low_water(ours.as_fd(), 100).unwrap();
        theirs.write_all(&[1; 99]).unwrap();
        within_ten_seconds(|| readable_bytes(ours.as_fd()).unwrap() == 99);
        assert!(!is_readable(&ours));
        theirs.write_all(&[1; 1]).unwrap();
        within_ten_seconds(|| is_readable(&ours));
        set_receive_low_water(ours.as_fd(), 200).unwrap();
        assert!(!is_readable(&ours));
        shutdown_write(theirs.as_fd()).unwrap();
        within_ten_seconds(|| is_readable(&ours));
    }

    #[test]
    fn the_kernel_tells_of_a_connection() {
        let (mut ours, mut theirs) = pair();
        ours.write_all(b"ping").unwrap();
        theirs.read_exact(&mut [0; 4]).unwrap();
        within_ten_seconds(|| tcp_info(ours.as_fd()).unwrap().unacknowledged == 0);
        let found = tcp_info(ours.as_fd()).unwrap();
        assert!(found.rtt_us > 0 && found.rtt_us < 1_000_000, "{found:?}");
        assert_eq!(found.retransmits, 0);
    }

    #[test]
    fn outbound_sockets_come_from_the_source_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let source = IpAddr::from([127, 0, 0, 9]);
        let socket = outbound(&Address::Inet(target), Some(source)).unwrap();
        // No port is taken before the connect.
        assert_eq!(local_address(socket.as_fd()).unwrap().unwrap().port(), 0);
        connect(&socket, target);
        let (_, client) = listener.accept().unwrap();
        assert_eq!(client.ip(), source);
        assert!(SockRef::from(&socket).nonblocking().unwrap());

        let stranger = IpAddr::from([192, 0, 2, 77]);
        let error = outbound(&Address::Inet(target), Some(stranger)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        let other_family = IpAddr::from(std::net::Ipv6Addr::LOCALHOST);
        outbound(&Address::Inet(target), Some(other_family)).unwrap_err();
    }

    #[test]
    fn outbound_reaches_ipv6_and_unix() {
        if let Ok(listener) = TcpListener::bind("[::1]:0") {
            let target = listener.local_addr().unwrap();
            let source = IpAddr::from(std::net::Ipv6Addr::LOCALHOST);
            connect(
                &outbound(&Address::Inet(target), Some(source)).unwrap(),
                target,
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let socket = outbound(&Address::Unix(path.clone()), None).unwrap();
        SockRef::from(&socket)
            .connect(&SockAddr::unix(&path).unwrap())
            .unwrap();
        assert_eq!(peer_address(socket.as_fd()).unwrap(), None);
        assert_eq!(local_address(socket.as_fd()).unwrap(), None);
    }
}
