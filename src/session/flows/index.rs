//! Finds a flow's slot by its caller: open addressing with linear probing, at most half full, deletion by shifting back
//! (Knuth, "The Art of Computer Programming" 3, 6.4, algorithm R), so that no tombstones pile up under a flood.

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use crate::ids::Caller;

const EMPTY: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Index {
    /// A power of two of places; each holds a slot or [`EMPTY`].
    places: Box<[u32]>,
    keys: (u64, u64),
}

impl Index {
    pub(super) fn new(flows_max: u32, seed: u64) -> Index {
        let places = (flows_max as usize * 2).next_power_of_two().max(2);
        Index {
            places: vec![EMPTY; places].into_boxed_slice(),
            keys: (seed, !seed.rotate_left(32)),
        }
    }

    pub(super) fn hash(&self, caller: &Caller) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1);
        caller.hash(&mut hasher);
        hasher.finish()
    }

    /// For seeded bugs.
    #[cfg(test)]
    pub(super) fn places(&mut self) -> &mut [u32] {
        &mut self.places
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.places.len() - 1)
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.places.len() - 1)
    }

    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut place = self.home(hash);
        loop {
            match self.places[place] {
                EMPTY => return None,
                slot if is_it(slot) => return Some(slot),
                _ => place = self.after(place),
            }
        }
    }

    pub(super) fn insert(&mut self, hash: u64, slot: u32) {
        let mut place = self.home(hash);
        while self.places[place] != EMPTY {
            place = self.after(place);
        }
        self.places[place] = slot;
    }

    /// `hash_of` tells the hashes of the slots that remain.
    pub(super) fn remove(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        let mut hole = self.home(hash);
        while self.places[hole] != slot {
            if self.places[hole] == EMPTY {
                debug_assert!(false, "a flow that was never in the index");
                return;
            }
            hole = self.after(hole);
        }
        self.places[hole] = EMPTY;
        let mut place = self.after(hole);
        while self.places[place] != EMPTY {
            let home = self.home(hash_of(self.places[place]));
            // Whoever could not have reached its place without passing the hole moves into it.
            let from_home = place.wrapping_sub(home) & (self.places.len() - 1);
            let from_hole = place.wrapping_sub(hole) & (self.places.len() - 1);
            if from_home >= from_hole {
                self.places[hole] = self.places[place];
                self.places[place] = EMPTY;
                hole = place;
            }
            place = self.after(place);
        }
    }
}
