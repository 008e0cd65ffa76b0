//! Connections that die of silence: which of the kernel's clocks it was is told apart. The peer's socket is given a filter
//! that drops all that arrives, so that it acknowledges nothing and does not reset either.

use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};

use super::super::*;
use super::alone::{alone, enter_own_network};
use super::bench::Bench;
use crate::ids::{Condition, Fault, Interest, ReceiveEnd, Sink, StreamKey};
use crate::sys::stream as tools;

/// From now on `peer` hears nothing.
fn deafen(peer: &TcpStream) {
    // "return 0": keep no byte of the packet.
    let mut instruction = libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut instruction,
    };
    // SAFETY: the kernel reads one sock_fprog and the one instruction it points at, locals both.
    let answer = unsafe {
        libc::setsockopt(
            peer.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}

fn deaf(bench: &mut Bench) -> (StreamKey, TcpStream) {
    let (stream, peer) = bench.client();
    deafen(&peer);
    (stream, peer)
}

fn expect_broken(bench: &mut Bench, stream: StreamKey, expected: Fault) {
    let answer = bench.answer(stream);
    assert!(
        matches!(answer, Answer::ReceiveEnded(ReceiveEnd::Broken(fault)) if fault == expected),
        "{answer:?} instead of {expected:?}"
    );
}

#[test]
fn unanswered_probes_are_keepalive() {
    let mut bench = Bench::new();
    let (stream, _peer) = deaf(&mut bench);
    bench.ring.set_keepalive(stream, 1, 1, 1);
    bench.ring.receive(stream);
    expect_broken(&mut bench, stream, Fault::Keepalive);
    // And the same told by a poll.
    let (stream, _peer) = deaf(&mut bench);
    bench.ring.set_keepalive(stream, 1, 1, 1);
    bench.ring.poll(stream, Interest::HangUp);
    let answer = bench.answer(stream);
    let broken = Condition::Broken(Fault::Keepalive);
    assert!(
        matches!(answer, Answer::Ready(_, condition) if condition == broken),
        "{answer:?}"
    );
}

#[test]
fn bytes_unacknowledged_for_too_long_are_the_user_timeout() {
    let mut bench = Bench::new();
    let (stream, _peer) = deaf(&mut bench);
    let socket = bench.ring.streams.socket(stream).unwrap();
    tools::set_user_timeout(socket, 300).unwrap();
    let parcel = bench.parcel(b"anybody?");
    bench.ring.send(stream, parcel);
    let answer = bench.answer(stream);
    assert!(matches!(answer, Answer::Sent(8)), "{answer:?}");
    bench.ring.receive(stream);
    expect_broken(&mut bench, stream, Fault::UserTimeout);
}

/// In a network of its own, where the kernel gives up after two retransmissions instead of fifteen.
#[test]
fn bytes_sent_again_and_again_are_a_timeout() {
    let name = "uring::tests::faults::bytes_sent_again_and_again_are_a_timeout";
    alone(name, || {
        if !enter_own_network() {
            return;
        }
        std::fs::write("/proc/sys/net/ipv4/tcp_retries2", "2").unwrap();
        let mut bench = Bench::new();
        let (stream, _peer) = deaf(&mut bench);
        let parcel = bench.parcel(b"anybody?");
        bench.ring.send(stream, parcel);
        bench.answer(stream);
        bench.ring.receive(stream);
        expect_broken(&mut bench, stream, Fault::TimedOut);

        // Told by a send, and by a move.
        let (stream, _peer) = deaf(&mut bench);
        bench.until(|bench| {
            let parcel = bench.parcel(b"anybody?");
            bench.ring.send(stream, parcel);
            match bench.answer(stream) {
                Answer::Sent(_) => None,
                Answer::SendBroken(Fault::TimedOut) => Some(()),
                other => panic!("{other:?}"),
            }
        });
        let (client, _peer, backend, backend_peer) = bench.relay();
        deafen(&backend_peer);
        let sink = bench.until(|bench| {
            let parcel = bench.parcel(b"anybody?");
            bench.ring.stash(client, parcel);
            match bench.ring.move_bytes(client, false).sink {
                Sink::Open => None,
                other => Some(other),
            }
        });
        assert_eq!(sink, Sink::Broken(Fault::TimedOut));
        let socket = bench.ring.streams.socket(backend).unwrap();
        assert!(tools::take_error(socket.as_fd()).unwrap().is_none());
    });
}
