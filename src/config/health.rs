//! Reads `[pool.health]`: what all kinds of checks have in common. What each kind says is read by `kinds`.

use std::time::Duration;

use super::check_plan::{CheckKind, CheckPlan, HealthPlan};
use super::desk::{Desk, Located};
use super::kinds::read_kind_keys;
use super::measure::{HOUR, MILLISECOND, Refusal, duration, whole, word};
use super::section::{Section, Value};

/// The keys that only some kinds have, and those kinds.
const KEYS_OF_KINDS: &[(&str, &str)] = &[
    ("step", "send-expect"),
    ("method", "http"),
    ("path", "http"),
    ("host", "http"),
    ("status", "http"),
    ("user", "postgres | mysql | redis"),
    ("password_file", "postgres | mysql | redis"),
    ("database", "postgres | mysql | redis"),
    ("role", "postgres | mysql | redis"),
    ("query", "dns"),
    ("send", "udp"),
    ("expect", "udp"),
];

const KINDS: &[(&str, Option<&str>)] = &[
    ("none", Some("none")),
    ("tcp", Some("tcp")),
    ("send-expect", Some("send-expect")),
    ("http", Some("http")),
    ("postgres", Some("postgres")),
    ("mysql", Some("mysql")),
    ("redis", Some("redis")),
    ("dns", Some("dns")),
    ("udp", Some("udp")),
];

/// A health table as it was read, and where two of its keys stand.
pub(super) struct HealthDraft {
    pub plan: HealthPlan,
    /// The file says which.
    pub kind_given: bool,
    /// `kind`, or else the table.
    pub kind_at: usize,
    /// `port`, if it is given.
    pub port_at: Option<usize>,
}

pub(super) fn read_health(desk: &mut Desk<'_>, pool: &mut Section) -> HealthDraft {
    let path = pool.key("health");
    let mut table = pool
        .table(desk, "health")
        .unwrap_or_else(|| Section::absent(&path, pool.at()));
    let kind_at = table.place_of("kind");
    let kind_given = table.has("kind");
    let kind = read_kind(desk, &mut table);
    let port: Option<Located<u16>> = table
        .read_located(desk, "port", whole(0..=65_535))
        .filter(|port| port.value != 0);
    let mut check = CheckPlan {
        kind: CheckKind::Tcp,
        interval: table
            .read(desk, "interval", duration(10 * MILLISECOND, HOUR))
            .unwrap_or(Duration::from_secs(2)),
        fast_interval: table
            .read(desk, "fast_interval", duration(10 * MILLISECOND, HOUR))
            .unwrap_or(Duration::from_millis(500)),
        timeout: table
            .read(desk, "timeout", duration(MILLISECOND, HOUR))
            .unwrap_or(Duration::from_secs(1)),
        rise: table.read(desk, "rise", whole(1..=1000)).unwrap_or(2),
        fall: table.read(desk, "fall", whole(1..=1000)).unwrap_or(3),
        port: port.as_ref().map(|port| port.value),
    };
    refuse_keys_of_others(desk, &mut table, &kind);
    if let Some(kind) = read_kind_keys(desk, &mut table, &kind) {
        check.kind = kind;
    }
    table.finish(desk);
    let plan = if kind == "none" {
        HealthPlan::None
    } else {
        HealthPlan::Check(check)
    };
    HealthDraft {
        plan,
        kind_given,
        kind_at,
        port_at: port.map(|port| port.at),
    }
}

/// The kind's word, also if this version cannot do it: that is noted, but the other keys are judged by it.
fn read_kind(desk: &mut Desk<'_>, table: &mut Section) -> String {
    let Some(found) = table.take("kind") else {
        return "tcp".to_owned();
    };
    match word(KINDS)(&found.value) {
        Ok(kind) => kind.to_owned(),
        Err(refusal) => {
            let key = table.key("kind");
            desk.fault(found.at, &key, refusal.sentence(&found.value.shown()));
            match found.value {
                Value::Text(kind) => kind,
                _ => String::new(),
            }
        }
    }
}

/// Notes keys that another kind has, and names it. Beside a kind that cannot be read yet all of them are let pass.
fn refuse_keys_of_others(desk: &mut Desk<'_>, table: &mut Section, kind: &str) {
    let known = KINDS.iter().any(|(word, _)| *word == kind);
    let can = KINDS
        .iter()
        .any(|(word, can)| *word == kind && can.is_some());
    for &(key, kinds) in KEYS_OF_KINDS {
        let belongs = kinds.split(" | ").any(|owner| owner == kind);
        if belongs && can {
            continue;
        }
        table.read(desk, key, |_| {
            if !known || belongs {
                return Ok(());
            }
            Err(Refusal::Misplaced {
                here: format!("kind = {kind:?}"),
                only: format!("kind = {kinds}"),
            })
        });
    }
}
