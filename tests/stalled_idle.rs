//! What clients that do nothing cost: stalled readers take no CPU and slow nobody down, idle sessions take next to no
//! memory and no buffer.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use support::backends::Backend;
use support::ringway::{Front, Ringway, Setup, listener, pool_with, single};
use support::wait::{seconds, until};
use support::{alone, net, pattern, process};

const SMALL: usize = 8 * 1024;

/// Writes the pattern until every buffer on the way is full; returns how much went in.
fn fill_up(stream: &TcpStream, seed: u64) -> u64 {
    stream.set_nonblocking(true).expect("non-blocking");
    let mut piece = vec![0; 64 * 1024];
    let mut sent = 0;
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < Duration::from_millis(250) {
        pattern::fill(seed, sent, &mut piece);
        match (&mut &*stream).write(&piece) {
            Ok(n) => {
                sent += n as u64;
                quiet_since = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{error} while filling the buffers"),
        }
    }
    stream.set_nonblocking(false).expect("blocking");
    sent
}

/// Fifty sessions that nobody reads, half of them in each direction.
#[test]
fn fifty_stalled_sessions_cost_no_cpu_and_lose_nothing() {
    let turn = alone();
    let backend = Backend::hold();
    let front = Front::with(backend.address, |setup| setup.workers(2));
    let clients: Vec<_> = (0..50).map(|_| net::connect(front.address)).collect();
    until(seconds(10), "all sessions reached the backend", || {
        backend.accepted() == 50
    });
    let far: Vec<Arc<TcpStream>> = backend.held();
    let sent: Vec<u64> = thread::scope(|scope| {
        let up = clients[..25]
            .iter()
            .map(|stream| scope.spawn(|| fill_up(stream, 1)));
        let fillers: Vec<_> = up.collect();
        fillers
            .into_iter()
            .map(|filler| filler.join().expect("a filler"))
            .collect()
    });
    // The far ends come in no order: those that got bytes belong to the first half.
    let (full, empty): (Vec<_>, Vec<_>) = far.iter().partition(|stream| {
        stream.set_nonblocking(true).expect("non-blocking");
        let got = stream.peek(&mut [0; 1]).is_ok();
        stream.set_nonblocking(false).expect("blocking");
        got
    });
    assert_eq!((full.len(), empty.len()), (25, 25));
    let sent_back: Vec<u64> = thread::scope(|scope| {
        let down = empty
            .iter()
            .map(|stream| scope.spawn(|| fill_up(stream, 2)));
        let fillers: Vec<_> = down.collect();
        fillers
            .into_iter()
            .map(|filler| filler.join().expect("a filler"))
            .collect()
    });

    // What a process of its own takes while nothing happens is the same beside others.
    drop(turn);
    if let Some(ringway) = front.ringway() {
        assert_no_cpu(ringway);
        assert_eq!(
            ringway.metric("ringway_sessions_active"),
            50.0,
            "none was cut"
        );
    }

    // Everybody reads, and everything arrives.
    let _turn = alone();
    let total_up: u64 = thread::scope(|scope| {
        for stream in &clients[..25] {
            stream
                .shutdown(std::net::Shutdown::Write)
                .expect("half-close");
        }
        let readers = full.iter().map(|stream| {
            scope.spawn(|| pattern::receive_to_end(&***stream, 1).expect("all bytes"))
        });
        let readers: Vec<_> = readers.collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader"))
            .sum()
    });
    assert_eq!(total_up, sent.iter().sum::<u64>());
    let total_down: u64 = thread::scope(|scope| {
        for stream in &empty {
            stream
                .shutdown(std::net::Shutdown::Write)
                .expect("half-close");
        }
        let readers = clients[25..].iter().map(|stream| {
            scope.spawn(move || pattern::receive_to_end(stream, 2).expect("all bytes"))
        });
        let readers: Vec<_> = readers.collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader"))
            .sum()
    });
    assert_eq!(total_down, sent_back.iter().sum::<u64>());
}

/// Clients that have sent their end and then read slowly, or wait for room at a backend: their end is no reason to look
/// at them again and again.
#[test]
fn clients_that_have_sent_their_end_cost_no_cpu() {
    let turn = alone();
    let backend = Backend::hold();
    let address = net::free_address();
    let lines = "wait = { size = 100, timeout = \"300s\" }";
    let limit = "max_connections = 10";
    let backends = [("only", backend.address.to_string(), limit)];
    let unchecked = "[pool.health]\nkind = \"none\"\n";
    let ringway = Ringway::start(
        listener("main", address, "main") + &pool_with("main", lines, unchecked, &backends),
    );
    let open = |count: usize| -> Vec<TcpStream> {
        let one = |_| {
            let mut stream = net::connect(address);
            stream.write_all(b"a request").expect("send");
            stream
                .shutdown(std::net::Shutdown::Write)
                .expect("half-close");
            stream
        };
        (0..count).map(one).collect()
    };
    let readers = open(10);
    until(seconds(10), "the backend is full", || {
        backend.accepted() == 10
    });
    let _waiting = open(10);
    until(seconds(10), "the others wait", || {
        ringway.metric("ringway_waiting") == 10.0
    });
    let far = backend.held();
    let sent: u64 = thread::scope(|scope| {
        let fillers: Vec<_> = far
            .iter()
            .map(|stream| scope.spawn(|| fill_up(stream, 2)))
            .collect();
        let sent = fillers.into_iter().map(|it| it.join().expect("a filler"));
        sent.sum()
    });
    drop(turn);
    assert_no_cpu(&ringway);
    let _turn = alone();
    let total: u64 = thread::scope(|scope| {
        for stream in &far {
            stream
                .shutdown(std::net::Shutdown::Write)
                .expect("half-close");
        }
        let readers: Vec<_> = readers
            .iter()
            .map(|stream| {
                scope.spawn(move || pattern::receive_to_end(stream, 2).expect("all bytes"))
            })
            .collect();
        let found = readers.into_iter().map(|it| it.join().expect("a reader"));
        found.sum()
    });
    assert_eq!(total, sent);
}

/// Less than a thousandth of a core over the whole time for the workers, whom stalled sessions could keep busy; office and
/// prober look around whether there are sessions or not, which in this build must cost less than three thousandths.
fn assert_no_cpu(ringway: &Ringway) {
    let span = seconds(30);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let pid = ringway.pid();
        let before = [process::cpu_time_of(pid, "worker-"), process::cpu_time(pid)];
        thread::sleep(span);
        let workers = process::cpu_time_of(pid, "worker-") - before[0];
        let all = process::cpu_time(pid) - before[1];
        seen.push((workers, all));
        if workers < span / 1_000 && all < span * 3 / 1_000 {
            return;
        }
    }
    panic!("CPU of workers and of all in {span:?}: {seen:?}");
}

