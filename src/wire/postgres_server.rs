//! What a PostgreSQL server says, protocol 3: the messages that a health check understands, read from the bytes that
//! arrived so far. Every other message is told apart by its letter and skipped.
//!
//! Pure, and nothing here trusts the server: lengths are bounded, texts may be no UTF-8. Called by the prober.
//! Source: PostgreSQL documentation, "Frontend/Backend Protocol", "Message Formats" and "Error and Notice Message Fields".

use std::fmt;

/// Longer messages are refused: none that a check asks for comes near.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A server that could not start a process for us complains in the format of protocol 2, which has no length: letter,
/// text, zero. What would be its length is read from the text's letters and is far beyond this.
const ERROR_BYTES_MAX: usize = 30_000;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    Authentication(Authentication<'a>),
    Error(Complaint<'a>),
    /// A parameter's name and value.
    Parameter(&'a [u8], &'a [u8]),
    /// Ready for a query.
    Ready,
    /// The first column of a row; `None`: null, or a row without columns.
    Row(Option<&'a [u8]>),
    /// Of no interest here, by its letter.
    Other(u8),
}

/// What the server wants before it lets us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// We are in.
    Passed,
    Cleartext,
    Md5 {
        salt: [u8; 4],
    },
    /// Mechanisms that the server offers; see [`offers`].
    Sasl(&'a [u8]),
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    /// Kerberos, GSSAPI, SSPI and what may come, by its number.
    Unsupported(u32),
}

/// An error in the server's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complaint<'a> {
    /// SQLSTATE; five zeros from a server that told none.
    pub code: [u8; 5],
    pub message: &'a [u8],
}

impl Complaint<'_> {
    /// SQLSTATE as text.
    #[must_use]
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.code).unwrap_or("00000")
    }
}

/// These bytes are no PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

/// The first message in `bytes` and its length; `None` while it is not complete.
///
/// # Errors
/// When no server of this protocol would say so.
pub fn read(bytes: &[u8]) -> Result<Option<(Said<'_>, usize)>, Malformed> {
    let Some((&letter, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    if !letter.is_ascii_alphanumeric() {
        return Err(Malformed("no PostgreSQL message begins like this"));
    }
    let Some(length) = rest.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if letter == b'E' && !(8..=ERROR_BYTES_MAX).contains(&length) {
        return read_old_error(rest);
    }
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(Malformed("a PostgreSQL message of impossible length"));
    }
    let Some(body) = rest.get(4..length) else {
        return Ok(None);
    };
    let said = match letter {
        b'R' => Said::Authentication(authentication(body)?),
        b'E' => Said::Error(complaint(body)?),
        b'S' => parameter(body)?,
        b'Z' => Said::Ready,
        b'D' => Said::Row(first_column(body)?),
        other => Said::Other(other),
    };
    Ok(Some((said, 1 + length)))
}

fn read_old_error(text: &[u8]) -> Result<Option<(Said<'_>, usize)>, Malformed> {
    let end = text.iter().position(|&byte| byte == 0);
    match end {
        Some(end) if end <= ERROR_BYTES_MAX => {
            let message = text[..end].trim_ascii();
            let code = *b"00000";
            Ok(Some((
                Said::Error(Complaint { code, message }),
                1 + end + 1,
            )))
        }
        _ if text.len() > ERROR_BYTES_MAX => Err(Malformed("an error message without end")),
        _ => Ok(None),
    }
}

fn authentication(body: &[u8]) -> Result<Authentication<'_>, Malformed> {
    let Some((kind, rest)) = body.split_first_chunk::<4>() else {
        return Err(Malformed("an authentication request without a kind"));
    };
    Ok(match u32::from_be_bytes(*kind) {
        0 => Authentication::Passed,
        3 => Authentication::Cleartext,
        5 => Authentication::Md5 {
            salt: *rest
                .first_chunk()
                .ok_or(Malformed("an MD5 request without salt"))?,
        },
        10 => Authentication::Sasl(rest),
        11 => Authentication::SaslContinue(rest),
        12 => Authentication::SaslFinal(rest),
        other => Authentication::Unsupported(other),
    })
}

/// Whether a list of mechanisms (each ended by a zero) has this one.
#[must_use]
pub fn offers(mechanisms: &[u8], mechanism: &str) -> bool {
    mechanisms
        .split(|&byte| byte == 0)
        .any(|offered| offered == mechanism.as_bytes())
}

fn complaint(mut body: &[u8]) -> Result<Complaint<'_>, Malformed> {
    let mut found = Complaint {
        code: *b"00000",
        message: b"",
    };
    loop {
        match body.split_first() {
            Some((0, _)) => return Ok(found),
            Some((&field, rest)) => {
                let (value, rest) = text(rest)?;
                match field {
                    b'C' if value.iter().all(u8::is_ascii_alphanumeric) => {
                        found.code = value.try_into().unwrap_or(found.code);
                    }
                    b'M' => found.message = value,
                    _ => {}
                }
                body = rest;
            }
            None => return Err(Malformed("an error message without end")),
        }
    }
}

