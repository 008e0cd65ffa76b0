//! Vectors of the PROXY protocol, and what must hold for any bytes: any cut gives the same verdict, another reader agrees.

use proptest::prelude::*;

use super::*;

const V4: &str = "PROXY TCP4 192.0.2.1 198.51.100.9 56324 443\r\n";
const V6: &str = "PROXY TCP6 2001:db8::1 2001:db8::9 56324 443\r\n";

fn inet(source: &str, destination: &str) -> Endpoints {
    Endpoints::Inet {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

fn header(length: usize, transport: Transport, endpoints: Endpoints) -> Parsed {
    Parsed::Header(Header {
        length,
        transport,
        endpoints,
    })
}

/// A version 2 header of these parts, its length told as it is.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&v2::SIGNATURE[..], &[command, family], &length, body].concat()
}

const FOUR: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 9, 0xDC, 0x04, 0x01, 0xBB];

fn four_and(fields: &[u8]) -> Vec<u8> {
    [&FOUR[..], fields].concat()
}

/// The same with a checksum field as the last one.
fn with_checksum(mut whole: Vec<u8>) -> Vec<u8> {
    whole.extend([v2::FIELD_CHECKSUM, 0, 4, 0, 0, 0, 0]);
    let length = (whole.len() - v2::FIXED_BYTES) as u16;
    whole[14..16].copy_from_slice(&length.to_be_bytes());
    let sum = super::super::crc32c::crc32c(&[&whole]).to_be_bytes();
    let at = whole.len() - 4;
    whole[at..].copy_from_slice(&sum);
    whole
}

#[test]
fn lines_are_read_as_the_standard_has_them() {
    let four = inet("192.0.2.1:56324", "198.51.100.9:443");
    let six = inet("[2001:db8::1]:56324", "[2001:db8::9]:443");
    let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                   ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(longest.len(), 107);
    for (line, expected) in [
        (V4, header(45, Transport::Stream, four)),
        (V6, header(46, Transport::Stream, six)),
        (
            "PROXY UNKNOWN\r\n",
            header(15, Transport::Unspecified, Endpoints::Connection),
        ),
        (
            longest,
            header(107, Transport::Unspecified, Endpoints::Connection),
        ),
        (
            "PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n",
            header(
                44,
                Transport::Stream,
                inet("0.0.0.0:0", "255.255.255.255:65535"),
            ),
        ),
        (
            "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
            header(
                37,
                Transport::Stream,
                inet("[::ffff:192.0.2.1]:1", "[::1]:2"),
            ),
        ),
    ] {
        assert_eq!(parse(line.as_bytes()), expected, "{line:?}");
        let followed = format!("{line}GET / HTTP/1.1\r\n");
        assert_eq!(parse(followed.as_bytes()), expected, "{followed:?}");
    }
}

#[test]
fn wrong_lines_are_refused_for_what_is_wrong() {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(long.len(), 108);
    for (line, flaw) in [
        ("GET / HTTP/1.1\r\n", Flaw::Signature),
        ("PUT / H", Flaw::Signature),
        ("PROXYTCP4 192.0.2.1 192.0.2.9 1 2\r\n", Flaw::Signature),
        ("proxy TCP4 192.0.2.1 192.0.2.9 1 2\r\n", Flaw::Signature),
        ("PROXY UDP4 192.0.2.1 192.0.2.9 1 2\r\n", Flaw::Family),
        ("PROXY  TCP4 192.0.2.1 192.0.2.9 1 2\r\n", Flaw::Family),
        ("PROXY UNKNOWNxyz\r\n", Flaw::Family),
        ("PROXY TCP4 192.0.2.1 192.0.2.9 1 2\n", Flaw::Line),
        ("PROXY TCP4 192.0.2.1 192.0.2.9 1 2\rx", Flaw::Line),
        ("PROXY TCP4 192.0.2.1 192.0.2.9 1\r\n", Flaw::Line),
        ("PROXY TCP4 192.0.2.1 192.0.2.9 1 2 \r\n", Flaw::Line),
        ("PROXY TCP4 192.0.2.1  192.0.2.9 1 2\r\n", Flaw::Address),
        ("PROXY TCP4 192.0.2.01 192.0.2.9 1 2\r\n", Flaw::Address),
        ("PROXY TCP4 192.0.2.256 192.0.2.9 1 2\r\n", Flaw::Address),
        ("PROXY TCP4 2001:db8::1 2001:db8::9 1 2\r\n", Flaw::Address),
        ("PROXY TCP6 192.0.2.1 192.0.2.9 1 2\r\n", Flaw::Address),
        ("PROXY TCP6 fe80::1%2 ::1 1 2\r\n", Flaw::Address),
        ("PROXY TCP4 192.0.2.1 192.0.2.9 +80 2\r\n", Flaw::Port),
        ("PROXY TCP4 192.0.2.1 192.0.2.9 080 2\r\n", Flaw::Port),
        ("PROXY TCP4 192.0.2.1 192.0.2.9 65536 2\r\n", Flaw::Port),
        ("PROXY TCP4 192.0.2.1 192.0.2.9 -1 2\r\n", Flaw::Port),
        ("PROXY TCP4 192.0.2.1 192.0.2.9  2\r\n", Flaw::Port),
        (long.as_str(), Flaw::Length),
    ] {
        let expected = match (line, flaw) {
            // What is behind UNKNOWN is skipped, but the word must end.
            ("PROXY UNKNOWNxyz\r\n", _) => Parsed::Invalid(Flaw::Family),
            _ => Parsed::Invalid(flaw),
        };
        assert_eq!(parse(line.as_bytes()), expected, "{line:?}");
    }
}

