//! A backend's breaker: a machine in atomics, fed by workers, moved on by whoever sees the cause. No clock, no list of
//! backends, no lock; whether a pool can spare a backend is decided by [`super::ejection`], which alone calls `open`.
//!
//! | state | what happens | becomes |
//! |---|---|---|
//! | closed | too many failures, and the pool can spare the backend | open |
//! | open | its time is over (prober) | half-open |
//! | open, half-open | lifted: the pool needs it, or the rules went away (prober) | closed |
//! | half-open | as many trials as there are passed | closed |
//! | half-open | a trial cannot connect, or trials of [`CLIENTS_MIN`] clients are reset early | open, for twice as long |
//! | half-open | nobody tried it for `open_max` (prober) | closed |
//!
//! Failures in a row are kept in two parts. Failed connects end with the next connect that works; early resets only with
//! the next session that proves itself, since a black hole accepts before it resets. Resets count once they come from
//! [`CLIENTS_MIN`] client addresses: what one client can provoke says nothing about the backend.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use crate::ids::{ConnectFailure, Nanos, millis};

use super::breaker_rules::{BreakerRules, FAILURES_MAX};
use super::breaker_word::Parts;
use super::cause::Why;
use super::sketch::Sketch;

/// Early resets count from so many client addresses on.
pub const CLIENTS_MIN: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

impl BreakerState {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half-open",
        }
    }
}

/// A change that was made, by whoever got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub from: BreakerState,
    pub to: BreakerState,
    pub why: Why,
    /// How long it stays open; 0 unless it opens.
    pub open_ns: u64,
}

/// The right to try a half-open breaker. Its holder says once how it went, or gives it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    epoch: u32,
}

/// Whether a session may go to the backend, as far as the breaker is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Free,
    Trial(Trial),
    Shut,
}

/// What a failure calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Nothing,
    /// Too few clients have seen it: let a check decide.
    Check,
    /// Ask the pool whether it can spare the backend.
    Open,
}

/// Why a breaker that should open does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    LastEligible,
    EjectedMax,
}

impl Kept {
    pub const ALL: [Kept; 2] = [Kept::LastEligible, Kept::EjectedMax];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kept::LastEligible => "last-eligible",
            Kept::EjectedMax => "max-ejected",
        }
    }
}

#[derive(Debug)]
pub struct Breaker {
    /// State (2 bits), epoch (32), trials left (15), trials still to pass (15). The epoch grows with each change.
    word: AtomicU64,
    /// Epoch (22 bits) and when it began, in milliseconds (42): written after the word, told from an older one by the epoch.
    began: AtomicU64,
    /// Openings in a row.
    row: AtomicU32,
    /// Number of the run of failures (32 bits), early resets (16) and failed connects (16) in it.
    run: AtomicU64,
    /// The cause for which it should open, until the pool has decided.
    wish: AtomicU64,
    check_wanted: AtomicBool,
    opens: AtomicU64,
    kept: [AtomicU64; 2],
    run_clients: Sketch,
    window_clients: Sketch,
}

const BEGAN_SHIFT: u32 = 42;
const BEGAN_EPOCH_MASK: u32 = 0x3f_ffff;
const RUN_FIRST: u64 = 1 << 32;
const ONE_RESET: u64 = 1 << 16;
const ONE_CONNECT: u64 = 1;

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker {
            word: AtomicU64::new(0),
            began: AtomicU64::new(0),
            row: AtomicU32::new(0),
            run: AtomicU64::new(RUN_FIRST),
            wish: AtomicU64::new(0),
            check_wanted: AtomicBool::new(false),
            opens: AtomicU64::new(0),
            kept: Default::default(),
            run_clients: Sketch::default(),
            window_clients: Sketch::default(),
        }
    }
}

/// Who may come.
impl Breaker {
    #[must_use]
    pub fn state(&self) -> BreakerState {
        self.parts().state
    }

    fn parts(&self) -> Parts {
        Parts::of(self.word.load(Acquire))
    }

    /// Whether [`Breaker::enter`] would let a session in now. Stale at once.
    #[inline]
    #[must_use]
    pub fn admits(&self) -> bool {
        let parts = self.parts();
        match parts.state {
            BreakerState::Closed => true,
            BreakerState::Open => false,
            BreakerState::HalfOpen => parts.left > 0,
        }
    }

