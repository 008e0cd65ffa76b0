//! The admin API as an operator's program uses it: states and weights of backends, backends that come and go, sessions
//! that are listed and ended, what is kept over a restart, and who may change nothing.
#![allow(clippy::unwrap_used)]

#[path = "admin/busy.rs"]
mod busy;
#[path = "admin/described.rs"]
mod described;
#[path = "admin/load.rs"]
mod load;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::backends::{Backend, read_line};
use support::ringway::{Ringway, Setup, listener, pool, pool_with};
use support::wait::{seconds, until};
use support::{http, net, process};

/// A running balancer and its admin socket.
struct Scene {
    ringway: Ringway,
    socket: PathBuf,
}

impl Scene {
    fn start(body: impl Into<String>) -> Scene {
        Scene::with(Setup::new(body).workers(2))
    }

    fn with(setup: Setup) -> Scene {
        let ringway = setup.with_socket().start();
        Scene {
            socket: ringway.socket(),
            ringway,
        }
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        http::over_socket(&self.socket, method, path, &body).expect("an answer over the socket")
    }

    /// Asks for what must be done.
    #[track_caller]
    fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let (code, answer) = self.ask(method, path, body);
        assert!((200..300).contains(&code), "{code}: {answer:#}");
        answer
    }

    #[track_caller]
    fn backend(&self, name: &str) -> Value {
        self.done("GET", &path_of(name), &Value::Null)
    }

    #[track_caller]
    fn set(&self, name: &str, body: &Value) -> Value {
        self.done("PUT", &path_of(name), body)
    }

    /// The ends of all sessions so far, by word.
    fn ends(&self, word: &str) -> f64 {
        let labels = [("end", word)];
        self.ringway
            .metrics()
            .sum("ringway_session_ends_total", &labels)
    }
}

fn path_of(name: &str) -> String {
    format!("/v1/pools/main/backends/{name}")
}

fn open(address: SocketAddr) -> (TcpStream, String) {
    let stream = net::connect(address);
    let name = read_line(&stream).expect("the backend's name");
    (stream, name)
}

fn say(mut stream: &TcpStream, text: &str) {
    writeln!(stream, "{text}").expect("send");
    assert_eq!(read_line(stream).expect("echo"), text);
}

/// Two named backends behind one listener, in turn.
fn two(lines: &str) -> (SocketAddr, [Backend; 2], String) {
    let servers = [Backend::named("a"), Backend::named("b")];
    let address = net::free_address();
    let lines = format!("algorithm = \"round-robin\"\n{lines}");
    let members = [("a", servers[0].address), ("b", servers[1].address)];
    let body = listener("main", address, "main") + &pool("main", &lines, &members);
    (address, servers, body)
}

#[test]
fn draining_keeps_sessions_and_gives_nothing_new_until_it_is_ready_again() {
    let (address, _servers, body) = two("");
    let scene = Scene::start(body);
    let held: Vec<_> = (0..4).map(|_| open(address)).collect();
    let answer = scene.set("a", &json!({ "admin": "draining" }));
    assert_eq!(answer["backend"]["admin"], "draining");
    assert_eq!(
        answer["changes"],
        json!(["backend main/a: draining now, was ready"])
    );
    // Answered when every worker has it: from now on nobody gets it, at once and without exception.
    for _ in 0..20 {
        assert_eq!(open(address).1, "b");
    }
    for (stream, _) in &held {
        say(stream, "still here");
    }
    assert_eq!(scene.backend("a")["sessions"], 2);
    // Once more changes nothing.
    let again = scene.set("a", &json!({ "admin": "draining" }));
    assert_eq!(again["changes"], json!([]));
    // What is drained stays so over a reload.
    assert!(scene.ringway.reload());
    assert_eq!(scene.backend("a")["admin"], "draining");
    assert_eq!(open(address).1, "b");
    scene.set("a", &json!({ "admin": "ready" }));
    let names: Vec<String> = (0..8).map(|_| open(address).1).collect();
    assert!(names.contains(&"a".to_owned()), "{names:?}");
}

