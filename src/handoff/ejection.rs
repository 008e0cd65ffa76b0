//! Whether a pool can spare a backend that should be ejected: never the last eligible one, never more than the rules'
//! share. Callers of several threads may ask at the same moment; one of them decides for all, one backend after the
//! other, and nobody waits. Also the queue in which changes of breakers travel to the office.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicU64};

use crossbeam::queue::ArrayQueue;

use crate::ids::Nanos;

use super::breaker::{BreakerState, Change, Kept};
use super::breaker_rules::BreakerRules;
use super::cause::Why;
use super::shared::BackendShared;
use super::verdict::Health;

/// Changes that wait for the office; more are lost and counted.
const NOTICES: usize = 4096;

/// One of a pool's backends, as the asking thread knows it.
pub trait Member {
    fn backend(&self) -> &Arc<BackendShared>;
    /// Whether it may have sessions at all: it has weight, and an address.
    fn is_served(&self) -> bool;
}

/// Decides about openings in one pool. It hangs on the pool's identity.
#[derive(Debug, Default)]
pub struct Referee {
    callers: AtomicU32,
}

impl Referee {
    /// Opens the breakers that wish to be open, as far as the pool can spare their backends. Returns at once if another
    /// thread is just deciding: it looks again for us, at its own list of the pool's members.
    pub fn decide<M: Member>(
        &self,
        members: &[M],
        rules: &BreakerRules,
        now: Nanos,
        notices: &Notices,
    ) {
        if self.callers.fetch_add(1, AcqRel) > 0 {
            return;
        }
        loop {
            let callers = self.callers.load(Acquire);
            for member in members {
                let Some(why) = member.backend().verdict.breaker.take_wish() else {
                    continue;
                };
                self.decide_one(members, member, why, rules, now, notices);
            }
            if self.callers.fetch_sub(callers, AcqRel) == callers {
                return;
            }
        }
    }

    fn decide_one<M: Member>(
        &self,
        members: &[M],
        member: &M,
        why: Why,
        rules: &BreakerRules,
        now: Nanos,
        notices: &Notices,
    ) {
        let backend = member.backend();
        let breaker = &backend.verdict.breaker;
        if breaker.state() != BreakerState::Closed {
            return;
        }
        if let Some(kept) = kept(members, backend, rules) {
            breaker.keep(kept);
            return;
        }
        let from = backend.verdict.health();
        if let Some(change) = breaker.open(why, rules, now) {
            notices.push(Notice::new(backend, change, from, now));
        }
    }
}

/// Why this backend must stay, if it must.
fn kept<M: Member>(
    members: &[M],
    backend: &Arc<BackendShared>,
    rules: &BreakerRules,
) -> Option<Kept> {
    let others = || {
        let members = members.iter().filter(|member| member.is_served());
        members.filter(|other| !Arc::ptr_eq(other.backend(), backend))
    };
    let spared = |other: &&M| {
        let shared = other.backend();
        shared.verdict.is_sound()
            && shared.verdict.breaker.state() == BreakerState::Closed
            && !shared.capacity.looks_full()
    };
    if !others().any(|other| spared(&other)) {
        return Some(Kept::LastEligible);
    }
    let ejected = others().filter(|other| is_ejected(*other)).count();
    (ejected >= ejected_max(others().count() + 1, rules)).then_some(Kept::EjectedMax)
}

/// Whether the breaker keeps sessions away, but for trials.
pub fn is_ejected<M: Member>(member: &M) -> bool {
    member.backend().verdict.breaker.state() != BreakerState::Closed
}

/// How many of so many backends may be ejected at a time.
#[must_use]
pub fn ejected_max(members: usize, rules: &BreakerRules) -> usize {
    members * usize::from(rules.max_ejected_percent) / 100
}

/// A change of a breaker, for log and events.
#[derive(Clone, Debug)]
pub struct Notice {
    pub at: Nanos,
    pub backend: Arc<BackendShared>,
    pub change: Change,
    /// What the backend's health was shown as, before and after.
    pub health: (Health, Health),
}

impl Notice {
    #[must_use]
    pub fn new(backend: &Arc<BackendShared>, change: Change, was: Health, now: Nanos) -> Notice {
        Notice {
            at: now,
            backend: Arc::clone(backend),
            change,
            health: (was, backend.verdict.health()),
        }
    }
}

/// What any thread reports of breakers. Never waits: a full queue loses the notice and counts it.
#[derive(Debug)]
pub struct Notices {
    queue: ArrayQueue<Notice>,
    lost: AtomicU64,
}

impl Default for Notices {
    fn default() -> Notices {
        Notices {
            queue: ArrayQueue::new(NOTICES),
            lost: AtomicU64::new(0),
        }
    }
}

impl Notices {
    pub fn push(&self, notice: Notice) {
        if self.queue.push(notice).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    #[must_use]
    pub fn pop(&self) -> Option<Notice> {
        self.queue.pop()
    }

    /// Notices that found the queue full, since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

#[cfg(test)]
#[path = "ejection_tests.rs"]
mod tests;
