//! The turn itself: what wakes it, how long it sleeps, what happens when answers outnumber the queue; and that the ring
//! refuses what it was not built for.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use io_uring::opcode;

use super::super::*;
use super::alone::alone;
use super::bench::{Bench, LONG, SIZE, narrow_pair, reset};
use crate::ids::{Condition, Interest, SocketId, StreamKey};

#[test]
fn a_bell_from_another_thread_wakes_an_endless_sleep() {
    let mut bench = Bench::new();
    for round in 1..=20 {
        std::thread::scope(|scope| {
            let doorbell = &bench.doorbell;
            let (ready, go) = std::sync::mpsc::channel();
            scope.spawn(move || {
                go.recv().unwrap();
                doorbell.ring();
            });
            let ring = &mut bench.ring;
            ready.send(()).unwrap();
            let mut outcomes = Vec::new();
            let start = Instant::now();
            while outcomes.is_empty() {
                ring.turn(Patience::Endless, &mut outcomes);
                assert!(start.elapsed() < LONG);
            }
            assert!(matches!(outcomes[..], [Outcome::Doorbell]), "{round}");
        });
    }
}

#[test]
fn bells_before_a_turn_are_one() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        bench.doorbell.ring();
    }
    bench.until(|bench| (bench.bells > 0).then_some(()));
    for _ in 0..3 {
        bench.turn(Patience::None);
    }
    assert_eq!(bench.bells, 1);
}

#[test]
fn patience_is_kept_not_cut_short_and_not_stretched() {
    let mut bench = Bench::new();
    // Quiet first: the doorbell's read is submitted.
    bench.turn(Patience::None);
    for milliseconds in [1u64, 20, 75] {
        let asked = Duration::from_millis(milliseconds);
        // Others may have the processor: the best of a few tries.
        let slept: Vec<Duration> = (0..10)
            .map(|_| {
                let start = Instant::now();
                bench.turn(Patience::Nanoseconds(milliseconds * 1_000_000));
                start.elapsed()
            })
            .collect();
        let (shortest, longest) = (slept.iter().min().unwrap(), slept.iter().max().unwrap());
        assert!(*shortest >= asked, "woke early: {slept:?}");
        assert!(
            *shortest < asked + Duration::from_millis(5),
            "woke late: {slept:?}"
        );
        assert!(*longest < LONG);
    }
    let start = Instant::now();
    for _ in 0..1000 {
        bench.turn(Patience::None);
        bench.turn(Patience::Nanoseconds(1));
    }
    assert!(start.elapsed() < LONG);
}

fn armed(bench: &mut Bench, count: usize) -> Vec<(StreamKey, TcpStream)> {
    let streams: Vec<_> = (0..count).map(|_| bench.client()).collect();
    for (stream, _) in &streams {
        bench.ring.poll(*stream, Interest::Readable);
    }
    bench.turn(Patience::None);
    streams
}

#[test]
fn answers_beyond_the_queue_overflow_and_none_is_lost() {
    let mut bench = Bench::sized(RingSize {
        submissions: 8,
        completions: 16,
        ..SIZE
    });
    assert!(!bench.ring.overflowed());
    let mut streams = armed(&mut bench, 200);
    for (_, peer) in &mut streams {
        peer.write_all(b"x").unwrap();
    }
    for (stream, _) in &streams {
        let answer = bench.answer(*stream);
        assert!(matches!(answer, Answer::Ready(..)), "{answer:?}");
    }
    assert!(bench.ring.overflowed());
    assert!(!bench.ring.overflowed(), "told once");
    // And it goes on as before.
    for (stream, peer) in &mut streams {
        peer.write_all(b"x").unwrap();
        bench.ring.poll(*stream, Interest::Readable);
    }
    for (stream, _) in &streams {
        bench.answer(*stream);
    }
    assert_eq!(bench.ring.stale_answers(), 0);
}

