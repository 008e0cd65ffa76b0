//! What chance may do to shares: how far counts may be off before the chooser and not chance is to blame. Each test of
//! shares by random or hashed choice is held to it, so a chooser that is right fails one count in a million at most.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::support::{alone, net};
use super::{before, config, name_for, named_backends, open};

/// Of each count of each test below; there are 12 of them, so a run fails by chance once in 80,000.
const FALSE_ALARM: f64 = 1e-6;

/// How far the hits in so many independent draws may be from their mean (Bernstein's inequality, both sides).
fn slack(draws: u32, share: f64) -> f64 {
    let strictness = (2.0 / FALSE_ALARM).ln();
    let variance = f64::from(draws) * share * (1.0 - share);
    strictness / 3.0 + (strictness.powi(2) / 9.0 + 2.0 * strictness * variance).sqrt()
}

#[track_caller]
fn assert_shares(counts: &BTreeMap<String, u32>, weights: &[(&str, u32)]) {
    let draws: u32 = counts.values().sum();
    let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
    for (name, weight) in weights {
        let share = f64::from(*weight) / f64::from(total);
        let found = f64::from(counts.get(*name).copied().unwrap_or(0));
        let expected = f64::from(draws) * share;
        assert!(
            (found - expected).abs() <= slack(draws, share),
            "{name} has {found}, not {expected} ± {}: {counts:?}",
            slack(draws, share)
        );
    }
}

fn count(names: impl Iterator<Item = String>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

const WEIGHTS: [&str; 4] = [
    "weight = 100",
    "weight = 100",
    "weight = 200",
    "weight = 400",
];
const SHARES: [(&str, u32); 4] = [("a", 1), ("b", 1), ("c", 2), ("d", 4)];

#[test]
fn random_follows_weights() {
    let _alone = alone();
    let backends = named_backends(4);
    let address = net::free_address();
    let _ringway = before(address, &backends, 2, "algorithm = \"random\"", &WEIGHTS);
    assert_shares(&count((0..1_600).map(|_| open(address).1)), &SHARES);
}

/// The better of two.
#[test]
fn power_of_two_levels_what_stays() {
    let _alone = alone();
    let backends = named_backends(4);
    let address = net::free_address();
    let _ringway = before(address, &backends, 2, "algorithm = \"power-of-two\"", &[]);
    // Held: nobody is far from even. Of one choice 400 would leave 25 and more between the fullest and the mean in one of
    // 25 runs; the better of two keeps it at a few, which is no matter of chance (Azar and others, 1999).
    let held: Vec<_> = (0..400).map(|_| open(address)).collect();
    let counts = count(held.iter().map(|(_, name)| name.clone()));
    assert!(
        counts.values().all(|&count| count.abs_diff(100) <= 10),
        "{counts:?}"
    );
}

/// Hashing is a draw for each client, once and for all.
#[test]
fn hashes_share_clients_by_weight_and_keep_them() {
    let _alone = alone();
    let backends = named_backends(4);
    let clients: Vec<_> = (0..400_u16)
        .map(|n| Ipv4Addr::new(127, 9, (n >> 8) as u8, n as u8))
        .collect();
    for algorithm in ["source-hash", "maglev"] {
        let lines = format!("algorithm = \"{algorithm}\"");
        let map = |address| -> Vec<String> {
            clients
                .iter()
                .map(|client| name_for(*client, address))
                .collect()
        };
        let address = net::free_address();
        let mut ringway = before(address, &backends, 2, &lines, &WEIGHTS);
        let first = map(address);
        assert_shares(&count(first.iter().cloned()), &SHARES);
        assert_eq!(map(address), first, "{algorithm}: the same again");
        // On another instance, too.
        let other = net::free_address();
        let _other = before(other, &backends, 1, &lines, &WEIGHTS);
        assert_eq!(
            map(other),
            first,
            "{algorithm}: the same on another instance"
        );
        // Without d its clients move; of the others' maglev may move a few (1.3 x the ideal in all), source-hash none.
        ringway.rewrite(config(address, &backends[..3], &lines, &WEIGHTS));
        assert!(ringway.reload(), "the reload was taken");
        let second = map(address);
        let moved = first
            .iter()
            .zip(&second)
            .filter(|(before, after)| before != after);
        let ideal = first.iter().filter(|name| *name == "d").count();
        let most = if algorithm == "maglev" {
            ideal * 13 / 10
        } else {
            ideal
        };
        let moved = moved.count();
        println!("{algorithm}: {moved} clients moved, {ideal} had to");
        assert!(
            (ideal..=most).contains(&moved),
            "{algorithm}: {moved} of {ideal}"
        );
    }
}