/// Messages with pauses that a spin can bridge cost the worker time with a fixed one; silence costs next to nothing.
#[test]
fn spinning_is_over_when_nobody_speaks() {
    let _alone = alone();
    const MESSAGES: u32 = 2_000;
    let echo = Backend::echo();
    let spent = ["0us", "100us", "auto"].map(|spin| {
        let address = net::free_address();
        let lines = format!("workers = 1\npin = \"off\"\nspin = \"{spin}\"\n");
        let ringway = Setup::new(single(address, echo.address))
            .global(lines)
            .start();
        let mut stream = net::connect(address);
        let worker = || process::cpu_time_of(ringway.pid(), "worker-");
        let before = worker();
        for number in 0..MESSAGES {
            let message = number.to_le_bytes();
            stream.write_all(&message).expect("send");
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).expect("the echo");
            assert_eq!(answer, message);
            thread::sleep(Duration::from_micros(100));
        }
        let busy = worker() - before;
        thread::sleep(Duration::from_millis(200));
        let before = worker();
        thread::sleep(seconds(2));
        let silent = worker() - before;
        eprintln!(
            "spin {spin}: {busy:?} for {MESSAGES} messages, {silent:?} in two silent seconds"
        );
        assert!(
            silent < Duration::from_millis(20),
            "{spin}: {silent:?} of two silent seconds"
        );
        busy
    });
    // After each message the worker waits for longer than it spins.
    let more = spent[1].saturating_sub(spent[0]);
    assert!(more > MESSAGES * Duration::from_micros(50), "{spent:?}");
}

/// Connect, one message there and back, close: how long.
fn fresh_session(address: SocketAddr) -> Duration {
    let began = Instant::now();
    let mut stream = net::connect(address);
    stream.write_all(b"fresh").expect("send");
    stream.read_exact(&mut [0; 5]).expect("the echo");
    began.elapsed()
}

/// The p99 of fresh sessions, each measured right after one of the other kind.
fn paired_p99(idle: SocketAddr, busy: SocketAddr, rounds: usize) -> (Duration, Duration) {
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        // Who is first changes, so that neither always has the warmer caches.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            took[which].push(fresh_session([idle, busy][which]));
        }
    }
    let [idle, busy] = took.map(|mut took| {
        took.sort();
        took[rounds * 99 / 100]
    });
    (idle, busy)
}

/// Sessions in one process that nobody reads, half of them in each direction.
struct Stalled {
    backends: [Backend; 2],
    fronts: [SocketAddr; 2],
}

impl Stalled {
    fn new() -> Stalled {
        let backend = |_| {
            let listener = net::listen_with(net::free_address(), SMALL).expect("listen");
            Backend::hold_on(listener)
        };
        Stalled {
            backends: [0, 1].map(backend),
            fronts: [0, 1].map(|_| net::free_address()),
        }
    }

    /// Listeners of their own: to the first one clients send, behind the second one a backend.
    fn lines(&self) -> String {
        let part = |n: usize| {
            let name = format!("\"stalled-{n}\"");
            single(self.fronts[n], self.backends[n].address).replace("\"main\"", &name)
        };
        part(0) + &part(1)
    }

