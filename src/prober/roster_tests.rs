//! The roster on a clock of our own: schedules, verdicts, and what a new set of targets changes. Stories of any length are
//! in `roster_stories`.

use std::sync::Arc;

use super::chance::Chance;
use super::kept::Kept;
use super::report::{Finding, Reason};
use super::roster::{Assignment, Roster};
use super::target::{Announce, Check, OnDown, Rules, Target};
use crate::handoff::{BackendShared, Health, PoolShared, TierMember, TierMode, TierRules};
use crate::ids::{Address, BackendId, CheckResult, End, Nanos, PoolId, Role, millis};

const RULES: Rules = Rules {
    interval_ns: millis(2_000),
    fast_interval_ns: millis(500),
    timeout_ns: millis(1_000),
    rise: 2,
    fall: 3,
};

pub(super) fn backend(n: u16) -> Arc<BackendShared> {
    Arc::new(BackendShared::new(
        BackendId(n),
        "pool",
        &format!("b{n}"),
        false,
        1,
    ))
}

pub(super) fn target(backend: &Arc<BackendShared>) -> Target {
    Target {
        backend: Arc::clone(backend),
        address: Some(Address::Inet(([127, 0, 0, 1], 1000 + backend.id.0).into())),
        rules: Some(RULES),
        check: Check::Tcp,
        on_down: OnDown::Keep,
        source: None,
        announce: Announce::Off,
        asked: Role::Unknown,
        on_role_change: OnDown::Keep,
        has_weight: true,
    }
}

pub(super) fn finding(result: CheckResult) -> Finding {
    Finding {
        took_ns: millis(1),
        ..Finding::of(result)
    }
}

fn roster() -> Roster {
    Roster::new(Chance::from_seed(7))
}

/// Starts the next check, at the moment that it is due.
pub(super) fn next_check(roster: &mut Roster) -> (Assignment, Nanos) {
    loop {
        let due = roster.next_due().expect("something is due");
        if let Some(assignment) = roster.take_due(due) {
            return (assignment, due);
        }
    }
}

/// The next check is made and finds `result` at once; returns when it was started.
fn check(roster: &mut Roster, result: CheckResult) -> Nanos {
    let (assignment, at) = next_check(roster);
    roster.hear(assignment.ticket, finding(result), Kept::default(), at);
    at
}

/// Milliseconds from `from` to the next check.
fn pause_ms(roster: &Roster, from: Nanos) -> u64 {
    roster.histories()[0]
        .latest
        .lock()
        .next_check
        .expect("a check is due")
        .since(from)
        / millis(1)
}

#[test]
fn first_checks_come_soon_and_are_spread() {
    for (count, interval_ms, last_ms) in [
        (1, 2_000, 0),
        (3, 2_000, 10),
        (20, 2_000, 95),
        (500, 2_000, 998),
        (500, 500, 499),
    ] {
        let mut roster = roster();
        let targets: Vec<Target> = (0..count)
            .map(|n| {
                let mut target = target(&backend(n));
                target.rules.as_mut().unwrap().interval_ns = millis(interval_ms);
                target
            })
            .collect();
        let start = Nanos(millis(77));
        roster.publish(targets, start);
        let mut moments = Vec::new();
        for _ in 0..count {
            moments.push(next_check(&mut roster).1.since(start) / millis(1));
        }
        assert_eq!(moments[0], 0);
        assert_eq!(
            moments.last(),
            Some(&last_ms),
            "{count} every {interval_ms} ms"
        );
        let largest_gap = moments.windows(2).map(|two| two[1] - two[0]).max();
        assert!(largest_gap.unwrap_or(0) <= 5, "{largest_gap:?}");
    }
}

