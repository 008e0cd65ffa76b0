//! Datagrams where something runs out or goes wrong under a flow: its backend, a backend's turn, descriptors, ports, a
//! pool's limit, the length that a way takes. Whoever is not concerned loses nothing, and what had to go is counted.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::time::Duration;

use support::datagrams::{Echo, ask, client, roomy};
use support::ringway::{Ringway, Setup, pool, pool_with};
use support::wait::{seconds, until};
use support::{alone, namespace, net, process};

fn listener(name: &str, address: SocketAddr, pool: &str) -> String {
    format!(
        "[[listener]]\nname = \"{name}\"\nbind = \"{address}\"\nprotocol = \"udp\"\npool = \"{pool}\"\n\n"
    )
}

/// A pool whose `[pool.udp]` has these lines.
fn flow_pool(name: &str, lines: &str, backend: SocketAddr) -> String {
    let tables = format!("[pool.health]\nkind = \"none\"\n\n[pool.udp]\n{lines}\n");
    pool_with(name, "", &tables, &[("a", backend.to_string(), "")])
}

fn asks(question: &[u8], socket: &UdpSocket) {
    assert_eq!(ask(socket, question).unwrap(), question);
}

#[track_caller]
fn hears_nothing(socket: &UdpSocket, so_long: Duration) {
    socket.set_read_timeout(Some(so_long)).unwrap();
    let nothing = socket.recv(&mut [0; 64]);
    assert!(
        nothing
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
        "{nothing:?}"
    );
    socket.set_read_timeout(Some(net::PATIENCE)).unwrap();
}

/// A flow whose backend went down and that finds no other has no socket either: the old backend's late answers are
/// nobody's.
#[test]
fn a_flow_without_a_backend_hears_nothing_of_the_old_one() {
    let backend = UdpSocket::bind(net::free_address()).unwrap();
    backend.set_read_timeout(Some(net::PATIENCE)).unwrap();
    let alive = TcpListener::bind(net::free_address()).unwrap();
    let front = net::free_address();
    let health = format!(
        "[pool.health]\nkind = \"tcp\"\nport = {}\ninterval = \"100ms\"\ntimeout = \"200ms\"\nfall = 1\nrise = 1\n",
        alive.local_addr().unwrap().port()
    );
    let backends = [("a", backend.local_addr().unwrap().to_string(), "")];
    let text = listener("front", front, "p") + &pool_with("p", "", &health, &backends);
    let ringway = Setup::new(text).start();
    let socket = client(front);
    socket.send(b"question").unwrap();
    let mut buffer = [0; 64];
    let (_, flow) = backend.recv_from(&mut buffer).unwrap();
    drop(alive);
    ringway.wait_state("a", "down", seconds(10));
    // The flow looks for another backend with its next datagram, and there is none.
    socket.send(b"and another").unwrap();
    until(seconds(10), "it found no backend", || {
        let labels = [("reason", "no-backend")];
        ringway.metrics().sum("ringway_udp_drops_total", &labels) == 1.0
    });
    backend.send_to(b"late", flow).unwrap();
    hears_nothing(&socket, Duration::from_millis(200));
}

/// What never reached a backend has not used its turn.
#[test]
fn a_socket_that_cannot_be_had_costs_no_turn() {
    // A source address that is not ours: no socket towards the backend can be bound.
    let front = net::free_address();
    let nowhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let lines = "source = [\"192.0.2.1\"]\nconnect_rate = \"1/s\"";
    let text = listener("front", front, "p") + &pool("p", lines, &[("a", nowhere)]);
    let ringway = Setup::new(text).start();
    let socket = client(front);
    for n in 1..=5_u32 {
        socket.send(b"?").unwrap();
        until(seconds(5), "it was dropped", || {
            ringway.metric("ringway_udp_drops_total") == f64::from(n)
        });
    }
    // Had the first attempts used up the turn of this second, the others would not have been made.
    let attempts = ringway.metric("ringway_connect_attempts_total");
    assert!(attempts >= 5.0, "{attempts} attempts");
}

