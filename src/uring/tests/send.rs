//! Bytes go out: whole ones without a completion, short ones with their rest, broken ones with the reason.

use std::io::Read;
use std::time::Instant;

use super::super::*;
use super::bench::{Bench, LONG, SIZE, narrow_pair, pattern, read_exactly, reset};
use crate::ids::{Fault, Interest, SessionKey, StreamKey};

#[test]
fn a_whole_send_is_answered_by_the_next_turn_without_a_completion() {
    let mut bench = Bench::new();
    let (stream, mut peer) = bench.client();
    let parcel = bench.parcel(b"hello");
    let free = bench.ring.buffers_free();
    bench.ring.send(stream, parcel);
    let mut outcomes = Vec::new();
    bench.ring.enter(Patience::None);
    bench.ring.collect();
    assert!(bench.ring.completions.is_empty());
    bench.ring.settle_flights(&mut outcomes);
    let told = &outcomes[..];
    assert!(
        matches!(told, [Outcome::Stream(of, Answer::Sent(5))] if *of == stream),
        "{told:?}"
    );
    assert_eq!(bench.ring.buffers_free(), free + 1);
    assert_eq!(read_exactly(&mut peer, 5), b"hello");
}

#[test]
fn answers_of_sends_come_before_all_others() {
    let mut bench = Bench::new();
    let (stream, mut peer) = bench.client();
    let parcel = bench.parcel(b"hello");
    bench.ring.receive(stream);
    bench.turn(Patience::None);
    std::io::Write::write_all(&mut peer, b"first").unwrap();
    bench.ring.send(stream, parcel);
    let mut outcomes = Vec::new();
    let start = Instant::now();
    while outcomes.len() < 2 && start.elapsed() < LONG {
        bench.ring.turn(Patience::None, &mut outcomes);
    }
    assert!(matches!(outcomes[0], Outcome::Stream(_, Answer::Sent(5))));
    assert!(matches!(
        outcomes[1],
        Outcome::Stream(_, Answer::Received(_))
    ));
}

