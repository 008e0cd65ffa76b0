//! A hundred upgrades, one after the other, with as many generations alive as may be: newcomers, long sessions of each
//! generation that talk all the time, and flows of datagrams. Nobody is refused, cut, moved or left without an answer, and
//! memory and descriptors stay flat.

use std::collections::VecDeque;

use super::service::Service;
use super::setup;
use super::support::backends::Backend;
use super::support::datagrams::Echo;
use super::support::load::Load;
use super::support::ringway::{listener, pool, single};
use super::support::wait::{seconds, until};
use super::support::{alone, net, process, soak};
use super::upgrade_in_turn;

/// As many as may be.
const GENERATIONS: usize = 4;
const OLDEST: usize = 3;
const EACH: usize = 2;

/// Long sessions of the newest generation.
#[track_caller]
fn settle(address: std::net::SocketAddr, sessions: usize) -> Load {
    let load = Load::on(address, 0, sessions);
    until(seconds(10), "they are served", || {
        load.served() == sessions as u64
    });
    load
}

#[test]
fn a_hundred_upgrades() {
    let _alone = alone();
    let upgrades = if soak() { 100 } else { 6 };
    let backend = Backend::echo();
    let (a, b) = (Echo::named("a"), Echo::named("b"));
    let (address, front) = (net::free_address(), net::free_address());
    let udp = listener("udp", front, "udp").trim_end().to_owned() + "\nprotocol = \"udp\"\n\n";
    let echos = pool("udp", "", &[("a", a.address), ("b", b.address)]);
    let body = single(address, backend.address) + &udp + &echos;
    let mut service = Service::start(setup(body));
    let oldest = settle(address, OLDEST);
    let load = Load::on(address, 3, 0).and_flows(front, 2);
    let mut held = VecDeque::new();
    let mut made = 0;
    let (mut first, mut newest) = (Vec::new(), Vec::new());
    for n in 1..=upgrades {
        let pid = upgrade_in_turn(&mut service, n);
        held.push_back(settle(address, EACH));
        load.goes_on(50);
        oldest.goes_on(OLDEST as u64);
        // The first, the newest, and those between that are not told to end yet.
        service.wait_living(GENERATIONS.min(n + 1));
        if n > GENERATIONS && (n % 10 == 5 || !soak()) {
            first.push(figures(service.first()));
            newest.push(figures(pid));
        }
        if held.len() + 1 == GENERATIONS {
            made += held.pop_front().map_or(0, |load| load.end().sessions);
            service.wait_living(GENERATIONS - 1);
            until(seconds(5), "the newest knows", || {
                service.ringway.metric("ringway_older_processes") == (GENERATIONS - 2) as f64
            });
        }
    }
    let done = load.end();
    made += done.sessions;
    made += held
        .into_iter()
        .map(|load| load.end().sessions)
        .sum::<u64>();
    // From before the first upgrade, and whole to the end.
    made += oldest.end().sessions;
    println!(
        "{upgrades} upgrades, {made} sessions, {done:?}; KiB and descriptors of the first {first:?}, of the newest {newest:?}"
    );
    service.wait_living(1);
    check_counters(&service, made);
    assert_eq!(backend.failed(), 0);
    for seen in [first, newest] {
        let (early, late) = (seen[0], seen[seen.len() - 1]);
        assert!(late.0 < early.0 + early.0 / 5, "memory grows: {seen:?}");
        assert!(late.1 <= early.1 + 8, "descriptors grow: {seen:?}");
    }
    service.stop();
}

/// Resident KiB, and descriptors.
fn figures(pid: u32) -> (u64, usize) {
    let descriptors = process::settled_descriptors(pid).all;
    (process::resident_kib(pid), descriptors)
}

/// Each session and each flow once, whoever served it.
fn check_counters(service: &Service, made: u64) {
    until(seconds(5), "every session is counted once", || {
        let metrics = service.ringway.metrics();
        metrics.sum("ringway_sessions_total", &[]) == made as f64
            && metrics.sum("ringway_sessions_active", &[]) == 0.0
    });
    let metrics = service.ringway.metrics();
    let counted = |name: &str| metrics.sum(name, &[]);
    assert_eq!(counted("ringway_session_ends_total"), made as f64);
    assert_eq!(counted("ringway_refused_total"), 0.0);
    assert_eq!(counted("ringway_udp_flows_total"), 16.0);
    assert_eq!(counted("ringway_udp_flows_active"), 16.0);
    assert_eq!(counted("ringway_udp_flows_moved_total"), 0.0);
    assert_eq!(counted("ringway_udp_drops_total"), 0.0);
}
