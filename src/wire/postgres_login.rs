//! What a health check says to a PostgreSQL server, protocol 3: start-up, the answers to a request for a password, one
//! query, goodbye. Each function appends one whole message.
//!
//! Pure; the conversation is led by the prober, SCRAM is computed in `scram`.
//! Source: PostgreSQL documentation, "Frontend/Backend Protocol", "Message Formats".

use md5::{Digest, Md5};

const PROTOCOL_3: u32 = 3 << 16;

/// The first message: who we are and which database we want. Texts with a zero inside are cut there.
pub fn start_up(out: &mut Vec<u8>, user: &str, database: &str) {
    let mut body = PROTOCOL_3.to_be_bytes().to_vec();
    let parameters = [
        ("user", user),
        ("database", database),
        ("application_name", "ringway"),
    ];
    for (name, value) in parameters {
        text(&mut body, name);
        text(&mut body, value);
    }
    body.push(0);
    push(out, None, &body);
}

/// A password as it is.
pub fn password(out: &mut Vec<u8>, password: &[u8]) {
    let mut body = password.to_vec();
    body.push(0);
    push(out, Some(b'p'), &body);
}

/// The answer to an MD5 request: `md5` and the digest of the salted digest of password and user.
pub fn password_md5(out: &mut Vec<u8>, user: &str, secret: &[u8], salt: [u8; 4]) {
    let inner = hexadecimal(
        &Md5::new()
            .chain_update(secret)
            .chain_update(user)
            .finalize(),
    );
    let outer = Md5::new().chain_update(inner).chain_update(salt).finalize();
    password(out, format!("md5{}", hexadecimal(&outer)).as_bytes());
}

/// Begins SASL: the mechanism chosen, and its first message.
pub fn sasl_begin(out: &mut Vec<u8>, mechanism: &str, first: &[u8]) {
    let mut body = Vec::new();
    text(&mut body, mechanism);
    let length = u32::try_from(first.len()).unwrap_or(u32::MAX);
    body.extend(length.to_be_bytes());
    body.extend(first);
    push(out, Some(b'p'), &body);
}

/// Goes on with SASL.
pub fn sasl_answer(out: &mut Vec<u8>, answer: &[u8]) {
    push(out, Some(b'p'), answer);
}

/// A query in one message.
pub fn query(out: &mut Vec<u8>, sql: &str) {
    let mut body = Vec::new();
    text(&mut body, sql);
    push(out, Some(b'Q'), &body);
}

/// Goodbye; the server then closes without a line in its log.
pub fn terminate(out: &mut Vec<u8>) {
    push(out, Some(b'X'), b"");
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().take_while(|&byte| byte != 0));
    out.push(0);
}

fn push(out: &mut Vec<u8>, letter: Option<u8>, body: &[u8]) {
    out.extend(letter);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    out.extend(length.to_be_bytes());
    out.extend(body);
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(say: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        say(&mut out);
        out
    }

    #[test]
    fn messages_are_as_the_protocol_says() {
        let started = said(|out| start_up(out, "me", "mine"));
        let body = b"\0\x03\0\0user\0me\0database\0mine\0application_name\0ringway\0\0";
        assert_eq!(started[..4], (body.len() as u32 + 4).to_be_bytes());
        assert_eq!(started[4..], body[..]);
        assert_eq!(said(|out| password(out, b"pw")), b"p\0\0\0\x07pw\0");
        assert_eq!(said(terminate), b"X\0\0\0\x04");
        assert_eq!(said(|out| query(out, "select 1")), b"Q\0\0\0\x0dselect 1\0");
        assert_eq!(
            said(|out| sasl_begin(out, "M", b"abc")),
            b"p\0\0\0\x0dM\0\0\0\0\x03abc"
        );
        assert_eq!(said(|out| sasl_answer(out, b"abc")), b"p\0\0\0\x07abc");
    }

    #[test]
    fn a_name_with_a_zero_cannot_add_a_parameter() {
        let started = said(|out| start_up(out, "me\0replication\0true", "mine"));
        assert!(!started.windows(11).any(|bytes| bytes == b"replication"));
    }

    /// Computed with two other implementations of MD5: `printf pencilme | md5sum`, then the digest and the salt.
    #[test]
    fn an_md5_answer_is_salted_twice() {
        let answer = said(|out| password_md5(out, "me", b"pencil", *b"1234"));
        assert_eq!(
            std::str::from_utf8(&answer[5..]).unwrap(),
            "md55960c974f13e32dc8cbcd27afe0cb708\0"
        );
    }
}
