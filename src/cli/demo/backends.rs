//! The demo's backends: each a thread that answers every line, and every datagram, with its own name and what it was asked.
//! To kill one is to end its thread, which closes its sockets and all its connections at once, as the end of a process would.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::datagrams;

const NAMES: [&str; 3] = ["anna", "berta", "carla"];
/// How often a port is looked for that is free for streams and for datagrams.
const TRIES: usize = 10;

/// All backends, alive or dead.
pub(super) struct Stage {
    actors: Vec<Actor>,
}

struct Actor {
    name: &'static str,
    address: SocketAddr,
    life: Option<Life>,
}

struct Life {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Stage {
    pub(super) fn set() -> io::Result<Stage> {
        let actors = NAMES.iter().map(|&name| {
            let (address, life) = Life::begin(name, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            Ok(Actor {
                name,
                address,
                life: Some(life),
            })
        });
        Ok(Stage {
            actors: actors.collect::<io::Result<_>>()?,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.actors.len()
    }

    pub(super) fn name(&self, place: usize) -> &'static str {
        self.actors[place].name
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        self.actors.iter().map(|actor| (actor.name, actor.address))
    }

    pub(super) fn kill(&mut self, place: usize) {
        if let Some(life) = self.actors[place].life.take() {
            life.end();
        }
    }

    /// On the port that it had.
    pub(super) fn revive(&mut self, place: usize) -> io::Result<()> {
        let actor = &mut self.actors[place];
        if actor.life.is_none() {
            let (_, life) = Life::begin(actor.name, actor.address)?;
            actor.life = Some(life);
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for place in 0..self.len() {
            self.kill(place);
        }
    }
}

impl Life {
    fn begin(name: &'static str, address: SocketAddr) -> io::Result<(SocketAddr, Life)> {
        let (listener, datagrams) = bind_both(address)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = ended => {}
                        () = serve(name, listener) => {}
                        () = datagrams::serve(name, datagrams) => {}
                    }
                });
                // Dropping the runtime closes every connection.
            })?;
        Ok((address, Life { end, thread }))
    }

    fn end(self) {
        let _ = self.end.send(());
        let _ = self.thread.join();
    }
}

/// One port for both protocols.
fn bind_both(address: SocketAddr) -> io::Result<(std::net::TcpListener, std::net::UdpSocket)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let listener = std::net::TcpListener::bind(address)?;
        match std::net::UdpSocket::bind(listener.local_addr()?) {
            Ok(socket) => {
                listener.set_nonblocking(true)?;
                socket.set_nonblocking(true)?;
                return Ok((listener, socket));
            }
            Err(error) if address.port() != 0 || tries == TRIES => return Err(error),
            Err(_) => {}
        }
    }
}

async fn serve(name: &'static str, listener: std::net::TcpListener) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(answer(name, stream));
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

async fn answer(name: &'static str, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        line.extend_from_slice(name.as_bytes());
        line.push(b' ');
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        stream.get_mut().write_all(&line).await?;
    }
}
