//! `/v1/events` on both doors: what happens is told as it happens, once, in order; who comes back goes on where it was; who
//! never reads loses its place and holds up nobody.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::backends::Backend;
use support::events::{Event, EventStream};
use support::ringway::{Ringway, Setup, listener, pool, pool_with};
use support::undisturbed::undisturbed;
use support::wait::{seconds, until};
use support::{alone, net};

const CHECKED: &str = "[pool.health]\nkind = \"tcp\"\ninterval = \"200ms\"\nfast_interval = \"50ms\"\n\
                       timeout = \"200ms\"\nrise = 1\nfall = 2\n";

/// A balancer whose admin socket is in its own folder.
fn start(body: String) -> (Ringway, PathBuf) {
    let setup = Setup::new(body);
    let folder = setup.folder().to_path_buf();
    let setup = setup.env("XDG_RUNTIME_DIR", folder.to_str().unwrap());
    (setup.start(), folder.join("ringway").join("admin.sock"))
}

fn is(event: &Event, kind: &str, key: &str, value: &str) -> bool {
    event.kind == kind && event.text(key) == value
}

#[test]
fn what_happens_is_told_on_both_doors_and_in_the_log() {
    let (one, mut two) = (Backend::echo(), Backend::echo());
    let address = net::free_address();
    let members = [
        ("one", one.address.to_string(), ""),
        ("two", two.address.to_string(), ""),
    ];
    let first = listener("main", address, "main") + &pool_with("main", "", CHECKED, &members);
    let (mut ringway, socket) = start(first);
    let mut tcp = EventStream::open(ringway.admin(), Some("0"));
    let mut unix = EventStream::open_unix(&socket, Some("0"));
    assert_eq!((tcp.code(), unix.code()), (200, 200));
    let opened = tcp.find(seconds(5), "the listener", |event| {
        is(event, "listener", "state", "open")
    });
    assert_eq!(opened.data["addresses"][0], address.to_string());
    tcp.find(seconds(5), "the first verdict", |event| {
        is(event, "backend", "backend", "two") && event.text("to") == "up"
    });

    two.kill();
    let down = tcp.find(seconds(10), "two is down", |event| {
        is(event, "backend", "backend", "two") && event.text("to") == "down"
    });
    assert_eq!(
        (down.text("pool"), down.text("what"), down.text("from")),
        ("main", "health", "up")
    );
    assert!(down.text("reason").contains("refused"), "{down:?}");
    assert!(down.text("at").ends_with('Z'), "{down:?}");

    // A backend and a listener leave, and another listener comes.
    let other = net::free_address();
    let second = listener("other", other, "main") + &pool_with("main", "", CHECKED, &members[..1]);
    ringway.rewrite(second);
    assert!(ringway.reload());
    let drains = tcp.find(seconds(5), "two drains", |event| {
        is(event, "backend", "what", "admin")
    });
    assert_eq!(
        (drains.text("backend"), drains.text("to")),
        ("two", "draining")
    );
    let reload = tcp.find(seconds(5), "the reload", |event| event.kind == "reload");
    assert_eq!(reload.text("result"), "taken");
    let changes = reload.data["changes"].to_string();
    assert!(
        changes.contains("listener main removed") && changes.contains("backend main/two removed"),
        "{changes}"
    );

    ringway.write_raw("[[listener]]\nname = 3\n");
    assert!(!ringway.reload());
    let refused = tcp.find(seconds(5), "the refused one", |event| {
        event.kind == "reload"
    });
    assert_eq!(refused.text("result"), "refused");
    assert!(
        refused.text("error").contains("listener.name"),
        "{refused:?}"
    );

    // The other door has told the same.
    let same = unix.find(seconds(5), "the same", |event| event.id == refused.id);
    assert_eq!(same.data, refused.data);
    let log = ringway.stderr();
    for said in [
        format!("listener main on {address}"),
        format!("listener other on {other}"),
        format!("listener main closed, was on {address}"),
        "backend main/two is down, was up: check refused".to_string(),
        "backend main/two is draining, was ready: removed from the configuration".to_string(),
    ] {
        assert_eq!(log.matches(&said).count(), 1, "{said} in\n{log}");
    }
}

