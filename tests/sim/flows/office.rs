//! The office of a world of datagrams: one pool of three backends behind up to three sockets, verdicts, evictions, reloads
//! that take backends and listeners away and bring them back, and the drain.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ringway::balance::{Algorithm, Chooser};
use ringway::handoff::{
    Admin, Backend, BackendOptions, BackendShared, Capacity, FlowRules, Hatches, Health,
    ListenSocket, Listener, ListenerShared, Phase, Pool, PoolShared, Protocol, ProxyVersion,
    SessionTimes, Snapshot, Spin, Target, WaitRules, Waiters,
};
use ringway::ids::{Address, BackendId, End, ListenerId, Nanos, PoolId, SocketId};

use super::super::random::Random;
use super::world::{Happening, Trouble, Weather, World};

const MILLISECOND: u64 = 1_000_000;
const BACKENDS: u16 = 3;

pub struct Seat {
    pub shared: Arc<BackendShared>,
    pub address: SocketAddr,
    /// Its process runs.
    pub alive: bool,
    present: bool,
    weight: u32,
}

pub struct Office {
    pub hatches: Arc<Hatches>,
    pub process: Arc<Capacity>,
    pub generation: u64,
    pub backends: Vec<Seat>,
    pub listeners: Vec<Arc<ListenerShared>>,
    pub pool: Arc<PoolShared>,
    pub rules: FlowRules,
    pub headers: Option<bool>,
    sockets: Vec<Arc<ListenSocket>>,
    absent: Option<usize>,
    lifetime_ns: u64,
    algorithm: Algorithm,
    waiters: Arc<Waiters>,
    phase: Phase,
}

impl Office {
    pub fn open(random: &mut Random, weather: &Weather) -> Office {
        let workers = weather.workers as u16;
        let file = File::open("/dev/null").expect("a file to stand for sockets");
        let socket = |id: u16| {
            let descriptors = (0..workers).map(|_| file.try_clone().expect("a descriptor"));
            Arc::new(ListenSocket {
                id: SocketId(id),
                address: Address::Inet(address_of(id)),
                descriptors: descriptors.map(OwnedFd::from).collect(),
                unlink: None,
            })
        };
        let seat = |id: u16| Seat {
            shared: Arc::new(BackendShared::new(BackendId(id), "p", "b", true, workers)),
            address: SocketAddr::from(([10, 0, 0, id as u8 + 1], 9_000)),
            alive: true,
            present: true,
            weight: 100,
        };
        let office = Office {
            hatches: Arc::new(Hatches::new(workers).expect("descriptors for the bells")),
            process: Arc::new(Capacity::new(weather.process_max)),
            generation: 0,
            backends: (0..BACKENDS).map(seat).collect(),
            listeners: (0..weather.sockets as u16)
                .map(|id| Arc::new(ListenerShared::new(ListenerId(id), "l", workers)))
                .collect(),
            pool: Arc::new(PoolShared::new(PoolId(0), "p", workers)),
            rules: FlowRules {
                idle_ns: random.pick(&[5, 100, 2_500]) * MILLISECOND,
                responses: random.pick(&[0, 0, 1, 3]),
                requests: random.pick(&[0, 0, 0, 2, 5]),
            },
            headers: random.pick(&[None, None, Some(false), Some(true)]),
            sockets: (0..weather.sockets as u16).map(socket).collect(),
            absent: None,
            lifetime_ns: random.pick(&[0, 0, 50 * MILLISECOND]),
            algorithm: random.pick(&[
                Algorithm::RoundRobin,
                Algorithm::LeastConnections,
                Algorithm::First,
                Algorithm::Random,
            ]),
            waiters: Arc::new(Waiters::new(0)),
            phase: Phase::Serving,
        };
        office.pool.flows.set_limit(random.pick(&[0, 0, 3, 20]));
        office.listeners[0]
            .capacity
            .set_limit(random.pick(&[0, 0, 5]));
        office.backends[0]
            .shared
            .capacity
            .set_limit(random.pick(&[0, 2]));
        office
    }

    pub fn post(&mut self) {
        self.generation += 1;
        let listeners = self.listeners.iter().zip(&self.sockets).enumerate();
        let listeners = listeners.filter(|(place, _)| self.absent != Some(*place));
        let listeners = listeners.map(|(_, (shared, socket))| {
            Arc::new(Listener {
                shared: Arc::clone(shared),
                pool: PoolId(0),
                protocol: Protocol::Udp,
                sockets: vec![Arc::clone(socket)],
                wants_address: true,
                access: None,
                preface: Arc::default(),
            })
        });
        let snapshot = Snapshot {
            generation: self.generation,
            phase: self.phase,
            listeners: listeners.collect(),
            pools: vec![Arc::new(self.compose())],
            spin: Spin::Off,
            journal: true,
            report_ns: 0,
        };
        self.hatches.post(&Arc::new(snapshot));
    }

