//! A reset passes as a reset, from either side, in every mode of the relay, within a second, and never as a clean end
//! before it; bytes that arrived before it are delivered first.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use support::pairs::{Pair, Pairs, Who, shown_of};
use support::wait::{seconds, until, within};
use support::{alone, net, pattern};

const LIMIT: Duration = Duration::from_secs(1);
const ROUNDS: usize = 20;

/// Reads until the stream breaks: the bytes must be the pattern's, and the end must be ECONNRESET, all within the limit.
/// Returns how many bytes came.
#[track_caller]
fn read_to_reset(stream: &TcpStream, seed: u64, limit: Duration) -> u64 {
    let began = Instant::now();
    stream.set_read_timeout(Some(limit)).expect("a time limit");
    let received = read_to_any_reset(stream, seed);
    let took = began.elapsed();
    assert!(took < limit, "the reset was seen only after {took:?}");
    received
}

/// The same, however long it takes between reads.
#[track_caller]
fn read_to_any_reset(mut stream: &TcpStream, seed: u64) -> u64 {
    let mut piece = vec![0; 64 * 1024];
    let mut received = 0;
    loop {
        match stream.read(&mut piece) {
            Ok(0) => panic!("a reset was passed as a clean end after {received} bytes"),
            Ok(n) => {
                pattern::check(seed, received, &piece[..n]).expect("the bytes before the reset");
                received += n as u64;
            }
            Err(error) if net::is_reset(&error) => return received,
            Err(error) => panic!("{error} instead of a reset after {received} bytes"),
        }
    }
}

/// Writes until the stream breaks, which must be by ECONNRESET and within the limit. To who has seen the other's end the
/// kernel says EPIPE.
#[track_caller]
fn write_to_reset(mut stream: &TcpStream, limit: Duration, after_end: bool) {
    stream.set_write_timeout(Some(limit)).expect("a time limit");
    let piece = vec![0; 64 * 1024];
    let end = Instant::now() + limit;
    loop {
        match stream.write(&piece) {
            Ok(_) => assert!(Instant::now() < end, "writing goes on after a reset"),
            Err(error) if is_reset(&error, after_end) => {
                assert!(Instant::now() < end, "a late reset");
                return;
            }
            Err(error) => panic!("{error} instead of a reset"),
        }
    }
}

fn is_reset(error: &std::io::Error, after_end: bool) -> bool {
    net::is_reset(error) || after_end && error.kind() == ErrorKind::BrokenPipe
}

/// Every other round, one side ends its stream first, and the other has seen that: it resets or is reset from CLOSE_WAIT.
fn half_close(round: usize, ending: &TcpStream, other: &TcpStream) -> bool {
    let wanted = round % 2 == 1;
    if wanted {
        ending.shutdown(Shutdown::Write).expect("half-close");
        pattern::expect_fin(other).expect("the end of one direction");
    }
    wanted
}

/// Writes the pattern until nothing moves any more: every buffer on the way is full. Returns how many bytes went in.
fn fill_up(mut stream: &TcpStream, seed: u64) -> u64 {
    let pause = Duration::from_millis(150);
    stream.set_write_timeout(Some(pause)).expect("a time limit");
    let mut piece = vec![0; 64 * 1024];
    let mut sent = 0;
    loop {
        pattern::fill(seed, sent, &mut piece);
        match stream.write(&piece) {
            Ok(n) => sent += n as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return sent,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{error} while filling the buffers"),
        }
    }
}

/// A few small messages each way: the relay copies.
fn chat(one: &TcpStream, other: &TcpStream) {
    for _ in 0..3 {
        for (mut from, mut to) in [(one, other), (other, one)] {
            from.write_all(b"a small message").expect("send");
            let mut message = [0; 15];
            to.read_exact(&mut message).expect("receive");
        }
    }
}

fn wait_empty(pairs: &Pairs) {
    if let Some(ringway) = pairs.front.ringway() {
        ringway.wait_empty();
    }
}

#[test]
fn while_nothing_is_said() {
    let pairs = Pairs::new();
    for who in Who::BOTH {
        for _ in 0..ROUNDS {
            let (resetting, other) = pairs.pair().ends(who);
            net::reset(resetting);
            assert_eq!(read_to_reset(&other, 0, LIMIT), 0, "{who:?}");
        }
    }
    wait_empty(&pairs);
}

#[test]
fn while_small_messages_are_copied() {
    let pairs = Pairs::new();
    for who in Who::BOTH {
        for _ in 0..ROUNDS {
            let (resetting, other) = pairs.pair().ends(who);
            chat(&resetting, &other);
            net::reset(resetting);
            assert_eq!(read_to_reset(&other, 0, LIMIT), 0, "{who:?}");
        }
    }
    wait_empty(&pairs);
}

