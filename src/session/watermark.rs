//! How much of a bulk stream has to have arrived before its receiver is woken (SO_RCVLOWAT): what it brings in one
//! millisecond to two. Few large moves cost less than many small ones, in the balancer and at both ends.
//!
//! The mark follows the stream's rate: reached within half of [`GUARD_NS`], it doubles; where the guard had to fetch what
//! stayed below it, it is halved. A stream earns its mark by [`BULK_MOVES`] wide moves in a row, and one narrow move ends it.

use crate::ids::Nanos;

use super::rules::{BULK_MARK_BYTES_MAX, BULK_MOVE_BYTES, BULK_MOVES, GUARD_NS};

/// Woken for any byte: the kernel's own mark.
const DOWN: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Watermark {
    bytes: u32,
    /// Wide moves in a row, up to [`BULK_MOVES`].
    wide_moves: u8,
    /// When what has stayed below the mark is fetched.
    pub(super) guard_at: Nanos,
}

impl Watermark {
    pub(super) const fn new() -> Watermark {
        Watermark {
            bytes: DOWN,
            wide_moves: 0,
            guard_at: Nanos::NEVER,
        }
    }

    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.bytes > DOWN
    }

    pub(super) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// For a purpose of one's own, without a guard.
    pub(super) fn set(&mut self, bytes: u32) {
        self.bytes = bytes.max(DOWN);
    }

    /// The stream has to earn its mark again; true if it was raised.
    pub(super) fn lower(&mut self) -> bool {
        std::mem::replace(self, Watermark::new()).is_raised()
    }

    /// The source is dry, after `taken` bytes since it was before; true if the mark has changed.
    pub(super) fn follow(&mut self, taken: u32, now: Nanos) -> bool {
        let before = self.bytes;
        if taken < BULK_MOVE_BYTES {
            self.lower();
        } else if self.wide_moves < BULK_MOVES {
            self.wide_moves += 1;
            if self.wide_moves == BULK_MOVES {
                self.bytes = BULK_MOVE_BYTES;
            }
        } else if taken >= self.bytes && self.was_reached_soon(now) {
            self.bytes = (self.bytes * 2).min(BULK_MARK_BYTES_MAX);
        }
        if self.is_raised() {
            self.guard_at = now.after(GUARD_NS);
        }
        self.bytes != before
    }

    fn was_reached_soon(&self, now: Nanos) -> bool {
        self.guard_at != Nanos::NEVER && now.after(GUARD_NS / 2) < self.guard_at
    }

    /// What has arrived is fetched now, as the mark was not reached in time.
    pub(super) fn give_way(&mut self) {
        self.guard_at = Nanos::NEVER;
        self.bytes /= 2;
        if self.bytes < BULK_MOVE_BYTES {
            self.lower();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: u32 = BULK_MOVE_BYTES;
    const START: Nanos = Nanos(1_000_000_000);

    fn earned() -> Watermark {
        let mut mark = Watermark::new();
        for _ in 1..BULK_MOVES {
            assert!(!mark.follow(WIDE, START) && !mark.is_raised());
        }
        assert!(mark.follow(WIDE, START));
        assert_eq!(mark.bytes(), WIDE);
        mark
    }

    /// A stream of so many bytes a second, for a second: the mark that it comes to, and how often it changed in the last
    /// half.
    fn stream(rate: u64) -> (u32, u32) {
        let (mut mark, mut now, mut changes) = (earned(), START, 0);
        while now < START.after(1_000_000_000) {
            let time_to_mark = (u64::from(mark.bytes()) * 1_000_000_000).div_ceil(rate);
            let waited = time_to_mark.min(GUARD_NS);
            now = now.after(waited);
            let before = mark.bytes();
            if waited == GUARD_NS {
                mark.give_way();
            }
            mark.follow((rate * waited).div_ceil(1_000_000_000) as u32, now);
            changes += u32::from(mark.bytes() != before && now > START.after(500_000_000));
        }
        (mark.bytes(), changes)
    }

    #[test]
    fn it_comes_to_what_the_stream_brings_in_a_millisecond_or_two() {
        for rate in [100_000_000, 234_000_000, 500_000_000, 1_000_000_000] {
            let (mark, changes) = stream(rate);
            let millisecond = (rate / 1_000) as u32;
            assert!(
                (millisecond..=2 * millisecond).contains(&mark),
                "{mark} of {rate}"
            );
            assert_eq!(changes, 0, "at {rate} bytes a second");
        }
    }

    #[test]
    fn it_has_a_ceiling() {
        assert_eq!(stream(20_000_000_000).0, BULK_MARK_BYTES_MAX);
    }

    #[test]
    fn a_slow_stream_is_woken_for_any_byte() {
        assert_eq!(stream(10_000_000).0, DOWN);
    }

    #[test]
    fn a_narrow_move_ends_it_and_it_must_be_earned_again() {
        let mut mark = earned();
        assert!(mark.follow(WIDE - 1, START) && !mark.is_raised());
        assert_eq!(mark.guard_at, Nanos::NEVER);
        assert!(!mark.follow(WIDE, START) && !mark.is_raised());
    }

    #[test]
    fn a_tail_below_it_is_always_guarded() {
        let mut mark = earned();
        for moment in [0, 100_000, GUARD_NS, 3 * GUARD_NS].map(|passed| START.after(passed)) {
            mark.follow(4 * WIDE, moment);
            assert_eq!(mark.guard_at, moment.after(GUARD_NS));
        }
    }

    #[test]
    fn what_was_not_reached_in_time_is_halved_and_then_given_up() {
        let mut mark = earned();
        mark.follow(WIDE, START);
        assert_eq!(mark.bytes(), 2 * WIDE);
        mark.give_way();
        assert_eq!((mark.bytes(), mark.guard_at), (WIDE, Nanos::NEVER));
        mark.give_way();
        assert_eq!(mark, Watermark::new());
    }
}
