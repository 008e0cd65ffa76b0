//! Tiers, as office and prober keep them: set up with each snapshot, reviewed with each verdict and by time. And what they
//! promise: a newcomer goes to a tier that does not serve only if those that serve have nobody to give.

use std::sync::Arc;

use ringway::handoff::{TierMember, TierMode, TierRules};
use ringway::ids::Nanos;

use super::counts::Fault;
use super::net::Net;
use super::office::Office;
use super::random::Random;

const MILLISECOND: u64 = 1_000_000;
/// A world that has changed so lately may have been seen as it was.
const LATELY_NS: u64 = 300 * MILLISECOND;
pub const TIERS: u64 = 3;

pub fn draw_rules(random: &mut Random) -> TierRules {
    TierRules {
        min_eligible: random.pick(&[1, 1, 2]),
        mode: random.pick(&[TierMode::Takeover, TierMode::Join]),
        failback_after_ns: random.pick(&[0, 20 * MILLISECOND, 500 * MILLISECOND]),
        fail_open_percent: random.pick(&[0, 0, 40, 100]),
    }
}

impl Office {
    /// With a new snapshot: who is there, in which tier.
    pub fn set_up_tiers(&mut self, now: u64) {
        for at in 0..self.pools.len() {
            let its = self
                .backends
                .iter()
                .filter(|it| it.pool == at && it.present);
            let members: Vec<_> = its
                .map(|seat| TierMember {
                    tier: seat.tier,
                    weight: seat.weight,
                    backend: Arc::clone(&seat.shared),
                })
                .collect();
            let pool = &mut self.pools[at];
            let before = pool.shared.tiers.service();
            pool.shared
                .tiers
                .set_up(pool.tier_rules, &members, Nanos(now));
            if pool.shared.tiers.service() != before {
                pool.tiers_changed_at = now;
            }
        }
    }

    /// After a verdict, or only because time has passed.
    pub fn review_tiers(&mut self, net: &mut Net) {
        for pool in &mut self.pools {
            let before = pool.shared.tiers.service();
            pool.shared.tiers.review(Nanos(net.now));
            let after = pool.shared.tiers.service();
            if after != before {
                pool.tiers_changed_at = net.now;
                net.hit(Fault::TiersChanged);
                net.say(|| format!("tiers: {after:?}, were {before:?}"));
            }
        }
    }
}

impl Net {
    /// A client's session connects to this backend.
    pub fn check_tier(&mut self, client: usize, backend: usize) {
        let office = self.office();
        let seat = &office.backends[backend];
        let pool = &office.pools[seat.pool];
        let service = pool.shared.tiers.service();
        if service.ignoring_health >> seat.tier & 1 == 1 && !seat.shared.verdict.is_eligible() {
            self.hit(Fault::HealthIgnored);
            return;
        }
        let newcomer = self.conns[client].tried.is_empty() && !self.has_waited(client);
        // It may have been of another tier when the worker looked.
        let changed_at = pool.tiers_changed_at.max(seat.changed_at);
        let calm = self.now.saturating_sub(changed_at) > LATELY_NS;
        if service.serving >> seat.tier & 1 == 1 || !newcomer || !calm {
            return;
        }
        let serves = office.backends.iter().enumerate().find(|(_, other)| {
            other.pool == seat.pool
                && other.present
                && other.weight > 0
                && service.serving >> other.tier & 1 == 1
                && other.shared.verdict.is_eligible()
                && !other.shared.capacity.looks_full()
                && self.now.saturating_sub(other.changed_at) > LATELY_NS
        });
        if let Some((other, _)) = serves {
            self.fail(&format!(
                "c{client} goes to b{backend} of tier {}, while b{other} of tier {} serves",
                seat.tier, office.backends[other].tier
            ));
        }
        self.hit(Fault::OtherTierServed);
    }
}
