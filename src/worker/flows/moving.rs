//! Flows over an upgrade: they leave with their sockets for the successor, which goes on with them. In two steps, each with
//! a snapshot: first nothing more is received, so that what was received already is passed on as ever; then flows are given
//! out. They stay in the table, in case that the successor comes to nothing; when it serves they are forgotten.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::handoff::{Holdings, ListenerShared, MovingFlow};
use crate::ids::{Caller, End, FlowKey};
use crate::session::Progress;
use crate::uring::Kernel;
use crate::worker::engine::Worker;

use super::announcing::Announcing;
use super::life::{lifetime_end, rules_of};
use super::tenant::FlowTenant;

/// How far a hand-over has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Leaving {
    #[default]
    Not,
    /// Nothing more is received.
    Quiet,
    GivenOut,
    /// The successor serves.
    Gone,
}

impl<K: Kernel> Worker<K> {
    /// The next step of a hand-over.
    pub(super) fn hand_over_flows(&mut self) {
        self.flows.leaving = match self.flows.leaving {
            Leaving::Not => {
                for local in self.flows.sockets.iter().filter(|local| local.open) {
                    self.kernel.pause_datagrams(local.socket.id);
                }
                self.flows.paused.clear();
                Leaving::Quiet
            }
            Leaving::Quiet | Leaving::GivenOut => {
                self.give_out_flows();
                Leaving::GivenOut
            }
            Leaving::Gone => Leaving::Gone,
        };
    }

    fn give_out_flows(&mut self) {
        let slots = 0..self.flows.table.extent();
        let given = slots.filter_map(|slot| {
            let flow = self.flows.table.at(slot).map(|(flow, _)| flow)?;
            self.give_out(flow)
        });
        let given = given.collect();
        self.hatch.moving.give_out(given);
    }

    /// One without a socket or a backend is not worth a move: its next datagram begins it anew.
    fn give_out(&mut self, flow: FlowKey) -> Option<MovingFlow> {
        let caller = self.flows.table.caller(flow)?;
        let progress = self.flows.table.progress(flow)?;
        let backend = self.flows.table.get(flow)?.backend.clone()?;
        let socket = self.kernel.hand_out_flow(flow)?;
        let tenant = self.flows.table.get_mut(flow)?;
        tenant.given_out = true;
        Some(MovingFlow {
            socket,
            listener: Arc::clone(&tenant.listener),
            at: caller.socket,
            client: caller.client,
            local: caller.local,
            pool: tenant.pool,
            backend,
            holdings: Holdings {
                backend: tenant.backend_reserved,
                listener: tenant.listener_reserved,
                process: tenant.process_reserved,
                pool: tenant.pool_reserved,
            },
            id: tenant.id,
            port: tenant.port,
            hash: tenant.hash,
            opened: tenant.opened,
            last: progress.last,
            kill_at: tenant.kill_at,
            kill_as: tenant.kill_as,
            requests: progress.requests,
            responses: progress.responses,
            answered: progress.answered,
            attempts: tenant.attempts,
            bytes: tenant.bytes,
            datagrams: tenant.datagrams,
            announced: tenant.announcing == Announcing::Done,
        })
    }

    /// The successor came to nothing: everything goes on here.
    pub(super) fn take_flows_back(&mut self) {
        if std::mem::take(&mut self.flows.leaving) == Leaving::Not {
            return;
        }
        for slot in 0..self.flows.table.extent() {
            let Some(flow) = self.flows.table.at(slot).map(|(flow, _)| flow) else {
                continue;
            };
            if let Some(tenant) = self.flows.table.get_mut(flow)
                && std::mem::take(&mut tenant.given_out)
            {
                self.kernel.take_back_flow(flow);
            }
        }
        for local in self.flows.sockets.iter().filter(|local| local.open) {
            self.kernel.resume_datagrams(local.socket.id);
        }
    }

    /// The successor serves: what was given out is its own, and so are the sockets of listeners. False if nothing was.
    pub(super) fn leave_flows_to_successor(&mut self) -> bool {
        match self.flows.leaving {
            Leaving::Not => return false,
            Leaving::Gone => {}
            Leaving::Quiet | Leaving::GivenOut => self.forget_given_out(),
        }
        self.flows.leaving = Leaving::Gone;
        true
    }

