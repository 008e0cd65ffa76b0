//! The same client to the same backend, on every instance, by weighted rendezvous hashing: each backend draws a number
//! from its name and the client's hash, and the best draw wins (Thaler and Ravishankar, "Using name-based mappings to
//! increase hit rates", 1998). When a backend goes, only its own clients move, to the others by weight; when it returns,
//! exactly they come back; the order of the configuration does not matter.
//!
//! Weights enter by the logarithmic method (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005; Resch,
//! "New hashing algorithms for data storage", 2015): the least -log(u) / weight, u uniform in (0, 1], is backend i's with
//! the probability of i's share of all weights. The logarithm is computed in integers, from a table made at compile time:
//! floating point may round differently elsewhere, and would send a client to different backends on two machines.
//!
//! Every choice looks at every backend; a backend that starts slowly has its full weight, else its clients would move twice.

use std::cmp::Ordering;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::{Candidates, scramble};

/// The key of the hash over names; never to change, or all clients move.
const NAME_KEY: (u64, u64) = (0x7265_6e64_657a_766f, 0x7573_206e_616d_6573);

#[derive(Clone, Debug)]
pub(super) struct SourceHash {
    places: Vec<Place>,
    are_weights_equal: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    name_hash: u64,
    weight: u32,
}

/// A backend's draw for a client.
#[derive(Clone, Copy, Debug)]
struct Bid {
    draw: u64,
    weight: u32,
    name_hash: u64,
}

impl SourceHash {
    pub fn new(weights: &[u32], names: &[&str]) -> SourceHash {
        let places = weights.iter().zip(names).map(|(&weight, name)| {
            let mut hasher = SipHasher13::new_with_keys(NAME_KEY.0, NAME_KEY.1);
            hasher.write(name.as_bytes());
            Place {
                name_hash: hasher.finish(),
                weight,
            }
        });
        let mut weighted = weights.iter().filter(|&&weight| weight > 0);
        let first = weighted.next();
        SourceHash {
            places: places.collect(),
            are_weights_equal: weighted.all(|weight| Some(weight) == first),
        }
    }

    pub fn choose(&self, candidates: &impl Candidates, hash: u64) -> Option<usize> {
        let open = (0..self.places.len())
            .filter(|&i| self.places[i].weight > 0 && candidates.is_open(i))
            .map(|i| (i, self.places[i].bid(hash)));
        let best = if self.are_weights_equal {
            // The logarithm grows with its argument, so the larger draw is the better one without it.
            open.max_by(|(_, a), (_, b)| a.cmp_draw(b))
        } else {
            open.max_by(|(_, a), (_, b)| a.cmp_weighted(b))
        };
        best.map(|(i, _)| i)
    }
}

impl Place {
    fn bid(self, hash: u64) -> Bid {
        Bid {
            draw: scramble(self.name_hash ^ hash),
            weight: self.weight,
            name_hash: self.name_hash,
        }
    }
}

impl Bid {
    fn cmp_draw(&self, other: &Bid) -> Ordering {
        (self.draw, self.name_hash).cmp(&(other.draw, other.name_hash))
    }

    /// The better bid is the greater one, that is the one with the lesser -log(u) / weight.
    fn cmp_weighted(&self, other: &Bid) -> Ordering {
        let ours = u128::from(minus_log2(self.draw)) * u128::from(other.weight);
        let theirs = u128::from(minus_log2(other.draw)) * u128::from(self.weight);
        theirs.cmp(&ours).then_with(|| self.cmp_draw(other))
    }
}

/// The table has a value at every 1/1024 between 1 and 2; between them a straight line is drawn.
const INDEX_BITS: u32 = 10;
const SEGMENTS: usize = 1 << INDEX_BITS;
/// Logarithms are in units of 2^-57: the largest, 64, still fits into 64 bits.
const FRACTION_BITS: u32 = 57;
static LOG2: [u64; SEGMENTS + 1] = log2_table();

