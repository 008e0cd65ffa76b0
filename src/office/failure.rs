//! Why the office could not start, go on, or take a new configuration over: one sentence each, and the exit status that
//! belongs to it.

use std::fmt;

use crate::config::ConfigError;

#[derive(Debug)]
pub enum Failure {
    /// The configuration is wrong.
    Config(ConfigError),
    /// A resource is missing or refused; the sentence names it and the remedy.
    CannotStart(String),
    /// Something broke while running.
    Broken(String),
}

impl Failure {
    /// The process's exit status.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Failure::Broken(_) => 1,
            Failure::Config(_) => 2,
            Failure::CannotStart(_) => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Config(error) => write!(out, "{error}"),
            Failure::CannotStart(sentence) | Failure::Broken(sentence) => out.write_str(sentence),
        }
    }
}

impl std::error::Error for Failure {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Config(error)
    }
}
