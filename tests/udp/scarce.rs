//! Where something is scarce, in a network of the test's own: local ports, descriptors, room in queues; and ICMP errors that
//! are about somebody else, or a lie.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::support::datagrams::{Echo, ask, client};
use super::support::ringway::{Ringway, Setup};
use super::support::wait::{seconds, until};
use super::support::{namespace, net, process};
use super::{body, drops, end_of, flows, pattern_bytes, start};

fn is_idle(ringway: &Ringway) {
    let (before, began) = (process::cpu_time(ringway.pid()), Instant::now());
    std::thread::sleep(Duration::from_millis(500));
    let used = process::cpu_time(ringway.pid()) - before;
    let share = used.as_secs_f64() / began.elapsed().as_secs_f64();
    assert!(share < 0.05, "{share} of a core while nobody writes");
}

/// More clients than there are local ports towards the backend: each is served in its turn, by letting go of the flow that
/// is least worthy; and it is told, not only suffered.
#[test]
fn local_ports_run_out() {
    if !namespace::inside("scarce::local_ports_run_out") {
        return;
    }
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40019").unwrap();
    for workers in [1, 2] {
        let echo = Echo::plain();
        let (ringway, front) = start(workers, "", &[("a", echo.address)]);
        let before = process::settled_descriptors(ringway.pid());
        let clients: Vec<UdpSocket> = (0..60)
            .map(|_| {
                let socket = UdpSocket::bind(net::free_address()).unwrap();
                socket.connect(front).unwrap();
                socket
                    .set_read_timeout(Some(Duration::from_millis(500)))
                    .unwrap();
                socket
            })
            .collect();
        for round in 0..3_u64 {
            for (n, socket) in clients.iter().enumerate() {
                let question = pattern_bytes((n as u64) << 8 | round, 100);
                // A port that was just given back may be in use for a moment more.
                until(seconds(10), "an answer", || {
                    ask(socket, &question).is_ok_and(|answer| {
                        assert!(answer == question, "another flow's");
                        true
                    })
                });
            }
        }
        let failed = ringway
            .metrics()
            .sum("ringway_connect_failures_total", &[("reason", "ports")]);
        println!(
            "{workers} workers, 20 ports, 60 clients: {} flows, {failed} times no port, {} let go",
            flows(&ringway),
            end_of(&ringway, "resources")
        );
        assert!(failed > 0.0 && end_of(&ringway, "resources") > 0.0);
        assert!(flows(&ringway) <= 60.0);
        until(seconds(20), "no more sockets than ports", || {
            process::settled_descriptors(ringway.pid()).all <= before.all + 20
        });
        is_idle(&ringway);
    }
}

/// A slow way with a long queue: what is in it counts against the sockets that sent it, and what they cannot hold is
/// dropped, newest first, and counted. When the queue is empty everything goes on as before.
#[test]
fn a_queue_that_is_full_drops_and_tells() {
    if !namespace::inside("scarce::a_queue_that_is_full_drops_and_tells") {
        return;
    }
    let echo = Echo::plain();
    let (ringway, front) = start(1, "", &[("a", echo.address)]);
    let clients: Vec<_> = (0..6).map(|_| client(front)).collect();
    for socket in &clients {
        assert_eq!(ask(socket, b"x").unwrap(), b"x");
    }
    tc("add dev lo root tbf rate 100mbit burst 70kb limit 50mb");
    std::thread::scope(|scope| {
        for (n, socket) in clients.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..3_000_u64 {
                    let _ = socket.send(&pattern_bytes((n as u64) << 32 | round, 1_000));
                }
            });
        }
    });
    tc("del dev lo root");
    let seen: Vec<usize> = clients
        .iter()
        .enumerate()
        .map(|(n, socket)| {
            socket
                .set_read_timeout(Some(Duration::from_millis(300)))
                .unwrap();
            let mut buffer = [0; 2_048];
            let mut seen = 0;
            while let Ok(length) = socket.recv(&mut buffer) {
                // Each has its own flow's mark in its first bytes, whatever the round.
                let own = (0..3_000_u64).any(|round| {
                    pattern_bytes((n as u64) << 32 | round, 8) == buffer[..8.min(length)]
                });
                assert!(own && length == 1_000, "another flow's");
                seen += 1;
            }
            seen
        })
        .collect();
    let full = drops(&ringway, "socket-full") + drops(&ringway, "resources");
    println!("a full queue: {seen:?} of 3000 each came back, {full} were dropped for want of room");
    assert!(full > 0.0, "nothing was ever full");
    for socket in &clients {
        socket.set_read_timeout(Some(net::PATIENCE)).unwrap();
        assert_eq!(ask(socket, b"y").unwrap(), b"y");
    }
    assert_eq!(flows(&ringway), 6.0);
    is_idle(&ringway);
}

