//! The table of sources, alone and under several threads at once: counts against a shadow, recycling, a full table.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use proptest::prelude::*;

use super::{SourceLimits, SourcePlace, Sources, WAYS};
use crate::handoff::Rate;
use crate::ids::{ListenerId, Nanos, NetworkKey, Refusal, millis};

thread_local! {
    static INTERLEAVE: Cell<u64> = const { Cell::new(0) };
}

/// Gives way to the other threads now and then, once a thread has asked for it: between two cores that run freely, races
/// of a few instructions hardly ever happen.
pub(super) fn interleave() {
    INTERLEAVE.with(|dice| {
        let mut bits = dice.get();
        if bits == 0 {
            return;
        }
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        dice.set(bits);
        if bits % 4 == 0 {
            std::thread::yield_now();
        }
    });
}

const LISTENER: ListenerId = ListenerId(3);

fn limits(connections: u32, rate: Option<Rate>) -> SourceLimits {
    let limits = SourceLimits::default();
    limits.set(connections, rate);
    limits
}

fn opened(sessions_max: u32) -> Sources {
    let sources = Sources::default();
    sources.open(sessions_max);
    sources
}

fn held(sources: &Sources, now: Nanos) -> usize {
    sources.usage(now).1
}

#[test]
fn a_table_that_was_never_opened_takes_everybody_and_no_memory() {
    let sources = Sources::default();
    let admitted = sources.admit(LISTENER, NetworkKey(1), &limits(1, None), Nanos(5));
    assert_eq!(admitted, Ok(None));
    assert_eq!(sources.usage(Nanos(5)), (0, 0));
}

#[test]
fn sources_and_listeners_are_counted_apart() {
    let sources = opened(100);
    let limits = limits(1, None);
    let admit = |listener, source| {
        sources.admit(ListenerId(listener), NetworkKey(source), &limits, Nanos(5))
    };
    let first = admit(1, 7).unwrap().unwrap();
    assert_eq!(admit(1, 7), Err(Refusal::SourceLimit));
    assert!(admit(1, 8).is_ok() && admit(2, 7).is_ok());
    sources.release(first);
    assert!(admit(1, 7).is_ok());
}

#[test]
fn a_rate_refuses_without_counting_and_a_withdrawal_gives_the_turn_back() {
    let sources = opened(100);
    let limits = limits(0, Some(Rate::new(1, 2)));
    let now = Nanos(millis(5_000));
    let admit = |now| sources.admit(LISTENER, NetworkKey(7), &limits, now);
    let first = admit(now).unwrap().unwrap();
    let second = admit(now).unwrap().unwrap();
    assert_eq!(admit(now), Err(Refusal::SourceRate));
    sources.withdraw(second, &limits);
    let third = admit(now).unwrap().unwrap();
    assert_eq!(admit(now), Err(Refusal::SourceRate));
    // Its sessions end, its debt stays until it is paid.
    sources.release(first);
    sources.release(third);
    assert_eq!(held(&sources, now), 1);
    assert_eq!(admit(now), Err(Refusal::SourceRate));
    assert!(admit(now.after(millis(1_000))).is_ok());
}

#[test]
fn a_limit_that_comes_later_counts_who_is_there() {
    let sources = opened(100);
    let now = Nanos(5);
    let places: Vec<_> = (0..5)
        .map(|_| sources.adopt(LISTENER, NetworkKey(7), now).unwrap())
        .collect();
    let limits = limits(5, None);
    let admit = || sources.admit(LISTENER, NetworkKey(7), &limits, now);
    assert_eq!(admit(), Err(Refusal::SourceLimit));
    sources.release(places[0]);
    assert!(admit().is_ok());
}

/// Many more sources than places, one after the other: nothing is left of those that have gone.
#[test]
fn entries_are_recycled_when_sessions_and_debt_are_gone() {
    let sources = opened(8);
    assert_eq!(sources.usage(Nanos(0)).0, WAYS);
    let limits = limits(3, Some(Rate::new(1_000, 1)));
    for source in 0..100_000_u64 {
        let now = Nanos(millis(1 + source / 16));
        let place = sources
            .admit(LISTENER, NetworkKey(source.into()), &limits, now)
            .unwrap()
            .unwrap();
        sources.release(place);
    }
    assert_eq!(held(&sources, Nanos(millis(100_000))), 0);
}

#[test]
fn a_full_table_refuses_new_sources_and_keeps_the_old_ones() {
    let sources = opened(8);
    let limits = limits(2, None);
    let now = Nanos(5);
    let admit = |source| sources.admit(LISTENER, NetworkKey(source), &limits, now);
    let places: Vec<_> = (0..WAYS as u128).map(&admit).collect();
    assert!(places.iter().all(Result::is_ok));
    assert_eq!(admit(1_000), Err(Refusal::SourcesFull));
    assert!(admit(0).is_ok(), "a known source may come again");
    assert_eq!(admit(0), Err(Refusal::SourceLimit));
    sources.release(places[5].unwrap().unwrap());
    assert!(admit(1_000).is_ok());
    assert_eq!(admit(5), Err(Refusal::SourcesFull));
}

/// With every session that the process may have from a source of its own, no bucket is full.
#[test]
fn there_is_room_for_a_source_per_session() {
    for sessions in [1, 100, 9_326, 60_000] {
        let sources = opened(sessions);
        let limits = limits(1, None);
        for source in 0..u128::from(sessions) {
            let admitted = sources.admit(LISTENER, NetworkKey(source), &limits, Nanos(5));
            assert!(admitted.is_ok(), "source {source} of {sessions}");
        }
        assert_eq!(held(&sources, Nanos(5)), sessions as usize);
    }
}

