//! The fake kernel of one worker: a submission queue, operations in flight on fake sockets, and completions. It keeps
//! the real one's order of things: what is queued is carried out when the worker enters, whole sends are answered by the
//! next turn only and end no sleep, a poll's answer is read late, a cancelled operation still answers once.
//!
//! `door.rs` is the door through which a worker asks; this file is what happens behind it.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::rc::Rc;

use ringway::handoff::Hatch;
use ringway::ids::{
    Condition, ConnectFailure, Fault as Broken, Interest, ReceiveEnd, SessionKey, Side, SocketId,
    StreamKey,
};
use ringway::session::{Phase, Route};
use ringway::uring::{AcceptEnd, Answer, Incoming, Outcome, Parcel, Patience};

use super::counts::Fault;
use super::net::{Happening, Net};
use super::socket::{Conn, ERR, HUP, Place, Range};

/// Parcels that one receive brings in a turn at most.
const PARCELS_MAX: u32 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    Receive,
    Connect,
    Poll(Interest),
}

impl OpKind {
    const ALL: [OpKind; 6] = [
        OpKind::Connect,
        OpKind::Receive,
        OpKind::Poll(Interest::HangUp),
        OpKind::Poll(Interest::Leave),
        OpKind::Poll(Interest::Readable),
        OpKind::Poll(Interest::Writable),
    ];

    fn index(self) -> usize {
        match self {
            OpKind::Connect => 0,
            OpKind::Receive => 1,
            OpKind::Poll(interest) => 2 + interest as usize,
        }
    }
}

/// An operation as far as the kernel has come with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Off,
    /// In the submission queue.
    Queued,
    Armed {
        /// Ready, but told only then.
        late: Option<u64>,
        /// Cancelled, and told only then.
        cancelled: Option<u64>,
    },
    /// Its last completion waits to be read.
    Answered,
}

#[derive(Debug)]
pub struct End {
    pub conn: usize,
    pub ops: [Op; 6],
    /// Sends without an answer.
    pub sends: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Loan {
    pub range: Range,
}

/// A slot of the worker's table.
#[derive(Debug, Default)]
pub struct Entry {
    pub key: Option<SessionKey>,
    pub ends: [Option<End>; 2],
    /// By source.
    pub pipes: [Option<Loan>; 2],
    pub client: usize,
    pub backend: Option<usize>,
    /// Phase, and routes by source, before this turn.
    pub state: Option<(Phase, [Route; 2])>,
}

#[derive(Debug)]
pub enum Submission {
    Arm(StreamKey, OpKind),
    Cancel(StreamKey, OpKind),
    Send(u64),
    Close(usize, bool),
    Accept(SocketId),
    StopAccept(SocketId),
    Bell,
}

#[derive(Debug)]
pub struct Flight {
    pub number: u64,
    pub stream: StreamKey,
    pub parcel: Parcel,
    /// Bytes that the kernel took, or why it took none; `None` while it is in the submission queue.
    result: Option<Result<u32, Broken>>,
}

impl Flight {
    pub fn new(number: u64, stream: StreamKey, parcel: Parcel) -> Flight {
        Flight {
            number,
            stream,
            parcel,
            result: None,
        }
    }
}

#[derive(Debug)]
enum Completion {
    /// The flight answers by itself; this only ends the sleep.
    SendFailed,
    Connect(StreamKey, Result<(), Option<ConnectFailure>>),
    Received(StreamKey, u16, u32, Option<ReceiveEnd>),
    ReceiveEnd(StreamKey, ReceiveEnd),
    Poll(StreamKey, Interest, Option<u8>),
    Accepted(SocketId, usize, Option<AcceptEnd>),
    AcceptEnd(SocketId, AcceptEnd),
    Bell,
}

#[derive(Debug)]
pub struct Listening {
    pub id: SocketId,
    pub shared: bool,
    pub armed: bool,
}

pub struct FakeKernel {
    net: Rc<RefCell<Net>>,
    pub worker: usize,
    pub entries: Vec<Entry>,
    pub listeners: Vec<Listening>,
    pub queue: VecDeque<Submission>,
    pub flights: Vec<Flight>,
    pub flights_made: u64,
    completions: VecDeque<Completion>,
    /// What each provided buffer was filled with.
    pub contents: Vec<Option<Range>>,
    /// Free buffers that the kernel sees, and those it will see after the next turn has begun.
    free: Vec<u16>,
    pub returned: Vec<u16>,
    pub pipes_out: usize,
    bell: File,
    bell_armed: bool,
    pub attached: u64,
    pub overflowed: bool,
    /// In a world of two workers: sleeping until then.
    pub asleep_until: Option<u64>,
    woken: bool,
    /// Turns in a row in which nothing happened at all.
    idle_turns: u32,
    /// Something was asked for or came in this turn; and it was allowed to sleep.
    pub busy: bool,
    slept: bool,
}

impl FakeKernel {
    pub fn new(net: Rc<RefCell<Net>>, worker: usize, hatch: &Hatch) -> FakeKernel {
        let bell = hatch.doorbell.as_fd().try_clone_to_owned();
        let buffers = net.borrow().weather.buffers;
        FakeKernel {
            net,
            worker,
            entries: Vec::new(),
            listeners: Vec::new(),
            queue: VecDeque::from([Submission::Bell]),
            flights: Vec::new(),
            flights_made: 0,
            completions: VecDeque::new(),
            contents: vec![None; usize::from(buffers)],
            free: (0..buffers).collect(),
            returned: Vec::new(),
            pipes_out: 0,
            bell: bell.expect("a descriptor").into(),
            bell_armed: false,
            attached: 0,
            overflowed: false,
            asleep_until: None,
            woken: false,
            idle_turns: 0,
            busy: false,
            slept: false,
        }
    }

