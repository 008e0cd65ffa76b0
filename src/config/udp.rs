//! Reads `[pool.udp]`, what ends a flow of datagrams or its backend's turn.

use std::time::Duration;

use super::check_plan::{CheckKind, HealthPlan};
use super::desk::Desk;
use super::measure::{MILLISECOND, YEAR, duration, limit, switch, whole};
use super::plan::{FlowPlan, ProxyVersion};
use super::section::Section;

/// Where DNS is checked for, DNS is what flows carry: one question, one answer.
pub(super) fn read_udp(
    desk: &mut Desk<'_>,
    pool: &mut Section,
    health: &HealthPlan,
    send_proxy: Option<ProxyVersion>,
) -> FlowPlan {
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
        send_proxy_every: read_every(desk, &mut table, send_proxy),
    };
    table.finish(desk);
    plan
}

fn read_every(desk: &mut Desk<'_>, table: &mut Section, send_proxy: Option<ProxyVersion>) -> bool {
    let at = table.place_of("send_proxy_every");
    let every = table
        .read(desk, "send_proxy_every", switch)
        .unwrap_or(false);
    if every && send_proxy != Some(ProxyVersion::Two) {
        let key = table.key("send_proxy_every");
        let sentence = "found true in a pool that sends no header of version 2; allowed: beside send_proxy = \"v2\"";
        desk.fault(at, &key, sentence);
    }
    every
}
