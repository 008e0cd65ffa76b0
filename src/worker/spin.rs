//! Busy-polling before sleep: waking an idle core costs some 30 µs here, which is most of the latency at low load. A
//! worker that spins sees the answer at once and pays with CPU time.

use crate::handoff::Spin;
use crate::ids::Nanos;
use crate::uring::{Kernel, Outcome, Patience};

/// `auto` spins for at most this long, and only while waits have been shorter.
const AUTO_SPIN_NS: u64 = 50_000;

/// After so many spins in vain `auto` sleeps at once, until a wait turns out short again.
const AUTO_MISSES_MAX: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Spinner {
    wait_began: Nanos,
    misses: u32,
}

impl Spinner {
    /// How long to spin before this sleep.
    pub(super) fn budget_ns(&self, spin: Spin, patience: Patience) -> u64 {
        match (spin, patience) {
            (_, Patience::None) | (Spin::Off, _) => 0,
            (Spin::Fixed(nanoseconds), _) => nanoseconds,
            (Spin::Auto, _) if self.misses < AUTO_MISSES_MAX => AUTO_SPIN_NS,
            (Spin::Auto, _) => 0,
        }
    }

    /// Looks for outcomes without sleeping for `spin_ns`, then sleeps.
    pub(super) fn spin<K: Kernel>(
        &mut self,
        kernel: &mut K,
        spin_ns: u64,
        patience: Patience,
        outcomes: &mut Vec<Outcome>,
        time: &impl Fn() -> Nanos,
    ) {
        let began = time();
        loop {
            kernel.turn(Patience::None, outcomes);
            if !outcomes.is_empty() {
                self.misses = 0;
                return;
            }
            if time().since(began) >= spin_ns {
                break;
            }
        }
        self.misses = self.misses.saturating_add(1);
        kernel.turn(patience, outcomes);
    }

    /// Notes how long the last wait was: a short one means that spinning would have paid.
    pub(super) fn note_wait(&mut self, patience: Patience, now: Nanos) {
        if patience != Patience::None && now.since(self.wait_began) < AUTO_SPIN_NS {
            self.misses = 0;
        }
        self.wait_began = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Patience = Patience::Endless;

    #[test]
    fn a_fixed_spin_goes_before_every_sleep_and_auto_gives_up() {
        let mut spinner = Spinner::default();
        for misses in [0, AUTO_MISSES_MAX, u32::MAX] {
            spinner.misses = misses;
            assert_eq!(spinner.budget_ns(Spin::Off, WAIT), 0);
            assert_eq!(spinner.budget_ns(Spin::Fixed(7), WAIT), 7);
            assert_eq!(spinner.budget_ns(Spin::Fixed(7), Patience::None), 0);
        }
        assert_eq!(spinner.budget_ns(Spin::Auto, WAIT), 0);
        spinner.misses = AUTO_MISSES_MAX - 1;
        assert_eq!(spinner.budget_ns(Spin::Auto, WAIT), AUTO_SPIN_NS);
        assert_eq!(spinner.budget_ns(Spin::Auto, Patience::None), 0);
    }

    #[test]
    fn auto_begins_again_after_a_short_wait_only() {
        let mut spinner = Spinner {
            misses: AUTO_MISSES_MAX,
            ..Spinner::default()
        };
        let mut now = Nanos::ZERO;
        for (wait, patience, spins) in [
            (AUTO_SPIN_NS, WAIT, false),
            (AUTO_SPIN_NS - 1, Patience::None, false),
            (AUTO_SPIN_NS - 1, WAIT, true),
        ] {
            now = now.after(wait);
            spinner.note_wait(patience, now);
            assert_eq!(spinner.budget_ns(Spin::Auto, WAIT) > 0, spins, "{wait}");
        }
    }
}
