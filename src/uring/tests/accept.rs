//! Clients come in: many at once, until stopped, until something runs out.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::super::*;
use super::alone::{alone, leave_room_for};
use super::bench::{Bench, LONG, reset};
use crate::ids::{Fault, ReceiveEnd, SocketId};

const DOOR: SocketId = SocketId(3);

fn listener(bench: &mut Bench) -> (TcpListener, SocketAddr) {
    // An address that no other test uses: nobody else gets its port when it is free again.
    let listener = TcpListener::bind("127.0.0.33:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    bench.ring.open_listener(DOOR, listener.as_fd()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn clients(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = |_| {
        let client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        client
    };
    (0..count).map(connect).collect()
}

#[test]
fn one_accept_takes_many_clients_and_each_has_its_own_address() {
    let mut bench = Bench::new();
    let (_kept, address) = listener(&mut bench);
    bench.ring.accept(DOOR);
    let clients = clients(address, 100);
    let mut addresses: Vec<SocketAddr> = clients.iter().map(|c| c.local_addr().unwrap()).collect();
    for _ in 0..clients.len() {
        let (id, incoming) = bench.accepted();
        assert_eq!(id, DOOR);
        let peer = bench.ring.peer_address(&incoming).unwrap();
        let place = addresses.iter().position(|a| *a == peer);
        addresses.swap_remove(place.expect("an address of a client, once"));
    }
    assert!(addresses.is_empty());
}

#[test]
fn a_stopped_accept_leaves_the_queue_to_be_served_by_hand() {
    let mut bench = Bench::new();
    let (kept, address) = listener(&mut bench);
    bench.ring.accept(DOOR);
    bench.turn(Patience::None);
    bench.ring.stop_accept(DOOR);
    assert_eq!(bench.accept_end(), (DOOR, AcceptEnd::Stopped));
    let _clients = clients(address, 3);
    bench.turn(Patience::None);
    assert!(bench.accepted_now().is_none());
    for _ in 0..3 {
        assert!(bench.ring.accept_now(DOOR).is_some());
    }
    assert!(bench.ring.accept_now(DOOR).is_none());
    drop(kept);
    bench.ring.close_listener(DOOR);
    bench.turn(Patience::None);
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(bench.ring.accept_now(DOOR).is_none());
}

#[test]
fn a_stopped_accept_can_be_armed_again() {
    let mut bench = Bench::new();
    let (_kept, address) = listener(&mut bench);
    for _ in 0..3 {
        bench.ring.accept(DOOR);
        let _client = clients(address, 1);
        bench.accepted();
        bench.ring.stop_accept(DOOR);
        assert_eq!(bench.accept_end(), (DOOR, AcceptEnd::Stopped));
    }
}

#[test]
fn a_refused_client_sees_a_reset() {
    let mut bench = Bench::new();
    let (_kept, address) = listener(&mut bench);
    bench.ring.accept(DOOR);
    let mut client = clients(address, 1).remove(0);
    let (_, incoming) = bench.accepted();
    bench.ring.refuse(incoming);
    bench.turn(Patience::None);
    let error = client.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_client_that_reset_in_the_queue_is_accepted_and_broken() {
    let mut bench = Bench::new();
    let (_kept, address) = listener(&mut bench);
    for client in clients(address, 1) {
        reset(client);
    }
    bench.ring.accept(DOOR);
    let (_, incoming) = bench.accepted();
    let socket: std::os::fd::OwnedFd = incoming.into();
    let stream = bench.attach(socket);
    bench.ring.receive(stream);
    let (bytes, end) = bench.receive_all(stream);
    assert_eq!((bytes.len(), end), (0, ReceiveEnd::Broken(Fault::Reset)));
}

/// A listener closed with its accept just queued: the accept must not end up on whatever gets its number next.
#[test]
fn a_queued_accept_never_meets_another_socket() {
    let mut bench = Bench::new();
    let (kept, _) = listener(&mut bench);
    bench.ring.accept(DOOR);
    bench.ring.close_listener(DOOR);
    drop(kept);
    // Many of them, so that one has the number.
    let others: Vec<TcpListener> = (0..16)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let _clients: Vec<TcpStream> = others
        .iter()
        .map(|other| TcpStream::connect(other.local_addr().unwrap()).unwrap())
        .collect();
    for _ in 0..5 {
        bench.turn(Patience::Nanoseconds(2_000_000));
    }
    assert!(bench.accepted_now().is_none());
}

#[test]
fn out_of_descriptors_is_pressure_and_passes() {
    alone(
        "uring::tests::accept::out_of_descriptors_is_pressure_and_passes",
        || {
            let mut bench = Bench::new();
            let (_kept, address) = listener(&mut bench);
            let clients = clients(address, 6);
            let undo = leave_room_for(2);
            bench.ring.accept(DOOR);
            let first = bench.accepted();
            let _second = bench.accepted();
            assert_eq!(bench.accept_end(), (DOOR, AcceptEnd::Pressure));
            // Still nothing free: the same again.
            bench.ring.accept(DOOR);
            assert_eq!(bench.accept_end(), (DOOR, AcceptEnd::Pressure));
            assert!(bench.ring.accept_now(DOOR).is_none());
            drop(first);
            bench.ring.accept(DOOR);
            let third = bench.accepted();
            assert_eq!(bench.accept_end(), (DOOR, AcceptEnd::Pressure));
            undo();
            bench.ring.accept(DOOR);
            let rest: Vec<_> = (3..clients.len()).map(|_| bench.accepted()).collect();
            drop((third, rest));
        },
    );
}
