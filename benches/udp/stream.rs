//! One-way streams: a paced sender over several flows, and a receiver that counts what arrives and how long it took.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::catalogue::Pace;
use crate::message::{receive_joined, roomy, send_joined};
use crate::stand::histogram::Histogram;
use crate::stand::stage::Tally;
use crate::stand::system::{Poller, READ};
use crate::subjects::BACKENDS;

pub const SIZE: usize = 1_200;
/// How often a flow sends, where it sends bursts.
const TICK: Duration = Duration::from_millis(1);
/// What has not arrived so long after the last send is lost.
const SETTLE: Duration = Duration::from_millis(200);
/// One datagram in so many tells how long it took.
const SAMPLE: u64 = 8;

#[derive(Debug)]
struct Arrivals {
    stop: AtomicBool,
    count: AtomicU64,
    /// Datagrams sent before this moment, in ns since the start, are not of the measured stretch.
    from: AtomicU64,
}

/// The receiving end: a thread on the load's core, on all backend addresses.
#[derive(Debug)]
pub struct Receiver {
    start: Instant,
    arrivals: Arc<Arrivals>,
    thread: Option<JoinHandle<io::Result<Histogram>>>,
}

impl Receiver {
    pub fn start(port: u16, joined: bool) -> io::Result<Self> {
        let start = Instant::now();
        let arrivals = Arc::new(Arrivals {
            stop: AtomicBool::new(false),
            count: AtomicU64::new(0),
            from: AtomicU64::new(u64::MAX),
        });
        let poller = Poller::new()?;
        let mut sockets = Vec::new();
        for (number, address) in BACKENDS.iter().enumerate() {
            let socket = UdpSocket::bind((*address, port))?;
            roomy(&socket)?;
            socket.set_nonblocking(true)?;
            if joined {
                receive_joined(&socket)?;
            }
            poller.add(&socket, READ, number)?;
            sockets.push(socket);
        }
        let thread = thread::spawn({
            let arrivals = Arc::clone(&arrivals);
            move || receive(poller, &sockets, start, &arrivals)
        });
        Ok(Self {
            start,
            arrivals,
            thread: Some(thread),
        })
    }

    fn count(&self) -> u64 {
        self.arrivals.count.load(Ordering::SeqCst)
    }

    fn finish(&mut self) -> io::Result<Histogram> {
        self.arrivals.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().map(JoinHandle::join);
        match ended {
            Some(Ok(latency)) => latency,
            _ => Err(io::Error::other("the receiver panicked")),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Ended already, or the run failed for another reason.
        let _ = self.finish();
    }
}

fn receive(
    mut poller: Poller,
    sockets: &[UdpSocket],
    start: Instant,
    arrivals: &Arrivals,
) -> io::Result<Histogram> {
    let mut latency = Histogram::new();
    let mut buffer = vec![0; 65_536];
    let mut seen = 0;
    while !arrivals.stop.load(Ordering::SeqCst) {
        let ready = poller.wait(Duration::from_millis(20))?;
        for at in 0..ready {
            let socket = &sockets[poller.ready(at)];
            while let Ok(length) = socket.recv(&mut buffer) {
                let sent = buffer.first_chunk().map_or(0, |it| u64::from_ne_bytes(*it));
                if sent < arrivals.from.load(Ordering::Relaxed) {
                    continue;
                }
                let datagrams = (length / SIZE) as u64;
                let count = arrivals.count.fetch_add(datagrams, Ordering::SeqCst);
                if count / SAMPLE != seen {
                    seen = count / SAMPLE;
                    let now = start.elapsed().as_nanos() as u64;
                    latency.record(Duration::from_nanos(now.saturating_sub(sent)));
                }
            }
        }
    }
    Ok(latency)
}

/// The sending end.
#[derive(Debug)]
pub struct Sender {
    sockets: Vec<UdpSocket>,
    pace: Pace,
    rate: f64,
    buffer: Vec<u8>,
}

impl Sender {
    pub fn open(front: SocketAddr, flows: usize, rate: f64, pace: Pace) -> io::Result<Self> {
        let open = || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect(front)?;
            roomy(&socket)?;
            Ok(socket)
        };
        Ok(Self {
            sockets: (0..flows).map(|_| open()).collect::<io::Result<_>>()?,
            pace,
            rate,
            buffer: vec![b's'; 64 * SIZE],
        })
    }

    /// Sends for so long; returns how many datagrams it were.
    pub fn run(&mut self, receiver: &Receiver, length: Duration) -> io::Result<u64> {
        let start = Instant::now();
        let flows = self.sockets.len() as u64;
        // A step is what a flow sends at once: the flows take turns, evenly over the time.
        let steps_a_second = match self.pace {
            Pace::Singly => self.rate,
            Pace::Bursts | Pace::Joined => flows as f64 / TICK.as_secs_f64(),
        };
        let (mut sent, mut step) = (0_u64, 0_u64);
        loop {
            let now = start.elapsed();
            if now >= length {
                return Ok(sent);
            }
            let due = (now.as_secs_f64() * steps_a_second) as u64;
            while step < due {
                step += 1;
                let wanted = (step as f64 * self.rate / steps_a_second) as u64;
                self.send((step % flows) as usize, wanted - sent, receiver)?;
                sent = wanted;
            }
            let next = Duration::from_secs_f64((step + 1) as f64 / steps_a_second);
            thread::sleep(next.saturating_sub(start.elapsed()));
        }
    }

    fn send(&mut self, flow: usize, datagrams: u64, receiver: &Receiver) -> io::Result<()> {
        let now = (receiver.start.elapsed().as_nanos() as u64).to_ne_bytes();
        let (socket, size) = (&self.sockets[flow], SIZE);
        let whole = &mut self.buffer[..datagrams as usize * size];
        if self.pace == Pace::Joined {
            for one in whole.chunks_mut(size) {
                one[..8].copy_from_slice(&now);
            }
            return send_joined(socket, whole, size as u16);
        }
        let one = &mut self.buffer[..size];
        one[..8].copy_from_slice(&now);
        for _ in 0..datagrams {
            // An error of an earlier one, told by ICMP, is a loss that the count shows.
            let _ = socket.send(one);
        }
        Ok(())
    }

    /// One stretch that counts. Losses are told as errors.
    pub fn measure(&mut self, receiver: &Receiver, length: Duration) -> io::Result<Tally> {
        let begun = Instant::now();
        let from = receiver.start.elapsed().as_nanos() as u64;
        receiver.arrivals.from.store(from, Ordering::SeqCst);
        let sent = self.run(receiver, length)?;
        let elapsed = begun.elapsed();
        while receiver.count() < sent && begun.elapsed() < elapsed + SETTLE {
            thread::sleep(Duration::from_millis(1));
        }
        let done = receiver.count();
        Ok(Tally {
            done,
            elapsed,
            latency: Histogram::new(),
            errors: sent.saturating_sub(done),
        })
    }
}

/// The latencies of a receiver that is done.
pub fn latency_of(mut receiver: Receiver) -> io::Result<Histogram> {
    receiver.finish()
}
