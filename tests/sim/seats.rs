//! What pools and backends of the simulated office are drawn from, and what the snapshot says of them. Chance alone decides;
//! when it is asked is `office`'s business.

use std::sync::Arc;

use ringway::balance::{Algorithm, Chooser};
use ringway::handoff::{
    Backend, BackendOptions, BackendShared, BreakerRules, BreakerState, FlowRules, Keepalive, Pool,
    PoolShared, SessionTimes, WaitRules, Waiters,
};
use ringway::ids::{BackendId, End, PoolId};

use crate::counts::Fault;
use crate::net::Net;
use crate::random::Random;
use crate::tiers::draw_rules;
use crate::weather::Weather;

use super::{
    BackendSeat, CONNECT_BUDGET_MOST_NS, CONNECT_TIMEOUT_MOST_NS, IDLE_LEAST_NS, LIFETIME_LEAST_NS,
    MILLISECOND, Mood, Office, PoolSeat, WAIT_MOST_NS,
};

/// One trial at a time: at the end it must be free again.
pub(super) const BREAKER: BreakerRules = BreakerRules {
    consecutive_failures: 1,
    early_reset_ns: 50 * MILLISECOND,
    error_percent: 0,
    window_ns: 1_000 * MILLISECOND,
    volume: 1,
    open_ns: 100 * MILLISECOND,
    open_max_ns: 400 * MILLISECOND,
    trials: 1,
    max_ejected_percent: 70,
};

impl BackendSeat {
    pub(super) fn draw(
        id: usize,
        pool: usize,
        random: &mut Random,
        weather: &Weather,
    ) -> BackendSeat {
        let name = format!("b{id}");
        let shared = BackendShared::new(
            BackendId(id as u16),
            "p",
            &name,
            random.chance(700),
            weather.workers as u16,
        );
        BackendSeat {
            shared: Arc::new(shared),
            pool,
            present: random.chance(900),
            weight: random.pick(&[1, 100, 100]),
            tier: random.pick(&[0, 0, 0, 1, 2]),
            target: Office::draw_target(id, random, weather),
            mood: Mood::Fine,
            limit_since: 0,
            limit_changed_at: 0,
            breaker_seen: (BreakerState::Closed, true),
            changed_at: 0,
            evicted_as: Vec::new(),
        }
    }

    pub(super) fn evict(&mut self, end: End, net: &mut Net) {
        net.hit(Fault::Evicted);
        self.evicted_as.push(end);
        let over_ms = net.random.pick(&[0, 0, 20, 300]);
        self.shared.verdict.evict(end, over_ms);
    }
}

impl PoolSeat {
    pub(super) fn draw(id: usize, random: &mut Random, workers: u16) -> PoolSeat {
        let mut seat = PoolSeat {
            shared: Arc::new(PoolShared::new(PoolId(id as u16), "p", workers)),
            present: true,
            waiters: Arc::new(Waiters::new(random.pick(&[0, 2, 8, 64, 64]))),
            algorithm: Algorithm::First,
            wait: WaitRules {
                timeout_ns: 0,
                leave_on_fin: false,
            },
            times: SessionTimes::default(),
            connect_timeout_ns: 0,
            connect_attempts: 1,
            connect_budget_ns: 0,
            looks_first: random.chance(250),
            tier_rules: draw_rules(random),
            tiers_changed_at: 0,
            slow_start_ns: 0,
            warm: false,
            breaker: None,
        };
        seat.redraw(random);
        seat
    }

    pub(super) fn redraw(&mut self, random: &mut Random) {
        self.algorithm = random.pick(&[
            Algorithm::RoundRobin,
            Algorithm::LeastConnections,
            Algorithm::LeastConnections,
            Algorithm::PowerOfTwo,
            Algorithm::Random,
            Algorithm::First,
            Algorithm::SourceHash,
            Algorithm::Maglev,
            Algorithm::LeastLatency,
        ]);
        self.tier_rules = draw_rules(random);
        self.warm = random.chance(400);
        self.slow_start_ns = random.pick(&[0, 0, 500 * MILLISECOND]);
        self.wait = WaitRules {
            timeout_ns: random.between(20 * MILLISECOND, WAIT_MOST_NS),
            leave_on_fin: random.chance(300),
        };
        self.connect_timeout_ns = random.between(5 * MILLISECOND, CONNECT_TIMEOUT_MOST_NS);
        self.connect_attempts = random.between(1, 5) as u8;
        self.connect_budget_ns = random.between(20 * MILLISECOND, CONNECT_BUDGET_MOST_NS);
        self.breaker = random.chance(700).then_some(BREAKER);
        let mut sometimes = |least: u64, most: u64| match random.chance(400) {
            true => random.between(least, most),
            false => 0,
        };
        self.times = SessionTimes {
            idle_ns: sometimes(IDLE_LEAST_NS, 3_000 * MILLISECOND),
            half_close_ns: sometimes(IDLE_LEAST_NS, 2_000 * MILLISECOND),
            lifetime_ns: sometimes(LIFETIME_LEAST_NS, 4_000 * MILLISECOND),
        };
    }

    pub fn queue(&self) -> &Arc<Waiters> {
        &self.waiters
    }

    pub(super) fn compose(&self, chooser: Chooser, own: &[&BackendSeat]) -> Pool {
        let backends = own.iter().map(|seat| Backend {
            shared: Arc::clone(&seat.shared),
            target: seat.target.clone(),
            weight: seat.weight,
            tier: seat.tier,
        });
        let tiers = own.iter().fold(0, |all, seat| all | 1u16 << seat.tier);
        Pool {
            shared: Arc::clone(&self.shared),
            chooser,
            hash_seed: 7,
            hash_port: true,
            backends: backends.collect(),
            tiers,
            slow_start_ns: self.slow_start_ns,
            source: Vec::new(),
            waiters: Arc::clone(&self.waiters),
            wait: self.wait,
            connect_timeout_ns: self.connect_timeout_ns,
            connect_attempts: self.connect_attempts,
            connect_budget_ns: self.connect_budget_ns,
            times: self.times,
            flow_rules: FlowRules::default(),
            doubts: false,
            options: BackendOptions {
                keepalive: Some(Keepalive {
                    idle_s: 60,
                    interval_s: 10,
                    count: 3,
                }),
                user_timeout_ms: 0,
            },
            breaker: self.breaker,
            send_proxy: None,
            send_proxy_every: false,
            // What clients say is no cancel request, but it must be looked at to know that.
            cancel: self.looks_first,
        }
    }
}