    /// Lets a session in; half-open, exactly as many as may try.
    #[inline]
    #[must_use]
    pub fn enter(&self) -> Entry {
        loop {
            let word = self.word.load(Acquire);
            let parts = Parts::of(word);
            match parts.state {
                BreakerState::Closed => return Entry::Free,
                BreakerState::HalfOpen if parts.left > 0 => {
                    let fewer = Parts {
                        left: parts.left - 1,
                        ..parts
                    };
                    if self.exchange(word, fewer) {
                        return Entry::Trial(Trial { epoch: parts.epoch });
                    }
                }
                BreakerState::Open | BreakerState::HalfOpen => return Entry::Shut,
            }
        }
    }

    fn exchange(&self, word: u64, next: Parts) -> bool {
        let exchanged = self
            .word
            .compare_exchange(word, next.pack(), AcqRel, Acquire);
        exchanged.is_ok()
    }
}

/// What workers report. Failures count only while the breaker is closed: those of sessions from before it opened are
/// told already.
impl Breaker {
    /// A connect worked. In the usual case a load and nothing else.
    #[inline]
    pub fn connected(&self) {
        let run = self.run.load(Relaxed);
        if run & 0xffff != 0 {
            let _ = self
                .run
                .fetch_update(AcqRel, Relaxed, |run| Some(run & !0xffff));
        }
    }

    /// Whether failures are being counted, so that sessions should prove themselves.
    #[inline]
    #[must_use]
    pub fn is_suspected(&self) -> bool {
        self.run.load(Relaxed) & 0xffff_ffff != 0
    }

    /// A session has proved itself: the backend answered it, or kept it beyond `early_reset`.
    #[inline]
    pub fn proven(&self) {
        if self.is_suspected() {
            self.restart_run();
        }
    }

    fn restart_run(&self) {
        let next = |run: u64| Some((run >> 32).wrapping_add(1).max(1) << 32);
        let _ = self.run.fetch_update(AcqRel, Relaxed, next);
    }

    /// A connect failed, by no fault of ours.
    #[must_use]
    pub fn connect_failed(&self, how: ConnectFailure, rules: &BreakerRules) -> Call {
        if self.state() != BreakerState::Closed {
            return Call::Nothing;
        }
        let run = self.count_failure(ONE_CONNECT);
        let (resets, connects) = failures(run);
        if connects >= rules.consecutive_failures {
            return self.wish(Why::Connects(connects, how));
        }
        let clients = self.run_clients.count((run >> 32) as u32);
        if clients >= CLIENTS_MIN && resets + connects >= rules.consecutive_failures {
            return self.wish(Why::Resets(resets));
        }
        Call::Nothing
    }

    /// A session of this client was reset early.
    #[must_use]
    pub fn reset_early(&self, client: u32, rules: &BreakerRules) -> Call {
        if self.state() != BreakerState::Closed {
            return Call::Nothing;
        }
        let run = self.count_failure(ONE_RESET);
        let (resets, connects) = failures(run);
        let clients = self.run_clients.meet((run >> 32) as u32, client).distinct;
        let counted = if clients < CLIENTS_MIN { 0 } else { resets };
        if counted + connects >= rules.consecutive_failures {
            return self.wish(Why::Resets(resets));
        }
        if counted == 0 {
            self.check_wanted.store(true, Release);
            return Call::Check;
        }
        Call::Nothing
    }

    /// How many failures an early reset is for the share of errors: none while fewer than [`CLIENTS_MIN`] clients have
    /// seen one in this window, and one per client after that. Whoever comes third brings the first two along.
    #[must_use]
    pub fn errors_of_reset(&self, client: u32, now: Nanos, rules: &BreakerRules) -> u64 {
        let window = now.0 / rules.window_ns.max(1) + 1;
        let tag = u32::try_from(window).unwrap_or(u32::MAX);
        let met = self.window_clients.meet(tag, client);
        match met.distinct {
            CLIENTS_MIN if met.new => u64::from(CLIENTS_MIN),
            distinct if met.new && distinct > CLIENTS_MIN => 1,
            _ => 0,
        }
    }

    /// Adds one to the run, of which no part flows over into the next; the run as it is then.
    fn count_failure(&self, one: u64) -> u64 {
        let more = |run: u64| {
            let part = one * u64::from(FAILURES_MAX);
            Some(if run & part == part { run } else { run + one })
        };
        let before = self.run.fetch_update(AcqRel, Relaxed, more);
        before.ok().and_then(more).unwrap_or(RUN_FIRST)
    }

    /// Notes that it should open. The caller has the pool decide.
    pub fn wish(&self, why: Why) -> Call {
        self.wish.store(why.pack(), Release);
        Call::Open
    }

    #[must_use]
    pub(super) fn take_wish(&self) -> Option<Why> {
        match self.wish.load(Acquire) {
            0 => None,
            _ => Why::unpack(self.wish.swap(0, AcqRel)),
        }
    }

