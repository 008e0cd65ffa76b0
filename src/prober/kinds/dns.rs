//! A question to a name server over UDP. "It exists" and "it does not exist" both say that the server does its work; a
//! refusal, a failure of its own or silence say that it does not. The id is drawn anew for each check, so that nobody who
//! cannot see it answers in the server's place.

use std::hash::{BuildHasher, RandomState};

use crate::ids::{CheckResult, Role};
use crate::prober::line::{Break, Line};
use crate::prober::report::Finding;
use crate::prober::visit::Visit;
use crate::wire::dns::{self, Heard};

use super::Kind;

#[derive(Debug, PartialEq, Eq)]
pub struct Dns {
    /// Without a dot at its end; empty for the root.
    pub name: String,
    pub record: u16,
}

impl Dns {
    async fn ask(&self, line: &mut Line, id: u16) -> Result<Finding, Break> {
        let Some(question) = dns::question(id, &self.name, self.record) else {
            return Ok(Finding::of(CheckResult::Other).saying(b"the question is no name"));
        };
        line.send(&question).await?;
        let mut others = false;
        loop {
            match line.receive().await {
                Ok(()) => {}
                Err(Break::Timeout | Break::TooMuch) if others => {
                    let words = b"no answer to the question, but other datagrams";
                    return Ok(Finding::failed(words));
                }
                Err(broken) => return Err(broken),
            }
            match dns::heard(line.unread(), id, &self.name, self.record) {
                Heard::Alive => return Ok(Finding::alive(Role::Unknown)),
                Heard::Refused(code) => return Ok(Finding::failed(code.as_bytes())),
                Heard::Other => others = true,
            }
        }
    }
}

impl Kind for Dns {
    async fn check(&self, visit: &mut Visit) -> Finding {
        let mut line = match visit.open_datagrams() {
            Ok(line) => line,
            Err(finding) => return finding,
        };
        // Each new state has keys of its own, which nobody outside can know.
        let [low, high, ..] = RandomState::new().hash_one(0u8).to_le_bytes();
        let id = u16::from_le_bytes([low, high]);
        match self.ask(&mut line, id).await {
            Ok(finding) => finding,
            Err(broken) => broken.finding(),
        }
    }
}
