//! Peers that fall silent without a word, as behind a cut cable: in a network of the test's own, the way to them is taken
//! through a device that swallows everything. Which of the kernel's clocks noticed decides how the session is said to
//! have ended.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::ended;
use super::support::backends::Backend;
use super::support::ringway::{Ringway, listener, pool};
use super::support::wait::{seconds, until};
use super::support::{namespace, net};

/// Clients that are cut off, and one that is not.
const CLIENT: [u8; 4] = [10, 66, 0, 1];
const STRANGER: [u8; 4] = [10, 66, 0, 5];
const BACKEND: &str = "10.66.0.3:6000";
/// Nothing is sent through this one.
const QUIET: &str = "10.66.0.3:6001";
/// One that is cut off.
const MUTE: &str = "10.66.0.4:6000";
/// Nobody was ever there.
const NOWHERE: &str = "10.66.0.9:6000";

/// From now on what is sent there gets nowhere, and no error comes back.
fn cut(address: &str) {
    namespace::ip(&format!("route del local {address} dev lo table local"));
    namespace::ip(&format!("route add {address}/32 dev hole"));
}

/// As before the cut: who ends its own listener must reach it.
fn mend(address: &str) {
    namespace::ip(&format!("route del {address}/32 dev hole"));
    namespace::ip(&format!("route add local {address} dev lo table local"));
}

/// A listener on this port that watches its clients in this way, before a backend.
fn watched(name: &str, port: u16, lines: &str, backend: &str, pool_lines: &str) -> String {
    let address: SocketAddr = format!("10.66.0.2:{port}").parse().unwrap();
    let backend = backend.parse().unwrap();
    let own = listener(name, address, name).replace("\n\n", &format!("\n{lines}\n\n"));
    let lines = format!("source = [\"10.66.0.2\"]\n{pool_lines}");
    own + &pool(name, &lines, &[("only", backend)])
}

fn client_of(port: u16, from: [u8; 4]) -> TcpStream {
    let address = format!("10.66.0.2:{port}").parse().unwrap();
    net::connect_with(Some(from.into()), address, 0).unwrap()
}

const OFF: &str = "keepalive = { idle = \"0s\" }";

#[test]
fn each_silence_has_its_own_end() {
    if !namespace::inside("silence::each_silence_has_its_own_end") {
        return;
    }
    namespace::ip("tuntap add mode tun name hole");
    namespace::ip("link set hole up");
    for host in 1..=5 {
        namespace::ip(&format!("addr add 10.66.0.{host}/32 dev lo"));
    }
    namespace::ip("route add 10.66.0.9/32 dev hole");
    // Give up after three retransmissions, not fifteen minutes.
    fs::write("/proc/sys/net/ipv4/tcp_retries2", "3").expect("a network of our own");
    let backend = Backend::hold_on(net::listen(BACKEND.parse().unwrap()));
    let quiet = Backend::hold_on(net::listen(QUIET.parse().unwrap()));
    let mute = Backend::hold_on(net::listen(MUTE.parse().unwrap()));
    let probes = "keepalive = { idle = \"1s\", interval = \"1s\", count = 1 }";
    let patience = format!("{OFF}\nuser_timeout = \"1s\"");
    let once = format!("{OFF}\nconnect_attempts = 1\nconnect_timeout = \"300ms\"");
    let body = watched("probed", 5001, probes, QUIET, OFF)
        + &watched("limited", 5002, &patience, BACKEND, OFF)
        + &watched("plain", 5003, OFF, BACKEND, OFF)
        + &watched("mute", 5004, OFF, MUTE, OFF)
        + &watched("probed-back", 5006, OFF, MUTE, probes)
        + &watched("limited-back", 5007, OFF, MUTE, &patience)
        + &watched("nowhere", 5005, OFF, NOWHERE, &once);
    let ringway = Ringway::start(body);

    let (_probed, _limited) = (client_of(5001, CLIENT), client_of(5002, CLIENT));
    let (_plain, mut talker) = (client_of(5003, CLIENT), client_of(5004, STRANGER));
    let (_probing, mut hasty) = (client_of(5006, STRANGER), client_of(5007, STRANGER));
    until(seconds(10), "all have their backends", || {
        (backend.accepted(), quiet.accepted(), mute.accepted()) == (2, 1, 3)
    });
    for address in ["10.66.0.1", "10.66.0.4"] {
        cut(address);
    }
    // What they are told from now on never arrives.
    for stream in backend.held() {
        (&*stream).write_all(b"are you there?").unwrap();
    }
    for stream in [&mut talker, &mut hasty] {
        stream.write_all(b"are you there?").unwrap();
    }
    let mut stranger = client_of(5005, STRANGER);
    for (name, end) in [
        ("probed", "keepalive"),
        ("limited", "user-timeout"),
        ("plain", "client-timeout"),
        ("mute", "backend-timeout"),
        ("probed-back", "keepalive"),
        ("limited-back", "user-timeout"),
        ("nowhere", "connect-timeout"),
    ] {
        until(seconds(20), &format!("{name} ends as {end}"), || {
            ended(&ringway, name, end) == 1.0
        });
    }
    let error = stranger.read(&mut [0; 1]).expect_err("no clean end");
    assert!(net::is_reset(&error), "{error}");
    mend("10.66.0.4");
}