#[test]
fn intervals_follow_rise_and_fall_with_jitter() {
    let mut roster = roster();
    roster.publish(vec![target(&backend(0))], Nanos(0));
    let started = check(&mut roster, CheckResult::Ok);
    assert!((1_800..=2_200).contains(&pause_ms(&roster, started)));
    let started = check(&mut roster, CheckResult::Timeout);
    assert!((450..=550).contains(&pause_ms(&roster, started)), "falling");
    let started = check(&mut roster, CheckResult::Refused);
    assert!(
        (1_800..=2_200).contains(&pause_ms(&roster, started)),
        "down"
    );
    let started = check(&mut roster, CheckResult::Ok);
    assert!((450..=550).contains(&pause_ms(&roster, started)), "rising");
    let mut pauses: Vec<u64> = (0..200)
        .map(|_| {
            let started = check(&mut roster, CheckResult::Ok);
            pause_ms(&roster, started)
        })
        .collect();
    pauses.sort_unstable();
    assert!(pauses[0] < 1_850 && pauses[199] > 2_150, "jitter is used");
}

#[test]
fn a_check_slower_than_the_interval_delays_the_next_one() {
    let mut roster = roster();
    roster.publish(vec![target(&backend(0))], Nanos(0));
    let (assignment, at) = next_check(&mut roster);
    assert_eq!(roster.take_due(Nanos(millis(60_000))).map(|_| ()), None);
    let end = at.after(millis(1_000));
    roster.hear(
        assignment.ticket,
        finding(CheckResult::Timeout),
        Kept::default(),
        end,
    );
    assert_eq!(next_check(&mut roster).1, end);
}

#[test]
fn going_down_writes_the_verdict_and_closes_sessions_where_asked() {
    for (on_down, eviction) in [
        (OnDown::Keep, None),
        (OnDown::Close { over_ms: 0 }, Some(0)),
        (OnDown::Close { over_ms: 10_000 }, Some(10_000)),
    ] {
        let backend = backend(0);
        let mut roster = roster();
        let target = Target {
            on_down,
            ..target(&backend)
        };
        roster.publish(vec![target], Nanos(0));
        roster.take_bell();
        check(&mut roster, CheckResult::Ok);
        assert_eq!(backend.verdict.health(), Health::Up);
        assert!(roster.take_bell(), "waiting clients want to know");
        check(&mut roster, CheckResult::Refused);
        assert_eq!(backend.verdict.health(), Health::Up);
        assert!(!roster.take_bell());
        let at = check(&mut roster, CheckResult::Refused);
        assert_eq!(backend.verdict.health(), Health::Down);
        assert!(roster.take_bell());
        let order = backend.verdict.eviction();
        assert_eq!(order.map(|order| order.over_ms), eviction);
        assert!(order.is_none_or(|order| order.end == End::BackendDown));

        let changes = roster.take_changes();
        let steps: Vec<_> = changes.iter().map(|c| (c.from, c.to)).collect();
        assert_eq!(
            steps,
            [(Health::Unknown, Health::Up), (Health::Up, Health::Down)]
        );
        let refused = Finding::of(CheckResult::Refused).reason();
        assert_eq!((&changes[1].reason, changes[1].at), (&refused, at));
        let latest = roster.histories()[0].report().latest;
        assert_eq!(latest.changed, Some((at, refused)));
        assert_eq!(latest.failures, 4);
    }
}

#[test]
fn a_void_check_changes_nothing_and_is_made_again_soon() {
    let backend = backend(0);
    let mut roster = roster();
    roster.publish(vec![target(&backend)], Nanos(0));
    check(&mut roster, CheckResult::Ok);
    roster.take_bell();
    roster.take_changes();
    for _ in 0..20 {
        let at = check(&mut roster, CheckResult::Void);
        assert!((450..=550).contains(&pause_ms(&roster, at)));
    }
    assert_eq!(backend.verdict.health(), Health::Up);
    assert!(!roster.take_bell() && roster.take_changes().is_empty());
    let report = roster.histories()[0].report();
    assert_eq!(report.checks[CheckResult::Void.index()], 20);
    assert_eq!(report.duration.counts.iter().sum::<u64>(), 1);
}

