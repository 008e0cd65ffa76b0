//! The sockets that clients write datagrams to: opened when a snapshot brings them, closed when it takes them away and
//! their last flow has ended.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::handoff::{ListenSocket, ListenerShared, Phase, Protocol, Snapshot};
use crate::ids::{Drop, PoolId, SocketId, millis};
use crate::session::{FlowTable, Timers};
use crate::sys::datagram;
use crate::uring::Kernel;
use crate::worker::engine::Worker;

use super::Flows;

/// How long a socket whose receive broke rests.
const REST_NS: u64 = millis(20);

#[derive(Debug)]
pub(super) struct DatagramSocket {
    pub(super) socket: Arc<ListenSocket>,
    pub(super) listener: Arc<ListenerShared>,
    pub(super) pool: PoolId,
    /// The kernel knows it.
    pub(super) open: bool,
    /// The configuration has it no more: it serves the flows it has.
    pub(super) leaving: bool,
    flows: u32,
    /// What the kernel had thrown away when it was last asked.
    overruns: u32,
}

impl<K: Kernel> Worker<K> {
    pub(in crate::worker) fn reconcile_datagrams(&mut self, snapshot: &Snapshot) {
        if snapshot.phase == Phase::HandingOver {
            self.hand_over_flows();
            return;
        }
        if snapshot.phase == Phase::Serving {
            self.take_flows_back();
        } else if self.leave_flows_to_successor() {
            return;
        }
        for local in &mut self.flows.sockets {
            local.leaving = true;
        }
        let listeners = snapshot.listeners.iter();
        for listener in listeners.filter(|listener| listener.protocol == Protocol::Udp) {
            for socket in &listener.sockets {
                self.have_socket(socket, &listener.shared, listener.pool);
            }
        }
        self.adopt_flows();
        // While the process drains, flows go on; there is nobody to take their sockets over.
        if snapshot.phase != Phase::Serving {
            return;
        }
        self.close_left_sockets();
    }

    fn have_socket(
        &mut self,
        socket: &Arc<ListenSocket>,
        listener: &Arc<ListenerShared>,
        pool: PoolId,
    ) {
        let mut known = self.flows.sockets.iter_mut();
        if let Some(local) = known.find(|local| local.socket.id == socket.id) {
            local.leaving = false;
            local.listener = Arc::clone(listener);
            local.pool = pool;
            return;
        }
        self.have_tables();
        // One that was another's before has lost what that one counts.
        let own = socket.descriptors.get(self.world.worker.index());
        let before = own.and_then(|own| datagram::overruns(own.as_fd()).ok());
        self.flows.sockets.push(DatagramSocket {
            socket: Arc::clone(socket),
            listener: Arc::clone(listener),
            pool,
            open: false,
            leaving: false,
            flows: 0,
            overruns: before.unwrap_or(0),
        });
        self.open_datagram_socket(self.flows.sockets.len() - 1);
    }

    /// The first listener for datagrams brings the tables for flows. They stay: a new table would begin its keys anew, and
    /// the kernel may still answer for those of the old one.
    fn have_tables(&mut self) {
        if !self.flows.table.has_size() {
            let flows_max = self.flows_max;
            self.flows.table = FlowTable::new(flows_max, self.random());
            self.flows.timers = Timers::new(flows_max, self.now);
        }
    }

    fn open_datagram_socket(&mut self, place: usize) {
        let worker = self.world.worker.index();
        let local = &mut self.flows.sockets[place];
        let last = local.socket.descriptors.len().saturating_sub(1);
        let Some(descriptor) = local.socket.descriptors.get(worker.min(last)) else {
            return;
        };
        let id = local.socket.id;
        local.open = self.kernel.open_datagrams(id, descriptor.as_fd()).is_ok();
        if !local.open {
            self.pause_socket(id);
        }
    }

    /// One that was closed in this very turn has nothing left to go on with, also when it comes back.
    pub(super) fn pause_socket(&mut self, id: SocketId) {
        let mut sockets = self.flows.sockets.iter();
        if !sockets.any(|local| local.socket.id == id) {
            return;
        }
        if !self.flows.paused.contains(&id) {
            self.flows.paused.push(id);
        }
        self.flows.retry_at = self.now.after(REST_NS);
        self.hatch.counters.accept_pauses.add(1);
    }

    pub(in crate::worker) fn resume_paused_sockets(&mut self) {
        if self.now < self.flows.retry_at {
            return;
        }
        self.flows.retry_at = crate::ids::Nanos::NEVER;
        for id in std::mem::take(&mut self.flows.paused) {
            let mut sockets = self.flows.sockets.iter();
            match sockets.position(|local| local.socket.id == id) {
                Some(place) if self.flows.sockets[place].open => self.kernel.resume_datagrams(id),
                Some(place) => self.open_datagram_socket(place),
                None => {}
            }
        }
    }

    /// What the kernel threw away because this worker was late is counted, too.
    pub(in crate::worker) fn count_overruns(&mut self) {
        let worker = self.world.worker;
        for local in &mut self.flows.sockets {
            // A socket of our own: one that several workers share is counted by whoever has its number.
            let Some(socket) = local.socket.descriptors.get(worker.index()) else {
                continue;
            };
            if let Ok(overruns) = datagram::overruns(socket.as_fd()) {
                let more = overruns.wrapping_sub(local.overruns);
                local.overruns = overruns;
                let drops = &local.listener.of(worker).drops;
                drops[Drop::Overrun.index()].add(u64::from(more));
            }
        }
    }

    /// A flow began on this socket, or ended.
    pub(super) fn count_on_socket(&mut self, id: SocketId, change: i32) {
        let mut sockets = self.flows.sockets.iter_mut();
        let Some(local) = sockets.find(|local| local.socket.id == id) else {
            return;
        };
        local.flows = local.flows.saturating_add_signed(change);
        if local.leaving && local.flows == 0 && self.world.phase == Phase::Serving {
            self.close_left_sockets();
        }
    }

    fn close_left_sockets(&mut self) {
        let kernel = &mut self.kernel;
        self.flows.sockets.retain(|local| {
            let stays = !local.leaving || local.flows > 0;
            if !stays && local.open {
                kernel.close_datagrams(local.socket.id);
            }
            stays
        });
        // A socket that comes back under its old number is received from at once, and must not be a second time.
        let Flows {
            paused, sockets, ..
        } = &mut self.flows;
        paused.retain(|id| sockets.iter().any(|local| local.socket.id == *id));
    }
}
