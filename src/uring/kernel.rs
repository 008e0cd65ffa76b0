//! The door's operations over the real ring: what waits is queued here, what does not is done at once. Nothing is read
//! back but plain calls' own answers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use socket2::{SockAddr, SockRef};

use crate::ids::{
    Address, ConnectFailure, Fault, Interest, Moved, SessionKey, Side, SocketId, Source, StreamKey,
};
use crate::sys::{Keepalive, listen, stream};

use super::buffers::Parcel;
use super::door::{self, Incoming, Kernel, Outcome, Patience, Route};
use super::move_bytes;
use super::ops;
use super::outcome;
use super::ring::{Flight, Listening, Ring};
use super::tag::{Op, Tag};

impl Kernel for Ring {
    fn turn(&mut self, patience: Patience, outcomes: &mut Vec<Outcome>) {
        self.buffers.publish();
        let hurry = self.begin_datagrams();
        let patience = if hurry { Patience::None } else { patience };
        let window_us = self.window_us();
        self.enter_for(patience, window_us);
        self.collect();
        self.gather_datagrams();
        self.lose_nothing();
        self.settle_flights(outcomes);
        self.settle_datagrams(outcomes);
        let mut completions = std::mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            self.read(completion, outcomes);
        }
        self.completions = completions;
    }

    fn overflowed(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }

    fn open_listener(&mut self, id: SocketId, socket: BorrowedFd<'_>) -> io::Result<()> {
        let socket = socket.try_clone_to_owned()?;
        self.listeners.push(Listening { id, socket });
        Ok(())
    }

    fn accept(&mut self, id: SocketId) {
        if let Some(socket) = self
            .listener(id)
            .map(|listening| listening.socket.as_raw_fd())
        {
            self.push(
                &ops::accept(socket, Tag::house(Op::Accept, u32::from(id.0))),
                true,
            );
        }
    }

    fn stop_accept(&mut self, id: SocketId) {
        let target = Tag::house(Op::Accept, u32::from(id.0));
        self.push(&ops::cancel(target, Tag::house(Op::Cancel, 0)), false);
    }

    fn accept_now(&mut self, id: SocketId) -> Option<Incoming> {
        let socket = self.listener(id)?.socket.as_fd();
        listen::accept(socket).ok().map(Incoming)
    }

    fn close_listener(&mut self, id: SocketId) {
        let Some(place) = self.listeners.iter().position(|it| it.id == id) else {
            return;
        };
        // Behind an accept that may still be queued: were the number free before, the accept would meet whoever got it.
        let socket = self.listeners.swap_remove(place).socket.into_raw_fd();
        self.push(&ops::close(socket, Tag::house(Op::Close, 0)), false);
    }

    fn peer_address(&self, incoming: &Incoming) -> Option<SocketAddr> {
        stream::peer_address(incoming.0.as_fd()).ok().flatten()
    }

    fn refuse(&mut self, incoming: Incoming) {
        // Without linger the close is a FIN: worse, but still an answer.
        let _ = stream::set_reset_on_close(incoming.0.as_fd());
        self.push(
            &ops::close(incoming.0.into_raw_fd(), Tag::house(Op::Close, 0)),
            false,
        );
    }

    fn attach(&mut self, session: SessionKey, incoming: Incoming) {
        self.streams.move_in(session, incoming.0);
    }

    fn connect(&mut self, session: SessionKey, route: Route<'_>) -> Result<(), ConnectFailure> {
        let failure = |error: io::Error| outcome::socket_failure(&error);
        let socket = stream::outbound(route.address, route.source).map_err(failure)?;
        let dialled = match route.address {
            Address::Inet(address) => {
                // A kernel that refuses one of these options still carries the session.
                let _ = stream::set_nodelay(socket.as_fd());
                if route.user_timeout_ms > 0 {
                    let _ = stream::set_user_timeout(socket.as_fd(), route.user_timeout_ms);
                }
                Some(SockAddr::from(*address))
            }
            Address::Unix(path) => {
                // A plain call, which never waits: with the listener's queue full the operation would go to the kernel's
                // worker threads to learn as much.
                let address = SockAddr::unix(path).map_err(failure)?;
                SockRef::from(&socket).connect(&address).map_err(failure)?;
                None
            }
        };
        let raw = socket.as_raw_fd();
        let backend = door::backend(session);
        if !self.streams.put(backend, socket) {
            self.stale += 1;
            return Err(ConnectFailure::Other);
        }
        let tag = Tag::stream(Op::Connect, backend);
        let entry = match dialled {
            Some(address) => {
                let cell = self.streams.keep_address(session, address);
                ops::connect(raw, cell.as_ptr().cast(), cell.len(), tag)
            }
            None => ops::poll(raw, Interest::Writable, tag),
        };
        self.push(&entry, true);
        Ok(())
    }

    fn cancel_connect(&mut self, session: SessionKey) {
        self.cancel(Op::Connect, door::backend(session));
    }

    fn adopt(&mut self, session: SessionKey, socket: OwnedFd) -> bool {
        let adopted = self.streams.put(door::backend(session), socket);
        self.stale += u64::from(!adopted);
        adopted
    }

    fn receive(&mut self, stream: StreamKey) {
        self.push_stream(Op::Receive, stream, ops::receive);
    }

    fn stop_receive(&mut self, stream: StreamKey) {
        self.cancel(Op::Receive, stream);
    }

    fn send(&mut self, stream: StreamKey, parcel: Parcel) {
        let Some(socket) = self.streams.raw(stream) else {
            self.stale += 1;
            self.buffers.give_back(parcel.buffer);
            return;
        };
        let tag = Tag {
            buffer: parcel.buffer,
            ..Tag::stream(Op::Send, stream)
        };
        self.push(
            &ops::send(socket, self.buffers.address(&parcel), parcel.length, tag),
            false,
        );
        self.flights.push(Flight {
            stream,
            parcel,
            submission: self.queued - 1,
        });
    }

    fn send_now(&mut self, stream: StreamKey, parcel: &Parcel) -> u32 {
        let Some(socket) = self.streams.socket(stream) else {
            self.stale += 1;
            return parcel.length;
        };
        match stream::send(socket, self.buffers.bytes(parcel)) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                let fault = outcome::fault_of(&error, socket);
                self.streams.note_fault(stream, fault);
                parcel.length
            }
        }
    }

    fn bytes(&self, parcel: &Parcel) -> &[u8] {
        self.buffers.bytes(parcel)
    }

    fn poll(&mut self, stream: StreamKey, interest: Interest) {
        self.ask(stream, interest);
    }

    fn cancel_poll(&mut self, stream: StreamKey, interest: Interest) {
        self.ask_no_more(stream, interest);
    }

    fn close(&mut self, stream: StreamKey, reset: bool) {
        if let Some(socket) = self.streams.take(stream) {
            if reset {
                let _ = stream::set_reset_on_close(socket.as_fd());
            }
            self.push(
                &ops::close(socket.into_raw_fd(), Tag::stream(Op::Close, stream)),
                false,
            );
        }
    }

    fn peek(&mut self, stream: StreamKey, bytes_max: u32) -> Result<&[u8], Fault> {
        self.look_at(stream, bytes_max)
    }

    fn skip(&mut self, stream: StreamKey, bytes: u32) {
        self.throw_away(stream, bytes);
    }

    fn has_ended(&self, stream: StreamKey) -> bool {
        self.streams.socket(stream).is_some_and(stream::has_ended)
    }

    fn send_first(&mut self, stream: StreamKey, bytes: &[u8]) -> bool {
        self.put_first(stream, bytes)
    }

    fn local_address(&self, stream: StreamKey) -> Option<SocketAddr> {
        let socket = self.streams.socket(stream)?;
        stream::local_address(socket).ok().flatten()
    }

    fn release(&mut self, parcel: Parcel) {
        self.buffers.give_back(parcel.buffer);
    }

    fn buffers_free(&self) -> usize {
        usize::from(self.buffers.free())
    }

    fn buffers_held(&self) -> usize {
        usize::from(self.buffers.count() - self.buffers.free())
    }

    fn stash(&mut self, stream: StreamKey, parcel: Parcel) -> (u32, Option<Parcel>) {
        let stashed = move_bytes::stash(
            &mut self.streams,
            &mut self.stock,
            stream,
            self.buffers.bytes(&parcel),
        );
        if stashed == parcel.length {
            self.buffers.give_back(parcel.buffer);
            (stashed, None)
        } else {
            (stashed, Some(parcel.without(stashed)))
        }
    }

    fn move_bytes(&mut self, stream: StreamKey, fill: bool) -> Moved {
        let mut moved = move_bytes::move_bytes(&mut self.streams, &mut self.stock, stream, fill);
        if moved.source == Source::Fin && self.flights.iter().any(|it| it.stream == stream) {
            // A send to this socket may have taken an error that nobody has been told yet: look again when it has.
            moved.source = Source::Dry;
        }
        moved
    }

    fn drop_pipe(&mut self, stream: StreamKey) {
        if let Some(loan) = self.streams.take_loan(stream) {
            self.stock.take_back(loan);
        }
    }

    fn pipes_open(&self) -> usize {
        self.stock.open()
    }

    fn finish(&mut self, stream: StreamKey) {
        if let Some(socket) = self.streams.socket(stream) {
            // It fails only for a stream that broke meanwhile, which its receive or poll will tell.
            let _ = stream::shutdown_write(socket);
        }
    }

    fn is_delivered(&self, stream: StreamKey) -> bool {
        let unacknowledged = self
            .streams
            .socket(stream)
            .and_then(|socket| stream::unacknowledged_bytes(socket).ok());
        unacknowledged.is_none_or(|bytes| bytes == 0)
    }

    fn set_watermark(&mut self, stream: StreamKey, bytes: u32) {
        if let Some(socket) = self.streams.socket(stream) {
            let _ = stream::set_receive_low_water(socket, bytes);
        }
    }

    fn set_keepalive(&mut self, stream: StreamKey, idle_s: u32, interval_s: u32, count: u32) {
        if let Some(socket) = self.streams.socket(stream) {
            let keepalive = Keepalive {
                idle_s,
                interval_s,
                count,
            };
            let _ = stream::set_keepalive(socket, Some(keepalive));
        }
    }

    fn tcp_info(&self, stream: StreamKey) -> (u32, u32) {
        let info = self
            .streams
            .socket(stream)
            .and_then(|socket| stream::tcp_info(socket).ok());
        info.map_or((0, 0), |info| (info.rtt_us, info.retransmits))
    }

    fn peer_of(&self, stream: StreamKey) -> Option<SocketAddr> {
        let socket = self.streams.socket(stream)?;
        stream::peer_address(socket).ok().flatten()
    }

    fn vacate(&mut self, session: SessionKey) {
        for side in Side::BOTH {
            // Left behind, the slot's next tenant would have it, and its peer's bytes.
            let stream = StreamKey { session, side };
            if self.streams.has_left(stream) {
                self.stale += 1;
                self.close(stream, true);
                self.drop_pipe(stream);
            }
        }
        self.streams.move_out(session);
    }

    fn memory_stashes(&self) -> u64 {
        self.stock.memory_stashes()
    }

    fn stale_answers(&self) -> u64 {
        self.stale
    }
}
