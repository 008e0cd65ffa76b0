//! What `ringway top` shows, without a terminal: rows of backends with rates between two looks, in the order and choice of
//! the user. Looks and keys go in, rows come out.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;

use crate::cli::status::{items, number, text, total};

/// One key of the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Letter(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Left,
    Right,
    Enter,
    Escape,
    Backspace,
    /// Ctrl-C
    Break,
}

/// By what rows are ordered; each is a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Name,
    State,
    Weight,
    Sessions,
    SessionRate,
    In,
    Out,
    Failures,
}

impl Sort {
    pub const ALL: [Sort; 8] = [
        Sort::Name,
        Sort::State,
        Sort::Weight,
        Sort::Sessions,
        Sort::SessionRate,
        Sort::In,
        Sort::Out,
        Sort::Failures,
    ];
}

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
    /// Per second since the look before.
    pub session_rate: f64,
    pub in_rate: f64,
    pub out_rate: f64,
    /// Attempts to connect that failed, in all.
    pub failures: f64,
    pub reason: String,
}

/// The process as a whole, and each pool in a line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Head {
    pub version: String,
    pub phase: String,
    pub uptime: f64,
    pub sessions: f64,
    pub limit: f64,
    pub busy: Vec<f64>,
    pub pools: Vec<String>,
    pub pending: Option<String>,
}

/// Counters of a backend at the look before.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    sessions: f64,
    bytes_in: f64,
    bytes_out: f64,
}

#[derive(Debug)]
pub(super) struct Model {
    pub head: Head,
    rows: Vec<Row>,
    before: HashMap<String, Counters>,
    looked_at: Option<Duration>,
    pub sort: Sort,
    pub downwards: bool,
    pub filter: String,
    /// The user is writing the filter.
    pub editing: bool,
    pub selected: usize,
    /// Rows that fit on the screen, as drawn last.
    pub page: usize,
    /// Why there is nothing new, if so.
    pub trouble: Option<String>,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            head: Head::default(),
            rows: Vec::new(),
            before: HashMap::new(),
            looked_at: None,
            sort: Sort::Name,
            downwards: false,
            filter: String::new(),
            editing: false,
            selected: 0,
            page: 10,
            trouble: None,
        }
    }
}

impl Model {
    /// Takes a new status, looked at at this moment.
    pub fn update(&mut self, status: &Value, at: Duration) {
        let since = self.looked_at.map(|before| at.saturating_sub(before));
        let seconds = since.map_or(0.0, |since| since.as_secs_f64());
        let mut counters = HashMap::new();
        let mut rows = Vec::new();
        for pool in items(&status["pools"]) {
            let pool_name = text(&pool["name"]);
            for backend in items(&pool["backends"]) {
                let name = format!("{pool_name}/{}", text(&backend["name"]));
                let now = Counters {
                    sessions: number(&backend["sessions_total"]),
                    bytes_in: number(&backend["bytes_in"]),
                    bytes_out: number(&backend["bytes_out"]),
                };
                let before = self.before.get(&name).copied().unwrap_or(now);
                let rate = |now: f64, before: f64| match seconds > 0.0 {
                    // Counters of one that was replaced begin anew.
                    true => (now - before).max(0.0) / seconds,
                    false => 0.0,
                };
                rows.push(Row {
                    address: text(&backend["address"]),
                    admin: text(&backend["admin"]),
                    health: text(&backend["health"]),
                    eligible: backend["eligible"].as_bool().unwrap_or_default(),
                    weight: number(&backend["weight"]),
                    sessions: number(&backend["sessions"]),
                    session_rate: rate(now.sessions, before.sessions),
                    in_rate: rate(now.bytes_in, before.bytes_in),
                    out_rate: rate(now.bytes_out, before.bytes_out),
                    failures: total(&backend["connect_failures"]),
                    reason: reason(backend),
                    name: name.clone(),
                });
                counters.insert(name, now);
            }
        }
        self.rows = rows;
        self.before = counters;
        self.looked_at = Some(at);
        self.head = head(status);
        self.trouble = None;
        self.stay_inside();
    }

    /// The rows to show, in order.
    pub fn visible(&self) -> Vec<&Row> {
        let wanted = self.filter.to_lowercase();
        let fits = |row: &&Row| {
            let parts = [&row.name, &row.address, &row.admin, &row.health];
            wanted.is_empty()
                || parts
                    .iter()
                    .any(|part| part.to_lowercase().contains(&wanted))
        };
        let mut rows: Vec<&Row> = self.rows.iter().filter(fits).collect();
        rows.sort_by(|a, b| {
            let order = self.order(a, b);
            let order = if self.downwards {
                order.reverse()
            } else {
                order
            };
            order.then_with(|| natural(&a.name, &b.name))
        });
        rows
    }

