//! A TCP session: its state, and the one door [`TcpSession::step`] through which it learns and decides.
//!
//! Which event may come in which phase (everything else is a bug of the carrier and asserted in debug builds):
//!
//! | phase | events |
//! |---|---|
//! | Choosing | Opened, Chosen, NoneOpen, Queued |
//! | Preface | Looked, Ready(Client), Tick |
//! | Waiting | Granted, Ready(Client), Tick, Received, ReceiveEnded, Resume |
//! | Pausing | Tick, Ready(Client), Received, ReceiveEnded, Resume |
//! | Connecting | Connected, Warm, ConnectFailed, ConnectCancelled, Ready(Client), Tick, Received, ReceiveEnded, Resume |
//! | Relaying | Offered, Received, ReceiveEnded, Resume, Sent, SentShort, SendBroken, Stashed, Ready, Moved, Again, Delivered, Tick |
//! | Closing | the late answers of all the above, each of which only ticks off an operation in flight |
//!
//! `Kill` may come in any phase. Bytes come before Relaying only to a session whose warm connection died under it
//! (see `replay`).

use crate::ids::{Condition, ConnectFailure, End, Fault, Interest, Nanos, ReceiveEnd, Side};

use super::event::{Action, Event, Ticket};
use super::parcels::Parcels;
use super::pump::Pump;
use super::replay::Hold;
use super::rules::Rules;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Choosing,
    /// The client's first bytes are to tell more about it.
    Preface,
    Waiting,
    /// Before the same backend is tried again.
    Pausing,
    Connecting,
    Relaying,
    /// `reset`: the streams were cut; else both were passed on whole.
    Closing {
        reset: bool,
    },
    Done,
}

/// An operation in the ring, as far as the session must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Off,
    On,
    /// Cancelled; its last answer is still to come.
    Stopping,
}

/// What is in flight on one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Socket {
    /// There is a descriptor.
    pub(super) open: bool,
    pub(super) receive: Operation,
    /// The receive is off for want of buffers; `Resume` will come.
    pub(super) starved: bool,
    /// Hang-up or leave.
    pub(super) watch: Operation,
    /// It is the latter: each is cancelled by its own name.
    pub(super) leave: bool,
    pub(super) readable: Operation,
    pub(super) writable: Operation,
    /// It hung up without an error: watching it again would only spin.
    pub(super) hung_up: bool,
}

