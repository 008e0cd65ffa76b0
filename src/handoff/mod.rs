//! The hatch between the planes. The office publishes the state of the world (an immutable [`Snapshot`]) and the prober
//! its verdicts; workers answer in numbers (single-writer counters) and through bounded queues (journal, transfers,
//! grants). No lock that a worker could wait on, no name looked up by a worker.
//!
//! What outlives a snapshot hangs on an identity: [`ListenerShared`], [`PoolShared`], [`BackendShared`].

mod access;
mod asks;
mod bell;
mod breaker;
mod breaker_rules;
mod breaker_word;
mod cancels;
mod capacity;
mod cause;
mod counters;
mod ejection;
mod field;
mod hatch;
mod journal;
mod latency;
mod moving;
mod preface;
mod rate;
mod roll;
mod seniors;
mod shared;
mod sketch;
mod snapshot;
mod sources;
mod tiers;
mod verdict;
mod waiters;
mod warm;

pub use crate::balance::{TierMode, TierRules};
pub use access::AccessList;
pub use asks::{Ask, Asks, Finding, Question, SessionRow, Stage};
pub use breaker::{Breaker, BreakerState, CLIENTS_MIN, Call, Change, Entry, Kept, Trial};
pub use breaker_rules::{BreakerRules, FAILURES_MAX, TRIALS_MAX};
pub use cancels::{CANCEL_BYTES_MAX, CancelOrder, Cancelled, Cancels};
pub use capacity::{Capacity, Reservation};
pub use cause::Why;
pub use counters::{BUCKETS, Histogram, HistogramSum, Tally};
pub use ejection::{Member, Notice, Notices, Referee, ejected_max, is_ejected};
pub use field::{Field, Prospect, Standing};
pub use hatch::{Hatch, Hatches, Mail, Transfer, WorkerCounters};
pub use journal::{Journal, Milestone, SessionRecord};
pub use latency::LatencyCell;
pub use moving::{Holdings, Moving, MovingFlow};
pub use preface::{Announcers, NamePattern, Preface, Route};
pub use rate::{Meter, Pace, Rate};
pub use roll::{Roll, Step};
pub use seniors::Seniors;
pub use shared::{
    BackendCounters, BackendShared, ListenerCounters, ListenerShared, PoolCounters, PoolShared,
};
pub use sketch::client_number;
pub use snapshot::{
    Backend, BackendOptions, FlowRules, Keepalive, ListenSocket, Listener, Phase, Pool, Protocol,
    ProxyVersion, SessionTimes, Snapshot, Spin, Target, WaitRules,
};
pub use sources::{SourceLimits, SourcePlace, Sources};
pub use tiers::{TierMember, Tiers};
pub use verdict::{Admin, Eviction, Health, Verdict};
pub use waiters::{Grant, Ticket, Waiters, Wake};
pub use warm::{
    Condition as WarmCondition, Discard, Handout, WARM_MAX, WarmProfile, WarmSocket, WarmStock,
};