    pub fn net(&self) -> Ref<'_, Net> {
        self.net.borrow()
    }

    pub fn net_mut(&self) -> RefMut<'_, Net> {
        self.net.borrow_mut()
    }

    pub fn fail(&self, what: &str) -> ! {
        self.net().fail(&format!("worker {}: {what}", self.worker));
    }

    pub fn say(&self, words: impl FnOnce() -> String) {
        self.net().say(|| format!("  w{} {}", self.worker, words()));
    }

    fn hit(&self, fault: Fault) {
        self.net_mut().hit(fault);
    }

    fn chance(&self, per_mille: u32) -> bool {
        self.net_mut().random.chance(per_mille)
    }

    pub fn buffers_unused(&self) -> usize {
        self.free.len() + self.returned.len()
    }

    // Tables

    pub fn entry(&self, session: SessionKey) -> &Entry {
        match self.entries.get(session.slot.index()) {
            Some(entry) if entry.key == Some(session) => entry,
            _ => self.fail(&format!("{session:?} does not live here")),
        }
    }

    pub fn entry_mut(&mut self, session: SessionKey) -> &mut Entry {
        self.entry(session);
        &mut self.entries[session.slot.index()]
    }

    pub fn end(&self, stream: StreamKey) -> &End {
        match &self.entry(stream.session).ends[stream.side.index()] {
            Some(end) => end,
            None => self.fail(&format!("{stream:?} has no socket")),
        }
    }

    pub fn end_mut(&mut self, stream: StreamKey) -> &mut End {
        self.end(stream);
        let end = &mut self.entries[stream.session.slot.index()].ends[stream.side.index()];
        end.as_mut().expect("was just seen")
    }

    pub fn op_mut(&mut self, stream: StreamKey, kind: OpKind) -> &mut Op {
        &mut self.end_mut(stream).ops[kind.index()]
    }

    pub fn op(&self, stream: StreamKey, kind: OpKind) -> Op {
        self.end(stream).ops[kind.index()]
    }

    /// What a parcel holds.
    pub fn range(&self, parcel: &Parcel) -> Range {
        let Some(content) = self.contents[usize::from(parcel.buffer())] else {
            self.fail(&format!("{parcel:?} is of a buffer that is free"));
        };
        let gone = content.bytes - parcel.bytes();
        Range {
            start: content.start + u64::from(gone),
            bytes: parcel.bytes(),
            ..content
        }
    }

    pub fn give_back(&mut self, buffer: u16) {
        if self.contents[usize::from(buffer)].take().is_none() {
            self.fail(&format!("buffer {buffer} was given back twice"));
        }
        self.returned.push(buffer);
    }

    // Submissions

    pub fn push(&mut self, submission: Submission) {
        self.busy = true;
        self.queue.push_back(submission);
        let early = self.net().weather.early_submit;
        if self.chance(early) {
            self.hit(Fault::EarlySubmit);
            self.enter();
        }
    }

    /// Submits, and runs what the kernel has put off until the worker enters.
    fn enter(&mut self) {
        let now = self.net().now;
        self.net_mut().advance(now);
        while let Some(submission) = self.queue.pop_front() {
            self.submit(submission);
        }
        self.run_tasks();
    }

    /// A ring that is given up submits what is queued before it goes.
    pub fn submit_the_rest(&mut self) {
        self.enter();
    }

    fn submit(&mut self, submission: Submission) {
        match submission {
            Submission::Arm(stream, kind) => {
                if kind == OpKind::Connect {
                    self.dial(stream);
                }
                *self.op_mut(stream, kind) = Op::Armed {
                    late: None,
                    cancelled: None,
                };
            }
            Submission::Cancel(stream, kind) => self.cancel(stream, kind),
            Submission::Send(number) => self.send_now(number),
            Submission::Close(conn, reset) => self.net_mut().close_ours(conn, reset),
            Submission::Accept(id) => {
                if let Some(listening) = self.listeners.iter_mut().find(|it| it.id == id) {
                    listening.armed = true;
                }
            }
            Submission::StopAccept(id) => {
                let found = self.listeners.iter_mut().find(|it| it.id == id && it.armed);
                if let Some(listening) = found {
                    listening.armed = false;
                    let end = Completion::AcceptEnd(id, AcceptEnd::Stopped);
                    self.completions.push_back(end);
                }
            }
            Submission::Bell => self.bell_armed = true,
        }
    }

    fn cancel(&mut self, stream: StreamKey, kind: OpKind) {
        let gone = self
            .entries
            .get(stream.session.slot.index())
            .is_none_or(|entry| {
                entry.key != Some(stream.session) || entry.ends[stream.side.index()].is_none()
            });
        // Its answer came before the cancel was submitted, and the socket has been closed since.
        if gone {
            return;
        }
        let late = self.net().weather.late_cancel;
        match self.op(stream, kind) {
            Op::Armed { late: held, .. } => {
                let mut when = self.net().now;
                if self.chance(late) {
                    self.hit(Fault::LateCancel);
                    let mut net = self.net_mut();
                    when += net.random.below(3_000_000);
                    net.at(when, Happening::Look);
                }
                *self.op_mut(stream, kind) = Op::Armed {
                    late: held,
                    cancelled: Some(when),
                };
            }
            Op::Answered | Op::Off => self.hit(Fault::CancelRaced),
            Op::Queued => {}
        }
    }

    fn send_now(&mut self, number: u64) {
        let at = self.flights.iter().position(|it| it.number == number);
        let at = at.expect("a submitted send has a flight");
        let (stream, range) = (
            self.flights[at].stream,
            self.range(&self.flights[at].parcel),
        );
        let conn = self.end(stream).conn;
        let result = self.write(conn, range, true);
        if result != Ok(range.bytes) {
            self.completions.push_back(Completion::SendFailed);
        }
        self.flights[at].result = Some(result);
    }

    /// Bytes go into a socket; as many as it takes.
    pub fn write(&self, conn: usize, range: Range, is_send: bool) -> Result<u32, Broken> {
        let mut net = self.net_mut();
        let short = net.weather.short_send;
        let partner = net.conns[conn].partner;
        if let Some(fault) = net.conns[conn].send_fault() {
            net.hit(Fault::SendAfterError);
            return Err(fault);
        }
        if partner != Some(range.origin) {
            let what = format!("c{conn} got bytes of c{}, not of {partner:?}", range.origin);
            net.fail(&what);
        }
        let expected = net.conns[conn].accepted;
        if range.start != expected {
            let what = format!("c{conn} was at byte {expected} and got {range:?}");
            net.fail(&what);
        }
        let mut taken = u64::from(range.bytes).min(net.conns[conn].room());
        if net.random.chance(short) {
            taken = net.random.below(taken + 1);
        }
        if is_send && taken < u64::from(range.bytes) {
            let fault = match taken {
                0 => Fault::BlockedSend,
                _ => Fault::ShortSend,
            };
            net.hit(fault);
        }
        let now = net.now;
        let target = &mut net.conns[conn];
        target.accepted += taken;
        target.moved_at = now;
        target.stamp += u64::from(taken > 0);
        if target.peer.closed && taken > 0 {
            let wait = net.random.below(300_000);
            net.hit(Fault::ClosedBeforeOurData);
            net.later(wait, Happening::Break(conn));
        }
        net.counts.bytes += taken;
        Ok(taken as u32)
    }

    /// Takes up to `most` bytes out of a socket.
    pub fn read(&self, conn: usize, most: u64) -> Option<Range> {
        let mut net = self.net_mut();
        let now = net.now;
        let source = &mut net.conns[conn];
        let bytes = source.waiting().min(most);
        if bytes == 0 {
            return None;
        }
        let range = Range {
            origin: conn,
            start: source.taken,
            bytes: bytes as u32,
        };
        source.taken += bytes;
        source.moved_at = now;
        source.stamp += 1;
        Some(range)
    }

    // Operations in flight

    /// Looks at everything that is armed. Each operation that has become ready is completed, or held back for a while.
    fn run_tasks(&mut self) {
        self.net_mut().changed = false;
        self.hear_bell();
        for at in 0..self.listeners.len() {
            self.accept_all(at);
        }
        for slot in 0..self.entries.len() {
            let Some(session) = self.entries[slot].key else {
                continue;
            };
            for side in Side::BOTH {
                for kind in OpKind::ALL {
                    let stream = StreamKey { session, side };
                    let end = self.entries[slot].ends[side.index()].as_ref();
                    if let Some(Op::Armed { late, cancelled }) =
                        end.map(|end| end.ops[kind.index()])
                    {
                        self.look_at(stream, kind, late, cancelled);
                    }
                }
            }
        }
    }

    fn hear_bell(&mut self) {
        let mut rings = [0; 8];
        if self.bell_armed && self.bell.read(&mut rings).is_ok() {
            self.bell_armed = false;
            self.completions.push_back(Completion::Bell);
        }
    }

    fn look_at(
        &mut self,
        stream: StreamKey,
        kind: OpKind,
        late: Option<u64>,
        cancelled: Option<u64>,
    ) {
        let now = self.net().now;
        if cancelled.is_some_and(|at| at <= now) {
            self.answer_cancelled(stream, kind);
            return;
        }
        if !self.is_ready(stream, kind) || late.is_some_and(|at| at > now) {
            return;
        }
        let rate = self.net().weather.late;
        if late.is_none() && self.chance(rate) {
            self.hit(Fault::LateAnswer);
            let mut net = self.net_mut();
            let until = now + net.random.below(4_000_000);
            net.at(until, Happening::Look);
            drop(net);
            *self.op_mut(stream, kind) = Op::Armed {
                late: Some(until),
                cancelled,
            };
            return;
        }
        self.complete(stream, kind);
    }

    fn answer_cancelled(&mut self, stream: StreamKey, kind: OpKind) {
        *self.op_mut(stream, kind) = Op::Answered;
        self.completions.push_back(match kind {
            OpKind::Receive => Completion::ReceiveEnd(stream, ReceiveEnd::Stopped),
            OpKind::Connect => Completion::Connect(stream, Err(None)),
            OpKind::Poll(interest) => Completion::Poll(stream, interest, None),
        });
    }

    fn is_ready(&self, stream: StreamKey, kind: OpKind) -> bool {
        let net = self.net();
        let conn = &net.conns[self.end(stream).conn];
        match kind {
            OpKind::Connect => conn.answer.is_some_and(|(at, _)| at <= net.now),
            OpKind::Receive => conn.waiting() > 0 || conn.fin || conn.is_dead(),
            OpKind::Poll(interest) => Conn::stirs(interest, conn.mask()),
        }
    }

    fn complete(&mut self, stream: StreamKey, kind: OpKind) {
        let conn = self.end(stream).conn;
        match kind {
            OpKind::Connect => {
                *self.op_mut(stream, kind) = Op::Answered;
                let answer = self.net().conns[conn].answer;
                let result = answer.map_or(Ok(()), |(_, result)| result);
                self.settle_connect(conn, result);
                self.completions
                    .push_back(Completion::Connect(stream, result.map_err(Some)));
            }
            OpKind::Poll(interest) => {
                *self.op_mut(stream, kind) = Op::Answered;
                let mask = self.net().conns[conn].mask();
                self.completions
                    .push_back(Completion::Poll(stream, interest, Some(mask)));
            }
            OpKind::Receive => self.receive_now(stream, conn),
        }
    }

    fn settle_connect(&self, conn: usize, result: Result<(), ConnectFailure>) {
        let mut net = self.net_mut();
        net.conns[conn].stamp += 1;
        match result {
            Ok(()) => {
                net.conns[conn].place = Place::Open;
                net.conns[conn].began_at = net.now;
                net.act_soon(conn);
            }
            Err(failure) => {
                net.conns[conn].place = Place::Unconnected;
                net.conns[conn].failure = Some(failure);
            }
        }
    }

    /// A multishot receive: parcels as long as there are bytes and buffers, then perhaps its end.
    fn receive_now(&mut self, stream: StreamKey, conn: usize) {
        let weather = self.net().weather.clone();
        let mut end = None;
        let mut parcels = 0;
        while parcels < PARCELS_MAX && end.is_none() {
            if self.net().conns[conn].waiting() == 0 {
                let dry = self.net_mut().conns[conn].dry_end();
                end = dry.map(|end| match end {
                    Ok(()) => ReceiveEnd::Fin,
                    Err(fault) => ReceiveEnd::Broken(fault),
                });
                break;
            }
            let refused = !self.free.is_empty() && self.chance(weather.no_buffer);
            if self.free.is_empty() || refused {
                self.hit(match refused {
                    true => Fault::BufferRefused,
                    false => Fault::NoBuffer,
                });
                end = Some(ReceiveEnd::NoBuffer);
                break;
            }
            if self.chance(weather.receive_stop / 4) {
                self.hit(Fault::ReceiveInterrupted);
                end = Some(ReceiveEnd::Stopped);
                break;
            }
            let buffer = self.free.pop().expect("was just seen");
            let moved_at = self.net().conns[conn].moved_at;
            let range = self.read(conn, u64::from(weather.buffer_bytes));
            let range = range.expect("there are bytes");
            let op = self.op(stream, OpKind::Receive);
            if matches!(op, Op::Armed { cancelled, .. } if cancelled.is_some()) {
                // What comes after a cancel is no activity that a session must count.
                self.net_mut().conns[conn].moved_at = moved_at;
            }
            self.contents[usize::from(buffer)] = Some(range);
            parcels += 1;
            let last = self
                .chance(weather.receive_stop)
                .then_some(ReceiveEnd::Stopped);
            if last.is_some() {
                self.hit(Fault::ReceiveStopped);
                *self.op_mut(stream, OpKind::Receive) = Op::Answered;
            }
            let filled = Completion::Received(stream, buffer, range.bytes, last);
            self.completions.push_back(filled);
            if last.is_some() {
                return;
            }
        }
        if parcels > 3 {
            self.hit(Fault::ManyParcels);
        }
        if let Some(end) = end {
            *self.op_mut(stream, OpKind::Receive) = Op::Answered;
            self.completions
                .push_back(Completion::ReceiveEnd(stream, end));
        }
    }

    fn accept_all(&mut self, at: usize) {
        let (id, place) = (self.listeners[at].id, self.queue_of(at));
        while self.listeners[at].armed
            && self
                .net()
                .queues
                .get(&place)
                .is_some_and(|queue| !queue.is_empty())
        {
            let (pressure, retry) = {
                let weather = &self.net().weather;
                (weather.accept_pressure, weather.accept_retry)
            };
            let end = if self.chance(pressure) {
                self.hit(Fault::AcceptPressure);
                Some(AcceptEnd::Pressure)
            } else if self.chance(retry) {
                self.hit(Fault::AcceptRetry);
                Some(AcceptEnd::Retry)
            } else {
                None
            };
            self.listeners[at].armed = end.is_none();
            if end == Some(AcceptEnd::Pressure) {
                self.completions
                    .push_back(Completion::AcceptEnd(id, AcceptEnd::Pressure));
                return;
            }
            let conn = self.take_from_queue(place).expect("was just seen");
            self.completions
                .push_back(Completion::Accepted(id, conn, end));
        }
    }

    pub fn queue_of(&self, at: usize) -> (u16, usize) {
        let listening = &self.listeners[at];
        let worker = if listening.shared { 0 } else { self.worker };
        (listening.id.0, worker)
    }

    pub fn take_from_queue(&self, place: (u16, usize)) -> Option<usize> {
        let mut net = self.net_mut();
        let conn = net.queues.get_mut(&place)?.pop_front()?;
        net.conns[conn].place = Place::Accepted;
        net.conns[conn].stamp += 1;
        Some(conn)
    }

    // A turn

    pub fn take_turn(&mut self, patience: Patience, outcomes: &mut Vec<Outcome>) {
        self.free.append(&mut self.returned);
        self.spend_time();
        self.enter();
        self.slept |= match patience {
            Patience::None => false,
            Patience::Nanoseconds(nanoseconds) => nanoseconds >= 100_000,
            Patience::Endless => true,
        };
        let awake = patience == Patience::None || !self.completions.is_empty() || self.woken;
        if !awake {
            let until = match patience {
                Patience::Nanoseconds(nanoseconds) => self.net().now + nanoseconds,
                _ => u64::MAX,
            };
            if self.net().weather.workers > 1 {
                self.asleep_until = Some(until);
                return;
            }
            self.sleep(until);
        }
        self.woken = false;
        self.collect(outcomes);
        self.busy |= !outcomes.is_empty();
    }

    fn spend_time(&mut self) {
        let mut net = self.net_mut();
        let mut spent = net.random.between(300, 8_000);
        let (stall, overflow) = (net.weather.stall, net.weather.overflow);
        if net.random.chance(stall) {
            net.hit(Fault::WorkerStalled);
            spent += net.random.below(40_000_000);
        }
        let overflowed = net.random.chance(overflow);
        if overflowed {
            net.hit(Fault::Overflow);
        }
        let moment = net.now + spent;
        net.advance(moment);
        drop(net);
        self.overflowed |= overflowed;
    }

    /// Sleeps until a completion comes, or `until`.
    fn sleep(&mut self, until: u64) {
        let rate = self.net().weather.early_wake;
        if self.chance(rate) {
            self.hit(Fault::EarlyWake);
            let mut net = self.net_mut();
            let next = net.next_event().unwrap_or(until).min(until);
            let some = net.random.below(20_000_000);
            let moment = next.min(net.now + some).max(net.now);
            net.audit(moment);
            net.advance(moment);
            return;
        }
        while self.completions.is_empty() && self.net().now < until {
            let mut net = self.net_mut();
            let next = net.next_event().unwrap_or(u64::MAX).min(until);
            net.audit(next);
            if next == u64::MAX {
                // Nothing will ever happen again; the driver knows whether that is well.
                return;
            }
            net.advance(next);
            let changed = net.changed;
            drop(net);
            if changed {
                self.run_tasks();
            }
        }
        if self.completions.is_empty() {
            // Timers are never early, and mostly late.
            let mut net = self.net_mut();
            let late = net.now + net.random.below(60_000);
            net.advance(late);
            drop(net);
            self.run_tasks();
        }
    }

    /// In a world of two workers: whether a sleeper has to be woken now.
    pub fn stirs(&mut self) -> bool {
        let Some(until) = self.asleep_until else {
            return true;
        };
        self.run_tasks();
        if self.completions.is_empty() && self.net().now < until {
            return false;
        }
        self.wake();
        true
    }

    pub fn wake(&mut self) {
        self.asleep_until = None;
        self.woken = true;
    }

    pub fn begin_turn(&mut self) {
        self.busy = false;
        self.slept = false;
    }

    /// A worker that neither sleeps nor does anything burns its core.
    pub fn end_turn(&mut self) {
        self.idle_turns = match self.busy || self.slept {
            true => 0,
            false => self.idle_turns + 1,
        };
        if self.idle_turns > 200 {
            self.fail("spins: 200 turns without sleep in which nothing happened");
        }
    }

    /// Answers of sends first, then completions, as many as this seed's turns bring.
    fn collect(&mut self, outcomes: &mut Vec<Outcome>) {
        for flight in std::mem::take(&mut self.flights) {
            match flight.result {
                Some(result) => self.settle(flight, result, outcomes),
                None => self.flights.push(flight),
            }
        }
        let most = self.net().weather.outcomes_max;
        if most < self.completions.len() {
            self.hit(Fault::SmallBatch);
        }
        for _ in 0..most {
            let Some(completion) = self.completions.pop_front() else {
                return;
            };
            self.parse(completion, outcomes);
        }
    }

    fn settle(&mut self, flight: Flight, result: Result<u32, Broken>, outcomes: &mut Vec<Outcome>) {
        let Flight { stream, parcel, .. } = flight;
        self.end_mut(stream).sends -= 1;
        let answer = match result {
            Ok(bytes) if bytes == parcel.bytes() => {
                self.give_back(parcel.buffer());
                Answer::Sent(bytes)
            }
            Ok(bytes) => Answer::SentShort(bytes, parcel.without(bytes)),
            Err(fault) => {
                self.give_back(parcel.buffer());
                self.note_told(stream, fault);
                Answer::SendBroken(fault)
            }
        };
        self.tell(stream, answer, outcomes);
    }

    fn parse(&mut self, completion: Completion, outcomes: &mut Vec<Outcome>) {
        match completion {
            Completion::SendFailed => {}
            Completion::Connect(stream, result) => {
                *self.op_mut(stream, OpKind::Connect) = Op::Off;
                let answer = match result {
                    Ok(()) => Answer::Connected,
                    Err(Some(failure)) => Answer::ConnectFailed(failure),
                    Err(None) => {
                        let conn = self.end(stream).conn;
                        self.net_mut().conns[conn].place = Place::Unconnected;
                        Answer::ConnectCancelled
                    }
                };
                self.tell(stream, answer, outcomes);
            }
            Completion::Received(stream, buffer, bytes, end) => {
                let full = bytes == self.net().weather.buffer_bytes;
                let parcel = Parcel::new(buffer, bytes, full);
                self.tell(stream, Answer::Received(parcel), outcomes);
                if let Some(end) = end {
                    *self.op_mut(stream, OpKind::Receive) = Op::Off;
                    self.tell(stream, Answer::ReceiveEnded(end), outcomes);
                }
            }
            Completion::ReceiveEnd(stream, mut end) => {
                *self.op_mut(stream, OpKind::Receive) = Op::Off;
                if let ReceiveEnd::Broken(fault) = end {
                    self.note_told(stream, fault);
                } else if end == ReceiveEnd::Fin {
                    end = self.told(stream).map_or(end, ReceiveEnd::Broken);
                }
                self.tell(stream, Answer::ReceiveEnded(end), outcomes);
            }
            Completion::Poll(stream, interest, mask) => {
                *self.op_mut(stream, OpKind::Poll(interest)) = Op::Off;
                let answer = match mask {
                    None => Answer::PollEnded(interest),
                    Some(mask) => Answer::Ready(interest, self.condition(stream, interest, mask)),
                };
                self.tell(stream, answer, outcomes);
            }
            Completion::Accepted(id, conn, end) => {
                outcomes.push(Outcome::Accepted(id, self.incoming(conn)));
                if let Some(end) = end {
                    outcomes.push(Outcome::AcceptEnded(id, end));
                }
            }
            Completion::AcceptEnd(id, end) => outcomes.push(Outcome::AcceptEnded(id, end)),
            Completion::Bell => {
                self.queue.push_back(Submission::Bell);
                outcomes.push(Outcome::Doorbell);
            }
        }
    }

    pub fn note_told(&self, stream: StreamKey, fault: Broken) {
        let conn = self.end(stream).conn;
        let now = self.net().now;
        self.net_mut().conns[conn].told.get_or_insert((fault, now));
    }

    /// The error that an operation on this socket was told: what looks like an end of stream after it is none.
    pub fn told(&self, stream: StreamKey) -> Option<Broken> {
        let told = self.net().conns[self.end(stream).conn].told;
        told.map(|(fault, _)| fault)
    }

    /// As the real one: an error is taken from the socket when the poll's answer is read.
    fn condition(&self, stream: StreamKey, interest: Interest, mask: u8) -> Condition {
        let mut net = self.net_mut();
        let (id, now) = (self.end(stream).conn, net.now);
        let conn = &mut net.conns[id];
        if mask & (ERR | HUP) != 0 {
            if let Some(fault) = conn.take_error() {
                conn.told.get_or_insert((fault, now));
                net.hit(Fault::ErrorTakenByPoll);
                return Condition::Broken(fault);
            }
            return Condition::HungUp;
        }
        if interest == Interest::Leave && conn.waiting() == 0 {
            return Condition::Left;
        }
        Condition::Fine
    }

    pub fn incoming(&self, conn: usize) -> Incoming {
        use std::os::fd::AsRawFd;
        let mut net = self.net_mut();
        let descriptor = net.office().descriptor();
        let known = net.descriptors.insert(descriptor.as_raw_fd(), conn);
        if let Some(lost) = known {
            net.fail(&format!("c{lost} was accepted and lost"));
        }
        descriptor.into()
    }

    fn tell(&mut self, stream: StreamKey, answer: Answer, outcomes: &mut Vec<Outcome>) {
        self.say(|| {
            let id = self.end(stream).conn;
            format!("<- c{id} {answer:?}")
        });
        self.note_fruit(stream, &answer);
        self.note_pair(stream, name_of(&answer), is_about_sending(&answer));
        outcomes.push(Outcome::Stream(stream, answer));
    }

    pub fn note_pair(&self, stream: StreamKey, event: &'static str, about_sending: bool) {
        let Some((phase, routes)) = self.entry(stream.session).state else {
            return;
        };
        let from = if about_sending {
            stream.side.other()
        } else {
            stream.side
        };
        let state = (phase, routes[from.index()]);
        self.net_mut().counts.pair(state, event);
    }

    /// A session that asks again and again and gets nothing new burns the core as surely as a spinning worker.
    fn note_fruit(&self, stream: StreamKey, answer: &Answer) {
        let fruitless = matches!(
            answer,
            Answer::Ready(..)
                | Answer::PollEnded(_)
                | Answer::SentShort(0, _)
                | Answer::ReceiveEnded(ReceiveEnd::Stopped | ReceiveEnd::NoBuffer)
        );
        if !fruitless {
            return;
        }
        let mut net = self.net_mut();
        let now = net.now;
        let id = self.end(stream).conn;
        let other = net.conns[id].partner.map_or(0, |it| net.conns[it].stamp);
        let conn = &mut net.conns[id];
        let stamp = conn.stamp + other;
        let (count, since, last) = conn.fruitless;
        conn.fruitless = match last == stamp && now - since < 100_000_000 {
            true => (count + 1, since, stamp),
            false => (1, now, stamp),
        };
        if count > 150 {
            net.fail(&format!(
                "c{id} spins: 150 answers that brought nothing new"
            ));
        }
    }
}