/// A message and, in the same moment, the reset: the message comes first.
#[test]
fn a_message_right_before_the_reset_is_delivered() {
    let pairs = Pairs::new();
    for who in Who::BOTH {
        for round in 0..50 {
            let (mut resetting, other) = pairs.pair().ends(who);
            if round % 2 == 0 {
                chat(&resetting, &other);
            }
            let mut message = vec![0; 1 + round * 200];
            pattern::fill(5, 0, &mut message);
            resetting.write_all(&message).expect("send");
            // So little leaves at once, and loopback keeps it before the reset.
            net::reset(resetting);
            let received = read_to_reset(&other, 5, LIMIT);
            assert_eq!(received, message.len() as u64, "{who:?}");
        }
    }
    wait_empty(&pairs);
}

/// The sender of a stream resets in its midst: the receiver sees a prefix, then the reset.
#[test]
fn the_sender_of_a_stream_resets() {
    let _alone = alone();
    let pairs = Pairs::new();
    for who in Who::BOTH {
        for round in 0..ROUNDS {
            let (resetting, other) = pairs.pair().ends(who);
            let bytes = 2_000_000 + 500_000 * round as u64;
            half_close(round, &other, &resetting);
            thread::scope(|scope| {
                let sender = scope.spawn(move || {
                    pattern::send(&resetting, 3, bytes, 100_001).expect("send");
                    net::reset(resetting);
                    Instant::now()
                });
                let received = read_to_any_reset(&other, 3);
                let seen = Instant::now();
                assert!(received <= bytes, "{received} of {bytes}");
                let at = sender.join().expect("the sender");
                let took = seen.saturating_duration_since(at);
                assert!(took < LIMIT, "{who:?}: only after {took:?}");
            });
        }
    }
    wait_empty(&pairs);
    if let Some(ringway) = pairs.front.ringway() {
        let spliced = ringway.metric("ringway_spliced_bytes_total");
        assert!(
            spliced > 1e6,
            "these streams must be spliced: {spliced} bytes"
        );
    }
}

/// The receiver of a stream resets in its midst: the sender's next write or read says so.
#[test]
fn the_receiver_of_a_stream_resets() {
    let _alone = alone();
    let pairs = Pairs::new();
    for who in Who::BOTH {
        for round in 0..ROUNDS {
            let (resetting, other) = pairs.pair().ends(who);
            let bytes = 2_000_000 + 300_000 * round as u64;
            let after_end = half_close(round, &resetting, &other);
            thread::scope(|scope| {
                let sender = scope.spawn(move || {
                    let error = pattern::send(&other, 4, u64::MAX, 100_001).expect_err("a reset");
                    (error, Instant::now())
                });
                pattern::receive(&resetting, 4, bytes).expect("the first bytes");
                net::reset(resetting);
                let at = Instant::now();
                let (error, seen) = sender.join().expect("the sender");
                assert!(is_reset(&error, after_end), "{who:?}: {error}");
                assert!(
                    seen.saturating_duration_since(at) < LIMIT,
                    "{who:?}: too late"
                );
            });
        }
    }
    wait_empty(&pairs);
}

/// Nobody reads and everything is full; the side that does not read resets, and the blocked writer hears of it.
#[test]
fn a_stalled_reader_resets() {
    let pairs = Pairs::new();
    for who in Who::BOTH {
        for round in 0..4 {
            let (resetting, other) = pairs.pair().ends(who);
            // Who has read the end reads nothing else: only writing tells.
            let after_end = half_close(round, &resetting, &other);
            let sent = fill_up(&other, 8);
            assert!(sent > 100_000);
            net::reset(resetting);
            if round != 2 {
                write_to_reset(&other, LIMIT, after_end);
            } else {
                read_to_reset(&other, 0, LIMIT);
            }
        }
    }
    wait_empty(&pairs);
}

/// Nobody reads and everything is full; the blocked writer resets. The stalled reader's socket is reset once the time
/// to deliver has passed, without its having read.
#[test]
fn the_writer_to_a_stalled_reader_resets() {
    let pairs = Pairs::new();
    for who in Who::BOTH {
        for round in 0..2 {
            let (resetting, other) = pairs.pair().ends(who);
            half_close(round, &other, &resetting);
            let sent = fill_up(&resetting, 9);
            net::reset(resetting);
            // One second for delivery, and half a one for a busy machine.
            until(LIMIT * 3 / 2, "the stalled reader is reset", || {
                shown_of(&other).is_none()
            });
            let received = read_to_reset(&other, 9, LIMIT);
            assert!(received <= sent, "{received} of {sent}");
        }
    }
    wait_empty(&pairs);
}

/// Both directions are full, nobody reads; one side resets, and the other begins to read a moment later.
#[test]
fn a_reset_with_both_directions_full_is_no_clean_end() {
    let pairs = Pairs::with(32 * 1024, |setup| setup);
    for who in Who::BOTH {
        for round in 0..6 {
            let (resetting, other) = pairs.pair_with(32 * 1024).ends(who);
            let sent = thread::scope(|scope| {
                scope.spawn(|| fill_up(&other, 10));
                fill_up(&resetting, 11)
            });
            net::reset(resetting);
            thread::sleep(Duration::from_millis(round * 5));
            let received = read_to_reset(&other, 11, LIMIT);
            assert!(received <= sent, "{received} of {sent}");
        }
    }
    wait_empty(&pairs);
}

