//! Warm connections, whose server may have closed them a moment ago: until the backend's first byte such an end is made
//! good by connecting afresh, once, and nobody notices. What the client sent is held until then, where sending it twice
//! is harmless; where it is not, an end is an end.
//!
//! | hold | means | ends by |
//! |---|---|---|
//! | Off | an end is an end | – |
//! | Fresh | nothing was sent yet | the client's first bytes, its end |
//! | Held | all that was sent is held | the backend's first byte, bytes that are sent once, the client's end, [`HOLD_NS`] |
//!
//! While something is held every send is a plain call (`Offer`), so that nothing is in flight when the backend ends.

use crate::ids::{End, Interest, Nanos, ReceiveEnd, Side};

use super::event::{Action, Ticket};
use super::parcels::Line;
use super::pump::{Pump, Route};
use super::rules::HOLD_NS;
use super::tcp::{Desk, Operation, Phase, Socket, TcpSession};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    Off,
    Fresh,
    Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Hold {
    pub(super) state: State,
    /// What was sent, in order.
    pub(super) line: Line,
    /// Bytes still missing of the one message that may be sent twice.
    pub(super) due: Option<u32>,
    /// When it is let go at the latest.
    pub(super) until: Nanos,
    /// The session has connected afresh once: from now on without warm connections.
    pub(super) spent: bool,
}

impl Hold {
    pub(super) const fn new() -> Hold {
        Hold {
            state: State::Off,
            line: Line::EMPTY,
            due: None,
            until: Nanos::NEVER,
            spent: false,
        }
    }
}

impl TcpSession {
    /// The backend's connection was there already.
    pub(super) fn on_warm<T: Ticket>(&mut self, desk: &mut Desk<'_, T>) {
        let client = &self.pumps[Side::Client];
        if !self.hold.spent && client.route == Route::Copy && !client.ended {
            self.hold.state = State::Fresh;
        }
        self.on_connected(desk);
    }

    /// Gives a parcel to the other side: for the first bytes on a warm connection in a way that leaves it with us.
    pub(super) fn give<T>(&mut self, from: Side, parcel: T, desk: &mut Desk<'_, T>) {
        if from == Side::Client && self.hold.state != State::Off {
            let due = self.hold.due;
            desk.act(Action::Offer { parcel, due });
        } else {
            self.pumps[from].sending = true;
            desk.act(Action::Send(from.other(), parcel));
        }
    }

    /// `due`: the parcel was sent whole and may be sent again; else it is still to be sent, as any other.
    pub(super) fn on_offered<T: Ticket>(
        &mut self,
        parcel: T,
        due: Option<u32>,
        desk: &mut Desk<'_, T>,
    ) {
        if due.is_none() {
            self.let_go(desk);
            self.give(Side::Client, parcel, desk);
            return;
        }
        if self.hold.state == State::Fresh {
            self.hold.state = State::Held;
            self.hold.until = desk.now.after(HOLD_NS);
            self.wake_by(self.hold.until);
        }
        self.hold.due = due;
        self.last_activity = desk.now;
        desk.parcels.push_back(&mut self.hold.line, parcel);
        self.advance(Side::Client, desk);
    }

    /// From now on an end is an end; what is held goes back.
    pub(super) fn let_go<T>(&mut self, desk: &mut Desk<'_, T>) {
        self.hold.state = State::Off;
        self.hold.due = None;
        self.hold.until = Nanos::NEVER;
        while let Some(parcel) = desk.parcels.pop_front(&mut self.hold.line) {
            desk.act(Action::Release(parcel));
        }
    }

    pub(super) fn let_go_if_due<T>(&mut self, desk: &mut Desk<'_, T>) {
        if desk.now >= self.hold.until {
            self.let_go(desk);
        }
        self.wake_by(self.hold.until);
    }

    /// Whether the backend's end, which its receive has just told, can be made good.
    pub(super) fn may_redial(&self) -> bool {
        let socket = &self.sockets[Side::Backend];
        self.phase == Phase::Relaying
            && self.hold.state != State::Off
            && self.broken.is_none()
            && socket.in_flight() == 0
            && !socket.starved
            && !self.pumps[Side::Client].holds_bytes()
    }

    /// Connects to the same backend once more; what was sent stands first in line again.
    pub(super) fn redial<T: Ticket>(&mut self, desk: &mut Desk<'_, T>) {
        let held = std::mem::replace(&mut self.hold, Hold::new()).line;
        self.hold.spent = true;
        self.pumps[Side::Client].line = held;
        self.pumps[Side::Backend] = Pump::new();
        self.sockets[Side::Backend] = Socket::new();
        desk.act(Action::Close {
            side: Side::Backend,
            reset: false,
        });
        self.connect(desk);
    }

    /// Bytes of a client that has no backend at the moment, because its first one went: they wait in line.
    pub(super) fn keep_for_later<T: Ticket>(&mut self, parcel: T, desk: &mut Desk<'_, T>) {
        let pump = &mut self.pumps[Side::Client];
        desk.parcels.push_back(&mut pump.line, parcel);
        if pump.line.count() >= super::rules::LINE_MAX {
            self.stop_receive(Side::Client, desk);
        }
    }

    /// The end of a client that has no backend at the moment.
    pub(super) fn on_client_over<T: Ticket>(&mut self, why: ReceiveEnd, desk: &mut Desk<'_, T>) {
        let waiting = self.phase == Phase::Waiting;
        if why != ReceiveEnd::Fin || (waiting && self.rules.leave_on_fin) {
            self.cut(End::ClientGone, desk);
            return;
        }
        self.on_source_end_noted(Side::Client, desk.now);
        if waiting {
            self.poll(Side::Client, Interest::HangUp, desk);
        }
    }

    /// Whether anything but a poll would tell of the client while it waits.
    pub(super) fn hears_client(&self) -> bool {
        self.sockets[Side::Client].receive == Operation::On
    }
}