    /// The successor serves: what was given out is its own.
    fn forget_given_out(&mut self) {
        for slot in 0..self.flows.table.extent() {
            let flow = self.flows.table.at(slot);
            let given = flow.filter(|(_, tenant)| tenant.given_out);
            if let Some(flow) = given.map(|(flow, _)| flow) {
                self.forget(flow);
            } else if let Some((flow, _)) = self.flows.table.at(slot) {
                // No descriptor was left to give it out, or it had no socket: its next datagram begins it anew.
                self.end_flow(flow, End::Resources);
            }
        }
        // Kept here, they would stay bound when the successor lets go of them, and swallow what comes.
        for local in self.flows.sockets.drain(..).filter(|local| local.open) {
            self.kernel.close_datagrams(local.socket.id);
        }
        self.flows.paused.clear();
    }

    /// It lives on elsewhere: nothing ends here. What it holds of limits the successor takes over by itself.
    fn forget(&mut self, flow: FlowKey) {
        self.kernel.close_flow(flow);
        self.flows.timers.clear(flow.slot);
        let Some(mut tenant) = self.flows.table.remove(flow) else {
            return;
        };
        let worker = self.world.worker;
        tenant.listener.of(worker).flows_active.sub(1);
        if let Some(backend) = tenant.backend.take() {
            backend.of(worker).active.fetch_sub(1, Ordering::Relaxed);
            if let Some(trial) = tenant.trial {
                backend.verdict.breaker.trial_void(trial);
            }
        }
        if let Some(place) = tenant.source {
            self.hatches.sources.release(place);
        }
    }

    /// There is no room for it here: what it holds is free.
    fn let_go(&self, moving: &MovingFlow) {
        let Holdings {
            backend,
            listener,
            process,
            pool,
        } = moving.holdings;
        if backend {
            moving.backend.capacity.release();
        }
        if listener {
            moving.listener.capacity.release();
        }
        if process {
            self.process.release();
        }
        if pool && let Some(pool) = self.world.pool(moving.pool) {
            pool.shared.flows.release();
        }
        self.hatch.counters.flows_crowded_out.add(1);
    }

    /// Goes on with what the process before has given out, before anything is received.
    pub(super) fn adopt_flows(&mut self) {
        for moving in self.hatch.moving.take() {
            self.adopt_flow(moving);
        }
    }

    fn adopt_flow(&mut self, moving: MovingFlow) {
        let MovingFlow {
            listener,
            backend,
            pool: pool_id,
            ..
        } = &moving;
        let (listener, backend, pool_id) = (Arc::clone(listener), Arc::clone(backend), *pool_id);
        let pool = self.world.pool(pool_id);
        let Some(pool) = pool.filter(|_| !self.flows.table.is_full()) else {
            self.let_go(&moving);
            return;
        };
        let rules = rules_of(pool);
        let lifetime_end = lifetime_end(pool, moving.opened, moving.id);
        let caller = Caller {
            socket: moving.at,
            client: moving.client,
            local: moving.local,
        };
        let mut tenant = tenant_of(&moving, listener);
        tenant.lifetime_end = lifetime_end;
        let worker = self.world.worker;
        tenant.listener.of(worker).flows_active.add(1);
        backend.of(worker).active.fetch_add(1, Ordering::Relaxed);
        tenant.backend = Some(backend);
        let table = &mut self.flows.table;
        let group = pool_id.index();
        let Ok(flow) = table.insert(caller, group, rules, tenant, self.now) else {
            return;
        };
        table.go_on_from(
            flow,
            Progress {
                last: moving.last,
                requests: moving.requests,
                responses: moving.responses,
                answered: moving.answered,
            },
        );
        self.begin_announcing(flow);
        if let Some(tenant) = self.flows.table.get_mut(flow)
            && moving.announced
            && tenant.announcing == Announcing::Due
        {
            tenant.announcing = Announcing::Done;
        }
        // Without its socket the flow goes on with a new one.
        let outlet = self.kernel.adopt_flow(flow, moving.socket).ok();
        if let Some(tenant) = self.flows.table.get_mut(flow) {
            tenant.outlet = outlet;
        }
        self.count_on_socket(moving.at, 1);
        self.set_flow_timer(flow);
    }
}

/// As it was in the process before, but for its backend.
fn tenant_of(moving: &MovingFlow, listener: Arc<ListenerShared>) -> FlowTenant {
    let mut tenant = FlowTenant::new(
        moving.id,
        listener,
        moving.pool,
        moving.client,
        moving.opened,
    );
    (tenant.port, tenant.hash) = (moving.port, moving.hash);
    (tenant.kill_at, tenant.kill_as) = (moving.kill_at, moving.kill_as);
    tenant.attempts = moving.attempts;
    (tenant.bytes, tenant.datagrams) = (moving.bytes, moving.datagrams);
    tenant.backend_reserved = moving.holdings.backend;
    tenant.listener_reserved = moving.holdings.listener;
    tenant.process_reserved = moving.holdings.process;
    tenant.pool_reserved = moving.holdings.pool;
    tenant
}