    pub fn total(&self) -> usize {
        self.rows.len()
    }

    fn order(&self, a: &Row, b: &Row) -> Ordering {
        match self.sort {
            Sort::Name => natural(&a.name, &b.name),
            Sort::State => {
                (b.eligible, &b.admin, &b.health).cmp(&(a.eligible, &a.admin, &a.health))
            }
            Sort::Weight => a.weight.total_cmp(&b.weight),
            Sort::Sessions => a.sessions.total_cmp(&b.sessions),
            Sort::SessionRate => a.session_rate.total_cmp(&b.session_rate),
            Sort::In => a.in_rate.total_cmp(&b.in_rate),
            Sort::Out => a.out_rate.total_cmp(&b.out_rate),
            Sort::Failures => a.failures.total_cmp(&b.failures),
        }
    }

    /// Takes a key; false if the user wants to leave.
    pub fn press(&mut self, key: Key) -> bool {
        if key == Key::Break {
            return false;
        }
        if self.editing {
            self.edit(key);
            return true;
        }
        let last = self.visible().len().saturating_sub(1);
        match key {
            Key::Letter('q') => return false,
            Key::Letter('/') => self.editing = true,
            Key::Letter('r') => self.downwards = !self.downwards,
            Key::Letter('s') | Key::Right => self.sort_by(1),
            Key::Letter('S') | Key::Left => self.sort_by(Sort::ALL.len() - 1),
            Key::Escape => self.filter.clear(),
            Key::Up | Key::Letter('k') => self.selected = self.selected.saturating_sub(1),
            Key::Down | Key::Letter('j') => self.selected += 1,
            Key::PageUp => self.selected = self.selected.saturating_sub(self.page),
            Key::PageDown => self.selected += self.page,
            Key::Home => self.selected = 0,
            Key::End => self.selected = last,
            _ => {}
        }
        self.stay_inside();
        true
    }

    fn edit(&mut self, key: Key) {
        match key {
            Key::Letter(letter) if self.filter.chars().count() < 64 => self.filter.push(letter),
            Key::Backspace => {
                self.filter.pop();
            }
            Key::Escape => {
                self.filter.clear();
                self.editing = false;
            }
            Key::Enter => self.editing = false,
            _ => {}
        }
        self.stay_inside();
    }

    /// Numbers are looked at from the largest, words from the first.
    fn sort_by(&mut self, step: usize) {
        let place = Sort::ALL.iter().position(|sort| *sort == self.sort);
        self.sort = Sort::ALL[(place.unwrap_or(0) + step) % Sort::ALL.len()];
        self.downwards = !matches!(self.sort, Sort::Name);
    }

    fn stay_inside(&mut self) {
        let last = self.visible().len().saturating_sub(1);
        self.selected = self.selected.min(last);
    }
}

