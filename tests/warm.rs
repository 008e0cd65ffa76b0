//! Warm connections: counted, young, watched, never more than a backend's limit, never in a client's way; a server that
//! closes one at hand-out is not noticed where the client's first bytes may be sent twice. With real servers, and over a
//! path with a real delay.
#![allow(clippy::unwrap_used)]

#[path = "warm/delay.rs"]
mod delay;
#[path = "warm/servers.rs"]
mod servers;
mod support;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use support::backends::{Backend, echo};
use support::ringway::{Ringway, Setup, listener, pool_with};
use support::wait::{Dice, seconds, until};
use support::{alone, net, process};

const UNCHECKED: &str = "[pool.health]\nkind = \"none\"\n";
const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];

/// A balancer's text: one listener, one pool with these lines in `[pool.warm]`, one backend.
fn text(listen: SocketAddr, lines: &str, warm: &str, backend: SocketAddr, own: &str) -> String {
    text_with(listen, lines, warm, UNCHECKED, backend, own)
}

fn text_with(
    listen: SocketAddr,
    lines: &str,
    warm: &str,
    health: &str,
    backend: SocketAddr,
    own: &str,
) -> String {
    let tables = format!("{health}[pool.warm]\n{warm}\n");
    listener("main", listen, "main")
        + &pool_with(
            "main",
            lines,
            &tables,
            &[("only", backend.to_string(), own)],
        )
}

fn handouts(ringway: &Ringway, result: &str) -> u64 {
    ringway
        .metrics()
        .sum("ringway_warm_handouts_total", &[("result", result)]) as u64
}

fn discards(ringway: &Ringway, reason: &str) -> u64 {
    ringway
        .metrics()
        .sum("ringway_warm_discards_total", &[("reason", reason)]) as u64
}

fn warm_now(ringway: &Ringway) -> u64 {
    ringway.metric("ringway_warm_connections") as u64
}

#[track_caller]
fn wait_warm(ringway: &Ringway, count: u64) {
    until(seconds(20), &format!("{count} warm connections"), || {
        warm_now(ringway) == count
    });
}

fn say(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    assert_eq!(back, bytes);
    Ok(())
}

#[test]
fn hits_and_misses_are_counted_and_idle_ones_are_no_sessions() {
    let backend = Backend::echo();
    let address = net::free_address();
    let warm = "size = 3\nmax_age = \"1h\"";
    let ringway = Ringway::start(text(address, "", warm, backend.address, ""));
    wait_warm(&ringway, 3);
    assert_eq!(ringway.metric("ringway_backend_sessions_active"), 0.0);
    until(seconds(10), "the server sees them", || {
        backend.active() == 3
    });

    let mut first = net::connect(address);
    say(&mut first, b"hello").unwrap();
    assert_eq!(handouts(&ringway, "hit"), 1);
    assert_eq!(ringway.metric("ringway_connect_attempts_total"), 0.0);
    wait_warm(&ringway, 3);

    let mut clients = vec![first];
    for n in 1..200 {
        let mut client = net::connect(address);
        say(&mut client, format!("client {n}").as_bytes()).unwrap();
        clients.push(client);
    }
    let (hits, misses) = (handouts(&ringway, "hit"), handouts(&ringway, "miss"));
    assert_eq!(hits + misses, 200, "{hits} hits and {misses} misses");
    assert_eq!(
        ringway.metric("ringway_connect_attempts_total"),
        misses as f64
    );
    for result in ["stale", "died", "replayed"] {
        assert_eq!(handouts(&ringway, result), 0, "{result}");
    }
    for client in &mut clients {
        say(client, b"still here").unwrap();
    }
    drop(clients);
    ringway.wait_empty();
    wait_warm(&ringway, 3);
    until(seconds(10), "only the warm ones are left", || {
        backend.active() == 3
    });
}

