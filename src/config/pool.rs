//! Reads `[[pool]]` and `[[pool.backend]]`.

use std::net::IpAddr;
use std::time::Duration;

use crate::ids::Role;

use super::breaker::read_breaker;
use super::check_plan::HealthPlan;
use super::desk::{Desk, Located};
use super::extras::read_discovery;
use super::health::read_health;
use super::measure::{
    HOUR, MILLISECOND, Refusal, YEAR, duration, duration_of, duration_or_off, limit, name, rate,
    whole, word,
};
use super::options::{read_keepalive, read_user_timeout};
use super::place::{backend_address, ip};
use super::plan::{
    Algorithm, BackendAddress, BackendPlan, HashKey, OnFin, OnLoss, PoolPlan, WaitPlan,
};
use super::preface::{read_cancel, read_send_proxy};
use super::section::{Section, Value};
use super::tiers::{TIER_MAX, read_tiers};
use super::udp::read_udp;
use super::warm::{check_backends, read_warm};

const DAY: Duration = Duration::from_secs(24 * 3600);

const ALGORITHMS: &[(&str, Option<Algorithm>)] = &[
    ("round-robin", Some(Algorithm::RoundRobin)),
    ("least-connections", Some(Algorithm::LeastConnections)),
    ("power-of-two", Some(Algorithm::PowerOfTwo)),
    ("random", Some(Algorithm::Random)),
    ("source-hash", Some(Algorithm::SourceHash)),
    ("maglev", Some(Algorithm::Maglev)),
    ("least-latency", Some(Algorithm::LeastLatency)),
    ("first", Some(Algorithm::First)),
];

/// A pool that has not been compared with the rest of the file.
pub(super) struct PoolDraft {
    pub name: Option<Located<String>>,
    /// Where `health.kind` stands, or else its table.
    pub check_kind_at: usize,
    /// Where `health.port` stands, if it is given.
    pub check_port_at: Option<usize>,
    pub check_kind_given: bool,
    /// Where `send_proxy` stands, or else the pool.
    pub send_proxy_at: usize,
    pub backends: Vec<BackendDraft>,
    /// Complete but for `name` and `backends`.
    pub plan: PoolPlan,
}

/// A backend where `None` marks a fault that has been noted.
pub(super) struct BackendDraft {
    pub name: Option<Located<String>>,
    pub address: Option<Located<BackendAddress>>,
    pub weight: u32,
    pub max_connections: Option<u32>,
    pub tier: u8,
}

impl BackendDraft {
    /// `None` if a fault was noted.
    pub fn finish(self) -> Option<BackendPlan> {
        Some(BackendPlan {
            name: self.name?.value,
            address: self.address?.value,
            weight: self.weight,
            max_connections: self.max_connections,
            tier: self.tier,
        })
    }
}

pub(super) fn read_pool(desk: &mut Desk<'_>, mut table: Section) -> PoolDraft {
    let found_name = table.require(desk, "name", "a name of its own", name);
    let health = read_health(desk, &mut table);
    let send_proxy_at = table.place_of("send_proxy");
    let send_proxy = read_send_proxy(desk, &mut table);
    let plan = PoolPlan {
        name: String::new(),
        algorithm: read_algorithm(desk, &mut table),
        hash_key: read_hash_key(desk, &mut table),
        hash_seed: read_hash_seed(desk, &mut table),
        source: read_source(desk, &mut table),
        connect_timeout: table
            .read(desk, "connect_timeout", duration(MILLISECOND, HOUR))
            .unwrap_or(Duration::from_secs(3)),
        connect_attempts: table
            .read(desk, "connect_attempts", whole(1..=100))
            .unwrap_or(3),
        connect_budget: table
            .read(desk, "connect_budget", duration(MILLISECOND, DAY))
            .unwrap_or(Duration::from_secs(10)),
        wait: read_wait(desk, &mut table, health.plan.role()),
        connect_rate: table.read(desk, "connect_rate", rate).flatten(),
        idle_timeout: table
            .read(desk, "idle_timeout", duration_or_off(MILLISECOND, YEAR))
            .flatten(),
        half_close_timeout: table
            .read(desk, "half_close_timeout", duration(MILLISECOND, YEAR))
            .unwrap_or(Duration::from_secs(600)),
        max_lifetime: table
            .read(desk, "max_lifetime", duration_or_off(MILLISECOND, YEAR))
            .flatten(),
        keepalive: read_keepalive(desk, &mut table),
        user_timeout: read_user_timeout(desk, &mut table),
        on_down: read_loss(desk, &mut table, "on_down", lost_primary(&health.plan)),
        on_role_change: read_loss(desk, &mut table, "on_role_change", OnLoss::AT_ONCE),
        on_drain: read_loss(desk, &mut table, "on_drain", OnLoss::Keep),
        udp: read_udp(desk, &mut table, &health.plan, send_proxy),
        send_proxy,
        cancel: read_cancel(desk, &mut table),
        health: health.plan,
        tiers: read_tiers(desk, &mut table),
        breaker: read_breaker(desk, &mut table),
        warm: read_warm(desk, &mut table, send_proxy.is_some()),
        backends: Vec::new(),
    };
    let discovered = read_discovery(desk, &mut table);
    let backends = read_backends(desk, &mut table, discovered);
    check_backends(desk, &plan, &backends);
    table.finish(desk);
    PoolDraft {
        name: found_name,
        check_kind_given: health.kind_given,
        check_kind_at: health.kind_at,
        check_port_at: health.port_at,
        send_proxy_at,
        backends,
        plan,
    }
}

