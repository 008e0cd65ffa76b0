//! The backend with the fewest sessions for its weight, counted over all workers: the least (sessions + 1) / weight, so
//! that a choice is judged by the load it would make. Fractions are compared by cross-multiplication, exactly.
//!
//! Equally loaded backends go round by turn. Every choice looks at every backend.

use super::Candidates;
use super::least::{Load, least};

#[derive(Clone, Debug)]
pub(super) struct LeastConnections {
    weights: Vec<u32>,
}

impl LeastConnections {
    pub fn new(weights: &[u32]) -> LeastConnections {
        LeastConnections {
            weights: weights.to_vec(),
        }
    }

    pub fn choose(&self, candidates: &impl Candidates, turn: u64) -> Option<usize> {
        let weighted = || self.weights.iter().copied().enumerate();
        let open = || weighted().filter(|&(i, weight)| weight > 0 && candidates.is_open(i));
        least(
            || open().map(|(i, weight)| (i, Load::of(candidates, i, weight))),
            turn,
        )
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
