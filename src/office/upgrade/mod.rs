//! Upgrade without loss: a successor process takes over the listening sockets and what is shared, and this one keeps its
//! sessions until they end.
//!
//! # Who does what
//!
//! The process is shut in and can start no program. A *keeper* (`sys::keeper`), forked before the first thread and before
//! the sandbox, can: it starts the program that this one was started as and hands it one end of a *link*, a socket that
//! carries messages with descriptors (`sys::link`, [`words`]). All else goes over the link. When the successor serves, the
//! keeper ends, so that the successor becomes a child of whoever looks after orphans (systemd); it has a keeper of its own.
//!
//! ```text
//!  this process (generation n)            successor (n + 1)
//!  SIGUSR2, `ringway upgrade`
//!  keeper: start ───────────────────────▶ forks its keeper, reads the configuration
//!               ◀──────────────── Hello   which protocol it speaks
//!  Estate ──────────────────────────────▶ sockets, shares, states: binds what is new, shuts itself in, starts workers
//!               ◀──────────────── Ready   all that can fail has been done
//!  accepting stops, nothing is closed
//!  Flows ───────────────────────────────▶ UDP flows with their sockets
//!  Go ──────────────────────────────────▶ counters; accepting begins
//!               ◀────────────── Serving
//!  tells MAINPID to the service manager
//!  Yours ───────────────────────────────▶ speaks to the service manager, removes what is not wanted any more
//!  drains, reports once a second ───────▶ adds the reports to its own counters
//! ```
//!
//! Until `Serving` everything can be undone: if the successor says no, ends or is late, accepting goes on here, and who
//! asked is told why in one sentence. Connections wait in the kernel's queues meanwhile; both processes hold the very same
//! sockets, so that none is lost when this one closes its copies.
//!
//! # What is shared
//!
//! Limits are counted on lines of a memfd (`sys::shares`): a total, held against the limit, and a share for each living
//! process. When a process is gone without having given its share back, the newest takes that off. What flows hold goes over
//! with them: the successor alone moves it from one share to the other, in one step when the process before has let go or is
//! gone, so that a crash at any moment leaves the totals right. A successor that does not know the layout counts for itself
//! and says so. Who waits for a place in an older process goes first
//! (`handoff::Seniors`): the newest looks every few milliseconds while older ones live, since nobody rings across processes.
//! Verdicts and breakers go over as they are at `Estate` and are each process's own from then on, since each has a prober
//! for its sessions. Both count time from the same origin.
//!
//! # Generations
//!
//! At most [`GENERATIONS_MAX`] live at a time; one more upgrade is refused and says who is in the way. The newest holds a
//! link to each of the others (they are handed on), adds up their counters, passes the operator's word on, and when told to
//! leave takes all of them along. One whose newest has gone drains on its own.
//!
//! | file | does |
//! |---|---|
//! | [`words`] | what goes over a link |
//! | `line` | a link inside the office |
//! | `attempt` | the upgrade as the old process sees it |
//! | `heir` | the same from the successor's side |
//! | `elders` | older generations as the newest sees them |
//! | `retire` | the life of an older generation |
//! | `accounts`, `states`, `flows` | counters, verdicts and breakers, UDP flows in words |

mod accounts;
mod attempt;
mod elders;
mod flows;
pub mod heir;
mod line;
mod retire;
pub mod states;
pub mod words;

#[cfg(test)]
#[path = "heir_tests.rs"]
mod tests;

use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};

use crate::office::demands::Answer;
use crate::sys::keeper::Keeper;
use crate::sys::shares::Column;

pub use accounts::{key_of_backend, key_of_listener, key_of_pool, key_of_queue};
use attempt::Attempt;
use elders::Elder;
pub use flows::Addresses;
use heir::Claim;
pub use line::Heard;
use line::Line;
use words::Accounts;

/// Living processes of a service, the newest included.
pub const GENERATIONS_MAX: usize = 4;

/// How often the newest looks whether older ones have given back what somebody waits for.
pub const LOOK: std::time::Duration = std::time::Duration::from_millis(20);

/// So much heard waits for the office; the rest waits with those who say it.
const HEARD_MAX: usize = 16;

/// Which line something was heard on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineId(u64);

/// How the last attempt went.
#[derive(Clone, Debug)]
pub struct UpgradeNote {
    pub at: SystemTime,
    /// What was wrong, if it came to nothing.
    pub error: Option<String>,
}

/// An older generation, for those who look on.
#[derive(Clone, Debug)]
pub struct Older {
    pub generation: u32,
    pub pid: u32,
    pub sessions: u64,
    pub flows: u64,
    pub since: SystemTime,
}

/// What is seen of upgrades from outside.
#[derive(Clone, Debug)]
pub struct Family {
    /// Of this process, counted from 1.
    pub generation: u32,
    pub done: u64,
    pub failed: u64,
    pub last: Option<UpgradeNote>,
    pub older: Vec<Older>,
}

impl Default for Family {
    fn default() -> Family {
        Family {
            generation: 1,
            done: 0,
            failed: 0,
            last: None,
            older: Vec::new(),
        }
    }
}

/// The office's part in upgrades.
#[derive(Debug)]
pub struct Succession {
    keeper: Option<Keeper>,
    pub generation: u32,
    pub column: Column,
    attempt: Option<Attempt>,
    elders: Vec<Elder>,
    /// Shares of generations that are gone without a word, and since when.
    departed: Vec<(std::time::Instant, Column)>,
    /// What generations that are gone have counted.
    ended: Accounts,
    /// The line to the newest, once this one is old.
    newer: Option<Line>,
    lines: u64,
    tell: mpsc::Sender<(LineId, Heard)>,
    heard: mpsc::Receiver<(LineId, Heard)>,
    /// What flows of the process before hold of limits, until that has let go.
    bequests: std::collections::BTreeMap<String, u32>,
    /// The generation before, while it may still go on in this one's place.
    borrows_from: Option<u32>,
    /// A successor was asked for meanwhile, and who wants to hear of it: as many as the admin addresses let in.
    postponed: Option<Vec<oneshot::Sender<Answer>>>,
    pub family: Family,
}

impl Succession {
    #[must_use]
    pub fn new(keeper: Option<Keeper>, claim: Option<&Claim>) -> Succession {
        let claimed = claim.map(|claim| (claim.generation, claim.column));
        let (generation, column) = claimed.unwrap_or((1, Column::default()));
        let (tell, heard) = mpsc::channel(HEARD_MAX);
        Succession {
            keeper,
            generation,
            column,
            attempt: None,
            elders: Vec::new(),
            departed: Vec::new(),
            ended: Accounts::default(),
            newer: None,
            lines: 0,
            tell,
            heard,
            bequests: std::collections::BTreeMap::new(),
            borrows_from: None,
            postponed: None,
            family: Family {
                generation,
                ..Family::default()
            },
        }
    }

    /// What was heard next.
    pub async fn next(&mut self) -> (LineId, Heard) {
        match self.heard.recv().await {
            Some(heard) => heard,
            // Not while this value holds a sender.
            None => std::future::pending().await,
        }
    }

    fn open_line(&mut self, socket: std::os::fd::OwnedFd) -> std::io::Result<Line> {
        self.lines += 1;
        Line::open(LineId(self.lines), socket, self.tell.clone())
    }

    /// Whether an upgrade is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.attempt.is_some()
    }

    /// Whether another process serves now.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.newer.is_some()
    }

    /// Whether older generations live.
    #[must_use]
    pub fn has_elders(&self) -> bool {
        !self.elders.is_empty()
    }
}
