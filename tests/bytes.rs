//! Every byte once, in order, to the right side: odd sizes both ways, half-close, who closes first, who speaks first,
//! and each kind of address.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use support::backends::{Backend, read_line};
use support::pairs::{Pairs, Who};
use support::ringway::{Front, Ringway, Setup, listener, pool, pool_with, single};
use support::wait::{Dice, seconds};
use support::{alone, net, pattern};

/// A backend that runs one of `behaviours` by the line that the client sends first, and reports what came of it.
fn scripted(
    behaviour: impl Fn(&TcpStream, u64) -> Result<(), String> + Send + Sync + 'static,
) -> (Backend, Receiver<Result<u64, String>>) {
    let (reports, received): (Sender<Result<u64, String>>, _) = mpsc::channel();
    let backend = Backend::serve(move |stream| {
        let seed: u64 = read_line(stream)?.parse().map_err(io::Error::other)?;
        let result = behaviour(stream, seed).map(|()| seed);
        // The test may have ended; then nobody cares.
        let _ = reports.send(result);
        Ok(())
    });
    (backend, received)
}

fn begin(address: SocketAddr, seed: u64) -> TcpStream {
    let mut stream = net::connect(address);
    stream
        .write_all(format!("{seed}\n").as_bytes())
        .expect("the first line");
    stream
}

#[track_caller]
fn backend_agrees(reports: &Receiver<Result<u64, String>>) {
    let report = reports.recv_timeout(seconds(60)).expect("a report");
    report.expect("what the backend saw");
}

#[allow(clippy::needless_pass_by_value)] // It is given to map_err.
fn text(error: io::Error) -> String {
    error.to_string()
}

/// Both directions of a session at once, `up` bytes to the backend and `down` from it.
fn sizes(seed: u64) -> (u64, u64) {
    let mut dice = Dice(seed);
    let mut size = || match dice.below(4) {
        0 => 1 + dice.below(10),
        1 => 1 + dice.below(70_000),
        2 => 1 + dice.below(1_000_000),
        _ => 1 + dice.below(5_000_000),
    };
    (size(), size())
}

fn send_and_receive(
    stream: &TcpStream,
    send: (u64, u64),
    receive: (u64, u64),
) -> Result<(), String> {
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            pattern::send(stream, send.0, send.1, 40_001)
                .and_then(|()| stream.shutdown(Shutdown::Write))
                .map_err(|error| format!("while sending: {error}"))
        });
        let count = pattern::receive_to_end(stream, receive.0)?;
        if count != receive.1 {
            return Err(format!("{count} bytes arrived, {} were sent", receive.1));
        }
        sender.join().expect("the sending thread")
    })
}

#[test]
fn sixty_sessions_of_odd_sizes_both_ways_at_once() {
    let _alone = alone();
    let (backend, reports) = scripted(|stream, seed| {
        let (up, down) = sizes(seed);
        send_and_receive(stream, (!seed, down), (seed, up))
    });
    let front = Front::with(backend.address, |setup| setup.workers(2));
    let mut total = 0;
    thread::scope(|scope| {
        for seed in 1..=60 {
            let address = front.address;
            let (up, down) = sizes(seed);
            total += up + down;
            scope.spawn(move || {
                let stream = begin(address, seed);
                send_and_receive(&stream, (seed, up), (!seed, down))
                    .unwrap_or_else(|error| panic!("session {seed}: {error}"));
            });
        }
    });
    for _ in 0..60 {
        backend_agrees(&reports);
    }
    if let Some(ringway) = front.ringway() {
        ringway.wait_empty();
        let carried = ringway.metric("ringway_bytes_total");
        let lines: u64 = (1..=60)
            .map(|seed: u64| seed.to_string().len() as u64 + 1)
            .sum();
        assert_eq!(carried, (total + lines) as f64, "bytes are counted exactly");
    }
}

#[test]
fn one_byte_at_a_time_and_empty_sessions() {
    let backend = Backend::echo();
    let front = Front::to(backend.address);
    let mut stream = net::connect(front.address);
    for n in 0..500_u32 {
        let byte = [n as u8];
        stream.write_all(&byte).expect("send one byte");
        let mut answer = [0];
        stream.read_exact(&mut answer).expect("one byte back");
        assert_eq!(answer, byte);
    }
    stream.shutdown(Shutdown::Write).expect("half-close");
    pattern::expect_fin(&stream).expect("the end");
    for _ in 0..50 {
        let stream = net::connect(front.address);
        stream.shutdown(Shutdown::Write).expect("half-close");
        pattern::expect_fin(&stream).expect("the end of a session without a byte");
    }
}

