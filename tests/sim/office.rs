//! What the real office and prober do, as far as workers see it: snapshots whose plan keeps changing, limits, verdicts,
//! evictions, and the drain at the end. Identities live over reloads, as in the real registry.

mod seats;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use ringway::balance::{Algorithm, Chooser};
use ringway::handoff::{
    Admin, BackendShared, BreakerRules, BreakerState, Capacity, Hatches, Health, ListenSocket,
    Listener, ListenerShared, Phase, Pool, PoolShared, Preface, Protocol, SessionTimes, Snapshot,
    Spin, Target, TierRules, WaitRules, Waiters, Why,
};
use ringway::ids::{Address, End, ListenerId, Nanos, SocketId};

use super::counts::Fault;
use super::net::Net;
use super::random::Random;
use super::tiers::TIERS;
use super::warm::WarmDesk;
use super::weather::Weather;
use seats::BREAKER;

/// How long first bytes are waited for: well below the patience of the audit.
const PREFACE_NS: u64 = 100 * MILLISECOND;
const MILLISECOND: u64 = 1_000_000;
const BACKENDS_PER_POOL: usize = 3;
const LISTENERS: usize = 3;

pub const CONNECT_TIMEOUT_MOST_NS: u64 = 800 * MILLISECOND;
pub const WAIT_MOST_NS: u64 = 2_000 * MILLISECOND;
pub const CONNECT_BUDGET_MOST_NS: u64 = 2_000 * MILLISECOND;
pub const IDLE_LEAST_NS: u64 = 400 * MILLISECOND;
pub const LIFETIME_LEAST_NS: u64 = 1_000 * MILLISECOND;

pub struct ListenerSeat {
    pub shared: Arc<ListenerShared>,
    present: bool,
    pub pool: usize,
    sockets: Vec<Arc<ListenSocket>>,
    wants_address: bool,
    /// The generation that brought the limit.
    pub limit_since: u64,
    pub limit_changed_at: u64,
    /// Per source, and the generation that brought it.
    pub source_limit: u32,
    pub source_limit_since: u64,
    pub source_limit_changed_at: u64,
}

pub struct PoolSeat {
    pub shared: Arc<PoolShared>,
    /// Its clients' first bytes are looked at.
    looks_first: bool,
    pub present: bool,
    waiters: Arc<Waiters>,
    algorithm: Algorithm,
    wait: WaitRules,
    times: SessionTimes,
    connect_timeout_ns: u64,
    connect_attempts: u8,
    connect_budget_ns: u64,
    pub tier_rules: TierRules,
    /// When another tier began to serve, or to ignore health.
    pub tiers_changed_at: u64,
    slow_start_ns: u64,
    /// It keeps warm connections.
    pub warm: bool,
    breaker: Option<BreakerRules>,
}

/// How a backend answers who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Fine,
    Refuses,
    Silent,
    Flaky,
}

pub struct BackendSeat {
    pub shared: Arc<BackendShared>,
    pub pool: usize,
    pub present: bool,
    pub weight: u32,
    pub tier: u8,
    pub target: Target,
    pub mood: Mood,
    pub limit_since: u64,
    pub limit_changed_at: u64,
    /// Its breaker as it was after the last turn.
    breaker_seen: (BreakerState, bool),
    /// When it last became, or ceased to be, one that may be given sessions.
    pub changed_at: u64,
    pub evicted_as: Vec<End>,
}

pub struct Office {
    pub hatches: Arc<Hatches>,
    pub process: Arc<Capacity>,
    pub generation: u64,
    pub phase: Phase,
    pub listeners: Vec<ListenerSeat>,
    pub pools: Vec<PoolSeat>,
    pub backends: Vec<BackendSeat>,
    /// Queues that were replaced.
    pub old_queues: Vec<Arc<Waiters>>,
    /// Which listener a socket belonged to when it was bound.
    pub socket_owners: Vec<usize>,
    pub warm: WarmDesk,
    spin: Spin,
    any_file: File,
}

