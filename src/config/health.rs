//! Reads `[pool.health]`.

use std::time::Duration;

use super::desk::{Desk, Located};
use super::measure::{HOUR, MILLISECOND, Refusal, any_text, duration, whole, word};
use super::plan::{HealthPlan, TcpCheck};
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
    ("send-expect", None),
    ("http", None),
    ("postgres", None),
    ("mysql", None),
    ("redis", None),
    ("dns", None),
    ("udp", None),
];

const ROLES: &[(&str, Option<()>)] = &[
    ("any", Some(())),
    ("primary", Some(())),
    ("replica", Some(())),
];

/// The plan, and where `port` stands if it is given.
pub(super) fn read_health(desk: &mut Desk<'_>, pool: &mut Section) -> (HealthPlan, Option<usize>) {
    let path = pool.key("health");
    let mut table = pool
        .table(desk, "health")
        .unwrap_or_else(|| Section::absent(&path, pool.at()));
    let kind = read_kind(desk, &mut table);
    let port: Option<Located<u16>> = table
        .read_located(desk, "port", whole(0..=65_535))
        .filter(|port| port.value != 0);
    let check = TcpCheck {
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
    read_keys_of_kinds(desk, &mut table, &kind);
    table.finish(desk);
    let plan = if kind == "none" {
        HealthPlan::None
    } else {
        HealthPlan::Tcp(check)
    };
    (plan, port.map(|port| port.at))
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

fn read_keys_of_kinds(desk: &mut Desk<'_>, table: &mut Section, kind: &str) {
    let known_kind = KINDS.iter().any(|(word, _)| *word == kind);
    for &(key, kinds) in KEYS_OF_KINDS {
        let belongs = kinds.split(" | ").any(|owner| owner == kind);
        table.read(desk, key, |value| {
            if known_kind && !belongs {
                return Err(Refusal::Misplaced {
                    here: format!("kind = {kind:?}"),
                    only: format!("kind = {kinds}"),
                });
            }
            match (key, value) {
                ("role", value) => word(ROLES)(value),
                ("step", Value::List(_)) => Ok(()),
                ("step", _) => Refusal::allowed("a list of steps"),
                (_, value) => any_text(value).map(|_| ()),
            }
        });
    }
}
