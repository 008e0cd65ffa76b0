//! One flow as the worker keeps it: whose it is, what it holds, and its account.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::handoff::{BackendShared, ListenerShared, SessionRecord, SourcePlace, Trial};
use crate::ids::{BackendId, End, Nanos, Outlet, PoolId, Side};
use crate::session::Lately;

use super::announcing::Announcing;

#[derive(Debug)]
pub(super) struct FlowTenant {
    pub(super) id: u64,
    pub(super) listener: Arc<ListenerShared>,
    pub(super) pool: PoolId,
    pub(super) backend: Option<Arc<BackendShared>>,
    /// What the kernel calls its socket towards that one.
    pub(super) outlet: Option<Outlet>,
    /// Who failed last: the next choice is another, if there is one.
    pub(super) failed: Option<BackendId>,
    pub(super) backend_reserved: bool,
    /// It tries a half-open breaker, and has not said yet how that went.
    pub(super) trial: Option<Trial>,
    /// Its backend has neither answered nor failed yet.
    pub(super) unproven: bool,
    pub(super) listener_reserved: bool,
    /// A place in the table of sources.
    pub(super) source: Option<SourcePlace>,
    pub(super) process_reserved: bool,
    pub(super) pool_reserved: bool,
    pub(super) client: SocketAddr,
    /// The port the client writes to.
    pub(super) port: u16,
    pub(super) hash: u64,
    pub(super) opened: Nanos,
    pub(super) lately: Lately,
    pub(super) announcing: Announcing,
    /// Backends it has had.
    pub(super) attempts: u8,
    /// By source side.
    pub(super) bytes: [u64; 2],
    pub(super) datagrams: [u64; 2],
    /// What the timer wheel is set to.
    pub(super) timer_at: Nanos,
    /// When it is too old.
    pub(super) lifetime_end: Nanos,
    /// When, and as what, it is to end by order.
    pub(super) kill_at: Nanos,
    pub(super) kill_as: End,
    /// A successor has its socket.
    pub(super) given_out: bool,
}

impl FlowTenant {
    pub(super) fn new(
        id: u64,
        listener: Arc<ListenerShared>,
        pool: PoolId,
        client: SocketAddr,
        opened: Nanos,
    ) -> FlowTenant {
        FlowTenant {
            id,
            listener,
            pool,
            backend: None,
            outlet: None,
            failed: None,
            backend_reserved: false,
            trial: None,
            unproven: false,
            listener_reserved: false,
            source: None,
            process_reserved: false,
            pool_reserved: false,
            client,
            port: 0,
            hash: 0,
            opened,
            lately: Lately::default(),
            announcing: Announcing::Never,
            attempts: 0,
            bytes: [0; 2],
            datagrams: [0; 2],
            timer_at: Nanos::NEVER,
            lifetime_end: Nanos::NEVER,
            kill_at: Nanos::NEVER,
            kill_as: End::Internal,
            given_out: false,
        }
    }

    pub(super) fn record(&self, end: End, now: Nanos) -> SessionRecord {
        SessionRecord {
            id: self.id,
            milestone: None,
            listener: self.listener.id,
            pool: self.pool,
            backend: self.backend.as_ref().map(|backend| backend.id),
            client: Some(self.client),
            opened: self.opened,
            ended: now,
            attempts: self.attempts,
            wait_ns: 0,
            connect_ns: 0,
            bytes_in: self.bytes[Side::Client.index()],
            bytes_out: self.bytes[Side::Backend.index()],
            datagrams: Some(self.datagrams),
            end,
            rtt_us: 0,
            retrans: 0,
        }
    }
}
