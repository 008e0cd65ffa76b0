//! The smallest HTTP client that the admin address and the admin socket need.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
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
    split(&answer)
}

/// Status code and JSON of one request over the admin socket.
pub fn over_socket(
    socket: &Path,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<(u16, serde_json::Value)> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let (code, text) = exchange(stream, method, path, body)?;
    Ok((code, serde_json::from_str(&text).unwrap_or_default()))
}

/// Status code and text of one request over TCP.
pub fn over_tcp(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    exchange(stream, method, path, body)
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    split(&answer)
}

/// A whole answer's status code and body.
pub fn split(answer: &str) -> io::Result<(u16, String)> {
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
