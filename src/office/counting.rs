//! Where limits are counted: which line of the shares belongs to which identity. The newest process gives lines out; those
//! before it know the ones that they were born with.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::handoff::{Capacity, Seniors};
use crate::sys::shares::{Column, LineRef, Lines};

/// Listeners, pools (two each) and backends as many as there are ids, and some. Only what is used takes memory.
const LINES: usize = 4 * 65_536 + 64;
/// Lines of what is gone that are kept before somebody looks.
const CLUTTER: usize = 1024;

/// Of the process as a whole.
pub const KEY_OF_PROCESS: &str = "process";

/// The lines that there are; without a file each count is this process's alone.
#[derive(Debug, Default)]
pub struct Counting {
    lines: Option<Arc<Lines>>,
    column: Column,
    places: BTreeMap<String, u32>,
    free: Vec<u32>,
    next: u32,
    /// Older processes count on these lines, too.
    pub has_others: bool,
    /// What the process before counts is on these lines.
    inherited: bool,
}

impl Counting {
    /// New lines. Without them (no memfd here) upgrades are possible all the same; that is said.
    #[must_use]
    pub fn begin(column: Column) -> Counting {
        let lines = Lines::create(LINES);
        if let Err(error) = &lines {
            log::warn!(
                "no memory to share counts in: {error}: after an upgrade limits are counted anew"
            );
        }
        Counting {
            lines: lines.ok().map(Arc::new),
            column,
            next: 1,
            ..Counting::default()
        }
    }

    /// Those of the process before.
    ///
    /// # Errors
    /// Their layout is not known here.
    pub fn inherit(
        file: OwnedFd,
        places: BTreeMap<String, u32>,
        column: Column,
    ) -> io::Result<Counting> {
        let lines = Lines::adopt(file)?;
        let next = places.values().max().map_or(1, |last| last + 1);
        let used: BTreeSet<u32> = places.values().copied().collect();
        Ok(Counting {
            lines: Some(Arc::new(lines)),
            column,
            free: (1..next).filter(|line| !used.contains(line)).collect(),
            places,
            next,
            has_others: true,
            inherited: true,
        })
    }

    /// What is handed to a successor: the file, and which line is whose.
    #[must_use]
    pub fn bequest(&self) -> Option<(OwnedFd, BTreeMap<String, u32>)> {
        let lines = self.lines.as_ref()?;
        let file = lines.file().try_clone_to_owned().ok()?;
        Some((file, self.places.clone()))
    }

    /// A count under this key: the one that is known already, else a new one.
    pub fn capacity(&mut self, key: String) -> Capacity {
        let line = self.line(key).unwrap_or_else(LineRef::alone);
        Capacity::on(line, self.column, 0)
    }

    /// Where processes tell each other how many wait for this pool.
    pub fn seniors(&mut self, key: String) -> Seniors {
        let line = self.line(key).unwrap_or_else(LineRef::alone);
        Seniors::on(line, self.column)
    }

    fn line(&mut self, key: String) -> Option<LineRef> {
        let lines = self.lines.as_ref()?;
        if let Some(place) = self.places.get(&key) {
            return lines.line(*place as usize);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        let line = lines.line(place as usize)?;
        self.places.insert(key, place);
        Some(line)
    }

    /// Whether what the process before holds is in the totals here.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// The count of this key, if it has a line.
    #[must_use]
    pub fn known(&self, key: &str) -> Option<Capacity> {
        let place = usize::try_from(*self.places.get(key)?).ok()?;
        let line = self.lines.as_ref()?.line(place)?;
        Some(Capacity::on(line, self.column, 0))
    }

    /// Takes off all that a process held which is gone. How much that was.
    pub fn forsake(&self, column: Column) -> u32 {
        let Some(lines) = &self.lines else {
            return 0;
        };
        let places = self.places.values();
        let lines = places.filter_map(|place| lines.line(*place as usize));
        let held = lines.map(|line| line.forsake(column));
        held.fold(0, u32::wrapping_add)
    }

    /// Whether there are many more lines than identities, and nobody else may count on them.
    #[must_use]
    pub fn is_cluttered(&self, identities: usize) -> bool {
        !self.has_others && self.places.len() > identities + CLUTTER
    }

    /// Frees the lines of what is not among `keys` and counts nothing.
    pub fn tidy(&mut self, keys: &BTreeSet<String>) {
        let Some(lines) = &self.lines else {
            return;
        };
        let free = &mut self.free;
        self.places.retain(|key, place| {
            let line = lines.line(*place as usize);
            let used = line.is_some_and(|line| line.total.load(Ordering::Relaxed) > 0);
            let stays = used || keys.contains(key) || key == KEY_OF_PROCESS;
            if !stays {
                free.push(*place);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::Reservation;

    #[test]
    fn a_successor_finds_each_count_and_gives_back_what_a_gone_one_held() {
        let column = |number| Column::new(number).unwrap();
        let mut old = Counting::begin(column(0));
        let counts: Vec<Capacity> = ["a", "b"].map(|key| old.capacity(key.to_owned())).into();
        for count in &counts {
            count.set_limit(2);
            assert_eq!(count.reserve(), Reservation::Held);
        }
        let (file, places) = old.bequest().unwrap();
        let mut new = Counting::inherit(file, places, column(1)).unwrap();
        let b = new.capacity("b".to_owned());
        let c = new.capacity("c".to_owned());
        assert_eq!((b.used(), c.used()), (1, 0));
        b.set_limit(2);
        assert_eq!(b.reserve(), Reservation::Held);
        assert_eq!(counts[1].reserve(), Reservation::Full);
        assert_eq!(new.forsake(column(0)), 2);
        assert_eq!(b.used(), 1);
    }

    #[test]
    fn lines_of_what_is_gone_are_used_again() {
        let mut counting = Counting::begin(Column::default());
        drop(counting.capacity("gone".to_owned()));
        let held = counting.capacity("held".to_owned());
        held.reserve_anyway();
        counting.tidy(&BTreeSet::new());
        assert_eq!(counting.places.keys().collect::<Vec<_>>(), ["held"]);
        drop(counting.capacity("new".to_owned()));
        assert_eq!(counting.next, 3);
    }
}
