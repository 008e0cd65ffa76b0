//! Listening sockets that the service manager handed over at start, waiting for the listener that binds their address:
//! those of a socket unit (it goes on listening, whatever we do) and those that a crashed process had put into the store
//! (clients may stand in their queues).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::config::{Plan, Protocol};
use crate::ids::Address;
use crate::sys::handed::{Handed, Shape, is_reached_at, shape_of};
use crate::sys::listen::ListenOptions;
use crate::sys::{datagram, listen};

use super::failure::Failure;
use super::store::is_stored_name;

#[derive(Debug)]
struct Heirloom {
    name: String,
    shape: Shape,
    descriptor: OwnedFd,
}

impl Heirloom {
    fn is_stored(&self) -> bool {
        is_stored_name(&self.name)
    }
}

#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<Heirloom>,
}

/// What was handed over for an address.
#[derive(Debug)]
pub enum Adoption {
    Nothing,
    /// The store has sockets that cannot serve any more, and the address is taken until it lets go of them.
    Useless,
    /// These serve it from now on.
    Adopted {
        descriptors: Vec<OwnedFd>,
        source: Source,
    },
}

/// Whose sockets were adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A socket unit's, which goes on listening.
    Unit,
    /// The store's, which has the same ones.
    Store,
    /// The store's, but it has others besides, or lacks some.
    ChangedStore,
}

impl Inherited {
    /// What is no socket that clients could reach is said and closed.
    #[must_use]
    pub fn new(handed: Vec<Handed>) -> Inherited {
        let mut sockets = Vec::with_capacity(handed.len());
        for Handed { name, descriptor } in handed {
            match shape_of(descriptor.as_fd()) {
                Some(shape) => sockets.push(Heirloom {
                    name,
                    shape,
                    descriptor,
                }),
                None => log::warn!(
                    "the service manager handed over {name}, which is no listening TCP, UDP or unix stream socket: closed"
                ),
            }
        }
        Inherited { sockets }
    }

    /// Copies of what nobody has taken, for a successor.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is left.
    pub fn copies(&self) -> io::Result<Vec<Handed>> {
        let copies = self.sockets.iter().map(|own| {
            Ok(Handed {
                name: own.name.clone(),
                descriptor: own.descriptor.try_clone()?,
            })
        });
        copies.collect()
    }

    /// A socket that has a listener's name must be on one of its addresses.
    ///
    /// # Errors
    /// Names the socket, the listener, and how they may come together.
    pub fn fit(&self, plan: &Plan) -> Result<(), Failure> {
        for heirloom in self.sockets.iter().filter(|own| !own.is_stored()) {
            let address = &heirloom.shape.address;
            let mut listeners = plan.listeners.iter();
            let Some(named) = listeners.find(|listener| listener.name == heirloom.name) else {
                continue;
            };
            let is_udp = named.protocol == Protocol::Udp;
            if !named.binds.contains(address) || is_udp != heirloom.shape.is_udp {
                return Err(Failure::CannotStart(format!(
                    "listener \"{}\" does not bind {} {address}, which the service manager hands over under its name: \
                     make bind and protocol agree with the socket unit",
                    named.name,
                    if heirloom.shape.is_udp { "udp" } else { "tcp" },
                )));
            }
        }
        Ok(())
    }

