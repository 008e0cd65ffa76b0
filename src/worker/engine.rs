//! The worker and its loop. See the room's map for the order of a turn.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::handoff::{Capacity, Hatch, Hatches, Mail, Phase, Snapshot, Step};
use crate::ids::{ListenerId, Nanos, SessionKey, Side, Slot, StreamKey};
use crate::session::{Action, Event, Parcels, Slots, TcpSession, Timers};
use crate::sys::thread_cpu::thread_cpu_ns;
use crate::uring::{Incoming, Kernel, Outcome, Parcel, Patience};

use super::asking::Asking;
use super::flows::Flows;
use super::milestones::Rounds;
use super::spin::Spinner;
use super::tenant::Tenant;
use super::world::World;

/// How often accepting is tried again while something has run out, and CPU time is accounted.
const PULSE_NS: u64 = 20_000_000;

/// What a worker is made of besides its kernel.
#[derive(Debug)]
pub struct Parts {
    pub hatch: Arc<Hatch>,
    pub hatches: Arc<Hatches>,
    /// The process's limit of sessions, over all workers.
    pub process: Arc<Capacity>,
    pub sessions_max: u32,
    /// Provided buffers in all: the most parcels there can be.
    pub buffers: u32,
    pub seed: u64,
}

#[derive(Debug)]
pub struct Worker<K> {
    pub(super) kernel: K,
    pub(super) hatch: Arc<Hatch>,
    pub(super) hatches: Arc<Hatches>,
    pub(super) process: Arc<Capacity>,
    pub(super) world: World,
    pub(super) slots: Slots<Tenant>,
    pub(super) parcels: Parcels<Parcel>,
    pub(super) timers: Timers,
    pub(super) flows: Flows,
    pub(super) flows_max: u32,
    pub(super) now: Nanos,
    pub(super) actions: Vec<Action<Parcel>>,
    /// Moves that go on next turn.
    pub(super) yielded: VecDeque<(SessionKey, Side)>,
    /// Receives that found no buffer, in the order in which they did.
    pub(super) starved: VecDeque<StreamKey>,
    /// Accepted sockets for which there is no room yet: whose client, and the port it came to.
    pub(super) parked: VecDeque<(ListenerId, u16, Incoming)>,
    pub(super) accept_paused: bool,
    /// When a pause may end.
    pub(super) accept_retry_at: Nanos,
    /// Sockets that wait for their accept's last answer before their queue is served and they are closed.
    pub(super) retiring: Vec<super::world::LocalSocket>,
    /// Something waits for the answer of a send of this turn.
    pub(super) hurry: bool,
    /// When this worker looks after those who wait for a backend's turn.
    pub(super) turn_due: Nanos,
    pub(super) sessions_begun: u64,
    pub(super) rounds: Rounds,
    /// What the office asks, as far as it is answered.
    pub(super) asking: Option<Asking>,
    random: u64,
    outcomes: Vec<Outcome>,
    due: Vec<Slot>,
    mail_pending: bool,
    spinner: Spinner,
    accounted_at: Nanos,
}

impl<K: Kernel> Worker<K> {
    #[must_use]
    pub fn new(kernel: K, parts: Parts, now: Nanos) -> Worker<K> {
        let sessions = parts.sessions_max as usize;
        Worker {
            kernel,
            world: World::new(parts.hatch.worker),
            hatch: parts.hatch,
            hatches: parts.hatches,
            process: parts.process,
            slots: Slots::new(parts.sessions_max),
            parcels: Parcels::new(parts.buffers),
            timers: Timers::new(parts.sessions_max, now),
            flows: Flows::new(now),
            flows_max: parts.sessions_max,
            now,
            actions: Vec::with_capacity(256),
            yielded: VecDeque::with_capacity(sessions.min(4096)),
            starved: VecDeque::with_capacity(sessions.min(4096)),
            parked: VecDeque::with_capacity(1024),
            accept_paused: false,
            accept_retry_at: Nanos::ZERO,
            retiring: Vec::new(),
            hurry: false,
            turn_due: Nanos::NEVER,
            sessions_begun: 0,
            rounds: Rounds::default(),
            asking: None,
            random: parts.seed | 1,
            outcomes: Vec::with_capacity(8192),
            due: Vec::with_capacity(1024),
            mail_pending: true,
            spinner: Spinner::default(),
            accounted_at: now,
        }
    }

