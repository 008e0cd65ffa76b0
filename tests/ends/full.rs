//! What happens when something has run out: backends, places, sources, ports, time.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};

use super::ended;
use super::support::backends::{Backend, read_line};
use super::support::ringway::{Ringway, Setup, listener, pool, pool_with, single};
use super::support::wait::{seconds, until};
use super::support::{namespace, net};

#[test]
fn without_a_wait_there_is_no_backend() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let backends = [("a", backend.address.to_string(), "max_connections = 1")];
    let unchecked = "[pool.health]\nkind = \"none\"\n";
    let body = listener("main", address, "main")
        + &pool_with("main", "wait = { size = 0 }", unchecked, &backends);
    let ringway = Ringway::start(body);
    let first = net::connect(address);
    read_line(&first).expect("served");
    for _ in 0..5 {
        net::expect_turned_away(address);
    }
    until(seconds(10), "the ends are counted", || {
        ended(&ringway, "main", "no-backend") == 5.0
    });
    assert_eq!(backend.accepted(), 1);
}

/// `max_sessions` refuses nobody: who comes while it is reached waits in the kernel's queue. Two workers race for the
/// last places.
#[test]
fn a_full_process_pauses_and_refuses_nobody() {
    const PLACES: u32 = 6;
    let backend = Backend::named("a");
    let address = net::free_address();
    let ringway = Setup::new(single(address, backend.address))
        .global(format!(
            "workers = 2\npin = \"off\"\nmax_sessions = {PLACES}\n"
        ))
        .start();
    let (held, most) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..60 {
                    let stream = net::connect(address);
                    read_line(&stream).expect("nobody is refused");
                    let now = held.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    std::thread::yield_now();
                    held.fetch_sub(1, Ordering::SeqCst);
                    net::reset(stream);
                }
            });
        }
    });
    ringway.wait_empty();
    let most = most.into_inner();
    assert!((2..=PLACES).contains(&most), "{most} at once");
    assert!(ringway.metric("ringway_accept_pauses_total") > 0.0);
    assert_eq!(ringway.metric("ringway_refused_total"), 0.0);
}

#[test]
fn more_sources_than_the_table_holds_are_refused_and_counted() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let body = format!(
        "[[listener]]\nname = \"main\"\nbind = \"{address}\"\npool = \"main\"\n\
         source_connection_rate = \"1/s burst 60\"\n\n"
    ) + &pool("main", "", &[("a", backend.address)]);
    // The table is made for so many sessions: places for some tens of sources.
    let ringway = Setup::new(body)
        .global("workers = 1\npin = \"off\"\nmax_sessions = 8\n")
        .start();
    let knock = |number: u8| {
        let from = Ipv4Addr::new(127, 6, 0, number);
        let stream = net::connect_with(Some(from), address, 0);
        let greeted = stream.and_then(|stream| read_line(&stream).map(|_| stream));
        greeted.map(net::reset).is_ok()
    };
    // A source that came is remembered until its rate is what it was: far longer than this takes.
    let served: Vec<bool> = (1..=250).map(knock).collect();
    let turned_away = served.iter().filter(|served| !**served).count();
    assert!(served[0] && turned_away > 100, "{turned_away} of 250");
    let labels = [("listener", "main"), ("reason", "sources-full")];
    let refused = ringway.metrics().sum("ringway_refused_total", &labels);
    assert_eq!(refused, turned_away as f64);
    // Who is known is served as before.
    assert!(knock(1));
}

/// In a network of its own, whose ports can be made few.
#[test]
fn without_a_port_to_connect_from_resources_are_to_blame() {
    if !namespace::inside("full::without_a_port_to_connect_from_resources_are_to_blame") {
        return;
    }
    let backend = Backend::named_on(net::listen("127.0.0.9:6000".parse().unwrap()), "a");
    let address: SocketAddr = "127.0.0.8:5000".parse().unwrap();
    let lines = "source = [\"127.0.0.7\"]\nconnect_attempts = 2";
    let body = listener("main", address, "main") + &pool("main", lines, &[("a", backend.address)]);
    let ringway = Ringway::start(body);
    let ports = |range: &str| {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("ports of our own");
    };
    ports("40000 40003");
    let clients: Vec<TcpStream> = (0..7)
        .map(|n| net::from_port(20_000 + n, address))
        .collect();
    let served = clients.iter().filter(|stream| read_line(*stream).is_ok());
    assert_eq!(served.count(), 4, "as many as there are ports");
    // Others have ports again.
    ports("41000 60000");
    until(seconds(10), "the ends are counted", || {
        ended(&ringway, "main", "resources") == 3.0
    });
    let labels = [("reason", "ports")];
    let failures = ringway
        .metrics()
        .sum("ringway_connect_failures_total", &labels);
    assert!(failures >= 3.0, "{failures}");
    let served = net::connect(address);
    read_line(&served).expect("served again");
}

#[test]
fn who_is_cut_at_shutdown_is_told_so_in_the_log() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let mut ringway = Setup::new(single(address, backend.address))
        .global("workers = 1\npin = \"off\"\nshutdown_grace = \"300s\"\naccess_log = \"./access.log\"\n")
        .start();
    let streams: Vec<_> = (0..3).map(|_| net::connect(address)).collect();
    for stream in &streams {
        read_line(stream).expect("served");
    }
    ringway.signal("TERM");
    until(seconds(5), "it no longer accepts", || {
        net::try_connect(address).is_err()
    });
    ringway.signal("TERM");
    assert_eq!(ringway.wait_exit(seconds(5)).code(), Some(0));
    for mut stream in streams {
        let error = stream.read(&mut [0; 1]).expect_err("cut");
        assert!(net::is_reset(&error), "{error}");
    }
    let log = fs::read_to_string(ringway.folder().join("access.log")).expect("the log");
    let told = log.lines().filter(|line| line.contains(" end=shutdown "));
    assert_eq!(told.count(), 3, "{log}");
}