impl Office {
    pub fn open(random: &mut Random, weather: &Weather) -> Office {
        let workers = weather.workers as u16;
        let hatches = Arc::new(Hatches::new(workers).expect("descriptors for the bells"));
        let mut office = Office {
            hatches,
            process: Arc::new(Capacity::new(weather.process_max)),
            generation: 0,
            phase: Phase::Serving,
            listeners: Vec::new(),
            pools: Vec::new(),
            backends: Vec::new(),
            old_queues: Vec::new(),
            socket_owners: Vec::new(),
            warm: WarmDesk::new(),
            spin: Spin::Off,
            any_file: File::open("/dev/null").expect("a file to stand for sockets"),
        };
        for pool in 0..weather.pools {
            office.pools.push(PoolSeat::draw(pool, random, workers));
            for _ in 0..BACKENDS_PER_POOL {
                let id = office.backends.len();
                let seat = BackendSeat::draw(id, pool, random, weather);
                office.backends.push(seat);
            }
        }
        for id in 0..LISTENERS {
            let shared = ListenerShared::new(ListenerId(id as u16), "l", workers);
            office.listeners.push(ListenerSeat {
                shared: Arc::new(shared),
                present: id == 0 || random.chance(500),
                pool: random.below(weather.pools as u64) as usize,
                sockets: Vec::new(),
                wants_address: random.chance(500),
                limit_since: 0,
                limit_changed_at: 0,
                source_limit: 0,
                source_limit_since: 0,
                source_limit_changed_at: 0,
            });
            office.bind(id, random, weather);
        }
        office.change_limits(random, weather.small_limits, 0);
        office.change_source_limits(random, weather.places(), 0);
        office.post(0);
        office
    }

    fn bind(&mut self, listener: usize, random: &mut Random, weather: &Weather) {
        let id = self.socket_owners.len() as u16;
        self.socket_owners.push(listener);
        let unix = random.chance(weather.unix);
        let address = match unix {
            true => Address::Unix(PathBuf::from(format!("l{id}"))),
            false => SocketAddr::from((Ipv4Addr::LOCALHOST, 1000 + id)).into(),
        };
        let descriptors = if unix { 1 } else { weather.workers };
        let socket = ListenSocket {
            id: SocketId(id),
            address,
            descriptors: (0..descriptors).map(|_| self.descriptor()).collect(),
            unlink: None,
        };
        self.listeners[listener].sockets = vec![Arc::new(socket)];
    }

    /// Something that stands for a socket: only its number matters.
    pub fn descriptor(&self) -> OwnedFd {
        self.any_file.try_clone().expect("a descriptor").into()
    }

    /// Sockets that clients can reach now, and whether each is a unix socket.
    pub fn sockets(&self) -> Vec<(u16, bool)> {
        if self.phase != Phase::Serving {
            return Vec::new();
        }
        let present = self.listeners.iter().filter(|listener| listener.present);
        let sockets = present.flat_map(|listener| &listener.sockets);
        sockets
            .map(|socket| (socket.id.0, socket.address.inet().is_none()))
            .collect()
    }

    pub fn has_socket(&self, id: u16) -> bool {
        self.sockets().iter().any(|(socket, _)| *socket == id)
    }

    /// Whether a session of this pool could be given a backend now.
    pub fn has_open_backend(&self, pool: usize) -> bool {
        self.pools[pool].present
            && self.backends.iter().any(|backend| {
                backend.pool == pool
                    && backend.present
                    && backend.weight > 0
                    && backend.shared.verdict.is_eligible()
                    && !backend.shared.capacity.looks_full()
            })
    }

    // Reloads

    pub fn reload(&mut self, net: &mut Net) {
        net.hit(Fault::Reload);
        for _ in 0..net.random.between(1, 3) {
            self.change_something(net);
        }
        self.keep_warm(net);
        self.post(net.now);
        net.say(|| format!("reload: generation {}", self.generation));
    }

    fn change_something(&mut self, net: &mut Net) {
        let weather = net.weather.clone();
        match net.random.below(13) {
            0 => self.toggle_listener(net),
            1 => {
                let listener = net.random.below(LISTENERS as u64) as usize;
                self.bind(listener, &mut net.random, &weather);
                net.hit(Fault::SocketReplaced);
            }
            2 | 3 => self.toggle_backend(net),
            4 => {
                let at = net.random.below(self.backends.len() as u64) as usize;
                self.backends[at].weight = net.random.pick(&[0, 1, 100, 100, 1000]);
                self.backends[at].changed_at = net.now;
            }
            5 | 6 => {
                net.hit(Fault::LimitChanged);
                self.change_limits(&mut net.random, weather.small_limits, net.now);
            }
            7 => {
                let pool = net.random.below(self.pools.len() as u64) as usize;
                self.replace_queue(pool, net);
            }
            8 => {
                let at = net.random.below(self.pools.len() as u64) as usize;
                self.pools[at].redraw(&mut net.random);
            }
            9 => self.toggle_pool(net),
            10 => {
                net.hit(Fault::SourceLimitChanged);
                self.change_source_limits(&mut net.random, weather.places(), net.now);
            }
            11 => {
                let at = net.random.below(self.backends.len() as u64) as usize;
                self.backends[at].tier = net.random.below(TIERS) as u8;
                self.backends[at].changed_at = net.now;
            }
            _ => {
                self.spin =
                    net.random
                        .pick(&[Spin::Off, Spin::Off, Spin::Fixed(5_000), Spin::Auto]);
                let listener = net.random.below(LISTENERS as u64) as usize;
                let wants = &mut self.listeners[listener].wants_address;
                *wants = !*wants;
            }
        }
    }

