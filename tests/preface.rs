//! What a client shows before it is given a backend: PROXY headers of every kind and in every piece, server names of TLS
//! clients, garbage, and nothing at all.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::ClientConnection;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use support::backends::{Backend, read_line};
use support::net;
use support::ringway::{Ringway, Setup, listener, pool};
use support::wait::{seconds, until};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A version 2 header: command and family as given, addresses and fields behind.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

const FOUR: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 9, 0xDC, 0x04, 0x01, 0xBB];
const FOUR_TOLD: &str = "PROXY TCP4 192.0.2.1 198.51.100.9 56324 443";
const SIX_TOLD: &str = "PROXY TCP6 2001:db8::1 2001:db8::9 80 81";

fn six() -> Vec<u8> {
    let mut block = vec![0x20, 1, 13, 0xB8];
    block.extend([0; 11]);
    block.push(1);
    block.extend([0x20, 1, 13, 0xB8]);
    block.extend([0; 11]);
    block.push(9);
    block.extend([0, 80, 0, 81]);
    block
}

/// A listener that takes headers, with lines of its own, before a pool that announces its clients in version 1 to an echo
/// server: what was understood comes back.
fn mirror(lines: &str, pool_lines: &str) -> (SocketAddr, Backend, Ringway) {
    let backend = Backend::echo();
    let address = net::free_address();
    let own = listener("main", address, "main").replace("\n\n", &format!("\n{lines}\n\n"));
    let body = own + &pool("main", pool_lines, &[("echo", backend.address)]);
    let ringway = Setup::new(body).start();
    (address, backend, ringway)
}

const ANNOUNCED: &str = "accept_proxy = true";
const TELLS: &str = "send_proxy = \"v1\"";

fn ended(ringway: &Ringway, end: &str) -> f64 {
    ringway
        .metrics()
        .sum("ringway_session_ends_total", &[("end", end)])
}

