//! What is wrong with a configuration, one sentence each: file, line, key, what was found, what is allowed.
//!
//! Only wording lives here; finding faults is the work of the other files of this room.

use std::fmt;

/// Everything found wrong with one configuration, in the order of lines; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub faults: Vec<Fault>,
}

/// One sentence about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub file: String,
    /// Counted from 1; `None` when the fault belongs to no line (the file is unreadable, something is absent).
    pub line: Option<usize>,
    /// Dotted, like `pool.health.interval`; empty when the fault is not about a key.
    pub key: String,
    /// What was found and what is allowed.
    pub sentence: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:", self.file)?;
        if let Some(line) = self.line {
            write!(out, "{line}:")?;
        }
        if !self.key.is_empty() {
            write!(out, " {}:", self.key)?;
        }
        write!(out, " {}", self.sentence)
    }
}

/// One fault a line.
impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                out.write_str("\n")?;
            }
            write!(out, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
