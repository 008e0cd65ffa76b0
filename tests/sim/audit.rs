//! The oracle. While time passes: what ringway owes to each connection, and since when, so that nothing is stuck. When a
//! session has ended: whether its record tells the truth. At the end: whether everything was given back.

use ringway::handoff::{BreakerState, Hatch, SessionRecord};
use ringway::ids::{ConnectFailure, End, Fault as Broken, Nanos, Side};

use super::kernel::FakeKernel;
use super::net::Net;
use super::office::{
    CONNECT_BUDGET_MOST_NS, CONNECT_TIMEOUT_MOST_NS, IDLE_LEAST_NS, LIFETIME_LEAST_NS, WAIT_MOST_NS,
};
use super::socket::{Conn, Debt, Place};

const MILLISECOND: u64 = 1_000_000;

/// How long a debt may stand. A worker may be stalled for 40 ms at times.
fn patience(debt: Debt) -> u64 {
    let milliseconds = match debt {
        Debt::Accept | Debt::Admission | Debt::Bytes | Debt::End | Debt::Close => 400,
        Debt::OtherClose => 400,
        Debt::Backend => 250,
        Debt::Reset => 600,
        Debt::Connect => return CONNECT_TIMEOUT_MOST_NS + 300 * MILLISECOND,
    };
    milliseconds * MILLISECOND
}

impl Net {
    /// Nothing will change before `until`: whatever is owed now stays owed that long.
    pub fn audit(&mut self, until: u64) {
        let soon = until < self.now + MILLISECOND;
        if soon && !self.random.chance(20) {
            return;
        }
        for at in 0..self.live.len() {
            let id = self.live[at];
            let debt = self.debt(id);
            let conn = &mut self.conns[id];
            let Some((debt, mark)) = debt else {
                conn.owed = None;
                continue;
            };
            let since = match conn.owed {
                Some((old, old_mark, since)) if (old, old_mark) == (debt, mark) => since,
                _ => self.now,
            };
            conn.owed = Some((debt, mark, since));
            if until.saturating_sub(since) > patience(debt) {
                let text = format!(
                    "STUCK: c{id} has been owed {debt:?} since {:.6} ms and will be until {:.6} ms\n{:?}\npartner: {:?}",
                    since as f64 / 1e6,
                    until as f64 / 1e6,
                    self.conns[id],
                    self.conns[id].partner.map(|it| &self.conns[it]),
                );
                self.fail(&text);
            }
        }
    }

    /// What ringway owes to this connection now, with a mark that changes as it pays.
    fn debt(&self, id: usize) -> Option<(Debt, u64)> {
        let conn = &self.conns[id];
        match (conn.side, conn.place) {
            (Side::Client, Place::Queued) => self.debt_of_queue(id, conn),
            (Side::Client, Place::Accepted) => {
                let room = (0..self.weather.workers).all(|worker| self.has_room(worker));
                room.then_some((Debt::Admission, 0))
            }
            (Side::Client, Place::Open) => self.debt_of_session(conn),
            (Side::Backend, Place::Connecting) => Some((Debt::Connect, 0)),
            (Side::Backend, Place::Unconnected) => Some((Debt::OtherClose, 0)),
            (Side::Backend, Place::Open) => {
                let client = conn.partner.map(|it| self.conns[it].place);
                let alone = !matches!(client, Some(Place::Open));
                alone.then_some((Debt::OtherClose, 0))
            }
            _ => None,
        }
    }

    fn has_room(&self, worker: usize) -> bool {
        self.standing[worker].sessions < self.weather.sessions_max
            && !self.office().process.looks_full()
    }

    fn debt_of_queue(&self, at: usize, conn: &Conn) -> Option<(Debt, u64)> {
        let id = conn.house as u16;
        let office = self.office();
        let known = office.has_socket(id);
        let room = (0..self.weather.workers).all(|worker| self.has_room(worker));
        // Each of those before it that is taken is a payment.
        let queues = (0..self.weather.workers).filter_map(|worker| self.queues.get(&(id, worker)));
        let before = queues.filter_map(|queue| queue.iter().position(|&it| it == at));
        let mark = office.generation << 32 | before.sum::<usize>() as u64;
        (known && room).then_some((Debt::Accept, mark))
    }

