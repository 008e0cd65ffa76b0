//! The prober: a thread of its own on tokio-uring that checks backends and writes their verdicts where the workers look.
//!
//! The office publishes the whole set of targets each time something changes; the last one wins. Back come verdicts
//! (atomics on each backend, bells rung after a change), a channel of health changes, and reports on request. What kinds
//! of checks there are is in `kinds`; an own stall never takes a backend down. Nobody but this room touches tokio-uring.

mod breakers;
mod cancels;
mod chance;
mod claims;
mod complaints;
mod kept;
mod kinds;
mod line;
mod manners;
mod report;
mod ring;
mod roster;
mod stall;
mod streak;
mod target;
mod visit;
mod warm;
mod watch;
mod words;

#[cfg(test)]
mod loopback_tests;
#[cfg(test)]
mod role_tests;
#[cfg(test)]
mod roster_stories;
#[cfg(test)]
mod roster_tests;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::handoff::{Hatches, Pool};
use crate::ids::{Clock, Nanos};

use self::breakers::Breakers;
use self::chance::Chance;
use self::roster::Roster;
use self::stall::StallWatch;
use self::warm::Warmth;
use self::watch::{Desk, Watch};

pub use crate::wire::expect::Expect;
pub use kinds::{Dns, Http, Mysql, Postgres, Redis, SendExpect, Step, Udp};
pub use report::{BackendReport, Complaint, Conflict, Finding, HealthChange, Latest, Reason};
pub use target::{Announce, Check, OnDown, Rules, Target};
pub use warm::{Notice as WarmNotice, NoticeKind as WarmNoticeKind, Order as WarmOrder};
pub use words::Words;

/// Checks in flight at a time, each with one descriptor. More that are due wait their turn.
pub const IN_FLIGHT_MAX: usize = 256;
/// Descriptors that the prober needs at most: checks, connects for warm connections, ring, and what the runtime opens
/// for itself. Warm connections themselves come on top.
pub const DESCRIPTORS_MAX: usize = IN_FLIGHT_MAX + warm::DIALS_MAX + 16;

/// Changes of health that wait for the office; more are lost and counted.
const CHANGES_MAX: usize = 4096;
/// The prober ends within milliseconds; a kernel that does not answer must not hold up the end of the process.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// The office's end of the prober.
#[derive(Debug)]
pub struct Prober {
    desk: Arc<Desk>,
    changes: Receiver<HealthChange>,
    complaints: Receiver<Complaint>,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    /// Starts the thread. It watches nothing until [`Prober::publish`].
    ///
    /// # Errors
    /// The kernel's: no thread, or no ring (io_uring refused, locked memory limited).
    pub fn start(hatches: Arc<Hatches>, clock: Clock) -> io::Result<Prober> {
        let desk = Arc::new(Desk {
            targets: Mutex::new(None),
            pools: Mutex::new(None),
            histories: Mutex::new(Vec::new()),
            conflicts: Mutex::new(Vec::new()),
            stop: AtomicBool::new(false),
            news: Notify::new(),
            changes_lost: AtomicU64::new(0),
            warm: warm::Counter::default(),
        });
        let (to_office, changes) = bounded(CHANGES_MAX);
        let (complain, complaints) = bounded(CHANGES_MAX);
        let (tell_started, started) = bounded(1);
        let (tell_ended, ended) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("ringway-prober".to_owned())
            .spawn({
                let desk = Arc::clone(&desk);
                move || {
                    live(desk, hatches, (to_office, complain), clock, &tell_started);
                    let _ = tell_ended.send(());
                }
            })?;
        let started = started.recv().unwrap_or_else(|_| {
            Err(io::Error::other(
                "the prober's thread ended before it began",
            ))
        });
        started.map(|()| Prober {
            desk,
            changes,
            complaints,
            ended,
            thread: Some(thread),
        })
    }

    /// Replaces the whole set of targets. A backend that is in the old set, too, keeps its health, counts and next
    /// check; changed rules apply at once.
    pub fn publish(&self, targets: Vec<Target>) {
        *self.desk.targets.lock() = Some(targets);
        self.desk.news.notify_one();
    }

