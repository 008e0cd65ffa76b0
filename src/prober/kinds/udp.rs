//! A datagram out, and what comes back: an answer that holds the expected bytes or, where nothing is expected, that the
//! host does not say that nobody listens. Silence alone then passes, after the whole timeout: UDP has no other sign.

use crate::ids::{CheckResult, Role};
use crate::prober::line::Break;
use crate::prober::report::Finding;
use crate::prober::visit::Visit;

use super::Kind;

#[derive(Debug, PartialEq, Eq)]
pub struct Udp {
    pub send: Vec<u8>,
    /// `None`: nothing is waited for but the news that the port is closed.
    pub expect: Option<Vec<u8>>,
}

impl Kind for Udp {
    async fn check(&self, visit: &mut Visit) -> Finding {
        let mut line = match visit.open_datagrams() {
            Ok(line) => line,
            Err(finding) => return finding,
        };
        if let Err(broken) = line.send(&self.send).await {
            return broken.finding();
        }
        let mut other = None;
        loop {
            let received = line.receive().await;
            match (received, &self.expect) {
                (Ok(()), None) | (Err(Break::Timeout), None) => {
                    return Finding::alive(Role::Unknown);
                }
                (Ok(()), Some(expect)) if holds(line.unread(), expect) => {
                    return Finding::alive(Role::Unknown);
                }
                // Somebody else's, or a late one: the right one may still come.
                (Ok(()), Some(_)) => {
                    other = Some(Finding::failed(
                        &[b"unexpected answer: ", line.unread()].concat(),
                    ));
                }
                (Err(broken), _) => {
                    let finding = broken.finding();
                    return match other {
                        Some(other) if finding.result == CheckResult::Timeout => other,
                        _ => finding,
                    };
                }
            }
        }
    }
}

fn holds(answer: &[u8], expect: &[u8]) -> bool {
    expect.is_empty() || answer.windows(expect.len()).any(|part| part == expect)
}
