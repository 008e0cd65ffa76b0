//! Clients that wait for a backend, sessions of backends that go down, and the times after which sessions end.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use support::backends::{Backend, read_line};
use support::greeted::{expect_reset, open, say};
use support::ringway::{Ringway, Setup, listener, pool, pool_with};
use support::wait::{seconds, until};
use support::{alone, net};

const CHECKED: &str = "[pool.health]\nkind = \"tcp\"\ninterval = \"300ms\"\nfast_interval = \"100ms\"\n\
                       timeout = \"300ms\"\nrise = 2\nfall = 2\n";

fn checked(address: SocketAddr, lines: &str, members: &[(&str, SocketAddr)]) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, address)| (*name, address.to_string(), ""))
        .collect();
    listener("main", address, "main") + &pool_with("main", lines, CHECKED, &members)
}

/// All backends down: clients wait, in order, and are served when one comes up.
#[test]
fn clients_wait_for_a_backend_and_are_served_when_it_comes() {
    let _alone = alone();
    let place = net::free_address();
    let address = net::free_address();
    let lines = "wait = { size = 100, timeout = \"30s\" }";
    let ringway = Setup::new(checked(address, lines, &[("a", place)]))
        .workers(2)
        .start_unready();
    ringway.wait_state("a", "down", seconds(5));
    assert_eq!(ringway.get("/readyz").expect("GET").0, 503);
    let mut waiting: Vec<_> = (0..100).map(|_| net::connect(address)).collect();
    for (number, stream) in (0_u64..).zip(&mut waiting) {
        writeln!(stream, "{number}").expect("a message before there is a backend");
    }
    until(seconds(5), "all wait", || {
        ringway.metric("ringway_waiting") == 100.0
    });
    // One more finds the queue full.
    net::expect_turned_away(address);
    // Who leaves makes room.
    net::reset(waiting.pop().expect("a client"));
    until(seconds(5), "one left", || {
        ringway.metric("ringway_waiting") == 99.0
    });

    let backend = Backend::named_on(net::listen(place), "a");
    for (number, stream) in (0_u64..).zip(&mut waiting) {
        assert_eq!(read_line(&*stream).expect("greeting"), "a");
        assert_eq!(read_line(&*stream).expect("echo"), number.to_string());
    }
    ringway.wait_ready();
    assert_eq!(ringway.metric("ringway_waiting"), 0.0);
    // The health checks connect as well.
    assert!(backend.accepted() >= 99);
    drop(waiting);
    ringway.wait_empty();
    let count = |end: &str| {
        ringway
            .metrics()
            .sum("ringway_session_ends_total", &[("end", end)])
    };
    assert_eq!(count("wait-full"), 1.0);
    assert_eq!(count("client-gone"), 1.0);
}

#[test]
fn waiting_ends_after_its_timeout() {
    let address = net::free_address();
    let lines = "wait = { size = 10, timeout = \"700ms\" }";
    let body = checked(address, lines, &[("a", net::free_address())]);
    let ringway = Setup::new(body).start_unready();
    ringway.wait_state("a", "down", seconds(5));
    let began = Instant::now();
    net::expect_turned_away(address);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(690), "{took:?}");
    assert!(took <= Duration::from_millis(1_500), "{took:?}");
    let ends = ringway
        .metrics()
        .sum("ringway_session_ends_total", &[("end", "wait-timeout")]);
    assert_eq!(ends, 1.0);
}

/// `on_down = "close"`: the sessions of a backend that goes down are closed; by default they are kept.
#[test]
fn on_down_close_ends_sessions_and_keep_does_not() {
    for (rule, closed) in [("keep", false), ("close", true)] {
        // The service dies while its sessions live on.
        let mut dying = Backend::named("a");
        let other = Backend::named("b");
        let address = net::free_address();
        let lines = format!("algorithm = \"round-robin\"\non_down = \"{rule}\"");
        let members = [("a", dying.address), ("b", other.address)];
        let ringway = Ringway::start(checked(address, &lines, &members));
        ringway.wait_state("a", "up", seconds(5));
        ringway.wait_state("b", "up", seconds(5));
        let mut sessions: Vec<_> = (0..10).map(|_| open(address)).collect();
        dying.stop_listening();
        ringway.wait_state("a", "down", seconds(5));
        for (stream, name) in &mut sessions {
            if closed && name == "a" {
                expect_reset(stream.try_clone().expect("a second handle"));
            } else {
                say(stream, "still here");
            }
        }
        let ends = ringway
            .metrics()
            .sum("ringway_session_ends_total", &[("end", "backend-down")]);
        assert_eq!(ends, if closed { 5.0 } else { 0.0 }, "{rule}");
        for _ in 0..10 {
            assert_eq!(open(address).1, "b");
        }
    }
}

/// Times of a session: idle and lifetime.
#[test]
fn idle_and_lifetime_end_sessions() {
    let backend = Backend::named("a");
    for (lines, end, least, most) in [
        ("idle_timeout = \"800ms\"", "idle", 790, 2_000),
        ("max_lifetime = \"1s\"", "lifetime", 890, 2_000),
    ] {
        let address = net::free_address();
        let body =
            listener("main", address, "main") + &pool("main", lines, &[("a", backend.address)]);
        let ringway = Ringway::start(body);
        let (stream, _) = open(address);
        let began = Instant::now();
        let _ = (&stream).read(&mut [0; 1]);
        let took = began.elapsed();
        let range = Duration::from_millis(least)..Duration::from_millis(most);
        assert!(range.contains(&took), "{end} after {took:?}");
        ringway.wait_empty();
        assert_eq!(
            ringway
                .metrics()
                .sum("ringway_session_ends_total", &[("end", end)]),
            1.0
        );
    }
}

#[test]
fn half_close_timeout_ends_a_silent_half_closed_session() {
    let backend = Backend::hold();
    let address = net::free_address();
    let lines = "half_close_timeout = \"600ms\"";
    let body = listener("main", address, "main") + &pool("main", lines, &[("a", backend.address)]);
    let ringway = Ringway::start(body);
    let stream = net::connect(address);
    stream.shutdown(Shutdown::Write).expect("half-close");
    let began = Instant::now();
    let _ = (&stream).read(&mut [0; 1]);
    let took = began.elapsed();
    assert!((590..2_000).contains(&took.as_millis()), "{took:?}");
    ringway.wait_empty();
    let ends = [("end", "half-close-timeout")];
    assert_eq!(
        ringway.metrics().sum("ringway_session_ends_total", &ends),
        1.0
    );
}
