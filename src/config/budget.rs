//! What a plan needs of the machine, beside what the machine has: descriptors, memory, locked memory, local ports.
//!
//! Pure sums over facts that the caller has read; nothing here asks the kernel. `ringway check` prints them, `run`
//! sizes every table from `sessions_max` and refuses to start on a shortage.

use std::fmt;

use crate::ids::Address;

use super::plan::{BackendAddress, BackendPlan, Host, Plan, PoolPlan, Protocol};

/// No process decides by itself for more sessions than this, however much the machine has.
pub const SESSIONS_CEILING: u32 = 262_144;

/// A TCP session holds a socket on either side; a flow one, and a copy of it on its way to a successor.
const DESCRIPTORS_PER_SESSION: u64 = 2;
/// A pipe has two ends.
const DESCRIPTORS_PER_PIPE: u64 = 2;
/// Ring, doorbell, timer and a handful of sockets that were accepted while accepting was being paused.
const DESCRIPTORS_PER_WORKER: u64 = 64;
/// Standard streams, logs, signals, the office's and the prober's own rings and event queues, HTTP clients.
const DESCRIPTORS_OF_PROCESS: u64 = 192;
/// What one session costs in the process and in the kernel, both sockets with short queues, rounded up.
const BYTES_PER_SESSION: u64 = 16 * 1024;

/// As the kernel counts a pipe's room on every machine that is supported.
const PAGE_BYTES: u64 = 4096;

/// What the caller found out about the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// RLIMIT_NOFILE after it was raised as far as allowed.
    pub descriptors: u64,
    pub workers: u16,
    /// What this process may use: the machine's memory or the cgroup's limit.
    pub memory_bytes: u64,
    /// What rings and registered buffers of all workers take.
    pub locked_bytes: u64,
    /// RLIMIT_MEMLOCK; `None`: no limit.
    pub locked_bytes_max: Option<u64>,
    /// Pipes that all workers together may open.
    pub pipes: u32,
    /// Bytes that a pipe should hold.
    pub pipe_bytes: u64,
    /// Pages that all pipes of this user may take at full size (fs.pipe-user-pages-soft); `None`: no limit.
    pub pipe_pages: Option<u64>,
    /// First and last of net.ipv4.ip_local_port_range.
    pub local_ports: (u16, u16),
    /// Descriptors that the service manager keeps for this service; `None`: there is none, or it does not say.
    pub stored: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub sessions_max: u32,
    pub decided_by: DecidedBy,
    pub rows: Vec<Row>,
    /// Listening sockets of all workers: what the service manager is to keep over a crash.
    pub listening: u64,
    /// One for each backend that is reached over the network.
    pub ports: Vec<PortRoom>,
    /// One for each pool of flows.
    pub flows: Vec<FlowRoom>,
}

/// The most flows that a pool can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRoom {
    pub pool: String,
    pub most: u64,
    /// What bounds them.
    pub decided_by: String,
}

/// What set `sessions_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    Configuration,
    Descriptors,
    Memory,
    Ceiling,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub resource: Resource,
    pub needed: u64,
    /// `None`: no limit.
    pub available: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Descriptors,
    Memory,
    LockedMemory,
    Pipes,
    /// The service manager's descriptor store.
    Store,
}

/// Local ports towards one backend: each connection takes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRoom {
    pub pool: String,
    pub backend: String,
    /// The most connections that the plan allows.
    pub needed: u64,
    pub available: u64,
}

impl Row {
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.available
            .is_some_and(|available| self.needed > available)
    }
}

