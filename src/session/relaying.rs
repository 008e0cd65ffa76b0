//! Two pumps at work: bytes on, ends on, resets on.
//!
//! A direction is always in exactly one of these places, and [`TcpSession::advance`] is the only way on:
//! sending (the send's answer comes this turn) · blocked (the sink is full; a writable poll is armed) · yielding (its
//! turn comes again) · receiving or polling the source · ended (to be passed on once nothing is held) · delivered.

use crate::ids::{Condition, End, Fault, Interest, Moved, Nanos, ReceiveEnd, Side, Sink, Source};

use super::event::{Action, Ticket};
use super::pump::Route;
use super::rules::{FLUSH_NS, LINE_MAX};
use super::tcp::{Desk, Operation, Phase, TcpSession};

impl TcpSession {
    pub(super) fn on_received<T: Ticket>(&mut self, from: Side, parcel: T, desk: &mut Desk<'_, T>) {
        if self.is_closing() || self.pumps[from].dropped {
            desk.act(Action::Release(parcel));
            return;
        }
        self.last_activity = desk.now;
        if self.phase != Phase::Relaying {
            self.keep_for_later(parcel, desk);
            return;
        }
        let blocked = self.is_blocked(from);
        let pump = &mut self.pumps[from];
        let streaming = pump.note_parcel(parcel.is_full());
        if from == Side::Backend || streaming {
            self.let_go(desk);
        }
        let pump = &mut self.pumps[from];
        if blocked && pump.piped > 0 && pump.line.is_empty() {
            desk.act(Action::Stash(from, parcel));
        } else if blocked || pump.holds_bytes() || pump.yielding {
            desk.parcels.push_back(&mut pump.line, parcel);
            self.hurry_if_sending(from, desk);
        } else {
            self.give(from, parcel, desk);
        }
        let pump = &mut self.pumps[from];
        if streaming && pump.route == Route::Copy {
            pump.route = Route::Leaving;
            self.stop_receive(from, desk);
        } else if pump.line.count() >= LINE_MAX {
            self.stop_receive(from, desk);
        }
    }

    pub(super) fn on_receive_ended<T: Ticket>(
        &mut self,
        from: Side,
        why: ReceiveEnd,
        desk: &mut Desk<'_, T>,
    ) {
        self.receive_off(from, why);
        if self.is_closing() {
            self.close_what_is_quiet(desk);
            return;
        }
        let over = matches!(why, ReceiveEnd::Fin | ReceiveEnd::Broken(_));
        if over && from == Side::Backend && self.may_redial() {
            self.redial(desk);
            return;
        }
        if over && self.phase != Phase::Relaying {
            self.on_client_over(why, desk);
            return;
        }
        match why {
            ReceiveEnd::Fin => self.on_source_end(from, desk),
            ReceiveEnd::Broken(fault) => self.on_source_broken(from, fault, desk),
            ReceiveEnd::Stopped => {
                if self.pumps[from].route == Route::Leaving {
                    self.pumps[from].begin_splice();
                }
                self.advance(from, desk);
            }
            ReceiveEnd::NoBuffer => {}
        }
    }

