//! Listening sockets of the process before this one, waiting for the listener that binds their address. Both hold the very
//! same sockets: what waits in their queues is lost only when both have let go. Until that process has let go,
//! they are borrowed: nothing of them may be removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::ids::Address;
use crate::sys::handed::{is_reached_at, shape_of};
use crate::sys::listen::ListenOptions;

use super::binder::{BindKey, Bound};
use super::inherited::{complete_group, make_ours};

/// The sockets of one address.
#[derive(Debug)]
pub struct Bequest {
    pub key: BindKey,
    /// The address as it came out.
    pub bound: Address,
    /// A socket unit goes on listening, whatever we do.
    pub of_unit: bool,
    pub descriptors: Vec<OwnedFd>,
}

#[derive(Debug, Default)]
pub struct Bequests {
    waiting: BTreeMap<BindKey, Bequest>,
    borrowed: BTreeSet<BindKey>,
}

impl Bequests {
    #[must_use]
    pub fn new(bequests: Vec<Bequest>) -> Bequests {
        let bequests = bequests.into_iter();
        Bequests {
            waiting: bequests.map(|own| (own.key.clone(), own)).collect(),
            borrowed: BTreeSet::new(),
        }
    }

    /// The sockets for an address, with the options that are wanted now, and whether they are a socket unit's.
    ///
    /// # Errors
    /// There are some, and they cannot serve as many workers as there are; the sentence says what to do.
    pub fn adopt(
        &mut self,
        key: &BindKey,
        workers: usize,
        options: &ListenOptions,
    ) -> io::Result<Option<(Bound, bool)>> {
        let Some(bequest) = self.waiting.remove(key) else {
            return Ok(None);
        };
        let Bequest {
            bound,
            of_unit,
            mut descriptors,
            ..
        } = bequest;
        let Some(first) = descriptors.first() else {
            return Ok(None);
        };
        if let Address::Unix(path) = &bound
            && !of_unit
            && !is_reached_at(first.as_fd(), path)?
        {
            log::warn!("the socket on {bound} is not found at its path any more: bound anew");
            return Ok(None);
        }
        let may_grow = shape_of(first.as_fd()).is_some_and(|shape| shape.shares_port);
        let too_few = key.is_udp && descriptors.len() < workers;
        if descriptors.len() > workers || too_few {
            return Err(io::Error::other(format!(
                "the process before has {} sockets there, one for each of its workers, and an upgrade cannot serve them \
                 with {workers}: set global.workers = {0}, or restart",
                descriptors.len()
            )));
        }
        make_ours(&descriptors, (key.is_udp, &bound), options)?;
        if may_grow && !key.is_udp {
            complete_group(&mut descriptors, workers, &bound, options);
        }
        self.borrowed.insert(key.clone());
        let path = match &bound {
            Address::Unix(path) if !of_unit => Some(path.clone()),
            _ => None,
        };
        Ok(Some(((bound, descriptors, path), of_unit)))
    }

    /// Whether the process before may need it still.
    #[must_use]
    pub fn borrowed(&self, key: &BindKey) -> bool {
        self.borrowed.contains(key)
    }

    /// Nothing is borrowed any more. What no listener has taken.
    pub fn own(&mut self) -> Vec<Bequest> {
        self.borrowed.clear();
        let left = std::mem::take(&mut self.waiting).into_values();
        left.filter(|bequest| !bequest.of_unit).collect()
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

    fn bequest(is_udp: bool, descriptors: Vec<OwnedFd>) -> (BindKey, Bequests) {
        let address = shape_of(descriptors[0].as_fd()).unwrap().address;
        let key = BindKey {
            is_udp,
            address: address.clone(),
            owner: None,
        };
        let bequest = Bequest {
            key: key.clone(),
            bound: address,
            of_unit: false,
            descriptors,
        };
        (key, Bequests::new(vec![bequest]))
    }

    #[test]
    fn a_group_grows_with_the_workers_and_does_not_shrink() {
        let any = "127.0.0.1:0".parse().unwrap();
        for (before, now) in [(2, 2), (2, 3), (2, 1), (1, 1)] {
            let (key, mut bequests) = bequest(false, listen_tcp(any, before, &OPTIONS).unwrap());
            let adopted = bequests.adopt(&key, now, &OPTIONS);
            if now < before {
                let sentence = adopted.unwrap_err().to_string();
                assert!(sentence.contains("set global.workers = 2"), "{sentence}");
            } else {
                let ((_, descriptors, _), of_unit) = adopted.unwrap().unwrap();
                assert_eq!((descriptors.len(), of_unit), (now, false));
                assert!(bequests.borrowed(&key));
                assert!(bequests.own().is_empty() && !bequests.borrowed(&key));
            }
        }
        for now in [1, 3] {
            let (key, mut bequests) = bequest(true, listen_udp(any, 2, false).unwrap());
            assert!(bequests.adopt(&key, now, &OPTIONS).is_err());
        }
    }

    #[test]
    fn a_unix_socket_that_lost_its_path_is_bound_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let (key, mut bequests) = bequest(false, vec![listen_unix(&path, 16, 0o666).unwrap()]);
        std::fs::remove_file(&path).unwrap();
        assert!(bequests.adopt(&key, 2, &OPTIONS).unwrap().is_none());
        let (key, mut bequests) = bequest(false, vec![listen_unix(&path, 16, 0o666).unwrap()]);
        let ((_, descriptors, unlink), _) = bequests.adopt(&key, 2, &OPTIONS).unwrap().unwrap();
        assert_eq!((descriptors.len(), unlink), (1, Some(path)));
    }
}
