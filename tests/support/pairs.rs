//! Both ends of a session in one hand: the client's socket, and the socket that the backend accepted for it.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::net;
use super::ringway::{Front, Setup};

/// Which side of a session does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Client,
    Backend,
}

impl Who {
    pub const BOTH: [Who; 2] = [Who::Client, Who::Backend];
}

/// A session's two far ends.
#[derive(Debug)]
pub struct Pair {
    pub client: TcpStream,
    pub backend: TcpStream,
}

impl Pair {
    /// The socket of `who`, then the other one.
    pub fn ends(self, who: Who) -> (TcpStream, TcpStream) {
        match who {
            Who::Client => (self.client, self.backend),
            Who::Backend => (self.backend, self.client),
        }
    }
}

/// A listener of our own behind a balancer.
pub struct Pairs {
    pub front: Front,
    listener: TcpListener,
}

impl Pairs {
    pub fn new() -> Pairs {
        Pairs::with(0, |setup| setup)
    }

    /// With receive buffers of this size on the backend's side (0: the kernel's choice), and a changed setup.
    pub fn with(receive_bytes: usize, change: impl FnOnce(Setup) -> Setup) -> Pairs {
        let listener = net::listen_with(net::free_address(), receive_bytes).expect("listen");
        listener.set_nonblocking(true).expect("non-blocking accept");
        let front = Front::with(listener.local_addr().expect("address"), change);
        Pairs { front, listener }
    }

    /// A fresh session.
    #[track_caller]
    pub fn pair(&self) -> Pair {
        self.pair_with(0)
    }

    /// With a receive buffer of this size on the client's side.
    #[track_caller]
    pub fn pair_with(&self, receive_bytes: usize) -> Pair {
        let client = net::connect_with(None, self.front.address, receive_bytes);
        let client = client.expect("connect to the balancer");
        let backend = self.accept(Duration::from_secs(10));
        Pair {
            client,
            backend: backend.expect("the session reached the backend"),
        }
    }

    /// The next connection that reaches the backend within `limit`.
    pub fn accept(&self, limit: Duration) -> Option<TcpStream> {
        let end = Instant::now() + limit;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).expect("blocking");
                    net::prepare(&stream).expect("options of an accepted socket");
                    return Some(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= end {
                        return None;
                    }
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(error) => panic!("accept: {error}"),
            }
        }
    }
}

/// What the kernel shows of a TCP connection in /proc/net/tcp.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// Bytes written and not yet acknowledged by the next hop.
    pub unsent: u64,
    /// Bytes received and not yet read.
    pub unread: u64,
}

/// The kernel's view of an IPv4 connection; `None` when it is no longer there (closed or reset).
pub fn shown(local: SocketAddr, peer: SocketAddr) -> Option<Shown> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of connections");
    let wanted = format!("{} {} ", in_hex(local), in_hex(peer));
    let rest = table.lines().find_map(|line| line.split_once(&wanted))?.1;
    // state tx_queue:rx_queue …; a state of 07 is CLOSE.
    let mut words = rest.split_whitespace();
    let state = words.next()?;
    let (unsent, unread) = words.next()?.split_once(':')?;
    (state != "07").then_some(Shown {
        unsent: u64::from_str_radix(unsent, 16).ok()?,
        unread: u64::from_str_radix(unread, 16).ok()?,
    })
}

fn in_hex(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else {
        panic!("an IPv4 address");
    };
    let ip = u32::from_le_bytes(address.ip().octets());
    format!("{ip:08X}:{:04X}", address.port())
}

/// The kernel's view of our own socket.
pub fn shown_of(stream: &TcpStream) -> Option<Shown> {
    let local = stream.local_addr().expect("local address");
    shown(local, stream.peer_addr().ok()?)
}
