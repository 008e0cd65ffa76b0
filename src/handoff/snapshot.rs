//! The state of the world, as the office publishes it: immutable, complete, one for all workers. Everything that can
//! fail (parsing, resolving, binding) has happened before one exists.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::balance::Chooser;
use crate::ids::{Address, ListenerId, Nanos, PoolId, SocketId};
pub use crate::sys::Keepalive;

use super::access::AccessList;
use super::breaker_rules::BreakerRules;
use super::ejection::Member;
use super::preface::Preface;
use super::shared::{BackendShared, ListenerShared, PoolShared};
use super::waiters::Waiters;

#[derive(Debug)]
pub struct Snapshot {
    /// Grows by one with each snapshot; the first is 1.
    pub generation: u64,
    pub phase: Phase,
    pub listeners: Vec<Arc<Listener>>,
    pub pools: Vec<Arc<Pool>>,
    pub spin: Spin,
    /// Whether finished sessions are to be written to the journal.
    pub journal: bool,
    /// How often those that still run are, too, and their start and connection; 0: never.
    pub report_ns: u64,
}

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// A successor is to accept; sessions go on, and nobody stops: it may come to nothing.
    HandingOver,
    /// Accepting has stopped; sessions may end by themselves until `close_from`, then what is left is closed, spread
    /// evenly up to `close_until`. A worker that has no session left stops.
    Draining {
        close_from: Nanos,
        close_until: Nanos,
    },
}

/// Busy-polling before sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spin {
    Off,
    /// Always for this many nanoseconds.
    Fixed(u64),
    /// Only while the last waits were short.
    Auto,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Debug)]
pub struct Listener {
    pub shared: Arc<ListenerShared>,
    pub pool: PoolId,
    pub protocol: Protocol,
    pub sockets: Vec<Arc<ListenSocket>>,
    /// Whether the client's address is needed for each session (hashing, log).
    pub wants_address: bool,
    /// Which client addresses may come; `None`: all.
    pub access: Option<Arc<AccessList>>,
    /// What is to be read of a client before a backend is chosen.
    pub preface: Arc<Preface>,
}

impl Listener {
    #[must_use]
    pub fn id(&self) -> ListenerId {
        self.shared.id
    }

    /// Whether some of its clients go to this pool: all, or those that ask for some server.
    #[must_use]
    pub fn leads_to(&self, pool: PoolId) -> bool {
        let mut routes = self.preface.routes.iter();
        self.pool == pool || routes.any(|route| route.pool == pool)
    }
}

/// One bound and listening address. Options that accepted sockets inherit (keepalive, user timeout, no delay) are set on
/// it already.
#[derive(Debug)]
pub struct ListenSocket {
    pub id: SocketId,
    pub address: Address,
    /// One per worker in worker order (a SO_REUSEPORT group), or a single one that all workers share (unix sockets).
    pub descriptors: Vec<OwnedFd>,
    /// A unix socket's path, to be removed when the listener goes.
    pub unlink: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Pool {
    pub shared: Arc<PoolShared>,
    pub chooser: Chooser,
    pub hash_seed: u64,
    /// Hash the client's port, too.
    pub hash_port: bool,
    /// In the order of the chooser's weights.
    pub backends: Vec<Backend>,
    /// Tiers that there are: bit n for tier n.
    pub tiers: u16,
    /// A backend's weight grows to full over this time after it came up; 0: at once.
    pub slow_start_ns: u64,
    pub source: Vec<IpAddr>,
    pub waiters: Arc<Waiters>,
    pub wait: WaitRules,
    pub connect_timeout_ns: u64,
    pub connect_attempts: u8,
    pub connect_budget_ns: u64,
    pub times: SessionTimes,
    pub flow_rules: FlowRules,
    pub options: BackendOptions,
    /// A backend that refuses a session gets no other before its next check.
    pub doubts: bool,
    /// `None`: the pool ejects nobody.
    pub breaker: Option<BreakerRules>,
    /// A header that is sent ahead of everything else.
    pub send_proxy: Option<ProxyVersion>,
    /// Ahead of each datagram instead of a flow's first.
    pub send_proxy_every: bool,
    /// PostgreSQL's cancel requests go to every backend with sessions.
    pub cancel: bool,
}

/// Of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    One,
    Two,
}

#[derive(Clone, Copy, Debug)]
pub struct WaitRules {
    pub timeout_ns: u64,
    /// A client that half-closed while waiting is dropped.
    pub leave_on_fin: bool,
}

/// A session's deadlines; it keeps those it began with. 0 is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionTimes {
    pub idle_ns: u64,
    pub half_close_ns: u64,
    pub lifetime_ns: u64,
}

/// What ends a UDP flow, or its backend's turn. 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowRules {
    pub idle_ns: u64,
    /// Datagrams from the backend.
    pub responses: u32,
    /// Datagrams from the client until a backend is chosen anew.
    pub requests: u32,
}

/// Options of sockets towards backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendOptions {
    pub keepalive: Option<Keepalive>,
    /// TCP_USER_TIMEOUT in milliseconds; 0 is off.
    pub user_timeout_ms: u32,
}

#[derive(Debug)]
pub struct Backend {
    pub shared: Arc<BackendShared>,
    pub target: Target,
    /// 1..=1000, or 0: drains.
    pub weight: u32,
    /// 0..=15
    pub tier: u8,
}

impl Member for Backend {
    fn backend(&self) -> &Arc<BackendShared> {
        &self.shared
    }

    fn is_served(&self) -> bool {
        self.weight > 0 && self.target != Target::Unresolved
    }
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Fixed(Address),
    /// This host, at the port that the client came to plus an offset.
    ListenerPort {
        host: IpAddr,
        offset: u16,
    },
    /// The host name does not resolve now; the backend is down.
    Unresolved,
}
