//! Which tiers of a pool serve, and whether health is to be ignored there: one answer for all workers, made anew by the
//! control plane whenever a backend's state or the time changes it. Pure: counts and the time are handed in.
//!
//! A *level* n suffices if tier n alone (takeover) or tiers 0 to n together (join) have enough eligible backends. The lowest
//! level that suffices serves. Going down to a worse level is immediate; going back to a better one waits until that has
//! sufficed for a while, unless it is seen for the first time: a process that starts must not serve from its standbys only
//! because their first checks ended first. If no level suffices, all tiers serve together.
//!
//! | level in service | it suffices | a better one suffices | next |
//! |---|---|---|---|
//! | n | yes | no, or not long enough | n |
//! | n | yes | m, for `failback_after_ns`, or new | m |
//! | n, or none | no | – | the lowest that suffices, at once; else none: all tiers |
//!
//! Fullness has no part in this: it changes with every session. Who finds all serving tiers full looks at the others.

use crate::ids::Nanos;

/// Tiers are numbered from 0 to 15.
pub const TIERS_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierMode {
    /// The next tier serves instead.
    Takeover,
    /// The next tier serves, too.
    Join,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierRules {
    /// A level suffices with so many eligible backends, or with all that it has if those are fewer.
    pub min_eligible: u32,
    pub mode: TierMode,
    pub failback_after_ns: u64,
    /// Health is ignored where less than this percentage is eligible; 0: never.
    pub fail_open_percent: u8,
}

/// The backends of a tier that have weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierCount {
    pub all: u32,
    /// Not drained or in maintenance.
    pub ready: u32,
    /// Ready, without a first verdict and not eligible for want of one.
    pub unknown: u32,
    /// Ready and healthy.
    pub eligible: u32,
}

/// What serves. Bit n stands for tier n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    pub serving: u16,
    /// Tiers in which health does not count.
    pub ignoring_health: u16,
}

impl Service {
    /// Nothing is known of tiers: all serve.
    pub const ALL: Service = Service {
        serving: u16::MAX,
        ignoring_health: 0,
    };
}

/// What is remembered of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Some of its backends have had no verdict yet.
    New,
    Short,
    SufficesSince(Nanos),
    /// It has sufficed from the first on.
    SufficesFromTheFirst,
}

/// The memory from one review to the next.
#[derive(Clone, Debug)]
pub struct TierWatch {
    levels: [Level; TIERS_MAX],
    /// The level in service.
    current: Option<usize>,
}

impl Default for TierWatch {
    fn default() -> TierWatch {
        TierWatch {
            levels: [Level::New; TIERS_MAX],
            current: None,
        }
    }
}

impl TierWatch {
    /// What serves now, given how many backends of each tier are in which state.
    pub fn review(
        &mut self,
        rules: &TierRules,
        tiers: &[TierCount; TIERS_MAX],
        now: Nanos,
    ) -> Service {
        let mut sum = TierCount::default();
        for (level, count) in tiers.iter().enumerate() {
            match rules.mode {
                TierMode::Takeover => sum = *count,
                TierMode::Join => sum.add(count),
            }
            let suffices = count.all > 0
                && sum.eligible > 0
                && sum.eligible >= rules.min_eligible.min(sum.all);
            let level = &mut self.levels[level];
            *level = level.next(suffices, sum.unknown == 0 && count.all > 0, now);
        }
        self.current = self.choose(rules.failback_after_ns, now);
        let present = mask(|tier| tiers[tier].all > 0);
        let serving = match (self.current, rules.mode) {
            (None, _) => present,
            (Some(level), TierMode::Takeover) => 1 << level,
            (Some(level), TierMode::Join) => present & mask(|tier| tier <= level),
        };
        fail_open(rules.fail_open_percent, tiers, serving, present)
    }

    fn choose(&self, failback_after_ns: u64, now: Nanos) -> Option<usize> {
        let best = self.levels.iter().position(|level| level.suffices())?;
        let Some(current) = self.current.filter(|&own| self.levels[own].suffices()) else {
            return Some(best);
        };
        let may_return = |level: &Level| match level {
            Level::SufficesFromTheFirst => true,
            Level::SufficesSince(since) => now.since(*since) >= failback_after_ns,
            Level::New | Level::Short => false,
        };
        let better = self.levels[..current].iter().position(may_return);
        Some(better.unwrap_or(current))
    }
}

impl Level {
    fn suffices(self) -> bool {
        matches!(self, Level::SufficesSince(_) | Level::SufficesFromTheFirst)
    }

