//! What must hold in every state, of every decision to close, and of every end: judged by the shadow alone.

use crate::ids::{End, Nanos, OPS_PER_SESSION_MAX, Side};

use super::super::event::Event;
use super::super::rules::{PAUSE_NS, WATCH_NS};
use super::super::tcp::{Operation, Phase, TcpSession};
use super::carry::{Verdict, demand};
use super::plan::Plan;
use super::world::{NOW, Serial, World};

/// What a decision was made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Kill,
    NoBackend,
    NoRoomToWait,
    Look,
    Connect,
    Ready,
    ReceiveEnded,
    Tick,
    Other,
}

impl Cause {
    pub(super) fn of(event: &Event<Serial>) -> Cause {
        match event {
            Event::Kill(_) => Cause::Kill,
            Event::NoneOpen => Cause::NoBackend,
            Event::Queued(false) => Cause::NoRoomToWait,
            Event::Looked(_) => Cause::Look,
            Event::ConnectFailed(_) | Event::ConnectCancelled => Cause::Connect,
            Event::Ready(..) => Cause::Ready,
            Event::ReceiveEnded(Side::Client, _) => Cause::ReceiveEnded,
            Event::Tick => Cause::Tick,
            _ => Cause::Other,
        }
    }
}

impl World {
    /// Judges what the session has just decided, if it decided to close.
    pub(super) fn judge_decision(&mut self, cause: Cause, before: &TcpSession) -> Verdict<()> {
        if before.is_closing() {
            return Ok(());
        }
        let clean = matches!(self.session.end, Some(End::ClientFin | End::BackendFin));
        match (self.session.phase, self.session.end) {
            (Phase::Closing { reset: false }, _) => self.judge_whole(),
            (Phase::Done, _) if clean => self.judge_whole(),
            (Phase::Closing { reset: true } | Phase::Done, Some(end)) => {
                self.judge_cut(end, cause, before)
            }
            (Phase::Closing { .. } | Phase::Done, None) => Err("a cut has a reason".to_owned()),
            _ => Ok(()),
        }
    }

    fn judge_whole(&mut self) -> Verdict<()> {
        let whole = self.is_whole(Side::Client) && self.is_whole(Side::Backend);
        self.whole = whole || self.served;
        demand(
            self.whole,
            "only two whole streams, or who was served, end by end of stream",
        )
    }

    fn judge_cut(&self, end: End, cause: Cause, before: &TcpSession) -> Verdict<()> {
        demand(
            !self.is_whole(Side::Client) || !self.is_whole(Side::Backend),
            "whole streams do not end by reset",
        )?;
        let rules = &before.rules;
        let silent_ns = NOW.since(self.last_bytes);
        let client = self.see(Side::Client);
        let right = match end {
            End::Killed => cause == Cause::Kill,
            End::PrefaceInvalid => cause == Cause::Look,
            End::NoBackend => cause == Cause::NoBackend && rules.wait_timeout_ns == 0,
            End::WaitFull => cause == Cause::NoRoomToWait,
            End::WaitTimeout => cause == Cause::Tick && before.phase == Phase::Waiting,
            End::ConnectRefused | End::ConnectTimeout => {
                let spent = self.session.connect_ns_used >= rules.connect_budget_ns;
                cause == Cause::Connect && (spent || before.attempts >= rules.connect_attempts)
            }
            End::ClientGone => {
                let waiting = before.phase == Phase::Waiting;
                let left = client.arrived == 0 || rules.leave_on_fin;
                let told = cause == Cause::Ready || cause == Cause::ReceiveEnded;
                told && (client.is_deaf() || (waiting && client.fin && left))
            }
            End::Idle => cause == Cause::Tick && rules.idle_ns > 0 && silent_ns >= rules.idle_ns,
            End::HalfCloseTimeout => {
                let half_closed = self.wires.iter().any(|wire| wire.finished);
                cause == Cause::Tick && half_closed && silent_ns >= rules.half_close_ns
            }
            End::Lifetime => cause == Cause::Tick && NOW.since(self.opened) >= rules.lifetime_ns,
            End::ClientReset | End::BackendReset => {
                return self.judge_break(end, cause);
            }
            _ => false,
        };
        demand(
            right,
            "a session is cut for the reason it gives, and in time",
        )
    }

