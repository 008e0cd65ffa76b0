//! Circuit breaking by real traffic: who fails is ejected and comes back by trial, nobody else is; one client cannot eject
//! anybody, and the last one stays. Backends say their name, so that clients can tell.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "breaker/own.rs"]
mod own;
#[path = "breaker/pools.rs"]
mod pools;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use support::backends::{Backend, read_line};
use support::datagrams::{Echo, ask, client};
use support::events::{Event, EventStream};
use support::ringway::{Ringway, Setup, listener, pool, pool_with};
use support::wait::{seconds, until, within};
use support::{alone, net};

const UNCHECKED: &str = "[pool.health]\nkind = \"none\"\n";
const TURNS: &str = "algorithm = \"round-robin\"\nconnect_attempts = 1";

/// How a [`Changeling`] treats who comes.
#[derive(Clone, Copy)]
enum Manner {
    /// Says its name.
    Serves = 0,
    /// Accepts, and resets.
    Resets = 1,
    /// Waits for a line, and resets whoever writes no greeting.
    Strict = 2,
}

/// A backend whose manner the test changes.
struct Changeling {
    backend: Backend,
    manner: Arc<AtomicU8>,
}

impl Changeling {
    fn new(name: &str, manner: Manner) -> Changeling {
        Changeling::at(net::free_address(), name, manner)
    }

    fn at(address: SocketAddr, name: &str, manner: Manner) -> Changeling {
        let listening = within(seconds(10), "the address is free", || {
            net::listen_with(address, 0).ok()
        });
        let manner = Arc::new(AtomicU8::new(manner as u8));
        let (own, greeting) = (Arc::clone(&manner), format!("{name}\n"));
        let backend = Backend::serve_on(listening, move |mut stream| {
            let manner = own.load(Ordering::SeqCst);
            let polite = manner != Manner::Strict as u8 || read_line(stream)? == "hello";
            if manner == Manner::Resets as u8 || !polite {
                net::will_reset(stream);
                return Ok(());
            }
            stream.write_all(greeting.as_bytes())?;
            stream.read(&mut [0]).map(drop)
        });
        Changeling { backend, manner }
    }

    fn becomes(&self, manner: Manner) {
        self.manner.store(manner as u8, Ordering::SeqCst);
    }

    fn address(&self) -> SocketAddr {
        self.backend.address
    }
}

/// A client from 127.0.1.`from`, and the name it is told.
fn visit(address: SocketAddr, from: u8) -> io::Result<String> {
    talk(address, from, "hello\n")
}

fn talk(address: SocketAddr, from: u8, said: &str) -> io::Result<String> {
    let source = Ipv4Addr::new(127, 0, 1, from);
    let mut stream = net::connect_with(Some(source), address, 0)?;
    stream.write_all(said.as_bytes())?;
    read_line(&stream)
}

/// Clients of twenty addresses, until so many in a row were served without `absent`.
#[track_caller]
fn settle(address: SocketAddr, absent: &str, wanted: usize) -> usize {
    let (mut served, mut failed) = (0, 0);
    for n in 0..2_000_u32 {
        match visit(address, 10 + (n % 20) as u8) {
            Ok(name) if name != absent => served += 1,
            Ok(_) => served = 0,
            Err(_) => (served, failed) = (0, failed + 1),
        }
        if served == wanted {
            return failed;
        }
    }
    panic!("clients never settled without {absent}: {failed} failed");
}

fn body(address: SocketAddr, lines: &str, tables: &str, members: &[(&str, SocketAddr)]) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, address)| (*name, address.to_string(), ""))
        .collect();
    listener("main", address, "main") + &pool_with("main", lines, tables, &members)
}

/// A busy machine may take its time to see a reset.
fn breaker(lines: &str) -> String {
    format!("{UNCHECKED}[pool.breaker]\nearly_reset = \"2s\"\n{lines}\n")
}

fn start(
    workers: usize,
    lines: &str,
    tables: &str,
    members: &[(&str, SocketAddr)],
) -> (Ringway, SocketAddr) {
    let address = net::free_address();
    let setup = Setup::new(body(address, lines, tables, members)).workers(workers);
    (setup.start(), address)
}

fn opens(ringway: &Ringway, backend: &str) -> f64 {
    let labels = [("backend", backend)];
    ringway
        .metrics()
        .sum("ringway_breaker_opens_total", &labels)
}

fn is(event: &Event, backend: &str, to: &str) -> bool {
    event.kind == "breaker" && event.text("backend") == backend && event.text("to") == to
}

