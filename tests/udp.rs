//! Datagrams through the built binary: each arrives whole, at its own flow, from the right address; flows end and move as
//! they should; a full table lets the right ones go.
#![allow(clippy::unwrap_used)]

#[path = "udp/backends.rs"]
mod backends;
#[path = "udp/churn.rs"]
mod churn;
#[path = "udp/idle.rs"]
mod idle;
#[path = "udp/limits.rs"]
mod limits;
#[path = "udp/proxy.rs"]
mod proxy;
#[path = "udp/quic.rs"]
mod quic;
#[path = "udp/real.rs"]
mod real;
#[path = "udp/scarce.rs"]
mod scarce;
#[path = "udp/six.rs"]
mod six;
mod support;
#[path = "udp/wholeness.rs"]
mod wholeness;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use support::datagrams::{Echo, ask, client, roomy};
use support::ringway::{Ringway, Setup, pool};
use support::wait::{Dice, seconds, until};
use support::{alone, net, pattern, process};

fn udp_listener(name: &str, address: impl std::fmt::Display, pool: &str) -> String {
    udp_listener_with(name, address, pool, "")
}

/// The same with lines of its own.
fn udp_listener_with(
    name: &str,
    address: impl std::fmt::Display,
    pool: &str,
    lines: &str,
) -> String {
    format!(
        "[[listener]]\nname = \"{name}\"\nbind = \"{address}\"\nprotocol = \"udp\"\npool = \"{pool}\"\n{lines}\n\n"
    )
}

fn body(front: SocketAddr, tables: &str, backends: &[(&str, SocketAddr)]) -> String {
    let text = udp_listener("front", front, "p");
    let pool = pool("p", "algorithm = \"round-robin\"", backends);
    // Tables of a pool stand before its backends.
    let pool = pool.replacen("[pool.health]", &format!("{tables}\n[pool.health]"), 1);
    text + &pool
}

fn start(workers: usize, tables: &str, backends: &[(&str, SocketAddr)]) -> (Ringway, SocketAddr) {
    let front = net::free_address();
    let setup = Setup::new(body(front, tables, backends)).workers(workers);
    (setup.start(), front)
}

fn flows(ringway: &Ringway) -> f64 {
    ringway.metric("ringway_udp_flows_active")
}

fn drops(ringway: &Ringway, reason: &str) -> f64 {
    ringway
        .metrics()
        .sum("ringway_udp_drops_total", &[("reason", reason)])
}

fn end_of(ringway: &Ringway, end: &str) -> f64 {
    ringway
        .metrics()
        .sum("ringway_session_ends_total", &[("end", end)])
}

#[test]
fn datagrams_of_every_size_come_back_as_they_went() {
    let echo = Echo::plain();
    let (ringway, front) = start(1, "", &[("a", echo.address)]);
    assert_eq!(ringway.status()["listeners"][0]["protocol"], "udp");
    let socket = client(front);
    for size in [
        0, 1, 2, 63, 512, 1_200, 1_472, 1_473, 9_000, 40_000, 65_000, 65_507,
    ] {
        let question = pattern_bytes(size as u64, size);
        let answer = ask(&socket, &question).unwrap_or_else(|error| panic!("{size}: {error}"));
        assert!(
            answer == question,
            "{size} bytes came back as {}",
            answer.len()
        );
    }
    let metrics = ringway.metrics();
    let direction =
        |direction| metrics.sum("ringway_udp_datagrams_total", &[("direction", direction)]);
    assert_eq!((direction("in"), direction("out")), (12.0, 12.0));
    assert_eq!(metrics.sum("ringway_udp_flows_total", &[]), 1.0);
    assert_eq!(metrics.sum("ringway_udp_drops_total", &[]), 0.0);
}

fn pattern_bytes(seed: u64, size: usize) -> Vec<u8> {
    let words = (0..size.div_ceil(8) as u64).map(|n| pattern::mix(seed << 32 | n));
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(size);
    bytes
}

