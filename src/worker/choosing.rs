//! Giving sessions a backend: the choice over the published world and the live counters, the reservation that makes
//! limits exact, and the queue of those who wait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::balance::{Algorithm, Draw};
use crate::handoff::{
    BackendShared, Capacity, Entry, Grant, Health, Pool, Reservation, Snapshot, Standing, Ticket,
    Trial, WarmSocket,
};
use crate::ids::{BackendId, Nanos, PoolId, SessionKey, Side};
use crate::session::{Event, Phase};
use crate::uring::Kernel;

use super::engine::Worker;
use super::warm::reserve_with_warm;

/// A backend with a place on it.
pub(super) struct Reserved<'a> {
    pub(super) backend: &'a Arc<BackendShared>,
    pub(super) held: bool,
    pub(super) warm: Option<WarmSocket>,
    pub(super) trial: Option<Trial>,
}

impl Reserved<'_> {
    /// Nobody tries the half-open breaker after all.
    pub(super) fn void_trial(&self) {
        if let Some(trial) = self.trial {
            self.backend.verdict.breaker.trial_void(trial);
        }
    }
}

impl<K: Kernel> Worker<K> {
    pub(super) fn choose(&mut self, key: SessionKey) {
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        let (pool, hash, tried) = (tenant.pool, tenant.hash, tenant.tried());
        let first = tried.is_empty();
        let random = self.random();
        let Some(pool) = self.world.pool(pool).cloned() else {
            self.answer(key, Event::NoneOpen);
            return;
        };
        // Newcomers queue behind those who wait.
        let seniors = pool.waiters.size() > 0 && pool.shared.seniors.wait();
        let queue_first = first && (pool.waiters.live() > 0 || seniors);
        let found = if queue_first {
            None
        } else {
            reserve_for_session(&pool, &tried, hash, random, self.now)
        };
        let (found, repeated) = match found {
            // A backend that was not tried yet and only has to wait for its turn is worth waiting for.
            None if !first && pool.turn_due(&tried, self.now).is_none() => (
                reserve_for_session(&pool, &[], hash, random, self.now),
                true,
            ),
            found => (found, false),
        };
        match found {
            Some(reserved) => {
                self.take_backend(key, reserved);
                self.answer(key, Event::Chosen { repeated });
            }
            None => self.answer(key, Event::NoneOpen),
        }
    }

    /// The session now counts on this backend, which is one of this worker's world and stays there as long as anybody
    /// counts on it.
    fn take_backend(&mut self, key: SessionKey, reserved: Reserved<'_>) {
        let backend = reserved.backend;
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        tenant.backend = Some(backend.id);
        tenant.backend_counted = true;
        // A warm connection has had its turn when it was opened.
        tenant.turn_unused = reserved.warm.is_none();
        tenant.backend_reserved = reserved.held;
        tenant.trial = reserved.trial;
        tenant.warm = reserved.warm;
        tenant.remember_tried(backend.id);
        let counters = backend.of(self.world.worker);
        counters.active.fetch_add(1, Ordering::Relaxed);
        counters.sessions_total.add(1);
    }

    /// The session leaves its backend: a place is free, and whoever waits longest gets it.
    pub(super) fn give_up_backend(&mut self, key: SessionKey) {
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        let (pool, held) = (tenant.pool, std::mem::take(&mut tenant.backend_reserved));
        let counted = std::mem::take(&mut tenant.backend_counted);
        let turn_unused = std::mem::take(&mut tenant.turn_unused);
        let trial = tenant.trial.take();
        (tenant.unproven, tenant.prove_at) = (false, Nanos::NEVER);
        tenant.warm = None;
        let Some(backend) = tenant.backend.filter(|_| counted) else {
            return;
        };
        // A session that ends keeps the backend's name for its record.
        if !matches!(tenant.session.phase(), Phase::Closing { .. } | Phase::Done) {
            tenant.backend = None;
            self.forget_eviction(key);
        }
        if let Some(backend) = self.world.backend(backend) {
            backend
                .shared
                .of(self.world.worker)
                .active
                .fetch_sub(1, Ordering::Relaxed);
            if held {
                backend.shared.capacity.release();
            }
            if turn_unused {
                backend.shared.pace.give_back();
            }
            if let Some(trial) = trial {
                backend.shared.verdict.breaker.trial_void(trial);
            }
        }
        if held || trial.is_some() {
            self.serve_waiters(pool);
        }
    }

