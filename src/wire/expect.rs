//! What a check wants to hear: bytes that must occur in what a server sends, or a regular expression over bytes.

use regex::bytes::Regex;

#[derive(Clone, Debug)]
pub enum Expect {
    Bytes(Vec<u8>),
    Pattern(Regex),
}

impl Expect {
    /// Where what was expected ends in `heard`; `None` while it does not occur.
    #[must_use]
    pub fn find(&self, heard: &[u8]) -> Option<usize> {
        match self {
            Expect::Bytes(bytes) if bytes.is_empty() => Some(0),
            Expect::Bytes(bytes) => {
                let mut windows = heard.windows(bytes.len());
                windows
                    .position(|part| part == bytes)
                    .map(|at| at + bytes.len())
            }
            Expect::Pattern(regex) => regex.find(heard).map(|found| found.end()),
        }
    }
}

/// Two expressions are the same if they are written the same.
impl PartialEq for Expect {
    fn eq(&self, other: &Expect) -> bool {
        match (self, other) {
            (Expect::Bytes(one), Expect::Bytes(other)) => one == other,
            (Expect::Pattern(one), Expect::Pattern(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

impl Eq for Expect {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_and_expressions_are_found_where_they_end() {
        let pong = Expect::Bytes(b"+PONG".to_vec());
        assert_eq!(pong.find(b"+PON"), None);
        assert_eq!(pong.find(b"\r\n+PONG\r\n"), Some(7));
        let greeting = Expect::Pattern(
            regex::bytes::RegexBuilder::new("^220[ -].*\r\n")
                .unicode(false)
                .build()
                .unwrap(),
        );
        assert_eq!(greeting.find(b"220 \xff ready\r\n250"), Some(13));
        assert_eq!(greeting.find(b"421 busy\r\n"), None);
        assert_eq!(Expect::Bytes(Vec::new()).find(b""), Some(0));
    }

    proptest! {
        #[test]
        fn what_was_put_in_is_found(before in proptest::collection::vec(any::<u8>(), 0..50),
                                    wanted in proptest::collection::vec(any::<u8>(), 1..20),
                                    after in proptest::collection::vec(any::<u8>(), 0..50)) {
            let heard = [before.clone(), wanted.clone(), after].concat();
            let end = Expect::Bytes(wanted.clone()).find(&heard).unwrap();
            prop_assert!(end <= before.len() + wanted.len());
            prop_assert_eq!(&heard[end - wanted.len()..end], &wanted[..]);
        }
    }
}
