//! A flow's life: admission, its backends one after the other, and its end, with everything that is counted on the way.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::handoff::{Capacity, Eviction, ListenerShared, Milestone, Phase, Pool, Reservation};
use crate::ids::{
    BackendId, Caller, ConnectFailure, Drop, End, FlowKey, Nanos, Refusal, Side, SocketId, millis,
};
use crate::session::FlowRules;
use crate::uring::{Datagram, Kernel, Undelivered};
use crate::worker::admission::Admission;
use crate::worker::choosing::{Reserved, reserve};
use crate::worker::ending::{jittered, spread};
use crate::worker::engine::Worker;

use super::TRIM_NS;
use super::tenant::FlowTenant;

/// Backends that one datagram tries at most.
const TRIES: usize = 4;
/// How long a flow that was given out is left alone.
const GIVEN_OUT_NS: u64 = millis(1_000);
/// Flows that go at most for one socket: some may have none themselves.
const VICTIMS: usize = 8;
/// Sockets that are given up at most for one newcomer, where there are too many altogether.
const SHED_MAX: u32 = 64;

/// What has no room for one more flow.
enum Crowded {
    Pool,
    Worker,
}

impl<K: Kernel> Worker<K> {
    /// A client that has no flow writes: the limits in order, then a place in the table. Its backend is chosen by whoever
    /// called. `None`: it is turned away, and counted.
    pub(super) fn begin_flow(&mut self, caller: Caller, datagram: &Datagram) -> Option<FlowKey> {
        match self.admit_flow(caller) {
            Ok(flow) => Some(flow),
            Err(why) => {
                self.count_drop_at(caller.socket, why, datagram.count());
                None
            }
        }
    }

    fn admit_flow(&mut self, caller: Caller) -> Result<FlowKey, Drop> {
        let mut sockets = self.flows.sockets.iter();
        let local = sockets.find(|local| local.socket.id == caller.socket);
        let local = local.filter(|local| !local.leaving).ok_or(Drop::Shutdown)?;
        let (listener, pool_id) = (Arc::clone(&local.listener), local.pool);
        let port = local.socket.address.inet().map_or(0, |own| own.port());
        // What was received before the hand-over is served as ever.
        if matches!(self.world.phase, Phase::Draining { .. }) {
            return Err(Drop::Shutdown);
        }
        let pool = self.world.pool(pool_id).cloned().ok_or(Drop::NoBackend)?;
        let admission = self.admit_client(&listener, caller.client.ip())?;
        let Some((of_pool, of_process)) = self.make_room(&pool) else {
            self.withdraw(listener.id, &admission);
            return Err(Drop::TableFull);
        };
        self.flows.begun += 1;
        let hash = self.hash_of(pool_id, Some(caller.client));
        // Beside the sessions of the same worker: the upper half of the running numbers is the flows'.
        let id = u64::from(self.world.worker.0) << 48 | 1 << 47 | self.flows.begun;
        let mut tenant = FlowTenant::new(id, listener, pool_id, caller.client, self.now);
        (tenant.port, tenant.hash) = (port, hash);
        tenant.listener_reserved = admission.listener_reserved;
        tenant.source = admission.source;
        tenant.process_reserved = of_process == Reservation::Held;
        tenant.pool_reserved = of_pool == Reservation::Held;
        tenant.lifetime_end = lifetime_end(&pool, tenant.opened, id);
        let counters = tenant.listener.of(self.world.worker);
        counters.flows_active.add(1);
        counters.flows_total.add(1);
        let table = &mut self.flows.table;
        let begun = table.insert(caller, pool_id.index(), rules_of(&pool), tenant, self.now);
        let flow = begun.map_err(|_| Drop::TableFull)?;
        self.count_on_socket(caller.socket, 1);
        self.set_flow_timer(flow);
        Ok(flow)
    }