    pub(super) fn join_waiters(&mut self, key: SessionKey) {
        let now = self.now;
        let worker = self.world.worker;
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        tenant.wait_began = now;
        let pool = tenant.pool;
        let ticket = Ticket {
            worker,
            session: key,
            hash: tenant.hash,
            avoid: tenant.tried().last().copied(),
        };
        let queued = self
            .world
            .pool(pool)
            .is_some_and(|pool| pool.waiters.join(ticket));
        if let Some(tenant) = self.slots.get_mut(key) {
            tenant.queued = queued;
        }
        self.answer(key, Event::Queued(queued));
        if queued {
            self.note_paced(pool);
            // Between the choice and the joining a place may have become free, with nobody left to tell of it.
            self.hatch.doorbell.ring();
        }
    }

    pub(super) fn leave_waiters(&mut self, key: SessionKey) {
        let now = self.now;
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        tenant.wait_ns += now.since(tenant.wait_began);
        let (pool, waited) = (tenant.pool, tenant.wait_ns);
        let queued = std::mem::take(&mut tenant.queued);
        if let Some(pool) = self.world.pool(pool) {
            if queued {
                pool.waiters.leave();
            }
            pool.shared.of(self.world.worker).wait.record(waited);
        }
    }

    pub(super) fn serve_all_waiters(&mut self) {
        for index in 0..self.world.pools().count() {
            let id = self.world.pools().nth(index).map(|pool| pool.shared.id);
            if let Some(id) = id {
                self.serve_waiters(id);
            }
        }
    }

    /// Gives free places to those who wait, oldest first, here or on another worker.
    pub(super) fn serve_waiters(&mut self, id: PoolId) {
        let Some(pool) = self.world.pool(id).cloned() else {
            return;
        };
        if !pool.waiters.begin_serving() {
            return;
        }
        loop {
            self.serve_in_turn(id, &pool);
            self.look_again_at_turn(&pool);
            if pool.waiters.end_serving() {
                return;
            }
        }
    }

    fn serve_in_turn(&mut self, id: PoolId, pool: &Pool) {
        while pool.waiters.live() > 0 && !pool.shared.seniors.wait() && pool.any_open(self.now) {
            let Some(ticket) = pool.waiters.oldest() else {
                return;
            };
            if ticket.worker == self.world.worker && !self.is_waiting(ticket.session) {
                continue;
            }
            let random = self.random();
            let Some(reserved) = reserve_for(pool, &ticket, random, self.now) else {
                // Another worker was faster, or it is nobody's turn yet.
                let _ = pool.waiters.put_back(ticket);
                return;
            };
            let grant = Grant {
                session: ticket.session,
                pool: id,
                backend: Arc::clone(reserved.backend),
                reserved: reserved.held,
                warm: reserved.warm,
                trial: reserved.trial,
            };
            if ticket.worker == self.world.worker {
                self.accept_grant(grant);
            } else {
                self.post_grant(pool, ticket, grant);
            }
        }
    }

    fn post_grant(&self, pool: &Pool, ticket: Ticket, grant: Grant) {
        let Some(owner) = self.hatches.workers.get(ticket.worker.index()) else {
            return;
        };
        if owner.counters.stopped.read() > 0 {
            // Only a ticket whose session has left can still name a worker that is gone.
            grant.release();
            return;
        }
        if let Err(grant) = owner.grants.push(grant) {
            grant.release();
            let _ = pool.waiters.put_back(ticket);
        }
        owner.doorbell.ring();
    }

    pub(super) fn take_grants(&mut self) {
        for _ in 0..self.hatch.grants.capacity() {
            let Some(grant) = self.hatch.grants.pop() else {
                return;
            };
            if !self.is_waiting(grant.session) {
                // It left meanwhile: the place goes to the next.
                grant.release();
                self.serve_waiters(grant.pool);
            } else if self.is_usable(&grant) {
                self.accept_grant(grant);
            } else {
                grant.release();
                self.wait_on(grant.session);
            }
        }
    }

    /// Whether this worker's world still gives sessions to the granted backend: whoever granted it may have had an older
    /// one, and a verdict may have come since.
    fn is_usable(&self, grant: &Grant) -> bool {
        let Some(pool) = self.world.pool(grant.pool) else {
            return false;
        };
        let mut backends = pool.backends.iter();
        let place = backends.position(|one| Arc::ptr_eq(&one.shared, &grant.backend));
        // It may be full, paced or tried enough by the very place that was granted.
        let breaker = &grant.backend.verdict.breaker;
        let tries = grant.trial.is_some_and(|trial| breaker.is_during(trial));
        place.is_some_and(|i| match pool.standing(i, self.now) {
            Standing::Open | Standing::Full | Standing::Paced => true,
            standing => tries && standing == Standing::Health(Health::Ejected),
        })
    }

