//! What an operator sees and does: signals and draining, the admin pages, the demonstration.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::backends::Backend;
use support::greeted::{expect_reset, open, say};
use support::http;
use support::ringway::{PROGRAM, Ringway, Setup, run, single};
use support::wait::{seconds, until};
use support::{alone, namespace, net, process};

#[test]
fn a_signal_drains_and_the_last_session_ends_the_process() {
    for signal in ["TERM", "INT"] {
        let backend = Backend::named("a");
        let address = net::free_address();
        let mut ringway = Setup::new(single(address, backend.address))
            .global("workers = 2\npin = \"off\"\nshutdown_grace = \"60s\"\n")
            .start();
        let (mut stream, _) = open(address);
        ringway.signal(signal);
        until(seconds(5), "it no longer accepts", || {
            net::try_connect(address).is_err()
        });
        say(&mut stream, "still served");
        assert!(ringway.is_running());
        if let Ok((code, _)) = ringway.get("/readyz") {
            assert_eq!(code, 503);
        }
        drop(stream);
        assert_eq!(ringway.wait_exit(seconds(5)).code(), Some(0));
    }
}

#[test]
fn draining_closes_what_is_left_in_the_last_fifth_of_the_grace() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let mut ringway = Setup::new(single(address, backend.address))
        .global("workers = 1\npin = \"off\"\nshutdown_grace = \"3s\"\n")
        .start();
    let streams: Vec<_> = (0..20).map(|_| open(address).0).collect();
    ringway.signal("TERM");
    let began = Instant::now();
    let closed: Vec<_> = streams
        .into_iter()
        .map(|stream| {
            thread::spawn(move || {
                expect_reset(stream);
                began.elapsed()
            })
        })
        .collect();
    let mut closed: Vec<_> = closed
        .into_iter()
        .map(|t| t.join().expect("a reset"))
        .collect();
    closed.sort();
    assert!(
        closed[0] >= Duration::from_millis(2_300),
        "the first after {:?}",
        closed[0]
    );
    assert!(
        closed[19] <= Duration::from_millis(4_000),
        "the last after {:?}",
        closed[19]
    );
    assert!(
        closed[19] - closed[0] >= Duration::from_millis(250),
        "not spread: {closed:?}"
    );
    assert_eq!(ringway.wait_exit(seconds(5)).code(), Some(0));
}

#[test]
fn a_second_signal_cuts_at_once() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let mut ringway = Setup::new(single(address, backend.address))
        .global("workers = 2\npin = \"off\"\nshutdown_grace = \"300s\"\n")
        .start();
    let streams: Vec<_> = (0..10).map(|_| open(address).0).collect();
    ringway.signal("TERM");
    until(seconds(5), "it no longer accepts", || {
        net::try_connect(address).is_err()
    });
    ringway.signal("TERM");
    assert_eq!(ringway.wait_exit(seconds(5)).code(), Some(0));
    for stream in streams {
        expect_reset(stream);
    }
}

/// While `shutdown_delay` lasts, /readyz fails and clients are still served.
#[test]
fn shutdown_delay_lets_others_look_away_first() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let mut ringway = Setup::new(single(address, backend.address))
        .global(
            "workers = 1\npin = \"off\"\nshutdown_delay = \"1500ms\"\nshutdown_grace = \"2s\"\n",
        )
        .start();
    ringway.signal("TERM");
    let began = Instant::now();
    until(seconds(1), "/readyz fails", || {
        ringway.get("/readyz").is_ok_and(|(code, _)| code == 503)
    });
    open(address);
    assert!(
        began.elapsed() < Duration::from_millis(1_400),
        "too slow to tell"
    );
    assert_eq!(ringway.wait_exit(seconds(8)).code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(1_400));
}

