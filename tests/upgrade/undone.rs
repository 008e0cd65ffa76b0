//! Upgrades that come to nothing at their latest moment: a program of the test's own stands where the next version is
//! looked for, speaks what goes over the link, and ends when it has been given everything. The process that was to be
//! replaced goes on, with the same sockets and the same limits.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ringway::sys::link;
use serde_json::{Value, json};

use super::service::{Service, children, is_alive};
use super::support::backends::Backend;
use super::support::load::{Load, exchange};
use super::support::ringway::{PROGRAM, listener, pool};
use super::support::wait::{seconds, until};
use super::support::{alone, http, net};
use super::{ask, mirror, open, replace, script, setup};

const ROLE: &str = "RINGWAY_FAKE_ROLE";
const PREDECESSOR: &str = "RINGWAY_FAKE_PREDECESSOR";
/// How long it keeps what it was given before it ends.
const HOLDS: Duration = Duration::from_millis(400);

/// Not a test: the program that stands in the next version's place.
#[test]
#[ignore = "started by processes that the other tests here upgrade"]
fn fake_successor() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let link = link::inherited(3).expect("the link of a successor");
    if role == "mute" {
        stand_still();
    }
    link::set_waiting(link.as_fd(), true, Some(seconds(10))).unwrap();
    let reader = link::Reader::default();
    let mut other = Other { link, reader };
    let protocol = if role == "stranger" { 999 } else { 1 };
    let pid = std::process::id();
    other.say(&json!({"Hello": {"protocol": protocol, "pid": pid, "version": "9.9.9"}}));
    let mut kept = Vec::new();
    let mut flows = 0;
    while let Some((word, descriptors)) = other.hear() {
        kept.extend(descriptors);
        if word.get("Estate").is_some() {
            if role == "greedy" {
                leave_no_descriptor();
            }
            other.say(&json!({"Ready": {"limits": {}}}));
        } else if let Some(some) = word.get("Flows") {
            flows += some["flows"].as_array().unwrap().len();
        } else if word.get("Go").is_some() {
            println!("fake: go with {flows} flows");
            match role.as_str() {
                "after-go" => {
                    std::thread::sleep(HOLDS);
                    std::process::exit(9);
                }
                "mute-after-go" => stand_still(),
                _ => {}
            }
            other.say(&json!("Serving"));
        } else if word == "Yours" {
            std::process::exit(9);
        }
    }
}

/// Until it is ended.
fn stand_still() -> ! {
    loop {
        std::thread::sleep(seconds(60));
    }
}

/// The process at the other end of the link.
struct Other {
    link: OwnedFd,
    reader: link::Reader,
}

impl Other {
    fn say(&self, word: &Value) {
        link::send_all(self.link.as_fd(), word.to_string().as_bytes(), &[]).unwrap();
    }

    /// `None` when it has gone.
    fn hear(&mut self) -> Option<(Value, Vec<OwnedFd>)> {
        let message = self.reader.wait(self.link.as_fd()).unwrap()?;
        let word = serde_json::from_slice(&message.bytes).unwrap();
        Some((word, message.descriptors))
    }
}

/// From now on the process before can open no more than it closes when it stops accepting: a socket for each worker.
fn leave_no_descriptor() {
    let pid: u32 = std::env::var(PREDECESSOR).unwrap().parse().unwrap();
    // It closes its copies of what it has just sent.
    std::thread::sleep(Duration::from_millis(200));
    let is_free = |number: &u32| !Path::new(&format!("/proc/{pid}/fd/{number}")).exists();
    let first = (0..).find(is_free).unwrap();
    limit_descriptors(pid, first);
}

fn limit_descriptors(pid: u32, most: u32) {
    let done = Command::new("prlimit")
        .args(["--pid", &pid.to_string()])
        .arg(format!("--nofile={most}:"))
        .status()
        .expect("prlimit (Debian: util-linux)");
    assert!(done.success());
}

fn descriptor_limit(pid: u32) -> u32 {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    soft.unwrap().parse().unwrap()
}

/// Where the service looks for its program.
struct Program {
    folder: tempfile::TempDir,
}

impl Program {
    fn new() -> Program {
        let program = Program {
            folder: tempfile::tempdir().unwrap(),
        };
        program.is_real();
        program
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ringway")
    }

    fn is_real(&self) {
        replace(&self.path(), Path::new(PROGRAM));
    }

    fn is_fake(&self, role: &str, predecessor: u32) {
        let own = std::env::current_exe().unwrap();
        let text = format!(
            "{ROLE}={role} {PREDECESSOR}={predecessor} exec '{}' --ignored --exact undone::fake_successor --nocapture",
            own.display()
        );
        let path = script(self.folder.path(), role, &text);
        replace(&self.path(), &path);
    }
}

