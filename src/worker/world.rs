//! The worker's own view of the published world: tables by small id, so that nothing is looked up by name and no shared
//! map is touched. Built anew when a snapshot arrives; what still has sessions stays in the tables until they end.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::handoff::{
    AccessList, Backend, BackendCounters, BackendShared, ListenSocket, ListenerCounters,
    ListenerShared, Phase, Pool, PoolCounters, Preface, Snapshot, Spin, Target, Transfer,
};
use crate::ids::{Address, BackendId, ListenerId, PoolId, SocketId, WorkerId};

/// A listener as this worker sees it.
#[derive(Debug)]
pub(super) struct LocalListener {
    pub(super) shared: Arc<ListenerShared>,
    pub(super) pool: PoolId,
    pub(super) wants_address: bool,
    pub(super) access: Option<Arc<AccessList>>,
    pub(super) preface: Arc<Preface>,
}

#[derive(Debug)]
pub(super) struct LocalBackend {
    pub(super) shared: Arc<BackendShared>,
    /// The last eviction order that was carried out.
    pub(super) eviction_seen: u32,
}

#[derive(Debug)]
pub(super) struct LocalSocket {
    pub(super) listener: ListenerId,
    pub(super) socket: Arc<ListenSocket>,
    /// The kernel knows it; for want of a descriptor that may take a while.
    pub(super) open: bool,
    pub(super) armed: bool,
    /// Its queue is a successor's.
    pub(super) handed_over: bool,
}

/// Where a connect goes, and how.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub(super) address: Cow<'a, Address>,
    pub(super) source: Option<IpAddr>,
    pub(super) user_timeout_ms: u32,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) worker: WorkerId,
    pub(super) phase: Phase,
    pub(super) journal: bool,
    pub(super) report_ns: u64,
    pub(super) spin: Spin,
    listeners: Vec<Option<LocalListener>>,
    pools: Vec<Option<Arc<Pool>>>,
    backends: Vec<Option<LocalBackend>>,
    pub(super) sockets: Vec<LocalSocket>,
    /// Keeps everything alive that the tables point into.
    snapshot: Option<Arc<Snapshot>>,
}

impl World {
    pub(super) fn new(worker: WorkerId) -> World {
        World {
            worker,
            phase: Phase::Serving,
            journal: false,
            report_ns: 0,
            spin: Spin::Off,
            listeners: Vec::new(),
            pools: Vec::new(),
            backends: Vec::new(),
            sockets: Vec::new(),
            snapshot: None,
        }
    }

    pub(super) fn listener(&self, id: ListenerId) -> Option<&LocalListener> {
        self.listeners.get(id.index())?.as_ref()
    }

    pub(super) fn pool(&self, id: PoolId) -> Option<&Arc<Pool>> {
        self.pools.get(id.index())?.as_ref()
    }

