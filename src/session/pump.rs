//! One direction of a session: what is under way from its source to the other side, which is its sink. The two
//! directions are two of these. A pump keeps account; [`super::relaying`] acts on it.
//!
//! Order of bytes: what is being sent, then what is in the pipe, then the parcels in line, then what is in the socket.
//! The pipe is never filled while a parcel is in line, and a parcel is never sent while the pipe holds bytes.

use super::parcels::Line;
use super::rules::{BULK_MARK_BYTES_MAX, FULL_STREAK, SMALL_MOVE_BYTES, SMALL_MOVES};
use super::watermark::Watermark;

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// Through provided buffers, by a multishot receive.
    Copy,
    /// Splice is wanted; the receive is being stopped first.
    Leaving,
    /// Through a pipe, by polls and splice.
    Splice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pump {
    pub(super) route: Route,
    /// Parcels that wait to be sent.
    pub(super) line: Line,
    /// A parcel is with the kernel, on its way to the sink.
    pub(super) sending: bool,
    /// Bytes in the pipe.
    pub(super) piped: u32,
    /// A move goes on in the next turn.
    pub(super) yielding: bool,
    /// Nothing more comes from the source.
    pub(super) ended: bool,
    /// The end was passed on to the sink; nothing is left to do.
    pub(super) delivered: bool,
    /// The sink is gone: whatever still comes is thrown away.
    pub(super) dropped: bool,
    full_streak: u8,
    small_moves: u8,
    /// Taken from the source since it was last found dry, as far as anybody asks.
    taken: u32,
    /// What the source is woken for.
    pub(super) mark: Watermark,
}

impl Pump {
    pub(super) const fn new() -> Pump {
        Pump {
            route: Route::Copy,
            line: Line::EMPTY,
            sending: false,
            piped: 0,
            yielding: false,
            ended: false,
            delivered: false,
            dropped: false,
            full_streak: 0,
            small_moves: 0,
            taken: 0,
            mark: Watermark::new(),
        }
    }

    /// Whether bytes are under way that the sink does not have yet.
    #[must_use]
    pub fn holds_bytes(&self) -> bool {
        self.sending || self.piped > 0 || !self.line.is_empty()
    }

    /// Whether its source has ended: nothing more comes from there.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    #[must_use]
    pub fn route(&self) -> Route {
        self.route
    }

    #[must_use]
    pub fn piped(&self) -> u32 {
        self.piped
    }

    /// Notes a parcel's size; true when enough full ones came in a row to make this a stream.
    pub(super) fn note_parcel(&mut self, full: bool) -> bool {
        self.full_streak = if full {
            self.full_streak.saturating_add(1)
        } else {
            0
        };
        self.full_streak >= FULL_STREAK
    }

    /// Starts the account of moves anew, as a stream begins.
    pub(super) fn begin_splice(&mut self) {
        self.route = Route::Splice;
        self.small_moves = 0;
        self.taken = 0;
    }

    pub(super) fn begin_copy(&mut self) {
        self.route = Route::Copy;
        self.full_streak = 0;
    }

    pub(super) fn note_taken(&mut self, bytes: u32) {
        self.taken = (self.taken + bytes).min(BULK_MARK_BYTES_MAX);
    }

    /// The source is dry: what was taken since it was before, over all turns that it took. True, too, when the stream has
    /// turned into small talk.
    pub(super) fn note_dry(&mut self) -> (u32, bool) {
        let taken = std::mem::take(&mut self.taken);
        self.small_moves = if taken < SMALL_MOVE_BYTES {
            self.small_moves.saturating_add(1)
        } else {
            0
        };
        (taken, self.small_moves >= SMALL_MOVES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_turns_took_is_one_move() {
        let mut pump = Pump::new();
        pump.note_taken(SMALL_MOVE_BYTES - 1);
        pump.note_taken(SMALL_MOVE_BYTES);
        assert_eq!(pump.note_dry(), (2 * SMALL_MOVE_BYTES - 1, false));
        assert_eq!(pump.note_dry().0, 0, "it was told");
        pump.note_taken(u32::MAX - BULK_MARK_BYTES_MAX);
        pump.note_taken(1);
        assert_eq!(
            pump.note_dry().0,
            BULK_MARK_BYTES_MAX,
            "more is not asked for"
        );
    }

    #[test]
    fn small_moves_in_a_row_are_small_talk() {
        let mut pump = Pump::new();
        for last in [false, false, true] {
            pump.note_taken(SMALL_MOVE_BYTES - 1);
            assert_eq!(pump.note_dry().1, last);
        }
        pump.note_taken(SMALL_MOVE_BYTES);
        assert!(!pump.note_dry().1);
    }
}
