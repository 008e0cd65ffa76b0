//! The rise and fall of one backend: a pure machine that hears check results and says when health changes.
//!
//! | health  | hears | becomes |
//! |---|---|---|
//! | unknown | ok | up |
//! | unknown | failures worth `fall` in a row | down |
//! | up      | failures worth `fall` in a row | down |
//! | down    | `rise` times ok in a row | up |
//! | any     | void | stays, counts stay |
//!
//! A refused connection is worth two failures: the host answered, and nobody listens there.

use crate::handoff::Health;
use crate::ids::CheckResult;

use super::target::Rules;

#[derive(Clone, Copy, Debug)]
pub struct Streak {
    health: Health,
    /// In a row, since the last failure.
    successes: u32,
    /// In a row, since the last success; a refused connection counts as two.
    failures: u32,
}

impl Streak {
    /// A machine that starts with `health`; what is neither up nor down is unknown to it.
    #[must_use]
    pub fn new(health: Health) -> Streak {
        let health = match health {
            Health::Up | Health::Down => health,
            Health::Unknown | Health::Ejected | Health::WrongRole => Health::Unknown,
        };
        Streak {
            health,
            successes: 0,
            failures: 0,
        }
    }

    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    #[must_use]
    pub fn successes(&self) -> u32 {
        self.successes
    }

    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether a verdict is under way, so that the next check should come soon.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        match self.health {
            Health::Up => self.failures > 0,
            Health::Down => self.successes > 0,
            Health::Unknown | Health::Ejected | Health::WrongRole => true,
        }
    }

    /// Counts one result; `Some` is the new health if it changed.
    pub fn hear(&mut self, result: CheckResult, rules: &Rules) -> Option<Health> {
        match result {
            CheckResult::Void => return None,
            CheckResult::Ok => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
            }
            CheckResult::Refused => self.fail(2),
            CheckResult::Timeout
            | CheckResult::Unreachable
            | CheckResult::Reset
            | CheckResult::Closed
            | CheckResult::Failed
            | CheckResult::Other => self.fail(1),
        }
        let next = match self.health {
            Health::Down if self.successes >= rules.rise.max(1) => Health::Up,
            Health::Up | Health::Down if self.successes > 0 => self.health,
            _ if self.successes > 0 => Health::Up,
            _ if self.failures >= rules.fall.max(1) => Health::Down,
            same => same,
        };
        if next == self.health {
            return None;
        }
        self.health = next;
        Some(next)
    }

    fn fail(&mut self, worth: u32) {
        self.successes = 0;
        self.failures = self.failures.saturating_add(worth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(rise: u32, fall: u32) -> Rules {
        Rules {
            interval_ns: 1,
            fast_interval_ns: 1,
            timeout_ns: 1,
            rise,
            fall,
        }
    }

    /// `o`k, `r`efused, `t`imeout, `v`oid.
    fn result(letter: char) -> CheckResult {
        match letter {
            'o' => CheckResult::Ok,
            'r' => CheckResult::Refused,
            't' => CheckResult::Timeout,
            'v' => CheckResult::Void,
            other => panic!("no result is written {other}"),
        }
    }

    /// Health after each result: `U`p, `D`own, `?`.
    fn walk(start: Health, rise: u32, fall: u32, letters: &str) -> String {
        let mut streak = Streak::new(start);
        letters
            .chars()
            .map(|letter| {
                let before = streak.health();
                let told = streak.hear(result(letter), &rules(rise, fall));
                assert_eq!(told.unwrap_or(before), streak.health());
                assert_ne!(told, Some(before), "told of a change that is none");
                match streak.health() {
                    Health::Up => 'U',
                    Health::Down => 'D',
                    _ => '?',
                }
            })
            .collect()
    }

    #[test]
    fn the_table_of_rise_and_fall() {
        use Health::{Down, Unknown, Up};
        for (start, rise, fall, heard, expected) in [
            // One success is a first verdict, a full fall is needed for the other.
            (Unknown, 2, 3, "o", "U"),
            (Unknown, 2, 3, "ttt", "??D"),
            (Unknown, 2, 3, "tto", "??U"),
            (Unknown, 2, 3, "rr", "?D"),
            (Unknown, 2, 3, "rt", "?D"),
            (Unknown, 2, 2, "r", "D"),
            (Unknown, 2, 3, "vvvvo", "????U"),
            // Falling: in a row, refused twice as fast, void in between changes nothing.
            (Up, 2, 3, "ttottt", "UUUUUD"),
            (Up, 2, 3, "tvtvt", "UUUUD"),
            (Up, 2, 3, "rr", "UD"),
            (Up, 2, 3, "tr", "UD"),
            (Up, 2, 5, "rrr", "UUD"),
            (Up, 2, 1, "t", "D"),
            // Rising: in a row.
            (Down, 2, 3, "oo", "DU"),
            (Down, 2, 3, "otoo", "DDDU"),
            (Down, 3, 3, "ovovo", "DDDDU"),
            (Down, 1, 3, "o", "U"),
            // Again and again: counts start afresh after each change.
            (Up, 2, 2, "rootto", "DDUUDD"),
            // A range that should never come still makes sense.
            (Down, 0, 0, "o", "U"),
            (Up, 0, 0, "t", "D"),
        ] {
            assert_eq!(
                walk(start, rise, fall, heard),
                expected,
                "{start:?} rise {rise} fall {fall} hears {heard}"
            );
        }
    }

    #[test]
    fn moving_means_a_verdict_is_under_way() {
        let rules = rules(2, 3);
        let mut streak = Streak::new(Health::Unknown);
        assert!(streak.is_moving());
        streak.hear(CheckResult::Ok, &rules);
        assert!(!streak.is_moving());
        streak.hear(CheckResult::Timeout, &rules);
        assert!(streak.is_moving());
        streak.hear(CheckResult::Refused, &rules);
        assert_eq!(streak.health(), Health::Down);
        assert!(!streak.is_moving());
        streak.hear(CheckResult::Ok, &rules);
        assert!(streak.is_moving());
        streak.hear(CheckResult::Ok, &rules);
        assert!(!streak.is_moving());
    }

    proptest! {
        /// Against a model that looks back over everything heard since the last change.
        #[test]
        fn agrees_with_looking_back(
            rise in 1u32..5,
            fall in 1u32..7,
            letters in proptest::collection::vec(prop_oneof![Just('o'), Just('r'), Just('t'), Just('v')], 0..80),
        ) {
            let mut streak = Streak::new(Health::Unknown);
            let mut health = Health::Unknown;
            let mut heard: Vec<char> = Vec::new();
            for letter in letters {
                heard.push(letter);
                let said: Vec<char> = heard.iter().rev().copied().filter(|&l| l != 'v').collect();
                let good = said.iter().take_while(|&&l| l == 'o').count() as u32;
                let bad: u32 = said.iter().take_while(|&&l| l != 'o').map(|&l| if l == 'r' { 2 } else { 1 }).sum();
                let needed = if health == Health::Down { rise } else { 1 };
                let expected = if good >= needed { Health::Up } else if bad >= fall { Health::Down } else { health };
                let told = streak.hear(result(letter), &rules(rise, fall));
                prop_assert_eq!(told, (expected != health).then_some(expected));
                health = expected;
                prop_assert_eq!(streak.health(), health);
                prop_assert_eq!(streak.successes(), good);
                prop_assert_eq!(streak.failures(), bad);
            }
        }
    }
}
