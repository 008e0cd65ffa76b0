//! Tools for one datagram socket, plain calls that never block.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

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
