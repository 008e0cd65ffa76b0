//! Who gives way when more datagrams come than can be carried: the flows that most of them are of. Passing a datagram on
//! costs several times what receiving and dropping it does, so a worker that is behind passes on less of what is heavy;
//! then it keeps up with its sockets, and what the others send is not lost in them. Pure.
//!
//! A worker is *behind* in a turn in which its sockets had more than a turn takes; the *depth* grows with each such turn and
//! shrinks with each other one. From a depth of [`PATIENCE`] on, which a short stall does not reach, a flow that had half as
//! much again as the mean of the last turn gets that mean, halved with each step of depth; its newest are dropped. The mean
//! is over all flows that were there lately, also those that send little. Where all send alike, or one is alone, nobody is
//! heavy, and what is too much is lost in the sockets, newest first. All newcomers are one flow here.

/// Turns behind until somebody has to give way.
const PATIENCE: u32 = 4;
/// So many turns a flow counts as one that is there.
const WINDOW: u32 = 32;
/// More depth than this changes nothing.
const DEPTH_MAX: u32 = 12;
/// What the heaviest flow gets of a turn at least.
const SHARE_MIN: u32 = 16;

/// What a flow has had lately.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lately {
    turn: u32,
    window: u32,
    count: u32,
    heavy: bool,
}

#[derive(Debug, Default)]
pub struct Fairness {
    turn: u32,
    depth: u32,
    /// Of this turn.
    datagrams: u32,
    /// Those that had any in this window, and in the last.
    flows: [u32; 2],
    /// What each had of the last turn on average.
    mean: u32,
    newcomers: Lately,
}

impl Fairness {
    /// `others`: there are flows besides one, whether or not they were heard lately. What they send may be among what is lost.
    pub fn begin_turn(&mut self, behind: bool, others: bool) {
        if !behind && self.depth == 0 {
            return;
        }
        self.depth = match behind {
            true => (self.depth + 1).min(DEPTH_MAX),
            false => self.depth - 1,
        };
        let [now, before] = self.flows;
        let least = 1 + u32::from(others);
        self.mean = self.datagrams / now.max(before).max(least);
        self.datagrams = 0;
        let window = self.window();
        self.turn = self.turn.wrapping_add(1);
        if self.window() != window {
            self.flows = [0, now];
        }
    }

    fn window(&self) -> u32 {
        self.turn / WINDOW + 1
    }

    /// Whether these are passed on.
    pub fn admits(&mut self, lately: &mut Lately, count: u32) -> bool {
        if self.depth == 0 {
            return true;
        }
        if lately.turn != self.turn {
            let in_last = lately.turn == self.turn.wrapping_sub(1);
            let heavy = in_last && self.mean > 0 && lately.count > self.mean + self.mean / 2;
            let window = self.window();
            self.flows[0] += u32::from(lately.window != window);
            *lately = Lately {
                turn: self.turn,
                window,
                count: 0,
                heavy,
            };
        }
        self.datagrams += count;
        lately.count += count;
        let first = lately.count == count;
        first || !lately.heavy || lately.count <= self.share()
    }

    pub fn admits_newcomers(&mut self, count: u32) -> bool {
        let mut lately = self.newcomers;
        let admitted = self.admits(&mut lately, count);
        self.newcomers = lately;
        admitted
    }

