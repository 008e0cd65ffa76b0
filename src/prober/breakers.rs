//! Moves breakers on with time, and judges what no single session can: the share of failures among a window's attempts.
//! Workers open breakers and end trials by themselves; here they become half-open, are closed where the pool needs its
//! backend or nobody came to try it, and are lifted where the rules went away. No I/O; the watch calls it at each beat.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::handoff::{
    Backend, BackendShared, BreakerRules, BreakerState, Change, Hatches, Health, Member, Notice,
    Pool, Why, ejected_max, is_ejected,
};
use crate::ids::{Nanos, millis};

/// How often breakers are looked at while one is not closed, or a failure is within its window.
const BEAT_NS: u64 = millis(100);
/// And in quiet times. The first failure ends them: whoever counts it rings.
const QUIET_NS: u64 = millis(1_000);
/// Looks after a publish, however idle: a worker may not have heard yet that there are no rules any more.
const LAST_LOOKS: u32 = 50;
/// Parts of a window; it moves on by one of them.
const SLICES: usize = 10;

/// Attempts and failures since the backend is known.
type Totals = (u64, u64);

/// What was counted at the begin of each slice of the window, the oldest first.
#[derive(Debug, Default)]
struct Window {
    marks: VecDeque<(Nanos, Totals)>,
    next_at: Nanos,
    /// At the last look.
    seen: Option<Totals>,
}

impl Window {
    /// Attempts and failures within the window that ends now.
    fn note(&mut self, totals: Totals, window_ns: u64, now: Nanos) -> Totals {
        if now >= self.next_at {
            self.next_at = now.after((window_ns / SLICES as u64).max(BEAT_NS));
            // As it was at the last look: the failure that has ended a quiet time belongs to the new slice.
            let before = self.seen.unwrap_or(totals);
            self.marks.push_back((now, before));
            let over = |(at, _): &(Nanos, Totals)| now.since(*at) >= window_ns;
            while self.marks.len() > SLICES || self.marks.front().is_some_and(over) {
                self.marks.pop_front();
            }
        }
        self.seen = Some(totals);
        let first = self.marks.front().map_or(totals, |(_, first)| *first);
        let since = |now: u64, then: u64| now.wrapping_sub(then);
        (since(totals.0, first.0), since(totals.1, first.1))
    }

    /// What was counted before says nothing any more.
    fn restart(&mut self) {
        *self = Window::default();
    }
}

#[derive(Debug)]
struct Seat {
    backend: Arc<BackendShared>,
    window: Window,
    /// As it was at the last look.
    seen: BreakerState,
    /// Failures within the window, then.
    failures: u64,
}

impl Seat {
    fn new(backend: Arc<BackendShared>) -> Seat {
        Seat {
            seen: backend.verdict.breaker.state(),
            failures: 0,
            backend,
            window: Window::default(),
        }
    }

    fn totals(&self) -> Totals {
        let shards = self.backend.workers.iter();
        shards.fold((0, 0), |(attempts, failures), shard| {
            let faults = shard.connect_faults.read();
            (
                attempts + shard.connects.read() + faults,
                failures + faults + shard.reset_faults.read(),
            )
        })
    }

    /// Whether too many of the window's attempts failed; then it begins anew.
    fn fails_too_often(&mut self, rules: &BreakerRules, now: Nanos) -> bool {
        let (attempts, failures) = self.window.note(self.totals(), rules.window_ns, now);
        self.failures = failures;
        let percent = u64::from(rules.error_percent);
        if percent == 0 || attempts < u64::from(rules.volume) || failures * 100 < percent * attempts
        {
            return false;
        }
        self.window.restart();
        let share = (failures * 100 / attempts).min(100);
        let _ = self.backend.verdict.breaker.wish(Why::Errors {
            percent: u8::try_from(share).unwrap_or(100),
            attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        });
        true
    }
}

/// All breakers there are.
#[derive(Debug, Default)]
pub struct Breakers {
    pools: Vec<Arc<Pool>>,
    /// Per pool, in the order of its backends.
    seats: Vec<Vec<Seat>>,
    next_at: Nanos,
    looks_left: u32,
}

impl Breakers {
    /// The pools there are from now on. What is known of a backend that stays, stays.
    pub fn publish(&mut self, pools: Vec<Arc<Pool>>) {
        let before = self.seats.drain(..).flatten();
        let mut kept: HashMap<*const BackendShared, Seat> = before
            .map(|seat| (Arc::as_ptr(&seat.backend), seat))
            .collect();
        for pool in &pools {
            let seats = pool.backends.iter().map(|backend| {
                let known = kept.remove(&Arc::as_ptr(&backend.shared));
                known.unwrap_or_else(|| Seat::new(Arc::clone(&backend.shared)))
            });
            self.seats.push(seats.collect());
        }
        self.pools = pools;
        self.next_at = Nanos::ZERO;
        self.looks_left = LAST_LOOKS;
    }

    /// When the next look is due.
    #[must_use]
    pub fn due(&self) -> Nanos {
        self.next_at
    }