fn parameter(body: &[u8]) -> Result<Said<'_>, Malformed> {
    let (name, rest) = text(body)?;
    let (value, _) = text(rest)?;
    Ok(Said::Parameter(name, value))
}

fn first_column(body: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    const CUT: Malformed = Malformed("a row that is cut short");
    let (columns, rest) = body.split_first_chunk::<2>().ok_or(CUT)?;
    if u16::from_be_bytes(*columns) == 0 {
        return Ok(None);
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(CUT)?;
    match u32::from_be_bytes(*length) {
        u32::MAX => Ok(None),
        length => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            rest.get(..length).map(Some).ok_or(CUT)
        }
    }
}

/// A text up to its zero, and what follows.
fn text(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let end = bytes.iter().position(|&byte| byte == 0);
    let end = end.ok_or(Malformed("a text without end"))?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(letter: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[letter], &length.to_be_bytes()[..], body].concat()
    }

    #[test]
    fn each_message_is_read_whole_and_not_before() {
        let error = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0Fx.c\0\0";
        let complaint = Complaint {
            code: *b"57P03",
            message: b"the database system is starting up",
        };
        for (letter, body, expected) in [
            (
                b'R',
                &b"\0\0\0\0"[..],
                Said::Authentication(Authentication::Passed),
            ),
            (
                b'R',
                b"\0\0\0\x03",
                Said::Authentication(Authentication::Cleartext),
            ),
            (
                b'R',
                b"\0\0\0\x05abcd",
                Said::Authentication(Authentication::Md5 { salt: *b"abcd" }),
            ),
            (
                b'R',
                b"\0\0\0\x0aSCRAM-SHA-256\0\0",
                Said::Authentication(Authentication::Sasl(b"SCRAM-SHA-256\0\0")),
            ),
            (
                b'R',
                b"\0\0\0\x07",
                Said::Authentication(Authentication::Unsupported(7)),
            ),
            (b'E', error, Said::Error(complaint)),
            (
                b'S',
                b"in_hot_standby\0on\0",
                Said::Parameter(b"in_hot_standby", b"on"),
            ),
            (b'Z', b"I", Said::Ready),
            (b'D', b"\0\x01\0\0\0\x01t", Said::Row(Some(b"t"))),
            (b'D', b"\0\x01\xff\xff\xff\xff", Said::Row(None)),
            (b'D', b"\0\0", Said::Row(None)),
            (b'K', b"12345678", Said::Other(b'K')),
        ] {
            let whole = message(letter, body);
            let mut more = whole.clone();
            more.extend(b"Z\0\0\0\x05I");
            assert_eq!(read(&more), Ok(Some((expected, whole.len()))));
            for cut in 0..whole.len() {
                assert_eq!(read(&whole[..cut]), Ok(None), "{expected:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn an_error_in_the_old_format_is_heard() {
        let said = b"Ecould not fork new process for connection: Cannot allocate memory\n\0";
        let (said, length) = read(said).unwrap().unwrap();
        assert_eq!(length, 68);
        let Said::Error(complaint) = said else {
            panic!("{said:?}");
        };
        assert_eq!(complaint.code(), "00000");
        assert!(complaint.message.starts_with(b"could not fork"));
        assert!(complaint.message.ends_with(b"memory"));
    }

    #[test]
    fn what_is_no_postgres_is_refused() {
        for bytes in [
            &b"\x16\x03\x01"[..],
            b"HTTP/1.1 400 Bad Request\r\n",
            b"-ERR what\r\n",
            b"R\0\0\0\x03",
            b"R\xff\xff\xff\xff",
            b"R\0\0\0\x06\0\0",
            b"E\0\0\0\x0aCabcde",
            b"S\0\0\0\x05x",
            b"D\0\0\0\x0c\0\x01\0\0\xff\xff12",
        ] {
            assert!(
                read(bytes).is_err(),
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn mechanisms_are_whole_words() {
        let offered = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        assert!(offers(offered, "SCRAM-SHA-256"));
        assert!(!offers(b"SCRAM-SHA-256-PLUS\0\0", "SCRAM-SHA-256"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_never_stretches(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((_, length))) = read(&bytes) {
                prop_assert!(length <= bytes.len() && length > 0);
            }
        }

        #[test]
        fn a_damaged_message_never_panics(
            letter in prop_oneof![Just(b'R'), Just(b'E'), Just(b'S'), Just(b'D')],
            body in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..40),
        ) {
            let whole = message(letter, &body);
            let read = read(&whole);
            let is_complete = !matches!(read, Ok(None)) || letter == b'E' && body.len() < 4;
            prop_assert!(is_complete);
        }
    }
}
