//! Where things are: what a listener binds, where a backend is, networks and paths, as they are written in the file.
//!
//! Nothing is resolved or bound here.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::ids::Address;

use super::measure::Refusal;
use super::plan::{BackendAddress, Host};
use super::section::Value;

/// The kernel's `sockaddr_un` holds 108 bytes, the last of which ends the path (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// One thing that a listener binds: a socket's path, or an address with a range of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bind {
    Unix(PathBuf),
    /// From this address's port up to `last`.
    Inet {
        first: SocketAddr,
        last: u16,
    },
}

impl Bind {
    pub fn ports(&self) -> usize {
        match self {
            Bind::Unix(_) => 1,
            Bind::Inet { first, last } => usize::from(last - first.port()) + 1,
        }
    }

    pub fn addresses(&self) -> Vec<Address> {
        match self {
            Bind::Unix(path) => vec![Address::Unix(path.clone())],
            Bind::Inet { first, last } => {
                let at_port = |port| {
                    let mut address = *first;
                    address.set_port(port);
                    Address::Inet(address)
                };
                (first.port()..=*last).map(at_port).collect()
            }
        }
    }
}

const BIND_ALLOWED: &str = "IP:PORT, IP:FIRST-LAST or unix:/PATH (IPv6 in brackets, a path of at most 107 bytes), like \
                            \"127.0.0.1:5433\", \"[::]:5433\", \"0.0.0.0:7000-7010\", \"unix:/run/x.sock\"";

pub(super) fn bind(value: &Value) -> Result<Bind, Refusal> {
    match value {
        Value::Text(text) => match bind_of(text) {
            Some(bind) => Ok(bind),
            None => Refusal::allowed(BIND_ALLOWED),
        },
        _ => Refusal::allowed(BIND_ALLOWED),
    }
}

fn bind_of(text: &str) -> Option<Bind> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(Bind::Unix);
    }
    let (host, ports) = text.rsplit_once(':')?;
    let (first, last) = match ports.split_once('-') {
        Some((first, last)) => (port_of(first)?, port_of(last)?),
        None => (port_of(ports)?, port_of(ports)?),
    };
    if ports.contains('-') && first == 0 || first > last {
        return None;
    }
    let first = format!("{host}:{first}").parse().ok()?;
    Some(Bind::Inet { first, last })
}

fn unix_path(path: &str) -> Option<PathBuf> {
    let fits = path.starts_with('/')
        && path.len() <= UNIX_PATH_BYTES_MAX
        && !path.contains('\0')
        && path != "/";
    fits.then(|| PathBuf::from(path))
}

/// Digits only: the standard parser would take "+80".
fn port_of(digits: &str) -> Option<u16> {
    let digits_only = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits_only.then(|| digits.parse().ok()).flatten()
}

const BACKEND_ALLOWED: &str = "HOST:PORT, HOST:+OFFSET or unix:/PATH (HOST a name or an IP, IPv6 in brackets; PORT from \
                               1 to 65535), like \"10.0.0.1:5432\", \"db1.example.com:5432\", \"10.0.0.1:+0\"";

pub(super) fn backend_address(value: &Value) -> Result<BackendAddress, Refusal> {
    match value {
        Value::Text(text) => match backend_address_of(text) {
            Some(address) => Ok(address),
            None => Refusal::allowed(BACKEND_ALLOWED),
        },
        _ => Refusal::allowed(BACKEND_ALLOWED),
    }
}

/// Reads a backend's address as the file writes it.
#[must_use]
pub fn backend_address_of(text: &str) -> Option<BackendAddress> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).map(|path| BackendAddress::Fixed(Address::Unix(path)));
    }
    let (host, port) = text.rsplit_once(':')?;
    if let Some(offset) = port.strip_prefix('+') {
        let (host, offset) = (host_of(host)?, port_of(offset)?);
        return Some(BackendAddress::ListenerPort { host, offset });
    }
    let port = port_of(port).filter(|&port| port != 0)?;
    // The whole is parsed first: only so does a scoped address like [fe80::1%2] keep its scope.
    if let Ok(address) = format!("{host}:{port}").parse::<SocketAddr>() {
        return Some(BackendAddress::Fixed(Address::Inet(address)));
    }
    match host_of(host)? {
        Host::Ip(ip) => Some(BackendAddress::Fixed(Address::Inet((ip, port).into()))),
        Host::Name(host) => Some(BackendAddress::Name { host, port }),
    }
}

fn host_of(text: &str) -> Option<Host> {
    if let Some(inside) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return inside.parse().ok().map(|ip| Host::Ip(IpAddr::V6(ip)));
    }
    if let Ok(ip) = text.parse() {
        return Some(Host::Ip(IpAddr::V4(ip)));
    }
    is_host_name(text).then(|| Host::Name(text.to_owned()))
}

/// Letters, digits, `-` and `_` in labels of at most 63 (RFC 1123; names with `_` are common in private zones). A last
/// label of digits only would be a misspelt address.
pub(super) fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or(text);
    text.len() <= 253
        && text.split('.').all(label_fits)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

pub(super) fn ip(value: &Value) -> Result<IpAddr, Refusal> {
    const ALLOWED: &str = "an IP address without port, like \"10.0.0.7\" or \"2001:db8::7\"";
    match value {
        Value::Text(text) => text.parse().or_else(|_| Refusal::allowed(ALLOWED)),
        _ => Refusal::allowed(ALLOWED),
    }
}

/// `ADDRESS/BITS` or a bare address.
pub(super) fn network(value: &Value) -> Result<IpNet, Refusal> {
    let found = match value {
        Value::Text(text) => network_of(text),
        _ => None,
    };
    found.map_or_else(
        || {
            Refusal::allowed(
                "a network in CIDR form, like \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.1\"",
            )
        },
        Ok,
    )
}

fn network_of(text: &str) -> Option<IpNet> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let widest: u8 = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        Some(bits) => u8::try_from(port_of(bits)?).ok()?,
        None => widest,
    };
    IpNet::new(address, bits).ok()
}

/// `None` for "".
pub(super) fn http_bind(value: &Value) -> Result<Option<SocketAddr>, Refusal> {
    match value {
        Value::Text(text) if text.is_empty() => Ok(None),
        Value::Text(text) if text.parse::<SocketAddr>().is_ok() => Ok(text.parse().ok()),
        _ => {
            Refusal::allowed("IP:PORT (IPv6 in brackets), like \"127.0.0.1:9901\", or \"\" for off")
        }
    }
}
