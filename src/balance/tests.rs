//! What holds for every algorithm.

use std::cell::Cell;

use proptest::prelude::*;

use super::testing::{Bits, Field, names, weights_and_openness};
use super::*;

const ALL: [Algorithm; 8] = [
    Algorithm::RoundRobin,
    Algorithm::LeastConnections,
    Algorithm::PowerOfTwo,
    Algorithm::Random,
    Algorithm::First,
    Algorithm::SourceHash,
    Algorithm::Maglev,
    Algorithm::LeastLatency,
];

fn chooser(algorithm: Algorithm, weights: &[u32]) -> Chooser {
    let names = names(weights.len());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Chooser::new(algorithm, weights, &names)
}

fn draw(bits: &mut Bits, turn: u64) -> Draw {
    Draw {
        turn,
        random: bits.next(),
        hash: bits.next(),
    }
}

/// Backends that close and open at every look, as other workers and the prober can make them.
struct Flicker(Cell<u64>);

impl Candidates for Flicker {
    fn is_open(&self, _: usize) -> bool {
        self.0.set(scramble(self.0.get()));
        self.0.get() & 1 == 1
    }

    fn sessions(&self, _: usize) -> u32 {
        self.0.set(scramble(self.0.get()));
        (self.0.get() % 4) as u32
    }
}

proptest! {
    #[test]
    fn an_open_backend_with_weight_or_none_only_if_there_is_none(
        (weights, open) in weights_and_openness(0..12, 1000),
        sessions in prop::collection::vec(any::<u32>(), 12),
        seed: u64,
        turn: u64,
    ) {
        let mut field = Field::from_open(open.iter().copied());
        field.sessions.copy_from_slice(&sessions[..open.len()]);
        let is_there = |i: usize| open[i] && weights[i] > 0;
        let is_any = (0..weights.len()).any(is_there);
        let mut bits = Bits(seed);
        for algorithm in ALL {
            let chooser = chooser(algorithm, &weights);
            prop_assert_eq!(chooser.algorithm(), algorithm);
            for later in 0..20 {
                let draw = draw(&mut bits, turn.wrapping_add(later));
                match chooser.choose(&field, draw) {
                    Some(i) => prop_assert!(is_there(i), "{:?} chose {}", algorithm, i),
                    None => prop_assert!(!is_any, "{:?} found none", algorithm),
                }
            }
        }
    }

    #[test]
    fn backends_that_change_under_the_choice_do_no_harm(
        (weights, _) in weights_and_openness(0..12, 1000),
        seed: u64,
    ) {
        let flicker = Flicker(Cell::new(seed));
        let mut bits = Bits(seed);
        for algorithm in ALL {
            let chooser = chooser(algorithm, &weights);
            for turn in 0..50 {
                if let Some(i) = chooser.choose(&flicker, draw(&mut bits, turn)) {
                    prop_assert!(weights[i] > 0);
                }
            }
        }
    }
}

#[test]
fn sixty_four_thousand_backends_of_the_largest_weights() {
    let weights: Vec<u32> = (0..65_536)
        .map(|i| if i % 2 == 0 { u32::MAX } else { 3 })
        .collect();
    let field = Field::from_open((0..65_536).map(|i| i % 3 == 2));
    let mut bits = Bits(1);
    for algorithm in ALL {
        let chooser = chooser(algorithm, &weights);
        for turn in 0..20 {
            let chosen = chooser.choose(&field, draw(&mut bits, turn)).unwrap();
            assert_eq!(chosen % 3, 2);
        }
    }
}
