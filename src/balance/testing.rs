//! What the tests of this room share: a field of backends, random numbers that repeat, and a bound on chance.

use std::ops::Range;

use proptest::prelude::*;

use super::{Candidates, Latency, Ramp, scramble};

pub(super) struct Field {
    pub open: Vec<bool>,
    pub sessions: Vec<u32>,
    pub ramps: Vec<Ramp>,
    pub latencies: Vec<Option<Latency>>,
}

impl Field {
    pub fn all_open(n: usize) -> Field {
        Field::from_open((0..n).map(|_| true))
    }

    pub fn from_open(open: impl IntoIterator<Item = bool>) -> Field {
        let open: Vec<bool> = open.into_iter().collect();
        let sessions = vec![0; open.len()];
        Field {
            ramps: vec![Ramp::FULL; open.len()],
            latencies: vec![None; open.len()],
            open,
            sessions,
        }
    }
}

impl Candidates for Field {
    fn is_open(&self, i: usize) -> bool {
        self.open[i]
    }

    fn sessions(&self, i: usize) -> u32 {
        self.sessions[i]
    }

    fn ramp(&self, i: usize) -> Ramp {
        self.ramps[i]
    }

    fn latency(&self, i: usize) -> Option<Latency> {
        self.latencies[i]
    }
}

/// Random bits from a seed.
pub(super) struct Bits(pub u64);

impl Bits {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scramble(self.0)
    }
}

/// Whether `count` hits in `draws` are likely enough for independent draws of probability `share`. By Bernstein's
/// inequality a true chooser fails this with a probability of at most 10^-12.
pub(super) fn chance_allows(count: u32, draws: u32, share: f64) -> bool {
    let strictness = (2.0f64 / 1e-12).ln();
    let variance = f64::from(draws) * share * (1.0 - share);
    let bound = strictness / 3.0 + (strictness.powi(2) / 9.0 + 2.0 * strictness * variance).sqrt();
    (f64::from(count) - f64::from(draws) * share).abs() <= bound
}

pub(super) fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("backend-{i}")).collect()
}

/// Weights from 0 to `weight_max` (0 more often than by chance), and for each whether it is open.
pub(super) fn weights_and_openness(
    count: Range<usize>,
    weight_max: u32,
) -> impl Strategy<Value = (Vec<u32>, Vec<bool>)> {
    let weight = prop_oneof![1 => Just(0), 3 => 1..=weight_max.min(4), 5 => 1..=weight_max];
    let backend = (weight, prop::bool::weighted(0.7));
    prop::collection::vec(backend, count).prop_map(|backends| backends.into_iter().unzip())
}
