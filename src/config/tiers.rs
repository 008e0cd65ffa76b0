//! Reads which tiers of a pool serve and how its backends come into service: `min_eligible`, `tier_mode`,
//! `failback_after`, `fail_open`, `slow_start`. What they do is the map room's business.

use std::time::Duration;

use super::desk::Desk;
use super::measure::{MILLISECOND, YEAR, duration, duration_or_off, shown, whole, word};
use super::plan::PoolPlan;
use super::section::Section;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierPlan {
    /// A tier serves while it has so many eligible backends (or all that it has, if those are fewer); at least 1.
    pub min_eligible: u32,
    pub mode: TierMode,
    /// A better tier must have been eligible this long before it serves again.
    pub failback_after: Duration,
    /// Percent: where less is eligible, health is ignored; 0: never.
    pub fail_open: u8,
    /// A backend's weight grows to full over this time after coming up; `None`: at once.
    pub slow_start: Option<Duration>,
}

/// What the next tier does when one has too few eligible backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierMode {
    Takeover,
    Join,
}

/// The highest number of a tier.
pub(super) const TIER_MAX: i128 = 15;

pub(super) fn read_tiers(desk: &mut Desk<'_>, pool: &mut Section) -> TierPlan {
    let modes = &[
        ("takeover", Some(TierMode::Takeover)),
        ("join", Some(TierMode::Join)),
    ];
    TierPlan {
        min_eligible: pool
            .read(desk, "min_eligible", whole(1..=65_535))
            .unwrap_or(1),
        mode: pool
            .read(desk, "tier_mode", word(modes))
            .unwrap_or(TierMode::Takeover),
        failback_after: pool
            .read(desk, "failback_after", duration(Duration::ZERO, YEAR))
            .unwrap_or(Duration::from_secs(10)),
        fail_open: pool.read(desk, "fail_open", whole(0..=100)).unwrap_or(0),
        slow_start: pool
            .read(desk, "slow_start", duration_or_off(MILLISECOND, YEAR))
            .flatten(),
    }
}

/// What `ringway check` says of a pool's tiers and its backends' way into service; nothing where all is as usual.
#[must_use]
pub fn sentences(pool: &PoolPlan) -> Vec<String> {
    let plan = &pool.tiers;
    let mut said = Vec::new();
    let mut tiers: Vec<u8> = pool.backends.iter().map(|backend| backend.tier).collect();
    tiers.sort_unstable();
    let sizes: Vec<String> = tiers
        .chunk_by(|a, b| a == b)
        .map(|tier| format!("tier {} of {}", tier[0], tier.len()))
        .collect();
    if sizes.len() > 1 {
        let does = match plan.mode {
            TierMode::Takeover => "takes over",
            TierMode::Join => "joins",
        };
        said.push(format!(
            "{}: the next {does} while fewer than {} are eligible or when all are full; back after {}",
            sizes.join(", "),
            plan.min_eligible,
            shown(plan.failback_after)
        ));
    }
    if plan.fail_open > 0 {
        said.push(format!(
            "health is ignored where less than {} % are eligible",
            plan.fail_open
        ));
    }
    if let Some(time) = plan.slow_start {
        said.push(format!(
            "a backend that comes up gets its full weight after {}",
            shown(time)
        ));
    }
    said
}
