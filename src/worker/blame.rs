//! What sessions tell the breaker of their backend: an attempt that failed by no fault of ours, a reset before the first
//! byte, a backend that has proved itself. Once per attempt, never per byte: a session that has proved its backend is asked
//! nothing more.
//!
//! What a client can bring about does not count: its own leaving, an end that it sent before, bytes that it holds back. Who
//! hands a half-open breaker's trial back without a word is `choosing`.

use std::sync::Arc;

use crate::handoff::{
    BackendShared, BreakerRules, BreakerState, Call, Change, Health, Notice, Pool, client_number,
};
use crate::ids::{ConnectFailure, End, Nanos, SessionKey, Side, StreamKey};
use crate::session::Phase;
use crate::uring::Kernel;

use super::engine::Worker;
use super::tenant::Tenant;
use super::world::World;

/// Whom a session's attempt is about.
struct Suspect {
    pool: Arc<Pool>,
    rules: BreakerRules,
    backend: Arc<BackendShared>,
}

impl Suspect {
    /// `None`: the pool has no breakers, or is gone.
    fn of(world: &World, tenant: &Tenant) -> Option<Suspect> {
        let pool = world.pool(tenant.pool)?;
        Some(Suspect {
            rules: pool.breaker?,
            backend: Arc::clone(&world.backend(tenant.backend?)?.shared),
            pool: Arc::clone(pool),
        })
    }
}

impl<K: Kernel> Worker<K> {
    /// The session has a connection: one of its own, or a warm one.
    pub(super) fn note_attempt(&mut self, key: SessionKey) {
        let now = self.now;
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        let Some(backend) = tenant.backend.and_then(|id| self.world.backend(id)) else {
            return;
        };
        let counters = backend.shared.of(self.world.worker);
        counters.connects.add(1);
        let is_warm = tenant.handout.is_some();
        if !is_warm {
            counters.connect_ns.add(now.since(tenant.connect_began));
        }
        let pool = self.world.pool(tenant.pool);
        let Some(rules) = pool.and_then(|pool| pool.breaker) else {
            return;
        };
        (tenant.unproven, tenant.connected_at) = (true, now);
        if is_warm {
            return;
        }
        let breaker = &backend.shared.verdict.breaker;
        breaker.connected();
        if tenant.trial.is_some() || breaker.is_suspected() {
            tenant.prove_at = now.after(rules.early_reset_ns);
        }
    }

    /// The attempt failed. It is the backend's fault unless something of ours ran out, its client left, or it had less
    /// than its time.
    pub(super) fn blame(&mut self, key: SessionKey, failure: ConnectFailure) {
        let now = self.now;
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        let Some(suspect) = Suspect::of(&self.world, tenant) else {
            return;
        };
        let took = now.since(tenant.connect_began);
        let hasty = failure == ConnectFailure::Timeout && took < suspect.pool.connect_timeout_ns;
        let ours = matches!(failure, ConnectFailure::Ports | ConnectFailure::Resources);
        if ours || hasty || tenant.session.phase() != Phase::Connecting {
            return;
        }
        let counters = suspect.backend.of(self.world.worker);
        counters.connect_faults.add(1);
        self.hatches.failure_bell.ring();
        let (breaker, rules) = (&suspect.backend.verdict.breaker, &suspect.rules);
        let was = suspect.backend.verdict.health();
        if let Some(trial) = tenant.trial.take() {
            let change = breaker.trial_failed(trial, rules, now);
            self.after_trial(&suspect.backend, change, was);
        } else {
            let call = breaker.connect_failed(failure, rules);
            self.obey_breaker(&suspect.pool, rules, call);
        }
    }

    /// The session's client is about to be closed. If that is because the backend reset it early, the breaker hears of it.
    pub(super) fn note_early_reset(&mut self, client: StreamKey) {
        let now = self.now;
        let Some(tenant) = self.slots.get_mut(client.session) else {
            return;
        };
        let own_end = tenant.session.pump(Side::Client).is_ended();
        if !tenant.unproven
            || tenant.handout.is_some()
            || tenant.session.end() != Some(End::BackendReset)
            || own_end
        {
            return;
        }
        let Some(suspect) = Suspect::of(&self.world, tenant) else {
            return;
        };
        let rules = &suspect.rules;
        if now.since(tenant.connected_at) >= rules.early_reset_ns {
            return;
        }
        (tenant.unproven, tenant.prove_at) = (false, Nanos::NEVER);
        let address = tenant.client.or_else(|| self.kernel.peer_of(client));
        let number = client_number(address.map(|address| address.ip()));
        let counters = suspect.backend.of(self.world.worker);
        counters.early_resets.add(1);
        let (breaker, was) = (
            &suspect.backend.verdict.breaker,
            suspect.backend.verdict.health(),
        );
        if let Some(trial) = tenant.trial {
            // If it does not fail, it is void when the session leaves its backend.
            let change = breaker.trial_reset(trial, number, rules, now);
            self.after_trial(&suspect.backend, change, was);
        } else {
            let faults = breaker.errors_of_reset(number, now, rules);
            counters.reset_faults.add(faults);
            self.hatches.failure_bell.ring();
            let call = breaker.reset_early(number, rules);
            self.obey_breaker(&suspect.pool, rules, call);
        }
    }

    /// The backend has answered the session, or has kept it long enough.
    #[cold]
    pub(super) fn prove(&mut self, key: SessionKey) {
        let now = self.now;
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        (tenant.unproven, tenant.prove_at) = (false, Nanos::NEVER);
        let trial = tenant.trial.take();
        let Some(backend) = tenant.backend.and_then(|id| self.world.backend(id)) else {
            return;
        };
        let breaker = &backend.shared.verdict.breaker;
        breaker.proven();
        if let Some(trial) = trial {
            let was = backend.shared.verdict.health();
            let shared = Arc::clone(&backend.shared);
            let change = shared.verdict.breaker.trial_passed(trial, now);
            self.after_trial(&shared, change, was);
        }
    }

    pub(super) fn prove_if_due(&mut self, key: SessionKey) {
        let now = self.now;
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        if now < tenant.prove_at {
            return;
        }
        tenant.prove_at = Nanos::NEVER;
        let end = tenant.session.end();
        let whole = matches!(end, None | Some(End::ClientFin | End::BackendFin));
        if whole && tenant.session.phase() == Phase::Relaying {
            self.prove(key);
        }
    }

    pub(super) fn obey_breaker(&self, pool: &Pool, rules: &BreakerRules, call: Call) {
        match call {
            Call::Open => {
                let referee = &pool.shared.referee;
                referee.decide(&pool.backends, rules, self.now, &self.hatches.notices);
            }
            // The prober looks for those who want one.
            Call::Check | Call::Nothing => {}
        }
    }

    /// Tells of what a trial has changed; who waits may have a place now.
    pub(super) fn after_trial(
        &self,
        backend: &Arc<BackendShared>,
        change: Option<Change>,
        was: Health,
    ) {
        let Some(change) = change else {
            return;
        };
        if change.to == BreakerState::Closed {
            backend.rises(self.now);
        }
        let notice = Notice::new(backend, change, was, self.now);
        self.hatches.notices.push(notice);
        self.hatches.ring();
    }
}