fn read_algorithm(desk: &mut Desk<'_>, table: &mut Section) -> Algorithm {
    table
        .read(desk, "algorithm", word(ALGORITHMS))
        .unwrap_or(Algorithm::LeastConnections)
}

fn read_hash_seed(desk: &mut Desk<'_>, table: &mut Section) -> u64 {
    let seed = table.read(desk, "hash_seed", whole(0..=i128::from(u64::MAX)));
    seed.unwrap_or(0)
}

fn read_hash_key(desk: &mut Desk<'_>, table: &mut Section) -> HashKey {
    let words = &[
        ("address", Some(HashKey::Address)),
        ("address-port", Some(HashKey::AddressPort)),
    ];
    table
        .read(desk, "hash_key", word(words))
        .unwrap_or(HashKey::Address)
}

fn read_source(desk: &mut Desk<'_>, table: &mut Section) -> Vec<IpAddr> {
    let found = table.read_list(desk, "source", false, "IP addresses", ip);
    let found = found.unwrap_or_default();
    found.into_iter().map(|address| address.value).collect()
}

/// The longest that a failover takes, with time to spare.
const FAILOVER: Duration = Duration::from_secs(30);

fn read_wait(desk: &mut Desk<'_>, pool: &mut Section, role: Option<Role>) -> WaitPlan {
    let path = pool.key("wait");
    let mut table = pool
        .table(desk, "wait")
        .unwrap_or_else(|| Section::absent(&path, pool.at()));
    let on_fin = &[("keep", Some(OnFin::Keep)), ("leave", Some(OnFin::Leave))];
    let plan = WaitPlan {
        size: table
            .read(desk, "size", whole(0..=1_048_576))
            .unwrap_or(1024),
        timeout: table
            .read(desk, "timeout", duration(MILLISECOND, DAY))
            .unwrap_or(match role {
                Some(_) => FAILOVER,
                None => Duration::from_secs(5),
            }),
        on_fin: table
            .read(desk, "on_fin", word(on_fin))
            .unwrap_or(OnFin::Keep),
    };
    table.finish(desk);
    plan
}

/// What is done by default with the sessions of a backend that goes down: those of a primary that is gone would wait for
/// it, while its successor serves.
fn lost_primary(health: &HealthPlan) -> OnLoss {
    match health.role() {
        Some(Role::Primary) => OnLoss::AT_ONCE,
        _ => OnLoss::Keep,
    }
}

fn read_loss(
    desk: &mut Desk<'_>,
    table: &mut Section,
    key: &'static str,
    default: OnLoss,
) -> OnLoss {
    table.read(desk, key, on_loss).unwrap_or(default)
}

/// `keep`, `close`, or `close over 10s`.
fn on_loss(value: &Value) -> Result<OnLoss, Refusal> {
    if let Value::Text(text) = value {
        match text.as_str() {
            "keep" => return Ok(OnLoss::Keep),
            "close" => {
                return Ok(OnLoss::Close {
                    over: Duration::ZERO,
                });
            }
            _ => {}
        }
        if let Some(over) = text.strip_prefix("close over ").and_then(duration_of)
            && over <= DAY
        {
            return Ok(OnLoss::Close { over });
        }
    }
    Refusal::allowed("keep | close | \"close over DURATION\" with a duration up to \"1d\"")
}

/// With `discovered` the backends come from elsewhere, and the file need not name any.
fn read_backends(desk: &mut Desk<'_>, pool: &mut Section, discovered: bool) -> Vec<BackendDraft> {
    const MISSING: &str = "no backend; allowed: at least one [[pool.backend]]";
    let present = pool.has("backend");
    let at = pool.place_of("backend");
    let tables = pool.tables(desk, "backend");
    let empty = !present || tables.as_ref().is_some_and(Vec::is_empty);
    if !discovered && empty {
        let key = pool.key("backend");
        desk.fault(at, &key, MISSING);
    }
    tables
        .unwrap_or_default()
        .into_iter()
        .map(|table| read_backend(desk, table))
        .collect()
}

pub(super) fn read_backend(desk: &mut Desk<'_>, mut table: Section) -> BackendDraft {
    let address = table.require(desk, "address", "HOST:PORT or unix:/PATH", backend_address);
    let name = if table.has("name") {
        table.read_located(desk, "name", name)
    } else {
        table.take("name");
        address.as_ref().map(|address| Located {
            value: address.value.to_string(),
            at: address.at,
        })
    };
    let draft = BackendDraft {
        name,
        address,
        weight: table.read(desk, "weight", whole(0..=1000)).unwrap_or(100),
        max_connections: table.read(desk, "max_connections", limit).flatten(),
        tier: table.read(desk, "tier", whole(0..=TIER_MAX)).unwrap_or(0),
    };
    table.finish(desk);
    draft
}
