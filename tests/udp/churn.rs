//! Reloads under load, and floods that end: flows and sockets stay, nothing is left behind, nobody spins.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::support::datagrams::{Echo, ask, client};
use super::support::ringway::{Ringway, Setup};
use super::support::wait::{seconds, until};
use super::support::{alone, net, process, soak};
use super::{body, flows, pattern_bytes, start, udp_listener};

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

#[test]
fn two_hundred_reloads_under_load_disturb_no_flow() {
    let _alone = alone();
    for workers in [1, 2] {
        reload_under_load(workers, if soak() { 1_000 } else { 200 });
    }
}

/// One sender's eight flows, until it is over: each datagram is answered, always by the same backend.
fn ask_and_ask(front: SocketAddr, sender: u64, over: &AtomicBool, asked: &AtomicU64) {
    let sockets: Vec<_> = (0..8).map(|_| client(front)).collect();
    let mut homes: Vec<Option<u8>> = vec![None; sockets.len()];
    let mut round = 0;
    while !over.load(Ordering::Relaxed) {
        round += 1;
        for (n, socket) in sockets.iter().enumerate() {
            let question = pattern_bytes(sender << 40 | (n as u64) << 32 | round, 200);
            let answer = ask(socket, &question).expect("no datagram is lost");
            assert!(answer[1..] == question, "another flow's");
            let home = homes[n].get_or_insert(answer[0]);
            assert_eq!(*home, answer[0], "a reload moved a flow");
        }
        asked.fetch_add(sockets.len() as u64, Ordering::Relaxed);
    }
}

fn reload_under_load(workers: usize, reloads: u32) {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let (front, second) = (net::free_address(), net::free_address());
    let text = |round: u32| {
        let backends = [("a", a.address), ("b", b.address)];
        let timeout = format!("[pool.udp]\nidle_timeout = \"{}s\"", 60 + round % 3);
        let extra = match round % 2 {
            0 => String::new(),
            _ => udp_listener("second", second, "p"),
        };
        extra + &body(front, &timeout, &backends)
    };
    let mut ringway = Setup::new(text(0)).workers(workers).start();
    let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for sender in 0..4_u64 {
            let (over, asked) = (&over, &asked);
            scope.spawn(move || ask_and_ask(front, sender, over, asked));
        }
        let reloaded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(seconds(20), "all flows are there", || {
                flows(&ringway) == 32.0
            });
            let before = process::settled_descriptors(ringway.pid());
            let mut memory = 0;
            for round in 1..=reloads {
                ringway.rewrite(text(round));
                assert!(ringway.reload(), "{}", ringway.stderr());
                if round == reloads / 4 {
                    memory = process::resident_kib(ringway.pid());
                }
            }
            let grown = process::resident_kib(ringway.pid()).saturating_sub(memory);
            println!(
                "{workers} workers: {reloads} reloads, {} datagrams answered meanwhile, {grown} KiB more",
                asked.load(Ordering::Relaxed)
            );
            // The last one leaves the text of the first, so the same is open.
            until(seconds(20), "no descriptor is left behind", || {
                process::settled_descriptors(ringway.pid()).all <= before.all
            });
            assert!(grown < 8_192, "{grown} KiB more");
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = reloaded {
            std::panic::resume_unwind(panic);
        }
    });
    assert_eq!(ringway.metric("ringway_udp_flows_moved_total"), 0.0);
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