#[test]
fn a_black_hole_is_ejected_and_clients_go_to_others_until_it_is_healed() {
    let _alone = alone();
    for workers in [1, 2] {
        let (a, b) = (Backend::named("a"), Backend::named("b"));
        let hole = Changeling::new("hole", Manner::Resets);
        let members = [("a", a.address), ("hole", hole.address()), ("b", b.address)];
        // Connecting works, so a check finds nothing wrong.
        let tables = "[pool.health]\nkind = \"tcp\"\n[pool.breaker]\nearly_reset = \"2s\"\nopen = \"500ms\"\nopen_max = \"1500ms\"\n";
        let (ringway, address) = start(workers, TURNS, tables, &members);
        let mut events = EventStream::open(ringway.admin(), None);
        let failed = settle(address, "hole", 30);
        println!("{workers} workers: {failed} clients met the black hole");
        assert!((3..=40).contains(&failed), "{failed} clients failed");
        assert!(opens(&ringway, "hole") >= 1.0);
        assert_eq!(opens(&ringway, "a") + opens(&ringway, "b"), 0.0);
        let opened = events.find(seconds(5), "it opens", |event| is(event, "hole", "open"));
        assert_eq!(opened.data["open_ms"], 500);
        assert_eq!(opened.text("health"), "ejected");
        assert_eq!(
            opened.text("reason"),
            "3 sessions in a row were reset early"
        );
        let said =
            "backend main/hole is ejected for 500ms, was up: 3 sessions in a row were reset early";
        until(seconds(5), "the log says it", || {
            ringway.stderr().contains(said)
        });

        // Each time that trials of three clients fail it stays away twice as long.
        let mut turn = 0;
        for open_ms in [1_000, 1_500, 1_500] {
            settle(address, "hole", 20);
            let longer = within(seconds(20), "it opens again", || {
                turn += 1;
                let _ = visit(address, 40 + turn % 7);
                let next = events.next(Duration::from_millis(5));
                next.filter(|event| is(event, "hole", "open"))
            });
            assert_eq!(longer.data["open_ms"], open_ms);
            assert_eq!(longer.text("reason"), "a trial failed");
        }

        hole.becomes(Manner::Serves);
        within(seconds(10), "a trial brings it back", || {
            let _ = visit(address, 40);
            events
                .next(Duration::from_millis(5))
                .filter(|event| is(event, "hole", "closed"))
        });
        ringway.wait_state("hole", "up", seconds(5));
        let names: Vec<_> = (0..30).map(|n| visit(address, n).unwrap()).collect();
        assert_eq!(
            names.iter().filter(|name| *name == "hole").count(),
            10,
            "{names:?}"
        );
    }
}

#[test]
fn it_is_seen_everywhere_that_and_why_a_backend_is_ejected() {
    let (good, dead) = (Backend::named("good"), net::free_address());
    let members = [("dead", dead), ("good", good.address)];
    let (ringway, address) = start(
        1,
        "algorithm = \"round-robin\"",
        &breaker("open = \"1h\"\nopen_max = \"1h\""),
        &members,
    );
    // A failed connect is not the client's problem.
    for n in 0..20 {
        assert_eq!(visit(address, n).unwrap(), "good");
    }
    until(seconds(5), "it is told", || {
        ringway.stderr().contains("main/dead is ejected")
    });
    let status = ringway.status();
    let backend = &status["pools"][0]["backends"][0];
    assert_eq!(
        (backend["health"].clone(), backend["eligible"].clone()),
        ("ejected".into(), false.into())
    );
    let told = &backend["breaker"];
    assert_eq!(
        (told["state"].clone(), told["opens"].clone()),
        ("open".into(), 1.into())
    );
    assert_eq!(
        told["last_change"]["reason"],
        "3 connects in a row failed (the last: refused)"
    );
    assert!(told["open_until"].as_str().unwrap().ends_with('Z'));
    assert_eq!(
        status["pools"][0]["backends"][1]["breaker"]["state"],
        "closed"
    );
    let metrics = ringway.metrics();
    let state = [("backend", "dead"), ("state", "ejected")];
    assert_eq!(metrics.sum("ringway_backend_state", &state), 1.0);
    let failures = [("backend", "dead"), ("reason", "refused")];
    assert_eq!(
        metrics.sum("ringway_connect_failures_total", &failures),
        3.0
    );
    let (code, text) = ringway
        .get("/v1/explain?listener=main&client=127.0.0.1")
        .unwrap();
    assert_eq!(code, 200, "{text}");
    assert!(
        text.contains(
            "ejected: 3 connects in a row failed (the last: refused); it may be tried in 3"
        ),
        "{text}"
    );
}