    fn next(self, suffices: bool, all_known: bool, now: Nanos) -> Level {
        match (self, suffices) {
            (Level::New, true) => Level::SufficesFromTheFirst,
            (Level::New, false) if !all_known => Level::New,
            (Level::Short, true) => Level::SufficesSince(now),
            (known, true) => known,
            (_, false) => Level::Short,
        }
    }
}

impl TierCount {
    fn add(&mut self, other: &TierCount) {
        self.all += other.all;
        self.ready += other.ready;
        self.unknown += other.unknown;
        self.eligible += other.eligible;
    }
}

fn mask(holds: impl Fn(usize) -> bool) -> u16 {
    (0..TIERS_MAX).fold(0, |mask, tier| mask | u16::from(holds(tier)) << tier)
}

/// With nobody eligible at all it is the checks that are doubted, and the best tier serves as if all were well.
fn fail_open(percent: u8, tiers: &[TierCount; TIERS_MAX], serving: u16, present: u16) -> Service {
    let mut sum = TierCount::default();
    let counted = tiers.iter().enumerate();
    counted
        .filter(|(tier, _)| serving >> tier & 1 == 1)
        .for_each(|(_, count)| sum.add(count));
    // Without a verdict yet they get the benefit of the doubt: a start is no disaster.
    let eligible = u64::from(sum.eligible) + u64::from(sum.unknown);
    let is_disaster = eligible * 100 < u64::from(percent) * u64::from(sum.ready);
    let (serving, ignoring_health) = match (is_disaster, eligible) {
        (false, _) => (serving, 0),
        (true, 0) => {
            let best = tiers.iter().position(|count| count.ready > 0);
            (best.map_or(serving, |tier| 1 << tier), present)
        }
        (true, _) => (serving, serving),
    };
    Service {
        serving,
        ignoring_health,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::millis;
    use proptest::prelude::*;

    fn rules(mode: TierMode, min_eligible: u32) -> TierRules {
        TierRules {
            min_eligible,
            mode,
            failback_after_ns: millis(10_000),
            fail_open_percent: 0,
        }
    }

    /// `all/eligible` or `all/eligible/unknown` for each tier.
    fn counts(text: &str) -> [TierCount; TIERS_MAX] {
        let mut tiers = [TierCount::default(); TIERS_MAX];
        for (tier, words) in tiers.iter_mut().zip(text.split_whitespace()) {
            let mut numbers = words.split('/').map(|word| word.parse().unwrap());
            tier.all = numbers.next().unwrap();
            tier.ready = tier.all;
            tier.eligible = numbers.next().unwrap_or(0);
            tier.unknown = numbers.next().unwrap_or(0);
        }
        tiers
    }

    /// Each step: milliseconds, the counts, and which tiers are to serve.
    fn story(rules: &TierRules, steps: &[(u64, &str, u16)]) {
        let mut watch = TierWatch::default();
        for (at_ms, text, expected) in steps {
            let service = watch.review(rules, &counts(text), Nanos(millis(*at_ms)));
            assert_eq!(service.serving, *expected, "at {at_ms}: {text}");
        }
    }

    #[test]
    fn the_next_tier_takes_over_at_once_and_gives_back_after_a_while() {
        story(
            &rules(TierMode::Takeover, 1),
            &[
                (0, "2/2 2/2 1/1", 0b001),
                (1, "2/1 2/2 1/1", 0b001),
                (2, "2/0 2/2 1/1", 0b010),
                (3, "2/0 2/0 1/1", 0b100),
                (1_000, "2/1 2/0 1/1", 0b100),
                (5_000, "2/1 2/1 1/1", 0b100),
                // Tier 0 has been well for ten seconds, tier 1 for six.
                (10_999, "2/1 2/1 1/1", 0b100),
                (11_000, "2/1 2/1 1/1", 0b001),
                (12_000, "2/0 2/2 1/1", 0b010),
                // A tier that falls again starts anew.
                (13_000, "2/1 2/2 1/1", 0b010),
                (14_000, "2/0 2/2 1/1", 0b010),
                (15_000, "2/1 2/2 1/1", 0b010),
                (24_999, "2/1 2/2 1/1", 0b010),
                (25_000, "2/1 2/2 1/1", 0b001),
                // When the one in service fails there is nothing to wait for.
                (26_000, "2/0 2/2 1/1", 0b010),
                (27_000, "2/1 2/0 1/1", 0b001),
            ],
        );
    }

    #[test]
    fn at_the_start_the_best_tier_serves_as_soon_as_it_can() {
        let rules = rules(TierMode::Takeover, 1);
        // The standby's check ended first.
        story(
            &rules,
            &[
                (0, "1/0/1 1/0/1", 0b11),
                (5, "1/0/1 1/1", 0b10),
                (9, "1/1 1/1", 0b01),
            ],
        );
        // The best tier is really down, and comes later: that is a failback.
        story(
            &rules,
            &[
                (5, "1/0/1 1/1", 0b10),
                (3_000, "1/0 1/1", 0b10),
                (4_000, "1/1 1/1", 0b10),
                (14_000, "1/1 1/1", 0b01),
            ],
        );
    }

    #[test]
    fn the_next_tier_joins_until_together_they_are_enough() {
        story(
            &rules(TierMode::Join, 2),
            &[
                (0, "3/3 2/2 1/1", 0b001),
                (1, "3/2 2/2 1/1", 0b001),
                (2, "3/1 2/2 1/1", 0b011),
                (3, "3/1 2/0 1/1", 0b111),
                (4, "3/0 2/1 1/0", 0b111),
                (5, "3/2 2/1 1/0", 0b001),
                (6, "3/1 2/1 1/0", 0b011),
                (7, "3/2 2/1 1/0", 0b011),
                (10_007, "3/2 2/1 1/0", 0b001),
            ],
        );
    }

    #[test]
    fn a_tier_with_fewer_backends_than_asked_for_needs_them_all() {
        story(
            &rules(TierMode::Takeover, 2),
            &[
                (0, "3/3 1/1", 0b01),
                (1, "3/1 1/1", 0b10),
                // Nobody has enough: all serve.
                (2, "3/1 1/0", 0b11),
                (3, "3/0 1/0", 0b11),
            ],
        );
        story(
            &rules(TierMode::Join, 5),
            &[(0, "2/2 1/1", 0b01), (1, "2/1 1/1", 0b11)],
        );
    }

    #[test]
    fn tiers_that_are_not_there_are_stepped_over() {
        story(
            &rules(TierMode::Takeover, 1),
            &[(0, "0 1/1 0 1/1", 0b0010), (1, "0 1/0 0 1/1", 0b1000)],
        );
    }

    #[test]
    fn health_is_ignored_below_the_share_and_only_where_it_serves() {
        let open = TierRules {
            fail_open_percent: 50,
            ..rules(TierMode::Takeover, 1)
        };
        let judge = |text: &str| {
            let service = TierWatch::default().review(&open, &counts(text), Nanos(1));
            (service.serving, service.ignoring_health)
        };
        assert_eq!(judge("4/2"), (1, 0));
        assert_eq!(judge("4/1"), (1, 1));
        // A tier that is gone as a whole is what the next one is for.
        assert_eq!(judge("4/0 2/2"), (0b10, 0));
        assert_eq!(judge("4/0 4/1"), (0b10, 0b10));
        // Nobody anywhere: the best, and the others after it.
        assert_eq!(judge("4/0 2/0"), (0b01, 0b11));
        // Without first verdicts there is no disaster yet.
        assert_eq!(judge("4/0/4"), (1, 0));
        assert_eq!(judge("4/0/1"), (1, 1));
        let mut drained = counts("4/2 2/2");
        drained[0].ready = 2;
        let service = TierWatch::default().review(&open, &drained, Nanos(1));
        assert_eq!(
            service.ignoring_health, 0,
            "what an operator took away does not count"
        );
    }

    proptest! {
        /// Whatever the story: somebody eligible is among those that serve, and without failing open nobody else is asked.
        #[test]
        fn who_serves_can(
            steps in prop::collection::vec((0u64..20_000, prop::collection::vec((0u32..4, 0u32..4, any::<bool>()), 4)), 1..40),
            joins: bool,
            min_eligible in 1u32..5,
        ) {
            let mode = if joins { TierMode::Join } else { TierMode::Takeover };
            let mut watch = TierWatch::default();
            let mut now = 0;
            for (later, tiers) in steps {
                now += later;
                let mut counts = [TierCount::default(); TIERS_MAX];
                for (count, (all, eligible, known)) in counts.iter_mut().zip(tiers) {
                    let eligible = eligible.min(all);
                    let unknown = if known { 0 } else { all - eligible };
                    *count = TierCount { all, ready: all, eligible, unknown };
                }
                let service = watch.review(&rules(mode, min_eligible), &counts, Nanos(millis(now)));
                prop_assert_eq!(service.ignoring_health, 0);
                let is_any = |serving: u16| (0..TIERS_MAX).any(|t| serving >> t & 1 == 1 && counts[t].eligible > 0);
                prop_assert_eq!(is_any(service.serving), is_any(u16::MAX));
            }
        }
    }
}
