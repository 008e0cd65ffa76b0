//! Version 1: `PROXY TCP4 192.0.2.1 192.0.2.9 56324 443` and CR LF, at most 107 bytes. Read strictly: one space between
//! words, ports as plain decimal numbers. What the rest of the world's parsers let pass here, two of them may read
//! differently.

use std::net::{IpAddr, SocketAddr};

use super::{Endpoints, Flaw, Header, Parsed, Transport};

/// With its CR LF.
pub(super) const LINE_BYTES_MAX: usize = 107;

const BEGINNING: &[u8] = b"PROXY ";
const PROTOCOLS: [&[u8]; 3] = [b"TCP4 ", b"TCP6 ", b"UNKNOWN"];

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let common = window.len().min(BEGINNING.len());
    if window[..common] != BEGINNING[..common] {
        return Parsed::Invalid(Flaw::Signature);
    }
    let rest = &window[common..];
    if !PROTOCOLS.iter().any(|word| agree(rest, word)) {
        return Parsed::Invalid(Flaw::Family);
    }
    let Some(end) = window
        .iter()
        .position(|&byte| byte == b'\r' || byte == b'\n')
    else {
        return if window.len() == LINE_BYTES_MAX {
            Parsed::Invalid(Flaw::Length)
        } else {
            Parsed::More(window.len() + 1)
        };
    };
    match (window[end], window.get(end + 1)) {
        (b'\r', Some(b'\n')) => match read_line(&window[BEGINNING.len()..end]) {
            Ok(endpoints) => Parsed::Header(Header {
                length: end + 2,
                transport: match endpoints {
                    Endpoints::Inet { .. } => Transport::Stream,
                    _ => Transport::Unspecified,
                },
                endpoints,
            }),
            Err(flaw) => Parsed::Invalid(flaw),
        },
        (b'\r', None) if window.len() < LINE_BYTES_MAX => Parsed::More(window.len() + 1),
        (b'\r', None) => Parsed::Invalid(Flaw::Length),
        _ => Parsed::Invalid(Flaw::Line),
    }
}

/// Whether one begins as the other does.
fn agree(bytes: &[u8], word: &[u8]) -> bool {
    let common = bytes.len().min(word.len());
    bytes[..common] == word[..common]
}

/// From the protocol's name to the end of the line.
fn read_line(line: &[u8]) -> Result<Endpoints, Flaw> {
    let text = std::str::from_utf8(line).map_err(|_| Flaw::Line)?;
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        // Whatever follows is to be ignored.
        return Ok(Endpoints::Connection);
    }
    let mut words = text.split(' ');
    let four = match words.next() {
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return Err(Flaw::Family),
    };
    let source = address(words.next(), four)?;
    let destination = address(words.next(), four)?;
    let source = SocketAddr::new(source, port(words.next())?);
    let destination = SocketAddr::new(destination, port(words.next())?);
    if words.next().is_some() {
        return Err(Flaw::Line);
    }
    Ok(Endpoints::Inet {
        source,
        destination,
    })
}

fn address(word: Option<&str>, four: bool) -> Result<IpAddr, Flaw> {
    let word = word.ok_or(Flaw::Line)?;
    let parsed = if four {
        word.parse().map(IpAddr::V4).ok()
    } else {
        word.parse().map(IpAddr::V6).ok()
    };
    parsed.ok_or(Flaw::Address)
}

/// Digits only, and no zero before others: the standard parser would take "+80".
fn port(word: Option<&str>) -> Result<u16, Flaw> {
    let word = word.ok_or(Flaw::Line)?;
    let plain =
        word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    let parsed = if plain { word.parse().ok() } else { None };
    parsed.ok_or(Flaw::Port)
}
