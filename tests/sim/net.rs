//! The world around the workers: time, the peers and what they do, accept queues, and the moments at which the office
//! acts. Everything happens at a moment of model time, in an order that the seed alone decides.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::os::fd::RawFd;

use ringway::ids::{Fault as Broken, Side};

use super::counts::{Counts, Fault};
use super::office::Office;
use super::order::Order;
use super::random::Random;
use super::socket::{Conn, Peer, Place};
use super::weather::Weather;

const MILLISECOND: u64 = 1_000_000;
const BACKLOG: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happening {
    /// Something becomes ready: just look.
    Look,
    Act(usize),
    /// A reset arrives.
    Break(usize),
    Arrive,
    Reload,
    Verdict,
}

/// What the audit must know of a worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    pub sessions: u32,
    pub buffers_free: usize,
}

pub struct Net {
    pub seed: u64,
    pub now: u64,
    pub random: Random,
    pub weather: Weather,
    pub conns: Vec<Conn>,
    /// Connections whose end on our side still lives.
    pub live: Vec<usize>,
    events: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    events_made: u64,
    /// By socket and worker.
    pub queues: BTreeMap<(u16, usize), VecDeque<usize>>,
    /// Which connection a descriptor stands for.
    pub descriptors: HashMap<RawFd, usize>,
    pub office: Option<Office>,
    pub standing: Vec<Standing>,
    pub counts: Counts,
    pub leaving: bool,
    pub tracing: bool,
    /// Something happened that could matter to a worker.
    pub changed: bool,
    /// The connection of a session, by worker and number.
    pub clients: BTreeMap<(usize, u64), usize>,
    pub order: Order,
    /// Clients that were taken out of a listener's queue.
    pub accepted: u64,
}

impl Net {
    pub fn new(seed: u64, random: Random, weather: Weather, office: Office, tracing: bool) -> Net {
        let workers = weather.workers;
        let mut net = Net {
            seed,
            now: 1_000 * MILLISECOND,
            random,
            weather,
            conns: Vec::new(),
            live: Vec::new(),
            events: BinaryHeap::new(),
            events_made: 0,
            queues: BTreeMap::new(),
            descriptors: HashMap::new(),
            office: Some(office),
            standing: vec![Standing::default(); workers],
            counts: Counts::default(),
            leaving: false,
            tracing,
            changed: false,
            clients: BTreeMap::new(),
            order: Order::default(),
            accepted: 0,
        };
        net.later(0, Happening::Arrive);
        net.later(net.weather.reload_ns, Happening::Reload);
        net.later(net.weather.verdict_ns, Happening::Verdict);
        net
    }

    pub fn say(&self, words: impl FnOnce() -> String) {
        if self.tracing {
            println!("{:>14.6} ms  {}", self.now as f64 / 1e6, words());
        }
    }

    /// A check has failed: the run ends here.
    pub fn fail(&self, what: &str) -> ! {
        panic!(
            "seed {} at {:.6} ms: {what}",
            self.seed,
            self.now as f64 / 1e6
        );
    }

    pub fn hit(&mut self, fault: Fault) {
        self.counts.hit(fault);
    }

    pub fn later(&mut self, nanoseconds: u64, what: Happening) {
        self.at(self.now + nanoseconds, what);
    }

    pub fn at(&mut self, moment: u64, what: Happening) {
        self.events_made += 1;
        self.events.push(Reverse((moment, self.events_made, what)));
    }

    pub fn next_event(&self) -> Option<u64> {
        self.events.peek().map(|Reverse((moment, _, _))| *moment)
    }

    /// Time goes on to `moment`, and all that happens until then happens.
    pub fn advance(&mut self, moment: u64) {
        while let Some(&Reverse((at, _, what))) = self.events.peek()
            && at <= moment
        {
            self.events.pop();
            self.now = self.now.max(at);
            self.happen(what);
        }
        self.now = self.now.max(moment);
    }

    fn happen(&mut self, what: Happening) {
        self.changed |= !matches!(what, Happening::Act(_));
        match what {
            Happening::Look => {}
            Happening::Act(id) => self.act(id),
            Happening::Break(id) => self.break_conn(id, Broken::Reset),
            Happening::Arrive => self.arrive(),
            Happening::Reload | Happening::Verdict if self.leaving => {}
            Happening::Reload => {
                self.with_office(Office::reload);
                let again = match self.random.chance(150) {
                    true => self.random.below(MILLISECOND),
                    false => self.random.below(2 * self.weather.reload_ns),
                };
                self.later(again, Happening::Reload);
            }
            Happening::Verdict => {
                self.with_office(Office::judge);
                let again = self.random.below(2 * self.weather.verdict_ns);
                self.later(again, Happening::Verdict);
            }
        }
    }