/// 40 MB, half-close, and then the other side answers with 40 MB.
#[test]
fn forty_megabytes_then_half_close_then_the_answer() {
    let _alone = alone();
    let size = 40_000_003;
    let (backend, reports) = scripted(move |stream, seed| {
        // Longer than the other side's pause.
        let patience = Some(seconds(300));
        stream.set_read_timeout(patience).map_err(text)?;
        if seed % 2 == 1 {
            // The client sends first.
            let up = pattern::receive_to_end(stream, seed)?;
            pause();
            pattern::send(stream, !seed, up, 65_537).map_err(text)
        } else {
            // The backend sends first and half-closes first.
            pattern::send(stream, !seed, size, 65_537).map_err(text)?;
            stream.shutdown(Shutdown::Write).map_err(text)?;
            let up = pattern::receive_to_end(stream, seed)?;
            if up == size {
                Ok(())
            } else {
                Err(format!("{up} bytes came"))
            }
        }
    });
    let front = Front::to(backend.address);

    let stream = begin(front.address, 1);
    stream
        .set_read_timeout(Some(seconds(300)))
        .expect("patience");
    pattern::send(&stream, 1, size, 65_537).expect("40 MB up");
    stream.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(pattern::receive_to_end(&stream, !1), Ok(size));
    backend_agrees(&reports);

    let stream = begin(front.address, 2);
    assert_eq!(pattern::receive_to_end(&stream, !2), Ok(size));
    pause();
    pattern::send(&stream, 2, size, 65_537).expect("40 MB up");
    stream.shutdown(Shutdown::Write).expect("half-close");
    backend_agrees(&reports);
}

/// Half-closed sessions may be silent: minutes in a soak, a moment otherwise.
fn pause() {
    if support::soak() {
        thread::sleep(seconds(150));
    }
}

/// Either side may end first; the other one's later bytes arrive whole, and then its end. Once both ends are
/// exchanged the kernel shows such a socket as closed, with bytes still to read in it: that is no reset.
#[test]
fn who_closes_first_still_gets_the_others_later_bytes() {
    let pairs = Pairs::with(32 * 1024, |setup| setup);
    for who in Who::BOTH {
        for round in 0..60_u64 {
            let (first, second) = pairs.pair_with(32 * 1024).ends(who);
            let bytes = 1 + Dice(round).below(2_500_000);
            first.shutdown(Shutdown::Write).expect("half-close");
            pattern::expect_fin(&second).expect("the first end");
            thread::scope(|scope| {
                // Its socket is closed as soon as everything is on its way.
                scope.spawn(move || {
                    pattern::send(&second, round, bytes, 50_001).expect("later bytes");
                    second.shutdown(Shutdown::Write).expect("half-close");
                });
                assert_eq!(pattern::receive_to_end(&first, round), Ok(bytes), "{who:?}");
            });
        }
    }
}

/// The greeting must come before the client has sent anything.
#[test]
fn a_server_that_speaks_first() {
    let backend = Backend::named("220 service ready");
    let front = Front::to(backend.address);
    for _ in 0..20 {
        let mut stream = net::connect(front.address);
        assert_eq!(read_line(&stream).expect("greeting"), "220 service ready");
        stream.write_all(b"QUIT\n").expect("answer it");
        assert_eq!(read_line(&stream).expect("echo"), "QUIT");
    }
}

/// A backend that greets and closes at once: the greeting arrives, then FIN.
#[test]
fn a_greeting_followed_by_the_end_arrives_whole() {
    let backend = Backend::serve(|stream| pattern::send(stream, 9, 300_000, 9_999));
    let front = Front::to(backend.address);
    for _ in 0..50 {
        let stream = net::connect(front.address);
        assert_eq!(pattern::receive_to_end(&stream, 9), Ok(300_000));
    }
}

fn exchange(mut stream: impl Read + Write, seed: u64) {
    let mut sent = vec![0; 100_001];
    pattern::fill(seed, 0, &mut sent);
    for piece in sent.chunks(9_973) {
        stream.write_all(piece).expect("send");
        let mut answer = vec![0; piece.len()];
        stream.read_exact(&mut answer).expect("the echo");
        assert_eq!(answer, piece);
    }
}