/// A pool at its own limit of flows lets go of its own.
#[test]
fn a_flood_on_one_pool_leaves_another_alone() {
    let echo = Echo::plain();
    let (quiet, flooded) = (net::free_address(), net::free_address());
    let text = listener("quiet", quiet, "q")
        + &listener("flooded", flooded, "f")
        + &flow_pool("q", "idle_timeout = \"60s\"", echo.address)
        + &flow_pool("f", "max_flows = 5", echo.address);
    let ringway = Setup::new(text).start();
    let clients: Vec<UdpSocket> = (0..20).map(|_| client(quiet)).collect();
    clients.iter().for_each(|socket| asks(b"hello", socket));
    // Answered and silent for so long, they would be the first to go.
    std::thread::sleep(Duration::from_millis(2_100));
    for _ in 0..100 {
        asks(b"one more", &client(flooded));
    }
    let ends = |listener| {
        let labels = [("listener", listener), ("end", "resources")];
        ringway.metrics().sum("ringway_session_ends_total", &labels)
    };
    assert_eq!((ends("quiet"), ends("flooded")), (0.0, 95.0));
    let crowded_out = ringway.metric("ringway_udp_flows_crowded_out_total");
    assert_eq!(crowded_out, 95.0);
    clients
        .iter()
        .for_each(|socket| asks(b"still here", socket));
    assert_eq!(ringway.metric("ringway_udp_flows_total"), 120.0);
}

/// Sources that nobody else has, each with one question, while `speakers` go on. All must be answered.
fn crowd(ringway: &Ringway, front: SocketAddr, speakers: &[UdpSocket]) {
    for n in 0..200_u8 {
        let source = SocketAddr::from(([127, 201, n, 1], 9_000));
        let newcomer = UdpSocket::bind(source).unwrap();
        newcomer.connect(front).unwrap();
        newcomer.set_read_timeout(Some(seconds(5))).unwrap();
        let answer = ask(&newcomer, b"new").unwrap_or_else(|error| panic!("newcomer {n}: {error}"));
        assert_eq!(answer, b"new");
        asks(b"old", &speakers[usize::from(n) % speakers.len()]);
        if n % 20 == 19 {
            // Over a connection of its own each time.
            let answer = ringway.get("/healthz");
            assert!(answer.is_ok_and(|(code, _)| code == 200), "newcomer {n}");
        }
    }
    assert!(ringway.metric("ringway_udp_flows_crowded_out_total") > 100.0);
    let speakers = speakers.len() as f64;
    // Had one of them been let go, it would have begun another flow.
    assert_eq!(
        ringway.metric("ringway_udp_flows_total"),
        200.0 + speakers,
        "those who speak kept their flows"
    );
    until(seconds(5), "it is said", || {
        ringway
            .stderr()
            .contains("a flow had to go for want of room")
    });
    let before = process::cpu_time(ringway.pid());
    std::thread::sleep(seconds(1));
    let spent = process::cpu_time(ringway.pid()) - before;
    assert!(spent < Duration::from_millis(150), "{spent:?} of a second");
}

fn speakers(front: SocketAddr) -> Vec<UdpSocket> {
    let sockets = (1..=8_u8).map(|n| {
        let socket = UdpSocket::bind(SocketAddr::from(([127, 202, 0, n], 9_000))).unwrap();
        socket.connect(front).unwrap();
        socket.set_read_timeout(Some(net::PATIENCE)).unwrap();
        asks(b"old", &socket);
        socket
    });
    sockets.collect()
}

fn crowded(lines: &str, prepare: impl FnOnce(&Ringway)) {
    let echo = Echo::plain();
    let front = net::free_address();
    let text = listener("front", front, "p") + &pool("p", lines, &[("a", echo.address)]);
    let ringway = Setup::new(text).start();
    let speakers = speakers(front);
    prepare(&ringway);
    crowd(&ringway, front, &speakers);
}

/// As many descriptors as it has now, and some more: of so few, 16 are kept from flows.
fn few_descriptors(ringway: &Ringway, more: usize) {
    let most = process::settled_descriptors(ringway.pid()).all + more;
    let done = Command::new("prlimit")
        .args(["--pid", &ringway.pid().to_string()])
        .arg(format!("--nofile={most}:"))
        .status()
        .expect("prlimit (Debian: util-linux)");
    assert!(done.success());
}

#[test]
fn out_of_descriptors_the_oldest_go_and_speakers_stay() {
    let _alone = alone();
    // Whether the flow that must go for the last newcomer has a number that flows may have depends on how many there are.
    for more in 30..36 {
        crowded("", |ringway| few_descriptors(ringway, more));
    }
}

/// Sockets that leave from a chosen address cannot be used again: they must be closed in time.
#[test]
fn out_of_descriptors_with_a_source_of_our_own() {
    let _alone = alone();
    let source = format!("source = [\"{}\"]", net::host());
    for more in [32, 34] {
        crowded(&source, |ringway| few_descriptors(ringway, more));
    }
}

