//! The door of the fake kernel: what a worker asks for, checked against the contract of the real one. An operation on a
//! stream that has no socket, a second one of a kind, a close over answers that are still owed, an end of stream passed
//! on too early: each ends the run.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use ringway::ids::{
    ConnectFailure, Fault as Broken, Interest, Moved, SessionKey, Side, SocketId, StreamKey,
};
use ringway::uring::{Incoming, Kernel, Outcome, PEEK_BYTES_MAX, Parcel, Patience, Route};

use super::counts::Fault;
use super::kernel::{End, FakeKernel, Flight, Listening, Op, OpKind, Submission};
use super::limits::address_of;
use super::socket::{HUP, RDHUP};

impl FakeKernel {
    fn arm(&mut self, stream: StreamKey, kind: OpKind) {
        if self.op(stream, kind) != Op::Off {
            self.fail(&format!("{stream:?}: {kind:?} is in flight already"));
        }
        self.say(|| format!("-> c{} {kind:?}", self.end(stream).conn));
        *self.op_mut(stream, kind) = Op::Queued;
        self.push(Submission::Arm(stream, kind));
    }

    fn ask_to_cancel(&mut self, stream: StreamKey, kind: OpKind) {
        // It may be off already: its answer stands further back in this turn's list.
        self.say(|| format!("-> c{} cancel {kind:?}", self.end(stream).conn));
        self.push(Submission::Cancel(stream, kind));
    }

    fn conn_of(&self, incoming: Incoming, keep: bool) -> usize {
        let descriptor = OwnedFd::from(incoming);
        let known = self.net().descriptors.get(&descriptor.as_raw_fd()).copied();
        let Some(conn) = known else {
            self.fail("an incoming socket that nobody accepted");
        };
        if !keep {
            self.net_mut().descriptors.remove(&descriptor.as_raw_fd());
        }
        conn
    }
}

impl Kernel for FakeKernel {
    fn turn(&mut self, patience: Patience, outcomes: &mut Vec<Outcome>) {
        self.take_turn(patience, outcomes);
    }

    fn overflowed(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }

    fn open_listener(&mut self, id: SocketId, _: BorrowedFd<'_>) -> io::Result<()> {
        let fails = self.net().weather.open_fails;
        if self.net_mut().random.chance(fails) {
            self.net_mut().hit(Fault::ListenerNotOpened);
            return Err(io::Error::other("no descriptor is left"));
        }
        if self.listeners.iter().any(|listening| listening.id == id) {
            self.fail(&format!("{id:?} is opened twice"));
        }
        let sockets = self.net().office().sockets();
        let unix = sockets
            .iter()
            .any(|(socket, unix)| *socket == id.0 && *unix);
        self.listeners.push(Listening {
            id,
            shared: unix,
            armed: false,
        });
        Ok(())
    }

    fn accept(&mut self, id: SocketId) {
        let known = self.listeners.iter().find(|it| it.id == id);
        let queued = |it: &Submission| matches!(it, Submission::Accept(other) if *other == id);
        if known.is_none_or(|it| it.armed) || self.queue.iter().any(queued) {
            self.fail(&format!("accept on {id:?}, which is armed or not open"));
        }
        self.push(Submission::Accept(id));
    }

    fn stop_accept(&mut self, id: SocketId) {
        self.push(Submission::StopAccept(id));
    }

    fn accept_now(&mut self, id: SocketId) -> Option<Incoming> {
        self.busy = true;
        let at = self.listeners.iter().position(|it| it.id == id)?;
        let conn = self.take_from_queue(self.queue_of(at))?;
        Some(self.incoming(conn))
    }

    fn close_listener(&mut self, id: SocketId) {
        self.busy = true;
        let at = self.listeners.iter().position(|it| it.id == id);
        let Some(at) = at else {
            self.fail(&format!("closes {id:?}, which is not open"));
        };
        if self.listeners[at].armed {
            self.fail(&format!("closes {id:?} while its accept is armed"));
        }
        let place = self.queue_of(at);
        self.listeners.swap_remove(at);
        let left = self
            .net()
            .queues
            .get(&place)
            .is_some_and(|it| !it.is_empty());
        if left {
            self.fail(&format!("closes {id:?} while clients wait in its queue"));
        }
    }

    fn peer_address(&self, incoming: &Incoming) -> Option<SocketAddr> {
        let known = &self.net().descriptors;
        let conn = known.get(&incoming.as_fd().as_raw_fd()).copied();
        conn.and_then(address_of)
    }

    fn refuse(&mut self, incoming: Incoming) {
        self.busy = true;
        let conn = self.conn_of(incoming, false);
        self.net_mut().close_ours(conn, true);
    }

