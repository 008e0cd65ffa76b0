//! Ends by order: eviction from a backend, draining, shutdown; and the last step of every session, its move out.

use crate::handoff::{Eviction, Milestone, Phase, SessionRecord};
use crate::ids::{BackendId, End, Nanos, SessionKey, Side, StreamKey, millis};
use crate::uring::Kernel;

use super::engine::Worker;

impl<K: Kernel> Worker<K> {
    /// The session is over: its account is closed, its record written, its slot free.
    pub(super) fn move_out(&mut self, key: SessionKey, end: End) {
        self.give_up_backend(key);
        self.timers.clear(key.slot);
        let Some(tenant) = self.slots.remove(key) else {
            return;
        };
        self.kernel.vacate(key);
        if let Some(local) = self.world.listener(tenant.listener) {
            let counters = local.shared.of(self.world.worker);
            counters.sessions_active.sub(1);
            counters.ends[end.index()].add(1);
        }
        self.leave_listener(&tenant);
        self.note_death(&tenant, end);
        if tenant.process_reserved {
            self.process.release();
        }
        if let Some(counters) = self.world.pool_counters(tenant.pool) {
            counters.session.record(self.now.since(tenant.opened));
        }
        if self.world.journal {
            let milestone = (self.world.report_ns > 0).then_some(Milestone::End);
            self.hatch.journal.push(SessionRecord {
                milestone,
                ..tenant.record(end, self.now)
            });
        }
    }

    /// Round trip time and retransmissions towards the client, while its socket still lives.
    pub(super) fn note_tcp_info(&mut self, stream: StreamKey) {
        debug_assert_eq!(stream.side, Side::Client);
        if self.world.journal
            && let Some(tenant) = self.slots.get_mut(stream.session)
        {
            (tenant.rtt_us, tenant.retrans) = self.kernel.tcp_info(stream);
        }
    }

    /// Closes the sessions of backends for which there is a new order, now or spread over its time.
    pub(super) fn carry_out_evictions(&mut self) {
        loop {
            let order = self.world.backends_mut().find_map(|backend| {
                let eviction = backend.shared.verdict.eviction()?;
                let new =
                    std::mem::replace(&mut backend.eviction_seen, eviction.epoch) != eviction.epoch;
                new.then_some((backend.shared.id, eviction))
            });
            let Some((backend, eviction)) = order else {
                return;
            };
            self.evict(backend, eviction);
        }
    }

    fn evict(&mut self, backend: BackendId, eviction: Eviction) {
        let over_ns = millis(u64::from(eviction.over_ms));
        for slot in 0..self.slots.extent() {
            let is_its = self
                .slots
                .at(slot)
                .filter(|(_, tenant)| tenant.backend == Some(backend));
            if let Some(key) = is_its.map(|(key, _)| key) {
                let moment = self.now.after(spread(self.random(), over_ns));
                self.order_end(key, eviction.end, moment);
            }
        }
        self.evict_flows(backend, eviction);
    }

    /// In the draining phase each session that is left gets its own moment to be closed.
    pub(super) fn plan_shutdown(&mut self) {
        self.plan_shutdown_of_flows();
        for slot in 0..self.slots.extent() {
            if let Some(key) = self.slots.at(slot).map(|(key, _)| key) {
                self.plan_shutdown_of(key);
            }
        }
    }

    /// The same for one that came out of a queue, or lost another order to end, after draining had begun.
    pub(super) fn plan_shutdown_of(&mut self, key: SessionKey) {
        if let Some(moment) = self.moment_to_close() {
            self.order_end(key, End::Shutdown, moment);
        }
    }

    /// One of those over which what is left while the process drains is closed.
    pub(super) fn moment_to_close(&mut self) -> Option<Nanos> {
        let Phase::Draining {
            close_from,
            close_until,
        } = self.world.phase
        else {
            return None;
        };
        Some(close_from.after(spread(self.random(), close_until.since(close_from))))
    }

    /// The time to drain is over: a session that began now would only be cut.
    pub(super) fn all_must_be_closed(&self) -> bool {
        match self.world.phase {
            Phase::Serving | Phase::HandingOver => false,
            Phase::Draining { close_until, .. } => self.now >= close_until,
        }
    }

    /// The session has left the backend whose eviction may have ordered its end.
    pub(super) fn forget_eviction(&mut self, key: SessionKey) {
        if let Some(tenant) = self.slots.get_mut(key) {
            tenant.kill_at = Nanos::NEVER;
        }
        self.plan_shutdown_of(key);
    }

    fn order_end(&mut self, key: SessionKey, end: End, moment: Nanos) {
        if let Some(tenant) = self.slots.get_mut(key)
            && moment < tenant.kill_at
        {
            tenant.kill_at = moment;
            tenant.kill_as = end;
            tenant.timer_at = tenant.timer_at.min(moment);
            let at = tenant.timer_at;
            self.timers.set(key.slot, at);
        }
    }
}

/// A lifetime within 10 % of this, by these random bits: what began together does not end together.
pub(super) fn jittered(lifetime_ns: u64, random: u64) -> u64 {
    lifetime_ns / 10 * 9 + lifetime_ns / 5 / 1024 * (random & 1023)
}

/// A moment within `over_ns`, by these random bits.
pub(super) fn spread(random: u64, over_ns: u64) -> u64 {
    ((u128::from(random) * u128::from(over_ns)) >> 64) as u64
}
