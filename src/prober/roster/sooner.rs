//! Checks that are made sooner than they were due.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::handoff::BackendShared;
use crate::ids::Nanos;

use super::{Appointment, Next, Roster, What};

impl Roster {
    /// Somebody wants to know at once how this backend is. It is still not asked more often than at its fast interval:
    /// who wants to know may be a client who only wants to see it asked.
    pub fn check_soon(&mut self, backend: &Arc<BackendShared>, now: Nanos) {
        let its = |entry: &super::Entry| Arc::ptr_eq(&entry.target.backend, backend);
        let Some(place) = self.entries.iter().position(its) else {
            return;
        };
        let entry = &self.entries[place];
        if let Some(rules) = entry.target.rules {
            let soonest = entry.started.map_or(now, |started| {
                started.after(rules.fast_interval_ns).max(now)
            });
            self.hasten(place, soonest);
        }
    }

    /// Makes the next check at this moment, unless it is due before or under way.
    pub(super) fn hasten(&mut self, place: usize, at: Nanos) {
        let entry = &mut self.entries[place];
        if !matches!(entry.next, Next::Due(due) if at < due) {
            return;
        }
        entry.next = Next::Due(at);
        entry.tell_next_check();
        self.appointments.push(Reverse(Appointment {
            at,
            place,
            what: What::Check,
        }));
    }
}