    /// The sockets for an address, made like ours.
    ///
    /// # Errors
    /// There are some, and they cannot serve this address; the sentence says why.
    pub fn adopt(
        &mut self,
        (is_udp, address): (bool, &Address),
        workers: usize,
        options: &ListenOptions,
    ) -> io::Result<Adoption> {
        let (own, others) = std::mem::take(&mut self.sockets)
            .into_iter()
            .partition(|own| own.shape.is_udp == is_udp && own.shape.address == *address);
        self.sockets = others;
        let own: Vec<Heirloom> = own;
        let Some(first) = own.first() else {
            return Ok(Adoption::Nothing);
        };
        let is_stored = first.is_stored();
        if first.shape.takes_both_families {
            return Err(io::Error::other(
                "the socket unit's socket takes IPv4 clients, too: set BindIPv6Only=ipv6-only there",
            ));
        }
        let may_grow = first.shape.shares_port;
        if is_stored && !is_of_use(&own, is_udp, address, workers) {
            return Ok(Adoption::Useless);
        }
        let handed = own.len();
        let mut descriptors = Vec::with_capacity(workers);
        for heirloom in own {
            if is_stored {
                descriptors.push(heirloom.descriptor);
            } else {
                // A later reload may want it again, and could not bind it: the socket unit still has it.
                descriptors.push(heirloom.descriptor.try_clone()?);
                self.sockets.push(heirloom);
            }
        }
        descriptors.truncate(workers);
        make_ours(&descriptors, (is_udp, address), options)?;
        if is_udp && descriptors.len() < workers {
            return Err(io::Error::other(format!(
                "the service manager hands over {} of {workers} sockets, and datagrams cannot be shared between workers: \
                 set global.workers = {0}, or take the address out of the socket unit",
                descriptors.len()
            )));
        }
        if may_grow {
            complete_group(&mut descriptors, workers, address, options);
        }
        Ok(Adoption::Adopted {
            source: match is_stored {
                false => Source::Unit,
                true if handed == descriptors.len() => Source::Store,
                true => Source::ChangedStore,
            },
            descriptors,
        })
    }

    /// Sockets that no listener of the plan has taken. The names of those that only the store still holds; the others stay,
    /// for a reload that may want them.
    pub fn left_over(&mut self, plan: &Plan) -> Vec<String> {
        let mut stored = Vec::new();
        self.sockets.retain(|own| {
            let address = &own.shape.address;
            if own.is_stored() {
                log::info!("the socket on {address} is not wanted any more: closed");
                stored.push(own.name.clone());
                return false;
            }
            let mut binds = plan.listeners.iter().flat_map(|listener| &listener.binds);
            if !binds.any(|bind| bind == address) {
                log::warn!(
                    "no listener binds {address}, which the service manager listens on ({}): clients will wait there",
                    own.name
                );
            }
            true
        });
        stored.sort_unstable();
        stored.dedup();
        stored
    }
}

/// One socket for each worker. A group of another user cannot be joined: then workers share what there is.
pub fn complete_group(
    descriptors: &mut Vec<OwnedFd>,
    workers: usize,
    address: &Address,
    options: &ListenOptions,
) {
    while let Address::Inet(inet) = address
        && descriptors.len() < workers
        && let Ok(joined) = listen::join_tcp(&(*inet).into(), options)
    {
        descriptors.push(joined);
    }
}

pub fn make_ours(
    descriptors: &[OwnedFd],
    (is_udp, address): (bool, &Address),
    options: &ListenOptions,
) -> io::Result<()> {
    for descriptor in descriptors {
        match address {
            Address::Inet(inet) if is_udp => datagram::adopt_udp(descriptor.as_fd(), *inet)?,
            Address::Inet(_) => listen::adopt_tcp(descriptor.as_fd(), options)?,
            Address::Unix(_) => listen::adopt_unix(descriptor.as_fd(), options.backlog)?,
        }
    }
    Ok(())
}

