//! With which probability each backend would be chosen, for those who explain. Random algorithms only: the others choose,
//! and that is the whole answer.

use super::Candidates;
use super::least::Cost;

/// A backend that may be chosen, with its weight as it counts now.
struct Entrant<C> {
    backend: usize,
    weight: f64,
    cost: C,
}

/// By weight, as it counts now, among the open ones.
pub(super) fn of_one(weights: &[u32], candidates: &impl Candidates) -> Vec<f64> {
    let mut odds = vec![0.0; weights.len()];
    let mut total = 0.0;
    for (i, &weight) in weights.iter().enumerate() {
        if weight > 0 && candidates.is_open(i) {
            odds[i] = candidates.ramp(i).of(weight) as f64;
            total += odds[i];
        }
    }
    if total > 0.0 {
        odds.iter_mut().for_each(|share| *share /= total);
    }
    odds
}

/// Of the better of two that are drawn by weight, never the same one twice; a tie stays with the one drawn first. Summed over
/// all pairs, in the order of cost so that each is looked at once.
pub(super) fn of_two<C: Cost>(
    weights: &[u32],
    candidates: &impl Candidates,
    cost: impl Fn(usize, u32) -> C,
) -> Vec<f64> {
    let mut entrants: Vec<Entrant<C>> = Vec::new();
    for (backend, &weight) in weights.iter().enumerate() {
        if weight > 0 && candidates.is_open(backend) {
            entrants.push(Entrant {
                backend,
                weight: candidates.ramp(backend).of(weight) as f64,
                cost: cost(backend, weight),
            });
        }
    }
    let mut odds = vec![0.0; weights.len()];
    if let [only] = entrants.as_slice() {
        odds[only.backend] = 1.0;
        return odds;
    }
    // The dearest first: what stands behind is at least as good.
    entrants.sort_by(|a, b| b.cost.compare(a.cost));
    let total: f64 = entrants.iter().map(|entrant| entrant.weight).sum();
    // Over all that are dearer: their weight, and the sum of weight / (total - weight).
    let (mut dearer, mut dearer_first) = (0.0, 0.0);
    for group in entrants.chunk_by(|a, b| a.cost.compare(b.cost).is_eq()) {
        let weight: f64 = group.iter().map(|entrant| entrant.weight).sum();
        for entrant in group {
            // Drawn first, and the other is no better; or drawn second, and better than the first.
            let first = (dearer + weight - entrant.weight) / (total - entrant.weight);
            odds[entrant.backend] = entrant.weight / total * (first + dearer_first);
        }
        dearer += weight;
        let shares = group.iter().map(|one| one.weight / (total - one.weight));
        dearer_first += shares.sum::<f64>();
    }
    odds
}
