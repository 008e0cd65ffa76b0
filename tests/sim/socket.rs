//! One TCP or unix connection between a peer and ringway, as the kernel sees it: bytes are numbered by their place in
//! the sender's stream, so that a connection needs counters only and every loss, doubling or mix-up shows.

use ringway::ids::{ConnectFailure, Fault as Broken, Interest, Side};

pub const ERR: u8 = 1;
pub const HUP: u8 = 2;
pub const RDHUP: u8 = 4;
pub const IN: u8 = 8;
pub const OUT: u8 = 16;

/// Where ringway's end of the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a listener's accept queue.
    Queued,
    /// Accepted, and not yet given to a session.
    Accepted,
    Connecting,
    /// The connect failed or was cancelled.
    Unconnected,
    Open,
    Closed {
        reset: bool,
    },
}

/// Bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The connection whose peer wrote them.
    pub origin: usize,
    pub start: u64,
    pub bytes: u32,
}

/// What the peer has in mind.
#[derive(Debug, Default)]
pub struct Peer {
    /// Bytes that it still wants to write.
    pub left: u64,
    pub write_most: u64,
    pub read_most: u64,
    pub pace_ns: u64,
    /// It neither reads nor writes before.
    pub stalled_until: u64,
    pub reset_at: Option<u64>,
    pub reset_as: Option<Broken>,
    pub close_at: Option<u64>,
    /// It has closed its socket.
    pub closed: bool,
}