/// What the ring does where the kernel has no memory for a submission: it must not come back at once, and lose nothing.
#[test]
fn a_rest_is_one_even_while_answers_wait() {
    let mut bench = Bench::new();
    let mut streams = armed(&mut bench, 3);
    for (_, peer) in &mut streams {
        peer.write_all(b"x").unwrap();
    }
    bench.ring.enter(Patience::None);
    for _ in 0..5 {
        let start = Instant::now();
        bench.ring.rest();
        let rested = start.elapsed();
        assert!(rested >= Duration::from_millis(1), "{rested:?}");
        assert!(rested < LONG);
    }
    for (stream, _) in &streams {
        let answer = bench.answer(*stream);
        assert!(matches!(answer, Answer::Ready(..)), "{answer:?}");
    }
}

/// An overflow ends multishot operations: they end as if asked to, and go on when armed again.
#[test]
fn an_overflow_ends_accepts_and_receives_without_a_loss() {
    let mut bench = Bench::sized(RingSize {
        submissions: 8,
        completions: 16,
        ..SIZE
    });
    let door = SocketId(5);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    bench.ring.open_listener(door, listener.as_fd()).unwrap();
    bench.ring.accept(door);
    bench.turn(Patience::None);
    let address = listener.local_addr().unwrap();
    let mut clients: Vec<_> = (0..60)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let mut streams = Vec::new();
    bench.until(|bench| {
        while let Some((_, incoming)) = bench.accepted_now() {
            streams.push(bench.attach(incoming));
        }
        if let Some((_, end)) = bench.accept_ended_now() {
            assert_eq!(end, AcceptEnd::Retry);
            bench.ring.accept(door);
        }
        (streams.len() == clients.len()).then_some(())
    });
    for stream in &streams {
        bench.ring.receive(*stream);
    }
    bench.turn(Patience::None);
    for client in &mut clients {
        client.write_all(&[7; 3000]).unwrap();
    }
    drop(clients);
    for stream in &streams {
        let bytes = bench.receive_to_end(*stream).len();
        assert_eq!(bytes, 3000);
    }
    assert!(bench.ring.overflowed());
    assert_eq!(bench.ring.stale_answers(), 0);
    assert_eq!(bench.ring.buffers_free(), bench.ring.buffers_total());
}

