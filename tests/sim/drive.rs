//! One seed from start to end: workers over fake kernels, turn by turn, until the world has drained.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use ringway::handoff::Hatches;
use ringway::ids::{Nanos, Refusal, Side};
use ringway::session::Phase;
use ringway::worker::{Parts, Worker};

use super::audit::check_worker;
use super::counts::{Counts, Fault};
use super::kernel::FakeKernel;
use super::net::{Net, Standing};
use super::office::Office;
use super::random::Random;
use super::weather::Weather;

/// More than this after the drain began, in turns, and a worker will never be done.
const LAST_TURNS_MAX: u64 = 200_000;

struct Run {
    net: Rc<RefCell<Net>>,
    hatches: Arc<Hatches>,
    workers: Vec<Worker<FakeKernel>>,
    stopped: Vec<bool>,
}

/// Runs a seed for so many turns, then drains. Panics if a check fails.
pub fn run(seed: u64, turns: u64, tracing: bool) -> Counts {
    let mut run = Run::begin(seed, tracing);
    for _ in 0..turns {
        run.turn();
    }
    run.drain();
    run.end()
}

impl Run {
    fn begin(seed: u64, tracing: bool) -> Run {
        let mut random = Random::new(seed);
        let weather = Weather::draw(&mut random);
        let office = Office::open(&mut random, &weather);
        let hatches = Arc::clone(&office.hatches);
        let process = Arc::clone(&office.process);
        let net = Net::new(seed, random, weather.clone(), office, tracing);
        net.say(|| format!("{weather:?}"));
        let net = Rc::new(RefCell::new(net));
        let now = Nanos(net.borrow().now);
        let worker = |number: usize| {
            let hatch = &hatches.workers[number];
            let parts = Parts {
                hatch: Arc::clone(hatch),
                hatches: Arc::clone(&hatches),
                process: Arc::clone(&process),
                sessions_max: weather.sessions_max,
                buffers: u32::from(weather.buffers),
                seed: seed ^ number as u64,
            };
            Worker::new(FakeKernel::new(Rc::clone(&net), number, hatch), parts, now)
        };
        let workers = (0..weather.workers).map(worker).collect();
        Run {
            net,
            hatches,
            workers,
            stopped: vec![false; weather.workers],
        }
    }

    /// A worker may be done by what another has done.
    fn stop_who_is_done(&mut self) {
        for (worker, stopped) in self.workers.iter_mut().zip(&mut self.stopped) {
            if worker.is_done() && !std::mem::replace(stopped, true) {
                worker.stop();
                worker.kernel().submit_the_rest();
            }
        }
    }

    /// One turn of one worker: of one that is awake or has to be woken, or of the first that will be.
    fn turn(&mut self) {
        let number = match self.workers.len() {
            1 => 0,
            _ => self.next_awake(),
        };
        self.turn_of(number);
        self.stop_who_is_done();
    }

    fn next_awake(&mut self) -> usize {
        loop {
            let mut awake = Vec::new();
            for (number, worker) in self.workers.iter_mut().enumerate() {
                if !worker.is_done() && worker.kernel().stirs() {
                    awake.push(number);
                }
            }
            let mut net = self.net.borrow_mut();
            if !awake.is_empty() {
                return net.random.pick(&awake);
            }
            let sleeps = self.workers.iter_mut().filter(|worker| !worker.is_done());
            let sleeps = sleeps.filter_map(|worker| worker.kernel().asleep_until);
            let deadline = sleeps.min().unwrap_or(u64::MAX);
            let next = net.next_event().unwrap_or(u64::MAX).min(deadline);
            net.audit(next);
            if next == u64::MAX {
                net.fail("all workers sleep for ever");
            }
            let rate = net.weather.early_wake;
            if net.random.chance(rate) {
                net.hit(Fault::EarlyWake);
                drop(net);
                let number = self.workers.iter().position(|it| !it.is_done());
                let number = number.unwrap_or(0);
                self.workers[number].kernel().wake();
                return number;
            }
            net.advance(next);
        }
    }

    fn turn_of(&mut self, number: usize) {
        let worker = &mut self.workers[number];
        note_states(worker);
        let net = Rc::clone(&self.net);
        let clock = move || {
            let mut net = net.borrow_mut();
            net.now += 100;
            Nanos(net.now)
        };
        worker.kernel().begin_turn();
        worker.turn(&clock);
        worker.kernel().end_turn();
        let waiting = who_waits(worker);
        let sessions = worker.sessions() as u32;
        let buffers_free = worker.kernel().buffers_unused();
        let mut net = self.net.borrow_mut();
        net.counts.turns += 1;
        net.standing[number] = Standing {
            sessions,
            buffers_free,
        };
        while let Some(record) = self.hatches.workers[number].journal.pop() {
            net.check_record(number, &record);
        }
        net.note_waiting(number, &waiting);
        net.with_office(Office::note_breakers);
        net.say(|| format!("  w{number} has {sessions} sessions"));
        net.check_counters();
    }

    fn drain(&mut self) {
        {
            let mut net = self.net.borrow_mut();
            net.leaving = true;
            if net.random.chance(500) {
                net.stay_for_long();
            }
            if net.random.chance(300) {
                net.storm();
            }
            net.with_office(Office::drain);
        }
        let mut turns = 0;
        let began = self.net.borrow().now;
        while !self.workers.iter().all(Worker::is_done) {
            self.turn();
            turns += 1;
            let net = self.net.borrow();
            if turns > LAST_TURNS_MAX || net.now - began > 3_000_000_000 {
                net.fail(&format!(
                    "does not end: {turns} turns after the drain began"
                ));
            }
        }
    }

    fn end(mut self) -> Counts {
        for (number, worker) in self.workers.iter_mut().enumerate() {
            check_worker(worker.kernel(), &self.hatches.workers[number]);
        }
        let given: u64 = self
            .hatches
            .workers
            .iter()
            .map(|hatch| hatch.counters.transfers_given.read())
            .sum();
        let mut net = self.net.borrow_mut();
        for _ in 0..given {
            net.hit(Fault::Transferred);
        }
        let refused: u64 = net
            .office()
            .listeners
            .iter()
            .flat_map(|seat| &seat.shared.workers)
            .map(|own| own.refused[Refusal::SourceLimit.index()].read())
            .sum();
        net.note_source_refusals(refused);
        net.note_handouts();
        net.check_all_returned();
        net.counts.clone()
    }
}

/// The sessions of this worker that wait for a backend now.
fn who_waits(worker: &mut Worker<FakeKernel>) -> BTreeSet<u64> {
    let mut waiting = BTreeSet::new();
    for slot in 0..worker.kernel().entries.len() {
        let entry = &worker.kernel().entries[slot];
        let (key, client) = (entry.key, entry.client);
        let session = key.and_then(|key| worker.session(key));
        if session.is_some_and(|session| session.phase() == Phase::Waiting) {
            let session = worker.kernel().net().conns[client].session;
            waiting.extend(session.map(|(_, number)| number));
        }
    }
    waiting
}

/// Notes where each session is, so that the kernel can say in which state an event came.
fn note_states(worker: &mut Worker<FakeKernel>) {
    for slot in 0..worker.kernel().entries.len() {
        let Some(key) = worker.kernel().entries[slot].key else {
            continue;
        };
        let state = worker.session(key).map(|session| {
            let routes = Side::BOTH.map(|side| session.pump(side).route());
            (session.phase(), routes)
        });
        worker.kernel().entries[slot].state = state;
    }
}
