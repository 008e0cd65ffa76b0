//! The plan: what a valid configuration file asks for, with every default filled in, every name resolved to an index and
//! every number inside its bounds. Whoever holds a `Plan` needs to check nothing again.
//!
//! The office turns it into a snapshot. It must not hold anything that only a running process knows: host names stay
//! names here, and 0 ("decide by yourself") stays `None`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::ids::Address;

use super::breaker::BreakerPlan;
use super::check_plan::HealthPlan;
use super::measure::Rate;
use super::tiers::TierPlan;

/// Above this many backends the least of all is not looked for any more; the map room has the same number.
const EXACT_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub global: GlobalPlan,
    pub admin: AdminPlan,
    /// In the order of the file; at least one. Names are unique.
    pub listeners: Vec<ListenerPlan>,
    /// In the order of the file. Names are unique.
    pub pools: Vec<PoolPlan>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalPlan {
    /// `None`: as many as the cores and the CPU quota carry.
    pub workers: Option<u16>,
    /// Worker n on the n-th allowed core.
    pub pin: bool,
    /// `None`: what descriptors and memory carry, see [`super::budget`].
    pub max_sessions: Option<u32>,
    pub shutdown_grace: Duration,
    pub shutdown_delay: Duration,
    /// How long a process that was upgraded may keep its sessions; `None`: as long as they last.
    pub upgrade_grace: Option<Duration>,
    pub access_log: AccessLog,
    pub access_log_format: LogFormat,
    /// How often sessions that still run are logged, besides their start, connection and end; `None`: ends only.
    pub log_interval: Option<Duration>,
    pub spin: Spin,
    /// Whom to become once everything is bound; `None`: nobody else.
    pub user: Option<String>,
    /// `None`: the user's own. Only beside `user`.
    pub group: Option<String>,
    pub sandbox: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Stdout,
    Stderr,
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Busy-polling before sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spin {
    Off,
    /// Always this long; never zero.
    Fixed(Duration),
    /// Only while the last waits were short.
    Auto,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminPlan {
    /// `None`: no HTTP. Port 0 lets the kernel pick.
    pub bind: Option<SocketAddr>,
    /// `None`: the usual place, see [`super::admin_socket`].
    pub socket: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerPlan {
    pub name: String,
    /// At least one; port ranges are written out, one address per port. No address stands in two listeners. Port 0 lets
    /// the kernel pick (once: all workers then share the port it picked).
    pub binds: Vec<Address>,
    pub protocol: Protocol,
    /// Index into [`Plan::pools`].
    pub pool: usize,
    pub freebind: bool,
    /// `None`: no limit but the process's.
    pub max_connections: Option<u32>,
    pub limits: LimitsPlan,
    /// `None`: off.
    pub keepalive: Option<Keepalive>,
    /// `None`: off. At most what TCP_USER_TIMEOUT takes, 2^31 - 1 milliseconds.
    pub user_timeout: Option<Duration>,
    pub backlog: u32,
    pub accept_proxy: AcceptProxy,
    /// For PROXY header and server name.
    pub preface_timeout: Duration,
    /// By the server name that a TLS client asks for: the first that fits.
    pub routes: Vec<RoutePlan>,
}

/// From whom a listener takes PROXY headers, and then insists on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcceptProxy {
    Off,
    Everybody,
    /// Peers in these networks; at least one.
    From(Vec<IpNet>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePlan {
    /// A host name in small letters, or `*.` and one.
    pub sni: String,
    /// Index into [`Plan::pools`].
    pub pool: usize,
}

impl ListenerPlan {
    /// The listener's own pool and those of its routes, as indices into [`Plan::pools`].
    pub fn pools(&self) -> impl Iterator<Item = usize> {
        let routed = self.routes.iter().map(|route| route.pool);
        std::iter::once(self.pool).chain(routed)
    }
}

/// Of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    One,
    Two,
}

/// Who may come to a listener, and how fast; `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitsPlan {
    /// Connections a second, all clients together.
    pub rate: Option<Rate>,
    /// Connections of one client address (IPv6: of one /64) at a time.
    pub source_connections: Option<u32>,
    pub source_rate: Option<Rate>,
    /// Empty: everybody.
    pub allow: Vec<IpNet>,
    /// Wins over `allow`.
    pub deny: Vec<IpNet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// Whole seconds, at least one, inside the kernel's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub count: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    pub name: String,
    pub algorithm: Algorithm,
    pub hash_key: HashKey,
    pub hash_seed: u64,
    /// Local addresses to connect from, in turn; empty: the kernel's choice.
    pub source: Vec<IpAddr>,
    pub connect_timeout: Duration,
    pub connect_attempts: u8,
    pub connect_budget: Duration,
    pub wait: WaitPlan,
    /// New connections a second towards each backend; `None`: no limit.
    pub connect_rate: Option<Rate>,
    /// `None`: off.
    pub idle_timeout: Option<Duration>,
    pub half_close_timeout: Duration,
    /// `None`: off. Each session takes it ± 10 %.
    pub max_lifetime: Option<Duration>,
    pub keepalive: Option<Keepalive>,
    pub user_timeout: Option<Duration>,
    pub on_down: OnLoss,
    pub on_drain: OnLoss,
    pub tiers: TierPlan,
    /// A header for the backend ahead of everything else.
    pub send_proxy: Option<ProxyVersion>,
    /// PostgreSQL's cancel requests go to every backend with sessions.
    pub cancel: bool,
    /// Of a backend that is alive in another role than the pool asks for.
    pub on_role_change: OnLoss,
    pub health: HealthPlan,
    pub udp: FlowPlan,
    /// `None`: nobody is ever ejected.
    pub breaker: Option<BreakerPlan>,
    /// `None`: no warm connections.
    pub warm: Option<WarmPlan>,
    /// In the order of the file; at least one. Names are unique inside the pool.
    pub backends: Vec<BackendPlan>,
}

/// For the flows of listeners with protocol = "udp".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPlan {
    pub idle_timeout: Duration,
    /// Datagrams from the backend that end a flow; 0: only silence does.
    pub responses: u32,
    /// Datagrams from the client after which a backend is chosen anew; 0: never.
    pub requests: u32,
    /// `None`: what ports and descriptors carry.
    pub max_flows: Option<u32>,
    /// The header of `send_proxy` goes ahead of each datagram.
    pub send_proxy_every: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    RoundRobin,
    LeastConnections,
    PowerOfTwo,
    Random,
    SourceHash,
    Maglev,
    LeastLatency,
    First,
}

impl Algorithm {
    /// As in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Algorithm::RoundRobin => "round-robin",
            Algorithm::LeastConnections => "least-connections",
            Algorithm::PowerOfTwo => "power-of-two",
            Algorithm::Random => "random",
            Algorithm::SourceHash => "source-hash",
            Algorithm::Maglev => "maglev",
            Algorithm::LeastLatency => "least-latency",
            Algorithm::First => "first",
        }
    }
}

