//! From accept to the first byte: choosing a backend, waiting for one, connecting, trying again.
//!
//! Failing to connect is not the client's problem while another backend and budget are left: no byte of the client has
//! been taken from its socket yet, so the next attempt starts as if it were the first.

use crate::ids::{Condition, ConnectFailure, End, Interest, Nanos, Side};

use super::event::{Action, Ticket};
use super::rules::{MATURE_NS, PAUSE_NS, WATCH_NS};
use super::tcp::{Desk, Operation, Phase, TcpSession};

impl TcpSession {
    pub(super) fn on_opened<T>(&mut self, desk: &mut Desk<'_, T>) {
        debug_assert_eq!(self.phase, Phase::Choosing);
        if self.rules.preface_ns > 0 {
            self.begin_preface(desk);
        } else {
            self.begin(desk);
        }
    }

    /// The client and its pool are known.
    pub(super) fn begin<T>(&mut self, desk: &mut Desk<'_, T>) {
        if self.rules.lifetime_ns > 0 {
            self.lifetime_end = desk.now.after(self.rules.lifetime_ns);
        }
        self.choose(desk);
    }

    pub(super) fn choose<T>(&mut self, desk: &mut Desk<'_, T>) {
        self.enter(Phase::Choosing, Nanos::NEVER, desk.now);
        desk.act(Action::Choose);
    }

    pub(super) fn on_chosen<T>(&mut self, repeated: bool, desk: &mut Desk<'_, T>) {
        debug_assert_eq!(self.phase, Phase::Choosing);
        let after_pause = self.last_failure.is_none();
        if repeated && !after_pause {
            // The only backend left is one that has just failed: give it a moment. The reservation is not kept meanwhile.
            self.last_failure = None;
            desk.act(Action::GiveUp);
            self.enter(Phase::Pausing, desk.now.after(PAUSE_NS), desk.now);
            return;
        }
        self.connect(desk);
    }

    pub(super) fn on_none_open<T: Ticket>(&mut self, desk: &mut Desk<'_, T>) {
        debug_assert_eq!(self.phase, Phase::Choosing);
        if self.rules.wait_timeout_ns == 0 {
            self.cut(End::NoBackend, desk);
        } else {
            desk.act(Action::Wait);
        }
    }

    pub(super) fn on_queued<T: Ticket>(&mut self, queued: bool, desk: &mut Desk<'_, T>) {
        debug_assert_eq!(self.phase, Phase::Choosing);
        if !queued {
            self.cut(End::WaitFull, desk);
            return;
        }
        self.enter(
            Phase::Waiting,
            desk.now.after(self.rules.wait_timeout_ns),
            desk.now,
        );
        if !self.hears_client() {
            let bytes_came = !self.pumps[Side::Client].line.is_empty();
            let left = self.pumps[Side::Client].ended || bytes_came;
            let interest = if left {
                Interest::HangUp
            } else {
                Interest::Leave
            };
            self.poll(Side::Client, interest, desk);
        }
    }

    pub(super) fn on_granted<T>(&mut self, desk: &mut Desk<'_, T>) {
        debug_assert_eq!(self.phase, Phase::Waiting);
        self.connect(desk);
    }

    pub(super) fn connect<T>(&mut self, desk: &mut Desk<'_, T>) {
        self.attempts += 1;
        let budget_left = self
            .rules
            .connect_budget_ns
            .saturating_sub(self.connect_ns_used);
        let patience = self.rules.connect_timeout_ns.min(budget_left);
        self.enter(Phase::Connecting, desk.now.after(patience), desk.now);
        self.sockets[Side::Backend].open = true;
        self.connecting = Operation::On;
        let afresh = self.hold.spent;
        desk.act(Action::Connect { afresh });
    }

    pub(super) fn on_connected<T: Ticket>(&mut self, desk: &mut Desk<'_, T>) {
        self.connecting = Operation::Off;
        if self.is_closing() {
            self.close_what_is_quiet(desk);
            return;
        }
        self.enter(Phase::Relaying, Nanos::NEVER, desk.now);
        self.last_activity = desk.now;
        self.mature_due = desk.now.after(MATURE_NS);
        self.wake_by(self.mature_due);
        self.wake_by(self.lifetime_end);
        self.wake_by(self.silence_end());
        self.watch_due = Nanos::NEVER;
        // Nothing is in line, unless this is not the session's first connection.
        self.advance(Side::Client, desk);
        self.receive(Side::Backend, desk);
    }

