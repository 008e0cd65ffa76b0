//! Which first bytes of a client may be sent twice without anybody noticing: those that only ask a server to begin. Pure;
//! the engine room asks with the bytes that the study never sees.

/// The longest start that PostgreSQL takes (MAX_STARTUP_PACKET_LENGTH in its pqcomm.h).
const STARTUP_BYTES_MAX: u32 = 10_000;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// Judges the next bytes of a client. `due` is what was said of those before: how many bytes were still missing of the one
/// message that may be sent twice; `None` at the beginning. The answer is the same after these bytes; `None` if they may
/// not be sent twice, be it because something follows the message.
#[must_use]
pub fn due_after(postgres: bool, due: Option<u32>, bytes: &[u8]) -> Option<u32> {
    let length = match due {
        Some(due) => due,
        None => hello_length(bytes).or_else(|| postgres.then(|| start_length(bytes)).flatten())?,
    };
    length.checked_sub(u32::try_from(bytes.len()).ok()?)
}

/// The length of a TLS record that holds a ClientHello and nothing else (RFC 8446, sections 4 and 5.1). Early data would
/// be a record of its own behind it.
fn hello_length(bytes: &[u8]) -> Option<u32> {
    let &[22, 3, 0..=4, high, low, 1, top, middle, bottom, ..] = bytes else {
        return None;
    };
    let record = u32::from_be_bytes([0, 0, high, low]);
    let hello = u32::from_be_bytes([0, top, middle, bottom]);
    (record == hello + 4).then_some(record + 5)
}

/// The length of PostgreSQL's first packet, if it asks for encryption or for a session. A request to cancel is none: sent
/// twice it could meet another statement.
fn start_length(bytes: &[u8]) -> Option<u32> {
    let number = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..at + 4)?.first_chunk()?));
    let (length, code) = (number(0)?, number(4)?);
    let fits = match code {
        SSL_REQUEST | GSS_REQUEST => length == 8,
        _ => code >> 16 == 3 && (8..=STARTUP_BYTES_MAX).contains(&length),
    };
    fits.then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SSL: &[u8] = &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];

    fn startup() -> Vec<u8> {
        let mut packet = vec![0, 0, 0, 0, 0, 3, 0, 0];
        packet.extend(b"user\0me\0\0");
        packet[3] = packet.len() as u8;
        packet
    }

    fn hello(body: usize) -> Vec<u8> {
        let record = (body + 4) as u16;
        let mut packet = vec![22, 3, 1, (record >> 8) as u8, record as u8, 1, 0];
        packet.extend((body as u16).to_be_bytes());
        packet.extend(std::iter::repeat_n(7, body));
        packet
    }

    #[test]
    fn postgres_asks_for_encryption_or_a_session() {
        assert_eq!(due_after(true, None, SSL), Some(0));
        assert_eq!(due_after(true, None, &startup()), Some(0));
        assert_eq!(due_after(false, None, SSL), None);
        assert_eq!(due_after(false, None, &startup()), None);
        let cancel = [0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(due_after(true, None, &cancel), None);
        let mut with_query = startup();
        with_query.extend(b"Q\0\0\0\x0dselect 1\0");
        assert_eq!(due_after(true, None, &with_query), None);
        assert_eq!(due_after(true, Some(0), b"Q\0\0\0"), None);
        let old = [0, 0, 0, 8, 0, 2, 0, 0];
        assert_eq!(due_after(true, None, &old), None);
    }

    #[test]
    fn a_hello_may_come_in_pieces_but_nothing_after_it() {
        for postgres in [false, true] {
            let whole = hello(1_800);
            assert_eq!(due_after(postgres, None, &whole), Some(0));
            let (one, two) = whole.split_at(1_400);
            let due = due_after(postgres, None, one);
            assert_eq!(due, Some(two.len() as u32));
            assert_eq!(due_after(postgres, due, two), Some(0));
            let mut early = whole.clone();
            early.push(23);
            assert_eq!(due_after(postgres, None, &early), None);
        }
    }

    #[test]
    fn everything_else_is_sent_once() {
        for bytes in [
            &b"PING\r\n"[..],
            b"",
            b"\x16",
            b"\x16\x03\x01\x00\x05\x02\0\0\x01\0",
        ] {
            assert_eq!(due_after(false, None, bytes), None, "{bytes:?}");
            assert_eq!(due_after(true, None, bytes), None, "{bytes:?}");
        }
    }
}