#[test]
fn binary_headers_are_read_as_the_standard_has_them() {
    let four = inet("192.0.2.1:56324", "198.51.100.9:443");
    let six_block = [
        &[0x20, 1, 13, 0xB8][..],
        &[0; 11],
        &[1],
        &[0; 15],
        &[1],
        &[0, 80, 0, 81],
    ]
    .concat();
    let six = inet("[2001:db8::1]:80", "[::1]:81");
    let mut unix_block = [0; 216];
    unix_block[..4].copy_from_slice(b"/run");
    unix_block[108..112].copy_from_slice(b"/var");
    let unix = Endpoints::Unix {
        source: unix_block[..108].try_into().unwrap(),
        destination: unix_block[108..].try_into().unwrap(),
    };
    let none = Endpoints::Connection;
    let unspecified = Transport::Unspecified;
    for (bytes, expected) in [
        (v2(0x21, 0x11, &FOUR), header(28, Transport::Stream, four)),
        (v2(0x21, 0x12, &FOUR), header(28, Transport::Datagram, four)),
        (v2(0x21, 0x10, &FOUR), header(28, unspecified, four)),
        (
            v2(0x21, 0x21, &six_block),
            header(52, Transport::Stream, six),
        ),
        (
            v2(0x21, 0x31, &unix_block),
            header(232, Transport::Stream, unix),
        ),
        // Fields that mean nothing to us: padding, an authority, one of the sender's own, an empty one.
        (
            v2(
                0x21,
                0x11,
                &four_and(&[4, 0, 2, 0, 0, 2, 0, 1, b'x', 0xE0, 0, 0]),
            ),
            header(40, Transport::Stream, four),
        ),
        (
            with_checksum(v2(0x21, 0x11, &FOUR)),
            header(35, Transport::Stream, four),
        ),
        // LOCAL: family and body are to be ignored, whatever they are.
        (v2(0x20, 0, &[]), header(16, unspecified, none)),
        (v2(0x20, 0x11, &[]), header(16, unspecified, none)),
        (v2(0x20, 0x11, &FOUR[..5]), header(21, unspecified, none)),
        (v2(0x20, 0xFF, &[9; 40]), header(56, unspecified, none)),
        // UNSPEC: what follows is to be ignored as well.
        (v2(0x21, 0x00, &[]), header(16, unspecified, none)),
        (v2(0x21, 0x01, &[]), header(16, unspecified, none)),
        (v2(0x21, 0x00, &[1, 2, 3]), header(19, unspecified, none)),
    ] {
        assert_eq!(parse(&bytes), expected, "{bytes:?}");
        let followed = [&bytes[..], b"\0more"].concat();
        assert_eq!(parse(&followed), expected, "{followed:?}");
    }
}