    fn debt_of_session(&self, client: &Conn) -> Option<(Debt, u64)> {
        let partner = client.partner.map(|it| &self.conns[it]);
        let backend = partner.filter(|it| matches!(it.place, Place::Open | Place::Connecting));
        if client.leaving {
            return Some((Debt::OtherClose, 0));
        }
        if client.is_dead() && backend.is_none_or(|it| it.place == Place::Connecting) {
            return Some((Debt::Reset, 1));
        }
        let Some(backend) = backend else {
            // Its other end is closed, and this one not yet; or it waits.
            if partner.is_some_and(|it| it.taken + it.accepted > 0 || it.our_fin) {
                return Some((Debt::OtherClose, 0));
            }
            return self.debt_of_waiting(client);
        };
        if backend.place == Place::Connecting {
            return None;
        }
        if client.is_lost() || backend.is_lost() {
            return self.debt_of_broken(client, backend);
        }
        let to_backend = self.debt_of_direction(client, backend);
        let to_client = self.debt_of_direction(backend, client);
        let both = |conn: &Conn, other: &Conn| conn.fin && other.accepted == conn.sent;
        if both(client, backend) && both(backend, client) {
            return Some((Debt::Close, 0));
        }
        to_backend.or(to_client)
    }

    fn debt_of_waiting(&self, client: &Conn) -> Option<(Debt, u64)> {
        let longest = WAIT_MOST_NS * 3 + CONNECT_BUDGET_MOST_NS + CONNECT_TIMEOUT_MOST_NS;
        if self.now - client.began_at > longest {
            return Some((Debt::OtherClose, 1));
        }
        // With one pool it is known for what the session waits.
        let office = self.office();
        let known = self.weather.pools == 1;
        let changed = office.backends.iter().map(|it| it.changed_at).max();
        // Between attempts at the only one that is open it pauses.
        let mark = changed.unwrap_or(0) + client.tried.len() as u64;
        (known && office.has_open_backend(0)).then_some((Debt::Backend, mark))
    }

    /// One of the two is gone: both have to be closed, after what it had sent was delivered, if that can be.
    fn debt_of_broken(&self, client: &Conn, backend: &Conn) -> Option<(Debt, u64)> {
        let lost = [client, backend].into_iter().filter(|it| it.is_lost());
        let dead = lost.filter_map(Conn::lost_at).min()?.max(backend.began_at);
        let flushed = |conn: &Conn, other: &Conn| {
            !conn.is_lost() || (other.accepted == conn.sent && !other.has_unacknowledged())
        };
        let nothing_left = flushed(client, backend) && flushed(backend, client);
        let overdue = self.now.saturating_sub(dead) > 1_300 * MILLISECOND;
        (nothing_left || overdue).then_some((Debt::Reset, 0))
    }

    fn debt_of_direction(&self, source: &Conn, sink: &Conn) -> Option<(Debt, u64)> {
        let held = source.taken - sink.accepted;
        let worker = source.session.map_or(0, |(worker, _)| worker);
        let fed = held > 0 || self.standing[worker].buffers_free > 0;
        if sink.writable() && held + source.waiting() > 0 && fed {
            return Some((Debt::Bytes, source.taken + sink.accepted));
        }
        let ended = source.fin && held == 0 && source.waiting() == 0;
        (ended && !sink.our_fin).then_some((Debt::End, 0))
    }

    // Records

    pub fn check_record(&mut self, worker: usize, record: &SessionRecord) {
        let number = record.id & ((1 << 48) - 1);
        let Some(&id) = self.clients.get(&(worker, number)) else {
            self.fail(&format!("a record of a session that never was: {record:?}"));
        };
        *self.counts.ends.entry(record.end.word()).or_insert(0) += 1;
        self.counts.sessions += 1;
        self.clients.remove(&(worker, number));
        let client = &self.conns[id];
        let backend = client.partner.map(|it| &self.conns[it]);
        let delivered = backend.map_or(0, |it| it.accepted);
        let told = (record.bytes_in, record.bytes_out);
        if told != (delivered, client.accepted) {
            let found = (delivered, client.accepted);
            self.fail(&format!(
                "c{id}: the record says {told:?} bytes, it was {found:?}"
            ));
        }
        if !client.leaving || backend.is_some_and(|it| !it.leaving) {
            self.fail(&format!("c{id} is recorded, but not closed"));
        }
        if let Some(backend) = backend {
            self.check_flush(record, client, backend);
            self.check_flush(record, backend, client);
        }
        if !self.is_true(record, client, backend) {
            let text = format!("a false end: {record:?}\nclient {client:?}\nbackend {backend:?}");
            self.fail(&text);
        }
    }