    /// Whether a check was asked for since the last call.
    #[must_use]
    pub fn take_check_wanted(&self) -> bool {
        self.check_wanted.load(Relaxed) && self.check_wanted.swap(false, AcqRel)
    }

    /// A trial went well; the change if it was the last one needed.
    pub fn trial_passed(&self, trial: Trial, now: Nanos) -> Option<Change> {
        loop {
            let (word, parts) = self.during(trial)?;
            if parts.to_pass <= 1 {
                let change = self.change(word, BreakerState::Closed, Why::TrialsPassed, 1, now);
                match change {
                    Some(_) => return change,
                    None => continue,
                }
            }
            let closer = Parts {
                to_pass: parts.to_pass - 1,
                ..parts
            };
            if self.exchange(word, closer) {
                return None;
            }
        }
    }

    /// A trial failed: open again, for longer. `None` if another trial has decided before.
    pub fn trial_failed(&self, trial: Trial, rules: &BreakerRules, now: Nanos) -> Option<Change> {
        loop {
            let (word, _) = self.during(trial)?;
            let row = self.row.load(Relaxed);
            if self.exchange(word, Parts::of(word).next(BreakerState::Open, 0)) {
                let row = row.saturating_add(1);
                return Some(self.opened(Parts::of(word), Why::TrialFailed, row, rules, now));
            }
        }
    }

    /// A trial was reset early. What one client can provoke fails no trial either: until the last of [`CLIENTS_MIN`] clients
    /// has met with it, the trial is void, which its holder sees to.
    pub fn trial_reset(
        &self,
        trial: Trial,
        client: u32,
        rules: &BreakerRules,
        now: Nanos,
    ) -> Option<Change> {
        self.during(trial)?;
        let run = (self.run.load(Relaxed) >> 32) as u32;
        let clients = self.run_clients.meet(run, client).distinct;
        if clients < CLIENTS_MIN {
            return None;
        }
        self.trial_failed(trial, rules, now)
    }

    /// Whether the breaker still is in the half-open time to which the trial belongs.
    #[must_use]
    pub fn is_during(&self, trial: Trial) -> bool {
        self.during(trial).is_some()
    }

    /// A trial that says nothing about the backend: somebody else may try.
    pub fn trial_void(&self, trial: Trial) {
        while let Some((word, parts)) = self.during(trial) {
            let more = Parts {
                left: parts.left + 1,
                ..parts
            };
            if self.exchange(word, more) {
                return;
            }
        }
    }

    /// The word, if it still is the half-open time to which the trial belongs.
    fn during(&self, trial: Trial) -> Option<(u64, Parts)> {
        let word = self.word.load(Acquire);
        let parts = Parts::of(word);
        let its = parts.state == BreakerState::HalfOpen && parts.epoch == trial.epoch;
        its.then_some((word, parts))
    }
}

/// Changes by those who watch the pool as a whole.
impl Breaker {
    /// Opens a closed breaker. Only for whoever decides for the pool.
    pub(super) fn open(&self, why: Why, rules: &BreakerRules, now: Nanos) -> Option<Change> {
        let word = self.word.load(Acquire);
        if Parts::of(word).state != BreakerState::Closed {
            return None;
        }
        // In a row are those that follow before it has been closed for the longest time of all.
        let quiet = self.began_at(Parts::of(word).epoch);
        let rested = quiet.is_some_and(|began| now.since(began) >= rules.open_max_ns);
        let row = if rested { 0 } else { self.row.load(Relaxed) };
        let opened = self.exchange(word, Parts::of(word).next(BreakerState::Open, 0));
        opened.then(|| self.opened(Parts::of(word), why, row.saturating_add(1), rules, now))
    }

    /// What belongs to an opening, its stamp last: who reads that may read the rest.
    fn opened(
        &self,
        before: Parts,
        why: Why,
        row: u32,
        rules: &BreakerRules,
        now: Nanos,
    ) -> Change {
        self.row.store(row, Release);
        self.opens.fetch_add(1, Relaxed);
        self.restart_run();
        self.stamp(before.epoch.wrapping_add(1), now);
        Change {
            from: before.state,
            to: BreakerState::Open,
            why,
            open_ns: rules.open_for(row),
        }
    }

    /// When an open breaker's time is over; `None` if it is not open, or opens just now.
    #[must_use]
    pub fn open_until(&self, rules: &BreakerRules) -> Option<Nanos> {
        let parts = self.parts();
        let began = self.began_at(parts.epoch)?;
        let open = parts.state == BreakerState::Open;
        open.then(|| began.after(rules.open_for(self.row.load(Acquire))))
    }