#[test]
fn out_of_ports_the_oldest_go_and_speakers_stay() {
    if !namespace::inside("out_of_ports_the_oldest_go_and_speakers_stay") {
        return;
    }
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40031").unwrap();
    crowded("", |_| {});
}

/// As it comes, with few descriptors from the start: whatever strangers do, who asks how it is finds one.
#[test]
fn a_flood_of_new_sources_leaves_a_descriptor_to_those_who_look() {
    let _alone = alone();
    let echo = Echo::plain();
    let front = net::free_address();
    let text = listener("front", front, "p") + &pool("p", "", &[("a", echo.address)]);
    let ringway = Setup::new(text).workers(2).descriptors(2_000).start();
    let (mut slowest, mut most) = (Duration::ZERO, 0);
    for round in 0..20_u8 {
        for n in 1..=250_u8 {
            let source = IpAddr::V4(Ipv4Addr::new(127, 204, round, n));
            let stranger = UdpSocket::bind((source, 0)).unwrap();
            stranger.send_to(b"flood", front).unwrap();
        }
        let began = std::time::Instant::now();
        let (code, _) = ringway.get("/v1/status").expect("an answer");
        assert_eq!(code, 200);
        slowest = slowest.max(began.elapsed());
        most = most.max(process::descriptors(ringway.pid()).all);
    }
    let metrics = ringway.metrics();
    let gone = metrics.sum("ringway_udp_flows_crowded_out_total", &[]);
    println!(
        "{most} of 2000 descriptors in use at most, {gone} flows had to go, answers in {slowest:?}"
    );
    assert!(gone > 500.0 && most < 2_000 - 250, "{gone} {most}");
    let flows = metrics.sum("ringway_udp_flows_active", &[]);
    assert!(flows > 50.0, "{flows}");
    until(seconds(5), "it is said", || {
        let word = "a flow had to go for want of room";
        ringway.stderr().matches(word).count() == 1
    });
    asks(b"still there", &client(front));
}

/// Many datagrams of one flow and few of others have piled up: the others get all of theirs, and of the one the newest of
/// each turn go, each counted.
#[test]
fn who_floods_gives_way_to_the_others() {
    const FLOOD: u32 = 8_000;
    const EACH: u32 = 25;
    let _alone = alone();
    let sink = UdpSocket::bind(net::free_address()).unwrap();
    roomy(&sink);
    sink.set_read_timeout(Some(net::PATIENCE)).unwrap();
    let front = net::free_address();
    let to = sink.local_addr().unwrap();
    let ringway = Setup::new(listener("front", front, "p") + &pool("p", "", &[("a", to)])).start();
    let flood = client(front);
    let others: Vec<UdpSocket> = (0..8).map(|_| client(front)).collect();
    let mut buffer = [0; 64];
    for (n, socket) in others.iter().chain([&flood]).enumerate() {
        socket.send(&[n as u8]).unwrap();
        sink.recv(&mut buffer).unwrap();
    }
    ringway.signal("STOP");
    for n in 0..FLOOD {
        // Sizes that do not leave together.
        flood.send(&vec![8; 1 + (n % 50) as usize]).unwrap();
        if n % (FLOOD / EACH) == 0 {
            for (n, socket) in others.iter().enumerate() {
                socket.send(&[n as u8]).unwrap();
            }
        }
    }
    ringway.signal("CONT");
    let mut seen = [0_u32; 9];
    while seen[..8].iter().any(|count| *count < EACH) {
        let length = sink.recv(&mut buffer).expect("all that others have sent");
        assert!(length > 0);
        seen[usize::from(buffer[0])] += 1;
    }
    let sum = |name: &str, labels: &[(&str, &str)]| ringway.metrics().sum(name, labels);
    let all = f64::from(FLOOD + 8 * EACH + 9);
    let mut dropped = 0.0;
    until(seconds(20), "each is passed on or counted", || {
        dropped = sum("ringway_udp_drops_total", &[("reason", "overload")]);
        let passed = sum("ringway_udp_datagrams_total", &[("direction", "in")]);
        passed + dropped == all
    });
    println!("of {FLOOD} in a flood {dropped} gave way");
    assert_eq!(seen[..8], [EACH; 8]);
    let flood = f64::from(FLOOD);
    assert!(dropped > flood * 0.3 && dropped < flood * 0.95, "{dropped}");
    assert_eq!(sum("ringway_udp_drops_total", &[]), dropped);
}

