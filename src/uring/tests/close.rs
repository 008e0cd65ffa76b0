//! Ways out: the end of one direction, the close, the reset; and answers that come when nobody is there any more.

use std::io::{ErrorKind, Read, Write};

use super::super::*;
use super::alone::{alone, descriptors};
use super::bench::{Bench, pair, read_exactly};
use crate::ids::{ReceiveEnd, SessionKey, StreamKey};

#[test]
fn closing_ends_the_stream_and_resetting_breaks_it() {
    let mut bench = Bench::new();
    let (stream, mut peer) = bench.client();
    let parcel = bench.parcel(b"last");
    bench.ring.send(stream, parcel);
    bench.ring.close(stream, false);
    bench.ring.vacate(stream.session);
    bench.turn(Patience::None);
    assert_eq!(read_exactly(&mut peer, 4), b"last");
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);

    let (stream, mut peer) = bench.client();
    bench.ring.close(stream, true);
    bench.turn(Patience::None);
    let error = peer.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_send_and_a_close_in_one_submission_both_happen_in_order() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        let (stream, mut peer) = bench.client();
        let (first, second) = (bench.parcel(b"one "), bench.parcel(b"two"));
        bench.ring.send(stream, first);
        bench.ring.send(stream, second);
        bench.ring.close(stream, false);
        bench.ring.vacate(stream.session);
        // The next socket may not get the number before the close is carried out.
        let (next, mut next_peer) = bench.client();
        let parcel = bench.parcel(b"other");
        bench.ring.send(next, parcel);
        bench.turn(Patience::None);
        let mut found = Vec::new();
        peer.read_to_end(&mut found).unwrap();
        assert_eq!(found, b"one two");
        assert_eq!(read_exactly(&mut next_peer, 5), b"other");
    }
}

#[test]
fn finishing_one_direction_leaves_the_other() {
    let mut bench = Bench::new();
    let (stream, mut peer) = bench.client();
    bench.ring.receive(stream);
    bench.ring.finish(stream);
    bench.turn(Patience::None);
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    peer.write_all(b"still here").unwrap();
    drop(peer);
    assert_eq!(
        bench.receive_all(stream),
        (b"still here".to_vec(), ReceiveEnd::Fin)
    );
    // Twice, and on a socket that is gone: no harm.
    bench.ring.finish(stream);
    bench.ring.close(stream, false);
    bench.ring.finish(stream);
}

#[test]
fn a_reset_with_a_send_just_queued_is_a_reset() {
    let mut bench = Bench::new();
    let (stream, mut peer) = bench.client();
    let parcel = bench.parcel(b"maybe");
    bench.ring.send(stream, parcel);
    bench.ring.close(stream, true);
    bench.turn(Patience::None);
    let mut found = Vec::new();
    let error = peer.read_to_end(&mut found).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// The carrier broke the contract (it closed and moved out with a receive in flight): the answer is counted, its buffer
/// given back, and the slot's next tenant hears nothing of it.
#[test]
fn an_answer_for_a_former_tenant_is_dropped_and_counted() {
    let mut bench = Bench::new();
    let (stream, mut peer) = bench.client();
    bench.ring.receive(stream);
    bench.turn(Patience::None);
    bench.ring.close(stream, false);
    bench.ring.vacate(stream.session);
    bench.turn(Patience::None);
    let session = SessionKey {
        generation: stream.session.generation + 1,
        ..stream.session
    };
    let (ours, mut next_peer) = pair();
    ours.set_nonblocking(true).unwrap();
    bench
        .ring
        .attach(session, Incoming::from(std::os::fd::OwnedFd::from(ours)));
    let next = StreamKey { session, ..stream };
    peer.write_all(b"late").unwrap();
    drop(peer);
    bench.until(|bench| (bench.ring.stale_answers() >= 2).then_some(()));
    assert_eq!(bench.ring.buffers_free(), bench.ring.buffers_total());
    bench.expect_silence(next);
    next_peer.write_all(b"mine").unwrap();
    drop(next_peer);
    bench.ring.receive(next);
    assert_eq!(bench.receive_all(next), (b"mine".to_vec(), ReceiveEnd::Fin));
    // What a former tenant's key asks for is not done to the present one.
    bench.ring.close(stream, true);
    bench.ring.receive(stream);
    bench.ring.finish(stream);
    bench.ring.poll(stream, crate::ids::Interest::Readable);
    bench.expect_silence(next);
    assert!(bench.ring.streams.socket(next).is_some());
}

/// The carrier broke the contract: it moved out without closing. The slot's next tenant must find nothing.
#[test]
fn what_a_tenant_left_behind_is_cleared_away() {
    let name = "uring::tests::close::what_a_tenant_left_behind_is_cleared_away";
    alone(name, || {
        let mut bench = Bench::new();
        let before = descriptors();
        let (client, mut peer, backend, mut backend_peer) = bench.relay();
        let parcel = bench.parcel(b"secret");
        bench.ring.stash(client, parcel);
        bench.ring.vacate(client.session);
        bench.turn(Patience::None);
        for peer in [&mut peer, &mut backend_peer] {
            let error = peer.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        assert_eq!(bench.ring.pipes_open(), 0);
        assert_eq!(bench.ring.stale_answers(), 2);
        assert!(bench.ring.streams.socket(backend).is_none());
        drop((peer, backend_peer));
        assert_eq!(descriptors(), before);
    });
}

/// A connect for a session that is gone must not end up on whatever gets its descriptor's number next.
#[test]
fn a_connect_for_nobody_is_refused() {
    alone(
        "uring::tests::close::a_connect_for_nobody_is_refused",
        || {
            let mut bench = Bench::new();
            let (stream, _peer) = bench.client();
            let gone = SessionKey {
                generation: stream.session.generation + 1,
                ..stream.session
            };
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = crate::ids::Address::Inet(listener.local_addr().unwrap());
            let before = descriptors();
            let answer = bench.connect(gone, &address);
            assert!(answer.is_err());
            assert_eq!(descriptors(), before);
            assert_eq!(bench.ring.stale_answers(), 1);
            bench.expect_silence(door::backend(gone));
            listener.set_nonblocking(true).unwrap();
            let error = listener.accept().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        },
    );
}