    /// The listener's own limits, as for sessions.
    fn admit_client(&self, listener: &ListenerShared, client: IpAddr) -> Result<Admission, Drop> {
        let local = self.world.listener(listener.id).ok_or(Drop::Shutdown)?;
        let sources = &self.hatches.sources;
        local.admit(sources, Some(client), self.now).map_err(|why| {
            listener.of(self.world.worker).refused[why.index()].add(1);
            match why {
                Refusal::Denied => Drop::Denied,
                _ => Drop::Limited,
            }
        })
    }

    /// Room in the table, the pool's limit and the process's: a full one lets its least worthy flow go, a pool's limit one
    /// of the pool's own. `None` if even that does not help.
    fn make_room(&mut self, pool: &Pool) -> Option<(Reservation, Reservation)> {
        for _ in 0..2 {
            let among = match self.reserve_room(&pool.shared.flows) {
                Ok(reserved) => return Some(reserved),
                Err(Crowded::Pool) => Some(pool.shared.id.index()),
                Err(Crowded::Worker) => None,
            };
            let victim = self.flows.table.victim(among, None, self.now)?;
            self.crowd_out(victim);
        }
        None
    }

    fn reserve_room(&self, of_pool: &Capacity) -> Result<(Reservation, Reservation), Crowded> {
        if self.flows.table.is_full() {
            return Err(Crowded::Worker);
        }
        let pool = of_pool.reserve();
        if pool == Reservation::Full {
            return Err(Crowded::Pool);
        }
        let process = self.process.reserve();
        if process == Reservation::Full {
            if pool == Reservation::Held {
                of_pool.release();
            }
            return Err(Crowded::Worker);
        }
        Ok((pool, process))
    }

    fn crowd_out(&mut self, victim: FlowKey) {
        self.hatch.counters.flows_crowded_out.add(1);
        self.end_flow(victim, End::Resources);
    }

    /// Gives a flow a backend, in the place of one that it may have; or tells why it has none now, and no socket. It goes
    /// to another than the one that failed, while there is one.
    pub(super) fn move_flow(&mut self, flow: FlowKey) -> Result<(), Drop> {
        self.leave_backend(flow);
        self.forget_flow_order(flow);
        let tenant = self.flows.table.get(flow).ok_or(Drop::NoBackend)?;
        let (hash, failed) = (tenant.hash, tenant.failed);
        let pool = self.world.pool(tenant.pool).cloned();
        let pool = pool.ok_or(Drop::NoBackend)?;
        let mut excluded = [BackendId(0); TRIES];
        let mut count = 0;
        if let Some(failed) = failed {
            excluded[0] = failed;
            count = 1;
        }
        let mut made_way = false;
        // Each try passes over one more backend that cannot be opened.
        while count < TRIES {
            let (random, again) = (self.random(), self.random());
            let found = reserve(&pool, &excluded[..count], hash, random, self.now);
            let reserved = found
                .or_else(|| reserve(&pool, &[], hash, again, self.now))
                .ok_or(Drop::NoBackend)?;
            match self.open_way(flow, &reserved) {
                Ok(()) => return Ok(()),
                // No fault of the backend's, and worth one more try if somebody else goes.
                Err(ConnectFailure::Ports | ConnectFailure::Resources) => {
                    if made_way || !self.free_a_socket(flow) {
                        return Err(Drop::Resources);
                    }
                    made_way = true;
                }
                Err(_) => {
                    excluded[count] = reserved.backend.id;
                    count += 1;
                }
            }
        }
        Err(Drop::NoBackend)
    }

