//! The two ways out, both in three steps: stop everything, wait for every answer, close.
//!
//! *Whole*: both ends of stream were passed on; closing sends what FIN is still owed. *Cut*: both sockets are closed by
//! reset, so that nobody takes a cut stream for a whole one. A socket is never shut down on the way to a cut. What came
//! before a reset is delivered first, down to the peer's acknowledgement.

use crate::ids::{End, Interest, Nanos, Side};

use super::event::{Action, Ticket};
use super::rules::{ASK_MOST_NS, ASK_NS};
use super::tcp::{Desk, Operation, Phase, TcpSession};

impl TcpSession {
    /// Ends the session by reset, with this reason.
    pub(super) fn cut<T: Ticket>(&mut self, end: End, desk: &mut Desk<'_, T>) {
        self.end = Some(end);
        self.begin_closing(true, desk);
    }

    /// Everything that the broken side had sent was written to the other side's socket. A reset there would drop what its
    /// peer has not got yet, so it waits for that, within the time to flush.
    pub(super) fn cut_when_delivered<T>(&mut self, broken: Side, desk: &mut Desk<'_, T>) {
        if !self.delivering {
            self.delivering = true;
            desk.act(Action::AskDelivered(broken.other()));
        }
    }

    pub(super) fn on_delivered<T: Ticket>(
        &mut self,
        side: Side,
        all: bool,
        desk: &mut Desk<'_, T>,
    ) {
        if self.is_closing() {
            return;
        }
        if all {
            let end = self.end.unwrap_or(End::Internal);
            self.cut(end, desk);
            return;
        }
        // No poll tells when the last byte is acknowledged: ask again, less and less often.
        let waited_ns = desk.now.since(self.phase_began);
        let pause_ns = (ASK_NS + waited_ns / 4).min(ASK_MOST_NS);
        self.ask_due = desk.now.after(pause_ns);
        self.wake_by(self.ask_due);
        self.poll(side, Interest::HangUp, desk);
    }

    pub(super) fn ask_delivered_if_due<T>(&mut self, desk: &mut Desk<'_, T>) {
        if let (Some(broken), true) = (self.broken, desk.now >= self.ask_due) {
            self.ask_due = Nanos::NEVER;
            desk.act(Action::AskDelivered(broken.other()));
        }
    }

    /// Ends a session whose streams both came to their end.
    pub(super) fn close_whole<T: Ticket>(&mut self, desk: &mut Desk<'_, T>) {
        debug_assert!(
            self.pumps
                .0
                .iter()
                .all(|pump| pump.ended && !pump.holds_bytes())
        );
        self.begin_closing(false, desk);
    }

    pub(super) fn begin_closing<T: Ticket>(&mut self, reset: bool, desk: &mut Desk<'_, T>) {
        if self.phase == Phase::Waiting {
            desk.act(Action::StopWaiting);
        }
        self.phase = Phase::Closing { reset };
        self.let_go(desk);
        for side in Side::BOTH {
            self.drop_direction(side, desk);
            self.cancel_all(side, desk);
        }
        if self.connecting == Operation::On {
            self.connecting = Operation::Stopping;
            desk.act(Action::CancelConnect);
        }
        self.close_what_is_quiet(desk);
    }

    fn cancel_all<T>(&mut self, side: Side, desk: &mut Desk<'_, T>) {
        let socket = &mut self.sockets[side];
        if socket.receive == Operation::On {
            socket.receive = Operation::Stopping;
            desk.act(Action::StopReceive(side));
        }
        let watch = if socket.leave {
            Interest::Leave
        } else {
            Interest::HangUp
        };
        for interest in [watch, Interest::Readable, Interest::Writable] {
            let operation = socket.poll(interest);
            if *operation == Operation::On {
                *operation = Operation::Stopping;
                desk.act(Action::CancelPoll(side, interest));
            }
        }
    }

    /// Closes each socket on which no answer is outstanding; after the last one the session is done.
    pub(super) fn close_what_is_quiet<T>(&mut self, desk: &mut Desk<'_, T>) {
        let Phase::Closing { reset } = self.phase else {
            return;
        };
        for side in Side::BOTH {
            let connecting = side == Side::Backend && self.connecting != Operation::Off;
            let sending = self.pumps[side.other()].sending;
            if sending {
                desk.act(Action::Hurry);
            }
            let socket = &mut self.sockets[side];
            if socket.open && socket.in_flight() == 0 && !connecting && !sending {
                socket.open = false;
                desk.act(Action::Close { side, reset });
            }
        }
        if self.sockets.0.iter().all(|socket| !socket.open) {
            self.phase = Phase::Done;
            desk.act(Action::Done(self.end.unwrap_or(End::Internal)));
        }
    }
}
