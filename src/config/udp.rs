//! Reads `[pool.udp]`, what ends a flow of datagrams or its backend's turn.

use std::time::Duration;

use super::check_plan::{CheckKind, HealthPlan};
use super::desk::Desk;
use super::measure::{MILLISECOND, YEAR, duration, limit, switch, whole};
use super::plan::FlowPlan;
use super::section::Section;

/// Where DNS is checked for, DNS is what flows carry: one question, one answer.
pub(super) fn read_udp(desk: &mut Desk<'_>, pool: &mut Section, health: &HealthPlan) -> FlowPlan {
    let check = health.check().map(|check| &check.kind);
    let (silence, answers) = match check {
        Some(CheckKind::Dns(_)) => (Duration::from_secs(5), 1),
        _ => (Duration::from_secs(60), 0),
    };
    let path = pool.key("udp");
    let mut table = pool
        .table(desk, "udp")
        .unwrap_or_else(|| Section::absent(&path, pool.at()));
    let plan = FlowPlan {
        idle_timeout: table
            .read(desk, "idle_timeout", duration(MILLISECOND, YEAR))
            .unwrap_or(silence),
        responses: table
            .read(desk, "responses", whole(0..=1_000_000_000))
            .unwrap_or(answers),
        requests: table
            .read(desk, "requests", whole(0..=1_000_000_000))
            .unwrap_or(0),
        max_flows: table.read(desk, "max_flows", limit).flatten(),
    };
    table.later(desk, "send_proxy_every", switch, &false);
    table.finish(desk);
    plan
}
