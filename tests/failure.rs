//! What breaks around the balancer: dead backends, backends that die under load, addresses in use, wrong
//! configurations, garbage, and kernels without this or that feature.
#![allow(clippy::unwrap_used)]

#[path = "failure/start.rs"]
mod start;
mod support;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::backends::{Backend, read_line};
use support::datagrams::{Echo, ask, client, send_joined};
use support::pairs::{Pairs, Who};
use support::ringway::{Front, PROGRAM, Ringway, Setup, listener, pool, pool_with, run, single};
use support::servers::Redis;
use support::wait::{Dice, seconds, until};
use support::{alone, net, pattern};

/// A message there and back; errors are the balancer's.
fn round_trip(address: SocketAddr) -> io::Result<()> {
    let mut stream = net::try_connect(address)?;
    stream.write_all(b"hello")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    if &answer != b"hello" {
        return Err(io::Error::other("a wrong answer"));
    }
    Ok(())
}

/// Runs `clients` round trips from `threads` threads; returns how many failed.
fn storm(address: SocketAddr, threads: usize, clients: usize) -> u64 {
    let failed = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..clients / threads {
                    if let Err(error) = round_trip(address) {
                        eprintln!("a client failed: {error}");
                        failed.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    failed.into_inner()
}

#[test]
fn one_of_three_backends_dead_and_no_checks_harms_no_client() {
    let _alone = alone();
    let backends = [Backend::echo(), Backend::echo()];
    let dead = net::free_address();
    for algorithm in [
        "round-robin",
        "least-connections",
        "power-of-two",
        "random",
        "source-hash",
        "maglev",
        "least-latency",
        "first",
    ] {
        let address = net::free_address();
        // With the port among what is hashed, clients of one address meet all backends.
        let lines = format!("algorithm = \"{algorithm}\"\nhash_key = \"address-port\"");
        let members = [
            ("dead", dead),
            ("one", backends[0].address),
            ("two", backends[1].address),
        ];
        let ringway =
            Setup::new(listener("main", address, "main") + &pool("main", &lines, &members))
                .workers(2)
                .start();
        assert_eq!(storm(address, 8, 1_000), 0, "{algorithm}");
        let metrics = ringway.metrics();
        assert!(
            metrics.sum("ringway_retries_total", &[]) > 0.0,
            "{algorithm}"
        );
        let refused = metrics.sum("ringway_connect_failures_total", &[("reason", "refused")]);
        assert!(refused > 0.0, "{algorithm}");
        assert_eq!(
            metrics.sum("ringway_sessions_total", &[]),
            1_000.0,
            "{algorithm}"
        );
    }
}

/// Without a backend that answers, the client is closed with RST, not FIN.
#[test]
fn a_client_without_a_backend_is_reset() {
    let address = net::free_address();
    let lines = "wait = { size = 0 }";
    let dead = [("a", net::free_address()), ("b", net::free_address())];
    let ringway = Ringway::start(listener("main", address, "main") + &pool("main", lines, &dead));
    for _ in 0..20 {
        net::expect_turned_away(address);
    }
    ringway.wait_empty();
    let refused = [("end", "connect-refused")];
    let ends = ringway
        .metrics()
        .sum("ringway_session_ends_total", &refused);
    assert_eq!(ends, 20.0);
}

/// Each attempt goes to another backend while there is one, then to the same again after 100 ms, as often as the pool says.
#[test]
fn there_are_as_many_attempts_as_the_pool_says() {
    let good = Backend::echo();
    let dead: Vec<_> = (0..20)
        .map(|n| (format!("dead{n}"), net::free_address()))
        .collect();
    let mut members: Vec<_> = dead.iter().map(|(name, at)| (name.as_str(), *at)).collect();
    members.push(("good", good.address));
    let (many, alone) = (net::free_address(), net::free_address());
    let lines = "algorithm = \"first\"\nconnect_attempts = 21";
    let patient = "connect_attempts = 12\nwait = { size = 0 }";
    let body = listener("many", many, "many")
        + &pool("many", lines, &members)
        + &listener("alone", alone, "alone")
        + &pool("alone", patient, &members[..1]);
    let ringway = Ringway::start(body);
    let attempts = |pool| {
        let labels = [("pool", pool)];
        ringway
            .metrics()
            .sum("ringway_connect_attempts_total", &labels)
    };
    round_trip(many).expect("served by the last of all");
    assert_eq!(attempts("many"), 21.0);
    let began = Instant::now();
    net::expect_turned_away(alone);
    assert!(
        began.elapsed() >= Duration::from_millis(1_100),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(attempts("alone"), 12.0);
}

/// A backend that does not answer SYN is left after `connect_timeout`, and the next one serves.
#[test]
fn a_backend_that_does_not_answer_is_left_after_the_connect_timeout() {
    // A full accept queue drops SYNs: the closest to a dead host that loopback offers.
    let mute = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let mute_address = net::free_address();
    mute.bind(&mute_address.into()).expect("bind");
    mute.listen(0).expect("listen");
    let mut fillers = Vec::new();
    for _ in 0..4 {
        let limit = Duration::from_millis(300);
        fillers.extend(TcpStream::connect_timeout(&mute_address, limit).ok());
    }
    let good = Backend::echo();
    let address = net::free_address();
    let lines = "algorithm = \"first\"\nconnect_timeout = \"400ms\"";
    let members = [("mute", mute_address), ("good", good.address)];
    let ringway =
        Ringway::start(listener("main", address, "main") + &pool("main", lines, &members));
    let began = Instant::now();
    round_trip(address).expect("served by the second backend");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(390), "{took:?}");
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    let timeouts = [("backend", "mute"), ("reason", "timeout")];
    let failures = ringway
        .metrics()
        .sum("ringway_connect_failures_total", &timeouts);
    assert_eq!(failures, 1.0);
}

const CHECKED: &str = "[pool.health]\nkind = \"tcp\"\ninterval = \"400ms\"\nfast_interval = \"100ms\"\n\
                       timeout = \"300ms\"\nrise = 2\nfall = 3\n";

/// Three Redis servers; one is killed under load and comes back.
#[test]
fn a_backend_killed_under_load_is_found_in_time_and_comes_back() {
    let _alone = alone();
    let mut servers = [Redis::start(), Redis::start(), Redis::start()];
    let address = net::free_address();
    let names = ["one", "two", "three"];
    let members: Vec<_> = names
        .iter()
        .zip(&servers)
        .map(|(name, server)| (*name, server.address.to_string(), ""))
        .collect();
    let body = listener("main", address, "main") + &pool_with("main", "", CHECKED, &members);
    let ringway = Setup::new(body).workers(2).start();
    for name in names {
        ringway.wait_state(name, "up", seconds(10));
    }

    let stop = AtomicBool::new(false);
    let (served, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        // Long sessions: each knows the server it is on, by its run id.
        let long: Vec<_> = (0..12).map(|_| Long::open(address)).collect();
        let victim = long[0].run_id.clone();
        let at = servers
            .iter()
            .position(|server| run_id(server.address) == victim)
            .expect("the first session's server");
        let stop = &stop;
        let (served, refused) = (&served, &refused);
        for _ in 0..4 {
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    match ping(address) {
                        Ok(()) => served.fetch_add(1, Ordering::SeqCst),
                        Err(_) => refused.fetch_add(1, Ordering::SeqCst),
                    };
                }
            });
        }
        servers[at].server.kill();
        let killed = Instant::now();
        ringway.wait_state(names[at], "down", seconds(5));
        // A refusal counts as two: an interval, a fast interval, jitter, and the machine's own pace.
        let took = killed.elapsed();
        assert!(
            took < Duration::from_millis(1_200),
            "found only after {took:?}"
        );
        let after = refused.load(Ordering::SeqCst);

        for session in long {
            let alive = session.is_alive();
            assert_eq!(
                alive,
                session.run_id != victim,
                "sessions of others are untouched"
            );
        }
        let before = served.load(Ordering::SeqCst);
        until(seconds(10), "clients are served by the others", || {
            served.load(Ordering::SeqCst) > before + 200
        });
        assert_eq!(
            refused.load(Ordering::SeqCst),
            after,
            "no client fails once it is down"
        );

        let server = Redis::start_on(servers[at].address);
        ringway.wait_state(names[at], "up", seconds(5));
        let labels = [("backend", names[at])];
        let count = || {
            ringway
                .metrics()
                .sum("ringway_backend_sessions_total", &labels)
        };
        let before = count();
        until(seconds(10), "it gets sessions again", || {
            count() > before + 20.0
        });
        servers[at] = server;
        stop.store(true, Ordering::SeqCst);
    });
    // Only a session that was on the victim in the moment of its death may have failed.
    assert!(
        refused.load(Ordering::SeqCst) <= 8,
        "{refused:?} clients failed"
    );
    ringway.wait_empty();
}