/// More operations in flight than the kernel's largest completion queue has places, all answered at once by one reset.
#[test]
fn more_answers_than_the_largest_queue_holds() {
    const STREAMS: usize = 17_000;
    alone(
        "uring::tests::turn::more_answers_than_the_largest_queue_holds",
        || {
            if crate::sys::limits::raise_descriptors(20_000).unwrap().soft < 20_000 {
                eprintln!("too few descriptors allowed here: nothing was tried");
                return;
            }
            let mut bench = Bench::sized(RingSize {
                slots_max: 20_000,
                submissions: 4096,
                completions: 65_536,
                ..SIZE
            });
            // One socket under many descriptors.
            let (ours, peer) = narrow_pair();
            let first = bench.attach(ours.try_clone().unwrap());
            let (_, rest) = bench.fill(first);
            bench.ring.release(rest);
            let mut streams = vec![first];
            while streams.len() < STREAMS {
                streams.push(bench.attach(ours.try_clone().unwrap()));
            }
            let all = [
                Interest::HangUp,
                Interest::Leave,
                Interest::Readable,
                Interest::Writable,
            ];
            for stream in &streams {
                for interest in all {
                    bench.ring.poll(*stream, interest);
                }
            }
            bench.turn(Patience::None);
            assert!(bench.ring.in_flight > 65_536, "{}", bench.ring.in_flight);
            reset(peer);
            let mut answers = 0;
            let mut broken = 0;
            let start = Instant::now();
            let mut outcomes = Vec::new();
            while answers < STREAMS * all.len() {
                assert!(start.elapsed() < LONG, "{answers} answers");
                bench
                    .ring
                    .turn(Patience::Nanoseconds(5_000_000), &mut outcomes);
                for outcome in outcomes.drain(..) {
                    answers += 1;
                    match outcome {
                        Outcome::Stream(_, Answer::Ready(_, Condition::Broken(_))) => broken += 1,
                        Outcome::Stream(_, Answer::Ready(..)) => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            // It is one socket, so the error is told once.
            assert_eq!((answers, broken), (STREAMS * all.len(), 1));
            assert_eq!(bench.ring.in_flight, 1, "the doorbell's read");
            drop(bench);
        },
    );
}

#[test]
fn without_overflow_none_is_told() {
    let mut bench = Bench::new();
    let mut streams = armed(&mut bench, 200);
    for (_, peer) in &mut streams {
        peer.write_all(b"x").unwrap();
    }
    for (stream, _) in &streams {
        bench.answer(*stream);
    }
    assert!(!bench.ring.overflowed());
}

#[test]
fn answers_come_although_the_ring_sleeps_on_a_full_queue_of_submissions() {
    let mut bench = Bench::sized(RingSize {
        submissions: 1,
        completions: 2,
        ..SIZE
    });
    let mut streams = armed(&mut bench, 50);
    for (_, peer) in &mut streams {
        peer.write_all(b"x").unwrap();
    }
    for (stream, _) in &streams {
        bench.answer(*stream);
    }
}

#[test]
fn a_restricted_ring_refuses_what_it_does_not_use() {
    let mut bench = Bench::new();
    bench.turn(Patience::None);
    let foreign = [
        opcode::Nop::new().build(),
        opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build(),
        opcode::UringCmd16::new(io_uring::types::Fd(0), 0).build(),
        opcode::Splice::new(io_uring::types::Fd(0), -1, io_uring::types::Fd(1), -1, 1).build(),
        // One of ours, with a flag that is not.
        opcode::PollAdd::new(io_uring::types::Fd(0), 1)
            .build()
            .flags(io_uring::squeue::Flags::ASYNC),
    ];
    for entry in foreign {
        bench.ring.push(&entry.user_data(u64::MAX), false);
        bench.ring.enter(Patience::Nanoseconds(1_000_000_000));
        bench.ring.collect();
        let told = format!("{:?}", bench.ring.completions);
        assert!(told.contains("result: -13"), "{told}");
    }
    let refused = bench.ring.io.submitter().register_files_sparse(4);
    assert_eq!(
        refused.unwrap_err().raw_os_error(),
        Some(libc::EACCES),
        "registering"
    );
}

#[test]
fn a_ring_that_cannot_be_built_says_which_step_and_why() {
    let doorbell = crate::sys::Doorbell::new().unwrap();
    let size = RingSize {
        completions: 8,
        submissions: 64,
        ..SIZE
    };
    let bell = std::os::fd::AsFd::as_fd(&doorbell);
    let error = Ring::build(size, Features::found().unwrap(), bell).unwrap_err();
    assert_eq!(error.step, "setting up a ring");
    assert!(error.to_string().contains("Linux 6.1"), "{error}");
}

#[test]
fn a_window_waits_for_a_second_answer_and_no_longer() {
    if !probe().unwrap().min_wait {
        eprintln!(
            "not tried: this kernel (before 6.12) has no such wait, so windows are never asked of it"
        );
        return;
    }
    let mut bench = Bench::new();
    let mut clients = [bench.client(), bench.client()];
    for (stream, _) in &clients {
        bench.ring.receive(*stream);
    }
    bench.turn(Patience::None);
    let window = Duration::from_millis(40);
    let mut wait_after = |bench: &mut Bench, speakers: usize| {
        for (_, peer) in &mut clients[..speakers] {
            peer.write_all(b"x").unwrap();
        }
        let start = Instant::now();
        let patience = Patience::Nanoseconds(400_000_000);
        bench.ring.enter_for(patience, 40_000);
        let took = start.elapsed();
        bench.turn(Patience::None);
        took
    };
    let alone = wait_after(&mut bench, 1);
    assert!(alone >= window, "one answer ended the wait: {alone:?}");
    assert!(alone < window * 5, "more than the window: {alone:?}");
    let two = wait_after(&mut bench, 2);
    assert!(two < window, "two answers were waited for: {two:?}");
    let none = wait_after(&mut bench, 0);
    assert!(none >= window * 10, "patience was cut: {none:?}");
}