    /// What arrived before a reset is delivered first, for a second at most.
    fn check_flush(&self, record: &SessionRecord, source: &Conn, sink: &Conn) {
        let resets = [End::ClientReset, End::BackendReset];
        let Some((_, told_at)) = source.told.filter(|_| resets.contains(&record.end)) else {
            return;
        };
        let cut_at = record.ended.0;
        let all_there = sink.accepted == source.sent && !sink.dropped;
        if !all_there && sink.lost_at().is_none() && cut_at < told_at + 990 * MILLISECOND {
            self.fail(&format!(
                "a reset overtook {} bytes: {record:?}\nfrom {source:?}\nto {sink:?}",
                source.sent - sink.accepted
            ));
        }
    }

    fn is_true(&self, record: &SessionRecord, client: &Conn, backend: Option<&Conn>) -> bool {
        let dead_as = |conn: Option<&Conn>, faults: &[Broken]| {
            conn.and_then(|it| it.dead_as)
                .is_some_and(|it| faults.contains(&it))
        };
        let gone = |conn: Option<&Conn>| conn.is_some_and(|it| it.is_dead() || it.peer.closed);
        let either = |faults: &[Broken]| dead_as(Some(client), faults) || dead_as(backend, faults);
        let lost = [Broken::TimedOut, Broken::Unreachable];
        let failed = |failures: &[ConnectFailure]| {
            let told = backend.and_then(|it| it.failure).or(client.failure);
            told.is_none_or(|it| failures.contains(&it))
                || client.failure.is_some_and(|it| failures.contains(&it))
        };
        let age = record.ended.since(record.opened);
        let moved = client.moved_at.max(backend.map_or(0, |it| it.moved_at));
        let silent = record.ended.0.saturating_sub(moved);
        match record.end {
            End::ClientFin | End::BackendFin => {
                client.fin && backend.is_some_and(|it| it.fin && it.taken == it.sent)
            }
            End::ClientReset => gone(Some(client)),
            End::BackendReset => gone(backend),
            End::ClientTimeout => dead_as(Some(client), &lost),
            End::BackendTimeout => dead_as(backend, &lost),
            End::Keepalive => either(&[Broken::Keepalive]),
            End::UserTimeout => either(&[Broken::UserTimeout]),
            End::Resources => failed(&[ConnectFailure::Ports, ConnectFailure::Resources]),
            End::ConnectTimeout => record.attempts > 0,
            End::ConnectRefused => record.attempts > 0,
            End::NoBackend | End::WaitFull => record.attempts <= 5,
            // Too few bytes for a packet, and no more came.
            End::PrefaceInvalid => {
                record.attempts == 0 && (1..8).contains(&client.sent) && client.taken == 0
            }
            End::WaitTimeout => record.wait_ns > 10 * MILLISECOND,
            End::ClientGone => client.is_dead() || client.fin,
            End::Idle | End::HalfCloseTimeout => silent + MILLISECOND > IDLE_LEAST_NS,
            End::Lifetime => age > LIFETIME_LEAST_NS * 9 / 10,
            End::Drained | End::BackendDown => record.backend.is_some_and(|it| {
                self.office().backends[it.index()]
                    .evicted_as
                    .contains(&record.end)
            }),
            End::Shutdown => self.leaving,
            _ => false,
        }
    }

