//! Warm connections as the prober keeps them: offered to the workers, closed by servers while nobody looks, taken back.
//! A pair of real sockets stands for each, because a worker looks into it at hand-out; only then it becomes a connection
//! of the world. Some die at that very moment.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use ringway::handoff::{Handout, Reservation, WarmProfile, WarmSocket};
use ringway::ids::{Fault as Broken, Nanos, SessionKey, Side};
use ringway::sys::IdleSet;

use super::counts::Fault;
use super::kernel::FakeKernel;
use super::net::Net;
use super::office::Office;
use super::socket::{Conn, Place};

const MILLISECOND: u64 = 1_000_000;
const PLACES: usize = 2;

/// What the office knows of what it has offered.
pub struct WarmDesk {
    watch: Arc<IdleSet>,
    /// By our end's number.
    offered: BTreeMap<RawFd, Offer>,
    made: u64,
}

struct Offer {
    backend: usize,
    place: usize,
    token: u64,
    /// While it lives.
    server: Option<UnixStream>,
}

impl WarmDesk {
    pub fn new() -> WarmDesk {
        WarmDesk {
            watch: Arc::new(IdleSet::new().expect("a set of descriptors")),
            offered: BTreeMap::new(),
            made: 0,
        }
    }
}

impl Office {
    /// Fills what is empty where warm connections are wanted, takes back what is not, and lets servers close some.
    pub fn keep_warm(&mut self, net: &mut Net) {
        for at in 0..self.backends.len() {
            let seat = &self.backends[at];
            let wanted = self.pools[seat.pool].warm
                && seat.present
                && seat.weight > 0
                && seat.shared.verdict.is_eligible();
            seat.shared
                .warm
                .want(if wanted { PLACES as u32 } else { 0 });
            for place in 0..PLACES {
                if !wanted {
                    self.take_back(at, place);
                } else if self.backends[at].shared.warm.is_empty(place) && net.random.chance(600) {
                    self.offer(at, place, net);
                } else if net.random.chance(150) {
                    self.close_unseen(at, place);
                }
            }
        }
    }

    fn offer(&mut self, at: usize, place: usize, net: &mut Net) {
        let shared = Arc::clone(&self.backends[at].shared);
        let reserved = match shared.capacity.reserve() {
            Reservation::Full => return,
            Reservation::Held => true,
            Reservation::Unneeded => false,
        };
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        self.warm.made += 1;
        let token = self.warm.made;
        let offer = Offer {
            backend: at,
            place,
            token,
            server: Some(theirs),
        };
        self.warm.offered.insert(ours.as_raw_fd(), offer);
        let age = net.random.pick(&[MILLISECOND, 10_000 * MILLISECOND]);
        let expires = Nanos(net.now + age);
        let watch = Arc::clone(&self.warm.watch);
        let profile = WarmProfile::Generic;
        let socket = WarmSocket::new(ours.into(), profile, token, expires, reserved, watch);
        if shared.warm.put(place, socket).is_err() {
            net.fail("the place of a warm connection is taken");
        }
    }

    fn take_back(&mut self, at: usize, place: usize) {
        let shared = &self.backends[at].shared;
        let Some(mut socket) = shared.warm.take_from(place) else {
            return;
        };
        if std::mem::take(&mut socket.reserved) {
            shared.capacity.release();
        }
        let offered = &mut self.warm.offered;
        offered.retain(|_, it| it.token != socket.token);
    }

    /// The server's end goes; a worker that looks will see it.
    fn close_unseen(&mut self, at: usize, place: usize) {
        let its = self.warm.offered.values_mut();
        its.filter(|it| (it.backend, it.place) == (at, place))
            .for_each(|it| it.server = None);
    }
}

impl Net {
    /// What became of the sessions' wishes.
    pub fn note_handouts(&mut self) {
        let counted = |net: &Net, what: Handout| -> u64 {
            let backends = net.office().backends.iter();
            let shards = backends.flat_map(|seat| &seat.shared.workers);
            shards.map(|own| own.handouts[what.index()].read()).sum()
        };
        for (what, fault) in [
            (Handout::Hit, Fault::WarmHit),
            (Handout::Stale, Fault::WarmStale),
            (Handout::Replayed, Fault::WarmReplayed),
            (Handout::Died, Fault::WarmDied),
        ] {
            for _ in 0..counted(self, what) {
                self.hit(fault);
            }
        }
    }
}

impl Net {
    /// Whether this client's warm connection is given up because it died unseen, so that another takes its place.
    pub fn is_replaced(&self, client: usize) -> bool {
        let partner = self.conns[client].partner.map(|it| &self.conns[it]);
        partner.is_some_and(|it| it.warm && it.leaving && it.sent == 0)
    }
}

impl FakeKernel {
    /// A session takes a warm connection over: the connection of the world that it has stood for.
    pub fn take_warm(&mut self, session: SessionKey, socket: &OwnedFd) -> usize {
        let client = self.entry(session).client;
        let mut net = self.net_mut();
        let known = net.with_office(|office, _| office.warm.offered.remove(&socket.as_raw_fd()));
        let Some(Offer {
            backend, server, ..
        }) = known
        else {
            drop(net);
            self.fail("a warm connection that nobody offered");
        };
        if server.is_none() {
            drop(net);
            self.fail("a warm connection is handed out that its server has closed");
        }
        net.note_served(client);
        net.note_attempt(client, backend);
        let mut conn = Conn::new(Side::Backend, false, backend, net.now);
        conn.place = Place::Open;
        conn.warm = true;
        conn.partner = Some(client);
        conn.session = net.conns[client].session;
        let id = net.begin(conn);
        net.conns[client].partner = Some(id);
        // Its server went just now.
        if net.random.chance(200) {
            let fault = Broken::Reset;
            net.break_conn(id, fault);
        } else if net.random.chance(150) {
            net.conns[id].peer.close_at = Some(net.now);
        }
        id
    }
}
