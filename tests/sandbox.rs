//! What a running process may still do: as which user, with which powers, which files and system calls. The kernel's own
//! words in /proc are the proof, and attempts that it must refuse.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;

use support::backends::{Backend, read_line};
use support::net;
use support::ringway::{Ringway, Setup, listener, pool, pool_with, single};
use support::servers::{account, is_root};
use support::wait::{seconds, until};

fn serves(address: SocketAddr) {
    assert_eq!(read_line(net::connect(address)).expect("a greeting"), "a");
}

/// The same line of every thread's status.
fn of_threads(ringway: &Ringway, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", ringway.pid())).unwrap();
    let values = tasks.flatten().map(|task| {
        let text = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or("gone").trim().to_owned()
    });
    values.filter(|value| value != "gone").collect()
}

#[track_caller]
fn all_are(ringway: &Ringway, key: &str, value: &str) {
    let found = of_threads(ringway, key);
    assert!(
        found.len() >= 4,
        "office, scribe, prober, worker: {found:?}"
    );
    assert!(found.iter().all(|own| own == value), "{key} {found:?}");
}

/// `[global]` with lines of its own.
fn global(lines: &str) -> String {
    format!("workers = 1\npin = \"off\"\nshutdown_grace = \"5s\"\n{lines}\n")
}

fn refused_for(ringway: &Ringway, text: &str) -> String {
    ringway.write_raw(text);
    assert!(!ringway.reload(), "{text}");
    let status = ringway.status();
    status["reload"]["last"]["error"]
        .as_str()
        .expect("why")
        .to_owned()
}

#[test]
fn every_thread_is_shut_in_unless_told_otherwise() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let ringway = Ringway::start(single(address, backend.address));
    serves(address);
    all_are(&ringway, "Seccomp:", "2");
    all_are(&ringway, "NoNewPrivs:", "1");
    assert!(
        !ringway.stderr().contains("no Landlock here"),
        "{}",
        ringway.stderr()
    );
    drop(ringway);

    let address = net::free_address();
    let open = Setup::new(single(address, backend.address))
        .global(global("sandbox = \"off\""))
        .start();
    serves(address);
    all_are(&open, "Seccomp:", "0");
    all_are(&open, "NoNewPrivs:", "0");
}

/// What a plan may name later is what the process was shut in with; what it may not is said, and nothing changes.
#[test]
fn a_reload_that_leaves_the_sandbox_is_refused_in_one_sentence() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let body = single(address, backend.address);
    let with = |folder: &Path| {
        let log = folder.join("access.log");
        Setup::new(&body).global(global(&format!("access_log = \"{}\"", log.display())))
    };
    let setup = with(inside.path());
    let first = setup.text();
    let ringway = setup.start();
    let admin = ringway.admin().to_string();
    // Each setup has an admin address of its own; the running one stays.
    let text = |setup: Setup| {
        let text = setup.text();
        let line = text
            .lines()
            .find(|l| l.starts_with("bind = "))
            .unwrap()
            .to_owned();
        text.replacen(&line, &format!("bind = \"{admin}\""), 1)
    };
    let said = refused_for(&ringway, &text(with(outside.path())));
    let wanted = format!(
        "access_log {}/access.log is outside of the sandbox",
        outside.path().display()
    );
    assert!(said.starts_with(&wanted), "{said}");
    assert!(
        said.contains(&inside.path().display().to_string()),
        "{said}"
    );

    let socket = outside.path().join("x.sock");
    let unix = format!("unix:{}", socket.display());
    let more = listener("unix", &unix, "main") + &body;
    let said = refused_for(&ringway, &text(Setup::new(more).global(global(""))));
    assert!(said.starts_with("listener \"unix\" on unix:/"), "{said}");
    assert!(said.contains("is outside of the sandbox"), "{said}");

    let password = outside.path().join("password");
    fs::write(&password, "secret").unwrap();
    let health = format!(
        "[pool.health]\nkind = \"redis\"\npassword_file = \"{}\"\n",
        password.display()
    );
    let address_text = backend.address.to_string();
    let checked = pool_with("main", "", &health, &[("only", address_text, "")]);
    let body = listener("main", address, "main") + &checked;
    let said = refused_for(&ringway, &text(Setup::new(body).global(global(""))));
    assert!(said.contains("pool.health.password_file"), "{said}");
    assert!(
        said.contains("the sandbox of this process reads only below"),
        "{said}"
    );

    let off = first.replacen("[global]\n", "[global]\nsandbox = \"off\"\n", 1);
    let said = refused_for(&ringway, &off);
    assert!(said.starts_with("global.sandbox cannot change"), "{said}");
    serves(address);
    // A new listener in the folder it began with is fine.
    let unix = format!("unix:{}/y.sock", inside.path().display());
    let more = listener("unix", &unix, "main") + &single(address, backend.address);
    ringway.write_raw(&text(Setup::new(more).global(global(""))));
    assert!(ringway.reload(), "{}", ringway.stderr());
    assert!(inside.path().join("y.sock").exists());
}

