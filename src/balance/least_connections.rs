//! The backend with the fewest sessions for its weight, counted over all workers: the least (sessions + 1) / weight, so
//! that a choice is judged by the load it would make. Fractions are compared by cross-multiplication, exactly.
//!
//! Equally loaded backends go round by turn. Every choice looks at every backend.

use super::Candidates;

#[derive(Debug)]
pub(super) struct LeastConnections {
    weights: Vec<u32>,
}

/// The load of a backend after one more session, as a fraction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    sessions: u64,
    weight: u64,
}

impl Load {
    pub fn after_one_more(sessions: u32, weight: u32) -> Load {
        Load {
            sessions: u64::from(sessions) + 1,
            weight: u64::from(weight),
        }
    }

    /// Compares without division; both products fit: at most 2^32 times less than 2^32.
    pub fn cmp(self, other: Load) -> std::cmp::Ordering {
        (self.sessions * other.weight).cmp(&(other.sessions * self.weight))
    }
}

impl LeastConnections {
    pub fn new(weights: &[u32]) -> LeastConnections {
        LeastConnections {
            weights: weights.to_vec(),
        }
    }

    pub fn choose(&self, candidates: &impl Candidates, turn: u64) -> Option<usize> {
        let mut best: Option<(usize, Load)> = None;
        let mut equals = 1u64;
        for (i, load) in self.loads(candidates) {
            match best.map(|(_, least)| load.cmp(least)) {
                Some(std::cmp::Ordering::Greater) => {}
                Some(std::cmp::Ordering::Equal) => equals += 1,
                Some(std::cmp::Ordering::Less) | None => {
                    best = Some((i, load));
                    equals = 1;
                }
            }
        }
        let (first, least) = best?;
        // Starting the walk at `turn` instead would give a backend that follows busy ones their turns, too.
        let wanted = (turn % equals) as usize;
        if wanted == 0 {
            return Some(first);
        }
        let is_equal = |&(_, load): &(usize, Load)| load.cmp(least).is_eq();
        let mut equal = self.loads(candidates).filter(is_equal);
        // Loads may have changed since the first walk; then the first found is as good as any.
        Some(equal.nth(wanted).map_or(first, |(i, _)| i))
    }

    fn loads(&self, candidates: &impl Candidates) -> impl Iterator<Item = (usize, Load)> {
        let weighted = self.weights.iter().copied().enumerate();
        weighted
            .filter(|&(i, weight)| weight > 0 && candidates.is_open(i))
            .map(|(i, weight)| (i, Load::after_one_more(candidates.sessions(i), weight)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Field, weights_and_openness};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equally_idle_backends_go_round() {
        let method = LeastConnections::new(&[100; 4]);
        let field = Field::from_open([true, false, true, true]);
        let chosen: Vec<_> = (0..6).map(|t| method.choose(&field, t).unwrap()).collect();
        assert_eq!(chosen, [0, 2, 3, 0, 2, 3]);
    }

    #[test]
    fn a_busy_backends_neighbour_gets_no_more_than_others() {
        let method = LeastConnections::new(&[1; 3]);
        let mut field = Field::all_open(3);
        field.sessions[1] = 5;
        let mut counts = [0; 3];
        for turn in 0..1_000 {
            counts[method.choose(&field, turn).unwrap()] += 1;
        }
        assert_eq!(counts, [500, 0, 500]);
    }

    #[test]
    fn fractions_are_compared_exactly_up_to_the_largest() {
        let most = Load::after_one_more(u32::MAX, u32::MAX);
        let less = Load::after_one_more(u32::MAX - 1, u32::MAX);
        assert!(less.cmp(most).is_lt());
        assert!(most.cmp(most).is_eq());
        let third = Load::after_one_more(0, 3);
        let same = Load::after_one_more(333_333_332, 999_999_999);
        assert!(third.cmp(same).is_eq());
    }

    proptest! {
        #[test]
        fn equal_weights_fill_evenly(n in 1usize..20, turns in 0u64..400, from: u64) {
            let method = LeastConnections::new(&vec![100; n]);
            let mut field = Field::all_open(n);
            for turn in 0..turns {
                let chosen = method.choose(&field, from.wrapping_add(turn)).unwrap();
                field.sessions[chosen] += 1;
                let most = field.sessions.iter().max().unwrap();
                let least = field.sessions.iter().min().unwrap();
                prop_assert!(most - least <= 1);
            }
        }

        /// Growing sessions only, this is the divisor method of Jefferson, which never gives less than the exact share
        /// rounded down.
        #[test]
        fn weights_fill_by_share((weights, open) in weights_and_openness(1..9, 1000), turns in 1u32..2_000) {
            let method = LeastConnections::new(&weights);
            let mut field = Field::from_open(open.iter().copied());
            let is_in = |i: &usize| open[*i] && weights[*i] > 0;
            let open_total: u64 = (0..open.len()).filter(is_in).map(|i| u64::from(weights[i])).sum();
            prop_assume!(open_total > 0);
            for turn in 0..turns {
                let chosen = method.choose(&field, u64::from(turn)).unwrap();
                field.sessions[chosen] += 1;
            }
            for i in (0..open.len()).filter(is_in) {
                let quota = u64::from(turns) * u64::from(weights[i]) / open_total;
                prop_assert!(u64::from(field.sessions[i]) >= quota);
            }
        }

        #[test]
        fn no_open_backend_is_less_loaded_than_the_chosen(
            (weights, open) in weights_and_openness(1..9, 1000),
            sessions in prop::collection::vec(0u32..50, 9),
            turn: u64,
        ) {
            let mut field = Field::from_open(open.iter().copied());
            field.sessions.copy_from_slice(&sessions[..open.len()]);
            if let Some(chosen) = LeastConnections::new(&weights).choose(&field, turn) {
                for i in (0..open.len()).filter(|&i| open[i] && weights[i] > 0) {
                    let ours = u64::from(sessions[chosen] + 1) * u64::from(weights[i]);
                    let theirs = u64::from(sessions[i] + 1) * u64::from(weights[chosen]);
                    prop_assert!(ours <= theirs);
                }
            }
        }
    }
}