    /// Opens the flow's socket towards a backend on which it has a place, and counts it there; else gives the place back.
    fn open_way(&mut self, flow: FlowKey, reserved: &Reserved<'_>) -> Result<(), ConnectFailure> {
        let worker = self.world.worker;
        let backend = reserved.backend;
        let Some(tenant) = self.flows.table.get_mut(flow) else {
            return Err(ConnectFailure::Other);
        };
        let way = self
            .world
            .route_to(tenant.pool, backend.id, tenant.port, tenant.id);
        let opened = match way.as_ref().map(|way| (way.address.inet(), way.source)) {
            Some((Some(address), source)) => self.kernel.open_flow(flow, address, source),
            _ => Err(ConnectFailure::Unreachable),
        };
        let counters = backend.of(worker);
        counters.connect_attempts.add(1);
        match opened {
            Ok(outlet) => {
                tenant.outlet = Some(outlet);
                counters.active.fetch_add(1, Ordering::Relaxed);
                counters.sessions_total.add(1);
                if tenant.attempts > 0 {
                    tenant.listener.of(worker).flows_moved.add(1);
                }
                tenant.attempts = tenant.attempts.saturating_add(1);
                tenant.backend = Some(Arc::clone(backend));
                tenant.backend_reserved = reserved.held;
                (tenant.trial, tenant.unproven) = (reserved.trial, true);
            }
            Err(failure) => {
                counters.connect_failures[failure.index()].add(1);
                reserved.void_trial();
                if reserved.held {
                    backend.capacity.release();
                }
                // Nothing reached the backend, so its turn was not used.
                backend.pace.give_back();
            }
        }
        opened.map(|_| ())
    }

    /// Out of descriptors or ports: the least worthy flow that has a socket goes, but not this one; and more of them if there
    /// are too many altogether.
    fn free_a_socket(&mut self, flow: FlowKey) -> bool {
        let mut freed = 0;
        while freed < SHED_MAX && self.close_somebody(flow) {
            freed += 1;
            if self.kernel.flow_sockets_over() == 0 {
                break;
            }
        }
        self.kernel.let_go_at_once();
        freed > 0
    }

    fn close_somebody(&mut self, spared: FlowKey) -> bool {
        for _ in 0..VICTIMS {
            let Some(victim) = self.flows.table.victim(None, Some(spared), self.now) else {
                return false;
            };
            let helps = self.kernel.has_flow(victim);
            self.crowd_out(victim);
            if helps {
                return true;
            }
        }
        false
    }

    /// The flow is not among its backend's any more, and what that one still says is nobody's.
    fn leave_backend(&mut self, flow: FlowKey) {
        self.close_way(flow);
        let worker = self.world.worker;
        let Some(tenant) = self.flows.table.get_mut(flow) else {
            return;
        };
        let held = std::mem::take(&mut tenant.backend_reserved);
        let trial = tenant.trial.take();
        let unproven = std::mem::take(&mut tenant.unproven);
        let pool = tenant.pool;
        if let Some(backend) = tenant.backend.take() {
            backend.of(worker).active.fetch_sub(1, Ordering::Relaxed);
            // One that nobody answered has not failed.
            backend.of(worker).connects.add(u64::from(unproven));
            if let Some(trial) = trial {
                backend.verdict.breaker.trial_void(trial);
            }
            if held {
                backend.capacity.release();
            }
            if held || trial.is_some() {
                self.serve_waiters(pool);
            }
        }
    }

    pub(super) fn close_way(&mut self, flow: FlowKey) {
        self.kernel.close_flow(flow);
        if let Some(tenant) = self.flows.table.get_mut(flow) {
            tenant.outlet = None;
        }
        if self.flows.trim_at == Nanos::NEVER {
            self.flows.trim_at = self.now.after(TRIM_NS);
        }
    }

    pub(super) fn note_flow_failure(&mut self, flow: FlowKey, why: Undelivered) {
        let worker = self.world.worker;
        if let Some(tenant) = self.flows.table.get_mut(flow)
            && let Some(backend) = &tenant.backend
        {
            // What our own kernel lacked is no fault of the backend's.
            let blamed = why == Undelivered::Unreachable;
            let failure = match blamed {
                true => ConnectFailure::Refused,
                false => ConnectFailure::Resources,
            };
            backend.of(worker).connect_failures[failure.index()].add(1);
            // It counts as failed, not as connected as well when the flow leaves.
            tenant.unproven = false;
            if blamed {
                tenant.failed = Some(backend.id);
                self.blame_flow(flow, failure);
            }
        }
    }