proptest! {
    /// Against a map with plain numbers, one thread, a table of one bucket.
    #[test]
    fn it_counts_as_a_map_would(
        steps in prop::collection::vec((0u64..40, 0u8..4, 0u64..3), 1..300),
        limit in 0u32..4,
        paced in any::<bool>(),
    ) {
        let sources = opened(8);
        let rate = paced.then(|| Rate::new(1_000, 2));
        let limits = limits(limit, rate);
        let mut model: HashMap<u64, (Vec<SourcePlace>, u64)> = HashMap::new();
        let mut now = millis(10);
        for (source, act, pause) in steps {
            now += millis(pause) / 2;
            let used = |model: &HashMap<u64, (Vec<SourcePlace>, u64)>| {
                model.values().filter(|(places, paid)| !places.is_empty() || *paid > now).count()
            };
            prop_assert_eq!(held(&sources, Nanos(now)), used(&model));
            let known = model.get(&source).is_some_and(|(places, paid)| {
                !places.is_empty() || *paid > now
            });
            let room = known || used(&model) < WAYS;
            let (places, paid) = model.entry(source).or_default();
            if act == 0 {
                if let Some(place) = places.pop() {
                    sources.release(place);
                }
                continue;
            }
            let expected = if !room {
                Err(Refusal::SourcesFull)
            } else if paced && *paid > now + millis(1) {
                Err(Refusal::SourceRate)
            } else if limit != 0 && places.len() as u32 >= limit {
                Err(Refusal::SourceLimit)
            } else {
                Ok(())
            };
            let got = sources.admit(LISTENER, NetworkKey(source.into()), &limits, Nanos(now));
            prop_assert_eq!(got.map(|_| ()), expected);
            if let Ok(Some(place)) = got {
                places.push(place);
                if paced {
                    *paid = (*paid).max(now) + millis(1);
                }
            }
        }
    }
}

/// Threads that all bring the same few sources, in a table so small that entries are recycled all the time: never more
/// sessions than the limit, the limit is reached, and nothing is left behind.
#[test]
fn counts_are_exact_under_threads() {
    const SOURCES: usize = 48;
    const LIMIT: u32 = 3;
    let sources = opened(8);
    let limits = limits(LIMIT, None);
    let shadow: Vec<AtomicU32> = (0..SOURCES).map(|_| AtomicU32::new(0)).collect();
    let full = AtomicU32::new(0);
    let refused = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (sources, limits, shadow) = (&sources, &limits, &shadow);
            let (full, refused) = (&full, &refused);
            scope.spawn(move || {
                INTERLEAVE.set(thread + 1);
                let mut dice = thread + 1;
                let mut mine: Vec<(usize, SourcePlace)> = Vec::new();
                for _ in 0..60_000 {
                    dice ^= dice << 13;
                    dice ^= dice >> 7;
                    dice ^= dice << 17;
                    if mine.len() > 7 || dice % 3 == 0 && !mine.is_empty() {
                        let (source, place) = mine.swap_remove(dice as usize % mine.len());
                        shadow[source].fetch_sub(1, Ordering::SeqCst);
                        sources.release(place);
                        continue;
                    }
                    // A few sources are met far more often than the others.
                    let source = (dice >> 20) as usize % if dice % 2 == 0 { 3 } else { SOURCES };
                    let key = NetworkKey(source as u128);
                    match sources.admit(LISTENER, key, limits, Nanos(5)) {
                        Ok(place) => {
                            let before = shadow[source].fetch_add(1, Ordering::SeqCst);
                            assert!(before < LIMIT, "{before} sessions of {source} already");
                            mine.push((source, place.unwrap()));
                        }
                        Err(Refusal::SourcesFull) => {
                            full.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(why) => {
                            assert_eq!(why, Refusal::SourceLimit);
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                for (source, place) in mine {
                    shadow[source].fetch_sub(1, Ordering::SeqCst);
                    sources.release(place);
                }
            });
        }
    });
    assert_eq!(held(&sources, Nanos(5)), 0);
    assert!(refused.load(Ordering::Relaxed) > 0);
    // And each source can have all of its limit again: no count was left in an entry that nobody finds.
    let admitted = (0..LIMIT).all(|_| {
        sources
            .admit(LISTENER, NetworkKey(1), &limits, Nanos(5))
            .is_ok()
    });
    assert!(admitted);
}

/// The same with rates: with a clock that advances, each source gets its burst and its rate from all threads together.
#[test]
fn rates_are_exact_under_threads() {
    const SOURCES: usize = 24;
    let sources = opened(8);
    let limits = limits(0, Some(Rate::new(10_000, 5)));
    let clock = AtomicU64::new(millis(1));
    let taken: Vec<AtomicU32> = (0..SOURCES).map(|_| AtomicU32::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (sources, limits, clock, taken) = (&sources, &limits, &clock, &taken);
            scope.spawn(move || {
                INTERLEAVE.set(thread + 1);
                for step in 0..100_000_u64 {
                    let now = Nanos(clock.fetch_add(500, Ordering::Relaxed));
                    let source = (step + thread * 7) as usize % SOURCES;
                    let key = NetworkKey(source as u128);
                    if let Ok(Some(place)) = sources.admit(LISTENER, key, limits, now) {
                        taken[source].fetch_add(1, Ordering::Relaxed);
                        sources.release(place);
                    }
                }
            });
        }
    });
    // 400,000 steps of 500 ns are 0.2 s: 2,000 at the rate, and the burst.
    for taken in &taken {
        let taken = taken.load(Ordering::Relaxed);
        assert!((1_980..=2_005).contains(&taken), "{taken}");
    }
    assert_eq!(held(&sources, Nanos(millis(10_000))), 0);
}
