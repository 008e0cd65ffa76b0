//! The end of the process: stop accepting, let sessions end, close what is left spread over the last fifth of
//! `shutdown_grace`. A second signal cuts at once. Like everything else it is told to workers by a snapshot.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::handoff::Phase;
use crate::ids::Nanos;

use super::demands::Refused;
use super::failure::Failure;
use super::signals::Wish;
use super::start::SCRIBE_PATIENCE;
use super::upgrade::words::Word;
use super::world::nanoseconds;
use super::{Event, Office, notify};

/// How long after the last close workers may still need to finish: their resets and last answers of the kernel.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How a phase of leaving ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Done,
    Late,
    /// Asked a second time.
    Hurried,
}

impl Office {
    pub(super) async fn leave(mut self) -> Result<(), Failure> {
        self.fail_upgrade("it is to leave").await;
        let grace = self.world.plan.global.shutdown_grace;
        let delay = self.world.plan.global.shutdown_delay;
        let sessions = self.board.process.used();
        log::info!("leaving: {sessions} sessions have {grace:?} to end; a second signal cuts them");
        notify::tell(&[
            NotifyState::Stopping,
            NotifyState::Status(&format!("draining {sessions} sessions, at most {grace:?}")),
        ]);
        self.board.set_leaving();
        let mut left = Left::Done;
        if !delay.is_zero() {
            left = self.wait(delay, |_| false).await;
        }
        let now = self.board.clock.now();
        let (from, until) = match left {
            Left::Hurried => (now, now),
            _ => (
                now.after(nanoseconds(grace) / 5 * 4),
                now.after(nanoseconds(grace)),
            ),
        };
        self.take_elders_along(from, until);
        let mut ended = self.drain(from, until).await;
        if ended == Left::Hurried {
            log::info!("cutting what is left");
            let now = self.board.clock.now();
            self.take_elders_along(now, now);
            ended = self.drain(now, now).await;
            if ended == Left::Hurried {
                // Asked a third time: not even the workers' last answers are waited for.
                ended = Left::Late;
            }
        }
        self.admin = None;
        self.socket = None;
        self.scribe.stop(SCRIBE_PATIENCE);
        if let Some(prober) = self.board.set_prober(None)
            && !prober.stop()
        {
            log::warn!("the prober did not end");
        }
        if ended == Left::Late {
            return Err(Failure::Broken(
                "a worker did not end; its sessions are cut by the end of the process".to_owned(),
            ));
        }
        self.crew.join_finished();
        log::info!("left");
        Ok(())
    }

    /// Stopping the service stops every generation of it.
    fn take_elders_along(&self, from: Nanos, until: Nanos) {
        let now = self.board.clock.now();
        let in_ms = |moment: Nanos| moment.since(now) / 1_000_000;
        self.tell_elders(|| Word::Leave {
            from_ms: in_ms(from),
            until_ms: in_ms(until),
        });
    }

    /// Publishes the draining world and waits for all workers to stop.
    async fn drain(&mut self, close_from: Nanos, close_until: Nanos) -> Left {
        self.phase = Phase::Draining {
            close_from,
            close_until,
        };
        self.binder.release_all();
        self.world.release_sockets();
        self.publish();
        // Listening sockets close with the last snapshot that holds them: without this, clients would still be taken into
        // queues that nobody empties.
        if !self.publisher.settled().await {
            log::error!("a worker did not hear of the end within 2 s");
        }
        let remaining = close_until.since(self.board.clock.now());
        let patience = Duration::from_nanos(remaining) + PATIENCE;
        self.wait(patience, |office| {
            let workers = &office.board.hatches.workers;
            !office.succession.has_elders()
                && workers
                    .iter()
                    .all(|hatch| hatch.counters.stopped.read() > 0)
        })
        .await
    }

    /// Goes on with daily work until `done`, a second wish to leave, or the end of `patience`.
    async fn wait(&mut self, patience: Duration, done: fn(&Office) -> bool) -> Left {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            if done(self) {
                return Left::Done;
            }
            if tokio::time::Instant::now() >= deadline {
                return Left::Late;
            }
            // Workers do not ring: a look every few milliseconds is cheap for the little time this lasts.
            let pause = Duration::from_millis(10);
            match tokio::time::timeout(pause, self.next_event()).await {
                Err(_) | Ok(Event::Looked(_)) => {}
                Ok(Event::Tick) => self.on_tick(),
                Ok(Event::Demand(posted)) => posted.refuse(Refused::Leaving),
                Ok(Event::Look) => self.look_after_waiting(),
                Ok(Event::Heard(id, heard)) => self.on_heard(id, heard).await,
                Ok(Event::Wish(Wish::Leave)) => return Left::Hurried,
                Ok(Event::Wish(Wish::Reload | Wish::ReopenLogs)) => self.reopen_logs(),
                Ok(Event::Wish(Wish::Upgrade)) => {}
            }
        }
    }
}
