//! The backend: answers each datagram with itself, on each of its addresses. One thread, one epoll set. Runs as a process
//! of its own (this program started again with `--backend`), so that load tool and backend wake each other as real ones do.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use crate::message::roomy;
use crate::stand::system::{Poller, READ};
use crate::subjects::BACKENDS;

/// Of one address, before the others have their turn.
const ANSWERS_PER_TURN_MAX: usize = 64;

/// Serves until the process is killed.
pub fn serve(port: u16) -> io::Result<()> {
    let mut poller = Poller::new()?;
    let mut sockets = Vec::new();
    for (number, address) in BACKENDS.iter().enumerate() {
        let socket = UdpSocket::bind((*address, port))?;
        roomy(&socket)?;
        socket.set_nonblocking(true)?;
        poller.add(&socket, READ, number)?;
        sockets.push(socket);
    }
    let mut buffer = [0; 2048];
    loop {
        let ready = poller.wait(Duration::from_secs(60))?;
        for index in 0..ready {
            let socket = &sockets[poller.ready(index)];
            for _ in 0..ANSWERS_PER_TURN_MAX {
                // An error is an empty queue, or a client that has gone.
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    break;
                };
                // A full socket loses the answer, as the network would.
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
    }
}
