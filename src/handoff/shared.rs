//! What outlives a snapshot: counters, limits, verdicts and queues of each listener, pool and backend. They hang on an
//! identity that the office keeps over reloads. Per-worker parts sit on cache lines of their own.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crossbeam::utils::CachePadded;
use parking_lot::Mutex;

use crate::ids::{
    BackendId, CancelResult, ConnectFailure, Drop, End, ListenerId, Nanos, PoolId, Refusal,
    WorkerId,
};

use super::capacity::Capacity;
use super::counters::{Histogram, Tally};
use super::ejection::Referee;
use super::latency::LatencyCell;
use super::rate::Pace;
use super::seniors::Seniors;
use super::sources::SourceLimits;
use super::tiers::Tiers;
use super::verdict::Verdict;
use super::waiters::Wake;
use super::warm::{Handout, WarmStock};

/// One worker's numbers of a listener.
#[derive(Debug)]
pub struct ListenerCounters {
    pub sessions_active: Tally,
    pub sessions_total: Tally,
    pub ends: [Tally; End::COUNT],
    pub refused: [Tally; Refusal::COUNT],
    pub bytes_in: Tally,
    pub bytes_out: Tally,
    pub flows_active: Tally,
    pub flows_total: Tally,
    /// Times that a flow went on to another backend.
    pub flows_moved: Tally,
    pub datagrams_in: Tally,
    pub datagrams_out: Tally,
    /// Datagrams in either direction.
    pub drops: [Tally; Drop::COUNT],
}

/// A listener's identity and what belongs to it over reloads.
#[derive(Debug)]
pub struct ListenerShared {
    pub id: ListenerId,
    pub name: String,
    pub capacity: Capacity,
    /// `connection_rate`
    pub rate: Pace,
    pub source_limits: SourceLimits,
    /// One for each worker, and a last one for what the processes before this one have counted.
    pub workers: Box<[CachePadded<ListenerCounters>]>,
}

/// One worker's numbers of a pool.
#[derive(Debug, Default)]
pub struct PoolCounters {
    pub wait: Histogram,
    pub connect: Histogram,
    pub session: Histogram,
    /// Attempts after a session's first.
    pub retries: Tally,
    /// Clients that waited because of `connect_rate`.
    pub paced: Tally,
}

/// A pool's identity and what belongs to it over reloads.
#[derive(Debug)]
pub struct PoolShared {
    pub id: PoolId,
    pub name: String,
    /// Round robin's cursor over all workers.
    pub turn: CachePadded<AtomicU64>,
    /// Decides which of its backends can be ejected.
    pub referee: Referee,
    /// Which tiers serve.
    pub tiers: Arc<Tiers>,
    /// Who looks after those that wait for a turn.
    pub wake: Wake,
    /// Flows over all workers.
    pub flows: Capacity,
    /// Who waits in older processes.
    pub seniors: Seniors,
    /// Cancel requests, by what became of them.
    pub cancels: [AtomicU64; CancelResult::COUNT],
    pub workers: Box<[CachePadded<PoolCounters>]>,
}

/// One worker's numbers of a backend. `active` is the shard that least-connections sums over the workers.
#[derive(Debug)]
pub struct BackendCounters {
    pub active: AtomicU32,
    pub sessions_total: Tally,
    pub connect_attempts: Tally,
    pub connect_failures: [Tally; ConnectFailure::COUNT],
    /// Attempts that succeeded, hand-outs of warm connections among them.
    pub connects: Tally,
    /// Nanoseconds that they took.
    pub connect_ns: Tally,
    /// Attempts that failed by no fault of ours.
    pub connect_faults: Tally,
    /// Sessions that the backend reset early, without a byte from it and nothing ended by the client.
    pub early_resets: Tally,
    /// As many of them as count as errors, see [`super::breaker`].
    pub reset_faults: Tally,
    pub bytes_in: Tally,
    pub bytes_out: Tally,
    pub spliced_bytes: Tally,
    pub handouts: [Tally; Handout::COUNT],
}

/// A backend's identity and what belongs to it over reloads.
#[derive(Debug)]
pub struct BackendShared {
    pub id: BackendId,
    pub pool: String,
    pub name: String,
    pub verdict: Verdict,
    pub capacity: Capacity,
    /// Connect times, fed where the pool's algorithm asks for them.
    pub latency: LatencyCell,
    /// The tiers that it is one of. For prober and office; no worker takes this lock.
    pub tiers: Mutex<Weak<Tiers>>,
    /// `connect_rate`
    pub pace: Pace,
    pub warm: WarmStock,
    pub workers: Box<[CachePadded<BackendCounters>]>,
}