#[test]
fn wrong_binary_headers_are_refused_for_what_is_wrong() {
    let mut spoilt = with_checksum(v2(0x21, 0x11, &FOUR));
    spoilt[17] ^= 1;
    let mut other_signature = v2(0x21, 0x11, &FOUR);
    other_signature[11] = b'\r';
    let twice = with_checksum(with_checksum(v2(0x21, 0x11, &FOUR)));
    let long = [v2::SIGNATURE.as_slice(), &[0x21, 0x11, 0xFF, 0xFF]].concat();
    for (bytes, flaw) in [
        (other_signature, Flaw::Signature),
        (v2(0x11, 0x11, &FOUR), Flaw::Version),
        (v2(0x31, 0x11, &FOUR), Flaw::Version),
        (v2(0x22, 0x11, &FOUR), Flaw::Command),
        (v2(0x21, 0x41, &FOUR), Flaw::Family),
        (v2(0x21, 0x13, &FOUR), Flaw::Family),
        (v2(0x21, 0x11, &FOUR[..11]), Flaw::Length),
        (v2(0x21, 0x21, &FOUR), Flaw::Length),
        (v2(0x21, 0x31, &[0; 215]), Flaw::Length),
        (v2(0x21, 0x11, &four_and(&[4])), Flaw::Field),
        (v2(0x21, 0x11, &four_and(&[4, 0])), Flaw::Field),
        (v2(0x21, 0x11, &four_and(&[4, 0, 2, 0])), Flaw::Field),
        (v2(0x21, 0x11, &four_and(&[3, 0, 3, 0, 0, 0])), Flaw::Field),
        (
            v2(0x21, 0x11, &four_and(&[3, 0, 4, 1, 2, 3, 4])),
            Flaw::Checksum,
        ),
        (spoilt, Flaw::Checksum),
        (twice, Flaw::Field),
        (long, Flaw::Length),
    ] {
        assert_eq!(parse(&bytes), Parsed::Invalid(flaw), "{bytes:?}");
    }
}

/// The first byte that is wrong is the last one that is needed.
#[test]
fn a_stranger_is_told_by_his_first_wrong_byte() {
    for whole in [V4.as_bytes(), &v2(0x21, 0x11, &FOUR)] {
        for wrong in 0..11 {
            let mut bytes = whole[..=wrong].to_vec();
            assert!(matches!(parse(&bytes), Parsed::More(_)), "{bytes:?}");
            bytes[wrong] ^= 0x80;
            assert!(matches!(parse(&bytes), Parsed::Invalid(_)), "{bytes:?}");
        }
    }
}

#[test]
fn what_is_written_reads_back() {
    let unix = Endpoints::Unix {
        source: [1; 108],
        destination: [2; 108],
    };
    let four = inet("192.0.2.1:56324", "198.51.100.9:443");
    let six = inet("[2001:db8::1]:80", "[2001:db8::2]:81");
    for endpoints in [four, six, unix, Endpoints::Connection] {
        for transport in [Transport::Stream, Transport::Datagram] {
            for checksum in [false, true] {
                let written = announce(Version::Two, transport, endpoints, checksum);
                let transport = match endpoints {
                    Endpoints::Connection => Transport::Unspecified,
                    _ => transport,
                };
                let length = written.as_bytes().len();
                assert_eq!(
                    parse(written.as_bytes()),
                    header(length, transport, endpoints)
                );
                assert!(length <= WRITTEN_BYTES_MAX);
            }
        }
    }
    let written = announce(Version::One, Transport::Stream, four, false);
    assert_eq!(written.as_bytes(), V4.as_bytes());
    let written = announce(Version::One, Transport::Stream, six, true);
    assert_eq!(
        parse(written.as_bytes()),
        header(42, Transport::Stream, six)
    );
    for (transport, endpoints) in [(Transport::Datagram, four), (Transport::Stream, unix)] {
        let written = announce(Version::One, transport, endpoints, false);
        assert_eq!(written.as_bytes(), b"PROXY UNKNOWN\r\n");
    }
    assert_eq!(local(Version::One).as_bytes(), b"PROXY UNKNOWN\r\n");
    assert_eq!(
        local(Version::Two).as_bytes(),
        b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"
    );
}

#[test]
fn mixed_families_are_written_as_one() {
    let mapped = inet("[::ffff:192.0.2.1]:1", "[::ffff:198.51.100.9]:2");
    let written = announce(Version::One, Transport::Stream, mapped, false);
    assert_eq!(
        written.as_bytes(),
        b"PROXY TCP4 192.0.2.1 198.51.100.9 1 2\r\n"
    );
    let mixed = inet("192.0.2.1:1", "[2001:db8::9]:2");
    let written = announce(Version::Two, Transport::Stream, mixed, false);
    let as_six = inet("[::ffff:192.0.2.1]:1", "[2001:db8::9]:2");
    assert_eq!(
        parse(written.as_bytes()),
        header(52, Transport::Stream, as_six)
    );
}

fn any_endpoints() -> impl Strategy<Value = Endpoints> + Clone {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<(u16, u16)>());
    let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<(u16, u16)>());
    prop_oneof![
        v4.prop_map(|(from, to, ports)| Endpoints::Inet {
            source: (from, ports.0).into(),
            destination: (to, ports.1).into(),
        }),
        v6.prop_map(|(from, to, ports)| Endpoints::Inet {
            source: (from, ports.0).into(),
            destination: (to, ports.1).into(),
        }),
        Just(Endpoints::Connection),
    ]
}