    pub fn with_office<X>(&mut self, act: impl FnOnce(&mut Office, &mut Net) -> X) -> X {
        let mut office = self.office.take().expect("the office is not busy");
        let done = act(&mut office, self);
        self.office = Some(office);
        done
    }

    pub fn office(&self) -> &Office {
        self.office.as_ref().expect("the office is not busy")
    }

    // Clients

    fn arrive(&mut self) {
        if self.leaving {
            return;
        }
        let many = match self.random.chance(30) {
            true => self.random.between(5, 40),
            false => 1,
        };
        for _ in 0..many {
            self.one_arrives();
        }
        let again = self.random.below(2 * self.weather.arrival_ns);
        self.later(again, Happening::Arrive);
    }

    pub fn storm(&mut self) {
        for _ in 0..60 {
            self.one_arrives();
        }
    }

    fn one_arrives(&mut self) {
        let sockets = self.office().sockets();
        if sockets.is_empty() {
            return;
        }
        let (socket, unix) = self.random.pick(&sockets);
        // One worker gets more than the other, so that something is to be handed over.
        let worker = self.random.below(self.weather.workers as u64 * 3) as usize / 3;
        // Unix sockets are shared by the workers, and so is their queue.
        let worker = if unix || self.random.chance(600) {
            0
        } else {
            worker
        };
        let queue = self.queues.entry((socket, worker)).or_default();
        if queue.len() >= BACKLOG {
            self.hit(Fault::AcceptBacklog);
            return;
        }
        let id = self.conns.len();
        queue.push_back(id);
        let conn = Conn::new(Side::Client, unix, usize::from(socket), self.now);
        self.begin(conn);
        self.say(|| format!("c{id} arrives at socket {socket} of worker {worker}"));
    }

    /// A new connection; its peer begins to act.
    pub fn begin(&mut self, mut conn: Conn) -> usize {
        let id = self.conns.len();
        conn.peer = self.draw_peer();
        conn.receive_buffer = self.weather.receive_buffer;
        conn.send_buffer = self.weather.send_buffer;
        let waits = conn.place == Place::Connecting;
        self.conns.push(conn);
        self.live.push(id);
        if !waits {
            self.act_soon(id);
        }
        id
    }

    fn draw_peer(&mut self) -> Peer {
        let random = &mut self.random;
        let pace = 1 + self.weather.pace_ns;
        let (left, write_most, read_most) = match random.below(10) {
            0 => (0, 1, 100_000),
            1..5 => (random.between(1, 3_000), 700, 100_000),
            5..7 => (random.between(1, 300_000), 20_000, 30_000),
            _ => (random.between(1, 6_000_000), 400_000, 1_000_000),
        };
        let now = self.now;
        let mut moment = |per_mille, most: u64| {
            let far = random.below(12) as u32;
            let at = now + random.below((most >> far).max(1));
            random.chance(per_mille).then_some(at)
        };
        let stalled = moment(self.weather.peer_stall, 4_000 * MILLISECOND);
        let reset_at = moment(self.weather.peer_reset, 2_000 * MILLISECOND);
        let close_at = moment(self.weather.peer_close, 2_000 * MILLISECOND);
        if stalled.is_some() {
            self.counts.hit(Fault::StalledReader);
        }
        let faults = [
            Broken::TimedOut,
            Broken::Keepalive,
            Broken::UserTimeout,
            Broken::Unreachable,
        ];
        let reset_as = match random.chance(200) {
            true => random.pick(&faults),
            false => Broken::Reset,
        };
        Peer {
            left,
            write_most,
            read_most,
            pace_ns: random.between(pace / 10, pace * 3),
            stalled_until: stalled.unwrap_or(0),
            reset_at,
            reset_as: Some(reset_as),
            close_at,
            closed: false,
        }
    }

    /// Some peers do not mind that the process wants to end.
    pub fn stay_for_long(&mut self) {
        for &id in &self.live {
            if self.random.chance(500) {
                let peer = &mut self.conns[id].peer;
                peer.stalled_until = self.now + 60_000 * MILLISECOND;
                peer.reset_at = None;
                peer.close_at = None;
            }
        }
    }

    pub fn act_soon(&mut self, id: usize) {
        let most = self.conns[id].peer.pace_ns * 2;
        let wait = self.random.below(most.max(1));
        self.later(wait, Happening::Act(id));
    }