impl PoolPlan {
    /// The algorithm, and what its cost makes of it in a pool of this size.
    #[must_use]
    pub fn algorithm_text(&self) -> String {
        let many = self.backends.len() > EXACT_MAX;
        let note = match self.algorithm {
            Algorithm::LeastConnections | Algorithm::LeastLatency if many => {
                ": the better of two random backends, as there are more than 64"
            }
            Algorithm::SourceHash if many => {
                ": looks at every backend for each connection; maglev does not"
            }
            _ => "",
        };
        format!("{}{note}", self.algorithm.word())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKey {
    Address,
    AddressPort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitPlan {
    /// How many clients may wait; 0: none.
    pub size: u32,
    pub timeout: Duration,
    pub on_fin: OnFin,
}

/// What becomes of a waiting client that half-closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFin {
    Keep,
    Leave,
}

/// Connections that are opened before a client needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmPlan {
    /// Per backend, all workers together; at least 1.
    pub size: u32,
    /// ± 20 %.
    pub max_age: Duration,
    pub profile: WarmProfile,
}

/// What is safe with connections on which no client has spoken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarmProfile {
    Generic,
    Postgres,
    Mysql,
    Redis,
}

/// What becomes of the sessions of a backend that goes down, drains or takes another role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLoss {
    Keep,
    /// Closed, evenly spread over this time; zero: all at once.
    Close {
        over: Duration,
    },
}

