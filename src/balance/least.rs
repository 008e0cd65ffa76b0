//! The search for the least of all, shared by least-connections and least-latency: by cost, and in turn among equals.

use std::cmp::Ordering;

use super::Candidates;

/// What a backend's next session would cost there; the least is the best.
pub(super) trait Cost: Copy {
    fn compare(self, other: Self) -> Ordering;
}

/// The load of a backend after one more session: (sessions + 1) / weight, as a fraction that is compared exactly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    sessions: u64,
    /// In 1024ths: what counts of it while the backend starts slowly.
    weight: u64,
}

impl Load {
    pub fn of(candidates: &impl Candidates, i: usize, weight: u32) -> Load {
        Load {
            sessions: u64::from(candidates.sessions(i)) + 1,
            weight: candidates.ramp(i).of(weight),
        }
    }

    pub fn as_number(self) -> f64 {
        self.sessions as f64 * 1024.0 / self.weight as f64
    }
}

impl Cost for Load {
    /// By cross-multiplication, without division.
    fn compare(self, other: Load) -> Ordering {
        let ours = u128::from(self.sessions) * u128::from(other.weight);
        let theirs = u128::from(other.sessions) * u128::from(self.weight);
        ours.cmp(&theirs)
    }
}

/// The backend of the least cost; equals go round by `turn`. `walk` gives each open backend with its cost, and is called
/// twice if there are equals; costs may have changed meanwhile.
pub(super) fn least<C: Cost, I: Iterator<Item = (usize, C)>>(
    walk: impl Fn() -> I,
    turn: u64,
) -> Option<usize> {
    let mut best: Option<(usize, C)> = None;
    let mut equals = 1u64;
    for (i, cost) in walk() {
        match best.map(|(_, least)| cost.compare(least)) {
            Some(Ordering::Greater) => {}
            Some(Ordering::Equal) => equals += 1,
            Some(Ordering::Less) | None => {
                best = Some((i, cost));
                equals = 1;
            }
        }
    }
    let (first, least) = best?;
    // Starting the walk at `turn` instead would give a backend that follows busy ones their turns, too.
    let wanted = (turn % equals) as usize;
    if wanted == 0 {
        return Some(first);
    }
    let mut equal = walk().filter(|&(_, cost)| cost.compare(least).is_eq());
    Some(equal.nth(wanted).map_or(first, |(i, _)| i))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_compared_exactly_up_to_the_largest() {
        let load = |sessions: u64, weight: u64| Load {
            sessions: sessions + 1,
            weight: weight * 1024,
        };
        let largest = u64::from(u32::MAX);
        let most = load(largest, largest);
        let less = load(largest - 1, largest);
        assert!(less.compare(most).is_lt());
        assert!(most.compare(most).is_eq());
        assert!(load(0, 3).compare(load(333_333_332, 999_999_999)).is_eq());
    }
}
