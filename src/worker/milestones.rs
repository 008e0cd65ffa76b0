//! Reports of sessions that still run, where they are asked for: their start, their connection to a backend, and each time
//! that the interval has passed again. Like the reports of ends they are records in the journal, which loses them rather
//! than wait.
//!
//! Nobody keeps a timer for it: the worker goes round its table, a piece in a turn, so that many sessions are no long turn.

use crate::handoff::{Milestone, SessionRecord};
use crate::ids::{End, Nanos, SessionKey, millis};
use crate::uring::Kernel;

use super::engine::Worker;

/// Slots that are looked at in one turn.
const PIECE: u32 = 1024;
/// A new round begins this long after the last one: a report may be so much late.
const ROUND_NS: u64 = millis(500);

/// Where the worker is on its way round the table.
#[derive(Debug)]
pub(super) struct Rounds {
    slot: u32,
    /// When it goes on.
    pub(super) due: Nanos,
}

impl Default for Rounds {
    fn default() -> Rounds {
        Rounds {
            slot: 0,
            due: Nanos::ZERO,
        }
    }
}

impl<K: Kernel> Worker<K> {
    /// A session has come to this point.
    pub(super) fn report(&mut self, key: SessionKey, milestone: Milestone) {
        if self.world.report_ns == 0 {
            return;
        }
        let now = self.now;
        if let Some(tenant) = self.slots.get_mut(key) {
            tenant.reported = now;
            let record = tenant.record(End::Internal, now);
            self.hatch.journal.push(SessionRecord {
                milestone: Some(milestone),
                ..record
            });
        }
    }

    /// Reports those whose interval has passed, as far as this turn's piece goes.
    pub(super) fn report_progress(&mut self) {
        let interval_ns = self.world.report_ns;
        if interval_ns == 0 || self.now < self.rounds.due {
            return;
        }
        let extent = self.slots.extent();
        let end = extent.min(self.rounds.slot.saturating_add(PIECE));
        for slot in self.rounds.slot..end {
            let due = self
                .slots
                .at(slot)
                .filter(|(_, tenant)| self.now.since(tenant.reported) >= interval_ns);
            if let Some(key) = due.map(|(key, _)| key) {
                self.report(key, Milestone::Progress);
            }
        }
        if end >= extent {
            self.rounds.slot = 0;
            self.rounds.due = self.now.after(ROUND_NS);
        } else {
            self.rounds.slot = end;
        }
    }
}
