//! Real and made-up ClientHellos: the name is found in any pieces, and as the library that ends TLS would find it.

use std::io::Cursor;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::client::ClientConnection;
use rustls::pki_types::ServerName as Wanted;
use rustls::server::Acceptor;
use rustls::{ClientConfig, RootCertStore};

use super::*;

/// A real client's first flight: for `name`, offering so many bytes of application protocols, in records of at most
/// `record_bytes`.
fn real_hello(name: &'static str, filling: usize, record_bytes: Option<usize>) -> Vec<u8> {
    let mut config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = (0..filling / 250).map(|_| vec![b'x'; 249]).collect();
    config.max_fragment_size = record_bytes;
    let wanted = Wanted::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), wanted).unwrap();
    let mut flight = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut flight).unwrap();
    }
    flight
}

fn name_of(bytes: &[u8]) -> String {
    match server_name(bytes) {
        Seen::Name(name) => name.as_str().to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_real_clients_name_is_read_in_whatever_pieces_it_comes() {
    for (filling, records) in [
        (0, None),
        (0, Some(32)),
        (0, Some(40)),
        (5_000, None),
        (12_000, Some(1_000)),
        (14_000, None),
    ] {
        let hello = real_hello("Db1.Example.COM", filling, records);
        assert!(hello.len() > filling && hello.len() < HELLO_BYTES_MAX);
        assert_eq!(name_of(&hello), "db1.example.com", "{filling} {records:?}");
        let mut wakes = 0;
        let mut have = 0;
        // As the session reads it: woken when as much is there as was said to be needed.
        while let Seen::More(wanted) = server_name(&hello[..have]) {
            assert!(wanted > have && wanted <= hello.len(), "{have} {wanted}");
            have = wanted;
            wakes += 1;
        }
        let in_records = records.map_or(1, |bytes| hello.len() / bytes + 1);
        assert!(wakes <= 2 * in_records + 2, "{wakes} wakes");
        assert_eq!(name_of(&hello[..have]), "db1.example.com");
    }
}

#[test]
fn a_hello_without_a_name_and_one_that_is_too_long_have_none() {
    assert_eq!(server_name(&real_hello("192.0.2.1", 0, None)), Seen::NoName);
    let long = real_hello("db1.example.com", 40_000, None);
    let verdict = server_name(&long[..HELLO_BYTES_MAX]);
    // The name may stand before what is too long.
    assert!(
        matches!(verdict, Seen::NoName | Seen::Name(_)),
        "{verdict:?}"
    );
    assert_eq!(server_name(&long), verdict);
    assert_eq!(
        server_name(&hello_of(&[(0xFFFF, &[0; 20_000])], 16_000)),
        Seen::NoName
    );
}

/// A hello of these extensions in records of so many bytes.
fn hello_of(extensions: &[(u16, &[u8])], record_bytes: usize) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, value) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend((value.len() as u16).to_be_bytes());
        list.extend(*value);
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend((list.len() as u16).to_be_bytes());
    body.extend(list);
    in_records(&body, record_bytes)
}

fn in_records(body: &[u8], record_bytes: usize) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1, length[1], length[2], length[3]], body].concat();
    let mut bytes = Vec::new();
    for piece in message.chunks(record_bytes) {
        bytes.extend([22, 3, 1]);
        bytes.extend((piece.len() as u16).to_be_bytes());
        bytes.extend(piece);
    }
    bytes
}

fn names(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, name) in entries {
        list.push(*kind);
        list.extend((name.len() as u16).to_be_bytes());
        list.extend(*name);
    }
    [&(list.len() as u16).to_be_bytes()[..], &list].concat()
}

#[test]
fn names_are_judged_one_by_one() {
    let long = [b'a'; 254];
    for (entries, expected) in [
        (names(&[(0, b"DB.test")]), "db.test"),
        (names(&[(0, b"db.test.")]), "db.test"),
        (names(&[(9, b"other"), (0, b"db.test")]), "db.test"),
        (names(&[(0, b"first"), (0, b"second")]), "first"),
        (names(&[(9, b"other")]), "NoName"),
        (names(&[]), "NoName"),
        (names(&[(0, b"")]), "NoName"),
        (names(&[(0, b"caf\xc3\xa9")]), "NoName"),
        (names(&[(0, b"a\0b")]), "NoName"),
        (names(&[(0, &long)]), "NoName"),
        (vec![0, 9, 0], "Malformed"),
        (vec![0, 3, 0, 0, 9], "Malformed"),
    ] {
        let extensions: [(u16, &[u8]); 2] = [(43, &[2, 3, 4]), (0, &entries)];
        for record_bytes in [1, 7, 10_000] {
            assert_eq!(name_of(&hello_of(&extensions, record_bytes)), expected);
        }
    }
}