#[test]
fn maintenance_closes_what_is_there_and_on_drain_says_how() {
    let (address, _servers, body) = two("on_drain = \"close\"");
    let scene = Scene::start(body);
    let held: Vec<_> = (0..6).map(|_| open(address)).collect();
    scene.set("a", &json!({ "admin": "draining" }));
    until(
        seconds(5),
        "the sessions of the one that drains are closed",
        || scene.backend("a")["sessions"] == 0,
    );
    assert_eq!(scene.ends("drained"), 3.0);
    scene.set("b", &json!({ "admin": "maintenance" }));
    until(seconds(5), "those of the one in maintenance, too", || {
        scene.backend("b")["sessions"] == 0
    });
    assert_eq!(scene.ends("drained"), 6.0);
    for (mut stream, _) in held {
        let error = stream.read(&mut [0]).expect_err("no clean end");
        assert!(net::is_reset(&error), "{error}");
    }
    // Nobody is left: who comes waits, and is served as soon as the operator says so.
    let waiting = thread::spawn(move || open(address).1);
    until(seconds(5), "a client waits", || {
        scene.ringway.metric("ringway_waiting") == 1.0
    });
    scene.set("b", &json!({ "admin": "ready" }));
    assert_eq!(waiting.join().unwrap(), "b");
}

#[test]
fn maintenance_closes_even_where_draining_keeps() {
    let (address, _servers, body) = two("");
    let scene = Scene::start(body);
    let held: Vec<_> = (0..4).map(|_| open(address)).collect();
    scene.set("a", &json!({ "admin": "maintenance" }));
    until(seconds(5), "its sessions are closed", || {
        scene.backend("a")["sessions"] == 0
    });
    let alive = held.iter().filter(|(_, name)| name == "b");
    alive.for_each(|(stream, _)| say(stream, "not mine"));
    assert_eq!(scene.ends("drained"), 2.0);
}

/// Not all at one moment, which would bring all of them to the others at that moment.
#[test]
fn what_is_closed_over_some_time_is_spread_over_it() {
    let (address, _servers, body) = two("on_drain = \"close over 2s\"");
    let scene = Scene::start(body);
    let held: Vec<_> = (0..40).map(|_| open(address)).collect();
    scene.set("a", &json!({ "admin": "draining" }));
    let began = Instant::now();
    let of_a = held.into_iter().filter(|(_, name)| name == "a");
    let closed = of_a.map(|(mut stream, _)| {
        thread::spawn(move || {
            let error = stream.read(&mut [0]).expect_err("closed");
            assert!(net::is_reset(&error), "{error}");
            began.elapsed()
        })
    });
    let closed: Vec<_> = closed.collect();
    let mut closed: Vec<Duration> = closed.into_iter().map(|it| it.join().unwrap()).collect();
    closed.sort();
    assert_eq!(closed.len(), 20);
    // Each half has some, or it is a chance of one in a million.
    let half = seconds(1);
    assert!(closed[0] < half && closed[19] > half, "{closed:?}");
    assert!(closed[19] < half * 3, "{closed:?}");
    assert_eq!(scene.ends("drained"), 20.0);
}

