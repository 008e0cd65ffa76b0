//! Tells the prober whom to watch, and the log what it found. How checks are made is the prober's business.

use std::sync::Arc;

use serde_json::json;

use crate::config::{
    self, BackendAddress, CheckKind, CheckPlan, HealthPlan, OnLoss, ProxyVersion, StepPlan,
};
use crate::handoff::{Health, Target};
use crate::ids::{Address, Clock, Role};
use crate::prober::{
    Announce, Check, Dns, Expect, Http, Mysql, OnDown, Postgres, Prober, Redis, Rules, SendExpect,
    Step, Target as Watched, Udp,
};

use super::board::Board;
use super::events::Kind;
use super::failure::Failure;
use super::world::{World, milliseconds, nanoseconds, target};

/// Starts the prober; it watches nothing yet.
///
/// # Errors
/// No thread or no ring, with the remedy.
pub fn start(board: &Arc<Board>, clock: Clock) -> Result<(), Failure> {
    let prober = Prober::start(Arc::clone(&board.hatches), clock).map_err(|error| {
        Failure::CannotStart(format!(
            "the prober cannot start: {error}: io_uring must be allowed (sysctl kernel.io_uring_disabled = 0, no \
             seccomp filter on io_uring_setup) and locked memory not too small (ulimit -l, LimitMEMLOCK=)"
        ))
    })?;
    board.set_prober(Some(prober));
    Ok(())
}

/// Everyone in the world that the prober is to watch.
#[must_use]
pub fn targets(world: &World) -> Vec<Watched> {
    let mut targets = Vec::new();
    for (p, pool) in world.plan.pools.iter().enumerate() {
        for (b, backend) in pool.backends.iter().enumerate() {
            let port = world.plan.check_port(p, b);
            let address = target(&backend.address, &world.resolved).ok();
            targets.push(Watched {
                backend: Arc::clone(&world.backends[p][b]),
                address: address.and_then(|target| check_address(target, port)),
                rules: pool.health.check().map(rules),
                check: check(&pool.health, &backend.address),
                on_down: on_loss(pool.on_down),
                source: pool.source.first().copied(),
                announce: match pool.send_proxy {
                    None => Announce::Off,
                    Some(ProxyVersion::One) => Announce::V1,
                    Some(ProxyVersion::Two) => Announce::V2,
                },
                asked: pool.health.role().unwrap_or(Role::Unknown),
                on_role_change: on_loss(pool.on_role_change),
                has_weight: backend.weight > 0,
            });
        }
    }
    targets
}

fn on_loss(rule: OnLoss) -> OnDown {
    match rule {
        OnLoss::Keep => OnDown::Keep,
        OnLoss::Close { over } => OnDown::Close {
            over_ms: milliseconds(over),
        },
    }
}

/// Where a check connects to: the backend's address, at the port for checks.
fn check_address(target: Target, port: Option<u16>) -> Option<Address> {
    match target {
        Target::Fixed(Address::Inet(mut address)) => {
            address.set_port(port.unwrap_or(address.port()));
            Some(Address::Inet(address))
        }
        Target::Fixed(unix) => Some(unix),
        // Without a port of its own there is always one of a listener's: the front desk has seen to it.
        Target::ListenerPort { host, .. } => port.map(|port| Address::Inet((host, port).into())),
        Target::Unresolved => None,
    }
}

/// What the prober is to say and to hear.
fn check(health: &HealthPlan, address: &BackendAddress) -> Check {
    let Some(plan) = health.check() else {
        return Check::Tcp;
    };
    match &plan.kind {
        CheckKind::Tcp => Check::Tcp,
        CheckKind::SendExpect(steps) => {
            let steps = steps.iter().map(step).collect();
            Check::SendExpect(Arc::new(SendExpect { steps }))
        }
        CheckKind::Http(http) => {
            let host = match (&http.host, address) {
                (Some(host), _) => host.clone(),
                (None, BackendAddress::Fixed(Address::Unix(_))) => "localhost".to_owned(),
                (None, BackendAddress::ListenerPort { host, .. }) => host.to_string(),
                (None, address) => address.to_string(),
            };
            Check::Http(Arc::new(Http::new(
                http.method,
                &http.path,
                &host,
                &http.status,
            )))
        }
        CheckKind::Postgres(login) => Check::Postgres(Arc::new(Postgres::new(
            login.user.as_deref(),
            login.password.as_ref(),
            login.database.as_deref(),
        ))),
        CheckKind::Mysql(login) => Check::Mysql(Arc::new(Mysql::new(
            login.user.as_deref(),
            login.password.as_ref(),
            login.database.as_deref(),
        ))),
        CheckKind::Redis(login) => Check::Redis(Arc::new(Redis::new(
            login.user.as_deref(),
            login.password.as_ref(),
            login
                .database
                .as_ref()
                .and_then(|number| number.parse().ok()),
            login.role.is_some(),
        ))),
        CheckKind::Dns(dns) => Check::Dns(Arc::new(Dns {
            name: dns.name.clone(),
            record: dns.record,
        })),
        CheckKind::Udp(udp) => Check::Udp(Arc::new(Udp {
            send: udp.send.0.clone(),
            expect: udp.expect.as_ref().map(|said| said.0.clone()),
        })),
    }
}

fn step(plan: &StepPlan) -> Step {
    Step {
        send: plan.send.0.clone(),
        expect: plan.expect.as_ref().map(|expect| match expect {
            config::Expect::Bytes(said) => Expect::Bytes(said.0.clone()),
            config::Expect::Pattern(pattern) => Expect::Pattern(pattern.0.clone()),
        }),
    }
}

fn rules(check: &CheckPlan) -> Rules {
    Rules {
        interval_ns: nanoseconds(check.interval),
        fast_interval_ns: nanoseconds(check.fast_interval),
        timeout_ns: nanoseconds(check.timeout),
        rise: check.rise,
        fall: check.fall,
    }
}

/// One line per change of health, and one for a failed check that changes nothing: the prober has seen to it that there
/// are few of those.
pub fn log_changes(board: &Board) {
    for complaint in board.check_complaints() {
        let backend = &complaint.backend;
        log::warn!(
            "backend {}/{} stays {} for now: {}",
            backend.pool,
            backend.name,
            complaint.health.word(),
            complaint.reason
        );
    }
    for change in board.health_changes() {
        let backend = &change.backend;
        let level = match change.to {
            Health::Up | Health::Unknown => log::Level::Info,
            Health::Down | Health::Ejected | Health::WrongRole => log::Level::Warn,
        };
        log::log!(
            level,
            "backend {}/{} is {}, was {}: {}",
            backend.pool,
            backend.name,
            change.to.word(),
            change.from.word(),
            change.reason
        );
        let data = json!({
            "pool": backend.pool,
            "backend": backend.name,
            "what": "health",
            "from": change.from.word(),
            "to": change.to.word(),
            "reason": change.reason.to_string(),
        });
        board.events.tell(Kind::Backend, data);
    }
}
