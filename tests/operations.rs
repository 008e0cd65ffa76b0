//! What an operator sees and does: signals and draining, the access log, the admin pages, clients that wait, the
//! demonstration.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{PipeReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::backends::{Backend, read_line};
use support::http;
use support::ringway::{PROGRAM, Ringway, Setup, run, single};
use support::wait::{seconds, until, within};
use support::{alone, net, process};

fn open(address: SocketAddr) -> (TcpStream, String) {
    let stream = net::connect(address);
    let name = read_line(&stream).expect("the backend's name");
    (stream, name)
}

fn say(stream: &mut TcpStream, text: &str) {
    writeln!(stream, "{text}").expect("send");
    assert_eq!(read_line(&*stream).expect("echo"), text);
}

#[track_caller]
fn expect_reset(mut stream: TcpStream) {
    let error = stream.read(&mut [0; 1]).expect_err("no clean end");
    assert!(net::is_reset(&error), "{error}");
}

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

const KEYS: [&str; 15] = [
    "time",
    "id",
    "listener",
    "client",
    "pool",
    "backend",
    "attempts",
    "wait_ms",
    "connect_ms",
    "duration_ms",
    "bytes_in",
    "bytes_out",
    "end",
    "rtt_us",
    "retrans",
];

/// One session of each kind of end; returns the end codes in order.
fn known_ends(address: SocketAddr) -> Vec<&'static str> {
    let (mut stream, _) = open(address);
    say(&mut stream, "12345");
    stream.shutdown(Shutdown::Write).expect("half-close");
    stream.read_to_end(&mut Vec::new()).expect("the end");
    drop(stream);

    let (stream, _) = open(address);
    net::reset(stream);

    let (mut stream, _) = open(address);
    stream.write_all(b"close\n").expect("send");
    stream
        .read_to_end(&mut Vec::new())
        .expect("the backend's end");
    drop(stream);

    let (mut stream, _) = open(address);
    stream.write_all(b"reset\n").expect("send");
    expect_reset(stream);
    vec!["client-fin", "client-reset", "backend-fin", "backend-reset"]
}

/// Greets, then echoes lines; obeys `close` and `reset`.
fn obedient() -> Backend {
    Backend::serve(|mut stream| {
        stream.write_all(b"a\n")?;
        loop {
            match read_line(stream)?.as_str() {
                "close" => return Ok(()),
                "reset" => {
                    net::will_reset(stream);
                    return Ok(());
                }
                line => writeln!(stream, "{line}")?,
            }
        }
    })
}

/// The finished sessions' fields, once `count` lines are there.
fn log_lines(ringway: &Ringway, count: usize, read: impl Fn(&Ringway) -> String) -> Vec<String> {
    within(seconds(5), "the lines of the access log", || {
        let text = read(ringway);
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.contains("bytes_in"))
            .collect();
        assert!(lines.len() <= count, "too many lines: {text}");
        (lines.len() == count && text.ends_with('\n'))
            .then(|| lines.into_iter().map(String::from).collect())
    })
}

fn check_fields(fields: &BTreeMap<String, String>, ends: &mut Vec<&str>) {
    for key in KEYS {
        assert!(fields.contains_key(key), "no {key} in {fields:?}");
    }
    assert_eq!(fields["listener"], "main");
    assert_eq!(fields["pool"], "main");
    assert_eq!(fields["backend"], "only");
    assert_eq!(fields["attempts"], "1");
    assert!(fields["client"].starts_with("127."), "{fields:?}");
    let decimals = fields["duration_ms"]
        .split_once('.')
        .expect("a decimal point")
        .1;
    assert_eq!(decimals.len(), 3, "{fields:?}");
    let at = ends.iter().position(|end| *end == fields["end"]);
    let end = ends.remove(at.unwrap_or_else(|| panic!("unexpected end in {fields:?}")));
    let bytes = (fields["bytes_in"].as_str(), fields["bytes_out"].as_str());
    let expected = match end {
        "client-fin" => ("6", "8"),
        "client-reset" => ("0", "2"),
        _ => ("6", "2"),
    };
    assert_eq!(bytes, expected, "{fields:?}");
}

#[test]
fn the_access_log_as_text_survives_rotation() {
    let backend = obedient();
    let address = net::free_address();
    let folder = tempfile::tempdir().expect("a folder");
    let (file, rotated) = (
        folder.path().join("access.log"),
        folder.path().join("old.log"),
    );
    let ringway = Setup::new(single(address, backend.address))
        .global(format!(
            "workers = 1\npin = \"off\"\nshutdown_grace = \"2s\"\naccess_log = \"{}\"\n",
            file.display()
        ))
        .start();
    for round in 0..2 {
        let mut ends = known_ends(address);
        let lines = log_lines(&ringway, 4, |_| {
            fs::read_to_string(&file).unwrap_or_default()
        });
        for line in lines {
            let fields = line.split(' ').map(|field| {
                let (key, value) = field.split_once('=').unwrap_or_else(|| panic!("{line}"));
                (key.to_string(), value.to_string())
            });
            check_fields(&fields.collect(), &mut ends);
        }
        assert!(ends.is_empty(), "not seen: {ends:?}");
        if round == 0 {
            fs::rename(&file, &rotated).expect("rotate");
            ringway.signal("USR1");
            until(seconds(5), "a new file is there", || file.exists());
        }
    }
}

