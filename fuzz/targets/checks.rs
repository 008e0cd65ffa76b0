//! What checks read from servers of other protocols: DNS, HTTP, Redis, and what a dialogue expects.

use regex::bytes::RegexBuilder;
use ringway::wire::{dns, expect::Expect, http, redis};

use super::cuts;

const NAME: &str = "example.com";
const A: u16 = 1;

/// A datagram is judged by its own id, so that all of it is looked at.
pub fn dns_answer(bytes: &[u8]) {
    let id = bytes.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    let heard = dns::heard(bytes, id, NAME, A);
    let head = || (bytes[2] & 0x80 != 0, bytes[3] & 0x0F);
    match heard {
        dns::Heard::Alive => assert!(matches!(head(), (true, 0 | 3)), "{:?}", head()),
        dns::Heard::Refused(code) => {
            assert!(!code.is_empty() && !matches!(head(), (_, 0 | 3) | (false, _)));
        }
        dns::Heard::Other => {}
    }
    // Of another question, or too short for its head, it says nothing.
    assert_eq!(dns::heard(bytes, !id, NAME, A), dns::Heard::Other);
    let short = &bytes[..bytes.len().min(11)];
    assert_eq!(dns::heard(short, id, NAME, A), dns::Heard::Other);
}

pub fn http_head(bytes: &[u8]) {
    let verdict = http::status(bytes);
    if let Ok(Some((code, line))) = verdict {
        assert!((200..1000).contains(&code) && line.len() <= bytes.len());
    }
    if bytes.len() >= http::HEAD_BYTES_MAX {
        assert_ne!(verdict, Ok(None), "an endless head is waited for");
        return;
    }
    for cut in cuts(bytes) {
        match http::status(cut) {
            Ok(None) => {}
            early => assert_eq!(early, verdict, "a cut is judged otherwise"),
        }
    }
}

pub fn redis_reply(bytes: &[u8]) {
    let verdict = redis::reply(bytes);
    if let Ok(Some((_, used))) = &verdict {
        assert!((1..=bytes.len()).contains(used));
        // Nothing behind it was looked at.
        assert_eq!(redis::reply(&bytes[..*used]), verdict);
    }
    for cut in cuts(bytes) {
        match redis::reply(cut) {
            Ok(None) => {}
            early => assert_eq!(early, verdict, "a cut is judged otherwise"),
        }
    }
    let mut command = Vec::new();
    let words: Vec<&[u8]> = bytes.split(|&byte| byte == b' ').take(9).collect();
    redis::put_command(&mut command, &words);
    let longest = words.iter().map(|word| word.len()).max();
    if longest <= Some(64 * 1024) {
        let Ok(Some((redis::Reply::Array(Some(parts)), used))) = redis::reply(&command) else {
            panic!("a command that no server can read");
        };
        assert_eq!((parts.len(), used), (words.len(), command.len()));
    }
}

/// What is expected, a zero, and what is heard.
pub fn expected(bytes: &[u8]) {
    let mut halves = bytes.splitn(2, |&byte| byte == 0);
    let (wanted, heard) = (
        halves.next().unwrap_or_default(),
        halves.next().unwrap_or_default(),
    );
    let found = Expect::Bytes(wanted.to_vec()).find(heard);
    if let Some(end) = found {
        assert!(heard[..end].ends_with(wanted));
    }
    for cut in cuts(heard) {
        let early = Expect::Bytes(wanted.to_vec()).find(cut);
        assert_eq!(early, found.filter(|&end| end <= cut.len()));
    }
    let Ok(text) = std::str::from_utf8(wanted) else {
        return;
    };
    let mut builder = RegexBuilder::new(text);
    if let Ok(pattern) = builder.unicode(false).size_limit(64 * 1024).build() {
        let end = Expect::Pattern(pattern).find(heard);
        assert!(end.is_none_or(|end| end <= heard.len()));
    }
}
