//! What is outside of the workers: clients that write, backends that answer, die and come back, and what has to be true of
//! every datagram that reaches anybody.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ringway::ids::{Caller, SocketId};

use super::super::random::Random;
use super::office::Office;

const MILLISECOND: u64 = 1_000_000;
/// A socket's queue holds so many; what comes then is lost, and that is nobody's fault.
const QUEUE_MAX: usize = 64;

/// Kinds of trouble; each is counted when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    Refused,
    HeadingRefused,
    FlowBroken,
    NoSocket,
    NoBuffer,
    ListenerNotOpened,
    ListenerPaused,
    Cut,
    LateReply,
    BackendDied,
    BackendDown,
    Maintenance,
    Draining,
    Evicted,
    Reloaded,
    Behind,
}

impl Trouble {
    pub const ALL: &[Trouble] = &[
        Trouble::Refused,
        Trouble::HeadingRefused,
        Trouble::FlowBroken,
        Trouble::NoSocket,
        Trouble::NoBuffer,
        Trouble::ListenerNotOpened,
        Trouble::ListenerPaused,
        Trouble::Cut,
        Trouble::LateReply,
        Trouble::BackendDied,
        Trouble::BackendDown,
        Trouble::Maintenance,
        Trouble::Draining,
        Trouble::Evicted,
        Trouble::Reloaded,
        Trouble::Behind,
    ];
}

/// What a kernel may do that none does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    AnotherClient,
    AnotherFlow,
    BufferKept,
    HeadingLost,
    SentTwice,
}

impl Lie {
    pub const ALL: &[Lie] = &[
        Lie::AnotherClient,
        Lie::AnotherFlow,
        Lie::BufferKept,
        Lie::HeadingLost,
        Lie::SentTwice,
    ];
}

/// One datagram: who wrote it, or whom it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub number: u64,
    pub caller: Caller,
    pub bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happening {
    ClientWrites,
    Verdict,
    Mood,
    Reload,
}

/// Rates are per thousand.
#[derive(Clone, Debug)]
pub struct Weather {
    pub workers: usize,
    pub sessions_max: u32,
    pub process_max: u32,
    pub buffers: u16,
    pub clients: u64,
    pub sockets: u64,
    pub write_ns: u64,
    pub change_ns: u64,
    pub reload_ns: u64,
    pub answers: u32,
    pub refuse: u32,
    pub no_socket: u32,
    pub open_fails: u32,
    pub pause: u32,
    pub cut: u32,
    pub icmp: u32,
    pub behind: u32,
}

impl Weather {
    fn draw(random: &mut Random) -> Weather {
        let workers = random.pick(&[1, 1, 2]);
        let sessions_max = random.pick(&[1, 2, 8, 40]);
        let all = sessions_max * workers as u32;
        let calm = random.chance(150);
        let mut rate = |most: u64| match calm {
            true => 0,
            false => random.below(most) as u32,
        };
        let (refuse, no_socket, open_fails) = (rate(150), rate(150), rate(200));
        let (pause, cut, icmp) = (rate(60), rate(40), rate(900));
        let behind = rate(900);
        Weather {
            workers,
            sessions_max,
            process_max: random.pick(&[0, all, all / 2 + 1]),
            buffers: random.pick(&[2, 4, 16, 64]),
            clients: random.pick(&[1, 3, 12, 60]),
            sockets: random.between(1, 3),
            write_ns: random.pick(&[20_000, 200_000, 2_000_000, 40_000_000]),
            change_ns: random.pick(&[2_000_000, 30_000_000, 300_000_000]),
            reload_ns: random.pick(&[20_000_000, 300_000_000]),
            answers: random.pick(&[0, 500, 900, 900]),
            refuse,
            no_socket,
            open_fails,
            pause,
            cut,
            icmp,
            behind,
        }
    }
}

/// What a run has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub met: BTreeMap<Trouble, u64>,
    pub flows: u64,
    pub passed: [u64; 2],
}

/// Something on its way to a flow's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    Answer(Message),
    Unreachable,
}

pub struct World {
    pub seed: u64,
    pub random: Random,
    pub weather: Weather,
    pub now: u64,
    pub office: Option<Office>,
    pub lie: Option<Lie>,
    pub seen: Seen,
    pub leaving: bool,
    /// Of each worker's listening sockets: what clients have written and nobody has received.
    pub written: HashMap<(usize, SocketId), VecDeque<Message>>,
    /// For a flow's socket, by its number.
    pub arrivals: BTreeMap<(u64, u64), (u64, Arrival)>,
    events: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    numbers: u64,
    tracing: bool,
}

impl World {
    pub fn new(seed: u64, lie: Option<Lie>, tracing: bool) -> World {
        let mut random = Random::new(seed);
        let weather = Weather::draw(&mut random);
        let mut world = World {
            seed,
            random,
            weather,
            now: MILLISECOND,
            office: None,
            lie,
            seen: Seen::default(),
            leaving: false,
            written: HashMap::new(),
            arrivals: BTreeMap::new(),
            events: BinaryHeap::new(),
            numbers: 0,
            tracing,
        };
        world.say(|| format!("{:?}", world.weather));
        let office = Office::open(&mut world.random, &world.weather);
        world.office = Some(office);
        for happening in [
            Happening::ClientWrites,
            Happening::Verdict,
            Happening::Mood,
            Happening::Reload,
        ] {
            world.plan(happening);
        }
        world
    }

