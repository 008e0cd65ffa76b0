//! A server's own words, as people may read them: one line, printable, cut to what fits a log line. What a backend sends
//! is not trusted: no control character and no line end of it reaches a terminal or a log.

use std::fmt;
use std::sync::Arc;

/// Characters that are kept; what is longer ends with an ellipsis.
pub const WORDS_MAX: usize = 120;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(Arc<str>);

impl Words {
    /// Runs of white space become one space, what is not printable becomes `.`; `None` if nothing is left.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Words> {
        // A character has four bytes at most: no need to look at more of an endless answer.
        let beginning = &bytes[..bytes.len().min(WORDS_MAX * 8)];
        let text = String::from_utf8_lossy(beginning);
        let spaced = text.split_whitespace();
        let spaced = spaced.flat_map(|word| word.chars().chain([' ']));
        let mut kept = String::with_capacity(WORDS_MAX + 4);
        for (count, character) in spaced.enumerate() {
            if count == WORDS_MAX {
                kept.truncate(kept.trim_end().len());
                // The last character may be the space behind the last word.
                if character != ' ' {
                    kept.push('…');
                }
                break;
            }
            kept.push(plain(character));
        }
        let kept = kept.trim();
        (!kept.is_empty()).then(|| Words(Arc::from(kept)))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Control characters and those that only steer how others are shown could fool who reads a log.
fn plain(character: char) -> char {
    let steers = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    if character.is_control() || steers || character == char::REPLACEMENT_CHARACTER {
        '.'
    } else {
        character
    }
}

impl fmt::Display for Words {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(bytes: &[u8]) -> String {
        Words::of(bytes).map_or(String::new(), |words| words.to_string())
    }

    #[test]
    fn words_are_one_printable_line() {
        assert_eq!(
            shown(b"LOADING Redis is loading\r\n"),
            "LOADING Redis is loading"
        );
        assert_eq!(shown(b"a\r\n\tb\0c\x1b[31m"), "a b.c.[31m");
        assert_eq!(shown(b"\xff\xfeok"), "..ok");
        assert_eq!(shown(" \u{202e}é ".as_bytes()), ".é");
        assert_eq!(Words::of(b" \r\n"), None);
        assert_eq!(Words::of(b""), None);
        let long = shown(&[b'x'; 5_000]);
        assert_eq!(long.chars().count(), WORDS_MAX + 1);
        assert!(long.ends_with("x…"));
        assert_eq!(shown(&[b'x'; WORDS_MAX]).chars().count(), WORDS_MAX);
    }

    proptest! {
        #[test]
        fn whatever_comes_stays_short_and_printable(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let shown = shown(&bytes);
            prop_assert!(shown.chars().count() <= WORDS_MAX + 1);
            prop_assert!(shown.chars().all(|c| !c.is_control()));
        }
    }
}