/// Shares that were lost while one flow sent without pause and eight others a little, all to a worker that cannot keep up.
#[derive(Debug)]
struct Lost {
    of_flood: f64,
    of_others: f64,
}

fn flood_beside_others(ringway: &Ringway, front: SocketAddr) -> Lost {
    let drops = || {
        ["overrun", "overload"].map(|reason| {
            let labels = [("reason", reason)];
            ringway.metrics().sum("ringway_udp_drops_total", &labels)
        })
    };
    let before = drops();
    let over = std::sync::atomic::AtomicBool::new(false);
    let began = std::time::Instant::now();
    let (mut asked, mut answered) = (0_u32, 0_u32);
    let sent: u64 = std::thread::scope(|scope| {
        let flooder = scope.spawn(|| {
            let socket = client(front);
            let mut sent = 0_u64;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = socket.send(&vec![1; 1 + (sent % 700) as usize]);
                sent += 1;
            }
            sent
        });
        let others: Vec<UdpSocket> = (0..8).map(|_| client(front)).collect();
        for socket in &others {
            socket
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
        }
        while began.elapsed() < seconds(2) {
            for socket in &others {
                socket.send(b"quiet").unwrap();
                asked += 1;
            }
            for socket in &others {
                answered += u32::from(socket.recv(&mut [0; 16]).is_ok());
            }
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        flooder.join().unwrap()
    });
    let [overrun, overload] = [0, 1].map(|n| drops()[n] - before[n]);
    let lost = Lost {
        of_flood: (overrun + overload) / sent as f64,
        of_others: f64::from(asked - answered) / f64::from(asked),
    };
    println!(
        "{lost:?} of {sent} and {asked}; {overrun} in the socket, {overload} for the flood's share"
    );
    // Each answer that is lost costs its asker a tenth of a second, so that who loses much asks little.
    assert!(asked > 16, "{asked}");
    lost
}

/// Where nobody gives way the others lose 0.3 to 1.5 of the flood's share (15 runs); where the flood does, 0 to 0.03 of it (ten). A
/// machine that is busy with other things may need another try.
#[test]
fn a_flood_takes_no_more_than_its_share() {
    const TRIES: usize = 3;
    let _alone = alone();
    let echo = Echo::plain();
    let front = net::free_address();
    let text = listener("front", front, "p") + &pool("p", "", &[("a", echo.address)]);
    let ringway = Setup::new(text).start();
    let mut tries = (0..TRIES).map(|_| flood_beside_others(&ringway, front));
    let fair = tries.any(|lost| lost.of_others < lost.of_flood * 0.1);
    assert!(fair, "the others lose as much as the flood, {TRIES} times");
    // When the flood is over nothing is lost any more.
    let socket = client(front);
    until(seconds(10), "an answer", || {
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        ask(&socket, b"after").is_ok_and(|answer| answer == b"after")
    });
    let before = process::cpu_time(ringway.pid());
    std::thread::sleep(seconds(1));
    let spent = process::cpu_time(ringway.pid()) - before;
    assert!(spent < Duration::from_millis(150), "{spent:?} of a second");
}

/// Where datagrams must be cut into packets, several cannot leave in one send; each leaves by itself then.
#[test]
fn datagrams_longer_than_a_packet_pass_in_bursts() {
    if !namespace::inside("datagrams_longer_than_a_packet_pass_in_bursts") {
        return;
    }
    let sink = UdpSocket::bind("127.0.0.1:9100").unwrap();
    roomy(&sink);
    sink.set_read_timeout(Some(net::PATIENCE)).unwrap();
    let front = net::free_address();
    let text = listener("front", front, "p") + &pool("p", "", &[("a", sink.local_addr().unwrap())]);
    let ringway = Setup::new(text).start();
    let socket = client(front);
    namespace::ip("link set lo mtu 1500");
    let mut buffer = [0; 4_096];
    for burst in 0..20_u8 {
        // While it is stopped they gather, and are received in one turn.
        ringway.signal("STOP");
        for n in 0..20_u8 {
            socket.send(&[burst ^ n; 3_000]).unwrap();
        }
        ringway.signal("CONT");
        for n in 0..20_u8 {
            let (length, from) = sink.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..length], [burst ^ n; 3_000], "{burst}, {n}");
            sink.send_to(&buffer[..length], from).unwrap();
        }
        for n in 0..20_u8 {
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], [burst ^ n; 3_000], "back: {burst}, {n}");
        }
    }
    assert_eq!(ringway.metric("ringway_udp_drops_total"), 0.0);
}