/// It writes what the backend resets, from one address, or two.
#[test]
fn one_hostile_client_ejects_nobody_but_has_a_check_made() {
    let checks = "[pool.health]\nkind = \"tcp\"\ninterval = \"1h\"\nfast_interval = \"200ms\"\nfall = 3\n[pool.breaker]\nearly_reset = \"2s\"\n";
    let (one, two) = (
        Changeling::new("one", Manner::Strict),
        Changeling::new("two", Manner::Strict),
    );
    let members = [("one", one.address()), ("two", two.address())];
    let (ringway, address) = start(2, TURNS, checks, &members);
    let checked = || {
        ringway
            .metrics()
            .sum("ringway_check_total", &[("result", "ok")])
    };
    until(seconds(5), "both are checked", || checked() >= 2.0);
    let (before, began) = (checked(), Instant::now());
    for n in 0..100 {
        assert!(talk(address, 50 + n % 2, "garbage\n").is_err());
    }
    until(seconds(5), "checks were made at once", || {
        checked() >= before + 2.0
    });
    let most = 2.0 * (began.elapsed().as_secs_f64() / 0.2 + 2.0);
    assert!(
        checked() - before <= most,
        "not more than the fast interval allows"
    );
    assert_eq!(opens(&ringway, "one") + opens(&ringway, "two"), 0.0);
    assert_eq!(ringway.metric("ringway_early_resets_total"), 100.0);
    for n in 0..10 {
        visit(address, n).unwrap();
    }
    // With a third address it is what a bad backend looks like: the count is from there.
    until(seconds(10), "three addresses do it", || {
        for n in 0..6 {
            assert!(talk(address, 60 + n, "garbage\n").is_err());
        }
        opens(&ringway, "one") + opens(&ringway, "two") == 1.0
    });
}

/// The only client that comes while the breaker is half-open is one whose sessions are reset, and then a good one.
#[test]
fn one_hostile_client_cannot_keep_a_healed_backend_out() {
    let good = Backend::named("good");
    let place = net::free_address();
    let members = [("back", place), ("good", good.address)];
    let tables = breaker("open = \"300ms\"\nopen_max = \"1h\"");
    let (ringway, address) = start(1, "algorithm = \"round-robin\"", &tables, &members);
    let mut events = EventStream::open(ringway.admin(), None);
    settle(address, "back", 10);
    let _back = Changeling::at(place, "back", Manner::Strict);
    events.find(seconds(5), "it may be tried", |event| {
        is(event, "back", "half-open")
    });
    for _ in 0..40 {
        // Every other one is a trial.
        let _ = talk(address, 77, "garbage\n");
    }
    assert!(
        ringway.metric("ringway_early_resets_total") >= 10.0,
        "it was tried"
    );
    assert_eq!(opens(&ringway, "back"), 1.0);
    until(seconds(5), "a good client brings it back", || {
        visit(address, 78).unwrap() == "back" && opens(&ringway, "back") == 1.0
    });
    let closed = events.find(seconds(5), "it is back", |event| {
        is(event, "back", "closed")
    });
    assert_eq!(
        (closed.text("reason"), closed.text("health")),
        ("trials passed", "unknown")
    );
}

#[test]
fn a_share_stays_and_the_last_one_always() {
    // Four that refuse, of which half may go; and two, of which one goes and the other is the last.
    let dead: Vec<SocketAddr> = (0..4).map(|_| net::free_address()).collect();
    let names = ["a", "b", "c", "d"];
    for (count, percent, ejected, kept) in
        [(4, 50, 2.0, "max-ejected"), (2, 100, 1.0, "last-eligible")]
    {
        let members: Vec<_> = names
            .into_iter()
            .zip(dead.iter().copied())
            .take(count)
            .collect();
        let tables = breaker(&format!(
            "max_ejected_percent = {percent}\nopen = \"1h\"\nopen_max = \"1h\""
        ));
        let (ringway, address) = start(2, TURNS, &tables, &members);
        for n in 0..60 {
            assert!(visit(address, n).is_err());
        }
        assert_eq!(
            ringway.metric("ringway_breaker_opens_total"),
            ejected,
            "{count} backends"
        );
        let reason = [("reason", kept)];
        assert!(
            ringway.metrics().sum("ringway_breaker_kept_total", &reason) > 0.0,
            "{kept}"
        );
        until(seconds(5), "the log says it", || {
            ringway.stderr().contains("fails and is not ejected")
        });
    }
}