    /// What a session got was nothing: it is the next to be served.
    fn wait_on(&mut self, key: SessionKey) {
        let worker = self.world.worker;
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        let ticket = Ticket {
            worker,
            session: key,
            hash: tenant.hash,
            avoid: tenant.tried().last().copied(),
        };
        if let Some(pool) = self.world.pool(tenant.pool) {
            let _ = pool.waiters.put_back(ticket);
        }
    }

    fn accept_grant(&mut self, mut grant: Grant) {
        self.leave_waiters(grant.session);
        self.take_granted(&mut grant);
        // A grant may come while another session's actions are being carried out; they must not mix.
        let others = std::mem::take(&mut self.actions);
        self.deliver(grant.session, Event::Granted);
        self.actions = others;
    }

    /// The session takes the granted backend; or, if an attempt has failed there before, another one that is open. The
    /// place that is left over then goes to the next: whoever calls this serves the queue on.
    fn take_granted(&mut self, grant: &mut Grant) {
        let random = self.random();
        let (tried, hash) = match self.slots.get_mut(grant.session) {
            Some(tenant) => (tenant.tried(), tenant.hash),
            None => return grant.release(),
        };
        let pool = self.world.pool(grant.pool).cloned();
        if tried.contains(&grant.backend.id)
            && let Some(pool) = pool
            && let Some(other) = reserve_for_session(&pool, &tried, hash, random, self.now)
        {
            grant.release();
            self.take_backend(grant.session, other);
        } else {
            // A limit may have come while the grant was on its way.
            let held = grant.reserved || adopt(&grant.backend.capacity);
            let reserved = Reserved {
                backend: &grant.backend,
                held,
                warm: grant.warm.take(),
                trial: grant.trial.take(),
            };
            self.take_backend(grant.session, reserved);
        }
    }

    fn is_waiting(&mut self, key: SessionKey) -> bool {
        self.slots
            .get_mut(key)
            .is_some_and(|tenant| tenant.session.phase() == Phase::Waiting)
    }

    /// The waiting sessions of pools whose queue a snapshot replaces: they must join the new one.
    pub(super) fn waiting_in_replaced_queues(&mut self, snapshot: &Snapshot) -> Vec<SessionKey> {
        let mut found = Vec::new();
        for slot in 0..self.slots.extent() {
            let Some((key, tenant)) = self.slots.at(slot) else {
                continue;
            };
            if tenant.session.phase() != Phase::Waiting {
                continue;
            }
            let old = self.world.pool(tenant.pool);
            let new = snapshot
                .pools
                .iter()
                .find(|pool| pool.shared.id == tenant.pool);
            if let Some(old) = old
                && new.is_none_or(|new| !Arc::ptr_eq(&old.waiters, &new.waiters))
            {
                old.waiters.leave();
                found.push((tenant.wait_began, key));
            }
        }
        found.sort_unstable_by_key(|(began, _)| *began);
        found.into_iter().map(|(_, key)| key).collect()
    }

    pub(super) fn requeue(&mut self, waiting: Vec<SessionKey>) {
        let worker = self.world.worker;
        for key in waiting {
            let Some(tenant) = self.slots.get_mut(key) else {
                continue;
            };
            let ticket = Ticket {
                worker,
                session: key,
                hash: tenant.hash,
                avoid: tenant.tried().last().copied(),
            };
            let queued = self
                .world
                .pool(tenant.pool)
                .is_some_and(|pool| pool.waiters.join_anyway(ticket));
            if let Some(tenant) = self.slots.get_mut(key) {
                tenant.queued = queued;
            }
            if !queued {
                self.deliver(key, Event::Kill(crate::ids::End::NoBackend));
            }
        }
    }

    /// Counts sessions that began without a limit against one that a reload has set.
    pub(super) fn adopt_new_limits(&mut self) {
        for slot in 0..self.slots.extent() {
            let Some(key) = self.slots.at(slot).map(|(key, _)| key) else {
                continue;
            };
            self.adopt_source(key);
            let Some(tenant) = self.slots.get_mut(key) else {
                continue;
            };
            if !tenant.listener_reserved
                && let Some(local) = self.world.listener(tenant.listener)
            {
                tenant.listener_reserved = adopt(&local.shared.capacity);
            }
            if tenant.backend_counted
                && !tenant.backend_reserved
                && let Some(local) = tenant.backend.and_then(|id| self.world.backend(id))
            {
                tenant.backend_reserved = adopt(&local.shared.capacity);
            }
        }
    }

