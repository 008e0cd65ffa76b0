//! Which event came in which phase: held against the table in the header of `tcp.rs`.

use std::collections::BTreeSet;

use super::super::event::Event;
use super::super::tcp::Phase;
use super::world::Serial;

/// Phases and the events that came in them.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(BTreeSet<(&'static str, &'static str)>);

impl Table {
    pub(super) fn note(&mut self, phase: Phase, event: &Event<Serial>) {
        self.0.insert((phase_word(phase), word(event)));
    }

    pub(super) fn add(&mut self, other: &Table) {
        self.0.extend(&other.0);
    }

    /// Compares with the table in a file's header, line by line. It leaves out `Kill`, and what comes late while closing.
    pub(super) fn compare_with(&self, file: &str) {
        let lines = file.lines().filter_map(|line| line.strip_prefix("//! | "));
        let mut compared = 0;
        for line in lines {
            let (phase, events) = line.split_once(" | ").expect("a table has two columns");
            let written: BTreeSet<&str> = events
                .trim_end_matches(" |")
                .split(", ")
                .map(|event| event.split('(').next().unwrap_or(event))
                .collect();
            let reached: BTreeSet<&str> = self
                .0
                .iter()
                .filter(|&&(at, event)| at == phase && event != "Kill")
                .map(|&(_, event)| event)
                .collect();
            if phase != "phase" && phase != "Closing" {
                assert_eq!(written, reached, "events that come in {phase}");
                compared += 1;
            }
        }
        assert_eq!(compared, 6, "each phase has its line");
    }
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Choosing => "Choosing",
        Phase::Preface => "Preface",
        Phase::Waiting => "Waiting",
        Phase::Pausing => "Pausing",
        Phase::Connecting => "Connecting",
        Phase::Relaying => "Relaying",
        Phase::Closing { .. } => "Closing",
        Phase::Done => "Done",
    }
}

/// An event's name.
pub(super) fn word(event: &Event<Serial>) -> &'static str {
    match event {
        Event::Opened => "Opened",
        Event::Looked(_) => "Looked",
        Event::Chosen { .. } => "Chosen",
        Event::NoneOpen => "NoneOpen",
        Event::Queued(_) => "Queued",
        Event::Granted => "Granted",
        Event::Connected => "Connected",
        Event::Warm => "Warm",
        Event::ConnectFailed(_) => "ConnectFailed",
        Event::ConnectCancelled => "ConnectCancelled",
        Event::Received(..) => "Received",
        Event::ReceiveEnded(..) => "ReceiveEnded",
        Event::Resume(_) => "Resume",
        Event::Sent(_) => "Sent",
        Event::SentShort(..) => "SentShort",
        Event::Offered { .. } => "Offered",
        Event::SendBroken(..) => "SendBroken",
        Event::Stashed { .. } => "Stashed",
        Event::Ready(..) => "Ready",
        Event::PollEnded(..) => "PollEnded",
        Event::Moved(..) => "Moved",
        Event::Again(_) => "Again",
        Event::Delivered(..) => "Delivered",
        Event::Tick => "Tick",
        Event::Kill(_) => "Kill",
    }
}