/// Sends in pieces of so many bytes, each in a segment of its own as far as the kernel lets us.
fn send_in_pieces(stream: &TcpStream, bytes: &[u8], piece: usize) {
    let mut stream = stream;
    for (n, piece) in bytes.chunks(piece).enumerate() {
        stream.write_all(piece).unwrap();
        if n % 64 == 3 {
            // Now and then long enough for whoever reads to have looked.
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Reads a line of at most `most` bytes.
fn line_of(stream: &TcpStream) -> String {
    read_line(stream).unwrap().trim_end().to_owned()
}

#[track_caller]
fn expect_reset(mut stream: &TcpStream) {
    let mut rest = Vec::new();
    let error = stream
        .read_to_end(&mut rest)
        .expect_err("a reset, not an end of stream");
    assert!(net::is_reset(&error), "{error}");
    assert!(rest.is_empty(), "{rest:?}");
}

#[test]
fn the_announced_client_is_who_counts_however_the_header_comes() {
    let (address, _backend, ringway) = mirror(ANNOUNCED, TELLS);
    let with_fields = [&FOUR[..], &[4, 0, 2, 0, 0, 0xE0, 0, 1, b'x']].concat();
    let mut long_fields = FOUR.to_vec();
    long_fields.extend([0xE1, 0x3C, 0x00]);
    long_fields.extend([7; 0x3C00]);
    let unix = [&b"/run/x"[..], &[0; 102], &[0; 108]].concat();
    let cases: Vec<(Vec<u8>, Option<&str>)> = vec![
        (FOUR_TOLD.bytes().chain(*b"\r\n").collect(), Some(FOUR_TOLD)),
        (SIX_TOLD.bytes().chain(*b"\r\n").collect(), Some(SIX_TOLD)),
        (v2(0x21, 0x11, &FOUR), Some(FOUR_TOLD)),
        (v2(0x21, 0x21, &six()), Some(SIX_TOLD)),
        (v2(0x21, 0x11, &with_fields), Some(FOUR_TOLD)),
        (v2(0x21, 0x11, &long_fields), Some(FOUR_TOLD)),
        (v2(0x21, 0x31, &unix), Some("PROXY UNKNOWN")),
        // Whoever speaks for itself is announced by its real address.
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (v2(0x20, 0, &[]), None),
        (v2(0x21, 0, &[]), None),
    ];
    for (header, told) in &cases {
        for piece in [usize::MAX, 1, 7] {
            if piece == 1 && header.len() > 5_000 {
                continue;
            }
            let mut stream = net::connect(address);
            let told = told.map_or_else(
                || {
                    let own = stream.local_addr().unwrap();
                    let (from, to) = (own.ip(), address.ip());
                    format!("PROXY TCP4 {from} {to} {} {}", own.port(), address.port())
                },
                str::to_owned,
            );
            send_in_pieces(
                &stream,
                &[header, &b"and more\n"[..]].concat(),
                piece.min(1 << 16),
            );
            assert_eq!(line_of(&stream), told, "{}", header.escape_ascii());
            assert_eq!(line_of(&stream), "and more");
            stream.write_all(b"and again\n").unwrap();
            assert_eq!(line_of(&stream), "and again");
        }
    }
    ringway.wait_empty();
    assert_eq!(ended(&ringway, "preface-invalid"), 0.0);
}

#[test]
fn wrong_headers_are_refused_by_reset_and_never_reach_a_backend() {
    let (address, backend, ringway) = mirror(ANNOUNCED, "");
    let mut spoilt = v2(0x21, 0x11, &[&FOUR[..], &[3, 0, 4, 1, 2, 3, 4]].concat());
    spoilt[20] ^= 1;
    let cases: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\0".to_vec(),
        b"PROXX".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.9 +80 2\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2\n".to_vec(),
        b"PROXY TCP5 192.0.2.1 192.0.2.9 1 2\r\n".to_vec(),
        [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(),
        v2(0x11, 0x11, &FOUR),
        v2(0x21, 0x11, &FOUR[..4]),
        v2(0x21, 0x11, &[&FOUR[..], &[4, 0, 9, 0]].concat()),
        spoilt,
        [SIGNATURE, &[0x21, 0x11, 0xFF, 0xFF]].concat(),
    ];
    for header in &cases {
        let mut stream = net::connect(address);
        stream.write_all(header).unwrap();
        expect_reset(&stream);
    }
    // One that ends in the middle is no better.
    let mut stream = net::connect(address);
    stream.write_all(b"PROXY TCP4 192").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    expect_reset(&stream);
    // Who leaves without a word is gone, and that is all.
    drop(net::connect(address));
    ringway.wait_empty();
    until(seconds(10), "every end is counted", || {
        ended(&ringway, "preface-invalid") == cases.len() as f64 + 1.0
            && ended(&ringway, "client-gone") == 1.0
    });
    assert_eq!(backend.accepted(), 0);
}

#[test]
fn only_announcers_are_believed_and_they_must_announce() {
    let here = net::host();
    let lines = "accept_proxy = true\naccept_proxy_from = [\"192.0.2.0/24\", \"127.0.0.77\"]\npreface_timeout = \"300ms\"";
    let (address, _backend, ringway) = mirror(lines, "");
    let line = format!("{FOUR_TOLD}\r\n");
    // A plain client may say what it likes: it is carried as it is.
    let mut plain = net::connect_with(Some(here), address, 0).unwrap();
    plain.write_all(line.as_bytes()).unwrap();
    assert_eq!(line_of(&plain), FOUR_TOLD);
    let announcer = Some(Ipv4Addr::new(127, 0, 0, 77));
    let mut believed = net::connect_with(announcer, address, 0).unwrap();
    believed
        .write_all(format!("{line}hello\n").as_bytes())
        .unwrap();
    assert_eq!(line_of(&believed), "hello");
    let silent = net::connect_with(announcer, address, 0).unwrap();
    expect_reset(&silent);
    assert_eq!(ended(&ringway, "preface-invalid"), 1.0);
}

/// The address that counts for choosing is the announced one.
#[test]
fn the_announced_address_chooses_the_backend() {
    let backends: Vec<_> = (0..8).map(|n| Backend::named(&format!("b{n}"))).collect();
    let named: Vec<(String, SocketAddr)> = backends
        .iter()
        .enumerate()
        .map(|(n, backend)| (format!("b{n}"), backend.address))
        .collect();
    let named: Vec<(&str, SocketAddr)> = named
        .iter()
        .map(|(name, at)| (name.as_str(), *at))
        .collect();
    let address = net::free_address();
    let own = listener("main", address, "main").replace("\n\n", "\naccept_proxy = true\n\n");
    let body = own + &pool("main", "algorithm = \"source-hash\"", &named);
    let _ringway = Setup::new(body).start();
    let backend_for = |client: u8| {
        let mut stream = net::connect(address);
        let line = format!(
            "PROXY TCP4 10.0.0.{client} 10.0.0.1 {} 443\r\n",
            1000 + u16::from(client)
        );
        stream.write_all(line.as_bytes()).unwrap();
        line_of(&stream)
    };
    let first: Vec<String> = (0..40).map(backend_for).collect();
    let again: Vec<String> = (0..40).map(backend_for).collect();
    assert_eq!(first, again, "one client, one backend");
    let mut distinct = again;
    distinct.sort();
    distinct.dedup();
    assert!(distinct.len() >= 4, "forty clients meet in {distinct:?}");
}

#[test]
fn a_header_that_drips_holds_no_buffer_and_ends_in_time() {
    const CLIENTS: usize = 200;
    let lines = "accept_proxy = true\npreface_timeout = \"3s\"";
    let (address, backend, ringway) = mirror(lines, TELLS);
    let before = Instant::now();
    let mut slow: Vec<_> = (0..CLIENTS).map(|_| net::connect(address)).collect();
    for stream in &mut slow {
        stream.write_all(b"PROXY TC").unwrap();
    }
    if ringway.metric("ringway_sessions_active") == CLIENTS as f64 {
        assert_eq!(ringway.metric("ringway_buffers_held"), 0.0);
    }
    // Nobody else suffers from it.
    let mut stream = net::connect(address);
    stream
        .write_all(format!("{FOUR_TOLD}\r\nhello\n").as_bytes())
        .unwrap();
    assert_eq!(line_of(&stream), FOUR_TOLD);
    for stream in &slow {
        expect_reset(stream);
    }
    assert!(before.elapsed() >= seconds(3), "not before its time");
    assert_eq!(ended(&ringway, "preface-invalid"), CLIENTS as f64);
    assert_eq!(backend.accepted(), 1);
}

// ---------------------------------------------------------------------------------------------------------------------
// Server names

/// A real client's ClientHello for `name`, offering so many bytes of application protocols.
fn hello(name: &'static str, filling: usize, record_bytes: Option<usize>) -> Vec<u8> {
    let mut config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = (0..filling / 250).map(|_| vec![b'x'; 249]).collect();
    config.max_fragment_size = record_bytes;
    let wanted = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), wanted).unwrap();
    let mut flight = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut flight).unwrap();
    }
    flight
}

