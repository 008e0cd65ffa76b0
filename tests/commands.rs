//! Each command as somebody new to it would use it, against a running instance: what it prints, what it does, and its exit
//! status; and configurations on trial, which come back by themselves.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::backends::{Backend, read_line};
use support::net;
use support::ringway::{PROGRAM, Ringway, Setup, listener, pool, pool_with, run, said};
use support::wait::{seconds, until};

/// A running balancer, and commands that find it by its configuration.
struct Scene {
    ringway: Ringway,
    address: SocketAddr,
    servers: Vec<Backend>,
    socket: PathBuf,
}

const NAMES: [&str; 3] = ["pg1", "pg2", "pg3"];

impl Scene {
    /// Named backends behind one listener, in turn.
    fn start(count: usize, lines: &str) -> Scene {
        let servers: Vec<Backend> = NAMES[..count]
            .iter()
            .map(|name| Backend::named(name))
            .collect();
        let address = net::free_address();
        let body = body(
            address,
            lines,
            &servers.iter().map(|own| own.address).collect::<Vec<_>>(),
        );
        let setup = Setup::new(body).global(
            "workers = 2\npin = \"off\"\nshutdown_grace = \"5s\"\naccess_log = \"stdout\"\n",
        );
        let ringway = setup.with_socket().start();
        Scene {
            socket: ringway.socket(),
            ringway,
            address,
            servers,
        }
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let socket = self.socket.to_str().unwrap();
        let (own, rest) = arguments.split_at(1);
        said(&run(&[own, &["--socket", socket], rest].concat()))
    }

    /// Runs what must succeed, and gives back what it printed.
    #[track_caller]
    fn fine(&self, arguments: &[&str]) -> String {
        let (status, out, err) = self.run(arguments);
        assert_eq!(status, Some(0), "{arguments:?}: {out}{err}");
        assert_eq!(err, "", "{arguments:?}");
        out
    }

    /// Runs what must fail with this status, and gives back its sentence.
    #[track_caller]
    fn fails(&self, arguments: &[&str], expected: i32) -> String {
        let (status, out, err) = self.run(arguments);
        assert_eq!(status, Some(expected), "{arguments:?}: {out}{err}");
        assert_eq!(err.lines().count(), 1, "one sentence: {err}");
        err
    }

    fn open(&self) -> (TcpStream, String) {
        let stream = net::connect(self.address);
        let name = read_line(&stream).expect("the backend's name");
        (stream, name)
    }
}

fn body(address: SocketAddr, lines: &str, servers: &[SocketAddr]) -> String {
    let lines = format!("algorithm = \"round-robin\"\n{lines}");
    let members: Vec<_> = NAMES.into_iter().zip(servers.iter().copied()).collect();
    listener("main", address, "pg") + &pool("pg", &lines, &members)
}

