//! Reads what pools will have in later versions: discovery. It is checked as the contract says, and refused in one honest sentence where it asks for something.
//!
//! When a feature arrives, its reader moves from here into a file of its own and gains a plan.

use super::desk::Desk;
use super::measure::word;
use super::section::Section;

/// Whether the pool's backends are to be discovered. The kind decides which other keys there are, so those are not looked
/// at before a kind is known here.
pub(super) fn read_discovery(desk: &mut Desk<'_>, pool: &mut Section) -> bool {
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
