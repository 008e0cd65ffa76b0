//! Which backend a client gets: limits are exact at any number of workers, and each algorithm does what it says.
//! Backends greet with their name, so that clients can count.
#![allow(clippy::unwrap_used)]

#[path = "choice/chance.rs"]
mod chance;
#[path = "choice/slow.rs"]
mod slow;
mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use support::backends::{Backend, echo, read_line};
use support::ringway::{Ringway, Setup, listener, pool, pool_with};
use support::wait::{Dice, seconds, until};
use support::{alone, net};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const UNCHECKED: &str = "[pool.health]\nkind = \"none\"\n";

fn named_backends(count: usize) -> Vec<Backend> {
    NAMES[..count]
        .iter()
        .map(|name| Backend::named(name))
        .collect()
}

/// A balancer before `backends` with lines of the pool and of each backend.
fn before(
    address: SocketAddr,
    backends: &[Backend],
    workers: usize,
    pool_lines: &str,
    own_lines: &[&str],
) -> Ringway {
    Setup::new(config(address, backends, pool_lines, own_lines))
        .workers(workers)
        .start()
}

fn config(address: SocketAddr, backends: &[Backend], pool_lines: &str, own: &[&str]) -> String {
    let own = own.iter().chain(std::iter::repeat(&""));
    let members: Vec<_> = NAMES
        .iter()
        .zip(backends)
        .zip(own)
        .map(|((name, backend), own)| (*name, backend.address.to_string(), *own))
        .collect();
    listener("main", address, "main") + &pool_with("main", pool_lines, UNCHECKED, &members)
}

/// A session and the name of the backend that it got.
fn open(address: SocketAddr) -> (TcpStream, String) {
    let stream = net::connect(address);
    let name = read_line(&stream).expect("the backend's name");
    (stream, name)
}

fn name_for(source: Ipv4Addr, address: SocketAddr) -> String {
    let stream = net::connect_with(Some(source), address, 0).expect("connect");
    read_line(&stream).expect("the backend's name")
}

/// How many of these sessions each backend has.
fn counts(sessions: &[(TcpStream, String)]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for (_, name) in sessions {
        *counts.entry(name.as_str()).or_default() += 1;
    }
    counts
}

/// `count` sessions one after the other; the earlier ones stay.
fn open_many(address: SocketAddr, count: usize) -> Vec<(TcpStream, String)> {
    (0..count).map(|_| open(address)).collect()
}

