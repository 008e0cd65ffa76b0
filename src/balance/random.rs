//! Weighted random choice, and the better of two such choices.
//!
//! Power-of-two needs no look at all backends and still keeps the fullest one close to the mean (Azar, Broder, Karlin and
//! Upfal, "Balanced allocations", 1999; Mitzenmacher, "The power of two choices in randomized load balancing", 2001).
//! The two are drawn by weight, never the same one twice, and compared by (sessions + 1) / weight.

use super::least::{Cost, Load};
use super::shares::{Shares, below};
use super::{Candidates, Ramp, scramble};

/// Draws that may fall on a closed backend, or one that starts slowly, before all of them are looked at. Each alternative
/// is exact; this only saves time in large pools with many closed backends.
const TRIES: u64 = 4;

#[derive(Clone, Debug)]
pub(super) struct Random {
    shares: Shares,
}

/// The better of two, by any cost.
#[derive(Clone, Debug)]
pub(super) struct PowerOfTwo {
    weights: Vec<u32>,
    shares: Shares,
}

impl Random {
    pub fn new(weights: &[u32]) -> Random {
        Random {
            shares: Shares::new(weights.iter().copied()),
        }
    }

    pub fn choose(&self, candidates: &impl Candidates, random: u64) -> Option<usize> {
        draw(&self.shares, candidates, random)
    }
}

impl PowerOfTwo {
    pub fn new(weights: &[u32]) -> PowerOfTwo {
        PowerOfTwo {
            weights: weights.to_vec(),
            shares: Shares::new(weights.iter().copied()),
        }
    }

    pub fn choose(&self, candidates: &impl Candidates, random: u64) -> Option<usize> {
        self.choose_by(candidates, random, |i, weight| {
            Load::of(candidates, i, weight)
        })
    }

    pub fn choose_by<C: Cost>(
        &self,
        candidates: &impl Candidates,
        random: u64,
        cost: impl Fn(usize, u32) -> C,
    ) -> Option<usize> {
        let one = draw(&self.shares, candidates, random)?;
        // Another stream of bits than the first draw's tries.
        let bits = scramble(!random);
        let Some(other) = draw(&self.shares, &But(candidates, one), bits) else {
            return Some(one);
        };
        // A tie stays with the first, which was random already.
        let is_better = cost(other, self.weights[other])
            .compare(cost(one, self.weights[one]))
            .is_lt();
        Some(if is_better { other } else { one })
    }
}

/// All candidates but one.
struct But<'a, C>(&'a C, usize);

impl<C: Candidates> Candidates for But<'_, C> {
    fn is_open(&self, i: usize) -> bool {
        i != self.1 && self.0.is_open(i)
    }

    fn sessions(&self, i: usize) -> u32 {
        self.0.sessions(i)
    }

    fn ramp(&self, i: usize) -> Ramp {
        self.0.ramp(i)
    }
}

/// An open one, each with the probability of its weight's share among them, as the weights count now.
fn draw(shares: &Shares, candidates: &impl Candidates, random: u64) -> Option<usize> {
    let total = shares.total();
    if total == 0 {
        return None;
    }
    for attempt in 0..TRIES {
        let bits = scramble(random.wrapping_add(attempt));
        let choice = shares.at(below(total, bits));
        if candidates.is_open(choice) && candidates.ramp(choice).lets_pass(scramble(bits)) {
            return Some(choice);
        }
    }
    let open = shares.census(candidates, 0).open;
    let bits = scramble(random.wrapping_add(TRIES));
    shares.at_open(candidates, below(open, bits))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bits, Field, chance_allows, weights_and_openness};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_better_of_two_is_taken_and_the_worst_of_all_never() {
        let method = PowerOfTwo::new(&[10; 5]);
        let mut field = Field::all_open(5);
        field.sessions = vec![4, 3, 9, 1, 2];
        let mut bits = Bits(7);
        let mut counts = [0u32; 5];
        for _ in 0..100_000 {
            counts[method.choose(&field, bits.next()).unwrap()] += 1;
        }
        assert_eq!(counts[2], 0);
        // The k-th best of 5 is the better of a pair in (5 - k) of the 10 pairs.
        for (i, pairs) in [(3, 4.0), (4, 3.0), (1, 2.0), (0, 1.0)] {
            assert!(
                chance_allows(counts[i], 100_000, pairs / 10.0),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn the_better_of_two_knows_weights() {
        let method = PowerOfTwo::new(&[1, 3]);
        let mut field = Field::all_open(2);
        // 2/1 against 4/3, then against 7/3.
        field.sessions = vec![1, 3];
        assert_eq!(method.choose(&field, 1), Some(1));
        field.sessions = vec![1, 6];
        assert_eq!(method.choose(&field, 1), Some(0));
    }

    #[test]
    fn a_single_open_backend_is_found_by_both() {
        let mut field = Field::from_open((0..1_000).map(|i| i == 777));
        field.sessions[777] = 1_000_000;
        for random in 0..100 {
            let weights = vec![1; 1_000];
            assert_eq!(Random::new(&weights).choose(&field, random), Some(777));
            assert_eq!(PowerOfTwo::new(&weights).choose(&field, random), Some(777));
        }
    }

    /// Two choices keep the fullest backend within a few of the mean, where one choice does not: with 100 backends and
    /// 100 sessions each, one choice alone leaves a gap of about 25.
    #[test]
    fn two_choices_fill_evenly() {
        let method = PowerOfTwo::new(&[1; 100]);
        let mut field = Field::all_open(100);
        let mut bits = Bits(3);
        for _ in 0..10_000 {
            let chosen = method.choose(&field, bits.next()).unwrap();
            field.sessions[chosen] += 1;
        }
        let most = *field.sessions.iter().max().unwrap();
        assert!(most <= 106, "{most}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// False alarm: at most 64 cases x 8 backends x 10^-12.
        #[test]
        fn random_shares_by_weight((weights, open) in weights_and_openness(1..9, 1000), seed: u64) {
            let field = Field::from_open(open.iter().copied());
            let method = Random::new(&weights);
            let is_in = |i: &usize| open[*i] && weights[*i] > 0;
            let open_total: u32 = (0..open.len()).filter(is_in).map(|i| weights[i]).sum();
            prop_assume!(open_total > 0);
            let mut bits = Bits(seed);
            let mut counts = vec![0u32; weights.len()];
            for _ in 0..20_000 {
                counts[method.choose(&field, bits.next()).unwrap()] += 1;
            }
            for i in (0..open.len()).filter(is_in) {
                let share = f64::from(weights[i]) / f64::from(open_total);
                prop_assert!(chance_allows(counts[i], 20_000, share), "{:?} {:?}: {:?}", weights, open, counts);
            }
        }
    }
}
