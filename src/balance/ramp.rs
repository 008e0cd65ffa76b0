//! How much of its weight a backend has while it starts slowly: it comes up cold (empty caches, no connections), and a
//! full share at once, or as the least loaded one every newcomer, would hurt it.

/// A share of the full weight, in 1024ths; never 0, so that a backend which is the only one serves all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ramp(u16);

impl Ramp {
    const WHOLE: u64 = 1024;
    /// A hundredth of the weight: what a backend begins with.
    const LEAST: u64 = 10;
    pub const FULL: Ramp = Ramp(1024);

    /// Grows in a straight line from a hundredth to the full weight while `age_ns` goes from 0 to `over_ns`.
    #[must_use]
    pub fn at(age_ns: u64, over_ns: u64) -> Ramp {
        if age_ns >= over_ns {
            return Ramp::FULL;
        }
        let share = u128::from(age_ns) * u128::from(Ramp::WHOLE) / u128::from(over_ns);
        Ramp((share as u64).clamp(Ramp::LEAST, Ramp::WHOLE) as u16)
    }

    /// 1024 times the weight that counts now.
    #[must_use]
    pub(super) fn of(self, weight: u32) -> u64 {
        u64::from(self.0) * u64::from(weight)
    }

    /// Whether this draw of uniform bits lets the backend pass: with the ramp's share as its probability.
    #[must_use]
    pub(super) fn lets_pass(self, bits: u64) -> bool {
        bits % Ramp::WHOLE < u64::from(self.0)
    }

    /// Between 0 and 1.
    #[must_use]
    pub fn share(self) -> f64 {
        f64::from(self.0) / Ramp::WHOLE as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_from_a_hundredth_to_all() {
        assert_eq!(Ramp::at(0, 1000), Ramp(10));
        assert_eq!(Ramp::at(500, 1000), Ramp(512));
        assert_eq!(Ramp::at(1000, 1000), Ramp::FULL);
        assert_eq!(Ramp::at(u64::MAX, 1000), Ramp::FULL);
        assert_eq!(Ramp::at(0, 0), Ramp::FULL, "off");
        assert_eq!(Ramp::at(u64::MAX - 1, u64::MAX), Ramp(1023));
        let all: Vec<Ramp> = (0..2000).map(|age| Ramp::at(age, 1500)).collect();
        assert!(all.is_sorted());
    }

    #[test]
    fn it_lets_its_share_pass() {
        for ramp in [Ramp(10), Ramp(512), Ramp::FULL] {
            let passed = (0..1024).filter(|&bits| ramp.lets_pass(bits)).count();
            assert_eq!(passed as u16, ramp.0);
        }
    }
}
