//! What one look at a running instance says: the process in a line, its pools, its backends, and how fast what is counted
//! has grown since the look before. Reads `/v1/status`; knows neither keys nor terminals.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::Value;

use crate::cli::status::{items, number, text, total, why};

/// The words of a backend's state, worst first.
pub(super) const STATES: [&str; 7] = [
    "down",
    "wrong-role",
    "ejected",
    "maintenance",
    "draining",
    "unknown",
    "up",
];

/// A backend as it is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    /// `POOL/BACKEND`
    pub name: String,
    pub address: String,
    pub admin: String,
    pub health: String,
    pub eligible: bool,
    pub weight: f64,
    pub sessions: f64,
    /// 0: none
    pub sessions_max: f64,
    /// Per second since the look before.
    pub session_rate: f64,
    pub in_rate: f64,
    pub out_rate: f64,
    /// Of the connects since the look before; of the last that had some, if there were none.
    pub connect_ms: Option<f64>,
    /// Attempts to connect that failed, in all.
    pub failures: f64,
    pub reason: String,
}

impl Row {
    /// One word: the operator's, if he has said something, else its health.
    pub fn state(&self) -> &str {
        match self.admin.as_str() {
            "ready" => &self.health,
            said => said,
        }
    }

    /// That word, and its health where that is another trouble.
    pub fn state_in_full(&self) -> String {
        match (self.state(), self.health.as_str()) {
            (word, health) if word == health || health == "up" => word.to_owned(),
            (word, health) => format!("{word}, {health}"),
        }
    }

    /// 0 is the worst.
    pub fn rank(&self) -> usize {
        let place = STATES.iter().position(|word| *word == self.state());
        place.unwrap_or(STATES.len())
    }
}

/// A pool in a line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pool {
    pub name: String,
    pub backends: usize,
    pub eligible: usize,
    pub sessions: f64,
    pub session_rate: f64,
    pub waiting: f64,
    /// How many are in each state, by place in [`STATES`].
    pub states: [usize; STATES.len()],
}

/// The process as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Head {
    pub version: String,
    pub phase: String,
    pub uptime: f64,
    pub sessions: f64,
    pub limit: f64,
    pub busy: Vec<f64>,
    pub pending: Option<String>,
}

impl Head {
    pub fn of(status: &Value) -> Head {
        let busy = items(&status["workers"]).iter();
        Head {
            version: text(&status["version"]),
            phase: text(&status["phase"]),
            uptime: number(&status["uptime_seconds"]),
            sessions: number(&status["sessions"]["active"]),
            limit: number(&status["sessions"]["limit"]),
            busy: busy.map(|it| number(&it["busy_ratio"])).collect(),
            pending: status["reload"]["confirm_until"]
                .as_str()
                .map(str::to_owned),
        }
    }
}

/// Counters of a backend at a look.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    sessions: f64,
    bytes_in: f64,
    bytes_out: f64,
    connects: f64,
    connect_ms: f64,
    latency: Option<f64>,
}

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Memory(HashMap<String, Counters>);

impl Memory {
    /// Pools and backends of this status, `seconds` after the look before; 0: there was none.
    pub fn look(&mut self, status: &Value, seconds: f64) -> (Vec<Pool>, Vec<Row>) {
        let mut counters = HashMap::new();
        let (mut pools, mut rows) = (Vec::new(), Vec::new());
        for pool in items(&status["pools"]) {
            let from = rows.len();
            let name = text(&pool["name"]);
            for backend in items(&pool["backends"]) {
                let (row, now) = self.row(&name, pool, backend, seconds);
                counters.insert(row.name.clone(), now);
                rows.push(row);
            }
            pools.push(summary(name, pool, &rows[from..]));
        }
        self.0 = counters;
        (pools, rows)
    }

