//! Upgrades of the running process: nobody is refused or cut, limits hold over all generations, a successor that comes to
//! nothing changes nothing, and stopping the service stops all of it. The sandbox is on.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "upgrade/anew.rs"]
mod anew;
#[path = "upgrade/hundred.rs"]
mod hundred;
#[path = "upgrade/service.rs"]
mod service;
#[path = "upgrade/undone.rs"]
mod undone;
#[path = "upgrade/user.rs"]
mod user;

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use service::{Service, children, is_alive};
use support::backends::Backend;
use support::events::EventStream;
use support::load::{Load, exchange};
use support::pattern;
use support::ringway::{PROGRAM, Setup, listener, pool, pool_with, single};
use support::wait::{seconds, until};
use support::{alone, net, process};

const GLOBAL: &str = "workers = 2\npin = \"off\"\nshutdown_grace = \"2s\"\n";

fn setup(body: String) -> Setup {
    Setup::new(body).global(GLOBAL)
}

/// A client that has been served once.
fn open(address: SocketAddr) -> TcpStream {
    let stream = net::connect(address);
    exchange(&stream, b"hello").expect("served");
    stream
}

#[test]
fn under_a_steady_load_nobody_notices() {
    let _alone = alone();
    let backend = Backend::echo();
    let address = net::free_address();
    let sockets = tempfile::tempdir().unwrap();
    let front = sockets.path().join("front.sock");
    let unix = listener("unix", format!("unix:{}", front.display()), "main");
    let mut service = Service::start(setup(single(address, backend.address) + &unix));
    let old = open(address);
    let load = Load::on(address, 3, 4);
    let mut made = 1;
    for upgrade in 1..=3 {
        load.goes_on(300);
        let pid = upgrade_in_turn(&mut service, upgrade);
        assert_eq!(service.generation(), upgrade as u64 + 1);
        let mut by_path = UnixStream::connect(&front).unwrap();
        std::io::Write::write_all(&mut by_path, b"x").unwrap();
        by_path.read_exact(&mut [0; 1]).expect("served by its path");
        made += 1;
        // The successor is shut in as well, and has a keeper of its own.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"));
        let names: Vec<String> = children(pid).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["keeper"]);
    }
    load.goes_on(300);
    // From before the first upgrade, and whole to the end.
    let sending = old.try_clone().unwrap();
    let total = 8 << 20;
    let sender = std::thread::spawn(move || pattern::send(&sending, 7, total, 40_000).unwrap());
    let mut offset = 0;
    let mut piece = vec![0; 64 << 10];
    while offset < total {
        let length = (&old).read(&mut piece).expect("the old session lives");
        assert!(length > 0, "it ended after {offset} bytes");
        pattern::check(7, offset, &piece[..length]).unwrap();
        offset += length as u64;
    }
    sender.join().unwrap();
    drop(old);
    made += load.end().sessions;
    service.wait_living(1);
    until(seconds(5), "every session is counted once", || {
        let metrics = service.ringway.metrics();
        metrics.sum("ringway_sessions_total", &[]) == made as f64
            && metrics.sum("ringway_sessions_active", &[]) == 0.0
    });
    let metrics = service.ringway.metrics();
    assert_eq!(metrics.sum("ringway_session_ends_total", &[]), made as f64);
    assert_eq!(metrics.sum("ringway_refused_total", &[]), 0.0);
    assert_eq!(metrics.sum("ringway_process_generation", &[]), 4.0);
    assert_eq!(metrics.sum("ringway_older_processes", &[]), 0.0);
    let done = [("result", "done")];
    assert_eq!(metrics.sum("ringway_upgrades_total", &done), 3.0);
    assert_eq!(backend.failed(), 0);
    service.stop();
    assert!(!front.exists());
    assert!(net::try_connect(address).is_err());
}

