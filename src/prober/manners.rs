//! Manners towards a server that would write a line into its log for each check it turns away: a wrong password, an
//! unknown user, a host that it does not let in. After such an answer the backend rests: for a while checks only look
//! whether somebody still listens, and repeat what the server said. A server that is gone, or a changed configuration,
//! ends the rest at once.

use std::time::Duration;

use tokio::time::Instant;

use super::report::Finding;

/// A login that was refused is tried again after this.
pub const REFUSED: Duration = Duration::from_secs(30);
/// A server that refuses a user who need not exist is alive; it is asked again after this.
pub const STRANGER: Duration = Duration::from_secs(60);

/// The time in which a backend is not spoken to.
#[derive(Clone, Debug)]
pub struct Rest {
    until: Instant,
    finding: Finding,
}

impl Rest {
    #[must_use]
    pub fn after(finding: &Finding, pause: Duration) -> Rest {
        Rest {
            until: Instant::now() + pause,
            finding: finding.clone(),
        }
    }

    /// What the server said before the rest; `None` once it is over.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        (Instant::now() < self.until).then(|| self.finding.clone())
    }
}
