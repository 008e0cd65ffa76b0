//! ringway under systemd: the unit that comes with it, what it tells the service manager, sockets that it is handed, and
//! that a killed process loses no client that stands in a queue. systemd itself is the judge wherever it can be: its own
//! tools, and a systemd booted in a container. Where single messages matter, a manager of the test's own writes them down.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "systemd/container.rs"]
mod container;
#[path = "systemd/manager.rs"]
mod manager;
#[path = "systemd/package.rs"]
mod package;
#[path = "systemd/records.rs"]
mod records;
#[path = "systemd/sockets.rs"]
mod sockets;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use container::Container;
use manager::Manager;
use support::backends::{Backend, read_line};
use support::frozen::Frozen;
use support::load::Load;
use support::ringway::{PROGRAM, Setup, listener, pool, single};
use support::servers::{Server, is_root, program};
use support::wait::{seconds, until, within};
use support::{alone, net, process, soak};

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

/// The unit as it comes, but with the program where it is here.
fn unit_with(command: &str) -> String {
    let unit = fs::read_to_string(units().join("ringway.service")).unwrap();
    let installed = "/usr/bin/ringway run -c /etc/ringway/config.toml";
    assert!(unit.contains(installed));
    unit.replace(installed, command)
}

/// A greeted client.
fn open(address: SocketAddr) -> TcpStream {
    let stream = net::connect(address);
    assert_eq!(read_line(&stream).expect("a greeting"), "a");
    stream
}

fn talk(mut stream: &TcpStream, word: &str) {
    writeln!(stream, "{word}").expect("send");
    assert_eq!(read_line(stream).expect("an echo"), word);
}

#[test]
fn the_units_are_valid_and_locked_down() {
    let analyze = program("systemd-analyze", "systemd");
    let folder = tempfile::tempdir().unwrap();
    let service = folder.path().join("ringway.service");
    fs::write(&service, unit_with(&format!("{PROGRAM} version"))).unwrap();
    let socket = folder.path().join("ringway.socket");
    fs::copy(units().join("ringway.socket"), &socket).unwrap();
    let verify = Command::new(&analyze)
        .args(["verify", "--man=no"])
        .args([&service, &socket])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verify.stderr);
    // It also reads the units of this machine that ours name; what it says of those is not about ours.
    let of_ours: Vec<&str> = said.lines().filter(|l| l.contains("ringway")).collect();
    assert!(verify.status.success() && of_ours.is_empty(), "{said}");
    // 2.0 of 10 or better.
    let security = Command::new(&analyze)
        .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
        .arg(&service)
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&security.stdout);
    assert!(security.status.success(), "{table}");
}

#[test]
fn the_manager_hears_of_every_step() {
    let manager = Manager::new();
    let backend = Backend::named("a");
    let (kept, removed) = (net::free_address(), net::free_address());
    let only = pool("main", "", &[("only", backend.address)]);
    let both = listener("kept", kept, "main") + &listener("removed", removed, "main") + &only;
    let mut ringway = Setup::new(both)
        .workers(2)
        .env("NOTIFY_SOCKET", &manager.path())
        .start();
    let ready = manager.wait_for("READY=1");
    let stored = |address: SocketAddr| {
        format!(
            "FDNAME=ringway-tcp-{}",
            address.to_string().replace(':', "%3A")
        )
    };
    for address in [kept, removed] {
        let messages = manager.with(&stored(address));
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert!(messages[0].text.contains("FDSTORE=1\n"));
        assert!(messages[0].text.contains("FDPOLL=0\n"));
        assert_eq!(messages[0].sockets, 2, "one for each worker");
        assert!(messages[0].place < ready, "before READY");
    }
    manager.wait_for("STATUS=serving on 2 listeners");

    ringway.rewrite(listener("kept", kept, "main") + &only);
    assert!(ringway.reload());
    let reloading = manager.wait_for("RELOADING=1");
    let again = manager.wait_after(reloading, "READY=1");
    let text = manager.text(reloading);
    let micros = text.lines().find_map(|l| l.strip_prefix("MONOTONIC_USEC="));
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let told: f64 = micros.expect("when").parse().unwrap();
    assert!((uptime - told / 1e6).abs() < 60.0, "{text} at {uptime}");
    let forgotten = |address: SocketAddr| {
        let messages = manager.with(&stored(address));
        messages.iter().any(|m| m.text.contains("FDSTOREREMOVE=1"))
    };
    until(seconds(5), "the removed one is taken out", || {
        forgotten(removed)
    });
    assert!(!forgotten(kept), "the kept one stays in");
    // As systemd would.
    manager.close_all(&stored(removed));
    assert!(net::try_connect(removed).is_err());

    ringway.write_raw("nonsense");
    assert!(!ringway.reload());
    manager.wait_after(again, "STATUS=reload refused: ");

    ringway.signal("TERM");
    assert_eq!(ringway.wait_exit(seconds(10)).code(), Some(0));
    manager.wait_for("STOPPING=1");
    assert!(forgotten(kept), "a final stop leaves nothing behind");
    // Nothing was stored twice.
    assert_eq!(manager.with("FDSTORE=1").len(), 2);
}

