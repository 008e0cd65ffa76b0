//! Every kind that reads a stream, against servers that do not do what a server should: each is down by the check's
//! deadline, with the right result, and nothing hangs, grows or floods the log.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::support::backends::Backend;
use super::support::{net, process};
use super::{SOON, backend_of, found, setup, wait_for_pool};

const KINDS: [(&str, &str); 3] = [
    ("redis", "kind = \"redis\""),
    ("http", "kind = \"http\""),
    (
        "steps",
        "kind = \"send-expect\"\nstep = [{ send = \"PING\\r\\n\", expect = \"+PONG\" }]",
    ),
];

const TIMEOUT_MS: u64 = 300;

/// Says nothing until the other side is gone.
fn wait(stream: &TcpStream) -> io::Result<()> {
    let mut byte = [0];
    loop {
        if io::Read::read(&mut &*stream, &mut byte)? == 0 {
            return Ok(());
        }
    }
}

/// One byte at a time, for ever.
fn drip(mut stream: &TcpStream, bytes: &'static [u8]) -> io::Result<()> {
    for byte in bytes.iter().cycle() {
        stream.write_all(&[*byte])?;
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn endless(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let block = bytes.repeat(1 + 4096 / bytes.len());
    loop {
        stream.write_all(&block)?;
    }
}

#[test]
fn no_server_keeps_a_check_beyond_its_deadline() {
    let servers: Vec<(&str, Backend, [&str; 3])> = vec![
        ("silent", Backend::serve(wait), ["check timeout"; 3]),
        (
            "garbage",
            Backend::serve(|mut stream| {
                stream.write_all(b"\x00\xff\x16\x03nonsense")?;
                wait(stream)
            }),
            [
                "check failed: this is not Redis: ....nonsense",
                "check failed: this is not HTTP/1: ....nonsense",
                "check failed: unexpected answer: ....nonsense",
            ],
        ),
        (
            // The beginning of an answer that never ends, for each kind in turn.
            "drip",
            Backend::serve(|stream| drip(stream, b"+")),
            [
                "check timeout",
                "check failed: this is not HTTP/1",
                "check failed: unexpected answer: ++++",
            ],
        ),
        (
            "drip-http",
            Backend::serve(|stream| drip(stream, b"HTTP/1.1 200 OK\r\nA: ")),
            [
                "check failed: this is not Redis",
                "check",
                "check failed: unexpected answer: HTTP/1.1 200",
            ],
        ),
        (
            "endless",
            Backend::serve(|stream| endless(stream, b"+OK, and so on and so on ")),
            [
                "check failed: this is not Redis",
                "check failed: this is not HTTP/1",
                "check failed: unexpected answer: +OK, and",
            ],
        ),
        (
            "half",
            Backend::serve(|mut stream| stream.write_all(b"+PON")),
            [
                "check closed",
                "check failed: this is not HTTP/1: +PON",
                "check failed: unexpected answer: +PON",
            ],
        ),
        ("closes", Backend::serve(|_| Ok(())), ["check"; 3]),
        (
            "resets",
            Backend::serve(|stream| {
                net::will_reset(stream);
                Ok(())
            }),
            ["check"; 3],
        ),
    ];
    let mut pools = Vec::new();
    for (server, backend, reasons) in &servers {
        for ((kind, lines), reason) in KINDS.iter().zip(reasons) {
            let health = format!(
                "interval = \"100ms\"\nfast_interval = \"100ms\"\ntimeout = \"{TIMEOUT_MS}ms\"\nfall = 2\n{lines}"
            );
            pools.push((
                format!("{kind}-{server}"),
                health,
                backend.address.to_string(),
                *reason,
            ));
        }
    }
    let tables: Vec<_> = pools
        .iter()
        .map(|(name, health, address, _)| (&**name, &**health, address.clone()))
        .collect();
    let ringway = setup(&tables).start_unready();
    for (number, (_, _, _, reason)) in pools.iter().enumerate() {
        wait_for_pool(&ringway, number, "down", reason);
    }
    assert_eq!(found(&ringway, "ok"), 0.0);
    // A check that was served late is void; all others ended in time.
    for number in 0..pools.len() {
        let last = &backend_of(&ringway, number)["last_check"];
        if last["result"] != "void" {
            let took_ms = last["took_ms"].as_f64().unwrap();
            assert!(took_ms < TIMEOUT_MS as f64 + 150.0, "{last:#}");
        }
    }
    // However often they fail: a line when a cause is new, and none again within the minute.
    let checks = || {
        ["timeout", "failed", "closed", "reset"]
            .iter()
            .map(|word| found(&ringway, word))
            .sum::<f64>()
    };
    let before = checks();
    super::until(SOON, "many more failures", || {
        checks() > before + 10.0 * pools.len() as f64
    });
    let log = ringway.stderr();
    for (name, ..) in &pools {
        let lines = log
            .lines()
            .filter(|line| line.contains(&format!("{name}/b")))
            .count();
        // Going down, and the few causes that one server shows (a close may be seen as a reset).
        assert!((1..=5).contains(&lines), "{lines} lines of {name}:\n{log}");
    }
}

#[test]
fn a_thousand_failed_checks_leave_nothing_behind() {
    let silent = Backend::serve(wait);
    let quick = "interval = \"20ms\"\nfast_interval = \"20ms\"\ntimeout = \"20ms\"\nfall = 2\n";
    let tables: Vec<_> = KINDS
        .iter()
        .map(|(kind, lines)| (*kind, format!("{quick}{lines}"), silent.address.to_string()))
        .collect();
    let tables: Vec<_> = tables
        .iter()
        .map(|(kind, health, address)| (*kind, &**health, address.clone()))
        .collect();
    let ringway = setup(&tables).start_unready();
    let failures = || found(&ringway, "timeout") + found(&ringway, "void");
    super::until(SOON, "the first failures", || failures() > 50.0);
    let before = process::settled_descriptors(ringway.pid());
    super::until(Duration::from_secs(60), "some hundred failures", || {
        failures() > 500.0
    });
    let began = Instant::now();
    loop {
        let after = process::settled_descriptors(ringway.pid());
        if after.sockets <= before.sockets + 3 {
            break;
        }
        assert!(began.elapsed() < SOON, "{after:?}, before {before:?}");
    }
    // The servers' ends are let go, too: no connection outlives its check.
    super::until(SOON, "no check is left hanging", || silent.active() < 10);
}