    /// The hash by which pools that ask for it choose: of the client's address, or of the session where there is none.
    pub(super) fn hash_of(&mut self, pool: PoolId, client: Option<SocketAddr>) -> u64 {
        let random = self.random();
        let Some(pool) = self.world.pool(pool) else {
            return random;
        };
        match client {
            Some(client) if pool.chooser.algorithm().hashes() => pool.hash_of(client),
            _ => random,
        }
    }

    /// Connect times, for the pools that choose by them.
    pub(super) fn note_latency(&mut self, key: SessionKey, took_ns: u64) {
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        let pool = self.world.pool(tenant.pool);
        if pool.is_some_and(|pool| pool.chooser.algorithm() == Algorithm::LeastLatency)
            && let Some(backend) = tenant.backend.and_then(|id| self.world.backend(id))
        {
            backend.shared.latency.add(took_ns, self.now);
        }
    }

    pub(super) fn close(&mut self, stream: crate::ids::StreamKey, reset: bool) {
        if stream.side == Side::Client {
            self.note_early_reset(stream);
            self.note_tcp_info(stream);
        }
        self.kernel.close(stream, reset);
    }
}

/// Counts what is in use already, if there is a limit now.
fn adopt(capacity: &Capacity) -> bool {
    let limited = capacity.limit() != 0;
    if limited {
        capacity.reserve_anyway();
    }
    limited
}

/// Chooses and reserves. A race for the last place is run again with the next best, as often as there are backends.
fn choose_and_reserve<'a>(
    pool: &'a Pool,
    excluded: &[BackendId],
    hash: u64,
    random: u64,
    now: Nanos,
    with_warm: bool,
) -> Option<Reserved<'a>> {
    for race in 0..=pool.backends.len() as u64 {
        let turn = pool.shared.turn.fetch_add(1, Ordering::Relaxed);
        let draw = Draw {
            turn,
            random: random.rotate_left(race as u32),
            hash,
        };
        let chosen = pool.choose(excluded, draw, now)?;
        let shared = &pool.backends[chosen].shared;
        let trial = match shared.verdict.breaker.enter() {
            Entry::Free => None,
            Entry::Trial(trial) => Some(trial),
            Entry::Shut => continue,
        };
        // A trial is to show that connecting works.
        let (reservation, warm) = if with_warm && trial.is_none() {
            reserve_with_warm(shared, random as usize)
        } else {
            (shared.capacity.reserve(), None)
        };
        let reserved = Reserved {
            backend: shared,
            held: reservation == Reservation::Held,
            warm,
            trial,
        };
        if reservation == Reservation::Full {
            reserved.void_trial();
            continue;
        }
        if reserved.warm.is_none() && !shared.pace.take(now) {
            reserved.void_trial();
            if reserved.held {
                shared.capacity.release();
            }
            continue;
        }
        return Some(reserved);
    }
    None
}

/// For a flow, which has no use for a connection.
pub(super) fn reserve<'a>(
    pool: &'a Pool,
    excluded: &[BackendId],
    hash: u64,
    random: u64,
    now: Nanos,
) -> Option<Reserved<'a>> {
    choose_and_reserve(pool, excluded, hash, random, now, false)
}

fn reserve_for_session<'a>(
    pool: &'a Pool,
    excluded: &[BackendId],
    hash: u64,
    random: u64,
    now: Nanos,
) -> Option<Reserved<'a>> {
    choose_and_reserve(pool, excluded, hash, random, now, true)
}

/// The same for one that waits: where its last attempt failed it goes only if there is nobody else to wait for.
fn reserve_for<'a>(
    pool: &'a Pool,
    ticket: &Ticket,
    random: u64,
    now: Nanos,
) -> Option<Reserved<'a>> {
    let avoid = ticket.avoid.as_slice();
    let found = reserve_for_session(pool, avoid, ticket.hash, random, now);
    if found.is_some() || avoid.is_empty() || pool.turn_due(avoid, now).is_some() {
        return found;
    }
    reserve_for_session(pool, &[], ticket.hash, random, now)
}
