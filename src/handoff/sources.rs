//! Who has how many sessions, and how fast they come: one entry per listener and client network that has sessions or
//! still owes time to its rate. A fixed array for all workers, sized at start; when it has no room, new sources are
//! refused. No lock: every step is one compare-and-swap, and somebody always gets on. Workers call it at admission and at
//! a session's end.
//!
//! **Layout.** Open addressing in buckets of 32 entries: a keyed hash picks the bucket and is the entry's key, so nobody
//! outside can choose addresses that meet. Two sources share an entry only if all 64 bits agree.
//!
//! **One entry per source.** A bucket's header holds a bit for each visible entry and a version. An entry becomes visible
//! by a swap of the header as it was when the bucket was searched in vain: of two workers that bring the same source,
//! the second fails, searches again and finds the first one's entry.
//!
//! **An entry's life**, in its state word beside its counts:
//!
//! | phase | means | next |
//! |---|---|---|
//! | free | nobody's | claimed, by a worker that needs room |
//! | claimed | a worker's own, being filled; or on its way out of the header | pending; free |
//! | pending | filled; counts as present from the swap of the header on | live, by its worker or by whoever meets it |
//! | live | in use | claimed, when it has neither sessions, nor pins, nor debt |
//!
//! A pin keeps an entry while a worker judges; each pin also changes the word's generation, so that whoever wanted to
//! recycle the entry in that moment notices. The bucket idea follows the header words of Purcell and Harris, "Non-blocking
//! hashtables with open addressing" (DISC 2005), simplified by the fixed bucket.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use siphasher::sip::SipHasher13;

use crate::ids::{ListenerId, Nanos, NetworkKey, Refusal};

use super::rate::{Meter, Pace, Rate};

const WAYS: usize = 32;
/// Places per session that the process may have. With each session from a source of its own a bucket then holds 8 on
/// average; that one of 9,000 buckets gets more than 32 has a chance of about one in a million (Poisson).
const PLACES_PER_SESSION: usize = 4;

const SESSION: u64 = 1;
const SESSIONS_MASK: u64 = (1 << 28) - 1;
const PIN: u64 = 1 << 28;
const PINS_MASK: u64 = ((1 << 12) - 1) << 28;
const PHASE: u64 = 1 << 40;
const PHASE_MASK: u64 = 3 << 40;
const FREE: u64 = 0;
const CLAIMED: u64 = PHASE;
const PENDING: u64 = 2 * PHASE;
const LIVE: u64 = 3 * PHASE;
/// At the top, so that it wraps out of the word.
const GENERATION: u64 = 1 << 42;

const VERSION: u64 = 1 << 32;

fn phase(state: u64) -> u64 {
    state & PHASE_MASK
}

fn sessions(state: u64) -> u64 {
    state & SESSIONS_MASK
}

/// The next generation, in this phase, with nothing counted.
fn renewed(state: u64, phase: u64) -> u64 {
    let generation = state & !(PHASE_MASK | PINS_MASK | SESSIONS_MASK);
    generation.wrapping_add(GENERATION) | phase
}

/// Where a session is counted; it must be given back once, with [`Sources::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePlace(u32);

/// What a listener allows each client address, over reloads.
#[derive(Debug, Default)]
pub struct SourceLimits {
    connections: AtomicU32,
    /// Only its rate is used: the meters are the sources'.
    rate: Pace,
}

impl SourceLimits {
    /// Sets the limits; 0 and `None` are none.
    pub fn set(&self, connections: u32, rate: Option<Rate>) {
        self.connections.store(connections, Ordering::Relaxed);
        self.rate.set_rate(rate);
    }

    #[must_use]
    pub fn are_set(&self) -> bool {
        self.connections.load(Ordering::Relaxed) != 0 || self.rate.rate().is_some()
    }
}

#[derive(Debug)]
#[repr(align(64))]
struct Bucket {
    /// Low half: which entries are visible. High half: a version that grows with each change.
    header: AtomicU64,
    keys: [AtomicU64; WAYS],
    states: [AtomicU64; WAYS],
    meters: [Meter; WAYS],
}

#[derive(Debug)]
struct Table {
    hash_keys: (u64, u64),
    buckets: Box<[Bucket]>,
}

/// The table of one process. It takes no memory until it is opened.
#[derive(Debug, Default)]
pub struct Sources {
    table: OnceLock<Table>,
}

impl Sources {
    /// Makes the table, for a process of so many sessions; a second call changes nothing. To be called before a snapshot
    /// is published whose listeners have limits per source.
    pub fn open(&self, sessions_max: u32) {
        self.table.get_or_init(|| Table::new(sessions_max));
    }

