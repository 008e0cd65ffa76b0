//! UDP flows on their way from one process of the service to the next: what a worker gives out, and what it is given. Only
//! while a successor takes over; the office is on the other side.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::ids::{End, Nanos, PoolId, SocketId};

use super::shared::{BackendShared, ListenerShared};

/// What a flow holds of limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    pub backend: bool,
    pub listener: bool,
    pub process: bool,
    pub pool: bool,
}

/// One flow, with everything that goes over.
#[derive(Debug)]
pub struct MovingFlow {
    /// Towards its backend.
    pub socket: OwnedFd,
    pub listener: Arc<ListenerShared>,
    /// The socket that its client writes to.
    pub at: SocketId,
    pub client: SocketAddr,
    pub local: Option<IpAddr>,
    pub pool: PoolId,
    pub backend: Arc<BackendShared>,
    pub holdings: Holdings,
    pub id: u64,
    /// The port that its client writes to.
    pub port: u16,
    pub hash: u64,
    pub opened: Nanos,
    pub last: Nanos,
    pub kill_at: Nanos,
    pub kill_as: End,
    pub requests: u32,
    pub responses: u32,
    pub answered: bool,
    pub attempts: u8,
    /// By source side.
    pub bytes: [u64; 2],
    pub datagrams: [u64; 2],
    /// Its backend has been told who the client is.
    pub announced: bool,
}

/// Both ways, of one worker.
#[derive(Debug, Default)]
pub struct Moving {
    out: Mutex<Vec<MovingFlow>>,
    into: Mutex<Vec<MovingFlow>>,
}

impl Moving {
    /// The worker gives these out.
    pub fn give_out(&self, flows: Vec<MovingFlow>) {
        *self.out.lock() = flows;
    }

    /// What was given out.
    #[must_use]
    pub fn collect(&self) -> Vec<MovingFlow> {
        std::mem::take(&mut *self.out.lock())
    }

    /// For the worker, which looks with its next snapshot.
    pub fn bring(&self, flows: Vec<MovingFlow>) {
        *self.into.lock() = flows;
    }

    /// What was brought.
    #[must_use]
    pub fn take(&self) -> Vec<MovingFlow> {
        std::mem::take(&mut *self.into.lock())
    }
}
