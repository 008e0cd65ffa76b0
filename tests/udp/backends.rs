//! Backends of datagrams that come and go by other signs than a closed port: checks on other ports, weights, restarts; and
//! what pools are checked by, and end flows by, if nothing is said.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use super::support::checked_servers::{nginx, nsd};
use super::support::datagrams::{Echo, ask, client};
use super::support::ringway::{Setup, pool_with, run};
use super::support::wait::{seconds, until};
use super::support::{alone, net};
use super::{drops, end_of, flows, udp_listener};

const QUICK: &str =
    "interval = \"50ms\"\nfast_interval = \"50ms\"\ntimeout = \"500ms\"\nrise = 1\nfall = 2\n";

/// A pool with a health table and other lines.
fn setup(front: SocketAddr, lines: &str, tables: &str, backends: &[(&str, SocketAddr)]) -> Setup {
    let backends: Vec<_> = backends
        .iter()
        .map(|(name, address)| (*name, address.to_string(), ""))
        .collect();
    let text = udp_listener("front", front, "p")
        + &pool_with(
            "p",
            &format!("algorithm = \"first\"\n{lines}"),
            tables,
            &backends,
        );
    Setup::new(text)
}

fn health(kind: &str) -> String {
    format!("[pool.health]\n{QUICK}kind = {kind}\n")
}

fn answer_of(socket: &UdpSocket) -> Vec<u8> {
    ask(socket, b"").unwrap()
}

/// Two echo servers on the same port of two addresses, and what listens on another port of both.
fn twins() -> (Echo, Echo, [SocketAddr; 2]) {
    let (first, port) = (net::free_address(), net::free_address().port());
    // Another address of this process's own.
    let [_, _, middle, low] = net::host().octets();
    let second = SocketAddr::from(([127, 63, middle, low], first.port()));
    let checked = [first, second].map(|mut address| {
        address.set_port(port);
        address
    });
    let echos = (Echo::named_at(first, "a"), Echo::named_at(second, "b"));
    (echos.0, echos.1, checked)
}

#[test]
fn a_flow_leaves_a_backend_whose_check_fails_and_stays_where_it_went() {
    let _alone = alone();
    let (a, b, checked) = twins();
    let front = net::free_address();
    let mut first = Some(TcpListener::bind(checked[0]).unwrap());
    let _second = TcpListener::bind(checked[1]).unwrap();
    let tables = health(&format!("\"tcp\"\nport = {}", checked[0].port()));
    let ringway = setup(front, "", &tables, &[("a", a.address), ("b", b.address)]).start();
    ringway.wait_state("a", "up", seconds(20));
    ringway.wait_state("b", "up", seconds(20));
    let sockets: Vec<_> = (0..5).map(|_| client(front)).collect();
    assert!(sockets.iter().all(|socket| answer_of(socket) == b"a"));
    // The server itself goes on answering: only the check says that it is down.
    drop(first.take());
    ringway.wait_state("a", "down", seconds(20));
    assert!(sockets.iter().all(|socket| answer_of(socket) == b"b"));
    assert_eq!(ringway.metric("ringway_udp_flows_moved_total"), 5.0);
    first = Some(TcpListener::bind(checked[0]).unwrap());
    ringway.wait_state("a", "up", seconds(20));
    assert!(sockets.iter().all(|socket| answer_of(socket) == b"b"));
    assert_eq!(answer_of(&client(front)), b"a");
    assert_eq!((flows(&ringway), drops(&ringway, "no-backend")), (6.0, 0.0));
    drop(first);
}

/// An order to leave one backend does not follow a flow to the next.
#[test]
fn a_flow_that_has_gone_elsewhere_is_not_ended_for_its_old_backend() {
    let _alone = alone();
    let (a, b, checked) = twins();
    let front = net::free_address();
    let first = TcpListener::bind(checked[0]).unwrap();
    let _second = TcpListener::bind(checked[1]).unwrap();
    let tables = health(&format!("\"tcp\"\nport = {}", checked[0].port()));
    let lines = "on_down = \"close over 3s\"";
    let ringway = setup(front, lines, &tables, &[("a", a.address), ("b", b.address)]).start();
    ringway.wait_state("a", "up", seconds(20));
    ringway.wait_state("b", "up", seconds(20));
    let sockets: Vec<_> = (0..20).map(|_| client(front)).collect();
    assert!(sockets.iter().all(|socket| answer_of(socket) == b"a"));
    drop(first);
    ringway.wait_state("a", "down", seconds(20));
    assert!(sockets.iter().all(|socket| answer_of(socket) == b"b"));
    // One or the other may have ended before it asked; from here on none may.
    let ended = end_of(&ringway, "backend-down");
    assert!(ended < 10.0, "{ended} of 20 ended before they could move");
    std::thread::sleep(Duration::from_millis(3_300));
    assert_eq!(end_of(&ringway, "backend-down"), ended);
    assert_eq!(flows(&ringway), 20.0);
}

