//! Which failed checks are worth a line of the log: one a minute for each backend and cause, and no more than a few causes
//! a minute, because a server's words are part of the cause and it may say something else each time. Pure: time is handed
//! in.

use crate::ids::{Nanos, millis};

use super::report::Reason;

/// The same is said again after this.
const AGAIN_NS: u64 = millis(60_000);
/// Causes that are remembered, hence told within that time.
const CAUSES_MAX: usize = 4;

/// What was told of one backend lately.
#[derive(Debug, Default)]
pub struct Complaints {
    told: Vec<(Reason, Nanos)>,
}

impl Complaints {
    /// Whether `reason` is to be told now; it counts as told then.
    pub fn is_due(&mut self, reason: &Reason, now: Nanos) -> bool {
        self.told.retain(|(_, at)| now.since(*at) < AGAIN_NS);
        let known = self.told.iter().any(|(told, _)| told == reason);
        if known || self.told.len() >= CAUSES_MAX {
            return false;
        }
        self.told.push((reason.clone(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::CheckResult;
    use crate::prober::report::Finding;

    fn second(n: u64) -> Nanos {
        Nanos(millis(n * 1_000))
    }

    #[test]
    fn a_cause_is_told_once_a_minute() {
        let mut complaints = Complaints::default();
        let refused = Finding::of(CheckResult::Refused).reason();
        let timeout = Finding::of(CheckResult::Timeout).reason();
        assert!(complaints.is_due(&refused, second(1)));
        assert!(!complaints.is_due(&refused, second(1)));
        assert!(complaints.is_due(&timeout, second(2)));
        assert!(!complaints.is_due(&refused, second(60)));
        assert!(complaints.is_due(&refused, second(61)));
        assert!(!complaints.is_due(&timeout, second(61)));
        assert!(complaints.is_due(&timeout, second(62)));
    }

    #[test]
    fn a_server_with_new_words_each_time_is_told_of_a_few_times_only() {
        let mut complaints = Complaints::default();
        let told = (0..50_000u64).filter(|n| {
            let reason = Finding::failed(n.to_string().as_bytes()).reason();
            complaints.is_due(&reason, Nanos(millis(n * 10)))
        });
        // 500 seconds: nine minutes begun.
        assert_eq!(told.count(), 9 * CAUSES_MAX);
    }
}
