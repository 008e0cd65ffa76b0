//! The boiler room against the real kernel, over loopback: every operation of the door, every errno that `outcome.rs`
//! claims to know, exhaustion and recovery. Test only.
//!
//! `bench` holds a ring and its clients, `alone` gives a test a process of its own (descriptor counts, limits, a network
//! of its own). The whole suite runs once more for each feature that can be masked: see `masks`.

mod accept;
pub(super) mod alone;
pub(super) mod bench;
mod churn;
mod close;
mod connect;
mod drop;
mod faults;
mod masks;
mod pipes;
mod poll;
mod receive;
mod send;
mod turn;
