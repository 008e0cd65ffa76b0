//! One run: one scenario with one subject, from the fresh network namespace to the figures. A run that fails says why and
//! spoils no other.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::bulk::{self, BulkBackend};
use crate::catalogue::Kind;
use crate::connections::{Connections, Ending};
use crate::meter::{Mark, Memory, Reading};
use crate::place::{self, LOAD_CORE, SMALL_BACKEND, wait_for_listener};
use crate::requests::{Requests, Tally};
use crate::subjects::{Running, Subject, end};
use crate::system;
use crate::watch::{Calls, Watch};

/// Figures by the name of their column.
pub type Figures = BTreeMap<&'static str, f64>;

#[derive(Debug, Clone)]
pub struct Settings {
    pub length: Duration,
    pub warm: Duration,
}

/// The small backend's process; ended when dropped.
#[derive(Debug)]
struct SmallBackend {
    child: Child,
}

impl SmallBackend {
    fn start(size: usize, closes_first: bool) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("--backend")
            .args([SMALL_BACKEND.to_string(), size.to_string()])
            .arg(closes_first.to_string())
            .stdin(Stdio::null());
        system::tie(&mut command, &[LOAD_CORE]);
        let backend = Self {
            child: command.spawn()?,
        };
        wait_for_listener(SMALL_BACKEND, Duration::from_secs(3))?;
        Ok(backend)
    }
}

impl Drop for SmallBackend {
    fn drop(&mut self) {
        end(&mut self.child, system::SIGTERM);
    }
}

/// Everything that stands while load runs.
struct Stage<'a> {
    settings: &'a Settings,
    watch: &'a Watch,
    running: &'a Running,
    others: Vec<u32>,
}

/// What one stretch of work came to.
struct Stretch<T> {
    result: T,
    reading: Reading,
    calls: Option<Calls>,
}

impl Stage<'_> {
    fn stretch<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<Stretch<T>> {
        let watching = self.watch.start(&self.running.pids)?;
        let before = Mark::take(&self.running.pids, &self.others)?;
        let result = work();
        let after = Mark::take(&self.running.pids, &self.others)?;
        let calls = match watching {
            Some(watching) => watching.finish()?,
            None => None,
        };
        Ok(Stretch {
            result: result?,
            reading: before.until(&after),
            calls,
        })
    }

    /// The balancer's CPU while nothing happens, in ms a second.
    fn idle_cpu(&self) -> io::Result<f64> {
        thread::sleep(Duration::from_millis(300));
        let before = Mark::take(&self.running.pids, &self.others)?;
        thread::sleep(Duration::from_secs(1));
        let reading = before.until(&Mark::take(&self.running.pids, &self.others)?);
        Ok(reading.own / reading.seconds * 1e3)
    }
}

pub fn run(
    kind: Kind,
    subject: &Subject,
    settings: &Settings,
    watch: &Watch,
) -> io::Result<Figures> {
    place::enter_fresh()?;
    let small = match kind {
        Kind::Bulk { .. } => None,
        Kind::Requests { size, .. } => Some(SmallBackend::start(size, false)?),
        Kind::Connections { ending, .. } => {
            Some(SmallBackend::start(64, ending == Ending::BackendFirst)?)
        }
        _ => Some(SmallBackend::start(64, false)?),
    };
    let bulk = match kind {
        Kind::Bulk { .. } | Kind::Mix { .. } => Some(BulkBackend::start()?),
        _ => None,
    };
    let running = subject.start()?;
    let mut others = Vec::new();
    others.extend(small.iter().map(|backend| backend.child.id()));
    others.extend(bulk.iter().map(BulkBackend::pid));
    let stage = Stage {
        settings,
        watch,
        running: &running,
        others,
    };
    match kind {
        Kind::Requests { connections, size } => stage.requests(connections, size),
        Kind::Connections { lanes, ending } => stage.connections(lanes, ending),
        Kind::Bulk { flags } => stage.bulk(flags),
        Kind::Mix { connections, flags } => stage.mix(connections, flags),
        Kind::Spin => stage.spin(),
        Kind::Idle { sessions } => stage.idle(sessions),
        Kind::Paced { connections, rate } => stage.paced(connections, rate),
        Kind::Sessions { rate } => stage.sessions(rate),
    }
}