    /// Counters are never below nothing, and what is counted against a limit is what there is.
    pub fn check_counters(&self) {
        let hatches = &self.office().hatches;
        let granted = hatches.workers.iter().any(|it| !it.grants.is_empty());
        for seat in &self.office().backends {
            let (used, active) = (seat.shared.capacity.used(), seat.shared.sessions());
            let limited = seat.shared.capacity.limit() > 0 && hatches.all_have(seat.limit_since);
            // A warm connection at rest may hold a place, too.
            let most = active + seat.shared.warm.idle();
            if limited && !granted && !(active..=most).contains(&used) {
                let name = &seat.shared.name;
                self.fail(&format!("{name}: {used} places taken by {active} sessions"));
            }
            for shard in &seat.shared.workers {
                let active = shard.active.load(std::sync::atomic::Ordering::Relaxed);
                if active > 1 << 30 {
                    self.fail("a backend has less than no sessions");
                }
            }
        }
    }

    /// Everybody has gone: nothing may be left behind.
    pub fn check_all_returned(&self) {
        let office = self.office();
        let mut answered = 0;
        for seat in &office.listeners {
            let of = |worker: usize| &seat.shared.workers[worker];
            for worker in 0..self.weather.workers {
                let ends: u64 = of(worker).ends.iter().map(|tally| tally.read()).sum();
                self.expect("active sessions", of(worker).sessions_active.read(), 0);
                self.expect("ends", ends, of(worker).sessions_total.read());
                let refused = of(worker).refused.iter().map(|tally| tally.read());
                answered += ends + refused.sum::<u64>();
            }
            let used = u64::from(seat.shared.capacity.used());
            self.expect("places at a listener", used, 0);
        }
        self.expect(
            "clients with a session or a refusal",
            answered,
            self.accepted,
        );
        for seat in &office.backends {
            let active = u64::from(seat.shared.sessions());
            self.expect("sessions of a backend", active, 0);
            let used = u64::from(seat.shared.capacity.used());
            let what = format!("places at {}", seat.shared.name);
            self.expect(&what, used, 0);
            let breaker = &seat.shared.verdict.breaker;
            let kept = breaker.state() == BreakerState::HalfOpen && !breaker.admits();
            self.expect("trials never given back", u64::from(kept), 0);
        }
        for queue in office
            .pools
            .iter()
            .map(|it| it.queue())
            .chain(&office.old_queues)
        {
            self.expect("waiting clients", u64::from(queue.live()), 0);
        }
        let (_, sources) = office.hatches.sources.usage(Nanos(self.now));
        self.expect("sources that are counted", sources as u64, 0);
        let used = u64::from(office.process.used());
        self.expect("places in the process", used, 0);
        self.expect("sessions without a record", self.clients.len() as u64, 0);
        self.expect("accepted sockets", self.descriptors.len() as u64, 0);
        let left = self
            .live
            .iter()
            .filter(|&&id| self.conns[id].place != Place::Queued);
        if let Some(&id) = left.clone().next() {
            self.fail(&format!("at the end c{id} is left: {:?}", self.conns[id]));
        }
    }

    fn expect(&self, what: &str, found: u64, expected: u64) {
        if found != expected {
            self.fail(&format!("at the end: {found} {what}, not {expected}"));
        }
    }
}

/// A worker that is done must have given back what it held.
pub fn check_worker(kernel: &FakeKernel, hatch: &Hatch) {
    let buffers = usize::from(kernel.net().weather.buffers);
    if kernel.buffers_unused() != buffers {
        let held = buffers - kernel.buffers_unused();
        kernel.fail(&format!("at the end {held} buffers are missing"));
    }
    if kernel.pipes_out != 0 {
        kernel.fail("at the end a pipe is missing");
    }
    if !kernel.flights.is_empty() || kernel.entries.iter().any(|it| it.key.is_some()) {
        kernel.fail("at the end something is in flight");
    }
    if !kernel.listeners.is_empty() {
        kernel.fail("at the end a listener is open");
    }
    let counters = &hatch.counters;
    if counters.sessions.read() != 0 || hatch.journal.lost() != 0 {
        kernel.fail("at the end the worker counts sessions, or records are lost");
    }
    if !hatch.transfers.is_empty() {
        kernel.fail("at the end a transfer was never taken");
    }
    if !hatch.grants.is_empty() {
        kernel.fail("at the end a grant was never taken");
    }
}