/// The worker's thread is stopped as a debugger does it.
#[test]
fn a_worker_that_does_not_answer_is_reported_and_starves_the_watchdog() {
    let manager = Manager::new();
    let backend = Backend::named("a");
    let address = net::free_address();
    let ringway = Setup::new(single(address, backend.address))
        .workers(2)
        .env("NOTIFY_SOCKET", &manager.path())
        .env("WATCHDOG_USEC", "1000000")
        .start();
    let silent = |worker: &str| {
        let metrics = ringway.metrics();
        metrics.sum("ringway_worker_silent", &[("worker", worker)])
    };
    let fed = || manager.with("WATCHDOG=1").len();
    let start = fed();
    until(seconds(10), "the watchdog is fed", || fed() >= start + 4);
    assert_eq!(silent("0") + silent("1"), 0.0);
    let frozen = Frozen::thread(ringway.pid(), "worker-1");
    until(seconds(10), "worker 1 is missed", || silent("1") == 1.0);
    assert_eq!(silent("0"), 0.0);
    let starved = fed();
    manager.wait_for("STATUS=worker 1 does not answer");
    let stderr = ringway.stderr();
    let line = stderr
        .lines()
        .find(|line| line.contains("has not answered"));
    let line = line.unwrap_or_else(|| panic!("{stderr}"));
    for part in [
        "worker 1 has not answered its doorbell for 1.",
        "it was submitting to the kernel or waiting for it, with 0 sessions",
        "is stopped by a debugger",
    ] {
        assert!(line.contains(part), "{line}");
    }
    let status = ringway.status();
    assert_eq!(status["workers"][1]["silent"], true);
    std::thread::sleep(seconds(2));
    assert_eq!(fed(), starved, "fed while a worker is silent");
    drop(frozen);
    until(seconds(5), "it is back", || silent("1") == 0.0);
    until(seconds(5), "fed again", || fed() > starved + 1);
    assert!(ringway.stderr().contains("worker 1 answers again"));
    assert_eq!(ringway.metric("ringway_worker_silences_total"), 1.0);
}

/// systemd's own tool listens, and hands the socket over with the first client.
fn activate(address: SocketAddr, name: &str, folder: &Path, text: &str) -> Command {
    let config = folder.join("config.toml");
    fs::write(&config, text).unwrap();
    let mut command = Command::new(program("systemd-socket-activate", "systemd"));
    command
        .arg(format!("--listen={address}"))
        .arg(format!("--fdname={name}"))
        .args([PROGRAM, "run", "-c"])
        .arg(&config)
        .env_remove("RUNTIME_DIRECTORY")
        .env_remove("XDG_RUNTIME_DIR");
    command
}

#[test]
fn a_handed_socket_serves_the_listener_that_binds_its_address() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let folder = tempfile::tempdir().unwrap();
    // A name that is no listener's: the address says whose it is. Two workers share the one socket.
    let text = Setup::new(single(address, backend.address))
        .workers(2)
        .text();
    let mut command = activate(address, "front", folder.path(), &text);
    let _server = Server::start(&mut command, "TERM");
    until(seconds(10), "systemd-socket-activate listens", || {
        net::try_connect(address).is_ok()
    });
    for _ in 0..20 {
        talk(&open(address), "through a handed socket");
    }
}

#[test]
fn a_socket_under_a_listeners_name_on_another_address_is_refused() {
    let backend = Backend::named("a");
    let (wanted, handed) = (net::free_address(), net::free_address());
    let folder = tempfile::tempdir().unwrap();
    let text = Setup::new(single(wanted, backend.address)).text();
    let mut command = activate(handed, "main", folder.path(), &text);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    until(seconds(10), "systemd-socket-activate listens", || {
        net::try_connect(handed).is_ok()
    });
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    let sentence = format!(
        "listener \"main\" does not bind tcp {handed}, which the service manager hands over under its name"
    );
    assert_eq!(done.status.code(), Some(3), "{said}");
    assert!(said.contains(&sentence), "{said}");
}

