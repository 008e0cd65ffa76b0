//! Operations in flight: which of them has become ready, and what its completion says. Called as something is submitted,
//! and whenever something in the world has changed; it must not hand anything to the worker by itself.

use std::io::Read;

use ringway::ids::{ConnectFailure, ReceiveEnd, Side, StreamKey};

use super::counts::Fault;
use super::kernel::{Completion, FakeKernel, Op, OpKind};
use super::net::Happening;
use super::socket::{Conn, Place};

/// Parcels that one receive brings in a turn at most.
const PARCELS_MAX: u32 = 32;

impl FakeKernel {
    /// Looks at everything that is armed. Each operation that has become ready is completed, or held back for a while.
    pub fn run_tasks(&mut self) {
        self.net_mut().changed = false;
        self.hear_bell();
        for at in 0..self.listeners.len() {
            self.accept_all(at);
        }
        for slot in 0..self.entries.len() {
            let Some(session) = self.entries[slot].key else {
                continue;
            };
            for side in Side::BOTH {
                for kind in OpKind::ALL {
                    let stream = StreamKey { session, side };
                    let end = self.entries[slot].ends[side.index()].as_ref();
                    if let Some(Op::Armed { late, cancelled }) =
                        end.map(|end| end.ops[kind.index()])
                    {
                        self.look_at(stream, kind, late, cancelled);
                    }
                }
            }
        }
    }

    fn hear_bell(&mut self) {
        let mut rings = [0; 8];
        if self.bell_armed && self.bell.read(&mut rings).is_ok() {
            self.bell_armed = false;
            self.completions.push_back(Completion::Bell);
        }
    }

    pub fn look_at(
        &mut self,
        stream: StreamKey,
        kind: OpKind,
        late: Option<u64>,
        cancelled: Option<u64>,
    ) {
        let now = self.net().now;
        if cancelled.is_some_and(|at| at <= now) {
            self.answer_cancelled(stream, kind);
            return;
        }
        if !self.is_ready(stream, kind) || late.is_some_and(|at| at > now) {
            return;
        }
        let rate = self.net().weather.late;
        if late.is_none() && self.chance(rate) {
            self.hit(Fault::LateAnswer);
            let mut net = self.net_mut();
            let until = now + net.random.below(4_000_000);
            net.at(until, Happening::Look);
            drop(net);
            *self.op_mut(stream, kind) = Op::Armed {
                late: Some(until),
                cancelled,
            };
            return;
        }
        self.complete(stream, kind);
    }

    fn answer_cancelled(&mut self, stream: StreamKey, kind: OpKind) {
        *self.op_mut(stream, kind) = Op::Answered;
        self.completions.push_back(match kind {
            OpKind::Receive => Completion::ReceiveEnd(stream, ReceiveEnd::Stopped),
            OpKind::Connect => Completion::Connect(stream, Err(None)),
            OpKind::Poll(interest) => Completion::Poll(stream, interest, None),
        });
    }

    fn is_ready(&self, stream: StreamKey, kind: OpKind) -> bool {
        let net = self.net();
        let conn = &net.conns[self.end(stream).conn];
        match kind {
            OpKind::Connect => conn.answer.is_some_and(|(at, _)| at <= net.now),
            OpKind::Receive => conn.waiting() > 0 || conn.fin || conn.is_dead(),
            OpKind::Poll(interest) => Conn::stirs(interest, conn.mask()),
        }
    }

    fn complete(&mut self, stream: StreamKey, kind: OpKind) {
        let conn = self.end(stream).conn;
        match kind {
            OpKind::Connect => {
                *self.op_mut(stream, kind) = Op::Answered;
                let answer = self.net().conns[conn].answer;
                let result = answer.map_or(Ok(()), |(_, result)| result);
                self.settle_connect(conn, result);
                self.completions
                    .push_back(Completion::Connect(stream, result.map_err(Some)));
            }
            OpKind::Poll(interest) => {
                *self.op_mut(stream, kind) = Op::Answered;
                let mask = self.net().conns[conn].mask();
                self.completions
                    .push_back(Completion::Poll(stream, interest, Some(mask)));
            }
            OpKind::Receive => self.receive_now(stream, conn),
        }
    }

    fn settle_connect(&self, conn: usize, result: Result<(), ConnectFailure>) {
        let mut net = self.net_mut();
        net.conns[conn].stamp += 1;
        match result {
            Ok(()) => {
                net.conns[conn].place = Place::Open;
                net.conns[conn].began_at = net.now;
                net.act_soon(conn);
            }
            Err(failure) => {
                net.conns[conn].place = Place::Unconnected;
                net.conns[conn].failure = Some(failure);
            }
        }
    }

    /// A multishot receive: parcels as long as there are bytes and buffers, then perhaps its end.
    fn receive_now(&mut self, stream: StreamKey, conn: usize) {
        let weather = self.net().weather.clone();
        let mut end = None;
        let mut parcels = 0;
        while parcels < PARCELS_MAX && end.is_none() {
            if self.net().conns[conn].waiting() == 0 {
                let dry = self.net_mut().conns[conn].dry_end();
                end = dry.map(|end| match end {
                    Ok(()) => ReceiveEnd::Fin,
                    Err(fault) => ReceiveEnd::Broken(fault),
                });
                break;
            }
            let refused = !self.free.is_empty() && self.chance(weather.no_buffer);
            if self.free.is_empty() || refused {
                self.hit(match refused {
                    true => Fault::BufferRefused,
                    false => Fault::NoBuffer,
                });
                end = Some(ReceiveEnd::NoBuffer);
                break;
            }
            if self.chance(weather.receive_stop / 4) {
                self.hit(Fault::ReceiveInterrupted);
                end = Some(ReceiveEnd::Stopped);
                break;
            }
            let buffer = self.free.pop().expect("was just seen");
            let range = self.read(conn, u64::from(weather.buffer_bytes));
            let range = range.expect("there are bytes");
            self.contents[usize::from(buffer)] = Some(range);
            parcels += 1;
            let last = self
                .chance(weather.receive_stop)
                .then_some(ReceiveEnd::Stopped);
            if last.is_some() {
                self.hit(Fault::ReceiveStopped);
                *self.op_mut(stream, OpKind::Receive) = Op::Answered;
            }
            let filled = Completion::Received(stream, buffer, range.bytes, last);
            self.completions.push_back(filled);
            if last.is_some() {
                return;
            }
        }
        if parcels > 3 {
            self.hit(Fault::ManyParcels);
        }
        if let Some(end) = end {
            *self.op_mut(stream, OpKind::Receive) = Op::Answered;
            self.completions
                .push_back(Completion::ReceiveEnd(stream, end));
        }
    }
}