    /// Lets a client of this source in and counts it, or says why not: `SourcesFull`, `SourceRate` or `SourceLimit`.
    /// `None` if the table was never opened.
    ///
    /// # Errors
    /// The reason.
    pub fn admit(
        &self,
        listener: ListenerId,
        source: NetworkKey,
        limits: &SourceLimits,
        now: Nanos,
    ) -> Result<Option<SourcePlace>, Refusal> {
        let Some(table) = self.table.get() else {
            return Ok(None);
        };
        let rate = limits.rate.rate();
        let connections = limits.connections.load(Ordering::Relaxed);
        let key = table.key(listener, source);
        let pinned = table.pin(key, now).ok_or(Refusal::SourcesFull)?;
        let (state, meter) = table.entry(pinned);
        if rate.is_some_and(|rate| !meter.is_open(rate, now)) {
            unpin(state);
            return Err(Refusal::SourceRate);
        }
        if !begin_session(state, connections) {
            unpin(state);
            return Err(Refusal::SourceLimit);
        }
        if rate.is_some_and(|rate| !meter.take(rate, now)) {
            end_session(state);
            return Err(Refusal::SourceRate);
        }
        Ok(Some(pinned))
    }

    /// Counts a session that began before there was a limit, whatever the limit is. `None` without room.
    pub fn adopt(
        &self,
        listener: ListenerId,
        source: NetworkKey,
        now: Nanos,
    ) -> Option<SourcePlace> {
        let table = self.table.get()?;
        let pinned = table.pin(table.key(listener, source), now)?;
        begin_session(table.entry(pinned).0, 0);
        Some(pinned)
    }

    /// A session that was counted here has ended.
    pub fn release(&self, place: SourcePlace) {
        if let Some(table) = self.table.get() {
            end_session(table.entry(place).0);
        }
    }

    /// A session that was counted here never began: its source gets its turn back as well.
    pub fn withdraw(&self, place: SourcePlace, limits: &SourceLimits) {
        if let Some(table) = self.table.get() {
            let (state, meter) = table.entry(place);
            if let Some(rate) = limits.rate.rate() {
                meter.give_back(rate);
            }
            end_session(state);
        }
    }

    /// How many entries there are, and how many of them cannot be recycled now. Walks the table: not for workers.
    #[must_use]
    pub fn usage(&self, now: Nanos) -> (usize, usize) {
        let Some(table) = self.table.get() else {
            return (0, 0);
        };
        let buckets = table.buckets.iter();
        let held = buckets.map(|bucket| {
            let kept = (0..WAYS).filter(|&way| {
                let state = bucket.states[way].load(Ordering::Acquire);
                phase(state) == LIVE && !is_idle(state, &bucket.meters[way], now)
            });
            kept.count()
        });
        (table.buckets.len() * WAYS, held.sum())
    }
}

/// Where another thread could come in between: tests make it come.
#[inline]
fn interleave() {
    #[cfg(test)]
    tests::interleave();
}

fn is_idle(state: u64, meter: &Meter, now: Nanos) -> bool {
    state & (SESSIONS_MASK | PINS_MASK) == 0 && meter.is_settled(now)
}

/// The pin becomes a session, if the limit allows one more; 0 is no limit.
fn begin_session(state: &AtomicU64, limit: u32) -> bool {
    let one_more = |word: u64| {
        let fits = limit == 0 || sessions(word) < u64::from(limit);
        (fits && sessions(word) < SESSIONS_MASK).then(|| word + SESSION - PIN)
    };
    state
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more)
        .is_ok()
}

fn end_session(state: &AtomicU64) {
    let before = state.fetch_sub(SESSION, Ordering::AcqRel);
    debug_assert!(
        sessions(before) > 0,
        "released a source more often than counted"
    );
}

fn unpin(state: &AtomicU64) {
    let before = state.fetch_sub(PIN, Ordering::AcqRel);
    debug_assert!(
        before & PINS_MASK > 0,
        "unpinned a source more often than pinned"
    );
}

/// What a search of a bucket came to.
enum Search {
    Found(usize),
    Absent,
    /// The bucket changed under the search.
    Again,
}

impl Bucket {
    fn new() -> Bucket {
        Bucket {
            header: AtomicU64::new(0),
            keys: std::array::from_fn(|_| AtomicU64::new(0)),
            states: std::array::from_fn(|_| AtomicU64::new(FREE)),
            meters: std::array::from_fn(|_| Meter::default()),
        }
    }