#[test]
fn checks_missed_while_standing_still_stay_as_far_apart_as_they_were() {
    let mut roster = roster();
    let backends: Vec<_> = (0..100).map(backend).collect();
    roster.publish(backends.iter().map(target).collect(), Nanos(0));
    for _ in &backends {
        check(&mut roster, CheckResult::Ok);
    }
    let moment = |roster: &Roster, n: usize| roster.histories()[n].latest.lock().next_check;
    let before: Vec<_> = (0..100).map(|n| moment(&roster, n).unwrap()).collect();
    // Awake again at 4.5 s instead of 1.5 s: every check came due meanwhile.
    let (late, now) = (millis(3_000), Nanos(millis(4_500)));
    roster.stood_still(now, late);
    for (n, due) in before.iter().enumerate() {
        let expected = due.after(late).max(now);
        assert_eq!(moment(&roster, n), Some(expected));
    }
    let mut moments: Vec<_> = (0..100).map(|_| next_check(&mut roster).1).collect();
    moments.sort_unstable();
    let at_once = moments
        .iter()
        .filter(|at| at.since(now) < millis(100))
        .count();
    assert!(at_once < 20, "{at_once} at once");
    // What was not due yet keeps its moment.
    let mut roster = Roster::new(Chance::from_seed(7));
    roster.publish(vec![target(&backends[0])], Nanos(0));
    check(&mut roster, CheckResult::Ok);
    let due = moment(&roster, 0);
    roster.stood_still(Nanos(millis(300)), millis(200));
    assert_eq!(moment(&roster, 0), due);
}

#[test]
fn repeated_failures_are_told_once_and_a_change_tells_its_own() {
    let mut roster = roster();
    roster.publish(vec![target(&backend(0))], Nanos(0));
    check(&mut roster, CheckResult::Ok);
    let mut told = Vec::new();
    for result in [
        CheckResult::Timeout,
        CheckResult::Timeout,
        CheckResult::Refused,
        CheckResult::Refused,
        CheckResult::Timeout,
        CheckResult::Void,
        CheckResult::Ok,
    ] {
        check(&mut roster, result);
        told.extend(
            roster
                .take_complaints()
                .into_iter()
                .map(|c| (c.health, c.reason)),
        );
    }
    // The refusal took it down: that is a change and needs no complaint.
    assert_eq!(
        told,
        [(Health::Up, Finding::of(CheckResult::Timeout).reason())]
    );
}

#[test]
fn without_a_verdict_it_may_serve_after_one_timeout() {
    let backend = backend(0);
    let mut roster = roster();
    roster.publish(vec![target(&backend)], Nanos(0));
    check(&mut roster, CheckResult::Timeout);
    assert!(!backend.verdict.is_eligible());
    roster.take_bell();
    assert!(roster.take_due(Nanos(millis(449))).is_none());
    assert!(!backend.verdict.is_eligible());
    // The second check is due meanwhile and stays in flight.
    assert!(roster.take_due(Nanos(millis(999))).is_some());
    assert!(!backend.verdict.is_eligible());
    assert!(roster.take_due(Nanos(millis(1_000))).is_none());
    assert!(backend.verdict.is_eligible());
    assert!(roster.take_bell());
    assert_eq!(backend.verdict.health(), Health::Unknown);
}

#[test]
fn a_kept_backend_keeps_counts_and_next_check() {
    let backends: Vec<_> = (0..3).map(backend).collect();
    let mut roster = roster();
    roster.publish(backends.iter().map(target).collect(), Nanos(0));
    for _ in 0..3 {
        check(&mut roster, CheckResult::Timeout);
    }
    let before: Vec<_> = roster.histories();
    let due: Vec<_> = before.iter().map(|h| h.latest.lock().next_check).collect();
    // Another order, one gone, one new.
    let new = backend(9);
    roster.publish(
        vec![target(&backends[2]), target(&new), target(&backends[0])],
        Nanos(millis(100)),
    );
    let after = roster.histories();
    assert!(Arc::ptr_eq(&after[0], &before[2]) && Arc::ptr_eq(&after[2], &before[0]));
    assert_eq!(after[0].latest.lock().next_check, due[2]);
    assert_eq!(after[2].latest.lock().next_check, due[0]);
    assert_eq!(
        after[1].latest.lock().next_check,
        Some(Nanos(millis(100))),
        "the new one is checked at once"
    );
    assert_eq!(after[0].latest.lock().failures, 1);
}

