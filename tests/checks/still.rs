//! The prober's own standing still: a stopped process, and a log that nobody reads. Neither may take a backend down, and
//! checks that were missed are not made up for all at once.

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::support::backends::Backend;
use super::support::checked_servers::redis;
use super::support::ringway::{Setup, listener, pool_with};
use super::support::{net, soak};
use super::{OFTEN, SOON, found, until};

const BACKENDS: usize = 60;
const INTERVAL: Duration = Duration::from_millis(600);

#[test]
fn a_stopped_process_takes_nothing_down_and_makes_up_for_nothing() {
    // When a check came, to any of the backends.
    let arrivals: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let backends: Vec<Backend> = (0..BACKENDS)
        .map(|_| {
            let arrivals = Arc::clone(&arrivals);
            Backend::serve(move |_| {
                arrivals.lock().unwrap().push(Instant::now());
                Ok(())
            })
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let cache = net::free_address();
    let _redis = redis(cache, folder.path(), &["--requirepass", "p"]);
    let file = super::password_file(folder.path(), "p");
    let health = format!(
        "[pool.health]\ninterval = \"{}ms\"\nfast_interval = \"200ms\"\ntimeout = \"500ms\"\nfall = 1\n",
        INTERVAL.as_millis()
    );
    let names: Vec<String> = (0..BACKENDS).map(|n| format!("b{n}")).collect();
    let list: Vec<_> = names
        .iter()
        .zip(&backends)
        .map(|(name, backend)| (&**name, backend.address.to_string(), ""))
        .collect();
    let redis_health =
        format!("[pool.health]\n{OFTEN}kind = \"redis\"\npassword_file = \"{file}\"\n");
    let body = listener("main", net::free_address(), "many")
        + &pool_with("many", "", &health, &list)
        + &pool_with(
            "cache",
            "",
            &redis_health,
            &[("cache", cache.to_string(), "")],
        );
    let ringway = Setup::new(body).start();
    let ok = || found(&ringway, "ok");
    until(SOON, "several rounds of checks", || {
        ok() > 4.0 * BACKENDS as f64
    });
    for stop in [Duration::from_secs(3), Duration::from_millis(700)] {
        ringway.signal("STOP");
        std::thread::sleep(stop);
        arrivals.lock().unwrap().clear();
        ringway.signal("CONT");
        let (resumed, before) = (Instant::now(), ok());
        until(SOON, "two rounds of checks", || {
            ok() > before + 2.0 * BACKENDS as f64
        });
        let bad = [
            "refused",
            "timeout",
            "reset",
            "closed",
            "failed",
            "unreachable",
            "other",
        ];
        for result in bad {
            assert_eq!(found(&ringway, result), 0.0, "{result} after {stop:?}");
        }
        assert!(
            !ringway.stderr().contains(" is down"),
            "{}",
            ringway.stderr()
        );
        // All 60 were due meanwhile. At once would be all of them in the first tenth of a second; spread over as long as
        // we stood still, there are no more than twice the usual. A busy machine may bunch them up: half is far enough.
        let arrivals = arrivals.lock().unwrap();
        let early = arrivals
            .iter()
            .filter(|at| at.duration_since(resumed) < Duration::from_millis(100));
        let early = early.count();
        println!("{early} of {BACKENDS} checks in the first 100 ms after {stop:?}");
        assert!(
            early < BACKENDS / 2,
            "{early} checks in the first 100 ms after {stop:?}"
        );
    }
}

#[test]
fn a_log_that_nobody_reads_changes_no_verdict() {
    let mut backend = Backend::echo();
    let address: SocketAddr = net::free_address();
    let health = format!("[pool.health]\n{OFTEN}");
    let body = listener("main", address, "main")
        + &pool_with(
            "main",
            "",
            &health,
            &[("b", backend.address.to_string(), "")],
        );
    let (mut unread, stdout) = std::io::pipe().unwrap();
    let setup = Setup::new(body)
        .global("workers = 1\npin = \"off\"\nshutdown_grace = \"5s\"\naccess_log = \"stdout\"\n")
        .stdout(File::from(OwnedFd::from(stdout)));
    let mut ringway = setup.start();
    // More lines than a pipe takes.
    let exchange = |times: usize| {
        for _ in 0..times {
            let mut stream = net::connect(address);
            stream.write_all(b"x").unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 1);
        }
    };
    exchange(800);
    let hold = if soak() { 30 } else { 5 };
    let (began, before) = (Instant::now(), found(&ringway, "ok"));
    while began.elapsed() < Duration::from_secs(hold) {
        exchange(1);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(found(&ringway, "ok") > before + 10.0, "checks went on");
    for result in ["refused", "timeout", "reset", "closed", "failed", "void"] {
        // Void says that the machine was busy, not that the log was in the way.
        let count = found(&ringway, result);
        assert!(
            count == 0.0 || result == "void",
            "{count} checks were {result}"
        );
    }
    // And a true verdict is still reached.
    backend.kill();
    ringway.wait_state("b", "down", SOON);
    std::thread::spawn(move || std::io::copy(&mut unread, &mut std::io::sink()));
    ringway.signal("TERM");
    assert!(ringway.wait_exit(SOON).success());
}
