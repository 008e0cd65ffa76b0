//! What the office asks the prober to watch: the whole set at once, each time something changes. A target says where a
//! backend is checked, how often, and what becomes of its sessions when it goes down. Nothing here acts.

use std::net::IpAddr;
use std::sync::Arc;

use crate::handoff::BackendShared;
use crate::ids::{Address, Role};

use super::kinds::{Dns, Http, Mysql, Postgres, Redis, SendExpect, Udp};

/// One backend to be watched. It is the same backend as before while `backend` is the same allocation: then it keeps
/// its health, its counts and the moment of its next check, whatever else changed.
#[derive(Clone, Debug)]
pub struct Target {
    pub backend: Arc<BackendShared>,
    /// Where to connect to, a port set for checks already applied; `None`: the name does not resolve, the backend is
    /// down for that reason.
    pub address: Option<Address>,
    /// `None`: never checked, it stays `unknown` and eligible.
    pub rules: Option<Rules>,
    /// What a check says and wants to hear.
    pub check: Check,
    pub on_down: OnDown,
    /// The role that the pool asks for; `Unknown`: any. Other backends get no sessions, nor does one that does not tell.
    pub asked: Role,
    /// What becomes of sessions of a backend that is alive in another role.
    pub on_role_change: OnDown,
    /// Whether it may get new sessions at all, as far as the configuration says.
    pub has_weight: bool,
    /// Local address to check from.
    pub source: Option<IpAddr>,
    pub announce: Announce,
}

impl Target {
    /// Where and how to connect; `None` while the name does not resolve.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        Some(Place {
            address: self.address.clone()?,
            source: self.source,
            announce: self.announce,
        })
    }
}

/// Where and how a check connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub address: Address,
    pub source: Option<IpAddr>,
    pub announce: Announce,
}

/// A kind of check with its parameters, cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// Connecting must work.
    Tcp,
    SendExpect(Arc<SendExpect>),
    Http(Arc<Http>),
    Postgres(Arc<Postgres>),
    Mysql(Arc<Mysql>),
    Redis(Arc<Redis>),
    Dns(Arc<Dns>),
    Udp(Arc<Udp>),
}

/// The PROXY header that goes ahead of a check, where the pool's sessions have one: it says that this connection is the
/// balancer's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announce {
    Off,
    /// Version 1 has no word for it; an unknown client is the nearest.
    V1,
    V2,
}

impl Announce {
    #[must_use]
    pub fn header(self) -> Option<&'static [u8]> {
        match self {
            Announce::Off => None,
            Announce::V1 => Some(b"PROXY UNKNOWN\r\n"),
            // Version 2, LOCAL, no addresses, nothing follows.
            Announce::V2 => Some(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
        }
    }
}

/// How a backend is checked. Intervals are from start to start; a check that takes longer delays the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub interval_ns: u64,
    /// The interval while no verdict is reached yet: before the first one, while rising, while falling.
    pub fast_interval_ns: u64,
    pub timeout_ns: u64,
    /// Successes in a row that bring a backend up that is down; at least 1.
    pub rise: u32,
    /// Failures in a row that take a backend down; at least 1. A refused connection counts as two.
    pub fall: u32,
}

/// What happens to the sessions of a backend that goes down, or takes another role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    Keep,
    /// Closed, spread evenly over this time; 0: at once.
    Close {
        over_ms: u32,
    },
}