#[test]
fn a_stranger_is_told_by_his_first_wrong_byte() {
    let hello = hello_of(&[(0, &names(&[(0, b"db.test")]))], 10_000);
    for (at, wrong) in [(0, b'G'), (0, 21), (1, 2), (3, 0x41), (5, 2)] {
        let mut bytes = hello[..=at].to_vec();
        assert!(matches!(server_name(&bytes), Seen::More(_)), "{at}");
        bytes[at] = wrong;
        if at == 3 {
            bytes.push(0);
        }
        assert_eq!(server_name(&bytes), Seen::NotTls, "{at}");
    }
    // Whatever the record says of its minor version.
    let mut newer = hello;
    newer[2] = 0xAA;
    assert_eq!(name_of(&newer), "db.test");
    // An empty record, and one of another kind in the middle of a hello.
    assert_eq!(server_name(&[22, 3, 1, 0, 0]), Seen::NotTls);
    let mut pieces = hello_of(&[(0, &names(&[(0, b"db.test")]))], 20);
    pieces[25] = 23;
    assert_eq!(server_name(&pieces), Seen::Malformed);
    // Lengths that do not fit together.
    let mut long = hello_of(&[(0, &names(&[(0, b"db.test")]))], 10_000);
    long[8] += 1;
    assert_eq!(server_name(&long), Seen::Malformed);
    // An old client's: no extensions at all.
    let body = [&[3, 1][..], &[7; 32], &[0, 0, 2, 0, 5, 1, 0]].concat();
    assert_eq!(server_name(&in_records(&body, 100)), Seen::NoName);
}

/// What the library that terminates TLS would read.
fn oracle(bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    let mut rest = Cursor::new(bytes);
    while (rest.position() as usize) < bytes.len() {
        acceptor.read_tls(&mut rest).ok()?;
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return Some(hello.server_name().map(str::to_owned));
            }
            Ok(None) => {}
            Err(_) => return None,
        }
    }
    None
}

fn nearly_hellos() -> impl Strategy<Value = Vec<u8>> {
    let name = "[a-zA-Z]{1,9}(\\.[a-z]{2,5}){0,2}";
    let real = (name, 20usize..400).prop_map(|(name, record_bytes)| {
        let entries = names(&[(0, name.as_bytes())]);
        let extensions: [(u16, &[u8]); 4] = [
            (43, &[2, 3, 4]),
            (10, &[0, 2, 0, 29]),
            (13, &[0, 2, 4, 3]),
            (0, &entries),
        ];
        hello_of(&extensions, record_bytes)
    });
    let spoilt = (real.clone(), any::<(u16, u8)>()).prop_map(|(mut bytes, (at, by))| {
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= by;
        bytes
    });
    let garbage = prop::collection::vec(any::<u8>(), 0..100);
    let tlsish = prop::collection::vec(any::<u8>(), 0..100)
        .prop_map(|bytes| [&[22, 3, 1, 0, 90, 1, 0, 0, 86][..], &bytes].concat());
    prop_oneof![real, spoilt, garbage, tlsish]
}

proptest! {
    #[test]
    fn any_split_gives_the_same_result(whole in nearly_hellos()) {
        let verdict = server_name(&whole);
        for cut in 0..whole.len() {
            match server_name(&whole[..cut]) {
                Seen::More(wanted) => prop_assert!(wanted > cut),
                other => prop_assert_eq!(other, verdict),
            }
        }
    }

    #[test]
    fn what_a_server_would_read_is_what_we_read(whole in nearly_hellos()) {
        if let Some(theirs) = oracle(&whole) {
            match server_name(&whole) {
                Seen::Name(ours) => {
                    let theirs = theirs.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
                    prop_assert_eq!(Some(ours.as_str()), theirs.as_deref());
                }
                other => prop_assert!(theirs.is_none(), "{:?} {:?}", other, theirs),
            }
        }
    }
}
