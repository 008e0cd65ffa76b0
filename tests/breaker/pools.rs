//! Breakers beside what else decides who serves: roles that checks tell, and `fail_open`.

use std::net::{Ipv4Addr, SocketAddr};

use super::support::backends::Backend;
use super::support::checked_servers::redis;
use super::support::events::EventStream;
use super::support::net;
use super::support::ringway::{Ringway, Setup};
use super::support::servers::Redis;
use super::support::wait::{seconds, until};
use super::{Changeling, Manner, TURNS, body, breaker, is, opens, settle, start, visit};

/// Redis tells the roles at one port, traffic goes to another of the same host, where the test decides what happens.
#[test]
fn the_last_replica_that_serves_is_never_ejected_however_many_primaries_there_are() {
    let own = net::host().octets();
    let host = |n: u8| Ipv4Addr::new(127, own[1] ^ 32, own[2], n);
    let (traffic, told) = (21_000, 21_001);
    let folder = tempfile::tempdir().unwrap();
    let _servers: Vec<_> = (1..=3)
        .map(|n| redis(SocketAddr::from((host(n), told)), folder.path(), &[]))
        .collect();
    let cli = |n: u8, words: &[&str]| Redis::cli(SocketAddr::from((host(n), told)), words);
    let follow = |n: u8, of: u8| cli(n, &["REPLICAOF", &host(of).to_string(), &told.to_string()]);
    follow(2, 1);
    follow(3, 1);
    let place = |n: u8| SocketAddr::from((host(n), traffic));
    let _primary = Changeling::at(place(1), "primary", Manner::Serves);
    let hole = Changeling::at(place(2), "hole", Manner::Resets);
    let _good = Changeling::at(place(3), "good", Manner::Serves);
    let tables = format!(
        "[pool.health]\nkind = \"redis\"\nrole = \"replica\"\nport = {told}\ninterval = \"200ms\"\nfast_interval = \"50ms\"\n\
         rise = 1\nfall = 1\n[pool.breaker]\nearly_reset = \"2s\"\nopen = \"1h\"\nopen_max = \"1h\"\nmax_ejected_percent = 100\n"
    );
    let members = [
        ("primary", place(1)),
        ("hole", place(2)),
        ("good", place(3)),
    ];
    let (ringway, address) = start(1, TURNS, &tables, &members);
    ringway.wait_state("primary", "wrong-role", seconds(10));
    ringway.wait_state("hole", "up", seconds(10));
    ringway.wait_state("good", "up", seconds(10));
    let mut events = EventStream::open(ringway.admin(), None);
    settle(address, "hole", 20);
    ringway.wait_state("hole", "ejected", seconds(5));
    for n in 0..10 {
        assert_eq!(
            visit(address, n).unwrap(),
            "good",
            "a primary is no replica"
        );
    }
    // The other replica is promoted: whom the breaker holds back is the last one then, and is let in again.
    hole.becomes(Manner::Serves);
    cli(3, &["REPLICAOF", "NO", "ONE"]);
    ringway.wait_state("good", "wrong-role", seconds(10));
    let lifted = events.find(seconds(5), "it is lifted", |event| {
        is(event, "hole", "closed")
    });
    assert_eq!(lifted.text("reason"), "no other backend is eligible");
    assert_eq!(visit(address, 1).unwrap(), "hole");
    // And it stays, whatever it does: primaries are nobody to go to instead.
    hole.becomes(Manner::Resets);
    for n in 0..30 {
        assert!(visit(address, n).is_err(), "there is nobody else");
    }
    assert_eq!(opens(&ringway, "hole"), 1.0);
    let kept = [("reason", "last-eligible")];
    let kept = ringway.metrics().sum("ringway_breaker_kept_total", &kept);
    assert!(kept >= 1.0);
    ringway.wait_state("hole", "up", seconds(5));
}

/// Below the share that `fail_open` asks for, what checks say is ignored; what traffic has met with is not: an open breaker
/// keeps sessions away all the same, and lets one try when its time is over.
#[test]
fn fail_open_does_not_open_what_a_breaker_has_shut() {
    let (a, b, dead) = (
        Backend::named("a"),
        Backend::named("b"),
        net::free_address(),
    );
    let members = [("dead", dead), ("a", a.address), ("b", b.address)];
    let address = net::free_address();
    let text = |fail_open: u8, open: &str| {
        let lines = format!("algorithm = \"round-robin\"\nfail_open = {fail_open}");
        let tables = breaker(&format!("open = \"{open}\"\nopen_max = \"1h\""));
        body(address, &lines, &tables, &members)
    };
    let mut ringway = Setup::new(text(60, "1h")).start();
    let attempts = |ringway: &Ringway| {
        let dead = [("backend", "dead")];
        let metrics = ringway.metrics();
        metrics.sum("ringway_connect_attempts_total", &dead)
    };
    let ignoring = |ringway: &Ringway| {
        let pool = &ringway.status()["pools"][0];
        pool["ignoring_health"].as_bool().unwrap()
    };
    settle(address, "dead", 10);
    assert!(!ignoring(&ringway), "two of three are 66 %");
    ringway.rewrite(text(70, "1h"));
    assert!(ringway.reload());
    until(seconds(5), "health is ignored", || ignoring(&ringway));
    // It is not even chosen; that its breaker would refuse the session is the second lock.
    let (_, told) = ringway
        .get("/v1/explain?listener=main&client=127.0.0.1")
        .unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let candidates = told["candidates"].as_array().unwrap();
    let shut = candidates
        .iter()
        .find(|it| it["backend"] == "dead")
        .unwrap();
    assert_eq!(shut["probability"], 0.0, "{told}");
    assert!(shut["why"].as_str().unwrap().contains("ejected"), "{shut}");
    let before = attempts(&ringway);
    for n in 0..15 {
        assert_ne!(visit(address, n).unwrap(), "dead");
    }
    assert_eq!(attempts(&ringway), before, "its breaker is open");
    assert_eq!(opens(&ringway, "dead"), 1.0);
    let _back = Changeling::at(dead, "dead", Manner::Serves);
    ringway.rewrite(text(70, "100ms"));
    assert!(ringway.reload());
    until(seconds(10), "a trial brings it back", || {
        visit(address, 2).unwrap() == "dead"
    });
    until(seconds(5), "health counts again", || !ignoring(&ringway));
}