impl Stage<'_> {
    fn small(&self) -> SocketAddr {
        self.running.small
    }

    fn requests(&self, connections: usize, size: usize) -> io::Result<Figures> {
        let mut load = Requests::open(self.small(), connections, size)?;
        load.run(self.settings.warm)?;
        let stretch = self.stretch(|| load.run(self.settings.length))?;
        Ok(per_unit(&stretch))
    }

    fn connections(&self, lanes: usize, ending: Ending) -> io::Result<Figures> {
        let mut load = Connections::open(self.small(), lanes, 64, ending)?;
        load.run(self.settings.warm)?;
        let stretch = self.stretch(|| load.run(self.settings.length))?;
        let mut figures = per_unit(&stretch);
        figures.insert("errors", stretch.result.errors as f64);
        Ok(figures)
    }

    fn bulk(&self, flags: &[&str]) -> io::Result<Figures> {
        let stretch = self.stretch(|| {
            let client = bulk::start_client(self.running.bulk, flags, self.settings.length)?;
            bulk::finish_client(client)
        })?;
        let transfer = stretch.result;
        let gigabytes = transfer.bytes / 1e9;
        let reading = Reading {
            processes: stretch.reading.processes + transfer.client_cpu,
            foreign: (stretch.reading.foreign - transfer.client_cpu).max(0.0),
            ..stretch.reading
        };
        let mut figures = Figures::from([
            ("gbit", gigabytes * 8.0 / transfer.seconds),
            ("own_ms", reading.own / gigabytes * 1e3),
            ("machine_ms", reading.machine / gigabytes * 1e3),
            ("procs_ms", reading.processes / gigabytes * 1e3),
        ]);
        insert_counts(&mut figures, &reading, stretch.calls, gigabytes);
        Ok(figures)
    }

    /// Small requests beside bulk streams that send as fast as they can.
    fn mix(&self, connections: usize, flags: &[&str]) -> io::Result<Figures> {
        let settings = self.settings;
        let mut load = Requests::open(self.small(), connections, 64)?;
        let length = settings.warm + settings.length + Duration::from_secs(2);
        let mut client = bulk::start_client(self.running.bulk, flags, length)?;
        let result = load.run(settings.warm.max(Duration::from_millis(700)));
        let stretch = result.and_then(|_| self.stretch(|| load.run(settings.length)));
        end(&mut client, system::SIGINT);
        let stretch = stretch?;
        let reading = stretch.reading;
        let hops = if self.running.pids.is_empty() {
            1.0
        } else {
            2.0
        };
        let mut figures = per_unit(&stretch);
        figures.insert("bulk_gbit", reading.bytes * 8e-9 / reading.seconds / hops);
        figures.insert("own_percent", reading.own / reading.seconds * 100.0);
        Ok(figures)
    }

    fn spin(&self) -> io::Result<Figures> {
        let mut load = Requests::open(self.small(), 1, 64)?;
        load.run(self.settings.warm)?;
        let stretch = self.stretch(|| load.run(self.settings.length))?;
        load.settle()?;
        let mut figures = per_unit(&stretch);
        figures.insert("idle_cpu_ms", self.idle_cpu()?);
        Ok(figures)
    }

    fn idle(&self, sessions: usize) -> io::Result<Figures> {
        // What any first sessions allocate for good is not the price of one more.
        let mut load = Requests::open(self.small(), 64, 64)?;
        let first = Memory::take(&self.running.pids)?;
        load.grow(self.small(), 64 + sessions)?;
        let last = Memory::take(&self.running.pids)?;
        let process = (last.process - first.process) / sessions as f64;
        let kernel = (last.kernel - first.kernel) / sessions as f64;
        Ok(Figures::from([
            ("process_kib", process),
            ("kernel_kib", kernel),
            ("total_kib", process + kernel),
            ("idle_cpu_ms", self.idle_cpu()?),
        ]))
    }

    fn paced(&self, connections: usize, rate: f64) -> io::Result<Figures> {
        let mut load = Requests::open(self.small(), connections, 64)?;
        load.run_paced(self.settings.warm, rate)?;
        load.settle()?;
        let stretch = self.stretch(|| load.run_paced(self.settings.length, rate))?;
        Ok(per_unit(&stretch))
    }

    /// The same rate of requests over ever more sessions.
    fn sessions(&self, rate: f64) -> io::Result<Figures> {
        const LEVELS: [(usize, &str, &str); 4] = [
            (10, "own_us_10", "machine_us_10"),
            (100, "own_us_100", "machine_us_100"),
            (1000, "own_us_1000", "machine_us_1000"),
            (9000, "own_us_9000", "machine_us_9000"),
        ];
        let mut figures = Figures::new();
        let mut load = Requests::open(self.small(), 1, 64)?;
        for (count, own, machine) in LEVELS {
            load.grow(self.small(), count)?;
            load.run_paced(self.settings.warm, rate)?;
            load.settle()?;
            let stretch = self.stretch(|| load.run_paced(self.settings.length, rate))?;
            load.settle()?;
            let units = stretch.result.done.max(1) as f64;
            figures.insert(own, stretch.reading.own / units * 1e6);
            figures.insert(machine, stretch.reading.machine / units * 1e6);
        }
        for (growth, first, last) in [
            ("own_growth", "own_us_10", "own_us_9000"),
            ("machine_growth", "machine_us_10", "machine_us_9000"),
        ] {
            figures.insert(growth, figures[last] / figures[first]);
        }
        Ok(figures)
    }
}

/// The figures of a stretch whose units are requests or connections.
fn per_unit(stretch: &Stretch<Tally>) -> Figures {
    let tally = &stretch.result;
    let units = tally.done.max(1) as f64;
    let reading = &stretch.reading;
    let mut figures = Figures::from([
        ("rate", tally.done as f64 / tally.elapsed.as_secs_f64()),
        ("own_us", reading.own / units * 1e6),
        ("machine_us", reading.machine / units * 1e6),
        ("procs_us", reading.processes / units * 1e6),
        ("p50_us", tally.latency.quantile_us(0.50)),
        ("p99_us", tally.latency.quantile_us(0.99)),
    ]);
    insert_counts(&mut figures, reading, stretch.calls, units);
    figures
}

fn insert_counts(figures: &mut Figures, reading: &Reading, calls: Option<Calls>, units: f64) {
    figures.insert("packets", reading.packets / units);
    figures.insert("segments", reading.out_segments / units);
    figures.insert("acks", reading.pure_acks / units);
    figures.insert("switches", reading.switches / units);
    figures.insert("foreign", reading.foreign / reading.seconds);
    if let Some(calls) = calls {
        figures.insert("calls", calls.system_calls / units);
        figures.insert("ring_ops", calls.ring_operations / units);
        figures.insert("punted", calls.punted / units);
    }
}
