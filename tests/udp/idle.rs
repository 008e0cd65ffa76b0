//! What flows cost that are silent.

use std::net::UdpSocket;

use super::support::datagrams::{Echo, ask};
use super::support::{alone, net, process};
use super::{flows, start};

/// Five thousand flows that have had one answer each.
#[test]
fn an_idle_flow_costs_little_memory() {
    let _alone = alone();
    const FLOWS: usize = 5_000;
    let echo = Echo::plain();
    let (ringway, front) = start(1, "", &[("a", echo.address)]);
    let open = |count: usize| -> Vec<UdpSocket> {
        let one = |_| {
            let socket = UdpSocket::bind((net::host(), 0)).unwrap();
            socket.set_read_timeout(Some(net::PATIENCE)).unwrap();
            socket.connect(front).unwrap();
            assert_eq!(ask(&socket, b"here I am").unwrap(), b"here I am");
            socket
        };
        (0..count).map(one).collect()
    };
    // The first ones warm what all share.
    let mut sockets = open(200);
    ringway.metrics();
    let before = process::resident_kib(ringway.pid());
    sockets.extend(open(FLOWS));
    assert_eq!(flows(&ringway), (200 + FLOWS) as f64);
    let after = process::resident_kib(ringway.pid());
    let each = after.saturating_sub(before) as f64 * 1024.0 / FLOWS as f64;
    eprintln!("an idle flow costs {each:.0} bytes of the process's own memory");
    assert!(
        each < 1_024.0,
        "{each:.0} bytes: from {before} to {after} KiB"
    );
    for socket in sockets.iter().step_by(97) {
        assert_eq!(ask(socket, b"still").unwrap(), b"still");
    }
}