#[track_caller]
fn refused(done: &Output, part: &str) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success(), "{said}");
    for part in [part, "this process goes on"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

fn client(front: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((net::host(), 0)).unwrap();
    socket.set_read_timeout(Some(seconds(5))).unwrap();
    socket.connect(front).unwrap();
    socket
}

fn is_turned_away(front: SocketAddr) -> bool {
    let one_more = client(front);
    let patience = Some(Duration::from_millis(300));
    one_more.set_read_timeout(patience).unwrap();
    one_more.send(b"x").unwrap();
    one_more.recv(&mut [0; 16]).is_err()
}

/// It has the listening sockets and all flows, and ends.
#[test]
fn who_ends_after_go_leaves_every_flow_socket_path_and_limit_as_it_was() {
    let _alone = alone();
    let (backend, (datagrams, thread, stop)) = (Backend::echo(), mirror());
    let (address, front) = (net::free_address(), net::free_address());
    let sockets = tempfile::tempdir().unwrap();
    let path = sockets.path().join("front.sock");
    let limit = "max_connections = 3\n";
    let udp = format!(
        "[[listener]]\nname = \"udp\"\nbind = \"{front}\"\nprotocol = \"udp\"\npool = \"udp\"\nmax_connections = 8\n"
    );
    let body = listener("main", address, "main").trim_end().to_owned()
        + "\n"
        + limit
        + &listener("unix", format!("unix:{}", path.display()), "main")
        + &udp
        + &pool("main", "", &[("only", backend.address)])
        + &pool("udp", "", &[("only", datagrams)]);
    let program = Program::new();
    let mut service = Service::start(setup(body).program(program.path()));
    let first = service.first();
    let old = open(address);
    let clients: Vec<UdpSocket> = (0..6).map(|_| client(front)).collect();
    let seen: Vec<String> = clients.iter().map(|client| ask(client, 0)).collect();
    program.is_fake("after-go", first);
    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| service.ask());
        until(seconds(10), "the fake has everything", || {
            service.ringway.stdout().contains("fake: go with 6 flows")
        });
        // Whoever comes now, with nobody there to accept or receive, waits.
        let early = net::connect(address);
        assert_eq!(ask(&clients[0], 1), seen[0], "another socket");
        exchange(&early, b"hello").expect("served afterwards");
        asking.join().unwrap()
    });
    refused(&asked, "exit status 9");
    assert_eq!((service.newest(), service.generation()), (first, 1));
    let as_before = |round: u32| {
        for (client, seen) in clients.iter().zip(&seen) {
            assert_eq!(&ask(client, round), seen, "another socket");
        }
    };
    as_before(2);
    exchange(&old, b"still here").expect("the session lives");
    until(seconds(5), "only that one is left", || {
        service.ringway.metric("ringway_sessions_active") == 1.0
    });
    let mut by_path = UnixStream::connect(&path).expect("its path");
    by_path.write_all(b"x").unwrap();
    by_path.read_exact(&mut [0; 1]).expect("served by its path");
    let metrics = service.ringway.metrics();
    assert_eq!(metrics.sum("ringway_udp_flows_active", &[]), 6.0);
    assert_eq!(metrics.sum("ringway_udp_flows_total", &[]), 6.0);
    assert_eq!(metrics.sum("ringway_udp_drops_total", &[]), 0.0);
    // Two of each are left of either limit.
    let more = [client(front), client(front)];
    more.iter().for_each(|client| drop(ask(client, 3)));
    assert!(is_turned_away(front), "one more flow than may be");
    let others = [open(address), open(address)];
    let turned_away = || {
        let one_more = net::try_connect(address);
        one_more
            .and_then(|one_more| exchange(&one_more, b"x"))
            .is_err()
    };
    assert!(turned_away(), "one more session than may be");
    // The same process can be upgraded all the same, and the successor counts as it did.
    program.is_real();
    service.upgrade();
    as_before(4);
    assert!(is_turned_away(front), "one more flow than may be");
    assert!(turned_away(), "one more session than may be");
    drop((old, others, by_path));
    service.wait_living(1);
    drop((open(address), open(address), open(address)));
    assert!(path.exists());
    service.stop();
    stop.store(true, Ordering::SeqCst);
    thread.join().unwrap();
}

/// A service before an echo, with its address and where its program is.
fn echoing() -> (Backend, SocketAddr, Program, Service) {
    let (backend, address) = (Backend::echo(), net::free_address());
    let body = listener("main", address, "main") + &pool("main", "", &[("only", backend.address)]);
    let program = Program::new();
    let service = Service::start(setup(body).program(program.path()));
    (backend, address, program, service)
}

