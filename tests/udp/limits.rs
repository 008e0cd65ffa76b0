//! A listener's limits on datagrams: who may have a flow at all, how many, and how fast; exact at one and two workers. Each
//! datagram that is turned away is counted, and a place that was held is free again when its flow ends.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::support::datagrams::{Echo, ask, client};
use super::support::ringway::{Ringway, Setup, pool, pool_with};
use super::support::wait::{seconds, until};
use super::support::{alone, net};
use super::{drops, end_of, flows, udp_listener, udp_listener_with};

const SHORT: Duration = Duration::from_millis(150);

fn start(workers: usize, lines: &str, tables: &str, echo: &Echo) -> (Ringway, SocketAddr) {
    let front = net::free_address();
    let listener = udp_listener_with("front", front, "p", lines);
    let tables = format!("{tables}\n[pool.health]\nkind = \"none\"\n");
    let text = listener + &pool_with("p", "", &tables, &[("a", echo.address.to_string(), "")]);
    (Setup::new(text).workers(workers).start(), front)
}

fn refused(ringway: &Ringway, reason: &str) -> f64 {
    let metrics = ringway.metrics();
    metrics.sum("ringway_refused_total", &[("reason", reason)])
}

fn client_at(source: Ipv4Addr, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((source, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(net::PATIENCE)).unwrap();
    socket
}

/// Whether this client is served.
fn is_served(socket: &UdpSocket) -> bool {
    ask(socket, b"x").is_ok_and(|answer| answer == b"x")
}

/// Whether nobody answers this client; one that is refused never hears anything.
fn is_turned_away(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(SHORT)).unwrap();
    let silent = ask(socket, b"x").is_err();
    socket.set_read_timeout(Some(net::PATIENCE)).unwrap();
    silent
}

#[test]
fn lists_decide_who_may_write() {
    let echo = Echo::plain();
    let lists = "allow = [\"127.97.0.0/16\", \"127.98.0.0/16\"]\ndeny = [\"127.98.6.0/24\"]";
    let (ringway, front) = start(1, lists, "", &echo);
    for (source, served) in [
        ([127, 97, 1, 1], true),
        ([127, 98, 7, 1], true),
        ([127, 98, 6, 1], false),
        ([127, 99, 1, 1], false),
    ] {
        let socket = client_at(source.into(), front);
        if served {
            assert!(is_served(&socket), "{source:?}");
        } else {
            assert!(is_turned_away(&socket), "{source:?}");
            // Each of its datagrams is counted, not only the first.
            socket.send(b"y").unwrap();
        }
    }
    until(seconds(10), "four datagrams are counted", || {
        drops(&ringway, "denied") == 4.0
    });
    assert_eq!(refused(&ringway, "denied"), 4.0);
    assert_eq!((flows(&ringway), echo.received()), (2.0, 2));
}

#[test]
fn a_listener_has_so_many_flows_and_no_more() {
    let _alone = alone();
    for workers in [1, 2] {
        let echo = Echo::plain();
        let tables = "[pool.udp]\nresponses = 3";
        let (ringway, front) = start(workers, "max_connections = 6", tables, &echo);
        let first: Vec<_> = (0..6).map(|_| client(front)).collect();
        assert!(first.iter().all(is_served));
        let late: Vec<_> = (0..10).map(|_| client(front)).collect();
        late.iter().for_each(|socket| {
            socket.send(b"x").unwrap();
        });
        until(seconds(10), "all ten are turned away", || {
            drops(&ringway, "limited") == 10.0
        });
        assert_eq!(refused(&ringway, "listener-limit"), 10.0);
        // Those who are there go on; the third answer ends a flow, and its place is to be had.
        assert!(is_served(&first[0]) && is_served(&first[0]));
        until(seconds(10), "a flow ends", || flows(&ringway) == 5.0);
        assert!(is_served(&late[0]));
        assert_eq!(flows(&ringway), 6.0);
        assert!(is_turned_away(&late[1]));
    }
}

#[test]
fn a_source_has_so_many_flows_and_no_more() {
    let _alone = alone();
    for workers in [1, 2] {
        let echo = Echo::plain();
        let tables = "[pool.udp]\nresponses = 2";
        let (ringway, front) = start(workers, "source_max_connections = 3", tables, &echo);
        let (one, other) = ([127, 97, 1, 1].into(), [127, 97, 1, 2].into());
        let held: Vec<_> = (0..3).map(|_| client_at(one, front)).collect();
        assert!(held.iter().all(is_served));
        let fourth = client_at(one, front);
        assert!(is_turned_away(&fourth));
        assert_eq!(refused(&ringway, "source-limit"), 1.0);
        assert_eq!(drops(&ringway, "limited"), 1.0);
        assert!(is_served(&client_at(other, front)));
        // The second answer ends a flow, and frees its source's place.
        assert!(is_served(&held[1]));
        until(seconds(10), "a flow ends", || flows(&ringway) == 3.0);
        assert!(is_served(&fourth));
        for socket in [&held[0], &held[2], &fourth] {
            assert!(is_served(socket));
        }
        until(seconds(10), "one flow is left", || flows(&ringway) == 1.0);
        assert_eq!(ringway.metric("ringway_sources_active"), 1.0);
    }
}