#[test]
fn who_comes_back_goes_on_where_it_was() {
    let backend = Backend::echo();
    let body = listener("main", net::free_address(), "main")
        + &pool("main", "", &[("only", backend.address)]);
    let (ringway, _) = start(body);
    let reload = |stream: &mut EventStream| {
        assert!(ringway.reload());
        stream.find(seconds(5), "the reload", |event| event.kind == "reload")
    };
    let mut stream = EventStream::open(ringway.admin(), None);
    let first = reload(&mut stream);
    assert_eq!(
        stream
            .next(Duration::from_millis(100))
            .map(|event| event.id),
        None
    );
    drop(stream);
    for _ in 0..3 {
        assert!(ringway.reload());
    }
    let mut again = EventStream::open(ringway.admin(), Some(&first.id));
    let numbers: Vec<_> = (0..3)
        .map(|_| again.next(seconds(5)).expect("what was missed").number() - first.number())
        .collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert!(
        again.next(Duration::from_millis(100)).is_none(),
        "nothing twice"
    );
    // An id of another process: everything that is kept, and the word that something may be missing.
    let mut stranger = EventStream::open(ringway.admin(), Some("17-4"));
    assert_eq!(stranger.next(seconds(5)).unwrap().kind, "gap");
    assert_eq!(stranger.next(seconds(5)).unwrap().number(), 1);
}

#[test]
fn one_stream_too_many_is_told_so_and_a_place_comes_back() {
    let backend = Backend::echo();
    let body = listener("main", net::free_address(), "main")
        + &pool("main", "", &[("only", backend.address)]);
    let (ringway, socket) = start(body);
    let mut streams: Vec<_> = (0..16)
        .map(|_| EventStream::open(ringway.admin(), None))
        .collect();
    assert!(streams.iter().all(|stream| stream.code() == 200));
    assert_eq!(EventStream::open_unix(&socket, None).code(), 503);
    assert_eq!(ringway.metric("ringway_event_streams"), 16.0);
    streams.pop();
    until(seconds(10), "the place is free", || {
        EventStream::open_unix(&socket, None).code() == 200
    });
}

/// It takes a place, asks for events, and never reads one. Who reads gets each of them in its turn and at once, on both
/// doors, and clients of the balancer notice nothing.
#[test]
fn who_never_reads_loses_its_place_and_holds_up_nobody() {
    let _alone = alone();
    let backend = Backend::echo();
    let address = net::free_address();
    let body = listener("main", address, "main") + &pool("main", "", &[("only", backend.address)]);
    let (ringway, socket) = start(body);
    let mut stuck = UnixStream::connect(&socket).unwrap();
    stuck
        .write_all(b"GET /v1/events HTTP/1.1\r\nHost: r\r\n\r\n")
        .unwrap();
    let mut readers = [
        EventStream::open(ringway.admin(), None),
        EventStream::open_unix(&socket, None),
    ];
    until(seconds(5), "all are there", || {
        ringway.metric("ringway_event_streams") == 3.0
    });
    // Refused reloads, each with a long sentence: soon no socket holds what the one does not take.
    let faults: String = (0..80)
        .map(|n| format!("[[listener]]\nwrong_{n} = 1\n"))
        .collect();
    ringway.write_raw(&faults);
    undisturbed(address, || until_it_is_cut(&ringway, &mut readers));
}

fn until_it_is_cut(ringway: &Ringway, readers: &mut [EventStream]) {
    let (mut seen, mut told) = (None::<u64>, Vec::new());
    let began = Instant::now();
    loop {
        assert!(!ringway.reload());
        let asked = Instant::now();
        let mut number_seen = None;
        for reader in &mut *readers {
            let event = reader.next(seconds(5)).expect("its reload");
            assert_eq!(event.kind, "reload", "nothing is left out: {event:?}");
            let number = event.number();
            let is_next = seen.is_none_or(|before| number == before + 1);
            assert!(is_next, "{seen:?} then {number}");
            number_seen = Some(number);
        }
        seen = number_seen;
        told.push(asked.elapsed());
        if ringway.metric("ringway_event_streams") == 2.0 {
            break;
        }
        let passed = began.elapsed();
        assert!(
            passed < seconds(60),
            "it still has its place after {seen:?}"
        );
    }
    // It is not cut before it holds up something.
    assert!(began.elapsed() >= seconds(5), "{:?}", began.elapsed());
    told.sort();
    let late = told[told.len() * 99 / 100];
    assert!(
        late < Duration::from_millis(500),
        "p99 of an event's way {late:?}"
    );
    println!(
        "cut after {:?}, {} events, p99 of their way {late:?}",
        began.elapsed(),
        told.len()
    );
}