    /// The flow is over: its account is closed, its record written, its place free.
    pub(super) fn end_flow(&mut self, flow: FlowKey, end: End) {
        let record = self
            .flows
            .table
            .get(flow)
            .map(|tenant| tenant.record(end, self.now));
        self.leave_backend(flow);
        self.flows.timers.clear(flow.slot);
        let socket = self.flows.table.caller(flow).map(|caller| caller.socket);
        let Some(tenant) = self.flows.table.remove(flow) else {
            return;
        };
        let counters = tenant.listener.of(self.world.worker);
        counters.flows_active.sub(1);
        counters.ends[end.index()].add(1);
        if tenant.listener_reserved {
            tenant.listener.capacity.release();
        }
        if let Some(place) = tenant.source {
            self.hatches.sources.release(place);
        }
        if tenant.process_reserved {
            self.process.release();
        }
        if let Some(pool) = self.world.pool(tenant.pool) {
            if tenant.pool_reserved {
                pool.shared.flows.release();
            }
            let lasted = self.now.since(tenant.opened);
            pool.shared.of(self.world.worker).session.record(lasted);
        }
        if let Some(mut record) = record.filter(|_| self.world.journal) {
            record.milestone = (self.world.report_ns > 0).then_some(Milestone::End);
            self.hatch.journal.push(record);
        }
        if let Some(socket) = socket {
            self.count_on_socket(socket, -1);
        }
    }

    pub(super) fn set_flow_timer(&mut self, flow: FlowKey) {
        let silence_end = self.flows.table.silence_end(flow);
        if let Some(tenant) = self.flows.table.get_mut(flow) {
            let due = silence_end.min(tenant.kill_at).min(tenant.lifetime_end);
            // A flow that goes on moves its end away with every datagram; the timer learns of it when it fires.
            if due < tenant.timer_at {
                tenant.timer_at = due;
                self.flows.timers.set(flow.slot, due);
            }
        }
    }

    pub(in crate::worker) fn fire_flow_timers(&mut self) {
        let mut due = std::mem::take(&mut self.flows.due);
        self.flows.timers.advance(self.now, &mut due);
        for slot in due.drain(..) {
            let Some(flow) = self.flows.table.at(slot.0).map(|(flow, _)| flow) else {
                continue;
            };
            let silence_end = self.flows.table.silence_end(flow);
            let Some(tenant) = self.flows.table.get_mut(flow) else {
                continue;
            };
            tenant.timer_at = Nanos::NEVER;
            if tenant.given_out {
                // It is another's to end; should it come back, this looks again.
                tenant.timer_at = self.now.after(GIVEN_OUT_NS);
                self.flows.timers.set(slot, tenant.timer_at);
                continue;
            }
            let (kill_at, kill_as) = (tenant.kill_at, tenant.kill_as);
            let lifetime_end = tenant.lifetime_end;
            if self.now >= kill_at {
                self.end_flow(flow, kill_as);
            } else if self.now >= lifetime_end {
                self.end_flow(flow, End::Lifetime);
            } else if self.now >= silence_end {
                self.end_flow(flow, End::Idle);
            } else {
                self.set_flow_timer(flow);
            }
        }
        self.flows.due = due;
    }

    /// An order to close what a backend has, at once or spread over some time.
    pub(in crate::worker) fn evict_flows(&mut self, backend: BackendId, eviction: Eviction) {
        let over_ns = millis(u64::from(eviction.over_ms));
        for slot in 0..self.flows.table.extent() {
            let its = self.flows.table.at(slot).filter(|(_, tenant)| {
                let own = tenant.backend.as_ref();
                own.is_some_and(|own| own.id == backend)
            });
            if let Some(flow) = its.map(|(flow, _)| flow) {
                let moment = self.now.after(spread(self.random(), over_ns));
                self.order_flow_end(flow, eviction.end, moment);
            }
        }
    }

