//! What one walk is to cover: how the two peers may behave, which scarcities may strike, and where it begins. Each plan is
//! exhaustive for what it allows; several small ones together cover more than one large one could.

use crate::ids::millis;

use super::super::rules::Rules;

/// Whether parcels fill their buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fullness {
    Never,
    Always,
    Either,
}

/// What a peer may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits {
    /// Parcels it may send, those of the beginning included.
    pub(super) parcels: u8,
    pub(super) full: Fullness,
    pub(super) fin: bool,
    pub(super) reset: bool,
    /// It is a unix socket, and its peer may close it altogether: an end of stream, and nothing can be sent to it.
    pub(super) unix: bool,
}

/// A peer that sends so many parcels and then ends its stream, or does not.
pub(super) const fn sends(parcels: u8) -> Habits {
    Habits {
        parcels,
        full: Fullness::Never,
        fin: true,
        reset: false,
        unix: false,
    }
}

impl Habits {
    pub(super) const fn or_resets(self) -> Habits {
        Habits {
            reset: true,
            ..self
        }
    }

    pub(super) const fn filling(self, full: Fullness) -> Habits {
        Habits { full, ..self }
    }
}

/// Where the walk begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    Accepted,
    /// Connected, receiving on both sides.
    Relaying,
    /// The same, on a warm connection.
    Warm,
    /// The client has sent enough full parcels for its direction to be spliced.
    Splicing,
    /// The same, and wide enough that its receiver is woken less often.
    Bulk,
    /// So many parcels of the client wait while another is being sent that one more fills the line.
    LongLine,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) rules: Rules,
    /// The client's, the backend's.
    pub(super) habits: [Habits; 2],
    pub(super) parcel_units: u8,
    pub(super) unit_bytes: u32,
    /// Sinks may be full: short sends, moves that stop.
    pub(super) stalls: bool,
    /// Buffers may be short.
    pub(super) starves: bool,
    /// The kernel may end a receive by itself.
    pub(super) halts: bool,
    /// Pipes may be short.
    pub(super) no_pipe: bool,
    pub(super) kills: bool,
    /// Time passes.
    pub(super) time: bool,
    /// There may be warm connections.
    pub(super) warm: bool,
    pub(super) begin: Begin,
}

/// A peer that does nothing at all.
const SILENT: Habits = Habits {
    fin: false,
    ..sends(0)
};

/// One attempt, no waiting, no limits of time.
pub(super) const PLAIN_RULES: Rules = Rules {
    preface_ns: 0,
    connect_timeout_ns: millis(150),
    connect_attempts: 1,
    connect_budget_ns: millis(1_000),
    wait_timeout_ns: 0,
    leave_on_fin: false,
    idle_ns: 0,
    half_close_ns: 0,
    lifetime_ns: 0,
};

/// Both sides silent for ever; everything else is said by the plans that are made from it.
const QUIET: Plan = Plan {
    name: "",
    rules: PLAIN_RULES,
    habits: [sends(0), sends(0)],
    parcel_units: 1,
    unit_bytes: 40 * 1024,
    stalls: false,
    starves: false,
    halts: false,
    no_pipe: false,
    kills: false,
    time: false,
    warm: false,
    begin: Begin::Relaying,
};

const OPENING: Plan = Plan {
    name: "opening",
    rules: Rules {
        connect_timeout_ns: millis(100),
        connect_attempts: 3,
        connect_budget_ns: millis(200),
        wait_timeout_ns: millis(200),
        ..PLAIN_RULES
    },
    habits: [sends(1).or_resets(), SILENT],
    kills: true,
    time: true,
    begin: Begin::Accepted,
    ..QUIET
};

const PREFACE: Plan = Plan {
    name: "preface",
    rules: Rules {
        preface_ns: millis(150),
        wait_timeout_ns: millis(200),
        ..PLAIN_RULES
    },
    habits: [sends(1).or_resets(), SILENT],
    kills: true,
    time: true,
    begin: Begin::Accepted,
    ..QUIET
};

const COPY: Plan = Plan {
    name: "copy both ways",
    habits: [sends(2), sends(2)],
    starves: true,
    halts: true,
    ..QUIET
};

const STALL: Plan = Plan {
    name: "stall, stash",
    habits: [sends(3), sends(1)],
    parcel_units: 2,
    stalls: true,
    no_pipe: true,
    starves: true,
    ..QUIET
};

const SPLICE: Plan = Plan {
    name: "splice",
    habits: [
        sends(6).filling(Fullness::Either),
        sends(1).filling(Fullness::Never),
    ],
    stalls: true,
    no_pipe: true,
    begin: Begin::Splicing,
    ..QUIET
};

const TURNING: Plan = Plan {
    name: "copy to splice",
    habits: [sends(5).filling(Fullness::Either), sends(0)],
    stalls: true,
    no_pipe: true,
    starves: true,
    halts: true,
    ..QUIET
};

const RESET_COPY: Plan = Plan {
    name: "resets while copying",
    habits: [sends(2).or_resets(), sends(1).or_resets()],
    time: true,
    starves: true,
    ..QUIET
};