    /// Takes over what an earlier process knew. Its trials are not ours: a half-open breaker is one whose time is over.
    pub fn restore(&self, state: BreakerState, since: Nanos, row: u32, opens: u64) {
        let (state, since) = match state {
            BreakerState::HalfOpen => (BreakerState::Open, Nanos::ZERO),
            other => (other, since),
        };
        let parts = Parts::of(0).next(state, 0);
        self.row.store(row, Release);
        self.opens.store(opens, Relaxed);
        self.stamp(parts.epoch, since);
        self.word.store(parts.pack(), Release);
    }

    /// Since when it is in its state; `None` if it changes just now.
    #[must_use]
    pub fn since(&self) -> Option<Nanos> {
        self.began_at(self.parts().epoch)
    }

    /// From open to half-open. Only for the prober.
    pub fn rest(&self, rules: &BreakerRules, now: Nanos) -> Option<Change> {
        self.turn(
            &[BreakerState::Open],
            BreakerState::HalfOpen,
            Why::Rested,
            rules.trials,
            now,
        )
    }

    /// Back to closed, without trials. Only for the prober.
    pub fn lift(&self, why: Why, now: Nanos) -> Option<Change> {
        let ejected = [BreakerState::Open, BreakerState::HalfOpen];
        self.turn(&ejected, BreakerState::Closed, why, 1, now)
    }

    fn turn(
        &self,
        from: &[BreakerState],
        to: BreakerState,
        why: Why,
        trials: u32,
        now: Nanos,
    ) -> Option<Change> {
        loop {
            let word = self.word.load(Acquire);
            if !from.contains(&Parts::of(word).state) {
                return None;
            }
            let change = self.change(word, to, why, trials, now);
            if change.is_some() {
                return change;
            }
        }
    }

    /// One change, but not an opening, from a word that was looked at; `None` if it is not that any more.
    fn change(
        &self,
        word: u64,
        to: BreakerState,
        why: Why,
        trials: u32,
        now: Nanos,
    ) -> Option<Change> {
        let parts = Parts::of(word);
        if !self.exchange(word, parts.next(to, trials)) {
            return None;
        }
        self.restart_run();
        self.stamp(parts.epoch.wrapping_add(1), now);
        Some(Change {
            from: parts.state,
            to,
            why,
            open_ns: 0,
        })
    }

    /// Notes when an epoch began, unless a later one has been noted meanwhile.
    fn stamp(&self, epoch: u32, now: Nanos) {
        let epoch = epoch & BEGAN_EPOCH_MASK;
        let milliseconds = (now.0 / millis(1)) & ((1 << BEGAN_SHIFT) - 1);
        let stamp = u64::from(epoch) << BEGAN_SHIFT | milliseconds;
        let _ = self.began.fetch_update(Release, Relaxed, |before| {
            let ahead = epoch.wrapping_sub((before >> BEGAN_SHIFT) as u32) & BEGAN_EPOCH_MASK;
            (ahead <= BEGAN_EPOCH_MASK / 2).then_some(stamp)
        });
    }

    fn began_at(&self, epoch: u32) -> Option<Nanos> {
        let began = self.began.load(Acquire);
        let its = began >> BEGAN_SHIFT == u64::from(epoch & BEGAN_EPOCH_MASK);
        its.then(|| Nanos(millis(began & ((1 << BEGAN_SHIFT) - 1))))
    }
}

/// What is shown.
impl Breaker {
    /// How often it has opened since the backend is known.
    #[must_use]
    pub fn opens(&self) -> u64 {
        self.opens.load(Relaxed)
    }

    /// Openings in a row, each for twice as long.
    #[must_use]
    pub fn row(&self) -> u32 {
        self.row.load(Relaxed)
    }

    /// Failed connects and early resets in a row.
    #[must_use]
    pub fn failures(&self) -> (u32, u32) {
        let (resets, connects) = failures(self.run.load(Relaxed));
        (connects, resets)
    }

    pub(super) fn keep(&self, kept: Kept) {
        self.kept[kept as usize].fetch_add(1, Relaxed);
    }

    /// How often it should have opened and was kept closed.
    #[must_use]
    pub fn kept(&self, kept: Kept) -> u64 {
        self.kept[kept as usize].load(Relaxed)
    }
}

/// Early resets and failed connects of a run.
fn failures(run: u64) -> (u32, u32) {
    ((run >> 16 & 0xffff) as u32, (run & 0xffff) as u32)
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