/// Whether stored sockets are better than new ones. For datagrams the group must be whole; a unix socket must still be
/// found at its path.
fn is_of_use(own: &[Heirloom], is_udp: bool, address: &Address, workers: usize) -> bool {
    match address {
        Address::Unix(path) => {
            let found = is_reached_at(own[0].descriptor.as_fd(), path).unwrap_or(false);
            if !found {
                log::warn!(
                    "the kept socket on {address} is not found at its path any more: bound anew"
                );
            }
            found
        }
        Address::Inet(_) => !is_udp || own.len() == workers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::datagram::listen_udp;
    use crate::sys::listen::{listen_tcp, listen_unix};

    const OPTIONS: ListenOptions = ListenOptions {
        backlog: 64,
        freebind: false,
        keepalive: None,
        user_timeout_ms: 0,
    };

    fn handed(name: &str, descriptors: Vec<OwnedFd>) -> (Inherited, Address) {
        let address = shape_of(descriptors[0].as_fd()).unwrap().address;
        let handed = descriptors.into_iter().map(|descriptor| Handed {
            name: name.to_owned(),
            descriptor,
        });
        (Inherited::new(handed.collect()), address)
    }

    fn tcp(name: &str, sockets: usize) -> (Inherited, Address) {
        let any = "127.0.0.1:0".parse().unwrap();
        handed(name, listen_tcp(any, sockets, &OPTIONS).unwrap())
    }

    fn udp(name: &str, sockets: usize) -> (Inherited, Address) {
        let any = "127.0.0.1:0".parse().unwrap();
        handed(name, listen_udp(any, sockets, false).unwrap())
    }

    /// How many sockets serve, and whose they are.
    fn adopted(adoption: Adoption) -> Option<(usize, Source)> {
        match adoption {
            Adoption::Adopted {
                descriptors,
                source,
            } => Some((descriptors.len(), source)),
            _ => None,
        }
    }

    #[test]
    fn a_stored_group_serves_as_many_workers_as_there_are() {
        for (workers, source) in [
            (2, Source::Store),
            (1, Source::ChangedStore),
            (4, Source::ChangedStore),
        ] {
            let (mut inherited, address) = tcp("ringway-tcp-x", 2);
            let adoption = inherited.adopt((false, &address), workers, &OPTIONS);
            assert_eq!(adopted(adoption.unwrap()), Some((workers, source)));
            let again = inherited.adopt((false, &address), workers, &OPTIONS);
            assert!(matches!(again.unwrap(), Adoption::Nothing));
        }
    }

    #[test]
    fn a_units_socket_is_shared_and_found_again() {
        let (mut inherited, address) = tcp("front", 1);
        for _ in 0..2 {
            let adoption = inherited.adopt((false, &address), 3, &OPTIONS).unwrap();
            assert_eq!(adopted(adoption), Some((1, Source::Unit)));
        }
        let other = Address::Inet("127.0.0.1:1".parse().unwrap());
        let adoption = inherited.adopt((false, &other), 3, &OPTIONS).unwrap();
        assert!(matches!(adoption, Adoption::Nothing));
    }

    #[test]
    fn datagrams_need_a_socket_for_each_worker() {
        let (mut inherited, address) = udp("ringway-udp-x", 2);
        let adoption = inherited.adopt((true, &address), 3, &OPTIONS).unwrap();
        assert!(matches!(adoption, Adoption::Useless));
        let (mut inherited, address) = udp("ringway-udp-x", 2);
        let adoption = inherited.adopt((true, &address), 2, &OPTIONS).unwrap();
        assert_eq!(adopted(adoption), Some((2, Source::Store)));
        let (mut inherited, address) = udp("dns", 1);
        let error = inherited.adopt((true, &address), 2, &OPTIONS).unwrap_err();
        assert!(error.to_string().contains("1 of 2 sockets"), "{error}");
    }

    #[test]
    fn a_unix_socket_without_its_path_is_of_no_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let socket = || vec![listen_unix(&path, 16, 0o666).unwrap()];
        let (mut inherited, address) = handed("ringway-unix-x", socket());
        let adoption = inherited.adopt((false, &address), 2, &OPTIONS).unwrap();
        assert_eq!(adopted(adoption), Some((1, Source::Store)));
        std::fs::remove_file(&path).unwrap();
        let (mut inherited, address) = handed("ringway-unix-x", socket());
        std::fs::remove_file(&path).unwrap();
        let adoption = inherited.adopt((false, &address), 2, &OPTIONS).unwrap();
        assert!(matches!(adoption, Adoption::Useless));
    }
}