#[test]
fn when_the_others_go_down_the_ejected_one_serves_again() {
    let hole = Changeling::new("hole", Manner::Resets);
    let mut good = Changeling::new("good", Manner::Serves);
    let tables = "[pool.health]\nkind = \"tcp\"\ninterval = \"200ms\"\nfast_interval = \"50ms\"\nfall = 2\n\
                  [pool.breaker]\nearly_reset = \"2s\"\nopen = \"1h\"\nopen_max = \"1h\"\n";
    let members = [("hole", hole.address()), ("good", good.address())];
    let (ringway, address) = start(1, TURNS, tables, &members);
    let mut events = EventStream::open(ringway.admin(), None);
    settle(address, "hole", 10);
    hole.becomes(Manner::Serves);
    good.backend.kill();
    let lifted = events.find(seconds(5), "it is lifted", |event| {
        is(event, "hole", "closed")
    });
    assert_eq!(lifted.text("reason"), "no other backend is eligible");
    assert_eq!(visit(address, 1).unwrap(), "hole");
}

#[test]
fn a_reload_keeps_breakers_and_one_without_rules_closes_them() {
    let (good, dead) = (Backend::named("good"), net::free_address());
    let members = [("dead", dead), ("good", good.address)];
    let tables = breaker("open = \"1h\"\nopen_max = \"2h\"");
    let (mut ringway, address) = start(2, "algorithm = \"round-robin\"", &tables, &members);
    settle(address, "dead", 10);
    assert_eq!(opens(&ringway, "dead"), 1.0);
    let changed = breaker("open = \"30m\"\nopen_max = \"2h\"\ntrials = 2");
    ringway.rewrite(body(
        address,
        "algorithm = \"round-robin\"",
        &changed,
        &members,
    ));
    assert!(ringway.reload());
    let attempts = || {
        let dead = [("backend", "dead")];
        ringway
            .metrics()
            .sum("ringway_connect_attempts_total", &dead)
    };
    let before = attempts();
    for n in 0..20 {
        assert_eq!(visit(address, n).unwrap(), "good");
    }
    assert_eq!((attempts(), opens(&ringway, "dead")), (before, 1.0));

    let mut events = EventStream::open(ringway.admin(), None);
    let off = breaker("consecutive_failures = 0\nerror_percent = 0");
    ringway.rewrite(body(address, "algorithm = \"round-robin\"", &off, &members));
    assert!(ringway.reload());
    let closed = events.find(seconds(5), "it closes", |event| is(event, "dead", "closed"));
    assert_eq!(closed.text("reason"), "the pool has no breaker any more");
    for n in 0..20 {
        assert_eq!(visit(address, n).unwrap(), "good");
    }
    let dead = [("backend", "dead")];
    let attempts = ringway
        .metrics()
        .sum("ringway_connect_attempts_total", &dead);
    assert!(
        attempts >= before + 5.0,
        "it is tried again, and never ejected: {attempts}"
    );
    assert_eq!(opens(&ringway, "dead"), 1.0);
    assert!(ringway.status()["pools"][0]["backends"][0]["breaker"].is_null());
}

/// Never three in a row, and too many all the same.
#[test]
fn the_share_of_failures_ejects_one_that_fails_now_and_then() {
    let good = Backend::named("good");
    let flaky = Changeling::new("flaky", Manner::Strict);
    let members = [("flaky", flaky.address()), ("good", good.address)];
    let tables = breaker(
        "error_percent = 40\nvolume = 20\nwindow = \"5s\"\nopen = \"1h\"\nopen_max = \"1h\"",
    );
    let (ringway, address) = start(1, TURNS, &tables, &members);
    let mut events = EventStream::open(ringway.admin(), None);
    let mut sent = 0;
    let opened = within(seconds(20), "it is ejected", || {
        for n in 0..10_u8 {
            // Pairs of turns: the flaky one gets a polite and a rude client by turns, from many addresses.
            let said = if n % 4 < 2 { "hello\n" } else { "garbage\n" };
            let _ = talk(address, 100 + (sent + n) % 100, said);
        }
        sent = (sent + 10) % 100;
        events
            .next(Duration::from_millis(5))
            .filter(|event| is(event, "flaky", "open"))
    });
    let reason = opened.text("reason");
    let percent: u32 = reason.split(' ').next().unwrap().parse().unwrap();
    assert!(
        reason.ends_with("attempts failed") && (40..=60).contains(&percent),
        "{reason}"
    );
    assert_eq!(opens(&ringway, "good"), 0.0);
}

