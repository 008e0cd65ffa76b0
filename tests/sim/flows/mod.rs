//! Simulated worlds of datagrams: whole workers over a kernel that carries datagrams only, with clients, backends and an
//! office whose trouble comes from a seed. Held against it: no datagram ever reaches another flow's client or backend, or
//! a backend that takes no more; buffers, places, counters and records balance; nobody spins; all ends.
//!
//! `RINGWAY_SIM_FLOWS_SEED=n cargo test --test sim flows -- --nocapture` replays one seed and tells what happens.

mod drive;
mod kernel;
mod office;
mod streams;
mod submit;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::{Lie, Trouble};

const SEEDS: u64 = 600;
const TURNS: u64 = 1_500;
/// Each kind of trouble must have come this often over all seeds.
const MET_LEAST: u64 = 100;

#[test]
fn no_datagram_goes_astray_in_any_seed() {
    if let Some(seed) = super::number("RINGWAY_SIM_FLOWS_SEED") {
        drive::run(seed, TURNS, None, true);
        return;
    }
    let seeds = super::number("RINGWAY_SIM_FLOWS_SEEDS").unwrap_or(SEEDS);
    let mut met = std::collections::BTreeMap::new();
    let (mut flows, mut passed) = (0, [0; 2]);
    let mut failed = Vec::new();
    for seed in 0..seeds {
        match catch_unwind(AssertUnwindSafe(|| drive::run(seed, TURNS, None, false))) {
            Ok(seen) => {
                flows += seen.flows;
                passed[0] += seen.passed[0];
                passed[1] += seen.passed[1];
                for (trouble, count) in seen.met {
                    *met.entry(trouble).or_insert(0) += count;
                }
            }
            Err(_) => failed.push(seed),
        }
    }
    println!("{flows} flows, {passed:?} datagrams; {met:?}");
    assert!(
        failed.is_empty(),
        "seeds that failed: {failed:?}; replay one with RINGWAY_SIM_FLOWS_SEED=n"
    );
    if seeds >= SEEDS {
        let rare: Vec<_> = Trouble::ALL
            .iter()
            .filter(|trouble| met.get(trouble).is_none_or(|&count| count < MET_LEAST))
            .collect();
        assert!(rare.is_empty(), "met less than {MET_LEAST} times: {rare:?}");
    }
}

/// A kernel that lies now and then: the audit must notice, or it would notice nothing.
#[test]
fn every_lie_of_the_kernel_is_noticed() {
    for lie in Lie::ALL {
        let noticed = (0..60).any(|seed| {
            catch_unwind(AssertUnwindSafe(|| {
                drive::run(seed, TURNS, Some(*lie), false)
            }))
            .is_err()
        });
        assert!(noticed, "nobody noticed {lie:?}");
    }
}
