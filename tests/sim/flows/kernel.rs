//! A kernel that carries datagrams: buffers that are filled and must come back, sockets of listeners and flows, and the door
//! through which a worker asks. What becomes of what was asked for is in `submit.rs`.

use std::cell::{RefCell, RefMut};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;

use ringway::handoff::Hatch;
use ringway::ids::{Caller, ConnectFailure, FlowKey, Outlet, SocketId};
use ringway::uring::{
    Datagram, Datagrams, Envelope, Heading, Outcome, Parcel, Patience, Undelivered,
};

use super::world::{Arrival, Lie, Message, Trouble, World};

/// A flow's socket.
#[derive(Debug)]
pub struct Way {
    pub number: u64,
    pub generation: u16,
    pub backend: usize,
    pub arrived: VecDeque<Arrival>,
    /// The backend has had a header through this socket.
    pub told: bool,
    /// A header was lost, and the worker may not know yet.
    pub excused: bool,
}

/// What a flow was from its first socket on.
#[derive(Debug)]
pub struct Known {
    pub caller: Option<Caller>,
    pub answers: u64,
    pub moved_at: u64,
}

#[derive(Debug)]
pub struct Listening {
    pub id: SocketId,
    pub paused: bool,
}

/// A send that is under way.
#[derive(Debug)]
pub struct Send {
    pub flow: FlowKey,
    pub to: To,
    pub buffer: u16,
    pub messages: Vec<Message>,
}

#[derive(Debug)]
pub enum To {
    /// Through this socket, with bytes ahead of the first, or of each.
    Backend(u64, Option<(bool, Vec<u8>)>),
    Client(Envelope),
}

pub struct FlowKernel {
    pub world: Rc<RefCell<World>>,
    pub worker: usize,
    pub listeners: Vec<Listening>,
    pub ways: HashMap<u32, Way>,
    pub known: HashMap<FlowKey, Known>,
    pub sends: Vec<Send>,
    /// By buffer: what lies in it, if it is not free.
    pub contents: Vec<Option<Vec<Message>>>,
    /// What came of sends, and which backend they were to go to.
    pub answers: VecDeque<(Outcome, Option<usize>)>,
    /// How often each backend was said to be unreachable in this turn.
    pub told: Vec<u64>,
    /// When each client last wrote.
    pub heard_at: HashMap<Caller, u64>,
    /// Received from a socket that was closed before they were looked at: nobody's to count.
    pub unowned: u64,
    pub asleep_until: u64,
    pub idle_turns: u32,
    /// Handed to the worker, and passed on by it, from clients and from backends.
    pub received: [u64; 2],
    pub passed: [u64; 2],
    bell: File,
    rung: bool,
}

impl FlowKernel {
    pub fn new(world: Rc<RefCell<World>>, worker: usize, hatch: &Arc<Hatch>) -> FlowKernel {
        let buffers = usize::from(world.borrow().weather.buffers);
        let bell = hatch.doorbell.as_fd().try_clone_to_owned();
        FlowKernel {
            world,
            worker,
            listeners: Vec::new(),
            ways: HashMap::new(),
            known: HashMap::new(),
            sends: Vec::new(),
            contents: vec![None; buffers],
            answers: VecDeque::new(),
            told: Vec::new(),
            heard_at: HashMap::new(),
            unowned: 0,
            asleep_until: 0,
            idle_turns: 0,
            received: [0; 2],
            passed: [0; 2],
            bell: bell.expect("a descriptor").into(),
            rung: false,
        }
    }

    pub fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    pub fn fail(&self, what: &str) -> ! {
        self.world()
            .fail(&format!("worker {}: {what}", self.worker));
    }

    pub fn chance(&self, per_mille: u32) -> bool {
        self.world().random.chance(per_mille)
    }

    pub fn take_turn(&mut self, patience: Patience, outcomes: &mut Vec<Outcome>) {
        let submitted = !self.sends.is_empty();
        let backends = self.world().office().backends.len();
        self.told = vec![0; backends];
        self.submit();
        self.collect_arrivals();
        self.look_at_bell();
        if std::mem::take(&mut self.rung) {
            outcomes.push(Outcome::Doorbell);
        }
        self.answer_sends(outcomes);
        self.receive_requests(outcomes);
        self.receive_answers(outcomes);
        let now = self.world().now;
        let sleeps = match patience {
            Patience::None => 0,
            Patience::Nanoseconds(nanoseconds) => nanoseconds,
            Patience::Endless => u64::MAX,
        };
        let quiet = outcomes.is_empty() && !submitted;
        self.asleep_until = if quiet {
            now.saturating_add(sleeps)
        } else {
            now
        };
        self.idle_turns = match quiet && sleeps < 1_000 {
            true => self.idle_turns + 1,
            false => 0,
        };
        if self.idle_turns > 200 {
            self.fail("spins: 200 turns without sleep in which nothing happened");
        }
    }

