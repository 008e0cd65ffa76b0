//! How well the balancer does, in the few numbers by which a new configuration is judged: which listeners have somebody to
//! serve them, how many backends are eligible, and what share of attempts goes wrong. Pure, but for reading counters.
//!
//! | clearly worse | when |
//! |---|---|
//! | a listener without backends | a pool that it leads to had an eligible backend before and has none now |
//! | few eligible backends | their share of those with weight is less than half of what it was |
//! | errors | of at least 20 attempts since, more than a tenth failed, and more than three times the share before |

use std::collections::BTreeMap;

use crate::handoff::{Backend, Snapshot, Target};
use crate::ids::{BackendId, End};

/// Below this many attempts nothing is said of their share of errors.
const ATTEMPTS_MIN: u64 = 20;
const ERRORS_MIN: f64 = 0.1;
const ERRORS_FACTOR: f64 = 3.0;

/// Who could serve, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strength {
    /// Eligible backends behind each listener, by each pool that it leads to.
    listeners: BTreeMap<Way, usize>,
    eligible: usize,
    with_weight: usize,
}

/// A listener, and where it leads: its own pool (`None`, whatever that is called), or one that clients come to by the server
/// name that they ask for.
type Way = (String, Option<String>);

/// Attempts to serve somebody, and those that failed, since some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub attempts: u64,
    pub failures: u64,
}

/// Counters as they stood at some moment.
#[derive(Clone, Debug, Default)]
pub struct Mark {
    backends: BTreeMap<BackendId, Outcome>,
    listeners: BTreeMap<String, u64>,
}

/// Ends of clients that nobody could be found for.
const UNSERVED: [End; 3] = [End::NoBackend, End::WaitFull, End::WaitTimeout];

impl Strength {
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Strength {
        let mut strength = Strength::default();
        for pool in &snapshot.pools {
            let able = pool.backends.iter().filter(|own| is_eligible(own)).count();
            strength.eligible += able;
            strength.with_weight += pool.backends.iter().filter(|own| own.weight > 0).count();
            let listeners = snapshot.listeners.iter();
            for listener in listeners.filter(|listener| listener.leads_to(pool.shared.id)) {
                let routed = listener.pool != pool.shared.id;
                let pool = routed.then(|| pool.shared.name.clone());
                let way = (listener.shared.name.clone(), pool);
                strength.listeners.insert(way, able);
            }
        }
        strength
    }

    /// What is clearly worse now than it was, if anything is.
    #[must_use]
    pub fn lost(&self, now: &Strength) -> Option<String> {
        for (way, before) in &self.listeners {
            if *before > 0 && now.listeners.get(way) == Some(&0) {
                let (name, routed) = way;
                let to = routed.as_ref().map(|pool| format!(" in pool {pool}"));
                return Some(format!(
                    "listener {name} has no eligible backend{}, it had {before}",
                    to.unwrap_or_default()
                ));
            }
        }
        let share = |it: &Strength| it.eligible as f64 / it.with_weight.max(1) as f64;
        (share(now) < share(self) / 2.0).then(|| {
            format!(
                "{} of {} backends are eligible, {} of {} were",
                now.eligible, now.with_weight, self.eligible, self.with_weight
            )
        })
    }
}

fn is_eligible(backend: &Backend) -> bool {
    backend.weight > 0
        && backend.target != Target::Unresolved
        && backend.shared.verdict.is_eligible()
}

impl Mark {
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Mark {
        let backends = snapshot.pools.iter().flat_map(|pool| &pool.backends);
        let backends = backends.map(|own| {
            let shards = || own.shared.workers.iter();
            let attempts = shards().map(|shard| shard.connect_attempts.read()).sum();
            let failures = shards()
                .flat_map(|shard| &shard.connect_failures)
                .map(|count| count.read())
                .sum();
            (own.shared.id, Outcome { attempts, failures })
        });
        let listeners = snapshot.listeners.iter().map(|listener| {
            let shards = listener.shared.workers.iter();
            let ends = shards.flat_map(|shard| UNSERVED.map(|end| shard.ends[end.index()].read()));
            (listener.shared.name.clone(), ends.sum())
        });
        Mark {
            backends: backends.collect(),
            listeners: listeners.collect(),
        }
    }

