//! Starts the workers and waits for their end. Nothing here knows what a worker does.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::config::GlobalPlan;
use crate::handoff::{Capacity, Hatch, Hatches, Mail, Phase, Snapshot};
use crate::ids::Clock;
use crate::sys;

use super::failure::Failure;

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
        let mut threads = Vec::with_capacity(kit.hatches.workers.len());
        for (n, hatch) in kit.hatches.workers.iter().enumerate() {
            let core = match (kit.pin, cores.len()) {
                (false, _) | (_, 0) => None,
                (true, many) => Some(cores[n % many]),
            };
            let thread = start_worker(kit, Arc::clone(hatch), core)
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

/// Until the engine room is built: a worker that takes snapshots and carries nothing.
fn start_worker(kit: &Kit, hatch: Arc<Hatch>, core: Option<usize>) -> io::Result<JoinHandle<()>> {
    let _ = (core, kit.sessions_max, &kit.process, kit.clock);
    std::thread::Builder::new().spawn(move || {
        let mut current: Option<Arc<Snapshot>> = None;
        while current
            .as_ref()
            .is_none_or(|snapshot| snapshot.phase == Phase::Serving)
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
            if let Mail::News(snapshot) = hatch.take() {
                hatch.counters.generation.set(snapshot.generation);
                current = Some(snapshot);
            }
        }
        hatch.counters.stopped.set(1);
    })
}
