//! Asks: what the office wants of a worker's sessions, one question at a time, each with a deadline. The worker looks
//! through its table a slice a turn and gives the ask back with its answer; all memory is the asker's, reserved before.

use std::collections::BinaryHeap;
use std::net::SocketAddr;

use crossbeam::queue::ArrayQueue;

use crate::ids::{BackendId, ListenerId, Nanos, PoolId, SessionKey};

/// One is answered at a time; the others were left by askers who gave up.
const WAITING_MAX: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The oldest sessions, of one backend or of all, as many as rows are reserved.
    Oldest { backend: Option<BackendId> },
    /// End the session of this number, as `killed`.
    Kill { session: u64 },
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Preface,
    Waiting,
    Connecting,
    Relaying,
    Closing,
}

impl Stage {
    pub const ALL: [Stage; 5] = [
        Stage::Preface,
        Stage::Waiting,
        Stage::Connecting,
        Stage::Relaying,
        Stage::Closing,
    ];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Stage::Preface => "preface",
            Stage::Waiting => "waiting",
            Stage::Connecting => "connecting",
            Stage::Relaying => "relaying",
            Stage::Closing => "closing",
        }
    }
}

/// One session as it was when the worker looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRow {
    pub opened: Nanos,
    pub id: u64,
    pub key: SessionKey,
    pub listener: ListenerId,
    pub pool: PoolId,
    pub backend: Option<BackendId>,
    pub client: Option<SocketAddr>,
    pub stage: Stage,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// The youngest is the greatest: what a heap gives up first when older ones come.
impl Ord for SessionRow {
    fn cmp(&self, other: &SessionRow) -> std::cmp::Ordering {
        (self.opened, self.id).cmp(&(other.opened, other.id))
    }
}

impl PartialOrd for SessionRow {
    fn partial_cmp(&self, other: &SessionRow) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    Open,
    /// All was looked at; of a kill: the session was found.
    Done,
    /// There is no such session.
    Nobody,
    /// The deadline came first.
    Late,
}

/// A question on its way to a worker, and back with the answer.
#[derive(Debug)]
pub struct Ask {
    /// Tells a late answer from the one that is waited for.
    pub number: u64,
    pub deadline: Nanos,
    pub question: Question,
    /// What is reserved is the most that are kept.
    pub rows: BinaryHeap<SessionRow>,
    /// Sessions that fit the question, kept or not.
    pub matched: u64,
    pub finding: Finding,
}

impl Ask {
    #[must_use]
    pub fn new(number: u64, deadline: Nanos, question: Question, rows_max: usize) -> Ask {
        Ask {
            number,
            deadline,
            question,
            rows: BinaryHeap::with_capacity(rows_max),
            matched: 0,
            finding: Finding::Open,
        }
    }

    /// Keeps the row while there is room, or instead of a younger one. Never grows what was reserved.
    pub fn note(&mut self, row: SessionRow) {
        self.matched += 1;
        if self.rows.len() < self.rows.capacity() {
            self.rows.push(row);
        } else if let Some(mut youngest) = self.rows.peek_mut()
            && row < *youngest
        {
            *youngest = row;
        }
    }
}

/// Both ways between the office and one worker.
#[derive(Debug)]
pub struct Asks {
    pub asked: ArrayQueue<Ask>,
    pub answered: ArrayQueue<Ask>,
}

impl Default for Asks {
    fn default() -> Asks {
        Asks {
            asked: ArrayQueue::new(WAITING_MAX),
            answered: ArrayQueue::new(WAITING_MAX + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Slot;

    fn row(opened: u64, id: u64) -> SessionRow {
        SessionRow {
            opened: Nanos(opened),
            id,
            key: SessionKey {
                slot: Slot(0),
                generation: 0,
            },
            listener: ListenerId(0),
            pool: PoolId(0),
            backend: None,
            client: None,
            stage: Stage::Relaying,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    #[test]
    fn the_oldest_are_kept_in_what_was_reserved() {
        let question = Question::Oldest { backend: None };
        let mut ask = Ask::new(1, Nanos(0), question, 3);
        let reserved = ask.rows.capacity();
        for opened in [50, 10, 40, 30, 20, 60] {
            ask.note(row(opened, opened));
        }
        assert_eq!(ask.matched, 6);
        assert_eq!(ask.rows.capacity(), reserved);
        let kept: Vec<u64> = ask
            .rows
            .into_sorted_vec()
            .iter()
            .map(|row| row.id)
            .collect();
        assert_eq!(kept[..3], [10, 20, 30]);
        let mut nothing = Ask::new(1, Nanos(0), question, 0);
        nothing.note(row(1, 1));
        assert_eq!((nothing.matched, nothing.rows.len()), (1, 0));
    }
}