fn ping(address: SocketAddr) -> io::Result<()> {
    let mut stream = net::try_connect(address)?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)
}

fn run_id(address: SocketAddr) -> String {
    let text = Redis::cli(address, &["info", "server"]);
    let line = text.lines().find_map(|line| line.strip_prefix("run_id:"));
    line.expect("a run id").trim().to_string()
}

/// A session that stays.
struct Long {
    stream: TcpStream,
    run_id: String,
}

impl Long {
    fn open(address: SocketAddr) -> Long {
        let mut stream = net::connect(address);
        stream.write_all(b"INFO server\r\n").expect("ask");
        let size = read_line(&stream).expect("a length");
        let size: usize = size.trim_matches(['$', '\r']).parse().expect("a length");
        let mut text = vec![0; size + 2];
        stream.read_exact(&mut text).expect("the answer");
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("run_id:"));
        Long {
            stream,
            run_id: line.expect("a run id").to_string(),
        }
    }

    fn is_alive(&self) -> bool {
        let mut stream = &self.stream;
        let mut answer = [0; 7];
        stream
            .write_all(b"PING\r\n")
            .and_then(|()| stream.read_exact(&mut answer))
            .is_ok()
    }
}

/// Random bytes, early ends and resets from both sides at once: nothing hangs, nothing panics, nothing is left.
#[test]
fn garbage_from_both_sides() {
    let _alone = alone();
    let number = AtomicU64::new(0);
    let backend = Backend::serve(move |stream| {
        behave_badly(stream, number.fetch_add(1, Ordering::SeqCst) * 2)
    });
    let front = Front::with(backend.address, |setup| setup.workers(2));
    let address = front.address;
    thread::scope(|scope| {
        for thread in 0..8_u64 {
            scope.spawn(move || {
                for round in 0..150 {
                    // What comes of it is the other side's choice.
                    if let Ok(stream) = net::try_connect(address) {
                        let _ = behave_badly(&stream, (thread * 1_000 + round) * 2 + 1);
                    }
                }
            });
        }
    });
    if let Some(ringway) = front.ringway() {
        ringway.wait_empty();
        let internal = [("end", "internal")];
        assert_eq!(
            ringway
                .metrics()
                .sum("ringway_session_ends_total", &internal),
            0.0
        );
        assert_eq!(ringway.metric("ringway_stale_answers_total"), 0.0);
    }
}