#[test]
fn the_admin_pages() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let ringway = Ringway::start(single(address, backend.address));
    let (mut stream, _) = open(address);
    say(&mut stream, "1234");
    assert_eq!(ringway.get("/healthz").expect("GET").0, 200);
    assert_eq!(ringway.get("/readyz").expect("GET").0, 200);

    let metrics = ringway.metrics();
    for name in [
        "sessions_active",
        "sessions_total",
        "session_ends_total",
        "bytes_total",
        "spliced_bytes_total",
        "refused_total",
        "waiting",
        "wait_duration_seconds_bucket",
        "connect_duration_seconds_count",
        "session_duration_seconds_sum",
        "connect_attempts_total",
        "connect_failures_total",
        "retries_total",
        "backend_state",
        "backend_weight",
        "worker_busy_ratio",
        "cq_overflow_total",
        "reloads_total",
        "build_info",
    ] {
        assert!(metrics.has(&format!("ringway_{name}")), "no ringway_{name}");
    }
    // Counted when the kernel has answered, which may be after the client has read.
    until(seconds(5), "sessions and bytes are counted", || {
        let metrics = ringway.metrics();
        let bytes = |direction| {
            let labels = [("listener", "main"), ("direction", direction)];
            metrics.sum("ringway_bytes_total", &labels)
        };
        let active = metrics.sum("ringway_sessions_active", &[("listener", "main")]);
        (active, bytes("in"), bytes("out")) == (1.0, 5.0, 7.0)
    });
    let labels = [("pool", "main"), ("backend", "only"), ("state", "ready")];
    assert_eq!(metrics.sum("ringway_backend_state", &labels), 1.0);

    let accept = "application/openmetrics-text; version=1.0.0";
    let (_, text) = http::get_accepting(ringway.admin(), "/metrics", accept).expect("GET");
    assert!(text.trim_end().ends_with("# EOF"), "OpenMetrics on request");

    let status = ringway.status();
    assert_eq!(status["listeners"][0]["name"], "main", "{status}");
    assert_eq!(status["listeners"][0]["sessions"], 1, "{status}");
    assert_eq!(
        status["pools"][0]["backends"][0]["name"], "only",
        "{status}"
    );
    assert_eq!(
        status["pools"][0]["backends"][0]["admin"], "ready",
        "{status}"
    );
    assert_eq!(status["pools"][0]["backends"][0]["sessions"], 1, "{status}");
}

#[test]
fn version_check_and_bad_words() {
    let output = run(&["version"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    assert!(text.contains("kernel"), "{text}");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    let address = net::free_address();
    fs::write(&file, single(address, address)).expect("write");
    let path = file.to_string_lossy().into_owned();
    let output = run(&["check", "-c", &path]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("main") && text.contains("descriptors"),
        "{text}"
    );

    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
    let output = run(&["check", "-c", example]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// In a network of its own, since its addresses are what they are.
#[test]
fn the_example_runs_as_it_is() {
    if !namespace::inside("the_example_runs_as_it_is") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = fs::File::create(folder.path().join("stderr")).expect("a file");
    let mut child = Command::new(PROGRAM)
        .args([
            "run",
            "-c",
            concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml"),
        ])
        .env_remove("RUNTIME_DIRECTORY")
        .env_remove("XDG_RUNTIME_DIR")
        .stdin(Stdio::null())
        .stderr(file)
        .spawn()
        .expect("start the example");
    let admin = "127.0.0.1:9901".parse().expect("an address");
    until(seconds(20), "it answers", || {
        let ended = child.try_wait().expect("look after the child");
        let said = || fs::read_to_string(folder.path().join("stderr")).unwrap_or_default();
        assert!(ended.is_none(), "{ended:?}: {}", said());
        http::get(admin, "/healthz").is_ok_and(|(code, _)| code == 200)
    });
    // There is no database, so nobody is served, and readiness says so.
    until(seconds(20), "both backends are down", || {
        http::get(admin, "/readyz").is_ok_and(|(code, _)| code == 503)
    });
    let began = Instant::now();
    net::expect_turned_away("127.0.0.1:5433".parse().expect("an address"));
    assert!(began.elapsed() < seconds(10), "{:?}", began.elapsed());
    process::signal(child.id(), "TERM");
    let status = process::wait_exit(&mut child, seconds(10)).expect("an end");
    assert_eq!(status.code(), Some(0));
}

/// A live table within five seconds, a backend killed and revived before the user's eyes, and an end by itself.
#[test]
fn the_demonstration_runs_and_ends_by_itself() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let file = fs::File::create(folder.path().join("out")).expect("a file");
    let began = Instant::now();
    let mut child = Command::new(PROGRAM)
        .args(["demo", "--seconds", "3"])
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the demonstration");
    let text = || fs::read_to_string(folder.path().join("out")).unwrap_or_default();
    until(seconds(5), "a live table", || text().contains("requests"));
    let status = process::wait_exit(&mut child, seconds(15));
    let status = status.unwrap_or_else(|| {
        let _ = child.kill();
        panic!("the demonstration did not end: {}", text());
    });
    assert!(status.success(), "{status}: {}", text());
    assert!(
        began.elapsed() >= Duration::from_millis(2_900),
        "{:?}",
        began.elapsed()
    );
    let text = text();
    assert!(
        text.contains("http://127.0.0.1:"),
        "the admin address: {text}"
    );
    assert!(
        text.contains("killed"),
        "a backend dies before the user's eyes: {text}"
    );
    assert!(text.contains("down"), "and is seen to be down: {text}");
    assert!(
        text.contains("failures = 0"),
        "and nobody is harmed: {text}"
    );
    let answered = text.rsplit_once("datagrams = ").map(|(_, rest)| rest);
    let answered = answered.and_then(|rest| rest.split(',').next()?.parse::<u64>().ok());
    assert!(
        answered.is_some_and(|answered| answered > 100),
        "datagrams are answered, too: {text}"
    );
}
