//! The service manager's descriptor store: it holds copies of our listening sockets, so that clients in their queues
//! outlive this process if it crashes. What is in there, under which name; a socket that we let go of is taken out.
//!
//! Names are our own (the address, escaped), so that a name is one address and storing twice is found out.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd};

use crate::handoff::ListenSocket;
use crate::ids::Address;

use super::notify;

/// Begins every name of ours; sockets of a socket unit have names of the operator's.
const PREFIX: &str = "ringway-";
/// systemd takes 255 bytes.
const NAME_BYTES_MAX: usize = 255;

#[derive(Debug, Default)]
pub struct Store {
    names: BTreeSet<String>,
}

/// Whether a descriptor of this name was put into the store by a process before us.
#[must_use]
pub fn is_stored_name(name: &str) -> bool {
    name.starts_with(PREFIX)
}

impl Store {
    /// `names`: what was handed to us from the store.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Store {
        let names = names.filter(|name| is_stored_name(name));
        Store {
            names: names.map(str::to_owned).collect(),
        }
    }

    /// Puts a listening socket in, if it is not there yet.
    pub fn keep(&mut self, is_udp: bool, address: &Address, socket: &ListenSocket) {
        let Some(name) = name_of(is_udp, address) else {
            return;
        };
        if notify::is_heard() && self.names.insert(name.clone()) {
            let sockets: Vec<BorrowedFd<'_>> = socket.descriptors.iter().map(AsFd::as_fd).collect();
            notify::keep(&name, &sockets);
        }
    }

    /// Takes a listening socket out; whether it was there.
    pub fn forget(&mut self, is_udp: bool, address: &Address) -> bool {
        name_of(is_udp, address).is_some_and(|name| self.forget_name(&name))
    }

    pub fn forget_name(&mut self, name: &str) -> bool {
        let was_there = self.names.remove(name);
        if was_there {
            notify::forget(name);
        }
        was_there
    }

    /// All that is in there.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.names.iter().cloned().collect()
    }

    #[must_use]
    pub fn has(&self, is_udp: bool, address: &Address) -> bool {
        name_of(is_udp, address).is_some_and(|name| self.names.contains(&name))
    }
}

/// A port that the kernel picks anew each time is not worth keeping, and a path that does not fit cannot be.
fn name_of(is_udp: bool, address: &Address) -> Option<String> {
    let (protocol, place) = match address {
        Address::Inet(inet) if inet.port() == 0 => return None,
        Address::Inet(inet) if is_udp => ("udp-", inet.to_string()),
        Address::Inet(inet) => ("tcp-", inet.to_string()),
        Address::Unix(path) => ("unix-", path.to_string_lossy().into_owned()),
    };
    let mut name = format!("{PREFIX}{protocol}");
    for byte in place.bytes() {
        // Names are separated by colons.
        if byte.is_ascii_graphic() && !matches!(byte, b':' | b'%') {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "%{byte:02X}");
        }
    }
    (name.len() <= NAME_BYTES_MAX).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_the_service_manager_and_tell_addresses_apart() {
        let inet = |text: &str| Address::Inet(text.parse().unwrap());
        let unix = |text: &str| Address::Unix(text.into());
        let name = |is_udp, address: Address| name_of(is_udp, &address);
        assert_eq!(
            name(false, inet("10.0.0.1:53")).unwrap(),
            "ringway-tcp-10.0.0.1%3A53"
        );
        assert_eq!(
            name(true, inet("[::1]:53")).unwrap(),
            "ringway-udp-[%3A%3A1]%3A53"
        );
        assert_eq!(
            name(false, unix("/run/a b%.sock")).unwrap(),
            "ringway-unix-/run/a%20b%25.sock"
        );
        assert_eq!(name(false, inet("10.0.0.1:0")), None);
        assert_eq!(name(false, unix(&format!("/{}", "ä".repeat(50)))), None);
    }
}