#[test]
fn changed_rules_apply_at_once() {
    let backend = backend(0);
    let mut roster = roster();
    roster.publish(vec![target(&backend)], Nanos(0));
    check(&mut roster, CheckResult::Ok);
    let mut quicker = target(&backend);
    quicker.rules = Some(Rules {
        interval_ns: millis(100),
        fall: 1,
        ..RULES
    });
    let now = Nanos(millis(50));
    roster.publish(vec![quicker], now);
    assert!((90..=110).contains(&pause_ms(&roster, now)));
    check(&mut roster, CheckResult::Timeout);
    assert_eq!(backend.verdict.health(), Health::Down);
}

#[test]
fn findings_about_a_backend_that_left_or_moved_are_dropped() {
    let (one, two) = (backend(0), backend(1));
    let mut roster = roster();
    roster.publish(vec![target(&one), target(&two)], Nanos(0));
    let (first, _) = next_check(&mut roster);
    let (second, _) = next_check(&mut roster);
    // The first leaves, the second takes its place; its check goes on.
    roster.publish(vec![target(&two)], Nanos(millis(10)));
    roster.hear(
        first.ticket,
        finding(CheckResult::Refused),
        Kept::default(),
        Nanos(millis(20)),
    );
    assert_eq!(one.verdict.health(), Health::Unknown);
    assert_eq!(roster.next_due(), Some(Nanos(millis(1_000))), "grace only");
    roster.hear(
        second.ticket,
        finding(CheckResult::Ok),
        Kept::default(),
        Nanos(millis(20)),
    );
    assert_eq!(two.verdict.health(), Health::Up);
    // It moves while a check of the old address is in flight: that says nothing, the new address is checked at once.
    let (old, at) = next_check(&mut roster);
    let mut moved = target(&two);
    moved.address = Some(Address::Inet(([127, 0, 0, 2], 1).into()));
    roster.publish(vec![moved.clone()], at.after(1));
    let now = at.after(millis(3));
    roster.hear(
        old.ticket,
        finding(CheckResult::Refused),
        Kept::default(),
        now,
    );
    assert_eq!(
        roster.histories()[0].report().checks[CheckResult::Refused.index()],
        0
    );
    let (new, started) = next_check(&mut roster);
    assert_eq!((Some(new.place.address), started), (moved.address, now));
}

#[test]
fn a_name_that_does_not_resolve_is_down_at_once_and_starts_over_when_it_does() {
    let backend = backend(0);
    let mut roster = roster();
    let nowhere = Target {
        address: None,
        ..target(&backend)
    };
    // From an earlier life, when it was not checked.
    backend.verdict.set_unknown_is_eligible(true);
    roster.publish(vec![nowhere.clone()], Nanos(0));
    assert_eq!(backend.verdict.health(), Health::Down);
    assert!(roster.take_bell());
    assert_eq!(roster.take_changes()[0].reason, Reason::Unresolved);
    assert_eq!(roster.next_due(), None);
    // Said again, nothing happens again.
    roster.publish(vec![nowhere], Nanos(5));
    assert!(roster.take_changes().is_empty());

    let now = Nanos(millis(60_000));
    roster.publish(vec![target(&backend)], now);
    assert_eq!(backend.verdict.health(), Health::Unknown);
    assert!(!backend.verdict.is_eligible());
    assert_eq!(roster.take_changes()[0].reason, Reason::Resolved);
    assert_eq!(check(&mut roster, CheckResult::Ok), now);
    assert_eq!(backend.verdict.health(), Health::Up);
}

