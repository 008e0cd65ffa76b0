//! The sockets and pipes of all sessions, by slot. A descriptor comes in owned, is named by key, and goes out closed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use socket2::SockAddr;

use crate::ids::{Fault, Interest, SessionKey, Side, StreamKey};
use crate::sys::pipe::Pipe;

use super::polls::Watch;

/// What holds a direction's bytes between its two sockets.
#[derive(Debug)]
pub(super) enum Carrier {
    Pipe(Pipe),
    /// Where no pipe could be had: what a stalled reader left, as far as it was received already. The last `bytes` of it
    /// are still to be sent.
    Memory(Vec<u8>),
}

/// A carrier that a direction holds while it holds bytes.
#[derive(Debug)]
pub(super) struct Loan {
    pub(super) carrier: Carrier,
    pub(super) bytes: u32,
}

#[derive(Debug)]
struct Entry {
    generation: u16,
    sockets: [Option<OwnedFd>; 2],
    /// By source side.
    loans: [Option<Loan>; 2],
    watches: [[Watch; 4]; 2],
    /// Why a socket broke, once anybody was told: the kernel tells it to one operation only, and lets all later ones
    /// find an end of stream, which would pass for a clean one.
    faults: [Option<Fault>; 2],
}

#[derive(Debug)]
pub(super) struct Streams {
    entries: Vec<Entry>,
    /// One cell per slot for the address of its pending connect: allocated once, so that an address stays where it is.
    addresses: Vec<SockAddr>,
    slots_max: usize,
    sessions: u32,
}

impl Streams {
    pub(super) fn new(slots_max: u32) -> Streams {
        let slots_max = slots_max as usize;
        Streams {
            entries: Vec::with_capacity(slots_max),
            addresses: Vec::with_capacity(slots_max),
            slots_max,
            sessions: 0,
        }
    }

    /// A new session moves into its slot with its client's socket.
    pub(super) fn move_in(&mut self, session: SessionKey, client: OwnedFd) {
        let slot = session.slot.index();
        while self.entries.len() <= slot {
            assert!(
                self.entries.len() < self.slots_max,
                "a slot beyond the table"
            );
            self.entries.push(Entry {
                generation: 0,
                sockets: [None, None],
                loans: [None, None],
                watches: Default::default(),
                faults: [None, None],
            });
        }
        let entry = &mut self.entries[slot];
        debug_assert!(
            entry.sockets.iter().all(Option::is_none),
            "the slot still has a tenant"
        );
        entry.generation = session.generation;
        entry.faults = [None, None];
        entry.sockets[Side::Client.index()] = Some(client);
        self.sessions += 1;
    }

    /// Whether there is no session at all.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions == 0
    }

    /// Whether a stream still has its socket, or bytes in a pipe.
    pub(super) fn has_left(&mut self, stream: StreamKey) -> bool {
        let side = stream.side.index();
        self.entry(stream.session)
            .is_some_and(|entry| entry.sockets[side].is_some() || entry.loans[side].is_some())
    }

    /// The slot's life ends; what its tenant left has been cleared away.
    pub(super) fn move_out(&mut self, session: SessionKey) {
        if let Some(entry) = self.entry(session) {
            entry.generation = entry.generation.wrapping_add(1);
            self.sessions -= 1;
        }
    }

    fn entry(&mut self, session: SessionKey) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(session.slot.index())?;
        (entry.generation == session.generation).then_some(entry)
    }

    pub(super) fn socket(&self, stream: StreamKey) -> Option<BorrowedFd<'_>> {
        let entry = self.entries.get(stream.session.slot.index())?;
        let current = entry.generation == stream.session.generation;
        entry.sockets[stream.side.index()]
            .as_ref()
            .filter(|_| current)
            .map(AsFd::as_fd)
    }

    pub(super) fn raw(&self, stream: StreamKey) -> Option<RawFd> {
        self.socket(stream).map(|socket| socket.as_raw_fd())
    }

    /// Gives a stream its socket; false, with the socket closed, if the session is gone.
    pub(super) fn put(&mut self, stream: StreamKey, socket: OwnedFd) -> bool {
        let Some(entry) = self.entry(stream.session) else {
            return false;
        };
        let before = entry.sockets[stream.side.index()].replace(socket);
        debug_assert!(before.is_none(), "the stream still has a socket");
        entry.faults[stream.side.index()] = None;
        true
    }

    pub(super) fn watch(&mut self, stream: StreamKey, interest: Interest) -> Option<&mut Watch> {
        let entry = self.entry(stream.session)?;
        Some(&mut entry.watches[stream.side.index()][interest as usize])
    }

    pub(super) fn note_fault(&mut self, stream: StreamKey, fault: Fault) {
        if let Some(entry) = self.entry(stream.session) {
            entry.faults[stream.side.index()].get_or_insert(fault);
        }
    }

    /// Why this socket broke, if anybody was told.
    pub(super) fn fault(&self, stream: StreamKey) -> Option<Fault> {
        let entry = self.entries.get(stream.session.slot.index())?;
        let current = entry.generation == stream.session.generation;
        entry.faults[stream.side.index()].filter(|_| current)
    }

    pub(super) fn take(&mut self, stream: StreamKey) -> Option<OwnedFd> {
        self.entry(stream.session)?.sockets[stream.side.index()].take()
    }

    pub(super) fn take_loan(&mut self, from: StreamKey) -> Option<Loan> {
        self.entry(from.session)?.loans[from.side.index()].take()
    }

    pub(super) fn put_loan(&mut self, from: StreamKey, loan: Loan) {
        if let Some(entry) = self.entry(from.session) {
            entry.loans[from.side.index()] = Some(loan);
        }
    }

    /// Keeps an address for a connect from this slot, at a place that stays valid as long as the table lives.
    pub(super) fn keep_address(&mut self, session: SessionKey, address: SockAddr) -> &SockAddr {
        let slot = session.slot.index();
        while self.addresses.len() <= slot {
            // Within the capacity that was reserved for all slots, so nothing moves.
            assert!(
                self.addresses.len() < self.slots_max,
                "a slot beyond the table"
            );
            self.addresses.push(address.clone());
        }
        self.addresses[slot] = address;
        &self.addresses[slot]
    }
}
