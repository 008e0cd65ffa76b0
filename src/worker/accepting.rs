//! Listeners: arming and disarming accept, letting clients in, handing some to a less loaded worker, and pausing when
//! something has run out.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::handoff::{Listener, Milestone, Pool, Protocol, Reservation, Snapshot, Transfer};
use crate::ids::{ListenerId, Refusal, SocketId, millis};
use crate::session::{Event, Rules, TcpSession};
use crate::uring::{AcceptEnd, Incoming, Kernel};

use super::ending::jittered;
use super::engine::Worker;
use super::tenant::Tenant;
use super::world::LocalSocket;

/// A worker gives an accepted socket away when it has more sessions than this many per cent of the mean, plus
/// [`TRANSFER_SLACK`]: only a clear imbalance is worth a hand-over.
const TRANSFER_PERCENT: u64 = 125;
const TRANSFER_SLACK: u64 = 16;

/// For so long nothing more is accepted once something has run out.
const ACCEPT_PAUSE_NS: u64 = millis(10);

/// Accepted clients that may wait for room: those that were on their way when accepting paused, and the queues of
/// listeners that a reload took away.
const PARKED_MAX: usize = 4_096;

impl<K: Kernel> Worker<K> {
    pub(super) fn on_accepted(&mut self, socket: SocketId, incoming: Incoming) {
        let retiring = || self.retiring.iter().find(|local| local.socket.id == socket);
        let Some(local) = self.world.socket(socket).or_else(retiring) else {
            self.kernel.refuse(incoming);
            return;
        };
        let (listener, port) = (local.listener, port_of(local));
        if let Some(other) = self.less_loaded_worker() {
            self.give_away(other, listener, port, incoming);
        } else {
            self.let_in_or_park(listener, port, incoming);
        }
    }

    /// Whoever finds no room, or others who wait for it, waits behind them.
    fn let_in_or_park(&mut self, listener: ListenerId, port: u16, incoming: Incoming) {
        if self.parked.is_empty() && self.has_room() {
            self.let_in(listener, port, incoming);
        } else if self.parked.len() >= PARKED_MAX {
            self.refuse(listener, Refusal::Resources, incoming);
        } else {
            self.parked.push_back((listener, port, incoming));
            self.pause_accepting();
        }
    }

    pub(super) fn on_accept_ended(&mut self, socket: SocketId, why: AcceptEnd) {
        if let Some(index) = self
            .retiring
            .iter()
            .position(|local| local.socket.id == socket)
        {
            let local = self.retiring.swap_remove(index);
            self.serve_queue_and_close(&local);
            return;
        }
        let Some(local) = self.world.socket_mut(socket) else {
            return;
        };
        local.armed = false;
        match why {
            AcceptEnd::Retry | AcceptEnd::Stopped if !self.accept_paused => self.arm(socket),
            AcceptEnd::Retry | AcceptEnd::Stopped => {}
            AcceptEnd::Pressure => self.pause_accepting(),
        }
    }

    fn arm(&mut self, socket: SocketId) {
        if let Some(local) = self.world.socket_mut(socket)
            && !std::mem::replace(&mut local.armed, true)
        {
            self.kernel.accept(socket);
        }
    }

    fn has_room(&self) -> bool {
        !self.slots.is_full() && !self.process.looks_full()
    }

    /// Stops accepting on all sockets until something was given back. What is queued in the kernel waits there.
    fn pause_accepting(&mut self) {
        if self.accept_paused {
            return;
        }
        self.accept_paused = true;
        self.accept_retry_at = self.now.after(ACCEPT_PAUSE_NS);
        self.hatch.counters.accept_pauses.add(1);
        for index in 0..self.world.sockets.len() {
            if self.world.sockets[index].armed {
                let id = self.world.sockets[index].socket.id;
                self.kernel.stop_accept(id);
            }
        }
    }

    /// After a pause: lets in who was parked, then accepts again.
    pub(super) fn retry_accepting(&mut self) {
        if !self.accept_paused {
            return;
        }
        while self.has_room()
            && let Some((listener, port, incoming)) = self.parked.pop_front()
        {
            self.let_in(listener, port, incoming);
        }
        // Not at once: a kernel that is out of descriptors would refuse again, turn after turn.
        let rested = self.now >= self.accept_retry_at;
        let stopped = self.world.sockets.iter().all(|local| !local.armed);
        if !rested || !stopped || !self.parked.is_empty() || !self.has_room() {
            return;
        }
        for index in 0..self.world.sockets.len() {
            let id = self.world.sockets[index].socket.id;
            if !self.open(id) {
                return;
            }
        }
        self.accept_paused = false;
        for index in 0..self.world.sockets.len() {
            let id = self.world.sockets[index].socket.id;
            self.arm(id);
        }
    }

