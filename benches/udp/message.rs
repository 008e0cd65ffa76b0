//! Datagrams with what the standard library lacks: from an address of our choice, many joined in one send, received
//! joined. The only file of this bench with `unsafe` besides the stand's.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use socket2::SockRef;

const ROOM: usize = 4 << 20;

/// As much room as the system gives, so that nothing is lost here.
pub fn roomy(socket: &UdpSocket) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_recv_buffer_size(ROOM)?;
    socket.set_send_buffer_size(ROOM)
}

/// Datagrams of one size that arrived together may be received together.
pub fn receive_joined(socket: &UdpSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option is an integer that is alive for the call, and its size is passed.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends with one control message.
fn send_with(
    socket: &UdpSocket,
    bytes: &[u8],
    to: Option<SocketAddrV4>,
    (level, kind): (i32, i32),
    data: &[u8],
) -> io::Result<()> {
    let mut control = Control([0; 64]);
    let header = size_of::<libc::cmsghdr>();
    let length = header + data.len();
    control.0[..8].copy_from_slice(&length.to_ne_bytes());
    control.0[8..12].copy_from_slice(&level.to_ne_bytes());
    control.0[12..16].copy_from_slice(&kind.to_ne_bytes());
    control.0[header..length].copy_from_slice(data);
    let mut vector = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut name = to.map(|to| libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*to.ip()).to_be(),
        },
        sin_zero: [0; 8],
    });
    // SAFETY: all zeroes is a valid msghdr: null pointers and lengths of nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    if let Some(name) = &mut name {
        message.msg_name = std::ptr::from_mut(name).cast();
        message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    }
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = length.next_multiple_of(8);
    // SAFETY: all that the header points at is alive for the call, with the lengths given.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sends from `source`, one of this machine's addresses, through a socket that is bound to all of them.
pub fn send_from(
    socket: &UdpSocket,
    source: Ipv4Addr,
    to: SocketAddrV4,
    bytes: &[u8],
) -> io::Result<()> {
    // struct in_pktinfo: interface, the address to leave from, the header's destination.
    let mut data = [0; 12];
    data[4..8].copy_from_slice(&source.octets());
    send_with(
        socket,
        bytes,
        Some(to),
        (libc::IPPROTO_IP, libc::IP_PKTINFO),
        &data,
    )
}

/// Sends datagrams of `size` bytes each in one call, over a connected socket.
pub fn send_joined(socket: &UdpSocket, bytes: &[u8], size: u16) -> io::Result<()> {
    let kind = (libc::SOL_UDP, libc::UDP_SEGMENT);
    send_with(socket, bytes, None, kind, &size.to_ne_bytes())
}
