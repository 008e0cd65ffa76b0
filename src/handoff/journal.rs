//! What workers report of finished sessions: fixed-size records in a bounded queue per worker, read by the scribe. A
//! full queue loses the record and counts it; it never stops a worker.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::ids::{BackendId, End, ListenerId, Nanos, PoolId};

/// Which moment of a session a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    Start,
    Connect,
    Progress,
    End,
}

impl Milestone {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Milestone::Start => "start",
            Milestone::Connect => "connect",
            Milestone::Progress => "progress",
            Milestone::End => "end",
        }
    }
}

/// One session, finished or at a milestone, in numbers; the scribe knows the names.
#[derive(Clone, Copy, Debug)]
pub struct SessionRecord {
    /// Unique in the process: worker in the upper 16 bits, a running number below.
    pub id: u64,
    /// `None` where only ends are asked for.
    pub milestone: Option<Milestone>,
    pub listener: ListenerId,
    pub pool: PoolId,
    pub backend: Option<BackendId>,
    /// `None` for a unix socket's client.
    pub client: Option<SocketAddr>,
    pub opened: Nanos,
    pub ended: Nanos,
    pub attempts: u8,
    pub wait_ns: u64,
    pub connect_ns: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// From client and from backend; `None` for a session.
    pub datagrams: Option<[u64; 2]>,
    /// Means something at the end only.
    pub end: End,
    /// Smoothed round trip time towards the client in microseconds, from TCP_INFO; 0 where there is none.
    pub rtt_us: u32,
    /// Segments retransmitted towards the client.
    pub retrans: u32,
}

#[derive(Debug)]
pub struct Journal {
    records: ArrayQueue<SessionRecord>,
    lost: AtomicU64,
}

impl Journal {
    #[must_use]
    pub fn new(records_max: usize) -> Journal {
        Journal {
            records: ArrayQueue::new(records_max),
            lost: AtomicU64::new(0),
        }
    }

    pub fn push(&self, record: SessionRecord) {
        if self.records.push(record).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[must_use]
    pub fn pop(&self) -> Option<SessionRecord> {
        self.records.pop()
    }

    /// Records that found the queue full, since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
