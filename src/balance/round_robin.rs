//! Each backend in its turn, as often as its weight says and well spread, without any state but the pool's turn counter.
//!
//! With equal weights turn t is backend t mod n. Otherwise the turns hop along the line of weights by a step near the
//! golden section of its length and without a common divisor with it: every cycle visits every point once, so the shares
//! are exact per cycle, and by the three-gap theorem (Świerczkowski 1958; Knuth, The Art of Computer Programming 3, §6.4)
//! any run of turns is spread nearly evenly.
//!
//! A turn that falls on a closed backend is a spare one. Giving it to the next open backend would double that one's
//! share; instead the spare turns are counted through, and dealt out along the line of the open backends in the same way.
//! Of the turns of a backend that starts slowly, those that it is not to have yet are dealt out likewise, by hash.

use super::shares::{Shares, below};
use super::{Candidates, scramble};

/// 2^64 divided by the golden ratio: multiples of it, wrapping, are a low-discrepancy sequence.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone, Debug)]
pub(super) struct RoundRobin {
    shares: Shares,
    /// Without a common divisor with the line's length.
    step: u64,
}

impl RoundRobin {
    pub fn new(weights: &[u32]) -> RoundRobin {
        let divisor = weights.iter().fold(0, |a, &b| gcd(a, u64::from(b))).max(1);
        // Fits: it divides a u32 weight, unless all are zero.
        let reduced = |&weight: &u32| (u64::from(weight) / divisor) as u32;
        let shares = Shares::new(weights.iter().map(reduced));
        let are_equal = weights.iter().all(|weight| weights[0] == *weight);
        let step = if are_equal {
            1
        } else {
            golden_step(shares.total())
        };
        RoundRobin { shares, step }
    }

    pub fn choose(&self, candidates: &impl Candidates, turn: u64) -> Option<usize> {
        let total = self.shares.total();
        if total == 0 {
            return None;
        }
        let hop = u128::from(turn % total) * u128::from(self.step);
        let point = (hop % u128::from(total)) as u64;
        let choice = self.shares.at(point);
        let is_open = candidates.is_open(choice);
        if is_open && candidates.ramp(choice).lets_pass(scramble(turn)) {
            return Some(choice);
        }
        let census = self.shares.census(candidates, point);
        let cycle = turn / total;
        let spare = cycle
            .wrapping_mul(census.closed)
            .wrapping_add(census.closed_before);
        let spread = match is_open {
            false => spare.wrapping_mul(GOLDEN),
            true => scramble(!turn),
        };
        self.shares.at_open(candidates, below(census.open, spread))
    }
}

/// The number nearest below the golden section of `total` that shares no divisor with it.
fn golden_step(total: u64) -> u64 {
    let start = below(total, GOLDEN).max(1);
    let is_coprime = |&step: &u64| gcd(step, total) == 1;
    (1..=start).rev().find(is_coprime).unwrap_or(1)
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Field, weights_and_openness};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_weights_take_turns_in_order() {
        let method = RoundRobin::new(&[100, 100, 100]);
        let field = Field::all_open(3);
        let chosen: Vec<_> = (0..7).map(|t| method.choose(&field, t).unwrap()).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn a_closed_backends_turns_go_to_all_others_alike() {
        // Every pattern of closed ones, so also those in step with the turns.
        for pattern in 1u32..255 {
            let field = Field::from_open((0..8).map(|i| pattern >> i & 1 == 1));
            let method = RoundRobin::new(&[3; 8]);
            let mut counts = [0u32; 8];
            for turn in 0..8_000 {
                counts[method.choose(&field, turn).unwrap()] += 1;
            }
            let open = pattern.count_ones();
            for (i, &count) in counts.iter().enumerate() {
                if pattern >> i & 1 == 1 {
                    let off = (f64::from(count) - 8_000.0 / f64::from(open)).abs();
                    assert!(off <= 6.0, "{pattern:08b}: {counts:?}");
                } else {
                    assert_eq!(count, 0);
                }
            }
        }
    }

    #[test]
    fn no_backend_is_ever_far_from_its_share() {
        for weights in [
            vec![5, 1, 1],
            vec![1000, 1, 999, 500],
            vec![1; 7],
            vec![100, 1, 1, 1, 1, 1, 1, 1],
        ] {
            let method = RoundRobin::new(&weights);
            let field = Field::all_open(weights.len());
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0u32; weights.len()];
            for turn in 0..u64::from(total) * 3 {
                counts[method.choose(&field, turn).unwrap()] += 1;
                for (&count, &weight) in counts.iter().zip(&weights) {
                    let share = (turn + 1) as f64 * f64::from(weight) / f64::from(total);
                    let off = (f64::from(count) - share).abs();
                    assert!(off < 3.0, "{weights:?} turn {turn}: {counts:?}");
                }
            }
        }
    }

    #[test]
    fn a_turn_counter_that_wraps_does_no_harm() {
        let method = RoundRobin::new(&[7, 3, 2]);
        let field = Field::from_open([true, false, true]);
        for turn in u64::MAX - 100..=u64::MAX {
            assert_ne!(method.choose(&field, turn).unwrap(), 1);
        }
    }

    proptest! {
        #[test]
        fn a_whole_cycle_is_exact((weights, _) in weights_and_openness(1..9, 60), from in 0u64..1 << 40) {
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            let method = RoundRobin::new(&weights);
            let field = Field::all_open(weights.len());
            let mut counts = vec![0u64; weights.len()];
            for turn in from..from + total {
                counts[method.choose(&field, turn).unwrap()] += 1;
            }
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(*count, u64::from(*weight));
            }
        }

        #[test]
        fn the_open_ones_share_by_weight((weights, open) in weights_and_openness(2..9, 60)) {
            let field = Field::from_open(open.iter().copied());
            let method = RoundRobin::new(&weights);
            let is_in = |i: &usize| open[*i] && weights[*i] > 0;
            let open_total: u32 = (0..open.len()).filter(is_in).map(|i| weights[i]).sum();
            prop_assume!(open_total > 0);
            let turns = 20_000u32;
            let mut counts = vec![0u32; weights.len()];
            for turn in 0..u64::from(turns) {
                counts[method.choose(&field, turn).unwrap()] += 1;
            }
            for i in (0..open.len()).filter(is_in) {
                let share = f64::from(turns) * f64::from(weights[i]) / f64::from(open_total);
                let off = (f64::from(counts[i]) - share).abs();
                // Not a matter of chance: the discrepancy of both sequences grows with the logarithm of the turns.
                prop_assert!(off < 16.0, "{:?} {:?}: {:?}", weights, open, counts);
            }
        }
    }
}
