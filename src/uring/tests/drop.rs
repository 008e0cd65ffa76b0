//! The ring's end, whatever is in flight.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::super::*;
use super::alone::{alone, descriptors, kernel_workers};
use super::bench::{Bench, SIZE, full_listener};
use crate::ids::{Address, Interest, SocketId};

/// Everything in flight at once: an accept with clients in its queue, a pending connect, receives, polls, filled buffers,
/// pipes that hold bytes, sends and closes that are only queued.
fn all_in_flight(bench: &mut Bench) -> Vec<TcpStream> {
    let mut peers = Vec::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    bench
        .ring
        .open_listener(SocketId(1), listener.as_fd())
        .unwrap();
    bench.ring.accept(SocketId(1));
    bench.turn(Patience::None);
    for interest in [Interest::HangUp, Interest::Readable, Interest::Writable] {
        let (stream, peer) = bench.client();
        bench.ring.poll(stream, interest);
        peers.push(peer);
    }
    let (client, peer, backend, backend_peer) = bench.relay();
    peers.extend([peer, backend_peer]);
    let parcel = bench.parcel(b"in a pipe");
    bench.ring.stash(client, parcel);
    bench.ring.receive(client);
    bench.ring.receive(backend);
    let (client, mut peer) = bench.client();
    bench.ring.receive(client);
    peer.write_all(b"filled").unwrap();
    peers.push(peer);
    let parcel = bench.parcel(b"queued");
    bench.ring.send(client, parcel);
    let (client, peer) = bench.client();
    bench.ring.close(client, true);
    peers.push(peer);
    // Accepted by the ring, and never told to anybody.
    for _ in 0..5 {
        peers.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    }
    peers
}

#[test]
fn with_everything_in_flight_it_is_quick_and_leaves_no_descriptor() {
    alone(
        "uring::tests::drop::with_everything_in_flight_it_is_quick_and_leaves_no_descriptor",
        || {
            // What the standard library keeps open, it has opened by then.
            drop(all_in_flight(&mut Bench::new()));
            let before = descriptors();
            for _ in 0..10 {
                let mut bench = Bench::new();
                let peers = all_in_flight(&mut bench);
                let (listener, address, clients) = full_listener();
                let (client, peer) = bench.client();
                bench
                    .connect(client.session, &Address::Inet(address))
                    .unwrap();
                // Answers that are in the queue and will not be read.
                bench.ring.enter(Patience::None);
                let start = Instant::now();
                drop(bench);
                assert!(
                    start.elapsed() < Duration::from_secs(2),
                    "{:?}",
                    start.elapsed()
                );
                assert_eq!(kernel_workers(), 0);
                drop((peers, listener, clients, peer));
                assert_eq!(descriptors(), before);
            }
        },
    );
}

#[test]
fn the_kernel_writes_nowhere_after_the_end() {
    let mut bench = Bench::sized(RingSize { buffers: 4, ..SIZE });
    let mut peers = Vec::new();
    for _ in 0..4 {
        let (stream, peer) = bench.client();
        bench.ring.receive(stream);
        peers.push(peer);
    }
    bench.turn(Patience::None);
    drop(bench);
    for mut peer in peers {
        let _ = peer.write_all(b"too late");
        // Closed by the ring's end, one way or the other.
        let end = peer.read(&mut [0; 8]);
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}

#[test]
fn an_overflowing_ring_ends_as_well() {
    let mut bench = Bench::sized(RingSize {
        submissions: 4,
        completions: 8,
        ..SIZE
    });
    let mut streams: Vec<_> = (0..100).map(|_| bench.client()).collect();
    for (stream, peer) in &mut streams {
        bench.ring.poll(*stream, Interest::HangUp);
        bench.ring.poll(*stream, Interest::Readable);
        peer.write_all(b"x").unwrap();
    }
    let start = Instant::now();
    drop(bench);
    assert!(start.elapsed() < Duration::from_secs(2));
}

/// An answer that never comes: after two seconds the ring ends without it, and frees nothing that it could still write.
#[test]
fn an_answer_that_never_comes_is_not_waited_for_long() {
    let mut bench = Bench::new();
    bench.ring.in_flight += 1;
    let start = Instant::now();
    drop(bench);
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
}
