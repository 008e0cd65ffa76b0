//! The word of a breaker's machine: state, epoch and trials in 64 bits, so that one exchange changes them all. It only packs
//! and unpacks; what may become of what is the machine's business.

use super::breaker::BreakerState;
use super::breaker_rules::TRIALS_MAX;

const STATE_SHIFT: u32 = 62;
const EPOCH_SHIFT: u32 = 30;
const LEFT_SHIFT: u32 = 15;
const TRIALS_MASK: u64 = 0x7fff;

/// The machine's word, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub state: BreakerState,
    pub epoch: u32,
    /// Trials that may still begin.
    pub left: u32,
    /// Trials that must still pass.
    pub to_pass: u32,
}

impl Parts {
    pub fn of(word: u64) -> Parts {
        Parts {
            state: match word >> STATE_SHIFT {
                0 => BreakerState::Closed,
                1 => BreakerState::Open,
                _ => BreakerState::HalfOpen,
            },
            epoch: (word >> EPOCH_SHIFT) as u32,
            left: (word >> LEFT_SHIFT & TRIALS_MASK) as u32,
            to_pass: (word & TRIALS_MASK) as u32,
        }
    }

    pub fn pack(self) -> u64 {
        let state = match self.state {
            BreakerState::Closed => 0,
            BreakerState::Open => 1,
            BreakerState::HalfOpen => 2_u64,
        };
        state << STATE_SHIFT
            | u64::from(self.epoch) << EPOCH_SHIFT
            | u64::from(self.left) << LEFT_SHIFT
            | u64::from(self.to_pass)
    }

    pub fn next(self, state: BreakerState, trials: u32) -> Parts {
        let trials = trials.clamp(1, TRIALS_MAX);
        let trials = if state == BreakerState::HalfOpen {
            trials
        } else {
            0
        };
        Parts {
            state,
            epoch: self.epoch.wrapping_add(1),
            left: trials,
            to_pass: trials,
        }
    }
}
