//! One run: one scenario with one subject, from the fresh network namespace to the figures. A run that fails says why and
//! spoils no other.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::bulk::{self, BulkBackend};
use crate::catalogue::{Kind, Scenario};
use crate::connections::{Connections, Ending};
use crate::requests::Requests;
use crate::stand::course::Course;
use crate::stand::meter::{Memory, Reading};
use crate::stand::options::Options;
use crate::stand::place::{self, SMALL_BACKEND, wait_for_listener};
use crate::stand::process::{Backend, end};
use crate::stand::report::{Figures, Sheet};
use crate::stand::stage::{Settings, Stage, insert_counts, per_unit};
use crate::stand::system;
use crate::stand::watch::Watch;
use crate::subjects::{Running, Subject};

/// The backend of small requests.
fn start_small(size: usize, closes_first: bool) -> io::Result<Backend> {
    let arguments = [
        SMALL_BACKEND.to_string(),
        size.to_string(),
        closes_first.to_string(),
    ];
    let is_ready = || wait_for_listener(SMALL_BACKEND, Duration::from_secs(3));
    Backend::start(&arguments, is_ready)
}

impl Course for &Scenario {
    type Subject = Subject;

    fn sheet(&self) -> Sheet {
        Scenario::sheet(self)
    }

    fn counts_time(&self) -> bool {
        !matches!(self.kind, Kind::Idle { .. })
    }

    fn has_stretch(&self) -> bool {
        !matches!(self.kind, Kind::Idle { .. } | Kind::Sessions { .. })
    }

    fn run(&self, subject: &Subject, options: &Options, watch: &Watch) -> io::Result<Figures> {
        run(self.kind, subject, &options.settings(), watch)
    }
}

/// A scenario's stage, with the addresses of its listeners.
struct Scene<'a> {
    stage: Stage<'a>,
    running: &'a Running,
}

fn run(kind: Kind, subject: &Subject, settings: &Settings, watch: &Watch) -> io::Result<Figures> {
    place::enter_fresh()?;
    let small = match kind {
        Kind::Bulk { .. } => None,
        Kind::Requests { size, .. } => Some(start_small(size, false)?),
        Kind::Connections { ending, .. } => Some(start_small(64, ending == Ending::BackendFirst)?),
        _ => Some(start_small(64, false)?),
    };
    let bulk = match kind {
        Kind::Bulk { .. } | Kind::Mix { .. } => Some(BulkBackend::start()?),
        _ => None,
    };
    let running = subject.start()?;
    let mut others = Vec::new();
    others.extend(small.iter().map(Backend::pid));
    others.extend(bulk.iter().map(BulkBackend::pid));
    let stage = Scene {
        stage: Stage {
            settings,
            watch,
            pids: running.pids(),
            others,
        },
        running: &running,
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

impl Scene<'_> {
    fn small(&self) -> SocketAddr {
        self.running.small
    }

    fn requests(&self, connections: usize, size: usize) -> io::Result<Figures> {
        let mut load = Requests::open(self.small(), connections, size)?;
        load.run(self.stage.settings.warm)?;
        let stretch = self
            .stage
            .stretch(|| load.run(self.stage.settings.length))?;
        Ok(per_unit(&stretch))
    }

    fn connections(&self, lanes: usize, ending: Ending) -> io::Result<Figures> {
        let mut load = Connections::open(self.small(), lanes, 64, ending)?;
        load.run(self.stage.settings.warm)?;
        let stretch = self
            .stage
            .stretch(|| load.run(self.stage.settings.length))?;
        let mut figures = per_unit(&stretch);
        figures.insert("errors", stretch.result.errors as f64);
        Ok(figures)
    }

    fn bulk(&self, flags: &[&str]) -> io::Result<Figures> {
        let stretch = self.stage.stretch(|| {
            let client = bulk::start_client(self.running.bulk, flags, self.stage.settings.length)?;
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
    fn mix(mut self, connections: usize, flags: &[&str]) -> io::Result<Figures> {
        let settings = self.stage.settings;
        let mut load = Requests::open(self.small(), connections, 64)?;
        let length = settings.warm + settings.length + Duration::from_secs(2);
        let mut client = bulk::start_client(self.running.bulk, flags, length)?;
        self.stage.others.push(client.id());
        let result = load.run(settings.warm.max(Duration::from_millis(700)));
        let stretch = result.and_then(|_| self.stage.stretch(|| load.run(settings.length)));
        end(&mut client, system::SIGINT);
        let stretch = stretch?;
        let reading = stretch.reading;
        let hops = if self.running.pids().is_empty() {
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
        load.run(self.stage.settings.warm)?;
        let stretch = self
            .stage
            .stretch(|| load.run(self.stage.settings.length))?;
        load.settle()?;
        let mut figures = per_unit(&stretch);
        figures.insert("idle_cpu_ms", self.stage.idle_cpu()?);
        Ok(figures)
    }

    fn idle(&self, sessions: usize) -> io::Result<Figures> {
        // What any first sessions allocate for good is not the price of one more.
        let mut load = Requests::open(self.small(), 64, 64)?;
        let first = Memory::take(self.running.pids())?;
        load.grow(self.small(), 64 + sessions)?;
        let last = Memory::take(self.running.pids())?;
        let process = (last.process - first.process) / sessions as f64;
        let kernel = (last.kernel - first.kernel) / sessions as f64;
        Ok(Figures::from([
            ("process_kib", process),
            ("kernel_kib", kernel),
            ("total_kib", process + kernel),
            ("idle_cpu_ms", self.stage.idle_cpu()?),
        ]))
    }

    fn paced(&self, connections: usize, rate: f64) -> io::Result<Figures> {
        let mut load = Requests::open(self.small(), connections, 64)?;
        load.run_paced(self.stage.settings.warm, rate)?;
        load.settle()?;
        let stretch = self
            .stage
            .stretch(|| load.run_paced(self.stage.settings.length, rate))?;
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
            load.run_paced(self.stage.settings.warm, rate)?;
            load.settle()?;
            let stretch = self
                .stage
                .stretch(|| load.run_paced(self.stage.settings.length, rate))?;
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