#[test]
fn one_limit_holds_over_all_generations() {
    let backend = Backend::echo();
    let address = net::free_address();
    let unchecked = "[pool.health]\nkind = \"none\"\n";
    let only = [("only", backend.address.to_string(), "max_connections = 4\n")];
    let body = listener("main", address, "main") + &pool_with("main", "", unchecked, &only);
    let mut service = Service::start(setup(body));
    let mut held: Vec<TcpStream> = (0..2).map(|_| open(address)).collect();
    service.upgrade();
    held.push(open(address));
    service.upgrade();
    held.push(open(address));
    // Full: whoever comes now waits, in whichever process the places are.
    let load = Load::on(address, 6, 0);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((backend.peak(), backend.active()), (4, 4));
    assert_eq!(load.rounds(), 0, "no place was free");
    // A place in the first process serves those who wait in the third.
    drop(held.remove(0));
    until(seconds(5), "the load has a place", || load.rounds() > 200);
    service.upgrade();
    load.goes_on(200);
    assert_eq!(backend.peak(), 4);
    // One generation is killed: what it held is free again, and not more.
    let first = service.first();
    process::signal(first, "KILL");
    let metric = || service.ringway.metric("ringway_older_processes");
    until(seconds(5), "it is missed", || metric() == 2.0);
    let more = open(address);
    let before = load.rounds();
    until(seconds(5), "the load goes on", || {
        assert!(backend.active() <= 4, "one more than may be");
        load.rounds() > before + 200
    });
    load.end();
    drop((held, more));
    service.wait_living(1);
    until(seconds(5), "the last session is counted off", || {
        service.ringway.status()["pools"][0]["backends"][0]["sessions"] == 0
    });
    // The whole limit is there again.
    let all: Vec<TcpStream> = (0..4).map(|_| open(address)).collect();
    drop(all);
    service.stop();
}

/// By the command, or every third time by SIGUSR2.
fn upgrade_in_turn(service: &mut Service, n: usize) -> u32 {
    match n % 3 {
        2 => service.upgrade_by_signal(),
        _ => service.upgrade(),
    }
}

/// Puts another program at the path that the service was started by.
fn replace(link: &Path, target: &Path) {
    let new = link.with_extension("new");
    symlink(target, &new).unwrap();
    fs::rename(&new, link).unwrap();
}

fn script(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_successor_that_comes_to_nothing_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("ringway");
    symlink(PROGRAM, &link).unwrap();
    let backend = Backend::echo();
    let address = net::free_address();
    let sockets = tempfile::tempdir().unwrap();
    let front = sockets.path().join("front.sock");
    let unix = listener("unix", format!("unix:{}", front.display()), "main");
    let mut service =
        Service::start(setup(single(address, backend.address) + &unix).program(link.clone()));
    let text = service.ringway.text();
    let old = open(address);
    let load = Load::on(address, 2, 2);
    let first = service.first();
    let refused = |service: &Service, status: i32, parts: &[&str]| {
        let done = service.ask();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(status), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        assert!(said.contains("this process goes on"), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert_eq!((service.newest(), service.generation()), (first, 1));
        let error = service.process()["last_upgrade"]["error"].clone();
        assert!(error.as_str().unwrap().contains(parts[0]), "{error}");
        let names: Vec<String> = children(first).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["keeper"]);
        open(address);
        UnixStream::connect(&front).expect("by its path");
    };
    service.ringway.write_raw("nonsense");
    refused(&service, 2, &["the successor says", "config.toml"]);
    let elsewhere = net::listen(net::free_address());
    let taken = elsewhere.local_addr().unwrap();
    service
        .ringway
        .write_raw(&(text.clone() + &listener("taken", taken, "main")));
    refused(&service, 1, &["the successor says", "address in use"]);
    service
        .ringway
        .write_raw(&text.replace("workers = 2", "workers = 1"));
    let sentence = "set global.workers = 2";
    refused(&service, 1, &["the successor says", sentence]);
    service.ringway.write_raw(&text);
    replace(&link, &script(folder.path(), "ends", "exit 7"));
    let began = Instant::now();
    refused(&service, 1, &["exit status 7"]);
    // Its end is known at once: nothing is to be waited for.
    assert!(began.elapsed() < seconds(2), "{:?}", began.elapsed());
    replace(&link, &script(folder.path(), "crashes", "kill -SEGV $$"));
    refused(&service, 1, &["signal 11"]);
    replace(&link, &folder.path().join("nowhere"));
    refused(&service, 1, &["cannot be started", "No such file"]);
    let failed = [("result", "failed")];
    let metrics = service.ringway.metrics();
    assert_eq!(metrics.sum("ringway_upgrades_total", &failed), 6.0);
    // The program is mended, and the same process can be upgraded.
    replace(&link, Path::new(PROGRAM));
    service.upgrade();
    exchange(&old, b"still here").expect("the first session lives");
    drop(old);
    load.end();
    service.stop();
}

