//! Before a backend is chosen: the client's first bytes, where listener or pool want to know them. Nothing is taken from
//! the socket for that but what the client did not mean for the backend (a PROXY header): the bytes are looked at where
//! they lie, so a client that sends little, or nothing, holds no buffer, and everything after this is as if there had
//! been no look.
//!
//! A poll tells that there is something; a look ([`Action::Look`]) says what, or how many bytes it takes to get further,
//! and the socket is then told to wake us only for that many. One last look is taken when the time is over: what is
//! known then decides.

use crate::ids::{Condition, End, Nanos, Side};

use super::event::{Action, Look, Ticket};
use super::rules::{LOOK_AGAIN_NS, Rules};
use super::tcp::{Desk, Phase, TcpSession};
use crate::ids::Interest;

impl TcpSession {
    pub(super) fn begin_preface<T>(&mut self, desk: &mut Desk<'_, T>) {
        let deadline = desk.now.after(self.rules.preface_ns);
        self.enter(Phase::Preface, deadline, desk.now);
        self.poll(Side::Client, Interest::Readable, desk);
    }

    /// The client's bytes have told that it belongs to another pool, by whose rules it is played from now on. To be
    /// called before the look that tells that all is known is answered.
    pub fn adopt(&mut self, rules: Rules) {
        debug_assert_eq!(self.phase, Phase::Preface);
        self.rules = rules;
    }

    pub(super) fn on_first_bytes<T: Ticket>(
        &mut self,
        interest: Interest,
        condition: Condition,
        desk: &mut Desk<'_, T>,
    ) {
        debug_assert_eq!(interest, Interest::Readable);
        match condition {
            Condition::Broken(_) => self.cut(End::ClientGone, desk),
            Condition::HungUp | Condition::Left | Condition::Fine => {
                desk.act(Action::Look { late: false });
            }
        }
    }

    pub(super) fn on_preface_deadline<T>(&mut self, desk: &mut Desk<'_, T>) {
        desk.act(Action::Look { late: true });
    }

    pub(super) fn on_looked<T: Ticket>(&mut self, look: Look, desk: &mut Desk<'_, T>) {
        if self.phase != Phase::Preface {
            // The answer of those who were busy for it, after it was ended by order.
            return;
        }
        match look {
            Look::More { .. } if self.phase_deadline == Nanos::NEVER => {
                self.cut(End::PrefaceInvalid, desk);
            }
            Look::More { bytes, wanted } => self.wait_for_more(bytes, wanted, desk),
            Look::Known => {
                self.ask_due = Nanos::NEVER;
                self.lower_watermark(Side::Client, desk);
                self.begin(desk);
            }
            Look::Busy => {}
            Look::Served(end) => {
                self.end = Some(end);
                self.begin_closing(false, desk);
            }
            Look::Refused(end) => self.cut(end, desk),
        }
    }

    fn wait_for_more<T>(&mut self, bytes: u32, wanted: u32, desk: &mut Desk<'_, T>) {
        self.pumps[Side::Client].mark.set(wanted);
        desk.act(Action::Watermark(Side::Client, wanted));
        if bytes == self.bytes_seen {
            // Woken for nothing new: unix sockets know no watermark, and a kernel short of memory ignores it.
            self.ask_due = desk.now.after(LOOK_AGAIN_NS);
            self.wake_by(self.ask_due);
        } else {
            self.poll(Side::Client, Interest::Readable, desk);
        }
        self.bytes_seen = bytes;
    }

    pub(super) fn look_again_if_due<T>(&mut self, desk: &mut Desk<'_, T>) {
        if desk.now >= self.ask_due {
            self.ask_due = Nanos::NEVER;
            self.poll(Side::Client, Interest::Readable, desk);
        }
        self.wake_by(self.ask_due);
    }
}
