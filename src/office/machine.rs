//! What this machine and this process's limits offer, for the budget. It raises the descriptor limit as far as allowed,
//! and otherwise only reads.

use crate::config::Plan;
use crate::config::budget::{self, Budget, Machine};
use crate::sys;

use super::crew::workers_of;
use super::failure::Failure;

/// Pipes that one worker keeps at most.
const PIPES_PER_WORKER: u32 = 256;
/// What a worker's ring and its registered buffers take of locked memory.
const LOCKED_BYTES_PER_WORKER: u64 = 0;

/// Holds the plan against the machine. Raises the descriptor limit first, also beyond the hard one where allowed.
///
/// # Errors
/// Something about the machine cannot be read.
pub fn survey(plan: &Plan) -> Result<Budget, Failure> {
    let workers = workers_of(&plan.global);
    let told = |what: &str, error: std::io::Error| {
        Failure::CannotStart(format!("{what} cannot be read: {error}"))
    };
    let sessions = plan.global.max_sessions.unwrap_or(0);
    // Two per session and some for everything else; a refusal leaves the hard limit, and the budget says if it is short.
    let wanted = u64::from(sessions) * 2 + 4096;
    let descriptors = sys::limits::raise_descriptors(wanted)
        .map_err(|error| told("the limit on descriptors", error))?;
    let locked =
        sys::limits::locked_memory().map_err(|error| told("the limit on locked memory", error))?;
    let memory_bytes =
        sys::limits::available_memory().map_err(|error| told("/proc/meminfo", error))?;
    let local_ports =
        sys::limits::local_ports().map_err(|error| told("net.ipv4.ip_local_port_range", error))?;
    let machine = Machine {
        descriptors: descriptors.soft,
        workers,
        memory_bytes,
        locked_bytes: LOCKED_BYTES_PER_WORKER * u64::from(workers),
        locked_bytes_max: (locked.soft != u64::MAX).then_some(locked.soft),
        pipes: PIPES_PER_WORKER * u32::from(workers),
        local_ports: (*local_ports.start(), *local_ports.end()),
    };
    Ok(budget::budget(plan, &machine))
}
