//! The roll: how the office finds out whether a worker still goes its rounds. The office asks and rings the doorbell; the
//! worker answers when it looks at its bell, and notes each step of its turn, so that one that stays away can be told of.

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};

use super::counters::Tally;

/// Where in its turn a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    Starting,
    Kernel,
    Answers,
    Timers,
    Flows,
    Streams,
    Bell,
    Accepting,
    Stopped,
}

impl Step {
    const ALL: [(Step, &'static str); 9] = [
        (Step::Starting, "starting"),
        (Step::Kernel, "submitting to the kernel or waiting for it"),
        (Step::Answers, "taking the kernel's answers"),
        (Step::Timers, "firing timers"),
        (Step::Flows, "looking after flows"),
        (Step::Streams, "going on with streams"),
        (Step::Bell, "answering its doorbell"),
        (Step::Accepting, "accepting"),
        (Step::Stopped, "stopped"),
    ];
}

#[derive(Debug, Default)]
pub struct Roll {
    asked: AtomicU64,
    answered: AtomicU64,
    step: AtomicU8,
    /// The kernel's id of the worker's thread; 0 before it runs.
    thread: AtomicI32,
    /// 1 while the worker is missing. The office's number.
    pub silent: Tally,
    /// Times that it went missing. The office's number.
    pub silences: Tally,
}

impl Roll {
    /// The office asks; it rings the doorbell then.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Release);
    }

    /// Whether the last question was answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Acquire) == self.asked.load(Ordering::Relaxed)
    }

    /// The worker answers everything that was asked so far.
    pub fn answer(&self) {
        self.answered
            .store(self.asked.load(Ordering::Acquire), Ordering::Release);
    }

    /// The worker's thread enters.
    pub fn enter(&self, thread: i32) {
        self.thread.store(thread, Ordering::Relaxed);
    }

    #[must_use]
    pub fn thread(&self) -> i32 {
        self.thread.load(Ordering::Relaxed)
    }

    /// The worker begins a step.
    pub fn at(&self, step: Step) {
        self.step.store(step as u8, Ordering::Relaxed);
    }

    /// What the worker was doing last, in words.
    #[must_use]
    pub fn doing(&self) -> &'static str {
        let step = usize::from(self.step.load(Ordering::Relaxed));
        Step::ALL.get(step).map_or("", |(_, words)| words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_stands_until_it_is_answered() {
        let roll = Roll::default();
        assert!(roll.is_answered());
        roll.ask();
        roll.ask();
        assert!(!roll.is_answered());
        roll.answer();
        assert!(roll.is_answered());
        for (place, (step, words)) in Step::ALL.into_iter().enumerate() {
            assert_eq!(step as usize, place);
            roll.at(step);
            assert_eq!(roll.doing(), words);
        }
    }
}
