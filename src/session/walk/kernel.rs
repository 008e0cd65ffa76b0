//! What may happen next: every step that the peers, the kernel, the clock or an operator could take in a state, and which
//! of them will surely be taken some time (nobody waits for the others).

use crate::ids::{Condition, ConnectFailure, End, Fault, Interest, Nanos, ReceiveEnd, Side};

use super::super::event::{Event, Look};
use super::super::rules::WATCH_NS;
use super::super::tcp::{Operation, Phase};
use super::plan::{Fullness, Plan};
use super::world::{ASKED_MAX, NOW, Serial, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    PeerSends(Side),
    PeerFins(Side),
    PeerResets(Side),
    PeerLeaves(Side),
    TimePasses,
    Received(Side, bool),
    Ended(Side, ReceiveEnd),
    Resume(Side),
    Sent(Side),
    SentShort(Side, u8),
    SendBroken(Side),
    Ready(Side, Interest),
    PollEnded(Side, Interest),
    Again(Side),
    Connected,
    ConnectFailed(ConnectFailure),
    ConnectCancelled,
    Granted,
    /// Those who were busy for the client are done.
    Served,
    Tick,
    Kill,
}

impl World {
    /// Appends every step that is possible now.
    pub(super) fn steps(&self, plan: &Plan, steps: &mut Vec<Step>) {
        if self.is_done() {
            return;
        }
        for side in Side::BOTH {
            if self.see(side).open && self.see(side).connected {
                self.peer_steps(side, plan, steps);
                self.receive_steps(side, plan, steps);
                self.send_steps(side, plan, steps);
            }
            self.poll_steps(side, steps);
            if self.see(side).starved {
                steps.push(Step::Resume(side));
            }
            if self.see(side).yielded {
                steps.push(Step::Again(side));
            }
        }
        self.connect_steps(steps);
        self.clock_steps(plan, steps);
        if self.queued {
            steps.push(Step::Granted);
        }
        if self.busy {
            steps.push(Step::Served);
        }
        if plan.kills {
            steps.push(Step::Kill);
        }
    }

    fn peer_steps(&self, side: Side, plan: &Plan, steps: &mut Vec<Step>) {
        let (wire, habits) = (self.see(side), plan.habits[side.index()]);
        let closing = matches!(self.session.phase, Phase::Closing { .. });
        let speaking = !wire.fin && !wire.reset && !closing;
        if speaking && wire.sent < habits.parcels {
            steps.push(Step::PeerSends(side));
        }
        if speaking && habits.fin {
            steps.push(Step::PeerFins(side));
        }
        if habits.reset && !wire.reset && !(wire.fin && wire.finished) {
            steps.push(Step::PeerResets(side));
        }
        if habits.unix && !wire.gone && !closing {
            steps.push(Step::PeerLeaves(side));
        }
    }

    fn receive_steps(&self, side: Side, plan: &Plan, steps: &mut Vec<Step>) {
        let wire = self.see(side);
        if wire.receive == Operation::Off {
            return;
        }
        if wire.arrived > 0 {
            let full = plan.habits[side.index()].full;
            if full != Fullness::Always {
                steps.push(Step::Received(side, false));
            }
            if full != Fullness::Never {
                steps.push(Step::Received(side, true));
            }
        } else if wire.fin || (wire.reset && !wire.error) {
            steps.push(Step::Ended(side, ReceiveEnd::Fin));
        } else if wire.reset {
            steps.push(Step::Ended(side, ReceiveEnd::Broken(Fault::Reset)));
        }
        if wire.receive == Operation::Stopping || plan.halts {
            steps.push(Step::Ended(side, ReceiveEnd::Stopped));
        }
        if plan.starves {
            steps.push(Step::Ended(side, ReceiveEnd::NoBuffer));
        }
    }

    fn send_steps(&self, side: Side, plan: &Plan, steps: &mut Vec<Step>) {
        let wire = self.see(side);
        let Some(flight) = wire.flight else { return };
        if wire.is_deaf() {
            steps.push(Step::SendBroken(side));
        }
        if wire.gone {
            return;
        }
        steps.push(Step::Sent(side));
        if plan.stalls {
            for units in 0..flight.parcel.units {
                steps.push(Step::SentShort(side, units));
            }
        }
    }

