//! Two lines of flows, threaded through the table itself: joining, leaving and going to the end cost the same at any
//! length. A flow stands in one of them at a time.

use super::Entry;

const NONE: u32 = u32::MAX;

/// A flow's neighbours in its line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    before: u32,
    behind: u32,
}

impl Default for Link {
    fn default() -> Link {
        Link {
            before: NONE,
            behind: NONE,
        }
    }
}

#[derive(Debug)]
pub(super) struct List {
    first: u32,
    last: u32,
    length: u32,
}

impl Default for List {
    fn default() -> List {
        List {
            first: NONE,
            last: NONE,
            length: 0,
        }
    }
}

impl List {
    pub(super) fn length(&self) -> usize {
        self.length as usize
    }

    pub(super) fn oldest(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// The oldest that is not `spared`.
    pub(super) fn oldest_but<T>(&self, entries: &[Entry<T>], spared: Option<u32>) -> Option<u32> {
        let oldest = self.oldest()?;
        if Some(oldest) != spared {
            return Some(oldest);
        }
        let behind = entries[oldest as usize].link.behind;
        (behind != NONE).then_some(behind)
    }

    /// Joins at the end.
    pub(super) fn push<T>(&mut self, entries: &mut [Entry<T>], slot: u32) {
        entries[slot as usize].link = Link {
            before: self.last,
            behind: NONE,
        };
        match self.last {
            NONE => self.first = slot,
            last => entries[last as usize].link.behind = slot,
        }
        self.last = slot;
        self.length += 1;
    }

    pub(super) fn take_out<T>(&mut self, entries: &mut [Entry<T>], slot: u32) {
        let Link { before, behind } = std::mem::take(&mut entries[slot as usize].link);
        match before {
            NONE => self.first = behind,
            before => entries[before as usize].link.behind = behind,
        }
        match behind {
            NONE => self.last = before,
            behind => entries[behind as usize].link.before = before,
        }
        self.length -= 1;
    }

    /// Goes to the end.
    pub(super) fn renew<T>(&mut self, entries: &mut [Entry<T>], slot: u32) {
        if self.last != slot {
            self.take_out(entries, slot);
            self.push(entries, slot);
        }
    }
}
