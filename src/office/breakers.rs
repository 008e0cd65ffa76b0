//! Breakers as the operator sees them: each change is one line of the log and one event, and the last one of each backend
//! is kept for status and explanations. Who changes them, and when, is the business of workers and prober.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde_json::json;

use crate::config::{self, BreakerPlan};
use crate::handoff::{BackendShared, BreakerRules, BreakerState, Health, Kept, Notice};
use crate::ids::BackendId;

use super::board::Board;
use super::events::Kind;
use super::world::nanoseconds;

/// How often it is said that a backend could not be spared.
const COMPLAIN: Duration = Duration::from_secs(60);

/// The last change of a breaker.
#[derive(Clone, Debug)]
pub struct BreakerNote {
    pub at: SystemTime,
    pub reason: String,
}

/// The last change of each breaker that ever changed, as long as its backend is there.
#[derive(Debug, Default)]
pub struct BreakerNotes(Mutex<BTreeMap<BackendId, BreakerNote>>);

impl BreakerNotes {
    #[must_use]
    pub fn all(&self) -> BTreeMap<BackendId, BreakerNote> {
        self.0.lock().clone()
    }

    fn note(&self, backend: BackendId, note: BreakerNote) {
        self.0.lock().insert(backend, note);
    }

    /// Ids are used again: what is said of a backend must not outlive it.
    pub fn retain(&self, is_there: impl Fn(BackendId) -> bool) {
        self.0.lock().retain(|&backend, _| is_there(backend));
    }
}

#[must_use]
pub fn rules(plan: &BreakerPlan) -> BreakerRules {
    BreakerRules {
        // Where they do not count, no number of them is enough.
        consecutive_failures: match plan.consecutive_failures {
            0 => u32::MAX,
            failures => failures,
        },
        early_reset_ns: nanoseconds(plan.early_reset),
        error_percent: plan.error_percent,
        window_ns: nanoseconds(plan.window),
        volume: plan.volume,
        open_ns: nanoseconds(plan.open),
        open_max_ns: nanoseconds(plan.open_max),
        trials: plan.trials,
        max_ejected_percent: plan.max_ejected_percent,
    }
}

/// Tells of every change since the last call.
pub fn tell_changes(board: &Board) {
    while let Some(notice) = board.hatches.notices.pop() {
        log_change(&notice);
        tell_change(board, &notice);
        let note = BreakerNote {
            at: board.clock.wall(notice.at),
            reason: notice.change.why.to_string(),
        };
        board.breaker_notes.note(notice.backend.id, note);
    }
}

fn log_change(notice: &Notice) {
    let backend = &notice.backend;
    let (pool, name, why) = (&backend.pool, &backend.name, notice.change.why);
    let (was, is) = (notice.health.0.word(), notice.health.1.word());
    let open = config::duration_text(Duration::from_nanos(notice.change.open_ns));
    match notice.change.to {
        BreakerState::Open if notice.health.1 == Health::Ejected => {
            log::warn!("backend {pool}/{name} is ejected for {open}, was {was}: {why}");
        }
        BreakerState::Open => {
            log::warn!(
                "backend {pool}/{name} stays {is}, and its breaker is open for {open}: {why}"
            );
        }
        BreakerState::HalfOpen => {
            log::info!("backend {pool}/{name} is {is}, its breaker half-open: {why}");
        }
        BreakerState::Closed => log::info!("backend {pool}/{name} is {is}, was {was}: {why}"),
    }
}

fn tell_change(board: &Board, notice: &Notice) {
    let (backend, change) = (&notice.backend, &notice.change);
    let data = json!({
        "pool": backend.pool,
        "backend": backend.name,
        "from": change.from.word(),
        "to": change.to.word(),
        "reason": change.why.to_string(),
        "open_ms": change.open_ns / 1_000_000,
        "health": notice.health.1.word(),
    });
    board.events.tell(Kind::Breaker, data);
}

/// Says once a minute which backends should have been ejected and could not be spared.
#[derive(Debug, Default)]
pub struct Unspared {
    seen: BTreeMap<BackendId, [u64; Kept::ALL.len()]>,
    said: Option<Instant>,
}

impl Unspared {
    pub fn look(&mut self, board: &Board) {
        if self.said.is_some_and(|said| said.elapsed() < COMPLAIN) {
            return;
        }
        let view = board.view();
        let pools = view.snapshot.pools.iter();
        let mut seen = BTreeMap::new();
        for backend in pools.flat_map(|pool| &pool.backends) {
            let shared = &backend.shared;
            let counts = Kept::ALL.map(|why| shared.verdict.breaker.kept(why));
            let before = self.seen.get(&shared.id).copied().unwrap_or_default();
            seen.insert(shared.id, counts);
            for (why, (now, before)) in Kept::ALL.iter().zip(counts.iter().zip(before)) {
                if *now > before {
                    self.said = Some(Instant::now());
                    log_kept(shared, *why, now - before);
                }
            }
        }
        self.seen = seen;
    }
}

fn log_kept(backend: &BackendShared, why: Kept, times: u64) {
    let (pool, name) = (&backend.pool, &backend.name);
    let because = match why {
        Kept::LastEligible => "no other backend of the pool is eligible",
        Kept::EjectedMax => "no more may be ejected at a time (max_ejected_percent)",
    };
    log::warn!("backend {pool}/{name} fails and is not ejected: {because} ({times} times lately)");
}