/// The kernel holds to it, not our own care: a folder that is replaced by a link to elsewhere is not followed.
#[test]
fn the_kernel_refuses_files_elsewhere() {
    for sandbox in ["on", "off"] {
        let backend = Backend::named("a");
        let address = net::free_address();
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let logs = folder.path().join("logs");
        fs::create_dir(&logs).unwrap();
        let lines = format!(
            "sandbox = \"{sandbox}\"\naccess_log = \"{}/access.log\"",
            logs.display()
        );
        let ringway = Setup::new(single(address, backend.address))
            .global(global(&lines))
            .start();
        fs::rename(&logs, folder.path().join("old")).unwrap();
        symlink(elsewhere.path(), &logs).unwrap();
        ringway.signal("USR1");
        let there = elsewhere.path().join("access.log");
        if sandbox == "off" {
            until(seconds(5), "the link is followed", || there.exists());
            continue;
        }
        until(seconds(5), "the refusal is said", || {
            ringway.stderr().contains("Permission denied")
        });
        assert!(!there.exists());
        // The old file stays in use.
        serves(address);
    }
}

/// Started as root, it binds what only root may, becomes the user, and can still reload and bind low ports.
#[test]
fn root_becomes_the_user_and_keeps_only_low_ports() {
    assert!(
        is_root(),
        "only root can become somebody else: run the tests as root"
    );
    let (uid, gid) = account("nobody");
    let backend = Backend::named("a");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("front.sock");
    let low = |port: u16| SocketAddr::from((net::free_address().ip().to_owned(), port));
    let (first, second) = (low(81), low(82));
    let main = pool("main", "", &[("only", backend.address)]);
    let unix = listener("unix", format!("unix:{}", socket.display()), "main");
    let body = listener("first", first, "main") + &unix + &main;
    let setup = Setup::new(&body).global(global("user = \"nobody\"").replace("= 1", "= 2"));
    for owned in [folder.path(), setup.folder()] {
        chown(owned, Some(uid), Some(gid)).unwrap();
    }
    let mut ringway = setup.start();
    serves(first);
    for (key, value) in [
        ("Uid:", format!("{uid}\t{uid}\t{uid}\t{uid}")),
        ("Gid:", format!("{gid}\t{gid}\t{gid}\t{gid}")),
        ("CapEff:", "0000000000000400".to_owned()),
        ("CapPrm:", "0000000000000400".to_owned()),
        ("CapBnd:", "0000000000000400".to_owned()),
        ("CapInh:", "0000000000000000".to_owned()),
    ] {
        all_are(&ringway, key, &value);
    }
    assert_eq!(fs::metadata(&socket).unwrap().uid(), uid);
    assert_eq!(listening_uids(first), [uid, uid], "one for each worker");

    ringway.rewrite(listener("second", second, "main") + &body);
    assert!(ringway.reload(), "{}", ringway.stderr());
    serves(second);
    serves(first);
    ringway.signal("TERM");
    assert_eq!(ringway.wait_exit(seconds(10)).code(), Some(0));
    assert!(!socket.exists());
}

/// Whose the sockets are that listen there, as the kernel lists them.
fn listening_uids(address: SocketAddr) -> Vec<u32> {
    let SocketAddr::V4(address) = address else {
        panic!("IPv4 only");
    };
    let ip = u32::from_ne_bytes(address.ip().octets());
    let local = format!("{ip:08X}:{:04X}", address.port());
    let list = fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = list
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = fields.filter(|f| f.get(1) == Some(&&*local) && f.get(3) == Some(&"0A"));
    listening.map(|fields| fields[7].parse().unwrap()).collect()
}

#[test]
fn a_user_that_is_not_there_is_a_start_error() {
    let backend = Backend::named("a");
    let body = single(net::free_address(), backend.address);
    let setup = Setup::new(body).global(global("user = \"no-such-user\""));
    let done = setup.run_to_end();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(3), "{said}");
    let sentence = "global.user: found \"no-such-user\": this machine does not have it";
    assert!(said.contains(sentence), "{said}");
}
