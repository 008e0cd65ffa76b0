//! `ringway status`: what runs, for people, or as it came.

use std::fmt::Write as _;

use serde_json::Value;

use super::client::Instance;
use super::columns::{Columns, age, bytes, short};
use super::{Ending, out};

#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    instance: Instance,
}

pub(super) fn status(arguments: &Status) -> Result<(), Ending> {
    let answer = arguments.instance.get("/v1/status")?.checked()?;
    let text = match arguments.json {
        true => answer.text(),
        false => in_words(&answer.value()),
    };
    out::say(&text);
    Ok(())
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub(super) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// All counts of an object. (The sum of no floats at all would be -0.)
pub(super) fn total(counts: &Value) -> f64 {
    let counts = counts.as_object().into_iter().flatten();
    counts.fold(0.0, |sum, (_, count)| sum + number(count))
}

/// Why a backend is as it is, and why one that is up gets nothing; empty where there is nothing to say.
pub(super) fn why(pool: &Value, backend: &Value) -> String {
    if let Some(unresolved) = backend["unresolved"].as_str() {
        return unresolved.to_owned();
    }
    let breaker = &backend["breaker"];
    let changed = |of: &Value| of["last_change"]["reason"].as_str().map(str::to_owned);
    match (backend["admin"].as_str(), backend["health"].as_str()) {
        (_, Some("ejected")) => changed(breaker).unwrap_or_default(),
        (Some("ready"), Some("up")) => why_not_eligible(pool, backend),
        (_, Some("up")) => "by the operator".to_owned(),
        _ => changed(backend).unwrap_or_default(),
    }
}

/// The breaker's, of one that it ejected.
fn last_change(backend: &Value) -> &Value {
    let of = match backend["health"].as_str() {
        Some("ejected") => &backend["breaker"],
        _ => backend,
    };
    &of["last_change"]["reason"]
}

fn why_not_eligible(pool: &Value, backend: &Value) -> String {
    let check = &backend["last_check"];
    // A check that the prober itself was late for says nothing.
    let failed = |result| !["ok", "void"].contains(&result);
    if check["result"].as_str().is_some_and(failed) {
        return format!("last {}", text(&check["reason"]));
    }
    if backend["eligible"] == true {
        return String::new();
    }
    let most = number(&backend["max_connections"]);
    match items(&pool["serving_tiers"]).contains(&backend["tier"]) {
        _ if backend["weight"] == 0 => "its weight is 0".to_owned(),
        _ if most > 0.0 && number(&backend["sessions"]) >= most => "full".to_owned(),
        false => "its tier does not serve".to_owned(),
        true => String::new(),
    }
}

fn in_words(status: &Value) -> String {
    let mut out = String::new();
    let busy: Vec<String> = items(&status["workers"])
        .iter()
        .map(|worker| format!("{:.0} %", number(&worker["busy_ratio"]) * 100.0))
        .collect();
    let _ = writeln!(
        out,
        "ringway {} {}, up {}, {} of {} sessions, workers busy {}",
        text(&status["version"]),
        text(&status["phase"]),
        age(number(&status["uptime_seconds"])),
        text(&status["sessions"]["active"]),
        text(&status["sessions"]["limit"]),
        busy.join(" ")
    );
    let reload = &status["reload"];
    if !reload["last"].is_null() {
        let last = &reload["last"];
        let _ = write!(
            out,
            "last reload {} {}",
            text(&last["result"]),
            text(&last["at"])
        );
        let why = [&last["error"], &last["reason"]]
            .into_iter()
            .find(|why| why.is_string());
        let _ = match why {
            Some(why) => writeln!(out, ": {}", text(why)),
            None => writeln!(out),
        };
    }
    out.push_str(&generations(&status["process"]));
    if let Some(until) = reload["confirm_until"].as_str() {
        let _ = writeln!(
            out,
            "not confirmed: the configuration before comes back at {until} (ringway confirm)"
        );
    }
    for change in items(&status["operator"]) {
        let _ = writeln!(out, "by the operator: {}", text(change));
    }
    let _ = write!(out, "\nlisteners\n{}", listeners(status));
    for pool in items(&status["pools"]) {
        let _ = write!(out, "\n{}", in_pool(pool));
    }
    out.push_str(&removed(status));
    out
}

/// Backends that a reload removed and that still have sessions.
fn removed(status: &Value) -> String {
    let mut out = String::new();
    let removed = items(&status["removed_backends"]);
    if !removed.is_empty() {
        let _ = writeln!(out, "\nremoved, with sessions left");
        for backend in removed {
            let (pool, name) = (text(&backend["pool"]), text(&backend["name"]));
            let _ = writeln!(
                out,
                "  {pool}/{name}  {} sessions",
                text(&backend["sessions"])
            );
        }
    }
    out
}

/// What is left of older processes, and why the last upgrade failed, if it did.
fn generations(process: &Value) -> String {
    let mut out = String::new();
    for older in items(&process["older"]) {
        let _ = writeln!(
            out,
            "generation {} (process {}) still has {} sessions and {} flows",
            text(&older["generation"]),
            text(&older["pid"]),
            text(&older["sessions"]),
            text(&older["flows"])
        );
    }
    if let Some(error) = process["last_upgrade"]["error"].as_str() {
        let _ = writeln!(out, "last upgrade failed: {error}");
    }
    out
}

fn listeners(status: &Value) -> String {
    let headings = [
        "NAME", "ADDRESS", "POOL", "SESSIONS", "TOTAL", "IN", "OUT", "REFUSED",
    ];
    let mut columns = Columns::new(&headings);
    for listener in items(&status["listeners"]) {
        let addresses: Vec<String> = items(&listener["addresses"]).iter().map(text).collect();
        let shown = match addresses.as_slice() {
            [] => "-".to_owned(),
            [one] => one.clone(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        };
        columns.row(vec![
            text(&listener["name"]),
            shown,
            text(&listener["pool"]),
            text(&listener["sessions"]),
            short(number(&listener["sessions_total"])),
            bytes(number(&listener["bytes_in"])),
            bytes(number(&listener["bytes_out"])),
            short(total(&listener["refused"])),
        ]);
    }
    columns.text()
}

fn in_pool(pool: &Value) -> String {
    let tiers: Vec<String> = items(&pool["serving_tiers"]).iter().map(text).collect();
    let serving = match tiers.len() {
        0 => "no tier serves".to_owned(),
        _ => format!("serving tier {}", tiers.join(", ")),
    };
    let mut out = format!(
        "pool {}: {}, {serving}, {} of {} waiting\n",
        text(&pool["name"]),
        text(&pool["algorithm"]),
        text(&pool["waiting"]),
        text(&pool["wait_size"])
    );
    let headings = [
        "BACKEND",
        "ADDRESS",
        "ADMIN",
        "HEALTH",
        "TIER",
        "WEIGHT",
        "SESSIONS",
        "TOTAL",
        "FAILED",
        "LAST CHANGE",
    ];
    let mut columns = Columns::new(&headings);
    for backend in items(&pool["backends"]) {
        columns.row(vec![
            text(&backend["name"]),
            text(&backend["address"]),
            text(&backend["admin"]),
            text(&backend["health"]),
            text(&backend["tier"]),
            text(&backend["weight"]),
            text(&backend["sessions"]),
            short(number(&backend["sessions_total"])),
            short(total(&backend["connect_failures"])),
            text(last_change(backend)),
        ]);
    }
    out.push_str(&columns.text());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn why_is_what_keeps_a_backend_from_serving() {
        let pool = json!({ "serving_tiers": [0] });
        let of = |own: Value| {
            let mut backend = json!({
                "admin": "ready", "health": "up", "eligible": true, "weight": 100, "tier": 0, "max_connections": 0,
                "last_check": { "result": "ok", "reason": "check ok" }, "last_change": { "reason": "check ok" },
            });
            let own = own.as_object().unwrap().clone();
            backend.as_object_mut().unwrap().extend(own);
            why(&pool, &backend)
        };
        assert_eq!(of(json!({})), "");
        let late = json!({ "result": "void", "reason": "check void" });
        assert_eq!(of(json!({ "last_check": late })), "");
        let failed = json!({ "result": "timeout", "reason": "check timeout" });
        assert_eq!(of(json!({ "last_check": failed })), "last check timeout");
        assert_eq!(
            of(json!({ "eligible": false, "weight": 0 })),
            "its weight is 0"
        );
        assert_eq!(
            of(json!({ "eligible": false, "tier": 1 })),
            "its tier does not serve"
        );
        assert_eq!(
            of(json!({ "eligible": false, "max_connections": 2, "sessions": 2 })),
            "full"
        );
        assert_eq!(of(json!({ "admin": "draining" })), "by the operator");
        let refused = json!({ "reason": "check refused" });
        let down = json!({ "admin": "draining", "health": "down", "last_change": refused });
        assert_eq!(of(down), "check refused");
        // Its checks succeed; its breaker is why.
        let breaker = json!({ "last_change": { "reason": "a trial failed" } });
        let ejected = json!({ "health": "ejected", "breaker": breaker });
        assert_eq!(of(ejected.clone()), "a trial failed");
        assert_eq!(last_change(&ejected), "a trial failed");
        assert_eq!(of(json!({ "unresolved": "no such name" })), "no such name");
    }

    #[test]
    fn a_status_reads_well() {
        let status = json!({
            "version": "0.1.0", "phase": "serving", "uptime_seconds": 3723.0,
            "sessions": { "active": 12, "limit": 9326 },
            "workers": [{ "busy_ratio": 0.25 }, { "busy_ratio": 0.5 }],
            "reload": { "last": { "result": "refused", "at": "2026-11-29T22:00:00.000Z", "error": "x.toml:3: wrong" } },
            "operator": ["backend pg/pg3 is added, the file does not have it"],
            "listeners": [{
                "name": "postgres", "addresses": ["10.0.0.1:5433", "10.0.0.2:5433"], "pool": "pg", "sessions": 12,
                "sessions_total": 12345, "bytes_in": 2048, "bytes_out": 10, "refused": { "denied": 2, "rate": 1 },
            }],
            "pools": [{
                "name": "pg", "algorithm": "least-connections", "waiting": 0, "wait_size": 1024, "serving_tiers": [0],
                "backends": [{
                    "name": "pg1", "address": "10.0.0.11:5432", "admin": "draining", "health": "up", "tier": 0,
                    "weight": 100, "sessions": 12, "sessions_total": 99, "connect_failures": { "refused": 3 },
                    "last_change": { "reason": "check ok" },
                }],
            }],
            "removed_backends": [{ "pool": "pg", "name": "pg0", "sessions": 3 }],
        });
        let said = in_words(&status);
        assert_eq!(
            said,
            "ringway 0.1.0 serving, up 1h 2m, 12 of 9326 sessions, workers busy 25 % 50 %\n\
             last reload refused 2026-11-29T22:00:00.000Z: x.toml:3: wrong\n\
             by the operator: backend pg/pg3 is added, the file does not have it\n\
             \nlisteners\n  NAME      ADDRESS                   POOL  SESSIONS  TOTAL      IN  OUT  REFUSED\n  \
             postgres  10.0.0.1:5433 and 1 more  pg          12  12.3k  2.0KiB  10B        3\n\
             \npool pg: least-connections, serving tier 0, 0 of 1024 waiting\n  \
             BACKEND  ADDRESS         ADMIN     HEALTH  TIER  WEIGHT  SESSIONS  TOTAL  FAILED  LAST CHANGE\n  \
             pg1      10.0.0.11:5432  draining  up         0     100        12     99       3  check ok\n\
             \nremoved, with sessions left\n  pg/pg0  3 sessions\n"
        );
        assert!(
            in_words(&Value::Null).starts_with("ringway - -"),
            "nothing panics"
        );
    }
}