/// The sums.
#[must_use]
pub fn budget(plan: &Plan, machine: &Machine) -> Budget {
    let fixed = descriptors_without_sessions(plan, machine);
    let (sessions_max, decided_by) = sessions_max(plan, machine, fixed);
    let sessions = u64::from(sessions_max);
    let rows = vec![
        Row {
            resource: Resource::Descriptors,
            // With no room for a single session the need is that of one.
            needed: fixed + DESCRIPTORS_PER_SESSION * sessions.max(1),
            available: Some(machine.descriptors),
        },
        Row {
            resource: Resource::Memory,
            needed: BYTES_PER_SESSION * sessions,
            available: Some(machine.memory_bytes),
        },
        Row {
            resource: Resource::LockedMemory,
            needed: machine.locked_bytes,
            available: machine.locked_bytes_max,
        },
        Row {
            resource: Resource::Pipes,
            needed: u64::from(machine.pipes) * machine.pipe_bytes,
            available: machine.pipe_pages.map(|pages| pages * PAGE_BYTES),
        },
    ];
    let pools = plan.pools.iter();
    let listening = listening_sockets(plan, machine.workers);
    let mut budget = Budget {
        sessions_max,
        decided_by,
        rows,
        listening,
        ports: pools
            .flat_map(|pool| port_rooms(pool, sessions, machine.local_ports))
            .collect(),
        flows: flow_rooms(plan, sessions_max, decided_by, machine.local_ports),
    };
    if let Some(stored) = machine.stored {
        budget.hold_against_store(stored);
    }
    budget
}

/// One per address and worker, of a unix socket one for all.
fn listening_sockets(plan: &Plan, workers: u16) -> u64 {
    let binds = plan.listeners.iter().flat_map(|listener| &listener.binds);
    let of_one = binds.map(|bind| match bind {
        Address::Inet(_) => u64::from(workers),
        Address::Unix(_) => 1,
    });
    of_one.sum()
}

/// Listening sockets, pipes, a check in flight for each backend, warm connections, and what the process needs anyway.
fn descriptors_without_sessions(plan: &Plan, machine: &Machine) -> u64 {
    let workers = u64::from(machine.workers);
    let listening = listening_sockets(plan, machine.workers);
    let backends: usize = plan.pools.iter().map(|pool| pool.backends.len()).sum();
    let warm: u64 = plan.pools.iter().map(warm_connections).sum();
    DESCRIPTORS_OF_PROCESS
        + DESCRIPTORS_PER_WORKER * workers
        + DESCRIPTORS_PER_PIPE * u64::from(machine.pipes)
        + listening
        + backends as u64
        + warm
}

fn warm_connections(pool: &PoolPlan) -> u64 {
    let per_backend = pool.warm.map_or(0, |warm| warm.size);
    u64::from(per_backend) * pool.backends.len() as u64
}

fn sessions_max(plan: &Plan, machine: &Machine, fixed: u64) -> (u32, DecidedBy) {
    if let Some(wanted) = plan.global.max_sessions {
        return (wanted, DecidedBy::Configuration);
    }
    let by_descriptors = machine.descriptors.saturating_sub(fixed) / DESCRIPTORS_PER_SESSION;
    // Half is left for buffers, bytes queued in sockets, and others on the machine.
    let by_memory = machine.memory_bytes / 2 / BYTES_PER_SESSION;
    let least = by_descriptors
        .min(by_memory)
        .min(u64::from(SESSIONS_CEILING));
    let decided_by = if least == u64::from(SESSIONS_CEILING) {
        DecidedBy::Ceiling
    } else if least == by_descriptors {
        DecidedBy::Descriptors
    } else {
        DecidedBy::Memory
    };
    (u32::try_from(least).unwrap_or(SESSIONS_CEILING), decided_by)
}

/// How many connections this machine can have towards a backend at a time; `None` where they take no port.
#[must_use]
pub fn ports_towards(
    pool: &PoolPlan,
    backend: &BackendPlan,
    (first, last): (u16, u16),
) -> Option<u64> {
    let range = u64::from(last.saturating_sub(first)) + 1;
    match &backend.address {
        BackendAddress::Fixed(Address::Unix(_)) => None,
        address => Some(range * source_addresses(pool, address)),
    }
}