/// -log2(u) for u = (draw + 1) / 2^64, in units of 2^-57; never grows when `draw` does. The straight lines are off by at
/// most 1.8e-7, and by at most 0.05 % of the value itself.
fn minus_log2(draw: u64) -> u64 {
    // 0 stands for the least u of all, as 1 does: the difference is one draw in 2^64.
    let number = draw.max(1);
    let zeros = number.leading_zeros();
    let mantissa = number << zeros;
    // The leading one says nothing; then the table's index, then the way to the next entry.
    let index = (mantissa << 1 >> (64 - INDEX_BITS)) as usize;
    let rest_bits = 63 - INDEX_BITS;
    let rest = mantissa & ((1 << rest_bits) - 1);
    let (low, high) = (LOG2[index], LOG2[index + 1]);
    let rise = (u128::from(high - low) * u128::from(rest)) >> rest_bits;
    (u64::from(zeros + 1) << FRACTION_BITS) - (low + rise as u64)
}

/// log2(1 + k / 1024), bit by bit: squaring a number doubles its logarithm, whose next bit is whether the square reached
/// 2 (Knuth, The Art of Computer Programming 1, §1.2.2, exercise 25).
const fn log2_table() -> [u64; SEGMENTS + 1] {
    let mut table = [0; SEGMENTS + 1];
    let mut k = 0;
    while k < SEGMENTS {
        // 1 + k / 1024 in units of 2^-63.
        let mut x: u128 = ((SEGMENTS + k) as u128) << (63 - INDEX_BITS);
        let mut bits = 0;
        let mut round = 0;
        while round < FRACTION_BITS {
            x = (x * x) >> 63;
            bits <<= 1;
            if x >> 64 != 0 {
                x >>= 1;
                bits |= 1;
            }
            round += 1;
        }
        table[k] = bits;
        k += 1;
    }
    table[SEGMENTS] = 1 << FRACTION_BITS;
    table
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bits, Field, chance_allows, names, weights_and_openness};
    use super::*;
    use proptest::prelude::*;

    fn method(weights: &[u32]) -> SourceHash {
        let names = names(weights.len());
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        SourceHash::new(weights, &names)
    }

    #[test]
    fn the_logarithm_is_right() {
        let unit = 2f64.powi(FRACTION_BITS as i32);
        let mut bits = Bits(11);
        for _ in 0..100_000 {
            // Of all magnitudes.
            let shift = bits.next() % 64;
            let draw = bits.next() >> shift;
            let exact = 64.0 - (draw.max(1) as f64).log2();
            let ours = minus_log2(draw) as f64 / unit;
            assert!((ours - exact).abs() < 2e-7, "{draw}: {ours} {exact}");
        }
        assert_eq!(minus_log2(u64::MAX), minus_log2(u64::MAX - 1));
        assert_eq!(minus_log2(1 << 63), 1 << FRACTION_BITS);
        assert_eq!(minus_log2(0), 64 << FRACTION_BITS);
    }

    /// Changing these moves clients on upgrade, and splits instances of different versions. The places come from a second
    /// implementation, with floating-point logarithms, written for this test in another language.
    #[test]
    fn clients_stay_where_they_are_for_ever() {
        let names = ["pg1", "pg2", "pg3"];
        let field = Field::all_open(3);
        let place = |weights: &[u32]| -> Vec<usize> {
            let method = SourceHash::new(weights, &names);
            (0..12)
                .map(|client| method.choose(&field, scramble(client)).unwrap())
                .collect()
        };
        assert_eq!(place(&[1, 1, 1]), [0, 2, 2, 1, 0, 1, 0, 2, 1, 2, 2, 2]);
        assert_eq!(place(&[100, 10, 50]), [0, 2, 2, 0, 0, 0, 0, 2, 0, 2, 2, 2]);
    }

    #[test]
    fn the_order_of_the_configuration_does_not_matter() {
        let one = SourceHash::new(&[5, 7, 9], &["a", "b", "c"]);
        let other = SourceHash::new(&[9, 5, 7], &["c", "a", "b"]);
        let field = Field::all_open(3);
        for client in 0..10_000 {
            let hash = scramble(client);
            let chosen = one.choose(&field, hash).unwrap();
            assert_eq!((chosen + 1) % 3, other.choose(&field, hash).unwrap());
        }
    }

    /// Neighbouring clients, to see that neither the mixing nor the logarithm favours anyone.
    /// False alarm: at most 65 x 10^-12; the inputs are fixed, so it either never happens or always.
    #[test]
    fn many_backends_share_by_weight() {
        let weights: Vec<u32> = (0..65).map(|i| 1 + i * 15).collect();
        let total: u32 = weights.iter().sum();
        let method = method(&weights);
        let field = Field::all_open(65);
        let mut counts = vec![0u32; 65];
        for client in 0..400_000u32 {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + client);
            let hash = crate::balance::hash_client(0, address.into(), None);
            counts[method.choose(&field, hash).unwrap()] += 1;
        }
        for (&count, &weight) in counts.iter().zip(&weights) {
            let share = f64::from(weight) / f64::from(total);
            assert!(chance_allows(count, 400_000, share), "{counts:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// False alarm: at most 64 cases x 8 backends x 10^-12.
        #[test]
        fn shares_by_weight((weights, open) in weights_and_openness(1..9, 1000), seed: u64) {
            let field = Field::from_open(open.iter().copied());
            let method = method(&weights);
            let is_in = |i: &usize| open[*i] && weights[*i] > 0;
            let open_total: u32 = (0..open.len()).filter(is_in).map(|i| weights[i]).sum();
            prop_assume!(open_total > 0);
            let mut bits = Bits(seed);
            let mut counts = vec![0u32; weights.len()];
            for _ in 0..20_000 {
                counts[method.choose(&field, bits.next()).unwrap()] += 1;
            }
            for i in (0..open.len()).filter(is_in) {
                let share = f64::from(weights[i]) / f64::from(open_total);
                prop_assert!(chance_allows(counts[i], 20_000, share), "{:?} {:?}: {:?}", weights, open, counts);
            }
        }

        #[test]
        fn only_the_clients_of_a_leaving_backend_move(
            (weights, open) in weights_and_openness(2..9, 1000),
            leaving in 0usize..8,
            seed: u64,
        ) {
            let leaving = leaving % weights.len();
            let before = Field::from_open(open.iter().copied());
            let mut after = Field::from_open(open.iter().copied());
            after.open[leaving] = false;
            let method = method(&weights);
            // Closed, or weighing nothing, or removed from the configuration: all the same to the others' clients.
            let mut unweighted = weights;
            unweighted[leaving] = 0;
            let drained = super::tests::method(&unweighted);
            let mut bits = Bits(seed);
            for _ in 0..500 {
                let hash = bits.next();
                let was = method.choose(&before, hash);
                let is = method.choose(&after, hash);
                if was != Some(leaving) {
                    prop_assert_eq!(was, is);
                }
                prop_assert_eq!(drained.choose(&before, hash), is);
            }
        }

        #[test]
        fn a_heavier_backend_takes_clients_and_sends_none_elsewhere(
            (weights, _) in weights_and_openness(2..9, 1000),
            growing in 0usize..8,
            seed: u64,
        ) {
            let growing = growing % weights.len();
            let mut heavier = weights.clone();
            heavier[growing] += 100;
            let field = Field::all_open(weights.len());
            let (light, heavy) = (method(&weights), method(&heavier));
            let mut bits = Bits(seed);
            for _ in 0..500 {
                let hash = bits.next();
                let (was, is) = (light.choose(&field, hash), heavy.choose(&field, hash));
                prop_assert!(is == was || is == Some(growing));
            }
        }
    }
}
