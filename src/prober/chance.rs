//! Chance for jitter: a small generator with a seed, so that tests replay. Never for secrets.

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    #[must_use]
    pub fn from_seed(seed: u64) -> Chance {
        Chance(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// `duration_ns` ± 10 %.
    pub fn about(&mut self, duration_ns: u64) -> u64 {
        let tenth = duration_ns / 10;
        let offset = self.next() % (tenth * 2 + 1);
        (duration_ns - tenth).saturating_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_is_within_ten_percent_and_reaches_both_ends() {
        let mut chance = Chance::from_seed(1);
        let drawn: Vec<u64> = (0..10_000).map(|_| chance.about(1_000_000)).collect();
        let (least, most) = (*drawn.iter().min().unwrap(), *drawn.iter().max().unwrap());
        assert!((900_000..902_000).contains(&least), "{least}");
        assert!((1_098_000..=1_100_000).contains(&most), "{most}");
        let mean = drawn.iter().sum::<u64>() / 10_000;
        assert!((995_000..1_005_000).contains(&mean), "{mean}");
        assert_eq!(chance.about(0), 0);
        assert_eq!(chance.about(9), 9);
    }
}
