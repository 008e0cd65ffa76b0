//! One session as the worker keeps it: the state machine, whose it is, and its account.

use std::net::SocketAddr;

use crate::handoff::{SessionRecord, SourcePlace, Trial, WarmProfile, WarmSocket};
use crate::ids::{BackendId, End, ListenerId, Nanos, PoolId, Side};
use crate::session::TcpSession;

use super::preface::Stage;

/// Backends that are remembered, so that each attempt goes to another one. A session may have more attempts: those behind
/// go anywhere but to the last so many.
const TRIED_MAX: usize = 32;

/// Backends that a session has tried, each once, the latest last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tried {
    backends: [BackendId; TRIED_MAX],
    count: u8,
}

impl Tried {
    const NONE: Tried = Tried {
        backends: [BackendId(0); TRIED_MAX],
        count: 0,
    };

    /// Without room for one more, the first is forgotten.
    fn add(&mut self, backend: BackendId) {
        if self.contains(&backend) {
            return;
        }
        if usize::from(self.count) == TRIED_MAX {
            self.backends.rotate_left(1);
            self.count -= 1;
        }
        self.backends[usize::from(self.count)] = backend;
        self.count += 1;
    }
}

impl std::ops::Deref for Tried {
    type Target = [BackendId];

    fn deref(&self) -> &[BackendId] {
        &self.backends[..usize::from(self.count)]
    }
}

#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) session: TcpSession,
    pub(super) id: u64,
    pub(super) listener: ListenerId,
    pub(super) pool: PoolId,
    pub(super) backend: Option<BackendId>,
    /// The session is among the backend's sessions. It ends being so once, when an attempt has failed or at its own end,
    /// while the name stays for the record.
    pub(super) backend_counted: bool,
    /// A unit of the backend's capacity is held.
    pub(super) backend_reserved: bool,
    /// A turn of the backend's `connect_rate` was taken, and no connect has followed yet.
    pub(super) turn_unused: bool,
    /// It tries a half-open breaker, and has not said yet how that went.
    pub(super) trial: Option<Trial>,
    /// Its backend has not shown yet that it serves: by a byte, or by keeping the session for a while.
    pub(super) unproven: bool,
    /// When it has been kept long enough; only set where somebody wants to know.
    pub(super) prove_at: Nanos,
    /// A connection to the backend that came with the choice, until the session connects.
    pub(super) warm: Option<WarmSocket>,
    /// The session runs on a warm connection.
    pub(super) handout: Option<WarmProfile>,
    pub(super) listener_reserved: bool,
    /// Where the session is counted among those of its client's address.
    pub(super) source: Option<SourcePlace>,
    pub(super) process_reserved: bool,
    tried: Tried,
    /// The port the client came to.
    pub(super) port: u16,
    pub(super) client: Option<SocketAddr>,
    /// Where the client went to, if a PROXY header said so.
    pub(super) announced: Option<SocketAddr>,
    pub(super) stage: Stage,
    /// The client's hash, for pools that choose by it.
    pub(super) hash: u64,
    pub(super) opened: Nanos,
    /// When it was reported last, if milestones are asked for.
    pub(super) reported: Nanos,
    /// It stands in its pool's queue, and counts there until it leaves.
    pub(super) queued: bool,
    pub(super) wait_began: Nanos,
    pub(super) wait_ns: u64,
    pub(super) connect_began: Nanos,
    pub(super) connect_ns: u64,
    pub(super) connected_at: Nanos,
    /// Delivered bytes, by source side.
    pub(super) bytes: [u64; 2],
    /// What the timer wheel is set to.
    pub(super) timer_at: Nanos,
    /// When, and as what, the session is to be closed by order.
    pub(super) kill_at: Nanos,
    pub(super) kill_as: End,
    /// From TCP_INFO when the client's socket was closed.
    pub(super) rtt_us: u32,
    pub(super) retrans: u32,
}

impl Tenant {
    pub(super) fn new(
        session: TcpSession,
        id: u64,
        listener: ListenerId,
        pool: PoolId,
        opened: Nanos,
    ) -> Tenant {
        Tenant {
            session,
            id,
            listener,
            pool,
            backend: None,
            backend_counted: false,
            backend_reserved: false,
            turn_unused: false,
            trial: None,
            unproven: false,
            prove_at: Nanos::NEVER,
            warm: None,
            handout: None,
            listener_reserved: false,
            source: None,
            process_reserved: false,
            tried: Tried::NONE,
            port: 0,
            client: None,
            announced: None,
            stage: Stage::Done,
            hash: 0,
            opened,
            reported: opened,
            queued: false,
            wait_began: Nanos::ZERO,
            wait_ns: 0,
            connect_began: Nanos::ZERO,
            connect_ns: 0,
            connected_at: Nanos::ZERO,
            bytes: [0; 2],
            timer_at: Nanos::NEVER,
            kill_at: Nanos::NEVER,
            kill_as: End::Internal,
            rtt_us: 0,
            retrans: 0,
        }
    }

    /// Backends at which an attempt was made.
    pub(super) fn tried(&self) -> Tried {
        self.tried
    }

    pub(super) fn remember_tried(&mut self, backend: BackendId) {
        self.tried.add(backend);
    }

    /// When the wheel must look at this session.
    pub(super) fn due(&self) -> Nanos {
        let ordered = self.kill_at.min(self.prove_at);
        self.session.wake_at().min(ordered)
    }

    pub(super) fn record(&self, end: End, now: Nanos) -> SessionRecord {
        SessionRecord {
            id: self.id,
            milestone: None,
            listener: self.listener,
            pool: self.pool,
            backend: self.backend,
            client: self.client,
            opened: self.opened,
            ended: now,
            attempts: self.session.attempts(),
            wait_ns: self.wait_ns,
            connect_ns: self.connect_ns,
            bytes_in: self.bytes[Side::Client.index()],
            bytes_out: self.bytes[Side::Backend.index()],
            datagrams: None,
            end,
            rtt_us: self.rtt_us,
            retrans: self.retrans,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_backends_are_remembered() {
        let mut tried = Tried::NONE;
        for id in [7, 3, 7, 3] {
            tried.add(BackendId(id));
        }
        assert_eq!(*tried, [7, 3].map(BackendId));
        (10..42).for_each(|id| tried.add(BackendId(id)));
        let last: Vec<_> = (10..42).map(BackendId).collect();
        assert_eq!(*tried, last[..]);
    }
}
