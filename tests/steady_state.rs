//! A warm worker allocates nothing: a worker with the real kernel carries messages and streams while an allocator counts
//! what its thread asks for.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ringway::balance::{Algorithm, Chooser};
use ringway::handoff::{
    Backend, BackendOptions, BackendShared, BreakerRules, Capacity, FlowRules, Hatches,
    ListenSocket, Listener, ListenerShared, Phase, Pool, PoolShared, Protocol, ProxyVersion,
    SessionTimes, Snapshot, Spin, Target, WaitRules, Waiters,
};
use ringway::ids::{Address, BackendId, Clock, ListenerId, PoolId, SocketId, WorkerId};
use ringway::sys::datagram;
use ringway::uring::{self, Features};
use ringway::worker;

thread_local! {
    static IS_WORKER: Cell<Option<bool>> = const { Cell::new(None) };
}

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

fn count() {
    if !COUNTING.load(Ordering::Relaxed) {
        return;
    }
    let on_worker = IS_WORKER.try_with(|known| {
        if let Some(known) = known.get() {
            return known;
        }
        // Asking for the name may allocate: say no meanwhile.
        known.set(Some(false));
        let is_worker = thread::current()
            .name()
            .is_some_and(|name| name.starts_with("worker-"));
        known.set(Some(is_worker));
        is_worker
    });
    if on_worker.unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is passed on to the system's allocator unchanged; counting touches no memory that it manages.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Echoes whatever comes, one thread per connection.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = vec![0; 256 * 1024];
                while let Ok(bytes) = stream.read(&mut buffer) {
                    if bytes == 0 || stream.write_all(&buffer[..bytes]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Echoes each datagram.
fn echo_datagrams() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((bytes, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..bytes], from);
        }
    });
    address
}

/// What goes ahead of a client's datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Headers {
    Never,
    First,
    Each,
}

impl Headers {
    const ALL: [Headers; 3] = [Headers::Never, Headers::First, Headers::Each];
    /// Of a header for IPv4.
    const BYTES: usize = 28;

    fn bytes_ahead(self, is_first: bool) -> usize {
        match self {
            Headers::Each => Headers::BYTES,
            Headers::First if is_first => Headers::BYTES,
            _ => 0,
        }
    }
}

struct Balancer {
    address: SocketAddr,
    datagrams: Vec<(SocketAddr, Headers)>,
    hatches: Arc<Hatches>,
    backend: Arc<BackendShared>,
    clock: Clock,
    thread: thread::JoinHandle<()>,
}

fn snapshot(
    generation: u64,
    phase: Phase,
    listeners: Vec<Arc<Listener>>,
    pools: &[&Arc<Pool>],
) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        generation,
        phase,
        listeners,
        pools: pools.iter().copied().map(Arc::clone).collect(),
        spin: Spin::Off,
        journal: true,
        report_ns: 0,
    })
}

/// Whoever answers has nothing to fear from it; its cost must be none in a warm worker.
const BREAKER: BreakerRules = BreakerRules {
    consecutive_failures: 3,
    early_reset_ns: 100_000_000,
    error_percent: 50,
    window_ns: 10_000_000_000,
    volume: 20,
    open_ns: 5_000_000_000,
    open_max_ns: 60_000_000_000,
    trials: 1,
    max_ejected_percent: 50,
};

fn pool_of(id: PoolId, backend: &Arc<BackendShared>, target: SocketAddr) -> Arc<Pool> {
    Arc::new(pool_with(id, backend, target, Headers::Never))
}

fn pool_with(
    id: PoolId,
    backend: &Arc<BackendShared>,
    target: SocketAddr,
    headers: Headers,
) -> Pool {
    Pool {
        shared: Arc::new(PoolShared::new(id, "p", 1)),
        chooser: Chooser::new(Algorithm::LeastConnections, &[100], &["b"]),
        hash_seed: 0,
        hash_port: false,
        backends: vec![Backend {
            shared: Arc::clone(backend),
            target: Target::Fixed(Address::Inet(target)),
            weight: 100,
            tier: 0,
        }],
        tiers: 1,
        slow_start_ns: 0,
        source: Vec::new(),
        waiters: Arc::new(Waiters::new(16)),
        wait: WaitRules {
            timeout_ns: 1_000_000_000,
            leave_on_fin: false,
        },
        connect_timeout_ns: 1_000_000_000,
        connect_attempts: 3,
        connect_budget_ns: 3_000_000_000,
        times: SessionTimes::default(),
        flow_rules: FlowRules::default(),
        doubts: false,
        options: BackendOptions {
            keepalive: None,
            user_timeout_ms: 0,
        },
        breaker: Some(BREAKER),
        send_proxy: (headers != Headers::Never).then_some(ProxyVersion::Two),
        send_proxy_every: headers == Headers::Each,
        cancel: false,
    }
}

