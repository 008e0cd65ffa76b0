//! The fake kernel of one worker: a submission queue, operations in flight on fake sockets, and completions. It keeps
//! the real one's order of things: what is queued is carried out when the worker enters, whole sends are answered by the
//! next turn only and end no sleep, a poll's answer is read late, a cancelled operation still answers once.
//!
//! This file is what it consists of. `door.rs` is the door through which a worker asks, and `contract.rs` what it may ask
//! for; `submission.rs`, `operations.rs`, `accept.rs`, `pipes.rs`, `turn.rs` and `answers.rs` are what happens behind it.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;
use std::rc::Rc;

use ringway::handoff::Hatch;
use ringway::ids::{
    ConnectFailure, Fault as Broken, Interest, ReceiveEnd, SessionKey, SocketId, StreamKey,
};
use ringway::session::{Phase, Route};
use ringway::uring::{AcceptEnd, Parcel};

use super::counts::Fault;
use super::net::Net;
use super::pipes::Loan;
use super::socket::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    Receive,
    Connect,
    Poll(Interest),
}

impl OpKind {
    pub const ALL: [OpKind; 6] = [
        OpKind::Connect,
        OpKind::Receive,
        OpKind::Poll(Interest::HangUp),
        OpKind::Poll(Interest::Leave),
        OpKind::Poll(Interest::Readable),
        OpKind::Poll(Interest::Writable),
    ];

    pub fn index(self) -> usize {
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

/// A slot of the worker's table.
#[derive(Debug, Default)]
pub struct Entry {
    pub key: Option<SessionKey>,
    pub ends: [Option<End>; 2],
    /// By source.
    pub pipes: [Option<Loan>; 2],
    pub client: usize,
    pub backend: Option<usize>,
    /// A connect could not even be started: there is nothing to close.
    pub unborn: bool,
    /// Phase, and routes by source, before this turn.
    pub state: Option<(Phase, [Route; 2])>,
}

#[derive(Clone, Copy, Debug)]
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
    pub result: Option<Result<u32, Broken>>,
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

#[derive(Clone, Copy, Debug)]
pub enum Completion {
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
    pub net: Rc<RefCell<Net>>,
    pub worker: usize,
    pub entries: Vec<Entry>,
    pub listeners: Vec<Listening>,
    pub queue: VecDeque<Submission>,
    pub flights: Vec<Flight>,
    pub flights_made: u64,
    pub completions: VecDeque<Completion>,
    /// What each provided buffer was filled with.
    pub contents: Vec<Option<Range>>,
    /// Free buffers that the kernel sees, and those it will see after the next turn has begun.
    pub free: Vec<u16>,
    pub returned: Vec<u16>,
    pub pipes_out: usize,
    pub bell: File,
    pub bell_armed: bool,
    pub attached: u64,
    pub overflowed: bool,
    /// In a world of two workers: sleeping until then.
    pub asleep_until: Option<u64>,
    pub woken: bool,
    /// Turns in a row in which nothing happened at all.
    pub idle_turns: u32,
    /// Something was asked for or came in this turn; and it was allowed to sleep.
    pub busy: bool,
    pub slept: bool,
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

    pub fn hit(&self, fault: Fault) {
        self.net_mut().hit(fault);
    }

    pub fn chance(&self, per_mille: u32) -> bool {
        self.net_mut().random.chance(per_mille)
    }

    pub fn buffers_unused(&self) -> usize {
        self.free.len() + self.returned.len()
    }

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
}
