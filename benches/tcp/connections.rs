//! The load tool for connection churn: connect, one request, its answer, close; `lanes` at a time, each starting its next
//! connection as the last one ends. Who closes, and how, is the scenario's choice. One thread, one epoll set.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::requests::check_progress;
use crate::stand::histogram::Histogram;
use crate::stand::stage::Tally;
use crate::stand::system::{Poller, READ, WRITE};

const ERRORS_MAX: u64 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The client closes with FIN once it has the answer.
    ClientFin,
    /// The client resets once it has the answer.
    ClientReset,
    /// The backend closes after its answer; the client waits for that end, then closes.
    BackendFirst,
}

#[derive(Debug)]
struct Lane {
    stream: TcpStream,
    started: Instant,
    missing: usize,
    is_asked: bool,
}

#[derive(Debug)]
pub struct Connections {
    address: SockAddr,
    size: usize,
    ending: Ending,
    lanes: Vec<Option<Lane>>,
    poller: Poller,
    scratch: Vec<u8>,
    errors: u64,
}

/// How far a lane has come.
enum Step {
    Waiting,
    Answered,
    Ended,
}

impl Connections {
    pub fn open(
        address: SocketAddr,
        lanes: usize,
        size: usize,
        ending: Ending,
    ) -> io::Result<Self> {
        let mut connections = Self {
            address: SockAddr::from(address),
            size,
            ending,
            lanes: Vec::new(),
            poller: Poller::new()?,
            scratch: vec![b'q'; 64 * 1024],
            errors: 0,
        };
        for index in 0..lanes {
            connections.lanes.push(None);
            connections.start(index)?;
        }
        Ok(connections)
    }

    fn start(&mut self, index: usize) -> io::Result<()> {
        let started = Instant::now();
        let socket = Socket::new(
            Domain::IPV4,
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        match socket.connect(&self.address) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let mut lane = Lane {
            stream: TcpStream::from(socket),
            started,
            missing: self.size,
            is_asked: false,
        };
        // Over loopback the handshake is over when connect returns, unless the listener's queue is full.
        let interest = if ask(&mut lane, &self.scratch[..self.size])? {
            READ
        } else {
            READ | WRITE
        };
        self.poller.add(&lane.stream, interest, index)?;
        self.lanes[index] = Some(lane);
        Ok(())
    }

    fn step(&mut self, index: usize) -> io::Result<Step> {
        let Some(lane) = &mut self.lanes[index] else {
            return Ok(Step::Waiting);
        };
        if !lane.is_asked {
            if ask(lane, &self.scratch[..self.size])? {
                self.poller.change(&lane.stream, READ, index)?;
            }
            return Ok(Step::Waiting);
        }
        match lane.stream.read(&mut self.scratch) {
            Ok(0) if lane.missing == 0 => Ok(Step::Ended),
            Ok(0) => Err(io::Error::other("closed before the answer")),
            Ok(bytes) => {
                lane.missing = lane.missing.saturating_sub(bytes);
                Ok(if lane.missing == 0 {
                    Step::Answered
                } else {
                    Step::Waiting
                })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Step::Waiting),
            Err(error) => Err(error),
        }
    }

    /// Ends the lane's connection and starts the next.
    fn renew(&mut self, index: usize) -> io::Result<()> {
        if let Some(lane) = self.lanes[index].take()
            && self.ending == Ending::ClientReset
        {
            socket2::SockRef::from(&lane.stream).set_linger(Some(Duration::ZERO))?;
        }
        self.start(index)
    }

    pub fn run(&mut self, length: Duration) -> io::Result<Tally> {
        let start = Instant::now();
        let errors_before = self.errors;
        let mut latency = Histogram::new();
        let mut last = start;
        loop {
            let ready = self.poller.wait(Duration::from_millis(100))?;
            for at in 0..ready {
                let index = self.poller.ready(at);
                let is_over = match self.step(index) {
                    Ok(Step::Waiting) => false,
                    Ok(Step::Answered) => {
                        last = Instant::now();
                        if let Some(lane) = &self.lanes[index] {
                            latency.record(last - lane.started);
                        }
                        self.ending != Ending::BackendFirst
                    }
                    Ok(Step::Ended) => true,
                    Err(error) => {
                        self.errors += 1;
                        if self.errors > ERRORS_MAX {
                            return Err(error);
                        }
                        true
                    }
                };
                if is_over {
                    self.renew(index)?;
                }
            }
            let elapsed = start.elapsed();
            if elapsed >= length {
                return Ok(Tally {
                    done: latency.total(),
                    elapsed,
                    latency,
                    errors: self.errors - errors_before,
                });
            }
            check_progress(last)?;
        }
    }
}

/// Sends the request if the connection stands; whether it did.
fn ask(lane: &mut Lane, request: &[u8]) -> io::Result<bool> {
    match lane.stream.write(request) {
        Ok(sent) => {
            lane.is_asked = sent == request.len();
            Ok(lane.is_asked)
        }
        Err(error)
            if error.kind() == io::ErrorKind::WouldBlock
                || error.kind() == io::ErrorKind::NotConnected =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
