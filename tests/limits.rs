//! Limits: how many, how fast, from where, and towards each backend how fast. Counts are claims and hold always; rates
//! are measured by the server's own count, and a measurement that the machine disturbed is taken again.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "limits/counts.rs"]
mod counts;
#[path = "limits/flood.rs"]
mod flood;
#[path = "limits/pacing.rs"]
mod pacing;
#[path = "limits/rates.rs"]
mod rates;

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use support::backends::read_line;
use support::net;
use support::ringway::Ringway;

/// A source of its own for the test: nobody else comes from there.
fn source(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 5, high, low)
}

/// Connects from this source: the stream, greeted by a backend, or `None` if turned away by a reset.
fn knock(source: Ipv4Addr, address: SocketAddr) -> Option<TcpStream> {
    let stream = match net::connect_with(Some(source), address, 0) {
        Ok(stream) => stream,
        Err(error) => {
            assert!(is_cut(&error), "{error}");
            return None;
        }
    };
    match read_line(&stream) {
        Ok(_) => Some(stream),
        Err(error) => {
            assert!(is_cut(&error), "{error} instead of a reset");
            None
        }
    }
}

/// A reset may be told by the connect, too.
fn is_cut(error: &io::Error) -> bool {
    net::is_reset(error) || error.kind() == io::ErrorKind::BrokenPipe
}

/// Nobody has closed it.
fn is_alive(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let alive = matches!((&*stream).read(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    alive
}

fn refused(ringway: &Ringway, reason: &str) -> f64 {
    let labels = [("listener", "main"), ("reason", reason)];
    ringway.metrics().sum("ringway_refused_total", &labels)
}

/// A `[[listener]]` named main for the pool main, with lines of its own.
fn limited(address: SocketAddr, lines: &str) -> String {
    format!("[[listener]]\nname = \"main\"\nbind = \"{address}\"\npool = \"main\"\n{lines}\n\n")
}
