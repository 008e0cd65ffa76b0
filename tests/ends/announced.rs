//! Clients whose address comes with their first bytes are held to what their listener asks of clients, and the session
//! that has begun by then ends for that reason.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::ended;
use super::support::backends::{Backend, read_line};
use super::support::net;
use super::support::ringway::{Ringway, pool};
use super::support::wait::{seconds, until};

/// A client that a proxy announces; `None` if it is reset.
fn announced(address: std::net::SocketAddr, client: &str) -> Option<TcpStream> {
    let mut stream = net::connect(address);
    let header = format!("PROXY TCP4 {client} 10.0.0.1 1000 443\r\n");
    stream.write_all(header.as_bytes()).unwrap();
    match read_line(&stream) {
        Ok(_) => Some(stream),
        Err(error) => {
            assert!(net::is_reset(&error), "{error} instead of a reset");
            let rest = stream.read(&mut [0; 1]);
            assert!(!matches!(rest, Ok(1..)), "bytes after a reset");
            None
        }
    }
}

#[test]
fn an_announced_client_is_held_to_the_lists_and_limits() {
    let backend = Backend::named("a");
    let address = net::free_address();
    let body = format!(
        "[[listener]]\nname = \"main\"\nbind = \"{address}\"\npool = \"main\"\naccept_proxy = true\n\
         deny = [\"10.9.0.0/16\"]\nsource_max_connections = 2\nsource_connection_rate = \"1000/s burst 3\"\n\n"
    ) + &pool("main", "", &[("a", backend.address)]);
    let ringway = Ringway::start(body);
    assert!(announced(address, "10.9.1.2").is_none(), "denied");
    let held: Vec<_> = (0..2)
        .map(|_| announced(address, "10.1.0.1").expect("two may"))
        .collect();
    assert!(announced(address, "10.1.0.1").is_none(), "a third may not");
    let other = announced(address, "10.1.0.2").expect("another source may");
    until(seconds(10), "both are counted", || {
        ended(&ringway, "main", "denied") == 1.0 && ended(&ringway, "main", "limited") == 1.0
    });
    // What was held against the source ends with its sessions, and nothing was for who was turned away.
    drop((held, other));
    ringway.wait_empty();
    until(seconds(10), "no source is kept", || {
        ringway.metric("ringway_sources_active") == 0.0
    });
    assert!(announced(address, "10.1.0.1").is_some());
    assert_eq!(backend.accepted(), 4, "who is refused reaches no backend");
}