/// The socket of a flow that is over serves the next one, and neither port nor late answers go along.
#[test]
fn a_socket_that_serves_again_has_a_new_port_and_no_past() {
    let backend = UdpSocket::bind(net::free_address()).unwrap();
    backend.set_read_timeout(Some(net::PATIENCE)).unwrap();
    let front = net::free_address();
    let text = listener("front", front, "p")
        + &flow_pool("p", "responses = 1", backend.local_addr().unwrap());
    let ringway = Setup::new(text).start();
    let before = process::settled_descriptors(ringway.pid());
    let mut ports = HashSet::new();
    let mut buffer = [0; 64];
    let mut earlier: Option<SocketAddr> = None;
    for n in 0..60_u8 {
        let socket = client(front);
        socket.send(&[n]).unwrap();
        let (length, flow) = backend.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], [n]);
        // Twice: the second one comes when the flow is over, or is just ending.
        backend.send_to(&[n], flow).unwrap();
        backend.send_to(b"late", flow).unwrap();
        if let Some(earlier) = earlier.filter(|earlier| *earlier != flow) {
            backend.send_to(b"later still", earlier).unwrap();
        }
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..length], [n]);
        if n % 10 == 0 {
            hears_nothing(&socket, Duration::from_millis(50));
        }
        ports.insert(flow.port());
        earlier = Some(flow);
    }
    assert!(ports.len() > 50, "60 flows left from {} ports", ports.len());
    assert_eq!(ringway.metric("ringway_udp_flows_total"), 60.0);
    // What waits for flows that do not come is closed.
    until(seconds(10), "no socket is left", || {
        process::settled_descriptors(ringway.pid()).all <= before.all
    });
}

#[test]
fn a_flood_that_ends_leaves_no_sockets() {
    let _alone = alone();
    let echo = Echo::plain();
    let front = net::free_address();
    let text =
        listener("front", front, "p") + &flow_pool("p", "idle_timeout = \"300ms\"", echo.address);
    let ringway = Setup::new(text).workers(2).start();
    let before = process::settled_descriptors(ringway.pid());
    for round in 0..20_u8 {
        for n in 1..=100_u8 {
            let source = IpAddr::V4(Ipv4Addr::new(127, 203, round, n));
            let stranger = UdpSocket::bind((source, 0)).unwrap();
            stranger.send_to(b"flood", front).unwrap();
        }
    }
    until(seconds(20), "all flows have ended", || {
        let metrics = ringway.metrics();
        metrics.sum("ringway_udp_flows_total", &[]) == 2_000.0
            && metrics.sum("ringway_udp_flows_active", &[]) == 0.0
    });
    until(seconds(10), "no socket is left", || {
        process::settled_descriptors(ringway.pid()).all <= before.all
    });
}

/// More than a worker can take in time: the kernel keeps what came first, and what it throws away is counted.
#[test]
fn what_comes_while_a_worker_is_late_is_kept_or_counted() {
    const SENT: u32 = 8_000;
    let _alone = alone();
    let echo = Echo::plain();
    let front = net::free_address();
    let text = listener("front", front, "p") + &pool("p", "", &[("a", echo.address)]);
    let ringway = Setup::new(text).start();
    let socket = client(front);
    asks(b"hello", &socket);
    ringway.signal("STOP");
    for _ in 0..SENT {
        socket.send(&[7; 1_200]).unwrap();
    }
    ringway.signal("CONT");
    let overrun = || {
        let labels = [("reason", "overrun")];
        ringway.metrics().sum("ringway_udp_drops_total", &labels)
    };
    until(seconds(20), "all are passed on or counted", || {
        // Something to do, so that the worker turns and counts.
        let _ = client(front).send(b"?");
        overrun() > 0.0 && ringway.metric("ringway_udp_drops_total") == overrun()
    });
    let passed = || {
        let labels = [("direction", "in")];
        ringway
            .metrics()
            .sum("ringway_udp_datagrams_total", &labels)
    };
    let small = || ringway.metric("ringway_udp_flows_total");
    until(seconds(10), "none is unaccounted for", || {
        // The first flow's, and one of each client that came to wake the worker.
        passed() + overrun() == f64::from(SENT) + small()
    });
    assert!(overrun() > 1_000.0 && overrun() < 7_000.0, "{}", overrun());
}
