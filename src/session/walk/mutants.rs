//! Seeded bugs: each a small lie or slip at the session's door, or in what it remembers, that a walk must notice. A walk
//! that is content with one of these proves nothing.

use crate::ids::{Condition, End, Fault, Interest, Nanos, ReceiveEnd, Side, Sink};

use super::super::event::{Action, Event};
use super::super::tcp::{Operation, Phase, TcpSession};
use super::endless::ENDLESS;
use super::replay::REPLAYS;
use super::world::{Serial, World};

/// What the session is told instead; nothing, if that is the bug.
type Lie = fn(&mut World, Event<Serial>) -> Option<Event<Serial>>;

/// What it does instead. Given are the session as it was before and the event's name.
type Slip = fn(&mut World, &TcpSession, &'static str, &mut Vec<Action<Serial>>);

pub(super) struct Mutant {
    pub(super) name: &'static str,
    /// Where it is to be caught.
    pub(super) plan: &'static str,
    lie: Lie,
    slip: Slip,
}

pub(super) const fn lie(name: &'static str, plan: &'static str, lie: Lie) -> Mutant {
    Mutant {
        name,
        plan,
        lie,
        slip: |_, _, _, _| {},
    }
}

pub(super) const fn slip(name: &'static str, plan: &'static str, slip: Slip) -> Mutant {
    Mutant {
        name,
        plan,
        lie: |_, event| Some(event),
        slip,
    }
}

impl Mutant {
    pub(super) fn bend_event(
        &self,
        world: &mut World,
        event: Event<Serial>,
    ) -> Option<Event<Serial>> {
        (self.lie)(world, event)
    }

    pub(super) fn bend_actions(
        &self,
        world: &mut World,
        before: &TcpSession,
        word: &'static str,
        actions: &mut Vec<Action<Serial>>,
    ) {
        (self.slip)(world, before, word, actions);
    }
}

pub(super) const COPY: &str = "copy both ways";
const STALL: &str = "stall, stash";
pub(super) const SPLICE: &str = "splice";
const RESET_COPY: &str = "resets while copying";
pub(super) const RESET_STALL: &str = "resets while stalled";
pub(super) const OPENING: &str = "opening";
const PREFACE: &str = "preface";

/// Bugs of those who tell the session what happened.
const LIES: &[Mutant] = &[
    lie("a short write passes for a whole one", STALL, |_, event| {
        Some(match event {
            Event::SentShort(side, _) => Event::Sent(side),
            other => other,
        })
    }),
    lie(
        "a short write sends its parcel again whole",
        STALL,
        |_, event| {
            Some(match event {
                Event::SentShort(side, rest) => {
                    let first = rest.first - rest.first % 2;
                    Event::SentShort(
                        side,
                        Serial {
                            first,
                            units: 2,
                            ..rest
                        },
                    )
                }
                other => other,
            })
        },
    ),
    lie(
        "a reset passes for an end of stream",
        RESET_COPY,
        |_, event| {
            Some(match event {
                Event::ReceiveEnded(side, ReceiveEnd::Broken(_)) => {
                    Event::ReceiveEnded(side, ReceiveEnd::Fin)
                }
                other => other,
            })
        },
    ),
    lie("an end of stream passes for a stop", COPY, |_, event| {
        Some(match event {
            Event::ReceiveEnded(side, ReceiveEnd::Fin) => {
                Event::ReceiveEnded(side, ReceiveEnd::Stopped)
            }
            other => other,
        })
    }),
    lie(
        "a stale send's answer reaches a new tenant",
        COPY,
        |world, event| {
            if matches!(event, Event::Received(..)) && world.see(Side::Backend).flight.is_some() {
                world.step(Event::Sent(Side::Backend), &mut Vec::new());
            }
            Some(event)
        },
    ),
    lie(
        "a stale receive's answer reaches a new tenant",
        COPY,
        |world, event| {
            if matches!(event, Event::Received(Side::Client, _)) && !world.struck {
                world.struck = true;
                let stale = Event::ReceiveEnded(Side::Backend, ReceiveEnd::Stopped);
                world.step(stale, &mut Vec::new());
            }
            Some(event)
        },
    ),
    lie("bytes in the pipe are not counted", STALL, |_, event| {
        Some(match event {
            Event::Stashed { from, rest, .. } => Event::Stashed {
                from,
                bytes: 0,
                rest,
            },
            other => other,
        })
    }),
    lie("the rest of a stashed parcel is lost", STALL, |_, event| {
        Some(match event {
            Event::Stashed { from, bytes, .. } => Event::Stashed {
                from,
                bytes,
                rest: None,
            },
            other => other,
        })
    }),
    lie(
        "a pipe passes for empty while it is not",
        SPLICE,
        |world, event| {
            Some(match event {
                Event::Moved(from, mut moved) if moved.sink == Sink::Full => {
                    moved.sink = Sink::Open;
                    moved.drained = moved.filled + world.session.pumps[from].piped;
                    Event::Moved(from, moved)
                }
                other => other,
            })
        },
    ),
    lie(
        "an error that a poll found is not told",
        RESET_COPY,
        |_, event| {
            Some(match event {
                Event::Ready(side, interest, Condition::Broken(_)) => {
                    Event::Ready(side, interest, Condition::Fine)
                }
                other => other,
            })
        },
    ),
    lie(
        "a move's broken sink passes for a full one",
        RESET_STALL,
        |_, event| {
            Some(match event {
                Event::Moved(from, mut moved) if moved.sink == Sink::Broken(Fault::Reset) => {
                    moved.sink = Sink::Full;
                    Event::Moved(from, moved)
                }
                other => other,
            })
        },
    ),
    lie(
        "a cancelled connect passes for a made one",
        OPENING,
        |_, event| {
            Some(match event {
                Event::ConnectCancelled => Event::Connected,
                other => other,
            })
        },
    ),
    lie("free buffers are not told", COPY, |_, event| match event {
        Event::Resume(_) => None,
        other => Some(other),
    }),
    lie(
        "a full queue passes for a place in it",
        OPENING,
        |_, event| {
            Some(match event {
                Event::Queued(_) => Event::Queued(true),
                other => other,
            })
        },
    ),
    lie(
        "bytes under way pass for delivered",
        RESET_STALL,
        |_, event| {
            Some(match event {
                Event::Delivered(side, _) => Event::Delivered(side, true),
                other => other,
            })
        },
    ),
];

/// Parcels and bytes mishandled.
const BYTES: &[Mutant] = &[
    slip(
        "a parcel is not given back",
        RESET_COPY,
        |_, _, _, actions| {
            actions.retain(|action| !matches!(action, Action::Release(_)));
        },
    ),
    slip(
        "a parcel is given back twice",
        RESET_COPY,
        |_, _, _, actions| {
            if let Some(Action::Release(parcel)) = actions.last() {
                let again = Action::Release(*parcel);
                actions.push(again);
            }
        },
    ),
    slip("a parcel is sent twice", COPY, |_, _, _, actions| {
        if let Some(Action::Send(side, parcel)) = actions.last() {
            let again = Action::Send(*side, *parcel);
            actions.push(again);
        }
    }),
    slip(
        "a parcel goes back where it came from",
        COPY,
        |_, _, _, actions| {
            for action in actions {
                if let Action::Send(side, parcel) = action {
                    *action = Action::Send(side.other(), *parcel);
                }
            }
        },
    ),
    slip(
        "parcels overtake each other in line",
        "a long line",
        |world, _, _, _| {
            let line = &mut world.session.pumps[Side::Client].line;
            let parcels: Vec<_> = std::iter::from_fn(|| world.parcels.pop_front(line)).collect();
            for parcel in parcels.into_iter().rev() {
                world.parcels.push_back(line, parcel);
            }
        },
    ),
    slip(
        "a line overtakes the pipe",
        STALL,
        |world, before, word, actions| {
            let held = before.pumps[Side::Client].piped;
            if word == "Ready" && held > 0 && !world.session.is_closing() {
                let line = &mut world.session.pumps[Side::Client].line;
                if let Some(parcel) = world.parcels.pop_front(line) {
                    actions.clear();
                    actions.push(Action::Send(Side::Backend, parcel));
                }
            }
        },
    ),
    slip("a pipe is left behind", RESET_STALL, |_, _, _, actions| {
        actions.retain(|action| !matches!(action, Action::DropPipe(_)));
    }),
    slip(
        "bytes go on to a side that broke",
        RESET_COPY,
        |world, _, _, _| {
            if !world.session.is_closing() {
                world.session.pumps[Side::Client].dropped = false;
            }
        },
    ),
    slip(
        "a move takes from a socket under receive",
        STALL,
        |_, _, _, actions| {
            for action in actions {
                if let Action::Move { fill, .. } = action {
                    *fill = true;
                }
            }
        },
    ),
    slip(
        "a socket is received from twice",
        COPY,
        |_, _, word, actions| {
            if word == "Sent" {
                actions.push(Action::Receive(Side::Client));
            }
        },
    ),
    slip(
        "a receive starts before its buffers",
        COPY,
        |world, _, _, actions| {
            let socket = &mut world.session.sockets[Side::Client];
            if socket.starved && socket.receive == Operation::Off {
                socket.starved = false;
                socket.receive = Operation::On;
                actions.push(Action::Receive(Side::Client));
            }
        },
    ),
];

/// Ends passed on wrongly.
const ENDS: &[Mutant] = &[
    slip(
        "an end of stream overtakes bytes",
        COPY,
        |world, _, word, actions| {
            let pump = &world.session.pumps[Side::Client];
            if word == "ReceiveEnded" && pump.ended && pump.holds_bytes() {
                actions.push(Action::Finish(Side::Backend));
            }
        },
    ),
    slip(
        "an end of stream is not passed on",
        COPY,
        |_, _, _, actions| {
            actions.retain(|action| !matches!(action, Action::Finish(_)));
        },
    ),
    slip(
        "an end of stream precedes a cut",
        RESET_COPY,
        |world, before, _, actions| {
            if world.session.is_closing() && !before.is_closing() {
                actions.insert(0, Action::Finish(Side::Backend));
            }
        },
    ),
    slip(
        "a half-close ends both directions",
        COPY,
        |world, _, _, actions| {
            if matches!(actions.last(), Some(Action::Finish(_))) {
                let end = world.session.end.unwrap_or(End::Internal);
                world.step(Event::Kill(end), actions);
            }
        },
    ),
    slip(
        "a cut ends by end of stream",
        RESET_COPY,
        |_, _, _, actions| {
            for action in actions {
                if let Action::Close { reset, .. } = action {
                    *reset = false;
                }
            }
        },
    ),
    slip("whole streams end by reset", COPY, |_, _, _, actions| {
        for action in actions {
            if let Action::Close { reset, .. } = action {
                *reset = true;
            }
        }
    }),
    slip(
        "a reset overtakes bytes",
        RESET_COPY,
        |world, _, word, actions| {
            let session = &world.session;
            if session.broken.is_some() && !session.is_closing() && word == "SendBroken" {
                let end = session.end.unwrap_or(End::Internal);
                world.step(Event::Kill(end), actions);
            }
        },
    ),
    slip("a break is forgotten", RESET_COPY, |world, _, _, _| {
        if !world.session.is_closing() {
            world.session.broken = None;
        }
    }),
    slip("a flush has no end", RESET_STALL, |world, _, _, _| {
        if world.session.broken.is_some() {
            world.session.phase_deadline = Nanos::NEVER;
            world.session.wake_at = world.session.watch_due;
        }
    }),
    slip(
        "a late byte does not count as one",
        "deadlines",
        |world, before, _, _| {
            world.session.last_activity = before.last_activity;
        },
    ),
];

/// First bytes looked at wrongly.
const FIRST_BYTES: &[Mutant] = &[
    slip(
        "a backend is chosen before the client is known",
        PREFACE,
        |_, before, word, actions| {
            if before.phase == Phase::Preface && word == "Ready" {
                actions.clear();
                actions.push(Action::Choose);
            }
        },
    ),
    slip(
        "first bytes are not waited for",
        PREFACE,
        |world, _, word, actions| {
            if word == "Looked" {
                actions.retain(|action| !matches!(action, Action::Poll(_, Interest::Readable)));
                world.session.sockets[Side::Client].readable = Operation::Off;
                world.wire(Side::Client).readable = Operation::Off;
            }
        },
    ),
    slip(
        "a watermark outlives the preface",
        PREFACE,
        |_, _, _, actions| {
            actions.retain(|action| !matches!(action, Action::Watermark(_, 1)));
        },
    ),
    slip("a preface may last for ever", PREFACE, |world, _, _, _| {
        if world.session.phase == Phase::Preface {
            world.session.phase_deadline = Nanos::NEVER;
            world.session.wake_at = world.session.ask_due;
        }
    }),
    slip("who was served is reset", PREFACE, |_, _, _, actions| {
        for action in actions {
            if let Action::Close { reset, .. } = action {
                *reset = true;
            }
        }
    }),
    slip(
        "who is refused gets an end of stream",
        PREFACE,
        |_, _, _, actions| {
            for action in actions {
                if let Action::Close { reset, .. } = action {
                    *reset = false;
                }
            }
        },
    ),
    slip(
        "a last look is not the last",
        PREFACE,
        |_, _, _, actions| {
            for action in actions {
                if let Action::Look { late } = action {
                    *late = false;
                }
            }
        },
    ),
];

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Mutant> {
    [LIES, BYTES, ENDS, ENDLESS, REPLAYS, FIRST_BYTES]
        .into_iter()
        .flatten()
}
