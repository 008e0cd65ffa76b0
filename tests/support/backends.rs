//! Backends made of threads: one accepts, one serves each connection with a function of the test's choice. They count
//! what they hold, so that a test can see what the balancer did from the other side.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::net;

const STACK_BYTES: usize = 256 * 1024;

type Handler = Arc<dyn Fn(&TcpStream) -> io::Result<()> + Send + Sync>;

/// A backend that listens until it is stopped or dropped.
pub struct Backend {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    accepted: AtomicU64,
    active: AtomicU64,
    peak: AtomicU64,
    failed: AtomicU64,
    stopping: AtomicBool,
    streams: Mutex<HashMap<u64, Arc<TcpStream>>>,
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, HashMap<u64, Arc<TcpStream>>> {
        self.streams
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Backend {
    /// Serves each connection on a thread of its own; the connection is closed when the function returns.
    pub fn serve(
        handler: impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Backend {
        Backend::serve_on(net::listen(net::free_address()), handler)
    }

    pub fn serve_on(
        listener: TcpListener,
        handler: impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Backend {
        Backend::start(listener, Some(Arc::new(handler)))
    }

    /// Accepts and does nothing: neither reads nor writes nor closes.
    pub fn hold() -> Backend {
        Backend::start(net::listen(net::free_address()), None)
    }

    pub fn hold_on(listener: TcpListener) -> Backend {
        Backend::start(listener, None)
    }

    pub fn echo() -> Backend {
        Backend::serve(echo)
    }

    /// Speaks first: its name and a line end; then echoes.
    pub fn named(name: &str) -> Backend {
        Backend::named_on(net::listen(net::free_address()), name)
    }

    pub fn named_on(listener: TcpListener, name: &str) -> Backend {
        let greeting = format!("{name}\n");
        Backend::serve_on(listener, move |mut stream| {
            stream.write_all(greeting.as_bytes())?;
            echo(stream)
        })
    }

    fn start(listener: TcpListener, handler: Option<Handler>) -> Backend {
        let address = listener.local_addr().expect("address of a listener");
        let shared = Arc::new(Shared::default());
        let accepting = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared, handler.as_ref())
        });
        Backend {
            address,
            shared,
            accepting: Some(accepting),
        }
    }

    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now; of a holding backend: all that it ever accepted.
    pub fn active(&self) -> u64 {
        self.shared.active.load(Ordering::SeqCst)
    }

    /// The most connections that were open at once.
    pub fn peak(&self) -> u64 {
        self.shared.peak.load(Ordering::SeqCst)
    }

    /// Connections whose function returned an error.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::SeqCst)
    }

    /// What a holding backend accepted, in no order.
    pub fn held(&self) -> Vec<Arc<TcpStream>> {
        self.shared.streams().values().map(Arc::clone).collect()
    }

    /// Stops listening; new connections are refused, what is open goes on.
    pub fn stop_listening(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; it may have gone already.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }

    /// Stops as a killed process does: nothing is accepted, everything open is reset.
    pub fn kill(&mut self) {
        self.stop_listening();
        let streams: Vec<_> = self.shared.streams().drain().collect();
        for (_, stream) in streams {
            net::will_reset(&stream);
            // Wakes the thread that serves it; the reset follows when that thread lets go.
            let _ = stream.shutdown(std::net::Shutdown::Read);
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop_listening();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, handler: Option<&Handler>) {
    for number in 0.. {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => panic!("a test's backend cannot accept: {error}"),
        };
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        net::prepare(&stream).expect("options of an accepted socket");
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        let active = shared.active.fetch_add(1, Ordering::SeqCst) + 1;
        shared.peak.fetch_max(active, Ordering::SeqCst);
        let stream = Arc::new(stream);
        shared.streams().insert(number, Arc::clone(&stream));
        if let Some(handler) = handler {
            serve(number, stream, Arc::clone(shared), Arc::clone(handler));
        }
    }
}

fn serve(number: u64, stream: Arc<TcpStream>, shared: Arc<Shared>, handler: Handler) {
    let started = std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || {
            if handler(&stream).is_err() {
                shared.failed.fetch_add(1, Ordering::SeqCst);
            }
            // Counted before the close: the balancer may let the next client in as soon as it sees the end.
            shared.active.fetch_sub(1, Ordering::SeqCst);
            shared.streams().remove(&number);
        });
    started.expect("a thread for a connection");
}

/// Sends back what comes, until the other side ends; then ends as well.
pub fn echo(mut stream: &TcpStream) -> io::Result<()> {
    let mut piece = [0; 32 * 1024];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            n => stream.write_all(&piece[..n])?,
        }
    }
}

/// Reads a line, without what follows it.
pub fn read_line(mut stream: impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if byte[0] == b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
            _ => line.push(byte[0]),
        }
    }
}