#[derive(Debug)]
pub struct Conn {
    pub side: Side,
    pub unix: bool,
    /// It was opened before there was a client.
    pub warm: bool,
    pub place: Place,
    /// The socket that a client came to, or the backend that was connected to.
    pub house: usize,
    /// The other connection of the same session.
    pub partner: Option<usize>,
    pub peer: Peer,
    /// Written by the peer, and of that taken by ringway.
    pub sent: u64,
    pub taken: u64,
    pub fin: bool,
    /// Written by ringway, and of that read by the peer.
    pub accepted: u64,
    pub read: u64,
    pub our_fin: bool,
    pub receive_buffer: u64,
    pub send_buffer: u64,
    pub watermark: u32,
    error: Option<Broken>,
    /// The error that some operation was told, and when.
    pub told: Option<(Broken, u64)>,
    pub dead_at: Option<u64>,
    pub dead_as: Option<Broken>,
    /// When and how a connect is answered; `None`: never.
    pub answer: Option<(u64, Result<(), ConnectFailure>)>,
    pub failure: Option<ConnectFailure>,
    /// The backends of a client's attempts.
    pub tried: Vec<usize>,
    /// Which session of which worker, counted from 1.
    pub session: Option<(usize, u64)>,
    /// Its receive was asked to stop.
    pub unwanted: bool,
    /// Ringway has asked to close it; and dropped bytes by that.
    pub leaving: bool,
    pub dropped: bool,
    pub began_at: u64,
    /// When ringway last learned that bytes had moved.
    pub moved_at: u64,
    pub closed_at: u64,
    /// Grows with every change that could matter to ringway.
    pub stamp: u64,
    /// What ringway has owed since when (see `audit.rs`).
    pub owed: Option<(Debt, u64, u64)>,
    /// Answers that brought nothing new: how many since when, and under which stamp.
    pub fruitless: (u64, u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debt {
    Accept,
    Admission,
    Backend,
    Connect,
    Bytes,
    End,
    Close,
    Reset,
    OtherClose,
}

impl Conn {
    pub fn new(side: Side, unix: bool, house: usize, now: u64) -> Conn {
        Conn {
            side,
            unix,
            warm: false,
            place: Place::Queued,
            house,
            partner: None,
            peer: Peer::default(),
            sent: 0,
            taken: 0,
            fin: false,
            accepted: 0,
            read: 0,
            our_fin: false,
            receive_buffer: 1 << 20,
            send_buffer: 1 << 18,
            watermark: 1,
            error: None,
            told: None,
            dead_at: None,
            dead_as: None,
            answer: None,
            failure: None,
            tried: Vec::new(),
            session: None,
            unwanted: false,
            leaving: false,
            dropped: false,
            began_at: now,
            moved_at: now,
            closed_at: 0,
            stamp: 0,
            owed: None,
            fruitless: (0, 0, 0),
        }
    }

    pub fn is_dead(&self) -> bool {
        self.dead_at.is_some()
    }

    /// Dead, and not only after both streams had come to their end: a reset then says nothing.
    pub fn is_lost(&self) -> bool {
        self.lost_at().is_some() && !(self.fin && self.our_fin)
    }

    /// When it broke, or when ringway was told so (a unix socket whose peer has closed takes no bytes any more).
    pub fn lost_at(&self) -> Option<u64> {
        self.dead_at.or(self.told.map(|(_, at)| at))
    }

    pub fn is_open(&self) -> bool {
        self.place == Place::Open
    }

    /// A client that has a session.
    pub fn is_client(&self) -> bool {
        self.side == Side::Client && self.is_open() && !self.leaving
    }

    /// What can be read now.
    pub fn waiting(&self) -> u64 {
        self.sent - self.taken
    }

    pub fn room(&self) -> u64 {
        self.send_buffer.saturating_sub(self.accepted - self.read)
    }

    /// What a poll would call writable: a third of the buffer is free.
    pub fn writable(&self) -> bool {
        (self.accepted - self.read) * 3 <= self.send_buffer * 2
    }

    /// Both ends were exchanged and acknowledged: the kernel has forgotten the connection.
    pub fn finished(&self) -> bool {
        self.fin && self.our_fin && !self.has_unacknowledged()
    }

    /// Half of what waits to be read is with the peer's kernel already; the rest a reset would drop.
    pub fn has_unacknowledged(&self) -> bool {
        (self.accepted - self.read) * 2 > self.send_buffer
    }

    pub fn begin_close(&mut self, reset: bool) {
        self.leaving = true;
        self.dropped = reset && !self.unix && self.has_unacknowledged();
    }

    /// The connection breaks. What the peer wrote before stays readable.
    pub fn break_as(&mut self, fault: Broken, now: u64) {
        if self.is_dead() || self.finished() {
            return;
        }
        self.dead_at = Some(now);
        self.dead_as = Some(fault);
        self.error = Some(fault);
        self.stamp += 1;
    }

    /// The kernel reports an error once.
    pub fn take_error(&mut self) -> Option<Broken> {
        self.error.take()
    }

    /// Whether a send would fail, and why.
    pub fn send_fault(&mut self) -> Option<Broken> {
        if let Some(fault) = self.take_error() {
            return Some(fault);
        }
        let closed = self.is_dead() || self.our_fin || (self.unix && self.peer.closed);
        closed.then_some(Broken::Reset)
    }

    pub fn mask(&self) -> u8 {
        let mut mask = 0;
        let dead = self.is_dead();
        if self.error.is_some() {
            mask |= ERR;
        }
        let both_shut = self.fin && self.our_fin;
        if dead || both_shut || (self.unix && self.peer.closed) {
            mask |= HUP;
        }
        if self.fin || dead {
            mask |= RDHUP | IN;
        }
        let mark = u64::from(self.watermark).min(self.receive_buffer);
        if self.waiting() >= mark.max(1) {
            mask |= IN;
        }
        if self.writable() || self.our_fin || dead {
            mask |= OUT;
        }
        mask
    }

    /// Whether a poll that asks for this would end with this mask.
    pub fn stirs(interest: Interest, mask: u8) -> bool {
        let wanted = match interest {
            Interest::HangUp => 0,
            Interest::Leave => RDHUP,
            Interest::Readable => IN | RDHUP,
            Interest::Writable => OUT,
        };
        mask & (wanted | ERR | HUP) != 0
    }

    /// What a receive finds where no bytes are left: an end of stream, an error, or nothing.
    pub fn dry_end(&mut self) -> Option<Result<(), Broken>> {
        if self.fin {
            return Some(Ok(()));
        }
        if let Some(fault) = self.take_error() {
            return Some(Err(fault));
        }
        // The kernel tells of an error once; later it shows an end of stream.
        self.is_dead().then_some(Ok(()))
    }
}
