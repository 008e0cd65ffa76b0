//! Who serves when: tiers that take over, join, overflow and give back, health that is ignored, backends that start slowly,
//! and connect times that decide. Backends greet with their name, so that clients can tell.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use support::alone;
use support::backends::{Backend, read_line};
use support::net;
use support::ringway::{Ringway, Setup, listener, pool_with};
use support::wait::{seconds, until, within};

const UNCHECKED: &str = "[pool.health]\nkind = \"none\"\n";
const QUICK: &str = "[pool.health]\ninterval = \"100ms\"\nfast_interval = \"50ms\"\ntimeout = \"1s\"\nrise = 1\nfall = 1\n";

fn config(
    address: SocketAddr,
    lines: &str,
    health: &str,
    members: &[(&str, SocketAddr, &str)],
) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, address, own)| (*name, address.to_string(), *own))
        .collect();
    listener("main", address, "main") + &pool_with("main", lines, health, &members)
}

/// A session and the name of the backend that it got.
fn open(address: SocketAddr) -> (TcpStream, String) {
    let stream = net::connect(address);
    let name = read_line(&stream).expect("the backend's name");
    (stream, name)
}

fn names(address: SocketAddr, count: usize) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    for _ in 0..count {
        *names.entry(open(address).1).or_default() += 1;
    }
    names
}

fn pool_status(ringway: &Ringway) -> serde_json::Value {
    ringway.status()["pools"][0].clone()
}

#[track_caller]
fn wait_tiers(ringway: &Ringway, tiers: &[u64]) {
    let wanted = serde_json::json!(tiers);
    until(seconds(30), &format!("tiers {tiers:?} serve"), || {
        pool_status(ringway)["serving_tiers"] == wanted
    });
}

/// Listens again where a backend was stopped.
fn revive(address: SocketAddr, name: &str) -> Backend {
    let listener = within(seconds(10), "the address is free again", || {
        net::listen_with(address, 0).ok()
    });
    Backend::named_on(listener, name)
}

#[test]
fn the_next_tier_takes_over_without_a_failed_client_and_gives_back_in_time() {
    let _alone = alone();
    let (mut first, second) = (Backend::named("first"), Backend::named("second"));
    let address = net::free_address();
    let members = [
        ("first", first.address, "tier = 0"),
        ("second", second.address, "tier = 1"),
    ];
    let ringway = Setup::new(config(address, "failback_after = \"2s\"", QUICK, &members))
        .workers(2)
        .start();
    // Whichever check ended first: a start is no failback.
    wait_tiers(&ringway, &[0]);
    assert_eq!(names(address, 20), [("first".to_string(), 20)].into());

    first.kill();
    // Before the checks know: an attempt that fails goes to the next tier.
    assert_eq!(names(address, 20), [("second".to_string(), 20)].into());
    wait_tiers(&ringway, &[1]);
    assert_eq!(names(address, 20), [("second".to_string(), 20)].into());

    let revived = Instant::now();
    let _first = revive(first.address, "first");
    let back = within(seconds(40), "the first one serves again", || {
        (open(address).1 == "first").then(Instant::now)
    });
    let after = back.duration_since(revived);
    assert!(after >= seconds(2), "given back after {after:?}");
    assert_eq!(names(address, 20), [("first".to_string(), 20)].into());
    let said = ringway.stderr();
    assert!(
        // Or before: tiers 0 and 1, if the log has not looked in between.
        said.contains("pool main: tier 1 serves now, was tier"),
        "{said}"
    );
}

#[test]
fn the_next_tier_joins_while_too_few_are_eligible() {
    let (mut a, b, c) = (
        Backend::named("a"),
        Backend::named("b"),
        Backend::named("c"),
    );
    let address = net::free_address();
    let members = [
        ("a", a.address, ""),
        ("b", b.address, ""),
        ("c", c.address, "tier = 3"),
    ];
    let lines = "algorithm = \"round-robin\"\nmin_eligible = 2\ntier_mode = \"join\"\nfailback_after = \"0s\"";
    let ringway = Setup::new(config(address, lines, QUICK, &members)).start();
    wait_tiers(&ringway, &[0]);
    // Not exactly in turn: the standby's turns are dealt out.
    let assert_both = || {
        let both = names(address, 40);
        let even = |name: &str| (16..=24).contains(&both[name]);
        assert!(both.len() == 2 && even("a") && even("b"), "{both:?}");
    };
    assert_both();
    a.kill();
    wait_tiers(&ringway, &[0, 3]);
    let joined = names(address, 40);
    assert!(
        joined.len() == 2 && joined["b"] >= 15 && joined["c"] >= 15,
        "{joined:?}"
    );
    let _a = revive(a.address, "a");
    wait_tiers(&ringway, &[0]);
    assert_both();
}

#[test]
fn clients_overflow_from_a_full_tier_and_return_when_it_has_room() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let address = net::free_address();
    let members = [
        ("a", a.address, "max_connections = 3"),
        ("b", b.address, "tier = 1"),
    ];
    let ringway = Setup::new(config(address, "", UNCHECKED, &members))
        .workers(2)
        .start();
    let mut sessions: Vec<_> = (0..6).map(|_| open(address)).collect();
    let got: Vec<&str> = sessions.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(got, ["a", "a", "a", "b", "b", "b"]);
    assert_eq!(
        pool_status(&ringway)["serving_tiers"],
        serde_json::json!([0])
    );
    sessions.remove(1);
    until(seconds(10), "the place is free", || a.active() == 2);
    assert_eq!(open(address).1, "a");
}

