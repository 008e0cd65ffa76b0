//! Clients that wait in older generations of the service: they came before everybody who comes to the newest, which lets
//! them go first. Each process says on a shared line how many wait in its own queue; one that has some heeds nobody else's.

use std::sync::atomic::Ordering;

use crate::sys::shares::{Column, LineRef};

#[derive(Debug)]
pub struct Seniors {
    line: LineRef,
    column: Column,
}

impl Default for Seniors {
    fn default() -> Seniors {
        Seniors::on(LineRef::alone(), Column::default())
    }
}

impl Seniors {
    #[must_use]
    pub fn on(line: LineRef, column: Column) -> Seniors {
        Seniors { line, column }
    }

    /// Whether others go first.
    #[inline]
    #[must_use]
    pub fn wait(&self) -> bool {
        self.line.total.load(Ordering::Relaxed) != 0
            && self.line.share(self.column).load(Ordering::Relaxed) == 0
    }

    /// So many wait here, and go before those of a younger process.
    pub fn tell(&self, waiting: u32) {
        let before = self.line.share(self.column).swap(waiting, Ordering::AcqRel);
        let more = waiting.wrapping_sub(before);
        self.line.total.fetch_add(more, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_young_let_the_old_go_first_and_the_old_let_nobody() {
        let line = LineRef::alone();
        let of = |column| Seniors::on(line.clone(), Column::new(column).unwrap());
        let (old, older, new) = (of(0), of(1), of(2));
        assert!(!new.wait());
        old.tell(3);
        older.tell(2);
        assert!(new.wait() && !old.wait() && !older.wait());
        old.tell(0);
        assert!(new.wait());
        line.forsake(Column::new(1).unwrap());
        assert!(!new.wait());
    }
}
