//! Backends laid end to end on a line, each as long as its weight: a point on the line is a weighted choice. And what
//! to do when the point falls on a backend that is closed.

use super::Candidates;

/// The line. Points are 0 to `total()` - 1.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    /// Where each backend ends; one without weight ends where it begins, so no point is on it.
    ends: Vec<u64>,
}

/// What a walk along the line found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Census {
    /// Length of the open backends, in 1024ths of weight: as long as they are now.
    pub open: u64,
    /// Length of the closed backends.
    pub closed: u64,
    /// Length of the closed backends before the point asked for.
    pub closed_before: u64,
}

impl Shares {
    pub fn new(weights: impl Iterator<Item = u32>) -> Shares {
        let mut end = 0;
        let ends = weights.map(|weight| {
            end += u64::from(weight);
            end
        });
        Shares {
            ends: ends.collect(),
        }
    }

    /// 0 if there is nothing to choose from.
    pub fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The backend at a point below `total()`.
    pub fn at(&self, point: u64) -> usize {
        self.ends.partition_point(|&end| end <= point)
    }

    /// Each backend's weight, in their order.
    fn weights(&self) -> impl Iterator<Item = u32> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        // Fits: each was made from such a weight.
        starts
            .zip(&self.ends)
            .map(|(start, &end)| (end - start) as u32)
    }

    /// Walks the line once; `point` must be below `total()`.
    pub fn census(&self, candidates: &impl Candidates, point: u64) -> Census {
        let mut found = Census {
            open: 0,
            closed: 0,
            closed_before: 0,
        };
        let mut start = 0;
        for (i, weight) in self.weights().enumerate() {
            let end = start + u64::from(weight);
            if weight > 0 && candidates.is_open(i) {
                found.open += candidates.ramp(i).of(weight);
            } else {
                found.closed += u64::from(weight);
                found.closed_before += point.clamp(start, end) - start;
            }
            start = end;
        }
        found
    }

    /// The open backend at `point` of the line that the open ones form among themselves, each as long as it is now.
    /// Backends may have closed since the census that gave the line's length: then the last open one, or `None` if all
    /// have.
    pub fn at_open(&self, candidates: &impl Candidates, point: u64) -> Option<usize> {
        let mut passed = 0;
        let mut last = None;
        for (i, weight) in self.weights().enumerate() {
            if weight == 0 || !candidates.is_open(i) {
                continue;
            }
            passed += candidates.ramp(i).of(weight);
            if point < passed {
                return Some(i);
            }
            last = Some(i);
        }
        last
    }
}

/// Maps 64 uniform bits to a number below `bound`, by the upper half of the product (Lemire, "Fast random integer
/// generation in an interval", 2019, without its rejection step: a bias of at most `bound` / 2^64). 0 for bound 0.
pub(super) fn below(bound: u64, bits: u64) -> u64 {
    let product = u128::from(bits) * u128::from(bound);
    (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::super::testing::Field;
    use super::*;

    #[test]
    fn each_point_belongs_to_its_backend() {
        let shares = Shares::new([0, 2, 0, 3, 0].into_iter());
        let found: Vec<usize> = (0..shares.total()).map(|point| shares.at(point)).collect();
        assert_eq!(found, [1, 1, 3, 3, 3]);
        assert_eq!(Shares::new([].into_iter()).total(), 0);
        assert_eq!(Shares::new([0, 0].into_iter()).total(), 0);
    }

    #[test]
    fn the_census_counts_every_point_once() {
        let shares = Shares::new([2, 3, 4].into_iter());
        let field = Field::from_open([false, true, false]);
        let ranks: Vec<u64> = (0..9)
            .map(|point| shares.census(&field, point))
            .inspect(|census| assert_eq!((census.open, census.closed), (3 * 1024, 6)))
            .map(|census| census.closed_before)
            .collect();
        assert_eq!(ranks, [0, 1, 2, 2, 2, 2, 3, 4, 5]);
    }

    #[test]
    fn the_open_line_skips_what_is_closed() {
        let shares = Shares::new([2, 3, 0, 1].into_iter());
        let field = Field::from_open([true, false, true, true]);
        let point = |p: u64| shares.at_open(&field, p * 1024);
        let found: Vec<_> = (0..4).map(point).collect();
        assert_eq!(found, [Some(0), Some(0), Some(3), Some(3)]);
        let closed = Field::from_open([false; 4]);
        assert_eq!(shares.at_open(&closed, 0), None);
    }

    #[test]
    fn bits_spread_over_the_whole_interval() {
        assert_eq!(below(10, 0), 0);
        assert_eq!(below(10, u64::MAX), 9);
        assert_eq!(below(10, u64::MAX / 2), 4);
        assert_eq!(below(0, u64::MAX), 0);
    }
}
