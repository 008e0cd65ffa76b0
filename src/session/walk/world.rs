//! A session together with the shadow of everything around it: two peers, the kernel's side of both sockets, the pipes,
//! the carrier's promises. The shadow is kept by what was truly asked and answered, never by what the session believes.
//!
//! A stream is a row of numbered units. Of those that a peer has sent, the first `passed` are with the other side, the
//! next ones are held (being sent, in the pipe, in line), `lost` were thrown away, and the rest is unread.

use std::hash::Hash;

use crate::ids::{Condition, End, Interest, Nanos, Side};

use super::super::event::Ticket;
use super::super::parcels::{Line, Parcels};
use super::super::rules::LINE_MAX;
use super::super::tcp::{Operation, Phase, TcpSession};
use super::plan::Plan;

/// The moment at which every state is looked at: all others are kept relative to it, so that states which differ only in
/// when they are reached are one.
pub(super) const NOW: Nanos = Nanos(1 << 50);

/// A stalled peer that has not acknowledged its bytes after so many questions never does: the questions between are left
/// out, as a worker that is late leaves them out.
pub(super) const ASKED_MAX: u8 = 2;

/// A parcel: units `first..first + units` of the stream from `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Serial {
    pub(super) from: Side,
    pub(super) first: u8,
    pub(super) units: u8,
    pub(super) full: bool,
}

impl Ticket for Serial {
    fn is_full(&self) -> bool {
        self.full
    }
}

/// A parcel that the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flight {
    pub(super) parcel: Serial,
    /// Its answer comes without anything else having to happen: the carrier was told to hurry, or the answers of its turn
    /// have begun to come.
    pub(super) sure: bool,
}

/// One side: its peer, its socket, and the direction from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wire {
    /// There is a descriptor.
    pub(super) open: bool,
    pub(super) connected: bool,
    /// Parcels sent by the peer, and those of them that nobody has read.
    pub(super) sent: u8,
    pub(super) arrived: u8,
    /// Units read, passed on to the other side, thrown away.
    pub(super) taken: u8,
    pub(super) passed: u8,
    pub(super) lost: u8,
    /// The peer has ended, or broken, its stream.
    pub(super) fin: bool,
    pub(super) reset: bool,
    /// A unix socket's peer closed.
    pub(super) gone: bool,
    /// The socket's error has not been told to anybody yet.
    pub(super) error: bool,
    /// The session was told of the peer's end; that the stream broke.
    pub(super) fin_told: bool,
    pub(super) break_told: bool,
    /// We ended our stream towards this peer.
    pub(super) finished: bool,
    pub(super) receive: Operation,
    pub(super) starved: bool,
    pub(super) watch: Operation,
    /// Whether the watch is also for the peer's end.
    pub(super) leave: bool,
    pub(super) readable: Operation,
    pub(super) writable: Operation,
    pub(super) raised: bool,
    /// On its way to this peer.
    pub(super) flight: Option<Flight>,
    /// Units of this peer's stream in the pipe: the first, and how many.
    pub(super) pipe: (u8, u8),
    pub(super) yielded: bool,
}

impl Wire {
    pub(super) fn new(open: bool) -> Wire {
        Wire {
            open,
            connected: open,
            sent: 0,
            arrived: 0,
            taken: 0,
            passed: 0,
            lost: 0,
            fin: false,
            reset: false,
            gone: false,
            error: false,
            fin_told: false,
            break_told: false,
            finished: false,
            receive: Operation::Off,
            starved: false,
            watch: Operation::Off,
            leave: false,
            readable: Operation::Off,
            writable: Operation::Off,
            raised: false,
            flight: None,
            pipe: (0, 0),
            yielded: false,
        }
    }