    fn row(&self, pool_name: &str, pool: &Value, backend: &Value, seconds: f64) -> (Row, Counters) {
        let name = format!("{pool_name}/{}", text(&backend["name"]));
        let mut now = Counters {
            sessions: number(&backend["sessions_total"]),
            bytes_in: number(&backend["bytes_in"]),
            bytes_out: number(&backend["bytes_out"]),
            connects: number(&backend["connects"]),
            connect_ms: number(&backend["connect_ms"]),
            latency: None,
        };
        let before = self.0.get(&name).copied().unwrap_or(now);
        // Counters of one that was replaced begin anew.
        let grown = |now: f64, before: f64| (now - before).max(0.0);
        let rate = |now: f64, before: f64| match seconds > 0.0 {
            true => grown(now, before) / seconds,
            false => 0.0,
        };
        let connects = grown(now.connects, before.connects);
        now.latency = match connects > 0.0 {
            true => Some(grown(now.connect_ms, before.connect_ms) / connects),
            false => before.latency,
        };
        let row = Row {
            address: text(&backend["address"]),
            admin: text(&backend["admin"]),
            health: text(&backend["health"]),
            eligible: backend["eligible"].as_bool().unwrap_or_default(),
            weight: number(&backend["weight"]),
            sessions: number(&backend["sessions"]),
            sessions_max: number(&backend["max_connections"]),
            session_rate: rate(now.sessions, before.sessions),
            in_rate: rate(now.bytes_in, before.bytes_in),
            out_rate: rate(now.bytes_out, before.bytes_out),
            connect_ms: now.latency,
            failures: total(&backend["connect_failures"]),
            reason: why(pool, backend),
            name,
        };
        (row, now)
    }
}

fn summary(name: String, pool: &Value, rows: &[Row]) -> Pool {
    let mut states = [0; STATES.len()];
    for row in rows {
        if let Some(count) = states.get_mut(row.rank()) {
            *count += 1;
        }
    }
    Pool {
        name,
        backends: rows.len(),
        eligible: rows.iter().filter(|row| row.eligible).count(),
        sessions: rows.iter().map(|row| row.sessions).sum(),
        session_rate: rows.iter().map(|row| row.session_rate).sum(),
        waiting: number(&pool["waiting"]),
        states,
    }
}

/// `pg2` before `pg10`: runs of digits are compared as numbers.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let split = |text: &'_ str| {
            text.find(|c: char| c.is_ascii_digit())
                .unwrap_or(text.len())
        };
        let (at, bt) = (split(a), split(b));
        let words = a[..at].cmp(&b[..bt]);
        (a, b) = (&a[at..], &b[bt..]);
        if words != Ordering::Equal || a.is_empty() || b.is_empty() {
            return words.then_with(|| a.len().cmp(&b.len()));
        }
        let end = |text: &str| {
            text.find(|c: char| !c.is_ascii_digit())
                .unwrap_or(text.len())
        };
        let (ae, be) = (end(a), end(b));
        let (x, y) = (
            a[..ae].trim_start_matches('0'),
            b[..be].trim_start_matches('0'),
        );
        let numbers = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
        if numbers != Ordering::Equal {
            return numbers;
        }
        (a, b) = (&a[ae..], &b[be..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_order_that_people_expect() {
        let mut names = ["b10", "b9", "a", "b", "b1x", "b01", "c3.10", "c3.9", "b1"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names[..3], ["a", "b", "b01"]);
        assert!(names.iter().position(|n| *n == "b9") < names.iter().position(|n| *n == "b10"));
        assert!(names.iter().position(|n| *n == "c3.9") < names.iter().position(|n| *n == "c3.10"));
    }

    #[test]
    fn the_operators_word_comes_first_and_trouble_is_not_hidden_by_it() {
        let row = |admin: &str, health: &str| Row {
            admin: admin.to_owned(),
            health: health.to_owned(),
            ..Row::default()
        };
        assert_eq!(row("ready", "down").state_in_full(), "down");
        assert_eq!(row("draining", "up").state_in_full(), "draining");
        assert_eq!(row("draining", "down").state_in_full(), "draining, down");
        assert!(row("ready", "down").rank() < row("maintenance", "up").rank());
        assert!(row("draining", "up").rank() < row("ready", "up").rank());
    }
}
