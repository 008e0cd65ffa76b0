//! Clients that wait for a backend, first come first served over all workers: one bounded queue of tickets per pool.
//! Whoever frees capacity pops the oldest ticket, reserves for it, and posts a [`Grant`] to the ticket's owner.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::ids::{BackendId, Nanos, PoolId, SessionKey, WorkerId};

use super::breaker::Trial;
use super::shared::BackendShared;
use super::warm::WarmSocket;

/// A waiting session's place in the queue. Its session may have left meanwhile: then the ticket is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub worker: WorkerId,
    pub session: SessionKey,
    /// The client's hash, for pools that choose by it.
    pub hash: u64,
    /// Where its last attempt failed: another backend comes first.
    pub avoid: Option<BackendId>,
}

/// A backend for a waiting session. Its capacity is reserved already if `reserved`: the receiver uses it, or passes
/// it on. It holds on to the backend: a reload may take it out of the receiver's tables while the grant is on its way.
#[derive(Debug)]
pub struct Grant {
    pub session: SessionKey,
    pub pool: PoolId,
    pub backend: Arc<BackendShared>,
    pub reserved: bool,
    /// The right to try a half-open breaker.
    pub trial: Option<Trial>,
    /// A connection to it that is there already.
    pub warm: Option<WarmSocket>,
}

impl Grant {
    /// Gives its place, its turn and its trial back: nobody uses them.
    pub fn release(&self) {
        if self.reserved {
            self.backend.capacity.release();
        }
        if self.warm.is_none() {
            self.backend.pace.give_back();
        }
        if let Some(trial) = self.trial {
            self.backend.verdict.breaker.trial_void(trial);
        }
    }
}

/// The queue of one pool.
#[derive(Debug)]
pub struct Waiters {
    size: u32,
    live: AtomicU32,
    tickets: ArrayQueue<Ticket>,
    /// Taken once and not served: older than all others.
    returned: ArrayQueue<Ticket>,
    serving: AtomicU32,
}

const NOBODY: u32 = 0;
const SOMEBODY: u32 = 1;
/// And somebody else had reason to.
const ONCE_MORE: u32 = 2;

impl Waiters {
    /// A queue for at most `size` waiting clients. Stale tickets may take as many places again before newcomers are
    /// refused because of them.
    #[must_use]
    pub fn new(size: u32) -> Waiters {
        Waiters {
            size,
            live: AtomicU32::new(0),
            tickets: ArrayQueue::new((size as usize * 2).max(1)),
            returned: ArrayQueue::new((size as usize).max(1)),
            serving: AtomicU32::new(NOBODY),
        }
    }

    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// How many clients wait now.
    #[must_use]
    pub fn live(&self) -> u32 {
        self.live.load(Ordering::Acquire)
    }

    /// Joins the end of the queue; false if it is full.
    #[must_use]
    pub fn join(&self, ticket: Ticket) -> bool {
        let one_more = |live: u32| (live < self.size).then_some(live + 1);
        if self
            .live
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more)
            .is_err()
        {
            return false;
        }
        if self.tickets.push(ticket).is_err() {
            self.live.fetch_sub(1, Ordering::AcqRel);
            return false;
        }
        true
    }

    /// Joins whatever the limit says: a reload replaced the queue in which this client was waiting. False if there is no
    /// room for the ticket at all.
    #[must_use]
    pub fn join_anyway(&self, ticket: Ticket) -> bool {
        let room = self.tickets.push(ticket).is_ok();
        self.live.fetch_add(u32::from(room), Ordering::AcqRel);
        room
    }

    /// Puts a ticket back that was taken and could not be served: it is the next to be taken. Its client still counts as
    /// waiting.
    #[must_use]
    pub fn put_back(&self, ticket: Ticket) -> bool {
        let first = self.returned.push(ticket);
        first.or_else(|ticket| self.tickets.push(ticket)).is_ok()
    }

    /// Only one worker at a time serves a queue: two that each take a ticket and put it back could change their order. False
    /// if another does; it will then look again.
    #[must_use]
    pub fn begin_serving(&self) -> bool {
        let next = |state: u32| Some(if state == NOBODY { SOMEBODY } else { ONCE_MORE });
        let before = self
            .serving
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        before == Ok(NOBODY)
    }

    /// False if there was reason to serve meanwhile: then do it again.
    #[must_use]
    pub fn end_serving(&self) -> bool {
        let ended =
            self.serving
                .compare_exchange(SOMEBODY, NOBODY, Ordering::AcqRel, Ordering::Acquire);
        if ended.is_err() {
            self.serving.store(SOMEBODY, Ordering::Release);
        }
        ended.is_ok()
    }

    /// A session stopped waiting: it was granted a backend, or it left. Its owner calls this, once per joined session.
    pub fn leave(&self) {
        let before = self.live.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "left a queue more often than joined");
    }

    /// The oldest ticket, live or stale.
    #[must_use]
    pub fn oldest(&self) -> Option<Ticket> {
        self.returned.pop().or_else(|| self.tickets.pop())
    }
}

