//! What happened lately, for those who look on: a ring of numbered events, each one JSON object, and those who wait for the
//! next one. Both are bounded: who falls behind by more than the ring holds is told how much it missed, and memory is the
//! same however slow anybody reads. Whoever tells an event never waits.
//!
//! What is told here is also one line of the log, written by whoever tells it. How events reach a client is the business
//! of `admin::events`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::handoff::{Admin, BackendShared, Snapshot};

use super::board::ReloadNote;

/// Events that are kept for those who come, or come back, later.
const KEPT: usize = 1024;
/// Who can wait for events at a time.
pub const STREAMS_MAX: usize = 16;
/// Names in one event; a change of a large configuration has thousands.
const NAMES_MAX: usize = 50;
const SENTENCE_MAX: usize = 2_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A backend's health as checks see it, or the operator's word.
    Backend,
    Breaker,
    Reload,
    Listener,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Backend, Kind::Breaker, Kind::Reload, Kind::Listener];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::Backend => "backend",
            Kind::Breaker => "breaker",
            Kind::Reload => "reload",
            Kind::Listener => "listener",
        }
    }
}

#[derive(Debug)]
struct Event {
    number: u64,
    kind: Kind,
    data: String,
}

#[derive(Debug, Default)]
struct Ring {
    /// Numbers are consecutive.
    kept: VecDeque<Event>,
    last: u64,
    /// Who waits, by place.
    waiting: [Option<Waker>; STREAMS_MAX],
    taken: [bool; STREAMS_MAX],
    /// Nothing is told here any more.
    is_over: bool,
}

#[derive(Debug)]
pub struct Events {
    /// Tells this process's numbers from those of the one before: when it began, in milliseconds since 1970.
    run: u64,
    ring: Mutex<Ring>,
    told: [AtomicU64; Kind::ALL.len()],
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The last event that it has.
    pub after: u64,
    /// It may have missed some that nobody can count: it comes from another process, or from no known place.
    pub lost: bool,
}

impl Default for Events {
    fn default() -> Events {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Events {
            run: since.map_or(0, |since| since.as_millis() as u64),
            ring: Mutex::default(),
            told: Default::default(),
        }
    }
}

impl Events {
    /// Tells an event. `data` gets the moment as `at`.
    pub fn tell(&self, kind: Kind, mut data: Value) {
        let at = humantime::format_rfc3339_millis(SystemTime::now());
        data["at"] = json!(at.to_string());
        self.told[kind as usize].fetch_add(1, Ordering::Relaxed);
        let mut ring = self.ring.lock();
        ring.last += 1;
        if ring.kept.len() == KEPT {
            ring.kept.pop_front();
        }
        let number = ring.last;
        ring.kept.push_back(Event {
            number,
            kind,
            data: data.to_string(),
        });
        for waker in ring.waiting.iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }

    /// Whoever listens here is to go and listen to the process that has taken over.
    pub fn end(&self) {
        let mut ring = self.ring.lock();
        ring.is_over = true;
        for waker in ring.waiting.iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }

    #[must_use]
    pub fn are_over(&self) -> bool {
        self.ring.lock().is_over
    }

    /// Events told since the start.
    #[must_use]
    pub fn told(&self, kind: Kind) -> u64 {
        self.told[kind as usize].load(Ordering::Relaxed)
    }

