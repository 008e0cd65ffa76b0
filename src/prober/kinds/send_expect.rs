//! A dialogue in steps: send something, expect something, either of the two may be left out (a server that speaks first
//! is expected before anything is sent). What was expected may stand anywhere in what comes; what stands before and up to
//! its end is dealt with, what follows belongs to the next step. A whole dialogue ends by FIN, a failed one by reset.

use crate::ids::{CheckResult, Role};
use crate::prober::line::{Break, Farewell, Line};
use crate::prober::report::Finding;
use crate::prober::visit::Visit;
use crate::wire::expect::Expect;

use super::Kind;

#[derive(Debug, PartialEq, Eq)]
pub struct SendExpect {
    pub steps: Vec<Step>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Empty: nothing is sent.
    pub send: Vec<u8>,
    pub expect: Option<Expect>,
}

impl SendExpect {
    /// In words, if there is more than one step.
    fn place(&self, step: usize) -> String {
        match self.steps.len() {
            1 => String::new(),
            _ => format!("step {}: ", step + 1),
        }
    }

    fn failed(&self, step: usize, line: &Line, broken: Break) -> Finding {
        let place = self.place(step);
        let finding = broken.finding();
        if finding.result != CheckResult::Void && !line.unread().is_empty() {
            let words = [place.as_bytes(), b"unexpected answer: ", line.unread()].concat();
            return Finding::failed(&words);
        }
        match place.is_empty() || finding.words.is_some() {
            true => finding,
            false => finding.saying(format!("{place}no answer").as_bytes()),
        }
    }
}

/// Carries one step out; what was expected is consumed.
async fn take(step: &Step, line: &mut Line) -> Result<(), Break> {
    let mut not_sent = None;
    if !step.send.is_empty() {
        not_sent = line.send(&step.send).await.err();
    }
    let Some(expect) = &step.expect else {
        return not_sent.map_or(Ok(()), Err);
    };
    loop {
        if let Some(end) = expect.find(line.unread()) {
            line.consume(end);
            return Ok(());
        }
        if let Err(broken) = line.receive().await {
            return Err(not_sent.unwrap_or(broken));
        }
    }
}

impl Kind for SendExpect {
    async fn check(&self, visit: &mut Visit) -> Finding {
        let mut line = match visit.open().await {
            Ok(line) => line,
            Err(finding) => return finding,
        };
        for (number, step) in self.steps.iter().enumerate() {
            if let Err(broken) = take(step, &mut line).await {
                return self.failed(number, &line, broken);
            }
        }
        line.set_farewell(Farewell::Fin(b""));
        Finding::alive(Role::Unknown)
    }
}
