//! The PROXY protocol, versions 1 (a line of text) and 2 (binary): a header before a connection's first byte that tells
//! whose connection it really is (HAProxy's proxy-protocol.txt, 2020/03/05). Reads both, writes both.
//!
//! Whom to believe is not decided here. Called by the worker for clients and backends, and by checks.

mod v1;
mod v2;
mod write;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use write::{Announcement, announce, local};

/// Longer headers are refused: more than any sender has to tell, and what a session may make the kernel keep for it.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;

/// The longest header that is written here: version 2 with unix addresses and a checksum.
pub const WRITTEN_BYTES_MAX: usize = 16 + 216 + 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

/// What a beginning of a stream is.
#[allow(
    clippy::large_enum_variant,
    reason = "an answer, looked at once and never kept"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header so far, but no whole one: it cannot be one with fewer bytes than this in all.
    More(usize),
    Header(Header),
    Invalid(Flaw),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its bytes; the client's own begin behind them.
    pub length: usize,
    pub transport: Transport,
    pub endpoints: Endpoints,
}

/// How the announced client came to the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Unspecified,
    Stream,
    Datagram,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// The sender's own, or nobody's that it could tell (LOCAL, UNKNOWN, UNSPEC): the connection speaks for itself.
    Connection,
    Inet {
        source: SocketAddr,
        destination: SocketAddr,
    },
    Unix {
        source: UnixName,
        destination: UnixName,
    },
}

/// A unix socket's name as the protocol carries it: filled up with zeros.
pub type UnixName = [u8; 108];

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// No PROXY header begins like this.
    Signature,
    Version,
    Command,
    Family,
    /// The line is not as the protocol has it: spaces, words, its end.
    Line,
    Address,
    Port,
    /// Longer than allowed, or too short for its addresses.
    Length,
    /// A field behind the addresses does not fit in, or is not what its type says.
    Field,
    Checksum,
}

/// Reads a header at the beginning of `bytes`, which may be cut anywhere and may go on behind it.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    match bytes.first() {
        None => Parsed::More(1),
        Some(b'P') => v1::parse(bytes),
        Some(&first) if first == v2::SIGNATURE[0] => v2::parse(bytes),
        Some(_) => Parsed::Invalid(Flaw::Signature),
    }
}
