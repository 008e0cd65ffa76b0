//! One seed from start to end: workers turn by turn, then the drain, then the accounts.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ringway::handoff::Hatches;
use ringway::ids::{ConnectFailure, Drop, Nanos, WorkerId};
use ringway::worker::{Parts, Worker};

use super::kernel::FlowKernel;
use super::office::Office;
use super::world::{Lie, Seen, World};

const MILLISECOND: u64 = 1_000_000;
/// How late the end of a silent flow may come: a timer's grain, and how long nobody turned.
const LATE_NS: u64 = 100 * MILLISECOND;

struct Run {
    world: Rc<RefCell<World>>,
    hatches: Arc<Hatches>,
    workers: Vec<Worker<FlowKernel>>,
    stopped: Vec<bool>,
    /// Of all records: from clients, from backends.
    recorded: [u64; 2],
}

/// Runs a seed for so many turns, then drains. Panics if something is not as it must be.
pub fn run(seed: u64, turns: u64, lie: Option<Lie>, tracing: bool) -> Seen {
    let world = World::new(seed, lie, tracing);
    let hatches = Arc::clone(&world.office().hatches);
    let process = Arc::clone(&world.office().process);
    let (count, sessions_max) = (world.weather.workers, world.weather.sessions_max);
    let now = Nanos(world.now);
    let world = Rc::new(RefCell::new(world));
    let worker = |number: usize| {
        let hatch = &hatches.workers[number];
        let parts = Parts {
            hatch: Arc::clone(hatch),
            hatches: Arc::clone(&hatches),
            process: Arc::clone(&process),
            sessions_max,
            buffers: 4,
            seed: seed ^ number as u64,
        };
        Worker::new(
            FlowKernel::new(Rc::clone(&world), number, hatch),
            parts,
            now,
        )
    };
    let mut run = Run {
        workers: (0..count).map(worker).collect(),
        stopped: vec![false; count],
        recorded: [0; 2],
        world: Rc::clone(&world),
        hatches: Arc::clone(&hatches),
    };
    world.borrow_mut().with_office(|office, _| office.post());
    for _ in 0..turns {
        run.turn();
    }
    run.drain();
    run.end()
}

impl Run {
    fn turn(&mut self) {
        let number = self.next_awake();
        let blamed = self.blamed(number);
        let worker = &mut self.workers[number];
        let world = Rc::clone(&self.world);
        let clock = move || {
            let mut world = world.borrow_mut();
            world.now += 100;
            Nanos(world.now)
        };
        worker.turn(&clock);
        worker.kernel().check_buffers();
        while let Some(record) = self.hatches.workers[number].journal.pop() {
            let [requests, answers] = record.datagrams.expect("the record of a flow");
            self.recorded[0] += requests;
            self.recorded[1] += answers;
        }
        self.check_flows(number);
        self.check_blame(number, &blamed);
        for (worker, stopped) in self.workers.iter_mut().zip(&mut self.stopped) {
            if worker.is_done() && !std::mem::replace(stopped, true) {
                worker.stop();
                worker.kernel().submit();
            }
        }
    }

    /// How often each backend was held to refuse flows of this worker.
    fn blamed(&self, number: usize) -> Vec<u64> {
        let world = self.world.borrow();
        let backends = world.office().backends.iter();
        let refused = backends.map(|seat| {
            let counters = seat.shared.of(WorkerId(number as u16));
            counters.connect_failures[ConnectFailure::Refused.index()].read()
        });
        refused.collect()
    }

    /// Nobody is blamed for what another one's host has said.
    fn check_blame(&mut self, number: usize, before: &[u64]) {
        let after = self.blamed(number);
        let kernel = self.workers[number].kernel();
        for (place, (before, after)) in before.iter().zip(&after).enumerate() {
            if after - before > kernel.told[place] {
                kernel.fail(&format!(
                    "backend {place} is blamed for another: {:?}",
                    kernel.told
                ));
            }
        }
    }

    fn next_awake(&mut self) -> usize {
        loop {
            let mut awake = Vec::new();
            for (number, worker) in self.workers.iter_mut().enumerate() {
                if !worker.is_done() && worker.kernel().stirs() {
                    awake.push(number);
                }
            }
            let mut world = self.world.borrow_mut();
            let spent = world.random.pick(&[300, 5_000, 100_000]);
            let now = world.now + world.random.below(spent);
            world.advance(now);
            if !awake.is_empty() {
                return world.random.pick(&awake);
            }
            let next = world.next_event();
            drop(world);
            let sleepers = self.workers.iter_mut().filter(|worker| !worker.is_done());
            let wakes = sleepers.map(|worker| worker.kernel().asleep_until).min();
            let next = wakes.unwrap_or(u64::MAX).min(next);
            let mut world = self.world.borrow_mut();
            if next == u64::MAX {
                world.fail("all workers sleep for ever");
            }
            world.advance(next);
        }
    }

