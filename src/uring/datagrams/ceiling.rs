//! What the sockets of flows leave of the process's descriptors. Strangers can ask for as many flows as they like, so the
//! last descriptors are not for flows: who looks at the process, checks backends or comes by TCP still finds some.
//!
//! The kernel gives out the lowest free number, so the number of a new socket tells that all below it are taken: no count
//! has to be kept, and none shared between workers.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use crate::sys::limits;

/// Of so many descriptors one is kept back.
const SHARE: u64 = 8;
const KEPT_MIN: u64 = 16;
const KEPT_MAX: u64 = 512;

#[derive(Debug)]
pub(super) struct Ceiling {
    /// The lowest number that no flow's socket may have.
    number: RawFd,
    /// Sockets of flows that are too many, as of the last attempt to open one.
    excess: u32,
    /// Since then a number has become free that a flow may have.
    low_is_free: bool,
}

impl Ceiling {
    /// Asks the kernel how many there are.
    pub(super) fn look() -> Ceiling {
        let limit = limits::descriptors().map_or(u64::MAX, |limit| limit.soft);
        Ceiling {
            number: below(limit),
            excess: 0,
            low_is_free: false,
        }
    }

    /// Whether a flow may keep this new socket.
    pub(super) fn admits(&mut self, socket: BorrowedFd<'_>) -> bool {
        let above = socket.as_raw_fd().saturating_sub(self.number);
        self.excess = u32::try_from(above + 1).unwrap_or(0);
        self.low_is_free = false;
        self.excess == 0
    }

    /// There was no descriptor at all: either others have what is kept back, or the limit was lowered under our feet.
    pub(super) fn none_left(&mut self) {
        let limit = limits::descriptors().map_or(u64::MAX, |limit| limit.soft);
        self.number = below(limit);
        let last = RawFd::try_from(limit).unwrap_or(RawFd::MAX);
        self.excess = u32::try_from(last.saturating_sub(self.number)).unwrap_or(0) + 1;
        self.low_is_free = false;
    }

    pub(super) fn excess(&self) -> u32 {
        self.excess
    }

    /// A flow leaves this socket: whether it must be closed, and not wait for another flow.
    pub(super) fn wants(&mut self, socket: RawFd) -> bool {
        let last = self.excess <= 1;
        let too_high = socket >= self.number;
        self.low_is_free |= !too_high;
        // The flow that there was none for needs a number that it may have: if none is free by then, one more must go.
        if !last || self.low_is_free {
            self.excess = self.excess.saturating_sub(1);
        }
        // The last one may serve that flow.
        !last || too_high
    }
}

fn below(limit: u64) -> RawFd {
    let kept = (limit / SHARE).clamp(KEPT_MIN, KEPT_MAX);
    RawFd::try_from(limit.saturating_sub(kept)).unwrap_or(RawFd::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn some_are_kept_back_of_any_number() {
        let cases = [
            (u64::MAX, RawFd::MAX),
            (1 << 20, (1 << 20) - 512),
            (1_024, 896),
            (100, 84),
            (10, 0),
        ];
        for (limit, number) in cases {
            assert_eq!(below(limit), number, "of {limit}");
        }
    }

    #[test]
    fn what_is_too_high_is_refused_and_what_is_too_much_is_closed() {
        let file = File::open("/dev/null").unwrap();
        let own = file.as_raw_fd();
        let mut ceiling = Ceiling {
            number: own + 1,
            excess: 0,
            low_is_free: false,
        };
        assert!(ceiling.admits(file.as_fd()));
        assert_eq!(ceiling.excess(), 0);
        assert!(!ceiling.wants(own));
        ceiling.number = own;
        assert!(!ceiling.admits(file.as_fd()));
        assert_eq!(ceiling.excess(), 1);
        assert!(ceiling.wants(own), "above the ceiling");
        assert_eq!(
            ceiling.excess(),
            1,
            "the newcomer could not have its number"
        );
        assert!(!ceiling.wants(own - 1), "it may serve the newcomer");
        assert_eq!(ceiling.excess(), 0);
        ceiling.number = own - 2;
        assert!(!ceiling.admits(file.as_fd()));
        assert_eq!(ceiling.excess(), 3);
        let closed: Vec<bool> = (0..3).map(|_| ceiling.wants(0)).collect();
        assert_eq!(closed, [true, true, false]);
        assert_eq!(ceiling.excess(), 0);
        assert!(!ceiling.admits(file.as_fd()));
        let closed: Vec<bool> = [0, own, own].map(|socket| ceiling.wants(socket)).into();
        assert_eq!(closed, [true; 3]);
        assert_eq!(ceiling.excess(), 0, "the first one's number is free");
    }
}