impl OnLoss {
    pub const AT_ONCE: OnLoss = OnLoss::Close {
        over: Duration::ZERO,
    };
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendPlan {
    pub name: String,
    pub address: BackendAddress,
    /// 1..=1000, or 0: drains.
    pub weight: u32,
    /// `None`: no limit.
    pub max_connections: Option<u32>,
    /// 0..=15
    pub tier: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    Fixed(Address),
    /// To be resolved when the plan is put to work.
    Name {
        host: String,
        port: u16,
    },
    /// The port that the client came to plus `offset`; every listener of the pool has been checked to have such a port.
    ListenerPort {
        host: Host,
        offset: u16,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    Ip(IpAddr),
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(IpAddr::V6(ip)) => write!(out, "[{ip}]"),
            Host::Ip(IpAddr::V4(ip)) => write!(out, "{ip}"),
            Host::Name(name) => out.write_str(name),
        }
    }
}

/// As in the file.
impl fmt::Display for BackendAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackendAddress::Fixed(address) => write!(out, "{address}"),
            BackendAddress::Name { host, port } => write!(out, "{host}:{port}"),
            BackendAddress::ListenerPort { host, offset } => write!(out, "{host}:+{offset}"),
        }
    }
}

impl Plan {
    /// The port at which a check reaches a backend: the health table's, else the backend's own, else (for
    /// `host:+offset`) the one that follows from the only port of the pool's listeners. `None` for unix sockets.
    #[must_use]
    pub fn check_port(&self, pool: usize, backend: usize) -> Option<u16> {
        let plan = self.pools.get(pool)?;
        let explicit = plan.health.check().and_then(|check| check.port);
        match &plan.backends.get(backend)?.address {
            BackendAddress::Fixed(Address::Unix(_)) => None,
            BackendAddress::Fixed(Address::Inet(address)) => explicit.or(Some(address.port())),
            BackendAddress::Name { port, .. } => explicit.or(Some(*port)),
            BackendAddress::ListenerPort { offset, .. } => {
                explicit.or_else(|| self.listener_port(pool)?.checked_add(*offset))
            }
        }
    }

    /// A port of the listeners of this pool.
    fn listener_port(&self, pool: usize) -> Option<u16> {
        self.listeners
            .iter()
            .filter(|listener| listener.pools().any(|reached| reached == pool))
            .flat_map(|listener| &listener.binds)
            .find_map(|bind| bind.inet().map(|address| address.port()))
    }

    /// Files that reading this plan has opened besides its own.
    #[must_use]
    pub fn files_read(&self) -> Vec<PathBuf> {
        let checks = self.pools.iter().filter_map(|pool| pool.health.check());
        let logins = checks.filter_map(|check| check.kind.login());
        logins
            .filter_map(|login| login.password_file.clone())
            .collect()
    }

    /// The keys fixed for a process's life that differ in `next`; a reload with any is to be refused, naming them.
    #[must_use]
    pub fn fixed_changes(&self, next: &Plan) -> Vec<&'static str> {
        let mut keys = Vec::new();
        if self.global.workers != next.global.workers {
            keys.push("global.workers");
        }
        if self.global.max_sessions != next.global.max_sessions {
            keys.push("global.max_sessions");
        }
        if self.global.user != next.global.user {
            keys.push("global.user");
        }
        if self.global.group != next.global.group {
            keys.push("global.group");
        }
        if self.global.sandbox != next.global.sandbox {
            keys.push("global.sandbox");
        }
        if self.admin.socket != next.admin.socket {
            keys.push("admin.socket");
        }
        keys
    }
}