    /// A session that ends because a stream broke: what arrived before must have been delivered, unless the other side
    /// broke as well or did not take it in time.
    fn judge_break(&self, end: End, cause: Cause) -> Verdict<()> {
        let Some(broken) = self.broken else {
            return Err("nobody broke".to_owned());
        };
        let named = match broken {
            Side::Client => End::ClientReset,
            Side::Backend => End::BackendReset,
        };
        demand(end == named, "the side that broke first names the end")?;
        let source = self.see(broken);
        let passed = source.arrived == 0 && source.taken == source.passed;
        let delivered = passed && self.delivered;
        let deaf = self.see(broken.other()).break_told;
        let late = cause == Cause::Tick && self.flush_due <= NOW;
        demand(
            delivered || deaf || late,
            "what arrived before a reset is delivered first",
        )
    }

    pub(super) fn check_end(&self, end: End) -> Verdict<()> {
        let whole = self.whole;
        let first = match self.first_fin {
            Some(Side::Client) => Some(End::ClientFin),
            Some(Side::Backend) => Some(End::BackendFin),
            None => None,
        };
        if self.served {
            return demand(end == End::BackendFin, "who was served ends so");
        }
        demand(
            !whole || Some(end) == first,
            "a clean end is named by who ended first",
        )?;
        demand(
            whole || !matches!(end, End::ClientFin | End::BackendFin),
            "a cut session does not say that it ended clean",
        )?;
        demand(end != End::Internal, "an end has a reason")
    }

    /// Looks at a state in which all answers that come at once are in.
    pub(super) fn check_state(&mut self, plan: &Plan) -> Verdict<()> {
        let lines = self.make_canonical();
        if self.is_done() {
            demand(self.end.is_some(), "a session that is over says so")?;
            return demand(
                self.parcels.waiting() == 0,
                "no parcel is left in line at the end",
            );
        }
        demand(
            self.session.in_flight() == self.in_flight(),
            "the session knows what is in flight",
        )?;
        demand(
            self.in_flight() <= OPS_PER_SESSION_MAX,
            "no more operations than completion queues are sized for",
        )?;
        demand(
            self.queued == (self.session.phase == Phase::Waiting),
            "who waits is in the queue",
        )?;
        self.check_clock()?;
        self.check_held()?;
        for from in Side::BOTH {
            self.check_belief(from, plan)?;
            self.check_stream(from, &lines[from.index()])?;
            self.check_watched(from)?;
        }
        Ok(())
    }

    /// It is woken in time for what only a clock can end.
    fn check_clock(&self) -> Verdict<()> {
        let session = &self.session;
        let deadline = match session.phase {
            Phase::Preface => NOW.after(session.rules.preface_ns),
            Phase::Waiting | Phase::Pausing => {
                NOW.after(session.rules.wait_timeout_ns.max(PAUSE_NS))
            }
            Phase::Connecting if self.connecting == Operation::On => {
                NOW.after(session.rules.connect_timeout_ns)
            }
            Phase::Relaying if session.delivering => self.flush_due.min(NOW.after(WATCH_NS * 2)),
            Phase::Relaying if session.rules.idle_ns > 0 => self
                .flush_due
                .min(self.last_bytes.after(session.rules.idle_ns)),
            Phase::Relaying => self.flush_due,
            _ => Nanos::NEVER,
        };
        demand(
            session.wake_at() <= deadline,
            "a session is woken in time for its deadline",
        )
    }