    /// Tells what came of sends. From now on there is no excuse for a heading that is missing.
    fn answer_sends(&mut self, outcomes: &mut Vec<Outcome>) {
        for (outcome, place) in std::mem::take(&mut self.answers) {
            if let Outcome::Undelivered { why, .. } = &outcome
                && let Some(place) = place.filter(|_| *why == Undelivered::Unreachable)
            {
                self.told[place] += 1;
            }
            outcomes.push(outcome);
        }
        for way in self.ways.values_mut() {
            way.excused = false;
        }
    }

    fn look_at_bell(&mut self) {
        self.rung |= self.bell.read(&mut [0; 8]).is_ok();
    }

    /// Whether a sleeper would be woken now.
    pub fn stirs(&mut self) -> bool {
        self.look_at_bell();
        let world = self.world.borrow();
        let due = world
            .arrivals
            .keys()
            .next()
            .is_some_and(|(at, _)| *at <= world.now);
        let written = self.listeners.iter().any(|listening| {
            let queue = world.written.get(&(self.worker, listening.id));
            !listening.paused && queue.is_some_and(|queue| !queue.is_empty())
        });
        let arrived = self.ways.values().any(|way| !way.arrived.is_empty());
        let busy = !self.sends.is_empty() || !self.answers.is_empty();
        due || self.rung || written || arrived || busy || self.asleep_until <= world.now
    }

    /// A buffer with these in it; `None` if none is free.
    pub fn fill(&mut self, messages: Vec<Message>) -> Option<Datagram> {
        let free = self.contents.iter().position(Option::is_none)?;
        let bytes: u32 = messages.iter().map(|message| message.bytes).sum();
        let segment = messages[0].bytes;
        self.contents[free] = Some(messages);
        Some(Datagram::new(
            Parcel::new(free as u16, bytes, false),
            segment,
        ))
    }

    /// What lies in a datagram's buffer, which is the worker's now.
    fn open(&mut self, datagram: &Datagram) -> (u16, Vec<Message>) {
        let buffer = datagram.parcel().buffer();
        let held = self.sends.iter().any(|send| send.buffer == buffer);
        match &self.contents[usize::from(buffer)] {
            Some(messages) if !held => (buffer, messages.clone()),
            _ => self.fail(&format!("buffer {buffer} is used twice")),
        }
    }

    pub fn free(&mut self, buffer: u16) {
        if self.world().lies(Lie::BufferKept) {
            return;
        }
        if self.contents[usize::from(buffer)].take().is_none() {
            self.fail(&format!("buffer {buffer} was given back twice"));
        }
    }

    /// Between two turns everything that was received is on its way, or its buffer free.
    pub fn check_buffers(&self) {
        let held = self.contents.iter().flatten().count();
        if held != self.sends.len() {
            self.fail(&format!(
                "{held} buffers are held, {} sends are under way",
                self.sends.len()
            ));
        }
    }

    fn way(&self, flow: FlowKey) -> Option<&Way> {
        let way = self.ways.get(&flow.slot.0)?;
        (way.generation == flow.generation).then_some(way)
    }

    /// The flow is this caller's, and was never anybody else's.
    fn check_owner(&mut self, flow: FlowKey, caller: Caller) {
        let now = self.world().now;
        let known = self.known.entry(flow).or_insert(Known {
            caller: None,
            answers: 0,
            moved_at: now,
        });
        known.moved_at = now;
        let owner = *known.caller.get_or_insert(caller);
        if owner != caller {
            self.fail(&format!(
                "{flow:?} of {owner:?} was given what is of {caller:?}"
            ));
        }
    }
}

impl Datagrams for FlowKernel {
    fn open_datagrams(&mut self, id: SocketId, _: BorrowedFd<'_>) -> io::Result<()> {
        if self.listeners.iter().any(|listening| listening.id == id) {
            self.fail(&format!("{id:?} is opened twice"));
        }
        let rate = self.world().weather.open_fails;
        if self.chance(rate) {
            self.world().meet(Trouble::ListenerNotOpened);
            return Err(io::Error::other("no descriptor is left"));
        }
        self.listeners.push(Listening { id, paused: false });
        Ok(())
    }

    fn close_datagrams(&mut self, id: SocketId) {
        let Some(at) = self.listeners.iter().position(|it| it.id == id) else {
            self.fail(&format!("closes {id:?}, which is not open"));
        };
        self.submit();
        self.listeners.swap_remove(at);
    }

