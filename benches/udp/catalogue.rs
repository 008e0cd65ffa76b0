//! The scenarios by name, and what ringway has to reach in each.

use crate::stand::report::{Goal, Sheet, at_least, at_most};

/// How long a flow lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Until its backend has answered once.
    OneAnswer,
    /// Until it is silent for a second.
    Second,
    /// Beyond the end of the run.
    Hours,
}

/// In which order datagrams of a stream leave their sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Each flow sends what is due in a millisecond together; the flows' milliseconds are evenly shifted.
    Bursts,
    /// The same, joined in one send (UDP_SEGMENT), to a receiver that takes them joined (UDP_GRO).
    Joined,
    /// One datagram of each flow in turn, evenly.
    Singly,
}

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// So many flows, each always with one request under way, 64 bytes each way.
    Requests { flows: usize },
    /// 1,200 bytes one way at so many a second over so many flows.
    Stream { flows: usize, rate: f64, pace: Pace },
    /// So many lanes, each always with one request under way whose source nobody had before.
    Newcomers { lanes: usize, keep: Keep },
    /// Memory of flows that do nothing.
    Idle { flows: usize },
}

#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    pub kind: Kind,
    columns: &'static [&'static str],
    goals: &'static [Goal],
}

impl Scenario {
    pub fn sheet(&self) -> Sheet {
        Sheet {
            name: self.name,
            what: self.what,
            columns: self.columns,
            goals: self.goals,
        }
    }
}

impl Kind {
    pub fn keep(self) -> Keep {
        match self {
            Kind::Newcomers { keep, .. } => keep,
            _ => Keep::Hours,
        }
    }
}

const NGINX: &[&str] = &["nginx"];

const UNIT_COLUMNS: &[&str] = &[
    "rate",
    "own_us",
    "machine_us",
    "procs_us",
    "p50_us",
    "p99_us",
    "packets",
    "switches",
    "calls",
    "ring_ops",
    "punted",
];
const STREAM_COLUMNS: &[&str] = &[
    "rate",
    "lost_ppm",
    "own_us",
    "machine_us",
    "procs_us",
    "p50_us",
    "p99_us",
    "packets",
    "switches",
    "calls",
    "ring_ops",
    "punted",
];
const NEWCOMER_COLUMNS: &[&str] = &[
    "rate",
    "own_us",
    "machine_us",
    "p50_us",
    "p99_us",
    "unanswered_ppm",
    "old_lost",
    "old_p99_us",
    "died",
    "switches",
    "calls",
    "ring_ops",
    "punted",
];

const P99: Goal = at_most("p99_us", 1.0, NGINX);
const REQUESTS: &[Goal] = &[at_most("own_us", 0.92, NGINX), P99];
const STREAM: &[Goal] = &[
    at_most("lost_ppm", 0.0, &[]),
    at_most("own_us", 0.7, NGINX),
    P99,
];
const JOINED: &[Goal] = &[
    at_most("lost_ppm", 0.0, &[]),
    at_most("own_us", 0.3, NGINX),
    P99,
];
const UNHARMED: [Goal; 3] = [
    at_most("unanswered_ppm", 0.0, &[]),
    at_most("old_lost", 0.0, &[]),
    at_most("died", 0.0, &[]),
];

const fn stream(
    name: &'static str,
    what: &'static str,
    pace: Pace,
    goals: &'static [Goal],
) -> Scenario {
    let (flows, rate) = (16, 120_000.0);
    Scenario {
        name,
        what,
        kind: Kind::Stream { flows, rate, pace },
        columns: STREAM_COLUMNS,
        goals,
    }
}

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "rr16",
        what: "16 flows, 64 bytes each way; per request",
        kind: Kind::Requests { flows: 16 },
        columns: UNIT_COLUMNS,
        goals: REQUESTS,
    },
    Scenario {
        name: "rr256",
        what: "256 flows, 64 bytes each way; per request",
        kind: Kind::Requests { flows: 256 },
        columns: UNIT_COLUMNS,
        goals: REQUESTS,
    },
    stream(
        "stream",
        "1,200 bytes one way, 120,000 a second over 16 flows, each sends what is due in a millisecond together; per datagram",
        Pace::Bursts,
        STREAM,
    ),
    stream(
        "stream-singly",
        "the same, one datagram of each flow in turn",
        Pace::Singly,
        STREAM,
    ),
    stream(
        "stream-joined",
        "the same as stream, sender and receiver join datagrams (UDP_SEGMENT, UDP_GRO)",
        Pace::Joined,
        JOINED,
    ),
    Scenario {
        name: "fresh",
        what: "new flows with one answer each, 64 at a time, while 16 old ones speak; per flow",
        kind: Kind::Newcomers {
            lanes: 64,
            keep: Keep::OneAnswer,
        },
        columns: NEWCOMER_COLUMNS,
        goals: &[
            at_least("rate", 1.2, NGINX),
            P99,
            UNHARMED[0],
            UNHARMED[1],
            UNHARMED[2],
        ],
    },
    Scenario {
        name: "held",
        what: "new flows that are held for a second, 64 at a time, while 16 old ones speak; per flow",
        kind: Kind::Newcomers {
            lanes: 64,
            keep: Keep::Second,
        },
        columns: NEWCOMER_COLUMNS,
        goals: &[
            at_least("rate", 1.0, NGINX),
            P99,
            UNHARMED[0],
            UNHARMED[1],
            UNHARMED[2],
        ],
    },
    Scenario {
        name: "idle",
        what: "memory of each of 5,000 idle flows",
        kind: Kind::Idle { flows: 5_000 },
        columns: &["process_kib", "kernel_kib", "total_kib"],
        goals: &[
            at_most("process_kib", 1.0, &[]),
            at_most("total_kib", 0.5, NGINX),
        ],
    },
];
