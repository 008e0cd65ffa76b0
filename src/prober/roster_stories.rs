//! The roster in stories that chance makes up: a dead backend is found in time, and whatever is published and found in
//! whatever order, what it tells is consistent.

use std::collections::HashMap;

use proptest::prelude::*;

use super::chance::Chance;
use super::kept::Kept;
use super::report::HealthChange;
use super::roster::{Assignment, Roster};
use super::roster_tests::{backend, finding, next_check, target};
use super::target::{OnDown, Rules, Target};
use crate::handoff::Health;
use crate::ids::{Address, CheckResult, Nanos, millis};

/// How a dead backend shows itself, and what one check of it takes.
fn death() -> impl Strategy<Value = CheckResult> {
    prop_oneof![
        Just(CheckResult::Refused),
        Just(CheckResult::Timeout),
        Just(CheckResult::Unreachable)
    ]
}

proptest! {
    /// A backend that dies is found within `1.1 × interval + timeout + (fall - 1) × max(1.1 × fast_interval, timeout)`,
    /// the sum that users are told.
    #[test]
    fn a_dead_backend_is_found_within_the_sum(
        seed in any::<u64>(),
        how in death(),
        interval_ms in 100u64..5_000,
        fast_ms in 50u64..2_000,
        timeout_ms in 10u64..3_000,
        fall in 1u32..8,
        dies_after_ms in 0u64..20_000,
    ) {
        let rules = Rules {
            interval_ns: millis(interval_ms),
            fast_interval_ns: millis(fast_ms.min(interval_ms)),
            timeout_ns: millis(timeout_ms),
            rise: 2,
            fall,
        };
        let backend = backend(0);
        let mut roster = Roster::new(Chance::from_seed(seed));
        roster.publish(vec![Target { rules: Some(rules), ..target(&backend) }], Nanos(0));
        let dies = Nanos(millis(dies_after_ms));
        let bound = rules.interval_ns * 11 / 10
            + rules.timeout_ns
            + u64::from(fall - 1) * (rules.fast_interval_ns * 11 / 10).max(rules.timeout_ns);
        for _ in 0..10_000 {
            let (assignment, at) = next_check(&mut roster);
            let (result, took_ns) = match how {
                _ if at < dies => (CheckResult::Ok, 0),
                CheckResult::Timeout => (how, rules.timeout_ns),
                how => (how, 0),
            };
            let found = at.after(took_ns);
            roster.hear(assignment.ticket, finding(result), Kept::default(), found);
            if backend.verdict.health() == Health::Down {
                prop_assert!(found.since(dies) <= bound, "{} > {bound}", found.since(dies));
                return Ok(());
            }
        }
        prop_assert!(false, "never found");
    }

    /// Whatever is published and found in whatever order: one check in flight per backend, none forgotten, verdicts
    /// and changes tell one story, and each backend that went down got its order once.
    #[test]
    fn any_story_stays_consistent(
        seed in any::<u64>(),
        steps in proptest::collection::vec((0u8..10, any::<u16>()), 1..300),
    ) {
        let backends: Vec<_> = (0..6).map(backend).collect();
        let mut roster = Roster::new(Chance::from_seed(seed));
        let mut now = Nanos(0);
        let mut flying: Vec<Assignment> = Vec::new();
        let mut told: HashMap<u16, Health> = HashMap::new();
        let mut orders: HashMap<u16, u32> = HashMap::new();
        let mut published: Vec<Target> = Vec::new();
        for (what, dice) in steps {
            match what {
                0 => {
                    published = (0..6u16).filter(|n| dice >> n & 1 == 1).map(|n| {
                        let mut target = target(&backends[usize::from(n)]);
                        target.on_down = OnDown::Close { over_ms: u32::from(n) };
                        match dice >> (6 + n) & 3 {
                            0 => target.address = None,
                            1 => target.rules = None,
                            2 => target.address = Some(Address::Inet(([127, 0, 0, 2], n).into())),
                            _ => {}
                        }
                        target
                    }).collect();
                    roster.publish(published.clone(), now);
                }
                1..=4 => {
                    now = now.after(millis(u64::from(dice) % 700));
                    while let Some(assignment) = roster.take_due(now) {
                        prop_assert!(published.iter().any(|t| t.address.as_ref() == Some(&assignment.place.address) && t.rules.is_some()));
                        flying.push(assignment);
                    }
                }
                _ if !flying.is_empty() => {
                    let assignment = flying.swap_remove(usize::from(dice) % flying.len());
                    let result = CheckResult::ALL[usize::from(dice) % 3];
                    roster.hear(assignment.ticket, finding(result), Kept::default(), now);
                }
                _ => {}
            }
            for HealthChange { backend, from, to, .. } in roster.take_changes() {
                prop_assert_eq!(told.insert(backend.id.0, to).unwrap_or(Health::Unknown), from);
                prop_assert_ne!(from, to);
                *orders.entry(backend.id.0).or_default() += u32::from(to == Health::Down);
            }
            for backend in &backends {
                prop_assert_eq!(told.get(&backend.id.0).copied().unwrap_or(Health::Unknown), backend.verdict.health());
                let ordered = backend.verdict.eviction().map_or(0, |order| order.epoch);
                prop_assert_eq!(ordered, orders.get(&backend.id.0).copied().unwrap_or(0));
            }
        }
        // Let everything in flight end: then each backend that is to be checked is due, once.
        for assignment in flying.drain(..) {
            roster.hear(assignment.ticket, finding(CheckResult::Ok), Kept::default(), now);
        }
        let mut due = Vec::new();
        while let Some(assignment) = roster.take_due(Nanos::NEVER) {
            due.push(assignment.place.address);
        }
        let mut expected: Vec<_> = published.into_iter().filter(|t| t.rules.is_some()).filter_map(|t| t.address).collect();
        due.sort();
        expected.sort();
        prop_assert_eq!(due, expected);
    }
}