#[test]
fn flows_of_a_backend_that_goes_down_end_where_that_is_wanted() {
    let (a, b, checked) = twins();
    let front = net::free_address();
    let folder = tempfile::tempdir().unwrap();
    let mut server = nginx(checked[0], folder.path());
    let _second = TcpListener::bind(checked[1]).unwrap();
    let port = checked[0].port();
    // Over HTTP on another port the second one is never alive.
    let tables = health(&format!("\"http\"\npath = \"/health\"\nport = {port}"));
    let lines = "on_down = \"close\"";
    let ringway = setup(front, lines, &tables, &[("a", a.address), ("b", b.address)]).start();
    ringway.wait_state("a", "up", seconds(20));
    ringway.wait_state("b", "down", seconds(20));
    let sockets: Vec<_> = (0..4).map(|_| client(front)).collect();
    assert!(sockets.iter().all(|socket| answer_of(socket) == b"a"));
    server.kill();
    until(seconds(20), "their flows end", || {
        end_of(&ringway, "backend-down") == 4.0
    });
    assert_eq!(flows(&ringway), 0.0);
    sockets[0].send(b"x").unwrap();
    until(seconds(10), "nobody is left to serve", || {
        drops(&ringway, "no-backend") == 1.0
    });
}

#[test]
fn a_backend_that_drains_keeps_its_flows_and_gets_no_other() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let front = net::free_address();
    let text = |weight: u32| {
        let (a, b) = (a.address.to_string(), b.address.to_string());
        let own = format!("weight = {weight}");
        let tables = "[pool.health]\nkind = \"none\"\n";
        udp_listener("front", front, "p")
            + &pool_with(
                "p",
                "algorithm = \"first\"",
                tables,
                &[("a", a, &own), ("b", b, "")],
            )
    };
    let mut ringway = Setup::new(text(100)).workers(2).start();
    let old: Vec<_> = (0..6).map(|_| client(front)).collect();
    assert!(old.iter().all(|socket| answer_of(socket) == b"a"));
    ringway.rewrite(text(0));
    assert!(ringway.reload());
    for _ in 0..3 {
        assert!(old.iter().all(|socket| answer_of(socket) == b"a"));
        assert_eq!(answer_of(&client(front)), b"b");
    }
    assert_eq!(ringway.metric("ringway_udp_flows_moved_total"), 0.0);
}

/// The operator's words hold for flows as for sessions: draining keeps what is there, maintenance ends it at once, and its
/// clients begin anew elsewhere.
#[test]
fn the_operator_drains_and_maintains_a_backend_of_flows() {
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let front = net::free_address();
    let tables = "[pool.health]\nkind = \"none\"\n";
    let setup = setup(front, "", tables, &[("a", a.address), ("b", b.address)]).workers(2);
    let ringway = setup.with_socket().start();
    let socket = ringway.socket();
    let operate = |words: &[&str]| {
        let place = ["--socket", socket.to_str().unwrap()];
        let output = run(&[&words[..1], &place, &words[1..]].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), told)
    };
    let old: Vec<_> = (0..6).map(|_| client(front)).collect();
    assert!(old.iter().all(|socket| answer_of(socket) == b"a"));
    assert_eq!(operate(&["drain", "p/a"]), (Some(0), String::new()));
    assert!(old.iter().all(|socket| answer_of(socket) == b"a"));
    let new = client(front);
    assert_eq!(answer_of(&new), b"b");
    // They do not end by themselves.
    let (status, _) = operate(&["drain", "p/a", "--wait", "300ms"]);
    assert_eq!(status, Some(4));
    assert_eq!((flows(&ringway), end_of(&ringway, "drained")), (7.0, 0.0));
    assert_eq!(operate(&["maintain", "p/a"]), (Some(0), String::new()));
    until(seconds(10), "its flows end", || {
        end_of(&ringway, "drained") == 6.0 && flows(&ringway) == 1.0
    });
    assert_eq!(operate(&["drain", "p/a", "--wait", "5s"]).0, Some(0));
    assert_eq!(operate(&["maintain", "p/a"]).0, Some(0));
    assert!(old.iter().all(|socket| answer_of(socket) == b"b"));
    assert_eq!(answer_of(&new), b"b");
    assert_eq!(flows(&ringway), 7.0);
    assert_eq!(operate(&["ready", "p/a"]), (Some(0), String::new()));
    // Flows stay where they went; newcomers find it again.
    assert!(old.iter().all(|socket| answer_of(socket) == b"b"));
    assert_eq!(answer_of(&client(front)), b"a");
    assert_eq!(drops(&ringway, "no-backend"), 0.0);
}

