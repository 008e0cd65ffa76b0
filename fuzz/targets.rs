//! What is fuzzed: for each reader of foreign bytes a function that takes any bytes and panics if a promise is broken. The
//! short run of `make test` (`tests/fuzz_short.rs`) feeds them from `corpus/`, mutated from a seed; a coverage-guided
//! fuzzer can call the same functions. Each reader must be total: no panic, and no claim that more bytes would refute.

use ringway::wire::{client_hello, postgres, proxy};

/// A target: its name, which is also its folder in `corpus/`, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: &[Target] = &[
    ("proxy", proxy_header),
    ("client_hello", server_name),
    ("postgres", first_packet),
    ("config", configuration),
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

/// A file that is taken is taken again in the same way; one that is refused is refused in words.
fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let no_names = |_: &str| None;
    let read = || ringway::config::parse(text, "fuzz", &no_names);
    match (read(), read()) {
        (Ok(one), Ok(two)) => assert_eq!(one, two),
        (Err(one), Err(two)) => {
            let said = one.to_string();
            assert!(!said.is_empty() && said == two.to_string());
        }
        _ => panic!("taken once and refused once"),
    }
}
