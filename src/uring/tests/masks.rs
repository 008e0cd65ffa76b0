//! The suite once more with each optional feature masked, as on a kernel that does not have it, and with all of them.

use super::super::{Features, MASK_VARIABLE, probe};
use super::alone;

fn passes_without(mask: &str) {
    let arguments = ["uring::", "--skip", "uring::tests::masks"];
    alone::run(&arguments, &[(MASK_VARIABLE, mask)]);
}

fn names() -> Vec<&'static str> {
    let names = Features::default().list().map(|(name, _)| name);
    names.to_vec()
}

#[test]
fn a_mask_takes_away_what_it_names_and_no_more() {
    let all = probe().unwrap();
    for masked in names() {
        for ((name, was), (_, is)) in all.list().into_iter().zip(all.without(masked).list()) {
            assert_eq!(is, was && name != masked, "{name} without {masked}");
        }
    }
}

#[test]
fn without_each() {
    for name in names() {
        passes_without(name);
    }
}

#[test]
fn without_any() {
    passes_without(&names().join(","));
}