/// The unit as it comes, under a systemd of its own: ready, reloaded, killed with clients in its queue, stopped.
#[test]
fn a_killed_service_loses_no_client_in_its_queue() {
    assert!(is_root(), "a container needs root: run the tests as root");
    let _alone = alone();
    let backend = Backend::named("a");
    let address = net::free_address();
    let socket = "/run/ringway/front.sock";
    let front =
        format!("[[listener]]\nname = \"unix\"\nbind = \"unix:{socket}\"\npool = \"main\"\n");
    let (echo, loaded) = (Backend::echo(), net::free_address());
    let beside = listener("loaded", loaded, "echo") + &pool("echo", "", &[("e", echo.address)]);
    let body = single(address, backend.address) + &front + &beside;
    // The watchdog bites sooner than it is installed to, and it may be killed more often.
    let unit = unit_with("/ringway run -c /etc/ringway/config.toml");
    let quick = unit
        .replace("WatchdogSec=10s", "WatchdogSec=4s")
        .replace("StartLimitBurst=20", "StartLimitBurst=1000");
    assert!(quick.contains("=4s") && quick.contains("=1000"));
    let container = Container::boot(&quick, &Setup::new(body).workers(2).text());
    until(seconds(30), "the service serves", || {
        net::try_connect(address).is_ok_and(|stream| read_line(&stream).is_ok_and(|a| a == "a"))
    });
    let show = |property: &str| container.show(property);
    until(seconds(10), "it is active", || {
        show("ActiveState") == "active"
    });
    assert!(show("StatusText").starts_with("serving on 3 listeners"));
    assert_eq!(
        show("NFileDescriptorStore"),
        "5",
        "two for each of TCP, one unix"
    );
    let pid = show("MainPID");
    let load = Load::on(loaded, 4, 4);
    for _ in 0..5 {
        load.goes_on(100);
        container.systemctl(&["reload", "ringway"]);
    }
    load.goes_on(100);
    load.end();
    assert_eq!(show("ActiveState"), "active");
    assert_eq!(show("MainPID"), pid);

    for round in 1..=3u32 {
        let held = open(address);
        container.systemctl(&["kill", "-s", "STOP", "ringway"]);
        // The signal is sent, not yet obeyed: a worker that still runs would greet one whom it cannot keep.
        let stopped = container.process("ringway");
        until(seconds(10), "all its threads are stopped", || {
            process::states(stopped).iter().all(|state| *state == 'T')
        });
        let queued: Vec<TcpStream> = (0..40).map(|_| net::connect(address)).collect();
        container.systemctl(&["kill", "-s", "KILL", "ringway"]);
        assert!(read_line(&held).is_err(), "its own sessions are lost");
        for stream in &queued {
            assert_eq!(read_line(stream).expect("served by the next one"), "a");
            talk(stream, "still here");
        }
        drop(queued);
        until(seconds(10), "systemd counts the restart", || {
            show("NRestarts") == round.to_string() && show("ActiveState") == "active"
        });
        assert_eq!(show("NFileDescriptorStore"), "5", "stored twice, or lost");
        let by_path = UnixStream::connect(container.path(socket)).expect("its path is its own");
        assert_eq!(read_line(&by_path).expect("a greeting"), "a");
    }
    a_kill_costs_only_those_who_are_served_then(&container, loaded);
    the_watchdog_ends_what_does_not_answer(&container, address);
    container.systemctl(&["stop", "ringway"]);
    assert_eq!(show("ActiveState"), "inactive");
    assert_eq!(show("NFileDescriptorStore"), "0");
    assert!(net::try_connect(address).is_err(), "nobody listens");
    let left = within(seconds(5), "the log", || Some(container.log()));
    assert!(!left.contains("panicked"), "{left}");
}

/// Under a steady load of new and long sessions: each client can lose the session that it had at that moment, and no other,
/// and nobody is refused.
fn a_kill_costs_only_those_who_are_served_then(container: &Container, loaded: SocketAddr) {
    let kills = if soak() { 30 } else { 3 };
    let load = Load::on(loaded, 4, 4);
    for _ in 0..kills {
        load.goes_on(1000);
        let restarts = container.show("NRestarts");
        container.systemctl(&["kill", "-s", "KILL", "ringway"]);
        until(seconds(10), "systemd counts the restart", || {
            container.show("NRestarts") != restarts && container.show("ActiveState") == "active"
        });
        assert_eq!(container.show("NFileDescriptorStore"), "5");
    }
    load.goes_on(1000);
    let done = load.end_after(kills);
    println!("{kills} kills, {done:?}");
}