    /// What a heavy flow gets in this turn.
    fn share(&self) -> u32 {
        match self.depth.checked_sub(PATIENCE) {
            None => u32::MAX,
            Some(steps) => (self.mean >> steps).max(SHARE_MIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A turn in which each of these flows has so many datagrams, one after the other in turn; how many of each pass.
    fn turn(fairness: &mut Fairness, behind: bool, flows: &mut [(Lately, u32)]) -> Vec<u32> {
        fairness.begin_turn(behind, false);
        let mut passed = vec![0; flows.len()];
        let most = flows.iter().map(|(_, count)| *count).max().unwrap_or(0);
        for n in 0..most {
            for ((lately, count), passed) in flows.iter_mut().zip(&mut passed) {
                if n < *count && fairness.admits(lately, 1) {
                    *passed += 1;
                }
            }
        }
        passed
    }

    #[test]
    fn a_short_stall_costs_nobody_anything() {
        let mut fairness = Fairness::default();
        let mut flows = [(Lately::default(), 250), (Lately::default(), 6)];
        for _ in 1..PATIENCE {
            assert_eq!(turn(&mut fairness, true, &mut flows), [250, 6]);
        }
        for _ in 0..PATIENCE {
            assert_eq!(turn(&mut fairness, false, &mut flows), [250, 6]);
        }
    }

    #[test]
    fn who_floods_gives_way_and_nobody_else() {
        let mut fairness = Fairness::default();
        let mut flows = [1_u32, 2, 3, 240, 5, 6].map(|count| (Lately::default(), count));
        let mut of_flood = Vec::new();
        for _ in 0..2 * DEPTH_MAX {
            let passed = turn(&mut fairness, true, &mut flows);
            assert_eq!([passed[0], passed[1], passed[2]], [1, 2, 3]);
            assert_eq!([passed[4], passed[5]], [5, 6]);
            of_flood.push(passed[3]);
        }
        assert_eq!(of_flood[..3], [240; 3]);
        assert!(
            of_flood.is_sorted_by(|one, next| one >= next),
            "{of_flood:?}"
        );
        assert_eq!(of_flood.last(), Some(&SHARE_MIN));
        // It keeps up again, so the flood is let through again.
        let later: Vec<u32> = (0..DEPTH_MAX)
            .map(|_| turn(&mut fairness, false, &mut flows)[3])
            .collect();
        assert_eq!(later.last(), Some(&240));
    }

    /// Those who send so little that most turns have nothing of theirs still count.
    #[test]
    fn who_floods_gives_way_to_those_who_come_now_and_then() {
        let mut fairness = Fairness::default();
        let mut flood = [(Lately::default(), 250)];
        let mut others = [(Lately::default(), 1); 8];
        let mut passed = 0;
        for n in 0..4 * WINDOW {
            passed = turn(&mut fairness, true, &mut flood)[0];
            let other = &mut others[n as usize % 8];
            assert!(fairness.admits(&mut other.0, 1));
        }
        assert_eq!(passed, SHARE_MIN);
    }

    /// What others send may all be lost, so that none of it is seen.
    #[test]
    fn who_floods_gives_way_to_those_who_are_not_heard() {
        let mut fairness = Fairness::default();
        let mut lately = Lately::default();
        let mut passed = 0;
        for _ in 0..2 * DEPTH_MAX {
            fairness.begin_turn(true, true);
            passed = (0..250).filter(|_| fairness.admits(&mut lately, 1)).count();
        }
        assert_eq!(passed, SHARE_MIN as usize);
    }

    #[test]
    fn who_is_alone_gives_way_to_nobody() {
        let mut fairness = Fairness::default();
        let mut flows = [(Lately::default(), 250)];
        for _ in 0..4 * WINDOW {
            assert_eq!(turn(&mut fairness, true, &mut flows), [250]);
        }
    }

    #[test]
    fn where_all_send_alike_nobody_is_heavy() {
        let mut fairness = Fairness::default();
        let mut flows = [16_u32, 14, 20, 12, 16, 18].map(|count| (Lately::default(), count));
        for _ in 0..2 * DEPTH_MAX {
            assert_eq!(
                turn(&mut fairness, true, &mut flows),
                [16, 14, 20, 12, 16, 18]
            );
        }
    }

    #[test]
    fn newcomers_are_one_flow_however_many_they_are() {
        let mut fairness = Fairness::default();
        let mut old = Lately::default();
        for n in 0..2 * DEPTH_MAX {
            fairness.begin_turn(true, false);
            let let_in = (0..200).filter(|_| fairness.admits_newcomers(1)).count();
            assert!(fairness.admits(&mut old, 1));
            if n >= DEPTH_MAX {
                assert_eq!(let_in, SHARE_MIN as usize);
            }
        }
    }

    /// What came as one is not cut: the first of a turn passes, however much it is.
    #[test]
    fn the_first_of_a_turn_always_passes() {
        let mut fairness = Fairness::default();
        let mut flows = [Lately::default(); 3];
        for _ in 0..2 * DEPTH_MAX {
            fairness.begin_turn(true, false);
            assert!(fairness.admits(&mut flows[0], 64));
            assert!(fairness.admits(&mut flows[1], 1));
            assert!(fairness.admits(&mut flows[2], 1));
        }
        assert!(!fairness.admits(&mut flows[0], 64));
    }
}