const RESET_STALL: Plan = Plan {
    name: "resets while stalled",
    habits: [sends(2).or_resets(), sends(0).or_resets()],
    parcel_units: 2,
    stalls: true,
    no_pipe: true,
    kills: true,
    time: true,
    ..QUIET
};

const RESET_SPLICE: Plan = Plan {
    name: "resets while splicing",
    habits: [
        sends(5).filling(Fullness::Always).or_resets(),
        sends(0).or_resets(),
    ],
    parcel_units: 1,
    stalls: true,
    no_pipe: true,
    kills: true,
    time: true,
    begin: Begin::Splicing,
    ..QUIET
};

const CLOSING: Plan = Plan {
    name: "kills",
    habits: [sends(1).or_resets(), sends(1)],
    starves: true,
    halts: true,
    kills: true,
    time: true,
    ..QUIET
};

const TIMES: Plan = Plan {
    name: "deadlines",
    rules: Rules {
        idle_ns: millis(700),
        half_close_ns: millis(450),
        lifetime_ns: millis(2_500),
        ..PLAIN_RULES
    },
    habits: [sends(1), sends(1).or_resets()],
    time: true,
    ..QUIET
};

const LONG_LINE: Plan = Plan {
    name: "a long line",
    habits: [sends(10), sends(0)],
    stalls: true,
    begin: Begin::LongLine,
    ..QUIET
};

const BULK: Plan = Plan {
    name: "bulk",
    habits: [
        sends(3 + BULK_PARCELS).filling(Fullness::Always),
        sends(0).or_resets(),
    ],
    unit_bytes: 64 * 1024,
    stalls: true,
    no_pipe: true,
    time: true,
    begin: Begin::Bulk,
    ..QUIET
};

/// Parcels the client has sent when a walk begins with bulk.
pub(super) const BULK_PARCELS: u8 = 19;

const UNIX: Plan = Plan {
    name: "unix peers",
    habits: [
        Habits {
            unix: true,
            ..sends(1)
        },
        Habits {
            unix: true,
            ..sends(1)
        },
    ],
    stalls: true,
    time: true,
    ..QUIET
};

/// The first bytes on a warm connection, its death, and the way to another.
const WARM: Plan = Plan {
    name: "warm",
    rules: Rules {
        connect_attempts: 2,
        connect_budget_ns: millis(200),
        wait_timeout_ns: millis(200),
        ..PLAIN_RULES
    },
    habits: [sends(2), sends(1).or_resets()],
    time: true,
    warm: true,
    begin: Begin::Warm,
    ..QUIET
};

pub(super) const PLANS: &[Plan] = &[
    OPENING,
    WARM,
    Plan {
        name: "warm, clients that reset",
        habits: [sends(1).or_resets(), sends(1).or_resets()],
        ..WARM
    },
    Plan {
        name: "warm, kills",
        habits: [sends(1), sends(0).or_resets()],
        kills: true,
        ..WARM
    },
    Plan {
        name: "warm, short of buffers",
        habits: [sends(1), sends(0)],
        starves: true,
        ..WARM
    },
    Plan {
        name: "warm, receives that end",
        rules: Rules {
            wait_timeout_ns: 0,
            ..WARM.rules
        },
        habits: [sends(1), sends(0)],
        halts: true,
        ..WARM
    },
    Plan {
        name: "warm, short of room",
        rules: Rules {
            wait_timeout_ns: 0,
            ..WARM.rules
        },
        habits: [sends(2), sends(0)],
        stalls: true,
        no_pipe: true,
        ..WARM
    },
    Plan {
        name: "warm, full parcels",
        habits: [
            sends(4).filling(Fullness::Always),
            sends(1).filling(Fullness::Never),
        ],
        ..WARM
    },
    Plan {
        name: "warm, leaving on an end of stream",
        rules: Rules {
            leave_on_fin: true,
            ..WARM.rules
        },
        habits: [sends(1), sends(0)],
        begin: Begin::Accepted,
        ..WARM
    },
    Plan {
        name: "opening, without a queue",
        rules: Rules {
            wait_timeout_ns: 0,
            ..OPENING.rules
        },
        ..OPENING
    },
    Plan {
        name: "opening, leaving on an end of stream",
        rules: Rules {
            leave_on_fin: true,
            ..OPENING.rules
        },
        habits: [sends(1), SILENT],
        kills: false,
        ..OPENING
    },
    PREFACE,
    Plan {
        name: "preface, leaving on an end of stream",
        rules: Rules {
            leave_on_fin: true,
            ..PREFACE.rules
        },
        habits: [sends(1), SILENT],
        kills: false,
        ..PREFACE
    },
    COPY,
    STALL,
    SPLICE,
    TURNING,
    RESET_COPY,
    RESET_STALL,
    RESET_SPLICE,
    CLOSING,
    TIMES,
    LONG_LINE,
    BULK,
    UNIX,
];

/// The plan of this name.
pub(super) fn named(name: &str) -> &'static Plan {
    PLANS
        .iter()
        .find(|plan| plan.name == name)
        .expect("a mutant names a plan that exists")
}
