//! Watching a socket that is not received from.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::super::*;
use super::bench::{Bench, narrow_pair, read_exactly, reset};
use crate::ids::{Condition, Fault, Interest, StreamKey};

const RESET: Condition = Condition::Broken(Fault::Reset);

fn expect(bench: &mut Bench, stream: StreamKey, interest: Interest, expected: Condition) {
    let answer = bench.answer(stream);
    assert!(
        matches!(answer, Answer::Ready(i, c) if i == interest && c == expected),
        "{answer:?} instead of {interest:?}, {expected:?}"
    );
}

fn watched(bench: &mut Bench, interest: Interest) -> (StreamKey, std::net::TcpStream) {
    let (stream, peer) = bench.client();
    bench.ring.poll(stream, interest);
    bench.turn(Patience::None);
    (stream, peer)
}

#[test]
fn every_interest_sees_a_reset() {
    let mut bench = Bench::new();
    for interest in [Interest::HangUp, Interest::Leave, Interest::Readable] {
        let (stream, peer) = watched(&mut bench, interest);
        reset(peer);
        expect(&mut bench, stream, interest, RESET);
    }
    let (ours, peer) = narrow_pair();
    let stream = bench.attach(ours);
    bench.fill(stream);
    bench.ring.poll(stream, Interest::Writable);
    bench.expect_silence(stream);
    reset(peer);
    expect(&mut bench, stream, Interest::Writable, RESET);
}

#[test]
fn a_reset_after_the_peers_end_is_seen() {
    let mut bench = Bench::new();
    for interest in [Interest::HangUp, Interest::Leave] {
        let (stream, mut peer) = bench.client();
        // Something unread, so that the end alone is no reason to leave.
        peer.write_all(b"unread").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        if interest == Interest::HangUp {
            bench.ring.poll(stream, interest);
            bench.expect_silence(stream);
        }
        reset(peer);
        bench.until(|bench| {
            let socket = bench.ring.streams.socket(stream)?;
            crate::sys::stream::peer_address(socket)
                .is_err()
                .then_some(())
        });
        if interest == Interest::Leave {
            bench.ring.poll(stream, interest);
        }
        expect(&mut bench, stream, interest, RESET);
    }
}

#[test]
fn hang_up_alone_is_not_told_by_bytes_or_an_end() {
    let mut bench = Bench::new();
    let (stream, mut peer) = watched(&mut bench, Interest::HangUp);
    peer.write_all(b"bytes").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    bench.expect_silence(stream);
    bench.ring.cancel_poll(stream, Interest::HangUp);
    let answer = bench.answer(stream);
    assert!(
        matches!(answer, Answer::PollEnded(Interest::HangUp)),
        "{answer:?}"
    );
}

#[test]
fn both_ends_of_stream_are_a_hang_up_and_no_break() {
    let mut bench = Bench::new();
    for ours_first in [false, true] {
        let (stream, mut peer) = watched(&mut bench, Interest::HangUp);
        if ours_first {
            bench.ring.finish(stream);
        }
        peer.write_all(b"unread").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        if !ours_first {
            bench.expect_silence(stream);
            bench.ring.finish(stream);
        }
        expect(&mut bench, stream, Interest::HangUp, Condition::HungUp);
        bench.ring.receive(stream);
        assert_eq!(
            bench.receive_all(stream),
            (b"unread".to_vec(), crate::ids::ReceiveEnd::Fin)
        );
    }
}

#[test]
fn leaving_is_an_end_without_bytes_before_it() {
    let mut bench = Bench::new();
    let (stream, peer) = watched(&mut bench, Interest::Leave);
    peer.shutdown(Shutdown::Write).unwrap();
    expect(&mut bench, stream, Interest::Leave, Condition::Left);

    let (stream, mut peer) = watched(&mut bench, Interest::Leave);
    peer.write_all(b"a request").unwrap();
    bench.expect_silence(stream);
    peer.shutdown(Shutdown::Write).unwrap();
    expect(&mut bench, stream, Interest::Leave, Condition::Fine);
}

#[test]
fn readable_is_told_by_bytes_and_by_the_end() {
    let mut bench = Bench::new();
    let (stream, mut peer) = watched(&mut bench, Interest::Readable);
    bench.expect_silence(stream);
    peer.write_all(b"bytes").unwrap();
    expect(&mut bench, stream, Interest::Readable, Condition::Fine);
    // Once asked, once told.
    bench.expect_silence(stream);
    let (stream, peer) = watched(&mut bench, Interest::Readable);
    peer.shutdown(Shutdown::Write).unwrap();
    expect(&mut bench, stream, Interest::Readable, Condition::Fine);
}

#[test]
fn a_watermark_holds_readable_back_but_not_the_end() {
    let mut bench = Bench::new();
    let (stream, mut peer) = bench.client();
    bench.ring.set_watermark(stream, 1000);
    bench.ring.poll(stream, Interest::Readable);
    peer.write_all(&[1; 999]).unwrap();
    bench.expect_silence(stream);
    peer.write_all(&[1; 1]).unwrap();
    expect(&mut bench, stream, Interest::Readable, Condition::Fine);
    bench.ring.set_watermark(stream, 5000);
    bench.ring.poll(stream, Interest::Readable);
    bench.expect_silence(stream);
    peer.shutdown(Shutdown::Write).unwrap();
    expect(&mut bench, stream, Interest::Readable, Condition::Fine);
}

