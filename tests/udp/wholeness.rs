//! Many flows at once, with datagrams of every size: what arrives belongs to its flow and is whole; and where nobody sends
//! faster than it can be carried, everything arrives.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use super::support::datagrams::{Echo, client};
use super::support::wait::Dice;
use super::support::{alone, net, soak};
use super::{drops, pattern_bytes, start};

const SENDERS: u64 = 4;
/// Datagrams that a sender has under way: less than what a socket's buffer holds.
const UNDER_WAY: u64 = 8;
const LONGEST: u64 = 65_507;

/// What a flow says in a round; its size is drawn from both, and so are its bytes.
fn question(flow: u64, round: u64) -> Vec<u8> {
    let size = Dice(flow << 32 | round).below(LONGEST + 1);
    pattern_bytes(flow << 16 | round, size as usize)
}

/// One sender's flows in turn, a few datagrams at a time.
fn exchange(front: SocketAddr, flows: std::ops::Range<u64>, rounds: u64) {
    let sockets: Vec<(u64, UdpSocket)> = flows.map(|flow| (flow, client(front))).collect();
    let mut buffer = vec![0; 65_536];
    for round in 0..rounds {
        for together in sockets.chunks(UNDER_WAY as usize) {
            for (flow, socket) in together {
                socket.send(&question(*flow, round)).unwrap();
            }
            for (flow, socket) in together {
                let length = socket
                    .recv(&mut buffer)
                    .unwrap_or_else(|error| panic!("flow {flow}, round {round}: {error}"));
                let whole = buffer[..length] == question(*flow, round);
                assert!(whole, "flow {flow}, round {round}: another's, or cut");
            }
        }
    }
}

fn paced(workers: usize, flows: u64, rounds: u64) {
    let echo = Echo::plain();
    let (ringway, front) = start(workers, "", &[("a", echo.address)]);
    let each = flows / SENDERS;
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            scope.spawn(move || exchange(front, sender * each..(sender + 1) * each, rounds));
        }
    });
    println!(
        "{workers} workers: {flows} flows of {rounds} datagrams in {} ms, none lost",
        began.elapsed().as_millis()
    );
    assert_eq!(ringway.metric("ringway_udp_flows_total"), flows as f64);
    assert_eq!(ringway.metric("ringway_udp_drops_total"), 0.0);
    assert_eq!(echo.received(), flows * rounds);
}

#[test]
fn paced_datagrams_of_all_flows_arrive_whole() {
    let _alone = alone();
    for workers in [1, 2] {
        if soak() {
            paced(workers, 1_000, 100);
        } else {
            paced(workers, 200, 5);
        }
    }
}

/// Nobody waits for answers: much is lost on the way, as it must be, but nothing is mixed up.
#[test]
fn what_arrives_of_a_torrent_is_whole_and_the_flows_own() {
    let _alone = alone();
    let echo = Echo::plain();
    let (ringway, front) = start(2, "", &[("a", echo.address)]);
    let rounds = if soak() { 100 } else { 10 };
    let arrived: u64 = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                scope.spawn(move || torrent(front, sender * 50..(sender + 1) * 50, rounds))
            })
            .collect();
        senders.into_iter().map(|it| it.join().unwrap()).sum()
    });
    let sent = SENDERS * 50 * rounds;
    println!("of {sent} datagrams without pause {arrived} came back");
    assert!(arrived > 0);
    assert_eq!(drops(&ringway, "too-long"), 0.0);
}

fn torrent(front: SocketAddr, flows: std::ops::Range<u64>, rounds: u64) -> u64 {
    let sockets: Vec<(u64, UdpSocket)> = flows.map(|flow| (flow, client(front))).collect();
    for round in 0..rounds {
        for (flow, socket) in &sockets {
            // A full buffer of ours is a datagram less.
            let _ = socket.send(&question(*flow, round));
        }
    }
    let mut buffer = vec![0; 65_536];
    let mut arrived = 0;
    for (flow, socket) in &sockets {
        let mut missing: HashSet<u64> = (0..rounds).collect();
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        loop {
            let length = match socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("flow {flow}: {error}"),
            };
            let round = missing
                .iter()
                .copied()
                .find(|&round| buffer[..length] == question(*flow, round));
            let round = round.unwrap_or_else(|| panic!("flow {flow}: {length} bytes of nobody's"));
            missing.remove(&round);
            arrived += 1;
            socket
                .set_read_timeout(Some(net::PATIENCE.min(Duration::from_millis(20))))
                .unwrap();
        }
    }
    arrived
}