    /// Who listens now.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.ring
            .lock()
            .taken
            .iter()
            .filter(|taken| **taken)
            .count()
    }

    /// A place among those who wait, to be given back with [`Events::leave`]; `None` if all are taken.
    #[must_use]
    pub fn join(&self) -> Option<usize> {
        let mut ring = self.ring.lock();
        let place = ring.taken.iter().position(|taken| !taken)?;
        ring.taken[place] = true;
        Some(place)
    }

    pub fn leave(&self, place: usize) {
        let mut ring = self.ring.lock();
        ring.taken[place] = false;
        ring.waiting[place] = None;
    }

    /// Where somebody begins who has the event of this id, and who has none: at the next one. `0` is the beginning of all
    /// that is kept.
    #[must_use]
    pub fn cursor(&self, id: Option<&str>) -> Cursor {
        let last = self.ring.lock().last;
        let at = |after| Cursor { after, lost: false };
        let Some(id) = id else {
            return at(last);
        };
        if id == "0" {
            return at(0);
        }
        let known = id.split_once('-').and_then(|(run, number)| {
            let number = number.parse::<u64>().ok()?;
            (run.parse() == Ok(self.run) && number <= last).then_some(number)
        });
        known.map_or(
            Cursor {
                after: 0,
                lost: true,
            },
            at,
        )
    }

    /// Writes what comes after the cursor, as far as it fits, in the format of server-sent events, and moves it on. With
    /// nothing to write, `waker` is woken by the next event. False if nothing was written.
    pub fn read(&self, cursor: &mut Cursor, place: usize, waker: &Waker, out: &mut String) -> bool {
        const ENOUGH: usize = 16 * 1024;
        let mut ring = self.ring.lock();
        let first = ring.last + 1 - ring.kept.len() as u64;
        // Who asks for everything from the beginning has missed nothing.
        let missed = first.saturating_sub(cursor.after + 1);
        if cursor.lost || (missed > 0 && cursor.after > 0) {
            let lost = (!cursor.lost).then_some(missed);
            let before = first - 1;
            let id = format!("{}-{before}", self.run);
            out.push_str(&format!(
                "id: {id}\nevent: gap\ndata: {}\n\n",
                json!({ "lost": lost })
            ));
        }
        cursor.lost = false;
        cursor.after = cursor.after.max(first - 1);
        let from = (cursor.after + 1 - first) as usize;
        for event in ring.kept.iter().skip(from) {
            if out.len() > ENOUGH {
                break;
            }
            let (number, kind) = (event.number, event.kind.word());
            out.push_str(&format!(
                "id: {}-{number}\nevent: {kind}\ndata: {}\n\n",
                self.run, event.data
            ));
            cursor.after = number;
        }
        if out.is_empty() {
            ring.waiting[place] = Some(waker.clone());
        }
        !out.is_empty()
    }
}

/// What there is to tell of.
impl Events {
    /// The operator's word on a backend, or what the configuration makes of it.
    pub fn admin_changed(&self, backend: &BackendShared, from: Admin, to: Admin, reason: &str) {
        if from == to {
            return;
        }
        let (pool, name) = (&backend.pool, &backend.name);
        let (from, to) = (from.word(), to.word());
        log::info!("backend {pool}/{name} is {to}, was {from}: {reason}");
        let data = json!({
            "pool": pool, "backend": name, "what": "admin", "from": from, "to": to, "reason": reason,
        });
        self.tell(Kind::Backend, data);
    }

    pub fn reloaded(&self, note: &ReloadNote) {
        let error = note.error.as_ref().map(|error| {
            let shown = error.chars().take(SENTENCE_MAX);
            shown.collect::<String>()
        });
        let data = json!({
            "result": note.result(),
            "reason": note.reverted,
            "error": error,
            "changes": note.changes.iter().take(NAMES_MAX).collect::<Vec<_>>(),
            "changes_in_all": note.changes.len(),
        });
        self.tell(Kind::Reload, data);
    }

    /// What a new snapshot opens and closes.
    pub fn listeners_changed(&self, before: &Snapshot, after: &Snapshot) {
        let (before, after) = (addresses(before), addresses(after));
        for (name, addresses) in &after {
            if !addresses.is_empty() && before.get(name) != Some(addresses) {
                log::info!("listener {name} on {}", in_words(addresses));
                self.tell_listener(name, "open", addresses);
            }
        }
        for (name, addresses) in &before {
            if !addresses.is_empty() && after.get(name).is_none_or(Vec::is_empty) {
                log::info!("listener {name} closed, was on {}", in_words(addresses));
                self.tell_listener(name, "closed", addresses);
            }
        }
    }

    fn tell_listener(&self, name: &str, state: &str, addresses: &[String]) {
        let shown = &addresses[..addresses.len().min(NAMES_MAX)];
        let data = json!({ "listener": name, "state": state, "addresses": shown });
        self.tell(Kind::Listener, data);
    }
}

