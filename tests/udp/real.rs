//! Real clients and servers of datagrams: dnsperf with two NSDs, one of which dies or falls silent halfway, and iperf3.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::support::checked_servers::nsd;
use super::support::ringway::{Ringway, Setup, listener, pool, pool_with};
use super::support::servers::{Iperf, Server, program};
use super::support::wait::seconds;
use super::support::{alone, net, process, soak};
use super::{drops, udp_listener};

/// Checks that find a silent server within 0.9 s: the longest interval, its jitter, and two that run out of time.
const DNS: &str = "[pool.health]\nkind = \"dns\"\nquery = \"www.example.test A\"\ninterval = \"200ms\"\n\
                   fast_interval = \"100ms\"\ntimeout = \"200ms\"\nrise = 2\nfall = 2\n\
                   [pool.udp]\nresponses = 0\n";
const QUESTIONS_A_SECOND: u32 = 2_000;

/// What dnsperf counted.
#[derive(Debug)]
struct Tally {
    sent: f64,
    completed: f64,
    lost: f64,
}

/// Twenty clients of dnsperf, which each have many questions under way at a time.
fn dnsperf(to: SocketAddr, folder: &Path, length: u64) -> std::thread::JoinHandle<Tally> {
    let questions = folder.join("questions");
    let text =
        "www.example.test A\nns.example.test A\nnobody.example.test AAAA\nexample.test SOA\n";
    fs::write(&questions, text).unwrap();
    let mut command = Command::new(program("dnsperf", "dnsperf"));
    command.args(["-s", &to.ip().to_string(), "-p", &to.port().to_string()]);
    command.args([
        "-a",
        &net::host().to_string(),
        "-c",
        "20",
        "-t",
        "1",
        "-q",
        "5000",
    ]);
    command.args([
        "-Q",
        &QUESTIONS_A_SECOND.to_string(),
        "-l",
        &length.to_string(),
    ]);
    command.arg("-d").arg(&questions).stderr(Stdio::null());
    std::thread::spawn(move || {
        let output = command.stdin(Stdio::null()).output().expect("run dnsperf");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = |name: &str| {
            let line = text.lines().find(|line| line.contains(name));
            let word = line.and_then(|line| line.split(':').nth(1)?.split_whitespace().next());
            word.and_then(|word| word.parse().ok())
                .unwrap_or_else(|| panic!("no {name} in dnsperf's report:\n{text}"))
        };
        Tally {
            sent: number("Queries sent"),
            completed: number("Queries completed"),
            lost: number("Queries lost"),
        }
    })
}

struct Servers {
    ringway: Ringway,
    front: SocketAddr,
    folders: [tempfile::TempDir; 2],
    servers: [Server; 2],
}

fn two_servers() -> Servers {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let addresses = [net::free_address(), net::free_address()];
    let servers = [0, 1].map(|n| nsd(addresses[n], folders[n].path()));
    let front = net::free_address();
    let backends = [
        ("one", addresses[0].to_string(), ""),
        ("two", addresses[1].to_string(), ""),
    ];
    let text = udp_listener("front", front, "p")
        + &pool_with("p", "algorithm = \"round-robin\"", DNS, &backends);
    let ringway = Setup::new(text).start();
    ringway.wait_state("one", "up", seconds(20));
    ringway.wait_state("two", "up", seconds(20));
    Servers {
        ringway,
        front,
        folders,
        servers,
    }
}

/// A server and all processes that it has started.
fn family(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    let children = text.split_whitespace().filter_map(|word| word.parse().ok());
    let mut all = vec![pid];
    children.for_each(|child| all.extend(family(child)));
    all
}

/// Ends or stops one of two servers while dnsperf asks, and tells what that cost.
fn lose_one(signal: &str) -> (Tally, Duration) {
    let length = if soak() { 20 } else { 4 };
    let setting = two_servers();
    let asking = dnsperf(setting.front, setting.folders[0].path(), length);
    std::thread::sleep(Duration::from_secs(length / 2));
    let lost_at = Instant::now();
    let pids = family(setting.servers[0].pid());
    pids.iter().for_each(|&pid| process::signal(pid, signal));
    setting.ringway.wait_state("one", "down", seconds(20));
    let found = lost_at.elapsed();
    let tally = asking.join().expect("dnsperf");
    if signal == "STOP" {
        pids.iter().for_each(|&pid| process::signal(pid, "CONT"));
    }
    println!(
        "{signal}: found after {} ms; of {} questions {} were answered, {} lost",
        found.as_millis(),
        tally.sent,
        tally.completed,
        tally.lost
    );
    (tally, found)
}

/// Its host says that the port is closed, and each flow moves with its next datagram: nobody waits for the checks.
#[test]
fn dnsperf_loses_little_when_a_server_dies() {
    let _alone = alone();
    let (tally, _) = lose_one("KILL");
    assert!(tally.sent > 2_000.0, "{tally:?}");
    // Ten flows were there, each with what it had under way: a few milliseconds' worth.
    assert!(tally.lost <= 100.0, "{tally:?}");
}

/// Nobody says anything, so what goes to it until the checks have found it is lost, and nothing more.
#[test]
fn dnsperf_loses_what_the_detection_takes_when_a_server_falls_silent() {
    let _alone = alone();
    let (tally, found) = lose_one("STOP");
    assert!(tally.sent > 2_000.0, "{tally:?}");
    let half_a_second = f64::from(QUESTIONS_A_SECOND) / 2.0;
    let most = half_a_second * (found.as_secs_f64() + 0.1);
    assert!(tally.lost <= most, "{tally:?}, at most {most}");
    assert!(found < Duration::from_millis(2_500), "{found:?}");
}

/// iperf3 wants its control connection at the same address: a listener for each protocol there.
#[test]
fn iperf3_sends_datagrams_both_ways() {
    let _alone = alone();
    let iperf = Iperf::start();
    let front = net::free_address();
    let text = listener("control", front, "p")
        + &udp_listener("front", front, "p")
        + &pool("p", "", &[("iperf", iperf.address)]);
    let ringway = Setup::new(text).start();
    let length = if soak() { "20" } else { "2" };
    for direction in [&[][..], &["-R"], &["-P", "4"]] {
        let mut arguments = vec!["-u", "-b", "20M", "-l", "1200", "-t", length];
        arguments.extend(direction);
        let report = Iperf::client(front, &arguments);
        let sum = &report["end"]["sum"];
        let number = |key: &str| sum[key].as_f64().unwrap_or(f64::NAN);
        let (packets, lost) = (number("packets"), number("lost_packets"));
        println!("iperf3 -u {direction:?}: {packets} datagrams, {lost} lost");
        // 2,083 a second and stream.
        assert!(packets > 3_000.0, "{sum}");
        assert!(lost <= packets / 1_000.0, "{sum}");
    }
    assert_eq!(drops(&ringway, "socket-full"), 0.0);
}