/// Each datagram says whose it is and what it holds; each that comes back is its flow's own, and whole.
fn many_flows(workers: usize, flows: u64, each: u64) {
    let echo = Echo::plain();
    let (ringway, front) = start(workers, "", &[("a", echo.address)]);
    let sockets: Vec<UdpSocket> = (0..flows).map(|_| client(front)).collect();
    let mut dice = Dice(flows * 31 + workers as u64);
    for round in 0..each {
        for (flow, socket) in sockets.iter().enumerate() {
            // Most are small, some as large as they can be.
            let most = if dice.chance(90) { 1_500 } else { 65_507 };
            let size = dice.below(most + 1) as usize;
            let question = pattern_bytes((flow as u64) << 16 | round, size);
            let answer = ask(socket, &question)
                .unwrap_or_else(|error| panic!("flow {flow}, round {round}: {error}"));
            assert!(
                answer == question,
                "flow {flow}, round {round}: another's or cut"
            );
        }
    }
    assert_eq!(ringway.metric("ringway_udp_flows_total"), flows as f64);
    assert_eq!(ringway.metric("ringway_udp_drops_total"), 0.0);
}

#[test]
fn many_flows_keep_their_datagrams_apart() {
    let _alone = alone();
    many_flows(1, 300, 10);
    many_flows(2, 300, 10);
    if support::soak() {
        many_flows(2, 1_000, 100);
    }
}

/// A burst of equal datagrams leaves in few sends; nobody on either side can tell.
#[test]
fn bursts_arrive_whole_and_in_order() {
    let _alone = alone();
    let sink = UdpSocket::bind(net::free_address()).unwrap();
    roomy(&sink);
    sink.set_read_timeout(Some(net::PATIENCE)).unwrap();
    let (ringway, front) = start(1, "", &[("a", sink.local_addr().unwrap())]);
    let socket = client(front);
    let mut buffer = [0; 2_048];
    for burst in 0..50_u64 {
        for n in 0..40_u64 {
            // The last of each burst is shorter than the others.
            let size = if n == 39 { 700 } else { 1_200 };
            socket.send(&pattern_bytes(burst << 8 | n, size)).unwrap();
        }
        for n in 0..40_u64 {
            let (length, from) = sink.recv_from(&mut buffer).unwrap();
            let size = if n == 39 { 700 } else { 1_200 };
            assert!(
                buffer[..length] == pattern_bytes(burst << 8 | n, size),
                "{burst}, {n}"
            );
            sink.send_to(&buffer[..length], from).unwrap();
        }
        for n in 0..40_u64 {
            let length = socket.recv(&mut buffer).unwrap();
            let size = if n == 39 { 700 } else { 1_200 };
            assert!(
                buffer[..length] == pattern_bytes(burst << 8 | n, size),
                "back: {burst}, {n}"
            );
        }
    }
    assert_eq!(ringway.metric("ringway_udp_drops_total"), 0.0);
}

#[test]
fn replies_leave_from_the_address_the_client_wrote_to() {
    let echo = Echo::plain();
    let port = net::free_address().port();
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let ringway = Setup::new(body(everywhere, "", &[("a", echo.address)])).start();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(net::PATIENCE)).unwrap();
    for last in [1, 7, 200] {
        let wanted = SocketAddr::from(([127, 99, 0, last], port));
        socket.send_to(b"who?", wanted).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(from, wanted);
    }
    // One client, three of our addresses: three flows.
    assert_eq!(flows(&ringway), 3.0);
}

#[test]
fn ipv6_clients_and_backends() {
    let echo = Echo::named_at(net::free_address_v6(), "six:");
    let front = net::free_address_v6();
    let _ringway = Setup::new(body(front, "", &[("a", echo.address)])).start();
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    socket.connect(front).unwrap();
    socket.set_read_timeout(Some(net::PATIENCE)).unwrap();
    assert_eq!(ask(&socket, b"hello").unwrap(), b"six:hello");
}

