//! A look at the balancer from outside during a run that is not timed, because looking costs: its system calls and ring
//! operations counted by `perf stat`, or a profile taken by `perf record`.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::process::end;
use super::system;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watch {
    Nothing,
    Calls,
    Profile(PathBuf),
}

/// System calls, and operations handed to a ring. An operation that the ring gave to a kernel thread counts as punted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Calls {
    pub system_calls: f64,
    pub ring_operations: f64,
    pub punted: f64,
}

const EVENTS: [&str; 3] = [
    "raw_syscalls:sys_enter",
    "io_uring:io_uring_submit_req",
    "io_uring:io_uring_queue_async_work",
];

#[derive(Debug)]
pub struct Watching {
    child: Child,
    counts: bool,
}

/// perf needs a moment to attach.
const ATTACH: Duration = Duration::from_millis(400);

impl Watch {
    pub fn start(&self, pids: &[u32]) -> io::Result<Option<Watching>> {
        let list = pids
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",");
        let mut command = Command::new("perf");
        match self {
            _ if pids.is_empty() => return Ok(None),
            Self::Nothing => return Ok(None),
            Self::Calls => command
                .args(["stat", "-x", ";", "-e", &EVENTS.join(","), "-p", &list])
                .stderr(Stdio::piped()),
            Self::Profile(file) => command
                .args(["record", "-q", "-e", "cpu-clock", "-F", "4999", "-g"])
                .args(["-p", &list, "-o"])
                .arg(file)
                .stderr(Stdio::null()),
        };
        command.stdin(Stdio::null()).stdout(Stdio::null());
        system::tie(&mut command, &[super::place::LOAD_CORE]);
        let child = command
            .spawn()
            .map_err(|error| io::Error::other(format!("perf: {error}")))?;
        thread::sleep(ATTACH);
        Ok(Some(Watching {
            child,
            counts: *self == Self::Calls,
        }))
    }
}

impl Watching {
    pub fn finish(mut self) -> io::Result<Option<Calls>> {
        if !self.counts {
            end(&mut self.child, system::SIGINT);
            return Ok(None);
        }
        system::send_signal(self.child.id(), system::SIGINT);
        let said = self.child.wait_with_output()?;
        let text = String::from_utf8_lossy(&said.stderr);
        let count = |event: &str| -> Option<f64> {
            let line = text.lines().find(|line| line.contains(event))?;
            line.split(';').next()?.parse().ok()
        };
        let Some(system_calls) = count(EVENTS[0]) else {
            return Err(io::Error::other("perf stat counted nothing"));
        };
        Ok(Some(Calls {
            system_calls,
            ring_operations: count(EVENTS[1]).unwrap_or(0.0),
            punted: count(EVENTS[2]).unwrap_or(0.0),
        }))
    }
}
