//! What warm connections gain on a path with a real delay: a round trip.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::backends::Backend;
use crate::support::delay::{FAR, OWN, Path};
use crate::support::ringway::Setup;
use crate::support::{alone, namespace, net};
use crate::{first_byte, text, wait_warm};

const DELAY: Duration = Duration::from_millis(20);
const ROUND_TRIP: Duration = Duration::from_millis(40);

/// In a namespace, so that nobody else's routes change.
#[test]
fn the_first_byte_comes_a_round_trip_earlier() {
    let _alone = alone();
    if !namespace::inside("delay::the_first_byte_comes_a_round_trip_earlier") {
        return;
    }
    let _path = Path::with_delay(DELAY);
    let own: SocketAddr = format!("{OWN}:7001").parse().unwrap();
    let far: SocketAddr = format!("{FAR}:7001").parse().unwrap();
    let backend = Backend::serve_on(net::listen(own), crate::support::backends::echo);
    let begin = Instant::now();
    drop(net::connect(far));
    let handshake = begin.elapsed();
    assert!(handshake >= ROUND_TRIP, "a connect takes {handshake:?}");

    let measure = |warm: &str| {
        let address = net::free_address();
        let ringway = Setup::new(text(address, "", warm, far, "")).start();
        let size = u64::from(warm.contains("size = 4")) * 4;
        first_byte(address, 9, || wait_warm(&ringway, size))
    };
    // A measurement: a busy machine may spoil one, not three.
    for attempt in 1..=3 {
        let cold = measure("size = 0");
        let warm = measure("size = 4\nmax_age = \"1h\"");
        let gained = cold.saturating_sub(warm);
        println!(
            "first byte after {cold:?} without and {warm:?} with warm connections: {gained:?} earlier"
        );
        assert!(cold >= ROUND_TRIP * 2, "{cold:?}: connect, then ask");
        if gained >= ROUND_TRIP * 9 / 10 {
            assert!(backend.accepted() > 0);
            return;
        }
        assert!(
            attempt < 3,
            "at least 0.9 of a round trip of {ROUND_TRIP:?} is to be gained"
        );
    }
}
