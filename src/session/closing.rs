//! The two ways out, both in three steps: stop everything, wait for every answer, close.
//!
//! *Whole*: both ends of stream were passed on; closing sends what FIN is still owed. *Cut*: both sockets are closed by
//! reset, so that nobody takes a cut stream for a whole one. A socket is never shut down on the way to a cut.

use crate::ids::{End, Interest, Side};

use super::event::{Action, Ticket};
use super::tcp::{Desk, Operation, Phase, TcpSession};

impl TcpSession {
    /// Ends the session by reset, with this reason.
    pub(super) fn cut<T: Ticket>(&mut self, end: End, desk: &mut Desk<'_, T>) {
        self.end = Some(end);
        self.begin_closing(true, desk);
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

    fn begin_closing<T: Ticket>(&mut self, reset: bool, desk: &mut Desk<'_, T>) {
        if self.phase == Phase::Waiting {
            desk.act(Action::StopWaiting);
        }
        self.phase = Phase::Closing { reset };
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