#[test]
fn a_weight_holds_at_once_and_until_the_file_says_otherwise() {
    let (address, servers, body) = two("");
    let mut scene = Scene::start(body);
    let answer = scene.set("a", &json!({ "weight": 0 }));
    assert_eq!(answer["backend"]["weight"], 0);
    let names: Vec<String> = (0..10).map(|_| open(address).1).collect();
    assert!(names.iter().all(|name| name == "b"), "{names:?}");
    // The same file again does not undo it; neither does another backend's new weight.
    assert!(scene.ringway.reload());
    assert_eq!(scene.backend("a")["weight"], 0);
    let of_b = |weight: u32, own: &str| {
        let members = [
            ("a", servers[0].address.to_string(), own.to_owned()),
            (
                "b",
                servers[1].address.to_string(),
                format!("weight = {weight}"),
            ),
        ];
        let members: Vec<_> = members
            .iter()
            .map(|(name, address, own)| (*name, address.clone(), own.as_str()))
            .collect();
        let lines = "algorithm = \"round-robin\"";
        let unchecked = "[pool.health]\nkind = \"none\"\n";
        listener("main", address, "main") + &pool_with("main", lines, unchecked, &members)
    };
    scene.ringway.rewrite(of_b(50, ""));
    assert!(scene.ringway.reload());
    assert_eq!(scene.backend("a")["weight"], 0);
    assert_eq!(scene.backend("b")["weight"], 50);
    assert_eq!(
        scene.ringway.status()["operator"],
        json!(["backend main/a has weight 0, the file says 100"])
    );
    scene.ringway.rewrite(of_b(50, "weight = 30"));
    assert!(scene.ringway.reload());
    assert_eq!(scene.backend("a")["weight"], 30);
    assert_eq!(scene.ringway.status()["operator"], json!([]));
}

#[test]
fn backends_come_and_go_at_run_time_and_over_restarts() {
    let (address, _servers, body) = two("");
    let third = Backend::named("c");
    let mut scene = Scene::start(body);
    let (stream, _) = open(address);
    let added = json!({ "name": "c", "address": third.address.to_string(), "weight": 200 });
    let pool = "/v1/pools/main/backends";
    let (code, answer) = scene.ask("POST", pool, &added);
    assert_eq!(
        (code, &answer["kept_over_restarts"]),
        (201, &json!(true)),
        "{answer:#}"
    );
    assert_eq!(answer["changes"], json!(["backend main/c added"]));
    let (code, _) = scene.ask("POST", pool, &added);
    assert_eq!(code, 200, "the same again is done already");
    let (code, answer) = scene.ask(
        "POST",
        pool,
        &json!({ "name": "c", "address": "127.0.0.1:9" }),
    );
    assert_eq!(code, 409, "{answer:#}");
    let names: Vec<String> = (0..12).map(|_| open(address).1).collect();
    assert!(names.contains(&"c".to_owned()), "{names:?}");
    let (kept, _) = loop {
        let opened = open(address);
        if opened.1 == "a" {
            break opened;
        }
    };
    scene.done("DELETE", &path_of("a"), &Value::Null);
    let (code, answer) = scene.ask("DELETE", &path_of("a"), &Value::Null);
    assert_eq!(code, 404, "{answer:#}");
    for _ in 0..12 {
        assert_ne!(open(address).1, "a");
    }
    say(&kept, "a removed backend keeps its sessions");
    say(&stream, "and others, too");
    scene.set("b", &json!({ "admin": "draining" }));
    drop((kept, stream));

    // All of it outlives the process, killed or not.
    let folder = scene.ringway.folder().to_path_buf();
    process::signal(scene.ringway.pid(), "KILL");
    scene.ringway.wait_exit(seconds(5));
    // The kernel closes what its ring held a little after the process is gone.
    until(seconds(10), "its address is free", || {
        net::try_connect(address).is_err()
    });
    scene.ringway.start_again();
    assert!(folder.join("admin.sock.operator.json").exists());
    let pools = &scene.ringway.status()["pools"][0]["backends"];
    let names: Vec<&str> = pools
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["b", "c"]);
    assert_eq!(scene.backend("b")["admin"], "draining");
    assert_eq!(open(address).1, "c");

    // The file is right again once it says something else of them.
    let d = Backend::named("d");
    let members = [("b", third.address), ("d", d.address)];
    scene
        .ringway
        .rewrite(listener("main", address, "main") + &support::ringway::pool("main", "", &members));
    assert!(scene.ringway.reload(), "{}", scene.ringway.stderr());
    let operator = &scene.ringway.status()["operator"];
    assert_eq!(
        *operator,
        json!(["backend main/c is added, the file does not have it"])
    );
}

