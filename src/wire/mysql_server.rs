//! What a MySQL or MariaDB server says: packets, the greeting, errors, the answers to a login, the answer to a query.
//!
//! Pure, and nothing here trusts the server: lengths and counts are bounded, texts may be no UTF-8. Called by the prober.
//! Source: MySQL "Client/Server Protocol", MariaDB "Client/Server Protocol".

use std::fmt;

/// Longer packets are refused: none that a check asks for comes near.
pub const PACKET_BYTES_MAX: usize = 64 * 1024;

const ROWS_MAX: usize = 64;
const COLUMNS_MAX: u64 = 64;
/// A greeting has this much that can be mixed into a password.
const SCRAMBLE_BYTES: usize = 20;

const SECURE_CONNECTION: u32 = 0x8000;
const PLUGIN_AUTH: u32 = 0x8_0000;

/// These bytes are no MySQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

const CUT: Malformed = Malformed("a MySQL packet that is cut short");

/// One packet: its number in the conversation, and what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub sequence: u8,
    pub payload: &'a [u8],
}

/// The first packet in `bytes` and its length; `None` while it is not complete.
///
/// # Errors
/// When it is longer or shorter than any that a check could meet.
pub fn packet(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, Malformed> {
    let Some((&[low, middle, high, sequence], rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
    if !(1..=PACKET_BYTES_MAX).contains(&length) {
        return Err(Malformed("a MySQL packet of impossible length"));
    }
    let packet = rest
        .get(..length)
        .map(|payload| (Packet { sequence, payload }, 4 + length));
    Ok(packet)
}

/// An error in the server's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complaint<'a> {
    pub code: u16,
    pub message: &'a [u8],
}

/// The error that a payload is, if it is one.
#[must_use]
pub fn complaint(payload: &[u8]) -> Option<Complaint<'_>> {
    let (code, rest) = payload.strip_prefix(b"\xff")?.split_first_chunk::<2>()?;
    // Errors from before the login come without SQLSTATE.
    let message = match rest {
        [b'#', _, _, _, _, _, message @ ..] => message,
        message => message,
    };
    Some(Complaint {
        code: u16::from_le_bytes(*code),
        message,
    })
}

/// What a server says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting<'a> {
    pub version: &'a [u8],
    /// To be mixed into the password.
    pub scramble: [u8; SCRAMBLE_BYTES],
    /// How the server wants passwords by default; empty from old servers.
    pub plugin: &'a [u8],
}

/// Reads the greeting of protocol 10.
///
/// # Errors
/// When it is cut short, or of a protocol that was old in 1998.
pub fn greeting(payload: &[u8]) -> Result<Greeting<'_>, Malformed> {
    let Some(rest) = payload.strip_prefix(b"\x0a") else {
        return Err(Malformed("no MySQL server greets like this"));
    };
    let (version, rest) = text(rest)?;
    // Connection id, eight bytes of scramble, a zero.
    let (_, rest) = rest.split_first_chunk::<4>().ok_or(CUT)?;
    let (early, rest) = rest.split_first_chunk::<8>().ok_or(CUT)?;
    let (_, rest) = rest.split_first().ok_or(CUT)?;
    // Capabilities in two halves with character set and status between, the length of all scramble, ten reserved.
    let (&[low, high, _, _, _, upper_low, upper_high, _], rest) =
        rest.split_first_chunk::<8>().ok_or(CUT)?;
    let capabilities = u32::from_le_bytes([low, high, upper_low, upper_high]);
    let (_, rest) = rest.split_first_chunk::<10>().ok_or(CUT)?;
    if capabilities & SECURE_CONNECTION == 0 {
        return Err(Malformed("a MySQL server older than 4.1"));
    }
    let (late, rest) = rest
        .split_first_chunk::<{ SCRAMBLE_BYTES - 8 }>()
        .ok_or(CUT)?;
    let mut scramble = [0; SCRAMBLE_BYTES];
    scramble[..8].copy_from_slice(early);
    scramble[8..].copy_from_slice(late);
    let plugin = match rest.strip_prefix(b"\0") {
        Some(rest) if capabilities & PLUGIN_AUTH != 0 => {
            // Old servers forget the zero at the end.
            rest.split(|&byte| byte == 0).next().unwrap_or_default()
        }
        _ => b"",
    };
    Ok(Greeting {
        version,
        scramble,
        plugin,
    })
}