    pub fn office(&self) -> &Office {
        self.office.as_ref().expect("there from the beginning")
    }

    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub fn say(&self, words: impl FnOnce() -> String) {
        if self.tracing {
            println!("{:12.6} ms  {}", self.now as f64 / 1e6, words());
        }
    }

    pub fn fail(&self, what: &str) -> ! {
        panic!(
            "flows, seed {}, {:.6} ms: {what}",
            self.seed,
            self.now as f64 / 1e6
        );
    }

    pub fn meet(&mut self, trouble: Trouble) {
        self.say(|| format!("{trouble:?}"));
        *self.seen.met.entry(trouble).or_insert(0) += 1;
    }

    /// Whether the kernel lies this time.
    pub fn lies(&mut self, lie: Lie) -> bool {
        self.lie == Some(lie) && self.random.chance(100)
    }

    fn plan(&mut self, happening: Happening) {
        let pause = match happening {
            Happening::ClientWrites => self.weather.write_ns,
            Happening::Verdict | Happening::Mood => self.weather.change_ns,
            Happening::Reload => self.weather.reload_ns,
        };
        let at = self.now + 1 + self.random.below(2 * pause);
        let number = self.number();
        self.events.push(Reverse((at, number, happening)));
    }

    /// The next moment at which something happens by itself.
    pub fn next_event(&self) -> u64 {
        let own = self.events.peek().map(|Reverse((at, ..))| *at);
        let arrival = self.arrivals.keys().next().map(|(at, _)| *at);
        let own = own.unwrap_or(u64::MAX);
        own.min(arrival.unwrap_or(u64::MAX))
    }

    pub fn advance(&mut self, to: u64) {
        self.now = self.now.max(to);
        while let Some(&Reverse((at, _, happening))) = self.events.peek() {
            if at > self.now {
                return;
            }
            self.events.pop();
            if self.leaving {
                continue;
            }
            match happening {
                Happening::ClientWrites => self.client_writes(),
                other => self.with_office(|office, world| office.act(other, world)),
            }
            self.plan(happening);
        }
    }

    pub fn with_office(&mut self, act: impl FnOnce(&mut Office, &mut World)) {
        let mut office = self.office.take().expect("nobody else has it");
        act(&mut office, self);
        self.office = Some(office);
    }

    /// A client writes one datagram, or several of one size, perhaps to an address of ours that stands for many.
    fn client_writes(&mut self) {
        let client = self.random.below(self.weather.clients);
        let socket = self.random.below(self.weather.sockets);
        let local = (socket == 2).then(|| {
            let last = self.random.between(1, 2) as u8;
            IpAddr::from(Ipv4Addr::new(127, 0, 0, last))
        });
        let caller = Caller {
            socket: SocketId(socket as u16),
            client: SocketAddr::from(([10, 1, 0, client as u8 % 20], 1_000 + client as u16)),
            local,
        };
        // As the kernel does it: a client stays at its socket of the group.
        let worker = client as usize % self.weather.workers;
        let bytes = self.random.pick(&[0, 1, 100, 1_200, 1_200, 65_450, 65_507]);
        let count = match bytes {
            100 | 1_200 => self.random.pick(&[1, 1, 2, 9, 40]),
            _ => 1,
        };
        for _ in 0..count {
            let number = self.number();
            let message = Message {
                number,
                caller,
                bytes,
            };
            let queue = self.written.entry((worker, caller.socket)).or_default();
            if queue.len() < QUEUE_MAX {
                queue.push_back(message);
            }
        }
    }

    /// A backend has received a client's datagram through this socket: it answers, or its host does.
    pub fn backend_hears(&mut self, place: usize, way: u64, message: Message) {
        if !self.office().backends[place].alive {
            let rate = self.weather.icmp;
            if self.random.chance(rate) {
                self.send_to_way(way, Arrival::Unreachable);
            }
            return;
        }
        let rate = self.weather.answers;
        if !self.random.chance(rate) {
            return;
        }
        let count = self.random.pick(&[1, 1, 1, 2, 5]);
        let bytes = self.random.pick(&[0, 7, 300, 1_200, 65_507]);
        for _ in 0..count {
            let answer = Message {
                number: self.number(),
                bytes,
                ..message
            };
            self.send_to_way(way, Arrival::Answer(answer));
        }
    }

    fn send_to_way(&mut self, way: u64, arrival: Arrival) {
        let delay = self.random.pick(&[1_000, 50_000, 2_000_000, 30_000_000]);
        let at = self.now + 1 + self.random.below(delay);
        let number = self.number();
        self.arrivals.insert((at, number), (way, arrival));
    }
}
