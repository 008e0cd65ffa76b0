//! Where something listens: an internet address or a unix socket's path.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::SocketId;

/// An address that can be bound or connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Inet(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    #[must_use]
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Address::Inet(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }
}

/// As written in the configuration: `127.0.0.1:80`, `[::1]:80`, `unix:/run/x.sock`.
impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => write!(out, "{address}"),
            Address::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Inet(address)
    }
}

/// Whom a UDP flow belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    pub socket: SocketId,
    pub client: SocketAddr,
    /// The address that the client wrote to, where the socket has many.
    pub local: Option<IpAddr>,
}

/// What counts as one client network: an IPv4 address, or an IPv6 /64 (the smallest network that is handed to one
/// customer, RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetworkKey(pub u128);

impl From<IpAddr> for NetworkKey {
    fn from(address: IpAddr) -> NetworkKey {
        match address.to_canonical() {
            IpAddr::V4(v4) => NetworkKey(u128::from(u32::from(v4))),
            IpAddr::V6(v6) => NetworkKey(u128::from(v6) >> 64 << 64),
        }
    }
}
