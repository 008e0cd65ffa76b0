//! The door of the fake kernel: what a worker asks for, checked against the contract of the real one. An operation on a
//! stream that has no socket, a second one of a kind, a close over answers that are still owed, an end of stream passed
//! on too early: each ends the run.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use ringway::ids::{
    Address, ConnectFailure, Interest, Moved, SessionKey, Side, Sink, SocketId, Source, StreamKey,
};
use ringway::uring::{Incoming, Kernel, Outcome, Parcel, Patience, Route};

use super::counts::Fault;
use super::kernel::{End, FakeKernel, Flight, Listening, Loan, Op, OpKind, Submission};
use super::net::Happening;
use super::office::Mood;
use super::socket::{Conn, Place, Range};

const MILLISECOND: u64 = 1_000_000;
/// After so many bytes a move yields.
const MOVE_BYTES: u32 = 1024 * 1024;

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

    /// Decides what becomes of a connect, as it is submitted.
    pub fn dial(&mut self, stream: StreamKey) {
        let conn = self.end(stream).conn;
        let mut net = self.net_mut();
        let backend = net.conns[conn].house;
        let mood = net.office().backends[backend].mood;
        let mood = match mood {
            Mood::Flaky => net.random.pick(&[Mood::Fine, Mood::Refuses, Mood::Silent]),
            other => other,
        };
        let now = net.now;
        let near = net.random.below(3 * MILLISECOND);
        let far = net.random.below(1_000 * MILLISECOND);
        let answer = match (mood, net.random.below(10)) {
            (Mood::Refuses, 0 | 1) => {
                net.hit(Fault::ConnectUnreachable);
                let failures = [
                    ConnectFailure::Unreachable,
                    ConnectFailure::Reset,
                    ConnectFailure::Other,
                ];
                Some((now + near, Err(net.random.pick(&failures))))
            }
            (Mood::Refuses, _) => {
                net.hit(Fault::ConnectRefused);
                Some((now + near, Err(ConnectFailure::Refused)))
            }
            (Mood::Silent, 0..4) => {
                net.hit(Fault::ConnectTimedOut);
                Some((now + far, Err(ConnectFailure::Timeout)))
            }
            (Mood::Silent, _) => {
                net.hit(Fault::ConnectUnanswered);
                None
            }
            (Mood::Fine | Mood::Flaky, 0) => Some((now + far / 4, Ok(()))),
            (Mood::Fine | Mood::Flaky, _) => Some((now + near, Ok(()))),
        };
        net.conns[conn].answer = answer;
        if let Some((at, _)) = answer {
            net.at(at, Happening::Look);
        }
    }

    fn backend_of(&self, address: &Address) -> usize {
        match address {
            Address::Inet(address) => match address.ip() {
                std::net::IpAddr::V4(ip) => usize::from(ip.octets()[3]),
                std::net::IpAddr::V6(_) => self.fail("an address that no backend has"),
            },
            Address::Unix(path) => {
                let name = path.to_string_lossy();
                name[1..].parse().expect("a backend's path")
            }
        }
    }

    /// A connect must go to a backend that may be given sessions and has room.
    fn check_choice(&self, backend: usize) {
        let net = self.net();
        let office = net.office();
        let seat = &office.backends[backend];
        let lately = net.now - seat.changed_at < 300 * MILLISECOND;
        let eligible = seat.present && seat.weight > 0 && seat.shared.verdict.is_eligible();
        if !eligible && !lately {
            self.fail(&format!("connects to b{backend}, which is not eligible"));
        }
        let limit = seat.shared.capacity.limit();
        // A place that was promised before a limit came is still taken after it.
        let settled = office.hatches.all_have(seat.limit_since)
            && net.now - seat.limit_changed_at > 100 * MILLISECOND;
        let open = net.live.iter().map(|&id| &net.conns[id]);
        let open = open.filter(|it| it.side == Side::Backend && it.house == backend);
        let open = open.filter(|it| !it.leaving).count();
        let used = seat.shared.capacity.used() as usize;
        if limit > 0 && settled && (open >= limit as usize || open >= used) {
            self.fail(&format!(
                "b{backend} has {open} of at most {limit}, and {used} are counted"
            ));
        }
    }

    /// The end of stream towards `conn`: only when the other peer has ended, and all of its bytes are there.
    fn check_end(&self, conn: usize, what: &str) {
        let net = self.net();
        let sink = &net.conns[conn];
        let Some(partner) = sink.partner.map(|partner| &net.conns[partner]) else {
            self.fail(&format!("{what} c{conn}, which has no partner"));
        };
        let source = format!("c{}", sink.partner.unwrap_or(0));
        if !partner.fin {
            self.fail(&format!("{what} c{conn}, but {source} has not ended"));
        }
        if sink.accepted != partner.sent {
            self.fail(&format!(
                "{what} c{conn} after {} of {} bytes of {source}",
                sink.accepted, partner.sent
            ));
        }
    }

    fn check_close(&self, stream: StreamKey, reset: bool) {
        let end = self.end(stream);
        if end.ops.iter().any(|op| *op != Op::Off) || end.sends > 0 {
            self.fail(&format!("closes c{} over {:?}", end.conn, end));
        }
        let place = self.net().conns[end.conn].place;
        if reset || place != Place::Open {
            return;
        }
        self.check_end(end.conn, "closes");
        let net = self.net();
        let conn = &net.conns[end.conn];
        if !conn.fin || conn.waiting() > 0 {
            self.fail(&format!(
                "closes c{} without a reset before its stream has ended",
                end.conn
            ));
        }
    }

    fn lend(&mut self) -> Option<Option<Range>> {
        let (most, rate) = {
            let weather = &self.net().weather;
            (weather.pipes_max, weather.no_pipe)
        };
        let refused = self.net_mut().random.chance(rate);
        if self.pipes_out >= most || refused {
            self.net_mut().hit(Fault::NoPipe);
            return None;
        }
        self.pipes_out += 1;
        Some(None)
    }

    /// The direction's pipe, taken out of the table: its bytes if it holds some.
    fn borrow_pipe(&mut self, stream: StreamKey) -> Option<Option<Range>> {
        let loan = self.entry_mut(stream.session).pipes[stream.side.index()].take();
        match loan {
            Some(loan) => Some(Some(loan.range)),
            None => self.lend(),
        }
    }

    fn return_pipe(&mut self, stream: StreamKey, held: Option<Range>) {
        match held.filter(|range| range.bytes > 0) {
            Some(range) => {
                self.entry_mut(stream.session).pipes[stream.side.index()] = Some(Loan { range });
            }
            None => self.pipes_out -= 1,
        }
    }

    fn drain_pipe(&self, held: &mut Option<Range>, sink: usize, moved: &mut Moved) {
        let short = self.net().weather.move_short;
        while let Some(range) = held.filter(|range| range.bytes > 0) {
            let mut piece = range;
            {
                let mut net = self.net_mut();
                if net.random.chance(short) {
                    piece.bytes = net.random.between(1, u64::from(range.bytes)) as u32;
                }
            }
            match self.write(sink, piece, false) {
                Ok(0) => {
                    self.net_mut().hit(Fault::SinkFull);
                    moved.sink = Sink::Full;
                    return;
                }
                Ok(bytes) => {
                    moved.drained += bytes;
                    *held = Some(Range {
                        start: range.start + u64::from(bytes),
                        bytes: range.bytes - bytes,
                        ..range
                    });
                }
                Err(fault) => {
                    self.net_mut().hit(Fault::SinkBroken);
                    moved.sink = Sink::Broken(fault);
                    return;
                }
            }
        }
    }

    fn fill_pipe(&self, held: &mut Option<Range>, source: usize, moved: &mut Moved) {
        let (most, short) = {
            let weather = &self.net().weather;
            (u64::from(weather.pipe_bytes), weather.move_short)
        };
        let tired = self.net_mut().random.chance(short / 4);
        let dry = self.net().conns[source].waiting() == 0;
        if dry {
            let end = self.net_mut().conns[source].dry_end();
            (moved.source, _) = match end {
                None => (Source::Dry, self.net_mut().hit(Fault::SourceDry)),
                Some(Ok(())) => (Source::Fin, self.net_mut().hit(Fault::SourceFin)),
                Some(Err(fault)) => {
                    let hit = self.net_mut().hit(Fault::SourceBroken);
                    (Source::Broken(fault), hit)
                }
            };
            return;
        }
        if tired {
            moved.source = Source::Dry;
            return;
        }
        let most = match self.net_mut().random.chance(short) {
            true => most / 7 + 1,
            false => most,
        };
        if let Some(range) = self.read(source, most) {
            moved.filled += range.bytes;
            moved.source = Source::More;
            *held = Some(range);
        }
    }

    fn note_move(&self, stream: StreamKey, moved: &Moved) {
        let source = match moved.source {
            Source::Untouched => ["drain-open", "drain-full", "drain-sink-broken"],
            Source::More => {
                self.net_mut().hit(Fault::SourceMore);
                ["more-open", "more-full", "more-sink-broken"]
            }
            Source::Dry => ["dry-open", "dry-full", "dry-sink-broken"],
            Source::Fin => ["fin-open", "fin-full", "fin-sink-broken"],
            Source::Broken(_) => ["broken-open", "broken-full", "broken-sink-broken"],
            Source::NoPipe => ["no-pipe", "no-pipe", "no-pipe"],
        };
        let event = match moved.sink {
            Sink::Open => source[0],
            Sink::Full => source[1],
            Sink::Broken(_) => source[2],
        };
        self.note_pair(stream, event, false);
        self.say(|| format!("-- c{} {moved:?}", self.end(stream).conn));
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
        // Whoever still waits in the queue is turned away when the last holder of the socket lets go.
        if !self.net().office().has_socket(id.0) {
            self.net_mut().empty_queue(place);
        }
    }

    fn peer_address(&self, incoming: &Incoming) -> Option<SocketAddr> {
        let _ = incoming;
        let port = self.net_mut().random.below(60_000) as u16;
        (port > 2_000).then(|| SocketAddr::from((Ipv4Addr::new(10, 9, 8, port as u8), port)))
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
        entry.ends[0] = Some(End {
            conn,
            ops: [Op::Off; 6],
            sends: 0,
        });
        let place = (self.worker, self.attached);
        self.net_mut().admit(conn, place);
        self.say(|| format!("c{conn} is session {}", place.1));
    }

    fn connect(&mut self, session: SessionKey, route: Route<'_>) -> Result<(), ConnectFailure> {
        self.busy = true;
        let backend = self.backend_of(route.address);
        self.check_choice(backend);
        if self.entry(session).ends[1].is_some() {
            self.fail(&format!("{session:?} has a backend's socket already"));
        }
        let trouble = self.net().weather.connect_trouble;
        if self.net_mut().random.chance(trouble / 10) {
            self.net_mut().hit(Fault::ConnectNotStarted);
            let failures = [ConnectFailure::Ports, ConnectFailure::Resources];
            let failure = self.net_mut().random.pick(&failures);
            let client = self.entry(session).client;
            self.net_mut().conns[client].failure = Some(failure);
            return Err(failure);
        }
        let client = self.entry(session).client;
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

    fn receive(&mut self, stream: StreamKey) {
        self.arm(stream, OpKind::Receive);
    }

    fn stop_receive(&mut self, stream: StreamKey) {
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
        // A connect that could not even be started has left nothing to close.
        if self.entry(stream.session).ends[stream.side.index()].is_none() {
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

    fn stash(&mut self, stream: StreamKey, parcel: Parcel) -> (u32, Option<Parcel>) {
        self.busy = true;
        self.end(stream);
        let Some(held) = self.borrow_pipe(stream) else {
            return (0, Some(parcel));
        };
        let range = self.range(&parcel);
        let in_pipe = held.map_or(0, |held| held.bytes);
        if let Some(held) = held
            && (held.origin, held.start + u64::from(held.bytes)) != (range.origin, range.start)
        {
            self.fail(&format!("{range:?} is stashed behind {held:?}"));
        }
        let room = self.net().weather.pipe_bytes.saturating_sub(in_pipe);
        let stashed = room.min(parcel.bytes());
        let start = held.map_or(range.start, |held| held.start);
        let bytes = in_pipe + stashed;
        self.return_pipe(
            stream,
            Some(Range {
                start,
                bytes,
                ..range
            }),
        );
        if stashed == parcel.bytes() {
            self.give_back(parcel.buffer());
            return (stashed, None);
        }
        self.net_mut().hit(Fault::FullPipe);
        (stashed, Some(parcel.without(stashed)))
    }

    fn move_bytes(&mut self, stream: StreamKey, fill: bool) -> Moved {
        self.busy = true;
        if fill && self.op(stream, OpKind::Receive) != Op::Off {
            self.fail(&format!("{stream:?} is spliced under a receive"));
        }
        let sink_stream = StreamKey {
            side: stream.side.other(),
            ..stream
        };
        if self.end(sink_stream).sends > 0 {
            self.fail(&format!("{sink_stream:?} is spliced into under a send"));
        }
        let mut moved = Moved {
            filled: 0,
            drained: 0,
            source: Source::Untouched,
            sink: Sink::Open,
        };
        let Some(mut held) = self.borrow_pipe(stream) else {
            moved.source = Source::NoPipe;
            self.note_move(stream, &moved);
            return moved;
        };
        let (source, sink) = (self.end(stream).conn, self.end(sink_stream).conn);
        self.drain_pipe(&mut held, sink, &mut moved);
        let is_empty = |held: &Option<Range>| held.is_none_or(|range| range.bytes == 0);
        while fill
            && is_empty(&held)
            && moved.sink == Sink::Open
            && matches!(moved.source, Source::Untouched | Source::More)
            && moved.filled < MOVE_BYTES
        {
            self.fill_pipe(&mut held, source, &mut moved);
            self.drain_pipe(&mut held, sink, &mut moved);
        }
        self.return_pipe(stream, held);
        match (moved.source, self.told(stream)) {
            (Source::Broken(fault), _) => self.note_told(stream, fault),
            (Source::Fin, Some(fault)) => moved.source = Source::Broken(fault),
            _ => {}
        }
        if let Sink::Broken(fault) = moved.sink {
            self.note_told(sink_stream, fault);
        }
        self.note_move(stream, &moved);
        moved
    }

    fn drop_pipe(&mut self, stream: StreamKey) {
        self.busy = true;
        if self.entry_mut(stream.session).pipes[stream.side.index()]
            .take()
            .is_some()
        {
            self.pipes_out -= 1;
        }
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

impl super::net::Net {
    /// A socket is being connected to a backend for a client.
    fn dial(&mut self, client: usize, backend: usize, address: &Address) -> usize {
        let unix = address.inet().is_none();
        let mut conn = Conn::new(Side::Backend, unix, backend, self.now);
        conn.place = Place::Connecting;
        conn.partner = Some(client);
        conn.session = self.conns[client].session;
        let id = self.begin(conn);
        self.conns[client].partner = Some(id);
        id
    }

    /// A client has become a session.
    fn admit(&mut self, conn: usize, session: (usize, u64)) {
        self.conns[conn].place = Place::Open;
        self.conns[conn].session = Some(session);
        self.conns[conn].began_at = self.now;
        self.clients.insert(session, conn);
        self.check_listener(conn);
    }

    fn check_listener(&self, conn: usize) {
        let office = self.office();
        let listener = office.socket_owners[self.conns[conn].house];
        let seat = &office.listeners[listener];
        let limit = seat.shared.capacity.limit() as usize;
        let open = self
            .live
            .iter()
            .map(|&id| &self.conns[id])
            .filter(|it| it.is_client() && office.socket_owners[it.house] == listener);
        let open = open.count();
        let settled = office.hatches.all_have(seat.limit_since)
            && self.now - seat.limit_changed_at > 100 * MILLISECOND;
        if limit > 0 && settled && open > limit {
            self.fail(&format!(
                "listener {listener} has {open} of at most {limit}"
            ));
        }
        let process = self.weather.process_max as usize;
        let clients = self.live.iter().map(|&id| &self.conns[id]);
        let clients = clients.filter(|it| it.is_client()).count();
        if process > 0 && clients > process {
            self.fail("more sessions than the process may have");
        }
    }

    pub fn empty_queue(&mut self, place: (u16, usize)) {
        for conn in self.queues.remove(&place).unwrap_or_default() {
            self.close_ours(conn, true);
        }
    }
}