#[test]
fn writable_waits_for_room() {
    let mut bench = Bench::new();
    let (ours, mut peer) = narrow_pair();
    let stream = bench.attach(ours);
    bench.ring.poll(stream, Interest::Writable);
    expect(&mut bench, stream, Interest::Writable, Condition::Fine);
    let (sent, rest) = bench.fill(stream);
    bench.ring.release(rest);
    bench.ring.poll(stream, Interest::Writable);
    bench.expect_silence(stream);
    let reader = std::thread::spawn(move || {
        read_exactly(&mut peer, sent.len());
        peer
    });
    expect(&mut bench, stream, Interest::Writable, Condition::Fine);
    reader.join().unwrap();
}

/// io_uring tells every poll of the peer's end: asked again and again, a slow reader that has sent its end would be a spin.
#[test]
fn writable_waits_for_room_although_the_peer_has_sent_its_end() {
    let mut bench = Bench::new();
    let (ours, mut peer) = narrow_pair();
    let stream = bench.attach(ours);
    let (sent, rest) = bench.fill(stream);
    bench.ring.release(rest);
    bench.ring.poll(stream, Interest::Writable);
    bench.turn(Patience::None);
    peer.shutdown(Shutdown::Write).unwrap();
    bench.expect_silence(stream);
    // Asked after the end came, cancelled, and asked again.
    bench.ring.cancel_poll(stream, Interest::Writable);
    let answer = bench.answer(stream);
    assert!(
        matches!(answer, Answer::PollEnded(Interest::Writable)),
        "{answer:?}"
    );
    bench.ring.poll(stream, Interest::Writable);
    bench.expect_silence(stream);
    // Nor does the ring wake for it.
    let start = std::time::Instant::now();
    bench.turn(Patience::Nanoseconds(20_000_000));
    assert!(start.elapsed().as_millis() >= 20, "{:?}", start.elapsed());
    read_exactly(&mut peer, sent.len());
    expect(&mut bench, stream, Interest::Writable, Condition::Fine);
    bench.expect_silence(stream);
    // With room it is told at once, end or not; and a reset as ever.
    bench.ring.poll(stream, Interest::Writable);
    expect(&mut bench, stream, Interest::Writable, Condition::Fine);
    let (_, rest) = bench.fill(stream);
    bench.ring.release(rest);
    bench.ring.poll(stream, Interest::Writable);
    bench.expect_silence(stream);
    reset(peer);
    expect(&mut bench, stream, Interest::Writable, RESET);
    assert_eq!(bench.ring.in_flight, 1, "the doorbell's read");
}

/// The answer of a poll is in the queue, and says nothing but the end, when the poll is cancelled: it must not be asked
/// again, for nobody would cancel that.
#[test]
fn a_poll_cancelled_while_its_answer_waits_is_over() {
    let mut bench = Bench::new();
    let (stream, peer) = watched(&mut bench, Interest::HangUp);
    peer.shutdown(Shutdown::Write).unwrap();
    bench.until(|bench| {
        bench.ring.enter(Patience::Nanoseconds(5_000_000));
        (!bench.ring.io.completion().is_empty()).then_some(())
    });
    bench.ring.cancel_poll(stream, Interest::HangUp);
    let answer = bench.answer(stream);
    assert!(
        matches!(answer, Answer::PollEnded(Interest::HangUp)),
        "{answer:?}"
    );
    assert_eq!(bench.ring.in_flight, 1, "the doorbell's read");
}

#[test]
fn each_poll_can_be_cancelled_by_itself() {
    let mut bench = Bench::new();
    let (ours, _peer) = narrow_pair();
    let stream = bench.attach(ours);
    bench.fill(stream);
    let all = [Interest::HangUp, Interest::Readable, Interest::Writable];
    for interest in all {
        bench.ring.poll(stream, interest);
    }
    bench.expect_silence(stream);
    for interest in all {
        bench.ring.cancel_poll(stream, interest);
        let answer = bench.answer(stream);
        assert!(
            matches!(answer, Answer::PollEnded(of) if of == interest),
            "{answer:?}"
        );
        bench.expect_silence(stream);
    }
    // Armed and cancelled in one submission; and cancelled when nothing is armed.
    bench.ring.poll(stream, Interest::HangUp);
    bench.ring.cancel_poll(stream, Interest::HangUp);
    let answer = bench.answer(stream);
    assert!(
        matches!(answer, Answer::PollEnded(Interest::HangUp)),
        "{answer:?}"
    );
    bench.ring.cancel_poll(stream, Interest::Leave);
    bench.expect_silence(stream);
    assert_eq!(bench.ring.stale_answers(), 0);
}

#[test]
fn a_unix_peer_that_closes_hangs_up() {
    let mut bench = Bench::new();
    let (ours, peer) = UnixStream::pair().unwrap();
    let stream = bench.attach(ours);
    bench.ring.poll(stream, Interest::HangUp);
    bench.expect_silence(stream);
    drop(peer);
    expect(&mut bench, stream, Interest::HangUp, Condition::HungUp);
}