    pub(super) fn poll(&mut self, interest: Interest) -> &mut Operation {
        match interest {
            Interest::HangUp | Interest::Leave => &mut self.watch,
            Interest::Readable => &mut self.readable,
            Interest::Writable => &mut self.writable,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        [self.receive, self.watch, self.readable, self.writable]
            .iter()
            .filter(|&&operation| operation != Operation::Off)
            .count()
            + usize::from(self.flight.is_some())
    }

    /// Both ends of stream were exchanged with this peer: nothing that it does later matters.
    pub(super) fn exchanged(&self) -> bool {
        self.fin_told && self.finished
    }

    /// Nothing can be sent to this peer any more.
    pub(super) fn is_deaf(&self) -> bool {
        self.reset || self.gone
    }

    pub(super) fn is_hung_up(&self) -> bool {
        self.is_deaf() || (self.fin && self.finished)
    }

    /// What an answered poll finds; takes the error, as reading SO_ERROR does.
    pub(super) fn condition(&mut self, interest: Interest) -> Condition {
        if self.is_hung_up() {
            if self.reset && std::mem::take(&mut self.error) {
                return Condition::Broken(crate::ids::Fault::Reset);
            }
            return Condition::HungUp;
        }
        if interest == Interest::Leave && self.fin && self.arrived == 0 {
            return Condition::Left;
        }
        Condition::Fine
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) session: TcpSession,
    pub(super) parcels: Parcels<Serial>,
    pub(super) wires: [Wire; 2],
    /// Units of the client that were given to the backend and are held.
    pub(super) kept: u8,
    /// The backend's connection is a warm one; there was one before.
    pub(super) warm: bool,
    pub(super) redialled: bool,
    pub(super) connecting: Operation,
    pub(super) reserved: bool,
    pub(super) queued: bool,
    /// All that is to be known of the client is.
    pub(super) known: bool,
    /// Others carry out what it wants.
    pub(super) busy: bool,
    /// What it wanted was done, or refused, without a backend.
    pub(super) served: bool,
    pub(super) matured: bool,
    /// The side that the session was first told to be broken, and until when it may deliver what came before.
    pub(super) broken: Option<Side>,
    pub(super) flush_due: Nanos,
    /// The peer of the other side has acknowledged all.
    pub(super) delivered: bool,
    /// How often that was asked in vain; from [`ASKED_MAX`] on the session sleeps until the time to flush is over.
    pub(super) asked: u8,
    /// The side whose end of stream was told first.
    pub(super) first_fin: Option<Side>,
    pub(super) last_bytes: Nanos,
    pub(super) opened: Nanos,
    pub(super) end: Option<End>,
    /// It was decided to end whole, and rightly.
    pub(super) whole: bool,
    pub(super) killed: bool,
    /// The carrier was told in this turn not to sleep.
    pub(super) hurry: bool,
    /// A mutant that strikes once has struck.
    pub(super) struck: bool,
}

impl World {
    pub(super) fn new(plan: &Plan) -> World {
        World {
            session: TcpSession::new(plan.rules, NOW),
            parcels: Parcels::new(LINE_MAX + 4),
            wires: [Wire::new(true), Wire::new(false)],
            kept: 0,
            warm: false,
            redialled: false,
            connecting: Operation::Off,
            reserved: false,
            queued: false,
            known: plan.rules.preface_ns == 0,
            busy: false,
            served: false,
            matured: false,
            broken: None,
            flush_due: Nanos::NEVER,
            delivered: false,
            asked: 0,
            first_fin: None,
            last_bytes: NOW,
            opened: NOW,
            end: None,
            whole: false,
            killed: false,
            hurry: false,
            struck: false,
        }
    }

    pub(super) fn wire(&mut self, side: Side) -> &mut Wire {
        &mut self.wires[side.index()]
    }

    pub(super) fn see(&self, side: Side) -> &Wire {
        &self.wires[side.index()]
    }

    pub(super) fn is_done(&self) -> bool {
        self.session.phase == Phase::Done
    }

    /// The session learns that `side` broke, through whatever operation found it.
    pub(super) fn note_break(&mut self, side: Side) {
        let over = self.session.is_closing();
        let wire = self.wire(side);
        if over || wire.exchanged() || !wire.is_deaf() {
            return;
        }
        wire.break_told = true;
        if self.broken.is_none() {
            self.broken = Some(side);
            self.flush_due = NOW.after(super::super::rules::FLUSH_NS);
        }
    }

    /// Lets so much time pass, by moving every moment into the past.
    pub(super) fn let_pass(&mut self, nanoseconds: u64) {
        let session = &mut self.session;
        let rules = session.rules;
        let horizon = rules.idle_ns.max(rules.half_close_ns);
        let [client, backend] = &mut session.pumps.0;
        for moment in [
            &mut session.phase_deadline,
            &mut session.lifetime_end,
            &mut session.watch_due,
            &mut session.mature_due,
            &mut session.ask_due,
            &mut session.hold.until,
            &mut session.wake_at,
            &mut client.mark.guard_at,
            &mut backend.mark.guard_at,
            &mut self.flush_due,
        ] {
            if *moment != Nanos::NEVER {
                *moment = Nanos(moment.0.saturating_sub(nanoseconds)).max(NOW);
            }
        }
        for moment in [&mut session.last_activity, &mut self.last_bytes] {
            *moment = Nanos(moment.0 - nanoseconds).max(Nanos(NOW.0 - horizon));
        }
        session.phase_began = Nanos(session.phase_began.0 - nanoseconds);
        self.opened = Nanos(self.opened.0 - nanoseconds).max(Nanos(NOW.0 - rules.lifetime_ns));
    }

    /// Makes equal what differs only by how it came about: free nodes of the arena, moments that nobody looks at.
    /// Returns what waits in line, by source.
    pub(super) fn make_canonical(&mut self) -> [Vec<Serial>; 2] {
        let lines = Side::BOTH.map(|from| {
            let line = &mut self.session.pumps[from].line;
            std::iter::from_fn(|| self.parcels.pop_front(line)).collect::<Vec<_>>()
        });
        let line = &mut self.session.hold.line;
        let held: Vec<_> = std::iter::from_fn(|| self.parcels.pop_front(line)).collect();
        if self.parcels.waiting() == 0 {
            let mut fresh = Parcels::new(LINE_MAX + 4);
            for from in Side::BOTH {
                let line = &mut self.session.pumps[from].line;
                *line = Line::EMPTY;
                for &parcel in &lines[from.index()] {
                    fresh.push_back(line, parcel);
                }
            }
            self.session.hold.line = Line::EMPTY;
            for &parcel in &held {
                fresh.push_back(&mut self.session.hold.line, parcel);
            }
            self.parcels = fresh;
        }
        let session = &mut self.session;
        let asking = session.delivering && self.asked < ASKED_MAX;
        if session.phase != Phase::Connecting && !asking {
            session.phase_began = NOW;
        }
        self.hurry = false;
        lines
    }

    pub(super) fn in_flight(&self) -> usize {
        self.wires.iter().map(Wire::in_flight).sum::<usize>()
            + usize::from(self.connecting != Operation::Off)
    }
}