    fn resume_datagrams(&mut self, id: SocketId) {
        let found = self.listeners.iter_mut().find(|it| it.id == id);
        match found {
            Some(listening) if listening.paused => listening.paused = false,
            _ => self.fail(&format!("{id:?} is resumed, but not paused")),
        }
    }

    fn open_flow(
        &mut self,
        flow: FlowKey,
        backend: SocketAddr,
        _: Option<IpAddr>,
    ) -> Result<Outlet, ConnectFailure> {
        self.close_flow(flow);
        let Some(place) = self.world().office().at(backend) else {
            self.fail(&format!("{backend} is no backend"));
        };
        if !self.world().office().may_be_chosen(place) {
            self.fail(&format!(
                "backend {place} was chosen, which takes nothing new"
            ));
        }
        let rate = self.world().weather.no_socket;
        if self.chance(rate) {
            let mut world = self.world();
            world.meet(Trouble::NoSocket);
            return Err(world.random.pick(&[
                ConnectFailure::Ports,
                ConnectFailure::Resources,
                ConnectFailure::Unreachable,
            ]));
        }
        let number = self.world().number();
        self.ways.insert(
            flow.slot.0,
            Way {
                number,
                generation: flow.generation,
                backend: place,
                arrived: VecDeque::new(),
                told: false,
                excused: false,
            },
        );
        let most = self.world().weather.sessions_max as usize;
        if self.ways.len() > most {
            self.fail(&format!(
                "{} flows have sockets, {most} may",
                self.ways.len()
            ));
        }
        Ok(outlet(number))
    }

    fn has_flow(&self, flow: FlowKey) -> bool {
        self.way(flow).is_some()
    }

    fn close_flow(&mut self, flow: FlowKey) {
        if self.way(flow).is_some() {
            // As the real one: what it was to send leaves first.
            self.submit();
            self.ways.remove(&flow.slot.0);
        }
    }

    fn flow_sockets_over(&self) -> u32 {
        self.world().random.pick(&[0, 0, 1, 3])
    }

    fn let_go_at_once(&mut self) {}

    fn trim_flow_sockets(&mut self) -> bool {
        false
    }

    fn to_backend(&mut self, flow: FlowKey, heading: Heading<'_>, datagram: Datagram) {
        let (buffer, messages) = self.open(&datagram);
        self.check_owner(flow, messages[0].caller);
        self.passed[0] += messages.len() as u64;
        let Some(way) = self.way(flow) else {
            self.fail(&format!("{flow:?} has no socket, and is to send"));
        };
        let (number, place) = (way.number, way.backend);
        if !self.world().office().keeps_flows(place) {
            self.fail(&format!(
                "backend {place} was given a datagram, and takes none"
            ));
        }
        let heading = match heading {
            Heading::Nothing => None,
            Heading::First(bytes) => Some((false, bytes.to_vec())),
            Heading::Each(bytes) => Some((true, bytes.to_vec())),
        };
        self.sends.push(Send {
            flow,
            to: To::Backend(number, heading),
            buffer,
            messages,
        });
    }

    fn to_client(&mut self, flow: FlowKey, envelope: Envelope, datagram: Datagram) {
        let (buffer, messages) = self.open(&datagram);
        self.check_owner(flow, messages[0].caller);
        self.passed[1] += messages.len() as u64;
        let known = self.known.get_mut(&flow).expect("was just seen");
        known.answers += messages.len() as u64;
        self.sends.push(Send {
            flow,
            to: To::Client(envelope),
            buffer,
            messages,
        });
    }

    fn discard(&mut self, datagram: Datagram) {
        let (buffer, messages) = self.open(&datagram);
        let socket = messages[0].caller.socket;
        if !self.listeners.iter().any(|it| it.id == socket) {
            self.unowned += messages.len() as u64;
        }
        self.free(buffer);
    }

    fn is_behind(&self) -> bool {
        let rate = self.world().weather.behind;
        let behind = self.chance(rate);
        if behind {
            self.world().meet(Trouble::Behind);
        }
        behind
    }
}

/// A way's number, as a worker knows it.
pub fn outlet(number: u64) -> Outlet {
    Outlet(u32::try_from(number).expect("not so many ways"))
}

/// Why a send is refused, in a kernel's words.
pub fn any_refusal(world: &mut World) -> Undelivered {
    world.random.pick(&[
        Undelivered::Full,
        Undelivered::Full,
        Undelivered::Unreachable,
        Undelivered::TooLong,
        Undelivered::Resources,
    ])
}