    fn compose(&self) -> Pool {
        let present: Vec<_> = self.backends.iter().filter(|seat| seat.present).collect();
        let weights: Vec<u32> = present.iter().map(|seat| seat.weight).collect();
        let names: Vec<&str> = present.iter().map(|_| "b").collect();
        let backends = present.iter().map(|seat| Backend {
            shared: Arc::clone(&seat.shared),
            target: Target::Fixed(Address::Inet(seat.address)),
            weight: seat.weight,
            tier: 0,
        });
        Pool {
            shared: Arc::clone(&self.pool),
            chooser: Chooser::new(self.algorithm, &weights, &names),
            hash_seed: 0,
            hash_port: false,
            backends: backends.collect(),
            tiers: 1,
            slow_start_ns: 0,
            source: Vec::new(),
            waiters: Arc::clone(&self.waiters),
            wait: WaitRules {
                timeout_ns: 0,
                leave_on_fin: false,
            },
            connect_timeout_ns: MILLISECOND,
            connect_attempts: 1,
            connect_budget_ns: MILLISECOND,
            times: SessionTimes {
                lifetime_ns: self.lifetime_ns,
                ..SessionTimes::default()
            },
            flow_rules: self.rules,
            options: BackendOptions {
                keepalive: None,
                user_timeout_ms: 0,
            },
            doubts: false,
            breaker: None,
            send_proxy: self.headers.map(|_| ProxyVersion::Two),
            send_proxy_every: self.headers == Some(true),
            cancel: false,
        }
    }

    pub fn act(&mut self, happening: Happening, world: &mut World) {
        let place = world.random.below(self.backends.len() as u64) as usize;
        match happening {
            Happening::ClientWrites => {}
            Happening::Mood => {
                let seat = &mut self.backends[place];
                seat.alive = world.random.chance(700);
                if !seat.alive {
                    world.meet(Trouble::BackendDied);
                }
            }
            Happening::Verdict => self.judge(place, world),
            Happening::Reload => self.reload(place, world),
        }
    }

    fn judge(&mut self, place: usize, world: &mut World) {
        let verdict = &self.backends[place].shared.verdict;
        match world.random.below(6) {
            0 => {
                world.meet(Trouble::BackendDown);
                verdict.set_health(Health::Down);
            }
            1 => {
                world.meet(Trouble::Maintenance);
                verdict.set_admin(Admin::Maintenance);
            }
            2 => {
                world.meet(Trouble::Draining);
                verdict.set_admin(Admin::Draining);
            }
            3 => {
                world.meet(Trouble::Evicted);
                verdict.evict(End::BackendDown, world.random.pick(&[0, 0, 30]));
            }
            _ => {
                verdict.set_health(Health::Up);
                verdict.set_admin(Admin::Ready);
            }
        }
        self.hatches.ring();
    }

    fn reload(&mut self, place: usize, world: &mut World) {
        world.meet(Trouble::Reloaded);
        let seat = &mut self.backends[place];
        seat.present = !seat.present || world.random.chance(400);
        seat.weight = world.random.pick(&[0, 1, 100, 100]);
        if self.backends.iter().all(|seat| !seat.present) {
            self.backends[place].present = true;
        }
        let sockets = self.sockets.len() as u64;
        self.absent = match world.random.chance(400) {
            true => Some(world.random.below(sockets) as usize),
            false => None,
        };
        self.post();
    }

    pub fn drain(&mut self, world: &mut World) {
        let close_from = world.now + world.random.below(100 * MILLISECOND);
        let close_until = close_from + world.random.below(100 * MILLISECOND);
        self.phase = Phase::Draining {
            close_from: Nanos(close_from),
            close_until: Nanos(close_until),
        };
        self.post();
    }

    /// Where a listening socket is bound; the third stands for all our addresses.
    pub fn bound(&self, socket: SocketId) -> SocketAddr {
        address_of(socket.0)
    }

    pub fn at(&self, address: SocketAddr) -> Option<usize> {
        self.backends
            .iter()
            .position(|seat| seat.address == address)
    }

    /// Whether a flow may be given to this backend now.
    pub fn may_be_chosen(&self, place: usize) -> bool {
        let verdict = &self.backends[place].shared.verdict;
        verdict.admin() == Admin::Ready && verdict.health() != Health::Down
    }

    /// Whether it may go on getting datagrams of flows that it has.
    pub fn keeps_flows(&self, place: usize) -> bool {
        let verdict = &self.backends[place].shared.verdict;
        verdict.admin() != Admin::Maintenance && verdict.health() != Health::Down
    }
}

fn address_of(socket: u16) -> SocketAddr {
    match socket {
        2 => SocketAddr::from(([0, 0, 0, 0], 53)),
        other => SocketAddr::from(([127, 0, 0, other as u8 + 1], 53)),
    }
}
