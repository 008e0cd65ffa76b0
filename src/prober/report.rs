//! What the office can see of the prober: per backend the last result, the last change and why, counts and a histogram;
//! and each change of health as it happens. The prober writes, others read; nothing here decides.

use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::handoff::{BackendShared, Health, Histogram, HistogramSum, Tally};
use crate::ids::{CheckResult, Nanos, Role};

use super::words::Words;

/// Why health changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A check tipped it; `errno` is the kernel's number and `words` are the server's own, where there are any.
    Check {
        result: CheckResult,
        errno: Option<i32>,
        words: Option<Words>,
    },
    /// It told its role.
    Role(Role),
    /// This other backend of the pool says that it is the primary, too.
    Conflict(Arc<str>),
    /// It says that it is the primary, and another that may say so, too, was not heard yet or stumbles.
    Waits,
    /// The configuration asks for another role, or for none.
    Configured,
    /// The backend's host name does not resolve.
    Unresolved,
    /// It resolves again; checks start over.
    Resolved,
    /// The backend is not checked any more.
    Unchecked,
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Check {
                result,
                words: Some(words),
                ..
            } => write!(out, "check {result}: {words}"),
            Reason::Check {
                result: result @ CheckResult::Other,
                errno: Some(errno),
                ..
            } => write!(
                out,
                "check {result}: {}",
                io::Error::from_raw_os_error(*errno)
            ),
            Reason::Check { result, .. } => write!(out, "check {result}"),
            Reason::Role(Role::Unknown) => out.write_str("does not tell its role"),
            Reason::Role(role) => write!(out, "says that it is {role}"),
            Reason::Conflict(other) => {
                write!(
                    out,
                    "says that it is primary, and so does {other}: neither gets new sessions"
                )
            }
            Reason::Waits => out
                .write_str("says that it is primary, and waits for what is to be heard of another"),
            Reason::Configured => out.write_str("another role is asked for"),
            Reason::Unresolved => out.write_str("name does not resolve"),
            Reason::Resolved => out.write_str("name resolves"),
            Reason::Unchecked => out.write_str("no check configured"),
        }
    }
}

/// One change of a backend's health, for log and event stream.
#[derive(Clone, Debug)]
pub struct HealthChange {
    pub backend: Arc<BackendShared>,
    pub from: Health,
    pub to: Health,
    pub reason: Reason,
    pub at: Nanos,
}

/// A check that failed, where that is worth a line of the log and is no change of health.
#[derive(Clone, Debug)]
pub struct Complaint {
    pub backend: Arc<BackendShared>,
    pub health: Health,
    pub reason: Reason,
}

/// Two or more backends of a pool that say that they are its primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub pool: String,
    /// Their names, in the order of the configuration.
    pub claimants: Vec<String>,
    pub since: Nanos,
}

/// What one check found. Kinds make it; how long it took is filled in by whoever ran the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub result: CheckResult,
    /// The kernel's number, where the kernel said what was wrong.
    pub errno: Option<i32>,
    /// The server's own words, where it said what was wrong (or what it is, beside an `ok`).
    pub words: Option<Words>,
    /// What the server is, where that was asked.
    pub role: Role,
    /// It turns newcomers away because it has no room; those who are in are served.
    pub full: bool,
    pub took_ns: u64,
}

impl Finding {
    #[must_use]
    pub fn of(result: CheckResult) -> Finding {
        Finding {
            result,
            errno: None,
            words: None,
            role: Role::Unknown,
            full: false,
            took_ns: 0,
        }
    }

    /// Alive, and this is what it is.
    #[must_use]
    pub fn alive(role: Role) -> Finding {
        Finding {
            role,
            ..Finding::of(CheckResult::Ok)
        }
    }

    /// It answered, and the answer says that it cannot serve: `words` are its own.
    #[must_use]
    pub fn failed(words: &[u8]) -> Finding {
        Finding::of(CheckResult::Failed).saying(words)
    }

    #[must_use]
    pub fn saying(self, words: &[u8]) -> Finding {
        Finding {
            words: Words::of(words),
            ..self
        }
    }

    /// As the reason of a change of health.
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::Check {
            result: self.result,
            errno: self.errno,
            words: self.words.clone(),
        }
    }
}

/// The last finding and the last change of one backend.
#[derive(Clone, Debug, Default)]
pub struct Latest {
    pub finding: Option<Finding>,
    /// When the finding was made.
    pub found_at: Option<Nanos>,
    /// When health changed last, and why.
    pub changed: Option<(Nanos, Reason)>,
    /// Successes in a row.
    pub successes: u32,
    /// Failures in a row; a refused connection counts as two.
    pub failures: u32,
    /// When the next check is due; `None` while one is in flight or where there is no check.
    pub next_check: Option<Nanos>,
}

/// One backend's history, kept as long as the office asks for the backend.
#[derive(Debug)]
pub struct History {
    pub backend: Arc<BackendShared>,
    pub checks: [Tally; CheckResult::COUNT],
    /// Of checks that say something: void ones are not in it.
    pub duration: Histogram,
    pub latest: Mutex<Latest>,
}

impl History {
    #[must_use]
    pub fn new(backend: Arc<BackendShared>) -> History {
        History {
            backend,
            checks: std::array::from_fn(|_| Tally::default()),
            duration: Histogram::default(),
            latest: Mutex::new(Latest::default()),
        }
    }

    /// Counts one finding. Only the prober's thread may call this.
    pub fn record(&self, finding: Finding, at: Nanos) {
        self.checks[finding.result.index()].add(1);
        if finding.result != CheckResult::Void {
            self.duration.record(finding.took_ns);
        }
        let mut latest = self.latest.lock();
        latest.finding = Some(finding);
        latest.found_at = Some(at);
    }

    #[must_use]
    pub fn report(&self) -> BackendReport {
        let mut duration = HistogramSum::default();
        duration.add(&self.duration);
        BackendReport {
            backend: Arc::clone(&self.backend),
            health: self.backend.verdict.health(),
            latest: self.latest.lock().clone(),
            checks: std::array::from_fn(|i| self.checks[i].read()),
            duration,
        }
    }
}

/// A copy of one backend's history.
#[derive(Clone, Debug)]
pub struct BackendReport {
    pub backend: Arc<BackendShared>,
    pub health: Health,
    pub latest: Latest,
    /// Checks by result, in the order of [`CheckResult::ALL`].
    pub checks: [u64; CheckResult::COUNT],
    pub duration: HistogramSum,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_read_as_a_person_would_say_them() {
        let check = |result, errno| {
            let words = None;
            Reason::Check {
                result,
                errno,
                words,
            }
            .to_string()
        };
        assert_eq!(
            check(CheckResult::Refused, Some(libc::ECONNREFUSED)),
            "check refused"
        );
        assert_eq!(check(CheckResult::Timeout, None), "check timeout");
        assert_eq!(
            check(CheckResult::Other, Some(libc::EACCES)),
            "check other: Permission denied (os error 13)"
        );
        assert_eq!(Reason::Unresolved.to_string(), "name does not resolve");
        let loading = Finding::failed(b"LOADING Redis is loading the dataset in memory\r\n");
        assert_eq!(
            loading.reason().to_string(),
            "check failed: LOADING Redis is loading the dataset in memory"
        );
    }
}
