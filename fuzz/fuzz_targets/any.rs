//! libFuzzer's way to the targets: `RINGWAY_FUZZ_TARGET` names the one to run, `make fuzz` runs each for a while.

#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use targets::{TARGETS, Target};

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let wanted = std::env::var("RINGWAY_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.name == wanted);
    found.unwrap_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        panic!("RINGWAY_FUZZ_TARGET is {wanted:?}; allowed: {}", names.join(" | "))
    })
});

fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
