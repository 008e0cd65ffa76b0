//! The part of the plan that is about health checks: how often, and what each kind says and wants to hear, every default
//! filled in. Passwords are read from their files and shown nowhere.
//!
//! `health` and `kinds` make it from the file; `worst` and the office read it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use regex::bytes::Regex;

use crate::ids::{Role, Secret};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthPlan {
    None,
    Check(CheckPlan),
}

impl HealthPlan {
    #[must_use]
    pub fn check(&self) -> Option<&CheckPlan> {
        match self {
            HealthPlan::None => None,
            HealthPlan::Check(check) => Some(check),
        }
    }

    /// The role that the pool asks for; `None`: any.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.check().and_then(|check| check.kind.role())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckPlan {
    pub kind: CheckKind,
    /// Each round takes it ± 10 %.
    pub interval: Duration,
    /// While rising or falling.
    pub fast_interval: Duration,
    pub timeout: Duration,
    pub rise: u32,
    pub fall: u32,
    /// `None`: the backend's own port; see [`super::Plan::check_port`].
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    Tcp,
    /// At least one step.
    SendExpect(Vec<StepPlan>),
    Http(HttpPlan),
    Postgres(LoginPlan),
    Mysql(LoginPlan),
    Redis(LoginPlan),
    Dns(DnsPlan),
    Udp(UdpPlan),
}

impl CheckKind {
    /// As in the file.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            CheckKind::Tcp => "tcp",
            CheckKind::SendExpect(_) => "send-expect",
            CheckKind::Http(_) => "http",
            CheckKind::Postgres(_) => "postgres",
            CheckKind::Mysql(_) => "mysql",
            CheckKind::Redis(_) => "redis",
            CheckKind::Dns(_) => "dns",
            CheckKind::Udp(_) => "udp",
        }
    }

    /// The role that a backend must have to serve; `None`: any.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.login().and_then(|login| login.role)
    }

    #[must_use]
    pub fn login(&self) -> Option<&LoginPlan> {
        match self {
            CheckKind::Postgres(login) | CheckKind::Mysql(login) | CheckKind::Redis(login) => {
                Some(login)
            }
            _ => None,
        }
    }

    /// Whether it speaks in datagrams, which a unix socket of a backend does not take.
    #[must_use]
    pub fn is_datagram(&self) -> bool {
        matches!(self, CheckKind::Dns(_) | CheckKind::Udp(_))
    }

    /// Whether a server that says nothing passes: then only a refusal takes it down.
    #[must_use]
    pub fn passes_silence(&self) -> bool {
        matches!(self, CheckKind::Udp(UdpPlan { expect: None, .. }))
    }
}

/// One step of a dialogue; it does at least one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepPlan {
    /// Sent first; may be empty.
    pub send: Said,
    pub expect: Option<Expect>,
}

/// What must be among the bytes that come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Never empty.
    Bytes(Said),
    Pattern(Pattern),
}

/// Bytes of a dialogue, shown as text with escapes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Said(pub Vec<u8>);

impl fmt::Debug for Said {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{}\"", self.0.escape_ascii())
    }
}

/// A regular expression over bytes; two are the same if they are written the same.
#[derive(Clone, Debug)]
pub struct Pattern(pub Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpPlan {
    pub method: &'static str,
    /// Begins with a slash; printable, no spaces.
    pub path: String,
    /// `None`: the backend's address.
    pub host: Option<String>,
    /// First and last of each range that counts as alive.
    pub status: Vec<(u16, u16)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginPlan {
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// Where the password was read.
    pub password_file: Option<PathBuf>,
    pub database: Option<String>,
    /// `None`: any.
    pub role: Option<Role>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsPlan {
    /// Without a dot at its end; empty for the root.
    pub name: String,
    /// The record type's number.
    pub record: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpPlan {
    pub send: Said,
    /// `None`: no answer is expected.
    pub expect: Option<Said>,
}
