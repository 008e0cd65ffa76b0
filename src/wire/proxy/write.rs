//! Writes headers, into an array of its own: no allocation for a connection that is announced.

use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::super::crc32c::crc32c;
use super::{Endpoints, Transport, Version, WRITTEN_BYTES_MAX, v2};

/// A header to be sent before anything else.
#[derive(Clone, Copy)]
pub struct Announcement {
    bytes: [u8; WRITTEN_BYTES_MAX],
    length: usize,
}

impl std::fmt::Debug for Announcement {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}", self.as_bytes().escape_ascii())
    }
}

impl Announcement {
    fn new() -> Announcement {
        Announcement {
            bytes: [0; WRITTEN_BYTES_MAX],
            length: 0,
        }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The array is as long as the longest header, so nothing is ever cut.
    fn add(&mut self, bytes: &[u8]) {
        let room = &mut self.bytes[self.length..];
        debug_assert!(bytes.len() <= room.len(), "longer than the longest header");
        for (place, byte) in room.iter_mut().zip(bytes) {
            *place = *byte;
            self.length += 1;
        }
    }
}

/// A connection of the sender's own, such as a check: v1 `UNKNOWN`, v2 LOCAL.
#[must_use]
pub fn local(version: Version) -> Announcement {
    announce(
        version,
        Transport::Unspecified,
        Endpoints::Connection,
        false,
    )
}

/// A connection that is passed on. Version 1 knows TCP over IP only, and calls all else `UNKNOWN`; `checksum` adds a
/// CRC-32C to version 2.
#[must_use]
pub fn announce(
    version: Version,
    transport: Transport,
    endpoints: Endpoints,
    checksum: bool,
) -> Announcement {
    let endpoints = match endpoints {
        Endpoints::Inet {
            source,
            destination,
        } => same_family(source, destination),
        other => other,
    };
    match version {
        Version::One => write_v1(transport, endpoints),
        Version::Two => write_v2(transport, endpoints, checksum),
    }
}

/// Both addresses must be of one family: plain IPv4 where both are, else both as IPv6.
fn same_family(source: SocketAddr, destination: SocketAddr) -> Endpoints {
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let (from, to) = match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => (from, to),
        _ => (IpAddr::V6(as_v6(from)), IpAddr::V6(as_v6(to))),
    };
    Endpoints::Inet {
        source: SocketAddr::new(from, source.port()),
        destination: SocketAddr::new(to, destination.port()),
    }
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn write_v1(transport: Transport, endpoints: Endpoints) -> Announcement {
    let mut header = Announcement::new();
    let (
        Endpoints::Inet {
            source,
            destination,
        },
        Transport::Stream,
    ) = (endpoints, transport)
    else {
        header.add(b"PROXY UNKNOWN\r\n");
        return header;
    };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let mut room: &mut [u8] = &mut header.bytes;
    let whole = room.len();
    let written = write!(
        room,
        "PROXY {family} {from} {to} {} {}\r\n",
        source.port(),
        destination.port()
    );
    debug_assert!(written.is_ok(), "a line has at most 107 bytes");
    header.length = whole - room.len();
    header
}

fn write_v2(transport: Transport, endpoints: Endpoints, checksum: bool) -> Announcement {
    let (family, addresses) = match endpoints {
        Endpoints::Connection => (0, 0),
        Endpoints::Inet { source, .. } if source.is_ipv4() => (1, v2::INET_BYTES),
        Endpoints::Inet { .. } => (2, v2::INET6_BYTES),
        Endpoints::Unix { .. } => (3, v2::UNIX_BYTES),
    };
    let command = u8::from(endpoints != Endpoints::Connection);
    let transport = match transport {
        Transport::Unspecified => 0,
        Transport::Stream => 1,
        Transport::Datagram => 2,
    };
    let family = if command == 1 {
        family << 4 | transport
    } else {
        0
    };
    let length = addresses + if checksum { 7 } else { 0 };
    let mut header = Announcement::new();
    header.add(&v2::SIGNATURE);
    header.add(&[0x20 | command, family]);
    header.add(&(length as u16).to_be_bytes());
    add_addresses(&mut header, &endpoints);
    if checksum {
        header.add(&[v2::FIELD_CHECKSUM, 0, 4, 0, 0, 0, 0]);
        let sum = crc32c(&[header.as_bytes()]).to_be_bytes();
        header.length -= sum.len();
        header.add(&sum);
    }
    header
}

fn add_addresses(header: &mut Announcement, endpoints: &Endpoints) {
    match endpoints {
        Endpoints::Connection => {}
        Endpoints::Inet {
            source,
            destination,
        } => {
            for ip in [source.ip(), destination.ip()] {
                match ip {
                    IpAddr::V4(ip) => header.add(&ip.octets()),
                    IpAddr::V6(ip) => header.add(&ip.octets()),
                }
            }
            header.add(&source.port().to_be_bytes());
            header.add(&destination.port().to_be_bytes());
        }
        Endpoints::Unix {
            source,
            destination,
        } => {
            header.add(source);
            header.add(destination);
        }
    }
}
