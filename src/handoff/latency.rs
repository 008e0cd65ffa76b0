//! What workers know of a backend's connect time: average and the moment of the last sample in one atomic, so that all of
//! them add to it without a lock and read a pair that belongs together.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::balance::Latency;
use crate::ids::Nanos;

/// The moment is kept in units of 2^20 ns, about a millisecond.
const UNIT_BITS: u32 = 20;

/// Average as a 32-bit float in the upper half, the moment in the lower; 0: no sample.
#[derive(Debug, Default)]
pub struct LatencyCell(AtomicU64);

impl LatencyCell {
    /// Takes in a connect that took so long; an attempt that failed counts with the time it cost.
    pub fn add(&self, took_ns: u64, now: Nanos) {
        let next = |packed: u64| {
            let average = Latency::after_sample(unpack(packed, now), took_ns.max(1));
            Some(u64::from(average.to_bits()) << 32 | moment(now))
        };
        let added = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        debug_assert!(added.is_ok(), "the update never declines");
    }

    #[must_use]
    pub fn read(&self, now: Nanos) -> Option<Latency> {
        unpack(self.0.load(Ordering::Relaxed), now)
    }

    /// Nothing is known any more: it is another life of the backend.
    pub fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Wraps after 52 days; a backend that was silent for so long looks as if it had been heard of lately.
fn moment(now: Nanos) -> u64 {
    now.0 >> UNIT_BITS & u64::from(u32::MAX)
}

fn unpack(packed: u64, now: Nanos) -> Option<Latency> {
    let average_ns = f32::from_bits((packed >> 32) as u32);
    // Another worker's clock may be a little ahead of ours.
    let age = (moment(now) as u32).wrapping_sub(packed as u32) as i32;
    (packed != 0).then(|| Latency {
        average_ns,
        age_ns: u64::from(age.max(0) as u32) << UNIT_BITS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::millis;

    #[test]
    fn what_is_added_is_read_and_forgotten() {
        let cell = LatencyCell::default();
        assert_eq!(cell.read(Nanos(0)), None);
        cell.add(0, Nanos(0));
        assert!(cell.read(Nanos(0)).is_some(), "a sample at time 0");
        cell.add(millis(5), Nanos(millis(100)));
        let known = cell.read(Nanos(millis(350))).unwrap();
        assert_eq!(known.average_ns, 5e6);
        assert!(known.age_ns.abs_diff(millis(250)) < millis(2), "{known:?}");
        // Read with a clock that is behind.
        assert_eq!(cell.read(Nanos(millis(90))).unwrap().age_ns, 0);
        cell.add(millis(1), Nanos(millis(100)));
        assert!(cell.read(Nanos(millis(100))).unwrap().average_ns > 4.9e6);
        cell.forget();
        assert_eq!(cell.read(Nanos(millis(100))), None);
    }
}