    pub(super) fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.iter().flatten()
    }

    pub(super) fn backend(&self, id: BackendId) -> Option<&LocalBackend> {
        self.backends.get(id.index())?.as_ref()
    }

    pub(super) fn backends_mut(&mut self) -> impl Iterator<Item = &mut LocalBackend> {
        self.backends.iter_mut().flatten()
    }

    pub(super) fn socket(&self, id: SocketId) -> Option<&LocalSocket> {
        self.sockets.iter().find(|local| local.socket.id == id)
    }

    pub(super) fn socket_mut(&mut self, id: SocketId) -> Option<&mut LocalSocket> {
        self.sockets.iter_mut().find(|local| local.socket.id == id)
    }

    pub(super) fn listener_counters(&self, id: ListenerId) -> Option<&ListenerCounters> {
        self.listener(id)
            .map(|listener| listener.shared.of(self.worker))
    }

    pub(super) fn pool_counters(&self, id: PoolId) -> Option<&PoolCounters> {
        self.pool(id).map(|pool| pool.shared.of(self.worker))
    }

    pub(super) fn backend_counters(&self, id: BackendId) -> Option<&BackendCounters> {
        self.backend(id)
            .map(|backend| backend.shared.of(self.worker))
    }

    /// The backend of this id in the pool's list as it is now.
    pub(super) fn backend_of<'a>(&'a self, pool: &'a Pool, id: BackendId) -> Option<&'a Backend> {
        pool.backends.iter().find(|backend| backend.shared.id == id)
    }

    /// The way to a backend for a session that came to `port`; `None` if a reload took the backend away, or its name does
    /// not resolve. Source addresses are used in turn.
    pub(super) fn route_to(
        &self,
        pool: PoolId,
        backend: BackendId,
        port: u16,
        turn: u64,
    ) -> Option<Way<'_>> {
        let pool = self.pool(pool)?;
        let backend = self.backend_of(pool, backend)?;
        let address = match &backend.target {
            Target::Fixed(address) => Cow::Borrowed(address),
            Target::ListenerPort { host, offset } => Cow::Owned(Address::Inet(SocketAddr::new(
                *host,
                port.wrapping_add(*offset),
            ))),
            Target::Unresolved => return None,
        };
        let family = address.inet().map(|address| address.is_ipv4());
        let fits = |source: &&IpAddr| Some(source.is_ipv4()) == family;
        let sources = pool.source.iter().filter(fits).count().max(1);
        let source = pool
            .source
            .iter()
            .filter(fits)
            .nth(turn as usize % sources)
            .copied();
        Some(Way {
            address,
            source,
            user_timeout_ms: pool.options.user_timeout_ms,
        })
    }

    /// Takes over a snapshot's tables. Sockets are left to [`super::accepting`], which must arm and disarm them; it
    /// `expects` clients for some listeners that have no session.
    pub(super) fn take_over(
        &mut self,
        snapshot: &Arc<Snapshot>,
        expects: impl Fn(ListenerId) -> bool,
    ) {
        self.phase = snapshot.phase;
        self.journal = snapshot.journal;
        self.report_ns = if snapshot.journal {
            snapshot.report_ns
        } else {
            0
        };
        self.spin = snapshot.spin;
        self.drop_unused(expects);
        for listener in &snapshot.listeners {
            let local = LocalListener {
                shared: Arc::clone(&listener.shared),
                pool: listener.pool,
                wants_address: listener.wants_address,
                access: listener.access.clone(),
                preface: Arc::clone(&listener.preface),
            };
            put(&mut self.listeners, listener.id().index(), local);
        }
        self.pools.iter_mut().for_each(|pool| *pool = None);
        for pool in &snapshot.pools {
            put(&mut self.pools, pool.shared.id.index(), Arc::clone(pool));
            for backend in &pool.backends {
                self.take_over_backend(&backend.shared);
            }
        }
        self.snapshot = Some(Arc::clone(snapshot));
    }

    /// A listener whose client another worker hands over; it may be gone here already.
    pub(super) fn keep_listener(&mut self, transfer: &Transfer) {
        let shared = &transfer.listener;
        if self.listener(shared.id).is_none() {
            let local = LocalListener {
                shared: Arc::clone(shared),
                pool: transfer.pool,
                wants_address: transfer.wants_address,
                access: transfer.access.clone(),
                preface: Arc::clone(&transfer.preface),
            };
            put(&mut self.listeners, shared.id.index(), local);
        }
    }

    fn take_over_backend(&mut self, shared: &Arc<BackendShared>) {
        let index = shared.id.index();
        let known = self.backends.get(index).and_then(Option::as_ref);
        if known.is_some_and(|known| Arc::ptr_eq(&known.shared, shared)) {
            return;
        }
        let eviction_seen = shared
            .verdict
            .eviction()
            .map_or(0, |eviction| eviction.epoch);
        let local = LocalBackend {
            shared: Arc::clone(shared),
            eviction_seen,
        };
        put(&mut self.backends, index, local);
    }

    /// Forgets identities that no session of this worker uses any more, and none will.
    fn drop_unused(&mut self, expects: impl Fn(ListenerId) -> bool) {
        let worker = self.worker;
        for entry in &mut self.listeners {
            let unused = |listener: &LocalListener| {
                let id = listener.shared.id;
                listener.shared.of(worker).sessions_active.read() == 0
                    && !self.sockets.iter().any(|local| local.listener == id)
                    && !expects(id)
            };
            if entry.as_ref().is_some_and(unused) {
                *entry = None;
            }
        }
        for entry in &mut self.backends {
            let unused = |backend: &LocalBackend| {
                backend.shared.of(worker).active.load(Ordering::Relaxed) == 0
            };
            if entry.as_ref().is_some_and(unused) {
                *entry = None;
            }
        }
    }
}

fn put<X>(table: &mut Vec<Option<X>>, index: usize, value: X) {
    if table.len() <= index {
        table.resize_with(index + 1, || None);
    }
    table[index] = Some(value);
}
