//! Rates that hold over all workers: so many a second, and how many of them at once. One atomic word per key, no timer,
//! no lock; a key that has rested is no different from one never seen.
//!
//! The algorithm is GCRA, the generic cell rate algorithm (ITU-T I.371, annex A, "virtual scheduling"): the word holds the
//! theoretical arrival time, the moment at which all that was let in would have been paid for. Used by listeners and
//! sources at admission and by backends for `connect_rate`; it must not know what is being counted.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use crate::ids::Nanos;

/// Times are kept in sixteenths of a nanosecond: whole ones would be 3 % wrong at 30 million a second. The word then
/// lasts for 36 years of one process.
const FRACTION_BITS: u32 = 4;
const SECOND: u64 = 1_000_000_000 << FRACTION_BITS;

/// A debt this much beyond what the rate allows was made under another rate, before a reload. It must be longer than any
/// worker's idea of the present can lag behind another's.
const FOREIGN: u64 = SECOND;

/// A rate and its burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What one event costs, in sixteenths of a nanosecond.
    increment: u64,
    /// How far the debt may run ahead of the present: (burst - 1) × increment.
    tolerance: u64,
}

impl Rate {
    /// `per_second` events a second, `burst` of them at once; a 0 counts as 1.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Rate {
        let per_second = u64::from(per_second.max(1));
        let increment = (SECOND + per_second / 2) / per_second;
        Rate {
            increment,
            tolerance: increment.saturating_mul(u64::from(burst.max(1) - 1)),
        }
    }

    /// The debt as this rate sees it: one made under a slower rate is cut to what is full here.
    fn debt_until(self, word: u64, now: u64) -> u64 {
        let full = now.saturating_add(self.tolerance);
        if word > full.saturating_add(self.increment + FOREIGN) {
            full
        } else {
            word
        }
    }
}

/// One key's account. Zero is a key that owes nothing.
#[derive(Debug, Default)]
pub struct Meter(AtomicU64);

fn word_of(moment: Nanos) -> u64 {
    moment.0.saturating_mul(1 << FRACTION_BITS)
}

