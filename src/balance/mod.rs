//! The map room: which backend a new session gets. Pure: no clock, no socket, no lock, no allocation per choice.

/// How a pool picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    RoundRobin,
    LeastConnections,
    PowerOfTwo,
    Random,
    First,
    SourceHash,
}

/// What a chooser sees of the backends at the moment of a choice.
pub trait Candidates {
    /// Whether backend `i` may be given a session now: up, ready, not full, not tried before.
    fn is_open(&self, i: usize) -> bool;
    /// Sessions on backend `i` over all workers.
    fn sessions(&self, i: usize) -> u32;
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
#[derive(Debug)]
pub struct Chooser {
    algorithm: Algorithm,
    weights: Vec<u32>,
}

impl Chooser {
    #[must_use]
    pub fn new(algorithm: Algorithm, weights: &[u32], _names: &[&str]) -> Chooser {
        Chooser {
            algorithm,
            weights: weights.to_vec(),
        }
    }

    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The index of a backend that is open and has weight, or `None` if there is none.
    #[must_use]
    pub fn choose(&self, candidates: &impl Candidates, _draw: Draw) -> Option<usize> {
        (0..self.weights.len()).find(|&i| self.weights[i] > 0 && candidates.is_open(i))
    }
}