    /// Flows end when they are to end.
    fn check_flows(&mut self, number: usize) {
        let (now, rules) = {
            let world = self.world.borrow();
            (world.now, world.office().rules)
        };
        let kernel = self.workers[number].kernel();
        for (slot, way) in &kernel.ways {
            let key = kernel
                .known
                .iter()
                .find(|(key, _)| key.slot.0 == *slot && key.generation == way.generation);
            let Some((key, known)) = key else {
                continue;
            };
            let heard = known.caller.and_then(|it| kernel.heard_at.get(&it));
            let moved_at = known.moved_at.max(heard.copied().unwrap_or(0));
            if now > moved_at + rules.idle_ns + LATE_NS {
                kernel.fail(&format!("{key:?} is silent for too long: {known:?}"));
            }
            if rules.responses > 0 && known.answers >= u64::from(rules.responses) {
                kernel.fail(&format!("{key:?} had its last answer: {known:?}"));
            }
        }
    }

    fn drain(&mut self) {
        {
            let mut world = self.world.borrow_mut();
            world.leaving = true;
            world.with_office(Office::drain);
        }
        let began = self.world.borrow().now;
        while !self.workers.iter().all(Worker::is_done) {
            self.turn();
            let world = self.world.borrow();
            if world.now > began + 2_000 * MILLISECOND {
                world.fail("does not end");
            }
        }
    }

    /// All that was lent is back, and all accounts say the same.
    fn end(mut self) -> Seen {
        let mut total = Total::default();
        for worker in &mut self.workers {
            let kernel = worker.kernel();
            kernel.submit();
            kernel.check_buffers();
            if !kernel.ways.is_empty() {
                kernel.fail(&format!("sockets are left: {:?}", kernel.ways));
            }
            for side in 0..2 {
                total.received[side] += kernel.received[side];
                total.passed[side] += kernel.passed[side];
            }
            total.unowned += kernel.unowned;
        }
        total.recorded = self.recorded;
        let mut world = self.world.borrow_mut();
        total.add_counters(&world, self.workers.len());
        total.check(&world);
        check_places(&world);
        world.seen.flows = total.flows;
        world.seen.passed = total.passed;
        world.seen.clone()
    }
}

/// Datagrams from clients and from backends, as different parties have counted them.
#[derive(Default)]
struct Total {
    received: [u64; 2],
    passed: [u64; 2],
    counted: [u64; 2],
    recorded: [u64; 2],
    turned_away: u64,
    dropped: u64,
    /// Of sockets that were gone before anybody looked.
    unowned: u64,
    flows: u64,
}

impl Total {
    fn add_counters(&mut self, world: &World, workers: usize) {
        for listener in &world.office().listeners {
            for worker in 0..workers {
                let counters = listener.of(WorkerId(worker as u16));
                self.counted[0] += counters.datagrams_in.read();
                self.counted[1] += counters.datagrams_out.read();
                self.flows += counters.flows_total.read();
                if counters.flows_active.read() > 0 {
                    world.fail("flows are active after the end");
                }
                let drops = &counters.drops;
                let before = [
                    Drop::NoBackend,
                    Drop::Denied,
                    Drop::Limited,
                    Drop::Overload,
                    Drop::TableFull,
                    Drop::Shutdown,
                ];
                let before = before.iter().map(|why| drops[why.index()].read());
                self.turned_away += before.sum::<u64>();
                self.dropped += drops.iter().map(|it| it.read()).sum::<u64>();
            }
        }
    }

    fn check(&self, world: &World) {
        let agree = |what: &str, one: [u64; 2], other: [u64; 2]| {
            if one != other {
                world.fail(&format!("{what}: {one:?} and {other:?}"));
            }
        };
        agree("passed on and counted", self.passed, self.counted);
        agree("counted and recorded", self.counted, self.recorded);
        // Whatever came from a client was passed on, or its end is in one of the reasons.
        let away = self.received[0] - self.passed[0];
        if self.turned_away > away || away > self.dropped + self.unowned {
            world.fail(&format!(
                "{away} were not passed on; {} to {} are accounted for",
                self.turned_away, self.dropped
            ));
        }
    }
}

fn check_places(world: &World) {
    let office = world.office();
    let of_backends = office.backends.iter().map(|seat| {
        let workers = seat.shared.workers.iter();
        let active: u32 = workers.map(|it| it.active.load(Ordering::Relaxed)).sum();
        active + seat.shared.capacity.used()
    });
    let of_listeners = office.listeners.iter().map(|it| it.capacity.used());
    let held = of_backends.chain(of_listeners).sum::<u32>()
        + office.process.used()
        + office.pool.flows.used();
    if held > 0 {
        world.fail(&format!("{held} places are still held"));
    }
}
