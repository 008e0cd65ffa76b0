//! Reloads and floods that end: sockets stay, nothing is left behind, nobody spins. (Flows under many reloads: tests/reload.rs.)

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::support::datagrams::{Echo, ask, client};
use super::support::ringway::{Ringway, Setup};
use super::support::wait::{seconds, until};
use super::support::{alone, net, process, soak};
use super::{body, flows, start, udp_listener};

/// The sockets that the process has bound to this address, by their numbers in the kernel, in the order of its list.
fn group(pid: u32, address: SocketAddr) -> BTreeSet<u64> {
    let std::net::IpAddr::V4(ip) = address.ip() else {
        panic!("an IPv4 address");
    };
    let number = u32::from_le_bytes(ip.octets());
    let local = format!("{number:08X}:{:04X}", address.port());
    let table = fs::read_to_string(format!("/proc/{pid}/net/udp")).expect("the kernel's list");
    let lines = table.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let here = words.get(1).is_some_and(|word| *word == local);
        here.then(|| words[9].parse().expect("a number"))
    });
    lines.collect()
}

/// The worker that served each flow of the log, by the client's port.
fn workers_of(log: &str, port: u16) -> BTreeSet<String> {
    let client = format!("client={}:{port} ", net::host());
    let lines = log.lines().filter(|line| line.contains(&client));
    let ids = lines.filter_map(|line| line.split_once("id=")?.1.split_once('-'));
    ids.map(|(worker, _)| worker.to_owned()).collect()
}

/// An address has one socket for each worker from the first moment on, and the same ones after reloads that take other
/// listeners away and bring them back; so the kernel gives a client to the same worker as before.
#[test]
fn the_sockets_of_an_address_are_bound_once_and_stay() {
    let _alone = alone();
    let echo = Echo::plain();
    let (front, second) = (net::free_address(), net::free_address());
    let tables = "[pool.udp]\nresponses = 1";
    let global = "workers = 2\npin = \"off\"\naccess_log = \"stdout\"\n";
    let plain = body(front, tables, &[("a", echo.address)]);
    let mut ringway = Setup::new(plain.clone()).global(global).start();
    let sockets = group(ringway.pid(), front);
    assert_eq!(sockets.len(), 2, "one for each worker");
    let clients: Vec<_> = (0..16).map(|_| client(front)).collect();
    for round in 0..10 {
        let text = match round % 3 {
            0 => udp_listener("second", second, "p") + &plain,
            1 => plain.clone(),
            _ => plain.replace("\"front\"", "\"renamed\""),
        };
        ringway.rewrite(text);
        assert!(ringway.reload());
        assert_eq!(group(ringway.pid(), front), sockets, "round {round}");
        for socket in &clients {
            assert_eq!(ask(socket, b"x").unwrap(), b"x", "round {round}");
        }
    }
    until(seconds(10), "a line for each flow", || {
        ringway.stdout().lines().count() >= 160
    });
    let log = ringway.stdout();
    let mut all = BTreeSet::new();
    for socket in &clients {
        let workers = workers_of(&log, socket.local_addr().unwrap().port());
        assert_eq!(workers.len(), 1, "a client changed its worker: {workers:?}");
        all.extend(workers);
    }
    assert_eq!(all.len(), 2, "sixteen clients, all at one worker");
}

