//! Seeded bugs, as in `mutants`, around a session's end: operations leaked, and sessions that never end or end too early.

use crate::ids::{Interest, Nanos, Side};

use super::super::event::Action;
use super::super::tcp::{Operation, Phase};
use super::mutants::{COPY, Mutant, OPENING, RESET_STALL, SPLICE, slip};

/// Operations leaked, and sessions that never end or end too early.
pub(super) const ENDLESS: &[Mutant] = &[
    slip(
        "a socket is closed under its receive",
        COPY,
        |world, before, _, actions| {
            let socket = &mut world.session.sockets[Side::Client];
            if before.phase == Phase::Relaying
                && world.session.pumps[Side::Client].ended
                && socket.receive == Operation::Off
                && socket.open
            {
                socket.open = false;
                actions.push(Action::Close {
                    side: Side::Client,
                    reset: false,
                });
            }
        },
    ),
    slip(
        "a close does not wait for the last answer",
        "kills",
        |world, before, _, actions| {
            if world.session.is_closing() && !before.is_closing() {
                for side in Side::BOTH {
                    if std::mem::take(&mut world.session.sockets[side].open) {
                        actions.push(Action::Close { side, reset: true });
                    }
                }
            }
        },
    ),
    slip("a receive is not stopped", "kills", |_, _, _, actions| {
        actions.retain(|action| !matches!(action, Action::StopReceive(_)));
    }),
    slip(
        "a poll is not cancelled",
        RESET_STALL,
        |_, _, _, actions| {
            actions.retain(|action| !matches!(action, Action::CancelPoll(..)));
        },
    ),
    slip(
        "a poll is cancelled by another's name",
        OPENING,
        |_, _, _, actions| {
            for action in actions {
                if let Action::CancelPoll(_, interest @ Interest::Leave) = action {
                    *interest = Interest::HangUp;
                }
            }
        },
    ),
    slip(
        "delivery is asked for only once",
        RESET_STALL,
        |world, _, _, _| {
            if world.session.delivering {
                world.session.ask_due = Nanos::NEVER;
                world.session.wake_at = world.session.phase_deadline;
            }
        },
    ),
    slip("a connect is not cancelled", OPENING, |_, _, _, actions| {
        actions.retain(|action| !matches!(action, Action::CancelConnect));
    }),
    slip(
        "a place in the queue is kept",
        OPENING,
        |_, _, _, actions| {
            actions.retain(|action| !matches!(action, Action::StopWaiting));
        },
    ),
    slip(
        "a queue is left twice",
        OPENING,
        |_, before, word, actions| {
            if before.phase == Phase::Waiting && word == "Granted" {
                actions.insert(0, Action::StopWaiting);
            }
        },
    ),
    slip("a reservation is kept", OPENING, |_, _, _, actions| {
        actions.retain(|action| !matches!(action, Action::GiveUp));
    }),
    slip(
        "a turn that was put off never comes",
        SPLICE,
        |world, _, _, actions| {
            actions.retain(|action| !matches!(action, Action::Yield(_)));
            for side in Side::BOTH {
                world.session.pumps[side].yielding = false;
            }
        },
    ),
    slip(
        "a send's answer sleeps while bytes wait",
        "a long line",
        |_, _, _, actions| {
            actions.retain(|action| !matches!(action, Action::Hurry));
        },
    ),
    slip(
        "a silent socket is not watched",
        RESET_STALL,
        |world, _, _, actions| {
            let before = actions.len();
            actions.retain(|action| !matches!(action, Action::Poll(_, Interest::HangUp)));
            if actions.len() < before {
                for side in Side::BOTH {
                    world.session.sockets[side].watch = Operation::Off;
                }
            }
        },
    ),
    slip(
        "a full sink is not waited for",
        RESET_STALL,
        |world, _, _, actions| {
            actions.retain(|action| !matches!(action, Action::Poll(_, Interest::Writable)));
            world.session.sockets[Side::Backend].writable = Operation::Off;
        },
    ),
    slip("a clock is never set", OPENING, |world, _, _, _| {
        world.session.wake_at = Nanos::NEVER;
    }),
    slip("a watermark stays up", "bulk", |_, _, _, actions| {
        actions.retain(|action| !matches!(action, Action::Watermark(_, 1)));
    }),
    slip("a tail stays below the mark", "bulk", |world, _, _, _| {
        world.session.pumps[Side::Client].mark.guard_at = Nanos::NEVER;
    }),
    slip("an end is told twice", COPY, |_, _, _, actions| {
        if let Some(Action::Done(end)) = actions.last() {
            let again = Action::Done(*end);
            actions.push(again);
        }
    }),
    slip(
        "an end is told before the last close",
        COPY,
        |_, _, _, actions| {
            if matches!(actions.last(), Some(Action::Done(_))) {
                let last = actions.len() - 1;
                actions.swap(last - 1, last);
            }
        },
    ),
    slip("an end is not told", COPY, |_, _, _, actions| {
        actions.retain(|action| !matches!(action, Action::Done(_)));
    }),
];
