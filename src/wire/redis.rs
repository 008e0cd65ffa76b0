//! Redis' serialisation protocol, version 2, as far as a health check speaks it: commands out, replies in. A reply is read
//! without trust: depth, length and number of parts are bounded, and what is not a reply is refused at once.
//!
//! Source: the protocol's description at redis.io ("Redis serialization protocol specification").

/// A reply's arrays are nested at most so deep; ROLE nests twice.
const DEPTH_MAX: u32 = 4;
/// No array that a check reads is longer: a primary with that many replicas is not met.
const PARTS_MAX: i64 = 4096;
/// No string that a check reads is longer.
const BULK_BYTES_MAX: i64 = 64 * 1024;
/// Longest line (a simple string, an error, a number).
const LINE_BYTES_MAX: usize = 4096;

/// One reply, pointing into the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    Simple(&'a [u8]),
    Error(&'a [u8]),
    Integer(i64),
    /// `None`: null.
    Bulk(Option<&'a [u8]>),
    /// `None`: null.
    Array(Option<Vec<Reply<'a>>>),
}

/// The bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAReply;

/// A command as an array of bulk strings.
pub fn put_command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// The first reply in `bytes` and how many bytes it takes; `None` while it is not complete.
///
/// # Errors
/// What is there cannot become a reply.
pub fn reply(bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>, NotAReply> {
    let mut reader = Reader { bytes, at: 0 };
    match reader.reply(DEPTH_MAX) {
        Ok(reply) => Ok(Some((reply, reader.at))),
        Err(Stop::More) => Ok(None),
        Err(Stop::Wrong) => Err(NotAReply),
    }
}

enum Stop {
    More,
    Wrong,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn reply(&mut self, depth: u32) -> Result<Reply<'a>, Stop> {
        let kind = *self.bytes.get(self.at).ok_or(Stop::More)?;
        if !b"+-:$*".contains(&kind) {
            return Err(Stop::Wrong);
        }
        self.at += 1;
        let line = self.line()?;
        Ok(match kind {
            b'+' => Reply::Simple(line),
            b'-' => Reply::Error(line),
            b':' => Reply::Integer(integer(line)?),
            b'$' => match length(line, BULK_BYTES_MAX)? {
                None => Reply::Bulk(None),
                Some(length) => Reply::Bulk(Some(self.bulk(length)?)),
            },
            _ => match length(line, PARTS_MAX)? {
                None => Reply::Array(None),
                Some(_) if depth == 0 => return Err(Stop::Wrong),
                Some(length) => {
                    let parts = (0..length).map(|_| self.reply(depth - 1));
                    Reply::Array(Some(parts.collect::<Result<_, _>>()?))
                }
            },
        })
    }

    /// Up to the line's end, which is consumed, too.
    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.at..];
        let beginning = &rest[..rest.len().min(LINE_BYTES_MAX + 2)];
        match beginning.windows(2).position(|two| two == b"\r\n") {
            Some(length) => {
                self.at += length + 2;
                Ok(&rest[..length])
            }
            // The line's end itself may be cut.
            None if rest.len() > LINE_BYTES_MAX + 1 => Err(Stop::Wrong),
            None => Err(Stop::More),
        }
    }

    fn bulk(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.at..];
        if rest.len() < length + 2 {
            return Err(Stop::More);
        }
        if &rest[length..length + 2] != b"\r\n" {
            return Err(Stop::Wrong);
        }
        self.at += length + 2;
        Ok(&rest[..length])
    }
}

fn integer(line: &[u8]) -> Result<i64, Stop> {
    let text = std::str::from_utf8(line).map_err(|_| Stop::Wrong)?;
    text.parse().map_err(|_| Stop::Wrong)
}

/// A length; -1 is null.
fn length(line: &[u8], most: i64) -> Result<Option<usize>, Stop> {
    match integer(line)? {
        -1 => Ok(None),
        length if (0..=most).contains(&length) => {
            usize::try_from(length).map(Some).map_err(|_| Stop::Wrong)
        }
        _ => Err(Stop::Wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(bytes: &[u8]) -> Reply<'_> {
        let (reply, used) = reply(bytes).unwrap().unwrap();
        assert_eq!(used, bytes.len());
        reply
    }

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        put_command(&mut out, &[b"AUTH", b"", b"p w"]);
        assert_eq!(out, b"*3\r\n$4\r\nAUTH\r\n$0\r\n\r\n$3\r\np w\r\n");
    }

    #[test]
    fn replies_of_a_real_server_are_read() {
        assert_eq!(whole(b"+PONG\r\n"), Reply::Simple(b"PONG"));
        assert_eq!(
            whole(b"-LOADING Redis is loading the dataset in memory\r\n"),
            Reply::Error(b"LOADING Redis is loading the dataset in memory")
        );
        assert_eq!(whole(b":-12\r\n"), Reply::Integer(-12));
        assert_eq!(whole(b"$-1\r\n"), Reply::Bulk(None));
        assert_eq!(whole(b"*-1\r\n"), Reply::Array(None));
        let primary = b"*3\r\n$6\r\nmaster\r\n:14\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$4\r\n6380\r\n$2\r\n14\r\n";
        let Reply::Array(Some(parts)) = whole(primary) else {
            panic!("no array");
        };
        assert_eq!(parts[0], Reply::Bulk(Some(b"master")));
        assert_eq!(parts.len(), 3);
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for wrong in [
            &b"220 mail ready\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\n",
            b"\0",
            b":x\r\n",
            b"$x\r\n",
            b"$-2\r\n",
            b"$65537\r\n",
            b"$2\r\nabcd",
            b"*4097\r\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
            b"*1\r\nx",
        ] {
            assert_eq!(reply(wrong), Err(NotAReply), "{}", wrong.escape_ascii());
        }
        let endless = [b"+".as_slice(), &[b'a'; LINE_BYTES_MAX + 2]].concat();
        assert_eq!(reply(&endless), Err(NotAReply));
    }

    proptest! {
        /// Any bytes: no panic, and never more used than there is.
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(
            prop_oneof![any::<u8>(), proptest::sample::select(b"+-:$*\r\n0129".to_vec())], 0..200)) {
            if let Ok(Some((_, used))) = reply(&bytes) {
                prop_assert!(used <= bytes.len());
            }
        }

        /// Cut anywhere, a reply is incomplete and never wrong; with more behind it, it is the same.
        #[test]
        fn a_reply_in_pieces_is_waited_for(texts in proptest::collection::vec("[a-z]{0,20}", 0..6), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            let words: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
            put_command(&mut bytes, &words);
            let cut = cut.index(bytes.len());
            prop_assert_eq!(reply(&bytes[..cut]), Ok(None));
            let length = bytes.len();
            bytes.extend_from_slice(b"junk");
            let (read, used) = reply(&bytes).unwrap().unwrap();
            prop_assert_eq!(used, length);
            let expected: Vec<_> = words.iter().map(|word| Reply::Bulk(Some(word))).collect();
            prop_assert_eq!(read, Reply::Array(Some(expected)));
        }
    }
}
