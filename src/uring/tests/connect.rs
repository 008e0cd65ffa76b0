//! Out to the backend: reached, refused, cancelled, out of time, out of ports.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};

use super::super::*;
use super::alone::{alone, enter_own_network, kernel_workers, leave_room_for};
use super::bench::{Bench, full_listener};
use crate::ids::{Address, ConnectFailure, StreamKey};

/// A session, and how its connect to `route` ended.
fn outcome_of(bench: &mut Bench, route: Route<'_>) -> (StreamKey, Answer) {
    let (client, _) = bench.client();
    let backend = door::backend(client.session);
    let answer = match bench.ring.connect(client.session, route) {
        Ok(()) => bench.answer(backend),
        Err(failure) => Answer::ConnectFailed(failure),
    };
    (backend, answer)
}

fn to(address: &Address) -> Route<'_> {
    Route {
        address,
        source: None,
        user_timeout_ms: 0,
    }
}

fn assert_fails(answer: &Answer, expected: ConnectFailure) {
    assert!(
        matches!(answer, Answer::ConnectFailed(failure) if *failure == expected),
        "{answer:?} instead of {expected:?}"
    );
}

#[test]
fn a_backend_that_listens_is_reached() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Inet(listener.local_addr().unwrap());
    let route = Route {
        source: Some(IpAddr::from([127, 0, 0, 7])),
        user_timeout_ms: 5_000,
        ..to(&address)
    };
    let (_, answer) = outcome_of(&mut bench, route);
    assert!(matches!(answer, Answer::Connected), "{answer:?}");
    let (_, client) = listener.accept().unwrap();
    assert_eq!(client.ip(), IpAddr::from([127, 0, 0, 7]));
}

#[test]
fn nobody_listening_is_refused() {
    let mut bench = Bench::new();
    let gone = TcpListener::bind("127.0.0.34:0").unwrap();
    let address = Address::Inet(gone.local_addr().unwrap());
    drop(gone);
    let (backend, answer) = outcome_of(&mut bench, to(&address));
    assert_fails(&answer, ConnectFailure::Refused);
    // And again from the same slot.
    bench.ring.close(backend, true);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Inet(listener.local_addr().unwrap());
    bench.connect(backend.session, &address).unwrap();
    let answer = bench.answer(backend);
    assert!(matches!(answer, Answer::Connected), "{answer:?}");
}

#[test]
fn a_pending_connect_can_be_cancelled() {
    let mut bench = Bench::new();
    let (_listener, address, _clients) = full_listener();
    let (client, _peer) = bench.client();
    let backend = door::backend(client.session);
    bench
        .connect(client.session, &Address::Inet(address))
        .unwrap();
    bench.expect_silence(backend);
    bench.ring.cancel_connect(client.session);
    let answer = bench.answer(backend);
    assert!(matches!(answer, Answer::ConnectCancelled), "{answer:?}");
    bench.ring.close(backend, true);
    bench.expect_silence(backend);
}

#[test]
fn a_connect_that_is_cancelled_too_late_is_answered_once() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Inet(listener.local_addr().unwrap());
    let (client, _peer) = bench.client();
    let backend = door::backend(client.session);
    bench.connect(client.session, &address).unwrap();
    bench.ring.cancel_connect(client.session);
    let answer = bench.answer(backend);
    let fits = matches!(answer, Answer::Connected | Answer::ConnectCancelled);
    assert!(fits, "{answer:?}");
    bench.ring.cancel_connect(client.session);
    bench.expect_silence(backend);
}

/// TCP_USER_TIMEOUT holds for the handshake as well.
#[test]
fn a_backend_that_never_answers_times_out() {
    let mut bench = Bench::new();
    let (_listener, address, _clients) = full_listener();
    let address = Address::Inet(address);
    let route = Route {
        user_timeout_ms: 100,
        ..to(&address)
    };
    let (_, answer) = outcome_of(&mut bench, route);
    assert_fails(&answer, ConnectFailure::Timeout);
}

#[test]
fn a_source_that_is_not_ours_has_no_ports() {
    let mut bench = Bench::new();
    let address = Address::Inet(SocketAddr::from(([127, 0, 0, 1], 9)));
    let route = Route {
        source: Some(IpAddr::from([192, 0, 2, 77])),
        ..to(&address)
    };
    let (_, answer) = outcome_of(&mut bench, route);
    assert_fails(&answer, ConnectFailure::Ports);
}

