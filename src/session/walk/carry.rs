//! The carrier and the kernel's calls that answer at once: carries out the session's actions on the shadow, and refuses
//! every action that is wrong in itself (a second receive, a byte out of order, an early end of stream, a close under a
//! pending operation ...).

use crate::ids::{ConnectFailure, End, Fault, Interest, Moved, Side, Sink, Source};

use super::super::event::{Action, Event, Look};
use super::super::tcp::{Operation, Phase};
use super::explore::Run;
use super::world::{ASKED_MAX, Flight, Serial, Wire, World};

/// What a rule of the shadow says about an action that breaks it.
pub(super) type Verdict<T> = Result<T, String>;

pub(super) fn demand(holds: bool, rule: &str) -> Verdict<()> {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

impl World {
    /// Carries out one action; returns the answer if it comes at once.
    pub(super) fn carry(
        &mut self,
        action: &Action<Serial>,
        run: &mut Run<'_>,
    ) -> Verdict<Option<Event<Serial>>> {
        demand(self.end.is_none(), "nothing is done after Done")?;
        match *action {
            Action::Look { late } => return self.carry_look(late, run).map(Some),
            Action::Choose
            | Action::GiveUp
            | Action::Wait
            | Action::StopWaiting
            | Action::Connect { .. }
            | Action::CancelConnect => return self.carry_opening(action, run),
            Action::Receive(side) => self.carry_receive(side)?,
            Action::StopReceive(side) => {
                demand(
                    self.see(side).receive == Operation::On,
                    "only a running receive is stopped",
                )?;
                self.wire(side).receive = Operation::Stopping;
            }
            Action::Send(side, parcel) => self.carry_send(side, parcel)?,
            Action::Offer { parcel, due } => return self.carry_offer(parcel, due, run).map(Some),
            Action::Hurry => self.carry_hurry(),
            Action::Stash(side, parcel) => return self.carry_stash(side, parcel, run).map(Some),
            Action::Release(parcel) if self.is_kept(parcel) => self.kept -= parcel.units,
            Action::Release(parcel) => {
                self.wire(parcel.from).lost += parcel.units;
            }
            Action::Poll(side, interest) => self.carry_poll(side, interest)?,
            Action::CancelPoll(side, interest) => {
                demand(
                    !matches!(interest, Interest::HangUp | Interest::Leave)
                        || self.see(side).leave == (interest == Interest::Leave),
                    "a poll is cancelled by its own name",
                )?;
                let operation = self.wire(side).poll(interest);
                demand(
                    *operation == Operation::On,
                    "only a running poll is cancelled",
                )?;
                *operation = Operation::Stopping;
            }
            Action::Move { from, fill } => return self.carry_move(from, fill, run).map(Some),
            Action::Yield(from) => {
                demand(!self.see(from).yielded, "a direction yields once at a time")?;
                self.wire(from).yielded = true;
            }
            Action::AskDelivered(side) => return self.carry_question(side, run).map(Some),
            Action::DropPipe(from) => {
                let wire = self.wire(from);
                demand(wire.pipe.1 > 0, "only a pipe that is held is dropped")?;
                wire.lost += wire.pipe.1;
                wire.pipe = (0, 0);
            }
            Action::Watermark(side, bytes) => {
                demand(self.see(side).open, "a watermark needs a socket")?;
                self.wire(side).raised = bytes > 1;
            }
            Action::Finish(side) => self.carry_finish(side)?,
            Action::Mature => {
                demand(!self.matured, "a session matures once")?;
                self.matured = true;
            }
            Action::Close { side, reset } => self.carry_close(side, reset)?,
            Action::Done(end) => self.carry_done(end)?,
        }
        Ok(None)
    }

    fn carry_opening(
        &mut self,
        action: &Action<Serial>,
        run: &mut Run<'_>,
    ) -> Verdict<Option<Event<Serial>>> {
        match action {
            Action::Choose => {
                demand(!self.reserved, "one backend is reserved at a time")?;
                demand(!self.queued, "who waits does not choose")?;
                demand(self.known, "nobody is given a backend before it is known")?;
                let tried = self.session.attempts() > 0;
                return Ok(Some(match run.choices.pick(2 + usize::from(tried)) {
                    1 => Event::NoneOpen,
                    choice => {
                        self.reserved = true;
                        Event::Chosen {
                            repeated: choice == 2,
                        }
                    }
                }));
            }
            Action::Wait => {
                demand(!self.queued && !self.reserved, "a session waits once")?;
                self.queued = run.choices.pick(2) == 0;
                return Ok(Some(Event::Queued(self.queued)));
            }
            Action::GiveUp => {
                demand(self.reserved, "only what is reserved is given up")?;
                demand(
                    !self.see(Side::Backend).open,
                    "the socket goes before the reservation",
                )?;
                self.reserved = false;
            }
            Action::StopWaiting => {
                demand(self.queued, "only who waits stops waiting")?;
                self.queued = false;
            }
            Action::Connect { afresh } => {
                demand(self.reserved, "a connect needs a reservation")?;
                demand(
                    self.connecting == Operation::Off && !self.see(Side::Backend).open,
                    "one connect at a time",
                )?;
                *self.wire(Side::Backend) = Wire {
                    connected: false,
                    ..Wire::new(true)
                };
                demand(
                    *afresh == self.redialled,
                    "after a warm connection that died only a fresh one will do",
                )?;
                self.warm = run.plan.warm && !afresh && run.choices.pick(2) == 0;
                if self.warm {
                    self.wire(Side::Backend).connected = true;
                    self.last_bytes = super::world::NOW;
                    return Ok(Some(Event::Warm));
                }
                if run.choices.pick(2) == 1 {
                    return Ok(Some(Event::ConnectFailed(ConnectFailure::Refused)));
                }
                self.connecting = Operation::On;
            }
            _ => {
                demand(
                    self.connecting == Operation::On,
                    "only a running connect is cancelled",
                )?;
                self.connecting = Operation::Stopping;
            }
        }
        Ok(None)
    }

    /// Looks at what the client has sent: whether that is enough is anybody's guess, but not for ever.
    fn carry_look(&mut self, late: bool, run: &mut Run<'_>) -> Verdict<Event<Serial>> {
        demand(
            self.session.phase == Phase::Preface && !self.known,
            "first bytes are looked at before anything else",
        )?;
        let client = self.see(Side::Client);
        let bytes = u32::from(client.arrived);
        let last = late || client.fin;
        let served = Look::Served(End::BackendFin);
        let refused = Look::Refused(End::PrefaceInvalid);
        let look = if self.busy {
            demand(late, "who is busy is not asked before the time is over")?;
            served
        } else {
            match run.choices.pick(if last { 3 } else { 5 }) {
                0 => Look::Known,
                1 => refused,
                2 => served,
                3 => Look::Busy,
                _ => Look::More {
                    bytes,
                    wanted: bytes + 1,
                },
            }
        };
        self.known = look == Look::Known;
        self.busy = look == Look::Busy;
        self.served = look == served;
        Ok(Event::Looked(look))
    }

    fn carry_receive(&mut self, side: Side) -> Verdict<()> {
        let wire = self.wire(side);
        demand(
            wire.open && wire.connected,
            "a receive needs a connected socket",
        )?;
        demand(
            wire.receive == Operation::Off,
            "one receive at a time on a socket",
        )?;
        demand(
            wire.readable == Operation::Off,
            "no receive beside a readable poll",
        )?;
        demand(
            !wire.starved,
            "no receive before the buffers that were promised",
        )?;
        demand(!wire.raised, "no receive under a raised watermark")?;
        wire.receive = Operation::On;
        Ok(())
    }

    fn carry_poll(&mut self, side: Side, interest: Interest) -> Verdict<()> {
        let wire = self.wire(side);
        demand(wire.open, "a poll needs a socket")?;
        demand(
            *wire.poll(interest) == Operation::Off,
            "one poll of a kind at a time on a socket",
        )?;
        demand(
            interest != Interest::Readable || wire.receive == Operation::Off,
            "no readable poll beside a receive",
        )?;
        *wire.poll(interest) = Operation::On;
        if matches!(interest, Interest::HangUp | Interest::Leave) {
            wire.leave = interest == Interest::Leave;
        }
        Ok(())
    }

    pub(super) fn may_give_to(&self, side: Side) -> Verdict<()> {
        let wire = self.see(side);
        demand(
            wire.open && wire.connected,
            "bytes go to a connected socket",
        )?;
        demand(!wire.finished, "no byte after the end of stream")?;
        demand(!wire.break_told, "no byte to a side that broke")?;
        demand(wire.flight.is_none(), "one send at a time to a side")?;
        demand(
            !matches!(self.session.phase, Phase::Closing { .. } | Phase::Done),
            "no byte after the decision to close",
        )
    }

    fn carry_send(&mut self, to: Side, parcel: Serial) -> Verdict<()> {
        self.may_give_to(to)?;
        demand(
            parcel.from == to.other(),
            "a parcel goes to the other side than it came from",
        )?;
        let source = self.see(parcel.from);
        demand(
            source.pipe.1 == 0,
            "what is in the pipe goes before what is in line",
        )?;
        demand(
            parcel.first == source.passed,
            "each byte once, in order: a parcel out of its turn is sent",
        )?;
        let sure = self.hurry;
        self.wire(to).flight = Some(Flight { parcel, sure });
        Ok(())
    }

    fn carry_hurry(&mut self) {
        self.hurry = true;
        for side in Side::BOTH {
            if let Some(flight) = &mut self.wire(side).flight {
                flight.sure = true;
            }
        }
    }

    fn carry_stash(
        &mut self,
        from: Side,
        parcel: Serial,
        run: &mut Run<'_>,
    ) -> Verdict<Event<Serial>> {
        demand(
            parcel.from == from,
            "a parcel goes into its own direction's pipe",
        )?;
        demand(
            !self.session.is_closing() && !self.see(from.other()).break_told,
            "nothing is stashed for a side that broke or closes",
        )?;
        let wire = self.wire(from);
        let behind = if wire.pipe.1 == 0 {
            wire.passed
        } else {
            wire.pipe.0 + wire.pipe.1
        };
        demand(
            parcel.first == behind,
            "each byte once, in order: a parcel out of its turn is stashed",
        )?;
        let choices = if run.plan.no_pipe {
            parcel.units + 1
        } else {
            1
        };
        let stashed = parcel.units - run.choices.pick(choices.into()) as u8;
        if stashed > 0 {
            wire.pipe = (behind - wire.pipe.1, wire.pipe.1 + stashed);
        }
        let rest = (stashed < parcel.units).then_some(Serial {
            first: parcel.first + stashed,
            units: parcel.units - stashed,
            ..parcel
        });
        Ok(Event::Stashed {
            from,
            bytes: u32::from(stashed) * run.plan.unit_bytes,
            rest,
        })
    }

    fn carry_question(&mut self, side: Side, run: &mut Run<'_>) -> Verdict<Event<Serial>> {
        demand(
            self.see(side).open && self.see(side).connected,
            "delivery is asked of a connected socket",
        )?;
        self.delivered = !run.plan.stalls || run.choices.pick(2) == 0;
        if !self.delivered {
            self.asked = (self.asked + 1).min(ASKED_MAX);
        }
        Ok(Event::Delivered(side, self.delivered))
    }

    /// As splice does: first what is in the pipe; then, while that went out whole, from the socket.
    fn carry_move(&mut self, from: Side, fill: bool, run: &mut Run<'_>) -> Verdict<Event<Serial>> {
        let to = from.other();
        self.may_give_to(to)?;
        demand(
            !self.see(from).yielded,
            "a direction that yielded waits for its turn",
        )?;
        demand(
            !fill || self.see(from).receive == Operation::Off,
            "no move takes from a socket that is being received from",
        )?;
        demand(
            !fill || self.session.pumps[from].line.is_empty(),
            "no move takes from the socket while parcels are in line",
        )?;
        let (held, plan) = (self.see(from).pipe.1, run.plan);
        let mut moved = Moved {
            filled: 0,
            drained: 0,
            source: Source::Untouched,
            sink: Sink::Open,
        };
        if held == 0 && fill && plan.no_pipe && run.choices.pick(2) == 1 {
            moved.source = Source::NoPipe;
            return Ok(Event::Moved(from, moved));
        }
        self.drain(from, &mut moved, run);
        if fill && moved.sink == Sink::Open {
            self.take_in(from, &mut moved, run);
            self.drain(from, &mut moved, run);
        }
        if moved.filled + moved.drained > 0 {
            self.last_bytes = super::world::NOW;
        }
        moved.filled *= plan.unit_bytes;
        moved.drained *= plan.unit_bytes;
        Ok(Event::Moved(from, moved))
    }

    fn drain(&mut self, from: Side, moved: &mut Moved, run: &mut Run<'_>) {
        let (first, held) = self.see(from).pipe;
        if held == 0 {
            return;
        }
        if self.see(from.other()).is_deaf() {
            moved.sink = Sink::Broken(Fault::Reset);
            self.wire(from.other()).error = false;
            self.note_break(from.other());
            return;
        }
        let choices = if run.plan.stalls {
            usize::from(held) + 1
        } else {
            1
        };
        let drained = held - run.choices.pick(choices) as u8;
        let wire = self.wire(from);
        wire.passed += drained;
        wire.pipe = (first + drained, held - drained);
        if drained == held {
            wire.pipe = (0, 0);
        } else {
            moved.sink = Sink::Full;
        }
        moved.drained += u32::from(drained);
    }

    fn take_in(&mut self, from: Side, moved: &mut Moved, run: &mut Run<'_>) {
        let unit = run.plan.parcel_units;
        let arrived = self.see(from).arrived;
        let left = run.choices.pick(usize::from(arrived.max(1))) as u8;
        let parcels = arrived - left;
        let units = parcels * unit;
        let wire = self.wire(from);
        if units > 0 {
            wire.pipe = (wire.taken, units);
        }
        wire.arrived = left;
        wire.taken += units;
        moved.filled = u32::from(units);
        if left > 0 || (parcels > 0 && run.choices.pick(2) == 1) {
            moved.source = Source::More;
        } else if wire.fin || (wire.reset && !wire.error) {
            moved.source = Source::Fin;
            self.note_end(from);
        } else if wire.reset {
            wire.error = false;
            moved.source = Source::Broken(Fault::Reset);
            self.note_break(from);
        } else {
            moved.source = Source::Dry;
        }
    }

    /// Whether all that `from` sent, up to its own end, is with the other side.
    pub(super) fn is_whole(&self, from: Side) -> bool {
        let wire = self.see(from);
        wire.fin_told
            && !wire.break_told
            && wire.arrived == 0
            && wire.taken == wire.passed
            && wire.lost == 0
    }

    fn carry_finish(&mut self, side: Side) -> Verdict<()> {
        demand(
            !self.session.is_closing(),
            "no end of stream on the way to a close",
        )?;
        demand(!self.see(side).finished, "one end of stream per side")?;
        demand(
            self.see(side).open && self.see(side).connected,
            "an end of stream needs a connected socket",
        )?;
        demand(
            self.is_whole(side.other()),
            "an end of stream is passed on after the last byte of a whole stream",
        )?;
        self.wire(side).finished = true;
        Ok(())
    }

    fn carry_close(&mut self, side: Side, reset: bool) -> Verdict<()> {
        let wire = self.see(side);
        demand(wire.open, "a socket is closed once")?;
        demand(
            wire.in_flight() == 0,
            "a socket is closed after its last answer",
        )?;
        demand(
            side == Side::Client || self.connecting == Operation::Off,
            "no close under a pending connect",
        )?;
        if wire.connected && !self.session.is_closing() {
            return self.carry_redial(side);
        }
        if wire.connected {
            demand(
                reset != self.whole,
                "a cut ends by reset, and whole streams do not",
            )?;
        }
        self.wire(side).open = false;
        Ok(())
    }

    fn carry_done(&mut self, end: End) -> Verdict<()> {
        demand(
            self.wires.iter().all(|wire| !wire.open),
            "done is after the last close",
        )?;
        demand(self.in_flight() == 0, "done is after the last answer")?;
        demand(!self.queued, "done is after leaving the queue")?;
        demand(
            self.wires.iter().all(|wire| wire.pipe.1 == 0),
            "no pipe is left behind",
        )?;
        demand(
            self.wires
                .iter()
                .all(|wire| wire.taken == wire.passed + wire.lost),
            "no parcel is left behind",
        )?;
        self.check_end(end)?;
        self.end = Some(end);
        Ok(())
    }
}
