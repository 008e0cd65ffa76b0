//! Tells the prober which backends are to have warm connections, and the log what there is to say of them. How they are
//! kept is the prober's business.

use std::sync::Arc;

use crate::config::{Algorithm, Protocol, WarmPlan};
use crate::handoff::{Phase, Target, WarmProfile};
use crate::ids::Address;
use crate::prober::{WarmNoticeKind, WarmOrder};

use super::board::Board;
use super::world::{World, milliseconds, nanoseconds, target};

/// Every backend that is to have some. None while the process leaves: no session will come.
#[must_use]
pub fn orders(world: &World, phase: Phase) -> Vec<WarmOrder> {
    let mut orders = Vec::new();
    if phase != Phase::Serving {
        return orders;
    }
    for (p, pool) in world.plan.pools.iter().enumerate() {
        let Some(warm) = &pool.warm else {
            continue;
        };
        let mut listeners = world.plan.listeners.iter();
        if !listeners.any(|it| it.pool == p && it.protocol == Protocol::Tcp) {
            // Only sessions use connections.
            continue;
        }
        for (b, backend) in pool.backends.iter().enumerate() {
            orders.push(WarmOrder {
                backend: Arc::clone(&world.backends[p][b]),
                address: address_of(target(&backend.address, &world.resolved).ok()),
                sources: pool.source.clone(),
                size: warm.size,
                max_age_ns: nanoseconds(warm.max_age),
                profile: profile(warm),
                connect_timeout_ns: nanoseconds(pool.connect_timeout),
                user_timeout_ms: milliseconds(pool.user_timeout.unwrap_or_default()),
                measured: pool.algorithm == Algorithm::LeastLatency,
                open: backend.weight > 0,
                waiters: world.waiters(p),
            });
        }
    }
    orders
}

/// The front desk has seen to it that none needs a client's port.
fn address_of(target: Option<Target>) -> Option<Address> {
    match target? {
        Target::Fixed(address) => Some(address),
        Target::ListenerPort { .. } | Target::Unresolved => None,
    }
}

fn profile(warm: &WarmPlan) -> WarmProfile {
    match warm.profile {
        crate::config::WarmProfile::Generic => WarmProfile::Generic,
        crate::config::WarmProfile::Postgres => WarmProfile::Postgres,
        crate::config::WarmProfile::Mysql => WarmProfile::Mysql,
        crate::config::WarmProfile::Redis => WarmProfile::Redis,
    }
}

/// One line for each thing that the operator should know.
pub fn log_notices(board: &Board) {
    for notice in board.warm_notices() {
        let (pool, name) = (&notice.backend.pool, &notice.backend.name);
        match notice.kind {
            WarmNoticeKind::Young { age_ns } => log::warn!(
                "backend {pool}/{name} closed an idle warm connection after {:.1} s: they are replaced earlier from now \
                 on; set pool.warm.max_age to a third of the server's own limit",
                age_ns as f64 / 1e9
            ),
            WarmNoticeKind::Refused => log::warn!(
                "backend {pool}/{name} greets warm connections with an error: it is full, or blocks this host"
            ),
        }
    }
}