/// One hundred at most, whoever asks for how many, with two workers.
#[test]
fn five_thousand_clients_in_a_storm_never_exceed_a_limit_of_one_hundred() {
    let _alone = alone();
    // Held for a moment, so that the limit matters.
    let backend = Backend::serve_on(net::listen(net::free_address()), |mut stream| {
        let mut message = [0; 8];
        stream.read_exact(&mut message)?;
        thread::sleep(Duration::from_millis(2));
        stream.write_all(&message)?;
        echo(stream)
    });
    let address = net::free_address();
    let lines = "wait = { size = 6000, timeout = \"120s\" }\nconnect_budget = \"60s\"";
    let body = listener("main", address, "main")
        + &pool_with(
            "main",
            lines,
            UNCHECKED,
            &[("only", backend.address.to_string(), "max_connections = 100")],
        );
    let ringway = Setup::new(body).workers(2).start();
    thread::scope(|scope| {
        for thread in 0..50_u64 {
            scope.spawn(move || {
                // All at once, then each is served when its turn comes.
                let mut streams: Vec<_> = (0..100_u64)
                    .map(|n| {
                        let mut stream = net::connect(address);
                        let message = (thread * 100 + n).to_le_bytes();
                        stream.write_all(&message).expect("send");
                        stream
                            .set_read_timeout(Some(seconds(120)))
                            .expect("patience");
                        Some((stream, message))
                    })
                    .collect();
                // Whoever is served leaves, in the order of service and not of our list.
                for slot in &mut streams {
                    let (stream, _) = slot.as_ref().expect("not taken yet");
                    stream.set_nonblocking(true).expect("non-blocking");
                }
                let mut open = streams.len();
                let end = std::time::Instant::now() + seconds(120);
                while open > 0 {
                    assert!(std::time::Instant::now() < end, "{open} clients not served");
                    for slot in &mut streams {
                        let Some((stream, message)) = slot else {
                            continue;
                        };
                        let mut answer = [0; 8];
                        match stream.read(&mut answer) {
                            Ok(8) => {
                                assert_eq!(&answer, message);
                                *slot = None;
                                open -= 1;
                            }
                            Ok(n) => panic!("{n} bytes of an answer"),
                            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                            Err(error) => panic!("a client failed: {error}"),
                        }
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            });
        }
    });
    assert_eq!(backend.accepted(), 5_000);
    assert!(backend.peak() <= 100, "{} sessions at once", backend.peak());
    assert!(
        backend.peak() >= 90,
        "the limit was used: {}",
        backend.peak()
    );
    ringway.wait_empty();
    assert_eq!(ringway.metric("ringway_waiting"), 0.0);
}

#[test]
fn clients_over_a_listeners_limit_are_reset_and_counted() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let body = format!(
        "[[listener]]\nname = \"main\"\nbind = \"{address}\"\npool = \"main\"\nmax_connections = 10\n\n"
    ) + &pool("main", "", &[("a", backend.address)]);
    let ringway = Setup::new(body).workers(2).start();
    let kept = open_many(address, 10);
    for _ in 0..15 {
        net::expect_turned_away(address);
    }
    let refused = [("listener", "main"), ("reason", "listener-limit")];
    assert_eq!(
        ringway.metrics().sum("ringway_refused_total", &refused),
        15.0
    );
    drop(kept);
    ringway.wait_empty();
    assert_eq!(open_many(address, 10).len(), 10);
}

#[test]
fn round_robin_gives_exact_shares() {
    let backends = named_backends(3);
    let address = net::free_address();
    let weights = ["weight = 100", "weight = 200", "weight = 300"];
    let _ringway = before(
        address,
        &backends,
        1,
        "algorithm = \"round-robin\"",
        &weights,
    );
    let names: Vec<_> = (0..600).map(|_| open(address).1).collect();
    let share = |name: &str| names.iter().filter(|found| *found == name).count();
    assert_eq!([share("a"), share("b"), share("c")], [100, 200, 300]);
    // Spread, not in blocks: any six in a row have the shares of six.
    for six in names.chunks(6) {
        let c = six.iter().filter(|name| *name == "c").count();
        assert_eq!(c, 3, "{six:?}");
    }
}

#[test]
fn least_connections_is_within_two_of_even_with_one_worker() {
    let _alone = alone();
    let backends = named_backends(3);
    let address = net::free_address();
    let _ringway = before(
        address,
        &backends,
        1,
        "algorithm = \"least-connections\"",
        &[],
    );
    let mut sessions = open_many(address, 300);
    let even = |sessions: &[(TcpStream, String)], when: &str| {
        let counts = counts(sessions);
        let most = counts.values().max().expect("sessions");
        let least = counts.values().min().expect("sessions");
        assert!(counts.len() == 3 && most - least <= 2, "{when}: {counts:?}");
    };
    even(&sessions, "one after the other");
    // Empty one backend; newcomers must fill the gap.
    sessions.retain(|(_, name)| name != "b");
    until(seconds(5), "b is empty", || backends[1].active() == 0);
    sessions.extend(open_many(address, 100));
    even(&sessions, "after a gap");
    // At once, from many threads.
    drop(sessions);
    until(seconds(5), "all are empty", || {
        backends.iter().all(|b| b.active() == 0)
    });
    let sessions: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..10)
            .map(|_| scope.spawn(|| open_many(address, 30)))
            .collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().expect("a client"));
        joined.flatten().collect()
    });
    even(&sessions, "all at once");
}

#[test]
fn least_connections_obeys_weights() {
    let backends = named_backends(3);
    let address = net::free_address();
    let weights = ["weight = 100", "weight = 200", "weight = 300"];
    let _ringway = before(
        address,
        &backends,
        1,
        "algorithm = \"least-connections\"",
        &weights,
    );
    let sessions = open_many(address, 240);
    let counts = counts(&sessions);
    for (name, expected) in [("a", 40_usize), ("b", 80), ("c", 120)] {
        assert!(counts[name].abs_diff(expected) <= 2, "{counts:?}");
    }
}

#[test]
fn least_connections_stays_balanced_with_two_workers_under_churn() {
    let _alone = alone();
    let backends = named_backends(3);
    let address = net::free_address();
    let _ringway = before(
        address,
        &backends,
        2,
        "algorithm = \"least-connections\"",
        &[],
    );
    let rounds = 40;
    // The sessions stay until they have been counted.
    let counted = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..4 {
            let counted = &counted;
            scope.spawn(move || {
                let mut dice = Dice(thread);
                let mut sessions = open_many(address, 75);
                for _ in 0..rounds {
                    for _ in 0..10 {
                        let leaving = dice.below(sessions.len() as u64) as usize;
                        sessions.swap_remove(leaving);
                        sessions.push(open(address));
                    }
                }
                until(seconds(90), "the count", || counted.load(Ordering::SeqCst));
            });
        }
        until(seconds(60), "all clients stand still", || {
            let accepted: u64 = backends.iter().map(Backend::accepted).sum();
            let active: u64 = backends.iter().map(Backend::active).sum();
            accepted == 4 * (75 + rounds * 10) && active == 300
        });
        let active: Vec<_> = backends.iter().map(Backend::active).collect();
        counted.store(true, Ordering::SeqCst);
        eprintln!("after churn: {active:?}");
        // Each choice is right by what is counted then, and that may be wrong by a session that each of the four clients is
        // just leaving. A random choice of 300 among three would be off by 16 and more two times in three.
        assert!(
            active.iter().all(|&count| count.abs_diff(100) <= 4),
            "{active:?}"
        );
    });
}

