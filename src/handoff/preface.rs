//! What a listener wants to know of its clients before it chooses a backend for them: who must announce its client by a
//! PROXY header, and which server names go to other pools. Part of a snapshot; asked by workers for each such client.

use std::net::IpAddr;

use crate::ids::PoolId;

use super::access::AccessList;

#[derive(Debug, Default)]
pub struct Preface {
    pub timeout_ns: u64,
    pub announcers: Announcers,
    /// In the order of the file: the first that fits.
    pub routes: Vec<Route>,
}

/// Who must send a PROXY header; everybody else is a plain client.
#[derive(Debug, Default)]
pub enum Announcers {
    #[default]
    Nobody,
    Everybody,
    /// Peers in these networks.
    From(Box<AccessList>),
}

/// A server name's way to a pool.
#[derive(Debug)]
pub struct Route {
    pub pattern: NamePattern,
    pub pool: PoolId,
}

/// Which server names are meant, in small letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamePattern {
    Exactly(String),
    /// `*.db.test`, kept as `.db.test`: names with one label or more in front.
    Below(String),
}

impl NamePattern {
    /// Reads a pattern that the front desk has found right: a name, or `*.` and a name.
    #[must_use]
    pub fn new(text: &str) -> NamePattern {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some(suffix) => NamePattern::Below(suffix.to_owned()),
            None => NamePattern::Exactly(text),
        }
    }

    /// Whether `name`, in small letters, is meant.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        match self {
            NamePattern::Exactly(own) => own == name,
            NamePattern::Below(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
        }
    }
}

impl Announcers {
    /// Whether a peer at this address must announce its client. `None` is a unix socket's peer, which has no network.
    #[must_use]
    pub fn include(&self, peer: Option<IpAddr>) -> bool {
        match self {
            Announcers::Nobody => false,
            Announcers::Everybody => true,
            Announcers::From(networks) => peer.is_none_or(|peer| networks.lets_in(peer)),
        }
    }
}

impl Preface {
    /// The pool for clients that ask for this server.
    #[must_use]
    pub fn pool_for(&self, server: &str) -> Option<PoolId> {
        let route = self.routes.iter().find(|it| it.pattern.fits(server))?;
        Some(route.pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_fits_names_the_pool() {
        let route = |pattern: &str, pool| Route {
            pattern: NamePattern::new(pattern),
            pool: PoolId(pool),
        };
        let preface = Preface {
            routes: vec![
                route("one.DB.test", 1),
                route("*.db.test", 2),
                route("*.test", 3),
            ],
            ..Preface::default()
        };
        assert_eq!(preface.pool_for("one.db.test"), Some(PoolId(1)));
        assert_eq!(preface.pool_for("two.db.test"), Some(PoolId(2)));
        assert_eq!(preface.pool_for("a.b.db.test"), Some(PoolId(2)));
        assert_eq!(preface.pool_for("db.test"), Some(PoolId(3)));
        assert_eq!(preface.pool_for("test"), None);
        assert_eq!(preface.pool_for("xdb.test.example"), None);
        assert!(!NamePattern::new("*.db.test").fits(".db.test"));
    }

    #[test]
    fn announcers_are_known_by_their_network() {
        let at = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let from = |text: &str| {
            let networks = [text.parse().unwrap()];
            Announcers::From(Box::new(AccessList::new(&networks, &[]).unwrap()))
        };
        assert!(from("10.1.0.0/16").include(at("10.1.2.3")));
        assert!(from("10.1.0.0/16").include(at("::ffff:10.1.2.3")));
        assert!(!from("10.1.0.0/16").include(at("10.2.2.3")));
        assert!(!from("0.0.0.0/0").include(at("2001:db8::1")));
        assert!(from("2001:db8::/32").include(at("2001:db8:1::1")));
        assert!(
            from("10.1.0.0/16").include(None),
            "a unix socket's peer is local"
        );
        assert!(!Announcers::Nobody.include(at("192.0.2.1")));
        assert!(Announcers::Everybody.include(None));
    }
}