    fn toggle_listener(&mut self, net: &mut Net) {
        let at = net.random.below(LISTENERS as u64) as usize;
        let weather = net.weather.clone();
        if self.listeners[at].present {
            net.hit(Fault::ListenerRemoved);
        } else {
            self.bind(at, &mut net.random, &weather);
        }
        self.listeners[at].present = !self.listeners[at].present;
    }

    fn toggle_backend(&mut self, net: &mut Net) {
        let at = net.random.below(self.backends.len() as u64) as usize;
        let backend = &mut self.backends[at];
        backend.present = !backend.present;
        backend.changed_at = net.now;
        if backend.present {
            backend.shared.verdict.set_admin(Admin::Ready);
            net.hit(Fault::BackendReturned);
        } else {
            backend.shared.verdict.set_admin(Admin::Draining);
            net.hit(Fault::BackendRemoved);
            if net.random.chance(300) {
                backend.evict(End::Drained, net);
            }
        }
    }

    fn replace_queue(&mut self, pool: usize, net: &mut Net) {
        let seat = &mut self.pools[pool];
        let size = net.random.pick(&[0, 1, 2, 8, 64]);
        if size != seat.waiters.size() {
            net.hit(Fault::QueueReplaced);
            let new = Arc::new(Waiters::new(size));
            self.old_queues
                .push(std::mem::replace(&mut seat.waiters, new));
            net.note_new_queue(self.generation + 1);
        }
    }

    fn toggle_pool(&mut self, net: &mut Net) {
        if self.pools.len() < 2 {
            return;
        }
        let at = net.random.below(self.pools.len() as u64) as usize;
        let other = 1 - at;
        if self.pools[at].present && self.pools[other].present {
            net.hit(Fault::PoolRemoved);
            self.pools[at].present = false;
            let queue = Arc::new(Waiters::new(self.pools[at].waiters.size()));
            let old = std::mem::replace(&mut self.pools[at].waiters, queue);
            self.old_queues.push(old);
            for backend in self.backends.iter_mut().filter(|it| it.pool == at) {
                backend.shared.verdict.set_admin(Admin::Draining);
                backend.changed_at = net.now;
            }
            let its = self.listeners.iter_mut().filter(|it| it.pool == at);
            its.for_each(|listener| listener.pool = other);
        } else {
            self.pools[at].present = true;
            for backend in self.backends.iter_mut().filter(|it| it.pool == at) {
                if backend.present {
                    backend.shared.verdict.set_admin(Admin::Ready);
                }
                backend.changed_at = net.now;
            }
            let listener = net.random.below(LISTENERS as u64) as usize;
            self.listeners[listener].pool = at;
        }
    }

    fn post(&mut self, now: u64) {
        self.set_up_tiers(now);
        self.generation += 1;
        let snapshot = Arc::new(Snapshot {
            generation: self.generation,
            phase: self.phase,
            listeners: self.compose_listeners(),
            pools: self.compose_pools(),
            spin: self.spin,
            journal: true,
            report_ns: 0,
        });
        self.hatches.post(&snapshot);
    }

    fn compose_listeners(&self) -> Vec<Arc<Listener>> {
        let present = self.listeners.iter().filter(|listener| listener.present);
        present
            .map(|seat| {
                let serving = self.phase == Phase::Serving;
                let sockets = seat.sockets.iter().filter(|_| serving);
                Arc::new(Listener {
                    shared: Arc::clone(&seat.shared),
                    pool: self.pools[seat.pool].shared.id,
                    protocol: Protocol::Tcp,
                    sockets: sockets.cloned().collect(),
                    wants_address: seat.wants_address,
                    access: None,
                    preface: Arc::new(Preface {
                        timeout_ns: PREFACE_NS,
                        ..Preface::default()
                    }),
                })
            })
            .collect()
    }

