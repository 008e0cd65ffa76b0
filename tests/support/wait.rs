//! Deadlines instead of sleeps: look again and again until it is so, or panic with what was waited for.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(3);

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The first value that `look` finds within `limit`.
#[track_caller]
pub fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}

#[track_caller]
pub fn until(limit: Duration, what: &str, mut look: impl FnMut() -> bool) {
    within(limit, what, || look().then_some(()));
}

/// A small generator of well-spread numbers (splitmix64), so that a run can be repeated from its seed.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        super::pattern::mix(self.0)
    }

    /// A number in `0..end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
