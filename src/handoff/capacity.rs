//! A limit that holds exactly at any number of workers, and over all processes of a service that is being upgraded: one
//! padded count, reserved by compare-and-swap. Beside the total each process keeps its own share on the same line, so that
//! what a crashed one held can be given back.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys::shares::{Column, LineRef};

/// `used` never exceeds `limit` while reservations are made through [`Capacity::reserve`]. A limit of 0 is no limit:
/// nothing is counted then, and `reserve` says so by handing out [`Reservation::Unneeded`].
#[derive(Debug)]
pub struct Capacity {
    limit: AtomicU32,
    line: LineRef,
    /// Whose share this process keeps.
    column: Column,
}

/// What came of a wish for capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// There is no limit; there is nothing to give back.
    Unneeded,
    /// One unit is held; give it back with [`Capacity::release`].
    Held,
    /// The limit is reached.
    Full,
}

impl Capacity {
    /// A count of this process alone.
    #[must_use]
    pub fn new(limit: u32) -> Capacity {
        Capacity::on(LineRef::alone(), Column::default(), limit)
    }

    /// A count that all processes hold which know the line.
    #[must_use]
    pub fn on(line: LineRef, column: Column, limit: u32) -> Capacity {
        Capacity {
            limit: AtomicU32::new(limit),
            line,
            column,
        }
    }

    /// Changes the limit; a lower one than is in use lets nobody in until enough has been released.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// By all processes together.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.line.total.load(Ordering::Relaxed)
    }

    fn share(&self) -> &AtomicU32 {
        self.line.share(self.column)
    }

    /// Whether a reservation would fail now. Stale at once; use it to pass over, never to let in.
    #[must_use]
    pub fn looks_full(&self) -> bool {
        let limit = self.limit();
        limit != 0 && self.used() >= limit
    }

    pub fn reserve(&self) -> Reservation {
        let limit = self.limit();
        if limit == 0 {
            return Reservation::Unneeded;
        }
        let one_more = |used: u32| (used < limit).then_some(used + 1);
        let total = &self.line.total;
        match total.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more) {
            Ok(_) => {
                self.share().fetch_add(1, Ordering::Relaxed);
                Reservation::Held
            }
            Err(_) => Reservation::Full,
        }
    }

    /// Gives back one unit that is held if more are in use than may be, as after the limit was lowered; false, and nothing is
    /// given back, if they are not.
    #[must_use]
    pub fn release_if_over(&self) -> bool {
        let limit = self.limit();
        let one_less = |used: u32| (limit != 0 && used > limit).then(|| used - 1);
        let total = &self.line.total;
        let given_back = total.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_less);
        if given_back.is_ok() {
            self.share().fetch_sub(1, Ordering::Relaxed);
        }
        given_back.is_ok()
    }

    /// Counts one unit that is in use already, whatever the limit: a limit appeared over a running session.
    pub fn reserve_anyway(&self) {
        self.line.total.fetch_add(1, Ordering::AcqRel);
        self.share().fetch_add(1, Ordering::Relaxed);
    }

    /// Gives back one unit that is held.
    pub fn release(&self) {
        // The share first: a crash in between leaves one unit too many in the total, never one too few.
        self.share().fetch_sub(1, Ordering::Relaxed);
        let before = self.line.total.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "released more capacity than was reserved");
    }

    /// Units that the process of this column holds are held by this one from now on; the total stays. That process does
    /// nothing of its own for it: were it to crash with its part half done, what is taken off for it would be wrong.
    pub fn take_over(&self, from: Column, units: u32) {
        self.share().fetch_add(units, Ordering::Relaxed);
        self.line.share(from).fetch_sub(units, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_the_limit_from_many_threads() {
        let capacity = Capacity::new(100);
        let most = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if capacity.reserve() == Reservation::Held {
                            most.fetch_max(capacity.used(), Ordering::Relaxed);
                            capacity.release();
                        }
                    }
                });
            }
        });
        assert!(most.load(Ordering::Relaxed) <= 100);
        assert_eq!(capacity.used(), 0);
    }

    #[test]
    fn a_unit_goes_back_only_while_more_are_in_use_than_may_be() {
        let capacity = Capacity::new(3);
        for _ in 0..3 {
            assert_eq!(capacity.reserve(), Reservation::Held);
        }
        assert!(!capacity.release_if_over());
        capacity.set_limit(2);
        assert!(capacity.release_if_over());
        assert!(!capacity.release_if_over());
        assert_eq!(capacity.used(), 2);
        capacity.set_limit(0);
        assert!(!capacity.release_if_over());
    }

    #[test]
    fn two_processes_hold_one_limit_and_the_share_of_a_gone_one_comes_back() {
        let line = LineRef::alone();
        let (first, second) = (Column::new(1).unwrap(), Column::new(2).unwrap());
        let old = Capacity::on(line.clone(), first, 3);
        let new = Capacity::on(line.clone(), second, 3);
        assert_eq!(old.reserve(), Reservation::Held);
        assert_eq!(old.reserve(), Reservation::Held);
        assert_eq!(new.reserve(), Reservation::Held);
        assert_eq!(new.reserve(), Reservation::Full);
        new.take_over(first, 1);
        assert_eq!(line.forsake(first), 1);
        assert_eq!(new.used(), 2);
        assert_eq!(new.reserve(), Reservation::Held);
        for _ in 0..3 {
            new.release();
        }
        assert_eq!(line.forsake(second), 0);
        assert_eq!(new.used(), 0);
    }

    #[test]
    fn full_at_the_limit_and_open_again_after_a_release() {
        let capacity = Capacity::new(1);
        assert_eq!(capacity.reserve(), Reservation::Held);
        assert_eq!(capacity.reserve(), Reservation::Full);
        capacity.release();
        assert_eq!(capacity.reserve(), Reservation::Held);
        capacity.set_limit(0);
        assert_eq!(capacity.reserve(), Reservation::Unneeded);
    }
}