impl Socket {
    pub(super) const fn new() -> Socket {
        Socket {
            open: false,
            receive: Operation::Off,
            starved: false,
            watch: Operation::Off,
            leave: false,
            readable: Operation::Off,
            writable: Operation::Off,
            hung_up: false,
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
            .filter(|&&op| op != Operation::Off)
            .count()
    }
}

/// Two of a kind, one per side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PerSide<X>(pub(super) [X; 2]);

impl<X> std::ops::Index<Side> for PerSide<X> {
    type Output = X;
    fn index(&self, side: Side) -> &X {
        &self.0[side.index()]
    }
}

impl<X> std::ops::IndexMut<Side> for PerSide<X> {
    fn index_mut(&mut self, side: Side) -> &mut X {
        &mut self.0[side.index()]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpSession {
    pub(super) phase: Phase,
    pub(super) rules: Rules,
    pub(super) sockets: PerSide<Socket>,
    /// By source.
    pub(super) pumps: PerSide<Pump>,
    /// What was sent on a warm connection that may be dead.
    pub(super) hold: Hold,
    pub(super) connecting: Operation,
    pub(super) attempts: u8,
    pub(super) last_failure: Option<ConnectFailure>,
    /// The side whose stream broke first.
    pub(super) broken: Option<Side>,
    pub(super) end: Option<End>,
    pub(super) connect_ns_used: u64,
    pub(super) phase_began: Nanos,
    /// End of waiting, pausing, one attempt, or flushing, whichever the phase has.
    pub(super) phase_deadline: Nanos,
    pub(super) last_activity: Nanos,
    pub(super) lifetime_end: Nanos,
    pub(super) watch_due: Nanos,
    pub(super) mature_due: Nanos,
    /// All of the broken side's bytes are with the other side's socket; once its peer has them, the session is cut.
    pub(super) delivering: bool,
    /// When to ask for that again; in the preface, when to look for first bytes again.
    pub(super) ask_due: Nanos,
    /// First bytes that the last look has seen.
    pub(super) bytes_seen: u32,
    pub(super) wake_at: Nanos,
}

/// What a session decides with and writes on: the moment, the parcels in line, and the list of actions.
#[derive(Debug)]
pub struct Desk<'a, T> {
    pub now: Nanos,
    pub parcels: &'a mut Parcels<T>,
    pub actions: &'a mut Vec<Action<T>>,
}

impl<T> Desk<'_, T> {
    pub(super) fn act(&mut self, action: Action<T>) {
        self.actions.push(action);
    }
}

impl TcpSession {
    /// A session whose client has just been accepted. Its first event is `Opened`.
    #[must_use]
    pub fn new(rules: Rules, now: Nanos) -> TcpSession {
        let mut sockets = PerSide([Socket::new(); 2]);
        sockets[Side::Client].open = true;
        TcpSession {
            phase: Phase::Choosing,
            rules,
            sockets,
            pumps: PerSide([Pump::new(); 2]),
            hold: Hold::new(),
            connecting: Operation::Off,
            attempts: 0,
            last_failure: None,
            broken: None,
            end: None,
            connect_ns_used: 0,
            phase_began: now,
            phase_deadline: Nanos::NEVER,
            last_activity: now,
            lifetime_end: Nanos::NEVER,
            watch_due: Nanos::NEVER,
            mature_due: Nanos::NEVER,
            delivering: false,
            ask_due: Nanos::NEVER,
            bytes_seen: 0,
            wake_at: Nanos::NEVER,
        }
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Which end it has, or will have as far as is known.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Attempts to connect so far.
    #[must_use]
    pub fn attempts(&self) -> u8 {
        self.attempts
    }

    /// When the session wants a `Tick`. It may be early, never late.
    #[must_use]
    pub fn wake_at(&self) -> Nanos {
        self.wake_at
    }

    #[must_use]
    pub fn pump(&self, from: Side) -> &Pump {
        &self.pumps[from]
    }

    /// Operations of this session in the ring now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let sends = Side::BOTH
            .iter()
            .filter(|&&side| self.pumps[side].sending)
            .count();
        let connects = usize::from(self.connecting != Operation::Off);
        self.sockets.0.iter().map(Socket::in_flight).sum::<usize>() + sends + connects
    }

    /// Learns one event and appends what is to be done, in this order, to the desk's actions. Answers that come at once
    /// (see [`Action`]) are to be fed back before the next action is carried out.
    pub fn step<T: Ticket>(&mut self, event: Event<T>, desk: &mut Desk<'_, T>) {
        match event {
            Event::Opened => self.on_opened(desk),
            Event::Looked(look) => self.on_looked(look, desk),
            Event::Chosen { repeated } => self.on_chosen(repeated, desk),
            Event::NoneOpen => self.on_none_open(desk),
            Event::Queued(queued) => self.on_queued(queued, desk),
            Event::Granted => self.on_granted(desk),
            Event::Connected => self.on_connected(desk),
            Event::Warm => self.on_warm(desk),
            Event::ConnectFailed(failure) => self.on_connect_failed(failure, desk),
            Event::ConnectCancelled => self.on_connect_failed(ConnectFailure::Timeout, desk),
            Event::Received(side, parcel) => self.on_received(side, parcel, desk),
            Event::ReceiveEnded(side, why) => self.on_receive_ended(side, why, desk),
            Event::Resume(side) => self.on_resume(side, desk),
            Event::Sent(side) => self.on_sent(side, desk),
            Event::Offered { parcel, due } => self.on_offered(parcel, due, desk),
            Event::SentShort(side, rest) => self.on_sent_short(side, rest, desk),
            Event::SendBroken(side, fault) => self.on_send_broken(side, fault, desk),
            Event::Stashed { from, bytes, rest } => self.on_stashed(from, bytes, rest, desk),
            Event::Ready(side, interest, condition) => {
                self.on_ready(side, interest, condition, desk);
            }
            Event::PollEnded(side, interest) => {
                *self.sockets[side].poll(interest) = Operation::Off;
                self.close_what_is_quiet(desk);
            }
            Event::Moved(from, moved) => self.on_moved(from, moved, desk),
            Event::Again(from) => self.on_again(from, desk),
            Event::Delivered(side, all) => self.on_delivered(side, all, desk),
            Event::Tick => self.on_tick(desk),
            Event::Kill(end) => self.on_kill(end, desk),
        }
        self.watch_soon(desk.now);
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing { .. } | Phase::Done)
    }

