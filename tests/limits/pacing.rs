//! `connect_rate`: new connections towards each backend come at most so fast; clients wait for their turn, in order, and
//! nobody fails.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::limited;
use super::support::backends::{Backend, read_line};
use super::support::ringway::{Ringway, Setup, pool};
use super::support::wait::{seconds, within};
use super::support::{alone, net};

/// A backend that tells each client its number, in the order in which they came.
fn numbering() -> (SocketAddr, Arc<Mutex<Vec<TcpStream>>>) {
    let listener = net::listen(net::free_address());
    let address = listener.local_addr().unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let streams = Arc::clone(&kept);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else {
                return;
            };
            let mut streams = streams.lock().unwrap();
            let _ = writeln!(stream, "{}", streams.len());
            streams.push(stream);
        }
    });
    (address, kept)
}

fn attempts(ringway: &Ringway, backend: &str) -> f64 {
    let labels = [("backend", backend)];
    ringway
        .metrics()
        .sum("ringway_connect_attempts_total", &labels)
}

/// Clients that come all at once are connected at the rate, in the order in which they came, and none of them fails.
#[test]
fn clients_wait_for_their_turn_in_order() {
    const CLIENTS: usize = 220;
    let _alone = alone();
    for workers in [1, 2] {
        let (backend, _kept) = numbering();
        let mut tries = 0;
        loop {
            tries += 1;
            let address = net::free_address();
            let lines = "connect_rate = \"100/s burst 10\"\nwait = { size = 1000, timeout = \"60s\" }\nconnect_budget = \"60s\"";
            let body = limited(address, "") + &pool("main", lines, &[("a", backend)]);
            let ringway = Setup::new(body).workers(workers).start();
            let began = Instant::now();
            let clients: Vec<(Instant, TcpStream)> = (0..CLIENTS)
                .map(|_| {
                    let stream = net::connect(address);
                    (Instant::now(), stream)
                })
                .collect();
            let numbers: Vec<usize> = clients
                .iter()
                .map(|(_, stream)| read_line(stream).expect("served").parse().unwrap())
                .collect();
            let took = began.elapsed().as_secs_f64();
            assert_eq!(attempts(&ringway, "a"), CLIENTS as f64);
            // Ten at once, then one each 10 ms. Faster is never right.
            let least = (CLIENTS - 10) as f64 / 100.0;
            assert!(took >= least * 0.999, "{CLIENTS} clients in {took} s");
            let waits = ringway.metric("ringway_connect_rate_waits_total");
            assert!(waits >= 1.0, "{waits} waited");
            let swapped = later_but_first(&clients, &numbers, workers);
            println!("{workers} workers: {took:.3} s, at least {least}; {swapped} out of order");
            // How much slower, and how late a worker sees its clients, is also the machine's doing.
            if took <= least * 1.05 + 0.05 && swapped == 0 {
                break;
            }
            assert!(
                tries < 5,
                "{took} s instead of {least}, {swapped} out of order"
            );
        }
    }
}

/// Pairs of clients of which the later was served first. With one worker there is one queue and no excuse; with two, who
/// came within 50 ms of each other counts as having come together.
fn later_but_first(clients: &[(Instant, TcpStream)], numbers: &[usize], workers: usize) -> usize {
    let grace = match workers {
        1 => Duration::ZERO,
        _ => Duration::from_millis(50),
    };
    let pairs = (0..clients.len()).flat_map(|i| (0..i).map(move |j| (j, i)));
    pairs
        .filter(|&(j, i)| clients[i].0 - clients[j].0 >= grace && numbers[i] < numbers[j])
        .count()
}

/// Attempts that fail count as well, retries included, and the clients are served by the other backend.
#[test]
fn retries_count_and_nobody_fails() {
    let _alone = alone();
    let good = Backend::named("b");
    let address = net::free_address();
    let lines = "algorithm = \"round-robin\"\nconnect_rate = \"20/s burst 5\"\nwait = { size = 1000, timeout = \"60s\" }\n\
                 connect_budget = \"60s\"\nconnect_attempts = 8";
    let members = [("bad", net::free_address()), ("b", good.address)];
    let body = limited(address, "") + &pool("main", lines, &members);
    let ringway = Setup::new(body).workers(2).start();
    let began = Instant::now();
    let clients: Vec<_> = (0..60).map(|_| net::connect(address)).collect();
    for stream in &clients {
        assert_eq!(read_line(stream).expect("served"), "b");
    }
    let took = began.elapsed().as_secs_f64();
    for backend in ["bad", "b"] {
        let most = 5.0 + 20.0 * began.elapsed().as_secs_f64();
        let seen = attempts(&ringway, backend);
        println!("{backend}: {seen} attempts, {took:.3} s");
        assert!(
            seen > 0.0 && seen <= most,
            "{backend}: {seen}, at most {most}"
        );
    }
    assert_eq!(attempts(&ringway, "b"), 60.0);
    assert!(took >= 55.0 / 20.0 * 0.999, "{took}");
}

/// Whoever leaves the queue takes nobody's turn, and a rate that a reload lifts lets all in at once.
#[test]
fn who_leaves_takes_no_turn_and_a_lifted_rate_lets_all_in() {
    let _alone = alone();
    let backend = Backend::named("a");
    let address = net::free_address();
    let body = |rate: &str| {
        let lines =
            format!("connect_rate = \"{rate}\"\nwait = {{ size = 1000, timeout = \"60s\" }}");
        limited(address, "") + &pool("main", &lines, &[("a", backend.address)])
    };
    let mut ringway = Setup::new(body("1/s burst 1")).workers(2).start();
    let first = net::connect(address);
    assert_eq!(read_line(&first).expect("the burst"), "a");
    let waiting: Vec<_> = (0..40).map(|_| net::connect(address)).collect();
    let (leaving, staying): (Vec<_>, Vec<_>) = waiting
        .into_iter()
        .enumerate()
        .partition(|(i, _)| i % 2 == 0);
    leaving
        .into_iter()
        .for_each(|(_, stream)| net::reset(stream));
    within(seconds(10), "half of them have left", || {
        (ringway.metric("ringway_waiting") <= 20.0).then_some(())
    });
    let before = ringway.metric("ringway_waiting");
    assert!(before >= 10.0, "{before} wait: the rate holds them");
    ringway.rewrite(body(""));
    assert!(ringway.reload());
    for (_, stream) in &staying {
        assert_eq!(read_line(stream).expect("served"), "a");
    }
    assert_eq!(backend.failed(), 0);
    assert_eq!(ringway.metric("ringway_waiting"), 0.0);
}
