//! Which tiers of a pool serve, as one word that workers read and the control plane writes. Whoever changes a backend's
//! state has it reviewed at once; the office reviews all pools a few times a second, for what only time brings.
//!
//! The lock is for prober and office; a worker never takes it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::balance::{Service, TIERS_MAX, TierCount, TierMode, TierRules, TierWatch};
use crate::ids::Nanos;

use super::breaker::BreakerState;
use super::shared::BackendShared;
use super::verdict::{Admin, Health};

/// A backend with its place.
#[derive(Clone, Debug)]
pub struct TierMember {
    pub tier: u8,
    pub weight: u32,
    pub backend: Arc<BackendShared>,
}

#[derive(Debug)]
struct Desk {
    rules: TierRules,
    watch: TierWatch,
    /// Weak: a removed backend must be let go, whoever still remembers the pool.
    members: Vec<(u8, Weak<BackendShared>)>,
}

#[derive(Debug)]
pub struct Tiers {
    /// Serving tiers in the lower half, those ignoring health in the upper.
    word: AtomicU32,
    desk: Mutex<Desk>,
}

impl Default for Tiers {
    /// All serve, until somebody says what there is.
    fn default() -> Tiers {
        Tiers {
            word: AtomicU32::new(pack(Service::ALL)),
            desk: Mutex::new(Desk {
                rules: TierRules {
                    min_eligible: 1,
                    mode: TierMode::Takeover,
                    failback_after_ns: 0,
                    fail_open_percent: 0,
                },
                watch: TierWatch::default(),
                members: Vec::new(),
            }),
        }
    }
}

impl Tiers {
    #[inline]
    #[must_use]
    pub fn service(&self) -> Service {
        let word = self.word.load(Ordering::Acquire);
        Service {
            serving: (word & 0xffff) as u16,
            ignoring_health: (word >> 16) as u16,
        }
    }

    /// Says who is in the pool from now on, and reviews. What was known of the tiers stays.
    pub fn set_up(self: &Arc<Tiers>, rules: TierRules, members: &[TierMember], now: Nanos) {
        let mut desk = self.desk.lock();
        desk.rules = rules;
        desk.members.clear();
        for member in members.iter().filter(|member| member.weight > 0) {
            *member.backend.tiers.lock() = Arc::downgrade(self);
            let weak = Arc::downgrade(&member.backend);
            desk.members.push((member.tier, weak));
        }
        self.review_at(&mut desk, now);
    }

    /// Judges anew; true if the answer changed.
    pub fn review(&self, now: Nanos) -> bool {
        let mut desk = self.desk.lock();
        !desk.members.is_empty() && self.review_at(&mut desk, now)
    }

    fn review_at(&self, desk: &mut Desk, now: Nanos) -> bool {
        let mut counts = [TierCount::default(); TIERS_MAX];
        for (tier, backend) in &desk.members {
            let Some(backend) = backend.upgrade() else {
                continue;
            };
            let verdict = &backend.verdict;
            let is_ready = verdict.admin() == Admin::Ready;
            // Half-open it stays one of those that serve, else nobody would come to try it.
            let is_eligible = verdict.is_sound() && verdict.breaker.state() != BreakerState::Open;
            let is_unknown = is_ready && !is_eligible && verdict.health() == Health::Unknown;
            let count = &mut counts[usize::from(*tier) % TIERS_MAX];
            count.all += 1;
            count.ready += u32::from(is_ready);
            count.eligible += u32::from(is_eligible);
            count.unknown += u32::from(is_unknown);
        }
        let word = pack(desk.watch.review(&desk.rules, &counts, now));
        self.word.swap(word, Ordering::AcqRel) != word
    }
}

fn pack(service: Service) -> u32 {
    u32::from(service.ignoring_health) << 16 | u32::from(service.serving)
}
