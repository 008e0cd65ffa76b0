//! The field against chance: what is explained is what is drawn, in any world; and the walk over tiers.

use std::sync::Arc;

use std::sync::atomic::Ordering;

use super::*;
use crate::balance::{Algorithm, Chooser, TierMode, TierRules};
use crate::handoff::{
    Backend, BackendOptions, BackendShared, FlowRules, PoolShared, SessionTimes, TierMember,
    WaitRules, Waiters,
};
use crate::ids::{Address, PoolId, millis};

const NOW: Nanos = Nanos(millis(100_000));

/// Random numbers from a seed (SplitMix64).
struct Bits(u64);

impl Bits {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

fn backend(id: usize, weight: u32, tier: u8) -> Backend {
    let name = format!("b{id}");
    let shared = BackendShared::new(BackendId(id as u16), "p", &name, true, 1);
    Backend {
        shared: Arc::new(shared),
        target: Target::Fixed(Address::Inet(([127, 0, 0, 1], 1).into())),
        weight,
        tier,
    }
}

fn pool(algorithm: Algorithm, backends: Vec<Backend>, rules: TierRules) -> Pool {
    let weights: Vec<u32> = backends.iter().map(|backend| backend.weight).collect();
    let names: Vec<&str> = backends.iter().map(|b| b.shared.name.as_str()).collect();
    let members = backends.iter().map(|backend| TierMember {
        tier: backend.tier,
        weight: backend.weight,
        backend: Arc::clone(&backend.shared),
    });
    let shared = PoolShared::new(PoolId(0), "p", 1);
    let members: Vec<TierMember> = members.collect();
    shared.tiers.set_up(rules, &members, NOW);
    Pool {
        shared: Arc::new(shared),
        chooser: Chooser::new(algorithm, &weights, &names),
        hash_seed: 0,
        hash_port: false,
        breaker: None,
        flow_rules: FlowRules::default(),
        tiers: backends.iter().fold(0, |all, one| all | 1 << one.tier),
        backends,
        slow_start_ns: millis(60_000),
        source: Vec::new(),
        waiters: Arc::new(Waiters::new(1)),
        wait: WaitRules {
            timeout_ns: 0,
            leave_on_fin: false,
        },
        connect_timeout_ns: 0,
        connect_attempts: 1,
        connect_budget_ns: 0,
        times: SessionTimes::default(),
        doubts: false,
        options: BackendOptions {
            keepalive: None,
            user_timeout_ms: 0,
        },
        send_proxy: None,
        send_proxy_every: false,
        cancel: false,
    }
}

fn rules(min_eligible: u32, mode: TierMode) -> TierRules {
    TierRules {
        min_eligible,
        mode,
        failback_after_ns: 0,
        fail_open_percent: 0,
    }
}

fn random_world(bits: &mut Bits) -> Pool {
    let algorithm = bits.pick(&[
        Algorithm::RoundRobin,
        Algorithm::LeastConnections,
        Algorithm::PowerOfTwo,
        Algorithm::PowerOfTwo,
        Algorithm::Random,
        Algorithm::Random,
        Algorithm::First,
        Algorithm::SourceHash,
        Algorithm::Maglev,
        Algorithm::LeastLatency,
    ]);
    let count = match bits.below(10) {
        0 if algorithm != Algorithm::Maglev => 65 + bits.below(5),
        _ => 1 + bits.below(9),
    };
    let one = |id: u64, bits: &mut Bits| {
        let weight = bits.pick(&[0, 1, 10, 100, 100, 100, 1000]);
        let backend = backend(id as usize, weight, bits.pick(&[0, 0, 0, 1, 2]));
        let shared = &backend.shared;
        let healths = [Health::Up, Health::Up, Health::Unknown, Health::Down];
        shared.verdict.set_health(bits.pick(&healths));
        let admins = [Admin::Ready, Admin::Ready, Admin::Ready, Admin::Draining];
        shared.verdict.set_admin(bits.pick(&admins));
        shared.capacity.set_limit(bits.pick(&[0, 0, 0, 2]));
        for _ in 0..bits.below(4) {
            let _ = shared.capacity.reserve();
            shared.workers[0].active.fetch_add(1, Ordering::Relaxed);
        }
        if bits.below(3) == 0 {
            shared
                .verdict
                .set_risen(Nanos(millis(40_000 + bits.below(60_000))));
        }
        if bits.below(3) > 0 {
            shared
                .latency
                .add(bits.below(millis(50)), Nanos(millis(bits.below(100_000))));
        }
        backend
    };
    let backends: Vec<Backend> = (0..count).map(|id| one(id, bits)).collect();
    let mode = bits.pick(&[TierMode::Takeover, TierMode::Join]);
    let open = TierRules {
        fail_open_percent: bits.pick(&[0, 0, 50]),
        ..rules(1 + bits.below(3) as u32, mode)
    };
    pool(algorithm, backends, open)
}

/// By Bernstein's inequality a true chooser is further off with a probability of at most 10^-12.
fn chance_allows(count: u32, draws: u32, share: f64) -> bool {
    let strictness = (2.0f64 / 1e-12).ln();
    let variance = f64::from(draws) * share * (1.0 - share);
    let bound = strictness / 3.0 + (strictness.powi(2) / 9.0 + 2.0 * strictness * variance).sqrt();
    (f64::from(count) - f64::from(draws) * share).abs() <= bound
}

/// False alarm: at most 1,000 worlds x 70 backends x 10^-12; the seed is fixed, so it either never happens or always.
#[test]
fn what_is_explained_is_what_is_drawn_in_a_thousand_worlds() {
    const DRAWS: u32 = 1_000;
    let mut bits = Bits(20_261_121);
    let (mut by_chance, mut certain, mut none) = (0, 0, 0);
    for world in 0..1_000 {
        let pool = random_world(&mut bits);
        let mut draw = Draw {
            turn: bits.next(),
            random: 0,
            hash: bits.next(),
        };
        let prospect = pool.prospect(draw, NOW);
        let mut counts = vec![0u32; pool.backends.len()];
        let mut nobody = 0;
        for _ in 0..DRAWS {
            draw.random = bits.next();
            match pool.choose(&[], draw, NOW) {
                Some(i) => counts[i] += 1,
                None => nobody += 1,
            }
        }
        let total: f64 = prospect.odds.iter().sum();
        let algorithm = pool.chooser.algorithm();
        assert_eq!(nobody > 0, total == 0.0, "world {world}");
        assert_eq!(pool.any_open(NOW), total > 0.0, "world {world}");
        if total == 0.0 {
            none += 1;
            continue;
        }
        assert!((total - 1.0).abs() < 1e-9, "world {world}: {total}");
        for (i, &share) in prospect.odds.iter().enumerate() {
            let is_open = prospect.standings[i] == Standing::Open;
            assert!(
                is_open || share == 0.0,
                "world {world}: {i} of {prospect:?}"
            );
            let fits = match pool.chooser.is_deterministic() || share > 1.0 - 1e-9 {
                true => counts[i] == if share > 0.5 { DRAWS } else { 0 },
                false => chance_allows(counts[i], DRAWS, share),
            };
            assert!(
                fits,
                "world {world}, {algorithm:?}: {i} of {prospect:?}: {counts:?}"
            );
        }
        match pool.chooser.is_deterministic() {
            true => certain += 1,
            false => by_chance += 1,
        }
    }
    assert!(
        by_chance > 200 && certain > 200 && none > 20,
        "{by_chance} {certain} {none}"
    );
}

#[test]
fn other_tiers_are_asked_when_those_that_serve_have_nobody() {
    let backends = vec![backend(0, 1, 0), backend(1, 1, 1), backend(2, 1, 2)];
    let pool = pool(Algorithm::Random, backends, rules(1, TierMode::Takeover));
    let draw = Draw {
        turn: 0,
        random: 1,
        hash: 2,
    };
    let id = |i: usize| pool.backends[i].shared.id;
    assert_eq!(pool.choose(&[], draw, NOW), Some(0));
    assert_eq!(pool.choose(&[id(0)], draw, NOW), Some(1), "tried before");
    assert_eq!(pool.choose(&[id(0), id(1)], draw, NOW), Some(2));
    assert_eq!(pool.choose(&[id(0), id(1), id(2)], draw, NOW), None);
    pool.backends[0].shared.capacity.set_limit(1);
    let _ = pool.backends[0].shared.capacity.reserve();
    assert_eq!(pool.choose(&[], draw, NOW), Some(1), "full");
    let standings = pool.prospect(draw, NOW).standings;
    let expected = [Standing::Full, Standing::Open, Standing::OtherTier];
    assert_eq!(standings, expected);
    // The answer of the control plane is late: nobody serves any more in tier 0, and it is still the one that serves.
    pool.backends[0].shared.verdict.set_health(Health::Down);
    assert_eq!(pool.choose(&[], draw, NOW), Some(1));
    pool.shared.tiers.review(NOW);
    assert_eq!(pool.shared.tiers.service().serving, 0b010);
}

#[test]
fn health_is_ignored_where_the_word_says_so() {
    let backends = vec![backend(0, 1, 0), backend(1, 1, 0), backend(2, 1, 0)];
    let open = TierRules {
        fail_open_percent: 50,
        ..rules(1, TierMode::Takeover)
    };
    let pool = pool(Algorithm::Random, backends, open);
    for backend in &pool.backends {
        backend.shared.verdict.set_health(Health::Down);
    }
    pool.backends[1].shared.verdict.set_admin(Admin::Draining);
    pool.backends[2]
        .shared
        .verdict
        .set_health(Health::WrongRole);
    assert!(pool.shared.tiers.review(NOW));
    let draw = Draw {
        turn: 0,
        random: 1,
        hash: 2,
    };
    assert_eq!(pool.prospect(draw, NOW).odds, [1.0, 0.0, 0.0]);
}
