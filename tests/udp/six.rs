//! IPv6, and addresses that a machine gets later: networks of the tests' own have as many as it takes.

use std::net::{SocketAddr, UdpSocket};

use super::support::backends::{Backend, read_line};
use super::support::datagrams::{Echo, ask, roomy, send_joined};
use super::support::ringway::{Setup, listener, pool};
use super::support::{namespace, net};
use super::{body, drops, flows, pattern_bytes, udp_listener_with};

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    roomy(&socket);
    socket.set_read_timeout(Some(net::PATIENCE)).unwrap();
    socket
}

#[test]
fn ipv6_datagrams_of_all_sizes_and_in_bursts_and_replies_from_where_they_went() {
    if !namespace::inside(
        "six::ipv6_datagrams_of_all_sizes_and_in_bursts_and_replies_from_where_they_went",
    ) {
        return;
    }
    let echo = Echo::named_at(at("[::1]:6000"), "");
    let ringway = Setup::new(body(at("[::]:5300"), "", &[("a", echo.address)])).start();
    let socket = client();
    for host in 1..=3 {
        namespace::ip(&format!("addr add fd00::{host}/128 dev lo"));
        let wanted = at(&format!("[fd00::{host}]:5300"));
        socket.send_to(b"who?", wanted).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(from, wanted);
    }
    assert_eq!(flows(&ringway), 3.0, "one for each of our addresses");

    socket.connect("[fd00::2]:5300").unwrap();
    // The most that UDP's own header can say over IPv6 is 20 bytes more than over IPv4.
    for size in [0, 1, 1_452, 1_453, 9_000, 65_507, 65_527] {
        let question = pattern_bytes(size as u64, size);
        let answer = ask(&socket, &question).unwrap_or_else(|error| panic!("{size}: {error}"));
        assert!(answer == question, "{size} came back as {}", answer.len());
    }
    let mut buffer = [0; 2_048];
    for burst in 0..10_u64 {
        let joined: Vec<_> = (0..40)
            .map(|n| pattern_bytes(burst << 8 | n, 1_200))
            .collect();
        send_joined(&socket, &joined);
        for (n, question) in joined.iter().enumerate() {
            let length = socket.recv(&mut buffer).unwrap();
            assert!(buffer[..length] == question[..], "{burst}, {n}");
        }
    }
    assert_eq!(ringway.metric("ringway_udp_drops_total"), 0.0);
    assert_eq!(drops(&ringway, "too-long"), 0.0);
}

#[test]
fn addresses_that_come_later_are_listened_on_with_freebind() {
    if !namespace::inside("six::addresses_that_come_later_are_listened_on_with_freebind") {
        return;
    }
    let echo = Echo::named_at(at("[::1]:6000"), "");
    let greeting = Backend::named_on(net::listen(at("127.0.0.1:6000")), "a");
    let (four, six, tcp) = (
        at("10.77.0.1:5000"),
        at("[fd00::77]:5000"),
        at("10.77.0.1:5001"),
    );
    let early = "freebind = true";
    let text = udp_listener_with("four", four, "p", early)
        + &udp_listener_with("six", six, "p", early)
        + &listener("tcp", tcp, "t").replace("pool =", &format!("{early}\npool ="))
        + &pool("p", "", &[("a", echo.address)])
        + &pool("t", "", &[("a", greeting.address)]);
    for (name, address) in [("four", four), ("six", six), ("tcp", tcp)] {
        let (ahead, own) = text
            .split_once(&format!("name = \"{name}\""))
            .expect("a listener");
        let without = format!("{ahead}name = \"{name}\"{}", own.replacen(early, "", 1));
        let output = Setup::new(without).run_to_end();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{complaint}");
        assert!(complaint.contains(&address.to_string()), "{complaint}");
    }
    let _ringway = Setup::new(text).workers(2).start();
    namespace::ip("addr add 10.77.0.1/32 dev lo");
    namespace::ip("addr add fd00::77/128 dev lo");
    for address in [four, six] {
        let own = if address.is_ipv4() {
            "127.0.0.1:0"
        } else {
            "[::1]:0"
        };
        let socket = UdpSocket::bind(own).unwrap();
        socket.set_read_timeout(Some(net::PATIENCE)).unwrap();
        socket.connect(address).unwrap();
        assert_eq!(ask(&socket, b"hello").unwrap(), b"hello");
    }
    assert_eq!(read_line(net::connect(tcp)).unwrap(), "a");
}