/// Headers, and what is nearly one.
fn nearly_headers() -> impl Strategy<Value = Vec<u8>> {
    let written = (any_endpoints(), any::<(bool, bool)>()).prop_map(|(endpoints, (two, sum))| {
        let version = if two { Version::Two } else { Version::One };
        announce(version, Transport::Stream, endpoints, sum)
            .as_bytes()
            .to_vec()
    });
    let spoilt = (written.clone(), any::<(u8, u8)>()).prop_map(|(mut bytes, (at, by))| {
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= by;
        bytes
    });
    let garbage = prop::collection::vec(any::<u8>(), 0..64);
    let body = (any::<(u8, u8)>(), prop::collection::vec(any::<u8>(), 0..80));
    let garbage_behind =
        body.prop_map(|((command, family), body)| v2(0x20 | command & 1, family, &body));
    let words = "PROXY (TCP4|TCP6|UNKNOWN)( [0-9a-f.:]{0,9}){0,5}\r?\n?";
    let lines = words.prop_map(String::into_bytes);
    (
        prop_oneof![written, spoilt, garbage, garbage_behind, lines],
        prop::collection::vec(any::<u8>(), 0..8),
    )
        .prop_map(|(bytes, behind)| [bytes, behind].concat())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_result(whole in nearly_headers()) {
        let verdict = parse(&whole);
        for cut in 0..whole.len() {
            match (parse(&whole[..cut]), verdict) {
                (Parsed::More(wanted), _) => {
                    prop_assert!(wanted > cut, "it waits for what is there");
                    if let Parsed::Header(header) = verdict {
                        prop_assert!(wanted <= header.length, "it waits for more than the header");
                    }
                }
                (Parsed::Header(short), Parsed::Header(long)) => {
                    prop_assert_eq!(short, long);
                    prop_assert!(short.length <= cut);
                }
                (early, late) => prop_assert_eq!(early, late),
            }
        }
    }

    #[test]
    fn a_header_of_another_house_is_read_as_it_reads_it(whole in nearly_headers()) {
        let ours = parse(&whole);
        let theirs = ppp::HeaderResult::parse(&whole);
        // Theirs is laxer: "+80" is a port to it, and it looks at no field and no checksum. It wants a LOCAL header's
        // addresses in full. Where both take a header, they must agree.
        match (ours, theirs) {
            (Parsed::Header(ours), ppp::HeaderResult::V1(Ok(theirs))) => {
                prop_assert_eq!(ours.length, theirs.header.len());
                let expected = match theirs.addresses {
                    ppp::v1::Addresses::Unknown => Endpoints::Connection,
                    ppp::v1::Addresses::Tcp4(it) => Endpoints::Inet {
                        source: (it.source_address, it.source_port).into(),
                        destination: (it.destination_address, it.destination_port).into(),
                    },
                    ppp::v1::Addresses::Tcp6(it) => Endpoints::Inet {
                        source: (it.source_address, it.source_port).into(),
                        destination: (it.destination_address, it.destination_port).into(),
                    },
                };
                prop_assert_eq!(ours.endpoints, expected);
            }
            (Parsed::Header(ours), ppp::HeaderResult::V2(Ok(theirs))) => {
                prop_assert_eq!(ours.length, theirs.len());
                let local = theirs.command == ppp::v2::Command::Local;
                let expected = match theirs.addresses {
                    _ if local => Endpoints::Connection,
                    ppp::v2::Addresses::Unspecified => Endpoints::Connection,
                    ppp::v2::Addresses::IPv4(it) => Endpoints::Inet {
                        source: (it.source_address, it.source_port).into(),
                        destination: (it.destination_address, it.destination_port).into(),
                    },
                    ppp::v2::Addresses::IPv6(it) => Endpoints::Inet {
                        source: (it.source_address, it.source_port).into(),
                        destination: (it.destination_address, it.destination_port).into(),
                    },
                    ppp::v2::Addresses::Unix(it) => Endpoints::Unix {
                        source: it.source,
                        destination: it.destination,
                    },
                };
                prop_assert_eq!(ours.endpoints, expected);
            }
            (Parsed::Header(ours), other) => {
                prop_assert!(ours.endpoints == Endpoints::Connection, "only we take {:?}: {:?}", ours, other);
            }
            _ => {}
        }
    }
}
