//! Starting a worker: a thread, pinned, that builds its own ring and reports whether it could.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};

use crate::handoff::{Capacity, Hatch, Hatches};
use crate::ids::{Clock, OPS_PER_SESSION_MAX, WorkerId};
use crate::sys::affinity;
use crate::sys::thread::thread_id;
use crate::uring::{Features, Ring, RingSize, StartError};

use super::engine::{Parts, Worker};

/// Submissions queued between two system calls.
const SUBMISSIONS: u32 = 4096;
/// The kernel's limit of completion entries.
const COMPLETIONS_MAX: usize = 65_536;
const BUFFERS: u16 = 1024;
const BUFFER_BYTES: u32 = 16 * 1024;

/// What a worker needs to start.
#[derive(Debug)]
pub struct Setup {
    pub id: WorkerId,
    /// The core to run on; `None`: any.
    pub core: Option<usize>,
    pub hatch: Arc<Hatch>,
    pub hatches: Arc<Hatches>,
    pub clock: Clock,
    /// Sessions that this worker's tables can hold.
    pub sessions_max: u32,
    /// Pipes that this worker may hold open.
    pub pipes_max: usize,
    /// The process's limit of sessions, over all workers.
    pub process: Arc<Capacity>,
    pub features: Features,
}

/// Starts the worker and returns when its ring is built.
///
/// # Errors
/// If the thread cannot be started or pinned, or its ring cannot be built: the message names the step and the remedy.
pub fn start(setup: Setup) -> io::Result<JoinHandle<()>> {
    let (report, reported) = mpsc::channel();
    let thread = Builder::new().name(format_name(setup.id)).spawn(move || {
        setup.hatch.roll.enter(thread_id());
        let built = pin(setup.core).and_then(|()| build(&setup));
        match built {
            Ok(mut worker) => {
                let _ = report.send(Ok(()));
                let clock = setup.clock;
                worker.run(|| clock.now());
            }
            Err(error) => {
                let _ = report.send(Err(error));
            }
        }
    })?;
    match reported.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::Error::other("a worker ended before it had started")),
    }
}

fn format_name(id: WorkerId) -> String {
    let mut name = String::from("worker-");
    name.push_str(&id.0.to_string());
    name
}

fn pin(core: Option<usize>) -> Result<(), StartError> {
    let pinned = core.map_or(Ok(()), affinity::pin_to);
    pinned.map_err(|cause| StartError {
        step: "pinning a worker to its core",
        cause,
    })
}

fn build(setup: &Setup) -> Result<Worker<Ring>, StartError> {
    let operations = setup.sessions_max as usize * OPS_PER_SESSION_MAX;
    let size = RingSize {
        slots_max: setup.sessions_max,
        submissions: SUBMISSIONS,
        completions: operations
            .next_power_of_two()
            .clamp(2 * SUBMISSIONS as usize, COMPLETIONS_MAX) as u32,
        buffers: BUFFERS,
        buffer_bytes: BUFFER_BYTES,
        pipes_max: setup.pipes_max,
    };
    let ring = Ring::build(
        size,
        setup.features,
        std::os::fd::AsFd::as_fd(&setup.hatch.doorbell),
    )?;
    let now = setup.clock.now();
    let parts = Parts {
        hatch: Arc::clone(&setup.hatch),
        hatches: Arc::clone(&setup.hatches),
        process: Arc::clone(&setup.process),
        sessions_max: setup.sessions_max,
        buffers: u32::from(BUFFERS),
        seed: now.0 ^ u64::from(setup.id.0) << 32,
    };
    Ok(Worker::new(ring, parts, now))
}
