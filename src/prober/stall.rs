//! Tells whether the prober itself stood still. Before it sleeps it notes when it means to be awake again; whoever looks
//! at the clock later sees whether that moment passed long ago. A check that lived through a stall says nothing about
//! its backend. Pure: time is handed in.

use std::cell::Cell;

use crate::ids::{Nanos, millis};

/// Being this late is a stall.
pub const LATE_NS: u64 = millis(100);

/// While checks are in flight the prober means to wake at least this often, so that no stall that matters is missed.
pub const BEAT_NS: u64 = millis(50);

#[derive(Debug)]
pub struct StallWatch {
    awake_again: Cell<Nanos>,
    last_stall_ended: Cell<Nanos>,
}

impl StallWatch {
    #[must_use]
    pub fn new() -> StallWatch {
        StallWatch {
            awake_again: Cell::new(Nanos::NEVER),
            last_stall_ended: Cell::new(Nanos::ZERO),
        }
    }

    /// The prober goes to sleep and means to be awake at `at`, or earlier.
    pub fn sleep_until(&self, at: Nanos) {
        self.awake_again.set(at);
    }

    /// The prober is awake and it is `now`. Returns for how long it stood still, in nanoseconds; 0 if it did not.
    pub fn look(&self, now: Nanos) -> u64 {
        let late_ns = now.since(self.awake_again.get());
        if late_ns <= LATE_NS {
            return 0;
        }
        self.last_stall_ended.set(now);
        late_ns
    }

    /// Whether a stall that was seen by [`StallWatch::look`] ended after `moment`.
    #[must_use]
    pub fn stalled_since(&self, moment: Nanos) -> bool {
        self.last_stall_ended.get() > moment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_beyond_the_tolerance_is_a_stall_for_those_who_lived_through_it() {
        let watch = StallWatch::new();
        watch.sleep_until(Nanos(millis(50)));
        assert_eq!(watch.look(Nanos(millis(150))), 0);
        assert!(!watch.stalled_since(Nanos(millis(1))));
        assert_eq!(watch.look(Nanos(millis(151))), millis(101));
        assert!(watch.stalled_since(Nanos(millis(1))));
        assert!(watch.stalled_since(Nanos(millis(150))));
        // What starts once it is seen is not touched by it.
        assert!(!watch.stalled_since(Nanos(millis(151))));
        watch.sleep_until(Nanos(millis(200)));
        assert_eq!(watch.look(Nanos(millis(201))), 0);
        assert!(!watch.stalled_since(Nanos(millis(151))));
    }

    #[test]
    fn without_a_plan_to_wake_nothing_is_late() {
        let watch = StallWatch::new();
        assert_eq!(watch.look(Nanos(millis(1_000_000))), 0);
        assert!(!watch.stalled_since(Nanos::ZERO));
    }
}
