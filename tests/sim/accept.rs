//! Accepting: clients from a listener's queue to the worker, with the kernel's moods; and what the audit must know of
//! admission: whose session a client has become, and whether a limit let in one too many.

use std::os::fd::AsRawFd;

use ringway::ids::{Address, Side};
use ringway::uring::{AcceptEnd, Incoming};

use super::counts::Fault;
use super::kernel::{Completion, FakeKernel};
use super::net::Net;
use super::socket::{Conn, Place};

const MILLISECOND: u64 = 1_000_000;

impl FakeKernel {
    pub fn accept_all(&mut self, at: usize) {
        let (id, place) = (self.listeners[at].id, self.queue_of(at));
        while self.listeners[at].armed
            && self
                .net()
                .queues
                .get(&place)
                .is_some_and(|queue| !queue.is_empty())
        {
            let (pressure, retry) = {
                let weather = &self.net().weather;
                (weather.accept_pressure, weather.accept_retry)
            };
            let end = if self.chance(pressure) {
                self.hit(Fault::AcceptPressure);
                Some(AcceptEnd::Pressure)
            } else if self.chance(retry) {
                self.hit(Fault::AcceptRetry);
                Some(AcceptEnd::Retry)
            } else {
                None
            };
            self.listeners[at].armed = end.is_none();
            if end == Some(AcceptEnd::Pressure) {
                self.completions
                    .push_back(Completion::AcceptEnd(id, AcceptEnd::Pressure));
                return;
            }
            let conn = self.take_from_queue(place).expect("was just seen");
            self.completions
                .push_back(Completion::Accepted(id, conn, end));
        }
    }

    pub fn queue_of(&self, at: usize) -> (u16, usize) {
        let listening = &self.listeners[at];
        let worker = if listening.shared { 0 } else { self.worker };
        (listening.id.0, worker)
    }

    pub fn take_from_queue(&self, place: (u16, usize)) -> Option<usize> {
        let mut net = self.net_mut();
        let conn = net.queues.get_mut(&place)?.pop_front()?;
        net.conns[conn].place = Place::Accepted;
        net.conns[conn].stamp += 1;
        net.accepted += 1;
        Some(conn)
    }

    pub fn incoming(&self, conn: usize) -> Incoming {
        let mut net = self.net_mut();
        let descriptor = net.office().descriptor();
        let known = net.descriptors.insert(descriptor.as_raw_fd(), conn);
        if let Some(lost) = known {
            net.fail(&format!("c{lost} was accepted and lost"));
        }
        descriptor.into()
    }
}

impl Net {
    /// A socket is being connected to a backend for a client.
    pub fn dial(&mut self, client: usize, backend: usize, address: &Address) -> usize {
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
    pub fn admit(&mut self, conn: usize, session: (usize, u64)) {
        self.conns[conn].place = Place::Open;
        self.conns[conn].session = Some(session);
        self.conns[conn].began_at = self.now;
        self.clients.insert(session, conn);
        self.check_listener(conn);
        self.check_source(conn);
        self.check_turn(conn);
    }

    /// Who came to a socket first is let in first, even if it had to wait for room outside the kernel's queue.
    fn check_turn(&self, conn: usize) {
        let house = self.conns[conn].house;
        let earlier = self.live.iter().copied().find(|&id| {
            let other = &self.conns[id];
            id < conn
                && other.side == Side::Client
                && other.house == house
                && other.place == Place::Accepted
        });
        if let Some(earlier) = earlier.filter(|_| self.weather.workers == 1) {
            self.fail(&format!("c{conn} is let in before c{earlier}"));
        }
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
}
