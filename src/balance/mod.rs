//! The map room: which backend a new session gets. Pure: no clock, no socket, no lock, no allocation per choice.
//!
//! A choice is made by one worker alone, from counters of all workers that may be a moment old. Workers share nothing
//! but the pool's `turn`. Whether the chosen backend takes the session (its exact limit) is decided by the caller.

mod client_hash;
mod first;
mod latency;
mod least;
mod least_connections;
mod maglev;
mod odds;
mod ramp;
mod random;
mod round_robin;
mod shares;
mod source_hash;
mod tiers;

pub use client_hash::hash_client;
pub use latency::Latency;
pub use ramp::Ramp;
pub use tiers::{Service, TIERS_MAX, TierCount, TierMode, TierRules, TierWatch};

use latency::{LeastLatency, Slowness, UNKNOWN_OF_TWO_NS};
use least::Load;
use least_connections::LeastConnections;
use maglev::Maglev;
use random::{PowerOfTwo, Random};
use round_robin::RoundRobin;
use source_hash::SourceHash;

/// How a pool picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    RoundRobin,
    LeastConnections,
    PowerOfTwo,
    Random,
    First,
    SourceHash,
    Maglev,
    LeastLatency,
}

impl Algorithm {
    /// Whether it keeps a client at its backend by [`Draw::hash`].
    #[must_use]
    pub fn hashes(self) -> bool {
        matches!(self, Algorithm::SourceHash | Algorithm::Maglev)
    }
}

/// Up to this many backends the least of all is looked for; above it, the better of two random ones is taken, whose cost
/// does not grow and which does almost as well.
pub const EXACT_MAX: usize = 64;

/// What a chooser sees of the backends at the moment of a choice. Answers may change while a choice is made.
pub trait Candidates {
    /// Whether backend `i` may be given a session now: up, ready, not full, not tried before.
    fn is_open(&self, i: usize) -> bool;
    /// Sessions on backend `i` over all workers.
    fn sessions(&self, i: usize) -> u32;
    /// How much of its weight counts now. Hashing algorithms do not ask.
    fn ramp(&self, _i: usize) -> Ramp {
        Ramp::FULL
    }
    /// Connect time of backend `i`, if known. Only least-latency asks.
    fn latency(&self, _i: usize) -> Option<Latency> {
        None
    }
}

/// What varies from one choice to the next.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// A number that grows by one with each choice of the pool, over all workers.
    pub turn: u64,
    /// Uniform random bits.
    pub random: u64,
    /// The client's hash.
    pub hash: u64,
}

/// A pool's algorithm over its backends' weights, with whatever can be computed before the first choice.
#[derive(Clone, Debug)]
pub struct Chooser {
    algorithm: Algorithm,
    weights: Vec<u32>,
    method: Method,
}

#[derive(Clone, Debug)]
enum Method {
    RoundRobin(RoundRobin),
    LeastConnections(LeastConnections),
    PowerOfTwo(PowerOfTwo),
    Random(Random),
    First,
    SourceHash(SourceHash),
    Maglev(Maglev),
    LeastLatency(LeastLatency),
    LowerLatencyOfTwo(PowerOfTwo),
}

impl Chooser {
    /// Weights and names in the order of the backends. A weight of 0 is never chosen. The names are what hashing holds
    /// on to: they, not the order, decide which clients a backend gets.
    ///
    /// # Panics
    /// If there are not as many names as weights.
    #[must_use]
    pub fn new(algorithm: Algorithm, weights: &[u32], names: &[&str]) -> Chooser {
        assert_eq!(weights.len(), names.len(), "one name for each weight");
        let method = match algorithm {
            Algorithm::RoundRobin => Method::RoundRobin(RoundRobin::new(weights)),
            Algorithm::LeastConnections if weights.len() <= EXACT_MAX => {
                Method::LeastConnections(LeastConnections::new(weights))
            }
            Algorithm::LeastConnections => Method::PowerOfTwo(PowerOfTwo::new(weights)),
            Algorithm::PowerOfTwo => Method::PowerOfTwo(PowerOfTwo::new(weights)),
            Algorithm::Random => Method::Random(Random::new(weights)),
            Algorithm::First => Method::First,
            Algorithm::SourceHash => Method::SourceHash(SourceHash::new(weights, names)),
            Algorithm::Maglev => Method::Maglev(Maglev::new(weights, names)),
            Algorithm::LeastLatency if weights.len() <= EXACT_MAX => {
                Method::LeastLatency(LeastLatency::new(weights))
            }
            Algorithm::LeastLatency => Method::LowerLatencyOfTwo(PowerOfTwo::new(weights)),
        };
        Chooser {
            algorithm,
            weights: weights.to_vec(),
            method,
        }
    }

    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The index of a backend that is open and has weight, or `None` if there is none.
    #[must_use]
    pub fn choose(&self, candidates: &impl Candidates, draw: Draw) -> Option<usize> {
        match &self.method {
            Method::RoundRobin(method) => method.choose(candidates, draw.turn),
            Method::LeastConnections(method) => method.choose(candidates, draw.turn),
            Method::PowerOfTwo(method) => method.choose(candidates, draw.random),
            Method::Random(method) => method.choose(candidates, draw.random),
            Method::First => first::choose(&self.weights, candidates),
            Method::SourceHash(method) => method.choose(candidates, draw.hash),
            Method::Maglev(method) => method.choose(candidates, draw.hash),
            Method::LeastLatency(method) => method.choose(candidates, draw.turn),
            Method::LowerLatencyOfTwo(method) => {
                method.choose_by(candidates, draw.random, |i, weight| {
                    Slowness::of(candidates, i, weight, UNKNOWN_OF_TWO_NS)
                })
            }
        }
    }

    /// Whether chance has no part in it: the same draw but for [`Draw::random`] gives the same backend.
    #[must_use]
    pub fn is_deterministic(&self) -> bool {
        match self.method {
            Method::Random(_) | Method::PowerOfTwo(_) | Method::LowerLatencyOfTwo(_) => false,
            Method::RoundRobin(_)
            | Method::LeastConnections(_)
            | Method::First
            | Method::SourceHash(_)
            | Method::Maglev(_)
            | Method::LeastLatency(_) => true,
        }
    }

    /// The probability of each backend to be what [`Chooser::choose`] returns, if `draw.random` is uniform and the
    /// candidates stay as they are. All zero if none is open. Not for the data plane: it allocates.
    #[must_use]
    pub fn odds(&self, candidates: &impl Candidates, draw: Draw) -> Vec<f64> {
        match &self.method {
            Method::Random(_) => odds::of_one(&self.weights, candidates),
            Method::PowerOfTwo(_) => odds::of_two(&self.weights, candidates, |i, weight| {
                Load::of(candidates, i, weight)
            }),
            Method::LowerLatencyOfTwo(_) => odds::of_two(&self.weights, candidates, |i, weight| {
                Slowness::of(candidates, i, weight, UNKNOWN_OF_TWO_NS)
            }),
            _ => {
                let mut odds = vec![0.0; self.weights.len()];
                if let Some(chosen) = self.choose(candidates, draw) {
                    odds[chosen] = 1.0;
                }
                odds
            }
        }
    }
}

/// Turns any number into one whose bits look independent of it: the output function of SplitMix64 (Steele, Lea and
/// Flood, "Fast splittable pseudorandom number generators", 2014). A bijection.
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod cost;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
