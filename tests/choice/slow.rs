//! least-latency where connecting really takes its time: one of two backends is at the end of a path with a delay.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::open;
use super::support::backends::Backend;
use super::support::delay::{FAR, OWN, Path};
use super::support::ringway::{Setup, listener, pool};
use super::support::{alone, namespace, net};

const ONE_WAY: Duration = Duration::from_millis(20);

/// Who is slow gets the first connect, which shows it, and then hardly any; who goes round gives it its half. And load
/// weighs in.
#[test]
fn a_backend_that_is_slow_to_connect_to_is_left() {
    let _alone = alone();
    if !namespace::inside("slow::a_backend_that_is_slow_to_connect_to_is_left") {
        return;
    }
    let _path = Path::with_delay(ONE_WAY);
    let own: SocketAddr = format!("{OWN}:7001").parse().unwrap();
    let far: SocketAddr = format!("{FAR}:7001").parse().unwrap();
    let near_backend = Backend::named("near");
    let _far_backend = Backend::named_on(net::listen(own), "far");
    let began = Instant::now();
    drop(net::connect(far));
    assert!(began.elapsed() >= 2 * ONE_WAY, "{:?}", began.elapsed());

    let members = [("near", near_backend.address), ("far", far)];
    let balancer = |algorithm: &str| {
        let address = net::free_address();
        let lines = format!("algorithm = \"{algorithm}\"");
        let body = listener("main", address, "main") + &pool("main", &lines, &members);
        (Setup::new(body).start(), address)
    };
    let far_of = |address, count: usize| {
        let names = (0..count).map(|_| open(address).1);
        names.filter(|name| name == "far").count()
    };
    let (_even, address) = balancer("round-robin");
    let by_turn = far_of(address, 100);
    let (_ringway, address) = balancer("least-latency");
    let by_latency = far_of(address, 400);
    println!("far of 100 by turn: {by_turn}; of 400 by latency: {by_latency}");
    assert_eq!(by_turn, 50);
    // The first one is chance's and shows how slow it is. A near connect would have to take 40 ms, too, for another: on a
    // machine that is busy enough for that now and then, still not one in ten.
    assert!((1..=40).contains(&by_latency), "{by_latency} of 400");

    // Load weighs in: the near one, a hundred times as fast or more, is not filled without end.
    let held: Vec<_> = (0..1_000).map(|_| open(address)).collect();
    let to_far = held.iter().filter(|(_, name)| name == "far").count();
    println!("far of 1,000 that stay: {to_far}");
    assert!((1..500).contains(&to_far), "{to_far} of 1,000 that stay");
}
