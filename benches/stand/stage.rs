//! Everything that stands while load runs, and what a stretch of load on it came to.

use std::io;
use std::thread;
use std::time::Duration;

use super::histogram::Histogram;
use super::meter::{Mark, Reading};
use super::report::Figures;
use super::watch::{Calls, Watch};

#[derive(Debug, Clone)]
pub struct Settings {
    pub length: Duration,
    pub warm: Duration,
}

/// What a load tool has done.
#[derive(Debug)]
pub struct Tally {
    pub done: u64,
    pub elapsed: Duration,
    pub latency: Histogram,
    pub errors: u64,
}

#[derive(Debug)]
pub struct Stage<'a> {
    pub settings: &'a Settings,
    pub watch: &'a Watch,
    /// The balancer's processes.
    pub pids: &'a [u32],
    /// The rest of this bench's, besides this one.
    pub others: Vec<u32>,
}

/// What one stretch of work came to.
#[derive(Debug)]
pub struct Stretch<T> {
    pub result: T,
    pub reading: Reading,
    pub calls: Option<Calls>,
}

impl Stage<'_> {
    pub fn stretch<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<Stretch<T>> {
        let watching = self.watch.start(self.pids)?;
        let before = Mark::take(self.pids, &self.others)?;
        let result = work();
        let after = Mark::take(self.pids, &self.others)?;
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
    pub fn idle_cpu(&self) -> io::Result<f64> {
        thread::sleep(Duration::from_millis(300));
        let before = Mark::take(self.pids, &self.others)?;
        thread::sleep(Duration::from_secs(1));
        let reading = before.until(&Mark::take(self.pids, &self.others)?);
        Ok(reading.own / reading.seconds * 1e3)
    }
}

/// The figures of a stretch whose units are what the load tool has done.
pub fn per_unit(stretch: &Stretch<Tally>) -> Figures {
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

pub fn insert_counts(figures: &mut Figures, reading: &Reading, calls: Option<Calls>, units: f64) {
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
