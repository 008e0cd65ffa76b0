//! PROXY headers ahead of datagrams: who gets one and how it reads (by another reader of the protocol), what is too long
//! with it, and a real server that goes by it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use ppp::v2::{Addresses, Command as Said, Header, Protocol};

use super::support::datagrams::{ask, client, roomy, send_joined};
use super::support::ringway::{Ringway, Setup, pool_with};
use super::support::servers::{Server, program};
use super::support::wait::{seconds, until};
use super::support::{alone, net};
use super::{drops, pattern_bytes, udp_listener};

const FIRST: &str = "send_proxy = \"v2\"\nalgorithm = \"round-robin\"";
const EVERY: &str = "[pool.udp]\nsend_proxy_every = true\n";
const UNCHECKED: &str = "[pool.health]\nkind = \"none\"\n";

fn start(front: SocketAddr, tables: &str, backends: &[&UdpSocket]) -> Ringway {
    let named: Vec<_> = backends
        .iter()
        .enumerate()
        .map(|(n, socket)| (format!("b{n}"), socket.local_addr().unwrap().to_string()))
        .collect();
    let named: Vec<_> = named
        .iter()
        .map(|(name, address)| (&**name, address.clone(), ""))
        .collect();
    let text = udp_listener("front", front, "p")
        + &pool_with("p", FIRST, &format!("{UNCHECKED}{tables}"), &named);
    Setup::new(text).start()
}

fn server() -> UdpSocket {
    server_at(net::free_address())
}