    /// What the session believes of a side is so.
    fn check_belief(&self, side: Side, plan: &Plan) -> Verdict<()> {
        let (wire, socket, pump) = (
            self.see(side),
            &self.session.sockets[side],
            &self.session.pumps[side],
        );
        demand(wire.open == socket.open, "open is open")?;
        demand(
            wire.receive == socket.receive
                && wire.watch == socket.watch
                && wire.readable == socket.readable
                && wire.writable == socket.writable,
            "the session knows what runs on a socket",
        )?;
        demand(
            wire.starved == socket.starved,
            "the session knows that it waits for buffers",
        )?;
        demand(
            u32::from(wire.pipe.1) * plan.unit_bytes == pump.piped,
            "the session knows what the pipe holds",
        )?;
        demand(
            wire.yielded == pump.yielding && wire.raised == pump.mark.is_raised(),
            "the session knows whose turn it is, and the watermark",
        )?;
        demand(
            self.see(side.other()).flight.is_some() == pump.sending,
            "the session knows what is being sent",
        )
    }

    /// Every unit that was read is in one place, and they stand in order: passed on, being sent, in the pipe, in line.
    fn check_stream(&self, from: Side, line: &[Serial]) -> Verdict<()> {
        let wire = self.see(from);
        let mut next = wire.passed;
        let mut held = 0;
        let flight = self.see(from.other()).flight.map(|flight| flight.parcel);
        let pipe = (wire.pipe.1 > 0).then_some(wire.pipe);
        let places = flight
            .iter()
            .map(|parcel| (parcel.first, parcel.units))
            .chain(pipe)
            .chain(line.iter().map(|parcel| (parcel.first, parcel.units)));
        for (first, units) in places {
            demand(
                first == next,
                "what is held stands in order and without a gap",
            )?;
            next = first + units;
            held += units;
        }
        demand(
            line.iter().all(|parcel| parcel.from == from),
            "a parcel stands in its own direction's line",
        )?;
        demand(
            wire.taken == wire.passed + held + wire.lost,
            "every byte that was read is in exactly one place",
        )?;
        demand(
            wire.lost == 0 || self.session.is_closing() || self.see(from.other()).break_told,
            "bytes are thrown away only when their receiver broke or the session was cut",
        )
    }

    /// A reset must not go unseen: something tells of it now, or a watch is due.
    fn check_watched(&self, side: Side) -> Verdict<()> {
        let (wire, session) = (self.see(side), &self.session);
        if session.phase == Phase::Preface && side == Side::Client && !self.busy {
            return demand(
                wire.readable != Operation::Off || session.ask_due != Nanos::NEVER,
                "first bytes are noticed before the time is over",
            );
        }
        if session.phase != Phase::Relaying || self.broken.is_some() || wire.exchanged() {
            return Ok(());
        }
        let busy = session.pumps[side].sending || session.pumps[side].yielding;
        let attended = [wire.receive, wire.watch, wire.readable, wire.writable]
            .iter()
            .any(|&operation| operation != Operation::Off);
        demand(
            attended || busy || session.sockets[side].hung_up || session.watch_due != Nanos::NEVER,
            "a reset of either side is noticed",
        )
    }

    /// Whether something is still to be done that does not depend on anybody's mood: a session must get on from here.
    pub(super) fn is_owing(&self) -> bool {
        match self.session.phase {
            Phase::Done => false,
            Phase::Relaying => self.broken.is_some() || Side::BOTH.iter().any(|&it| self.owes(it)),
            _ => true,
        }
    }

    fn owes(&self, from: Side) -> bool {
        let (wire, sink) = (self.see(from), self.see(from.other()));
        let waiting = !self.session.pumps[from].line.is_empty() || wire.pipe.1 > 0;
        let end = wire.fin && !sink.finished;
        let over = wire.exchanged() && sink.exchanged();
        wire.arrived > 0 || waiting || end || over || (wire.reset && !wire.exchanged())
    }
}