/// systemd ends and restarts a process with a worker that hangs, and whoever stood in the queue is served by the next one.
fn the_watchdog_ends_what_does_not_answer(container: &Container, address: SocketAddr) {
    let restarts = container.show("NRestarts");
    let frozen = Frozen::thread(container.process("ringway"), "worker-0");
    let mut queued: Vec<TcpStream> = (0..40).map(|_| net::connect(address)).collect();
    std::thread::sleep(seconds(1));
    queued.retain(|stream| {
        stream.set_nonblocking(true).unwrap();
        let waits = stream.peek(&mut [0]).is_err();
        stream.set_nonblocking(false).unwrap();
        waits
    });
    assert!(!queued.is_empty(), "the other worker has served all");
    until(seconds(20), "the watchdog has bitten", || {
        container.show("SubState") != "running"
    });
    drop(frozen);
    until(seconds(10), "systemd counts the restart", || {
        container.show("NRestarts") != restarts && container.show("ActiveState") == "active"
    });
    for stream in &queued {
        assert_eq!(read_line(stream).expect("served by the next one"), "a");
        talk(stream, "still here");
    }
}

/// The unit as it comes: a successor becomes the main process, the unit stays active, sessions stay with the old one, and
/// a stop ends both.
#[test]
fn an_upgraded_service_stays_the_same_service() {
    assert!(is_root(), "a container needs root: run the tests as root");
    let _alone = alone();
    let backend = Backend::named("a");
    let address = net::free_address();
    let (echo, loaded) = (Backend::echo(), net::free_address());
    let beside = listener("loaded", loaded, "echo") + &pool("echo", "", &[("e", echo.address)]);
    let body = single(address, backend.address) + &beside;
    let container = Container::boot(&unit_with("/ringway run -c /etc/ringway/config.toml"), &{
        Setup::new(body).workers(2).text()
    });
    until(seconds(30), "the service serves", || {
        net::try_connect(address).is_ok_and(|stream| read_line(&stream).is_ok_and(|a| a == "a"))
    });
    let show = |property: &str| container.show(property);
    until(seconds(10), "it is active", || {
        show("ActiveState") == "active"
    });
    let held = open(address);
    let stay = Load::on(loaded, 0, 3);
    let load = Load::on(loaded, 4, 0);
    load.goes_on(100);
    let mut pid = show("MainPID");
    for upgrade in 1..=2 {
        let kill = ["kill", "-s", "USR2", "--kill-who=main", "ringway"];
        container.systemctl(&kill);
        until(seconds(10), "another process is the main one", || {
            show("MainPID") != pid
        });
        pid = show("MainPID");
        until(seconds(10), "it speaks to systemd", || {
            show("StatusText") == "serving on 2 listeners"
        });
        assert_eq!(show("ActiveState"), "active", "upgrade {upgrade}");
        assert_eq!(show("NFileDescriptorStore"), "4", "as before");
        talk(&held, "the first process lives");
        talk(&open(address), "and the last one serves");
        load.goes_on(100);
        stay.goes_on(10);
    }
    // The watchdog is fed by the new one: 10 s without that would end it.
    std::thread::sleep(seconds(11));
    container.systemctl(&["reload", "ringway"]);
    assert_eq!((show("MainPID"), show("NRestarts")), (pid, "0".into()));
    talk(&held, "still here");
    stay.end();
    load.end();
    // It is killed: systemd starts the next one, which finds the sockets in the store.
    container.systemctl(&["kill", "-s", "KILL", "--kill-who=main", "ringway"]);
    until(seconds(10), "systemd counts the restart", || {
        show("NRestarts") == "1" && show("ActiveState") == "active"
    });
    talk(&open(address), "the next one serves");
    let started = show("MainPID");
    container.systemctl(&["kill", "-s", "USR2", "--kill-who=main", "ringway"]);
    until(seconds(10), "another process is the main one", || {
        show("MainPID") != started
    });
    container.systemctl(&["stop", "ringway"]);
    assert_eq!(show("ActiveState"), "inactive");
    assert_eq!(show("Result"), "success");
    assert_eq!(show("NFileDescriptorStore"), "0");
    assert!(net::try_connect(address).is_err(), "nobody listens");
}
