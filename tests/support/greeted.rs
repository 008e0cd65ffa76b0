//! A client of a backend that begins with its name and then gives back each line ([`Backend::named`](super::backends::Backend)).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::backends::read_line;
use super::net;

/// The connection, and whose it is.
pub fn open(address: SocketAddr) -> (TcpStream, String) {
    let stream = net::connect(address);
    let name = read_line(&stream).expect("the backend's name");
    (stream, name)
}

/// A line there and back.
pub fn say(stream: &mut TcpStream, text: &str) {
    writeln!(stream, "{text}").expect("send");
    assert_eq!(read_line(&*stream).expect("echo"), text);
}

#[track_caller]
pub fn expect_reset(mut stream: TcpStream) {
    let error = stream.read(&mut [0; 1]).expect_err("no clean end");
    assert!(net::is_reset(&error), "{error}");
}