/// Three servers that speak first and then echo, behind names.
struct Names {
    address: SocketAddr,
    backends: [Backend; 3],
    ringway: Ringway,
}

fn names(lines: &str) -> Names {
    let backends = ["exact", "below", "own"].map(Backend::named);
    let address = net::free_address();
    let routes = "route = [{ sni = \"Db.Test\", pool = \"exact\" }, { sni = \"*.db.test\", pool = \"below\" }]";
    let lines = format!("\n{lines}\n{routes}\n\n");
    let mut body = listener("main", address, "own").replace("\n\n", &lines);
    for (backend, name) in backends.iter().zip(["exact", "below", "own"]) {
        body += &pool(name, "", &[(name, backend.address)]);
    }
    Names {
        address,
        backends,
        ringway: Setup::new(body).start(),
    }
}

/// The server's greeting, and then its echo of every byte that was sent.
#[track_caller]
fn expect_server(stream: &TcpStream, name: &str, sent: &[u8]) {
    assert_eq!(line_of(stream), name);
    let mut echo = vec![0; sent.len()];
    let mut stream = stream;
    stream.read_exact(&mut echo).unwrap();
    assert!(echo == sent, "the server has got what the client has sent");
}

#[test]
fn a_server_name_finds_its_pool_however_the_hello_comes() {
    let names = names("");
    for (name, server) in [
        ("db.test", "exact"),
        ("one.db.test", "below"),
        ("a.b.DB.test", "below"),
        ("other.test", "own"),
        ("192.0.2.1", "own"),
    ] {
        for (filling, record_bytes) in [
            (0, None),
            (0, Some(40)),
            (6_000, Some(1_500)),
            (14_000, None),
        ] {
            let hello = hello(name, filling, record_bytes);
            for piece in [usize::MAX, 1, 1_400] {
                if piece == 1 && hello.len() > 2_000 {
                    continue;
                }
                let stream = net::connect(names.address);
                send_in_pieces(&stream, &hello, piece.min(1 << 16));
                expect_server(&stream, server, &hello);
            }
        }
    }
    let lost = ended(&names.ringway, "preface-invalid");
    assert_eq!(lost, 0.0);
}

