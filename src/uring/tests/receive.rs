//! Bytes come in: whole and in order, until the end, until stopped, until buffers run out, until the stream breaks.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::super::*;
use super::bench::{Bench, SIZE, pattern, reset};
use crate::ids::{Condition, Fault, Interest, ReceiveEnd};

const BUFFER: usize = SIZE.buffer_bytes as usize;

#[test]
fn bytes_come_whole_and_in_order_and_then_the_end() {
    let mut bench = Bench::new();
    let (stream, mut peer) = bench.client();
    bench.ring.receive(stream);
    let sent = pattern(1, 500_000);
    let copy = sent.clone();
    let writer = std::thread::spawn(move || peer.write_all(&copy).unwrap());
    let bytes = bench.receive_to_end(stream);
    writer.join().unwrap();
    assert!(bytes == sent);
    assert_eq!(bench.ring.buffers_free(), bench.ring.buffers_total());
}

#[test]
fn a_full_parcel_says_so_and_a_part_is_none() {
    let mut bench = Bench::new();
    let parcel = bench.parcel(&pattern(1, BUFFER));
    assert!(parcel.is_full());
    bench.ring.release(parcel);
    let parcel = bench.parcel(&pattern(1, BUFFER - 1));
    assert!(!parcel.is_full());
}

#[test]
fn a_stopped_receive_leaves_the_bytes_for_the_next() {
    let mut bench = Bench::new();
    let (stream, mut peer) = bench.client();
    bench.ring.receive(stream);
    peer.write_all(b"first").unwrap();
    let Answer::Received(parcel) = bench.answer(stream) else {
        panic!("no parcel");
    };
    assert_eq!(bench.read_and_release(parcel), b"first");
    bench.ring.stop_receive(stream);
    let answer = bench.answer(stream);
    assert!(
        matches!(answer, Answer::ReceiveEnded(ReceiveEnd::Stopped)),
        "{answer:?}"
    );
    peer.write_all(b"second").unwrap();
    bench.expect_silence(stream);
    bench.ring.receive(stream);
    drop(peer);
    assert_eq!(
        bench.receive_all(stream),
        (b"second".to_vec(), ReceiveEnd::Fin)
    );
}

#[test]
fn without_buffers_it_ends_and_goes_on_when_they_come_back() {
    let mut bench = Bench::sized(RingSize { buffers: 4, ..SIZE });
    let (stream, mut peer) = bench.client();
    let sent = pattern(3, 10 * BUFFER);
    peer.write_all(&sent).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    let mut dry = 0;
    loop {
        bench.ring.receive(stream);
        let mut held = Vec::new();
        let end = loop {
            match bench.answer(stream) {
                Answer::Received(parcel) => held.push(parcel),
                Answer::ReceiveEnded(end) => break end,
                other => panic!("{other:?}"),
            }
        };
        if end == ReceiveEnd::NoBuffer {
            dry += 1;
            assert_eq!((held.len(), bench.ring.buffers_free()), (4, 0));
            // Nothing came back: the same again.
            bench.ring.receive(stream);
            let answer = bench.answer(stream);
            assert!(
                matches!(answer, Answer::ReceiveEnded(ReceiveEnd::NoBuffer)),
                "{answer:?}"
            );
        }
        for parcel in held {
            bytes.extend(bench.read_and_release(parcel));
        }
        if end == ReceiveEnd::Fin {
            break;
        }
    }
    assert!(bytes == sent);
    assert!(dry >= 2, "{dry}");
    assert_eq!(bench.ring.buffers_free(), 4);
}

#[test]
fn one_hoarder_starves_others_only_until_it_gives_back() {
    let mut bench = Bench::sized(RingSize { buffers: 2, ..SIZE });
    let held = [bench.parcel(b"one"), bench.parcel(b"two")];
    let (stream, mut peer) = bench.client();
    peer.write_all(b"late").unwrap();
    bench.ring.receive(stream);
    let answer = bench.answer(stream);
    assert!(
        matches!(answer, Answer::ReceiveEnded(ReceiveEnd::NoBuffer)),
        "{answer:?}"
    );
    for parcel in held {
        bench.ring.release(parcel);
    }
    bench.ring.receive(stream);
    drop(peer);
    assert_eq!(
        bench.receive_all(stream),
        (b"late".to_vec(), ReceiveEnd::Fin)
    );
}

#[test]
fn a_reset_comes_after_the_bytes_before_it() {
    let mut bench = Bench::new();
    let (stream, mut peer) = bench.client();
    peer.write_all(b"last words").unwrap();
    reset(peer);
    bench.ring.receive(stream);
    assert_eq!(
        bench.receive_all(stream),
        (b"last words".to_vec(), ReceiveEnd::Broken(Fault::Reset))
    );
}

#[test]
fn a_reset_ends_a_waiting_receive() {
    let mut bench = Bench::new();
    let (stream, peer) = bench.client();
    bench.ring.receive(stream);
    bench.turn(Patience::None);
    reset(peer);
    let (bytes, end) = bench.receive_all(stream);
    assert_eq!((bytes.len(), end), (0, ReceiveEnd::Broken(Fault::Reset)));
}

/// The kernel shows an end of stream then: the error is gone from the socket. Nobody may take it for a clean one.
#[test]
fn after_a_poll_took_the_error_a_receive_is_told_it_too() {
    let mut bench = Bench::new();
    let (stream, mut peer) = bench.client();
    bench.ring.poll(stream, Interest::HangUp);
    bench.turn(Patience::None);
    peer.write_all(b"last words").unwrap();
    reset(peer);
    let answer = bench.answer(stream);
    let broken = Condition::Broken(Fault::Reset);
    assert!(
        matches!(answer, Answer::Ready(Interest::HangUp, condition) if condition == broken),
        "{answer:?}"
    );
    bench.ring.receive(stream);
    assert_eq!(
        bench.receive_all(stream),
        (b"last words".to_vec(), ReceiveEnd::Broken(Fault::Reset))
    );
}

#[test]
fn a_unix_peer_that_left_bytes_unread_resets() {
    let mut bench = Bench::new();
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let mut unread = ours.try_clone().unwrap();
    let stream = bench.attach(ours);
    unread.write_all(b"never read").unwrap();
    peer.write_all(b"last words").unwrap();
    drop((peer, unread));
    bench.ring.receive(stream);
    assert_eq!(
        bench.receive_all(stream),
        (b"last words".to_vec(), ReceiveEnd::Broken(Fault::Reset))
    );
}

#[test]
fn many_streams_receive_at_once_and_nothing_is_mixed() {
    let mut bench = Bench::new();
    let mut streams: Vec<_> = (0..50).map(|_| bench.client()).collect();
    for (stream, _) in &streams {
        bench.ring.receive(*stream);
    }
    for round in 0..20u32 {
        for (number, (_, peer)) in streams.iter_mut().enumerate() {
            peer.write_all(&pattern(number as u32, 100 + round as usize))
                .unwrap();
        }
        for (number, (stream, _)) in streams.iter().enumerate() {
            let mut bytes = Vec::new();
            while bytes.len() < 100 + round as usize {
                match bench.answer(*stream) {
                    Answer::Received(parcel) => bytes.extend(bench.read_and_release(parcel)),
                    Answer::ReceiveEnded(ReceiveEnd::Stopped | ReceiveEnd::NoBuffer) => {
                        bench.ring.receive(*stream);
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(bytes, pattern(number as u32, 100 + round as usize));
        }
    }
}