/// A queue that holds one packet loses them without a word, as networks do.
#[test]
fn a_queue_of_one_loses_and_breaks_nothing() {
    if !namespace::inside("scarce::a_queue_of_one_loses_and_breaks_nothing") {
        return;
    }
    let echo = Echo::plain();
    let (ringway, front) = start(2, "", &[("a", echo.address)]);
    let clients: Vec<_> = (0..8).map(|_| client(front)).collect();
    tc("add dev lo root tbf rate 20mbit burst 3kb limit 3kb");
    let mut came = 0;
    for round in 0..200_u64 {
        for (n, socket) in clients.iter().enumerate() {
            socket
                .set_read_timeout(Some(Duration::from_millis(1)))
                .unwrap();
            let question = pattern_bytes((n as u64) << 32 | round, 700);
            let _ = socket.send(&question);
            let mut buffer = [0; 2_048];
            while let Ok(length) = socket.recv(&mut buffer) {
                let own = (0..=round)
                    .rev()
                    .any(|round| pattern_bytes((n as u64) << 32 | round, 700) == buffer[..length]);
                assert!(own, "another flow's, or cut");
                came += 1;
            }
        }
    }
    tc("del dev lo root");
    println!("a queue of one: {came} of 1600 came back");
    for socket in &clients {
        while socket.recv(&mut [0; 2_048]).is_ok() {}
        socket.set_read_timeout(Some(net::PATIENCE)).unwrap();
        assert_eq!(ask(socket, b"y").unwrap(), b"y");
    }
    is_idle(&ringway);
}

fn tc(words: &str) {
    let status = Command::new("tc")
        .arg("qdisc")
        .args(words.split_whitespace())
        .status();
    let done = status.expect("tc (Debian: iproute2)").success();
    assert!(done, "tc qdisc {words}");
}

/// "Port unreachable" for a datagram from `from` to `to`, as the host of `to` would say it.
fn port_unreachable(from: SocketAddr, to: SocketAddr) {
    icmp_error([3, 3, 0, 0, 0, 0, 0, 0], from, to);
}

/// "Fragmentation needed", for ways of 1,400 bytes.
fn too_long(from: SocketAddr, to: SocketAddr) {
    let [high, low] = 1_400_u16.to_be_bytes();
    icmp_error([3, 4, 0, 0, 0, 0, high, low], from, to);
}

fn icmp_error(header: [u8; 8], from: SocketAddr, to: SocketAddr) {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
        panic!("IPv4 addresses");
    };
    let mut quoted = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0];
    quoted.extend(from.ip().octets());
    quoted.extend(to.ip().octets());
    quoted.extend(from.port().to_be_bytes());
    quoted.extend(to.port().to_be_bytes());
    quoted.extend([0, 12, 0, 0]);
    let mut message = header.to_vec();
    message.extend(&quoted);
    let words = message
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))
        .expect("a raw socket: this test needs a user namespace of its own, or root");
    socket
        .bind(&SocketAddr::new(to.ip().to_owned().into(), 0).into())
        .unwrap();
    let target = SocketAddr::new(from.ip().to_owned().into(), 0);
    socket.send_to(&message, &target.into()).unwrap();
}

/// An error moves the flow that it is about and no other, whether it is true or forged; one that is about no flow, or about
/// the listener's own socket, moves nobody.
#[test]
fn icmp_errors_are_for_the_flow_they_are_about() {
    if !namespace::inside("scarce::icmp_errors_are_for_the_flow_they_are_about") {
        return;
    }
    let backends: Vec<UdpSocket> = (0..2)
        .map(|_| {
            let socket = UdpSocket::bind(net::free_address()).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            socket
        })
        .collect();
    let address = |n: usize| backends[n].local_addr().unwrap();
    let front = net::free_address();
    let text =
        body(front, "", &[("a", address(0)), ("b", address(1))]).replace("round-robin", "first");
    let ringway = Setup::new(text).start();
    let clients: Vec<_> = (0..5).map(|_| client(front)).collect();
    let mut buffer = [0; 64];
    let mut ways = Vec::new();
    for socket in &clients {
        socket.send(b"x").unwrap();
        ways.push(backends[0].recv_from(&mut buffer).unwrap().1);
    }
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let lies = [
        (nobody, address(0)),
        (ways[1], nobody),
        (SocketAddr::new(ways[2].ip(), 9), address(0)),
        (front, clients[3].local_addr().unwrap()),
        (ways[4], address(1)),
    ];
    for (from, to) in lies {
        port_unreachable(from, to);
    }
    for (n, socket) in clients.iter().enumerate() {
        socket.send(b"y").unwrap();
        let (_, way) = backends[0].recv_from(&mut buffer).unwrap();
        assert_eq!(way, ways[n], "a lie moved a flow");
    }
    let moved = || ringway.metric("ringway_udp_flows_moved_total");
    assert_eq!(moved(), 0.0);
    // Somebody on the way has no room for one of that size: a datagram is lost, and nothing is wrong with the backend.
    too_long(ways[0], address(0));
    until(seconds(5), "the lost one is counted", || {
        drops(&ringway, "too-long") == 1.0
    });
    clients[0].send(b"y").unwrap();
    let (_, way) = backends[0].recv_from(&mut buffer).unwrap();
    assert_eq!(way, ways[0], "it moved a flow");
    let failures = || ringway.metric("ringway_connect_failures_total");
    assert_eq!((moved(), failures()), (0.0, 0.0));
    // About the third flow, as if its backend's port were closed.
    port_unreachable(ways[2], address(0));
    for (n, socket) in clients.iter().enumerate() {
        // The first datagram after it may be lost to the news.
        until(seconds(10), "the datagram arrives", || {
            socket.send(b"z").unwrap();
            let at = usize::from(n == 2);
            let from = backends[at].recv_from(&mut buffer).map(|(_, from)| from);
            from.is_ok_and(|from| n == 2 || from == ways[n])
        });
    }
    assert_eq!((moved(), flows(&ringway)), (1.0, 5.0));
    assert_eq!(failures(), 1.0);
}
