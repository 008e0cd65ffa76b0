//! Calls the roll: asks every worker by its doorbell once a second. One that has not answered for a second is reported
//! with what it was doing (log, metric, status) until it answers again, and the service manager's watchdog is not fed
//! meanwhile.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::handoff::Hatch;
use crate::sys::thread::state_of_thread;

use super::tick::PULSE;
use super::{Office, notify};

const ASK_EVERY: Duration = Duration::from_secs(1);
/// A worker that is silent for longer is missing.
const PATIENCE: Duration = Duration::from_secs(1);
/// Of our own pulses as well: if this thread was kept from running, the workers may have been, too.
const PULSES: u32 = 4;
/// One that stays missing is said this often.
const COMPLAIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Member {
    asked: Instant,
    /// Pulses of ours since it was asked.
    pulses: u32,
    /// Since when it is missing, and when that was said last.
    missing: Option<(Instant, Instant)>,
}

#[derive(Debug)]
pub struct RollCall {
    members: Vec<Member>,
    /// How often the service manager wants to hear that all is well, if it does.
    feed_every: Option<Duration>,
    fed: Instant,
}

/// What a look at one worker found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Well,
    Missing,
    /// It has been missing, and this is worth a line: again, or it is back after so long.
    StillMissing(Duration),
    Back(Duration),
}

impl RollCall {
    #[must_use]
    pub fn new(workers: usize) -> RollCall {
        let now = Instant::now();
        let member = || Member {
            asked: now,
            pulses: 0,
            missing: None,
        };
        RollCall {
            members: (0..workers).map(|_| member()).collect(),
            // A third of what is allowed, as a lost datagram must not end us; our pulse sets the pace below that.
            feed_every: sd_notify::watchdog_enabled().map(|within| (within / 3).max(PULSE)),
            fed: now,
        }
    }

    /// Whether anybody is missing.
    #[must_use]
    pub fn is_anyone_missing(&self) -> bool {
        self.members.iter().any(|member| member.missing.is_some())
    }
}

impl Member {
    fn look(&mut self, hatch: &Hatch, now: Instant) -> Found {
        self.pulses += 1;
        let waited = now.duration_since(self.asked);
        if hatch.roll.is_answered() {
            if waited >= ASK_EVERY {
                self.asked = now;
                self.pulses = 0;
                hatch.roll.ask();
                hatch.doorbell.ring();
            }
            return match self.missing.take() {
                Some((since, _)) => Found::Back(now.duration_since(since)),
                None => Found::Well,
            };
        }
        match &mut self.missing {
            None if waited >= PATIENCE && self.pulses >= PULSES => {
                self.missing = Some((self.asked, now));
                Found::Missing
            }
            Some((since, said)) if now.duration_since(*said) >= COMPLAIN => {
                *said = now;
                Found::StillMissing(now.duration_since(*since))
            }
            _ => Found::Well,
        }
    }
}

impl Office {
    /// Once a pulse.
    pub(super) fn call_the_roll(&mut self) {
        let now = Instant::now();
        let hatches = &self.board.hatches;
        let before = self.roll_call.is_anyone_missing();
        for (hatch, member) in hatches.workers.iter().zip(&mut self.roll_call.members) {
            // One that has ended answers no more.
            if hatch.counters.stopped.read() > 0 {
                member.missing = None;
                hatch.roll.silent.set(0);
                continue;
            }
            let worker = hatch.worker.0;
            match member.look(hatch, now) {
                Found::Well => {}
                Found::Missing => {
                    hatch.roll.silent.set(1);
                    hatch.roll.silences.add(1);
                    let silence = now.duration_since(member.asked);
                    log::error!("{}", missing(hatch, silence));
                }
                Found::StillMissing(silence) => log::error!("{}", missing(hatch, silence)),
                Found::Back(silence) => {
                    hatch.roll.silent.set(0);
                    let silence = silence.as_secs_f64();
                    log::warn!("worker {worker} answers again, after {silence:.1} s of silence");
                }
            }
        }
        let missing = self.roll_call.is_anyone_missing();
        if missing != before {
            self.tell_status();
        }
        if let Some(every) = self.roll_call.feed_every
            && !missing
            && now.duration_since(self.roll_call.fed) >= every
        {
            self.roll_call.fed = now;
            notify::tell(&[NotifyState::Watchdog]);
        }
    }

    /// Workers that do not answer, in one sentence; `None` if all do.
    pub(super) fn missing_workers(&self) -> Option<String> {
        let workers = self.board.hatches.workers.iter();
        let missing: Vec<String> = workers
            .filter(|hatch| hatch.roll.silent.read() > 0)
            .map(|hatch| hatch.worker.0.to_string())
            .collect();
        (!missing.is_empty()).then(|| format!("worker {} does not answer", missing.join(", ")))
    }
}

fn missing(hatch: &Hatch, silence: Duration) -> String {
    let thread = hatch.roll.thread();
    format!(
        "worker {} has not answered its doorbell for {:.1} s: it was {}, with {} sessions; its thread {thread} is {}",
        hatch.worker.0,
        silence.as_secs_f64(),
        hatch.roll.doing(),
        hatch.counters.sessions.read(),
        state_of_thread(thread),
    )
}
