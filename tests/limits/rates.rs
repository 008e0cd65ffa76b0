//! How fast: rates of a listener and of its sources, measured by the server's own count while clients come much faster.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::support::backends::Backend;
use super::support::ringway::{Ringway, Setup, pool};
use super::support::{alone, net, soak};
use super::{knock, limited, refused, source};

const CLIENTS: u16 = 4;
const TRIES: usize = 5;

/// Sessions begun, between the moments before and after the look.
struct Look {
    before: Instant,
    after: Instant,
    sessions: f64,
}

fn look(ringway: &Ringway) -> Look {
    let before = Instant::now();
    let sessions = ringway.metric("ringway_sessions_total");
    Look {
        before,
        after: Instant::now(),
        sessions,
    }
}

/// What was let in a second, as a share of `rate`. More than the rate and its burst allow fails at once: that is no
/// matter of measuring.
fn share_of_rate(ringway: &Ringway, rate: f64, burst: f64) -> f64 {
    let begun = look(ringway);
    std::thread::sleep(Duration::from_secs(if soak() { 20 } else { 2 }));
    let ended = look(ringway);
    let sessions = ended.sessions - begun.sessions;
    let longest = (ended.after - begun.before).as_secs_f64();
    let shortest = (ended.before - begun.after).as_secs_f64();
    let most = rate * longest * 1.002 + burst;
    assert!(
        sessions <= most,
        "{sessions} in {longest} s, at most {most}"
    );
    let seen = sessions / f64::midpoint(longest, shortest) / rate;
    println!("{sessions} sessions in {shortest:.3} to {longest:.3} s: {seen:.4} of the rate");
    seen
}

/// Clients that never tire, each from a source of its own, while the rate is measured.
fn storm(workers: usize, lines: &str, rate: f64, burst: f64, reason: &str) {
    let backend = Backend::named("a");
    let address = net::free_address();
    let body = limited(address, lines) + &pool("main", "", &[("a", backend.address)]);
    let ringway = Setup::new(body).workers(workers).start();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    if let Some(stream) = knock(source(client), address) {
                        net::reset(stream);
                    }
                }
            });
        }
        let measured = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // What is owed to the burst first.
            std::thread::sleep(Duration::from_millis(500));
            let seen: Vec<f64> = (0..TRIES)
                .map(|_| share_of_rate(&ringway, rate, burst))
                .take_while(|seen| (seen - 1.0).abs() > 0.05)
                .collect();
            assert!(seen.len() < TRIES, "never within 5 %: {seen:?}");
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = measured {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(refused(&ringway, reason) > 0.0);
}

#[test]
fn a_listeners_rate_holds_within_5_percent() {
    let _alone = alone();
    for workers in [1, 2] {
        let lines = "connection_rate = \"200/s burst 20\"";
        storm(workers, lines, 200.0, 20.0, "rate");
    }
}

#[test]
fn a_sources_rate_holds_within_5_percent() {
    let _alone = alone();
    for workers in [1, 2] {
        let lines = "source_connection_rate = \"50/s burst 5\"";
        let clients = f64::from(CLIENTS);
        storm(workers, lines, 50.0 * clients, 5.0 * clients, "source-rate");
    }
}
