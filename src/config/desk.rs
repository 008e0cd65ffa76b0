//! The desk that one reading of one file happens at: the file's name, its text (for line numbers), the environment and
//! the faults found so far.
//!
//! It must not know any key. Reading goes on after a fault, with the key's default, so that one run names them all.

use super::fault::{ConfigError, Fault};

pub(super) struct Desk<'a> {
    file: &'a str,
    text: &'a str,
    environment: &'a dyn Fn(&str) -> Option<String>,
    faults: Vec<Fault>,
}

/// A value, and where in the text it stands.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub value: T,
    /// Byte offset.
    pub at: usize,
}

impl<'a> Desk<'a> {
    pub fn new(
        file: &'a str,
        text: &'a str,
        environment: &'a dyn Fn(&str) -> Option<String>,
    ) -> Desk<'a> {
        Desk {
            file,
            text,
            environment,
            faults: Vec::new(),
        }
    }

    /// The line of a byte offset, from 1.
    pub fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|&&byte| byte == b'\n').count()
    }

    pub fn fault(&mut self, at: usize, key: &str, sentence: impl Into<String>) {
        let line = Some(self.line(at));
        self.note(line, key, sentence.into());
    }

    /// A fault that no line of the file is to blame for.
    pub fn fault_of_file(&mut self, key: &str, sentence: impl Into<String>) {
        self.note(None, key, sentence.into());
    }

    fn note(&mut self, line: Option<usize>, key: &str, sentence: String) {
        self.faults.push(Fault {
            file: self.file.to_owned(),
            line,
            key: key.to_owned(),
            sentence,
        });
    }

    /// `found` if no fault was noted, else all faults in the order of lines.
    pub fn close<T>(mut self, found: Option<T>) -> Result<T, ConfigError> {
        self.faults.sort_by_key(|fault| fault.line);
        match found {
            Some(found) if self.faults.is_empty() => Ok(found),
            _ => Err(ConfigError {
                faults: self.faults,
            }),
        }
    }

    /// Replaces `${NAME}` and `${NAME:-default}` in a string value. A variable that is set but empty takes the default,
    /// as in a shell. What was put in is not looked at again.
    pub fn expand(&mut self, raw: &str, at: usize, key: &str) -> String {
        let mut expanded = String::with_capacity(raw.len());
        let mut rest = raw;
        while let Some((before, after)) = rest.split_once("${") {
            expanded.push_str(before);
            let Some((inside, tail)) = after.split_once('}') else {
                self.fault(
                    at,
                    key,
                    format!(
                        "found {raw:?}; allowed: ${{NAME}} or ${{NAME:-default}}, closed by }}"
                    ),
                );
                return expanded;
            };
            self.expand_one(inside, at, key, &mut expanded);
            rest = tail;
        }
        expanded.push_str(rest);
        expanded
    }

    fn expand_one(&mut self, inside: &str, at: usize, key: &str, expanded: &mut String) {
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_variable_name(name) {
            let sentence = format!(
                "found ${{{inside}}}; allowed: a variable's name of letters, digits and _, not beginning with a digit"
            );
            self.fault(at, key, sentence);
            return;
        }
        match (
            (self.environment)(name).filter(|value| !value.is_empty()),
            default,
        ) {
            (Some(value), _) => expanded.push_str(&value),
            (None, Some(default)) => expanded.push_str(default),
            (None, None) => {
                let sentence = format!(
                    "${{{name}}} is not set in the environment; allowed: a variable that is set, or a default as in \
                     ${{{name}:-default}}"
                );
                self.fault(at, key, sentence);
            }
        }
    }
}

fn is_variable_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(word) && name.starts_with(|c: char| word(c) && !c.is_ascii_digit())
}