    pub(super) fn on_connect_failed<T: Ticket>(
        &mut self,
        failure: ConnectFailure,
        desk: &mut Desk<'_, T>,
    ) {
        self.connecting = Operation::Off;
        if self.is_closing() {
            self.close_what_is_quiet(desk);
            return;
        }
        debug_assert_eq!(self.phase, Phase::Connecting);
        self.connect_ns_used += desk.now.since(self.phase_began);
        self.sockets[Side::Backend].open = false;
        desk.act(Action::Close {
            side: Side::Backend,
            reset: false,
        });
        desk.act(Action::GiveUp);
        let budget_spent = self.connect_ns_used >= self.rules.connect_budget_ns;
        // The one that replaced a warm connection is one more than the pool's.
        let attempts_max = self
            .rules
            .connect_attempts
            .saturating_add(self.hold.spent.into());
        if self.attempts >= attempts_max || budget_spent {
            self.cut(end_of_attempts(failure), desk);
        } else {
            self.last_failure = Some(failure);
            self.choose(desk);
        }
    }

    pub(super) fn on_attempt_timeout<T>(&mut self, desk: &mut Desk<'_, T>) {
        if self.connecting == Operation::On {
            // Never shut down a pending connect: it would dial again. Its answer decides what comes next.
            self.connecting = Operation::Stopping;
            desk.act(Action::CancelConnect);
        }
    }

    /// The client resets, ends or hangs up before its session has a backend. A poll for first bytes that a last look did
    /// not wait for may still tell that there are some.
    pub(super) fn on_client_stirred<T: Ticket>(
        &mut self,
        interest: Interest,
        condition: Condition,
        desk: &mut Desk<'_, T>,
    ) {
        let waiting = self.phase == Phase::Waiting;
        let watched = interest != Interest::Readable;
        let gone = match condition {
            Condition::Broken(_) => true,
            Condition::HungUp | Condition::Left => waiting,
            Condition::Fine => waiting && watched && self.rules.leave_on_fin,
        };
        if gone {
            self.cut(End::ClientGone, desk);
        } else if waiting && watched {
            self.poll(Side::Client, Interest::HangUp, desk);
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, deadline: Nanos, now: Nanos) {
        self.phase = phase;
        self.phase_began = now;
        self.phase_deadline = deadline;
        self.wake_by(deadline);
    }

    /// Has a side of which nothing would tell a reset looked after within [`WATCH_NS`]. Asked after every event, so that
    /// no way of leaving a socket alone can be forgotten.
    pub(super) fn watch_soon(&mut self, now: Nanos) {
        let watches = matches!(
            self.phase,
            Phase::Waiting | Phase::Pausing | Phase::Connecting | Phase::Relaying
        );
        if watches
            && self.watch_due == Nanos::NEVER
            && Side::BOTH.iter().any(|&side| self.is_unattended(side))
        {
            self.watch_due = now.after(WATCH_NS);
            self.wake_by(self.watch_due);
        }
    }

    /// Whether a reset of this side would matter, and nothing is in flight that would tell it.
    fn is_unattended(&self, side: Side) -> bool {
        let socket = &self.sockets[side];
        let unborn = side == Side::Backend && self.phase != Phase::Relaying;
        // Once both ends were exchanged with a side, its hang-up says nothing.
        let finished = self.pumps[side].ended && self.pumps[side.other()].delivered;
        socket.open
            && socket.in_flight() == 0
            && !unborn
            && !finished
            && !socket.hung_up
            && self.broken.is_none()
    }

    /// Arms a hang-up watch on each socket that nothing else would tell of a reset.
    pub(super) fn watch_if_due<T>(&mut self, desk: &mut Desk<'_, T>) {
        if desk.now < self.watch_due {
            return;
        }
        self.watch_due = Nanos::NEVER;
        for side in Side::BOTH {
            if self.is_unattended(side) {
                self.poll(side, Interest::HangUp, desk);
            }
        }
    }
}

fn end_of_attempts(failure: ConnectFailure) -> End {
    match failure {
        ConnectFailure::Timeout => End::ConnectTimeout,
        ConnectFailure::Ports | ConnectFailure::Resources => End::Resources,
        ConnectFailure::Refused
        | ConnectFailure::Unreachable
        | ConnectFailure::Reset
        | ConnectFailure::Other => End::ConnectRefused,
    }
}