    fn compose_pools(&self) -> Vec<Arc<Pool>> {
        let seats = self.pools.iter().enumerate();
        let present = seats.filter(|(_, seat)| seat.present);
        let pools = present.map(|(at, seat)| {
            let backends: Vec<&BackendSeat> = self
                .backends
                .iter()
                .filter(|backend| backend.pool == at && backend.present)
                .collect();
            let weights: Vec<u32> = backends.iter().map(|backend| backend.weight).collect();
            let names: Vec<&str> = backends.iter().map(|it| it.shared.name.as_str()).collect();
            seat.compose(Chooser::new(seat.algorithm, &weights, &names), &backends)
        });
        pools.map(Arc::new).collect()
    }

    // Verdicts

    /// What the prober makes of breakers: now and then one may be tried, or is lifted.
    fn move_breakers(&mut self, net: &mut Net) {
        for backend in &self.backends {
            let breaker = &backend.shared.verdict.breaker;
            match breaker.state() {
                BreakerState::Open if net.random.chance(400) => {
                    let _ = breaker.rest(&BREAKER, Nanos(net.now));
                }
                BreakerState::HalfOpen if net.random.chance(50) => {
                    let _ = breaker.lift(Why::Needed, Nanos(net.now));
                }
                _ => {}
            }
        }
    }

    /// After each turn: who may be given sessions may have changed by what workers saw.
    pub fn note_breakers(&mut self, net: &mut Net) {
        for backend in &mut self.backends {
            let breaker = &backend.shared.verdict.breaker;
            let now = (breaker.state(), breaker.admits());
            let before = std::mem::replace(&mut backend.breaker_seen, now);
            if before == now {
                continue;
            }
            backend.changed_at = net.now;
            match (before.0, now.0) {
                (before, after) if before == after => net.hit(Fault::BreakerTried),
                (_, BreakerState::Open) => net.hit(Fault::BreakerOpened),
                (_, BreakerState::HalfOpen) => {}
                (_, BreakerState::Closed) => net.hit(Fault::BreakerClosed),
            }
        }
        while self.hatches.notices.pop().is_some() {}
    }

    pub fn judge(&mut self, net: &mut Net) {
        let at = net.random.below(self.backends.len() as u64) as usize;
        let trouble = net.weather.connect_trouble;
        let backend = &mut self.backends[at];
        backend.mood = match net.random.chance(trouble) {
            true => net
                .random
                .pick(&[Mood::Refuses, Mood::Silent, Mood::Flaky, Mood::Flaky]),
            false => Mood::Fine,
        };
        self.move_breakers(net);
        let backend = &mut self.backends[at];
        if net.random.chance(600) {
            backend.changed_at = net.now;
            if net.random.chance(300) {
                net.hit(Fault::BackendDown);
                backend.shared.verdict.set_health(Health::Down);
                if net.random.chance(400) {
                    backend.evict(End::BackendDown, net);
                }
            } else {
                net.hit(Fault::BackendUp);
                backend.shared.verdict.set_health(Health::Up);
                backend.shared.rises(Nanos(net.now));
            }
            net.say(|| format!("b{at} is {:?} now", backend.shared.verdict.health()));
        }
        self.review_tiers(net);
        self.keep_warm(net);
        self.hatches.ring();
    }

    pub fn drain(&mut self, net: &mut Net) {
        net.hit(Fault::Drained);
        let now = net.now;
        let close_from = now + net.random.below(300 * MILLISECOND);
        let close_until = close_from + net.random.below(300 * MILLISECOND);
        self.phase = Phase::Draining {
            close_from: Nanos(close_from),
            close_until: Nanos(close_until),
        };
        self.pools.iter_mut().for_each(|pool| pool.warm = false);
        self.keep_warm(net);
        self.post(net.now);
        net.say(|| "drain".to_owned());
    }

    pub fn draw_target(id: usize, random: &mut Random, weather: &Weather) -> Target {
        let host = Ipv4Addr::new(10, 0, 0, id as u8);
        if random.chance(weather.unix) {
            return Target::Fixed(Address::Unix(PathBuf::from(format!("b{id}"))));
        }
        match random.below(8) {
            0 => Target::ListenerPort {
                host: IpAddr::V4(host),
                offset: 1,
            },
            _ => Target::Fixed(SocketAddr::from((host, 9000)).into()),
        }
    }
}
