//! The load tool for kept flows: each has a socket of its own and always one request under way. One thread, one epoll set.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::message::roomy;
use crate::stand::histogram::Histogram;
use crate::stand::stage::Tally;
use crate::stand::system::{Poller, READ};

/// A datagram that is on its way for so long is lost; its flow asks again.
const LOST: Duration = Duration::from_secs(1);
const SIZE: usize = 64;

#[derive(Debug)]
struct Line {
    socket: UdpSocket,
    started: Instant,
}

#[derive(Debug)]
pub struct Requests {
    lines: Vec<Line>,
    poller: Poller,
    looked: Instant,
}

impl Requests {
    pub fn open(front: SocketAddr, flows: usize) -> io::Result<Self> {
        let poller = Poller::new()?;
        let mut lines = Vec::new();
        for number in 0..flows {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect(front)?;
            roomy(&socket)?;
            socket.set_nonblocking(true)?;
            poller.add(&socket, READ, number)?;
            let started = Instant::now();
            socket.send(&[b'q'; SIZE])?;
            lines.push(Line { socket, started });
        }
        let looked = Instant::now();
        Ok(Self {
            lines,
            poller,
            looked,
        })
    }

    pub fn run(&mut self, length: Duration) -> io::Result<Tally> {
        let start = Instant::now();
        let mut latency = Histogram::new();
        let mut errors = 0;
        let mut buffer = [0; 2 * SIZE];
        loop {
            let ready = self.poller.wait(Duration::from_millis(100))?;
            for at in 0..ready {
                let line = &mut self.lines[self.poller.ready(at)];
                if line.socket.recv(&mut buffer).is_ok_and(|it| it == SIZE) {
                    let now = Instant::now();
                    latency.record(now - line.started);
                    line.started = now;
                    line.socket.send(&[b'q'; SIZE])?;
                }
            }
            if self.looked.elapsed() > LOST {
                self.looked = Instant::now();
                for line in &mut self.lines {
                    if line.started.elapsed() > LOST {
                        errors += 1;
                        line.started = Instant::now();
                        line.socket.send(&[b'q'; SIZE])?;
                    }
                }
            }
            let elapsed = start.elapsed();
            if elapsed >= length {
                return Ok(Tally {
                    done: latency.total(),
                    elapsed,
                    latency,
                    errors,
                });
            }
        }
    }
}
