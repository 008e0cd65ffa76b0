//! Why a breaker changed: one small value that fits into a word, and the sentence for it in log, events and status.

use std::fmt;

use crate::ids::ConnectFailure;

/// Why a breaker changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// So many connects in a row failed, the last one like this.
    Connects(u32, ConnectFailure),
    /// So many sessions in a row were reset early.
    Resets(u32),
    /// This share of so many attempts failed.
    Errors {
        percent: u8,
        attempts: u32,
    },
    TrialFailed,
    /// The time for being open is over.
    Rested,
    TrialsPassed,
    /// No other backend of the pool is eligible.
    Needed,
    /// More are ejected than the rules allow now.
    TooMany,
    /// Half-open, and no session came to try it.
    Untried,
    /// The pool has no breaker any more.
    Off,
}

impl fmt::Display for Why {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Connects(1, how) => write!(out, "a connect failed ({how})"),
            Why::Connects(n, how) => write!(out, "{n} connects in a row failed (the last: {how})"),
            Why::Resets(n) => write!(out, "{n} sessions in a row were reset early"),
            Why::Errors { percent, attempts } => {
                write!(out, "{percent} % of {attempts} attempts failed")
            }
            Why::TrialFailed => out.write_str("a trial failed"),
            Why::Rested => out.write_str("its time is over, sessions may try"),
            Why::TrialsPassed => out.write_str("trials passed"),
            Why::Needed => out.write_str("no other backend is eligible"),
            Why::TooMany => out.write_str("more are ejected than allowed"),
            Why::Untried => out.write_str("no session came to try it"),
            Why::Off => out.write_str("the pool has no breaker any more"),
        }
    }
}

impl Why {
    /// A cause to open as one word, which is not 0: code in the upper 8 bits, then two numbers. 0 for what opens nothing.
    #[must_use]
    pub fn pack(self) -> u64 {
        let (code, small, large) = match self {
            Why::Connects(n, how) => (1, how.index() as u64, n),
            Why::Resets(n) => (2, 0, n),
            Why::Errors { percent, attempts } => (3, u64::from(percent), attempts),
            _ => return 0,
        };
        code << 56 | small << 32 | u64::from(large)
    }

    #[must_use]
    pub fn unpack(packed: u64) -> Option<Why> {
        let (small, large) = (packed >> 32 & 0xff, packed as u32);
        match packed >> 56 {
            1 => Some(Why::Connects(
                large,
                *ConnectFailure::ALL.get(small as usize)?,
            )),
            2 => Some(Why::Resets(large)),
            3 => Some(Why::Errors {
                percent: small as u8,
                attempts: large,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_survive_their_packing() {
        let every = ConnectFailure::ALL
            .iter()
            .map(|&how| Why::Connects(77, how));
        let others = [
            Why::Resets(u32::MAX),
            Why::Errors {
                percent: 100,
                attempts: u32::MAX,
            },
        ];
        for why in every.chain(others) {
            assert_eq!(Why::unpack(why.pack()), Some(why));
        }
        assert_eq!(Why::unpack(0), None);
    }

    #[test]
    fn they_read_as_a_person_would_say_them() {
        let one = Why::Connects(3, ConnectFailure::Refused).to_string();
        assert_eq!(one, "3 connects in a row failed (the last: refused)");
        let share = Why::Errors {
            percent: 60,
            attempts: 25,
        };
        assert_eq!(share.to_string(), "60 % of 25 attempts failed");
    }
}