#[test]
fn the_last_backend_of_a_pool_cannot_be_removed() {
    let server = Backend::named("a");
    let address = net::free_address();
    let scene = Scene::start(
        listener("main", address, "main") + &pool("main", "", &[("a", server.address)]),
    );
    let (code, answer) = scene.ask("DELETE", &path_of("a"), &Value::Null);
    assert_eq!(code, 409);
    assert!(
        answer["error"].as_str().unwrap().contains("last"),
        "{answer:#}"
    );
    assert_eq!(open(address).1, "a");
}

#[test]
fn over_tcp_everything_is_read_only() {
    let (address, _servers, body) = two("");
    let scene = Scene::start(body);
    let (stream, _) = open(address);
    let tcp = |method: &str, path: &str, body: &str| {
        let (code, text) = http::over_tcp(scene.ringway.admin(), method, path, body).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["error"].is_string(), "{method} {path}: {text}");
        code
    };
    let backend = path_of("a");
    assert_eq!(tcp("PUT", &backend, "{\"admin\":\"maintenance\"}"), 403);
    assert_eq!(tcp("DELETE", &backend, ""), 403);
    assert_eq!(
        tcp(
            "POST",
            "/v1/pools/main/backends",
            "{\"address\":\"127.0.0.1:1\"}"
        ),
        403
    );
    assert_eq!(tcp("POST", "/v1/reload", ""), 403);
    assert_eq!(tcp("DELETE", "/v1/sessions/0-0", ""), 403);
    assert_eq!(tcp("POST", &backend, ""), 405);
    assert_eq!(tcp("PATCH", "/v1/status", ""), 405);
    say(&stream, "nothing has happened");
    assert_eq!(scene.backend("a")["admin"], "ready");
    let (code, text) = scene.ringway.get(&backend).unwrap();
    assert_eq!(code, 200, "{text}");
    assert_eq!(scene.ringway.metric("ringway_reloads_total"), 0.0);
}

#[test]
fn unknown_names_and_values_get_a_sentence_that_helps() {
    let (_address, _servers, body) = two("");
    let scene = Scene::start(body);
    let said = |method: &str, path: &str, body: &Value| {
        let (code, answer) = scene.ask(method, path, body);
        (
            code,
            answer["error"].as_str().unwrap_or_default().to_owned(),
            answer["did_you_mean"].clone(),
        )
    };
    let ready = json!({ "admin": "ready" });
    let (code, sentence, near) = said("PUT", "/v1/pools/man/backends/a", &ready);
    assert_eq!((code, near), (404, json!(["main"])), "{sentence}");
    let (code, sentence, near) = said("PUT", "/v1/pools/main/backends/aa", &ready);
    assert_eq!((code, near), (404, json!(["a"])), "{sentence}");
    let (code, sentence, near) = said("GET", "/v1/pools/main/backends/bb", &Value::Null);
    assert_eq!((code, near), (404, json!(["b"])), "{sentence}");
    let (code, sentence, near) = said("GET", "/v1/statu", &Value::Null);
    assert_eq!((code, near), (404, json!(["/v1/status"])), "{sentence}");
    for (body, part) in [
        (
            json!({ "admin": "drain" }),
            "admin: found \"drain\"; allowed: ready | draining | maintenance",
        ),
        (
            json!({ "weight": 1001 }),
            "weight: found 1001; allowed: a whole number from 0 to 1000",
        ),
        (json!({ "weight": "7" }), "weight: found \"7\""),
        (
            json!({ "wieght": 7 }),
            "wieght: unknown key; did you mean \"weight\"?",
        ),
        (json!({}), "nothing to change"),
        (json!([1]), "no JSON object"),
    ] {
        let (code, sentence, _) = said("PUT", &path_of("a"), &body);
        assert!(code == 400 && sentence.contains(part), "{code} {sentence}");
    }
    for (body, part) in [
        (json!({ "name": "x" }), "address: missing"),
        (
            json!({ "address": "nowhere" }),
            "address: found \"nowhere\"; allowed: HOST:PORT",
        ),
        (json!({ "address": "127.0.0.1:+0" }), "at run time"),
        (
            json!({ "address": "127.0.0.1:9", "tier": 16 }),
            "tier: found 16",
        ),
        (
            json!({ "address": "127.0.0.1:9", "tierr": 1 }),
            "did you mean \"tier\"?",
        ),
    ] {
        let (code, sentence, _) = said("POST", "/v1/pools/main/backends", &body);
        assert!(code == 400 && sentence.contains(part), "{code} {sentence}");
    }
    let (code, sentence, _) = said("DELETE", "/v1/sessions/abc", &Value::Null);
    assert!(code == 400 && sentence.contains("0-42"), "{sentence}");
    let (code, _, _) = said("DELETE", "/v1/sessions/0-999999", &Value::Null);
    assert_eq!(code, 404);
    let (code, _, _) = said("DELETE", "/v1/sessions/9-1", &Value::Null);
    assert_eq!(code, 404);
    let (code, sentence, _) = said("GET", "/v1/sessions?limit=0", &Value::Null);
    assert!(code == 400 && sentence.contains("1 to 1000"), "{sentence}");
    let (code, _, near) = said("GET", "/v1/sessions?backend=main/c", &Value::Null);
    assert_eq!((code, &near), (404, &json!(["main/a", "main/b"])));
}

