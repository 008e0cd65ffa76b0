//! The first packet of a PostgreSQL connection (frontend/backend protocol 3, "Start-up" and "Canceling Requests in
//! Progress"): a length, a code, and what the code asks for. Only told apart here; what follows a start-up message is the
//! server's business.

/// The server takes no longer one (MAX_STARTUP_PACKET_LENGTH).
const STARTUP_BYTES_MAX: usize = 10_000;
/// Length, code, process and the shortest and longest key: 4 bytes up to protocol 3.0, at most 256 from 3.2 on.
const CANCEL_BYTES: std::ops::RangeInclusive<usize> = 16..=268;

/// The longest cancel request.
pub const CANCEL_BYTES_MAX: usize = *CANCEL_BYTES.end();

const CANCEL: u32 = 1234 << 16 | 5678;
const SSL: u32 = 1234 << 16 | 5679;
const GSSAPI: u32 = 1234 << 16 | 5680;

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// It cannot be told with fewer bytes than this in all.
    More(usize),
    /// SSLRequest: may the connection be encrypted?
    SslRequest,
    /// GSSENCRequest: the same by GSSAPI.
    GssRequest,
    /// CancelRequest: stop what another connection is doing. These are its bytes.
    Cancel { length: usize },
    /// StartupMessage of a protocol 3.x.
    Startup,
    /// No PostgreSQL client, or one of protocol 2.
    Other,
}

/// Tells what `bytes`, which may be cut anywhere, begin with.
#[must_use]
pub fn first_packet(bytes: &[u8]) -> FirstPacket {
    // The length's upper bytes tell a stranger at once: 10,000 needs two.
    if bytes.iter().take(2).any(|&byte| byte != 0) {
        return FirstPacket::Other;
    }
    let Some(length) = number(bytes, 0) else {
        return FirstPacket::More(8);
    };
    let length = length as usize;
    if !(8..=STARTUP_BYTES_MAX).contains(&length) {
        return FirstPacket::Other;
    }
    let Some(code) = number(bytes, 4) else {
        return FirstPacket::More(8);
    };
    match code {
        SSL if length == 8 => FirstPacket::SslRequest,
        GSSAPI if length == 8 => FirstPacket::GssRequest,
        CANCEL if !CANCEL_BYTES.contains(&length) => FirstPacket::Other,
        CANCEL if bytes.len() < length => FirstPacket::More(length),
        CANCEL => FirstPacket::Cancel { length },
        _ if code >> 16 == 3 => FirstPacket::Startup,
        _ => FirstPacket::Other,
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    four.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(length: u32, code: u32, rest: &[u8]) -> Vec<u8> {
        [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
    }

    #[test]
    fn each_first_packet_is_told_apart() {
        let ssl = packet(8, 80_877_103, &[]);
        let gss = packet(8, 80_877_104, &[]);
        let start = packet(41, 3 << 16, b"user\0postgres\0");
        let newer = packet(41, 3 << 16 | 2, b"user\0postgres\0");
        let cancel = packet(16, 80_877_102, &[0, 0, 1, 2, 9, 8, 7, 6]);
        let longer = packet(44, 80_877_102, &[7; 36]);
        assert_eq!(first_packet(&ssl), FirstPacket::SslRequest);
        assert_eq!(first_packet(&gss), FirstPacket::GssRequest);
        assert_eq!(first_packet(&start), FirstPacket::Startup);
        assert_eq!(first_packet(&newer), FirstPacket::Startup);
        assert_eq!(first_packet(&cancel), FirstPacket::Cancel { length: 16 });
        assert_eq!(first_packet(&longer), FirstPacket::Cancel { length: 44 });
        for stranger in [
            &b"GET / HTTP/1.1\r\n"[..],
            &b"\x16\x03\x01\x02\x00\x01"[..],
            &packet(7, 3 << 16, &[]),
            &packet(10_001, 3 << 16, &[]),
            &packet(12, 80_877_102, &[0; 4]),
            &packet(269, 80_877_102, &[0; 261]),
            &packet(9, 80_877_103, &[0]),
            &packet(40, 2 << 16, &[]),
        ] {
            assert_eq!(first_packet(stranger), FirstPacket::Other, "{stranger:?}");
        }
    }

    #[test]
    fn a_cancel_request_is_waited_for_to_its_last_byte() {
        let cancel = packet(16, 80_877_102, &[0, 0, 1, 2, 9, 8, 7, 6]);
        for cut in 0..16 {
            let wanted = if cut < 8 { 8 } else { 16 };
            assert_eq!(first_packet(&cancel[..cut]), FirstPacket::More(wanted));
        }
    }

    proptest! {
        #[test]
        fn a_cut_packet_is_never_judged_otherwise_than_the_whole(
            bytes in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..40),
            length in prop_oneof![Just(8u32), Just(16), any::<u32>()],
            code in prop_oneof![Just(CANCEL), Just(SSL), Just(3 << 16), any::<u32>()],
        ) {
            let whole = packet(length, code, &bytes);
            let verdict = first_packet(&whole);
            for cut in 0..whole.len() {
                match first_packet(&whole[..cut]) {
                    FirstPacket::More(wanted) => prop_assert!(wanted > cut),
                    other => prop_assert_eq!(other, verdict),
                }
            }
        }
    }
}