    /// Admission: the limits in order, then a slot, then the session's first event.
    fn let_in(&mut self, listener: ListenerId, port: u16, incoming: Incoming) {
        if self.all_must_be_closed() {
            self.refuse(listener, Refusal::Shutdown, incoming);
            return;
        }
        let Some(local) = self.world.listener(listener) else {
            self.kernel.refuse(incoming);
            return;
        };
        let pool = local.pool;
        let client = if local.wants_address || local.judges_addresses() {
            self.kernel.peer_address(&incoming)
        } else {
            None
        };
        // A peer that announces its client is not the one to be judged; see `preface`.
        let announced = local.preface.announcers.include(client.map(|it| it.ip()));
        // Only a client that has gone already has a port but no address.
        let admitted = if announced {
            local.admit(&self.hatches.sources, None, self.now)
        } else if client.is_none() && port != 0 && local.judges_addresses() {
            Err(Refusal::Denied)
        } else {
            let address = client.map(|client| client.ip());
            local.admit(&self.hatches.sources, address, self.now)
        };
        let admission = match admitted {
            Ok(admission) => admission,
            Err(why) => {
                self.refuse(listener, why, incoming);
                return;
            }
        };
        let process_reservation = self.process.reserve();
        let key = self.slots.next_key();
        let (Some(key), false) = (key, process_reservation == Reservation::Full) else {
            if process_reservation == Reservation::Held {
                self.process.release();
            }
            // Another worker took the last place: this client waits for the next one.
            self.withdraw(listener, &admission);
            self.parked.push_front((listener, port, incoming));
            self.pause_accepting();
            return;
        };
        self.kernel.attach(key, incoming);
        let mut tenant = self.new_tenant(listener, pool, port, client);
        tenant.listener_reserved = admission.listener_reserved;
        tenant.source = admission.source;
        tenant.process_reserved = process_reservation == Reservation::Held;
        if self.slots.insert(tenant).is_ok() {
            if let Some(counters) = self.world.listener_counters(listener) {
                counters.sessions_active.add(1);
                counters.sessions_total.add(1);
            }
            self.plan_shutdown_of(key);
            self.report(key, Milestone::Start);
            self.deliver(key, Event::Opened);
        }
    }

    fn new_tenant(
        &mut self,
        listener: ListenerId,
        pool: crate::ids::PoolId,
        port: u16,
        client: Option<SocketAddr>,
    ) -> Tenant {
        self.sessions_begun += 1;
        let id = u64::from(self.world.worker.0) << 48 | self.sessions_begun;
        let (stage, preface_ns) = self.first_stage(listener, pool, client);
        let rules = self.rules_for(pool, preface_ns);
        let mut tenant = Tenant::new(
            TcpSession::new(rules, self.now),
            id,
            listener,
            pool,
            self.now,
        );
        tenant.port = port;
        tenant.client = client;
        tenant.stage = stage;
        tenant.hash = self.hash_of(pool, client);
        tenant
    }

    /// What a session of this pool is played by.
    pub(super) fn rules_for(&mut self, pool: crate::ids::PoolId, preface_ns: u64) -> Rules {
        let jitter = self.random();
        let rules = self
            .world
            .pool(pool)
            .map_or(NO_POOL, |pool| rules_of(pool, jitter));
        Rules {
            preface_ns,
            ..rules
        }
    }

    fn refuse(&mut self, listener: ListenerId, why: Refusal, incoming: Incoming) {
        if let Some(counters) = self.world.listener_counters(listener) {
            counters.refused[why.index()].add(1);
        }
        self.kernel.refuse(incoming);
    }

    /// The least loaded worker, if this one is clearly above the mean. None once the process drains: it may have stopped.
    fn less_loaded_worker(&self) -> Option<usize> {
        let workers = &self.hatches.workers;
        let serving = matches!(self.world.phase, crate::handoff::Phase::Serving);
        if workers.len() < 2 || !serving {
            return None;
        }
        let own = self.slots.len() as u64;
        let load = |index: usize| {
            if index == self.world.worker.index() {
                own
            } else {
                workers[index].counters.sessions.read()
            }
        };
        let total: u64 = (0..workers.len()).map(load).sum();
        let bound = total * TRANSFER_PERCENT / 100 / workers.len() as u64 + TRANSFER_SLACK;
        if own <= bound {
            return None;
        }
        (0..workers.len())
            .filter(|&index| index != self.world.worker.index())
            .min_by_key(|&index| load(index))
    }

    fn give_away(&mut self, other: usize, listener: ListenerId, port: u16, incoming: Incoming) {
        let Some(local) = self.world.listener(listener) else {
            self.kernel.refuse(incoming);
            return;
        };
        let transfer = Transfer {
            socket: incoming.into(),
            listener: Arc::clone(&local.shared),
            pool: local.pool,
            wants_address: local.wants_address,
            access: local.access.clone(),
            preface: Arc::clone(&local.preface),
            port,
        };
        let hatch = &self.hatches.workers[other];
        match hatch.transfers.push(transfer) {
            Ok(()) => {
                hatch.doorbell.ring();
                self.hatch.counters.transfers_given.add(1);
            }
            // Its queue is full, so it is busier than it looks: keep the socket.
            Err(transfer) => self.let_in_or_park(listener, port, transfer.socket.into()),
        }
    }