impl Meter {
    /// Lets one more in, if the rate allows it now.
    #[must_use]
    pub fn take(&self, rate: Rate, now: Nanos) -> bool {
        let now = word_of(now);
        let charge = |word: u64| {
            let until = rate.debt_until(word, now);
            let open = until <= now.saturating_add(rate.tolerance);
            open.then(|| until.max(now).saturating_add(rate.increment))
        };
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, charge)
            .is_ok()
    }

    /// Whether one more would be let in now. Stale at once; use it to pass over, never to let in.
    #[must_use]
    pub fn is_open(&self, rate: Rate, now: Nanos) -> bool {
        self.due(rate, now) <= now
    }

    /// When one more will be let in, if nobody comes before; never before `now`.
    #[must_use]
    pub fn due(&self, rate: Rate, now: Nanos) -> Nanos {
        let until = rate.debt_until(self.0.load(Ordering::Acquire), word_of(now));
        let due = until.saturating_sub(rate.tolerance);
        Nanos(due.div_ceil(1 << FRACTION_BITS)).max(now)
    }

    /// Gives back what was taken for something that did not happen.
    pub fn give_back(&self, rate: Rate) {
        let less = |word: u64| Some(word.saturating_sub(rate.increment));
        let updated = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        debug_assert!(updated.is_ok(), "the update never declines");
    }

    /// Whether nothing is owed any more.
    #[must_use]
    pub fn is_settled(&self, now: Nanos) -> bool {
        self.0.load(Ordering::Acquire) <= word_of(now)
    }

    pub fn reset(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// A meter with a rate that may change while it is used, or be off.
#[derive(Debug, Default)]
pub struct Pace {
    /// 0: off.
    increment: AtomicU64,
    tolerance: AtomicU64,
    meter: CachePadded<Meter>,
}

impl Pace {
    /// Sets the rate; `None` turns it off. Another rate than before begins with nothing owed.
    pub fn set_rate(&self, rate: Option<Rate>) {
        if rate == self.rate() {
            return;
        }
        let (increment, tolerance) = rate.map_or((0, 0), |rate| (rate.increment, rate.tolerance));
        self.tolerance.store(tolerance, Ordering::Relaxed);
        self.increment.store(increment, Ordering::Release);
        self.meter.reset();
    }

    #[must_use]
    pub fn rate(&self) -> Option<Rate> {
        let increment = self.increment.load(Ordering::Acquire);
        let tolerance = self.tolerance.load(Ordering::Relaxed);
        (increment != 0).then_some(Rate {
            increment,
            tolerance,
        })
    }

    /// As [`Meter::take`]; always true without a rate.
    #[must_use]
    pub fn take(&self, now: Nanos) -> bool {
        self.rate().is_none_or(|rate| self.meter.take(rate, now))
    }

    /// As [`Meter::is_open`]; always true without a rate.
    #[inline]
    #[must_use]
    pub fn is_open(&self, now: Nanos) -> bool {
        self.rate().is_none_or(|rate| self.meter.is_open(rate, now))
    }

    /// As [`Meter::due`]; now without a rate.
    #[must_use]
    pub fn due(&self, now: Nanos) -> Nanos {
        self.rate().map_or(now, |rate| self.meter.due(rate, now))
    }

    pub fn give_back(&self) {
        if let Some(rate) = self.rate() {
            self.meter.give_back(rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::millis;

    /// What GCRA must be equal to: a bucket of `burst` tokens that fills at the rate (both algorithms are, I.371).
    struct Bucket {
        tokens: f64,
        burst: f64,
        per_ns: f64,
        at: u64,
    }

    impl Bucket {
        fn take(&mut self, now: u64) -> (bool, f64) {
            let filled = self.tokens + (now - self.at) as f64 * self.per_ns;
            self.tokens = filled.min(self.burst);
            self.at = now;
            let before = self.tokens;
            let open = before >= 1.0;
            if open {
                self.tokens -= 1.0;
            }
            (open, before)
        }
    }

    proptest! {
        #[test]
        fn it_is_a_token_bucket(
            per_second in 1u32..2_000_000,
            burst in 1u32..50,
            gaps in prop::collection::vec(0u64..4_000, 1..200),
        ) {
            let rate = Rate::new(per_second, burst);
            let meter = Meter::default();
            let mut bucket = Bucket {
                tokens: f64::from(burst),
                burst: f64::from(burst),
                per_ns: f64::from(per_second) / 1e9,
                at: 0,
            };
            let mut now = 0;
            for gap in gaps {
                // In steps of the rate, so that both emptiness and rest occur.
                now += gap * 1_000_000 / u64::from(per_second);
                let open = meter.is_open(rate, Nanos(now));
                let taken = meter.take(rate, Nanos(now));
                prop_assert_eq!(open, taken);
                let (expected, tokens) = bucket.take(now);
                // Where a token is complete to a millionth, rounding decides.
                if (tokens - tokens.round()).abs() > 1e-3 {
                    prop_assert_eq!(taken, expected, "{} tokens at {}", tokens, now);
                } else if taken != expected {
                    bucket.tokens = if taken { tokens - 1.0 } else { tokens };
                }
            }
        }

        #[test]
        fn it_is_open_exactly_from_the_moment_it_tells(
            per_second in 1u32..1_000_000,
            burst in 1u32..50,
            taken in 1u32..60,
        ) {
            let rate = Rate::new(per_second, burst);
            let meter = Meter::default();
            let now = Nanos(millis(5_000));
            for _ in 0..taken {
                let _ = meter.take(rate, now);
            }
            let due = meter.due(rate, now);
            if taken < burst {
                prop_assert_eq!(due, now);
            } else {
                prop_assert!(due > now);
                prop_assert!(!meter.take(rate, Nanos(due.0 - 1)));
            }
            prop_assert!(meter.take(rate, due));
        }
    }

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate::new(10, 3);
        let meter = Meter::default();
        let taken = |from: u64, until: u64| {
            let moments = (from..until).map(|ms| Nanos(millis(ms)));
            moments.filter(|now| meter.take(rate, *now)).count()
        };
        assert_eq!(taken(0, 1), 1);
        assert_eq!(taken(1, 99), 2);
        assert_eq!(taken(99, 1_100), 10);
        assert_eq!(
            taken(10_000, 10_003),
            3,
            "rest gives the burst back, no more"
        );
    }

    /// Within 5 % is promised; between integers it is far less.
    #[test]
    fn any_rate_is_kept_to_a_few_per_cent() {
        for per_second in [
            1,
            3,
            7,
            999,
            30_011,
            1_000_003,
            28_000_000,
            300_000_000,
            1_000_000_000,
        ] {
            let rate = Rate::new(per_second, 1);
            let real = SECOND as f64 / rate.increment as f64;
            let wrong = (real / f64::from(per_second) - 1.0).abs();
            assert!(wrong < 0.032, "{per_second}: {real}");
        }
    }

    /// Four threads with clocks of their own that lag behind each other: together they get the burst and the rate, not
    /// one more.
    #[test]
    fn threads_share_one_rate_exactly() {
        let rate = Rate::new(100_000, 50);
        let meter = Meter::default();
        let clock = AtomicU64::new(0);
        let taken = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for lag in 0..4 {
                let (meter, clock, taken) = (&meter, &clock, &taken);
                scope.spawn(move || {
                    for _ in 0..50_000 {
                        let now = clock.fetch_add(250, Ordering::Relaxed);
                        let now = Nanos(now.saturating_sub(lag * 1_000));
                        if meter.take(rate, now) {
                            taken.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        // 200,000 steps of 250 ns are 50 ms: 5,000 at the rate, and the burst.
        let taken = taken.load(Ordering::Relaxed);
        assert!((5_040..=5_050).contains(&taken), "{taken}");
    }

    #[test]
    fn what_did_not_happen_is_given_back() {
        let rate = Rate::new(1, 2);
        let meter = Meter::default();
        let now = Nanos(millis(1_000));
        assert!(meter.take(rate, now) && meter.take(rate, now) && !meter.take(rate, now));
        meter.give_back(rate);
        assert!(meter.take(rate, now) && !meter.take(rate, now));
        assert!(!meter.is_settled(now));
        assert!(meter.is_settled(now.after(millis(2_000))));
    }

    #[test]
    fn a_debt_of_a_slower_rate_does_not_outlive_a_change() {
        let slow = Rate::new(1, 100);
        let fast = Rate::new(100, 100);
        let meter = Meter::default();
        let now = Nanos(millis(1_000));
        while meter.take(slow, now) {}
        // 100 s of debt, of which the new rate knows 1 s.
        assert!(meter.take(fast, now));
        assert!(!meter.take(fast, now));
        assert!(meter.take(fast, now.after(millis(11))));
    }

    #[test]
    fn a_pace_without_a_rate_is_always_open_and_a_new_rate_begins_unowed() {
        let pace = Pace::default();
        let now = Nanos(millis(1));
        assert!(pace.take(now) && pace.is_open(now) && pace.due(now) == now);
        pace.set_rate(Some(Rate::new(1, 1)));
        assert!(pace.take(now) && !pace.take(now) && !pace.is_open(now));
        pace.set_rate(Some(Rate::new(1, 1)));
        assert!(!pace.is_open(now), "the same rate changes nothing");
        pace.set_rate(Some(Rate::new(2, 1)));
        assert!(pace.take(now));
        assert_eq!(pace.due(now), now.after(millis(500)));
        pace.give_back();
        assert!(pace.is_open(now));
        pace.set_rate(None);
        assert!(pace.take(now) && pace.take(now));
    }

    /// The largest numbers that the configuration takes do not wrap.
    #[test]
    fn the_widest_burst_stays_in_range() {
        let rate = Rate::new(1, 1_000_000_000);
        let meter = Meter::default();
        let now = Nanos(u64::MAX >> FRACTION_BITS);
        assert!(meter.take(rate, now));
        assert!(meter.is_open(rate, now));
    }
}