#[test]
fn a_fifth_generation_waits_for_the_oldest() {
    let backend = Backend::echo();
    let address = net::free_address();
    let mut service = Service::start(setup(single(address, backend.address)));
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(open(address));
        service.upgrade();
    }
    let refused = service.ask();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let oldest = format!("generation 1 (process {})", service.first());
    for part in ["4 generations are alive", &oldest, "still has 1 sessions"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(service.living().len(), 4);
    for stream in &held {
        exchange(stream, b"nobody is cut").expect("served");
    }
    drop(held.remove(0));
    service.wait_living(3);
    until(seconds(5), "the newest knows", || {
        service.ringway.metric("ringway_older_processes") == 2.0
    });
    service.upgrade();
    for stream in &held {
        exchange(stream, b"nobody is cut").expect("served");
    }
    // Stopping the newest stops all, within the newest's time.
    service.stop();
    for stream in &held {
        assert!(exchange(stream, b"x").is_err(), "cut with its generation");
    }
}

#[test]
fn what_is_known_goes_over_and_the_operators_word_reaches_old_generations() {
    let (mut dead, alive) = (Backend::echo(), Backend::echo());
    let address = net::free_address();
    let health =
        "[pool.health]\nkind = \"tcp\"\ninterval = \"60s\"\nfast_interval = \"200ms\"\nfall = 1\n";
    let backends = [
        ("dead", dead.address.to_string(), ""),
        ("alive", alive.address.to_string(), ""),
    ];
    let body = listener("main", address, "main") + &pool_with("main", "", health, &backends);
    let grace = "workers = 1\npin = \"off\"\nshutdown_grace = \"2s\"\nupgrade_grace = \"60s\"\n";
    let mut service = Service::start(Setup::new(body).global(grace));
    let first_verdicts =
        |service: &Service| service.ringway.stderr().matches("was unknown").count();
    until(seconds(5), "both have a verdict", || {
        first_verdicts(&service) == 2
    });
    let old = open(address);
    let on_dead = backends[0].0;
    dead.stop_listening();
    drop(open(address));
    let socket = service.ringway.socket();
    let put = |name: &str, body: &str| {
        let path = format!("/v1/pools/main/backends/{name}");
        support::http::over_socket(&socket, "PUT", &path, body).unwrap()
    };
    assert_eq!(put("alive", "{\"weight\": 7}").0, 200);
    let state = |service: &Service, place: usize, key: &str| {
        service.ringway.status()["pools"][0]["backends"][place][key].clone()
    };
    let health_before = state(&service, 1, "health");
    let mut events = EventStream::open(service.ringway.admin(), Some("0"));
    let last = events.find(seconds(5), "the weight", |it| it.kind == "backend");
    service.upgrade();
    // Whoever listens is sent to the new one at once, though the old one lives on for its session.
    assert!(
        events.ends_within(seconds(2)),
        "it listens where nothing happens"
    );
    let mut events = EventStream::open(service.ringway.admin(), Some(&last.id));
    assert_eq!(first_verdicts(&service), 2, "the successor knew nothing");
    assert_eq!(state(&service, 1, "health"), health_before);
    assert_eq!(state(&service, 1, "weight"), 7, "{on_dead}");
    assert_eq!(health_before, "up");
    exchange(&old, b"lives").expect("served");
    // Maintenance closes sessions of every generation.
    for name in ["dead", "alive"] {
        assert_eq!(put(name, "{\"admin\": \"maintenance\"}").0, 200);
    }
    until(seconds(5), "its backend is in maintenance", || {
        exchange(&old, b"x").is_err()
    });
    let told = events.find(seconds(5), "maintenance", |it| {
        it.text("to") == "maintenance"
    });
    assert_eq!(told.text("backend"), "dead");
    service.wait_living(1);
    service.stop();
}