#[test]
fn first_fills_one_after_the_other() {
    let backends = named_backends(3);
    let address = net::free_address();
    let limits = ["max_connections = 20", "max_connections = 20", ""];
    let ringway = before(address, &backends, 2, "algorithm = \"first\"", &limits);
    let mut sessions = open_many(address, 50);
    let names: Vec<_> = sessions.iter().map(|(_, name)| name.as_str()).collect();
    assert!(names[..20].iter().all(|name| *name == "a"), "{names:?}");
    assert!(names[20..40].iter().all(|name| *name == "b"), "{names:?}");
    assert!(names[40..].iter().all(|name| *name == "c"), "{names:?}");
    // Who leaves the first one makes room there.
    sessions.drain(..5);
    until(seconds(5), "the places of those five are free", || {
        let of_a = [("backend", "a")];
        ringway
            .metrics()
            .sum("ringway_backend_sessions_active", &of_a)
            == 15.0
    });
    let sessions = open_many(address, 5);
    assert!(sessions.iter().all(|(_, name)| name == "a"));
}

#[test]
fn source_hash_keeps_a_client_on_its_backend() {
    let _alone = alone();
    let backends = named_backends(4);
    let clients: Vec<_> = (0..200_u8).map(|n| Ipv4Addr::new(127, 9, n, 77)).collect();
    let map = |address: SocketAddr| -> Vec<String> {
        clients
            .iter()
            .map(|client| name_for(*client, address))
            .collect()
    };
    let address = net::free_address();
    let lines = "algorithm = \"source-hash\"";
    let ringway = before(address, &backends, 2, lines, &[]);
    let first = map(address);
    assert_eq!(map(address), first, "the same again");
    drop(ringway);

    // Another instance with the same configuration; another port of the listener does not matter.
    let address = net::free_address();
    let mut ringway = before(address, &backends, 1, lines, &[]);
    assert_eq!(map(address), first, "the same on another instance");

    // Without d, only d's clients move.
    ringway.rewrite(config(address, &backends[..3], lines, &[]));
    assert!(ringway.reload(), "the reload was taken");
    let second = map(address);
    for (before, after) in first.iter().zip(&second) {
        assert!(
            before == after || before == "d",
            "moved from {before} to {after}"
        );
        assert!(after != "d");
    }

    // Another seed is another order.
    ringway.rewrite(config(
        address,
        &backends,
        "algorithm = \"source-hash\"\nhash_seed = 9",
        &[],
    ));
    assert!(ringway.reload(), "the reload was taken");
    assert_ne!(map(address), first);

    // With the port in the key, one address is spread.
    let lines = "algorithm = \"source-hash\"\nhash_key = \"address-port\"";
    ringway.rewrite(config(address, &backends, lines, &[]));
    assert!(ringway.reload(), "the reload was taken");
    let mut seen: Vec<_> = (0..60).map(|_| name_for(clients[0], address)).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_backend_of_weight_zero_gets_nothing() {
    let backends = named_backends(2);
    let address = net::free_address();
    for algorithm in [
        "round-robin",
        "least-connections",
        "power-of-two",
        "random",
        "first",
        "source-hash",
        "maglev",
        "least-latency",
    ] {
        let lines = format!("algorithm = \"{algorithm}\"");
        let _ringway = before(address, &backends, 1, &lines, &["weight = 0", ""]);
        for _ in 0..20 {
            assert_eq!(open(address).1, "b", "{algorithm}");
        }
    }
}

/// Listening queues are per worker: neither may be left with most of the sessions.
#[test]
fn two_workers_share_the_sessions() {
    let _alone = alone();
    let backends = named_backends(2);
    let address = net::free_address();
    let ringway = before(address, &backends, 2, "", &[]);
    let sessions = open_many(address, 400);
    let metrics = ringway.metrics();
    let of = |worker: &str| metrics.sum("ringway_worker_sessions", &[("worker", worker)]);
    let (zero, one) = (of("0"), of("1"));
    assert_eq!(zero + one, sessions.len() as f64);
    assert!(
        zero.max(one) <= 1.25 * 200.0 + 16.0 + 20.0,
        "{zero} and {one}"
    );
}