#[test]
fn the_access_log_as_json_on_stdout() {
    let backend = obedient();
    let address = net::free_address();
    let ringway = Setup::new(single(address, backend.address))
        .global(
            "workers = 2\npin = \"off\"\nshutdown_grace = \"2s\"\n\
             access_log = \"stdout\"\naccess_log_format = \"json\"\n",
        )
        .start();
    let mut ends = known_ends(address);
    for line in log_lines(&ringway, 4, Ringway::stdout) {
        let object: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(
            object["bytes_in"].is_number() && object["end"].is_string(),
            "{line}"
        );
        let fields = object.into_iter().map(|(key, value)| match value {
            serde_json::Value::String(text) => (key, text),
            // Numbers as they stand in the line: three decimals may not get lost.
            other if key.ends_with("_ms") => {
                let from = line.find(&format!("\"{key}\":")).expect("the key") + key.len() + 3;
                let rest = &line[from..];
                let end = rest.find([',', '}']).expect("the value's end");
                let _ = other;
                (key, rest[..end].to_string())
            }
            other => (key, other.to_string()),
        });
        check_fields(&fields.collect(), &mut ends);
    }
    assert!(ends.is_empty(), "not seen: {ends:?}");
}

/// The log's own trouble never stops traffic.
#[test]
fn a_log_that_cannot_be_written_does_not_stop_traffic() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let ringway = Setup::new(single(address, backend.address))
        .global("workers = 1\npin = \"off\"\nshutdown_grace = \"2s\"\naccess_log = \"/dev/full\"\n")
        .start();
    for _ in 0..200 {
        open(address);
    }
    until(seconds(5), "lost lines are counted", || {
        ringway.metric("ringway_access_log_lines_lost_total") >= 1.0
    });
}

/// A session that lasts is seen before its end, where that is asked for.
#[test]
fn long_sessions_are_logged_while_they_last() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let ringway = Setup::new(single(address, backend.address))
        .global(
            "workers = 1\npin = \"off\"\nshutdown_grace = \"2s\"\naccess_log = \"stdout\"\nlog_interval = \"1s\"\n",
        )
        .start();
    let began = Instant::now();
    let (mut stream, _) = open(address);
    say(&mut stream, "hello");
    let events = || -> Vec<String> {
        let text = ringway.stdout();
        let lines = text.lines().filter(|line| line.contains(" event="));
        lines.map(str::to_owned).collect()
    };
    let progress = |events: &[String]| events.iter().filter(|l| l.contains("=progress ")).count();
    until(seconds(10), "two reports of progress", || {
        progress(&events()) >= 2
    });
    assert!(began.elapsed() >= seconds(2), "sooner than asked for");
    stream.shutdown(Shutdown::Write).expect("half-close");
    stream.read_to_end(&mut Vec::new()).expect("the end");
    until(seconds(5), "its end", || {
        events().iter().any(|l| l.contains(" event=end "))
    });
    let events = events();
    let id = |line: &str| {
        line.split(' ')
            .find(|f| f.starts_with("id="))
            .map(str::to_owned)
    };
    assert!(
        events.iter().all(|line| id(line) == id(&events[0])),
        "{events:?}"
    );
    assert!(events[0].contains(" event=start ") && events[0].contains(" backend=- "));
    assert!(events[1].contains(" event=connect ") && events[1].contains(" backend=only "));
    assert!(
        events[2].contains(" bytes_in=6 bytes_out=8 end=- "),
        "{events:?}"
    );
    assert!(
        events
            .last()
            .is_some_and(|line| line.contains(" end=client-fin "))
    );
}

/// A pipe that nobody reads, as small as they come.
fn stalled() -> (PipeReader, fs::File) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // SAFETY: F_SETPIPE_SZ takes one integer and touches no memory of this process.
    let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    assert!(size > 0);
    (reader, fs::File::from(OwnedFd::from(writer)))
}

/// Readers of standard output and standard error that stall hold up nobody, and what they miss is counted.
#[test]
fn a_log_that_nobody_reads_does_not_stop_anything() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let ((_out, stdout), (_err, stderr)) = (stalled(), stalled());
    let mut ringway = Setup::new(single(address, backend.address))
        .global("workers = 1\npin = \"off\"\nshutdown_grace = \"2s\"\naccess_log = \"stdout\"\n")
        .stdout(stdout)
        .stderr(stderr)
        .start();
    // More lines than the journal of a worker, the pipe and the scribe's hands hold.
    let enough = 12_000;
    let clients = (0..4).map(|_| {
        thread::spawn(move || {
            for _ in 0..enough / 4 {
                net::reset(open(address).0);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    clients
        .into_iter()
        .for_each(|client| client.join().expect("served"));
    until(seconds(20), "lost lines are counted", || {
        ringway.metric("ringway_access_log_lines_lost_total") >= 1.0
    });
    // Each refusal is a line of the process's own log.
    ringway.write_raw("nonsense = ");
    for _ in 0..60 {
        assert!(!ringway.reload());
    }
    open(address);
    ringway.signal("TERM");
    assert_eq!(ringway.wait_exit(seconds(10)).code(), Some(0));
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
