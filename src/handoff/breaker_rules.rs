//! By which numbers a pool's breakers open, and for how long. They come from the plan with each snapshot; nothing here
//! remembers anything.

/// Trials, and failures in a row, that fit into the machine's words.
pub const TRIALS_MAX: u32 = 0x7fff;
pub const FAILURES_MAX: u32 = 0xffff;

/// When the breaker opens and for how long; a pool's, from its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerRules {
    /// At most [`FAILURES_MAX`].
    pub consecutive_failures: u32,
    /// A reset this soon after connecting may be a failure; 0: none is.
    pub early_reset_ns: u64,
    pub error_percent: u8,
    pub window_ns: u64,
    pub volume: u32,
    pub open_ns: u64,
    pub open_max_ns: u64,
    /// At most [`TRIALS_MAX`].
    pub trials: u32,
    pub max_ejected_percent: u8,
}

impl BreakerRules {
    /// How long the `row`-th opening in a row lasts: `open`, doubled each time, up to `open_max`. Nanoseconds.
    #[must_use]
    pub fn open_for(&self, row: u32) -> u64 {
        let doublings = row.saturating_sub(1).min(40);
        let longer = self.open_ns.saturating_mul(1 << doublings);
        longer.min(self.open_max_ns.max(self.open_ns))
    }
}
