//! Reads Rust sources as text, as far as the laws need it: blanks comments, literals and test code, finds words,
//! functions' ends and use trees. No parser; it knows just enough not to be fooled by what is no code.

/// One source file.
pub struct Source {
    /// From the repository's root, such as `src/balance/mod.rs`.
    pub path: String,
    pub text: String,
    /// The text with comments and the insides of literals blanked: same length, same lines.
    pub code: String,
    /// The code without what is compiled for tests only.
    pub product: String,
    /// How many lines that blanked.
    pub test_lines: usize,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let code = blank_comments_and_literals(text);
        let (product, test_lines) = blank_test_items(&code);
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            product,
            test_lines,
        }
    }

    /// The room it belongs to; `None` for `lib.rs`, `main.rs` and what is outside of `src`.
    pub fn room(&self) -> Option<&str> {
        let inner = self.path.strip_prefix("src/")?;
        match inner.split_once('/') {
            Some((room, _)) => Some(room),
            None => {
                Some(inner.strip_suffix(".rs")?).filter(|name| !matches!(*name, "lib" | "main"))
            }
        }
    }

    /// How many `super::` lead from here to the crate's root.
    pub fn depth(&self) -> usize {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        inner.split('/').filter(|part| *part != "mod").count()
    }

    pub fn finding(&self, at: usize, what: &str) -> String {
        let line = self.code[..at].matches('\n').count() + 1;
        format!("{}:{line}: {what}", self.path)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Replaces all but line ends by spaces.
fn blank(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

fn blank_comments_and_literals(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match (bytes[at], bytes.get(at + 1)) {
            (b'/', Some(b'/')) => text[at..].find('\n').map_or(bytes.len(), |n| at + n),
            (b'/', Some(b'*')) => block_comment_end(text.as_bytes(), at),
            (b'"', _) => string_end(text.as_bytes(), at),
            (b'\'', _) => char_end(text, at),
            (b'r', Some(b'"' | b'#')) => raw_string_end(text, at),
            _ => at,
        };
        blank(&mut bytes[at..end]);
        at = end.max(at + 1);
    }
    String::from_utf8(bytes).expect("whole characters were replaced")
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'/', Some(b'*')) => (depth, at) = (depth + 1, at + 2),
            (b'*', Some(b'/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// The end of a character, or `start` if this is a lifetime.
fn char_end(text: &str, start: usize) -> usize {
    let mut rest = text[start + 1..].char_indices();
    let Some((_, first)) = rest.next() else {
        return start;
    };
    if first == '\\' {
        // What follows the backslash may be a quote itself.
        let closing = text[start + 3..].find('\'');
        return closing.map_or(text.len(), |n| start + 3 + n + 1);
    }
    match rest.next() {
        Some((at, '\'')) => start + 1 + at + 1,
        _ => start,
    }
}

/// The end of a raw string, or `start` if the r is only a letter.
fn raw_string_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let before = text[..start].trim_end_matches(['b', 'c']);
    let follows_a_word = before.bytes().last().is_some_and(is_word);
    let hashes = text[start + 1..].bytes().take_while(|b| *b == b'#').count();
    let quote = start + 1 + hashes;
    if follows_a_word || bytes.get(quote) != Some(&b'"') {
        return start;
    }
    let closing = format!("\"{}", "#".repeat(hashes));
    let end = text[quote + 1..].find(&closing);
    end.map_or(text.len(), |n| quote + 1 + n + closing.len())
}

pub const TEST_MARK: &str = "#[cfg(test)]";

fn blank_test_items(code: &str) -> (String, usize) {
    if code.contains("#![cfg(test)]") {
        return (String::new(), code.lines().count());
    }
    let mut bytes = code.as_bytes().to_vec();
    let mut lines = 0;
    let mut done = 0;
    for (start, _) in code.match_indices(TEST_MARK) {
        if start >= done {
            done = item_end(code.as_bytes(), start + TEST_MARK.len());
            lines += code[start..done].lines().count();
            blank(&mut bytes[start..done]);
        }
    }
    let product = String::from_utf8(bytes).expect("whole characters were replaced");
    (product, lines)
}

/// The end of the item that begins at `start`, attributes included: its `;`, or the brace that closes it.
fn item_end(bytes: &[u8], start: usize) -> usize {
    let mut nesting = 0;
    for (at, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'(' | b'[' | b'{' => nesting += 1,
            b')' | b']' => nesting -= 1,
            b'}' => {
                nesting -= 1;
                if nesting == 0 {
                    return at + 1;
                }
            }
            b';' if nesting == 0 => return at + 1,
            _ => {}
        }
    }
    bytes.len()
}

/// Where `word` stands in `code`, not as part of a longer word.
pub fn places<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    let touches = |at: Option<usize>| {
        at.and_then(|at| bytes.get(at))
            .copied()
            .is_some_and(is_word)
    };
    let begins = word.bytes().next().is_some_and(is_word);
    let ends = word.bytes().last().is_some_and(is_word);
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| {
            let is_longer_before = begins && touches(at.checked_sub(1));
            let is_longer_after = ends && touches(Some(at + word.len()));
            !is_longer_before && !is_longer_after
        })
}