/// Two backends and least-connections: one's warm connections must not make it look busy.
#[test]
fn they_do_not_weigh_in_least_connections() {
    let one = Backend::named("a");
    let two = Backend::named("b");
    let address = net::free_address();
    // A greeting before the client's first byte: such connections are of no use, and no warm one survives.
    let warm = format!("{UNCHECKED}[pool.warm]\nsize = 8\nmax_age = \"1h\"\n");
    let members = [
        ("a", one.address.to_string(), ""),
        ("b", two.address.to_string(), ""),
    ];
    let body = listener("main", address, "main") + &pool_with("main", "", &warm, &members);
    let ringway = Ringway::start(body);
    until(seconds(20), "greetings end warm connections", || {
        discards(&ringway, "spoke") >= 4
    });
    let mut names = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let client = net::connect(address);
        names.push(support::backends::read_line(&client).unwrap());
        clients.push(client);
    }
    assert_eq!(names.iter().filter(|name| *name == "a").count(), 10);
}

/// All places of a backend are for clients, and no connection is one too many.
#[test]
fn a_limit_holds_with_warm_connections_and_all_of_it_is_usable() {
    let _alone = alone();
    let open = Arc::new(AtomicU64::new(0));
    let most = Arc::new(AtomicU64::new(0));
    let (open_there, most_there) = (Arc::clone(&open), Arc::clone(&most));
    // The server ends each conversation, so that it counts one less before anybody else can know.
    let backend = Backend::serve(move |mut stream| {
        let now = open_there.fetch_add(1, Ordering::SeqCst) + 1;
        most_there.fetch_max(now, Ordering::SeqCst);
        let mut byte = [0];
        let result = loop {
            match stream.read(&mut byte) {
                Ok(1) if byte[0] == b'q' => break Ok(()),
                Ok(1) => stream.write_all(&byte)?,
                Ok(_) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        open_there.fetch_sub(1, Ordering::SeqCst);
        result
    });
    let address = net::free_address();
    let warm = "size = 4\nmax_age = \"1h\"";
    let lines = "wait = { size = 4096, timeout = \"60s\" }";
    let own = "max_connections = 10";
    let body = text(address, lines, warm, backend.address, own);
    let ringway = Setup::new(body).workers(2).start();
    wait_warm(&ringway, 4);

    // Ten at once, all served while all are open.
    let all_open = Arc::new(Barrier::new(10));
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let all_open = Arc::clone(&all_open);
            thread::spawn(move || {
                let mut client = net::connect(address);
                say(&mut client, b"x").unwrap();
                all_open.wait();
                client.write_all(b"q").unwrap();
                assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    wait_warm(&ringway, 4);

    let storm: Vec<_> = (0..8)
        .map(|_| {
            thread::spawn(move || {
                for _ in 0..100 {
                    let mut client = net::connect(address);
                    say(&mut client, b"x").unwrap();
                    client.write_all(b"q").unwrap();
                    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
                }
            })
        })
        .chain((0..12).map(|_| {
            thread::spawn(move || {
                for _ in 0..10 {
                    let mut client = net::connect(address);
                    say(&mut client, b"x").unwrap();
                    thread::sleep(Duration::from_millis(3));
                    client.write_all(b"q").unwrap();
                    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
                }
            })
        }))
        .collect();
    for client in storm {
        client.join().unwrap();
    }
    let most = most.load(Ordering::SeqCst);
    assert!(most <= 10, "{most} connections of at most 10");
    println!(
        "at most {most} of 10 open; {} hits, {} misses",
        handouts(&ringway, "hit"),
        handouts(&ringway, "miss")
    );
    ringway.wait_empty();
    wait_warm(&ringway, 4);
    // Nothing was counted that was not given back: ten fit again.
    let mut again: Vec<_> = (0..10).map(|_| net::connect(address)).collect();
    for client in &mut again {
        say(client, b"y").unwrap();
    }
}

#[test]
fn they_go_when_their_backend_does_and_come_back_with_it() {
    let mut backend = Backend::echo();
    let place = backend.address;
    let address = net::free_address();
    let health =
        "[pool.health]\ninterval = \"100ms\"\nfast_interval = \"50ms\"\ntimeout = \"2s\"\n";
    let warm = "size = 4\nmax_age = \"1h\"";
    let body = |own: &str| text_with(address, "", warm, health, place, own);
    let mut ringway = Setup::new(body("")).start();
    wait_warm(&ringway, 4);

    // Down, while the old connections stay open: let go, and none is opened.
    backend.stop_listening();
    ringway.wait_state("only", "down", seconds(20));
    wait_warm(&ringway, 0);
    assert_eq!(discards(&ringway, "flushed"), 4);
    until(seconds(10), "the server sees them go", || {
        backend.active() == 0
    });
    let backend = Backend::serve_on(net::listen(place), echo);
    ringway.wait_state("only", "up", seconds(20));
    wait_warm(&ringway, 4);

    // Draining by weight.
    ringway.rewrite(body("weight = 0"));
    assert!(ringway.reload());
    wait_warm(&ringway, 0);
    until(seconds(10), "only checks are left", || {
        backend.active() <= 1
    });
    ringway.rewrite(body(""));
    assert!(ringway.reload());
    wait_warm(&ringway, 4);

    // Another address: those to the old one go.
    let other = Backend::echo();
    ringway.rewrite(text_with(address, "", warm, health, other.address, ""));
    assert!(ringway.reload());
    until(seconds(20), "the new backend has them", || {
        other.active() >= 4
    });
    until(seconds(20), "the old backend has none", || {
        backend.active() == 0
    });
    let mut client = net::connect(address);
    say(&mut client, b"over there").unwrap();

    // Not wanted any more.
    let off = warm.replace("size = 4", "size = 0");
    ringway.rewrite(text_with(address, "", &off, health, other.address, ""));
    assert!(ringway.reload());
    wait_warm(&ringway, 0);
    say(&mut client, b"still there").unwrap();
}

/// Connections that are this old have been idle: even on a busy machine a connection that a session opened for itself has
/// its client's first bytes earlier.
const IDLE: Duration = Duration::from_millis(150);

/// A server that closes an idle connection at a moment of its own; of those that were idle for a while one in four
/// goes just when the first bytes come.
fn hasty(answer: &'static [u8]) -> Backend {
    let seed = AtomicU64::new(1);
    Backend::serve(move |mut stream| {
        let mut dice = Dice(seed.fetch_add(1, Ordering::Relaxed));
        let patience = IDLE + Duration::from_millis(dice.below(250));
        let born = Instant::now();
        stream.set_read_timeout(Some(patience))?;
        let mut piece = [0; 512];
        match stream.peek(&mut piece) {
            // It had enough of waiting.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
            Ok(0) => return Ok(()),
            Ok(_) if born.elapsed() >= IDLE && dice.chance(25) => {
                net::will_reset(stream);
                return Ok(());
            }
            Ok(_) => {}
        }
        let _ = stream.read(&mut piece)?;
        stream.write_all(answer)?;
        // The client ends.
        stream.set_read_timeout(Some(seconds(20)))?;
        stream.read(&mut piece).map(|_| ())
    })
}

/// Clients that ask, a few at a time and not faster than connections grow old, until so many warm ones were handed out.
/// How many went wrong.
fn converse(ringway: &Ringway, address: SocketAddr, ask: &'static [u8], wanted: &[u8]) -> u64 {
    let enough = AtomicBool::new(false);
    let failed = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !enough.load(Ordering::SeqCst) {
                    let mut back = vec![0; wanted.len()];
                    let went = net::try_connect(address).and_then(|mut client| {
                        client.write_all(ask)?;
                        client.read_exact(&mut back)
                    });
                    match went {
                        Ok(()) => assert_eq!(back, wanted),
                        Err(error) => {
                            if failed.fetch_add(1, Ordering::SeqCst) == 0 {
                                println!("a client's first error: {error}");
                            }
                        }
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
        let hand_outs = if support::soak() { 10_000 } else { 2_000 };
        until(seconds(300), "that many hand-outs", || {
            thread::sleep(Duration::from_millis(50));
            handouts(ringway, "hit") >= hand_outs
        });
        enough.store(true, Ordering::SeqCst);
    });
    failed.load(Ordering::SeqCst)
}

/// Three servers that close when they like. How many clients noticed, and how many would have.
fn closing_servers(profile: &str, ask: &'static [u8], answer: &'static [u8]) -> (u64, u64) {
    let _alone = alone();
    let backends: Vec<_> = (0..3).map(|_| hasty(answer)).collect();
    let members: Vec<_> = ["a", "b", "c"]
        .iter()
        .zip(&backends)
        .map(|(name, backend)| (*name, backend.address.to_string(), ""))
        .collect();
    let address = net::free_address();
    let tables =
        format!("{UNCHECKED}[pool.warm]\nsize = 16\nmax_age = \"1h\"\nprofile = \"{profile}\"\n");
    let body = listener("main", address, "main") + &pool_with("main", "", &tables, &members);
    let ringway = Ringway::start(body);
    let failed = converse(&ringway, address, ask, answer);
    ringway.wait_empty();
    let count = |result| handouts(&ringway, result);
    println!(
        "{profile}: {} hand-outs, {} misses, {} found dead, {} replayed, {} died; {failed} clients failed; {} were closed \
         while idle",
        count("hit"),
        count("miss"),
        count("stale"),
        count("replayed"),
        count("died"),
        discards(&ringway, "closed"),
    );
    assert_eq!(count("died"), failed, "each failure is told of");
    (failed, count("replayed"))
}

#[test]
fn servers_that_close_at_hand_out_are_not_noticed_where_replay_is_harmless() {
    let (failed, replayed) = closing_servers("postgres", SSL_REQUEST, b"N");
    assert_eq!(failed, 0);
    assert!(replayed > 0, "it was tried at all");
}

/// The race in itself, without chance: the server reads nothing, waits for bytes, and resets.
#[test]
fn a_death_between_the_first_bytes_and_the_answer_is_made_good() {
    let first = Arc::new(AtomicBool::new(true));
    let backend = Backend::serve(move |mut stream| {
        let mut piece = [0; 8];
        if first.swap(false, Ordering::SeqCst) {
            // It is gone before it knows what was asked.
            while stream.peek(&mut piece)? == 0 {}
            net::will_reset(stream);
            return Ok(());
        }
        stream.read_exact(&mut piece)?;
        assert_eq!(&piece, SSL_REQUEST);
        stream.write_all(b"N")?;
        echo(stream)
    });
    let address = net::free_address();
    let warm = "size = 1\nmax_age = \"1h\"\nprofile = \"postgres\"";
    let ringway = Ringway::start(text(address, "", warm, backend.address, ""));
    wait_warm(&ringway, 1);
    let mut client = net::connect(address);
    client.write_all(SSL_REQUEST).unwrap();
    let mut answer = [0];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    say(&mut client, b"and on it goes").unwrap();
    assert_eq!(handouts(&ringway, "replayed"), 1);
    assert_eq!(handouts(&ringway, "died"), 0);
    assert_eq!(ringway.metric("ringway_retries_total"), 1.0);
    drop(client);
    ringway.wait_empty();
    // What was sent twice counts once.
    let all = (SSL_REQUEST.len() + b"and on it goes".len()) as f64;
    let labels = [("direction", "in")];
    assert_eq!(ringway.metrics().sum("ringway_bytes_total", &labels), all);
}

/// Elsewhere it is not: an end is an end, and is counted.
#[test]
fn a_death_after_bytes_that_must_be_sent_once_is_told() {
    let calls = Arc::new(AtomicU64::new(0));
    let backend = Backend::serve({
        let calls = Arc::clone(&calls);
        move |mut stream| {
            let mut piece = [0; 6];
            stream.read_exact(&mut piece)?;
            calls.fetch_add(1, Ordering::SeqCst);
            net::will_reset(stream);
            Ok(())
        }
    });
    let address = net::free_address();
    let warm = "size = 1\nmax_age = \"1h\"\nprofile = \"redis\"";
    let ringway = Ringway::start(text(address, "", warm, backend.address, ""));
    wait_warm(&ringway, 1);
    let mut client = net::connect(address);
    client.write_all(b"INCR x").unwrap();
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert!(net::is_reset(&error), "{error}");
    ringway.wait_empty();
    assert_eq!(handouts(&ringway, "died"), 1);
    assert_eq!(handouts(&ringway, "replayed"), 0);
    assert_eq!(calls.load(Ordering::SeqCst), 1, "it was asked once");
}

#[test]
fn closing_servers_where_bytes_must_be_sent_once() {
    // Nothing to prove but that each is told of. What is replayed here is nothing: a server that went before the client had
    // sent a byte.
    let (failed, replayed) = closing_servers("redis", b"PING\r\n", b"+PONG\r\n");
    println!("{failed} clients met a server that was just closing, {replayed} were early enough");
}

/// A server whose patience is shorter than the age that was configured.
#[test]
fn an_impatient_server_is_met_halfway() {
    let backend = Backend::serve(|_| {
        thread::sleep(Duration::from_millis(1));
        Ok(())
    });
    let address = net::free_address();
    let warm = "size = 2\nmax_age = \"20s\"";
    let ringway = Ringway::start(text(address, "", warm, backend.address, ""));
    until(seconds(20), "they are closed", || {
        discards(&ringway, "closed") >= 4
    });
    let accepted = backend.accepted();
    thread::sleep(seconds(2));
    // Backing off: 2 s are not two thousand connections of a millisecond.
    let more = backend.accepted() - accepted;
    assert!(
        more <= 40,
        "{more} connections within 2 s to a server that closes them at once"
    );
    let stderr = ringway.stderr();
    let lines = stderr.matches("closed an idle warm connection").count();
    assert_eq!(lines, 1, "{stderr}");
}

#[test]
fn descriptors_and_reservations_are_flat_over_many_ages() {
    let _alone = alone();
    let backend = Backend::echo();
    let address = net::free_address();
    let warm = "size = 8\nmax_age = \"40ms\"";
    let own = "max_connections = 50";
    let ringway = Ringway::start(text(address, "", warm, backend.address, own));
    until(seconds(20), "some have grown old", || {
        discards(&ringway, "expired") > 40
    });
    let count = || process::descriptors(ringway.pid()).all;
    let before = count();
    let target = discards(&ringway, "expired") + 400;
    while discards(&ringway, "expired") < target {
        let mut client = net::connect(address);
        say(&mut client, b"x").unwrap();
    }
    ringway.wait_empty();
    // A dial more or less is under way at any time.
    until(seconds(20), "as many descriptors as before", || {
        count() <= before + 8
    });
    // All fifty places are there.
    let mut clients: Vec<_> = (0..50).map(|_| net::connect(address)).collect();
    for client in &mut clients {
        say(client, b"y").unwrap();
    }
    // An age counts at hand-out, too: nothing that a server would have closed is given away.
    assert_eq!(handouts(&ringway, "died"), 0);
}

/// TLS in any profile: a ClientHello is sent again.
#[test]
fn a_client_hello_in_two_pieces_is_sent_again_whole() {
    let mut hello = vec![22, 3, 1, 0, 104, 1, 0, 0, 100];
    hello.extend((0..100_u8).map(|n| n.wrapping_mul(7)));
    let hello: &'static [u8] = hello.leak();
    let first = Arc::new(AtomicBool::new(true));
    let backend = Backend::serve(move |mut stream| {
        let mut piece = vec![0; hello.len()];
        let dies = first.swap(false, Ordering::SeqCst);
        let wanted = if dies { 50 } else { hello.len() };
        while stream.peek(&mut piece)? < wanted {
            thread::sleep(Duration::from_millis(1));
        }
        if dies {
            net::will_reset(stream);
            return Ok(());
        }
        stream.read_exact(&mut piece)?;
        assert_eq!(piece, hello);
        stream.write_all(b"hello back")
    });
    let address = net::free_address();
    let warm = "size = 1\nmax_age = \"1h\"";
    let ringway = Ringway::start(text(address, "", warm, backend.address, ""));
    wait_warm(&ringway, 1);
    let mut client = net::connect(address);
    client.write_all(&hello[..40]).unwrap();
    thread::sleep(Duration::from_millis(20));
    client.write_all(&hello[40..]).unwrap();
    let mut answer = [0; 10];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello back");
    assert_eq!(handouts(&ringway, "replayed"), 1);
}

/// The time to the first byte, median of some.
fn first_byte(address: SocketAddr, rounds: usize, mut between: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..rounds)
        .map(|_| {
            between();
            let begin = Instant::now();
            let mut client = net::connect(address);
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0; 1]).unwrap();
            begin.elapsed()
        })
        .collect();
    times.sort();
    times[rounds / 2]
}