    fn attach(&mut self, session: SessionKey, incoming: Incoming) {
        self.busy = true;
        let conn = self.conn_of(incoming, false);
        let slot = session.slot.index();
        if slot >= self.net().weather.sessions_max as usize {
            self.fail("a slot beyond the table");
        }
        while self.entries.len() <= slot {
            self.entries.push(super::kernel::Entry::default());
        }
        if self.entries[slot].key.is_some() {
            self.fail("attached to a slot that is taken");
        }
        self.attached += 1;
        let entry = &mut self.entries[slot];
        entry.key = Some(session);
        entry.client = conn;
        entry.backend = None;
        entry.unborn = false;
        entry.ends[0] = Some(End {
            conn,
            ops: [Op::Off; 6],
            sends: 0,
        });
        let place = (self.worker, self.attached);
        self.net_mut().admit(conn, place);
        self.say(|| format!("c{conn} is session {}", place.1));
    }

    fn peek(&mut self, stream: StreamKey, bytes_max: u32) -> Result<&[u8], Broken> {
        self.busy = true;
        let conn = self.end(stream).conn;
        let told = self.net_mut().conns[conn].take_error();
        if let Some(fault) = told {
            self.note_told(stream, fault);
            return Err(fault);
        }
        // What clients say here means nothing to anybody: zeros.
        static ZEROS: [u8; PEEK_BYTES_MAX] = [0; PEEK_BYTES_MAX];
        let waiting = self.net().conns[conn].waiting();
        let bytes = waiting.min(u64::from(bytes_max)) as usize;
        Ok(&ZEROS[..bytes.min(PEEK_BYTES_MAX)])
    }

    fn skip(&mut self, stream: StreamKey, bytes: u32) {
        self.fail(&format!("{stream:?}: {bytes} bytes are thrown away"));
    }

    fn has_ended(&self, stream: StreamKey) -> bool {
        self.net().conns[self.end(stream).conn].mask() & (RDHUP | HUP) != 0
    }

    fn send_first(&mut self, stream: StreamKey, _: &[u8]) -> bool {
        self.fail(&format!("{stream:?}: nobody is to be announced"));
    }

    fn local_address(&self, _: StreamKey) -> Option<SocketAddr> {
        None
    }

    fn connect(&mut self, session: SessionKey, route: Route<'_>) -> Result<(), ConnectFailure> {
        self.busy = true;
        let backend = self.backend_of(route.address);
        let client = self.entry(session).client;
        let again = self.net().is_replaced(client);
        if !again {
            self.check_choice(backend);
            self.net_mut().check_tier(client, backend);
        }
        self.net_mut().note_served(client);
        if again {
            self.net_mut().conns[client].tried.pop();
        }
        self.net_mut().note_attempt(client, backend);
        if self.entry(session).ends[1].is_some() {
            self.fail(&format!("{session:?} has a backend's socket already"));
        }
        let trouble = self.net().weather.connect_trouble;
        if self.net_mut().random.chance(trouble / 10) {
            self.net_mut().hit(Fault::ConnectNotStarted);
            let failures = [ConnectFailure::Ports, ConnectFailure::Resources];
            let failure = self.net_mut().random.pick(&failures);
            self.net_mut().conns[client].failure = Some(failure);
            self.entry_mut(session).unborn = true;
            return Err(failure);
        }
        let conn = self.net_mut().dial(client, backend, route.address);
        let entry = self.entry_mut(session);
        entry.backend = Some(conn);
        entry.ends[1] = Some(End {
            conn,
            ops: [Op::Off; 6],
            sends: 0,
        });
        self.say(|| format!("c{conn} connects to b{backend} for c{client}"));
        let side = Side::Backend;
        self.arm(StreamKey { session, side }, OpKind::Connect);
        Ok(())
    }

    fn cancel_connect(&mut self, session: SessionKey) {
        let side = Side::Backend;
        self.ask_to_cancel(StreamKey { session, side }, OpKind::Connect);
    }

    fn adopt(&mut self, session: SessionKey, socket: OwnedFd) -> bool {
        self.busy = true;
        if self.entry(session).ends[1].is_some() {
            self.fail(&format!("{session:?} has a backend's socket already"));
        }
        let conn = self.take_warm(session, &socket);
        let entry = self.entry_mut(session);
        entry.backend = Some(conn);
        entry.ends[1] = Some(End {
            conn,
            ops: [Op::Off; 6],
            sends: 0,
        });
        self.say(|| format!("c{conn} was warm"));
        true
    }

    fn send_now(&mut self, stream: StreamKey, _: &Parcel) -> u32 {
        self.fail(&format!("{stream:?} is sent to by a plain call"))
    }

    /// Nothing that may be sent twice.
    fn bytes(&self, parcel: &Parcel) -> &[u8] {
        static ZEROS: [u8; 16_384] = [0; 16_384];
        &ZEROS[..parcel.bytes() as usize]
    }

    fn receive(&mut self, stream: StreamKey) {
        let conn = self.end(stream).conn;
        self.net_mut().conns[conn].unwanted = false;
        self.arm(stream, OpKind::Receive);
    }

    fn stop_receive(&mut self, stream: StreamKey) {
        let conn = self.end(stream).conn;
        self.net_mut().conns[conn].unwanted = true;
        self.ask_to_cancel(stream, OpKind::Receive);
    }

