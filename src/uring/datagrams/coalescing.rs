//! Streams leave in fewer sends where a turn begins a little later: what a flow sends in a burst has come together by then.
//! So network adapters moderate their interrupts (adaptive coalescing, `ethtool -C`). Whether it pays is seen from what the
//! last turns passed on: questions and answers are no streams. What is with them in a worker, such as a stream's few
//! acknowledgements, comes [`WINDOW_US`] later at most.

use std::time::{Duration, Instant};

use crate::ids::Side;

/// So long a turn may wait for more, in microseconds.
const WINDOW_US: u32 = 60;
/// After so many turns with datagrams it is decided anew.
const LOOK_TURNS: u32 = 64;
/// Fewer receives a second would make a flow's burst wait for nobody.
const RATE_MIN: u32 = 30_000;
/// Of so many, all but one go the same way at least: else they are questions and answers.
const ONE_WAY: u32 = 8;
/// A turn that brought so many needs no more.
const ENOUGH: u32 = 16;

/// What was passed on since some time.
#[derive(Clone, Copy, Debug, Default)]
struct Passed {
    /// Received pieces, by the side they went to: a datagram each, or several that the kernel had joined.
    pieces: [u32; 2],
    sends: u32,
}

impl Passed {
    fn all(self) -> u32 {
        self.pieces[0] + self.pieces[1]
    }

    /// Whether these are bursts of streams: a third of them at least left with others, nearly all went one way.
    fn are_streams(self) -> bool {
        let [one, other] = self.pieces;
        self.sends * 3 <= self.all() * 2 && one.min(other) * ONE_WAY <= self.all()
    }
}

/// Decides how long a turn waits for more than its first answer.
#[derive(Debug)]
pub(super) struct Coalescing {
    /// The kernel can wait so.
    possible: bool,
    waits: bool,
    in_turn: Passed,
    in_look: Passed,
    turns: u32,
    look_began: Instant,
}

impl Coalescing {
    pub(super) fn new(possible: bool, now: Instant) -> Coalescing {
        Coalescing {
            possible,
            waits: false,
            in_turn: Passed::default(),
            in_look: Passed::default(),
            turns: 0,
            look_began: now,
        }
    }

    /// A send leaves with so many received pieces.
    pub(super) fn note_send(&mut self, toward: Side, pieces: u32) {
        for passed in [&mut self.in_turn, &mut self.in_look] {
            passed.pieces[toward.index()] += pieces;
            passed.sends += 1;
        }
    }

    /// How long the turn that begins may wait for a second answer once it could have had the first, in microseconds.
    pub(super) fn window_us(&mut self, now: impl FnOnce() -> Instant) -> u32 {
        let before = std::mem::take(&mut self.in_turn).all();
        if before == 0 {
            return 0;
        }
        self.turns += 1;
        if self.turns == LOOK_TURNS {
            self.decide(now());
        }
        if self.waits && before < ENOUGH {
            WINDOW_US
        } else {
            0
        }
    }

    fn decide(&mut self, now: Instant) {
        let passed = std::mem::take(&mut self.in_look);
        let took = now.saturating_duration_since(self.look_began);
        let often = Duration::from_secs(1) * passed.all() >= took * RATE_MIN;
        self.waits = self.possible && often && passed.are_streams();
        (self.turns, self.look_began) = (0, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns of a look, each with the same sends (side and pieces), so far apart; then the window of the next.
    fn window_after(
        coalescing: &mut Coalescing,
        clock: &mut Instant,
        sends: &[(Side, u32)],
        apart_us: u64,
    ) -> u32 {
        for _ in 0..LOOK_TURNS {
            for &(toward, pieces) in sends {
                coalescing.note_send(toward, pieces);
            }
            *clock += Duration::from_micros(apart_us);
            coalescing.window_us(|| *clock);
        }
        coalescing.note_send(Side::Backend, 1);
        coalescing.window_us(|| *clock)
    }

    fn fresh(possible: bool) -> (Coalescing, Instant) {
        let now = Instant::now();
        (Coalescing::new(possible, now), now)
    }

    const BURST: (Side, u32) = (Side::Backend, 3);

    #[test]
    fn bursts_of_a_stream_are_waited_for() {
        for side in Side::BOTH {
            let (mut coalescing, mut clock) = fresh(true);
            assert_eq!(coalescing.window_us(|| clock), 0, "nothing is known yet");
            let window = window_after(&mut coalescing, &mut clock, &[(side, 3)], 25);
            assert_eq!(window, WINDOW_US, "towards {side:?}");
        }
    }

    #[test]
    fn who_waits_for_an_answer_does_not_wait_for_others() {
        let (mut coalescing, mut clock) = fresh(true);
        let both = [BURST, (Side::Client, 3)];
        assert_eq!(
            window_after(&mut coalescing, &mut clock, &both, 25),
            0,
            "two ways"
        );
        let acknowledged = [(Side::Backend, 14), (Side::Client, 1)];
        assert_eq!(
            window_after(&mut coalescing, &mut clock, &acknowledged, 25),
            WINDOW_US,
            "a few acknowledgements are no answers"
        );
    }

    #[test]
    fn nothing_is_waited_for_where_nothing_would_join() {
        let (mut coalescing, mut clock) = fresh(true);
        let alone = [(Side::Backend, 1); 3];
        assert_eq!(
            window_after(&mut coalescing, &mut clock, &alone, 25),
            0,
            "one of each flow"
        );
        assert_eq!(
            window_after(&mut coalescing, &mut clock, &[BURST], 1_000),
            0,
            "rare bursts"
        );
        let (mut without, mut clock) = fresh(false);
        assert_eq!(
            window_after(&mut without, &mut clock, &[BURST], 25),
            0,
            "the kernel cannot"
        );
    }

    #[test]
    fn a_large_turn_and_an_empty_one_are_followed_at_once() {
        let (mut coalescing, mut clock) = fresh(true);
        window_after(&mut coalescing, &mut clock, &[BURST], 25);
        assert_eq!(coalescing.window_us(|| clock), 0, "nothing came");
        coalescing.note_send(Side::Backend, ENOUGH);
        assert_eq!(coalescing.window_us(|| clock), 0, "enough came");
        coalescing.note_send(Side::Backend, ENOUGH - 1);
        assert_eq!(coalescing.window_us(|| clock), WINDOW_US, "more may come");
    }

    #[test]
    fn it_ends_with_the_stream() {
        let (mut coalescing, mut clock) = fresh(true);
        window_after(&mut coalescing, &mut clock, &[BURST], 25);
        let slower = window_after(&mut coalescing, &mut clock, &[BURST], 200);
        assert_eq!(slower, 0);
    }
}