/// When a worker looks again after those who wait for a backend's turn: one worker's timer serves all.
#[derive(Debug)]
pub struct Wake(AtomicU64);

impl Default for Wake {
    fn default() -> Wake {
        Wake(AtomicU64::new(Nanos::NEVER.0))
    }
}

impl Wake {
    /// Whether the caller is to look at `due`: nobody does so earlier. Who was to and is late is not relied on.
    #[must_use]
    pub fn claim(&self, due: Nanos, now: Nanos) -> bool {
        let earlier = |at: u64| (at > due.0 || at <= now.0).then_some(due.0);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, earlier)
            .is_ok()
    }

    /// Whoever was to look will not.
    pub fn forget(&self) {
        self.0.store(Nanos::NEVER.0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Slot;

    fn ticket(slot: u32) -> Ticket {
        Ticket {
            worker: WorkerId(0),
            session: SessionKey {
                slot: Slot(slot),
                generation: 0,
            },
            hash: 0,
            avoid: None,
        }
    }

    #[test]
    fn first_come_first_served_up_to_the_size() {
        let waiters = Waiters::new(2);
        assert!(waiters.join(ticket(1)));
        assert!(waiters.join(ticket(2)));
        assert!(!waiters.join(ticket(3)));
        assert_eq!(waiters.oldest(), Some(ticket(1)));
        waiters.leave();
        assert!(waiters.join(ticket(4)));
        assert_eq!(waiters.oldest(), Some(ticket(2)));
        assert_eq!(waiters.oldest(), Some(ticket(4)));
        assert_eq!(waiters.oldest(), None);
    }

    #[test]
    fn who_was_taken_in_vain_is_taken_next() {
        let waiters = Waiters::new(3);
        for slot in 1..=3 {
            assert!(waiters.join(ticket(slot)));
        }
        let first = waiters.oldest().unwrap();
        assert!(waiters.put_back(first));
        let order: Vec<_> = std::iter::from_fn(|| waiters.oldest()).collect();
        assert_eq!(order, [ticket(1), ticket(2), ticket(3)]);
        assert_eq!(waiters.live(), 3);
    }

    #[test]
    fn one_serves_at_a_time_and_looks_again_if_another_had_reason_to() {
        let waiters = Waiters::new(1);
        assert!(waiters.begin_serving());
        assert!(waiters.end_serving());
        assert!(waiters.begin_serving());
        assert!(!waiters.begin_serving() && !waiters.begin_serving());
        assert!(!waiters.end_serving());
        assert!(waiters.end_serving());
        assert!(waiters.begin_serving());
    }

    #[test]
    fn the_earliest_wake_is_one_workers_until_it_is_late() {
        let wake = Wake::default();
        assert!(wake.claim(Nanos(50), Nanos(10)));
        assert!(!wake.claim(Nanos(60), Nanos(20)));
        assert!(wake.claim(Nanos(40), Nanos(20)));
        assert!(wake.claim(Nanos(90), Nanos(40)), "it is due, or late");
        wake.forget();
        assert!(wake.claim(Nanos(95), Nanos(41)));
    }
}