    /// Opens so many in each direction, and fills them until nobody takes anything any more; returns the clients.
    fn fill(&self, each: usize) -> Vec<TcpStream> {
        let open = |n: usize| net::connect_with(None, self.fronts[n / each], SMALL);
        let clients: Vec<_> = (0..2 * each).map(|n| open(n).expect("connect")).collect();
        for backend in &self.backends {
            until(seconds(30), "all reached their backend", || {
                backend.held().len() == each
            });
        }
        let far = self.backends[1].held();
        let mut writers: Vec<&TcpStream> = clients[..each].iter().collect();
        writers.extend(far.iter().map(|stream| &**stream));
        for stream in &writers {
            let socket = socket2::SockRef::from(*stream);
            socket.set_send_buffer_size(SMALL).expect("SO_SNDBUF");
            stream.set_nonblocking(true).expect("non-blocking");
        }
        let piece = vec![7; 32 * 1024];
        let mut quiet = 0;
        // Round and round.
        while quiet < 3 {
            let takes = |stream: &&&TcpStream| (&mut &***stream).write(&piece).is_ok();
            let moved = writers.iter().filter(takes).count();
            quiet = if moved == 0 { quiet + 1 } else { 0 };
            thread::sleep(Duration::from_millis(30));
        }
        clients
    }
}

#[test]
fn three_thousand_stalled_sessions_slow_nobody_down_with_one_worker() {
    three_thousand_stalled_sessions_slow_nobody_down(1);
}

#[test]
fn three_thousand_stalled_sessions_slow_nobody_down_with_two_workers() {
    three_thousand_stalled_sessions_slow_nobody_down(2);
}

fn three_thousand_stalled_sessions_slow_nobody_down(workers: usize) {
    let _alone = alone();
    let echo = Backend::echo();
    let (idle, busy) = (net::free_address(), net::free_address());
    let start = |body: String| Setup::new(body).workers(workers).start();
    let _quiet = start(single(idle, echo.address));
    let stalled = Stalled::new();
    let loaded = start(single(busy, echo.address) + &stalled.lines());
    let _clients = stalled.fill(1_500);

    paired_p99(idle, busy, 300);
    let mut ratios: Vec<f64> = Vec::new();
    // The machine's noise is in the tail: the median of several pairs, and a second look before a verdict.
    for _ in 0..3 {
        for _ in 0..5 {
            let (idle, busy) = paired_p99(idle, busy, 400);
            ratios.push(busy.as_secs_f64() / idle.as_secs_f64());
        }
        ratios.sort_by(f64::total_cmp);
        if ratios[ratios.len() / 2] <= 1.2 {
            break;
        }
    }
    let median = ratios[ratios.len() / 2];
    eprintln!(
        "p99 beside 3,000 stalled sessions, {workers} workers: {median:.2} of idle ({ratios:.2?})"
    );
    assert!(median <= 1.2, "p99 grew to {median:.2} times: {ratios:.2?}");
    assert_eq!(
        loaded.metric("ringway_sessions_active"),
        3_000.0,
        "none was cut"
    );
}

/// Five thousand sessions that have spoken once and are silent now.
#[test]
fn an_idle_session_costs_little_memory_and_no_buffer() {
    let _alone = alone();
    const SESSIONS: usize = 5_000;
    let backend = Backend::hold();
    let address = net::free_address();
    let ringway = Setup::new(single(address, backend.address)).start();
    // The first sessions warm what all share.
    let open = |count: usize| -> Vec<TcpStream> {
        (0..count)
            .map(|_| {
                let mut stream = net::connect(address);
                stream.write_all(b"here I am").expect("send");
                stream
            })
            .collect()
    };
    let mut clients = open(200);
    let settled = |count: usize| {
        until(seconds(60), "all sessions reached the backend", || {
            backend.accepted() == count as u64
        });
        for stream in backend.held() {
            (&mut &*stream).read_exact(&mut [0; 1]).expect("a byte");
        }
    };
    settled(200);
    ringway.metrics();
    let before = process::resident_kib(ringway.pid());
    clients.extend(open(SESSIONS));
    settled(200 + SESSIONS);
    until(seconds(10), "no buffer is held by idle sessions", || {
        ringway.metric("ringway_buffers_held") == 0.0
    });
    assert_eq!(
        ringway.metric("ringway_sessions_active"),
        (200 + SESSIONS) as f64
    );
    assert_eq!(ringway.metric("ringway_pipes_open"), 0.0);
    let after = process::resident_kib(ringway.pid());
    let each = (after.saturating_sub(before)) as f64 * 1024.0 / SESSIONS as f64;
    eprintln!("an idle session costs {each:.0} bytes of the process's own memory");
    assert!(
        each < 2_048.0,
        "{each:.0} bytes: from {before} to {after} KiB"
    );

    // All of them still work.
    for (number, stream) in clients.iter_mut().enumerate().step_by(97) {
        stream.write_all(&[number as u8]).expect("still open");
    }
    drop(clients);
}
