//! A steady load: clients that come and go, clients that stay and talk all the time, and flows of datagrams that ask and ask.
//! Every byte is known. Whoever is refused, cut, not answered, answered wrongly or by another backend than before counts.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wait::{Dice, seconds, until};
use super::{datagrams, net, pattern};

/// A newcomer's one message, and what one that stays says at most at once, every now and then.
const MESSAGE: usize = 800;
const LONG_MESSAGE: u64 = 60_000;
/// How long one that stays is silent between messages.
const PAUSE: Duration = Duration::from_millis(5);
/// Flows of one sender; each waits for its answer before it asks again.
const FLOWS: usize = 8;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sessions: AtomicU64,
    /// Those that have been answered once.
    served: AtomicU64,
    rounds: AtomicU64,
    answers: AtomicU64,
    unanswered: AtomicU64,
    troubles: Mutex<Vec<Trouble>>,
}

#[derive(Debug)]
struct Trouble {
    /// Which of the clients.
    who: usize,
    /// It did not even get a connection.
    refused: bool,
    what: String,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn trouble(&self, who: usize, refused: bool, what: String) {
        eprintln!("client {who}: {what}");
        let trouble = Trouble { who, refused, what };
        self.troubles.lock().unwrap().push(trouble);
    }
}

/// What it was.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    pub sessions: u64,
    /// Of flows.
    pub answers: u64,
    /// What the kernel has dropped of datagrams, in this whole network namespace.
    pub kernel_drops: u64,
}

pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    has_flows: bool,
    drops_before: u64,
}

impl Load {
    /// `comers` clients that come one after the other, and `stayers` that stay, before an echoing backend.
    pub fn on(address: SocketAddr, comers: usize, stayers: usize) -> Load {
        let mut load = Load {
            shared: Arc::default(),
            threads: Vec::new(),
            has_flows: false,
            drops_before: kernel_drops(),
        };
        for place in 0..comers + stayers {
            load.client(move |who, shared| come(address, who, shared, place >= comers));
        }
        load
    }

    /// Flows of so many senders as well, before backends that answer with a name of one byte and the question.
    pub fn and_flows(mut self, front: SocketAddr, senders: usize) -> Load {
        self.has_flows = true;
        for _ in 0..senders {
            self.client(move |who, shared| ask_and_ask(front, who, shared));
        }
        self
    }

    fn client(&mut self, work: impl FnOnce(usize, &Shared) + Send + 'static) {
        let (who, shared) = (self.threads.len(), Arc::clone(&self.shared));
        self.threads
            .push(std::thread::spawn(move || work(who, &shared)));
    }

    pub fn rounds(&self) -> u64 {
        self.shared.rounds.load(Ordering::SeqCst)
    }

    pub fn sessions(&self) -> u64 {
        self.shared.sessions.load(Ordering::SeqCst)
    }

    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::SeqCst)
    }

    /// Waits for so many more exchanges, and as many answers of flows if there are some.
    #[track_caller]
    pub fn goes_on(&self, rounds: u64) {
        let answers = || self.shared.answers.load(Ordering::SeqCst);
        let (before, asked) = (self.rounds(), answers());
        until(seconds(10), "the load goes on", || {
            self.rounds() > before + rounds && (!self.has_flows || answers() > asked + rounds)
        });
    }

    /// Ends the load; nobody must have had trouble.
    #[track_caller]
    pub fn end(self) -> Done {
        self.end_after(0)
    }

    /// The same after the process was killed so often: each time a client can lose the session that it has, and no more. To
    /// be refused is nobody's lot.
    #[track_caller]
    pub fn end_after(mut self, kills: usize) -> Done {
        let clients = self.threads.len();
        self.stop();
        let troubles = self.shared.troubles.lock().unwrap();
        let some = &troubles[..troubles.len().min(5)];
        let refused = troubles.iter().filter(|trouble| trouble.refused).count();
        assert_eq!(refused, 0, "of {} in trouble: {some:?}", troubles.len());
        for who in 0..clients {
            let own = troubles.iter().filter(|trouble| trouble.who == who).count();
            assert!(
                own <= kills,
                "client {who} {own} times in trouble: {some:?}"
            );
        }
        let read = |number: &AtomicU64| number.load(Ordering::SeqCst);
        let kernel_drops = kernel_drops() - self.drops_before;
        let unanswered = read(&self.shared.unanswered);
        assert!(
            unanswered <= kernel_drops,
            "{unanswered} datagrams without an answer; the kernel dropped {kernel_drops}"
        );
        Done {
            sessions: read(&self.shared.sessions),
            answers: read(&self.shared.answers),
            kernel_drops,
        }
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            // A panic of its own has been told.
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    /// A test that fails ends its load, too.
    fn drop(&mut self) {
        self.stop();
    }
}

