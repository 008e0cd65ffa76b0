//! Eyes on a process through /proc, and signals to it by pid.

use std::fs;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Sends a signal (`TERM`, `HUP`, …) to one process.
pub fn signal(pid: u32, name: &str) {
    // The shell's own `kill`: no other program is needed, and no unsafe code here.
    let done = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -{name} {pid}"))
        .status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "kill -{name} {pid}"
    );
}

/// The exit status, if the process ended within `limit`.
pub fn wait_exit(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("wait for a child") {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ends a child by its pid: politely first.
pub fn end(child: &mut Child, polite: &str) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    signal(child.id(), polite);
    if wait_exit(child, Duration::from_secs(5)).is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// What the open descriptors of a process point at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    pub all: usize,
    pub sockets: usize,
    /// Ends of pipes: two for each pipe.
    pub pipe_ends: usize,
}

pub fn descriptors(pid: u32) -> Descriptors {
    let mut found = Descriptors::default();
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors of a process");
    for entry in folder.flatten() {
        found.all += 1;
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        found.sockets += usize::from(target.starts_with("socket:"));
        found.pipe_ends += usize::from(target.starts_with("pipe:"));
    }
    found
}

/// The fewest that were open in several looks: a check or somebody's look at the metrics holds a socket for a moment, and
/// a count that is to be compared later must not hold it, too.
pub fn settled_descriptors(pid: u32) -> Descriptors {
    let looks = (0..20).map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        descriptors(pid)
    });
    looks.min_by_key(|found| found.all).expect("some looks")
}

/// Resident memory in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    field(pid, "VmRSS:")
}

/// What each thread of a process is doing, as the kernel's letter: `R` runs, `S` sleeps, `T` is stopped, and so on.
pub fn states(pid: u32) -> Vec<char> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads of a process");
    let letters = tasks.flatten().filter_map(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        // Behind the name, which may hold anything.
        stat.rsplit_once(") ")?.1.chars().next()
    });
    letters.collect()
}

pub fn threads(pid: u32) -> u64 {
    field(pid, "Threads:")
}

fn field(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status of a process");
    let line = status.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_whitespace().nth(1))
        .and_then(|number| number.parse().ok())
        .expect("a number in the status of a process")
}

/// Time on a CPU of all threads that live now, to the nanosecond.
pub fn cpu_time(pid: u32) -> Duration {
    cpu_time_of(pid, "")
}

/// The same of those whose names begin so.
pub fn cpu_time_of(pid: u32, name: &str) -> Duration {
    let mut nanoseconds = 0;
    let folder = fs::read_dir(format!("/proc/{pid}/task")).expect("threads of a process");
    for entry in folder.flatten() {
        let own = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let text = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
        let first = text.split_whitespace().next().unwrap_or("0");
        if own.starts_with(name) {
            nanoseconds += first.parse::<u64>().unwrap_or(0);
        }
    }
    Duration::from_nanos(nanoseconds)
}
