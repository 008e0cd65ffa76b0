//! What the office does at regular intervals: busy shares, recycling of ids and snapshots, names to look up again, and
//! one line a minute about pauses that workers count but never write.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::balance::{Service, TIERS_MAX};
use crate::handoff::{Tally, WorkerCounters};
use crate::ids::{Nanos, PoolId};

use super::breakers::{self, Unspared};
use super::conflicts::Alarms;
use super::resolver::AGAIN;
use super::trial::Past;
use super::vitals::Mark;
use super::{Office, checks, start};

/// The office's pulse: also how late a change of health is logged.
pub const PULSE: Duration = Duration::from_millis(250);
const BUSY_WINDOW_NS: u64 = 1_000_000_000;
const COMPLAIN: Duration = Duration::from_secs(60);

/// What the last ticks saw.
#[derive(Debug)]
pub struct Tick {
    pulse: tokio::time::Interval,
    busy_at: Nanos,
    busy_ns: Vec<u64>,
    looked_up: Instant,
    complained: Option<Instant>,
    pauses: [u64; PAUSES.len()],
    /// Tiers that serve, and whether health is ignored there, as logged last.
    tiers: BTreeMap<PoolId, (u16, bool)>,
    alarms: Alarms,
    unspared: Unspared,
    past: Past,
}

type Pick = fn(&WorkerCounters) -> &Tally;

/// What is worth a line: each is legal, and a sign that something is too small.
const PAUSES: [(&str, Pick); 6] = [
    (
        "accepting paused for want of sessions, descriptors or memory",
        |counters| &counters.accept_pauses,
    ),
    ("receiving waited for a buffer", |counters| {
        &counters.buffer_pauses
    }),
    ("a stream found no pipe and was copied", |counters| {
        &counters.pipe_misses
    }),
    (
        "a flow had to go for want of room (max_flows, max_sessions), a descriptor or a port",
        |counters| &counters.flows_crowded_out,
    ),
    ("the completion queue overflowed", |counters| {
        &counters.cq_overflow
    }),
    (
        "the kernel answered for a session that is gone (a bug of ringway)",
        |counters| &counters.stale_answers,
    ),
];

impl Tick {
    /// Must be called inside the runtime.
    #[must_use]
    pub fn new(workers: u16) -> Tick {
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Tick {
            pulse,
            busy_at: Nanos::ZERO,
            busy_ns: vec![0; usize::from(workers)],
            looked_up: Instant::now(),
            complained: None,
            pauses: [0; PAUSES.len()],
            tiers: BTreeMap::new(),
            alarms: Alarms::default(),
            unspared: Unspared::default(),
            past: Past::default(),
        }
    }

    /// What was usual lately.
    #[must_use]
    pub fn past(&self) -> &Past {
        &self.past
    }

    pub async fn next(&mut self) {
        self.pulse.tick().await;
    }
}

impl Office {
    pub(super) fn on_tick(&mut self) {
        self.call_the_roll();
        checks::log_changes(&self.board);
        breakers::tell_changes(&self.board);
        self.tick.unspared.look(&self.board);
        super::warm::log_notices(&self.board);
        self.tick.alarms.look(&self.board);
        let now = self.board.clock.now();
        self.review_tiers(now);
        if now.since(self.tick.busy_at) >= BUSY_WINDOW_NS {
            self.measure_busy(now);
            self.look_at_headroom();
            self.registry.sweep(now);
            self.binder.sweep(now);
            self.publisher.sweep();
            self.complain_of_pauses();
            self.tick.past.note(Mark::of(&self.board.view().snapshot));
        }
        if self.tick.looked_up.elapsed() >= AGAIN {
            self.tick.looked_up = Instant::now();
            start::look_up_again(&self.world, &self.lookups.0);
        }
    }

    /// What only time changes, and the log of what changed since the last tick.
    fn review_tiers(&mut self, now: Nanos) {
        let mut changed = false;
        for pool in &self.board.view().snapshot.pools {
            changed |= pool.shared.tiers.review(now);
            let Service {
                serving,
                ignoring_health,
            } = pool.shared.tiers.service();
            let seen = (serving & pool.tiers, ignoring_health != 0);
            let name = &pool.shared.name;
            match self.tick.tiers.insert(pool.shared.id, seen) {
                Some((before, was_open)) if (before, was_open) != seen => {
                    if before != seen.0 {
                        log::warn!("pool {name}: {} now, was {}", tiers(seen.0), tiers(before));
                    }
                    match seen.1 {
                        true if !was_open => log::warn!(
                            "pool {name}: too few backends are healthy, health is ignored (fail_open)"
                        ),
                        false if was_open => log::info!("pool {name}: health counts again"),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        if changed {
            // Who waits may be served by others now.
            self.board.hatches.ring();
        }
    }

    fn measure_busy(&mut self, now: Nanos) {
        let window_ns = now.since(self.tick.busy_at).max(1);
        self.tick.busy_at = now;
        for (i, hatch) in self.board.hatches.workers.iter().enumerate() {
            let busy_ns = hatch.counters.busy_ns.read();
            let spent_ns = busy_ns.saturating_sub(self.tick.busy_ns[i]);
            self.tick.busy_ns[i] = busy_ns;
            let ppm = u128::from(spent_ns) * 1_000_000 / u128::from(window_ns);
            let ppm = u64::try_from(ppm.min(1_000_000)).unwrap_or(1_000_000);
            self.board.busy_ppm[i].store(ppm, Ordering::Relaxed);
        }
    }

    /// The first pause is said at once, later ones once a minute.
    fn complain_of_pauses(&mut self) {
        let since = self.tick.complained.map(|moment| moment.elapsed());
        if since.is_some_and(|since| since < COMPLAIN) {
            return;
        }
        for (i, (sentence, pick)) in PAUSES.iter().enumerate() {
            let hatches = self.board.hatches.workers.iter();
            let total: u64 = hatches.map(|hatch| pick(&hatch.counters).read()).sum();
            let more = total - self.tick.pauses[i].min(total);
            self.tick.pauses[i] = total;
            if more > 0 {
                self.tick.complained = Some(Instant::now());
                log::warn!("{sentence}: {more} times lately, {total} in all");
            }
        }
    }
}

/// `tiers 0, 1 serve`
fn tiers(mask: u16) -> String {
    let numbers: Vec<String> = (0..TIERS_MAX)
        .filter(|tier| mask >> tier & 1 == 1)
        .map(|tier| tier.to_string())
        .collect();
    match numbers.as_slice() {
        [] => "no tier serves".to_owned(),
        [one] => format!("tier {one} serves"),
        many => format!("tiers {} serve", many.join(", ")),
    }
}