    /// Replaces the pools whose breakers are moved on. A backend that is in them before and after keeps its breaker.
    pub fn move_breakers(&self, pools: Vec<Arc<Pool>>) {
        *self.desk.pools.lock() = Some(pools);
        self.desk.news.notify_one();
    }

    /// Replaces the whole set of backends that are to have warm connections. Those not in it lose theirs.
    pub fn keep_warm(&self, orders: Vec<WarmOrder>) {
        *self.desk.warm.orders.lock() = Some(orders);
        self.desk.warm.news.notify_one();
    }

    /// What there is to say of warm connections, since the last call.
    #[must_use]
    pub fn warm_notices(&self) -> Vec<WarmNotice> {
        std::mem::take(&mut *self.desk.warm.notices.lock())
    }

    /// Changes of health as they happen. They are lost, and counted, while nobody reads.
    #[must_use]
    pub fn changes(&self) -> &Receiver<HealthChange> {
        &self.changes
    }

    /// Failed checks that are worth a line of the log and changed nothing.
    #[must_use]
    pub fn complaints(&self) -> &Receiver<Complaint> {
        &self.complaints
    }

    /// Changes of health that found the channel full, since the start.
    #[must_use]
    pub fn changes_lost(&self) -> u64 {
        self.desk.changes_lost.load(Ordering::Relaxed)
    }

    /// What is known of each backend of the last set taken, in that set's order.
    #[must_use]
    pub fn report(&self) -> Vec<BackendReport> {
        let histories = self.desk.histories.lock().clone();
        histories.iter().map(|history| history.report()).collect()
    }

    /// Pools of which several backends say that they are the primary.
    #[must_use]
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.desk.conflicts.lock().clone()
    }

    /// Ends the thread and waits for it, two seconds at most; false if it is still there then.
    pub fn stop(mut self) -> bool {
        self.tell_to_stop();
        let ended = self.ended.recv_timeout(STOP_WITHIN).is_ok();
        match self.thread.take() {
            Some(thread) if ended => thread.join().is_ok(),
            _ => ended,
        }
    }

    fn tell_to_stop(&self) {
        self.desk.stop.store(true, Ordering::Release);
        self.desk.news.notify_one();
        self.desk.warm.news.notify_one();
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.tell_to_stop();
    }
}

/// The thread's life.
fn live(
    desk: Arc<Desk>,
    hatches: Arc<Hatches>,
    (changes, complaints): (Sender<HealthChange>, Sender<Complaint>),
    clock: Clock,
    tell_started: &Sender<io::Result<()>>,
) {
    let entries = u32::try_from(IN_FLIGHT_MAX).unwrap_or(u32::MAX);
    let runtime = match ring::runtime(entries) {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = tell_started.send(Err(error));
            return;
        }
    };
    let seed = RandomState::new().hash_one(clock.now());
    let carrying = cancels::carry_all(Arc::clone(&desk), Arc::clone(&hatches), clock);
    let (at, hall) = (Arc::clone(&desk), Arc::clone(&hatches));
    let warmth = match Warmth::new(at, hall, clock, Chance::from_seed(!seed)) {
        Ok(warmth) => warmth,
        Err(error) => {
            let _ = tell_started.send(Err(error));
            return;
        }
    };
    let _ = tell_started.send(Ok(()));
    let watch = Watch {
        roster: Roster::new(Chance::from_seed(seed)),
        breakers: Breakers::default(),
        desk,
        hatches,
        changes,
        complaints,
        clock,
        stall: Rc::new(StallWatch::new()),
        checks: JoinSet::new(),
        gate: Nanos::ZERO,
    };
    // As a task of its own, not as the future that is blocked on: tasks wake each other without a system call.
    runtime.block_on(async {
        tokio_uring::spawn(carrying);
        let warmth = tokio_uring::spawn(warmth.run());
        let _ = tokio_uring::spawn(watch.run()).await;
        let _ = warmth.await;
    });
}