    /// Asks to be woken at `deadline`, if nothing wakes earlier.
    pub(super) fn wake_by(&mut self, deadline: Nanos) {
        self.wake_at = self.wake_at.min(deadline);
    }

    pub(super) fn poll<T>(&mut self, side: Side, interest: Interest, desk: &mut Desk<'_, T>) {
        let socket = &mut self.sockets[side];
        if *socket.poll(interest) == Operation::Off {
            *socket.poll(interest) = Operation::On;
            if matches!(interest, Interest::HangUp | Interest::Leave) {
                socket.leave = interest == Interest::Leave;
            }
            desk.act(Action::Poll(side, interest));
        }
    }

    fn on_kill<T: Ticket>(&mut self, end: End, desk: &mut Desk<'_, T>) {
        if !self.is_closing() {
            self.cut(end, desk);
        }
    }

    fn on_tick<T: Ticket>(&mut self, desk: &mut Desk<'_, T>) {
        self.wake_at = Nanos::NEVER;
        if self.is_closing() {
            return;
        }
        if desk.now >= self.phase_deadline {
            self.phase_deadline = Nanos::NEVER;
            self.on_phase_deadline(desk);
        }
        match self.phase {
            Phase::Relaying => self.on_relaying_tick(desk),
            Phase::Preface => self.look_again_if_due(desk),
            _ => {}
        }
        if !self.is_closing() {
            self.watch_if_due(desk);
            self.wake_by(self.phase_deadline);
            self.wake_by(self.watch_due);
        }
    }

    fn on_phase_deadline<T: Ticket>(&mut self, desk: &mut Desk<'_, T>) {
        match self.phase {
            Phase::Preface => self.on_preface_deadline(desk),
            Phase::Waiting => self.cut(End::WaitTimeout, desk),
            Phase::Pausing => self.choose(desk),
            Phase::Connecting => self.on_attempt_timeout(desk),
            Phase::Relaying => self.on_flush_timeout(desk),
            Phase::Choosing | Phase::Closing { .. } | Phase::Done => {}
        }
    }

    /// A poll has answered: note it, then see what it means where the session is.
    fn on_ready<T: Ticket>(
        &mut self,
        side: Side,
        interest: Interest,
        condition: Condition,
        desk: &mut Desk<'_, T>,
    ) {
        *self.sockets[side].poll(interest) = Operation::Off;
        if condition == Condition::HungUp {
            self.sockets[side].hung_up = true;
        }
        match self.phase {
            Phase::Closing { .. } | Phase::Done => self.close_what_is_quiet(desk),
            Phase::Relaying => self.on_ready_relaying(side, interest, condition, desk),
            Phase::Preface => self.on_first_bytes(interest, condition, desk),
            Phase::Choosing | Phase::Waiting | Phase::Pausing | Phase::Connecting => {
                self.on_client_stirred(interest, condition, desk);
            }
        }
    }

    /// Ends of a broken stream, by side and fault.
    pub(super) fn end_of(side: Side, fault: Fault) -> End {
        match (fault, side) {
            (Fault::Keepalive, _) => End::Keepalive,
            (Fault::UserTimeout, _) => End::UserTimeout,
            (Fault::Resources, _) => End::Resources,
            (Fault::Reset, Side::Client) => End::ClientReset,
            (Fault::Reset, Side::Backend) => End::BackendReset,
            (Fault::TimedOut | Fault::Unreachable, Side::Client) => End::ClientTimeout,
            (Fault::TimedOut | Fault::Unreachable, Side::Backend) => End::BackendTimeout,
        }
    }

    pub(super) fn receive_off(&mut self, side: Side, why: ReceiveEnd) {
        let socket = &mut self.sockets[side];
        socket.receive = Operation::Off;
        socket.starved = why == ReceiveEnd::NoBuffer;
    }
}