    pub(super) fn take_transfers(&mut self) {
        for _ in 0..self.hatch.transfers.capacity() {
            let Some(transfer) = self.hatch.transfers.pop() else {
                return;
            };
            self.hatch.counters.transfers_taken.add(1);
            self.world.keep_listener(&transfer);
            let listener = transfer.listener.id;
            self.let_in_or_park(listener, transfer.port, Incoming::from(transfer.socket));
        }
    }

    /// Arms what is new and retires what is gone. A kept address keeps its socket, and with it its queue.
    pub(super) fn reconcile_sockets(&mut self, snapshot: &Snapshot) {
        let serving = matches!(snapshot.phase, crate::handoff::Phase::Serving);
        let wanted = |id: SocketId| {
            let mut sockets = tcp_listeners(snapshot).flat_map(|listener| &listener.sockets);
            serving && sockets.any(|socket| socket.id == id)
        };
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.world.sockets)
            .into_iter()
            .partition(|local| wanted(local.socket.id));
        self.world.sockets = kept;
        for local in gone {
            self.retire(local);
        }
        for listener in tcp_listeners(snapshot).filter(|_| serving) {
            for socket in &listener.sockets {
                if let Some(known) = self.world.socket_mut(socket.id) {
                    known.listener = listener.id();
                    continue;
                }
                let id = socket.id;
                self.world.sockets.push(LocalSocket {
                    listener: listener.id(),
                    socket: Arc::clone(socket),
                    open: false,
                    armed: false,
                    handed_over: false,
                });
                if !self.open(id) {
                    self.pause_accepting();
                } else if !self.accept_paused {
                    self.arm(id);
                }
            }
        }
    }

    /// Makes a socket known to the kernel; false while no descriptor is left for that.
    fn open(&mut self, id: SocketId) -> bool {
        let worker = self.world.worker.index();
        let Some(local) = self.world.sockets.iter_mut().find(|it| it.socket.id == id) else {
            return true;
        };
        let last = local.socket.descriptors.len().saturating_sub(1);
        if !local.open
            && let Some(descriptor) = local.socket.descriptors.get(worker.min(last))
        {
            local.open = self.kernel.open_listener(id, descriptor.as_fd()).is_ok();
        }
        local.open
    }

    /// A listener is never shut down: cancel the accept, let in (or refuse, and count) who is in its queue, close.
    /// One that is handed over keeps its queue.
    fn retire(&mut self, mut local: LocalSocket) {
        local.handed_over = self.world.phase == crate::handoff::Phase::HandingOver;
        if local.armed {
            self.kernel.stop_accept(local.socket.id);
            self.retiring.push(local);
        } else if local.open {
            self.serve_queue_and_close(&local);
        }
    }

    fn serve_queue_and_close(&mut self, local: &LocalSocket) {
        while !local.handed_over
            && let Some(incoming) = self.kernel.accept_now(local.socket.id)
        {
            self.let_in_or_park(local.listener, port_of(local), incoming);
        }
        self.kernel.close_listener(local.socket.id);
    }
}

/// The port that clients of this socket come to.
fn port_of(local: &LocalSocket) -> u16 {
    let address = local.socket.address.inet();
    address.map_or(0, |address| address.port())
}

fn tcp_listeners(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Listener>> {
    let listeners = snapshot.listeners.iter();
    listeners.filter(|listener| listener.protocol == Protocol::Tcp)
}

/// For a session whose pool a reload has just taken away: it ends at once.
const NO_POOL: Rules = Rules {
    preface_ns: 0,
    connect_timeout_ns: 0,
    connect_attempts: 1,
    connect_budget_ns: 0,
    wait_timeout_ns: 0,
    leave_on_fin: false,
    idle_ns: 0,
    half_close_ns: 0,
    lifetime_ns: 0,
};

fn rules_of(pool: &Pool, random: u64) -> Rules {
    Rules {
        preface_ns: 0,
        connect_timeout_ns: pool.connect_timeout_ns,
        connect_attempts: pool.connect_attempts.max(1),
        connect_budget_ns: pool.connect_budget_ns,
        wait_timeout_ns: if pool.waiters.size() == 0 {
            0
        } else {
            pool.wait.timeout_ns
        },
        leave_on_fin: pool.wait.leave_on_fin,
        idle_ns: pool.times.idle_ns,
        half_close_ns: pool.times.half_close_ns,
        lifetime_ns: jittered(pool.times.lifetime_ns, random),
    }
}