    pub(super) fn on_resume<T: Ticket>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        self.sockets[from].starved = false;
        if !self.is_closing() {
            if self.pumps[from].route == Route::Leaving {
                self.pumps[from].begin_splice();
            }
            self.advance(from, desk);
        }
    }

    pub(super) fn on_sent<T: Ticket>(&mut self, sink: Side, desk: &mut Desk<'_, T>) {
        let from = sink.other();
        self.pumps[from].sending = false;
        if self.is_closing() {
            self.close_what_is_quiet(desk);
            return;
        }
        self.last_activity = desk.now;
        self.advance(from, desk);
    }

    /// The sink is full. What is held in provided buffers moves into a pipe, so that a stalled reader holds no shared
    /// buffer; where no pipe can be had it waits in line.
    pub(super) fn on_sent_short<T: Ticket>(&mut self, sink: Side, rest: T, desk: &mut Desk<'_, T>) {
        let from = sink.other();
        self.pumps[from].sending = false;
        if self.is_closing() || self.pumps[from].dropped {
            desk.act(Action::Release(rest));
            self.close_what_is_quiet(desk);
            return;
        }
        // A sink that takes a little at a time is alive.
        self.last_activity = desk.now;
        self.block(from, desk);
        self.stop_receive(from, desk);
        desk.act(Action::Stash(from, rest));
    }

    pub(super) fn on_stashed<T: Ticket>(
        &mut self,
        from: Side,
        bytes: u32,
        rest: Option<T>,
        desk: &mut Desk<'_, T>,
    ) {
        let pump = &mut self.pumps[from];
        pump.piped += bytes;
        if pump.piped > 0 {
            if self.sockets[from].receive == Operation::Off {
                pump.begin_splice();
            } else if pump.route == Route::Copy {
                pump.route = Route::Leaving;
            }
        }
        if let Some(rest) = rest {
            desk.parcels.push_front(&mut pump.line, rest);
        } else if let Some(next) = desk.parcels.pop_front(&mut pump.line) {
            desk.act(Action::Stash(from, next));
        }
    }

    pub(super) fn on_send_broken<T: Ticket>(
        &mut self,
        sink: Side,
        fault: Fault,
        desk: &mut Desk<'_, T>,
    ) {
        self.pumps[sink.other()].sending = false;
        if self.is_closing() {
            self.close_what_is_quiet(desk);
        } else {
            self.on_broken(sink, fault, desk);
        }
    }

    pub(super) fn on_ready_relaying<T: Ticket>(
        &mut self,
        side: Side,
        interest: Interest,
        condition: Condition,
        desk: &mut Desk<'_, T>,
    ) {
        let finished = self.pumps[side].ended && self.pumps[side.other()].delivered;
        if let Condition::Broken(fault) = condition
            && !finished
            && self.broken != Some(side)
        {
            // This reads on, too, and nothing goes to that side any more.
            self.on_broken(side, fault, desk);
            return;
        }
        match interest {
            Interest::HangUp | Interest::Leave => {}
            Interest::Readable => self.advance(side, desk),
            Interest::Writable => self.advance(side.other(), desk),
        }
    }

    /// Does the next thing for the direction from `from`, unless an answer is awaited.
    pub(super) fn advance<T: Ticket>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        let blocked = self.is_blocked(from);
        // The answer of a whole send does not end a turn's sleep: whoever waits for one must ask.
        self.hurry_if_sending(from, desk);
        let pump = &mut self.pumps[from];
        let busy = pump.sending || pump.yielding || self.delivering;
        let relaying = self.phase == Phase::Relaying;
        if blocked || pump.dropped || pump.delivered || busy || !relaying {
            return;
        }
        if pump.piped > 0 {
            let fill = self.may_fill(from);
            desk.act(Action::Move { from, fill });
        } else if let Some(parcel) = desk.parcels.pop_front(&mut pump.line) {
            // Where there was a line, there is always something to do after it: the next parcel, the end, or the source.
            self.give(from, parcel, desk);
            desk.act(Action::Hurry);
        } else if pump.ended {
            self.pass_end_on(from, desk);
        } else {
            match pump.route {
                Route::Copy => self.receive(from, desk),
                Route::Splice => self.pull(from, desk),
                Route::Leaving => {}
            }
        }
    }

    /// Starts a move that also takes from the source.
    fn pull<T: Ticket>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        let blocked = self.is_blocked(from);
        let pump = &self.pumps[from];
        let busy =
            blocked || pump.dropped || pump.sending || pump.yielding || !pump.line.is_empty();
        if !busy && self.may_fill(from) {
            desk.act(Action::Move { from, fill: true });
        }
    }

    fn may_fill(&self, from: Side) -> bool {
        let (pump, socket) = (&self.pumps[from], &self.sockets[from]);
        pump.route == Route::Splice
            && socket.receive == Operation::Off
            && pump.line.is_empty()
            && !pump.ended
    }

    pub(super) fn on_again<T: Ticket>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        self.pumps[from].yielding = false;
        if !self.is_closing() {
            self.advance(from, desk);
        }
    }

    pub(super) fn on_moved<T: Ticket>(&mut self, from: Side, moved: Moved, desk: &mut Desk<'_, T>) {
        let pump = &mut self.pumps[from];
        debug_assert!(
            pump.piped + moved.filled >= moved.drained,
            "the pipe gave more than it got"
        );
        pump.piped = (pump.piped + moved.filled).saturating_sub(moved.drained);
        pump.note_taken(moved.filled);
        if moved.filled + moved.drained > 0 {
            self.last_activity = desk.now;
        }
        match moved.source {
            Source::Fin => self.on_source_end_noted(from, desk.now),
            Source::Broken(fault) => {
                self.pumps[from].ended = true;
                // What to do next depends on the sink, see below.
                self.note_broken(from, fault, desk);
            }
            Source::Untouched | Source::More | Source::Dry | Source::NoPipe => {}
        }
        if self.is_closing() {
            return;
        }
        match moved.sink {
            Sink::Broken(fault) => self.on_broken(from.other(), fault, desk),
            Sink::Full => self.block(from, desk),
            Sink::Open => self.after_move(from, moved, desk),
        }
    }

    /// The pipe is empty and the sink takes more.
    fn after_move<T: Ticket>(&mut self, from: Side, moved: Moved, desk: &mut Desk<'_, T>) {
        match moved.source {
            Source::More => {
                self.pumps[from].yielding = true;
                desk.act(Action::Yield(from));
            }
            Source::Dry => self.on_source_dry(from, desk),
            Source::NoPipe => {
                self.leave_splice(from, desk);
                self.advance(from, desk);
            }
            Source::Untouched | Source::Fin | Source::Broken(_) => self.advance(from, desk),
        }
    }

    fn on_source_dry<T: Ticket>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        let (taken, is_small_talk) = self.pumps[from].note_dry();
        if is_small_talk {
            self.leave_splice(from, desk);
            self.receive(from, desk);
            return;
        }
        let mark = &mut self.pumps[from].mark;
        if mark.follow(taken, desk.now) {
            desk.act(Action::Watermark(from, mark.bytes()));
        }
        let guard_at = mark.guard_at;
        self.wake_by(guard_at);
        self.poll(from, Interest::Readable, desk);
    }

    fn leave_splice<T>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        self.lower_watermark(from, desk);
        self.pumps[from].begin_copy();
    }

    pub(super) fn lower_watermark<T>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        if self.pumps[from].mark.lower() {
            desk.act(Action::Watermark(from, 1));
        }
    }

    /// Turns receiving on, unless it is on, or the bytes could not be passed on.
    pub(super) fn receive<T>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        let socket = &mut self.sockets[from];
        if socket.receive == Operation::Off && socket.readable == Operation::Off && !socket.starved
        {
            socket.receive = Operation::On;
            desk.act(Action::Receive(from));
        }
    }

    pub(super) fn stop_receive<T>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        let socket = &mut self.sockets[from];
        if socket.receive == Operation::On {
            socket.receive = Operation::Stopping;
            desk.act(Action::StopReceive(from));
        }
    }

    /// The sink of the direction from `from` takes no more until it says so.
    fn block<T>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        self.poll(from.other(), Interest::Writable, desk);
    }

    fn is_blocked(&self, from: Side) -> bool {
        self.sockets[from.other()].writable != Operation::Off
    }

    fn on_source_end<T: Ticket>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        self.let_go(desk);
        self.on_source_end_noted(from, desk.now);
        self.advance(from, desk);
    }

    fn hurry_if_sending<T>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        if self.pumps[from].sending {
            desk.act(Action::Hurry);
        }
    }

    /// Nothing more will come from this side. Whoever closes first gives the session its end.
    pub(super) fn on_source_end_noted(&mut self, from: Side, now: Nanos) {
        self.pumps[from].ended = true;
        // Silence after an end is counted from there, however long it was quiet before.
        self.last_activity = now;
        if self.broken.is_none() && self.end.is_none() {
            self.end = Some(match from {
                Side::Client => End::ClientFin,
                Side::Backend => End::BackendFin,
            });
        }
    }

    fn on_source_broken<T: Ticket>(&mut self, from: Side, fault: Fault, desk: &mut Desk<'_, T>) {
        self.pumps[from].ended = true;
        if self.broken == Some(from) {
            // A send has told of it before; this was the last that could be read.
            self.advance(from, desk);
        } else {
            self.on_broken(from, fault, desk);
            self.hurry_if_sending(from, desk);
        }
    }

    /// Everything from `from` is with the sink: pass the end on, or close if this was the last thing to do.
    fn pass_end_on<T: Ticket>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        self.pumps[from].delivered = true;
        if self.broken.is_some() {
            self.cut_when_delivered(from, desk);
        } else if self.pumps[from.other()].delivered {
            self.close_whole(desk);
        } else if self.pumps[from.other()].ended && !self.pumps[from.other()].holds_bytes() {
            // The other direction is just about to deliver its end; closing sends both.
            self.close_whole(desk);
        } else {
            desk.act(Action::Finish(from.other()));
            self.wake_by(self.silence_end());
        }
    }

    /// `side` has broken, as any operation on it may find: notes it and goes on with what it sent before.
    fn on_broken<T: Ticket>(&mut self, side: Side, fault: Fault, desk: &mut Desk<'_, T>) {
        if self.broken != Some(side) {
            self.note_broken(side, fault, desk);
            if !self.is_closing() {
                // Its receive queue outlives the reset: read on.
                self.advance(side, desk);
            }
        }
    }

    /// `side` is gone. What it sent before is still delivered, for [`FLUSH_NS`] at most; what was on its way to it is
    /// dropped; then the other side gets a reset, never an end of stream.
    fn note_broken<T: Ticket>(&mut self, side: Side, fault: Fault, desk: &mut Desk<'_, T>) {
        if self.broken == Some(side) {
            return;
        }
        if self.broken.is_some() {
            let end = self.end.unwrap_or(End::Internal);
            self.cut(end, desk);
            return;
        }
        self.let_go(desk);
        self.broken = Some(side);
        self.end = Some(TcpSession::end_of(side, fault));
        self.drop_direction(side.other(), desk);
        self.stop_receive(side.other(), desk);
        self.lower_watermark(side, desk);
        self.enter(Phase::Relaying, desk.now.after(FLUSH_NS), desk.now);
        let pump = &self.pumps[side];
        if pump.delivered || (pump.ended && !pump.holds_bytes()) {
            self.cut_when_delivered(side, desk);
        }
    }

    pub(super) fn on_flush_timeout<T: Ticket>(&mut self, desk: &mut Desk<'_, T>) {
        if self.broken.is_some() {
            let end = self.end.unwrap_or(End::Internal);
            self.cut(end, desk);
        }
    }

    pub(super) fn drop_direction<T: Ticket>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        let pump = &mut self.pumps[from];
        pump.dropped = true;
        while let Some(parcel) = desk.parcels.pop_front(&mut pump.line) {
            desk.act(Action::Release(parcel));
        }
        if pump.piped > 0 {
            pump.piped = 0;
            desk.act(Action::DropPipe(from));
        }
    }

    /// When the session has been silent for too long; later if bytes flow meanwhile.
    pub(super) fn silence_end(&self) -> Nanos {
        let half_closed = self.pumps.0.iter().any(|pump| pump.delivered);
        let idle = after_if_on(self.last_activity, self.rules.idle_ns);
        let half_close = if half_closed {
            after_if_on(self.last_activity, self.rules.half_close_ns)
        } else {
            Nanos::NEVER
        };
        idle.min(half_close)
    }

    pub(super) fn on_relaying_tick<T: Ticket>(&mut self, desk: &mut Desk<'_, T>) {
        let now = desk.now;
        if now >= self.lifetime_end {
            self.cut(End::Lifetime, desk);
            return;
        }
        if now >= self.silence_end() {
            let idle = after_if_on(self.last_activity, self.rules.idle_ns);
            self.cut(
                if now >= idle {
                    End::Idle
                } else {
                    End::HalfCloseTimeout
                },
                desk,
            );
            return;
        }
        if now >= self.mature_due {
            self.mature_due = Nanos::NEVER;
            desk.act(Action::Mature);
        }
        for from in Side::BOTH {
            self.fetch_tail_if_due(from, desk);
        }
        self.ask_delivered_if_due(desk);
        self.let_go_if_due(desk);
        let guards = self.pumps.0.map(|pump| pump.mark.guard_at);
        for due in [
            self.lifetime_end,
            self.silence_end(),
            self.mature_due,
            self.ask_due,
            guards[0],
            guards[1],
        ] {
            self.wake_by(due);
        }
    }

    /// A bulk stream has stayed below its mark for too long: take what there is, and be woken for less.
    fn fetch_tail_if_due<T: Ticket>(&mut self, from: Side, desk: &mut Desk<'_, T>) {
        let mark = &mut self.pumps[from].mark;
        if desk.now < mark.guard_at {
            return;
        }
        if self.sockets[from].readable != Operation::On {
            mark.guard_at = Nanos::NEVER;
            return;
        }
        mark.give_way();
        let bytes = mark.bytes();
        // First the bytes: under a lower mark the kernel would tell of them once more.
        self.pull(from, desk);
        desk.act(Action::Watermark(from, bytes));
    }
}

fn after_if_on(moment: Nanos, nanoseconds: u64) -> Nanos {
    if nanoseconds == 0 {
        Nanos::NEVER
    } else {
        moment.after(nanoseconds)
    }
}
