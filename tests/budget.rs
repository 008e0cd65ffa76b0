//! What is left of ports and descriptors: told in a metric all the time, and in a line before none is left.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use support::backends::{Backend, read_line};
use support::ringway::{Ringway, listener, pool, single};
use support::wait::{seconds, until};
use support::{namespace, net, process};

fn left(ringway: &Ringway, resource: &str) -> f64 {
    let labels = [("resource", resource)];
    ringway.metrics().sum("ringway_headroom_ratio", &labels)
}

fn alarms(ringway: &Ringway, part: &str) -> Vec<String> {
    let log = ringway.stderr();
    let lines = log.lines().filter(|line| line.contains(part));
    lines.map(str::to_owned).collect()
}

/// Greeted, from a port that the kernel would not give to us: those few are for the balancer.
fn greeted_from(port: u16, address: SocketAddr) -> TcpStream {
    let stream = net::from_port(port, address);
    assert_eq!(read_line(&stream).unwrap(), "a");
    stream
}

#[test]
fn local_ports_that_run_low_are_an_alarm_once() {
    if !namespace::inside("local_ports_that_run_low_are_an_alarm_once") {
        return;
    }
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40099").unwrap();
    let backend = Backend::named_on(net::listen("127.0.0.9:6000".parse().unwrap()), "a");
    let address: SocketAddr = "127.0.0.8:5000".parse().unwrap();
    let lines = "source = [\"127.0.0.7\"]";
    let body = listener("main", address, "main") + &pool("main", lines, &[("a", backend.address)]);
    let ringway = Ringway::start(body);
    let at_start = alarms(&ringway, "there are 100 local ports towards it");
    assert_eq!(at_start.len(), 1, "{}", ringway.stderr());
    assert!(
        at_start[0].contains("backend main/a may get "),
        "{at_start:?}"
    );
    until(seconds(5), "they are counted", || {
        thread::sleep(Duration::from_millis(200));
        left(&ringway, "ports") > 0.98
    });

    let alarm = "local ports towards it are in use";
    let mut held: Vec<TcpStream> = (0..85).map(|n| greeted_from(20_000 + n, address)).collect();
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(alarms(&ringway, alarm), [""; 0], "15 of 100 are left");
    held.extend((85..95).map(|n| greeted_from(20_000 + n, address)));
    until(seconds(5), "an alarm", || {
        !alarms(&ringway, alarm).is_empty()
    });
    let share = left(&ringway, "ports");
    assert!((0.04..0.1).contains(&share), "{share}");
    // It is looked at again with each that comes, and not said again.
    for n in 95..98 {
        held.push(greeted_from(20_000 + n, address));
        thread::sleep(Duration::from_millis(1_100));
    }
    let said = alarms(&ringway, alarm);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("backend main/a: 9")
            && said[0]
                .contains("more addresses in pool.source or a wider net.ipv4.ip_local_port_range"),
        "{said:?}"
    );
    drop(held);
    ringway.wait_empty();
    until(seconds(5), "they are free again", || {
        thread::sleep(Duration::from_millis(200));
        left(&ringway, "ports") > 0.98
    });
}

#[test]
fn descriptors_that_run_low_are_an_alarm_once() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let ringway = Ringway::start(single(address, backend.address));
    until(seconds(5), "they are counted", || {
        left(&ringway, "descriptors") > 0.9
    });
    let open = process::settled_descriptors(ringway.pid()).all;
    let most = open + 200;
    let done = Command::new("prlimit")
        .args(["--pid", &ringway.pid().to_string()])
        .arg(format!("--nofile={most}:"))
        .status()
        .expect("prlimit (Debian: util-linux)");
    assert!(done.success());
    let alarm = "descriptors are in use";
    let open_session = || {
        let stream = net::connect(address);
        assert_eq!(read_line(&stream).unwrap(), "a");
        stream
    };
    // Each takes two.
    let mut held: Vec<TcpStream> = (0..70).map(|_| open_session()).collect();
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(alarms(&ringway, alarm), [""; 0], "60 and more are left");
    held.extend((70..95).map(|_| open_session()));
    until(seconds(5), "an alarm", || {
        !alarms(&ringway, alarm).is_empty()
    });
    let share = left(&ringway, "descriptors");
    assert!(share < 0.1, "{share}");
    held.push(open_session());
    thread::sleep(Duration::from_millis(1_500));
    let said = alarms(&ringway, alarm);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains(&format!(
            " of {most} descriptors are in use: raise LimitNOFILE="
        )),
        "{said:?}"
    );
    drop(held);
    ringway.wait_empty();
    until(seconds(5), "they are free again", || {
        left(&ringway, "descriptors") > 0.4
    });
}