#[test]
fn a_name_that_stops_resolving_takes_a_checked_backend_down() {
    let backend = backend(0);
    let mut roster = roster();
    let mut target = target(&backend);
    target.on_down = OnDown::Close { over_ms: 5 };
    roster.publish(vec![target.clone()], Nanos(0));
    check(&mut roster, CheckResult::Ok);
    let (in_flight, at) = next_check(&mut roster);
    target.address = None;
    roster.publish(vec![target], at);
    assert_eq!(backend.verdict.health(), Health::Down);
    assert!(backend.verdict.eviction().is_some());
    roster.hear(
        in_flight.ticket,
        finding(CheckResult::Ok),
        Kept::default(),
        at.after(1),
    );
    assert_eq!(backend.verdict.health(), Health::Down);
    assert!(roster.take_due(Nanos::NEVER).is_none());
}

#[test]
fn without_check_it_is_unknown_and_eligible_whatever_was_before() {
    let backend = backend(0);
    let mut roster = roster();
    let unchecked = Target {
        rules: None,
        ..target(&backend)
    };
    roster.publish(vec![unchecked.clone()], Nanos(0));
    assert!(backend.verdict.is_eligible());
    assert_eq!(roster.next_due(), None);
    assert!(roster.take_changes().is_empty());
    // Checks appear: it goes on serving until they have a verdict.
    roster.publish(vec![target(&backend)], Nanos(1));
    assert!(backend.verdict.is_eligible());
    check(&mut roster, CheckResult::Refused);
    check(&mut roster, CheckResult::Refused);
    assert_eq!(backend.verdict.health(), Health::Down);
    roster.take_changes();
    let (in_flight, at) = next_check(&mut roster);
    roster.publish(vec![unchecked], at);
    assert_eq!(backend.verdict.health(), Health::Unknown);
    assert!(backend.verdict.is_eligible());
    assert_eq!(roster.take_changes()[0].reason, Reason::Unchecked);
    roster.hear(
        in_flight.ticket,
        finding(CheckResult::Refused),
        Kept::default(),
        at.after(1),
    );
    assert_eq!(roster.next_due(), None);
}

#[test]
fn a_backend_that_comes_up_has_risen_and_its_pool_hears_of_it_at_once() {
    let (one, other) = (backend(1), backend(2));
    let pool = PoolShared::new(PoolId(0), "pool", 1);
    let members = [(0, &one), (1, &other)].map(|(tier, backend)| TierMember {
        tier,
        weight: 100,
        backend: Arc::clone(backend),
    });
    let rules = TierRules {
        min_eligible: 1,
        mode: TierMode::Takeover,
        failback_after_ns: 0,
        fail_open_percent: 0,
    };
    pool.tiers.set_up(rules, &members, Nanos(0));
    let mut roster = roster();
    roster.publish(vec![target(&one), target(&other)], Nanos(0));
    assert_eq!(one.verdict.risen_at(), None);
    one.latency.add(millis(1), Nanos(0));
    let (first, at) = next_check(&mut roster);
    roster.hear(
        first.ticket,
        finding(CheckResult::Ok),
        Kept::default(),
        at.after(7),
    );
    assert_eq!(one.verdict.risen_at(), None, "a first verdict");
    assert_eq!(pool.tiers.service().serving, 0b01);
    let (second, at) = next_check(&mut roster);
    roster.hear(second.ticket, finding(CheckResult::Ok), Kept::default(), at);
    assert_eq!(pool.tiers.service().serving, 0b01);
    while one.verdict.health() == Health::Up {
        let (check, at) = next_check(&mut roster);
        let result = match check.place.address == first.place.address {
            true => CheckResult::Refused,
            false => CheckResult::Ok,
        };
        roster.hear(check.ticket, finding(result), Kept::default(), at);
    }
    assert_eq!(pool.tiers.service().serving, 0b10);
    assert!(one.latency.read(at).is_some());
    while one.verdict.health() == Health::Down {
        let (check, at) = next_check(&mut roster);
        roster.hear(check.ticket, finding(CheckResult::Ok), Kept::default(), at);
    }
    assert!(one.verdict.risen_at() > Some(at.after(7)));
    assert_eq!(one.latency.read(at), None, "another life");
    assert_eq!(pool.tiers.service().serving, 0b01);
}
