//! The name that a misspelt one most likely stands for: for unknown keys of the file, and for names that a running
//! instance is asked about.

/// Longer names are nobody's typing error.
const BYTES_MAX: usize = 64;
const MATCHES_MAX: usize = 3;

/// The known key nearest to a misspelt one: at most a third of its letters differ.
pub(super) fn nearest(wrong: &str, known: &[&'static str]) -> Option<&'static str> {
    near_matches(wrong, known.iter().copied()).first().copied()
}

/// Up to three names that `wrong` may stand for, the nearest first.
#[must_use]
pub fn near_matches<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    if wrong.len() > BYTES_MAX {
        return Vec::new();
    }
    let close_enough = (wrong.len() / 3).clamp(1, 3);
    let known = known.into_iter().filter(|name| name.len() <= BYTES_MAX);
    let mut near: Vec<(usize, &str)> = known
        .map(|name| (distance(wrong, name), name))
        .filter(|&(far, _)| far <= close_enough)
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter()
        .take(MATCHES_MAX)
        .map(|(_, name)| name)
        .collect()
}

/// Levenshtein's edit distance, in bytes.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_key_is_found_and_a_far_one_is_not() {
        let known = ["connect_timeout", "connect_budget", "wait"];
        assert_eq!(nearest("conect_timeout", &known), Some("connect_timeout"));
        assert_eq!(nearest("conn_budget", &known), Some("connect_budget"));
        assert_eq!(nearest("wat", &known), Some("wait"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn near_names_come_nearest_first_and_not_all() {
        let known = ["pg1", "pg2", "pg3", "pg", "redis"];
        assert_eq!(near_matches("pg", known), ["pg", "pg1", "pg2"]);
        assert_eq!(near_matches("redsi", known), Vec::<&str>::new());
        assert_eq!(near_matches("rediss", known), ["redis"]);
        assert!(near_matches(&"x".repeat(65), known).is_empty());
    }
}