/// New flows from many sources come much faster than they may; how many began is counted over a time.
fn share_of_rate(workers: usize, lines: &str, sources: u8, rate: f64, burst: f64) -> f64 {
    let echo = Echo::plain();
    let (ringway, front) = start(workers, lines, "", &echo);
    let mut kept = Vec::new();
    let mut knock_until = |end: Instant| {
        while Instant::now() < end {
            for source in 1..=sources {
                let socket = client_at(Ipv4Addr::new(127, 96, 1, source), front);
                socket.send(b"x").unwrap();
                kept.push(socket);
            }
            // Ten times the rate is storm enough.
            std::thread::sleep(Duration::from_secs_f64(f64::from(sources) / rate / 10.0));
        }
    };
    knock_until(Instant::now() + Duration::from_millis(600));
    let (before, began) = (Instant::now(), ringway.metric("ringway_udp_flows_total"));
    let after = Instant::now();
    knock_until(after + Duration::from_secs(2));
    let end = Instant::now();
    let flows = ringway.metric("ringway_udp_flows_total") - began;
    let longest = (Instant::now() - before).as_secs_f64();
    assert!(
        flows <= rate * longest * 1.002 + burst,
        "{flows} in {longest} s"
    );
    assert!(drops(&ringway, "limited") > 0.0);
    let seen = flows / (end - after).as_secs_f64() / rate;
    println!("{workers} workers, {lines}: {seen:.3} of the rate");
    seen
}

#[test]
fn rates_of_new_flows_hold() {
    let _alone = alone();
    for workers in [1, 2] {
        for (lines, sources, rate, burst) in [
            ("connection_rate = \"100/s burst 10\"", 5, 100.0, 10.0),
            ("source_connection_rate = \"25/s burst 5\"", 4, 100.0, 20.0),
        ] {
            // A machine that is busy elsewhere may hold the storm up, so several tries; too many flows fail at once.
            let tries: Vec<f64> = (0..4)
                .map(|_| share_of_rate(workers, lines, sources, rate, burst))
                .take_while(|seen| (seen - 1.0).abs() > 0.05)
                .collect();
            assert!(tries.len() < 4, "never within 5 %: {tries:?}");
        }
    }
}

#[test]
fn a_backend_has_so_many_flows_and_no_more() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let front = net::free_address();
    let unchecked = "[pool.health]\nkind = \"none\"\n";
    let of = |echo: &Echo| echo.address.to_string();
    let backends = [
        ("a", of(&a), "max_connections = 2"),
        ("b", of(&b), "max_connections = 1"),
    ];
    let text = udp_listener("front", front, "p") + &pool_with("p", "", unchecked, &backends);
    let ringway = Setup::new(text).start();
    let sockets: Vec<_> = (0..3).map(|_| client(front)).collect();
    let mut answers: Vec<_> = sockets
        .iter()
        .map(|socket| ask(socket, b"").unwrap())
        .collect();
    answers.sort();
    assert_eq!(answers, [b"a", b"a", b"b"]);
    client(front).send(b"x").unwrap();
    until(seconds(10), "the fourth finds nobody", || {
        drops(&ringway, "no-backend") == 1.0
    });
    // Nobody of those who have a place is disturbed.
    assert!(sockets.iter().all(|socket| ask(socket, b"").is_ok()));
}

#[test]
fn a_lifetime_ends_flows_and_the_log_says_who_was_refused() {
    let echo = Echo::plain();
    let front = net::free_address();
    let listener = udp_listener_with("front", front, "p", "deny = [\"127.97.0.0/16\"]");
    let text = listener + &pool("p", "max_lifetime = \"400ms\"", &[("a", echo.address)]);
    let global = "workers = 1\npin = \"off\"\naccess_log = \"stdout\"\n";
    let ringway = Setup::new(text).global(global).start();
    let socket = client(front);
    socket.set_read_timeout(Some(SHORT)).unwrap();
    let began = Instant::now();
    // However busy it is.
    while end_of(&ringway, "lifetime") < 2.0 {
        assert!(began.elapsed() < seconds(10), "flows grow old");
        // What is under way when the flow ends is lost with it.
        let _ = ask(&socket, b"x");
    }
    let denied = client_at([127, 97, 0, 1].into(), front);
    for _ in 0..7 {
        denied.send(b"x").unwrap();
    }
    until(seconds(10), "lines of both", || {
        let log = ringway.stdout();
        log.contains("end=lifetime")
            && log.contains("refused=denied")
            && log.contains("datagrams_in=")
    });
}
