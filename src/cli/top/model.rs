//! What `ringway top` shows, without a terminal: rows of backends with rates between two looks, in the order and choice of
//! the user. Looks and keys go in, rows come out.

use std::cmp::Ordering;
use std::time::Duration;

use serde_json::Value;

use super::look::{Head, Memory, Pool, Row, natural};

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
    Connect,
    Failures,
}

impl Sort {
    /// In the order of the columns.
    pub const ALL: [Sort; 9] = [
        Sort::Name,
        Sort::State,
        Sort::Weight,
        Sort::Sessions,
        Sort::SessionRate,
        Sort::In,
        Sort::Out,
        Sort::Connect,
        Sort::Failures,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Sort::Name => "name",
            Sort::State => "state",
            Sort::Weight => "weight",
            Sort::Sessions => "sessions",
            Sort::SessionRate => "new sessions",
            Sort::In => "bytes in",
            Sort::Out => "bytes out",
            Sort::Connect => "connect time",
            Sort::Failures => "failed connects",
        }
    }
}

#[derive(Debug)]
pub(super) struct Model {
    pub head: Head,
    pub pools: Vec<Pool>,
    rows: Vec<Row>,
    before: Memory,
    looked_at: Option<Duration>,
    pub sort: Sort,
    pub downwards: bool,
    pub filter: String,
    /// The user is writing the filter.
    pub editing: bool,
    pub selected: usize,
    /// The first row on the screen, and how many fit, as drawn last.
    pub first: usize,
    pub page: usize,
    /// Why there is nothing new, if so.
    pub trouble: Option<String>,
}

impl Default for Model {
    fn default() -> Model {
        Model {
            head: Head::default(),
            pools: Vec::new(),
            rows: Vec::new(),
            before: Memory::default(),
            looked_at: None,
            // Of many backends those in trouble are looked for.
            sort: Sort::State,
            downwards: false,
            filter: String::new(),
            editing: false,
            selected: 0,
            first: 0,
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
        (self.pools, self.rows) = self.before.look(status, seconds);
        self.looked_at = Some(at);
        self.head = Head::of(status);
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

    /// All of them, shown or not.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Moves the window of `page` rows no more than it takes to show the selected one.
    pub fn scroll(&mut self, page: usize) {
        self.page = page.max(1);
        let last = self.visible().len().saturating_sub(self.page);
        let least = (self.selected + 1).saturating_sub(self.page);
        self.first = self.first.clamp(least, self.selected).min(last);
    }

    fn order(&self, a: &Row, b: &Row) -> Ordering {
        match self.sort {
            Sort::Name => natural(&a.name, &b.name),
            Sort::State => (a.rank(), a.eligible).cmp(&(b.rank(), b.eligible)),
            Sort::Weight => a.weight.total_cmp(&b.weight),
            Sort::Sessions => a.sessions.total_cmp(&b.sessions),
            Sort::SessionRate => a.session_rate.total_cmp(&b.session_rate),
            Sort::In => a.in_rate.total_cmp(&b.in_rate),
            Sort::Out => a.out_rate.total_cmp(&b.out_rate),
            Sort::Connect => {
                let slow = |row: &Row| row.connect_ms.unwrap_or(-1.0);
                slow(a).total_cmp(&slow(b))
            }
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

    /// Numbers are looked at from the largest, names from the first, states from the worst.
    fn sort_by(&mut self, step: usize) {
        let place = Sort::ALL.iter().position(|sort| *sort == self.sort);
        self.sort = Sort::ALL[(place.unwrap_or(0) + step) % Sort::ALL.len()];
        self.downwards = !matches!(self.sort, Sort::Name | Sort::State);
    }

    fn stay_inside(&mut self) {
        let last = self.visible().len().saturating_sub(1);
        self.selected = self.selected.min(last);
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
                    "sessions_total": n * i as u64, "connects": n * i as u64, "connect_ms": 0.25 * (n * i as u64) as f64,
                    "max_connections": if i.is_multiple_of(10) { 100 } else { 0 }, "bytes_in": n * 1000 * i as u64, "bytes_out": n * 5000 * i as u64,
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
        let row = model.rows()[2].clone();
        assert_eq!(
            (row.name.as_str(), row.session_rate, row.in_rate),
            ("pg/b2", 1.0, 1000.0)
        );
        assert_eq!(row.connect_ms, Some(0.25));
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
        assert_eq!(names(&model)[..2], ["dns/b183", "dns/b191"], "those down");
        assert_eq!(names(&model)[199], "redis/b178", "those up last");
        model.press(Key::Letter('S'));
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
    fn an_answer_without_anything_is_shown_as_nothing() {
        let mut model = Model::default();
        model.update(&Value::Null, Duration::ZERO);
        assert!(model.visible().is_empty());
        assert!(model.press(Key::PageDown) && model.press(Key::End));
        assert_eq!(model.selected, 0);
    }
}
