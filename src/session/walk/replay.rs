//! Warm connections on the shadow: what is offered and kept, and the one close of a connected socket that is no end.

use crate::ids::{Nanos, Side};

use super::super::event::{Action, Event};
use super::super::replay::State;
use super::carry::{Verdict, demand};
use super::explore::Run;
use super::mutants::{Mutant, lie, slip};
use super::world::{Serial, World};

/// So many bytes are said to be missing of a message that is held in part.
const DUE: u32 = 1;

const WARM: &str = "warm";

/// Bugs around a warm connection's death.
pub(super) const REPLAYS: &[Mutant] = &[
    slip(
        "what was held is not sent again",
        WARM,
        |world, before, _, actions| {
            let redials =
                |action: &Action<Serial>| matches!(action, Action::Connect { afresh: true });
            if !before.hold.spent && actions.iter().any(redials) {
                let line = &mut world.session.pumps[Side::Client].line;
                while world.parcels.pop_front(line).is_some() {}
            }
        },
    ),
    slip(
        "a dead warm connection is replaced by another",
        WARM,
        |_, _, _, actions| {
            for action in actions {
                if let Action::Connect { afresh } = action {
                    *afresh = false;
                }
            }
        },
    ),
    slip(
        "an end after the first byte is made good",
        WARM,
        |world, before, word, _| {
            if word == "Received" && before.hold.state != State::Off {
                world.session.hold.state = State::Fresh;
            }
        },
    ),
    slip(
        "an end is made good again and again",
        WARM,
        |world, before, word, _| {
            if word == "Connected" && before.hold.spent {
                world.session.hold.state = State::Fresh;
            }
        },
    ),
    slip("what is held is never let go", WARM, |world, _, _, _| {
        world.session.hold.until = Nanos::NEVER;
    }),
    slip(
        "bytes after what is held are not held and not sent once",
        WARM,
        |world, before, word, actions| {
            if word == "Received" && before.hold.state == State::Held {
                for action in actions {
                    if let Action::Offer { parcel, .. } = action {
                        world.session.pumps[Side::Client].sending = true;
                        *action = Action::Send(Side::Backend, *parcel);
                    }
                }
            }
        },
    ),
    lie(
        "a parcel that must be sent once passes for a held one",
        WARM,
        |_, event| {
            Some(match event {
                Event::Offered { parcel, due: None } => Event::Offered {
                    parcel,
                    due: Some(0),
                },
                other => other,
            })
        },
    ),
    lie(
        "a client's end on the way to a new connection is not told",
        WARM,
        |world, event| {
            let over = matches!(
                event,
                Event::ReceiveEnded(Side::Client, crate::ids::ReceiveEnd::Fin)
            );
            if over && world.session.phase == super::super::tcp::Phase::Connecting {
                return None;
            }
            Some(event)
        },
    ),
];

impl World {
    /// Sent by a plain call, and kept by the session if it may be sent twice.
    pub(super) fn carry_offer(
        &mut self,
        parcel: Serial,
        due: Option<u32>,
        run: &mut Run<'_>,
    ) -> Verdict<Event<Serial>> {
        self.may_give_to(Side::Backend)?;
        let (client, backend) = (self.see(Side::Client), self.see(Side::Backend));
        demand(
            self.warm && backend.taken == 0,
            "only the first bytes on a silent warm connection are offered",
        )?;
        demand(
            parcel.from == Side::Client && parcel.first == client.passed,
            "each byte once, in order: a parcel out of its turn is offered",
        )?;
        demand(
            due.is_some() == (self.kept > 0) && client.passed == self.kept,
            "a message that was begun is offered as one",
        )?;
        if run.choices.pick(2) == 1 {
            return Ok(Event::Offered { parcel, due: None });
        }
        if run.plan.stalls && run.choices.pick(2) == 1 && parcel.units > 0 {
            // A part was taken: then the rest is one to be sent in the ordinary way.
            return Ok(Event::Offered { parcel, due: None });
        }
        self.wire(Side::Client).passed += parcel.units;
        self.kept += parcel.units;
        self.last_bytes = super::world::NOW;
        Ok(Event::Offered {
            parcel,
            due: Some(DUE),
        })
    }

    /// Whether this parcel was sent and held.
    pub(super) fn is_kept(&self, parcel: Serial) -> bool {
        parcel.from == Side::Client && parcel.first < self.see(Side::Client).passed
    }

    /// The backend's connected socket is closed although the session goes on: its end is made good.
    pub(super) fn carry_redial(&mut self, side: Side) -> Verdict<()> {
        let (client, backend) = (self.see(Side::Client), self.see(Side::Backend));
        demand(
            side == Side::Backend && self.warm && !self.redialled,
            "a connected socket is closed by decision only, or once because it was warm",
        )?;
        demand(
            backend.fin_told || backend.break_told,
            "a connection is given up only after its end",
        )?;
        demand(
            backend.taken == 0 && !backend.finished,
            "a backend that has spoken, or was told an end, is not replaced",
        )?;
        demand(
            client.passed == self.kept && client.lost == 0 && !client.fin_told,
            "all that was sent can be sent again",
        )?;
        self.wire(Side::Client).passed = 0;
        self.kept = 0;
        self.redialled = true;
        self.warm = false;
        self.matured = false;
        // What the old connection did is forgotten.
        if self.first_fin == Some(Side::Backend) {
            self.first_fin = None;
        }
        if self.broken == Some(Side::Backend) {
            self.broken = None;
            self.flush_due = Nanos::NEVER;
        }
        self.wire(Side::Backend).open = false;
        Ok(())
    }

    /// What is held is what was sent, and only while the backend is silent.
    pub(super) fn check_held(&self) -> Verdict<()> {
        let backend = self.see(Side::Backend);
        demand(
            self.kept == 0 || (backend.taken == 0 && self.warm),
            "nothing is held once the backend has spoken",
        )?;
        demand(
            (self.kept > 0) != self.session.hold.line.is_empty(),
            "what is held is in line",
        )?;
        demand(
            self.kept == 0
                || (self.session.hold.until != Nanos::NEVER
                    && self.session.wake_at() <= self.session.hold.until),
            "what is held is let go in time",
        )
    }
}
