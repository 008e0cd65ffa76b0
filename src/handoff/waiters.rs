//! Clients that wait for a backend, first come first served over all workers: one bounded queue of tickets per pool.
//! Whoever frees capacity pops the oldest ticket, reserves for it, and posts a [`Grant`] to the ticket's owner.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::ids::{PoolId, SessionKey, WorkerId};

use super::shared::BackendShared;

/// A waiting session's place in the queue. Its session may have left meanwhile: then the ticket is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub worker: WorkerId,
    pub session: SessionKey,
    /// The client's hash, for pools that choose by it.
    pub hash: u64,
}

/// A backend for a waiting session. Its capacity is reserved already if `reserved`: the receiver uses it, or passes
/// it on. It holds on to the backend: a reload may take it out of the receiver's tables while the grant is on its way.
#[derive(Debug)]
pub struct Grant {
    pub session: SessionKey,
    pub pool: PoolId,
    pub backend: Arc<BackendShared>,
    pub reserved: bool,
}

impl Grant {
    /// Gives its place back: nobody uses it.
    pub fn release(&self) {
        if self.reserved {
            self.backend.capacity.release();
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
}

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
}
