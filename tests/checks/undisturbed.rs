//! The office's thread (admin, reload, signals) and the log's threads stand still for five seconds: nobody who is checked or
//! served may notice.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::support::backends::Backend;
use super::support::frozen::Frozen;
use super::support::ringway::{Ringway, Setup, listener, pool_with};
use super::support::{alone, net};
use super::{OFTEN, SOON, found, until};

const STILL: Duration = Duration::from_secs(5);
/// Checks come every 50 ms; a busy machine makes fewer.
const CHECKS_LEAST: f64 = 50.0;

fn front(server: &Backend) -> (Ringway, SocketAddr) {
    let address = net::free_address();
    let backends = [("b", server.address.to_string(), "")];
    let health = format!("[pool.health]\n{OFTEN}");
    let body = listener("main", address, "main") + &pool_with("main", "", &health, &backends);
    let ringway = Setup::new(body).global("access_log = \"stdout\"\n").start();
    until(SOON, "checks are made", || found(&ringway, "ok") > 2.0);
    (ringway, address)
}

fn session(address: SocketAddr) -> Duration {
    let began = Instant::now();
    let mut stream = net::connect(address);
    stream.write_all(b"fresh").expect("send");
    stream.read_exact(&mut [0; 5]).expect("the echo");
    began.elapsed()
}

/// The p99 of sessions at each address, taken in turn, for so long.
fn p99(addresses: [SocketAddr; 2], span: Duration) -> [Duration; 2] {
    let began = Instant::now();
    let mut took = [Vec::new(), Vec::new()];
    while began.elapsed() < span {
        for (took, address) in took.iter_mut().zip(addresses) {
            took.push(session(address));
        }
    }
    took.map(|mut took| {
        took.sort();
        took[took.len() * 99 / 100]
    })
}

#[test]
fn a_frozen_office_and_log_change_no_verdict_and_no_p99() {
    let _alone = alone();
    let server = Backend::echo();
    let ((free, beside), (held, address)) = (front(&server), front(&server));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let before = found(&held, "ok");
        let frozen = ["ringway", "scribe", "diary"].map(|name| Frozen::thread(held.pid(), name));
        let [usual, meanwhile] = p99([beside, address], STILL);
        drop(frozen);
        let made = found(&held, "ok") - before;
        assert!(made > CHECKS_LEAST, "{made} checks in {STILL:?}");
        assert_eq!(found(&held, "void"), found(&free, "void"));
        assert!(!held.stderr().contains("is down"), "{}", held.stderr());
        if meanwhile < usual * 3 / 2 {
            return;
        }
        seen.push((usual, meanwhile));
    }
    panic!("p99 beside, and with office and log standing still: {seen:?}");
}
