//! One run: one scenario with one subject, from the fresh network namespace to the figures. A run that fails says why and
//! spoils no other.

use std::io;
use std::time::Duration;

use crate::catalogue::{Kind, Scenario};
use crate::newcomers::Newcomers;
use crate::requests::Requests;
use crate::stand::course::Course;
use crate::stand::meter::Memory;
use crate::stand::options::Options;
use crate::stand::place::{self, SMALL_BACKEND, wait_for_bound};
use crate::stand::process::{Backend, Balancer};
use crate::stand::report::{Figures, Sheet};
use crate::stand::stage::{Settings, Stage, Stretch, per_unit};
use crate::stand::watch::Watch;
use crate::stream::{Receiver, Sender, latency_of};
use crate::subjects::Subject;

/// Flows that speak while others come and go.
const OLD_FLOWS: usize = 16;

impl Course for &Scenario {
    type Subject = Subject;

    fn sheet(&self) -> Sheet {
        Scenario::sheet(self)
    }

    fn counts_time(&self) -> bool {
        self.has_stretch()
    }

    fn has_stretch(&self) -> bool {
        !matches!(self.kind, Kind::Idle { .. })
    }

    fn run(&self, subject: &Subject, options: &Options, watch: &Watch) -> io::Result<Figures> {
        place::enter_fresh()?;
        let settings = options.settings();
        let is_stream = matches!(self.kind, Kind::Stream { .. });
        let backend = if is_stream {
            None
        } else {
            let is_ready = || wait_for_bound(SMALL_BACKEND, Duration::from_secs(3));
            Some(Backend::start(&[SMALL_BACKEND.to_string()], is_ready)?)
        };
        let mut balancer = subject.start(self.kind.keep())?;
        let pids = balancer.as_ref().map_or(Vec::new(), |it| it.pids.clone());
        let stage = Stage {
            settings: &settings,
            watch,
            pids: &pids,
            others: backend.iter().map(Backend::pid).collect(),
        };
        let mut figures = run(self.kind, subject, &stage)?;
        let died = balancer.as_mut().is_some_and(Balancer::has_died);
        figures.insert("died", f64::from(u8::from(died)));
        Ok(figures)
    }
}

fn run(kind: Kind, subject: &Subject, stage: &Stage<'_>) -> io::Result<Figures> {
    let Settings { length, warm } = *stage.settings;
    match kind {
        Kind::Requests { flows } => {
            let mut load = Requests::open(subject.front(), flows)?;
            load.run(warm)?;
            let stretch = stage.stretch(|| load.run(length))?;
            let mut figures = per_unit(&stretch);
            figures.insert("errors", stretch.result.errors as f64);
            Ok(figures)
        }
        Kind::Stream { flows, rate, pace } => {
            let receiver = Receiver::start(SMALL_BACKEND, pace == crate::catalogue::Pace::Joined)?;
            let mut sender = Sender::open(subject.front(), flows, rate, pace)?;
            sender.run(&receiver, warm)?;
            let mut stretch = stage.stretch(|| sender.measure(&receiver, length))?;
            stretch.result.latency = latency_of(receiver)?;
            let mut figures = per_unit(&stretch);
            figures.insert("lost_ppm", share_ppm(&stretch));
            Ok(figures)
        }
        Kind::Newcomers { lanes, .. } => {
            let mut load = Newcomers::open(subject.front(), lanes, OLD_FLOWS)?;
            load.run(warm)?;
            let stretch = stage.stretch(|| load.run(length))?;
            let outcome = stretch.result;
            let stretch = Stretch {
                result: outcome.tally,
                reading: stretch.reading,
                calls: stretch.calls,
            };
            let mut figures = per_unit(&stretch);
            figures.insert("unanswered_ppm", share_ppm(&stretch));
            figures.insert("old_lost", outcome.old_lost as f64);
            figures.insert("old_p99_us", outcome.old_latency.quantile_us(0.99));
            Ok(figures)
        }
        Kind::Idle { flows } => {
            // What any first flows allocate for good is not the price of one more.
            let mut load = Newcomers::open(subject.front(), 64, 0)?;
            load.settle(64)?;
            let first = Memory::take(stage.pids)?;
            load.grow(flows)?;
            let last = Memory::take(stage.pids)?;
            let process = (last.process - first.process) / flows as f64;
            let kernel = (last.kernel - first.kernel) / flows as f64;
            Ok(Figures::from([
                ("process_kib", process),
                ("kernel_kib", kernel),
                ("total_kib", process + kernel),
            ]))
        }
    }
}

/// What was lost, of a million.
fn share_ppm(stretch: &Stretch<crate::stand::stage::Tally>) -> f64 {
    let tally = &stretch.result;
    let all = tally.done + tally.errors;
    tally.errors as f64 / all.max(1) as f64 * 1e6
}