/// The port is closed for a moment, then another server is there: the flows find it, and nobody else's answers.
#[test]
fn a_backend_that_restarts_is_found_again() {
    let mut echo = Echo::named("one");
    let address = echo.address;
    let front = net::free_address();
    let tables = "[pool.health]\nkind = \"none\"\n";
    let ringway = setup(front, "", tables, &[("a", address)]).start();
    let sockets: Vec<_> = (0..8).map(|_| client(front)).collect();
    assert!(sockets.iter().all(|socket| answer_of(socket) == b"one"));
    for round in 0..5 {
        echo.kill();
        for socket in &sockets {
            socket.send(b"lost").unwrap();
        }
        let name = format!("{round}");
        echo = Echo::named_at(address, &name);
        for (n, socket) in sockets.iter().enumerate() {
            socket
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            let question = format!("-{round}-{n}");
            let wanted = format!("{name}{question}");
            until(
                seconds(10),
                "an answer from the server that is back",
                || {
                    // One of before may come late, but never another flow's.
                    match ask(socket, question.as_bytes()) {
                        Ok(answer) => {
                            let own = format!("-{n}");
                            let text = String::from_utf8_lossy(&answer);
                            assert!(text.ends_with(&own) || text.ends_with("lost"), "{text}");
                            answer == wanted.as_bytes()
                        }
                        Err(_) => false,
                    }
                },
            );
            while socket.set_nonblocking(true).is_ok() && socket.recv(&mut [0; 64]).is_ok() {}
            socket.set_nonblocking(false).unwrap();
        }
    }
    assert_eq!(flows(&ringway), 8.0);
}

#[test]
fn without_a_word_datagrams_are_checked_by_datagrams() {
    let silent = UdpSocket::bind(net::free_address()).unwrap();
    let closed = net::free_address();
    let front = net::free_address();
    let backends = [("silent", silent.local_addr().unwrap()), ("closed", closed)];
    let ringway = setup(front, "", "", &backends).start_unready();
    ringway.wait_state("silent", "up", seconds(20));
    ringway.wait_state("closed", "down", seconds(20));
    let status = ringway.status();
    let reason = &status["pools"][0]["backends"][1]["last_check"]["reason"];
    assert_eq!(reason.as_str(), Some("check refused"));
}

#[test]
fn dns_flows_end_with_their_answer_or_after_five_seconds() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let address = net::free_address();
    let _server = nsd(address, folder.path());
    let front = net::free_address();
    let tables = health("\"dns\"\nquery = \"www.example.test A\"");
    let ringway = setup(front, "", &tables, &[("nsd", address)]).start();
    ringway.wait_state("nsd", "up", seconds(20));
    let question = b"\x43\x21\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x04test\0\0\x01\0\x01";
    let socket = client(front);
    for answers in 1..4 {
        let answer = ask(&socket, question).unwrap();
        assert_eq!((&answer[..2], answer[3] & 15), (&question[..2], 0));
        until(seconds(10), "an answer ends its flow", || {
            end_of(&ringway, "backend-fin") == f64::from(answers)
        });
    }
    drop(ringway);
    // Alive, as its checks are answered, but silent to everything else.
    let moody = UdpSocket::bind(net::free_address()).unwrap();
    let (address, front) = (moody.local_addr().unwrap(), net::free_address());
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = moody.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            if buffer[..length].windows(3).any(|part| part == b"www") {
                let _ = moody.send_to(&buffer[..length], from);
            }
        }
    });
    let ringway = setup(front, "", &tables, &[("moody", address)]).start();
    ringway.wait_state("moody", "up", seconds(20));
    client(front).send(b"anybody?").unwrap();
    let began = Instant::now();
    until(seconds(3), "the flow is there", || flows(&ringway) == 1.0);
    until(seconds(10), "silence ends it", || {
        end_of(&ringway, "idle") == 1.0
    });
    let lasted = began.elapsed();
    assert!(lasted > Duration::from_millis(4_500), "{lasted:?}");
}

/// Answers that are cut short, anywhere: none is taken for an answer, and a whole one that says that it is truncated is a
/// sign of life.
#[test]
fn truncated_answers_to_checks_are_survived() {
    let cutter = UdpSocket::bind(net::free_address()).unwrap();
    let address = cutter.local_addr().unwrap();
    cutter.set_read_timeout(Some(net::PATIENCE)).unwrap();
    let front = net::free_address();
    let tables = "[pool.health]\ninterval = \"20ms\"\nfast_interval = \"20ms\"\ntimeout = \"50ms\"\nrise = 1\nfall = 2\nkind = \"dns\"\n\
         query = \"www.example.test A\"\n";
    let ringway = setup(front, "", tables, &[("a", address)]).start_unready();
    let mut buffer = [0; 512];
    let whole = {
        let (length, _) = cutter.recv_from(&mut buffer).unwrap();
        length
    };
    for cut in 0..whole {
        let (length, from) = cutter.recv_from(&mut buffer).unwrap();
        assert_eq!(length, whole);
        buffer[2] |= 0x80;
        buffer[7] = 1;
        cutter.send_to(&buffer[..cut], from).unwrap();
    }
    ringway.wait_state("a", "down", seconds(20));
    assert_eq!(
        ringway
            .metrics()
            .sum("ringway_check_total", &[("result", "ok")]),
        0.0
    );
    let began = Instant::now();
    while ringway
        .metrics()
        .sum("ringway_backend_state", &[("state", "up")])
        == 0.0
    {
        assert!(began.elapsed() < seconds(20), "truncated is alive");
        let (length, from) = cutter.recv_from(&mut buffer).unwrap();
        // An answer of the right name that did not fit: QR and TC.
        buffer[2] |= 0x82;
        cutter.send_to(&buffer[..length], from).unwrap();
    }
}
