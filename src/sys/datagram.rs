//! UDP sockets: a listener's group, bound completely and in worker order, and the connected socket of a flow or a check.
//! Plain calls that never block; errors carry the kernel's errno only.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::option::set_integer;

/// Room for datagrams that arrive while a worker is busy elsewhere; the kernel cuts it to net.core.rmem_max.
const RECEIVE_BYTES: usize = 4 * 1024 * 1024;

/// Binds `sockets` sockets to one address, a SO_REUSEPORT group in the order returned: the kernel keeps a client on the
/// same one as long as the group stays as it is. With port 0 the kernel chooses one port for all. Sockets on a wildcard
/// address tell to which address a datagram came.
///
/// # Errors
/// The kernel's: `AddrInUse`, also where another process of the same user has a group there; `PermissionDenied`,
/// `AddrNotAvailable`, or no descriptor left. Nothing stays bound then.
pub fn listen_udp(address: SocketAddr, sockets: usize, freebind: bool) -> io::Result<Vec<OwnedFd>> {
    let mut group = Vec::with_capacity(sockets);
    let first = unbound(address, freebind)?;
    first.bind(&address.into())?;
    // Only after the bind: set before, it would let this bind join a stranger's group.
    if sockets > 1 {
        first.set_reuse_port(true)?;
    }
    let bound = first.local_addr()?;
    group.push(first.into());
    while group.len() < sockets {
        let next = unbound(address, freebind)?;
        next.set_reuse_port(true)?;
        next.bind(&bound)?;
        group.push(next.into());
    }
    Ok(group)
}

fn unbound(address: SocketAddr, freebind: bool) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new_raw(domain, kind, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if freebind {
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
    }
    prepare(socket.as_fd(), address)?;
    Ok(socket)
}

fn prepare(socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    if address.ip().is_unspecified() {
        let (level, option) = match address {
            SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_PKTINFO),
            SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_RECVPKTINFO),
        };
        set_integer(socket, level, option, 1)?;
    }
    make_roomy(socket);
    // A listener's queue is all its clients'. Where the system allows it (CAP_NET_ADMIN), net.core.rmem_max does not count.
    let _ = set_integer(
        socket,
        libc::SOL_SOCKET,
        libc::SO_RCVBUFFORCE,
        RECEIVE_BYTES as libc::c_int,
    );
    Ok(())
}

/// Makes a bound socket that somebody else has opened like one of ours.
///
/// # Errors
/// The kernel's.
pub fn adopt_udp(socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    SockRef::from(&socket).set_nonblocking(true)?;
    prepare(socket, address)
}

/// As much room for what arrives as the kernel gives, and several datagrams at a time. Less of either still serves.
pub fn make_roomy(socket: BorrowedFd<'_>) {
    let _ = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BYTES);
    accept_aggregates(socket);
}

/// Datagrams that may lie unread in a socket for which [`reconnect`] is asked.
const UNREAD_MAX: usize = 64;

/// UDP_GRO: datagrams of one size that arrived together are received together. A kernel without it hands them over
/// singly.
pub fn accept_aggregates(socket: BorrowedFd<'_>) {
    let _ = set_integer(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
}

/// A non-blocking UDP socket connected to `address`: only its datagrams arrive, and what its host says about a closed
/// port is an error of this socket. With `source`, bound to that local address.
///
/// # Errors
/// The kernel's: no descriptor left, no route, the source address is not ours or of the other family.
pub fn outbound(address: SocketAddr, source: Option<IpAddr>) -> io::Result<OwnedFd> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let domain = Domain::for_address(address);
    let socket = Socket::new_raw(domain, kind, Some(Protocol::UDP))?;
    if let Some(source) = source {
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    socket.connect(&SockAddr::from(address))?;
    Ok(socket.into())
}

/// Datagrams that the kernel has thrown away so far because nobody had read those before them. It wraps around.
///
/// # Errors
/// None that the kernel documents for this call.
pub fn overruns(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // SK_MEMINFO_DROPS is the last of SK_MEMINFO_VARS numbers (linux/sock_diag.h).
    let mut numbers = [0_u32; 9];
    let mut length = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: the numbers are writable, and their size is passed.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match answer {
        0 => Ok(numbers[8]),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes peer and port from a socket that [`outbound`] made without a source: from now on nothing arrives there.
///
/// # Errors
/// None that the kernel documents for this call.
pub fn disconnect(socket: BorrowedFd<'_>) -> io::Result<()> {
    let nobody = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let length = size_of_val(&nobody) as libc::socklen_t;
    // SAFETY: the address is a local that outlives the call, and the length given is its own.
    let answer = unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, length) };
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives a disconnected socket a new peer, and a port that the kernel draws anew. What an earlier peer left unread is
/// thrown away before.
///
/// # Errors
/// The kernel's: no free port, no route; `InvalidData` if there is more left than is worth throwing away.
pub fn reconnect(socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    for _ in 0..UNREAD_MAX {
        // SAFETY: no byte may be written to the buffer, which has none.
        let answer = unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), 0, flags) };
        // Another error than an empty queue is one that the earlier peer's host sent, and is gone by being told.
        if answer < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock {
            return socket2::SockRef::from(&socket).connect(&SockAddr::from(address));
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}
