//! The life of an older generation: it accepts nobody, keeps its sessions as long as `upgrade_grace` says, tells the newest
//! what it counts, and does what that says. When its last session has ended, so does it.

use std::time::{Duration, Instant, SystemTime};

use crate::handoff::Phase;
use crate::ids::Nanos;
use crate::office::demands::Refused;
use crate::office::failure::Failure;
use crate::office::leave::PATIENCE;
use crate::office::signals::Wish;
use crate::office::start::SCRIBE_PATIENCE;
use crate::office::world::nanoseconds;
use crate::office::{Event, Office, ledger};

use super::line::Heard;
use super::words::Word;

const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Answers that are under way are finished, and then nobody is kept from asking the newest.
const ANSWERS: Duration = Duration::from_millis(500);
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Office {
    pub(in crate::office) async fn retire(mut self) -> Result<(), Failure> {
        let since = SystemTime::now();
        let began = Instant::now();
        let (from, until) = match self.world.plan.global.upgrade_grace {
            None => (Nanos::NEVER, Nanos::NEVER),
            Some(grace) => self.ends_of(grace),
        };
        self.drain_until(from, until).await;
        // Its last numbers are of before it gave flows out.
        self.report(since);
        let mut asked = false;
        let mut reported = Instant::now();
        loop {
            let answered = began.elapsed() >= ANSWERS;
            if answered {
                self.dismiss_admin();
            }
            if self.are_workers_done() && answered {
                break;
            }
            if self.is_late() {
                return Err(Failure::Broken(
                    "a worker did not end; its sessions are cut by the end of the process"
                        .to_owned(),
                ));
            }
            if reported.elapsed() >= REPORT_EVERY {
                reported = Instant::now();
                self.report(since);
            }
            let pause = match self.tell_who_waits() {
                true => Duration::from_millis(5),
                false => Duration::from_millis(20),
            };
            match tokio::time::timeout(pause, self.next_event()).await {
                Err(_) | Ok(Event::Looked(_) | Event::Look) => {}
                Ok(Event::Tick) => self.on_tick(),
                Ok(Event::Demand(posted)) => posted.refuse(Refused::Leaving),
                Ok(Event::Heard(_, Heard::Said(word, _))) => self.obey(word).await,
                Ok(Event::Heard(id, Heard::Ended)) => self.lose_newest(id),
                Ok(Event::Wish(Wish::Leave)) => {
                    let grace = match std::mem::replace(&mut asked, true) {
                        false => self.world.plan.global.shutdown_grace,
                        true => Duration::ZERO,
                    };
                    log::info!("leaving: sessions have {grace:?} to end");
                    let (from, until) = self.ends_of(grace);
                    self.drain_until(from, until).await;
                }
                Ok(Event::Wish(Wish::Reload | Wish::ReopenLogs)) => self.scribe.reopen(),
                Ok(Event::Wish(Wish::Upgrade)) => {}
            }
        }
        self.end(since).await;
        Ok(())
    }

    async fn end(mut self, since: SystemTime) {
        let last = self.own_report(since);
        self.scribe.stop(SCRIBE_PATIENCE);
        if let Some(prober) = self.board.set_prober(None) {
            let _ = prober.stop();
        }
        if let Some(newer) = self.succession.newer.take() {
            newer.say(Word::Gone(last), Vec::new());
            newer.finish(LAST_WORDS).await;
        }
        self.crew.join_finished();
        log::info!("generation {} has ended", self.succession.generation);
    }

    fn report(&self, since: SystemTime) {
        if let Some(newer) = &self.succession.newer {
            // One that does not read needs the last numbers only.
            newer.say_if_idle(|| Word::Report(self.own_report(since)));
        }
    }

    /// What is left is closed over the last fifth of this time.
    fn ends_of(&self, grace: Duration) -> (Nanos, Nanos) {
        let now = self.board.clock.now();
        let ns = nanoseconds(grace);
        (now.after(ns / 5 * 4), now.after(ns))
    }

    async fn drain_until(&mut self, close_from: Nanos, close_until: Nanos) {
        self.phase = Phase::Draining {
            close_from,
            close_until,
        };
        self.world.release_sockets();
        self.publish();
        if !self.publisher.settled().await {
            log::error!("a worker did not hear of the end within 2 s");
        }
    }

    fn is_late(&self) -> bool {
        let Phase::Draining { close_until, .. } = self.phase else {
            return false;
        };
        close_until != Nanos::NEVER
            && self.board.clock.now() > close_until.after(nanoseconds(PATIENCE))
    }

    /// The newest has said something.
    async fn obey(&mut self, word: Word) {
        match word {
            Word::Leave { from_ms, until_ms } => {
                let now = self.board.clock.now();
                let at = |ms: u64| now.after(ms.saturating_mul(1_000_000));
                self.drain_until(at(from_ms), at(until_ms)).await;
            }
            Word::ReopenLogs => self.scribe.reopen(),
            Word::Operator { page } => match ledger::read_page(&page) {
                Ok(operator) => {
                    self.operator.admin = operator.admin;
                    self.set_states();
                    self.board.hatches.ring();
                }
                Err(error) => log::warn!("the operator's word is not understood: {error}"),
            },
            Word::Limits { limits } => {
                self.take_limits(&limits);
                self.publish();
            }
            _ => {}
        }
    }

    fn lose_newest(&mut self, id: super::LineId) {
        if self
            .succession
            .newer
            .as_ref()
            .is_some_and(|line| line.id == id)
        {
            self.succession.newer = None;
            log::warn!(
                "the newest generation is gone; sessions here go on until they end (SIGTERM ends them)"
            );
        }
    }

    fn are_workers_done(&self) -> bool {
        let mut workers = self.board.hatches.workers.iter();
        workers.all(|hatch| hatch.counters.stopped.read() > 0)
    }
}
