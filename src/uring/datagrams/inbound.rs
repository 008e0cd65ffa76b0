//! Reading what a multishot recvmsg left in a buffer: a header of the kernel's, then name, control data and payload, each
//! at a fixed place. Everything read is checked against the bytes that are there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// struct io_uring_recvmsg_out: name length, control length, payload length, flags; 32 bits each.
const HEADER_BYTES: usize = 16;
/// Room for a sockaddr_in6.
const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();
/// Room for a segment size and an address of ours.
const CONTROL_BYTES: usize = 64;
/// Where the payload begins.
pub(super) const PAYLOAD_AT: usize = HEADER_BYTES + NAME_BYTES + CONTROL_BYTES;
const CONTROL_HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

/// The layout that a receive asks for. The kernel reads it when the receive is submitted.
pub(super) fn layout() -> libc::msghdr {
    // SAFETY: all zeroes is a valid msghdr: null pointers and lengths of nothing.
    let mut layout: libc::msghdr = unsafe { std::mem::zeroed() };
    layout.msg_namelen = NAME_BYTES as libc::socklen_t;
    layout.msg_controllen = CONTROL_BYTES;
    layout
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    /// `None` on a connected socket.
    pub(super) from: Option<SocketAddr>,
    pub(super) local: Option<IpAddr>,
    pub(super) payload_bytes: u32,
    /// Size of each datagram but the last, where several came together.
    pub(super) segment: Option<u32>,
    pub(super) truncated: bool,
}

/// Reads a buffer into which `filled` bytes were received; `None` if it is not as the kernel writes it.
pub(super) fn read(buffer: &[u8], filled: usize) -> Option<Received> {
    let buffer = buffer.get(..filled)?;
    let word = |at: usize| Some(u32::from_ne_bytes(*buffer.get(at..)?.first_chunk()?));
    let (name_length, control_length) = (word(0)? as usize, word(4)? as usize);
    let (payload_length, flags) = (word(8)?, word(12)?);
    let name = buffer.get(HEADER_BYTES..HEADER_BYTES + NAME_BYTES)?;
    let control = buffer.get(HEADER_BYTES + NAME_BYTES..PAYLOAD_AT)?;
    let here = u32::try_from(filled - PAYLOAD_AT).ok()?;
    let mut received = Received {
        from: address(name.get(..name_length.min(NAME_BYTES))?),
        local: None,
        payload_bytes: payload_length.min(here),
        segment: None,
        truncated: payload_length > here || flags & libc::MSG_TRUNC as u32 != 0,
    };
    read_control(
        control.get(..control_length.min(CONTROL_BYTES))?,
        &mut received,
    );
    Some(received)
}

fn address(name: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*name.first_chunk()?));
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    match family {
        libc::AF_INET => {
            let octets: [u8; 4] = *name.get(4..)?.first_chunk()?;
            Some(SocketAddr::new(IpAddr::from(octets), port))
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = *name.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, scope).into())
        }
        _ => None,
    }
}

fn read_control(mut control: &[u8], received: &mut Received) {
    while let Some((message, rest)) = next_message(control) {
        control = rest;
        let Message { level, kind, data } = message;
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let size = data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
                received.segment = size.and_then(|size| u32::try_from(size).ok());
            }
            // struct in_pktinfo: interface, our address for the route, the header's destination.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let octets: Option<&[u8; 4]> = data.get(8..).and_then(<[u8]>::first_chunk);
                received.local = octets.map(|octets| Ipv4Addr::from(*octets).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets: Option<&[u8; 16]> = data.first_chunk();
                received.local = octets.map(|octets| Ipv6Addr::from(*octets).into());
            }
            _ => {}
        }
    }
}

struct Message<'a> {
    level: i32,
    kind: i32,
    data: &'a [u8],
}

fn next_message(control: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = usize::from_ne_bytes(*control.first_chunk()?);
    let level = i32::from_ne_bytes(*control.get(8..)?.first_chunk()?);
    let kind = i32::from_ne_bytes(*control.get(12..)?.first_chunk()?);
    let data = control.get(CONTROL_HEADER_BYTES..length)?;
    let next = length.next_multiple_of(size_of::<usize>());
    let rest = control.get(next..).unwrap_or_default();
    Some((Message { level, kind, data }, rest))
}
