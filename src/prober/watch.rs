//! The prober's only loop: takes the newest set of targets, starts what is due, listens to what checks found, sleeps.
//! Decisions are the roster's; this carries between it, the ring and the office.

use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::Sender;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::handoff::{Hatches, Pool};
use crate::ids::{Clock, Nanos, millis};

use super::breakers::Breakers;
use super::kept::Kept;
use super::report::{Complaint, Conflict, Finding, HealthChange, History};
use super::ring;
use super::roster::{Roster, Ticket};
use super::stall::{BEAT_NS, StallWatch};
use super::target::Target;
use super::{IN_FLIGHT_MAX, visit};

/// Checks are started at most this often, all that are due together: one wake-up, one system call to submit them.
const TOGETHER_NS: u64 = millis(8);
/// How long checks in flight may take to end once the prober is told to stop.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// What the office and the prober's thread share.
#[derive(Debug)]
pub struct Desk {
    /// The newest set of targets, until it is taken.
    pub targets: Mutex<Option<Vec<Target>>>,
    /// The pools whose breakers are to be moved on, until they are taken.
    pub pools: Mutex<Option<Vec<Arc<Pool>>>>,
    pub histories: Mutex<Vec<Arc<History>>>,
    pub conflicts: Mutex<Vec<Conflict>>,
    pub stop: AtomicBool,
    pub news: Notify,
    pub changes_lost: AtomicU64,
    pub warm: super::warm::Counter,
}

/// A finding, with the check it belongs to, what that leaves for the next one, and the moment it was made.
type Found = (Ticket, Finding, Kept, Nanos);

/// The answer to come once the bell of failures has rung.
type Failing = ring::Readable;

pub struct Watch {
    pub roster: Roster,
    pub breakers: Breakers,
    pub desk: Arc<Desk>,
    pub hatches: Arc<Hatches>,
    pub changes: Sender<HealthChange>,
    pub complaints: Sender<Complaint>,
    pub clock: Clock,
    pub stall: Rc<StallWatch>,
    pub checks: JoinSet<Found>,
    /// No check is started before this moment.
    pub gate: Nanos,
}

impl Watch {
    /// Runs until the desk says stop.
    pub async fn run(mut self) {
        let bell = self.hatches.failure_bell.doorbell.as_fd().as_raw_fd();
        let mut failing = ring::readable(bell);
        while !self.desk.stop.load(Ordering::Acquire) {
            let now = self.clock.now();
            self.stall.look(now);
            self.take_targets(now);
            self.move_breakers(now);
            self.start_due(now);
            self.deliver();
            if self.sleep(&mut failing).await {
                failing = ring::readable(bell);
            }
        }
        self.end_checks(failing).await;
    }

    fn take_targets(&mut self, now: Nanos) {
        let Some(targets) = self.desk.targets.lock().take() else {
            return;
        };
        self.roster.publish(targets, now);
        *self.desk.histories.lock() = self.roster.histories();
    }

    fn move_breakers(&mut self, now: Nanos) {
        if let Some(pools) = self.desk.pools.lock().take() {
            self.breakers.publish(pools);
        }
        if now < self.breakers.due() {
            return;
        }
        if self.breakers.look(&self.hatches, now) {
            self.hatches.ring();
        }
        for backend in self.breakers.take_wanted() {
            self.roster.check_soon(&backend, now);
        }
    }

    fn start_due(&mut self, now: Nanos) {
        if now < self.gate {
            return;
        }
        while self.checks.len() < IN_FLIGHT_MAX {
            let Some(assignment) = self.roster.take_due(now) else {
                return;
            };
            self.gate = now.after(TOGETHER_NS);
            let (clock, stall) = (self.clock, Rc::clone(&self.stall));
            self.checks.spawn_local(async move {
                let ticket = assignment.ticket;
                let (finding, kept) = visit::check(assignment, now, clock, &stall).await;
                (ticket, finding, kept, clock.now())
            });
        }
    }

    fn deliver(&mut self) {
        if self.roster.take_bell() {
            self.hatches.ring();
        }
        let conflicts = self.roster.conflicts();
        let mut told = self.desk.conflicts.lock();
        if *told != conflicts {
            *told = conflicts;
        }
        drop(told);
        for change in self.roster.take_changes() {
            if self.changes.try_send(change).is_err() {
                self.desk.changes_lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        for complaint in self.roster.take_complaints() {
            // It is said again in a minute.
            let _ = self.complaints.try_send(complaint);
        }
    }

    /// Sleeps until something is due, a check ended, the office has news or, in quiet times, a failure was counted, and
    /// takes in what was found. True if `failing` has had its answer.
    async fn sleep(&mut self, failing: &mut Failing) -> bool {
        let now = self.clock.now();
        let due = if self.checks.len() < IN_FLIGHT_MAX {
            self.roster.next_due().unwrap_or(Nanos::NEVER)
        } else {
            Nanos::NEVER
        };
        let beat = if self.checks.is_empty() {
            Nanos::NEVER
        } else {
            now.after(BEAT_NS)
        };
        let wake = due
            .max(self.gate)
            .min(self.breakers.due())
            .max(now)
            .min(beat);
        self.stall.sleep_until(wake);
        // A sleeper without a plan looks up once an hour: tokio's clock does not reach as far as ours.
        let pause = Duration::from_nanos(wake.since(now)).min(Duration::from_secs(3_600));
        let mut failed = false;
        let found = tokio::select! {
            () = self.desk.news.notified() => None,
            _ = failing, if self.breakers.rests(now) => {
                failed = true;
                None
            }
            Some(found) = self.checks.join_next() => found.ok(),
            () = tokio::time::sleep_until(Instant::now() + pause) => None,
        };
        let now = self.clock.now();
        let late_ns = self.stall.look(now);
        if late_ns > 0 {
            self.roster.stood_still(now, late_ns);
        }
        if failed {
            self.breakers.wake(now);
        }
        self.hear(found);
        while let Some(found) = self.checks.try_join_next() {
            self.hear(found.ok());
        }
        failed
    }

    fn hear(&mut self, found: Option<Found>) {
        if let Some((ticket, finding, kept, at)) = found {
            self.roster.hear(ticket, finding, kept, at);
        }
    }

    /// Cancels what is in flight and waits for the answers, so that no operation outlives the ring.
    async fn end_checks(&mut self, failing: Failing) {
        let answers = async {
            while !self.checks.is_empty() {
                // Again and again: a task that had not begun yet submits its connect after a cancel.
                let _ = ring::cancel_all().await;
                let one = self.checks.join_next();
                let _ = tokio::time::timeout(Duration::from_millis(10), one).await;
            }
            let _ = ring::cancel_all().await;
            let _ = failing.await;
        };
        let _ = tokio::time::timeout(LAST_ANSWERS, answers).await;
    }
}