/// The one that serves is full, the other one ejected: who waits is let in by the first trial.
#[test]
fn who_waits_is_woken_when_a_breaker_is_half_open() {
    let (good, place) = (Backend::named("good"), net::free_address());
    let tables = breaker("open = \"2s\"\nopen_max = \"1h\"");
    let members = [
        ("back", place.to_string(), ""),
        ("good", good.address.to_string(), "max_connections = 1"),
    ];
    let address = net::free_address();
    let text = listener("main", address, "main")
        + &pool_with("main", "algorithm = \"round-robin\"", &tables, &members);
    let ringway = Setup::new(text).workers(2).start();
    settle(address, "back", 10);
    let opened = Instant::now();
    let _back = Changeling::at(place, "back", Manner::Serves);
    let held = net::connect(address);
    assert_eq!(read_line(&held).unwrap(), "good");
    assert_eq!(
        visit(address, 5).unwrap(),
        "back",
        "as soon as it may be tried"
    );
    let waited = opened.elapsed();
    assert!(waited < Duration::from_millis(2_600), "{waited:?}");
    assert_eq!(ringway.metric("ringway_waiting"), 0.0);
}

#[test]
fn the_next_tier_serves_while_the_first_is_ejected_and_gives_back() {
    let (place, second) = (net::free_address(), Backend::named("second"));
    let tables = breaker("open = \"500ms\"\nopen_max = \"1h\"");
    let members = [
        ("first", place.to_string(), "tier = 0"),
        ("second", second.address.to_string(), "tier = 1"),
    ];
    let address = net::free_address();
    let text = listener("main", address, "main")
        + &pool_with("main", "failback_after = \"500ms\"", &tables, &members);
    let ringway = Setup::new(text).start();
    settle(address, "first", 10);
    until(seconds(5), "tier 1 serves", || {
        ringway.status()["pools"][0]["serving_tiers"] == serde_json::json!([1])
    });
    let _first = Changeling::at(place, "first", Manner::Serves);
    until(seconds(20), "the first tier is back", || {
        let name = visit(address, 3).expect("nobody fails on the way");
        name == "first" && opens(&ringway, "first") >= 1.0
    });
    until(seconds(5), "it is closed", || {
        ringway.status()["pools"][0]["backends"][0]["breaker"]["state"] == "closed"
    });
}

#[test]
fn a_backend_that_refuses_datagrams_is_ejected_and_its_first_answer_brings_it_back() {
    let front = net::free_address();
    let (good, place) = (Echo::named("good "), net::free_address());
    let tables = "[pool.breaker]\nopen = \"700ms\"\nopen_max = \"1h\"\n[pool.udp]\nresponses = 1\n";
    let members = [("back", place), ("good", good.address)];
    let text = format!(
        "[[listener]]\nname = \"front\"\nbind = \"{front}\"\nprotocol = \"udp\"\npool = \"p\"\n\n"
    );
    let pool = pool("p", "algorithm = \"round-robin\"", &members);
    let pool = pool.replacen("[pool.health]", &format!("{tables}\n[pool.health]"), 1);
    let ringway = Ringway::start(text + &pool);
    let name = || {
        let socket = client(front);
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let answer = ask(&socket, b"?").ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    };
    until(seconds(10), "it is ejected", || {
        let _ = name();
        opens(&ringway, "back") == 1.0
    });
    let before = ringway
        .metrics()
        .sum("ringway_connect_attempts_total", &[("backend", "back")]);
    for _ in 0..10 {
        assert_eq!(name().as_deref(), Some("good ?"));
    }
    let after = ringway
        .metrics()
        .sum("ringway_connect_attempts_total", &[("backend", "back")]);
    assert_eq!(before, after, "nothing goes there");
    let _back = Echo::named_at(place, "back ");
    until(seconds(10), "it is back", || {
        name().as_deref() == Some("back ?")
    });
    ringway.wait_state("back", "unknown", seconds(5));
}

#[test]
fn a_client_that_leaves_while_its_session_connects_blames_nobody() {
    // A full accept queue drops SYNs: connecting takes until the timeout.
    let mute = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let address = net::free_address();
    mute.bind(&address.into()).unwrap();
    mute.listen(0).unwrap();
    let mut fillers = Vec::new();
    for _ in 0..4 {
        fillers.extend(TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok());
    }
    let good = Backend::named("good");
    let members = [("mute", address), ("good", good.address)];
    let lines = "algorithm = \"first\"\nconnect_timeout = \"2s\"";
    let (ringway, front) = start(1, lines, &breaker(""), &members);
    for _ in 0..6 {
        let stream = net::connect(front);
        until(seconds(5), "it connects", || {
            ringway.metric("ringway_connect_attempts_total") > 0.0
        });
        net::reset(stream);
    }
    ringway.wait_empty();
    assert_eq!(
        ringway.status()["pools"][0]["backends"][0]["breaker"]["failures_in_a_row"]["connects"],
        0
    );
    assert_eq!(opens(&ringway, "mute"), 0.0);
}