/// Why a backend is as it is: the last change, where it does not serve.
fn reason(backend: &Value) -> String {
    if let Some(unresolved) = backend["unresolved"].as_str() {
        return unresolved.to_owned();
    }
    match backend["health"].as_str() {
        Some("up") => String::new(),
        _ => backend["last_change"]["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    }
}

fn head(status: &Value) -> Head {
    let pools = items(&status["pools"]).iter().map(|pool| {
        let backends = items(&pool["backends"]);
        let eligible = backends
            .iter()
            .filter(|one| one["eligible"] == true)
            .count();
        let sessions: f64 = backends.iter().map(|one| number(&one["sessions"])).sum();
        format!(
            "{}: {eligible}/{} eligible, {sessions} sessions, {} waiting",
            text(&pool["name"]),
            backends.len(),
            text(&pool["waiting"])
        )
    });
    Head {
        version: text(&status["version"]),
        phase: text(&status["phase"]),
        uptime: number(&status["uptime_seconds"]),
        sessions: number(&status["sessions"]["active"]),
        limit: number(&status["sessions"]["limit"]),
        busy: items(&status["workers"])
            .iter()
            .map(|it| number(&it["busy_ratio"]))
            .collect(),
        pools: pools.collect(),
        pending: status["reload"]["confirm_until"]
            .as_str()
            .map(str::to_owned),
    }
}

/// `pg2` before `pg10`: runs of digits are compared as numbers.
fn natural(a: &str, b: &str) -> Ordering {
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
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// Three pools, 200 backends; `n` rounds of traffic have passed.
    pub(in crate::cli::top) fn status(n: u64) -> Value {
        let pool = |name: &str, first: usize, count: usize| {
            let backend = |i: usize| {
                let i = first + i;
                let health = ["up", "up", "up", "down"][i % 4];
                json!({
                    "name": format!("b{i}"), "address": format!("10.0.{}.{}:5432", i / 250, i % 250),
                    "admin": if i.is_multiple_of(17) { "draining" } else { "ready" }, "health": health,
                    "eligible": health == "up" && !i.is_multiple_of(17), "weight": 100, "sessions": i % 50,
                    "sessions_total": n * i as u64, "bytes_in": n * 1000 * i as u64, "bytes_out": n * 5000 * i as u64,
                    "connect_failures": { "refused": i % 7 },
                    "last_change": { "reason": "check refused" },
                })
            };
            let backends: Vec<Value> = (0..count).map(backend).collect();
            json!({ "name": name, "waiting": 3, "backends": backends })
        };
        json!({
            "version": "0.1.0", "phase": "serving", "uptime_seconds": 3723.0 + n as f64,
            "sessions": { "active": 1234, "limit": 9326 },
            "workers": [{ "busy_ratio": 0.25 }, { "busy_ratio": 0.5 }],
            "reload": { "confirm_until": null },
            "pools": [pool("pg", 0, 120), pool("redis", 120, 60), pool("dns", 180, 20)],
        })
    }

    pub(in crate::cli::top) fn model() -> Model {
        let mut model = Model::default();
        model.update(&status(1), Duration::from_secs(10));
        model.update(&status(2), Duration::from_secs(12));
        model
    }

    fn write(model: &mut Model, text: &str) {
        text.chars()
            .for_each(|letter| assert!(model.press(Key::Letter(letter))));
    }

    #[test]
    fn rates_are_differences_over_time() {
        let mut model = model();
        let row = model.visible()[22].clone();
        assert_eq!(
            (row.name.as_str(), row.session_rate, row.in_rate),
            ("pg/b2", 1.0, 1000.0)
        );
        // Counters that begin anew are no negative rate; a look at once after the other no infinite one.
        model.update(&status(1), Duration::from_secs(12));
        assert!(model.visible().iter().all(|row| row.in_rate == 0.0));
        model.update(&status(0), Duration::from_secs(13));
        assert!(model.visible().iter().all(|row| row.in_rate == 0.0));
    }

    #[test]
    fn keys_sort_filter_and_move() {
        let mut model = model();
        let names = |model: &Model| -> Vec<String> {
            model.visible().iter().map(|row| row.name.clone()).collect()
        };
        assert_eq!(names(&model)[..3], ["dns/b180", "dns/b181", "dns/b182"]);
        model.press(Key::Letter('r'));
        assert_eq!(names(&model)[0], "redis/b179");
        while model.sort != Sort::SessionRate {
            model.press(Key::Letter('s'));
        }
        assert_eq!(names(&model)[0], "dns/b199", "the busiest first");
        model.press(Key::Letter('/'));
        write(&mut model, "PG/b1q");
        assert!(model.editing, "letters are the filter's now");
        assert!(model.visible().is_empty());
        model.press(Key::Backspace);
        model.press(Key::Enter);
        assert_eq!(names(&model).len(), 31, "{:?}", names(&model));
        assert!(names(&model).iter().all(|name| name.starts_with("pg/b1")));
        model.press(Key::End);
        assert_eq!(model.selected, 30);
        model.press(Key::PageDown);
        assert_eq!(model.selected, 30);
        model.press(Key::Home);
        model.press(Key::Down);
        model.press(Key::Up);
        model.press(Key::Up);
        assert_eq!(model.selected, 0);
        model.press(Key::Escape);
        assert_eq!(names(&model).len(), 200);
        model.press(Key::Letter('/'));
        write(&mut model, "draining");
        assert_eq!(model.visible().len(), 12);
        model.press(Key::Escape);
        assert!(!model.editing && model.filter.is_empty());
        assert!(!model.press(Key::Letter('q')));
        assert!(!model.press(Key::Break));
    }

    #[test]
    fn names_are_in_the_order_that_people_expect() {
        let mut names = ["b10", "b9", "a", "b", "b1x", "b01", "c3.10", "c3.9", "b1"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names[..3], ["a", "b", "b01"]);
        assert!(names.iter().position(|n| *n == "b9") < names.iter().position(|n| *n == "b10"));
        assert!(names.iter().position(|n| *n == "c3.9") < names.iter().position(|n| *n == "c3.10"));
    }

    #[test]
    fn an_answer_without_anything_is_shown_as_nothing() {
        let mut model = Model::default();
        model.update(&Value::Null, Duration::ZERO);
        assert!(model.visible().is_empty());
        assert!(model.press(Key::PageDown) && model.press(Key::End));
        assert_eq!(model.selected, 0);
    }
}