fn per_worker<T>(workers: u16, make: impl Fn() -> T) -> Box<[CachePadded<T>]> {
    (0..=workers).map(|_| CachePadded::new(make())).collect()
}

impl ListenerShared {
    #[must_use]
    pub fn new(id: ListenerId, name: &str, workers: u16) -> ListenerShared {
        let counters = || ListenerCounters {
            sessions_active: Tally::default(),
            sessions_total: Tally::default(),
            ends: std::array::from_fn(|_| Tally::default()),
            refused: std::array::from_fn(|_| Tally::default()),
            bytes_in: Tally::default(),
            bytes_out: Tally::default(),
            flows_active: Tally::default(),
            flows_total: Tally::default(),
            flows_moved: Tally::default(),
            datagrams_in: Tally::default(),
            datagrams_out: Tally::default(),
            drops: std::array::from_fn(|_| Tally::default()),
        };
        ListenerShared {
            id,
            name: name.to_owned(),
            capacity: Capacity::new(0),
            rate: Pace::default(),
            source_limits: SourceLimits::default(),
            workers: per_worker(workers, counters),
        }
    }

    #[must_use]
    pub fn of(&self, worker: WorkerId) -> &ListenerCounters {
        &self.workers[worker.index()]
    }
}

impl PoolShared {
    #[must_use]
    pub fn new(id: PoolId, name: &str, workers: u16) -> PoolShared {
        PoolShared {
            id,
            name: name.to_owned(),
            turn: CachePadded::new(AtomicU64::new(0)),
            referee: Referee::default(),
            tiers: Arc::new(Tiers::default()),
            wake: Wake::default(),
            flows: Capacity::new(0),
            seniors: Seniors::default(),
            cancels: std::array::from_fn(|_| AtomicU64::new(0)),
            workers: per_worker(workers, PoolCounters::default),
        }
    }

    pub fn count_cancel(&self, result: CancelResult) {
        self.cancels[result.index()].fetch_add(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn of(&self, worker: WorkerId) -> &PoolCounters {
        &self.workers[worker.index()]
    }
}

impl BackendShared {
    #[must_use]
    pub fn new(
        id: BackendId,
        pool: &str,
        name: &str,
        unknown_is_eligible: bool,
        workers: u16,
    ) -> BackendShared {
        let counters = || BackendCounters {
            active: AtomicU32::new(0),
            sessions_total: Tally::default(),
            connect_attempts: Tally::default(),
            connect_failures: std::array::from_fn(|_| Tally::default()),
            connects: Tally::default(),
            connect_ns: Tally::default(),
            connect_faults: Tally::default(),
            early_resets: Tally::default(),
            reset_faults: Tally::default(),
            bytes_in: Tally::default(),
            bytes_out: Tally::default(),
            spliced_bytes: Tally::default(),
            handouts: std::array::from_fn(|_| Tally::default()),
        };
        BackendShared {
            id,
            pool: pool.to_owned(),
            name: name.to_owned(),
            verdict: Verdict::new(unknown_is_eligible),
            capacity: Capacity::new(0),
            latency: LatencyCell::default(),
            tiers: Mutex::default(),
            pace: Pace::default(),
            warm: WarmStock::default(),
            workers: per_worker(workers, counters),
        }
    }

    /// To be called after a change of its states: has its pool's tiers judged anew.
    pub fn review_tiers(&self, now: Nanos) {
        let tiers = self.tiers.lock().upgrade();
        if let Some(tiers) = tiers {
            tiers.review(now);
        }
    }

    /// To be called when it comes up, or is given back by the operator: it starts slowly, and what was known of its
    /// connect time is history.
    pub fn rises(&self, now: Nanos) {
        self.verdict.set_risen(now);
        self.latency.forget();
    }

    /// Whether a session would find no place now; stale at once. One that a warm connection holds is a session's.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.capacity.looks_full() && self.warm.idle() == 0
    }

    #[must_use]
    pub fn of(&self, worker: WorkerId) -> &BackendCounters {
        &self.workers[worker.index()]
    }

    /// Sessions on this backend over all workers; may be a moment old.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        self.workers
            .iter()
            .map(|counters| counters.active.load(Ordering::Relaxed))
            .sum()
    }
}
