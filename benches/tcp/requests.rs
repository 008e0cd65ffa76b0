//! The load tool for kept connections: requests and answers of one size, either each connection as fast as it is answered
//! (closed loop), or all together at a fixed rate. One thread, one epoll set. Latency at a fixed rate counts from the
//! moment a request was due, so that a stall is not hidden.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::stand::histogram::Histogram;
use crate::stand::stage::Tally;
use crate::stand::system::{Poller, READ};

const STUCK: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Line {
    stream: TcpStream,
    started: Instant,
    missing: usize,
}

#[derive(Debug)]
pub struct Requests {
    size: usize,
    lines: Vec<Line>,
    idle: VecDeque<usize>,
    poller: Poller,
    scratch: Vec<u8>,
}

impl Requests {
    /// Opens `count` connections one after the other, each with one request answered, so that every session stands.
    pub fn open(address: SocketAddr, count: usize, size: usize) -> io::Result<Self> {
        let mut requests = Self {
            size,
            lines: Vec::new(),
            idle: VecDeque::new(),
            poller: Poller::new()?,
            scratch: vec![b'q'; 256 * 1024],
        };
        requests.grow(address, count)?;
        Ok(requests)
    }

    /// Opens more connections, up to `count` in all.
    pub fn grow(&mut self, address: SocketAddr, count: usize) -> io::Result<()> {
        while self.lines.len() < count {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(STUCK))?;
            stream.set_nodelay(true)?;
            stream.write_all(&self.scratch[..self.size])?;
            stream.read_exact(&mut self.scratch[..self.size])?;
            stream.set_nonblocking(true)?;
            let index = self.lines.len();
            self.poller.add(&stream, READ, index)?;
            self.idle.push_back(index);
            self.lines.push(Line {
                stream,
                started: Instant::now(),
                missing: 0,
            });
        }
        Ok(())
    }

    fn ask(&mut self, index: usize, due: Instant) -> io::Result<()> {
        let line = &mut self.lines[index];
        line.started = due;
        line.missing = self.size;
        let sent = line.stream.write(&self.scratch[..self.size])?;
        if sent == self.size {
            Ok(())
        } else {
            Err(io::Error::other("a request did not fit into the socket"))
        }
    }

    /// Whether the answer is complete.
    fn receive(&mut self, index: usize) -> io::Result<bool> {
        let line = &mut self.lines[index];
        match line.stream.read(&mut self.scratch) {
            Ok(0) => Err(io::Error::other("a kept connection was closed")),
            Ok(bytes) if bytes <= line.missing => {
                line.missing -= bytes;
                Ok(line.missing == 0)
            }
            Ok(_) => Err(io::Error::other("more came back than was asked for")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Closed loop: every connection always has one request under way.
    pub fn run(&mut self, length: Duration) -> io::Result<Tally> {
        let start = Instant::now();
        let mut latency = Histogram::new();
        while let Some(index) = self.idle.pop_front() {
            self.ask(index, Instant::now())?;
        }
        let mut last = start;
        loop {
            let ready = self.poller.wait(Duration::from_millis(100))?;
            for at in 0..ready {
                let index = self.poller.ready(at);
                if self.receive(index)? {
                    last = Instant::now();
                    latency.record(last - self.lines[index].started);
                    self.ask(index, last)?;
                }
            }
            let elapsed = start.elapsed();
            if elapsed >= length {
                return Ok(tally(latency, elapsed));
            }
            check_progress(last)?;
        }
    }

    /// Open loop: `rate` requests a second in all, on the connections in turn.
    pub fn run_paced(&mut self, length: Duration, rate: f64) -> io::Result<Tally> {
        let start = Instant::now();
        let mut latency = Histogram::new();
        let mut asked = 0u64;
        let mut last = start;
        loop {
            let now = Instant::now();
            if now - start >= length {
                return Ok(tally(latency, now - start));
            }
            let mut due = start + Duration::from_secs_f64(asked as f64 / rate);
            while due <= now {
                let Some(index) = self.idle.pop_front() else {
                    break;
                };
                self.ask(index, due)?;
                asked += 1;
                due = start + Duration::from_secs_f64(asked as f64 / rate);
            }
            // With every connection busy the next answer ends the wait.
            let rest = if self.idle.is_empty() {
                Duration::from_millis(100)
            } else {
                due.saturating_duration_since(Instant::now())
            };
            let ready = self.poller.wait(rest)?;
            for at in 0..ready {
                let index = self.poller.ready(at);
                if self.receive(index)? {
                    last = Instant::now();
                    latency.record(last - self.lines[index].started);
                    self.idle.push_back(index);
                }
            }
            check_progress(last)?;
        }
    }

    /// Waits until no request is under way.
    pub fn settle(&mut self) -> io::Result<()> {
        let start = Instant::now();
        while self.idle.len() < self.lines.len() {
            let ready = self.poller.wait(Duration::from_millis(100))?;
            for at in 0..ready {
                let index = self.poller.ready(at);
                if self.receive(index)? {
                    self.idle.push_back(index);
                }
            }
            check_progress(start)?;
        }
        Ok(())
    }
}

fn tally(latency: Histogram, elapsed: Duration) -> Tally {
    Tally {
        done: latency.total(),
        elapsed,
        latency,
        errors: 0,
    }
}

pub fn check_progress(last: Instant) -> io::Result<()> {
    if last.elapsed() < STUCK {
        Ok(())
    } else {
        Err(io::Error::other("no answer for 5 s"))
    }
}