    /// Runs until the process drains and the last session has ended.
    pub fn run(&mut self, time: impl Fn() -> Nanos) {
        while !self.is_done() {
            self.turn(&time);
        }
        self.stop();
    }

    /// The last thing a worker does: it tells that it is gone, and passes on what was granted to it in vain.
    pub fn stop(&mut self) {
        self.account(true);
        self.hatch.roll.at(Step::Stopped);
        self.hatch.counters.stopped.set(1);
        self.take_grants();
        self.leave_turns_to_others();
    }

    /// Whether there is nothing left to do, ever. A worker that does not know yet that the process drains may still hand
    /// over a client.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let draining = matches!(self.world.phase, Phase::Draining { .. });
        draining
            && self.hatches.all_have(self.hatch.counters.generation.read())
            && self.hatch.transfers.is_empty()
            && self.slots.is_empty()
            && self.flows.is_empty()
            && self.parked.is_empty()
            && self.retiring.is_empty()
            && !self.mail_pending
    }

    /// Sessions in the table.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.slots.len()
    }

    /// A session as it stands, for those who look on.
    #[must_use]
    pub fn session(&self, key: SessionKey) -> Option<&TcpSession> {
        let (own, tenant) = self.slots.at(key.slot.0)?;
        (own == key).then_some(&tenant.session)
    }

    #[must_use]
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    pub fn turn(&mut self, time: &impl Fn() -> Nanos) {
        let patience = self.patience();
        self.hurry = false;
        let mut outcomes = std::mem::take(&mut self.outcomes);
        self.hatch.roll.at(Step::Kernel);
        let spin_ns = self.spinner.budget_ns(self.world.spin, patience);
        if spin_ns > 0 {
            self.spinner
                .spin(&mut self.kernel, spin_ns, patience, &mut outcomes, time);
        } else {
            self.kernel.turn(patience, &mut outcomes);
        }
        self.now = time();
        self.spinner.note_wait(patience, self.now);
        let mut rung = self.mail_pending;
        self.hatch.roll.at(Step::Answers);
        self.begin_fair_turn();
        for outcome in outcomes.drain(..) {
            match outcome {
                Outcome::Stream(stream, answer) => self.on_answer(stream, answer),
                Outcome::Accepted(socket, incoming) => self.on_accepted(socket, incoming),
                Outcome::AcceptEnded(socket, why) => self.on_accept_ended(socket, why),
                Outcome::Doorbell => rung = true,
                datagrams => self.on_datagrams(datagrams),
            }
        }
        self.outcomes = outcomes;
        self.hatch.roll.at(Step::Timers);
        self.fire_timers();
        self.serve_who_waits_for_a_turn();
        self.hatch.roll.at(Step::Flows);
        self.fire_flow_timers();
        self.resume_paused_sockets();
        self.trim_flow_sockets();
        self.hatch.roll.at(Step::Streams);
        self.go_on_with_yielded();
        self.feed_starved();
        if rung {
            self.hatch.roll.at(Step::Bell);
            self.answer_bell();
        }
        if rung || self.asking.is_some() {
            self.answer_asks();
        }
        self.hatch.roll.at(Step::Accepting);
        self.retry_accepting();
        self.report_progress();
        self.account(false);
    }

    /// How long this turn may sleep.
    fn patience(&self) -> Patience {
        let fed = !self.starved.is_empty() && self.kernel.buffers_free() > 0;
        let busy = self.hurry || self.mail_pending || self.asking.is_some();
        if busy || !self.yielded.is_empty() || fed {
            return Patience::None;
        }
        let mut next = self.timers.next().min(self.turn_due).min(self.flows.next());
        if self.world.report_ns > 0 && !self.slots.is_empty() {
            next = next.min(self.rounds.due);
        }
        if self.accept_paused {
            next = next.min(self.now.after(PULSE_NS));
        }
        match next {
            Nanos::NEVER => Patience::Endless,
            next => Patience::Nanoseconds(next.since(self.now).max(1)),
        }
    }

    fn fire_timers(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.timers.advance(self.now, &mut due);
        for slot in due.drain(..) {
            let Some((key, _)) = self.slots.at(slot.0) else {
                continue;
            };
            self.prove_if_due(key);
            let Some(tenant) = self.slots.get_mut(key) else {
                continue;
            };
            tenant.timer_at = Nanos::NEVER;
            if self.now >= tenant.kill_at {
                tenant.kill_at = Nanos::NEVER;
                let end = tenant.kill_as;
                self.deliver(key, Event::Kill(end));
            } else {
                self.deliver(key, Event::Tick);
            }
        }
        self.due = due;
    }

    fn go_on_with_yielded(&mut self) {
        for _ in 0..self.yielded.len() {
            if let Some((key, side)) = self.yielded.pop_front() {
                self.deliver(key, Event::Again(side));
            }
        }
    }

    /// Receives that starved go on in their order, as far as buffers reach.
    fn feed_starved(&mut self) {
        for _ in 0..self.starved.len().min(self.kernel.buffers_free()) {
            if let Some(stream) = self.starved.pop_front() {
                self.deliver(stream.session, Event::Resume(stream.side));
            }
        }
    }

    fn answer_bell(&mut self) {
        self.mail_pending = false;
        match self.hatch.take() {
            Mail::Nothing => {}
            Mail::Busy => self.mail_pending = true,
            Mail::News(snapshot) => self.take_over(&snapshot),
        }
        self.take_transfers();
        self.take_grants();
        self.take_cancelled();
        self.carry_out_evictions();
        self.serve_all_waiters();
        self.hatch.roll.answer();
    }

    fn take_over(&mut self, snapshot: &Arc<Snapshot>) {
        let requeue = self.waiting_in_replaced_queues(snapshot);
        let (retiring, parked) = (&self.retiring, &self.parked);
        self.world.take_over(snapshot, |listener| {
            let mut retiring = retiring.iter();
            retiring.any(|local| local.listener == listener)
                || parked.iter().any(|(of, ..)| *of == listener)
        });
        self.adopt_new_limits();
        self.reconcile_sockets(snapshot);
        self.reconcile_datagrams(snapshot);
        self.requeue(requeue);
        self.plan_shutdown();
        self.hatch.counters.generation.set(snapshot.generation);
        if matches!(self.world.phase, Phase::Draining { .. }) {
            // Whoever has nothing left waits for all others to know.
            self.hatches.ring();
        }
    }

    /// Keeps the worker's own numbers fresh: cheap ones each turn, dear ones at a pulse.
    fn account(&mut self, last: bool) {
        let counters = &self.hatch.counters;
        counters.turns.add(1);
        counters.sessions.set(self.slots.len() as u64);
        counters.buffers_held.set(self.kernel.buffers_held() as u64);
        if self.kernel.overflowed() {
            counters.cq_overflow.add(1);
        }
        if last || self.now.since(self.accounted_at) >= PULSE_NS {
            self.accounted_at = self.now;
            counters.busy_ns.set(thread_cpu_ns());
            counters.pipes_open.set(self.kernel.pipes_open() as u64);
            counters.memory_stashes.set(self.kernel.memory_stashes());
            counters.stale_answers.set(self.kernel.stale_answers());
            self.count_overruns();
        }
    }

    /// Uniform random bits (SplitMix64, Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }
}