    /// Looks at every breaker. True if workers should look, too.
    pub fn look(&mut self, hatches: &Hatches, now: Nanos) -> bool {
        let mut stirred = false;
        // First: what rings from now on may be after the look.
        hatches.failure_bell.silence();
        for (pool, seats) in self.pools.iter().zip(&mut self.seats) {
            match &pool.breaker {
                Some(rules) => look_at(pool, seats, rules, hatches, now),
                None => lift_all(pool, hatches, now),
            }
            for seat in seats {
                stirred |= has_changed(seat, now);
            }
        }
        self.looks_left = self.looks_left.saturating_sub(1);
        let no_rules = self.pools.iter().all(|pool| pool.breaker.is_none());
        self.next_at = match (no_rules, self.looks_left, self.is_quiet()) {
            (true, 0, _) => Nanos::NEVER,
            (false, 0, true) => now.after(QUIET_NS),
            _ => now.after(BEAT_NS),
        };
        stirred
    }

    /// Nothing has failed lately and nothing is ejected: only a failure can change that.
    fn is_quiet(&self) -> bool {
        let mut seats = self.seats.iter().flatten();
        seats.all(|seat| seat.failures == 0 && seat.seen == BreakerState::Closed)
    }

    /// A failure may have ended a quiet time.
    pub fn wake(&mut self, now: Nanos) {
        self.next_at = self.next_at.min(now);
    }

    /// Whether the next look may be far away, so that a failure should be listened for.
    #[must_use]
    pub fn rests(&self, now: Nanos) -> bool {
        self.next_at > now.after(BEAT_NS)
    }

    /// Backends of which a check is wanted, since too few clients have seen them fail.
    pub fn take_wanted(&self) -> Vec<Arc<BackendShared>> {
        let backends = self.seats.iter().flatten().map(|seat| &seat.backend);
        let wanted = backends.filter(|backend| backend.verdict.breaker.take_check_wanted());
        wanted.map(Arc::clone).collect()
    }
}

/// Whoever has changed it: which tiers serve may have changed with it.
fn has_changed(seat: &mut Seat, now: Nanos) -> bool {
    let state = seat.backend.verdict.breaker.state();
    let changed = std::mem::replace(&mut seat.seen, state) != state;
    if changed {
        seat.window.restart();
        seat.backend.review_tiers(now);
    }
    changed
}

fn look_at(pool: &Pool, seats: &mut [Seat], rules: &BreakerRules, hatches: &Hatches, now: Nanos) {
    for seat in seats {
        // Asked of each, so that every window moves on.
        let _ = seat.fails_too_often(rules, now);
    }
    // Also for wishes that a worker could not settle, because another was just deciding.
    let referee = &pool.shared.referee;
    referee.decide(&pool.backends, rules, now, &hatches.notices);
    for backend in &pool.backends {
        let breaker = &backend.shared.verdict.breaker;
        let was = backend.shared.verdict.health();
        let change = match breaker.state() {
            BreakerState::Closed => None,
            BreakerState::Open => {
                let over = breaker.open_until(rules).is_some_and(|until| now >= until);
                over.then(|| breaker.rest(rules, now)).flatten()
            }
            BreakerState::HalfOpen => {
                let since = breaker.since();
                let untried = since.is_some_and(|since| now.since(since) >= rules.open_max_ns);
                untried.then(|| breaker.lift(Why::Untried, now)).flatten()
            }
        };
        tell(backend, change, was, hatches, now);
    }
    lift_needed(pool, hatches, now);
    lift_excess(pool, rules, hatches, now);
}

/// When no other backend of the pool can have sessions, the one that has been ejected longest can.
fn lift_needed(pool: &Pool, hatches: &Hatches, now: Nanos) {
    let served = || pool.backends.iter().filter(|backend| backend.is_served());
    let serves = |backend: &&Backend| backend.shared.verdict.is_sound() && !is_ejected(*backend);
    if served().any(|backend| serves(&backend)) {
        return;
    }
    let sound = served().filter(|backend| backend.shared.verdict.is_sound());
    lift_oldest(sound, Why::Needed, hatches, now);
}

/// A reload, or a backend that left, may have made too many of them.
fn lift_excess(pool: &Pool, rules: &BreakerRules, hatches: &Hatches, now: Nanos) {
    let served = || pool.backends.iter().filter(|backend| backend.is_served());
    let most = ejected_max(served().count(), rules);
    let ejected = served().filter(|backend| is_ejected(*backend)).count();
    for _ in most..ejected {
        lift_oldest(served(), Why::TooMany, hatches, now);
    }
}

fn lift_oldest<'a>(
    backends: impl Iterator<Item = &'a Backend>,
    why: Why,
    hatches: &Hatches,
    now: Nanos,
) {
    let ejected = backends.filter(|backend| is_ejected(*backend));
    let since = |backend: &&Backend| backend.shared.verdict.breaker.since();
    if let Some(oldest) = ejected.min_by_key(since) {
        lift(oldest, why, hatches, now);
    }
}

fn lift_all(pool: &Pool, hatches: &Hatches, now: Nanos) {
    for backend in &pool.backends {
        lift(backend, Why::Off, hatches, now);
    }
}

fn lift(backend: &Backend, why: Why, hatches: &Hatches, now: Nanos) {
    let verdict = &backend.shared.verdict;
    let was = verdict.health();
    tell(backend, verdict.breaker.lift(why, now), was, hatches, now);
}

fn tell(backend: &Backend, change: Option<Change>, was: Health, hatches: &Hatches, now: Nanos) {
    let Some(change) = change else {
        return;
    };
    if change.to == BreakerState::Closed {
        backend.shared.rises(now);
    }
    let notice = Notice::new(&backend.shared, change, was, now);
    hatches.notices.push(notice);
}

#[cfg(test)]
#[path = "breakers_tests.rs"]
mod tests;