impl Balancer {
    fn start(features: Features, pipes_max: usize) -> Balancer {
        let hatches = Arc::new(Hatches::new(1).unwrap());
        let clock = Clock::start();
        let thread = worker::start(worker::Setup {
            id: WorkerId(0),
            core: None,
            hatch: Arc::clone(&hatches.workers[0]),
            hatches: Arc::clone(&hatches),
            clock,
            sessions_max: 256,
            pipes_max,
            process: Arc::new(Capacity::new(256)),
            features,
        })
        .unwrap();
        let bound = TcpListener::bind("127.0.0.1:0").unwrap();
        bound.set_nonblocking(true).unwrap();
        let address = bound.local_addr().unwrap();
        let backend = Arc::new(BackendShared::new(BackendId(0), "p", "b", true, 1));
        let pool = pool_of(PoolId(0), &backend, echo_server());
        let socket = ListenSocket {
            id: SocketId(0),
            address: Address::Inet(address),
            descriptors: vec![OwnedFd::from(bound)],
            unlink: None,
        };
        let listener = Arc::new(Listener {
            shared: Arc::new(ListenerShared::new(ListenerId(0), "l", 1)),
            pool: PoolId(0),
            protocol: Protocol::Tcp,
            sockets: vec![Arc::new(socket)],
            wants_address: true,
            access: None,
            preface: Arc::default(),
        });
        let (mut listeners, mut pools, mut datagrams) = (vec![listener], vec![pool], Vec::new());
        for (n, headers) in (1..).zip(Headers::ALL) {
            let (of_datagrams, address) = datagram_listener(n);
            let echo = Arc::new(BackendShared::new(BackendId(n), "q", "c", true, 1));
            let pool = pool_with(PoolId(n), &echo, echo_datagrams(), headers);
            listeners.push(of_datagrams);
            pools.push(Arc::new(pool));
            datagrams.push((address, headers));
        }
        let pools: Vec<_> = pools.iter().collect();
        hatches.post(&snapshot(1, Phase::Serving, listeners, &pools));
        Balancer {
            address,
            datagrams,
            hatches,
            backend,
            clock,
            thread,
        }
    }

    fn work(&self) {
        traffic(self.address);
        for &(address, headers) in &self.datagrams {
            datagrams(address, headers);
        }
    }

    /// Drains, and waits until the worker has ended.
    fn stop(self) {
        let now = self.clock.now();
        let phase = Phase::Draining {
            close_from: now,
            close_until: now,
        };
        let pool = pool_of(PoolId(0), &self.backend, self.address);
        self.hatches.post(&snapshot(2, phase, Vec::new(), &[&pool]));
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.hatches.workers[0].counters.stopped.read() == 0 {
            assert!(Instant::now() < deadline, "the worker did not stop");
            thread::yield_now();
        }
        self.thread.join().unwrap();
    }
}

fn datagram_listener(n: u16) -> (Arc<Listener>, SocketAddr) {
    let any = "127.0.0.1:0".parse().unwrap();
    let descriptors = datagram::listen_udp(any, 1, false).unwrap();
    let bound = UdpSocket::from(descriptors[0].try_clone().unwrap());
    let address = bound.local_addr().unwrap();
    let socket = ListenSocket {
        id: SocketId(n),
        address: Address::Inet(address),
        descriptors,
        unlink: None,
    };
    let listener = Listener {
        shared: Arc::new(ListenerShared::new(ListenerId(n), "d", 1)),
        pool: PoolId(n),
        protocol: Protocol::Udp,
        sockets: vec![Arc::new(socket)],
        wants_address: true,
        access: None,
        preface: Arc::default(),
    };
    (Arc::new(listener), address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
}

/// Sends `bytes` patterned bytes and reads them back, both at once.
fn round_trip(stream: &TcpStream, bytes: usize, seed: usize) {
    let pattern: Vec<u8> = (0..bytes).map(|n| ((n * 31 + seed) % 251) as u8).collect();
    let mut back = vec![0; bytes];
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = stream;
            writer.write_all(&pattern).unwrap();
        });
        let mut reader = stream;
        reader.read_exact(&mut back).unwrap();
    });
    assert!(back == pattern, "bytes differ");
}

