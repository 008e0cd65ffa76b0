//! The admin doors while something else goes on: a worker that hangs, an upgrade, a process that is stopped, a queue that is
//! full.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use super::support::frozen::Frozen;
use super::support::ringway::{PROGRAM, Setup};
use super::support::wait::{seconds, until, within};
use super::support::{alone, http, process};
use super::{Scene, described, open, two};

/// However many ask, each has an answer in time, and what is about another worker is done.
#[test]
fn a_stuck_worker_makes_no_queue_of_askers() {
    let _alone = alone();
    let (address, _servers, body) = two("");
    let scene = Scene::start(body);
    let mut held = Vec::new();
    let session = within(seconds(10), "a session of worker 1", || {
        held.push(open(address));
        let listed = scene.done("GET", "/v1/sessions", &Value::Null);
        let mut ids = listed["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| &row["id"]);
        let of_one = ids.find(|id| id.as_str().unwrap().starts_with("1-"))?;
        Some(of_one.as_str().unwrap().to_owned())
    });
    let hung = Frozen::thread(scene.ringway.pid(), "worker-0");
    thread::scope(|scope| {
        let ask = || {
            let began = Instant::now();
            let (code, _) = scene.ringway.get("/v1/sessions").expect("an answer");
            (code, began.elapsed())
        };
        let askers: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        scene.done("DELETE", &format!("/v1/sessions/{session}"), &Value::Null);
        assert!(
            began.elapsed() < seconds(4),
            "killed after {:?}",
            began.elapsed()
        );
        for asker in askers {
            let (code, took) = asker.join().unwrap();
            assert_eq!(code, 504);
            assert!(took < seconds(4), "answered after {took:?}");
        }
    });
    drop(hung);
    until(seconds(5), "it answers again", || {
        scene.ask("GET", "/v1/sessions", &Value::Null).0 == 200
    });
}

/// Puts a script in the place of the program.
fn replace(program: &Path, script: &str) {
    let new = program.with_extension("new");
    fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, program).unwrap();
}

#[test]
fn nothing_changes_while_a_successor_starts() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("ringway");
    symlink(PROGRAM, &program).unwrap();
    let (_address, _servers, body) = two("");
    let setup = Setup::new(body).workers(2).program(program.clone());
    let scene = Scene::with(setup);
    replace(&program, "exec sleep 2");
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| scene.ask("POST", "/v1/upgrade", &Value::Null));
        until(seconds(5), "it is under way", || {
            scene.ask("POST", "/v1/reload/confirm", &Value::Null).1["error"]
                .as_str()
                .is_some_and(|sentence| sentence.contains("upgrade"))
        });
        described::every_change_during_an_upgrade(&scene.socket);
        // Who asks by signal sees it in the status.
        scene.ringway.signal("HUP");
        until(seconds(1), "the status says so", || {
            let last = &scene.ringway.status()["reload"]["last"];
            last["error"] == "an upgrade is under way: ask again in a moment"
        });
        assert!(!upgrade.is_finished());
        let (code, answer) = upgrade.join().unwrap();
        assert_eq!(code, 500, "{answer:#}");
        described::upgrade_answer(&scene.socket, code, &answer);
    });
    let refused = [("result", "refused")];
    let metrics = scene.ringway.metrics();
    assert_eq!(metrics.sum("ringway_reloads_total", &refused), 1.0);
    scene.set("a", &json!({ "weight": 7 }));
    assert!(scene.ringway.reload());
}

fn knock(path: &Path) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

#[test]
fn many_may_stand_before_the_admin_socket() {
    let (_address, _servers, body) = two("");
    let scene = Scene::start(body);
    let pid = scene.ringway.pid();
    scene.ringway.signal("STOP");
    until(seconds(10), "all its threads are stopped", || {
        process::states(pid).iter().all(|state| *state == 'T')
    });
    let crowd: Vec<_> = (0..1000).map(|_| knock(&scene.socket)).collect();
    scene.ringway.signal("CONT");
    let turned_away = crowd.iter().filter(|it| it.is_err()).count();
    assert_eq!(turned_away, 0, "of {}", crowd.len());
    drop(crowd);
    let (code, _) = http::over_socket(&scene.socket, "GET", "/healthz", "").unwrap();
    assert_eq!(code, 200);
}

#[test]
fn a_command_waits_before_a_full_queue() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let _first = knock(&path).unwrap();
    assert_eq!(knock(&path).unwrap_err().kind(), ErrorKind::WouldBlock);
    let mut command = Command::new(PROGRAM);
    command.args(["status", "--json", "--socket"]).arg(&path);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    thread::sleep(Duration::from_millis(500));
    let queue = UnixListener::from(socket);
    drop(queue.accept().unwrap());
    queue.set_nonblocking(true).unwrap();
    let accepted = within(seconds(10), "it knocks again", || queue.accept().ok());
    let (mut stream, _) = accepted;
    stream.set_nonblocking(false).unwrap();
    let mut head = [0; 1024];
    let length = stream.read(&mut head).unwrap();
    assert!(head[..length].starts_with(b"GET /v1/status"));
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}\n")
        .unwrap();
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert_eq!(done.stdout, b"{}\n");
}
