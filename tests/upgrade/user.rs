//! A service that was started as root and became another user: what follows it is that user, too, and can all that it could.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::service::Service;
use crate::support::backends::{Backend, read_line};
use crate::support::net;
use crate::support::ringway::{Setup, listener, pool, run};
use crate::support::servers::{account, is_root};

fn is(pid: u32, key: &str, value: &str) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    assert_eq!(line.map(str::trim), Some(value), "{key}");
}

fn serve(addresses: &[SocketAddr], front: &Path) {
    for address in addresses {
        let greeting = read_line(net::connect(*address)).expect("a greeting");
        assert_eq!(greeting, "a", "{address}");
    }
    let by_path = UnixStream::connect(front).expect("by its path");
    assert_eq!(read_line(&by_path).expect("a greeting"), "a");
}

/// The keeper of this process: its child of that name.
fn keeper(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let children = children
        .split_whitespace()
        .map(|child| child.parse().unwrap());
    let name = |child: &u32| fs::read_to_string(format!("/proc/{child}/comm")).unwrap();
    let keepers: Vec<u32> = children.filter(|child| name(child) == "keeper\n").collect();
    assert_eq!(keepers.len(), 1, "of {pid}");
    keepers[0]
}

#[test]
fn a_service_that_became_another_user_is_upgraded_and_reloaded_as_that_user() {
    assert!(
        is_root(),
        "only root can become somebody else: run the tests as root"
    );
    let (uid, gid) = account("nobody");
    let backend = Backend::named("a");
    let folder = tempfile::tempdir().unwrap();
    let front = folder.path().join("front.sock");
    let low = |port: u16| SocketAddr::from((net::free_address().ip(), port));
    let (first, second) = (low(83), low(84));
    let unix = listener("unix", format!("unix:{}", front.display()), "main");
    let main = pool("main", "", &[("only", backend.address)]);
    let body = listener("first", first, "main") + &unix + &main;
    let lines = "workers = 2\npin = \"off\"\nshutdown_grace = \"2s\"\nuser = \"nobody\"\n";
    let setup = Setup::new(&body).global(lines);
    for owned in [folder.path(), setup.folder()] {
        chown(owned, Some(uid), Some(gid)).unwrap();
    }
    let mut service = Service::start(setup);
    let socket = service.ringway.socket();
    let held = net::connect(first);
    assert_eq!(read_line(&held).expect("a greeting"), "a");
    for _ in 0..2 {
        let pid = service.upgrade();
        serve(&[first], &front);
        is(pid, "Uid:", &format!("{uid}\t{uid}\t{uid}\t{uid}"));
        is(pid, "CapEff:", "0000000000000400");
        // It must be able to start another that binds, chowns and becomes that user.
        is(keeper(pid), "Uid:", "0\t0\t0\t0");
        is(pid, "NoNewPrivs:", "1");
        for path in [&front, &socket] {
            assert_eq!(fs::metadata(path).unwrap().uid(), uid, "{}", path.display());
        }
    }
    // The newest takes another low port, and gives it back.
    let reload = || {
        let done = run(&["reload", "--socket", socket.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said} {}", service.ringway.stderr());
    };
    let text = service.ringway.text();
    service
        .ringway
        .write_raw(&(text.clone() + &listener("second", second, "main")));
    reload();
    serve(&[first, second], &front);
    service.ringway.write_raw(&text);
    reload();
    assert!(net::try_connect(second).is_err(), "nobody listens");
    serve(&[first], &front);
    drop(held);
    service.wait_living(1);
    service.stop();
    assert!(!front.exists());
}