fn come(address: SocketAddr, who: usize, shared: &Shared, stays: bool) {
    while !shared.is_over() {
        let stream = match net::try_connect(address) {
            Ok(stream) => stream,
            Err(error) => {
                shared.trouble(who, true, format!("refused: {error}"));
                continue;
            }
        };
        let seed = shared.sessions.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = visit(&stream, seed, shared, stays) {
            let what = if stays { "stays" } else { "has just come" };
            shared.trouble(who, false, format!("one that {what}: {error}"));
        }
    }
}

fn visit(stream: &TcpStream, seed: u64, shared: &Shared, stays: bool) -> io::Result<()> {
    let mut dice = Dice(seed);
    let mut at = 0;
    loop {
        let length = match stays && dice.chance(5) {
            true => dice.below(LONG_MESSAGE) as usize + 1,
            false => MESSAGE,
        };
        let mut piece = vec![0; length];
        pattern::fill(seed, at, &mut piece);
        exchange(stream, &piece)?;
        if at == 0 {
            shared.served.fetch_add(1, Ordering::SeqCst);
        }
        at += length as u64;
        shared.rounds.fetch_add(1, Ordering::SeqCst);
        if !stays || shared.is_over() {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut stream = stream;
    match stream.read(&mut [0; 1])? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than was sent")),
    }
}

/// Sends this, and must get the same back.
pub fn exchange(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    match back == bytes {
        true => Ok(()),
        false => Err(io::Error::other("another answer than was sent")),
    }
}

/// One sender's flows: each datagram is answered, always by the same backend.
fn ask_and_ask(front: SocketAddr, who: usize, shared: &Shared) {
    let mut flows: Vec<Flow> = (0..FLOWS).map(|n| Flow::new(front, who, n)).collect();
    while !shared.is_over() {
        for flow in &mut flows {
            let counted = match flow.ask() {
                Ok(true) => &shared.answers,
                Ok(false) => &shared.unanswered,
                Err(what) => {
                    shared.trouble(who, false, what);
                    continue;
                }
            };
            counted.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Flow {
    socket: std::net::UdpSocket,
    seed: u64,
    at: u64,
    home: Option<u8>,
}

impl Flow {
    fn new(front: SocketAddr, who: usize, number: usize) -> Flow {
        let socket = datagrams::client(front);
        socket.set_read_timeout(Some(seconds(5))).unwrap();
        Flow {
            socket,
            seed: (who * FLOWS + number) as u64,
            at: 0,
            home: None,
        }
    }

    /// Whether an answer came; what was wrong with it.
    fn ask(&mut self) -> Result<bool, String> {
        let mut question = [0; 200];
        pattern::fill(self.seed, self.at, &mut question);
        self.at += question.len() as u64;
        self.socket
            .send(&question)
            .map_err(|error| format!("send: {error}"))?;
        let mut answer = [0; 256];
        let length = match datagrams::receive(&self.socket, &mut answer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(format!("receive: {error}")),
        };
        let (name, echoed) = answer[..length].split_first().ok_or("an empty answer")?;
        if echoed != question {
            return Err("an answer to something else".to_owned());
        }
        match *self.home.get_or_insert(*name) == *name {
            true => Ok(true),
            false => Err("moved to another backend".to_owned()),
        }
    }
}

/// Datagrams that found no room in a socket, since the machine started.
fn kernel_drops() -> u64 {
    let text = fs::read_to_string("/proc/net/snmp").expect("the kernel's counters");
    let mut lines = text.lines().filter(|line| line.starts_with("Udp: "));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let pairs = names.split(' ').zip(numbers.split(' '));
    pairs
        .filter(|(name, _)| ["RcvbufErrors", "SndbufErrors"].contains(name))
        .filter_map(|(_, number)| number.parse::<u64>().ok())
        .sum()
}