#[test]
fn unix_sockets_on_both_sides() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("backend.sock");
    let server = UnixListener::bind(&path).expect("a unix backend");
    thread::spawn(move || {
        while let Ok((mut stream, _)) = server.accept() {
            thread::spawn(move || {
                let mut output = stream.try_clone().expect("a second handle");
                let _ = io::copy(&mut stream, &mut output);
                let _ = output.shutdown(Shutdown::Write);
            });
        }
    });
    let front = folder.path().join("front.sock");
    let tcp = net::free_address();
    let body = listener("unix", format!("unix:{}", front.display()), "unix")
        + &listener("tcp", tcp, "unix")
        + &pool_with(
            "unix",
            "",
            "",
            &[("only", format!("unix:{}", path.display()), "")],
        );
    let ringway = Setup::new(body).workers(2).start();
    for seed in 0..20 {
        let stream = UnixStream::connect(&front).expect("connect to the unix listener");
        stream
            .set_read_timeout(Some(net::PATIENCE))
            .expect("patience");
        exchange(&stream, seed);
        stream.shutdown(Shutdown::Write).expect("half-close");
        pattern::expect_fin(&stream).expect("the end");
        exchange(net::connect(tcp), !seed);
    }
    ringway.wait_empty();
    drop(ringway);
    assert!(!front.exists(), "the listener's path is removed at the end");
}

#[test]
fn a_stale_unix_path_is_taken_over_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("front.sock");
    drop(UnixListener::bind(&path).expect("leave a stale path"));
    let backend = Backend::echo();
    let body = |pool_name: &str| {
        listener("unix", format!("unix:{}", path.display()), pool_name)
            + &pool(pool_name, "", &[("only", backend.address)])
    };
    let ringway = Ringway::start(body("first"));
    exchange(UnixStream::connect(&path).expect("connect"), 1);
    let second = Setup::new(body("second")).run_to_end();
    assert_eq!(second.status.code(), Some(3));
    let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(complaint.contains("front.sock"), "{complaint}");
    exchange(UnixStream::connect(&path).expect("connect"), 2);
    drop(ringway);
}

#[test]
fn ipv6_on_both_sides() {
    let backend = Backend::serve_on(net::listen(net::free_address_v6()), support::backends::echo);
    let address = net::free_address_v6();
    let ringway = Ringway::start(single(address, backend.address));
    exchange(net::connect(address), 6);
    ringway.wait_empty();
}

/// `host:+0` keeps the port that the client came to.
#[test]
fn a_port_range_keeps_the_listeners_port() {
    let first = net::free_range(6);
    // The backends listen on the same ports of another loopback address.
    let std::net::IpAddr::V4(own) = first.ip() else {
        panic!("an IPv4 address")
    };
    let [a, b, c, d] = own.octets();
    let other = std::net::Ipv4Addr::new(a, b ^ 128, c, d);
    let ports = first.port()..first.port() + 6;
    let backends: Vec<_> = ports
        .clone()
        .map(|port| {
            let listener = net::listen((other, port).into());
            Backend::named_on(listener, &format!("port {port}"))
        })
        .collect();
    let range = format!("{own}:{}-{}", ports.start, ports.end - 1);
    let body = listener("range", range, "range")
        + &pool_with(
            "range",
            "",
            "[pool.health]\nkind = \"none\"\n",
            &[("same", format!("{other}:+0"), "")],
        );
    let ringway = Setup::new(body).workers(2).start();
    for _ in 0..5 {
        for port in ports.clone() {
            let stream = net::connect((own, port).into());
            assert_eq!(
                read_line(&stream).expect("greeting"),
                format!("port {port}")
            );
            exchange(stream, u64::from(port));
        }
    }
    assert!(backends.iter().all(|backend| backend.accepted() == 5));
    ringway.wait_empty();
}

/// One listener on several addresses.
#[test]
fn a_list_of_addresses() {
    let backend = Backend::echo();
    let (one, two) = (net::free_address(), net::free_address());
    let body = format!(
        "[[listener]]\nname = \"both\"\nbind = [\"{one}\", \"{two}\"]\npool = \"main\"\n\n"
    ) + &pool("main", "", &[("only", backend.address)]);
    let _ringway = Ringway::start(body);
    exchange(net::connect(one), 1);
    exchange(net::connect(two), 2);
}

/// The balancer connects from the addresses of `source`, in turn.
#[test]
fn source_addresses_are_used_in_turn() {
    let backend = Backend::serve(|mut stream| {
        let peer = stream.peer_addr()?.ip();
        writeln!(stream, "{peer}")
    });
    let address = net::free_address();
    let lines = "source = [\"127.5.0.1\", \"127.5.0.2\"]";
    let body =
        listener("main", address, "main") + &pool("main", lines, &[("only", backend.address)]);
    let _ringway = Ringway::start(body);
    let mut counts = [0; 2];
    for _ in 0..20 {
        let seen = read_line(net::connect(address)).expect("the peer's address");
        match seen.as_str() {
            "127.5.0.1" => counts[0] += 1,
            "127.5.0.2" => counts[1] += 1,
            other => panic!("connected from {other}"),
        }
    }
    assert_eq!(counts, [10, 10]);
}
