//! Datagrams: from the kernel to the flow they belong to, and on to its other side. A flow's life is in [`life`], the
//! sockets that clients write to are in [`sockets`], its way to a successor is in [`moving`]; the table itself, and who must leave it when it is full, is the
//! study's.
//!
//! Nothing is sent here and now: what is passed on leaves with the next turn, many datagrams at a time.

mod announcing;
mod blame;
mod life;
mod moving;
mod sockets;
mod tenant;

use crate::handoff::Verdict;
use crate::ids::{Caller, Drop, FlowKey, Nanos, Side, Slot};
use crate::session::{FlowTable, Request, Response, Timers};
use crate::uring::{Datagram, Envelope, Kernel, Outcome, Undelivered};

use super::engine::Worker;
use sockets::DatagramSocket;
use tenant::FlowTenant;

/// A worker's flows and what belongs to them. It has no size before the first listener for datagrams comes.
#[derive(Debug)]
pub(super) struct Flows {
    table: FlowTable<FlowTenant>,
    timers: Timers,
    due: Vec<Slot>,
    sockets: Vec<DatagramSocket>,
    /// Sockets whose receive broke, to be tried again at a pulse.
    paused: Vec<crate::ids::SocketId>,
    retry_at: Nanos,
    /// When sockets that wait for flows are looked through; never, while there are none.
    trim_at: Nanos,
    begun: u64,
    leaving: moving::Leaving,
}

/// A socket that waits for a flow for so long without being needed is closed, at the latest after twice this.
const TRIM_NS: u64 = 1_000_000_000;

impl Flows {
    pub(super) fn new(now: Nanos) -> Flows {
        Flows {
            table: FlowTable::new(0, 0),
            timers: Timers::new(0, now),
            due: Vec::new(),
            sockets: Vec::new(),
            paused: Vec::new(),
            retry_at: Nanos::NEVER,
            trim_at: Nanos::NEVER,
            begun: 0,
            leaving: moving::Leaving::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// When the worker must look after flows again, at the latest.
    pub(super) fn next(&self) -> Nanos {
        self.timers.next().min(self.retry_at).min(self.trim_at)
    }
}

impl<K: Kernel> Worker<K> {
    /// Everything that the kernel tells of datagrams.
    pub(super) fn on_datagrams(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Request(envelope, datagram) => self.on_request(envelope, datagram),
            Outcome::Response(flow, datagram) => self.on_response(flow, datagram),
            Outcome::FlowBroken(flow, why) => self.on_flow_broken(flow, why),
            Outcome::Undelivered {
                flow,
                side,
                datagrams,
                why,
                headed,
            } => {
                if headed {
                    self.announce_again(flow);
                }
                self.on_undelivered(flow, side, datagrams, why);
            }
            Outcome::NoDatagramBuffer => self.hatch.counters.buffer_pauses.add(1),
            Outcome::DatagramCut(socket) => self.count_drop_at(socket, Drop::TooLong, 1),
            Outcome::DatagramsPaused(socket, _) => self.pause_socket(socket),
            Outcome::Doorbell
            | Outcome::Accepted(..)
            | Outcome::AcceptEnded(..)
            | Outcome::Stream(..) => {}
        }
    }

    pub(super) fn trim_flow_sockets(&mut self) {
        if self.now >= self.flows.trim_at {
            let more = self.kernel.trim_flow_sockets();
            let next = self.now.after(TRIM_NS);
            self.flows.trim_at = if more { next } else { Nanos::NEVER };
        }
    }

    fn on_request(&mut self, envelope: Envelope, datagram: Datagram) {
        let caller = Caller {
            socket: envelope.socket,
            client: envelope.client,
            local: envelope.local,
        };
        let known = self.flows.table.find(&caller);
        let Some(flow) = known.or_else(|| self.begin_flow(caller, &datagram)) else {
            self.kernel.discard(datagram);
            return;
        };
        let count = datagram.count();
        let asked = self.flows.table.on_request(flow, count, self.now);
        let anew = asked == Request::ChooseAnew || !self.kernel.has_flow(flow);
        if anew || self.has_lost_its_backend(flow) {
            if let Err(why) = self.move_flow(flow) {
                self.count_drop(flow, why, count);
                self.kernel.discard(datagram);
                if why == Drop::Resources {
                    // A place in the table is for whoever can be served.
                    self.hatch.counters.flows_crowded_out.add(1);
                    self.end_flow(flow, crate::ids::End::Resources);
                }
                return;
            }
            self.begin_announcing(flow);
        }
        self.pass_to_backend(flow, caller, datagram);
    }

    /// Whether a known flow's backend takes no more of its datagrams: it went down, or into maintenance. One that drains
    /// keeps what it has.
    fn has_lost_its_backend(&self, flow: FlowKey) -> bool {
        let tenant = self.flows.table.get(flow);
        let backend = tenant.and_then(|tenant| tenant.backend.as_ref());
        backend.is_none_or(|backend| !keeps_flows(&backend.verdict))
    }

    fn on_response(&mut self, flow: FlowKey, datagram: Datagram) {
        let Some(caller) = self.flows.table.caller(flow) else {
            self.kernel.discard(datagram);
            return;
        };
        let count = datagram.count();
        let response = self.flows.table.on_response(flow, count, self.now);
        self.count_passed(flow, Side::Backend, &datagram);
        let envelope = Envelope {
            socket: caller.socket,
            client: caller.client,
            local: caller.local,
        };
        self.kernel.to_client(flow, envelope, datagram);
        if response == Response::Last {
            self.end_flow(flow, crate::ids::End::BackendFin);
        }
    }

    /// The backend's host or port answers with an error: the next datagram looks for another one.
    fn on_flow_broken(&mut self, flow: FlowKey, why: Undelivered) {
        self.close_way(flow);
        self.note_flow_failure(flow, why);
    }

    fn on_undelivered(&mut self, flow: FlowKey, side: Side, datagrams: u32, why: Undelivered) {
        let reason = match why {
            Undelivered::Full => Drop::Full,
            Undelivered::Unreachable => Drop::Unreachable,
            Undelivered::TooLong => Drop::TooLong,
            Undelivered::Resources => Drop::Resources,
        };
        self.count_drop(flow, reason, datagrams);
        if side == Side::Backend && why == Undelivered::Unreachable {
            self.on_flow_broken(flow, why);
        }
    }
}

fn keeps_flows(verdict: &Verdict) -> bool {
    use crate::handoff::{Admin, BreakerState, Health};
    // Half-open: they are its trials, or have waited for it in silence.
    verdict.admin() != Admin::Maintenance
        && matches!(verdict.checked(), Health::Up | Health::Unknown)
        && verdict.breaker.state() != BreakerState::Open
}
