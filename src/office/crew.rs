//! Starts the workers and waits for their end. Nothing here knows what a worker does.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::config::GlobalPlan;
use crate::handoff::{Capacity, Hatches};
use crate::ids::Clock;
use crate::sys;
use crate::worker::{Features, Setup as WorkerSetup, start as start_worker};

use super::failure::Failure;

/// Pipes that one worker keeps at most: two for each stream in full flow.
pub const PIPES_PER_WORKER: usize = 256;

/// How many workers the plan asks for: else one per core that this process may use, at most what the CPU quota carries.
#[must_use]
pub fn workers_of(global: &GlobalPlan) -> u16 {
    let cores = sys::affinity::allowed_cores().map_or(1, |cores| cores.len());
    let quota = sys::affinity::cgroup_cores().unwrap_or(usize::MAX);
    let own_choice = u16::try_from(cores.min(quota).max(1)).unwrap_or(u16::MAX);
    global.workers.unwrap_or(own_choice)
}

/// The workers' threads.
#[derive(Debug)]
pub struct Crew {
    threads: Vec<JoinHandle<()>>,
}

/// What every worker is given.
#[derive(Clone, Debug)]
pub struct Kit {
    pub hatches: Arc<Hatches>,
    pub clock: Clock,
    pub sessions_max: u32,
    pub process: Arc<Capacity>,
    pub pin: bool,
}

impl Crew {
    /// Starts one worker per hatch, worker n on the n-th allowed core.
    ///
    /// # Errors
    /// The first worker that could not build its ring, with the remedy.
    pub fn start(kit: &Kit) -> Result<Crew, Failure> {
        let cores = sys::affinity::allowed_cores().unwrap_or_default();
        let features =
            Features::found().map_err(|error| Failure::CannotStart(error.to_string()))?;
        let mut threads = Vec::with_capacity(kit.hatches.workers.len());
        for (n, hatch) in kit.hatches.workers.iter().enumerate() {
            let core = match (kit.pin, cores.len()) {
                (false, _) | (_, 0) => None,
                (true, many) => Some(cores[n % many]),
            };
            let setup = WorkerSetup {
                id: hatch.worker,
                core,
                hatch: Arc::clone(hatch),
                hatches: Arc::clone(&kit.hatches),
                clock: kit.clock,
                sessions_max: kit.sessions_max,
                pipes_max: PIPES_PER_WORKER,
                process: Arc::clone(&kit.process),
                features,
            };
            let thread = start_worker(setup)
                .map_err(|error| Failure::CannotStart(format!("worker {n}: {error}")))?;
            threads.push(thread);
        }
        Ok(Crew { threads })
    }

    /// Whether a worker ended that was not asked to.
    #[must_use]
    pub fn any_finished(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Waits for threads that have ended; leaves the others to the end of the process.
    pub fn join_finished(self) {
        for thread in self.threads {
            if thread.is_finished() && thread.join().is_err() {
                log::error!("a worker failed");
            }
        }
    }
}

/// Optional features of the kernel, by name, and whether each is found and not masked.
///
/// # Errors
/// io_uring is refused, or lacks what every supported kernel has; with the remedy.
pub fn kernel_features() -> Result<Vec<(&'static str, bool)>, Failure> {
    match Features::found() {
        Ok(features) => Ok(features.list().to_vec()),
        Err(error) => Err(Failure::CannotStart(error.to_string())),
    }
}
