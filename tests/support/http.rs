//! The smallest HTTP client that the admin address needs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Status code and body of a GET.
pub fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    get_accepting(address, path, "*/*")
}

pub fn get_accepting(address: SocketAddr, path: &str, accept: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other(format!("no end of the head in {answer:?}")))?;
    let code = head
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok());
    let code = code.ok_or_else(|| io::Error::other(format!("no status code in {head:?}")))?;
    Ok((code, body.to_string()))
}