fn port_rooms(pool: &PoolPlan, sessions: u64, local_ports: (u16, u16)) -> Vec<PortRoom> {
    let backends = pool.backends.iter();
    let reached =
        backends.filter_map(|backend| Some((backend, ports_towards(pool, backend, local_ports)?)));
    reached
        .map(|(backend, available)| PortRoom {
            pool: pool.name.clone(),
            backend: backend.name.clone(),
            needed: backend
                .max_connections
                .map_or(sessions, |most| sessions.min(u64::from(most)))
                + u64::from(pool.warm.map_or(0, |warm| warm.size)),
            available,
        })
        .collect()
}

/// Flows count among the sessions, and each has a local port of its own, whichever backend it is with.
fn flow_rooms(
    plan: &Plan,
    sessions_max: u32,
    decided_by: DecidedBy,
    (first, last): (u16, u16),
) -> Vec<FlowRoom> {
    let range = u64::from(last.saturating_sub(first)) + 1;
    let has_flows = |at: usize| {
        let mut listeners = plan.listeners.iter();
        listeners.any(|listener| listener.pool == at && listener.protocol == Protocol::Udp)
    };
    let pools = plan.pools.iter().enumerate();
    let pools = pools.filter(|&(at, _)| has_flows(at));
    pools
        .map(|(_, pool)| {
            let ports = range * (pool.source.len() as u64).max(1);
            let bounds = [
                pool.udp
                    .max_flows
                    .map(|most| (u64::from(most), "udp.max_flows".to_owned())),
                Some((u64::from(sessions_max), decided_by.to_string())),
                Some((ports, "what local ports carry".to_owned())),
            ];
            let least = bounds.into_iter().flatten().min_by_key(|bound| bound.0);
            let (most, decided_by) = least.unwrap_or_default();
            FlowRoom {
                pool: pool.name.clone(),
                most,
                decided_by,
            }
        })
        .collect()
}

/// How many local addresses connections to this backend may come from. A name may turn out to be of either family.
fn source_addresses(pool: &PoolPlan, backend: &BackendAddress) -> u64 {
    let is_ipv4 = match backend {
        BackendAddress::Fixed(address) => address.inet().map(|address| address.is_ipv4()),
        BackendAddress::ListenerPort {
            host: Host::Ip(ip), ..
        } => Some(ip.is_ipv4()),
        BackendAddress::ListenerPort { .. } | BackendAddress::Name { .. } => None,
    };
    let count_of = |ipv4: bool| {
        let fitting = pool.source.iter().filter(|ip| ip.is_ipv4() == ipv4);
        (fitting.count() as u64).max(1)
    };
    match is_ipv4 {
        Some(ipv4) => count_of(ipv4),
        None => count_of(true).min(count_of(false)),
    }
}

impl Budget {
    /// Adds the service manager's store, which holds so many descriptors.
    pub fn hold_against_store(&mut self, stored: u64) {
        self.rows.push(Row {
            resource: Resource::Store,
            needed: self.listening,
            available: Some(stored),
        });
    }

