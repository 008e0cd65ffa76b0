//! The alarm for pools of which two backends say that they are the primary: one line at once, one a minute while it lasts,
//! one when it is over. Who is right is for an operator to say.

use std::time::{Duration, Instant};

use crate::prober::Conflict;

use super::board::Board;

const AGAIN: Duration = Duration::from_secs(60);

/// What was said, and when.
#[derive(Debug, Default)]
pub struct Alarms {
    said: Vec<(Conflict, Instant)>,
}

impl Alarms {
    /// Says what there is to say now.
    pub fn look(&mut self, board: &Board) {
        let conflicts = board.conflicts();
        let lasts = |pool: &str| conflicts.iter().any(|conflict| conflict.pool == pool);
        self.said.retain(|(conflict, _)| {
            let lasts = lasts(&conflict.pool);
            if !lasts {
                log::warn!("pool {}: the conflict of roles is over", conflict.pool);
            }
            lasts
        });
        let now = board.clock.now();
        for conflict in conflicts {
            let said = self
                .said
                .iter_mut()
                .find(|(said, _)| said.pool == conflict.pool);
            let is_due = said.as_ref().is_none_or(|(said, at)| {
                said.claimants != conflict.claimants || at.elapsed() >= AGAIN
            });
            if !is_due {
                continue;
            }
            log::error!(
                "pool {}: {} all say that they are the primary, since {} s: none of them gets new sessions until one yields, \
                 or is taken out by an operator",
                conflict.pool,
                conflict.claimants.join(" and "),
                now.since(conflict.since) / 1_000_000_000
            );
            match said {
                Some(said) => *said = (conflict, Instant::now()),
                None => self.said.push((conflict, Instant::now())),
            }
        }
    }
}