    fn poll_steps(&self, side: Side, steps: &mut Vec<Step>) {
        let wire = self.see(side);
        let watched = if wire.leave {
            Interest::Leave
        } else {
            Interest::HangUp
        };
        let hung_up = wire.is_hung_up();
        let mark = if wire.raised { 2 } else { 1 };
        for (interest, operation, ready) in [
            (watched, wire.watch, hung_up || (wire.leave && wire.fin)),
            (
                Interest::Readable,
                wire.readable,
                hung_up || wire.fin || wire.arrived >= mark,
            ),
            (Interest::Writable, wire.writable, true),
        ] {
            if operation != Operation::Off && ready {
                steps.push(Step::Ready(side, interest));
            }
            if operation == Operation::Stopping {
                steps.push(Step::PollEnded(side, interest));
            }
        }
    }

    fn connect_steps(&self, steps: &mut Vec<Step>) {
        if self.connecting == Operation::Off {
            return;
        }
        steps.push(Step::Connected);
        steps.push(Step::ConnectFailed(ConnectFailure::Refused));
        if self.connecting == Operation::Stopping {
            steps.push(Step::ConnectCancelled);
        }
    }

    fn clock_steps(&self, plan: &Plan, steps: &mut Vec<Step>) {
        let wake_at = self.session.wake_at();
        let hurried = self
            .wires
            .iter()
            .any(|wire| wire.flight.is_some_and(|it| it.sure));
        if wake_at <= NOW {
            steps.push(Step::Tick);
        } else if plan.time && wake_at != Nanos::NEVER && !hurried {
            steps.push(Step::TimePasses);
        }
    }

    /// Whether this step will come, whatever else does not. Peers owe nothing, and time that only ends a session by a
    /// deadline does not count: a session must not need it to get on.
    pub(super) fn is_owed(&self, step: Step) -> bool {
        match step {
            Step::PeerSends(_)
            | Step::PeerFins(_)
            | Step::PeerResets(_)
            | Step::PeerLeaves(_)
            | Step::Kill
            | Step::Granted
            | Step::Served => false,
            Step::TimePasses => self.session.delivering || self.pause_ns() <= WATCH_NS,
            Step::Sent(side) | Step::SentShort(side, _) | Step::SendBroken(side) => {
                self.see(side).flight.is_some_and(|flight| flight.sure)
            }
            // A receive that was not cancelled ends by itself only now and then, and a connect may hang.
            Step::Ended(side, ReceiveEnd::Stopped | ReceiveEnd::NoBuffer) => {
                self.see(side).receive == Operation::Stopping
            }
            Step::Connected | Step::ConnectFailed(_) => self.connecting == Operation::Stopping,
            _ => true,
        }
    }

    /// How long nothing happens when time passes.
    fn pause_ns(&self) -> u64 {
        let wake_at = self.session.wake_at();
        if self.session.delivering && self.asked == ASKED_MAX {
            wake_at.max(self.flush_due).since(NOW)
        } else {
            wake_at.since(NOW)
        }
    }

    /// Takes a step as far as it is outside the session; returns what the session is told of it.
    pub(super) fn happen(&mut self, step: Step, plan: &Plan) -> Option<Event<Serial>> {
        match step {
            Step::PeerSends(side) => {
                self.wire(side).sent += 1;
                self.wire(side).arrived += 1;
            }
            Step::PeerFins(side) => self.wire(side).fin = true,
            Step::PeerResets(side) => {
                self.wire(side).reset = true;
                self.wire(side).error = true;
            }
            Step::PeerLeaves(side) => {
                self.wire(side).fin = true;
                self.wire(side).gone = true;
            }
            Step::TimePasses => self.let_pass(self.pause_ns()),
            _ => return Some(self.answer(step, plan)),
        }
        None
    }

