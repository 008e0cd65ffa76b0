//! Time as the data plane sees it: nanoseconds of CLOCK_MONOTONIC, read once per turn and handed down as an argument.

use std::time::{Duration, Instant, SystemTime};

/// Nanoseconds since the process's [`Clock`] started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

/// `n` milliseconds, in nanoseconds.
#[must_use]
pub const fn millis(n: u64) -> u64 {
    n * 1_000_000
}

impl Nanos {
    pub const ZERO: Nanos = Nanos(0);
    pub const NEVER: Nanos = Nanos(u64::MAX);

    #[must_use]
    pub fn after(self, nanoseconds: u64) -> Nanos {
        Nanos(self.0.saturating_add(nanoseconds))
    }

    /// Nanoseconds from `earlier` to `self`; 0 if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One origin for all threads, so that a moment taken on one means the same on another.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    origin_wall: SystemTime,
}

impl Clock {
    #[must_use]
    pub fn start() -> Clock {
        Clock {
            origin: Instant::now(),
            origin_wall: SystemTime::now(),
        }
    }

    /// The clock of a process before this one, which reads `now` at this moment.
    #[must_use]
    pub fn resume(now: Nanos) -> Clock {
        let ago = Duration::from_nanos(now.0);
        let fresh = Clock::start();
        Clock {
            origin: fresh.origin.checked_sub(ago).unwrap_or(fresh.origin),
            origin_wall: fresh
                .origin_wall
                .checked_sub(ago)
                .unwrap_or(fresh.origin_wall),
        }
    }

    #[must_use]
    pub fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The wall clock's reading at `moment`, for the log.
    #[must_use]
    pub fn wall(&self, moment: Nanos) -> SystemTime {
        self.origin_wall + Duration::from_nanos(moment.0)
    }
}
