//! The simulation: whole workers over a fake kernel and a world of peers, all of whose trouble comes from a seed. It
//! looks for lost, doubled and mixed bytes, streams that end other than they should, stuck sessions, spinning workers,
//! clients served out of turn or from the wrong tier, sources over their limits, and anything that is not given back.
//!
//! `RINGWAY_SIM_SEED=n cargo test --test sim -- --nocapture` replays one seed and tells what happens.
//! `RINGWAY_SIM_SEEDS=n` runs so many seeds; `RINGWAY_SIM_WRITE=1` writes the file of reached pairs anew, best from six
//! times as many seeds as the test runs, so that what comes rarely is in it.

#![allow(clippy::unwrap_used)]

#[path = "sim/accept.rs"]
mod accept;
#[path = "sim/answers.rs"]
mod answers;
#[path = "sim/audit.rs"]
mod audit;
#[path = "sim/contract.rs"]
mod contract;
#[path = "sim/counts.rs"]
mod counts;
#[path = "sim/datagrams.rs"]
mod datagrams;
#[path = "sim/door.rs"]
mod door;
#[path = "sim/drive.rs"]
mod drive;
#[path = "sim/flows/mod.rs"]
mod flows;
#[path = "sim/kernel.rs"]
mod kernel;
#[path = "sim/limits.rs"]
mod limits;
#[path = "sim/net.rs"]
mod net;
#[path = "sim/office.rs"]
mod office;
#[path = "sim/operations.rs"]
mod operations;
#[path = "sim/order.rs"]
mod order;
#[path = "sim/pipes.rs"]
mod pipes;
#[path = "sim/random.rs"]
mod random;
#[path = "sim/socket.rs"]
mod socket;
#[path = "sim/submission.rs"]
mod submission;
#[path = "sim/tiers.rs"]
mod tiers;
#[path = "sim/turn.rs"]
mod turn;
#[path = "sim/warm.rs"]
mod warm;
#[path = "sim/weather.rs"]
mod weather;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use counts::{Counts, Fault, compare_pairs, write_pairs};

const SEEDS: u64 = 1_000;
const TURNS: u64 = 2_000;
/// Each kind of trouble must have come this often.
const HITS_LEAST: u64 = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs all seeds on as many threads as there are cores; returns what they met and which failed.
fn run_all(seeds: u64) -> (Counts, Vec<u64>) {
    let next = AtomicU64::new(0);
    let total = Mutex::new((Counts::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let ran = catch_unwind(AssertUnwindSafe(|| drive::run(seed, TURNS, false)));
                    let mut total = total.lock().unwrap();
                    match ran {
                        Ok(counts) => total.0.add(&counts),
                        Err(_) => total.1.push(seed),
                    }
                }
            });
        }
    });
    let (counts, mut failed) = total.into_inner().unwrap();
    failed.sort_unstable();
    (counts, failed)
}

fn pairs_file() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim/pairs.txt")
}

/// Held against what all seeds together have reached.
fn check_reach(counts: &Counts) {
    let rare: Vec<_> = Fault::ALL
        .iter()
        .filter(|fault| counts.hits(**fault) < HITS_LEAST)
        .collect();
    assert!(
        rare.is_empty(),
        "met less than {HITS_LEAST} times: {rare:?}"
    );
    let known = std::fs::read_to_string(pairs_file()).unwrap();
    let differences = compare_pairs(counts, &known);
    assert!(
        differences.is_empty(),
        "the reached pairs differ from tests/sim/pairs.txt; if that is meant, write it anew with RINGWAY_SIM_WRITE=1 \
         RINGWAY_SIM_SEEDS=6000\n{}",
        differences.join("\n")
    );
}

fn print_reach(counts: &Counts) {
    println!(
        "{} turns, {} sessions, {} MB, {} pairs",
        counts.turns,
        counts.sessions,
        counts.bytes / 1_000_000,
        counts.pairs.len(),
    );
    for (end, count) in &counts.ends {
        println!("end {end}: {count}");
    }
    for fault in Fault::ALL {
        println!("{fault:?}: {}", counts.hits(*fault));
    }
}

#[test]
fn nothing_is_lost_stuck_or_kept_in_any_seed() {
    if let Some(seed) = number("RINGWAY_SIM_SEED") {
        drive::run(seed, TURNS, true);
        return;
    }
    let seeds = number("RINGWAY_SIM_SEEDS").unwrap_or(SEEDS);
    let (counts, failed) = run_all(seeds);
    print_reach(&counts);
    if number("RINGWAY_SIM_WRITE").is_some() {
        std::fs::write(pairs_file(), write_pairs(&counts, seeds)).unwrap();
    }
    assert!(
        failed.is_empty(),
        "seeds that failed: {failed:?}; replay one with RINGWAY_SIM_SEED=n"
    );
    if seeds >= SEEDS {
        check_reach(&counts);
    }
}