/// What a server answers while we log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginAnswer<'a> {
    /// We are in.
    Passed,
    Refused(Complaint<'a>),
    /// Another way of proving the password, and what to mix in.
    Switch {
        plugin: &'a [u8],
        scramble: [u8; SCRAMBLE_BYTES],
    },
    /// `caching_sha2_password` knows us; the word that we are in follows.
    FastPassed,
    /// `caching_sha2_password` wants the password itself, which must not travel over a plain connection.
    WantsPassword,
}

/// Reads an answer to a login.
///
/// # Errors
/// When it is none of those that may come.
pub fn login_answer(payload: &[u8]) -> Result<LoginAnswer<'_>, Malformed> {
    const OTHER: Malformed = Malformed("an answer to a login that MySQL does not know");
    match payload.split_first() {
        Some((0x00, _)) => Ok(LoginAnswer::Passed),
        Some((0xff, _)) => complaint(payload).map(LoginAnswer::Refused).ok_or(CUT),
        Some((0x01, [3, ..])) => Ok(LoginAnswer::FastPassed),
        Some((0x01, [4, ..])) => Ok(LoginAnswer::WantsPassword),
        Some((0xfe, [])) => Err(Malformed("a server that wants passwords of MySQL 4.0")),
        Some((0xfe, rest)) => {
            let (plugin, scramble) = text(rest)?;
            // Some plugins send none, or another length: they are none that we could answer.
            let scramble = *scramble.first_chunk().unwrap_or(&[0; SCRAMBLE_BYTES]);
            Ok(LoginAnswer::Switch { plugin, scramble })
        }
        _ => Err(OTHER),
    }
}

/// A row: its columns as text; `None` is null.
pub type Row = Vec<Option<Vec<u8>>>;

/// What a query brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Rows(Vec<Row>),
    Refused { code: u16, message: Vec<u8> },
}

/// Reads the answer to one query, packet by packet. For servers that were not told that we can do without EOF packets.
///
/// | stage | packet | next |
/// |---|---|---|
/// | head | error | done: refused |
/// | head | ok | done: no rows |
/// | head | number of columns | columns |
/// | columns | column | columns, one less |
/// | columns, none left | EOF | rows |
/// | rows | row | rows |
/// | rows | EOF | done |
/// | rows | error | done: refused |
#[derive(Debug, Default)]
pub struct Reader {
    stage: Stage,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Head,
    Columns {
        left: u64,
        all: u64,
    },
    Rows {
        columns: u64,
    },
}

impl Reader {
    /// Takes the next packet; `Some` is the whole answer.
    ///
    /// # Errors
    /// When the packet may not come here, or there are more rows or columns than any check asks for.
    pub fn take(&mut self, payload: &[u8]) -> Result<Option<Answer>, Malformed> {
        if let Some(complaint) = complaint(payload) {
            return Ok(Some(Answer::Refused {
                code: complaint.code,
                message: complaint.message.to_vec(),
            }));
        }
        match self.stage {
            Stage::Head if payload.first() == Some(&0) => Ok(Some(Answer::Rows(Vec::new()))),
            Stage::Head => {
                let (all, rest) = number(payload)?;
                let all = all.filter(|all| rest.is_empty() && (1..=COLUMNS_MAX).contains(all));
                let all = all.ok_or(Malformed("an answer that no query of ours asked for"))?;
                self.stage = Stage::Columns { left: all, all };
                Ok(None)
            }
            Stage::Columns { left: 0, all } if is_end(payload) => {
                self.stage = Stage::Rows { columns: all };
                Ok(None)
            }
            Stage::Columns { left: 0, .. } => Err(Malformed("more columns than announced")),
            Stage::Columns { left, all } => {
                let left = left - 1;
                self.stage = Stage::Columns { left, all };
                Ok(None)
            }
            Stage::Rows { .. } if is_end(payload) => {
                Ok(Some(Answer::Rows(std::mem::take(&mut self.rows))))
            }
            Stage::Rows { .. } if self.rows.len() == ROWS_MAX => {
                Err(Malformed("more rows than any query of ours asks for"))
            }
            Stage::Rows { columns } => {
                self.rows.push(row(payload, columns)?);
                Ok(None)
            }
        }
    }
}