#[test]
fn unix_sockets_are_reached_refused_and_missed() {
    let mut bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backend");
    let address = Address::Unix(path.clone());
    let (_, answer) = outcome_of(&mut bench, to(&address));
    assert_fails(&answer, ConnectFailure::Refused);
    let listener = UnixListener::bind(&path).unwrap();
    let (_, answer) = outcome_of(&mut bench, to(&address));
    assert!(matches!(answer, Answer::Connected), "{answer:?}");
    listener.accept().unwrap();
    // The file stays, nobody is there.
    drop(listener);
    let (_, answer) = outcome_of(&mut bench, to(&address));
    assert_fails(&answer, ConnectFailure::Refused);
    std::fs::write(folder.path().join("file"), "").unwrap();
    let address = Address::Unix(folder.path().join("file"));
    let (_, answer) = outcome_of(&mut bench, to(&address));
    assert_fails(&answer, ConnectFailure::Refused);
    let address = Address::Unix(folder.path().join("x".repeat(200)));
    let (_, answer) = outcome_of(&mut bench, to(&address));
    assert_fails(&answer, ConnectFailure::Other);
}

/// A unix socket knows no pending connect: with its queue full it must fail at once, not wait on a kernel thread.
#[test]
fn a_full_unix_queue_refuses() {
    alone("uring::tests::connect::a_full_unix_queue_refuses", || {
        let mut bench = Bench::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backend");
        let socket =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&socket2::SockAddr::unix(&path).unwrap())
            .unwrap();
        socket.listen(0).unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        let address = Address::Unix(path);
        let (_, answer) = outcome_of(&mut bench, to(&address));
        assert_fails(&answer, ConnectFailure::Refused);
        assert_eq!(kernel_workers(), 0);
    });
}

#[test]
fn without_a_descriptor_there_is_no_connect() {
    alone(
        "uring::tests::connect::without_a_descriptor_there_is_no_connect",
        || {
            let mut bench = Bench::new();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = Address::Inet(listener.local_addr().unwrap());
            let (client, _peer) = bench.client();
            let undo = leave_room_for(0);
            let failed = bench.connect(client.session, &address);
            assert_eq!(failed, Err(ConnectFailure::Resources));
            undo();
            bench.connect(client.session, &address).unwrap();
            let answer = bench.answer(door::backend(client.session));
            assert!(matches!(answer, Answer::Connected), "{answer:?}");
        },
    );
}

/// In a network of its own: four local ports, and nothing but loopback.
#[test]
fn ports_run_out_and_networks_are_unreachable() {
    alone(
        "uring::tests::connect::ports_run_out_and_networks_are_unreachable",
        || {
            if !enter_own_network() {
                return;
            }
            std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50003").unwrap();
            let mut bench = Bench::new();
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 700));
            let listener = TcpListener::bind(address).unwrap();
            let address = Address::Inet(address);
            let sessions: Vec<_> = (0..4).map(|_| bench.session_key()).collect();
            let peers: Vec<_> = sessions
                .iter()
                .map(|&session| {
                    // A client side without any network.
                    let (ours, peer) = UnixStream::pair().unwrap();
                    ours.set_nonblocking(true).unwrap();
                    let ours: std::os::fd::OwnedFd = ours.into();
                    bench.ring.attach(session, Incoming::from(ours));
                    bench.connect(session, &address).unwrap();
                    let answer = bench.answer(door::backend(session));
                    assert!(matches!(answer, Answer::Connected), "{answer:?}");
                    peer
                })
                .collect();
            let (ours, mut peer) = UnixStream::pair().unwrap();
            peer.write_all(b"x").unwrap();
            let last = bench.attach(ours);
            let backend = door::backend(last.session);
            bench.connect(last.session, &address).unwrap();
            assert_fails(&bench.answer(backend), ConnectFailure::Ports);
            bench.ring.close(backend, true);
            // Closed by reset, so that its port is free at once.
            bench.ring.close(door::backend(sessions[0]), true);
            bench.turn(Patience::None);
            bench.connect(last.session, &address).unwrap();
            let answer = bench.answer(backend);
            assert!(matches!(answer, Answer::Connected), "{answer:?}");

            let stranger = Address::Inet(SocketAddr::from(([192, 0, 2, 1], 80)));
            let session = bench.session_key();
            let (ours, _peer) = UnixStream::pair().unwrap();
            bench
                .ring
                .attach(session, Incoming::from(std::os::fd::OwnedFd::from(ours)));
            bench.connect(session, &stranger).unwrap();
            assert_fails(
                &bench.answer(door::backend(session)),
                ConnectFailure::Unreachable,
            );
            drop((listener, peers));
        },
    );
}
