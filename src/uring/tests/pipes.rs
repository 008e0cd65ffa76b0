//! Bytes through a pipe from socket to socket: stashed ones first, back into stock only when empty, closed otherwise.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;

use super::super::*;
use super::alone::{alone, descriptors, leave_room_for};
use super::bench::{Bench, LONG, SIZE, pattern, read_exactly, reset};
use crate::ids::{Fault, Moved, Sink, Source, StreamKey};

/// Moves until the source has nothing more now, and returns the last answer with the sums.
fn move_all(bench: &mut Bench, from: StreamKey) -> Moved {
    let (mut filled, mut drained) = (0, 0);
    bench.until(|bench| {
        let moved = bench.ring.move_bytes(from, true);
        filled += moved.filled;
        drained += moved.drained;
        let more = matches!(moved.source, Source::More | Source::Dry) && moved.sink == Sink::Open;
        (!more).then_some(Moved {
            filled,
            drained,
            ..moved
        })
    })
}

#[test]
fn stashed_bytes_leave_before_those_still_in_the_socket() {
    let mut bench = Bench::new();
    let (client, mut peer, _, mut backend_peer) = bench.relay();
    let parcel = bench.parcel(b"first ");
    peer.write_all(b"second").unwrap();
    let free = bench.ring.buffers_free();
    let (bytes, rest) = bench.ring.stash(client, parcel);
    assert_eq!((bytes, rest), (6, None));
    assert_eq!(bench.ring.buffers_free(), free + 1);
    let parcel = bench.parcel(b"and ");
    assert_eq!(bench.ring.stash(client, parcel), (4, None));
    assert_eq!(bench.ring.pipes_open(), 1);
    peer.shutdown(Shutdown::Write).unwrap();
    let moved = move_all(&mut bench, client);
    assert_eq!((moved.filled, moved.drained), (6, 16));
    assert_eq!((moved.source, moved.sink), (Source::Fin, Sink::Open));
    assert_eq!(read_exactly(&mut backend_peer, 16), b"first and second");
}

/// The kernel shows the move an end of stream then, which would be passed on as a clean one.
#[test]
fn after_a_send_took_the_error_a_move_is_told_it_too() {
    let mut bench = Bench::new();
    let (client, mut peer, _, mut backend_peer) = bench.relay();
    peer.write_all(b"last words").unwrap();
    reset(peer);
    let parcel = bench.parcel(b"to nobody");
    bench.ring.send(client, parcel);
    let answer = bench.answer(client);
    assert!(matches!(answer, Answer::SendBroken(_)), "{answer:?}");
    let moved = move_all(&mut bench, client);
    assert_eq!((moved.filled, moved.drained), (10, 10));
    assert_eq!(moved.source, Source::Broken(Fault::Reset));
    assert_eq!(read_exactly(&mut backend_peer, 10), b"last words");
}

#[test]
fn without_filling_only_the_pipe_is_emptied() {
    let mut bench = Bench::new();
    let (client, mut peer, _, mut backend_peer) = bench.relay();
    let parcel = bench.parcel(b"first");
    bench.ring.stash(client, parcel);
    peer.write_all(b"second").unwrap();
    let moved = bench.ring.move_bytes(client, false);
    assert_eq!((moved.filled, moved.drained), (0, 5));
    assert_eq!(moved.source, Source::Untouched);
    assert_eq!(read_exactly(&mut backend_peer, 5), b"first");
}

#[test]
fn a_long_stream_crosses_whole_in_both_directions() {
    let mut bench = Bench::new();
    let (client, peer, backend, backend_peer) = bench.relay();
    for (from, mut source, mut sink) in [
        (
            client,
            peer.try_clone().unwrap(),
            backend_peer.try_clone().unwrap(),
        ),
        (backend, backend_peer, peer),
    ] {
        let sent = pattern(5, 3_000_000);
        let copy = sent.clone();
        let writer = std::thread::spawn(move || {
            source.write_all(&copy).unwrap();
            source.shutdown(Shutdown::Write).unwrap();
        });
        let size = sent.len();
        let reader = std::thread::spawn(move || read_exactly(&mut sink, size));
        let (mut filled, mut drained) = (0, 0);
        bench.until(|bench| {
            let moved = bench.ring.move_bytes(from, true);
            filled += moved.filled;
            drained += moved.drained;
            (moved.source == Source::Fin && filled == drained).then_some(())
        });
        writer.join().unwrap();
        assert!(reader.join().unwrap() == sent);
        assert_eq!(drained as usize, size);
    }
    assert_eq!(bench.ring.stock.open(), bench.ring.pipes_open());
}