fn is_end(payload: &[u8]) -> bool {
    payload.first() == Some(&0xfe) && payload.len() < 9
}

fn row(mut payload: &[u8], columns: u64) -> Result<Row, Malformed> {
    let mut row = Row::new();
    for _ in 0..columns {
        let (length, rest) = number(payload)?;
        payload = rest;
        row.push(match length {
            None => None,
            Some(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let value = payload.get(..length).ok_or(CUT)?;
                payload = &payload[length..];
                Some(value.to_vec())
            }
        });
    }
    Ok(row)
}

/// A length-encoded number, `None` for null, and what follows.
fn number(bytes: &[u8]) -> Result<(Option<u64>, &[u8]), Malformed> {
    let (&first, rest) = bytes.split_first().ok_or(CUT)?;
    let width = match first {
        0..=0xfa => return Ok((Some(u64::from(first)), rest)),
        0xfb => return Ok((None, rest)),
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        0xff => return Err(Malformed("a number that MySQL does not know")),
    };
    let digits = rest.get(..width).ok_or(CUT)?;
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(digits);
    Ok((Some(u64::from_le_bytes(wide)), &rest[width..]))
}

/// A text up to its zero, and what follows.
fn text(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let end = bytes.iter().position(|&byte| byte == 0).ok_or(CUT)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn a_greeting(plugin: &[u8]) -> Vec<u8> {
        let capabilities = SECURE_CONNECTION | PLUGIN_AUTH;
        let [low, high, upper_low, upper_high] = capabilities.to_le_bytes();
        let fixed = [low, high, 8, 2, 0, upper_low, upper_high, 21];
        [
            &b"\x0a5.5.5-10.11.19-MariaDB\0\x07\0\0\0ABCDEFGH\0"[..],
            &fixed,
            &[0; 10],
            b"IJKLMNOPQRST\0",
            plugin,
        ]
        .concat()
    }

    fn framed(sequence: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_le_bytes();
        [&length[..3], &[sequence], payload].concat()
    }

    #[test]
    fn a_greeting_is_read() {
        for plugin in [
            &b"mysql_native_password\0"[..],
            b"mysql_native_password",
            b"",
        ] {
            let payload = a_greeting(plugin);
            let greeting = greeting(&payload).unwrap();
            assert_eq!(greeting.version, b"5.5.5-10.11.19-MariaDB");
            assert_eq!(&greeting.scramble, b"ABCDEFGHIJKLMNOPQRST");
            assert_eq!(
                greeting.plugin,
                plugin.strip_suffix(b"\0").unwrap_or(plugin)
            );
        }
        let payload = a_greeting(b"");
        for cut in 0..payload.len() - 1 {
            assert!(greeting(&payload[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_packet_is_read_whole_and_not_before() {
        let whole = framed(3, b"\x00abc");
        let packet_of = |payload| Packet {
            sequence: 3,
            payload,
        };
        assert_eq!(packet(&whole), Ok(Some((packet_of(b"\x00abc"), 8))));
        for cut in 0..whole.len() {
            assert_eq!(packet(&whole[..cut]), Ok(None));
        }
        assert!(packet(b"HTTP/1.1 400").is_err());
        assert!(packet(b"\0\0\0\0").is_err());
    }

    #[test]
    fn errors_are_read_with_and_without_a_state() {
        let too_many = complaint(b"\xff\x10\x04Too many connections").unwrap();
        assert_eq!(
            (too_many.code, too_many.message),
            (1040, &b"Too many connections"[..])
        );
        let denied = complaint(b"\xff\x15\x04#28000Access denied").unwrap();
        assert_eq!((denied.code, denied.message), (1045, &b"Access denied"[..]));
        assert_eq!(complaint(b"\xff\x15"), None);
        assert_eq!(complaint(b"\x00\x15\x04"), None);
    }

    #[test]
    fn answers_to_a_login() {
        assert_eq!(login_answer(b"\0\0\0\x02\0\0\0"), Ok(LoginAnswer::Passed));
        assert_eq!(login_answer(b"\x01\x03"), Ok(LoginAnswer::FastPassed));
        assert_eq!(login_answer(b"\x01\x04"), Ok(LoginAnswer::WantsPassword));
        assert_eq!(
            login_answer(b"\xfemysql_native_password\0ABCDEFGHIJKLMNOPQRST\0"),
            Ok(LoginAnswer::Switch {
                plugin: b"mysql_native_password",
                scramble: *b"ABCDEFGHIJKLMNOPQRST"
            })
        );
        assert!(matches!(
            login_answer(b"\xff\x15\x04#28000Access denied"),
            Ok(LoginAnswer::Refused(Complaint { code: 1045, .. }))
        ));
        for bad in [
            &b""[..],
            b"\xfe",
            b"\x01\x05",
            b"\x01",
            b"\xff\x01",
            b"\xfex",
        ] {
            assert!(login_answer(bad).is_err());
        }
    }

    fn read_all(packets: &[&[u8]]) -> Result<Option<Answer>, Malformed> {
        let mut reader = Reader::default();
        for (i, packet) in packets.iter().enumerate() {
            if let Some(answer) = reader.take(packet)? {
                assert_eq!(i, packets.len() - 1, "done too early");
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    #[test]
    fn answers_to_a_query() {
        const END: &[u8] = b"\xfe\0\0\x02\0";
        let rows = |rows: &[&[Option<&str>]]| {
            let rows = rows.iter().map(|row| {
                let columns = row.iter();
                let columns = columns.map(|c| c.map(|text| text.as_bytes().to_vec()));
                columns.collect()
            });
            Answer::Rows(rows.collect())
        };
        assert_eq!(
            read_all(&[b"\x01", b"def", END, b"\x010", END]),
            Ok(Some(rows(&[&[Some("0")]])))
        );
        assert_eq!(
            read_all(&[b"\x02", b"def", b"def", END, b"\x01a\xfb", b"\0\x02cd", END]),
            Ok(Some(rows(&[&[Some("a"), None], &[Some(""), Some("cd")]])))
        );
        assert_eq!(read_all(&[b"\x01", b"def", END, END]), Ok(Some(rows(&[]))));
        assert_eq!(read_all(&[b"\0\0\0"]), Ok(Some(rows(&[]))));
        let refused = Answer::Refused {
            code: 1227,
            message: b"no".to_vec(),
        };
        assert_eq!(
            read_all(&[b"\xff\xcb\x04#42000no"]),
            Ok(Some(refused.clone()))
        );
        assert_eq!(
            read_all(&[b"\x01", b"def", END, b"\xff\xcb\x04#42000no"]),
            Ok(Some(refused))
        );
        // A request for a local file, more columns than said, a row that is cut.
        assert!(read_all(&[b"\xfb/etc/passwd"]).is_err());
        assert!(read_all(&[b"\x01", b"def", b"def"]).is_err());
        assert!(read_all(&[b"\x01", b"def", END, b"\x05ab"]).is_err());
        let endless: Vec<&[u8]> = [b"\x01", &b"def"[..], END]
            .into_iter()
            .chain(std::iter::repeat_n(&b"\x01a"[..], 1000))
            .collect();
        assert!(read_all(&endless).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xfe), any::<u8>()], 0..120)) {
            if let Ok(Some((packet, length))) = packet(&bytes) {
                prop_assert!(length <= bytes.len() && !packet.payload.is_empty());
            }
            let _ = greeting(&bytes);
            let _ = login_answer(&bytes);
            let mut reader = Reader::default();
            for payload in bytes.chunks(7) {
                if reader.take(payload).is_err() {
                    break;
                }
            }
        }

        #[test]
        fn a_damaged_greeting_never_panics(at in 0usize..60, byte in any::<u8>(), cut in 0usize..100) {
            let mut payload = a_greeting(b"caching_sha2_password\0");
            let at = at % payload.len();
            payload[at] = byte;
            payload.truncate(cut.max(1));
            let _ = greeting(&payload);
        }
    }
}
