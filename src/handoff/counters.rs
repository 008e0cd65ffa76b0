//! Numbers that one thread writes and any thread reads.
//!
//! A [`Tally`] has a single writer, so adding is a load and a store without a locked instruction; readers may see it a
//! little late, never torn. A [`Histogram`] is an array of them over fixed bucket bounds.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter or gauge with one writing thread.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// Adds `n`. Only the owning thread may call this: a concurrent add would be lost.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Takes `n` off a gauge. Only the owning thread may call this.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_sub(n),
            Ordering::Relaxed,
        );
    }

    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    #[inline]
    #[must_use]
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bucket bounds double from 16 µs: the last finite one is 16 µs × 2^26, about 18 minutes.
pub const BUCKETS: usize = 28;
const FIRST_BOUND_NS: u64 = 16_000;

/// A histogram of durations in nanoseconds: bucket `i` counts durations of at most 16 µs × 2^i, the last one the rest.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [Tally; BUCKETS],
    sum_ns: Tally,
}

impl Histogram {
    /// All its numbers, the sum last.
    pub fn cells(&self) -> impl Iterator<Item = &Tally> {
        self.counts.iter().chain([&self.sum_ns])
    }

    /// Records one duration. Only the owning thread may call this.
    pub fn record(&self, nanoseconds: u64) {
        self.counts[bucket_of(nanoseconds)].add(1);
        self.sum_ns.add(nanoseconds);
    }
}

fn bucket_of(nanoseconds: u64) -> usize {
    let units = nanoseconds.div_ceil(FIRST_BOUND_NS).max(1);
    (units.next_power_of_two().trailing_zeros() as usize).min(BUCKETS - 1)
}

/// Several workers' histograms added up, for a reader.
#[derive(Clone, Debug, Default)]
pub struct HistogramSum {
    pub counts: [u64; BUCKETS],
    pub sum_ns: u64,
}

impl HistogramSum {
    pub fn add(&mut self, histogram: &Histogram) {
        for (total, count) in self.counts.iter_mut().zip(&histogram.counts) {
            *total += count.read();
        }
        self.sum_ns += histogram.sum_ns.read();
    }

    /// Upper bound of bucket `i` in seconds; infinite for the last.
    #[must_use]
    pub fn bound_seconds(i: usize) -> f64 {
        if i + 1 >= BUCKETS {
            f64::INFINITY
        } else {
            (FIRST_BOUND_NS << i) as f64 / 1e9
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_lands_in_the_first_bucket_that_holds_it() {
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(16_000), 0);
        assert_eq!(bucket_of(16_001), 1);
        assert_eq!(bucket_of(32_000), 1);
        assert_eq!(bucket_of(32_001), 2);
        assert_eq!(bucket_of(u64::MAX / 2), BUCKETS - 1);
    }
}