#[test]
fn a_full_sink_leaves_bytes_in_the_pipe_and_the_account_is_right() {
    let mut bench = Bench::new();
    let (client, mut peer, backend, mut backend_peer) = bench.relay();
    socket2::SockRef::from(&backend_peer)
        .set_recv_buffer_size(32_768)
        .unwrap();
    let sink = bench.ring.streams.socket(backend).unwrap();
    socket2::SockRef::from(&sink)
        .set_send_buffer_size(32_768)
        .unwrap();
    let sent = pattern(9, 2_000_000);
    let copy = sent.clone();
    let writer = std::thread::spawn(move || peer.write_all(&copy).map(|()| peer));
    let (mut filled, mut drained) = (0, 0);
    bench.until(|bench| {
        let moved = bench.ring.move_bytes(client, true);
        filled += moved.filled;
        drained += moved.drained;
        (moved.sink == Sink::Full && filled > drained).then_some(())
    });
    // Nothing is taken in while the pipe holds bytes that the sink does not want.
    let moved = bench.ring.move_bytes(client, true);
    if moved.sink == Sink::Full && moved.drained == 0 {
        assert_eq!(moved.filled, 0);
    }
    filled += moved.filled;
    drained += moved.drained;
    let held = bench.ring.streams.take_loan(client).unwrap();
    let crate::uring::streams::Carrier::Pipe(pipe) = &held.carrier else {
        panic!("kept in memory though there are pipes");
    };
    assert_eq!(
        crate::sys::stream::readable_bytes(pipe.read.as_fd()).unwrap(),
        (filled - drained) as usize
    );
    assert_eq!(held.bytes, filled - drained);
    bench.ring.streams.put_loan(client, held);
    let size = sent.len();
    let reader = std::thread::spawn(move || read_exactly(&mut backend_peer, size));
    bench.until(|bench| {
        drained += bench.ring.move_bytes(client, true).drained;
        (drained as usize == size).then_some(())
    });
    assert!(reader.join().unwrap() == sent);
    drop(writer.join().unwrap().unwrap());
}

#[test]
fn breaks_are_told_by_side() {
    let mut bench = Bench::new();
    let (client, peer, _, _backend_peer) = bench.relay();
    reset(peer);
    let moved = move_all(&mut bench, client);
    assert_eq!(moved.source, Source::Broken(Fault::Reset));
    assert_eq!(moved.sink, Sink::Open);

    let (client, mut peer, backend, backend_peer) = bench.relay();
    reset(backend_peer);
    bench.until(|bench| {
        let socket = bench.ring.streams.socket(backend)?;
        crate::sys::stream::peer_address(socket)
            .is_err()
            .then_some(())
    });
    peer.write_all(b"to nobody").unwrap();
    let moved = move_all(&mut bench, client);
    assert_eq!(moved.sink, Sink::Broken(Fault::Reset));
    assert_eq!(moved.filled, 9);
    // What nobody can have keeps its pipe out of the stock.
    let open = bench.ring.pipes_open();
    bench.ring.drop_pipe(client);
    assert_eq!(bench.ring.pipes_open(), open - 1);
}

#[test]
fn with_no_pipe_to_be_had_bytes_are_kept_in_memory_and_nothing_is_lost() {
    let mut bench = Bench::sized(RingSize {
        pipes_max: 0,
        ..SIZE
    });
    let (client, mut peer, _, mut backend_peer) = bench.relay();
    peer.write_all(b"stay").unwrap();
    let moved = bench.ring.move_bytes(client, true);
    assert_eq!(moved.source, Source::NoPipe);
    assert_eq!((moved.filled, moved.drained), (0, 0));
    for part in [b"kept ", b"back "] {
        let parcel = bench.parcel(part);
        assert_eq!(bench.ring.stash(client, parcel), (5, None));
    }
    let moved = bench.ring.move_bytes(client, true);
    assert_eq!((moved.drained, moved.source), (10, Source::NoPipe));
    assert_eq!(read_exactly(&mut backend_peer, 10), b"kept back ");
    assert_eq!(bench.ring.memory_stashes(), 1);
    assert_eq!(bench.ring.pipes_open(), 0);
    // The next one finds the room of the first, and nothing of what was in it.
    let parcel = bench.parcel(b"again");
    assert_eq!(bench.ring.stash(client, parcel), (5, None));
    assert_eq!(bench.ring.move_bytes(client, true).drained, 5);
    assert_eq!(read_exactly(&mut backend_peer, 5), b"again");
    assert_eq!(bench.ring.memory_stashes(), 2);
}

