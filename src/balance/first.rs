//! The first open backend in the order of the configuration; the next one gets sessions only when those before it are
//! closed or full. For a main server with standbys, or to keep as few servers busy as possible.

use super::Candidates;

pub(super) fn choose(weights: &[u32], candidates: &impl Candidates) -> Option<usize> {
    (0..weights.len()).find(|&i| weights[i] > 0 && candidates.is_open(i))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Field;
    use super::*;

    #[test]
    fn the_first_open_one_with_weight() {
        let field = Field::from_open([false, true, true, true]);
        assert_eq!(choose(&[1, 0, 1, 100], &field), Some(2));
        assert_eq!(choose(&[1, 0, 0, 0], &field), None);
        assert_eq!(choose(&[], &Field::all_open(0)), None);
    }
}