    fn short_of(&self, resource: Resource) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|row| row.resource == resource && row.is_short())
    }

    /// All of it in one line, of local ports only the backend that has the least.
    #[must_use]
    pub fn line(&self) -> String {
        let rows = self.rows.iter().map(ToString::to_string);
        let least = self.ports.iter();
        let least = least.min_by_key(|room| room.available.saturating_sub(room.needed));
        let all: Vec<String> = rows
            .chain(least.map(ToString::to_string))
            .chain(self.flows.iter().map(ToString::to_string))
            .collect();
        all.join("; ")
    }

    /// One sentence with its remedy for each resource that does not suffice; a process must not start then.
    #[must_use]
    pub fn shortages(&self) -> Vec<String> {
        // Small pipes only slow streams down, and what is not stored is missed after a crash only.
        let rows = self
            .rows
            .iter()
            .filter(|row| !matches!(row.resource, Resource::Pipes | Resource::Store));
        let short = rows.filter(|row| row.is_short());
        short
            .map(|row| {
                let remedy = match (row.resource, self.decided_by) {
                    (Resource::Descriptors, DecidedBy::Configuration) => {
                        "raise LimitNOFILE= in the unit (ulimit -n in a shell) or lower global.max_sessions"
                    }
                    (Resource::Descriptors, _) => "raise LimitNOFILE= in the unit (ulimit -n in a shell)",
                    (Resource::Memory, _) => "lower global.max_sessions or allow more memory",
                    (Resource::LockedMemory, _) => "raise LimitMEMLOCK= in the unit (ulimit -l in a shell)",
                    (Resource::Pipes, _) => "raise fs.pipe-user-pages-soft",
                    (Resource::Store, _) => "raise FileDescriptorStoreMax= in the unit",
                };
                format!("{row}: {remedy}")
            })
            .collect()
    }

    /// One sentence for each backend whose local ports end before the sessions do, one for pipes and one for the descriptor
    /// store: no reason not to start.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let store = self.short_of(Resource::Store).map(|row| {
            format!("{row}: a crash would lose the clients in the queues of the others; FileDescriptorStoreMax={} in the unit keeps all",
                row.needed)
        });
        let pipes = self.short_of(Resource::Pipes).map(|row| {
            format!(
                "{row}: when many streams flow at once, some get a small pipe; sysctl fs.pipe-user-pages-soft={} has room for all",
                row.needed / PAGE_BYTES
            )
        });
        let short = self
            .ports
            .iter()
            .filter(|room| room.needed > room.available);
        let ports = short
            .map(|room| {
                format!(
                    "backend {}/{} may get {} connections, but there are {} local ports towards it: more addresses in \
                     pool.source or a wider net.ipv4.ip_local_port_range give more",
                    room.pool, room.backend, room.needed, room.available
                )
            });
        store.into_iter().chain(pipes).chain(ports).collect()
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Resource::Descriptors => "descriptors",
            Resource::Memory => "memory",
            Resource::LockedMemory => "locked memory",
            Resource::Pipes => "pipes",
            Resource::Store => "the service manager's descriptor store",
        })
    }
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            DecidedBy::Configuration => "global.max_sessions",
            DecidedBy::Descriptors => "what descriptors carry",
            DecidedBy::Memory => "what memory carries",
            DecidedBy::Ceiling => "the most that is decided without global.max_sessions",
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = |count: u64| match self.resource {
            Resource::Descriptors | Resource::Store => count.to_string(),
            Resource::Memory | Resource::LockedMemory | Resource::Pipes => size_text(count),
        };
        let available = self.available.map_or_else(
            || "no limit".to_owned(),
            |available| format!("{} available", amount(available)),
        );
        write!(
            out,
            "{}: {} needed, {available}",
            self.resource,
            amount(self.needed)
        )
    }
}

/// The lines that `ringway check` prints.
impl fmt::Display for Budget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "sessions: at most {} ({})",
            self.sessions_max, self.decided_by
        )?;
        for room in &self.flows {
            writeln!(out, "{room}")?;
        }
        for row in &self.rows {
            writeln!(out, "{row}")?;
        }
        for room in &self.ports {
            writeln!(out, "{room}")?;
        }
        Ok(())
    }
}

impl fmt::Display for FlowRoom {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pool, most, why) = (&self.pool, self.most, &self.decided_by);
        write!(out, "flows of {pool}: at most {most} ({why})")
    }
}

impl fmt::Display for PortRoom {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "local ports towards {}/{}: {} needed at most, {} available",
            self.pool, self.backend, self.needed, self.available
        )
    }
}

/// Bytes in the largest binary unit below them, rounded up.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >= 10 << shift) {
        Some((unit, shift)) => format!("{} {unit}", bytes.div_ceil(1 << shift)),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
