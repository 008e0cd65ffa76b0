//! What runs out on our own side is no backend's fault: neither its breaker nor its checks may say so.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::support::backends::{Backend, read_line};
use super::support::ringway::Ringway;
use super::support::wait::seconds;
use super::support::{namespace, net};
use super::{body, opens, start};

/// One failure would be enough, of traffic or of a check.
const TOUCHY: &str = "[pool.health]\nkind = \"tcp\"\ninterval = \"200ms\"\nfast_interval = \"50ms\"\nrise = 1\nfall = 1\n\
                      [pool.breaker]\nconsecutive_failures = 1\nopen = \"1h\"\nopen_max = \"1h\"\n";

fn checks(ringway: &Ringway, result: &str) -> f64 {
    let labels = [("result", result)];
    ringway.metrics().sum("ringway_check_total", &labels)
}

fn failures(ringway: &Ringway, reason: &str) -> f64 {
    let labels = [("reason", reason)];
    ringway
        .metrics()
        .sum("ringway_connect_failures_total", &labels)
}

#[track_caller]
fn assert_blameless(ringway: &Ringway) {
    assert_eq!(opens(ringway, "a") + opens(ringway, "b"), 0.0);
    let status = ringway.status();
    for place in 0..2 {
        let backend = &status["pools"][0]["backends"][place];
        assert_eq!(backend["health"], "up", "{backend:#}");
        let in_a_row = &backend["breaker"]["failures_in_a_row"];
        assert_eq!(in_a_row["connects"], 0, "{backend:#}");
    }
    let log = ringway.stderr();
    assert!(
        !log.contains(" is down") && !log.contains("is ejected"),
        "{log}"
    );
}

#[test]
fn without_a_local_port_no_backend_is_blamed() {
    if !namespace::inside("own::without_a_local_port_no_backend_is_blamed") {
        return;
    }
    let named = |port: u16, name: &str| {
        let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), port));
        Backend::named_on(net::listen(address), name)
    };
    let (a, b) = (named(6000, "a"), named(6001, "b"));
    let address: SocketAddr = "127.0.0.8:5000".parse().unwrap();
    let members = [("a", a.address), ("b", b.address)];
    let lines = "algorithm = \"round-robin\"\nwait = { size = 64, timeout = \"20s\" }";
    let ringway = Ringway::start(body(address, lines, TOUCHY, &members));
    ringway.wait_state("a", "up", seconds(5));
    ringway.wait_state("b", "up", seconds(5));
    let ports = |range: &str| {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("ports of our own");
    };
    ports("40000 40003");
    // Four towards each, and five more clients than that.
    let clients: Vec<TcpStream> = (0..13)
        .map(|n| net::from_port(20_000 + n, address))
        .collect();
    thread::sleep(Duration::from_millis(1_500));
    // Whoever looks needs a port, too.
    ports("41000 60000");
    let served = clients.iter().filter(|stream| read_line(*stream).is_ok());
    assert!(served.count() >= 8, "as many as there were ports");
    assert!(failures(&ringway, "ports") >= 1.0, "none ran out");
    assert!(checks(&ringway, "void") >= 1.0, "no check found none");
    assert_blameless(&ringway);
}

/// The lowest number that no descriptor has, after a moment in which a check may let go of one.
fn first_free(pid: u32) -> usize {
    thread::sleep(Duration::from_millis(20));
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors of a process");
    let names = folder.flatten().map(|entry| entry.file_name());
    let taken: Vec<usize> = names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect();
    (0..).find(|number| !taken.contains(number)).unwrap()
}

#[test]
fn without_a_descriptor_no_backend_is_blamed() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let lines = "algorithm = \"round-robin\"\nwait = { size = 64, timeout = \"20s\" }";
    let (ringway, address) = start(1, lines, TOUCHY, &[("a", a.address), ("b", b.address)]);
    ringway.wait_state("a", "up", seconds(5));
    ringway.wait_state("b", "up", seconds(5));
    let allow = |most: usize| {
        let done = Command::new("prlimit")
            .args(["--pid", &ringway.pid().to_string()])
            .arg(format!("--nofile={most}:"))
            .status()
            .expect("prlimit (Debian: util-linux)");
        assert!(done.success());
    };
    let open = (0..20).map(|_| first_free(ringway.pid())).min().unwrap();
    // Accepting goes on for a while: its limit is that of when it was armed. Nothing else is opened.
    allow(open);
    let clients: Vec<TcpStream> = (0..6).map(|_| net::connect(address)).collect();
    thread::sleep(Duration::from_millis(1_500));
    allow(open + 1_000);
    drop(clients);
    assert!(failures(&ringway, "resources") >= 1.0, "none ran out");
    for _ in 0..4 {
        read_line(net::connect(address)).expect("served again");
    }
    assert!(checks(&ringway, "void") >= 1.0, "no check found none");
    assert_blameless(&ringway);
}

/// Each client has said that it is done before its backend resets it: whose fault that is nobody knows.
#[test]
fn who_has_ended_itself_blames_nobody() {
    let ends = |name: &'static str| {
        Backend::serve(move |mut stream| {
            let mut said = Vec::new();
            stream.read_to_end(&mut said)?;
            if said.is_empty() {
                writeln!(&mut stream, "{name}")?;
            } else {
                net::will_reset(stream);
            }
            Ok(())
        })
    };
    let (a, b) = (ends("a"), ends("b"));
    let tables = super::breaker("consecutive_failures = 3\nopen = \"1h\"\nopen_max = \"1h\"");
    let members = [("a", a.address), ("b", b.address)];
    let (ringway, address) = start(1, super::TURNS, &tables, &members);
    for n in 0..30 {
        let source = Ipv4Addr::new(127, 0, 1, 10 + n);
        let mut stream = net::connect_with(Some(source), address, 0).unwrap();
        stream.write_all(b"and out\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(read_line(&stream).is_err(), "it is reset");
    }
    ringway.wait_empty();
    assert_eq!(opens(&ringway, "a") + opens(&ringway, "b"), 0.0);
    assert_eq!(ringway.metric("ringway_early_resets_total"), 0.0);
}