#[test]
fn who_asks_for_nobody_gets_the_listeners_own_pool() {
    let names = names("preface_timeout = \"400ms\"");
    let mut plain = net::connect(names.address);
    plain.write_all(b"no TLS\n").unwrap();
    expect_server(&plain, "own", b"no TLS\n");
    // Without a byte by then.
    let silent = net::connect(names.address);
    assert_eq!(line_of(&silent), "own");
    // An end of stream without a byte is no reason to wait.
    let ending = net::connect(names.address);
    ending.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(line_of(&ending), "own");
    // Longer than anybody looks.
    let mut long = vec![22, 3, 1, 0x40, 0, 1, 0, 0xF0, 0x28, 3, 3];
    long.extend([0; 36]);
    long.extend([0xF0, 0, 0xFF, 0xFF, 0xEF, 0xFC]);
    long.resize(20_000, 0);
    long[5 + 0x4000..10 + 0x4000].copy_from_slice(&[22, 3, 1, 0x10, 0]);
    let mut stream = net::connect(names.address);
    stream.write_all(&long).unwrap();
    let server = line_of(&stream);
    assert_eq!(server, "own");
}

#[test]
fn hellos_that_are_wrong_or_never_whole_are_refused() {
    let names = names("preface_timeout = \"500ms\"");
    let whole = hello("db.test", 0, None);
    let mut wrong = whole.clone();
    wrong[8] ^= 1;
    let mut stream = net::connect(names.address);
    stream.write_all(&wrong).unwrap();
    expect_reset(&stream);
    let mut cut = net::connect(names.address);
    cut.write_all(&whole[..whole.len() / 2]).unwrap();
    expect_reset(&cut);
    let mut ending = net::connect(names.address);
    ending.write_all(&whole[..20]).unwrap();
    ending.shutdown(std::net::Shutdown::Write).unwrap();
    expect_reset(&ending);
    until(seconds(10), "every end is counted", || {
        ended(&names.ringway, "preface-invalid") == 3.0
    });
    for backend in &names.backends {
        assert_eq!(backend.accepted(), 0);
    }
}

#[test]
fn a_header_and_a_server_name_are_read_one_after_the_other() {
    let names = names("accept_proxy = true");
    let hello = hello("one.db.test", 0, None);
    for piece in [usize::MAX, 1] {
        let bytes = [&v2(0x21, 0x11, &FOUR)[..], &hello].concat();
        let stream = net::connect(names.address);
        send_in_pieces(&stream, &bytes, piece.min(1 << 16));
        expect_server(&stream, "below", &hello);
    }
}

/// Anything may come first; nothing may break us.
#[test]
fn garbage_breaks_nothing() {
    let names = names("accept_proxy = true\npreface_timeout = \"200ms\"");
    let mut dice = support::wait::Dice(7);
    for _ in 0..300 {
        let mut bytes = match dice.below(4) {
            0 => v2(0x21, 0x11, &FOUR),
            1 => [&v2(0x20, 0, &[])[..], &hello("one.db.test", 0, None)].concat(),
            2 => format!("{FOUR_TOLD}\r\n").into_bytes(),
            _ => (0..dice.below(80)).map(|_| dice.roll() as u8).collect(),
        };
        for _ in 0..dice.below(4) {
            let at = dice.below(bytes.len().max(1) as u64) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= dice.roll() as u8;
            }
        }
        let mut stream = net::connect(names.address);
        let _ = stream.write_all(&bytes);
        if dice.chance(30) {
            net::reset(stream);
        }
    }
    names.ringway.wait_empty();
    let mut stream = net::connect(names.address);
    stream.write_all(&v2(0x20, 0, &[])).unwrap();
    stream.write_all(b"plain\n").unwrap();
    expect_server(&stream, "own", b"plain\n");
    let metrics = names.ringway.metrics();
    assert_eq!(
        metrics.sum("ringway_session_ends_total", &[("end", "internal")]),
        0.0
    );
    assert_eq!(metrics.sum("ringway_stale_answers_total", &[]), 0.0);
}
