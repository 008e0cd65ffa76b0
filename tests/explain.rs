//! What `ringway explain` tells is what clients get; and the admin socket by which it asks.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::backends::{Backend, read_line};
use support::net;
use support::ringway::{Ringway, Setup, listener, pool_with, run};
use support::wait::{seconds, until};

const UNCHECKED: &str = "[pool.health]\nkind = \"none\"\n";

fn backends(names: &[&str]) -> Vec<Backend> {
    names.iter().map(|name| Backend::named(name)).collect()
}

fn config(
    address: SocketAddr,
    lines: &str,
    health: &str,
    members: &[(&str, SocketAddr, &str)],
) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, address, own)| (*name, address.to_string(), *own))
        .collect();
    listener("main", address, "main") + &pool_with("main", lines, health, &members)
}

/// Starts with the admin socket in its own folder; returns the socket, too.
fn start(body: String) -> (Ringway, PathBuf) {
    let setup = Setup::new(body);
    let folder = setup.folder().to_path_buf();
    let setup = setup.env("XDG_RUNTIME_DIR", folder.to_str().unwrap());
    (setup.start(), folder.join("ringway/admin.sock"))
}

fn explained(ringway: &Ringway, client: &str) -> Value {
    let path = format!("/v1/explain?listener=main&client={client}");
    let (code, text) = ringway.get(&path).unwrap();
    assert_eq!(code, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn open_from(source: Ipv4Addr, address: SocketAddr) -> (TcpStream, String) {
    let stream = net::connect_with(Some(source), address, 0).expect("connect");
    let name = read_line(&stream).expect("the backend's name");
    (stream, name)
}

/// `ringway explain` in JSON.
fn asked(socket: &Path, client: &str) -> Value {
    let arguments = [
        "explain",
        "--listener",
        "main",
        "--client",
        client,
        "--json",
        "--socket",
    ];
    let output = run(&[&arguments[..], &[socket.to_str().unwrap()]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn where_nothing_is_left_to_chance_a_client_gets_what_was_told() {
    let names = ["a", "b", "c", "d"];
    let servers = backends(&names);
    let weights = [
        "weight = 10",
        "weight = 100",
        "weight = 200",
        "max_connections = 5",
    ];
    for algorithm in [
        "maglev",
        "source-hash",
        "round-robin",
        "least-connections",
        "first",
    ] {
        let address = net::free_address();
        let members: Vec<_> = (0..4)
            .map(|i| (names[i], servers[i].address, weights[i]))
            .collect();
        let lines = format!("algorithm = \"{algorithm}\"\nhash_seed = 5");
        let (ringway, socket) = start(config(address, &lines, UNCHECKED, &members));
        let mut kept = Vec::new();
        for n in 0..25_u8 {
            let client = Ipv4Addr::new(127, 7, n, 9);
            let told = match n % 8 {
                0 => asked(&socket, &client.to_string()),
                _ => explained(&ringway, &client.to_string()),
            };
            let (session, name) = open_from(client, address);
            assert_eq!(told["backend"], name.as_str(), "{algorithm}: {told:#}");
            assert_eq!(told["deterministic"], true, "{told:#}");
            // Some stay, so that loads differ and the limit is reached.
            if n % 3 > 0 {
                kept.push(session);
            } else {
                let alone = kept.len() as f64;
                drop(session);
                until(seconds(10), "the session is gone", || {
                    ringway.metric("ringway_sessions_active") == alone
                });
            }
        }
    }
}

#[test]
fn chance_is_told_with_its_probabilities_and_who_is_passed_over_with_the_reason() {
    let names = ["a", "b", "full", "down", "drained", "later"];
    let servers = backends(&names[..3]);
    let address = net::free_address();
    let dead = net::free_address();
    let members = [
        ("a", servers[0].address, "weight = 100"),
        ("b", servers[1].address, "weight = 300"),
        ("full", servers[2].address, "max_connections = 1"),
        ("down", dead, ""),
        ("drained", servers[0].address, "weight = 0"),
        ("later", servers[0].address, "tier = 2"),
    ];
    let health = "[pool.health]\ninterval = \"100ms\"\nfast_interval = \"50ms\"\nfall = 1\n";
    let (ringway, socket) = start(config(address, "algorithm = \"random\"", health, &members));
    ringway.wait_state("down", "down", seconds(20));
    for name in ["a", "b", "full", "later"] {
        ringway.wait_state(name, "up", seconds(20));
    }
    let mut kept = Vec::new();
    until(seconds(30), "the place of the full one is taken", || {
        kept.push(open_from(Ipv4Addr::LOCALHOST, address));
        kept.iter().any(|(_, name)| name == "full")
    });
    let told = asked(&socket, "192.0.2.1:50000");
    assert_eq!(
        (&told["backend"], &told["deterministic"]),
        (&Value::Null, &Value::Bool(false))
    );
    let of = |name: &str| {
        let mut candidates = told["candidates"].as_array().unwrap().iter();
        candidates
            .find(|one| one["backend"] == name)
            .unwrap()
            .clone()
    };
    assert!(
        (of("a")["probability"].as_f64().unwrap() - 0.25).abs() < 1e-9,
        "{told:#}"
    );
    assert!(
        (of("b")["probability"].as_f64().unwrap() - 0.75).abs() < 1e-9,
        "{told:#}"
    );
    for (name, why) in [
        ("full", "full: 1 of 1"),
        ("down", "health down: check refused"),
        ("drained", "weight 0: it drains"),
        ("later", "tier 2 does not serve now"),
    ] {
        let candidate = of(name);
        assert_eq!(candidate["eligible"], false, "{candidate}");
        assert_eq!(candidate["probability"], 0.0, "{candidate}");
        assert_eq!(candidate["why"], why);
    }
    let text = run(&[
        "explain",
        "--listener=main",
        "--client=192.0.2.1",
        "--socket",
        socket.to_str().unwrap(),
    ]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("gets one by chance"), "{text}");
    assert!(
        text.contains("down     -            health down: check refused"),
        "{text}"
    );
}

#[test]
fn a_server_name_leads_to_its_pool() {
    let servers = backends(&["a", "b"]);
    let address = net::free_address();
    let route = "\nroute = [{ sni = \"*.db.test\", pool = \"other\" }]\n\n";
    let pool = |name: &str, i: usize| {
        let member = (["a", "b"][i], servers[i].address.to_string(), "");
        pool_with(name, "", UNCHECKED, &[member])
    };
    let front = listener("main", address, "main").replace("\n\n", route);
    let (ringway, socket) = start(front + &pool("main", 0) + &pool("other", 1));
    for (sni, wanted) in [
        ("", ("main", "a")),
        ("&sni=One.db.test", ("other", "b")),
        ("&sni=db.test", ("main", "a")),
    ] {
        let told = explained(&ringway, &format!("192.0.2.1{sni}"));
        assert_eq!(
            (&told["pool"], &told["backend"]),
            (&wanted.0.into(), &wanted.1.into()),
            "{sni}"
        );
    }
    let text = run(&[
        "explain",
        "--listener=main",
        "--client=192.0.2.1",
        "--sni=one.db.test",
        "--socket",
        socket.to_str().unwrap(),
    ]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("(pool other) gets b"), "{text}");
}

#[test]
fn nobody_to_give_is_told_too() {
    let server = Backend::named("a");
    let address = net::free_address();
    let members = [("a", server.address, "max_connections = 1")];
    let lines = "wait = { size = 2, timeout = \"20s\" }";
    let (ringway, _) = start(config(address, lines, UNCHECKED, &members));
    let (_kept, _) = open_from(Ipv4Addr::LOCALHOST, address);
    let told = explained(&ringway, "192.0.2.1");
    assert_eq!(told["backend"], Value::Null);
    assert_eq!(
        told["reason"],
        "waits for at most 20 s, 0 before it: no backend can take it now"
    );
    let _waiting = [net::connect(address), net::connect(address)];
    until(seconds(10), "two wait", || {
        ringway.metric("ringway_waiting") == 2.0
    });
    let told = explained(&ringway, "192.0.2.1");
    assert_eq!(
        told["reason"],
        "turned away: 2 clients wait, and no more may"
    );
}

#[test]
fn questions_that_make_no_sense_are_refused_in_one_sentence() {
    let server = Backend::named("a");
    let address = net::free_address();
    let lines = "algorithm = \"maglev\"\nhash_key = \"address-port\"";
    let (ringway, socket) = start(config(
        address,
        lines,
        UNCHECKED,
        &[("a", server.address, "")],
    ));
    let socket = socket.to_str().unwrap();
    for (query, code, part) in [
        ("", 400, "listener is missing"),
        ("?listener=main", 400, "client is missing"),
        (
            "?listener=none&client=::1",
            404,
            "there is no listener \\\"none\\\"",
        ),
        (
            "?listener=mai&client=::1",
            404,
            "\"did_you_mean\": [\n    \"main\"\n  ]",
        ),
        ("?listener=main&client=x", 400, "is no address"),
        (
            "?listener=main&client=%5B::1%5D",
            400,
            "ask for client=[::1]:PORT",
        ),
        (
            "?listener=main&client=%5B::1%5D:5",
            200,
            "\"backend\": \"a\"",
        ),
    ] {
        let (found, text) = ringway.get(&format!("/v1/explain{query}")).unwrap();
        assert!(
            found == code && text.contains(part),
            "{query}: {found} {text}"
        );
    }
    let ask = |listener: &str, socket: &str| {
        let output = run(&[
            "explain",
            "--listener",
            listener,
            "--client=::1",
            "--socket",
            socket,
        ]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.lines().count(), 1, "{said}");
        (output.status.code(), said)
    };
    let (code, said) = ask("none", socket);
    assert!(
        code == Some(2) && said.contains("there is no listener"),
        "{said}"
    );
    let (code, said) = ask("main", "/nowhere/admin.sock");
    assert!(
        code == Some(1) && said.contains("no ringway answers at /nowhere/admin.sock"),
        "{said}"
    );
}

#[test]
fn the_admin_socket_is_for_its_group_and_goes_with_the_process() {
    let server = Backend::named("a");
    let body = || {
        config(
            net::free_address(),
            "",
            UNCHECKED,
            &[("a", server.address, "")],
        )
    };
    let setup = Setup::new(body());
    let folder = setup.folder().to_path_buf();
    let home = folder.to_str().unwrap().to_string();
    let mut ringway = setup.env("XDG_RUNTIME_DIR", &home).start();
    let socket = folder.join("ringway/admin.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660, "{mode:o}");
    let said = ringway.stderr();
    assert!(
        said.contains(&format!("admin socket {}", socket.display())),
        "{said}"
    );

    // Another instance serves all the same, without the socket that is taken.
    let other = Setup::new(body()).env("XDG_RUNTIME_DIR", &home).start();
    let said = other.stderr();
    assert!(
        said.contains("admin socket off") && said.contains("another process answers there"),
        "{said}"
    );
    drop(other);
    assert!(socket.exists(), "it was not its own");

    // A left-over of a process that was killed is replaced.
    ringway.signal("KILL");
    let _ = ringway.wait_exit(seconds(10));
    assert!(socket.exists());
    let mut next = Setup::new(body()).env("XDG_RUNTIME_DIR", &home).start();
    assert_eq!(asked(&socket, "::1")["backend"], "a");
    next.signal("TERM");
    assert_eq!(next.wait_exit(seconds(20)).code(), Some(0));
    assert!(!socket.exists());
    let nowhere = Setup::new(body()).start();
    let said = nowhere.stderr();
    assert!(
        said.contains("admin socket off: neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR"),
        "{said}"
    );
}