#[test]
fn status_tells_people_and_programs_what_runs() {
    let scene = Scene::start(2, "");
    let (_stream, _) = scene.open();
    let text = scene.fine(&["status"]);
    assert!(
        text.starts_with("ringway ") && text.contains(" serving, up "),
        "{text}"
    );
    for part in [
        "\nlisteners\n",
        &format!("main  {}  pg", scene.address),
        "\npool pg: round-robin, serving tier 0, 0 of 1024 waiting\n",
        &scene.servers[1].address.to_string(),
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    let json: Value = serde_json::from_str(&scene.fine(&["status", "--json"])).unwrap();
    assert_eq!(json["sessions"]["active"], 1);
    // The configuration names the socket, too.
    let config = scene.ringway.folder().join("config.toml");
    let (status, out, _) = said(&run(&["status", "-c", config.to_str().unwrap()]));
    assert_eq!(
        (status, out.lines().next().unwrap().starts_with("ringway ")),
        (Some(0), true)
    );
}

#[test]
fn drain_waits_for_the_last_session_or_says_that_it_did_not_end() {
    let scene = Scene::start(2, "");
    let held: Vec<_> = (0..4).map(|_| scene.open()).collect();
    let began = Instant::now();
    let late = scene.fails(&["drain", "pg/pg1", "--wait", "500ms"], 4);
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert!(
        late.contains("pg/pg1 still has 2 sessions after 0.5s"),
        "{late}"
    );
    for _ in 0..6 {
        assert_eq!(scene.open().1, "pg2");
    }
    let ends = thread::spawn(move || {
        thread::sleep(Duration::from_millis(400));
        drop(held);
    });
    let text = scene.fine(&["drain", "pg/pg1", "--wait", "20s"]);
    ends.join().unwrap();
    assert!(text.contains("pg/pg1: draining, weight 100"), "{text}");
    assert!(text.contains("pg/pg1: drained after "), "{text}");
    assert!(
        scene
            .fine(&["drain", "pg/pg1"])
            .contains("pg/pg1: draining")
    );
    let text = scene.fine(&["ready", "pg/pg1"]);
    assert!(
        text.starts_with("backend pg/pg1: ready now, was draining\n"),
        "{text}"
    );
    let names: Vec<String> = (0..4).map(|_| scene.open().1).collect();
    assert!(names.contains(&"pg1".to_owned()), "{names:?}");
}

#[test]
fn maintain_and_weight_do_what_they_say() {
    let scene = Scene::start(2, "");
    let held: Vec<_> = (0..4).map(|_| scene.open()).collect();
    let text = scene.fine(&["maintain", "pg/pg2"]);
    assert!(text.contains("pg/pg2: maintenance"), "{text}");
    for (mut stream, name) in held {
        if name == "pg2" {
            let error = stream.read(&mut [0]).expect_err("closed");
            assert!(net::is_reset(&error), "{error}");
        } else {
            writeln!(stream, "alive").unwrap();
            assert_eq!(read_line(&stream).unwrap(), "alive");
        }
    }
    scene.fine(&["ready", "pg/pg2"]);
    let text = scene.fine(&["weight", "pg/pg2", "0"]);
    assert!(
        text.starts_with("backend pg/pg2: weight 100 -> 0\n"),
        "{text}"
    );
    for _ in 0..6 {
        assert_eq!(scene.open().1, "pg1");
    }
    let text = scene.fine(&["status"]);
    assert!(
        text.contains("by the operator: backend pg/pg2 has weight 0, the file says 100"),
        "{text}"
    );
}

#[test]
fn sessions_are_listed_and_a_killed_one_ends_as_killed() {
    let scene = Scene::start(2, "");
    assert_eq!(scene.fine(&["sessions"]), "no sessions\n");
    let mut held: Vec<_> = (0..4).map(|_| scene.open()).collect();
    let text = scene.fine(&["sessions", "--backend", "pg/pg1"]);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        text.lines().skip(1).all(|line| line.contains("pg/pg1")),
        "{text}"
    );
    let text = scene.fine(&["sessions", "--limit", "1"]);
    assert!(text.ends_with("the 1 oldest of 4\n"), "{text}");
    let json: Value = serde_json::from_str(&scene.fine(&["sessions", "--json"])).unwrap();
    let id = json["sessions"][0]["id"].as_str().unwrap();
    assert_eq!(
        json["sessions"][0]["client"],
        held[0].0.local_addr().unwrap().to_string()
    );
    assert_eq!(
        scene.fine(&["kill", id]),
        format!("session {id} is ended\n")
    );
    let (mut stream, _) = held.remove(0);
    assert!(net::is_reset(&stream.read(&mut [0]).expect_err("closed")));
    until(seconds(5), "its line is in the log", || {
        let log = scene.ringway.stdout();
        log.lines()
            .any(|line| line.contains(&format!("id={id} ")) && line.contains(" end=killed "))
    });
    let gone = scene.fails(&["kill", id], 2);
    assert!(gone.contains("has ended, or never was"), "{gone}");
}

