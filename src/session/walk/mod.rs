//! The exhaustive walk over every reachable state of a TCP session, with a shadow model of all that is around it: no stuck
//! session, no early end, no byte lost, doubled or out of order, nothing leaked, half-close and resets as promised. And
//! the proof that it would notice: seeded bugs, each of which must make it fail.
//!
//! `plan` says what is walked, `begin` from where, `kernel` what may happen, `carry` (and `replay`) carries out what the session wants,
//! `check` judges, `explore` walks, `mutants` (and `endless`) lie. Test only. A failing walk prints the shortest story that leads there.

mod begin;
mod carry;
mod check;
mod endless;
mod explore;
mod kernel;
mod mutants;
mod plan;
mod replay;
mod table;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use explore::{Found, explore};
use mutants::Mutant;
use plan::Plan;
use table::Table;

/// Walks all of these, two at a time, and tells of each in its turn.
fn walk_all<'a>(walks: &[(&'a Plan, Option<&'a Mutant>)]) -> Vec<Found> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while let Some(&(plan, mutant)) = walks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let began = Instant::now();
            let walk = explore(plan, mutant);
            println!(
                "{}{}: {} states, {} steps, {} ms{}",
                plan.name,
                mutant.map_or(String::new(), |it| format!(" / {}", it.name)),
                walk.states,
                walk.steps,
                began.elapsed().as_millis(),
                walk.broken
                    .as_ref()
                    .map_or(String::new(), |(why, _)| format!(", broken: {why}")),
            );
            found.push(walk);
        }
        found
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut found = work();
        found.extend(other.join().expect("the other half of the walks ends"));
        found
    })
}

#[test]
fn every_reachable_state_keeps_the_rules() {
    let only = std::env::var("RINGWAY_WALK").ok();
    let walks: Vec<_> = plan::PLANS
        .iter()
        .filter(|plan| only.as_ref().is_none_or(|only| plan.name == only))
        .map(|plan| (plan, None))
        .collect();
    let found = walk_all(&walks);
    let states: usize = found.iter().map(|walk| walk.states).sum();
    println!("{} walks, {states} states", found.len());
    for walk in &found {
        if let Some((why, story)) = &walk.broken {
            panic!("broken: {why}\n{}", story.join("\n"));
        }
    }
    if only.is_none() {
        // The table in the header of the state machine says the truth.
        let mut table = Table::default();
        found.iter().for_each(|walk| table.add(&walk.table));
        table.compare_with(include_str!("../tcp.rs"));
    }
}

#[test]
fn every_seeded_bug_is_caught() {
    let walks: Vec<_> = mutants::all()
        .map(|mutant| (plan::named(mutant.plan), Some(mutant)))
        .collect();
    let found = walk_all(&walks);
    let missed = found.iter().filter(|walk| walk.broken.is_none()).count();
    assert!(walks.len() >= 20, "at least twenty bugs are seeded");
    assert_eq!(
        missed, 0,
        "each seeded bug is caught: see which are not broken above"
    );
}