#[test]
fn strangers_cannot_speak_into_a_flow() {
    let backend = UdpSocket::bind(net::free_address()).unwrap();
    backend.set_read_timeout(Some(net::PATIENCE)).unwrap();
    let (_ringway, front) = start(1, "", &[("a", backend.local_addr().unwrap())]);
    let socket = client(front);
    socket.send(b"question").unwrap();
    let (_, flow) = backend.recv_from(&mut [0; 64]).unwrap();
    // From another port of the backend's host, and from another host.
    for stranger in [
        SocketAddr::from((net::host(), 0)),
        SocketAddr::from(([127, 3, 3, 3], 0)),
    ] {
        let stranger = UdpSocket::bind(stranger).unwrap();
        let _ = stranger.send_to(b"a lie", flow);
    }
    backend.send_to(b"the truth", flow).unwrap();
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"the truth");
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let nothing = socket.recv(&mut buffer).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_flow_whose_backend_is_gone_moves_on() {
    let (mut a, b) = (Echo::named("a:"), Echo::named("b:"));
    let (ringway, front) = start(1, "", &[("a", a.address), ("b", b.address)]);
    let sockets: Vec<UdpSocket> = (0..10).map(|_| client(front)).collect();
    let mut shares: HashMap<u8, u32> = HashMap::new();
    for socket in &sockets {
        let answer = ask(socket, b"x").unwrap();
        *shares.entry(answer[0]).or_default() += 1;
        // A flow stays where it is.
        assert_eq!(ask(socket, b"y").unwrap()[0], answer[0]);
    }
    assert_eq!((shares[&b'a'], shares[&b'b']), (5, 5));
    a.kill();
    for socket in &sockets {
        // What was on its way to the dead one is lost, as datagrams are; what comes later is not.
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        until(seconds(10), "an answer from the other backend", || {
            ask(socket, b"z").is_ok_and(|answer| answer == b"b:z")
        });
    }
    assert_eq!(flows(&ringway), 10.0);
    assert_eq!(ringway.metric("ringway_udp_flows_moved_total"), 5.0);
}

#[test]
fn flows_end_by_silence_and_by_answers() {
    let echo = Echo::plain();
    let (ringway, front) = start(
        1,
        "[pool.udp]\nidle_timeout = \"300ms\"\nresponses = 3",
        &[("a", echo.address)],
    );
    let socket = client(front);
    for _ in 0..3 {
        assert_eq!(ask(&socket, b"x").unwrap(), b"x");
    }
    until(seconds(5), "three answers end a flow", || {
        end_of(&ringway, "backend-fin") == 1.0
    });
    assert_eq!(flows(&ringway), 0.0);
    // The same client begins another, which silence ends.
    assert_eq!(ask(&socket, b"x").unwrap(), b"x");
    until(seconds(5), "silence ends a flow", || {
        end_of(&ringway, "idle") == 1.0
    });
    assert_eq!(ringway.metric("ringway_udp_flows_total"), 2.0);
    assert_eq!(flows(&ringway), 0.0);
}

#[test]
fn after_so_many_requests_a_backend_is_chosen_anew() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let (_ringway, front) = start(
        1,
        "[pool.udp]\nrequests = 2",
        &[("a", a.address), ("b", b.address)],
    );
    let socket = client(front);
    let answers: Vec<u8> = (0..8).map(|_| ask(&socket, b"").unwrap()[0]).collect();
    let pairs: Vec<&[u8]> = answers.chunks(2).collect();
    assert!(pairs.iter().all(|pair| pair[0] == pair[1]), "{answers:?}");
    assert!(pairs.windows(2).all(|two| two[0] != two[1]), "{answers:?}");
}

