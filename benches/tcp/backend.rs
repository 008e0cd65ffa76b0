//! The backend: answers each `size` bytes with `size` bytes, and may close right after the answer. One thread, one epoll
//! set, no allocation per request. Runs as a process of its own (this program started again with `--backend`), so that
//! the load tool and the backend wake each other as real ones do.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::stand::system::{Poller, READ};

const LISTENER: usize = usize::MAX;
const ACCEPTS_PER_TURN_MAX: usize = 64;

#[derive(Debug, Clone, Copy)]
pub struct BackendRules {
    pub port: u16,
    pub size: usize,
    pub closes_first: bool,
}

#[derive(Debug)]
struct Peer {
    stream: TcpStream,
    pending: usize,
}

#[derive(Debug)]
struct Backend {
    rules: BackendRules,
    poller: Poller,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
}

/// Serves until the process is killed.
pub fn serve(rules: BackendRules) -> io::Result<()> {
    let listener = Socket::new(
        Domain::IPV4,
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    listener.set_reuse_address(true)?;
    listener.bind(&SockAddr::from(std::net::SocketAddrV4::new(
        Ipv4Addr::UNSPECIFIED,
        rules.port,
    )))?;
    listener.listen(65535)?;
    let mut backend = Backend {
        rules,
        poller: Poller::new()?,
        peers: Vec::new(),
        free: Vec::new(),
        scratch: vec![b'b'; 256 * 1024],
    };
    backend.poller.add(&listener, READ, LISTENER)?;
    loop {
        let ready = backend.poller.wait(Duration::from_secs(60))?;
        for index in 0..ready {
            match backend.poller.ready(index) {
                LISTENER => backend.accept(&listener)?,
                peer => backend.answer(peer),
            }
        }
    }
}

impl Backend {
    fn accept(&mut self, listener: &Socket) -> io::Result<()> {
        for _ in 0..ACCEPTS_PER_TURN_MAX {
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            // An error is an empty queue, or a client that has gone already.
            let Ok((socket, _)) = listener.accept4(flags) else {
                return Ok(());
            };
            let stream = TcpStream::from(socket);
            let index = self.free.pop().unwrap_or_else(|| {
                self.peers.push(None);
                self.peers.len() - 1
            });
            self.poller.add(&stream, READ, index)?;
            self.peers[index] = Some(Peer { stream, pending: 0 });
        }
        Ok(())
    }

    fn answer(&mut self, index: usize) {
        let Some(peer) = &mut self.peers[index] else {
            return;
        };
        let is_open = match peer.stream.read(&mut self.scratch) {
            Ok(0) => false,
            Ok(bytes) => {
                peer.pending += bytes;
                respond(peer, self.rules, &self.scratch)
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if !is_open {
            self.peers[index] = None;
            self.free.push(index);
        }
    }
}

/// Whether the connection stays open.
fn respond(peer: &mut Peer, rules: BackendRules, scratch: &[u8]) -> bool {
    while peer.pending >= rules.size {
        peer.pending -= rules.size;
        // A client that asks for the next answer only after this one leaves room for it in the socket.
        match peer.stream.write(&scratch[..rules.size]) {
            Ok(sent) if sent == rules.size && !rules.closes_first => {}
            _ => return false,
        }
    }
    true
}
