//! The pool's decision: who may be ejected, told exactly when several threads ask at once.

use std::sync::Barrier;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::handoff::{Admin, Trial};
use crate::ids::{BackendId, ConnectFailure};

struct Own(Arc<BackendShared>);

impl Member for Own {
    fn backend(&self) -> &Arc<BackendShared> {
        &self.0
    }

    fn is_served(&self) -> bool {
        true
    }
}

fn pool(backends: usize) -> Vec<Own> {
    let backends = (0..backends).map(|i| {
        let id = BackendId(u16::try_from(i).unwrap());
        Own(Arc::new(BackendShared::new(id, "p", "b", true, 1)))
    });
    backends.collect()
}

fn rules(percent: u8) -> BreakerRules {
    BreakerRules {
        consecutive_failures: 3,
        early_reset_ns: 1,
        error_percent: 50,
        window_ns: 1_000,
        volume: 20,
        open_ns: 5_000_000,
        open_max_ns: 60_000_000,
        trials: 1,
        max_ejected_percent: percent,
    }
}

const WHY: Why = Why::Connects(3, ConnectFailure::Refused);

fn ejected(members: &[Own]) -> usize {
    members.iter().filter(|member| is_ejected(*member)).count()
}

#[test]
fn never_more_than_the_share_and_never_the_last() {
    for (count, percent, expected) in [
        (1, 100, 0),
        (2, 50, 1),
        (2, 100, 1),
        (3, 30, 0),
        (3, 50, 1),
        (3, 100, 2),
        (4, 50, 2),
        (10, 50, 5),
        (10, 0, 0),
        (10, 100, 9),
    ] {
        let members = pool(count);
        let (referee, notices) = (Referee::default(), Notices::default());
        for member in &members {
            member.0.verdict.breaker.wish(WHY);
            referee.decide(&members, &rules(percent), Nanos(1), &notices);
        }
        assert_eq!(ejected(&members), expected, "{count} backends, {percent} %");
        let kept = |kept| -> u64 {
            let breakers = members.iter().map(|it| it.0.verdict.breaker.kept(kept));
            breakers.sum()
        };
        let all_kept = kept(Kept::LastEligible) + kept(Kept::EjectedMax);
        assert_eq!(all_kept as usize, count - expected);
        let told = std::iter::from_fn(|| notices.pop());
        assert_eq!(told.count(), expected);
    }
}

#[test]
fn who_is_down_drained_or_full_is_no_other_one() {
    let members = pool(4);
    let (referee, notices) = (Referee::default(), Notices::default());
    members[1].0.verdict.set_health(Health::Down);
    members[2].0.verdict.set_admin(Admin::Draining);
    members[3].0.capacity.set_limit(1);
    members[3].0.capacity.reserve_anyway();
    members[0].0.verdict.breaker.wish(WHY);
    referee.decide(&members, &rules(100), Nanos(1), &notices);
    assert_eq!(ejected(&members), 0);
    assert_eq!(members[0].0.verdict.breaker.kept(Kept::LastEligible), 1);
    members[3].0.capacity.release();
    members[0].0.verdict.breaker.wish(WHY);
    referee.decide(&members, &rules(100), Nanos(1), &notices);
    assert_eq!(ejected(&members), 1);
    let notice = notices.pop().expect("a notice");
    assert_eq!(notice.health, (Health::Unknown, Health::Ejected));
    assert_eq!(notice.change.why, WHY);
}

/// All backends fail at the same moment, each on a thread of its own.
#[test]
fn when_all_fail_at_once_exactly_the_allowed_number_is_ejected() {
    for round in 0..400 {
        let count = 2 + round % 3;
        let percent = if round % 2 == 0 { 100 } else { 50 };
        let members = pool(count);
        let (referee, notices) = (Referee::default(), Notices::default());
        let (start, watching) = (Barrier::new(count + 1), AtomicBool::new(true));
        std::thread::scope(|scope| {
            let asking: Vec<_> = members
                .iter()
                .map(|member| {
                    let (members, referee, notices) = (&members, &referee, &notices);
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        member.0.verdict.breaker.wish(WHY);
                        referee.decide(members, &rules(percent), Nanos(1), notices);
                    })
                })
                .collect();
            let (members, watching) = (&members, &watching);
            scope.spawn(move || {
                while watching.load(Acquire) {
                    assert!(ejected(members) < count, "not even for a moment");
                }
            });
            start.wait();
            for thread in asking {
                thread.join().unwrap();
            }
            watching.store(false, std::sync::atomic::Ordering::Release);
        });
        let allowed = (count * usize::from(percent) / 100).min(count - 1);
        assert_eq!(ejected(&members), allowed, "of {count} with {percent} %");
    }
}

proptest! {
    /// Openings, recoveries, checks and operators in any order: no opening ever takes the last eligible backend or
    /// exceeds the share.
    #[test]
    fn no_opening_breaks_the_rules(
        count in 1usize..6,
        percent in 0u8..=100,
        story in proptest::collection::vec((0usize..6, 0u8..6), 0..120),
    ) {
        let members = pool(count);
        let (referee, notices) = (Referee::default(), Notices::default());
        let rules = rules(percent);
        for (who, what) in story {
            let verdict = &members[who % count].0.verdict;
            let open_before = ejected(&members);
            match what {
                0 => verdict.set_health(Health::Down),
                1 => verdict.set_health(Health::Up),
                2 => drop(verdict.breaker.rest(&rules, Nanos(2))),
                3 => drop(verdict.breaker.lift(Why::Needed, Nanos(2))),
                _ => {
                    verdict.breaker.wish(WHY);
                    referee.decide(&members, &rules, Nanos(1), &notices);
                }
            }
            if ejected(&members) > open_before {
                prop_assert!(members.iter().any(|member| member.0.verdict.is_eligible()));
                prop_assert!(ejected(&members) <= count * usize::from(percent) / 100);
            }
        }
    }
}

#[test]
fn what_is_ejected_and_down_is_shown_as_down() {
    let members = pool(2);
    let verdict = &members[0].0.verdict;
    verdict.set_health(Health::Up);
    assert!(verdict.breaker.open(WHY, &rules(50), Nanos(1)).is_some());
    assert_eq!(
        (verdict.health(), verdict.checked()),
        (Health::Ejected, Health::Up)
    );
    assert!(!verdict.is_eligible() && verdict.is_sound());
    verdict.set_health(Health::Down);
    assert_eq!(verdict.health(), Health::Down);
    // Up again by its checks while its time is not over: ejected, and a trial lets it back.
    verdict.set_health(Health::Up);
    assert_eq!(verdict.health(), Health::Ejected);
    assert!(verdict.breaker.rest(&rules(50), Nanos(9)).is_some());
    assert_eq!(verdict.health(), Health::Ejected);
    assert!(verdict.is_eligible(), "for a trial");
    let trial: Trial = match verdict.breaker.enter() {
        crate::handoff::Entry::Trial(trial) => trial,
        other => panic!("{other:?}"),
    };
    assert!(!verdict.is_eligible());
    assert!(verdict.breaker.trial_passed(trial, Nanos(10)).is_some());
    assert_eq!(verdict.health(), Health::Up);
}
