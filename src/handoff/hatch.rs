//! One hatch per worker: the slot where the newest snapshot waits, the bell, and the queues between worker and others.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use parking_lot::Mutex;

use crate::ids::{PoolId, WorkerId};
use crate::sys::Doorbell;

use super::access::AccessList;
use super::asks::Asks;
use super::bell::Bell;
use super::cancels::{Cancelled, Cancels};
use super::counters::Tally;
use super::ejection::Notices;
use super::journal::Journal;
use super::moving::Moving;
use super::preface::Preface;
use super::roll::Roll;
use super::shared::ListenerShared;
use super::snapshot::Snapshot;
use super::sources::Sources;
use super::waiters::Grant;

const JOURNAL_RECORDS: usize = 8192;
const TRANSFERS: usize = 1024;
const GRANTS: usize = 4096;
const CANCELLED: usize = 256;

/// A freshly accepted socket on its way to a less loaded worker. It says of its listener what the receiver may not know
/// any more.
#[derive(Debug)]
pub struct Transfer {
    pub socket: OwnedFd,
    pub listener: Arc<ListenerShared>,
    pub pool: PoolId,
    pub wants_address: bool,
    pub access: Option<Arc<AccessList>>,
    pub preface: Arc<Preface>,
    /// The port it arrived on, for backends that keep the listener's port.
    pub port: u16,
}

/// A worker's own numbers; the worker writes, anyone reads.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Generation of the snapshot that this worker runs on.
    pub generation: Tally,
    /// Set once the worker has stopped for good.
    pub stopped: Tally,
    /// Sessions in its table, those still connecting or closing included.
    pub sessions: Tally,
    /// Nanoseconds spent outside the wait for completions.
    pub busy_ns: Tally,
    pub turns: Tally,
    pub cq_overflow: Tally,
    /// Times that accepting paused because a table or the kernel ran out.
    pub accept_pauses: Tally,
    /// Times that a receive found no provided buffer.
    pub buffer_pauses: Tally,
    /// Provided buffers held by sessions now.
    pub buffers_held: Tally,
    pub pipes_open: Tally,
    /// Streams that wanted a pipe and found none.
    pub pipe_misses: Tally,
    /// Bytes of stalled readers that were kept in memory for want of a pipe: how often.
    pub memory_stashes: Tally,
    /// Closes and resets that found bytes in a pipe.
    pub pipe_cuts: Tally,
    /// Answers that carried a stale generation: a bug of ours, each one.
    pub stale_answers: Tally,
    /// Flows that had to go for want of room in the table, of a descriptor or of a port.
    pub flows_crowded_out: Tally,
    pub transfers_given: Tally,
    pub transfers_taken: Tally,
}

/// The door between one worker and everyone else.
#[derive(Debug)]
pub struct Hatch {
    pub worker: WorkerId,
    pub doorbell: Doorbell,
    pub counters: WorkerCounters,
    pub roll: Roll,
    pub journal: Journal,
    pub transfers: ArrayQueue<Transfer>,
    pub grants: ArrayQueue<Grant>,
    /// Sessions whose cancel request was carried out, or not.
    pub cancelled: ArrayQueue<Cancelled>,
    /// What the office asks of this worker's sessions.
    pub asks: Asks,
    /// Flows that go to a successor, or come from the process before.
    pub moving: Moving,
    mailbox: Mutex<Option<Arc<Snapshot>>>,
}

/// What a look into the mailbox found.
#[derive(Debug)]
pub enum Mail {
    Nothing,
    News(Arc<Snapshot>),
    /// The office is just writing: look again next turn, without sleeping before.
    Busy,
}

impl Hatch {
    fn new(worker: WorkerId) -> io::Result<Hatch> {
        Ok(Hatch {
            worker,
            doorbell: Doorbell::new()?,
            counters: WorkerCounters::default(),
            roll: Roll::default(),
            journal: Journal::new(JOURNAL_RECORDS),
            transfers: ArrayQueue::new(TRANSFERS),
            grants: ArrayQueue::new(GRANTS),
            cancelled: ArrayQueue::new(CANCELLED),
            asks: Asks::default(),
            moving: Moving::default(),
            mailbox: Mutex::new(None),
        })
    }

    /// Puts a snapshot into the slot, over an older one that was not taken yet, and rings.
    pub fn post(&self, snapshot: Arc<Snapshot>) {
        *self.mailbox.lock() = Some(snapshot);
        self.doorbell.ring();
    }

    /// Takes the newest snapshot, if there is one, without waiting for a lock.
    #[must_use]
    pub fn take(&self) -> Mail {
        match self.mailbox.try_lock() {
            None => Mail::Busy,
            Some(mut slot) => slot.take().map_or(Mail::Nothing, Mail::News),
        }
    }
}

/// All workers' hatches, in worker order.
#[derive(Debug)]
pub struct Hatches {
    pub workers: Vec<Arc<Hatch>>,
    /// Changes of breakers, from whoever made them to the office.
    pub notices: Notices,
    /// What each client address has, over all workers.
    pub sources: Sources,
    /// A warm connection was taken, or wanted.
    pub warm_bell: Bell,
    /// A failure was counted against a backend.
    pub failure_bell: Bell,
    pub cancels: Cancels,
}

impl Hatches {
    /// # Errors
    /// The kernel's, when no descriptor is left for the bells.
    pub fn new(workers: u16) -> io::Result<Hatches> {
        let workers = (0..workers)
            .map(|n| Hatch::new(WorkerId(n)).map(Arc::new))
            .collect::<io::Result<_>>()?;
        Ok(Hatches {
            workers,
            notices: Notices::default(),
            sources: Sources::default(),
            warm_bell: Bell::new()?,
            failure_bell: Bell::new()?,
            cancels: Cancels::new()?,
        })
    }

    pub fn post(&self, snapshot: &Arc<Snapshot>) {
        for hatch in &self.workers {
            hatch.post(Arc::clone(snapshot));
        }
    }

    /// Wakes every worker to look at verdicts and queues.
    pub fn ring(&self) {
        for hatch in &self.workers {
            hatch.doorbell.ring();
        }
    }

    /// Whether every worker runs on snapshot `generation` or a later one, or has ended and runs on none.
    #[must_use]
    pub fn all_have(&self, generation: u64) -> bool {
        let counters = self.workers.iter().map(|hatch| &hatch.counters);
        counters
            .into_iter()
            .all(|own| own.generation.read() >= generation || own.stopped.read() > 0)
    }
}
