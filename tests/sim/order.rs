//! Who is served in which order, held against what is promised: waiting clients first come first served over all workers,
//! newcomers behind them, and each attempt to another backend while one is open. The door tells of connects, the driver of
//! who waits after each turn.

use std::collections::{BTreeMap, BTreeSet};

use ringway::handoff::{Phase, Target};

use super::net::Net;

const MILLISECOND: u64 = 1_000_000;
/// A world that has changed so lately may serve a client in its old order.
const LATELY_NS: u64 = 300 * MILLISECOND;
/// A place may be on its way to another worker, which may be stalled.
const ON_ITS_WAY_NS: u64 = 150 * MILLISECOND;

/// A session: worker, and number there.
type Who = (usize, u64);

/// Somebody was served while an older one waited.
#[derive(Debug)]
struct Overtaken {
    who: Who,
    since: u64,
    by: Who,
    at: u64,
}

/// The queue of a world's only pool.
#[derive(Debug, Default)]
pub struct Order {
    /// Since which turn each session waits.
    waiting: BTreeMap<Who, u64>,
    overtaken: Vec<Overtaken>,
    /// Whoever waited when the queue was replaced has joined the new one in another order.
    settled_at_turn: u64,
    unsettled: Option<u64>,
}

impl Net {
    /// The queue was replaced by this snapshot.
    pub fn note_new_queue(&mut self, generation: u64) {
        self.order.unsettled = Some(generation);
        self.order.overtaken.clear();
    }

    /// A turn of this worker is over, and these of its sessions wait.
    pub fn note_waiting(&mut self, worker: usize, now_waiting: &BTreeSet<u64>) {
        let turn = self.counts.turns;
        let order = &mut self.order;
        order
            .waiting
            .retain(|who, _| who.0 != worker || now_waiting.contains(&who.1));
        for &number in now_waiting {
            order.waiting.entry((worker, number)).or_insert(turn);
        }
        let waiting = &order.waiting;
        order
            .overtaken
            .retain(|it| waiting.get(&it.who) == Some(&it.since));
        self.settle_order();
        self.check_order(worker);
    }

    fn settle_order(&mut self) {
        let reached = |generation| self.office().hatches.all_have(generation);
        if self.order.unsettled.is_some_and(reached) {
            self.order.unsettled = None;
            self.order.settled_at_turn = self.counts.turns;
        }
    }

    fn check_order(&mut self, worker: usize) {
        let calm = self.is_calm();
        let now = self.now;
        let found = self.order.overtaken.iter().find(|it| {
            let here = it.who.0 == worker && it.by.0 == worker;
            calm && (here && self.weather.workers == 1 || now - it.at > ON_ITS_WAY_NS)
        });
        if let Some(found) = found {
            self.fail(&format!("out of order: {found:?}"));
        }
        if !calm {
            self.order.overtaken.clear();
        }
    }

    /// No backend has come, gone or changed lately.
    fn is_calm(&self) -> bool {
        let serving = self.office().phase == Phase::Serving;
        let mut backends = self.office().backends.iter();
        serving && backends.all(|seat| self.now.saturating_sub(seat.changed_at) > LATELY_NS)
    }

    /// Whether the client's session was seen waiting after a turn.
    pub fn has_waited(&self, client: usize) -> bool {
        let session = self.conns[client].session;
        session.is_none_or(|who| self.order.waiting.contains_key(&who))
    }

    /// A session connects, after it waited or at once.
    pub fn note_served(&mut self, client: usize) {
        let conn = &self.conns[client];
        let Some(who) = conn.session else {
            return;
        };
        let newcomer = conn.tried.is_empty();
        let since = match self.order.waiting.remove(&who) {
            Some(since) => since,
            None if newcomer => self.counts.turns,
            // It has waited before, or never had to: a new attempt is not queued.
            None => return,
        };
        if self.weather.pools > 1 || self.order.unsettled.is_some() || !self.is_calm() {
            return;
        }
        let older = |(_, at): &(&Who, &u64)| **at < since && **at > self.order.settled_at_turn;
        let older: Vec<_> = self.order.waiting.iter().filter(older).collect();
        let at = self.now;
        let overtaken = older
            .into_iter()
            .map(|(&who_waits, &waits_since)| Overtaken {
                who: who_waits,
                since: waits_since,
                by: who,
                at,
            });
        let overtaken: Vec<_> = overtaken.collect();
        self.order.overtaken.extend(overtaken);
    }

    /// A client's attempt goes to a backend: to another than before, if one is open.
    pub fn note_attempt(&mut self, client: usize, backend: usize) {
        let tried = &self.conns[client].tried;
        if tried.contains(&backend) {
            let office = self.office();
            let pool = office.backends[backend].pool;
            let others = office.backends.iter().enumerate();
            let other = others
                .filter(|(id, seat)| seat.pool == pool && !tried.contains(id))
                .find(|(_, seat)| {
                    seat.present
                        && seat.weight > 0
                        && seat.target != Target::Unresolved
                        && seat.shared.verdict.is_eligible()
                        && !seat.shared.capacity.looks_full()
                        && self.now.saturating_sub(seat.changed_at) > LATELY_NS
                });
            if let Some((other, _)) = other {
                self.fail(&format!(
                    "c{client} goes to b{backend} again, while b{other} is open"
                ));
            }
        }
        self.conns[client].tried.push(backend);
    }
}
