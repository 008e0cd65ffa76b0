//! The board: where the office pins its current view of the world, for those who only read: the admin API and the
//! scribe. A view is immutable and replaced as a whole, so a reader sees one moment.
//!
//! A view holds what is retired by weak reference only: else it would keep ids from being recycled. Readers must not
//! keep a view longer than one answer takes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::handoff::{BackendShared, Capacity, Hatches, ListenerShared, Pool, Snapshot};
use crate::ids::{BackendId, Clock, ListenerId, PoolId};
use crate::prober::{
    BackendReport, Complaint, Conflict, HealthChange, Prober, Target as Watched, WarmNotice,
    WarmOrder,
};

use super::breakers::BreakerNotes;
use super::events::Events;
use super::upgrade::Family;

/// Names by id, retired ones included.
#[derive(Debug, Default, Clone)]
pub struct Names {
    pub listeners: Vec<Option<Arc<str>>>,
    pub pools: Vec<Option<Arc<str>>>,
    pub backends: Vec<Option<Arc<str>>>,
}

impl Names {
    #[must_use]
    pub fn listener(&self, id: ListenerId) -> Option<&str> {
        self.listeners.get(id.index())?.as_deref()
    }

    #[must_use]
    pub fn pool(&self, id: PoolId) -> Option<&str> {
        self.pools.get(id.index())?.as_deref()
    }

    #[must_use]
    pub fn backend(&self, id: BackendId) -> Option<&str> {
        self.backends.get(id.index())?.as_deref()
    }
}

/// What is worth saying of a backend beyond what workers need.
#[derive(Clone, Debug, Default)]
pub struct BackendNote {
    /// As written in the configuration.
    pub address: String,
    /// Why its name does not resolve, if it does not.
    pub unresolved: Option<String>,
}

/// How a reload went.
#[derive(Clone, Debug)]
pub struct ReloadNote {
    pub at: SystemTime,
    /// What was wrong, if it was refused.
    pub error: Option<String>,
    /// Why the configuration before came back, if it was no reload but its undoing.
    pub reverted: Option<String>,
    /// What it changed, in words.
    pub changes: Vec<String>,
}

impl ReloadNote {
    #[must_use]
    pub fn now() -> ReloadNote {
        ReloadNote {
            at: SystemTime::now(),
            error: None,
            reverted: None,
            changes: Vec::new(),
        }
    }

    /// What came of it, in one word.
    #[must_use]
    pub fn result(&self) -> &'static str {
        match (&self.error, &self.reverted) {
            (Some(_), _) => "refused",
            (None, Some(_)) => "reverted",
            (None, None) => "taken",
        }
    }
}

/// A configuration that waits for its confirmation.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    pub until: SystemTime,
}

/// Reloads so far.
#[derive(Clone, Debug, Default)]
pub struct Reloads {
    pub taken: u64,
    pub refused: u64,
    /// Configurations that were taken, and given up again.
    pub reverted: u64,
    pub pending: Option<Pending>,
    pub last: Option<ReloadNote>,
}

/// One moment of the world.
#[derive(Debug, Clone)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    pub names: Arc<Names>,
    pub notes: Arc<BTreeMap<BackendId, BackendNote>>,
    pub algorithms: Arc<BTreeMap<PoolId, &'static str>>,
    /// Backends that a reload removed and that may still have sessions.
    pub retired: Vec<Weak<BackendShared>>,
    /// Listeners that a reload removed: their sessions live on, and who was in their queues is let in or refused.
    pub retired_listeners: Vec<Weak<ListenerShared>>,
    pub reloads: Reloads,
    /// What holds otherwise than the file says, in words.
    pub operator: Vec<String>,
}

impl View {
    /// All listeners that count anything: those of now, then those that were removed and are still in use.
    #[must_use]
    pub fn counting_listeners(&self) -> Vec<Arc<ListenerShared>> {
        let present = self.snapshot.listeners.iter();
        let present = present.map(|listener| Arc::clone(&listener.shared));
        let retired = self.retired_listeners.iter().filter_map(Weak::upgrade);
        present.chain(retired).collect()
    }

    /// The word of a pool's algorithm.
    #[must_use]
    pub fn algorithm(&self, pool: PoolId) -> Option<&'static str> {
        self.algorithms.get(&pool).copied()
    }
}