fn addresses(snapshot: &Snapshot) -> BTreeMap<&str, Vec<String>> {
    let listeners = snapshot.listeners.iter().map(|listener| {
        let sockets = listener.sockets.iter();
        let addresses = sockets.map(|socket| socket.address.to_string());
        (listener.shared.name.as_str(), addresses.collect())
    });
    listeners.collect()
}

/// The first addresses of a listener; a port range may have thousands.
fn in_words(addresses: &[String]) -> String {
    let shown = &addresses[..addresses.len().min(4)];
    match addresses.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(events: &Events, cursor: &mut Cursor) -> String {
        let mut out = String::new();
        while events.read(cursor, 0, Waker::noop(), &mut out) && out.len() < 1_000_000 {
            let mut more = String::new();
            if !events.read(cursor, 0, Waker::noop(), &mut more) {
                break;
            }
            out += &more;
        }
        out
    }

    fn numbers(text: &str) -> Vec<u64> {
        let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
        let numbers = ids.filter_map(|id| id.split_once('-')?.1.parse().ok());
        numbers.collect()
    }

    fn told(count: u64) -> Events {
        let events = Events::default();
        for n in 1..=count {
            events.tell(Kind::Reload, json!({ "n": n }));
        }
        events
    }

    #[test]
    fn each_reader_gets_every_event_once_from_where_it_stands() {
        let events = told(3);
        let mut new = events.cursor(None);
        assert_eq!(read(&events, &mut new), "");
        let mut all = events.cursor(Some("0"));
        let text = read(&events, &mut all);
        assert_eq!(numbers(&text), [1, 2, 3]);
        assert!(text.contains("event: reload\ndata: {\"at\":\""), "{text}");
        let id = format!("{}-2", events.run);
        let mut back = events.cursor(Some(&id));
        assert_eq!(numbers(&read(&events, &mut back)), [3]);
        events.tell(Kind::Breaker, json!({}));
        for cursor in [&mut new, &mut all, &mut back] {
            assert_eq!(numbers(&read(&events, cursor)), [4]);
            assert_eq!(read(&events, cursor), "");
        }
    }

    #[test]
    fn who_falls_behind_is_told_how_much_is_lost() {
        let events = told(10);
        let id = format!("{}-10", events.run);
        let mut slow = events.cursor(Some(&id));
        for n in 0..KEPT + 7 {
            events.tell(Kind::Reload, json!({ "n": n }));
        }
        let text = read(&events, &mut slow);
        assert!(
            text.starts_with(&format!(
                "id: {}-17\nevent: gap\ndata: {{\"lost\":7}}\n\n",
                events.run
            )),
            "{}",
            &text[..90]
        );
        assert_eq!(numbers(&text)[1..].len(), KEPT);
        assert!(!read(&events, &mut events.cursor(Some("0"))).contains("gap"));
    }

    #[test]
    fn an_id_of_another_process_begins_at_the_beginning_and_says_so() {
        let events = told(2);
        for id in ["5-1", "nonsense", "-", &format!("{}-3", events.run)] {
            let text = read(&events, &mut events.cursor(Some(id)));
            assert!(
                text.contains("event: gap\ndata: {\"lost\":null}"),
                "{id}: {text}"
            );
            assert_eq!(numbers(&text), [0, 1, 2], "{id}");
        }
    }

    #[test]
    fn who_waits_is_woken_by_the_end() {
        struct Woken(AtomicU64);
        impl std::task::Wake for Woken {
            fn wake(self: std::sync::Arc<Woken>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let events = told(1);
        let woken = std::sync::Arc::new(Woken(AtomicU64::new(0)));
        let waker = Waker::from(std::sync::Arc::clone(&woken));
        let mut cursor = events.cursor(None);
        let place = events.join().unwrap();
        assert!(!events.read(&mut cursor, place, &waker, &mut String::new()));
        assert!(!events.are_over());
        events.end();
        assert!(events.are_over());
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn places_are_few_and_come_back() {
        let events = Events::default();
        let places: Vec<_> = (0..STREAMS_MAX).map(|_| events.join().unwrap()).collect();
        assert_eq!((events.join(), events.listeners()), (None, STREAMS_MAX));
        events.leave(places[3]);
        assert_eq!(events.join(), Some(places[3]));
    }
}
