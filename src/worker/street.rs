//! The street a session's bytes walk: answer → event → decision → action → operation. Nothing is decided here.

use crate::handoff::Milestone;
use crate::ids::{ConnectFailure, ReceiveEnd, SessionKey, Side, Source, StreamKey, millis};
use crate::session::{Action, Desk, Event, Ticket};
use crate::uring::{Answer, Kernel, Parcel, Route};

use super::engine::Worker;
use super::world::Way;

/// What a failed attempt counts as connect time at least: one that is refused at once must not look fast.
const FAILED_ATTEMPT_NS: u64 = millis(100);

impl Ticket for Parcel {
    fn is_full(&self) -> bool {
        Parcel::is_full(self)
    }
}

impl<K: Kernel> Worker<K> {
    /// An answer of the kernel about one of a session's sockets becomes an event.
    pub(super) fn on_answer(&mut self, stream: StreamKey, answer: Answer) {
        let StreamKey { session: key, side } = stream;
        let event = match answer {
            Answer::Connected => match self.announce(key) {
                Ok(()) => {
                    self.note_connected(key);
                    self.note_attempt(key);
                    Event::Connected
                }
                Err(failure) => {
                    self.note_connect_failure(key, failure);
                    self.blame(key, failure);
                    Event::ConnectFailed(failure)
                }
            },
            Answer::ConnectFailed(failure) => {
                self.note_connect_failure(key, failure);
                self.blame(key, failure);
                Event::ConnectFailed(failure)
            }
            Answer::ConnectCancelled => {
                self.note_connect_failure(key, ConnectFailure::Timeout);
                self.blame(key, ConnectFailure::Timeout);
                Event::ConnectCancelled
            }
            Answer::Received(parcel) => Event::Received(side, parcel),
            Answer::ReceiveEnded(why) => {
                if why == ReceiveEnd::NoBuffer {
                    self.hatch.counters.buffer_pauses.add(1);
                    self.starved.push_back(stream);
                }
                Event::ReceiveEnded(side, why)
            }
            Answer::Sent(bytes) => {
                self.note_delivered(key, side.other(), bytes, false);
                Event::Sent(side)
            }
            Answer::SentShort(bytes, rest) => {
                self.note_delivered(key, side.other(), bytes, false);
                Event::SentShort(side, rest)
            }
            Answer::SendBroken(fault) => Event::SendBroken(side, fault),
            Answer::Ready(interest, condition) => Event::Ready(side, interest, condition),
            Answer::PollEnded(interest) => Event::PollEnded(side, interest),
        };
        self.deliver(key, event);
    }

    /// Tells a session one event and carries out what it wants.
    pub(super) fn deliver(&mut self, key: SessionKey, event: Event<Parcel>) {
        debug_assert!(self.actions.is_empty(), "an event inside another");
        if !self.step(key, event) {
            return;
        }
        let mut next = 0;
        while next < self.actions.len() {
            let action = std::mem::replace(&mut self.actions[next], Action::Hurry);
            next += 1;
            self.carry_out(key, action);
        }
        self.actions.clear();
        self.set_timer(key);
    }

    /// False if the session is gone: then what the event carried goes back.
    fn step(&mut self, key: SessionKey, event: Event<Parcel>) -> bool {
        let Some(tenant) = self.slots.get_mut(key) else {
            if let Event::Received(_, parcel)
            | Event::SentShort(_, parcel)
            | Event::Offered { parcel, .. } = event
            {
                self.kernel.release(parcel);
            }
            return false;
        };
        let mut desk = Desk {
            now: self.now,
            parcels: &mut self.parcels,
            actions: &mut self.actions,
        };
        tenant.session.step(event, &mut desk);
        true
    }

    fn carry_out(&mut self, key: SessionKey, action: Action<Parcel>) {
        let stream = |side| StreamKey { session: key, side };
        match action {
            Action::Look { late } => self.look(key, late),
            Action::Choose => self.choose(key),
            Action::GiveUp => self.give_up_backend(key),
            Action::Wait => self.join_waiters(key),
            Action::StopWaiting => self.leave_waiters(key),
            Action::Connect { afresh: true } => {
                self.forget_handout(key);
                self.connect(key);
            }
            Action::Connect { afresh: false } => {
                if !self.connect_warm(key) {
                    self.connect(key);
                }
            }
            Action::CancelConnect => self.kernel.cancel_connect(key),
            Action::Receive(side) => self.kernel.receive(stream(side)),
            Action::StopReceive(side) => self.kernel.stop_receive(stream(side)),
            Action::Send(side, parcel) => self.kernel.send(stream(side), parcel),
            Action::Offer { parcel, due } => self.offer(key, parcel, due),
            Action::Hurry => self.hurry = true,
            Action::Stash(side, parcel) => {
                let (bytes, rest) = self.kernel.stash(stream(side), parcel);
                if rest.is_some() {
                    self.hatch.counters.pipe_misses.add(1);
                }
                self.answer(
                    key,
                    Event::Stashed {
                        from: side,
                        bytes,
                        rest,
                    },
                );
            }
            Action::Release(parcel) => self.kernel.release(parcel),
            Action::Poll(side, interest) => self.kernel.poll(stream(side), interest),
            Action::CancelPoll(side, interest) => self.kernel.cancel_poll(stream(side), interest),
            Action::Move { from, fill } => self.move_bytes(key, from, fill),
            Action::Yield(side) => self.yielded.push_back((key, side)),
            Action::AskDelivered(side) => {
                let all = self.kernel.is_delivered(stream(side));
                self.answer(key, Event::Delivered(side, all));
            }
            Action::DropPipe(side) => {
                self.hatch.counters.pipe_cuts.add(1);
                self.kernel.drop_pipe(stream(side));
            }
            Action::Watermark(side, bytes) => self.kernel.set_watermark(stream(side), bytes),
            Action::Finish(side) => self.kernel.finish(stream(side)),
            Action::Mature => self.mature(key),
            Action::Close { side, reset } => self.close(stream(side), reset),
            Action::Done(end) => self.move_out(key, end),
        }
    }

