//! The load tool for new flows: one socket on all of this machine's addresses, each request from an address that nobody had
//! before. Beside them some old flows ask now and then, and must go on being answered.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use crate::message::{roomy, send_from};
use crate::stand::histogram::Histogram;
use crate::stand::stage::Tally;
use crate::stand::system::{Poller, READ};

/// Without an answer for so long the lane asks for another newcomer.
const UNANSWERED: Duration = Duration::from_millis(200);
/// How often an old flow asks, and how long it waits for an answer.
const OLD_PAUSE: Duration = Duration::from_millis(100);
const OLD_LOST: Duration = Duration::from_secs(1);
const SIZE: usize = 64;
const NEWCOMERS: usize = usize::MAX;

#[derive(Debug)]
struct Old {
    socket: UdpSocket,
    asked: Instant,
    waits: bool,
}

#[derive(Debug)]
struct Lane {
    started: Instant,
    /// Which newcomer is under way.
    number: u32,
}

#[derive(Debug)]
pub struct Newcomers {
    front: SocketAddrV4,
    socket: UdpSocket,
    lanes: Vec<Lane>,
    newcomers: u32,
    old: Vec<Old>,
    poller: Poller,
    looked: Instant,
}

#[derive(Debug)]
pub struct Outcome {
    pub tally: Tally,
    pub old_latency: Histogram,
    pub old_lost: u64,
}

impl Newcomers {
    pub fn open(front: SocketAddr, lanes: usize, old: usize) -> io::Result<Self> {
        let SocketAddr::V4(front) = front else {
            return Err(io::Error::other("not an IPv4 address"));
        };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9_000))?;
        roomy(&socket)?;
        socket.set_nonblocking(true)?;
        let poller = Poller::new()?;
        poller.add(&socket, READ, NEWCOMERS)?;
        let now = Instant::now();
        let mut all = Self {
            front,
            socket,
            lanes: Vec::new(),
            newcomers: 0,
            old: Vec::new(),
            poller,
            looked: now,
        };
        for number in 0..old {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect(front)?;
            socket.set_nonblocking(true)?;
            all.poller.add(&socket, READ, number)?;
            all.old.push(Old {
                socket,
                asked: now,
                waits: false,
            });
        }
        for number in 0..lanes {
            all.lanes.push(Lane {
                started: now,
                number: 0,
            });
            all.send_newcomer(number)?;
        }
        Ok(all)
    }

    fn send_newcomer(&mut self, lane: usize) -> io::Result<()> {
        self.newcomers += 1;
        let number = self.newcomers;
        // 127.16.0.0 and on: four million of them.
        let source = Ipv4Addr::from(0x7f10_0000 | number & 0x003f_ffff);
        let mut bytes = [b'n'; SIZE];
        bytes[..4].copy_from_slice(&(lane as u32).to_ne_bytes());
        bytes[4..8].copy_from_slice(&number.to_ne_bytes());
        self.lanes[lane] = Lane {
            started: Instant::now(),
            number,
        };
        send_from(&self.socket, source, self.front, &bytes)
    }

    /// Everybody who is answered, once; without asking anew.
    pub fn settle(&mut self, count: usize) -> io::Result<usize> {
        let (start, mut answered) = (Instant::now(), 0);
        let mut buffer = [0; 2 * SIZE];
        while answered < count && start.elapsed() < UNANSWERED {
            self.poller.wait(Duration::from_millis(10))?;
            while self.socket.recv(&mut buffer).is_ok() {
                answered += 1;
            }
        }
        Ok(answered)
    }

    /// Opens so many flows more, in small groups, each with one answer.
    pub fn grow(&mut self, flows: usize) -> io::Result<()> {
        let mut opened = 0;
        while opened < flows {
            let group = self.lanes.len().min(flows - opened);
            for lane in 0..group {
                self.send_newcomer(lane)?;
            }
            let answered = self.settle(group)?;
            if answered < group {
                return Err(io::Error::other(format!(
                    "{answered} of {group} answered after {opened} flows"
                )));
            }
            opened += group;
        }
        Ok(())
    }

    pub fn run(&mut self, length: Duration) -> io::Result<Outcome> {
        let start = Instant::now();
        let (mut latency, mut old_latency) = (Histogram::new(), Histogram::new());
        let (mut errors, mut old_lost) = (0, 0);
        loop {
            let ready = self.poller.wait(Duration::from_millis(5))?;
            for at in 0..ready {
                match self.poller.ready(at) {
                    NEWCOMERS => self.answered(&mut latency)?,
                    number => {
                        let old = &mut self.old[number];
                        if old.socket.recv(&mut [0; SIZE]).is_ok() && old.waits {
                            old_latency.record(old.asked.elapsed());
                            old.waits = false;
                        }
                    }
                }
            }
            if self.looked.elapsed() > Duration::from_millis(5) {
                self.looked = Instant::now();
                errors += self.look_after_lanes()?;
                old_lost += self.ask_old()?;
            }
            let elapsed = start.elapsed();
            if elapsed >= length {
                return Ok(Outcome {
                    tally: Tally {
                        done: latency.total(),
                        elapsed,
                        latency,
                        errors,
                    },
                    old_latency,
                    old_lost,
                });
            }
        }
    }

    fn answered(&mut self, latency: &mut Histogram) -> io::Result<()> {
        let mut buffer = [0; 2 * SIZE];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let word = |at: usize| buffer[at..].first_chunk().map(|it| u32::from_ne_bytes(*it));
            let (Some(lane), Some(number)) = (word(0), word(4)) else {
                continue;
            };
            let current = self.lanes.get(lane as usize);
            // A late answer is that of a newcomer who was given up.
            if length == SIZE
                && let Some(found) = current.filter(|found| found.number == number)
            {
                latency.record(found.started.elapsed());
                self.send_newcomer(lane as usize)?;
            }
        }
        Ok(())
    }

    fn look_after_lanes(&mut self) -> io::Result<u64> {
        let mut unanswered = 0;
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].started.elapsed() > UNANSWERED {
                unanswered += 1;
                self.send_newcomer(lane)?;
            }
        }
        Ok(unanswered)
    }

    fn ask_old(&mut self) -> io::Result<u64> {
        let mut lost = 0;
        for old in &mut self.old {
            let since = old.asked.elapsed();
            lost += u64::from(old.waits && since > OLD_LOST);
            if since > if old.waits { OLD_LOST } else { OLD_PAUSE } {
                (old.asked, old.waits) = (Instant::now(), true);
                // A refusal that ICMP told of is a loss, and counted when its time has come.
                let _ = old.socket.send(&[b'o'; SIZE]);
            }
        }
        Ok(lost)
    }
}