#[test]
fn wrong_names_and_words_get_a_sentence_and_status_2() {
    let scene = Scene::start(2, "");
    let said = scene.fails(&["drain", "pg/pg3"], 2);
    assert!(
        said.contains("there is no backend \"pg3\" in pool pg; did you mean pg1 or pg2?"),
        "{said}"
    );
    let said = scene.fails(&["ready", "pgg/pg1"], 2);
    assert!(said.contains("did you mean pg?"), "{said}");
    let said = scene.fails(&["maintain", "pg1"], 2);
    assert!(
        said.contains("allowed: POOL/BACKEND, like pg/pg1"),
        "{said}"
    );
    let said = scene.fails(&["weight", "pg/pg1", "1001"], 2);
    assert!(
        said.contains("weight: found 1001; allowed: a whole number from 0 to 1000"),
        "{said}"
    );
    let said = scene.fails(&["sessions", "--backend", "pg/pg9"], 2);
    assert!(said.contains("did you mean pg/pg1 or pg/pg2?"), "{said}");
    assert_eq!(scene.run(&["drain", "pg/pg1", "--wait", "soon"]).0, Some(2));
    let nobody = run(&["status", "--socket", "/nonexistent/admin.sock"]);
    let (status, _, err) = self::said(&nobody);
    assert_eq!(status, Some(1));
    assert!(
        err.contains("no ringway answers at /nonexistent/admin.sock"),
        "{err}"
    );
}