/// Everything that reached the balancer before the reset reaches the reader that begins to read just then.
#[test]
fn bytes_that_arrived_before_a_reset_are_delivered_first() {
    let pairs = Pairs::with(16 * 1024, |setup| setup);
    if pairs.front.ringway().is_none() {
        return; // Without a balancer nobody holds them.
    }
    for who in Who::BOTH {
        for bytes in [60_000, 150_000, 300_000] {
            let pair = pairs.pair_with(16 * 1024);
            let (resetting, other) = pair.ends(who);
            pattern::send(&resetting, 6, bytes, 20_001).expect("send");
            until(seconds(5), "all bytes reached the balancer", || {
                shown_of(&resetting).is_some_and(|shown| shown.unsent == 0)
            });
            net::reset(resetting);
            let received = read_to_reset(&other, 6, LIMIT);
            assert_eq!(received, bytes, "{who:?}");
        }
    }
    wait_empty(&pairs);
}

/// One side has ended its stream; then it resets. The other side has seen the end, and must see the reset as an error
/// of the socket (the kernel calls it EPIPE after a FIN).
#[test]
fn a_reset_after_a_half_close_is_seen_too() {
    let pairs = Pairs::new();
    for who in Who::BOTH {
        for round in 0..ROUNDS {
            let (resetting, other) = pairs.pair().ends(who);
            if round % 2 == 0 {
                chat(&resetting, &other);
            }
            resetting.shutdown(Shutdown::Write).expect("half-close");
            pattern::expect_fin(&other).expect("the end of one direction");
            assert!(
                other.take_error().expect("SO_ERROR").is_none(),
                "an error too early"
            );
            net::reset(resetting);
            let error = within(LIMIT, "the reset behind the end", || {
                other.take_error().expect("SO_ERROR")
            });
            let kind = error.kind();
            assert!(
                kind == ErrorKind::BrokenPipe || kind == ErrorKind::ConnectionReset,
                "{who:?}: {error}"
            );
        }
    }
    wait_empty(&pairs);
}

/// One side has ended its stream; the other one, in the midst of its answer, resets.
#[test]
fn a_reset_by_the_side_that_has_seen_the_end() {
    let pairs = Pairs::new();
    for who in Who::BOTH {
        for round in 0..ROUNDS {
            let (mut resetting, other) = pairs.pair().ends(who);
            other.shutdown(Shutdown::Write).expect("half-close");
            pattern::expect_fin(&resetting).expect("the end of one direction");
            let mut answer = vec![0; round * 3_000];
            pattern::fill(2, 0, &mut answer);
            resetting
                .write_all(&answer)
                .expect("the answer's beginning");
            net::reset(resetting);
            let received = read_to_reset(&other, 2, LIMIT);
            assert!(received <= answer.len() as u64);
        }
    }
    wait_empty(&pairs);
}

/// Closing a socket with unread bytes in it is a reset, as the kernel does it.
#[test]
fn closing_with_unread_bytes_is_a_reset() {
    let pairs = Pairs::new();
    for who in Who::BOTH {
        for _ in 0..ROUNDS {
            let (closing, mut other) = pairs.pair().ends(who);
            other.write_all(b"nobody will read this").expect("send");
            until(seconds(5), "the message arrived", || {
                shown_of(&closing).is_some_and(|shown| shown.unread > 0)
            });
            drop(closing);
            assert_eq!(read_to_reset(&other, 0, LIMIT), 0, "{who:?}");
        }
    }
    wait_empty(&pairs);
}

/// A clean end must not turn into a reset either.
#[test]
fn a_clean_end_stays_clean() {
    let pairs = Pairs::new();
    for who in Who::BOTH {
        for _ in 0..ROUNDS {
            let Pair { client, backend } = pairs.pair();
            chat(&client, &backend);
            let (closing, other) = Pair { client, backend }.ends(who);
            drop(closing);
            pattern::expect_fin(&other).expect("a clean end");
            drop(other);
        }
    }
    wait_empty(&pairs);
    if let Some(ringway) = pairs.front.ringway() {
        let metrics = ringway.metrics();
        for (end, count) in [
            ("client-fin", 20.0),
            ("backend-fin", 20.0),
            ("client-reset", 0.0),
        ] {
            let found = metrics.sum("ringway_session_ends_total", &[("end", end)]);
            assert_eq!(found, count, "{end}");
        }
    }
}

#[test]
fn ends_are_counted_by_the_side_that_reset() {
    let pairs = Pairs::new();
    for who in Who::BOTH {
        for _ in 0..7 {
            let (resetting, other) = pairs.pair().ends(who);
            chat(&resetting, &other);
            net::reset(resetting);
            read_to_reset(&other, 0, LIMIT);
        }
    }
    wait_empty(&pairs);
    if let Some(ringway) = pairs.front.ringway() {
        let metrics = ringway.metrics();
        for end in ["client-reset", "backend-reset"] {
            let found = metrics.sum("ringway_session_ends_total", &[("end", end)]);
            assert_eq!(found, 7.0, "{end}");
        }
    }
}