    fn answer(&mut self, step: Step, plan: &Plan) -> Event<Serial> {
        match step {
            Step::Received(side, full) => Event::Received(side, self.read(side, full, plan)),
            Step::Ended(side, why) => {
                self.end_receive(side, why);
                Event::ReceiveEnded(side, why)
            }
            Step::Resume(side) => {
                self.wire(side).starved = false;
                Event::Resume(side)
            }
            Step::Sent(_) | Step::SentShort(..) | Step::SendBroken(_) => self.answer_send(step),
            Step::Ready(side, interest) => {
                *self.wire(side).poll(interest) = Operation::Off;
                let condition = self.wire(side).condition(interest);
                if matches!(condition, Condition::Broken(_)) {
                    self.note_break(side);
                }
                Event::Ready(side, interest, condition)
            }
            Step::PollEnded(side, interest) => {
                *self.wire(side).poll(interest) = Operation::Off;
                Event::PollEnded(side, interest)
            }
            Step::Again(side) => {
                self.wire(side).yielded = false;
                Event::Again(side)
            }
            Step::Granted => {
                self.queued = false;
                self.reserved = true;
                Event::Granted
            }
            Step::Served => {
                self.busy = false;
                self.served |= !self.session.is_closing();
                Event::Looked(Look::Served(End::BackendFin))
            }
            Step::Tick => Event::Tick,
            Step::Kill => {
                self.killed |= !self.session.is_closing();
                Event::Kill(End::Killed)
            }
            _ => self.answer_connect(step),
        }
    }

    fn answer_connect(&mut self, step: Step) -> Event<Serial> {
        self.connecting = Operation::Off;
        match step {
            Step::ConnectFailed(failure) => Event::ConnectFailed(failure),
            Step::ConnectCancelled => Event::ConnectCancelled,
            _ => {
                self.wire(Side::Backend).connected = true;
                self.last_bytes = NOW;
                Event::Connected
            }
        }
    }

    fn read(&mut self, side: Side, full: bool, plan: &Plan) -> Serial {
        if !self.session.is_closing() && !self.see(side.other()).break_told {
            self.last_bytes = NOW;
        }
        let wire = self.wire(side);
        wire.arrived -= 1;
        let parcel = Serial {
            from: side,
            first: wire.taken,
            units: plan.parcel_units,
            full,
        };
        wire.taken += plan.parcel_units;
        parcel
    }

    fn end_receive(&mut self, side: Side, why: ReceiveEnd) {
        let wire = self.wire(side);
        wire.receive = Operation::Off;
        match why {
            ReceiveEnd::Fin => self.note_end(side),
            ReceiveEnd::NoBuffer => wire.starved = true,
            ReceiveEnd::Stopped => {}
            ReceiveEnd::Broken(_) => {
                wire.error = false;
                self.note_break(side);
            }
        }
    }

    /// The session is told that a stream ended. That it was whole is true only if the peer ended it.
    pub(super) fn note_end(&mut self, side: Side) {
        // Silence is counted anew from an end of stream.
        if !self.session.is_closing() {
            self.last_bytes = NOW;
        }
        if self.see(side).fin {
            self.wire(side).fin_told = true;
            if self.first_fin.is_none() {
                self.first_fin = Some(side);
            }
        }
    }

    fn answer_send(&mut self, step: Step) -> Event<Serial> {
        let (Step::Sent(to) | Step::SentShort(to, _) | Step::SendBroken(to)) = step else {
            unreachable!("asked for sends only");
        };
        let flight = self.wire(to).flight.take().expect("a send is in flight");
        // Answers of sends come all together.
        if let Some(other) = &mut self.wire(to.other()).flight {
            other.sure = true;
        }
        let (parcel, from) = (flight.parcel, flight.parcel.from);
        match step {
            Step::SentShort(_, units) => {
                self.wire(from).passed += units;
                let rest = Serial {
                    first: parcel.first + units,
                    units: parcel.units - units,
                    ..parcel
                };
                Event::SentShort(to, rest)
            }
            Step::SendBroken(_) => {
                self.wire(from).lost += parcel.units;
                self.wire(to).error = false;
                self.note_break(to);
                Event::SendBroken(to, Fault::Reset)
            }
            _ => {
                self.wire(from).passed += parcel.units;
                if !self.session.is_closing() {
                    self.last_bytes = NOW;
                }
                Event::Sent(to)
            }
        }
    }
}