/// The old process has let go by then: what it has, it keeps to the end.
#[test]
fn who_ends_after_serving_takes_no_session_of_the_old_process_along() {
    let (_backend, address, program, mut service) = echoing();
    let old = open(address);
    let first = service.first();
    program.is_fake("after-serving", first);
    let done = service.ask();
    assert!(done.status.success(), "{done:?}");
    service.ringway.may_end();
    until(seconds(5), "it is missed", || {
        let said = service.ringway.stderr();
        said.contains("the newest generation is gone; sessions here go on")
    });
    for _ in 0..20 {
        exchange(&old, b"still here").expect("the session lives");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(net::try_connect(address).is_err(), "nobody listens there");
    drop(old);
    until(seconds(10), "it ends with its last session", || {
        service.living().is_empty()
    });
    assert!(!is_alive(first));
}

#[test]
fn who_speaks_another_protocol_is_sent_away() {
    let (_backend, address, program, mut service) = echoing();
    let old = open(address);
    program.is_fake("stranger", service.first());
    refused(
        &service.ask(),
        "the successor (ringway 9.9.9) speaks protocol 999",
    );
    exchange(&old, b"still here").expect("the session lives");
    open(address);
    program.is_real();
    service.upgrade();
    drop(old);
    service.stop();
}

/// Else nobody would know of the oldest any more.
#[test]
fn links_to_older_generations_are_handed_over_or_nothing_is() {
    let (_backend, address, program, mut service) = echoing();
    let old = open(address);
    service.upgrade();
    let held = open(address);
    let third = service.upgrade();
    let limit = descriptor_limit(third);
    program.is_fake("greedy", third);
    let done = service.ask();
    limit_descriptors(third, limit);
    refused(&done, "links to older generations cannot be handed over");
    let older = |service: &Service| service.ringway.metric("ringway_older_processes");
    assert_eq!((service.newest(), older(&service)), (third, 2.0));
    open(address);
    // Neither link is lost: the next one hears of the oldest's end.
    program.is_real();
    service.upgrade();
    until(seconds(5), "the third has no session to stay for", || {
        older(&service) == 2.0
    });
    for stream in [&old, &held] {
        exchange(stream, b"still here").expect("the session lives");
    }
    drop(old);
    until(seconds(10), "the oldest says that it ends", || {
        older(&service) == 1.0
    });
    let said = service.ringway.stderr();
    assert!(!said.contains("gone without a word"), "{said}");
    drop(held);
    service.wait_living(1);
    service.stop();
}

/// One never says a word; the other has been given everything, and does not serve.
#[test]
fn who_is_not_ready_within_fifteen_seconds_is_ended_and_whoever_asked_is_told() {
    std::thread::scope(|scope| {
        for role in ["mute", "mute-after-go"] {
            scope.spawn(move || is_late(role));
        }
    });
}

fn is_late(role: &str) {
    let (backend, (datagrams, thread, stop)) = (Backend::echo(), mirror());
    let (address, front) = (net::free_address(), net::free_address());
    let udp = listener("udp", front, "udp").trim_end().to_owned() + "\nprotocol = \"udp\"\n\n";
    let body = listener("main", address, "main")
        + &udp
        + &pool("main", "", &[("only", backend.address)])
        + &pool("udp", "", &[("only", datagrams)]);
    let program = Program::new();
    let mut service = Service::start(setup(body).program(program.path()));
    let (first, socket) = (service.first(), service.ringway.socket());
    let keeper = children(first)[0].0;
    let flow = client(front);
    flow.set_read_timeout(Some(seconds(20))).unwrap();
    let seen = ask(&flow, 0);
    let stays = Load::on(address, 0, 2);
    program.is_fake(role, first);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let commanded = scope.spawn(|| service.ask());
        let posted = scope.spawn(|| http::over_socket(&socket, "POST", "/v1/upgrade", "").unwrap());
        until(seconds(10), "it has begun", || children(keeper).len() == 1);
        std::thread::sleep(seconds(1));
        let (code, _) = http::over_socket(&socket, "POST", "/v1/reload", "").unwrap();
        assert_eq!(code, 409, "{role}: a reload meanwhile");
        stays.goes_on(20);
        // They are answered now or wait, and nobody is refused.
        let newcomer = net::connect(address);
        assert_eq!(ask(&flow, 1), seen, "{role}: another socket");
        exchange(&newcomer, b"hello").expect("served now or afterwards");
        let (commanded, (code, said)) = (commanded.join().unwrap(), posted.join().unwrap());
        let took = began.elapsed();
        refused(&commanded, "the successor was not ready within 15s");
        assert_eq!(commanded.status.code(), Some(4), "{role}");
        assert_eq!(code, 504, "{role}: {said}");
        assert!(said.to_string().contains("not ready within 15s"), "{said}");
        assert!(took > seconds(14) && took < seconds(19), "{role}: {took:?}");
    });
    assert_eq!((service.newest(), service.generation()), (first, 1));
    assert!(children(keeper).is_empty(), "{role}: it is ended");
    assert_eq!(ask(&flow, 2), seen, "{role}: another socket");
    open(address);
    let metrics = service.ringway.metrics();
    let failed = [("result", "failed")];
    assert_eq!(metrics.sum("ringway_upgrades_total", &failed), 1.0);
    assert_eq!(metrics.sum("ringway_udp_drops_total", &[]), 0.0);
    program.is_real();
    service.upgrade();
    assert_eq!(ask(&flow, 3), seen, "{role}: another socket");
    stays.end();
    service.wait_living(1);
    service.stop();
    stop.store(true, Ordering::SeqCst);
    thread.join().unwrap();
}
