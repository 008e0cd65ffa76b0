//! Waiting for a turn: backends with a `connect_rate` take new connections only so fast, and whoever comes too early
//! stands in the pool's queue. One worker keeps the moment of a pool's next turn and serves the queue then, whoever the
//! clients belong to; the others sleep on.
//!
//! Rates are taken where backends are reserved (`choosing`), never here.

use crate::handoff::Pool;
use crate::ids::{Nanos, PoolId};
use crate::uring::Kernel;

use super::engine::Worker;

impl<K: Kernel> Worker<K> {
    /// After a queue was served: if those who are left wait for a turn, somebody must look again when it comes.
    pub(super) fn look_again_at_turn(&mut self, pool: &Pool) {
        if pool.waiters.live() == 0 {
            return;
        }
        if let Some(due) = pool.turn_due(&[], self.now)
            && pool.shared.wake.claim(due, self.now)
        {
            self.turn_due = self.turn_due.min(due);
        }
    }

    /// The moment has come.
    pub(super) fn serve_who_waits_for_a_turn(&mut self) {
        if self.now >= self.turn_due {
            self.turn_due = Nanos::NEVER;
            self.serve_all_waiters();
        }
    }

    /// A worker that ends leaves its moments to the others.
    pub(super) fn leave_turns_to_others(&mut self) {
        if self.turn_due != Nanos::NEVER {
            self.world
                .pools()
                .for_each(|pool| pool.shared.wake.forget());
            self.hatches.ring();
        }
    }

    /// Counts a client that joined the queue because of a rate.
    pub(super) fn note_paced(&self, id: PoolId) {
        if let Some(pool) = self.world.pool(id)
            && pool.turn_due(&[], self.now).is_some()
        {
            pool.shared.of(self.world.worker).paced.add(1);
        }
    }
}
