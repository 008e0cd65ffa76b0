//! What the office asks the prober to watch: the whole set at once, each time something changes. A target says where a
//! backend is checked, how often, and what becomes of its sessions when it goes down. Nothing here acts.

use std::net::IpAddr;
use std::sync::Arc;

use crate::handoff::BackendShared;
use crate::ids::Address;

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
    pub on_down: OnDown,
    /// Local address to check from.
    pub source: Option<IpAddr>,
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

/// What happens to the sessions of a backend that goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    Keep,
    /// Closed, spread evenly over this time; 0: at once.
    Close {
        over_ms: u32,
    },
}
