//! UDP flows in words: what workers give out, by names that mean the same in the successor, and back. What the successor
//! cannot place (its configuration has another pool or backend) ends, and what it held of limits is free.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::handoff::{BackendShared, Holdings, MovingFlow};
use crate::ids::{End, Nanos, SocketId};
use crate::office::Office;
use crate::office::counting::KEY_OF_PROCESS;
use crate::sys::shares::Column;

use super::accounts::{key_of_backend, key_of_listener, key_of_pool};
use super::words::{FlowState, Word};

/// Flows in one message.
const AT_ONCE: usize = 1_000;

impl FlowState {
    /// The limits that it holds something of, by key.
    fn held(&self) -> impl Iterator<Item = String> {
        let keys = [
            self.backend.clone(),
            key_of_listener(&self.listener),
            KEY_OF_PROCESS.to_owned(),
            key_of_pool(&self.pool),
        ];
        let held = keys.into_iter().zip(self.holds);
        held.filter(|(_, holds)| *holds).map(|(key, _)| key)
    }
}

impl Office {
    /// What the workers have given out, worker by worker.
    pub(super) fn flows_given_out(&self) -> Vec<(Word, Vec<OwnedFd>)> {
        let keys = self.registry.keyed_backends();
        let keys: BTreeMap<u16, String> = keys
            .map(|(key, backend)| (backend.id.0, key_of_backend(key)))
            .collect();
        let pools = self.registry.pools();
        let pools: BTreeMap<u16, &str> =
            pools.map(|pool| (pool.id.0, pool.name.as_str())).collect();
        let at = self.binder.udp_addresses();
        let mut said = Vec::new();
        for (worker, hatch) in self.board.hatches.workers.iter().enumerate() {
            let mut states = Vec::new();
            for flow in hatch.moving.collect() {
                let known = (
                    at.get(&flow.at),
                    pools.get(&flow.pool.0),
                    keys.get(&flow.backend.id.0),
                );
                if let (Some(at), Some(pool), Some(backend)) = known {
                    states.push((state(&flow, *at, pool, backend), flow.socket));
                }
            }
            while !states.is_empty() {
                let some = states.split_off(states.len().saturating_sub(AT_ONCE));
                let (flows, sockets) = some.into_iter().unzip();
                said.push((Word::Flows { worker, flows }, sockets));
            }
        }
        said
    }

    /// Puts the flows of the process before where workers take them with the first snapshot.
    pub(super) fn place_flows(&mut self, words: Vec<(usize, Vec<FlowState>, Vec<OwnedFd>)>) {
        if words.is_empty() {
            return;
        }
        let keys = self.registry.keyed_backends();
        let backends: BTreeMap<String, Arc<BackendShared>> = keys
            .map(|(key, backend)| (key_of_backend(key), Arc::clone(backend)))
            .collect();
        let mut by_worker: BTreeMap<usize, Vec<MovingFlow>> = BTreeMap::new();
        for (worker, flows, sockets) in words {
            for (flow, socket) in flows.into_iter().zip(sockets) {
                let backend = backends.get(&flow.backend);
                let placed = backend.and_then(|backend| self.place(&flow, socket, backend));
                let placed = placed.filter(|_| worker < self.board.hatches.workers.len());
                self.count_flow(&flow, placed.as_ref());
                if let Some(moving) = placed {
                    by_worker.entry(worker).or_default().push(moving);
                }
            }
        }
        for (worker, flows) in by_worker {
            self.board.hatches.workers[worker].moving.bring(flows);
        }
    }

    /// What the process before counts stays in the totals, and becomes this one's share when that has let go or is gone; what
    /// it does not count here is counted anew. One that is not placed gives its units back out of that share, so that the
    /// process before finds them again if this one comes to nothing.
    fn count_flow(&mut self, flow: &FlowState, placed: Option<&MovingFlow>) {
        if !self.registry.counting.is_inherited() {
            if let Some(moving) = placed {
                self.count_anew(moving);
            }
            return;
        }
        for key in flow.held() {
            if placed.is_none()
                && let Some(count) = self.registry.counting.known(&key)
            {
                count.release();
            }
            *self.succession.bequests.entry(key).or_default() += 1;
        }
    }

    fn count_anew(&self, moving: &MovingFlow) {
        let holds = &moving.holdings;
        if holds.backend {
            moving.backend.capacity.reserve_anyway();
        }
        if holds.listener {
            moving.listener.capacity.reserve_anyway();
        }
        if holds.process {
            self.board.process.reserve_anyway();
        }
        let mut pools = self.world.pools.iter();
        if holds.pool
            && let Some(pool) = pools.find(|pool| pool.id == moving.pool)
        {
            pool.flows.reserve_anyway();
        }
    }

    fn place(
        &self,
        flow: &FlowState,
        socket: OwnedFd,
        backend: &Arc<BackendShared>,
    ) -> Option<MovingFlow> {
        let at = self.world.udp_socket(flow.at)?;
        let mut listeners = self.world.listeners.iter();
        let listener = listeners.find(|own| own.name == flow.listener)?;
        let pool = self.world.pools.iter().find(|own| own.name == flow.pool)?;
        let [of_backend, of_listener, of_process, of_pool] = flow.holds;
        Some(MovingFlow {
            socket,
            listener: Arc::clone(listener),
            at,
            client: flow.client,
            local: flow.local,
            pool: pool.id,
            backend: Arc::clone(backend),
            holdings: Holdings {
                backend: of_backend,
                listener: of_listener,
                process: of_process,
                pool: of_pool,
            },
            id: flow.id,
            port: flow.at.port(),
            hash: flow.hash,
            opened: Nanos(flow.opened_ns),
            last: Nanos(flow.last_ns),
            kill_at: Nanos(flow.kill_ns),
            kill_as: end_of(&flow.kill_as),
            requests: flow.requests,
            responses: flow.responses,
            answered: flow.answered,
            attempts: flow.attempts,
            bytes: flow.bytes,
            datagrams: flow.datagrams,
            announced: flow.announced,
        })
    }

    /// What flows of the process before hold is this process's share now, and no more that one's: whether it goes on or is
    /// gone, and when it crashes is the same. What is left in its share is its sessions'.
    pub(super) fn take_bequests(&mut self, before: Column) {
        for (key, units) in std::mem::take(&mut self.succession.bequests) {
            if let Some(count) = self.registry.counting.known(&key) {
                count.take_over(before, units);
            }
        }
    }
}

fn state(flow: &MovingFlow, at: SocketAddr, pool: &str, backend: &str) -> FlowState {
    let Holdings {
        backend: of_backend,
        listener,
        process,
        pool: of_pool,
    } = flow.holdings;
    FlowState {
        listener: flow.listener.name.clone(),
        at,
        client: flow.client,
        local: flow.local,
        pool: pool.to_owned(),
        backend: backend.to_owned(),
        holds: [of_backend, listener, process, of_pool],
        id: flow.id,
        hash: flow.hash,
        opened_ns: flow.opened.0,
        last_ns: flow.last.0,
        kill_ns: flow.kill_at.0,
        kill_as: flow.kill_as.word().to_owned(),
        requests: flow.requests,
        responses: flow.responses,
        answered: flow.answered,
        attempts: flow.attempts,
        bytes: flow.bytes,
        datagrams: flow.datagrams,
        announced: flow.announced,
    }
}

fn end_of(word: &str) -> End {
    let mut all = End::ALL.iter();
    all.find(|end| end.word() == word)
        .copied()
        .unwrap_or(End::Internal)
}

/// Sockets for datagrams by the number that workers know them by.
pub type Addresses = BTreeMap<SocketId, SocketAddr>;
