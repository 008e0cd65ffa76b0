//! A short run of each fuzz target: the corpus as it is, and then mutated from a seed for some seconds. What it finds is
//! printed as the bytes that do it, to be added to the corpus. `RINGWAY_FUZZ_SEED=n` repeats a run, `RINGWAY_SOAK=1` makes
//! it a hundred times as long.

#![allow(clippy::unwrap_used)]

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use targets::{TARGETS, Target};

const BYTES_MAX: usize = 40_000;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end.max(1) as u64) as usize
    }
}

/// Numbers that lengths and codes are most likely to be wrong by.
const EDGES: [u8; 10] = [0, 1, 2, 3, 0x0F, 0x10, 0x7F, 0x80, 0xFE, 0xFF];

fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let span = dice.below(9) + 1;
        let end = (at + span).min(bytes.len());
        match dice.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = EDGES[dice.below(EDGES.len())],
            2 if at < bytes.len() => bytes[at] = dice.roll() as u8,
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            6 => {
                let other = &others[dice.below(others.len())];
                let from = dice.below(other.len() + 1);
                let piece = other[from..(from + span * 8).min(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            7 => bytes.insert(at, dice.roll() as u8),
            _ => {
                let other = &others[dice.below(others.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[dice.below(other.len() + 1)..]);
            }
        }
    }
    bytes.truncate(BYTES_MAX);
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "a target has a corpus");
    files
        .into_iter()
        .map(|file| fs::read(file).unwrap())
        .collect()
}

fn run(target: &Target) {
    let name = target.name;
    let seed = std::env::var("RINGWAY_FUZZ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let soak = std::env::var_os("RINGWAY_SOAK").is_some();
    let mut dice = Dice(seed.unwrap_or(1));
    let files = corpus(name);
    let rounds = target.rounds * if soak { 100 } else { 1 };
    let began = Instant::now();
    let inputs = files.len() as u64 + rounds;
    for round in 0..inputs {
        let bytes = match files.get(round as usize) {
            Some(file) => file.clone(),
            None => {
                let mut bytes = files[dice.below(files.len())].clone();
                mutate(&mut bytes, &files, &mut dice);
                bytes
            }
        };
        let done = catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes)));
        assert!(
            done.is_ok(),
            "{name}, round {round}: b\"{}\"",
            bytes.escape_ascii()
        );
    }
    println!("{name}: {inputs} inputs in {:?}", began.elapsed());
}

/// Two at a time, as there may be no more cores.
#[test]
fn no_bytes_break_a_reader() {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(target) = TARGETS.get(next.fetch_add(1, Ordering::Relaxed)) {
            run(target);
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
}

/// Every codec is fuzzed: a file of `wire` that no target names is one that somebody forgot.
#[test]
fn every_codec_has_a_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let targets: String = ["mod", "checks", "logins"]
        .map(|name| read(&root.join("fuzz/targets").join(name).with_extension("rs")))
        .concat();
    let codecs = read(&root.join("src/wire/mod.rs"));
    let codecs: Vec<&str> = codecs
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert!(codecs.len() > 10, "{codecs:?}");
    for codec in codecs {
        assert!(
            targets.contains(&format!("{codec}::")),
            "{codec} is not fuzzed"
        );
    }
}