/// Where each function with a body begins, its name, and its lines from `fn` to the closing brace.
pub fn functions(code: &str) -> Vec<(usize, &str, usize)> {
    let mut found = Vec::new();
    for at in places(code, "fn") {
        let after = code[at + 2..].trim_start();
        let length = after.bytes().take_while(|byte| is_word(*byte)).count();
        let item = &code[at..item_end(code.as_bytes(), at)];
        if length > 0 && item.ends_with('}') {
            found.push((at, &after[..length], item.lines().count()));
        }
    }
    found
}

/// All paths of a use tree, as lists of names: `a::{b, c::d}` is `[a, b]` and `[a, c, d]`. Stops where the tree ends.
pub fn paths(tree: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    take_tree(tree, &[], &mut found);
    found
}

/// Adds the paths of the tree at the beginning of `rest`, and returns what follows it.
fn take_tree<'a>(rest: &'a str, prefix: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let rest = rest.trim_start();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            inner = take_tree(inner, prefix, found);
            // Past a star, or a new name.
            inner = inner.find([',', '}']).map_or("", |at| &inner[at..]);
            match inner.strip_prefix(',') {
                // A comma behind the last one.
                Some(next) if next.trim_start().starts_with('}') => {
                    return &next.trim_start()[1..];
                }
                Some(next) => inner = next,
                None => return inner.get(1..).unwrap_or_default(),
            }
        }
    }
    let length = rest.bytes().take_while(|byte| is_word(*byte)).count();
    let (name, after) = rest.split_at(length);
    let mut path = prefix.to_vec();
    if !name.is_empty() {
        path.push(name.to_owned());
        if let Some(deeper) = after.trim_start().strip_prefix("::") {
            return take_tree(deeper, &path, found);
        }
    }
    if !path.is_empty() {
        found.push(path);
    }
    after
}

#[test]
fn literals_and_comments_are_blanked_and_nothing_else() {
    let pairs = [
        ("a \"b // c\" d", "a          d"),
        ("a // b", "a     "),
        ("/* a /* b */ c */ d", "                  d"),
        ("r#\"a\"b\"# c", "         c"),
        ("'\\'' 'x' b'}' &'a str", "         b    &'a str"),
        ("for_r\"a\"", "for_r   "),
        ("r#type", "r#type"),
        ("\"a\\\"b\" c", "       c"),
        ("'ä' c", "     c"),
    ];
    for (text, code) in pairs {
        assert_eq!(
            blank_comments_and_literals(text).trim_end(),
            code.trim_end(),
            "{text}"
        );
    }
}

#[test]
fn use_trees_are_taken_apart() {
    let joined = |tree: &str| -> Vec<String> { paths(tree).iter().map(|p| p.join("::")).collect() };
    assert_eq!(joined("a::b;"), ["a::b"]);
    assert_eq!(joined("a::{\n b,\n c,\n};"), ["a::b", "a::c"]);
    assert_eq!(
        joined("{a::{b, c::d}, e};  more, than::that"),
        ["a::b", "a::c::d", "e"]
    );
    assert_eq!(joined("a(x, y)"), ["a"]);
    assert_eq!(joined("a::b::<u8>()"), ["a::b"]);
    assert_eq!(joined("{a::*, b as c, d::{self}}"), ["a", "b", "d::self"]);
}
