//! Datagrams against the real kernel, over loopback: order, joining and what refuses it, answers for sockets that are gone,
//! and that every buffer comes back.

use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use crate::ids::{FlowKey, Slot, SocketId};
use crate::uring::tests::alone::{alone, enter_own_network};
use crate::uring::tests::bench::{Bench, LONG};
use crate::uring::{Datagram, Datagrams, Envelope, Heading, Outcome, Patience, Undelivered};

use super::DATAGRAM_BUFFERS;

const FRONT: SocketId = SocketId(3);

fn key(slot: u32) -> FlowKey {
    FlowKey {
        slot: Slot(slot),
        generation: 7,
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

/// A ring that listens on a socket, and a client of it.
fn bench() -> (Bench, UdpSocket, UdpSocket) {
    let mut bench = Bench::new();
    let front = socket();
    crate::sys::datagram::accept_aggregates(front.as_fd());
    front.set_nonblocking(true).unwrap();
    bench.ring.open_datagrams(FRONT, front.as_fd()).unwrap();
    let client = socket();
    client.connect(front.local_addr().unwrap()).unwrap();
    // A receive is armed before anything is sent.
    bench.turn(Patience::None);
    (bench, front, client)
}

fn request(bench: &mut Bench) -> (Envelope, Datagram) {
    let outcome = bench.until(|bench| bench.datagrams.pop_front());
    match outcome {
        Outcome::Request(envelope, datagram) => (envelope, datagram),
        other => panic!("{other:?}"),
    }
}

/// Requests until `count` datagrams have come, passed on by `pass`.
fn pass_all(bench: &mut Bench, count: u32, mut pass: impl FnMut(&mut Bench, Envelope, Datagram)) {
    let mut passed = 0;
    while passed < count {
        let (envelope, datagram) = request(bench);
        passed += datagram.count();
        pass(bench, envelope, datagram);
    }
}

fn all_buffers_are_back(bench: &mut Bench) {
    bench.until(|bench| (bench.ring.datagrams.buffers.free() == DATAGRAM_BUFFERS).then_some(()));
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 4_096];
    let length = socket.recv(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

#[test]
fn datagrams_pass_both_ways_in_order() {
    let (mut bench, _front, client) = bench();
    let backend = socket();
    let flow = key(0);
    bench
        .ring
        .open_flow(flow, backend.local_addr().unwrap(), None)
        .unwrap();
    assert!(bench.ring.has_flow(flow));
    for n in 0..30_u8 {
        client.send(&[n; 200]).unwrap();
    }
    client.send(b"short").unwrap();
    client.send(b"").unwrap();
    client.send(&[99; 300]).unwrap();
    pass_all(&mut bench, 33, |bench, _, datagram| {
        bench.ring.to_backend(flow, Heading::Nothing, datagram);
    });
    bench.turn(Patience::None);
    for n in 0..30_u8 {
        assert_eq!(receive(&backend), [n; 200]);
    }
    assert_eq!(receive(&backend), b"short");
    assert_eq!(receive(&backend), b"");
    assert_eq!(receive(&backend), [99; 300]);
    all_buffers_are_back(&mut bench);
}

/// Where a way refuses sends of several datagrams, they leave one by one, and none is lost.
#[test]
fn a_way_without_joined_sends_is_learned() {
    let (mut bench, front, client) = bench();
    // Without checksums the kernel refuses UDP_SEGMENT.
    let on: libc::c_int = 1;
    // SAFETY: the option is an integer, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            front.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
    let flow = key(1);
    let nobody = socket();
    bench
        .ring
        .open_flow(flow, nobody.local_addr().unwrap(), None)
        .unwrap();
    for _ in 0..2 {
        for n in 0..20_u8 {
            client.send(&[n; 100]).unwrap();
        }
        pass_all(&mut bench, 20, |bench, envelope, datagram| {
            bench.ring.to_client(flow, envelope, datagram);
        });
        bench.turn(Patience::None);
        for n in 0..20_u8 {
            assert_eq!(receive(&client), [n; 100]);
        }
    }
    all_buffers_are_back(&mut bench);
    assert!(bench.datagrams.is_empty(), "{:?}", bench.datagrams);
}

/// Sends datagrams of one size in one call: over loopback they arrive together.
fn send_joined(client: &UdpSocket, size: usize, all: &[u8]) {
    let size = size as libc::c_int;
    // SAFETY: the option is an integer, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            client.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
    client.send(all).unwrap();
}

/// Equal datagrams that come together, more bytes with their headings than one send takes: each leaves whole behind its
/// own heading, or only the first does.
#[test]
fn headings_go_ahead_of_each_or_of_the_first() {
    const AHEAD: &[u8] = b"a heading of 28 bytes, of us";
    for (count, size) in [(64_u8, 1_000), (40, 1_472), (3, 20_000), (1, 0), (64, 20)] {
        for every in [true, false] {
            let (mut bench, _front, client) = bench();
            let backend = socket();
            let _ = socket2::SockRef::from(&backend).set_recv_buffer_size(1 << 22);
            let flow = key(4);
            let to = backend.local_addr().unwrap();
            bench.ring.open_flow(flow, to, None).unwrap();
            let all: Vec<u8> = (0..count).flat_map(|n| vec![n; size]).collect();
            send_joined(&client, size, &all);
            let mut first = true;
            pass_all(&mut bench, u32::from(count), |bench, _, datagram| {
                let heading = match every {
                    true => Heading::Each(AHEAD),
                    false if std::mem::take(&mut first) => Heading::First(AHEAD),
                    false => Heading::Nothing,
                };
                bench.ring.to_backend(flow, heading, datagram);
            });
            bench.turn(Patience::None);
            let mut buffer = vec![0; 65_536];
            for n in 0..count {
                let length = backend.recv(&mut buffer).unwrap();
                let ahead = if every || n == 0 { AHEAD } else { &[] };
                let wanted = [ahead, &vec![n; size]].concat();
                assert!(
                    buffer[..length] == wanted,
                    "{count} of {size}, {every}: {n}"
                );
            }
            all_buffers_are_back(&mut bench);
            assert!(bench.datagrams.is_empty(), "{:?}", bench.datagrams);
        }
    }
}

#[test]
fn a_closed_port_is_told() {
    let (mut bench, _front, client) = bench();
    let gone = socket().local_addr().unwrap();
    let flow = key(2);
    bench.ring.open_flow(flow, gone, None).unwrap();
    client.send(b"anybody?").unwrap();
    let (_, datagram) = request(&mut bench);
    bench.ring.to_backend(flow, Heading::Nothing, datagram);
    let told = bench.until(|bench| bench.datagrams.pop_front());
    assert!(
        matches!(told, Outcome::FlowBroken(of, _, Undelivered::Unreachable) if of == flow),
        "{told:?}"
    );
    bench.ring.close_flow(flow);
    assert!(!bench.ring.has_flow(flow));
    all_buffers_are_back(&mut bench);
}

/// A flow that moved to another backend hears nothing of the first any more.
#[test]
fn an_earlier_socket_of_a_flow_is_silent() {
    let (mut bench, _front, client) = bench();
    let (first, second) = (socket(), socket());
    let flow = key(3);
    let open = |bench: &mut Bench, to: &UdpSocket| {
        let address = to.local_addr().unwrap();
        bench.ring.open_flow(flow, address, None).unwrap();
    };
    open(&mut bench, &first);
    client.send(b"one").unwrap();
    let (_, datagram) = request(&mut bench);
    bench.ring.to_backend(flow, Heading::Nothing, datagram);
    bench.turn(Patience::None);
    let mut buffer = [0; 16];
    let (_, old) = first.recv_from(&mut buffer).unwrap();
    // The late answer is there before the flow moves, and is read after.
    first.send_to(b"late", old).unwrap();
    open(&mut bench, &second);
    client.send(b"two").unwrap();
    let (_, datagram) = request(&mut bench);
    bench.ring.to_backend(flow, Heading::Nothing, datagram);
    bench.turn(Patience::None);
    let (_, new) = second.recv_from(&mut buffer).unwrap();
    second.send_to(b"right", new).unwrap();
    let answer = bench.until(|bench| bench.datagrams.pop_front());
    match answer {
        Outcome::Response(of, _, datagram) => {
            assert_eq!((of, datagram.bytes()), (flow, 5));
            bench.ring.discard(datagram);
        }
        other => panic!("{other:?}"),
    }
    all_buffers_are_back(&mut bench);
}

/// More than there are buffers for: what does not fit waits in the socket, and comes later.
#[test]
fn running_out_of_buffers_is_a_pause() {
    let (mut bench, _front, client) = bench();
    let mut held = Vec::new();
    let mut paused = false;
    let mut sent = 0_u32;
    while !paused {
        // Different sizes, so that the kernel does not aggregate them.
        for n in 0..32 {
            client.send(&vec![0; 10 + n]).unwrap();
            sent += 1;
        }
        let mut behind = false;
        for _ in 0..8 {
            bench.turn(Patience::Nanoseconds(1_000_000));
            behind |= bench.ring.is_behind();
        }
        while let Some(outcome) = bench.datagrams.pop_front() {
            match outcome {
                Outcome::Request(_, datagram) => held.push(datagram),
                Outcome::NoDatagramBuffer => {
                    assert!(behind, "more was there than could be taken");
                    paused = true;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(sent < 4 * u32::from(DATAGRAM_BUFFERS), "it never ran out");
    }
    let mut seen: u32 = held.iter().map(Datagram::count).sum();
    for datagram in held.drain(..) {
        bench.ring.discard(datagram);
    }
    let patience = std::time::Instant::now() + LONG;
    while seen < sent && std::time::Instant::now() < patience {
        bench.turn(Patience::Nanoseconds(1_000_000));
        while let Some(outcome) = bench.datagrams.pop_front() {
            if let Outcome::Request(_, datagram) = outcome {
                seen += datagram.count();
                bench.ring.discard(datagram);
            }
        }
    }
    assert_eq!(seen, sent);
    all_buffers_are_back(&mut bench);
}

/// What waits is taken in one turn, as far as buffers reach, and it is told when there is more.
#[test]
fn what_has_piled_up_is_taken_together() {
    const SENT: u32 = 600;
    let (mut bench, front, client) = bench();
    let _ = socket2::SockRef::from(&front).set_recv_buffer_size(1 << 22);
    for round in 0..3 {
        for n in 0..SENT {
            // Different sizes, so that the kernel does not aggregate them.
            client.send(&vec![0; 10 + (n % 40) as usize]).unwrap();
        }
        let (mut seen, mut turns, mut behind) = (0, Vec::new(), 0);
        while seen < SENT {
            bench.turn(Patience::Nanoseconds(1_000_000));
            let came = bench.datagrams.len() as u32;
            behind += u32::from(bench.ring.is_behind());
            turns.push(came);
            seen += came;
            while let Some(outcome) = bench.datagrams.pop_front() {
                match outcome {
                    Outcome::Request(_, datagram) => bench.ring.discard(datagram),
                    other => panic!("{other:?}"),
                }
            }
            assert!(turns.len() < 100, "{turns:?}");
        }
        assert_eq!(seen, SENT);
        let enough = super::gathering::TURN_ENOUGH as u32;
        let most = enough + 64;
        assert!(turns.iter().all(|came| *came < most), "{turns:?}");
        let together = turns.iter().any(|came| *came >= enough);
        assert!(together && behind >= 2, "{round}: {turns:?}");
        bench.turn(Patience::None);
        assert!(!bench.ring.is_behind());
    }
    all_buffers_are_back(&mut bench);
}

/// ENOBUFS, as a socket that asks for errors hears it of a queue that drops: counted as want of memory, each once, without a
/// turn that does not end; when there is room again all goes on.
#[test]
fn a_queue_that_drops_is_told_and_passes() {
    const SENT: u32 = 100;
    alone(
        "uring::datagrams::tests::a_queue_that_drops_is_told_and_passes",
        || {
            if !enter_own_network() {
                return;
            }
            let (mut bench, front, client) = bench();
            let on: libc::c_int = 1;
            // SAFETY: the option is an integer, which outlives the call.
            let set = unsafe {
                libc::setsockopt(
                    front.as_raw_fd(),
                    libc::SOL_IP,
                    libc::IP_RECVERR,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
            assert_eq!(set, 0);
            let _ = socket2::SockRef::from(&front).set_recv_buffer_size(1 << 22);
            let (flow, nobody) = (key(1), socket());
            let to = nobody.local_addr().unwrap();
            bench.ring.open_flow(flow, to, None).unwrap();
            let gather = |bench: &mut Bench| {
                let mut all = Vec::new();
                let mut came = 0;
                while came < SENT {
                    let (envelope, datagram) = request(bench);
                    came += datagram.count();
                    all.push((envelope, datagram));
                }
                all
            };
            let send = || {
                for n in 0..SENT {
                    client.send(&vec![1; 500 + (n % 7) as usize]).unwrap();
                }
            };
            send();
            let all = gather(&mut bench);
            tc("add dev lo root tbf rate 1mbit burst 2kb limit 2kb");
            for (envelope, datagram) in all {
                bench.ring.to_client(flow, envelope, datagram);
            }
            let mut refused = 0;
            for _ in 0..20 {
                bench.turn(Patience::Nanoseconds(1_000_000));
            }
            while let Some(outcome) = bench.datagrams.pop_front() {
                match outcome {
                    Outcome::Undelivered {
                        why: Undelivered::Resources,
                        datagrams,
                        outlet: None,
                        ..
                    } => refused += datagrams,
                    other => panic!("{other:?}"),
                }
            }
            tc("del dev lo root");
            println!("a queue that drops: {refused} of {SENT} were refused");
            assert!(refused > SENT / 2 && refused < SENT, "{refused}");
            client.set_nonblocking(true).unwrap();
            while client.recv(&mut [0; 600]).is_ok() {}
            client.set_nonblocking(false).unwrap();
            all_buffers_are_back(&mut bench);
            client.send(b"again").unwrap();
            let (envelope, datagram) = request(&mut bench);
            bench.ring.to_client(flow, envelope, datagram);
            bench.turn(Patience::None);
            assert_eq!(receive(&client), b"again");
        },
    );
}

fn tc(words: &str) {
    let mut command = std::process::Command::new("tc");
    let done = command.arg("qdisc").args(words.split_whitespace()).status();
    assert!(done.expect("tc (Debian: iproute2)").success(), "{words}");
}

#[test]
fn a_ring_with_open_flows_is_given_up_quietly() {
    let (mut bench, _front, client) = bench();
    let backend = socket();
    for slot in 0..20 {
        bench
            .ring
            .open_flow(key(slot), backend.local_addr().unwrap(), None)
            .unwrap();
    }
    client.send(b"still on its way").unwrap();
    let (_, datagram) = request(&mut bench);
    bench.ring.to_backend(key(5), Heading::Nothing, datagram);
    let before = std::time::Instant::now();
    drop(bench);
    assert!(
        before.elapsed() < Duration::from_secs(2),
        "it waited for an answer"
    );
}
