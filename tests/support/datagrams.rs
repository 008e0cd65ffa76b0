//! Servers and clients of datagrams: threads with a std socket, each read with a deadline.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;

use super::net;
use super::wait::{seconds, within};

const LOOK: Duration = Duration::from_millis(20);
const LONGEST: usize = 65_536;

/// Sends each datagram back, behind its name.
pub struct Echo {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    received: AtomicU64,
}

impl Echo {
    pub fn plain() -> Echo {
        Echo::named("")
    }

    pub fn named(name: &str) -> Echo {
        Echo::named_at(net::free_address(), name)
    }

    pub fn named_at(address: SocketAddr, name: &str) -> Echo {
        // A child that another thread is just starting may still hold the socket that was here before.
        let socket = within(seconds(5), "an echo server is bound", || {
            UdpSocket::bind(address).ok()
        });
        roomy(&socket);
        socket.set_read_timeout(Some(LOOK)).expect("a time limit");
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let (shared, name) = (Arc::clone(&shared), name.as_bytes().to_vec());
            move || serve(&socket, &shared, &name)
        });
        Echo {
            address,
            shared,
            thread: Some(thread),
        }
    }

    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// Closes the socket: from now on datagrams to it are answered by ICMP.
    pub fn kill(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the echo server");
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve(socket: &UdpSocket, shared: &Shared, name: &[u8]) {
    let mut buffer = vec![0; LONGEST];
    while !shared.stop.load(Ordering::SeqCst) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        shared.received.fetch_add(1, Ordering::SeqCst);
        let answer = [name, &buffer[..length]].concat();
        let _ = socket.send_to(&answer, from);
    }
}

/// A client's socket, connected.
pub fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((net::host(), 0)).expect("a client's socket");
    socket.connect(to).expect("connect a client's socket");
    roomy(&socket);
    socket
        .set_read_timeout(Some(net::PATIENCE))
        .expect("a time limit");
    socket
}

/// As much room as the system gives, so that nothing is lost on loopback for want of it.
pub fn roomy(socket: &UdpSocket) {
    let socket = SockRef::from(socket);
    let _ = socket.set_recv_buffer_size(8 << 20);
    let _ = socket.set_send_buffer_size(8 << 20);
}

/// Sends datagrams of one size in one call (UDP_SEGMENT), as senders of many do: over loopback they also arrive together.
pub fn send_joined(socket: &UdpSocket, datagrams: &[Vec<u8>]) {
    let size = datagrams[0].len() as libc::c_int;
    // SAFETY: the option is an integer, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    socket.send(&datagrams.concat()).expect("one send");
}

/// Sends and waits for the answer.
pub fn ask(socket: &UdpSocket, question: &[u8]) -> io::Result<Vec<u8>> {
    socket.send(question)?;
    let mut buffer = vec![0; LONGEST];
    let length = receive(socket, &mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// A receive with a time limit ends when a signal comes or the process was stopped meanwhile (signal(7)): it is begun again.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}
