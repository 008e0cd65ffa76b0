//! Datagrams: from the kernel to the flow they belong to, and on to its other side. A flow's life is in [`life`], the
//! sockets that clients write to are in [`sockets`], its way to a successor is in [`moving`]; the table itself, who must
//! leave it when it is full, and who gives way when more comes than can be carried, is the study's.
//!
//! Nothing is sent here and now: what is passed on leaves with the next turn, many datagrams at a time.

mod announcing;
mod blame;
mod life;
mod moving;
mod sockets;
mod tenant;

use crate::handoff::Verdict;
use crate::ids::{Caller, Drop, FlowKey, Nanos, Outlet, Side, Slot};
use crate::session::{Fairness, FlowTable, Request, Response, Timers};
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
    fairness: Fairness,
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
            fairness: Fairness::default(),
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
            Outcome::Response(flow, outlet, datagram) => self.on_response(flow, outlet, datagram),
            Outcome::FlowBroken(flow, outlet, why) => self.on_flow_broken(flow, outlet, why),
            Outcome::Undelivered {
                flow,
                outlet,
                datagrams,
                why,
                headed,
            } => {
                // A flow that has another outlet by now has announced itself there.
                if headed && outlet.is_some_and(|outlet| self.has_outlet(flow, outlet)) {
                    self.announce_again(flow);
                }
                self.on_undelivered(flow, outlet, datagrams, why);
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

    /// Before a turn's datagrams are looked at.
    pub(super) fn begin_fair_turn(&mut self) {
        let others = self.flows.table.len() > 1;
        let behind = self.kernel.is_behind();
        self.flows.fairness.begin_turn(behind, others);
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
        let count = datagram.count();
        let known = self.flows.table.find(&caller);
        if !self.is_carried(known, count) {
            self.count_drop_at(caller.socket, Drop::Overload, count);
            self.kernel.discard(datagram);
            return;
        }
        let Some(flow) = known.or_else(|| self.begin_flow(caller, &datagram)) else {
            self.kernel.discard(datagram);
            return;
        };
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

    /// Whether so many of a flow, or of somebody new, are to be passed on although more come than can be.
    fn is_carried(&mut self, known: Option<FlowKey>, count: u32) -> bool {
        let Flows {
            table, fairness, ..
        } = &mut self.flows;
        match known.and_then(|flow| table.get_mut(flow)) {
            Some(tenant) => fairness.admits(&mut tenant.lately, count),
            None => fairness.admits_newcomers(count),
        }
    }

    /// Whether a known flow's backend takes no more of its datagrams: it went down, or into maintenance. One that drains
    /// keeps what it has.
    fn has_lost_its_backend(&self, flow: FlowKey) -> bool {
        let tenant = self.flows.table.get(flow);
        let backend = tenant.and_then(|tenant| tenant.backend.as_ref());
        backend.is_none_or(|backend| !keeps_flows(&backend.verdict))
    }

    /// Whether this is the outlet that the flow has now. In the turn in which a flow moves, the kernel may still tell of the
    /// one that it had.
    fn has_outlet(&self, flow: FlowKey, outlet: Outlet) -> bool {
        let tenant = self.flows.table.get(flow);
        tenant.is_some_and(|tenant| tenant.outlet == Some(outlet))
    }

    fn on_response(&mut self, flow: FlowKey, outlet: Outlet, datagram: Datagram) {
        let Some(caller) = self.flows.table.caller(flow) else {
            self.kernel.discard(datagram);
            return;
        };
        let count = datagram.count();
        let response = self.flows.table.on_response(flow, count, self.now);
        // What an earlier backend said in time is still an answer, but none of the present one's.
        let own = self.has_outlet(flow, outlet);
        self.count_passed(flow, Side::Backend, own, &datagram);
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
    fn on_flow_broken(&mut self, flow: FlowKey, outlet: Outlet, why: Undelivered) {
        if self.has_outlet(flow, outlet) {
            self.close_way(flow);
            self.note_flow_failure(flow, why);
        }
    }

    fn on_undelivered(
        &mut self,
        flow: FlowKey,
        outlet: Option<Outlet>,
        datagrams: u32,
        why: Undelivered,
    ) {
        let reason = match why {
            Undelivered::Full => Drop::Full,
            Undelivered::Unreachable => Drop::Unreachable,
            Undelivered::TooLong => Drop::TooLong,
            Undelivered::Resources => Drop::Resources,
        };
        self.count_drop(flow, reason, datagrams);
        if let Some(outlet) = outlet.filter(|_| why == Undelivered::Unreachable) {
            self.on_flow_broken(flow, outlet, why);
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
