//! What a choice costs: measured on demand (`cargo test --release --lib balance::cost -- --ignored --nocapture`), by the
//! fastest of several rounds, so that other work on the machine shows as little as possible.

use std::hint::black_box;
use std::time::Instant;

use super::testing::{Bits, Field, names};
use super::*;

const ROUNDS: usize = 300;
const CHOICES: u64 = 100;

fn fastest_ns(mut choose: impl FnMut(u64)) -> f64 {
    let round = |choose: &mut dyn FnMut(u64)| {
        let start = Instant::now();
        (0..CHOICES).for_each(&mut *choose);
        start.elapsed().as_nanos() as f64 / CHOICES as f64
    };
    let rounds = (0..ROUNDS).map(|_| round(&mut choose));
    rounds.fold(f64::INFINITY, f64::min)
}

fn field(count: usize, bits: &mut Bits) -> Field {
    let mut field = Field::all_open(count);
    for i in 0..count {
        field.sessions[i] = (bits.next() % 50) as u32;
        field.latencies[i] = Some(Latency {
            average_ns: (bits.next() % 1_000_000) as f32,
            age_ns: bits.next() % 10_000_000_000,
        });
    }
    field
}

#[test]
#[ignore = "a measurement"]
fn a_choice_is_cheap() {
    let algorithms = [
        Algorithm::RoundRobin,
        Algorithm::LeastConnections,
        Algorithm::LeastLatency,
        Algorithm::PowerOfTwo,
        Algorithm::Random,
        Algorithm::First,
        Algorithm::SourceHash,
        Algorithm::Maglev,
    ];
    println!(
        "nanoseconds per choice with 2, 64, 1000 backends (weights differ); milliseconds to make it with 1000"
    );
    for algorithm in algorithms {
        let mut line = format!("{algorithm:?}:");
        for count in [2usize, 64, 1000] {
            let weights: Vec<u32> = (0..count as u32).map(|i| 1 + i % 7).collect();
            let names = names(count);
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let start = Instant::now();
            let chooser = Chooser::new(algorithm, &weights, &names);
            let made_ms = start.elapsed().as_secs_f64() * 1e3;
            let mut bits = Bits(1);
            let field = field(count, &mut bits);
            let cost = fastest_ns(|turn| {
                let draw = Draw {
                    turn,
                    random: bits.next(),
                    hash: bits.next(),
                };
                black_box(chooser.choose(black_box(&field), draw));
            });
            line += &format!(" {cost:.0}");
            if count == 1000 {
                line += &format!(" (made in {made_ms:.1} ms)");
            }
        }
        println!("{line}");
    }
}