    /// In the draining phase each flow that is left gets its own moment to be closed.
    pub(in crate::worker) fn plan_shutdown_of_flows(&mut self) {
        for slot in 0..self.flows.table.extent() {
            if let Some(flow) = self.flows.table.at(slot).map(|(flow, _)| flow) {
                self.plan_shutdown_of_flow(flow);
            }
        }
    }

    fn plan_shutdown_of_flow(&mut self, flow: FlowKey) {
        if let Some(moment) = self.moment_to_close() {
            self.order_flow_end(flow, End::Shutdown, moment);
        }
    }

    /// The flow has left the backend whose eviction may have ordered its end.
    fn forget_flow_order(&mut self, flow: FlowKey) {
        if let Some(tenant) = self.flows.table.get_mut(flow)
            && tenant.kill_at != Nanos::NEVER
        {
            tenant.kill_at = Nanos::NEVER;
            self.plan_shutdown_of_flow(flow);
        }
    }

    fn order_flow_end(&mut self, flow: FlowKey, end: End, moment: Nanos) {
        if let Some(tenant) = self.flows.table.get_mut(flow)
            && moment < tenant.kill_at
        {
            tenant.kill_at = moment;
            tenant.kill_as = end;
            self.set_flow_timer(flow);
        }
    }

    /// Datagrams from this side are passed on; `own`: to or from the backend that the flow has now.
    pub(super) fn count_passed(
        &mut self,
        flow: FlowKey,
        from: Side,
        own: bool,
        datagram: &Datagram,
    ) {
        let worker = self.world.worker;
        let (count, bytes) = (u64::from(datagram.count()), u64::from(datagram.bytes()));
        let Some(tenant) = self.flows.table.get_mut(flow) else {
            return;
        };
        tenant.bytes[from.index()] += bytes;
        tenant.datagrams[from.index()] += count;
        let proves = tenant.unproven && own && from == Side::Backend;
        let listener = tenant.listener.of(worker);
        let backend = tenant.backend.as_ref().filter(|_| own);
        let backend = backend.map(|backend| backend.of(worker));
        match from {
            Side::Client => {
                listener.datagrams_in.add(count);
                listener.bytes_in.add(bytes);
                if let Some(backend) = backend {
                    backend.bytes_in.add(bytes);
                }
            }
            Side::Backend => {
                listener.datagrams_out.add(count);
                listener.bytes_out.add(bytes);
                if let Some(backend) = backend {
                    backend.bytes_out.add(bytes);
                }
            }
        }
        if proves {
            self.prove_flow(flow);
        }
    }

    pub(super) fn count_drop(&self, flow: FlowKey, why: Drop, datagrams: u32) {
        if let Some(tenant) = self.flows.table.get(flow) {
            let counters = tenant.listener.of(self.world.worker);
            counters.drops[why.index()].add(u64::from(datagrams));
        }
    }

    pub(super) fn count_drop_at(&self, socket: SocketId, why: Drop, datagrams: u32) {
        let mut sockets = self.flows.sockets.iter();
        if let Some(local) = sockets.find(|local| local.socket.id == socket) {
            let counters = local.listener.of(self.world.worker);
            counters.drops[why.index()].add(u64::from(datagrams));
        }
    }
}

/// When a flow is too old, by its pool's `max_lifetime`; the same in each process that it lives in.
pub(super) fn lifetime_end(pool: &Pool, opened: Nanos, id: u64) -> Nanos {
    match pool.times.lifetime_ns {
        0 => Nanos::NEVER,
        // Fibonacci hashing (Knuth, TAOCP 3, 6.4): ids are running numbers.
        most => opened.after(jittered(most, id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32)),
    }
}

pub(super) fn rules_of(pool: &Pool) -> FlowRules {
    let crate::handoff::FlowRules {
        idle_ns,
        responses,
        requests,
    } = pool.flow_rules;
    FlowRules {
        idle_ns,
        responses,
        requests,
    }
}
