//! Latencies in buckets 1.6 % wide: 64 steps to each doubling. Fixed size, so that recording one costs nothing worth
//! measuring.

use std::time::Duration;

const STEPS: u64 = 64;
const BUCKETS: usize = 64 * 36;

#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
        }
    }

    fn bucket(nanos: u64) -> usize {
        if nanos < STEPS {
            return nanos as usize;
        }
        let doublings = u64::from(nanos.ilog2() - STEPS.ilog2());
        let step = (nanos >> doublings) - STEPS;
        ((doublings + 1) * STEPS + step) as usize
    }

    /// The middle of a bucket.
    fn nanos(bucket: usize) -> f64 {
        let bucket = bucket as u64;
        if bucket < STEPS {
            return bucket as f64;
        }
        let doublings = bucket / STEPS - 1;
        ((STEPS + bucket % STEPS) as f64 + 0.5) * (1u64 << doublings) as f64
    }

    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[Self::bucket(nanos).min(BUCKETS - 1)] += 1;
        self.total += 1;
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// The latency, in microseconds, that `share` of all stay within.
    pub fn quantile_us(&self, share: f64) -> f64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Self::nanos(bucket) / 1e3;
            }
        }
        0.0
    }
}
