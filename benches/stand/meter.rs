//! What is measured around a stretch of load: the balancer's CPU time, the whole machine's busy time, packets, bare ACKs,
//! context switches; and memory, of the process and of the kernel. Reads only what the kernel counts anyway.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use super::system;

/// Counters at one moment; the difference of two is a `Reading`.
#[derive(Debug, Clone)]
pub struct Mark {
    at: Instant,
    own: Duration,
    known: Duration,
    idle_ticks: u64,
    cores: u64,
    out_segments: u64,
    pure_acks: u64,
    packets: u64,
    bytes: u64,
    switches: u64,
}

/// What happened between two marks.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pub seconds: f64,
    /// The balancer's CPU seconds.
    pub own: f64,
    /// All cores' seconds that were not idle.
    pub machine: f64,
    /// Seconds of this bench's processes: the balancer, the load tool, the backends.
    pub processes: f64,
    /// Seconds that no process of this bench accounts for: other people's work, and interrupts.
    pub foreign: f64,
    pub out_segments: f64,
    pub pure_acks: f64,
    /// Packets over loopback; a large one that the kernel did not cut counts once.
    pub packets: f64,
    pub bytes: f64,
    pub switches: f64,
}

const TICKS_PER_SECOND: f64 = 100.0;

impl Mark {
    /// `balancer`: the processes measured; `others`: the rest of this bench's.
    pub fn take(balancer: &[u32], others: &[u32]) -> io::Result<Self> {
        let (idle_ticks, cores) = idle_ticks()?;
        let own: Duration = balancer
            .iter()
            .filter_map(|pid| system::process_cpu(*pid))
            .sum();
        let this = std::process::id();
        let known: Duration = others
            .iter()
            .chain([&this])
            .filter_map(|pid| system::process_cpu(*pid))
            .sum();
        let (packets, bytes) = loopback()?;
        Ok(Self {
            at: Instant::now(),
            own,
            known,
            idle_ticks,
            cores,
            out_segments: counter("/proc/net/snmp", "Tcp:", "OutSegs")?,
            pure_acks: counter("/proc/net/netstat", "TcpExt:", "TCPPureAcks")?,
            packets,
            bytes,
            switches: balancer.iter().map(|pid| switches(*pid)).sum(),
        })
    }

    pub fn until(&self, end: &Self) -> Reading {
        let seconds = (end.at - self.at).as_secs_f64();
        let idle = end.idle_ticks.saturating_sub(self.idle_ticks) as f64 / TICKS_PER_SECOND;
        let machine = (seconds * self.cores as f64 - idle).max(0.0);
        let own = end.own.saturating_sub(self.own).as_secs_f64();
        let known = end.known.saturating_sub(self.known).as_secs_f64();
        let difference = |from: u64, to: u64| to.saturating_sub(from) as f64;
        Reading {
            seconds,
            own,
            machine,
            processes: own + known,
            foreign: (machine - own - known).max(0.0),
            out_segments: difference(self.out_segments, end.out_segments),
            pure_acks: difference(self.pure_acks, end.pure_acks),
            packets: difference(self.packets, end.packets),
            bytes: difference(self.bytes, end.bytes),
            switches: difference(self.switches, end.switches),
        }
    }
}

/// Idle, waiting for a disk (a ring that sleeps counts as that) and taken by the host: none of it is work. The idle time
/// is exact to a tick; the busy columns are only sampled by the timer.
fn idle_ticks() -> io::Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat")?;
    let mut idle = 0;
    let mut cores = 0;
    for line in text.lines() {
        let is_core = line.starts_with("cpu") && !line.starts_with("cpu ");
        if is_core {
            let fields: Vec<u64> = line
                .split_ascii_whitespace()
                .skip(1)
                .filter_map(|field| field.parse().ok())
                .collect();
            idle += [3, 4, 7]
                .iter()
                .filter_map(|at| fields.get(*at))
                .sum::<u64>();
            cores += 1;
        }
    }
    Ok((idle, cores))
}

/// A counter of the tables in which a line of names precedes a line of values.
fn counter(table: &str, group: &str, name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(table)?;
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let names = lines.next().unwrap_or_default().split_ascii_whitespace();
    let values = lines.next().unwrap_or_default().split_ascii_whitespace();
    let found = names.zip(values).find(|(this, _)| *this == name);
    found
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(|| io::Error::other(format!("{table} has no {name}")))
}

/// Packets and bytes sent over loopback.
fn loopback() -> io::Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/net/dev")?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"))
        .unwrap_or_default();
    let fields: Vec<u64> = line
        .split_ascii_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    match fields.get(8..10) {
        Some(&[bytes, packets]) => Ok((packets, bytes)),
        _ => Err(io::Error::other("/proc/net/dev has no lo")),
    }
}

fn switches(pid: u32) -> u64 {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        total += status
            .lines()
            .filter(|line| line.contains("ctxt_switches"))
            .filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>();
    }
    total
}

/// A process and all its descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let tasks = fs::read_dir(format!("/proc/{}/task", found[at]));
        for task in tasks.into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_ascii_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
        at += 1;
    }
    found
}

/// Memory at one moment, in KiB: resident in the processes, and held by the kernel for sockets and the like.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub process: f64,
    pub kernel: f64,
}

/// Caches that grow with whatever else the machine reads from its disks.
const FILE_CACHES: &[&str] = &[
    "btrfs",
    "ext4_",
    "jbd2_",
    "xfs_",
    "fuse_",
    "ovl_",
    "overlay",
    "buffer_head",
    "radix_tree_node",
    "inode_cache",
    "proc_inode_cache",
    "shmem_inode_cache",
    "kernfs_node_cache",
    "vm_area_struct",
    "anon_vma",
    "maple_node",
    "task_struct",
];

impl Memory {
    pub fn take(pids: &[u32]) -> io::Result<Self> {
        Ok(Self {
            process: pids.iter().map(|pid| resident_kib(*pid)).sum(),
            kernel: slab_kib()? + socket_buffers_kib(),
        })
    }
}

fn resident_kib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}

/// Slabs in use, after every cache gave back its empty ones: what earlier runs left behind must not hide growth.
fn slab_kib() -> io::Result<f64> {
    std::thread::sleep(Duration::from_millis(300));
    let mut shrunk = BTreeSet::new();
    for cache in fs::read_dir("/sys/kernel/slab")
        .into_iter()
        .flatten()
        .flatten()
    {
        let real = fs::canonicalize(cache.path()).unwrap_or_else(|_| cache.path());
        if shrunk.insert(real.clone()) {
            // A cache that cannot be shrunk is measured as it is.
            let _ = fs::write(real.join("shrink"), "1");
        }
    }
    let text = fs::read_to_string("/proc/slabinfo")?;
    let page_kib = 4.0;
    let mut total = 0.0;
    for line in text.lines().skip(2) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (Some(name), Some(pages)) = (fields.first(), fields.get(5)) else {
            continue;
        };
        let is_file_cache = FILE_CACHES.iter().any(|cache| name.starts_with(cache));
        if !is_file_cache {
            let slabs: f64 = fields
                .get(14)
                .and_then(|field| field.parse().ok())
                .unwrap_or(0.0);
            total += slabs * pages.parse().unwrap_or(0.0) * page_kib;
        }
    }
    Ok(total)
}

/// Pages that TCP sockets hold for data.
fn socket_buffers_kib() -> f64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .unwrap_or_default();
    let mut words = line
        .split_ascii_whitespace()
        .skip_while(|word| *word != "mem");
    let pages: f64 = words
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0.0);
    pages * 4.0
}