#[test]
fn the_oldest_sessions_are_listed_and_one_is_killed() {
    let (address, _servers, body) = two("");
    let scene = Scene::start(body);
    let mut held: Vec<_> = (0..30).map(|_| open(address)).collect();
    say(&held[0].0, "hello");
    let all = |query: &str| {
        let path = format!("/v1/sessions{query}");
        scene.done("GET", &path, &Value::Null)
    };
    let listed = all("?limit=7");
    assert_eq!(listed["matched"], 30);
    let rows = listed["sessions"].as_array().unwrap();
    assert_eq!(rows.len(), 7);
    let clients: Vec<String> = held
        .iter()
        .map(|(s, _)| s.local_addr().unwrap().to_string())
        .collect();
    for (row, client) in rows.iter().zip(&clients) {
        assert_eq!(row["client"], *client, "the oldest come first: {listed:#}");
        assert_eq!(
            (&row["stage"], &row["listener"]),
            (&json!("relaying"), &json!("main"))
        );
    }
    assert_eq!(
        (&rows[0]["bytes_in"], &rows[0]["bytes_out"]),
        (&json!(6), &json!(8))
    );
    let of_b = all("?backend=main/b&limit=1000");
    assert_eq!(of_b["matched"], 15);
    assert!(
        of_b["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["backend"] == "b")
    );

    let id = rows[3]["id"].as_str().unwrap();
    let killed = scene.done("DELETE", &format!("/v1/sessions/{id}"), &Value::Null);
    assert_eq!(killed["killed"], id);
    let (mut stream, _) = held.remove(3);
    let error = stream.read(&mut [0]).expect_err("no clean end");
    assert!(net::is_reset(&error), "{error}");
    until(seconds(5), "its end is counted", || {
        scene.ends("killed") == 1.0
    });
    let (code, _) = scene.ask("DELETE", &format!("/v1/sessions/{id}"), &Value::Null);
    assert_eq!(code, 404);
    held.iter().for_each(|(stream, _)| say(stream, "alive"));
    assert_eq!(scene.ends("killed"), 1.0);
}

#[test]
fn what_is_described_is_what_is_answered() {
    let (address, _servers, body) = two("");
    let third = Backend::named("c");
    let scene = Scene::start(body);
    let (_stream, _) = open(address);
    described::every_route(&scene.socket, &scene.ringway, third.address);
}
