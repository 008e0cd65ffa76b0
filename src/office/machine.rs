//! What this machine and this process's limits offer, for the budget. It raises the descriptor limit as far as allowed,
//! and otherwise only reads.

use crate::config::Plan;
use crate::config::budget::{self, Budget, Machine};
use crate::sys;

use super::crew::{PIPES_PER_WORKER, workers_of};
use super::failure::Failure;

/// A worker's submission queue and its ring of buffers.
const LOCKED_BYTES_PER_WORKER: u64 = 320 * 1024;
/// A completion entry, for the most that a queue can have.
const LOCKED_BYTES_OF_COMPLETIONS: u64 = 16 * 65_536;
/// CAP_IPC_LOCK: the kernel counts no locked memory then.
const LOCKING_FREELY: u32 = 14;

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
    let pipe_pages =
        sys::limits::pipe_pages().map_err(|error| told("fs.pipe-user-pages-soft", error))?;
    let machine = Machine {
        descriptors: descriptors.soft,
        workers,
        memory_bytes,
        locked_bytes: (LOCKED_BYTES_PER_WORKER + LOCKED_BYTES_OF_COMPLETIONS) * u64::from(workers),
        locked_bytes_max: (locked.soft != u64::MAX && !sys::limits::has_power(LOCKING_FREELY))
            .then_some(locked.soft),
        pipes: u32::try_from(PIPES_PER_WORKER * usize::from(workers)).unwrap_or(u32::MAX),
        pipe_bytes: sys::pipe::BULK_BYTES as u64,
        pipe_pages,
        local_ports: (*local_ports.start(), *local_ports.end()),
        // systemd says so from version 254 on.
        stored: std::env::var("FDSTORE")
            .ok()
            .and_then(|most| most.parse().ok()),
    };
    Ok(budget::budget(plan, &machine))
}
