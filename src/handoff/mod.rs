//! The hatch between the planes. The office publishes the state of the world (an immutable [`Snapshot`]) and the prober
//! its verdicts; workers answer in numbers (single-writer counters) and through bounded queues (journal, transfers,
//! grants). No lock that a worker could wait on, no name looked up by a worker.
//!
//! What outlives a snapshot hangs on an identity: [`ListenerShared`], [`PoolShared`], [`BackendShared`].

mod capacity;
mod counters;
mod hatch;
mod journal;
mod shared;
mod snapshot;
mod verdict;
mod waiters;

pub use capacity::{Capacity, Reservation};
pub use counters::{BUCKETS, Histogram, HistogramSum, Tally};
pub use hatch::{Hatch, Hatches, Mail, Transfer, WorkerCounters};
pub use journal::{Journal, SessionRecord};
pub use shared::{
    BackendCounters, BackendShared, ListenerCounters, ListenerShared, PoolCounters, PoolShared,
};
pub use snapshot::{
    Backend, BackendOptions, Keepalive, ListenSocket, Listener, Phase, Pool, SessionTimes,
    Snapshot, Spin, Target, WaitRules,
};
pub use verdict::{Admin, Eviction, Health, Verdict};
pub use waiters::{Grant, Ticket, Waiters};
