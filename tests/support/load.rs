//! A steady load: clients that come and go, and clients that stay. Whoever is refused, cut, or answered wrongly counts.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::net;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sessions: AtomicU64,
    rounds: AtomicU64,
    troubles: Mutex<Vec<String>>,
}

pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// `comers` clients that come one after the other, and `stayers` that stay, before an echoing backend.
    pub fn on(address: SocketAddr, comers: usize, stayers: usize) -> Load {
        let shared = Arc::new(Shared::default());
        let thread = |stays: bool| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                while !shared.stop.load(Ordering::SeqCst) {
                    if let Err(error) = visit(address, &shared, stays) {
                        let what = if stays {
                            "one that stays"
                        } else {
                            "a newcomer"
                        };
                        shared
                            .troubles
                            .lock()
                            .unwrap()
                            .push(format!("{what}: {error}"));
                    }
                }
            })
        };
        let all = (0..comers).map(|_| thread(false));
        let all = all.chain((0..stayers).map(|_| thread(true)));
        Load {
            threads: all.collect(),
            shared,
        }
    }

    pub fn rounds(&self) -> u64 {
        self.shared.rounds.load(Ordering::SeqCst)
    }

    /// Ends the load; nobody must have had trouble. How many sessions there were.
    #[track_caller]
    pub fn end(self) -> u64 {
        self.end_after(0)
    }

    /// The same where so many may have had trouble.
    #[track_caller]
    pub fn end_after(self, most: usize) -> u64 {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let troubles = self.shared.troubles.lock().unwrap();
        assert!(
            troubles.len() <= most,
            "{} in trouble: {:?}",
            troubles.len(),
            &troubles[..troubles.len().min(5)]
        );
        self.shared.sessions.load(Ordering::SeqCst)
    }
}

fn visit(address: SocketAddr, shared: &Shared, stays: bool) -> io::Result<()> {
    let stream = net::try_connect(address)?;
    shared.sessions.fetch_add(1, Ordering::SeqCst);
    for round in 0_u32.. {
        exchange(&stream, &round.to_le_bytes().repeat(200))?;
        shared.rounds.fetch_add(1, Ordering::SeqCst);
        if !stays || shared.stop.load(Ordering::SeqCst) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    match (&stream).read(&mut [0; 1])? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than was sent")),
    }
}

/// Sends this, and must get the same back.
pub fn exchange(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    match back == bytes {
        true => Ok(()),
        false => Err(io::Error::other("another answer than was sent")),
    }
}