#[test]
fn a_full_socket_takes_a_part_and_the_rest_follows_in_order() {
    let mut bench = Bench::new();
    let (ours, mut peer) = narrow_pair();
    let stream = bench.attach(ours);
    let (mut sent, rest) = bench.fill(stream);
    // Full is full: nothing more of it goes.
    let mut rest = Some(rest);
    let reader = std::thread::spawn(move || {
        let mut found = Vec::new();
        peer.read_to_end(&mut found).unwrap();
        found
    });
    let mut blocked = 0;
    while let Some(parcel) = rest.take() {
        let bytes = bench.ring.buffers.bytes(&parcel).to_vec();
        bench.ring.send(stream, parcel);
        match bench.answer(stream) {
            Answer::Sent(count) => sent.extend(&bytes[..count as usize]),
            Answer::SentShort(count, left) => {
                assert_eq!(left.bytes() as usize, bytes.len() - count as usize);
                sent.extend(&bytes[..count as usize]);
                rest = Some(left);
                blocked += 1;
                bench.ring.poll(stream, Interest::Writable);
                let answer = bench.answer(stream);
                assert!(matches!(answer, Answer::Ready(..)), "{answer:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    // Some more, with stops.
    for number in 0..50u32 {
        let bytes = pattern(number + 7, SIZE.buffer_bytes as usize);
        let mut parcel = Some(bench.parcel(&bytes));
        sent.extend(&bytes);
        while let Some(next) = parcel.take() {
            bench.ring.send(stream, next);
            match bench.answer(stream) {
                Answer::Sent(_) => {}
                Answer::SentShort(_, left) => {
                    parcel = Some(left);
                    blocked += 1;
                    bench.ring.poll(stream, Interest::Writable);
                    bench.answer(stream);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    bench.ring.close(stream, false);
    bench.turn(Patience::None);
    assert!(reader.join().unwrap() == sent);
    assert!(blocked > 0);
    assert_eq!(bench.ring.buffers_free(), bench.ring.buffers_total());
}

/// A parcel larger than the room there is: without MSG_WAITALL its first part would pass for all of it.
#[test]
fn a_short_send_says_how_much_went_and_the_rest_follows() {
    let mut bench = Bench::sized(RingSize {
        buffer_bytes: 65_536,
        ..SIZE
    });
    let (ours, mut peer) = narrow_pair();
    let stream = bench.attach(ours);
    let bytes = pattern(1, 60_000);
    let parcel = bench.parcel(&bytes);
    bench.ring.send(stream, parcel);
    bench.turn(Patience::None);
    let Some(Answer::SentShort(count, rest)) = bench.answer_now(stream) else {
        panic!("not short");
    };
    assert!(count > 0 && rest.bytes() > 0, "{count} of {}", bytes.len());
    assert_eq!((count + rest.bytes()) as usize, bytes.len());
    assert_eq!(bench.ring.buffers.bytes(&rest), &bytes[count as usize..]);
    let size = bytes.len();
    let reader = std::thread::spawn(move || read_exactly(&mut peer, size));
    let mut rest = Some(rest);
    while let Some(parcel) = rest.take() {
        bench.ring.poll(stream, Interest::Writable);
        bench.answer(stream);
        bench.ring.send(stream, parcel);
        match bench.answer(stream) {
            Answer::Sent(_) => {}
            Answer::SentShort(_, left) => rest = Some(left),
            other => panic!("{other:?}"),
        }
    }
    assert!(reader.join().unwrap() == bytes);
    assert_eq!(bench.ring.buffers_free(), bench.ring.buffers_total());
}

#[test]
fn a_send_to_a_full_socket_takes_nothing_and_says_so_at_once() {
    let mut bench = Bench::new();
    let (ours, _peer) = narrow_pair();
    let stream = bench.attach(ours);
    let (_, rest) = bench.fill(stream);
    let bytes = rest.bytes();
    bench.ring.send(stream, rest);
    bench.turn(Patience::None);
    match bench.answer_now(stream) {
        Some(Answer::SentShort(count, rest)) => assert_eq!(count + rest.bytes(), bytes),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_send_to_a_peer_that_reset_is_broken() {
    let mut bench = Bench::new();
    // Told by the error itself, and again when it is gone from the socket (EPIPE).
    let (stream, peer) = bench.client();
    reset(peer);
    bench.ring.poll(stream, Interest::Readable);
    bench.until(|bench| bench.answer_now(stream));
    for _ in 0..2 {
        let parcel = bench.parcel(b"to nobody");
        bench.ring.send(stream, parcel);
        let answer = bench.answer(stream);
        assert!(
            matches!(answer, Answer::SendBroken(Fault::Reset)),
            "{answer:?}"
        );
    }
    // With the error untaken.
    let (stream, peer) = bench.client();
    reset(peer);
    bench.until(|bench| {
        let parcel = bench.parcel(b"to nobody");
        bench.ring.send(stream, parcel);
        match bench.answer(stream) {
            Answer::SendBroken(Fault::Reset) => Some(()),
            Answer::Sent(_) => None,
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(bench.ring.buffers_free(), bench.ring.buffers_total());
}

#[test]
fn after_our_end_of_stream_a_send_is_broken() {
    let mut bench = Bench::new();
    let (stream, _peer) = bench.client();
    bench.ring.finish(stream);
    let parcel = bench.parcel(b"too late");
    bench.ring.send(stream, parcel);
    let answer = bench.answer(stream);
    assert!(matches!(answer, Answer::SendBroken(_)), "{answer:?}");
}

#[test]
fn a_send_for_nobody_gives_its_buffer_back() {
    let mut bench = Bench::new();
    let (stream, _peer) = bench.client();
    let parcel = bench.parcel(b"hello");
    let other = StreamKey {
        session: SessionKey {
            generation: stream.session.generation + 1,
            ..stream.session
        },
        ..stream
    };
    bench.ring.send(other, parcel);
    bench.turn(Patience::None);
    assert_eq!(bench.ring.buffers_free(), bench.ring.buffers_total());
    assert_eq!(bench.ring.stale_answers(), 1);
    bench.expect_silence(other);
}

/// More sends between two turns than the queue holds: it is submitted early, and each still gets its own answer.
#[test]
fn early_submissions_settle_each_send_by_itself() {
    let mut bench = Bench::sized(RingSize {
        submissions: 8,
        ..SIZE
    });
    let mut streams: Vec<_> = (0..40).map(|_| Some(bench.client())).collect();
    let keys: Vec<StreamKey> = streams.iter().flatten().map(|it| it.0).collect();
    let broken = [3usize, 8, 9, 21, 39];
    for &place in &broken {
        reset(streams[place].take().unwrap().1);
    }
    for round in 0..20u32 {
        let parcels: Vec<Parcel> = (0..keys.len() as u32)
            .map(|number| bench.parcel(&pattern(number + round, 100)))
            .collect();
        for (stream, parcel) in keys.iter().zip(parcels) {
            bench.ring.send(*stream, parcel);
        }
        bench.turn(Patience::None);
        for (place, stream) in keys.iter().enumerate() {
            let answer = bench.answer_now(*stream);
            if broken.contains(&place) {
                let fits = matches!(answer, Some(Answer::SendBroken(Fault::Reset)));
                assert!(fits, "{place}: {answer:?}");
            } else {
                assert!(
                    matches!(answer, Some(Answer::Sent(100))),
                    "{place}: {answer:?}"
                );
            }
        }
        for (number, (_, peer)) in streams
            .iter_mut()
            .enumerate()
            .filter_map(|(number, it)| it.as_mut().map(|it| (number, it)))
        {
            let found = read_exactly(peer, 100);
            assert_eq!(found, pattern(number as u32 + round, 100));
        }
    }
    assert_eq!(bench.ring.buffers_free(), bench.ring.buffers_total());
}

/// A completion that waits in the kernel's backlog is an answer, too: its send must not pass for a whole one.
#[test]
fn a_failure_in_the_backlog_is_not_taken_for_success() {
    let mut bench = Bench::sized(RingSize {
        submissions: 16,
        completions: 16,
        ..SIZE
    });
    let streams: Vec<StreamKey> = (0..60)
        .map(|_| {
            let (stream, peer) = bench.client();
            reset(peer);
            stream
        })
        .collect();
    let parcels: Vec<Parcel> = (0..60).map(|_| bench.parcel(b"to nobody")).collect();
    for (stream, parcel) in streams.iter().zip(parcels) {
        bench.ring.send(*stream, parcel);
    }
    bench.turn(Patience::None);
    for stream in &streams {
        let answer = bench.answer_now(*stream);
        let fits = matches!(answer, Some(Answer::SendBroken(Fault::Reset)));
        assert!(fits, "{answer:?}");
    }
    assert!(bench.ring.overflowed());
    assert_eq!(bench.ring.buffers_free(), bench.ring.buffers_total());
}

#[test]
fn delivered_is_what_the_peer_has_acknowledged() {
    let mut bench = Bench::new();
    let (ours, mut peer) = narrow_pair();
    let stream = bench.attach(ours);
    assert!(bench.ring.is_delivered(stream));
    let (sent, rest) = bench.fill(stream);
    bench.ring.release(rest);
    assert!(!bench.ring.is_delivered(stream));
    read_exactly(&mut peer, sent.len());
    bench.until(|bench| bench.ring.is_delivered(stream).then_some(()));
    bench.ring.close(stream, false);
    assert!(
        bench.ring.is_delivered(stream),
        "there is nobody to wait for"
    );
}

/// The kernel has dropped answers for want of memory: which sends were whole, which doors stay shut, nobody knows. It counts
/// what it drops; as that cannot be had here, the count is bent.
#[test]
#[should_panic(expected = "the kernel had no memory for")]
fn with_answers_lost_no_send_passes_for_a_whole_one_and_nothing_waits_for_ever() {
    let mut bench = Bench::new();
    let (stream, _peer) = bench.client();
    let parcel = bench.parcel(b"maybe");
    bench.ring.send(stream, parcel);
    bench.ring.overflow_seen = bench.ring.overflow_seen.wrapping_sub(1);
    bench.turn(Patience::None);
}