    /// Looks for the key among the entries that `header` shows, and pins it.
    fn search(&self, header: u64, key: u64) -> Search {
        let mut visible = header & (VERSION - 1);
        while visible != 0 {
            let way = visible.trailing_zeros() as usize;
            visible &= visible - 1;
            let mut state = self.states[way].load(Ordering::Acquire);
            loop {
                let present = matches!(phase(state), LIVE | PENDING);
                if !present || self.keys[way].load(Ordering::Acquire) != key {
                    break;
                }
                // Pending counts as present only if this header is the one that shows it, and not an earlier life of it.
                if phase(state) == PENDING && self.header.load(Ordering::Acquire) != header {
                    return Search::Again;
                }
                interleave();
                let pinned = (state | LIVE).wrapping_add(PIN + GENERATION);
                let swapped = self.states[way].compare_exchange_weak(
                    state,
                    pinned,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                match swapped {
                    Ok(_) => return Search::Found(way),
                    Err(seen) => state = seen,
                }
            }
        }
        Search::Absent
    }

    /// Claims an entry that is free, or one that nobody needs any more.
    fn claim(&self, now: Nanos) -> Option<usize> {
        (0..WAYS)
            .find(|&way| {
                let state = self.states[way].load(Ordering::Acquire);
                phase(state) == FREE && self.swap(way, state, renewed(state, CLAIMED))
            })
            .or_else(|| {
                let way = (0..WAYS).find(|&way| {
                    let state = self.states[way].load(Ordering::Acquire);
                    phase(state) == LIVE
                        && is_idle(state, &self.meters[way], now)
                        && self.swap(way, state, renewed(state, CLAIMED))
                })?;
                interleave();
                let hide = |header: u64| Some((header & !(1 << way)).wrapping_add(VERSION));
                let hidden = self
                    .header
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, hide);
                debug_assert!(hidden.is_ok(), "the update never declines");
                Some(way)
            })
    }

    fn swap(&self, way: usize, from: u64, to: u64) -> bool {
        interleave();
        self.states[way]
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Makes a claimed entry visible under this key, pinned, unless the bucket has changed since `header`.
    fn show(&self, way: usize, header: u64, key: u64) -> bool {
        let claimed = self.states[way].load(Ordering::Acquire);
        self.keys[way].store(key, Ordering::Relaxed);
        self.meters[way].reset();
        self.states[way].store(renewed(claimed, PENDING) + PIN, Ordering::Release);
        interleave();
        let shown = (header | 1 << way).wrapping_add(VERSION);
        let swapped =
            self.header
                .compare_exchange(header, shown, Ordering::AcqRel, Ordering::Acquire);
        match swapped {
            Ok(_) => {
                interleave();
                self.states[way].fetch_or(LIVE, Ordering::AcqRel);
            }
            Err(_) => self.states[way].store(renewed(claimed, CLAIMED), Ordering::Release),
        }
        swapped.is_ok()
    }
}

impl Table {
    fn new(sessions_max: u32) -> Table {
        let places = (sessions_max as usize).saturating_mul(PLACES_PER_SESSION);
        let buckets = places.div_ceil(WAYS).next_power_of_two();
        // The standard library's seed comes from the kernel, once per process.
        let seed = RandomState::new();
        Table {
            hash_keys: (seed.hash_one(1), seed.hash_one(2)),
            buckets: (0..buckets).map(|_| Bucket::new()).collect(),
        }
    }

    fn key(&self, listener: ListenerId, source: NetworkKey) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.hash_keys.0, self.hash_keys.1);
        hasher.write(&listener.0.to_ne_bytes());
        hasher.write(&source.0.to_ne_bytes());
        hasher.finish()
    }

    fn split(&self, place: SourcePlace) -> (&Bucket, usize) {
        let place = place.0 as usize;
        (&self.buckets[place / WAYS], place % WAYS)
    }

    fn entry(&self, place: SourcePlace) -> (&AtomicU64, &Meter) {
        let (bucket, way) = self.split(place);
        (&bucket.states[way], &bucket.meters[way])
    }

    /// Finds or makes the entry of this key, and pins it; `None` if its bucket has no room.
    fn pin(&self, key: u64, now: Nanos) -> Option<SourcePlace> {
        let number = key as usize & (self.buckets.len() - 1);
        let bucket = &self.buckets[number];
        let mut claimed: Option<usize> = None;
        loop {
            let header = bucket.header.load(Ordering::Acquire);
            let way = match bucket.search(header, key) {
                Search::Again => continue,
                Search::Found(way) => {
                    if let Some(spare) = claimed {
                        let state = bucket.states[spare].load(Ordering::Acquire);
                        bucket.states[spare].store(renewed(state, FREE), Ordering::Release);
                    }
                    way
                }
                Search::Absent => match claimed {
                    None => {
                        claimed = Some(bucket.claim(now)?);
                        continue;
                    }
                    Some(way) if bucket.show(way, header, key) => way,
                    Some(_) => continue,
                },
            };
            return u32::try_from(number * WAYS + way).ok().map(SourcePlace);
        }
    }
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