/// Its flows live on while the configuration does not have it, with their sockets, and are its own again when it comes back.
#[test]
fn a_listener_that_comes_back_has_its_flows_again() {
    let echo = (Echo::named("a"), Echo::named("b"));
    let (front, goes) = (net::free_address(), net::free_address());
    let stays = body(front, "", &[("a", echo.0.address), ("b", echo.1.address)]);
    let both = udp_listener("goes", goes, "p") + &stays;
    let mut ringway = Setup::new(both.clone()).workers(2).start();
    let sockets = group(ringway.pid(), goes);
    let clients: Vec<_> = (0..3).map(|_| client(goes)).collect();
    let homes: Vec<_> = clients.iter().map(|it| ask(it, b"1").unwrap()).collect();
    for _ in 0..5 {
        ringway.rewrite(stays.clone());
        assert!(ringway.reload());
        for (own, home) in clients.iter().zip(&homes) {
            assert_eq!(&ask(own, b"1").unwrap(), home, "it lives on");
        }
        ringway.rewrite(both.clone());
        assert!(ringway.reload(), "{}", ringway.stderr());
        assert_eq!(group(ringway.pid(), goes), sockets);
        for (own, home) in clients.iter().zip(&homes) {
            assert_eq!(&ask(own, b"1").unwrap(), home, "it is the same");
        }
        // Both workers receive: one of them may have had no flow, and closed its socket.
        for _ in 0..8 {
            assert_eq!(ask(&client(goes), b"2").unwrap().len(), 2);
        }
    }
    assert_eq!(ringway.metric("ringway_udp_drops_total"), 0.0);
    assert!(ringway.metric("ringway_udp_flows_total") > 40.0);
}

/// The share of one core that the process uses.
fn share_of_a_core(ringway: &Ringway) -> f64 {
    let (before, began) = (process::cpu_time(ringway.pid()), Instant::now());
    std::thread::sleep(Duration::from_millis(500));
    (process::cpu_time(ringway.pid()) - before).as_secs_f64() / began.elapsed().as_secs_f64()
}

#[test]
fn after_a_flood_of_new_sources_the_process_is_idle_again() {
    let _alone = alone();
    let echo = Echo::plain();
    let tables = "[pool.udp]\nidle_timeout = \"400ms\"\nmax_flows = 300";
    let (ringway, front) = start(2, tables, &[("a", echo.address)]);
    let speaker = client(front);
    assert_eq!(ask(&speaker, b"x").unwrap(), b"x");
    let before = process::settled_descriptors(ringway.pid());
    let memory = process::resident_kib(ringway.pid());
    for round in 0..if soak() { 400_u32 } else { 40 } {
        for n in 0..100_u8 {
            let source = Ipv4Addr::new(127, 201, round as u8, n + 1);
            let stranger = UdpSocket::bind((source, 0)).unwrap();
            // Nothing, a byte, or more than most.
            let size = [0, 1, 30_000][usize::from(n) % 3];
            stranger.send_to(&vec![0; size], front).unwrap();
        }
        assert_eq!(ask(&speaker, b"y").unwrap(), b"y", "round {round}");
    }
    assert!(flows(&ringway) <= 300.0);
    until(seconds(20), "all flows end", || flows(&ringway) == 0.0);
    until(seconds(20), "no descriptor is left behind", || {
        process::settled_descriptors(ringway.pid()).all < before.all
    });
    // What its first full use makes resident stays; it is bounded.
    let grown = process::resident_kib(ringway.pid()).saturating_sub(memory);
    assert!(grown < 80_000, "{grown} KiB more");
    let idle = share_of_a_core(&ringway);
    println!("after the flood: {idle:.4} of a core, {grown} KiB more than before it");
    assert!(idle < 0.05, "{idle} of a core while nobody writes");
    assert_eq!(ask(&speaker, b"z").unwrap(), b"z");
}

/// Clients that close their port before the answer comes: what ICMP says of them is nobody else's matter.
#[test]
fn clients_that_are_gone_disturb_nobody() {
    let backend = UdpSocket::bind(net::free_address()).unwrap();
    backend.set_read_timeout(Some(net::PATIENCE)).unwrap();
    let (ringway, front) = start(1, "", &[("a", backend.local_addr().unwrap())]);
    let stays = client(front);
    let mut buffer = [0; 64];
    for round in 0..50 {
        let goes = client(front);
        goes.send(b"goes").unwrap();
        let (_, gone) = backend.recv_from(&mut buffer).unwrap();
        drop(goes);
        stays.send(b"stays").unwrap();
        let (_, there) = backend.recv_from(&mut buffer).unwrap();
        backend.send_to(b"too late", gone).unwrap();
        backend.send_to(b"well", there).unwrap();
        let length = stays.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"well", "round {round}");
    }
    assert_eq!(ringway.metric("ringway_udp_drops_total"), 0.0);
}
