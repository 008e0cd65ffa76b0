//! A turn of the fake kernel: time is spent, what is queued is submitted, and the worker sleeps until a completion comes.
//! Here is noticed who never sleeps.

use ringway::uring::{Outcome, Patience};

use super::counts::Fault;
use super::kernel::FakeKernel;

impl FakeKernel {
    pub fn take_turn(&mut self, patience: Patience, outcomes: &mut Vec<Outcome>) {
        self.free.append(&mut self.returned);
        self.spend_time();
        self.enter();
        self.slept |= match patience {
            Patience::None => false,
            Patience::Nanoseconds(nanoseconds) => nanoseconds >= 100_000,
            Patience::Endless => true,
        };
        let awake = patience == Patience::None || !self.completions.is_empty() || self.woken;
        if !awake {
            self.check_sleep();
            let until = match patience {
                Patience::Nanoseconds(nanoseconds) => self.net().now + nanoseconds,
                _ => u64::MAX,
            };
            if self.net().weather.workers > 1 {
                self.asleep_until = Some(until);
                return;
            }
            self.sleep(until);
        }
        self.woken = false;
        self.collect(outcomes);
        self.busy |= !outcomes.is_empty();
    }

    pub fn spend_time(&mut self) {
        let mut net = self.net_mut();
        let mut spent = net.random.between(300, 8_000);
        let (stall, overflow) = (net.weather.stall, net.weather.overflow);
        if net.random.chance(stall) {
            net.hit(Fault::WorkerStalled);
            spent += net.random.below(40_000_000);
        }
        let overflowed = net.random.chance(overflow);
        if overflowed {
            net.hit(Fault::Overflow);
        }
        let moment = net.now + spent;
        net.advance(moment);
        drop(net);
        self.overflowed |= overflowed;
    }

    /// The answer of a whole send ends no sleep: who has more behind it, or has it to close, must not wait for that.
    fn check_sleep(&self) {
        let net = self.net();
        for flight in &self.flights {
            let sink = self.end(flight.stream).conn;
            let whole = flight.result == Some(Ok(flight.parcel.bytes()));
            let Some(source) = net.conns[sink].partner.filter(|_| whole) else {
                continue;
            };
            let (source, sink) = (&net.conns[source], &net.conns[sink]);
            let over = [source, sink].iter().any(|it| it.is_lost() || it.leaving);
            if source.taken > sink.accepted && !over {
                net.fail(&format!(
                    "sleeps while {} bytes wait behind a send that is done: {source:?}",
                    source.taken - sink.accepted
                ));
            }
        }
    }

    /// Sleeps until a completion comes, or `until`.
    fn sleep(&mut self, until: u64) {
        let rate = self.net().weather.early_wake;
        if self.chance(rate) {
            self.hit(Fault::EarlyWake);
            let mut net = self.net_mut();
            let next = net.next_event().unwrap_or(until).min(until);
            let some = net.random.below(20_000_000);
            let moment = next.min(net.now + some).max(net.now);
            net.audit(moment);
            net.advance(moment);
            return;
        }
        while self.completions.is_empty() && self.net().now < until {
            let mut net = self.net_mut();
            let next = net.next_event().unwrap_or(u64::MAX).min(until);
            net.audit(next);
            if next == u64::MAX {
                // Nothing will ever happen again; the driver knows whether that is well.
                return;
            }
            net.advance(next);
            let changed = net.changed;
            drop(net);
            if changed {
                self.run_tasks();
            }
        }
        if self.completions.is_empty() {
            // Timers are never early, and mostly late.
            let mut net = self.net_mut();
            let late = net.now + net.random.below(60_000);
            net.advance(late);
            drop(net);
            self.run_tasks();
        }
    }

    /// In a world of two workers: whether a sleeper has to be woken now.
    pub fn stirs(&mut self) -> bool {
        let Some(until) = self.asleep_until else {
            return true;
        };
        self.run_tasks();
        if self.completions.is_empty() && self.net().now < until {
            return false;
        }
        self.wake();
        true
    }

    pub fn wake(&mut self) {
        self.asleep_until = None;
        self.woken = true;
    }

    pub fn begin_turn(&mut self) {
        self.busy = false;
        self.slept = false;
    }

    /// A worker that neither sleeps nor does anything burns its core.
    pub fn end_turn(&mut self) {
        self.idle_turns = match self.busy || self.slept {
            true => 0,
            false => self.idle_turns + 1,
        };
        if self.idle_turns > 200 {
            self.fail("spins: 200 turns without sleep in which nothing happened");
        }
    }
}
