//! What is fuzzed: for each codec a function that takes any bytes and panics if a promise is broken. The short run of
//! `make test` (`tests/fuzz_short.rs`) feeds them from `corpus/`, mutated from a seed; libFuzzer calls the same functions
//! (`fuzz_targets/any.rs`). Each reader must be total: no panic, and no claim that more bytes would refute.

mod checks;
mod logins;

use ringway::wire::{client_hello, postgres, proxy};

/// One codec.
pub struct Target {
    /// Also its folder in `corpus/`.
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Rounds of the short run: each target gets about the same time.
    pub rounds: u64,
}

const fn target(name: &'static str, rounds: u64, run: fn(&[u8])) -> Target {
    Target { name, run, rounds }
}

pub const TARGETS: &[Target] = &[
    target("proxy", 60_000, proxy_header),
    target("client_hello", 60_000, server_name),
    target("postgres", 100_000, first_packet),
    target("config", 1_500, configuration),
    target("dns", 60_000, checks::dns_answer),
    target("http", 60_000, checks::http_head),
    target("redis", 10_000, checks::redis_reply),
    target("expect", 10_000, checks::expected),
    target("postgres_server", 60_000, logins::postgres_server),
    target("postgres_login", 60_000, logins::postgres_login),
    target("mysql_server", 60_000, logins::mysql_server),
    target("mysql_login", 60_000, logins::mysql_login),
    target("scram", 20_000, logins::scram_server),
];

/// Some cuts of `bytes`: all of a short one, some of a long one.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let step = bytes.len() / 64 + 1;
    (0..bytes.len()).step_by(step).map(|end| &bytes[..end])
}

fn proxy_header(bytes: &[u8]) {
    let verdict = proxy::parse(bytes);
    if let proxy::Parsed::Header(header) = verdict {
        assert!(header.length <= bytes.len() && header.length <= proxy::HEADER_BYTES_MAX);
        let again = proxy::announce(
            proxy::Version::Two,
            header.transport,
            header.endpoints,
            true,
        );
        assert!(matches!(
            proxy::parse(again.as_bytes()),
            proxy::Parsed::Header(_)
        ));
    }
    for cut in cuts(bytes) {
        match (proxy::parse(cut), verdict) {
            (proxy::Parsed::More(wanted), _) => assert!(wanted > cut.len()),
            (early, late) => assert_eq!(early, late, "a cut is judged otherwise"),
        }
    }
}

fn server_name(bytes: &[u8]) {
    let verdict = client_hello::server_name(bytes);
    for cut in cuts(bytes) {
        match client_hello::server_name(cut) {
            client_hello::Seen::More(wanted) => {
                assert!(wanted > cut.len() && wanted <= client_hello::HELLO_BYTES_MAX);
            }
            early => assert_eq!(early, verdict, "a cut is judged otherwise"),
        }
    }
}

fn first_packet(bytes: &[u8]) {
    let verdict = postgres::first_packet(bytes);
    if let postgres::FirstPacket::Cancel { length } = verdict {
        assert!(length <= bytes.len() && length <= postgres::CANCEL_BYTES_MAX);
    }
    for cut in cuts(bytes) {
        match postgres::first_packet(cut) {
            postgres::FirstPacket::More(wanted) => assert!(wanted > cut.len()),
            early => assert_eq!(early, verdict, "a cut is judged otherwise"),
        }
    }
}

/// A file that is taken is taken again in the same way, and as it is written out; one that is refused is refused in words.
fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let no_names = |_: &str| None;
    let read = |text: &str| ringway::config::parse(text, "fuzz", &no_names);
    match (read(text), read(text)) {
        (Ok(one), Ok(two)) => {
            assert_eq!(one, two);
            let again = ringway::config::written(&one);
            // What looks like a variable's name in a value cannot be written so that it is none.
            if !again.contains("${") {
                assert_eq!(read(&again), Ok(one), "written as\n{again}");
            }
        }
        (Err(one), Err(two)) => {
            let said = one.to_string();
            assert!(!said.is_empty() && said == two.to_string());
        }
        _ => panic!("taken once and refused once"),
    }
}
