//! The table of a worker's sessions: a slab with generations. A slot is reused, its generation is not (until it wraps
//! after 65,536 uses), so a late answer for an earlier tenant is recognised.

use crate::ids::{SessionKey, Slot};

#[derive(Debug)]
struct Entry<S> {
    generation: u16,
    tenant: Option<S>,
}

#[derive(Debug)]
pub struct Slots<S> {
    entries: Vec<Entry<S>>,
    free: Vec<u32>,
    slots_max: usize,
}

impl<S> Slots<S> {
    /// A table that never holds more than `slots_max` sessions. Its memory is reserved now and touched as it is used.
    #[must_use]
    pub fn new(slots_max: u32) -> Slots<S> {
        let slots_max = slots_max as usize;
        Slots {
            entries: Vec::with_capacity(slots_max),
            free: Vec::with_capacity(slots_max),
            slots_max,
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() == self.slots_max
    }

    /// How many slots have ever been in use; slots below this number exist.
    #[must_use]
    pub fn extent(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    /// The key that the next [`Slots::insert`] will give out; `None` if the table is full.
    #[must_use]
    pub fn next_key(&self) -> Option<SessionKey> {
        match self.free.last() {
            Some(&slot) => Some(SessionKey {
                slot: Slot(slot),
                generation: self.entries[slot as usize].generation,
            }),
            None if self.entries.len() < self.slots_max => Some(SessionKey {
                slot: Slot(self.extent()),
                generation: 0,
            }),
            None => None,
        }
    }

    /// Moves a session in.
    ///
    /// # Errors
    /// Gives the session back if the table is full.
    pub fn insert(&mut self, tenant: S) -> Result<SessionKey, S> {
        let Some(key) = self.next_key() else {
            return Err(tenant);
        };
        match self.free.pop() {
            Some(slot) => self.entries[slot as usize].tenant = Some(tenant),
            None => self.entries.push(Entry {
                generation: 0,
                tenant: Some(tenant),
            }),
        }
        Ok(key)
    }

    /// The session of this key, if it still lives there.
    #[must_use]
    pub fn get_mut(&mut self, key: SessionKey) -> Option<&mut S> {
        let entry = self.entries.get_mut(key.slot.index())?;
        if entry.generation == key.generation {
            entry.tenant.as_mut()
        } else {
            None
        }
    }

    /// Who lives in slot number `slot`, with the key.
    #[must_use]
    pub fn at(&self, slot: u32) -> Option<(SessionKey, &S)> {
        let entry = self.entries.get(slot as usize)?;
        let key = SessionKey {
            slot: Slot(slot),
            generation: entry.generation,
        };
        entry.tenant.as_ref().map(|tenant| (key, tenant))
    }

    /// Moves the session out and ends the key's life.
    pub fn remove(&mut self, key: SessionKey) -> Option<S> {
        let entry = self.entries.get_mut(key.slot.index())?;
        if entry.generation != key.generation {
            return None;
        }
        let tenant = entry.tenant.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.slot.0);
        Some(tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nobody() {
        let mut slots = Slots::new(2);
        let first = slots.insert("a").unwrap();
        assert_eq!(slots.remove(first), Some("a"));
        let second = slots.insert("b").unwrap();
        assert_eq!(second.slot, first.slot);
        assert_ne!(second, first);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut "b"));
    }

    #[test]
    fn never_more_than_the_limit() {
        let mut slots = Slots::new(2);
        let key = slots.next_key();
        assert_eq!(slots.insert(1).ok(), key);
        assert!(slots.insert(2).is_ok());
        assert!(slots.is_full());
        assert_eq!(slots.insert(3), Err(3));
        assert_eq!(slots.len(), 2);
    }
}
