//! What flows tell the breaker of their backend. A refusal (its host answers that nobody listens) is what a failed connect
//! is to a session; the first answer proves the backend. Silence says nothing: many a service never answers.

use std::sync::Arc;

use crate::ids::{ConnectFailure, FlowKey};
use crate::uring::Kernel;
use crate::worker::engine::Worker;

impl<K: Kernel> Worker<K> {
    /// The backend's host or port has answered with an error.
    pub(super) fn blame_flow(&mut self, flow: FlowKey, failure: ConnectFailure) {
        let now = self.now;
        let Some(tenant) = self.flows.table.get_mut(flow) else {
            return;
        };
        tenant.unproven = false;
        let trial = tenant.trial.take();
        let (Some(pool), Some(backend)) = (
            self.world.pool(tenant.pool).map(Arc::clone),
            tenant.backend.as_ref().map(Arc::clone),
        ) else {
            return;
        };
        let Some(rules) = pool.breaker else {
            if let Some(trial) = trial {
                backend.verdict.breaker.trial_void(trial);
            }
            return;
        };
        backend.of(self.world.worker).connect_faults.add(1);
        self.hatches.failure_bell.ring();
        let was = backend.verdict.health();
        let breaker = &backend.verdict.breaker;
        if let Some(trial) = trial {
            let change = breaker.trial_failed(trial, &rules, now);
            self.after_trial(&backend, change, was);
        } else {
            let call = breaker.connect_failed(failure, &rules);
            self.obey_breaker(&pool, &rules, call);
        }
    }

    /// The backend has answered the flow for the first time.
    #[cold]
    pub(super) fn prove_flow(&mut self, flow: FlowKey) {
        let now = self.now;
        let Some(tenant) = self.flows.table.get_mut(flow) else {
            return;
        };
        tenant.unproven = false;
        let trial = tenant.trial.take();
        let Some(backend) = tenant.backend.as_ref().map(Arc::clone) else {
            return;
        };
        backend.of(self.world.worker).connects.add(1);
        let breaker = &backend.verdict.breaker;
        breaker.connected();
        breaker.proven();
        if let Some(trial) = trial {
            let was = backend.verdict.health();
            let change = breaker.trial_passed(trial, now);
            self.after_trial(&backend, change, was);
        }
    }
}
