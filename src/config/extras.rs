//! Reads what pools will have in later versions: breaker, discovery and more. It is checked
//! as the contract says, and refused in one honest sentence where it asks for something.
//!
//! When a feature arrives, its reader moves from here into a file of its own and gains a plan.

use std::time::Duration;

use super::desk::Desk;
use super::measure::{HOUR, MILLISECOND, YEAR, duration, whole, word};
use super::section::Section;

/// Whether the pool's backends are to be discovered.
pub(super) fn read_extras(desk: &mut Desk<'_>, pool: &mut Section) -> bool {
    read_breaker(desk, pool);
    read_discovery(desk, pool)
}

fn read_breaker(desk: &mut Desk<'_>, pool: &mut Section) {
    let Some(mut table) = pool.table(desk, "breaker") else {
        return;
    };
    let key = pool.key("breaker");
    desk.fault(
        table.at(),
        &key,
        "a breaker is not supported by this version yet",
    );
    table.read(desk, "consecutive_failures", whole::<u32>(1..=1_000_000));
    table.read(desk, "early_reset", duration(Duration::ZERO, HOUR));
    table.read(desk, "error_percent", whole::<u8>(1..=100));
    table.read(desk, "window", duration(MILLISECOND, HOUR));
    table.read(desk, "volume", whole::<u32>(1..=1_000_000));
    table.read(desk, "open", duration(MILLISECOND, YEAR));
    table.read(desk, "open_max", duration(MILLISECOND, YEAR));
    table.read(desk, "trials", whole::<u32>(1..=1_000_000));
    table.read(desk, "max_ejected_percent", whole::<u8>(0..=100));
    table.finish(desk);
}

/// The kind decides which other keys there are, so those are not looked at before a kind is known here.
fn read_discovery(desk: &mut Desk<'_>, pool: &mut Section) -> bool {
    let Some(mut table) = pool.table(desk, "discovery") else {
        return pool.has("discovery");
    };
    const KINDS: &[(&str, Option<()>)] = &[
        ("dns", None),
        ("dns-srv", None),
        ("file", None),
        ("consul", None),
        ("etcd", None),
        ("zookeeper", None),
    ];
    const ALLOWED: &str = "dns | dns-srv | file | consul | etcd | zookeeper";
    table.require(desk, "kind", ALLOWED, word(KINDS));
    true
}