    /// A peer does the next thing it has in mind.
    fn act(&mut self, id: usize) {
        let now = self.now;
        let conn = &self.conns[id];
        if conn.peer.closed || conn.is_dead() || matches!(conn.place, Place::Closed { .. }) {
            return;
        }
        let peer = &conn.peer;
        if peer.reset_at.is_some_and(|at| at <= now) {
            let fault = peer.reset_as.unwrap_or(Broken::Reset);
            self.break_conn(id, fault);
            return;
        }
        if peer.close_at.is_some_and(|at| at <= now) {
            self.close_peer(id);
            return;
        }
        if peer.stalled_until > now {
            let until = peer.stalled_until;
            let ends = [Some(until), peer.reset_at, peer.close_at];
            let next = ends.into_iter().flatten().min().unwrap_or(until);
            self.at(next, Happening::Act(id));
            return;
        }
        let stamp = self.conns[id].stamp;
        self.talk(id);
        if self.conns[id].stamp != stamp {
            self.changed = true;
            self.act_soon(id);
        } else {
            let bored = self.conns[id].peer.pace_ns * 30;
            let wait = self.random.below(bored);
            self.later(wait, Happening::Act(id));
        }
    }

    fn talk(&mut self, id: usize) {
        let (random, conn) = (&mut self.random, &mut self.conns[id]);
        let peer = &mut conn.peer;
        let unread = conn.accepted - conn.read;
        if unread > 0 && random.chance(700) {
            let bytes = random.between(1, peer.read_most).min(unread);
            conn.read += bytes;
            conn.stamp += 1;
        }
        let room = conn.receive_buffer.saturating_sub(conn.sent - conn.taken);
        if !conn.fin && peer.left > 0 && room > 0 && random.chance(700) {
            let bytes = random.between(1, peer.write_most).min(peer.left).min(room);
            conn.sent += bytes;
            conn.stamp += 1;
            peer.left -= bytes;
        }
        let can_end = peer.left == 0 && !conn.fin;
        // A server mostly ends after its client, a client mostly after its answer.
        let wish = if conn.our_fin { 500 } else { 60 };
        if can_end && random.chance(wish) {
            conn.fin = true;
            conn.stamp += 1;
            if !conn.our_fin {
                self.counts.hit(Fault::HalfClose);
            }
            self.say(|| format!("c{id} ends its stream"));
        } else if conn.fin && conn.our_fin && conn.read == conn.accepted {
            conn.peer.closed = true;
        } else if random.chance(3) {
            conn.peer.stalled_until = self.now + random.below(700 * MILLISECOND);
            self.counts.hit(Fault::StalledReader);
        }
    }

    pub fn break_conn(&mut self, id: usize, fault: Broken) {
        let conn = &mut self.conns[id];
        let over = matches!(conn.place, Place::Closed { .. } | Place::Unconnected);
        if over || conn.is_dead() || conn.finished() {
            return;
        }
        conn.break_as(fault, self.now);
        let kind = match (fault, conn.fin) {
            (Broken::Reset, true) => Fault::ResetInCloseWait,
            (Broken::Reset, false) => Fault::PeerReset,
            _ => Fault::PeerTimedOut,
        };
        self.changed = true;
        self.hit(kind);
        self.say(|| format!("c{id} breaks: {fault:?}"));
    }

    /// The peer closes its socket, whatever is in it.
    fn close_peer(&mut self, id: usize) {
        let conn = &mut self.conns[id];
        let unread = conn.accepted > conn.read;
        conn.stamp += 1;
        self.changed = true;
        if unread {
            self.hit(Fault::ClosedUnread);
            self.break_conn(id, Broken::Reset);
            return;
        }
        conn.fin = true;
        conn.peer.closed = true;
        conn.peer.left = 0;
        if conn.unix {
            self.hit(Fault::UnixHangUp);
        }
        self.say(|| format!("c{id} closes its socket"));
    }

    /// Ringway's end goes away.
    pub fn close_ours(&mut self, id: usize, reset: bool) {
        let now = self.now;
        let conn = &mut self.conns[id];
        conn.place = Place::Closed { reset };
        conn.closed_at = now;
        conn.stamp += 1;
        let at = self.live.iter().position(|&it| it == id);
        if let Some(at) = at {
            self.live.swap_remove(at);
        }
        self.say(|| format!("c{id} closed{}", if reset { " by reset" } else { "" }));
    }
}