fn is_about_sending(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Sent(_)
            | Answer::SentShort(..)
            | Answer::SendBroken(_)
            | Answer::Ready(Interest::Writable, _)
            | Answer::PollEnded(Interest::Writable)
    )
}

fn name_of(answer: &Answer) -> &'static str {
    match answer {
        Answer::Connected => "connected",
        Answer::ConnectFailed(_) => "connect-failed",
        Answer::ConnectCancelled => "connect-cancelled",
        Answer::Received(parcel) if parcel.is_full() => "received-full",
        Answer::Received(_) => "received",
        Answer::ReceiveEnded(ReceiveEnd::Fin) => "receive-fin",
        Answer::ReceiveEnded(ReceiveEnd::Stopped) => "receive-stopped",
        Answer::ReceiveEnded(ReceiveEnd::NoBuffer) => "receive-no-buffer",
        Answer::ReceiveEnded(ReceiveEnd::Broken(_)) => "receive-broken",
        Answer::Sent(_) => "sent",
        Answer::SentShort(0, _) => "sent-nothing",
        Answer::SentShort(..) => "sent-short",
        Answer::SendBroken(_) => "send-broken",
        Answer::PollEnded(Interest::HangUp) => "hang-up-cancelled",
        Answer::PollEnded(Interest::Leave) => "leave-cancelled",
        Answer::PollEnded(Interest::Readable) => "readable-cancelled",
        Answer::PollEnded(Interest::Writable) => "writable-cancelled",
        Answer::Ready(interest, condition) => name_of_poll(*interest, *condition),
    }
}

fn name_of_poll(interest: Interest, condition: Condition) -> &'static str {
    match (interest, condition) {
        (Interest::HangUp, Condition::Fine) => "hang-up-fine",
        (Interest::HangUp, Condition::HungUp) => "hang-up-hung-up",
        (Interest::HangUp, Condition::Left) => "hang-up-left",
        (Interest::HangUp, Condition::Broken(_)) => "hang-up-broken",
        (Interest::Leave, Condition::Fine) => "leave-fine",
        (Interest::Leave, Condition::HungUp) => "leave-hung-up",
        (Interest::Leave, Condition::Left) => "leave-left",
        (Interest::Leave, Condition::Broken(_)) => "leave-broken",
        (Interest::Readable, Condition::Fine) => "readable",
        (Interest::Readable, Condition::HungUp) => "readable-hung-up",
        (Interest::Readable, Condition::Left) => "readable-left",
        (Interest::Readable, Condition::Broken(_)) => "readable-broken",
        (Interest::Writable, Condition::Fine) => "writable",
        (Interest::Writable, Condition::HungUp) => "writable-hung-up",
        (Interest::Writable, Condition::Left) => "writable-left",
        (Interest::Writable, Condition::Broken(_)) => "writable-broken",
    }
}