#[test]
fn a_full_table_keeps_those_who_speak() {
    let echo = Echo::plain();
    let (ringway, front) = start(1, "[pool.udp]\nmax_flows = 50", &[("a", echo.address)]);
    let real: Vec<UdpSocket> = (0..20).map(|_| client(front)).collect();
    for socket in &real {
        assert_eq!(ask(socket, b"hello").unwrap(), b"hello");
    }
    let before = process::descriptors(ringway.pid());
    let sink = UdpSocket::bind(net::free_address()).unwrap();
    for round in 0..40_u16 {
        for n in 0..50_u8 {
            let source = IpAddr::from([127, 200, round as u8, n + 1]);
            let stranger = UdpSocket::bind((source, 0)).unwrap();
            stranger.send_to(b"flood", front).unwrap();
        }
        assert_eq!(
            ask(&real[usize::from(round) % 20], b"still").unwrap(),
            b"still"
        );
    }
    drop(sink);
    assert!(flows(&ringway) <= 50.0);
    assert!(end_of(&ringway, "resources") > 100.0);
    let after = process::descriptors(ringway.pid());
    assert!(after.all <= before.all + 45, "{before:?} {after:?}");
}

#[test]
fn a_reload_keeps_flows_and_sockets() {
    let _alone = alone();
    let (a, b) = (Echo::named("a:"), Echo::named("b:"));
    let front = net::free_address();
    let second = net::free_address();
    let of = |backend: &Echo| body(front, "", &[("x", backend.address)]);
    let mut ringway = Setup::new(of(&a)).workers(2).start();
    let old: Vec<UdpSocket> = (0..8).map(|_| client(front)).collect();
    for socket in &old {
        assert_eq!(ask(socket, b"1").unwrap(), b"a:1");
    }
    for round in 0..12 {
        let with_second =
            of(if round % 2 == 0 { &b } else { &a }) + &udp_listener("second", second, "p");
        let without = of(if round % 2 == 0 { &a } else { &b });
        let text = if round % 3 == 0 { with_second } else { without };
        ringway.rewrite(text);
        assert!(ringway.reload());
        for socket in &old {
            // The backend of old flows drains: it keeps them.
            assert_eq!(ask(socket, b"2").unwrap(), b"a:2", "round {round}");
        }
        let new = client(front);
        assert!(ask(&new, b"3").is_ok());
    }
    // Without its listener a flow goes on; newcomers find nobody.
    ringway.rewrite(udp_listener("second", second, "p") + &pool("p", "", &[("x", b.address)]));
    assert!(ringway.reload());
    for socket in &old {
        assert_eq!(ask(socket, b"4").unwrap(), b"a:4");
    }
    assert_eq!(ask(&client(second), b"5").unwrap(), b"b:5");
}

#[test]
fn a_signal_lets_flows_end() {
    let echo = Echo::plain();
    let (mut ringway, front) = start(
        2,
        "[pool.udp]\nidle_timeout = \"500ms\"",
        &[("a", echo.address)],
    );
    let socket = client(front);
    assert_eq!(ask(&socket, b"x").unwrap(), b"x");
    ringway.signal("TERM");
    assert_eq!(ask(&socket, b"y").unwrap(), b"y");
    assert!(ringway.wait_exit(seconds(20)).success());
}

#[test]
fn the_log_has_a_line_for_each_flow() {
    let echo = Echo::plain();
    let front = net::free_address();
    let setup = Setup::new(body(
        front,
        "[pool.udp]\nresponses = 2",
        &[("a", echo.address)],
    ));
    let ringway = setup
        .global(
            "workers = 1\npin = \"off\"\naccess_log = \"stdout\"\naccess_log_format = \"json\"\n",
        )
        .start();
    let socket = client(front);
    ask(&socket, b"four").unwrap();
    ask(&socket, b"sixsix").unwrap();
    let mut line = String::new();
    until(seconds(10), "the line of the flow", || {
        line = ringway.stdout();
        line.ends_with('\n')
    });
    let line: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!(line["listener"], "front");
    assert_eq!(line["backend"], "a");
    assert_eq!(line["client"], socket.local_addr().unwrap().to_string());
    assert_eq!(
        (
            line["datagrams_in"].as_u64(),
            line["datagrams_out"].as_u64()
        ),
        (Some(2), Some(2))
    );
    assert_eq!(
        (line["bytes_in"].as_u64(), line["bytes_out"].as_u64()),
        (Some(10), Some(10))
    );
    assert_eq!(line["end"], "backend-fin");
}