fn traffic(address: SocketAddr) {
    let kept: Vec<TcpStream> = (0..8).map(|_| connect(address)).collect();
    for turn in 0..50 {
        for stream in &kept {
            round_trip(stream, 64 + turn, turn);
        }
        round_trip(&connect(address), 4096, turn);
    }
    for stream in &kept {
        round_trip(stream, 6_000_000, 7);
    }
}

/// Readers that stall, several at once, and then take all that has waited for them.
fn stalls(address: SocketAddr) {
    const BYTES: usize = 12_000_000;
    let kept: Vec<TcpStream> = (0..4).map(|_| connect(address)).collect();
    thread::scope(|scope| {
        for stream in &kept {
            scope.spawn(move || {
                let mut writer = stream;
                writer.write_all(&vec![5; BYTES]).unwrap();
            });
        }
        let mut piece = vec![0; 100_000];
        for part in 0..4 {
            thread::sleep(Duration::from_millis(60));
            for mut stream in &kept {
                for _ in 0..BYTES / 4 / piece.len() {
                    stream.read_exact(&mut piece).unwrap();
                    assert!(piece.iter().all(|byte| *byte == 5), "in part {part}");
                }
            }
        }
    });
}

/// Old flows and new ones, single datagrams and bursts of equal ones.
fn datagrams(address: SocketAddr, headers: Headers) {
    let client = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        socket
    };
    let mut buffer = [0; 2_048];
    let kept: Vec<UdpSocket> = (0..8).map(|_| client()).collect();
    for round in 0..10_u8 {
        let new = client();
        for (place, socket) in kept.iter().chain([&new]).enumerate() {
            let is_new = round == 0 || place == kept.len();
            for n in 0..20 {
                socket.send(&[round; 900][..880 + n]).unwrap();
            }
            for n in 0..20 {
                let ahead = headers.bytes_ahead(is_new && n == 0);
                assert_eq!(socket.recv(&mut buffer).unwrap(), ahead + 880 + n);
            }
            for _ in 0..20 {
                socket.send(&[round; 900]).unwrap();
            }
            for _ in 0..20 {
                let ahead = headers.bytes_ahead(false);
                assert_eq!(socket.recv(&mut buffer).unwrap(), ahead + 900);
            }
        }
        // Kept open: a later client with the same port would be no new flow.
        std::mem::forget(new);
    }
    std::mem::forget(kept);
}

/// One balancer at a time: whoever counts counts what each worker of this process asks for.
static ONE: Mutex<()> = Mutex::new(());

#[test]
fn a_warm_worker_allocates_nothing() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let balancer = Balancer::start(uring::probe().unwrap(), 64);
    for _ in 0..2 {
        balancer.work();
    }
    let allocations = counted(|| balancer.work());
    let spliced = balancer.backend.workers[0].spliced_bytes.read();
    assert!(
        spliced > 100_000_000,
        "the streams were to be spliced, but only {spliced} bytes were"
    );
    balancer.stop();
    assert_eq!(allocations, 0, "allocations in a warm worker");
}

/// What stalled readers leave is kept in memory where there are no pipes; a warm worker has that already.
#[test]
fn a_warm_worker_allocates_nothing_for_stalled_readers_without_a_pipe() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let balancer = Balancer::start(uring::probe().unwrap(), 0);
    let stashes = || balancer.hatches.workers[0].counters.memory_stashes.read();
    let mut seen = Vec::new();
    // It is warm when it has met as many stalls at once, and as large ones, as there will be.
    let is_warm = |seen: &[(u64, u64)]| {
        let last = seen
            .iter()
            .rev()
            .take_while(|(_, allocations)| *allocations == 0);
        last.map(|(kept, _)| kept).sum::<u64>() >= 20
    };
    while !is_warm(&seen) && seen.len() < 20 {
        let before = stashes();
        let allocations = counted(|| stalls(balancer.address));
        // Told at the worker's pulse, which comes with work.
        thread::sleep(Duration::from_millis(100));
        round_trip(&connect(balancer.address), 64, 1);
        seen.push((stashes() - before, allocations));
    }
    eprintln!("stashes in memory, allocations: {seen:?}");
    balancer.stop();
    assert!(is_warm(&seen), "a warm worker allocates: {seen:?}");
}

/// How often workers ask for memory meanwhile.
fn counted(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    COUNTING.store(true, Ordering::SeqCst);
    work();
    COUNTING.store(false, Ordering::SeqCst);
    ALLOCATIONS.load(Ordering::SeqCst) - before
}

#[test]
fn without_optional_kernel_features_bytes_arrive_too() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let balancer = Balancer::start(Features::default(), 64);
    balancer.work();
    balancer.stop();
}