/// What stays for the life of the process, and the current view.
#[derive(Debug)]
pub struct Board {
    pub clock: Clock,
    pub started: SystemTime,
    pub hatches: Arc<Hatches>,
    /// Sessions of the whole process against `max_sessions`.
    pub process: Arc<Capacity>,
    /// What happened lately.
    pub events: Events,
    pub breaker_notes: BreakerNotes,
    pub log_lines: AtomicU64,
    /// Access-log lines that could not be written.
    pub log_lost: AtomicU64,
    /// Busy share of each worker over the last second, in millionths.
    pub busy_ppm: Vec<AtomicU64>,
    /// This process and those before it.
    pub family: Mutex<Family>,
    /// Share of each resource that is left, by name.
    pub headroom: Mutex<Vec<(&'static str, f64)>>,
    /// Set while the process goes away: `/readyz` fails then.
    leaving: AtomicBool,
    view: Mutex<Arc<View>>,
    prober: Mutex<Option<Prober>>,
    /// Held by who asks the workers; the number of the last ask.
    pub asking: tokio::sync::Mutex<u64>,
}

impl Board {
    #[must_use]
    pub fn new(clock: Clock, hatches: Arc<Hatches>, process: Arc<Capacity>, view: View) -> Board {
        let busy_ppm = hatches.workers.iter().map(|_| AtomicU64::new(0)).collect();
        Board {
            clock,
            started: SystemTime::now(),
            hatches,
            process,
            events: Events::default(),
            breaker_notes: BreakerNotes::default(),
            log_lines: AtomicU64::new(0),
            log_lost: AtomicU64::new(0),
            busy_ppm,
            family: Mutex::default(),
            headroom: Mutex::default(),
            leaving: AtomicBool::new(false),
            view: Mutex::new(Arc::new(view)),
            prober: Mutex::new(None),
            asking: tokio::sync::Mutex::new(0),
        }
    }

    /// Hands the prober over, or takes it back.
    pub fn set_prober(&self, prober: Option<Prober>) -> Option<Prober> {
        std::mem::replace(&mut *self.prober.lock(), prober)
    }

    /// Replaces the set of backends that are watched.
    pub fn watch(&self, targets: Vec<Watched>) {
        if let Some(prober) = &*self.prober.lock() {
            prober.publish(targets);
        }
    }

    /// Replaces the set of backends that are to have warm connections.
    pub fn keep_warm(&self, orders: Vec<WarmOrder>) {
        if let Some(prober) = &*self.prober.lock() {
            prober.keep_warm(orders);
        }
    }

    /// Replaces the pools whose breakers are moved on with time.
    pub fn move_breakers(&self, pools: Vec<Arc<Pool>>) {
        if let Some(prober) = &*self.prober.lock() {
            prober.move_breakers(pools);
        }
    }

    /// What there is to say of warm connections, since the last call.
    #[must_use]
    pub fn warm_notices(&self) -> Vec<WarmNotice> {
        let prober = self.prober.lock();
        prober
            .as_ref()
            .map(Prober::warm_notices)
            .unwrap_or_default()
    }

    /// What the prober knows of each backend that it watches.
    #[must_use]
    pub fn check_reports(&self) -> Vec<BackendReport> {
        let prober = self.prober.lock();
        prober.as_ref().map(Prober::report).unwrap_or_default()
    }

    /// Changes of health since the last call.
    #[must_use]
    pub fn health_changes(&self) -> Vec<HealthChange> {
        let prober = self.prober.lock();
        let changes = prober.iter().flat_map(|prober| prober.changes().try_iter());
        changes.collect()
    }

    /// Failed checks since the last call that are worth a line.
    #[must_use]
    pub fn check_complaints(&self) -> Vec<Complaint> {
        let prober = self.prober.lock();
        let complaints = prober
            .iter()
            .flat_map(|prober| prober.complaints().try_iter());
        complaints.collect()
    }

    /// Pools of which several backends say that they are the primary.
    #[must_use]
    pub fn conflicts(&self) -> Vec<Conflict> {
        let prober = self.prober.lock();
        prober.as_ref().map(Prober::conflicts).unwrap_or_default()
    }

    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock())
    }

    pub fn pin(&self, view: View) {
        let notes = &self.breaker_notes;
        notes.retain(|backend| view.names.backend(backend).is_some());
        let old = std::mem::replace(&mut *self.view.lock(), Arc::new(view));
        drop(old);
    }

    /// Changes that were to be told, and found their queue full, since the start.
    #[must_use]
    pub fn changes_lost(&self) -> u64 {
        let prober = self.prober.lock();
        let of_health = prober.as_ref().map_or(0, Prober::changes_lost);
        of_health + self.hatches.notices.lost()
    }

    pub fn set_leaving(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Records that the workers' journals and the log itself lost, since the start.
    #[must_use]
    pub fn lines_lost(&self) -> u64 {
        let journals = self
            .hatches
            .workers
            .iter()
            .map(|hatch| hatch.journal.lost());
        journals.sum::<u64>() + self.log_lost.load(Ordering::Relaxed)
    }
}