fn behave_badly(mut stream: &TcpStream, seed: u64) -> io::Result<()> {
    let mut dice = Dice(seed);
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    stream.set_write_timeout(Some(Duration::from_millis(20)))?;
    let mut piece = vec![0; 40_000];
    for _ in 0..dice.below(6) {
        let n = dice.below(40_000) as usize;
        pattern::fill(dice.roll(), 0, &mut piece[..n]);
        match dice.below(5) {
            0 => {
                let _ = stream.read(&mut piece);
            }
            1 => stream.shutdown(Shutdown::Write)?,
            _ => drop(stream.write(&piece[..n])?),
        }
    }
    if dice.chance(40) {
        net::will_reset(stream);
    }
    Ok(())
}

/// The admin address is an address like any other: garbage and slow clients there do not hurt either.
#[test]
fn garbage_at_the_admin_address() {
    let backend = Backend::echo();
    let address = net::free_address();
    let ringway = Ringway::start(single(address, backend.address));
    let mut idle = Vec::new();
    for round in 0..100_u64 {
        let mut stream = net::connect(ringway.admin());
        let mut noise = vec![0; 3_000];
        pattern::fill(round, 0, &mut noise);
        match round % 4 {
            0 => drop(stream.write_all(&noise)),
            1 => drop(stream.write_all(b"GET / HTTP/9.9\r\n\r\n")),
            2 => drop(stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")),
            _ => idle.push(stream),
        }
    }
    // Connections are limited; those that say nothing must lose theirs.
    until(seconds(30), "the pages are back", || {
        ringway.get("/healthz").is_ok_and(|(code, _)| code == 200)
    });
    assert_eq!(ringway.get("/nothing").expect("an answer").0, 404);
    round_trip(address).expect("traffic goes on");
}

/// Names of the kernel features that can be masked, from `ringway version`.
fn maskable() -> Vec<String> {
    let output = run(&["version"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let features = text
        .lines()
        .filter_map(|line| line.strip_prefix("io_uring "));
    let names = features.filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.to_string()).collect()
}

/// A short round through everything that a masked feature could break.
#[test]
fn everything_passes_with_each_kernel_feature_masked() {
    let _alone = alone();
    let names = maskable();
    assert!(
        !names.is_empty(),
        "`ringway version` names no kernel feature"
    );
    let all = names.join(",");
    for mask in names.iter().chain([&all]) {
        eprintln!("masked: {mask}");
        let output = Command::new(PROGRAM)
            .arg("version")
            .env("RINGWAY_MASK", mask)
            .output();
        let output = output.expect("run ringway version");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for name in mask.split(',') {
            assert!(
                text.contains(&format!("{name}: no")),
                "{name} is not masked: {text}"
            );
        }
        let (datagrams, echo) = (net::free_address(), Echo::plain());
        let flows = listener("flows", datagrams, "flows")
            .replace("pool =", "protocol = \"udp\"\npool =")
            + &pool("flows", "", &[("echo", echo.address)]);
        let change = |setup: Setup| setup.workers(2).env("RINGWAY_MASK", mask).also(&flows);
        let pairs = Pairs::with(0, change);
        smoke(&pairs);
        if let Some(ringway) = pairs.front.ringway() {
            smoke_of_datagrams(ringway, datagrams);
        }
    }
}

fn smoke(pairs: &Pairs) {
    for round in 0..10 {
        // Small messages, a stream each way, half-close.
        let pair = pairs.pair();
        for _ in 0..20 {
            (&pair.client).write_all(b"ping").expect("send");
            (&pair.backend).read_exact(&mut [0; 4]).expect("receive");
            (&pair.backend).write_all(b"pong").expect("send");
            (&pair.client).read_exact(&mut [0; 4]).expect("receive");
        }
        for who in Who::BOTH {
            let (from, to) = match who {
                Who::Client => (&pair.client, &pair.backend),
                Who::Backend => (&pair.backend, &pair.client),
            };
            thread::scope(|scope| {
                scope.spawn(|| {
                    pattern::send(from, round, 3_000_001, 70_001).expect("send");
                    from.shutdown(Shutdown::Write).expect("half-close");
                });
                assert_eq!(pattern::receive_to_end(to, round), Ok(3_000_001));
            });
        }
        // A reset from each side.
        for who in Who::BOTH {
            let (resetting, mut other) = pairs.pair().ends(who);
            net::reset(resetting);
            let error = other.read(&mut [0; 1]).expect_err("a reset");
            assert!(net::is_reset(&error), "{error}");
        }
    }
    if let Some(ringway) = pairs.front.ringway() {
        ringway.wait_empty();
    }
}

/// Single datagrams of all sizes and bursts of equal ones, there and back, on several flows.
fn smoke_of_datagrams(ringway: &Ringway, to: SocketAddr) {
    let mut sent = 0;
    for flow in 0..8 {
        let socket = client(to);
        let bytes = |seed, size| {
            let mut bytes = vec![0; size];
            pattern::fill(seed, 0, &mut bytes);
            bytes
        };
        for size in [0, 1, 1_200, 9_000, 65_507] {
            let question = bytes(flow, size);
            let answer = ask(&socket, &question).unwrap_or_else(|error| panic!("{size}: {error}"));
            assert!(answer == question, "{size} bytes came back otherwise");
            sent += 1;
        }
        let burst: Vec<_> = (0..20).map(|n| bytes(flow << 8 | n, 1_000)).collect();
        send_joined(&socket, &burst);
        let mut answer = [0; 2_000];
        for question in &burst {
            let length = socket.recv(&mut answer).expect("an answer");
            assert!(
                answer[..length] == question[..],
                "a burst came back otherwise"
            );
            sent += 1;
        }
    }
    let metrics = ringway.metrics();
    for direction in ["in", "out"] {
        let labels = [("direction", direction)];
        let counted = metrics.sum("ringway_udp_datagrams_total", &labels);
        assert_eq!(counted, f64::from(sent), "{direction}");
    }
}
