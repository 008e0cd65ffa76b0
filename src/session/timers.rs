//! One timer per session, in a hierarchical wheel (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", SOSP
//! 1987): setting, moving and taking off cost the same at ten and at ten million, and nothing is allocated after start.
//!
//! Four levels of 64 places; a place of level 0 is one tick of about a millisecond (2^20 ns). A timer fires at most one
//! tick late and never early; one that lies beyond the last level (about 5 hours) is looked at again on the way.

use crate::ids::{Nanos, Slot};

const LEVELS: usize = 4;
const PLACES: usize = 64;
const TICK_SHIFT: u32 = 20;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    next: u32,
    previous: u32,
    deadline_tick: u64,
    /// Level × 64 + place, or `NONE` while it is not in the wheel.
    place: u32,
}

const ABSENT: Node = Node {
    next: NONE,
    previous: NONE,
    deadline_tick: 0,
    place: NONE,
};

#[derive(Debug)]
pub struct Timers {
    nodes: Vec<Node>,
    heads: [[u32; PLACES]; LEVELS],
    occupied: [u64; LEVELS],
    /// All ticks up to and including this one have fired.
    tick: u64,
}

fn tick_at_or_after(moment: Nanos) -> u64 {
    (moment.0 >> TICK_SHIFT) + u64::from(moment.0 & ((1 << TICK_SHIFT) - 1) != 0)
}

impl Timers {
    /// A wheel for slots below `slots_max`, starting at `now`.
    #[must_use]
    pub fn new(slots_max: u32, now: Nanos) -> Timers {
        Timers {
            nodes: Vec::with_capacity(slots_max as usize),
            heads: [[NONE; PLACES]; LEVELS],
            occupied: [0; LEVELS],
            tick: now.0 >> TICK_SHIFT,
        }
    }

    /// Sets the slot's timer to `deadline`, wherever it was before.
    pub fn set(&mut self, slot: Slot, deadline: Nanos) {
        while self.nodes.len() <= slot.index() {
            self.nodes.push(ABSENT);
        }
        self.unlink(slot.0);
        self.nodes[slot.index()].deadline_tick = tick_at_or_after(deadline).max(self.tick + 1);
        self.link(slot.0);
    }

    pub fn clear(&mut self, slot: Slot) {
        if slot.index() < self.nodes.len() {
            self.unlink(slot.0);
        }
    }

    /// The moment at which [`Timers::advance`] should be called next: never later than the earliest deadline's tick.
    /// [`Nanos::NEVER`] if no timer is set.
    #[must_use]
    pub fn next(&self) -> Nanos {
        let mut next = u64::MAX;
        for level in 0..LEVELS {
            if self.occupied[level] == 0 {
                continue;
            }
            let shift = 6 * level as u32;
            let here = self.tick >> shift;
            let turned = self.occupied[level].rotate_right((here & 63) as u32);
            // Bit 0 is the current place: on level 0 it has fired, above it has been handed down; so it means a full turn.
            let ahead = match turned & !1 {
                0 => 64,
                others => u64::from(others.trailing_zeros()),
            };
            next = next.min((here + ahead) << shift);
        }
        if next == u64::MAX {
            Nanos::NEVER
        } else {
            Nanos(next << TICK_SHIFT)
        }
    }

    /// Moves on to `now` and appends the slots whose deadline has passed to `due`.
    pub fn advance(&mut self, now: Nanos, due: &mut Vec<Slot>) {
        let target = now.0 >> TICK_SHIFT;
        while self.tick < target {
            let next = (self.next().0 >> TICK_SHIFT).min(target);
            self.tick = next.max(self.tick + 1);
            for level in (1..LEVELS).rev() {
                if self.tick.trailing_zeros() >= 6 * level as u32 {
                    self.hand_down(level);
                }
            }
            let place = (self.tick & 63) as usize;
            let mut node = std::mem::replace(&mut self.heads[0][place], NONE);
            self.occupied[0] &= !(1 << place);
            while node != NONE {
                let next = self.nodes[node as usize].next;
                self.nodes[node as usize].place = NONE;
                if self.nodes[node as usize].deadline_tick <= self.tick {
                    due.push(Slot(node));
                } else {
                    self.link(node);
                }
                node = next;
            }
        }
    }

