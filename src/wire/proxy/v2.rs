//! Version 2: twelve fixed bytes, version and command, family and transport, a length, addresses, and behind them fields
//! of type, length and value (TLVs). Of the fields only the checksum matters here; all must fit in.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::crc32c::crc32c;
use super::{Endpoints, Flaw, HEADER_BYTES_MAX, Header, Parsed, Transport, UnixName};

pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
pub(super) const FIXED_BYTES: usize = 16;
pub(super) const INET_BYTES: usize = 12;
pub(super) const INET6_BYTES: usize = 36;
pub(super) const UNIX_BYTES: usize = 216;
/// PP2_TYPE_CRC32C.
pub(super) const FIELD_CHECKSUM: u8 = 0x03;

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] != SIGNATURE[..common] {
        return Parsed::Invalid(Flaw::Signature);
    }
    if let Some(&version_and_command) = bytes.get(12) {
        if version_and_command >> 4 != 2 {
            return Parsed::Invalid(Flaw::Version);
        }
        if version_and_command & 15 > 1 {
            return Parsed::Invalid(Flaw::Command);
        }
    }
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else {
        return Parsed::More(FIXED_BYTES);
    };
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > HEADER_BYTES_MAX {
        return Parsed::Invalid(Flaw::Length);
    }
    let local = fixed[12] & 15 == 0;
    let addresses = match (local, fixed[13] >> 4, fixed[13] & 15) {
        // The sender's own connection: family, addresses and all are to be skipped.
        (true, _, _) => None,
        (false, 0..=3, 3..) | (false, 4.., _) => return Parsed::Invalid(Flaw::Family),
        (false, 0, _) => None,
        (false, 1, _) => Some(INET_BYTES),
        (false, 2, _) => Some(INET6_BYTES),
        (false, _, _) => Some(UNIX_BYTES),
    };
    if addresses.is_some_and(|addresses| length < FIXED_BYTES + addresses) {
        return Parsed::Invalid(Flaw::Length);
    }
    let Some(header) = bytes.get(..length) else {
        return Parsed::More(length);
    };
    let Some(addresses) = addresses else {
        return Parsed::Header(Header {
            length,
            transport: Transport::Unspecified,
            endpoints: Endpoints::Connection,
        });
    };
    let fields = FIXED_BYTES + addresses;
    if let Err(flaw) = check_fields(header, fields) {
        return Parsed::Invalid(flaw);
    }
    Parsed::Header(Header {
        length,
        transport: match fixed[13] & 15 {
            1 => Transport::Stream,
            2 => Transport::Datagram,
            _ => Transport::Unspecified,
        },
        endpoints: read_addresses(&header[FIXED_BYTES..fields]),
    })
}

/// By their length: there are three.
fn read_addresses(block: &[u8]) -> Endpoints {
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    match block.len() {
        INET_BYTES => {
            let ip = |at: usize| Ipv4Addr::from(chunk::<4>(block, at));
            Endpoints::Inet {
                source: SocketAddr::from((ip(0), port(8))),
                destination: SocketAddr::from((ip(4), port(10))),
            }
        }
        INET6_BYTES => {
            let ip = |at: usize| Ipv6Addr::from(chunk::<16>(block, at));
            Endpoints::Inet {
                source: SocketAddr::from((ip(0), port(32))),
                destination: SocketAddr::from((ip(16), port(34))),
            }
        }
        _ => Endpoints::Unix {
            source: chunk::<{ size_of::<UnixName>() }>(block, 0),
            destination: chunk::<{ size_of::<UnixName>() }>(block, 108),
        },
    }
}

/// `N` bytes from `at` on, zeros where there are none.
fn chunk<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    for (byte, found) in bytes.iter_mut().zip(block.iter().skip(at)) {
        *byte = *found;
    }
    bytes
}

/// Every field fits in, and the checksum, where there is one, is that of the header.
fn check_fields(header: &[u8], from: usize) -> Result<(), Flaw> {
    let mut at = from;
    let mut checksum_at = None;
    while at < header.len() {
        let [kind, high, low, ..] = header[at..] else {
            return Err(Flaw::Field);
        };
        let value = at + 3;
        let end = value + usize::from(u16::from_be_bytes([high, low]));
        if end > header.len() {
            return Err(Flaw::Field);
        }
        if kind == FIELD_CHECKSUM && (end - value != 4 || checksum_at.replace(value).is_some()) {
            return Err(Flaw::Field);
        }
        at = end;
    }
    let Some(at) = checksum_at else {
        return Ok(());
    };
    let (before, rest) = header.split_at(at);
    let (told, after) = rest.split_at(4);
    if crc32c(&[before, &[0; 4], after]).to_be_bytes() == told {
        Ok(())
    } else {
        Err(Flaw::Checksum)
    }
}