    /// An answer that comes at once.
    pub(super) fn answer(&mut self, key: SessionKey, event: Event<Parcel>) {
        self.step(key, event);
    }

    fn move_bytes(&mut self, key: SessionKey, from: Side, fill: bool) {
        let moved = self.kernel.move_bytes(
            StreamKey {
                session: key,
                side: from,
            },
            fill,
        );
        if moved.source == Source::NoPipe {
            self.hatch.counters.pipe_misses.add(1);
        }
        self.note_delivered(key, from, moved.drained, true);
        self.answer(key, Event::Moved(from, moved));
    }

    fn connect(&mut self, key: SessionKey) {
        let now = self.now;
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        tenant.connect_began = now;
        tenant.turn_unused = false;
        tenant.unproven = false;
        let (pool, backend, port, turn) = (tenant.pool, tenant.backend, tenant.port, tenant.id);
        if let Some(counters) = backend.and_then(|id| self.world.backend_counters(id)) {
            counters.connect_attempts.add(1);
        }
        let route = backend.and_then(|id| self.world.route_to(pool, id, port, turn));
        let started = match &route {
            Some(Way {
                address,
                source,
                user_timeout_ms,
            }) => {
                let route = Route {
                    address,
                    source: *source,
                    user_timeout_ms: *user_timeout_ms,
                };
                self.kernel.connect(key, route)
            }
            None => Err(ConnectFailure::Unreachable),
        };
        let led_somewhere = route.is_some();
        if let Err(failure) = started {
            self.note_connect_failure(key, failure);
            if led_somewhere {
                self.blame(key, failure);
            }
            self.answer(key, Event::ConnectFailed(failure));
        }
    }

    fn mature(&mut self, key: SessionKey) {
        let keepalive = self
            .slots
            .get_mut(key)
            .and_then(|tenant| self.world.pool(tenant.pool))
            .map(|it| it.options.keepalive);
        if let Some(Some(keepalive)) = keepalive {
            let stream = StreamKey {
                session: key,
                side: Side::Backend,
            };
            self.kernel.set_keepalive(
                stream,
                keepalive.idle_s,
                keepalive.interval_s,
                keepalive.count,
            );
        }
    }

    fn note_connected(&mut self, key: SessionKey) {
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        let took = self.now.since(tenant.connect_began);
        tenant.connect_ns += took;
        let attempts = tenant.session.attempts();
        if let Some(counters) = self.world.pool_counters(tenant.pool) {
            counters.connect.record(took);
            counters.retries.add(u64::from(attempts.saturating_sub(1)));
        }
        self.note_latency(key, took);
        self.report(key, Milestone::Connect);
    }

    fn note_connect_failure(&mut self, key: SessionKey, failure: ConnectFailure) {
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        let took = self.now.since(tenant.connect_began);
        tenant.connect_ns += took;
        if let Some(counters) = tenant
            .backend
            .and_then(|id| self.world.backend_counters(id))
        {
            counters.connect_failures[failure.index()].add(1);
        }
        self.doubt_backend(key, failure);
        self.note_latency(key, took.max(FAILED_ATTEMPT_NS));
    }

    /// Where only one backend can serve, its refusal is not repeated to everybody who comes before the next check.
    fn doubt_backend(&mut self, key: SessionKey, failure: ConnectFailure) {
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        let doubts = self.world.pool(tenant.pool).is_some_and(|pool| pool.doubts);
        let dead = matches!(
            failure,
            ConnectFailure::Refused | ConnectFailure::Reset | ConnectFailure::Unreachable
        );
        if let Some(backend) = tenant.backend.filter(|_| doubts && dead)
            && let Some(backend) = self.world.backend(backend)
        {
            backend.shared.verdict.doubt();
        }
    }

    pub(super) fn note_delivered(
        &mut self,
        key: SessionKey,
        from: Side,
        bytes: u32,
        spliced: bool,
    ) {
        let bytes = u64::from(bytes);
        let Some(tenant) = self.slots.get_mut(key).filter(|_| bytes > 0) else {
            return;
        };
        tenant.bytes[from.index()] += bytes;
        let proves = tenant.unproven && from == Side::Backend;
        let listener = self.world.listener_counters(tenant.listener);
        let backend = tenant
            .backend
            .and_then(|id| self.world.backend_counters(id));
        if let (Some(listener), Some(backend)) = (listener, backend) {
            match from {
                Side::Client => {
                    listener.bytes_in.add(bytes);
                    backend.bytes_in.add(bytes);
                }
                Side::Backend => {
                    listener.bytes_out.add(bytes);
                    backend.bytes_out.add(bytes);
                }
            }
            if spliced {
                backend.spliced_bytes.add(bytes);
            }
        }
        if proves {
            self.prove(key);
        }
    }

    fn set_timer(&mut self, key: SessionKey) {
        if let Some(tenant) = self.slots.get_mut(key) {
            let due = tenant.due();
            // A timer that fires too early costs one look; moving it at each event would cost more.
            if due < tenant.timer_at {
                tenant.timer_at = due;
                self.timers.set(key.slot, due);
            }
        }
    }
}