    /// What happened from this mark to a later one; who was not there then has its whole past counted.
    #[must_use]
    pub fn until(&self, later: &Mark) -> Outcome {
        let mut outcome = Outcome::default();
        for (id, now) in &later.backends {
            let then = self.backends.get(id).copied().unwrap_or_default();
            outcome.attempts += now.attempts.saturating_sub(then.attempts);
            outcome.failures += now.failures.saturating_sub(then.failures);
        }
        for (name, now) in &later.listeners {
            let then = self.listeners.get(name).copied().unwrap_or_default();
            let unserved = now.saturating_sub(then);
            outcome.attempts += unserved;
            outcome.failures += unserved;
        }
        outcome
    }
}

impl Outcome {
    fn share(self) -> f64 {
        self.failures as f64 / self.attempts.max(1) as f64
    }

    /// Whether errors are clearly more now than they were.
    #[must_use]
    pub fn worsened(self, now: Outcome) -> Option<String> {
        let worse = now.attempts >= ATTEMPTS_MIN
            && now.share() > ERRORS_MIN
            && now.share() > ERRORS_FACTOR * self.share();
        worse.then(|| {
            format!(
                "{} of {} attempts failed since, {} of {} before",
                now.failures, now.attempts, self.failures, self.attempts
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strength(listeners: &[(&str, usize)], eligible: usize, with_weight: usize) -> Strength {
        Strength {
            listeners: listeners
                .iter()
                .map(|(name, able)| {
                    let (name, pool) = name.split_once('/').unwrap_or((name, ""));
                    let pool = (!pool.is_empty()).then(|| pool.to_owned());
                    ((name.to_owned(), pool), *able)
                })
                .collect(),
            eligible,
            with_weight,
        }
    }

    #[test]
    fn a_listener_that_lost_everybody_is_worse_and_one_that_had_nobody_is_not() {
        let before = strength(&[("a", 2), ("b", 0)], 6, 8);
        assert_eq!(before.lost(&before), None);
        assert_eq!(before.lost(&strength(&[("a", 1), ("b", 0)], 4, 8)), None);
        let lost = before.lost(&strength(&[("a", 0), ("b", 2)], 8, 8));
        assert!(lost.is_some_and(|why| why.contains("listener a")));
        // Where only clients of some server name go counts as well.
        let before = strength(&[("a", 2), ("a/q", 1)], 3, 3);
        let lost = before.lost(&strength(&[("a", 2), ("a/q", 0)], 2, 3));
        let sentence = "listener a has no eligible backend in pool q, it had 1";
        assert_eq!(lost.as_deref(), Some(sentence));
        // One that the new configuration does not have is not missed.
        assert_eq!(before.lost(&strength(&[("c", 0)], 6, 8)), None);
    }

    #[test]
    fn what_clients_of_a_server_name_have_is_seen() {
        use crate::handoff::Health;
        use crate::office::admin::tests::board_with_route;
        let view = board_with_route().view();
        let verdict = |pool: &str| {
            let mut pools = view.snapshot.pools.iter();
            let pool = pools.find(|it| it.shared.name == pool).unwrap();
            &pool.backends[0].shared.verdict
        };
        for pool in ["p", "q"] {
            verdict(pool).set_health(Health::Up);
        }
        let before = Strength::of(&view.snapshot);
        assert_eq!(before.lost(&before), None);
        for (dead, sentence) in [
            (
                "q",
                "listener l has no eligible backend in pool q, it had 1",
            ),
            ("p", "listener l has no eligible backend, it had 1"),
        ] {
            verdict(dead).set_health(Health::Down);
            let lost = before.lost(&Strength::of(&view.snapshot));
            assert_eq!(lost.as_deref(), Some(sentence));
            verdict(dead).set_health(Health::Up);
        }
    }

    #[test]
    fn fewer_backends_are_no_loss_but_a_smaller_share_is() {
        let before = strength(&[], 10, 10);
        assert_eq!(before.lost(&strength(&[], 3, 3)), None);
        assert_eq!(before.lost(&strength(&[], 5, 10)), None);
        assert!(before.lost(&strength(&[], 4, 10)).is_some());
    }

    #[test]
    fn errors_count_when_there_are_enough_and_clearly_more() {
        let outcome = |failures, attempts| Outcome { attempts, failures };
        let fine = outcome(1, 1000);
        assert_eq!(fine.worsened(outcome(19, 19)), None, "too few to tell");
        assert_eq!(
            fine.worsened(outcome(10, 100)),
            None,
            "not more than a tenth"
        );
        assert!(fine.worsened(outcome(11, 100)).is_some());
        assert_eq!(
            outcome(50, 100).worsened(outcome(100, 100)),
            None,
            "it was bad before"
        );
        assert!(outcome(30, 100).worsened(outcome(100, 100)).is_some());
    }
}
