//! The page that a file is written on, line by line, in TOML. It knows no key.

use std::fmt::{Display, Write as _};

#[derive(Default)]
pub(super) struct Page {
    text: String,
}

impl Page {
    /// Begins a table, named in its brackets.
    pub fn table(&mut self, header: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let _ = writeln!(self.text, "{header}");
    }

    /// A value that stands without quotes: a number, a truth, a list or table already written.
    pub fn line(&mut self, key: &str, value: impl Display) {
        let _ = writeln!(self.text, "{key} = {value}");
    }

    pub fn text_line(&mut self, key: &str, value: impl Display) {
        self.line(key, quoted(value));
    }

    pub fn list<T: Display>(&mut self, key: &str, items: &[T]) {
        self.line(key, super::all_quoted(items));
    }

    pub fn text(self) -> String {
        self.text
    }
}

/// A basic string of TOML 1.0, on one line.
pub(super) fn quoted(value: impl Display) -> String {
    let mut out = String::from("\"");
    for character in value.to_string().chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
