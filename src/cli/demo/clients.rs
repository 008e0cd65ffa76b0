//! The demo's clients: each sends a numbered line, wants it back, and now and then connects anew. One whose connection is
//! cut (its backend was killed) connects again and asks again, as a client of a database does; a request that has no
//! right answer within a few seconds has failed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::datagrams::{self, Answer};

const CLIENTS: u64 = 24;
/// Requests on one connection.
const REQUESTS: u64 = 50;
/// Between an answer and the next request.
const THOUGHT: Duration = Duration::from_millis(10);
/// A request without its answer by then has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the clients saw so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub requests: u64,
    pub failures: u64,
    pub connections: u64,
    /// Connections that ended before their time.
    pub cut: u64,
    /// Datagrams that were answered, and questions that were asked again.
    pub datagrams: u64,
    pub asked_again: u64,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    failures: AtomicU64,
    connections: AtomicU64,
    cut: AtomicU64,
    datagrams: AtomicU64,
    asked_again: AtomicU64,
}

impl Counters {
    /// What became of a question by datagram.
    fn note(&self, answer: Answer) {
        let counter = match answer {
            Answer::Right => &self.datagrams,
            Answer::Wrong => &self.failures,
            Answer::None => &self.asked_again,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) struct Clients {
    counters: Arc<Counters>,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Clients {
    /// Clients of a listener for streams, and of one for datagrams.
    pub(super) fn start(address: SocketAddr, of_datagrams: SocketAddr) -> io::Result<Clients> {
        let counters = Arc::new(Counters::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (end, ended) = oneshot::channel();
        let shared = Arc::clone(&counters);
        let thread = std::thread::Builder::new()
            .name("clients".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    for number in 0..CLIENTS {
                        tokio::spawn(live(number, address, Arc::clone(&shared)));
                    }
                    for number in 0..datagrams::CLIENTS {
                        let counters = Arc::clone(&shared);
                        let tell = move |answer| counters.note(answer);
                        tokio::spawn(datagrams::live(number, of_datagrams, tell));
                    }
                    let _ = ended.await;
                });
            })?;
        Ok(Clients {
            counters,
            end,
            thread,
        })
    }

    pub(super) fn tally(&self) -> Tally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            requests: read(&self.counters.requests),
            failures: read(&self.counters.failures),
            connections: read(&self.counters.connections),
            cut: read(&self.counters.cut),
            datagrams: read(&self.counters.datagrams),
            asked_again: read(&self.counters.asked_again),
        }
    }

    pub(super) fn stop(self) -> Tally {
        let tally = self.tally();
        let _ = self.end.send(());
        let _ = self.thread.join();
        tally
    }
}

async fn live(number: u64, address: SocketAddr, counters: Arc<Counters>) {
    let add = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
    let mut connection = None;
    let mut left = 0;
    for request in 0.. {
        let line = format!("client {number} request {request}\n");
        let asked = tokio::time::timeout(PATIENCE, async {
            while !ask(&mut connection, &mut left, address, &line, &counters).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let answered = asked.await.is_ok();
        add(&counters.requests);
        if !answered {
            add(&counters.failures);
            connection = None;
        }
        tokio::time::sleep(THOUGHT).await;
    }
}

/// One attempt; false if the connection could not be had or was cut.
async fn ask(
    connection: &mut Option<BufReader<TcpStream>>,
    left: &mut u64,
    address: SocketAddr,
    line: &str,
    counters: &Counters,
) -> bool {
    if *left == 0 {
        *connection = None;
    }
    if connection.is_none() {
        let Ok(stream) = TcpStream::connect(address).await else {
            return false;
        };
        let _ = stream.set_nodelay(true);
        counters.connections.fetch_add(1, Ordering::Relaxed);
        *connection = Some(BufReader::new(stream));
        *left = REQUESTS;
    }
    let Some(stream) = connection else {
        return false;
    };
    let right = exchange(stream, line).await.unwrap_or(false);
    if right {
        *left -= 1;
    } else {
        counters.cut.fetch_add(1, Ordering::Relaxed);
        *connection = None;
    }
    right
}

/// Whether the line came back, behind a backend's name.
async fn exchange(stream: &mut BufReader<TcpStream>, line: &str) -> io::Result<bool> {
    stream.get_mut().write_all(line.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await?;
    Ok(answer.split_once(' ').is_some_and(|(_, rest)| rest == line))
}