#[test]
fn an_old_generation_ends_after_its_time_and_the_keeper_with_its_service() {
    let backend = Backend::echo();
    let address = net::free_address();
    let grace = "workers = 1\npin = \"off\"\nshutdown_grace = \"2s\"\nupgrade_grace = \"1s\"\n";
    let mut service = Service::start(Setup::new(single(address, backend.address)).global(grace));
    let old = open(address);
    let keeper = children(service.first())[0].0;
    service.upgrade();
    until(seconds(2), "the first keeper is gone", || !is_alive(keeper));
    service.wait_living(1);
    assert!(exchange(&old, b"x").is_err(), "closed after upgrade_grace");
    let newest = service.newest();
    let (keeper, name) = children(newest).remove(0);
    assert_eq!(name, "keeper");
    assert!(process::resident_kib(keeper) < 4 << 10, "it takes memory");
    process::signal(newest, "KILL");
    until(seconds(2), "the keeper goes with its service", || {
        !is_alive(keeper)
    });
}

/// Answers each datagram with the address that it came from: the flow's socket, as the backend sees it.
fn mirror() -> (SocketAddr, std::thread::JoinHandle<()>, Arc<AtomicBool>) {
    let socket = UdpSocket::bind(net::free_address()).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let address = socket.local_addr().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        let mut piece = [0; 2048];
        while !stopped.load(Ordering::SeqCst) {
            if let Ok((length, from)) = socket.recv_from(&mut piece) {
                let answer = format!("{} {from}", String::from_utf8_lossy(&piece[..length]));
                socket.send_to(answer.as_bytes(), from).unwrap();
            }
        }
    });
    (address, thread, stop)
}

/// One question, and the address that the backend saw it come from.
fn ask(socket: &UdpSocket, number: u32) -> String {
    socket.send(number.to_string().as_bytes()).unwrap();
    let mut piece = [0; 256];
    let length = socket.recv(&mut piece).expect("an answer");
    let text = String::from_utf8_lossy(&piece[..length]).into_owned();
    let (echoed, from) = text.split_once(' ').unwrap();
    assert_eq!(
        echoed,
        number.to_string(),
        "another answer than was asked for"
    );
    from.to_owned()
}