    /// Spreads the timers of the current place of `level` over the levels below.
    fn hand_down(&mut self, level: usize) {
        let place = (self.tick >> (6 * level as u32) & 63) as usize;
        let mut node = std::mem::replace(&mut self.heads[level][place], NONE);
        self.occupied[level] &= !(1 << place);
        while node != NONE {
            let next = self.nodes[node as usize].next;
            self.nodes[node as usize].place = NONE;
            self.link(node);
            node = next;
        }
    }

    fn link(&mut self, slot: u32) {
        let deadline = self.nodes[slot as usize].deadline_tick.max(self.tick);
        let distance = deadline - self.tick;
        let level = (0..LEVELS)
            .find(|&level| distance < 64 << (6 * level))
            .unwrap_or(LEVELS - 1);
        // Beyond the last level: as far as it reaches.
        let reached = deadline.min(self.tick + (63 << (6 * (LEVELS - 1))));
        let place = (reached >> (6 * level as u32) & 63) as usize;
        let head = self.heads[level][place];
        let node = &mut self.nodes[slot as usize];
        node.next = head;
        node.previous = NONE;
        node.place = (level * PLACES + place) as u32;
        if head != NONE {
            self.nodes[head as usize].previous = slot;
        }
        self.heads[level][place] = slot;
        self.occupied[level] |= 1 << place;
    }

    fn unlink(&mut self, slot: u32) {
        let Node {
            next,
            previous,
            place,
            ..
        } = self.nodes[slot as usize];
        if place == NONE {
            return;
        }
        let (level, place) = (place as usize / PLACES, place as usize % PLACES);
        if previous == NONE {
            self.heads[level][place] = next;
        } else {
            self.nodes[previous as usize].next = next;
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if self.heads[level][place] == NONE {
            self.occupied[level] &= !(1 << place);
        }
        self.nodes[slot as usize].place = NONE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TICK: u64 = 1 << TICK_SHIFT;

    fn fired_at(start: u64, deadlines: &[u64]) -> Vec<u64> {
        let mut timers = Timers::new(deadlines.len() as u32, Nanos(start));
        for (slot, &deadline) in deadlines.iter().enumerate() {
            timers.set(Slot(slot as u32), Nanos(deadline));
        }
        let mut fired = vec![0; deadlines.len()];
        let mut due = Vec::new();
        while timers.next() != Nanos::NEVER {
            let now = timers.next();
            timers.advance(now, &mut due);
            for slot in due.drain(..) {
                fired[slot.index()] = now.0;
            }
        }
        fired
    }

    proptest! {
        #[test]
        fn each_fires_once_never_early_and_at_most_a_tick_late(
            start in 0u64..1 << 50,
            offsets in prop::collection::vec(0u64..1 << 46, 1..40),
        ) {
            let deadlines: Vec<u64> = offsets.iter().map(|offset| start + offset).collect();
            for (fired, deadline) in fired_at(start, &deadlines).iter().zip(&deadlines) {
                prop_assert!(*fired >= *deadline);
                prop_assert!(*fired <= deadline + 2 * TICK, "{} ticks late", (fired - deadline) / TICK);
            }
        }

        #[test]
        fn moved_and_cleared_timers_keep_their_word(
            steps in prop::collection::vec((0u32..8, 0u64..200_000, any::<bool>()), 1..60),
        ) {
            let mut timers = Timers::new(8, Nanos(0));
            let mut expected = [None; 8];
            let mut now = 0;
            let mut due = Vec::new();
            for (slot, offset, clear) in steps {
                if clear {
                    timers.clear(Slot(slot));
                    expected[slot as usize] = None;
                } else {
                    let deadline = now + offset * 10_000;
                    timers.set(Slot(slot), Nanos(deadline));
                    expected[slot as usize] = Some(deadline);
                }
                now += offset * 3_000;
                timers.advance(Nanos(now), &mut due);
                for slot in due.drain(..) {
                    let deadline = expected[slot.index()].take();
                    prop_assert!(deadline.is_some_and(|deadline| deadline <= now));
                }
                for deadline in expected.iter().flatten() {
                    prop_assert!(deadline + 2 * TICK > now, "overslept");
                }
            }
        }
    }
}