fn server_at(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    roomy(&socket);
    socket.set_read_timeout(Some(net::PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(length);
    (buffer, from)
}

/// Source and destination of the header, and what follows it.
fn announced(datagram: &[u8]) -> (SocketAddr, SocketAddr, &[u8]) {
    let header = Header::try_from(datagram)
        .unwrap_or_else(|error| panic!("no header: {error:?} in {datagram:?}"));
    assert_eq!(header.command, Said::Proxy);
    assert_eq!(header.protocol, Protocol::Datagram);
    let (source, destination) = match header.addresses {
        Addresses::IPv4(it) => (
            SocketAddr::from((it.source_address, it.source_port)),
            SocketAddr::from((it.destination_address, it.destination_port)),
        ),
        Addresses::IPv6(it) => (
            SocketAddr::from((it.source_address, it.source_port)),
            SocketAddr::from((it.destination_address, it.destination_port)),
        ),
        other => panic!("{other:?}"),
    };
    (source, destination, &datagram[header.len()..])
}

/// Bursts of equal datagrams.
const BURSTS: [(usize, u64); 6] = [
    (1, 40),
    (0, 3),
    (900, 64),
    (1_200, 50),
    (1_472, 30),
    (20_000, 3),
];

/// Sends so many datagrams of this size, if it can be in one call, so that they come to us together.
fn send_burst(socket: &UdpSocket, size: usize, numbers: std::ops::Range<u64>) {
    let datagrams: Vec<_> = numbers.map(|n| pattern_bytes(n, size)).collect();
    if size > 0 && datagrams.len() * size <= 65_507 {
        send_joined(socket, &datagrams);
    } else {
        datagrams.iter().for_each(|datagram| {
            socket.send(datagram).unwrap();
        });
    }
}

#[test]
fn a_flow_is_announced_with_its_first_datagram() {
    let _alone = alone();
    for (size, count) in BURSTS {
        let (backend, front) = (server(), net::free_address());
        let ringway = start(front, "", &[&backend]);
        let socket = client(front);
        for round in 0..2 {
            send_burst(&socket, size, round << 8..(round << 8) + count);
            for n in 0..count {
                let (came, from) = receive(&backend);
                let payload = match (round, n) {
                    (0, 0) => {
                        let (source, destination, payload) = announced(&came);
                        assert_eq!((source, destination), (socket.local_addr().unwrap(), front));
                        payload
                    }
                    _ => &came[..],
                };
                assert!(
                    payload == pattern_bytes(round << 8 | n, size),
                    "{size}: {n}"
                );
                backend.send_to(payload, from).unwrap();
            }
            for n in 0..count {
                assert!(receive(&socket).0 == pattern_bytes(round << 8 | n, size));
            }
        }
        assert_eq!(ringway.metric("ringway_udp_drops_total"), 0.0);
    }
}

#[test]
fn every_datagram_is_announced_where_that_is_wanted() {
    let _alone = alone();
    let (backend, front) = (server(), net::free_address());
    let ringway = start(front, EVERY, &[&backend]);
    let socket = client(front);
    let mut sent = 0.0;
    for (size, count) in BURSTS {
        send_burst(&socket, size, 0..count);
        sent += count as f64;
        for n in 0..count {
            let (came, _) = receive(&backend);
            let (source, destination, payload) = announced(&came);
            assert_eq!((source, destination), (socket.local_addr().unwrap(), front));
            assert!(payload == pattern_bytes(n, size), "{size}: {n}");
        }
    }
    let metrics = ringway.metrics();
    let came = metrics.sum("ringway_udp_datagrams_total", &[("direction", "in")]);
    assert_eq!((came, drops(&ringway, "too-long")), (sent, 0.0));
}

#[test]
fn what_is_too_long_with_its_header_is_dropped_and_counted() {
    for tables in ["", EVERY] {
        let (backend, front) = (server(), net::free_address());
        let ringway = start(front, tables, &[&backend]);
        let socket = client(front);
        // A header for IPv4 has 28 bytes. The one that is dropped does not use up the announcement.
        for size in [65_480, 65_507] {
            socket.send(&pattern_bytes(1, size)).unwrap();
        }
        until(seconds(10), "both are dropped", || {
            drops(&ringway, "too-long") == 2.0
        });
        socket.send(&pattern_bytes(2, 65_479)).unwrap();
        let (came, _) = receive(&backend);
        assert_eq!(came.len(), 65_507);
        assert!(announced(&came).2 == pattern_bytes(2, 65_479));
        // Behind a header that went ahead once there is room again.
        socket.send(&pattern_bytes(3, 65_507)).unwrap();
        if tables.is_empty() {
            assert!(receive(&backend).0 == pattern_bytes(3, 65_507));
        } else {
            until(seconds(10), "the third, too", || {
                drops(&ringway, "too-long") == 3.0
            });
        }
    }
}

#[test]
fn the_announced_destination_is_what_the_client_wrote_to() {
    let backend = server();
    let port = net::free_address().port();
    let _ringway = start(
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        "",
        &[&backend],
    );
    let socket = UdpSocket::bind((net::host(), 0)).unwrap();
    for last in [3, 99] {
        let to = SocketAddr::from(([127, 98, 0, last], port));
        socket.send_to(b"hello", to).unwrap();
        let (came, _) = receive(&backend);
        let own = socket.local_addr().unwrap();
        assert_eq!(announced(&came), (own, to, &b"hello"[..]));
    }
}

#[test]
fn ipv6_clients_are_announced_too() {
    let (backend, front) = (server_at(net::free_address_v6()), net::free_address_v6());
    let _ringway = start(front, EVERY, &[&backend]);
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    for n in 0..64 {
        socket.send_to(&pattern_bytes(n, 1_000), front).unwrap();
    }
    for n in 0..64 {
        let (came, _) = receive(&backend);
        let (source, destination, payload) = announced(&came);
        assert_eq!((source, destination), (socket.local_addr().unwrap(), front));
        assert!(payload == pattern_bytes(n, 1_000), "{n}");
    }
}

#[test]
fn a_flow_that_moves_is_announced_to_its_new_backend() {
    let (first, second, front) = (server(), server(), net::free_address());
    let _ringway = start(front, "", &[&first, &second]);
    let socket = client(front);
    socket.send(b"one").unwrap();
    // Whose turn comes first is drawn.
    first
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let (has, other) = match first.recv_from(&mut [0; 64]) {
        Ok(_) => (first, second),
        Err(_) => (second, first),
    };
    drop(has);
    other
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut buffer = [0; 64];
    let mut came = 0;
    until(seconds(10), "the other backend hears of the flow", || {
        socket.send(b"two").unwrap();
        came = other.recv(&mut buffer).unwrap_or(0);
        came > 0
    });
    let own = socket.local_addr().unwrap();
    assert_eq!(announced(&buffer[..came]), (own, front, &b"two"[..]));
}

#[test]
fn checks_by_datagrams_say_that_they_are_our_own() {
    let (backend, front) = (server(), net::free_address());
    let health = "[pool.health]\nkind = \"udp\"\nsend = \"ping\"\nexpect = \"pong\"\ninterval = \"50ms\"\nrise = 1\n";
    let address = backend.local_addr().unwrap().to_string();
    let text =
        udp_listener("front", front, "p") + &pool_with("p", FIRST, health, &[("b", address, "")]);
    let ringway = Setup::new(text).start_unready();
    let (came, from) = receive(&backend);
    let header = Header::try_from(&came[..]).expect("a header");
    assert_eq!(header.command, Said::Local);
    assert_eq!(&came[header.len()..], b"ping");
    backend.send_to(b"pong", from).unwrap();
    ringway.wait_state("b", "up", seconds(20));
}

/// Unbound believes headers on this port and serves one announced network only.
fn unbound(address: SocketAddr, allowed: Ipv4Addr) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let (path, ip, port) = (
        folder.path().to_string_lossy(),
        address.ip(),
        address.port(),
    );
    let text = format!(
        "server:\n  interface: {ip}@{port}\n  proxy-protocol-port: {port}\n  port: {port}\n  username: \"\"\n  chroot: \"\"\n  \
         directory: \"{path}\"\n  pidfile: \"{path}/pid\"\n  use-syslog: no\n  do-daemonize: no\n  num-threads: 1\n  \
         do-not-query-localhost: no\n  access-control: 127.0.0.0/8 refuse\n  access-control: {allowed}/32 allow\n  \
         access-control: {host}/32 allow\n  local-zone: \"example.test.\" static\n  local-data: \"www.example.test. A 192.0.2.7\"\n  \
         module-config: \"iterator\"\nremote-control:\n  control-enable: no\n",
        host = net::host(),
    );
    let file = folder.path().join("unbound.conf");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(program("unbound", "unbound"));
    command.args(["-d", "-c"]).arg(&file);
    Server::start_in(folder, &mut command, "TERM")
}

/// A server that answers those only whom the header names lets one client in and another not, and a check by `dns` that
/// says that it is the balancer's own.
#[test]
fn unbound_goes_by_what_is_announced() {
    let (address, front) = (net::free_address(), net::free_address());
    let allowed = Ipv4Addr::new(127, 98, 7, 6);
    let _unbound = unbound(address, allowed);
    let health = format!(
        "{EVERY}[pool.health]\nkind = \"dns\"\nquery = \"www.example.test A\"\ninterval = \"100ms\"\nfast_interval = \"50ms\"\n"
    );
    let lines = format!("{FIRST}\nsource = [\"{}\"]", net::host());
    let text = udp_listener("front", front, "p")
        + &pool_with("p", &lines, &health, &[("u", address.to_string(), "")]);
    let ringway = Setup::new(text).start_unready();
    ringway.wait_state("u", "up", seconds(30));
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x04test\0\0\x01\0\x01";
    let code_for = |source: Ipv4Addr| {
        let socket = UdpSocket::bind((source, 0)).unwrap();
        socket.connect(front).unwrap();
        socket.set_read_timeout(Some(net::PATIENCE)).unwrap();
        let answer = ask(&socket, question).unwrap();
        assert_eq!(&answer[..2], b"\x12\x34");
        answer[3] & 15
    };
    assert_eq!(code_for(allowed), 0, "NOERROR");
    assert_eq!(code_for(Ipv4Addr::new(127, 98, 7, 5)), 5, "REFUSED");
}