/// The check goes to a port where nobody listens: all are down, and all are well.
#[test]
fn health_is_ignored_when_too_few_are_eligible() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let address = net::free_address();
    let checked = net::free_address();
    let members = [("a", a.address, ""), ("b", b.address, "")];
    let health = format!("{QUICK}port = {}\n", checked.port());
    let lines = "algorithm = \"round-robin\"\nwait = { size = 0 }\nfail_open = 0";
    let mut ringway = Setup::new(config(address, lines, &health, &members)).start_unready();
    for name in ["a", "b"] {
        ringway.wait_state(name, "down", seconds(20));
    }
    net::expect_turned_away(address);

    let lines = lines.replace("fail_open = 0", "fail_open = 50");
    ringway.rewrite(config(address, &lines, &health, &members));
    assert!(ringway.reload(), "the reload was taken");
    ringway.wait_ready();
    assert_eq!(pool_status(&ringway)["ignoring_health"], true);
    let both: BTreeMap<_, _> = [("a".to_string(), 10), ("b".to_string(), 10)].into();
    assert_eq!(names(address, 20), both);

    // A weight of 0 is the operator's word, and limits are limits.
    let limited = [
        ("a", a.address, "weight = 0"),
        ("b", b.address, "max_connections = 1"),
    ];
    ringway.rewrite(config(address, &lines, &health, &limited));
    assert!(ringway.reload(), "the reload was taken");
    until(seconds(10), "b has room", || {
        let labels = [("backend", "b")];
        ringway
            .metrics()
            .sum("ringway_backend_sessions_active", &labels)
            == 0.0
    });
    let (_kept, name) = open(address);
    assert_eq!(name, "b");
    net::expect_turned_away(address);

    let _checked = Backend::hold_on(net::listen(checked));
    until(seconds(20), "health counts again", || {
        pool_status(&ringway)["ignoring_health"] == false
    });
}

/// False alarm: 300 independent draws with at most 1.7 % (a minute of an hour) for the newcomer exceed 30 with a
/// probability below 10^-14; 300 even draws are off by 70 or more with one below 10^-14.
#[test]
fn a_backend_that_comes_up_starts_slowly() {
    let _alone = alone();
    let (a, mut b) = (Backend::named("a"), Backend::named("b"));
    let address = net::free_address();
    let members = [("a", a.address, ""), ("b", b.address, "")];
    let body = |time: &str| {
        let lines = format!("algorithm = \"random\"\nslow_start = \"{time}\"");
        config(address, &lines, QUICK, &members)
    };
    let mut ringway = Setup::new(body("0s")).workers(2).start();
    let weight_of_b = |ringway: &Ringway| {
        pool_status(ringway)["backends"][1]["weight_now"]
            .as_f64()
            .unwrap()
    };
    ringway.wait_state("b", "up", seconds(20));
    b.kill();
    ringway.wait_state("b", "down", seconds(20));
    ringway.rewrite(body("3s"));
    assert!(ringway.reload(), "the reload was taken");
    let revived = Instant::now();
    let _b = revive(b.address, "b");
    ringway.wait_state("b", "up", seconds(20));
    loop {
        let weight = weight_of_b(&ringway);
        let most = (revived.elapsed().as_secs_f64() / 3.0 * 100.0).clamp(1.0, 100.0);
        assert!(
            weight <= most,
            "{weight} of 100 after {:?}",
            revived.elapsed()
        );
        if weight == 100.0 {
            break;
        }
        assert!(revived.elapsed() < seconds(30), "still at {weight}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(revived.elapsed() >= seconds(3));
    let even = names(address, 300);
    assert!(even["b"].abs_diff(150) < 70, "{even:?}");

    // The same age, of a longer time: the shares of a newcomer, while it is less than a minute old.
    ringway.rewrite(body("1h"));
    assert!(ringway.reload(), "the reload was taken");
    let few = names(address, 300);
    if revived.elapsed() < seconds(60) {
        let of_b = few.get("b").copied().unwrap_or(0);
        assert!(
            of_b <= 30,
            "{few:?} with a weight of {}",
            weight_of_b(&ringway)
        );
    }
}

/// One backend refuses: each attempt costs little, and counts a lot. When it is well again it is found out by the load that
/// the other one has: 100 ms fade to 400 times a fast connect's time within half a minute, on a busy machine sooner.
#[test]
fn least_latency_leaves_a_backend_that_fails_and_finds_it_again() {
    let (a, b) = (Backend::named("a"), net::free_address());
    let address = net::free_address();
    let members = [("a", a.address, ""), ("b", b, "")];
    let lines = "algorithm = \"least-latency\"";
    let ringway = Setup::new(config(address, lines, UNCHECKED, &members)).start();
    assert_eq!(names(address, 400), [("a".to_string(), 400)].into());
    let labels = [("backend", "b")];
    let attempts = ringway
        .metrics()
        .sum("ringway_connect_attempts_total", &labels);
    assert!(
        (1.0..=20.0).contains(&attempts),
        "{attempts} attempts on b for 400 clients"
    );

    // With many sessions on the other one it is worth a try now and then; still nobody notices.
    let mut sessions: Vec<_> = (0..400).map(|_| open(address)).collect();
    assert!(sessions.iter().all(|(_, name)| name == "a"));

    let _b = Backend::named_on(net::listen(b), "b");
    // By and by: its connects are fast, but what it did is forgotten by time only.
    let mut of_b = 0;
    until(seconds(90), "b gets clients again", || {
        let (session, name) = open(address);
        of_b += u32::from(name == "b");
        sessions.push((session, name));
        std::thread::sleep(Duration::from_millis(100));
        of_b >= 5
    });
}