/// For programs: one JSON object and nothing else, also from commands that change something.
#[test]
fn changes_are_told_to_programs_too() {
    let scene = Scene::start(2, "");
    let json = |arguments: &[&str]| -> Value {
        let text = scene.fine(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    };
    let changed = json(&["weight", "pg/pg1", "7"]);
    assert_eq!(changed["backend"]["weight"], 7);
    assert_eq!(changed["changes"][0], "backend pg/pg1: weight 100 -> 7");
    let drained = json(&["drain", "pg/pg1", "--wait", "5s"]);
    assert_eq!(drained["backend"]["admin"], "draining");
    assert_eq!(json(&["ready", "pg/pg1"])["backend"]["admin"], "ready");
    assert_eq!(
        json(&["maintain", "pg/pg2"])["backend"]["admin"],
        "maintenance"
    );
    let (_stream, _) = scene.open();
    let id = json(&["sessions"])["sessions"][0]["id"].clone();
    assert_eq!(json(&["kill", id.as_str().unwrap()])["killed"], id);
    assert_eq!(json(&["reload"])["changes"], Value::Array(Vec::new()));
    scene
        .ringway
        .write_raw(&scene.ringway.text().replace("round-robin", "random"));
    assert!(json(&["reload", "--confirm", "1m"])["confirm_until"].is_string());
    json(&["confirm"]);
    assert!(scene.ringway.status()["reload"]["confirm_until"].is_null());
    let (status, _, err) = scene.run(&["weight", "pg/pg1", "-1"]);
    assert_eq!(status, Some(2));
    assert!(
        err.contains("allowed: a whole number from 0 to 1000"),
        "{err}"
    );
    let version = format!("ringway {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        said(&run(&["--version"])),
        (Some(0), version, String::new())
    );
}

#[test]
fn reload_prints_what_changed_and_why_it_was_refused() {
    let mut scene = Scene::start(2, "");
    assert_eq!(scene.fine(&["reload"]), "nothing changed\n");
    let (first, third) = (scene.servers[0].address, Backend::named("pg3"));
    let members = [
        ("pg1", first.to_string(), "weight = 50"),
        ("pg3", third.address.to_string(), ""),
    ];
    let lines = "algorithm = \"round-robin\"\nidle_timeout = \"5m\"";
    let changed = listener("main", scene.address, "pg")
        + &pool_with("pg", lines, "[pool.health]\nkind = \"none\"\n", &members);
    scene.ringway.rewrite(changed.clone());
    assert_eq!(
        scene.fine(&["reload"]),
        "pool pg: idle_timeout off -> 5m\nbackend pg/pg1: weight 100 -> 50\nbackend pg/pg2 removed\n\
         backend pg/pg3 added\n"
    );
    let log = scene.ringway.stderr();
    assert!(
        log.contains("reload taken: 4 changes") && log.contains("reload: backend pg/pg3 added"),
        "{log}"
    );
    scene
        .ringway
        .rewrite(changed.replace("weight = 50", "wieght = 50"));
    let refused = scene.fails(&["reload"], 2);
    assert!(
        refused.contains("config.toml:") && refused.contains("did you mean \"weight\"?"),
        "{refused}"
    );
    assert!(!scene.ringway.reload(), "SIGHUP says the same");
    assert_eq!(
        scene.ringway.status()["pools"][0]["backends"][0]["weight"],
        50
    );
}

#[test]
fn a_configuration_that_nobody_confirms_goes_back_by_itself() {
    let mut scene = Scene::start(2, "");
    let addresses: Vec<_> = scene.servers.iter().map(|own| own.address).collect();
    let only_second = body(scene.address, "", &addresses[..1]);
    let stream = scene.open();
    scene.ringway.rewrite(only_second);
    let text = scene.fine(&["reload", "--confirm", "2s"]);
    assert!(
        text.starts_with("backend pg/pg2 removed\nnot confirmed: "),
        "{text}"
    );
    assert!(
        scene
            .fine(&["status"])
            .contains("not confirmed: the configuration before comes back at")
    );
    let count = |scene: &Scene| {
        scene.ringway.status()["pools"][0]["backends"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count(&scene), 1);
    until(seconds(10), "it is back", || count(&scene) == 2);
    let last = |scene: &Scene| scene.ringway.status()["reload"]["last"].clone();
    until(seconds(5), "and the status says so", || {
        last(&scene)["result"] == "reverted"
    });
    assert_eq!(last(&scene)["reason"], "it was not confirmed in time");
    let said = scene.fails(&["confirm"], 1);
    assert!(said.contains("nothing waits for a confirmation"), "{said}");

    // Confirmed, it stays.
    scene.fine(&["reload", "--confirm", "1s"]);
    assert_eq!(scene.fine(&["confirm"]), "confirmed\n");
    thread::sleep(Duration::from_millis(1_600));
    assert_eq!(count(&scene), 1);
    writeln!(&stream.0, "through all of it").unwrap();
    assert_eq!(read_line(&stream.0).unwrap(), "through all of it");

    // A refused reload leaves a trial alone; an unconditional one ends it.
    scene.ringway.rewrite(body(scene.address, "", &addresses));
    scene.fine(&["reload", "--confirm", "60s"]);
    scene.ringway.rewrite("nonsense".to_owned());
    scene.fails(&["reload"], 2);
    assert!(scene.ringway.status()["reload"]["confirm_until"].is_string());
    scene.ringway.rewrite(body(scene.address, "", &addresses));
    assert_eq!(scene.fine(&["reload"]), "nothing changed\n");
    assert!(scene.ringway.status()["reload"]["confirm_until"].is_null());
    assert_eq!(count(&scene), 2);
}

const CHECKED: &str = "[pool.health]\nkind = \"tcp\"\ninterval = \"100ms\"\nfast_interval = \"50ms\"\n\
                       timeout = \"100ms\"\nrise = 1\nfall = 1\n";

#[test]
fn a_configuration_without_eligible_backends_goes_back_at_once() {
    let mut scene = Scene::start(1, "");
    let good = [("pg1", scene.servers[0].address.to_string(), "")];
    let good = listener("main", scene.address, "pg") + &pool_with("pg", "", CHECKED, &good);
    scene.ringway.rewrite(good);
    scene.fine(&["reload"]);
    scene.ringway.wait_state("pg1", "up", seconds(10));
    let log = || scene.ringway.stderr();
    let text = scene.ringway.text();
    let server = scene.servers[0].address.to_string();
    let began = Instant::now();
    scene
        .ringway
        .write_raw(&text.replace(&server, "127.0.0.1:1"));
    let text = scene.fine(&["reload", "--confirm", "10m"]);
    assert!(text.contains("pg/pg1: address"), "{text}");
    // Who comes meanwhile waits, and is served when it is back.
    let (_stream, name) = scene.open();
    assert_eq!(name, "pg1");
    assert!(began.elapsed() < seconds(10), "{:?}", began.elapsed());
    until(seconds(5), "it is counted", || {
        scene.ringway.status()["reload"]["reverted"] == 1
    });
    assert!(
        log().contains("listener main has no eligible backend, it had 1"),
        "{}",
        log()
    );
}

#[test]
fn a_configuration_that_fails_clients_goes_back_at_once() {
    let mut scene = Scene::start(2, "");
    // A breaker would take the dead one out after three failures, and nobody would have to go back.
    let tables = "[pool.health]\nkind = \"none\"\n[pool.breaker]\nconsecutive_failures = 0\nerror_percent = 0\n";
    let members: Vec<_> = NAMES
        .into_iter()
        .zip(&scene.servers)
        .map(|(name, own)| (name, own.address.to_string(), ""))
        .collect();
    let lines = "algorithm = \"round-robin\"";
    let unbroken =
        listener("main", scene.address, "pg") + &pool_with("pg", lines, tables, &members);
    scene.ringway.rewrite(unbroken);
    scene.fine(&["reload"]);
    for _ in 0..50 {
        scene.open();
    }
    // Without checks only real clients can tell.
    let text = scene.ringway.text();
    let one = scene.servers[1].address.to_string();
    scene.ringway.write_raw(&text.replace(&one, "127.0.0.1:1"));
    scene.fine(&["reload", "--confirm", "10m"]);
    let deadline = Instant::now() + seconds(20);
    while scene.ringway.status()["reload"]["reverted"] == 0 {
        // An attempt that fails goes to the other one: clients do not notice.
        scene.open();
        assert!(Instant::now() < deadline, "{}", scene.ringway.stderr());
    }
    let log = scene.ringway.stderr();
    assert!(log.contains("attempts failed since"), "{log}");
    let names: Vec<String> = (0..6).map(|_| scene.open().1).collect();
    assert!(names.contains(&"pg2".to_owned()), "{names:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let scene = Scene::start(2, "");
    let socket = scene.socket.to_str().unwrap();
    for command in [
        "status",
        "status --json",
        "sessions",
        "drain pg/pg1",
        "reload",
    ] {
        let script =
            format!("{PROGRAM} {command} --socket {socket} | true; echo ${{PIPESTATUS[0]}}");
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let (_, out, err) = said(&output);
        assert_eq!((out.trim(), err.as_str()), ("0", ""), "{command}");
    }
    for command in [
        "man",
        "completions bash",
        "completions zsh",
        "completions fish",
    ] {
        let script = format!("{PROGRAM} {command} | true; echo ${{PIPESTATUS[0]}}");
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let (_, out, err) = said(&output);
        assert_eq!((out.trim(), err.as_str()), ("0", ""), "{command}");
    }
}

#[test]
fn completions_and_the_manual_know_every_command() {
    let help = said(&run(&["--help"])).1;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| line.starts_with("  "));
    let commands: Vec<&str> = listed
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 15, "{help}");
    let manual = said(&run(&["man"])).1;
    let bash = said(&run(&["completions", "bash"])).1;
    for command in &commands {
        assert!(
            bash.contains(&format!("ringway,{command})")),
            "{command} in bash"
        );
        if *command != "help" {
            assert!(
                manual.contains(&format!(".SS \"{command}\"")),
                "{command} in the manual"
            );
        }
    }
    for shell in ["zsh", "fish"] {
        let (status, text, _) = said(&run(&["completions", shell]));
        assert!(status == Some(0) && text.contains("maintain"), "{shell}");
    }
    // The shell itself says what it would offer.
    let script = format!(
        "eval \"$({PROGRAM} completions bash)\"; COMP_WORDS=(ringway ma); COMP_CWORD=1; _ringway ringway ma ringway; \
         echo ${{COMPREPLY[@]}}"
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(said(&output).1.trim(), "maintain man");
}

/// What it does on one is in `top.rs`.
#[test]
fn top_needs_a_terminal() {
    let scene = Scene::start(2, "");
    let refused = scene.fails(&["top"], 2);
    assert!(refused.contains("top needs a terminal"), "{refused}");
}