#[test]
fn flows_go_over_with_their_sockets() {
    let _alone = alone();
    let (one, two) = (mirror(), mirror());
    let front = net::free_address();
    let main = format!(
        "[[listener]]\nname = \"udp\"\nbind = \"{front}\"\nprotocol = \"udp\"\npool = \"main\"\nmax_connections = 60\n"
    );
    let backends = [("one", one.0), ("two", two.0)];
    let mut service = Service::start(setup(main + &pool("main", "", &backends)));
    let client = || {
        let socket = UdpSocket::bind((net::host(), 0)).unwrap();
        socket.set_read_timeout(Some(seconds(5))).unwrap();
        socket.connect(front).unwrap();
        socket
    };
    let clients: Vec<UdpSocket> = (0..40).map(|_| client()).collect();
    let seen: Vec<String> = clients.iter().map(|client| ask(client, 0)).collect();
    // Some ask without a break while the process changes under them.
    let stop = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..4)
        .map(|_| {
            let (socket, stop) = (client(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let first = ask(&socket, 1);
                for number in 2.. {
                    assert_eq!(ask(&socket, number), first, "another socket");
                    if stop.load(Ordering::SeqCst) {
                        return number;
                    }
                }
                0
            })
        })
        .collect();
    for upgrade in 1..=3 {
        service.upgrade();
        for (client, seen) in clients.iter().zip(&seen) {
            assert_eq!(
                &ask(client, upgrade),
                seen,
                "another socket after upgrade {upgrade}"
            );
        }
        // Nothing is left that the old one would have to stay for.
        service.wait_living(1);
    }
    stop.store(true, Ordering::SeqCst);
    for thread in busy {
        assert!(thread.join().unwrap() > 50, "it stood still");
    }
    let metrics = service.ringway.metrics();
    assert_eq!(metrics.sum("ringway_udp_flows_active", &[]), 44.0);
    assert_eq!(metrics.sum("ringway_udp_flows_total", &[]), 44.0);
    assert_eq!(metrics.sum("ringway_udp_drops_total", &[]), 0.0);
    // The listener's limit has counted them all the time.
    let more: Vec<UdpSocket> = (0..16).map(|_| client()).collect();
    for client in &more {
        ask(client, 9);
    }
    let turned_away = client();
    turned_away
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    turned_away.send(b"x").unwrap();
    assert!(
        turned_away.recv(&mut [0; 16]).is_err(),
        "one more than may be"
    );
    service.stop();
    for (_, thread, stop) in [one, two] {
        stop.store(true, Ordering::SeqCst);
        thread.join().unwrap();
    }
}

/// A generation that stays for a session keeps nothing of what datagrams come to: a listener that the newest lets go of is
/// gone, and what its socket has lost is counted once.
#[test]
fn an_old_generation_leaves_the_sockets_of_datagrams_alone() {
    let _alone = alone();
    let (mirror_address, thread, stop) = mirror();
    let echo = Backend::echo();
    let (tcp, udp) = (net::free_address(), net::free_address());
    let tcp_part = listener("tcp", tcp, "main") + &pool("main", "", &[("a", echo.address)]);
    let udp_part = format!(
        "[[listener]]\nname = \"udp\"\nbind = \"{udp}\"\nprotocol = \"udp\"\npool = \"answering\"\n"
    ) + &pool("answering", "", &[("m", mirror_address)])
        + "[pool.udp]\nidle_timeout = \"200ms\"\n";
    let both = tcp_part.clone() + &udp_part;
    let mut service = Service::start(setup(both.clone()));
    let stays = open(tcp);
    let client = || {
        let socket = UdpSocket::bind((net::host(), 0)).unwrap();
        socket.set_read_timeout(Some(seconds(2))).unwrap();
        socket.connect(udp).unwrap();
        socket
    };
    ask(&client(), 1);
    // More than a socket holds comes while nobody looks.
    service.ringway.signal("STOP");
    let flood = client();
    for _ in 0..8_000 {
        flood.send(&[7; 1_200]).unwrap();
    }
    service.ringway.signal("CONT");
    let overruns = |service: &Service| {
        let labels = [("reason", "overrun")];
        service
            .ringway
            .metrics()
            .sum("ringway_udp_drops_total", &labels)
    };
    let mut counted = 0.0;
    until(seconds(20), "what was lost is counted", || {
        let _ = client().send(b"?");
        let before = std::mem::replace(&mut counted, overruns(&service));
        counted > 0.0 && counted == before
    });
    service.upgrade();
    ask(&client(), 2);
    for _ in 0..20 {
        ask(&client(), 3);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(overruns(&service), counted, "an old loss was counted again");

    assert_eq!(service.living().len(), 2, "the session keeps the old one");
    service.ringway.rewrite(tcp_part);
    service.reload();
    until(seconds(5), "nobody has the address any more", || {
        UdpSocket::bind(udp).is_ok()
    });
    service.ringway.rewrite(both);
    service.reload();
    for number in 0..20 {
        ask(&client(), number);
    }
    exchange(&stays, b"still here").expect("the old session lives");
    drop(stays);
    service.stop();
    stop.store(true, Ordering::SeqCst);
    thread.join().unwrap();
}