    fn send(&mut self, stream: StreamKey, parcel: Parcel) {
        self.say(|| format!("-> c{} {parcel:?}", self.end(stream).conn));
        if self.end(stream).sends > 0 {
            self.fail(&format!("{stream:?} has a send in flight already"));
        }
        if self.entry(stream.session).pipes[stream.side.other().index()].is_some() {
            self.fail(&format!("sends to {stream:?} past the bytes in its pipe"));
        }
        self.end_mut(stream).sends += 1;
        self.flights_made += 1;
        let number = self.flights_made;
        self.flights.push(Flight::new(number, stream, parcel));
        self.push(Submission::Send(number));
    }

    fn poll(&mut self, stream: StreamKey, interest: Interest) {
        self.arm(stream, OpKind::Poll(interest));
    }

    fn cancel_poll(&mut self, stream: StreamKey, interest: Interest) {
        self.ask_to_cancel(stream, OpKind::Poll(interest));
    }

    fn close(&mut self, stream: StreamKey, reset: bool) {
        if self.entry(stream.session).ends[stream.side.index()].is_none() {
            let client = self.entry(stream.session).client;
            // Nor has it one if its backend left the world between a warm connection's death and the next.
            let replaced = self.net().is_replaced(client);
            let unborn = &mut self.entry_mut(stream.session).unborn;
            let unborn = std::mem::take(unborn) || replaced;
            if stream.side == Side::Client || !unborn {
                self.fail(&format!("closes {stream:?} twice"));
            }
            return;
        }
        self.check_close(stream, reset);
        let end = self.entry_mut(stream.session).ends[stream.side.index()].take();
        let conn = end.expect("was just seen").conn;
        self.net_mut().conns[conn].begin_close(reset);
        self.say(|| format!("-> c{conn} close"));
        self.push(Submission::Close(conn, reset));
    }

    fn release(&mut self, parcel: Parcel) {
        self.busy = true;
        self.range(&parcel);
        self.give_back(parcel.buffer());
    }

    fn buffers_free(&self) -> usize {
        self.buffers_unused()
    }

    fn buffers_held(&self) -> usize {
        self.contents.len() - self.buffers_unused()
    }

    fn stash(&mut self, stream: StreamKey, parcel: Parcel) -> (u32, Option<Parcel>) {
        self.stash_bytes(stream, parcel)
    }

    fn move_bytes(&mut self, stream: StreamKey, fill: bool) -> Moved {
        self.splice(stream, fill)
    }

    fn drop_pipe(&mut self, stream: StreamKey) {
        self.drop_bytes(stream);
    }

    fn pipes_open(&self) -> usize {
        self.pipes_out
    }

    fn finish(&mut self, stream: StreamKey) {
        self.busy = true;
        let conn = self.end(stream).conn;
        self.say(|| format!("-> c{conn} end of stream"));
        if self.net().conns[conn].our_fin {
            self.fail(&format!("c{conn} is ended twice"));
        }
        // A socket that has broken is not shut down any more: the call fails.
        if !self.net().conns[conn].is_dead() {
            self.check_end(conn, "ends");
        }
        let mut net = self.net_mut();
        net.conns[conn].our_fin = true;
        net.conns[conn].stamp += 1;
    }

    fn is_delivered(&self, stream: StreamKey) -> bool {
        let conn = self.end(stream).conn;
        let mut net = self.net_mut();
        let late = net.weather.late;
        if net.conns[conn].unix {
            return true;
        }
        let slow = net.random.chance(late);
        let waits = slow || net.conns[conn].has_unacknowledged();
        if waits {
            net.hit(Fault::NotAcknowledged);
        }
        !waits
    }

    fn set_watermark(&mut self, stream: StreamKey, bytes: u32) {
        let conn = self.end(stream).conn;
        self.net_mut().conns[conn].watermark = bytes;
    }

    fn set_keepalive(&mut self, stream: StreamKey, _: u32, _: u32, _: u32) {
        self.end(stream);
    }

    fn tcp_info(&self, stream: StreamKey) -> (u32, u32) {
        self.end(stream);
        (100, 0)
    }

    fn peer_of(&self, stream: StreamKey) -> Option<SocketAddr> {
        let slot = stream.session.slot.index();
        let entry = self
            .entries
            .get(slot)
            .filter(|it| it.key == Some(stream.session));
        let end = entry.and_then(|it| it.ends[stream.side.index()].as_ref());
        end.and_then(|end| address_of(end.conn))
    }

    fn vacate(&mut self, session: SessionKey) {
        self.busy = true;
        let entry = self.entry_mut(session);
        let left =
            entry.ends.iter().any(Option::is_some) || entry.pipes.iter().any(Option::is_some);
        if left {
            self.fail(&format!("{session:?} leaves sockets or pipes behind"));
        }
        self.entry_mut(session).key = None;
    }

    fn stale_answers(&self) -> u64 {
        0
    }
}