#[test]
fn pipes_are_lent_up_to_the_limit_and_again_when_given_back() {
    let mut bench = Bench::sized(RingSize {
        pipes_max: 2,
        ..SIZE
    });
    let relays: Vec<_> = (0..3).map(|_| bench.relay()).collect();
    for (place, (client, ..)) in relays.iter().enumerate() {
        let parcel = bench.parcel(b"held");
        let (bytes, rest) = bench.ring.stash(*client, parcel);
        assert_eq!((bytes, rest), (4, None));
        assert_eq!(bench.ring.memory_stashes(), u64::from(place == 2));
    }
    assert_eq!(bench.ring.move_bytes(relays[2].0, false).drained, 4);
    // Emptied, it goes back to stock and on to the third.
    let moved = bench.ring.move_bytes(relays[0].0, false);
    assert_eq!(moved.drained, 4);
    assert_eq!(bench.ring.pipes_open(), 2);
    let parcel = bench.parcel(b"held");
    assert_eq!(bench.ring.stash(relays[2].0, parcel), (4, None));
    // Dropped with bytes in it, it is closed.
    bench.ring.drop_pipe(relays[2].0);
    assert_eq!(bench.ring.pipes_open(), 1);
    bench.ring.drop_pipe(relays[2].0);
    assert_eq!(bench.ring.pipes_open(), 1);
    let parcel = bench.parcel(b"held");
    assert_eq!(bench.ring.stash(relays[0].0, parcel), (4, None));
}

#[test]
fn a_pipe_that_is_full_gives_the_rest_back() {
    let mut bench = Bench::new();
    let (client, _peer, _, mut backend_peer) = bench.relay();
    let mut expected: Vec<u8> = Vec::new();
    let rest = bench.until(|bench| {
        let bytes = pattern(expected.len() as u32, SIZE.buffer_bytes as usize);
        let parcel = bench.parcel(&bytes);
        let (stashed, rest) = bench.ring.stash(client, parcel);
        expected.extend(&bytes[..stashed as usize]);
        rest
    });
    assert!(expected.len() >= 65_536);
    bench.ring.release(rest);
    let size = expected.len();
    let reader = std::thread::spawn(move || read_exactly(&mut backend_peer, size));
    let mut drained = 0;
    bench.until(|bench| {
        drained += bench.ring.move_bytes(client, false).drained as usize;
        (drained == size).then_some(())
    });
    assert!(reader.join().unwrap() == expected);
}

#[test]
fn a_stream_that_never_blocks_yields() {
    let mut bench = Bench::new();
    let (client, mut peer, _, mut backend_peer) = bench.relay();
    let writer = std::thread::spawn(move || while peer.write_all(&[0; 65_536]).is_ok() {});
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 65_536];
        while backend_peer.read(&mut bytes).is_ok_and(|count| count > 0) {}
    });
    for _ in 0..200 {
        let moved = bench.ring.move_bytes(client, true);
        assert!(moved.filled <= 2 * 1024 * 1024, "{moved:?}");
    }
    drop(bench);
    writer.join().unwrap();
    reader.join().unwrap();
}

#[test]
fn dropped_pipes_and_lost_ones_leave_no_descriptor() {
    alone(
        "uring::tests::pipes::dropped_pipes_and_lost_ones_leave_no_descriptor",
        || {
            let mut bench = Bench::new();
            let (client, _peer, _, _backend_peer) = bench.relay();
            let before = descriptors();
            let parcel = bench.parcel(b"held");
            bench.ring.stash(client, parcel);
            assert_eq!(descriptors(), before + 2);
            bench.ring.drop_pipe(client);
            assert_eq!(descriptors(), before);
            // No descriptor for a pipe is no pipe, and passes.
            let parcel = bench.parcel(b"held");
            let undo = leave_room_for(1);
            let moved = bench.ring.move_bytes(client, true);
            assert_eq!(moved.source, Source::NoPipe);
            assert_eq!(bench.ring.stash(client, parcel), (4, None));
            undo();
            assert_eq!(bench.ring.pipes_open(), 0);
            assert_eq!(bench.ring.memory_stashes(), 1);
            bench.ring.drop_pipe(client);
            assert_eq!(descriptors(), before);
        },
    );
}

/// A peer's bytes must not outlive its session in a pipe that another one gets.
#[test]
fn nobody_finds_anothers_bytes_in_a_pipe() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        let (client, peer, backend, mut backend_peer) = bench.relay();
        let parcel = bench.parcel(b"secret");
        bench.ring.stash(client, parcel);
        bench.ring.drop_pipe(client);
        let parcel = bench.parcel(b"mine");
        bench.ring.stash(client, parcel);
        bench.ring.move_bytes(client, false);
        bench.ring.close(client, false);
        bench.ring.close(backend, false);
        bench.ring.vacate(client.session);
        bench.turn(Patience::None);
        let mut found = Vec::new();
        backend_peer.set_read_timeout(Some(LONG)).unwrap();
        match backend_peer.read_to_end(&mut found) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert_eq!(found, b"mine");
        drop(peer);
    }
}
