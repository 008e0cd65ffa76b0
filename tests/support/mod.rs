//! What the system tests share: the binary under test, real servers, backends and clients made of threads, and eyes on
//! a process through /proc. Every wait has a deadline, every address is a loopback one of this process alone, and
//! every process is ended by its pid. Nothing here may call into the library: the binary is what is tested.
#![allow(dead_code, clippy::unwrap_used)]

pub mod backends;
pub mod browser;
pub mod checked_servers;
pub mod clusters;
pub mod datagrams;
pub mod delay;
pub mod events;
pub mod fleet;
pub mod frozen;
pub mod greeted;
pub mod http;
pub mod load;
pub mod metrics;
pub mod namespace;
pub mod net;
pub mod pairs;
pub mod pattern;
pub mod process;
pub mod ringway;
pub mod servers;
pub mod terminal;
pub mod turns;
pub mod undisturbed;
pub mod wait;

// Not every program measures.
#[allow(unused_imports)]
pub use turns::{alone, one_at_a_time};

/// Whether the long variants are wanted (`make soak`).
pub fn soak() -> bool {
    std::env::var_os("RINGWAY_SOAK").is_some()
}
