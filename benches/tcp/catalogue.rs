//! The scenarios by name, who takes part in each, and what ringway has to reach there.

use crate::connections::Ending;
use crate::stand::report::{Goal, Sheet, at_least, at_most};

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Kept connections, each always with one request under way; request and answer of `size` bytes.
    Requests { connections: usize, size: usize },
    /// Connect, one 64-byte request, its answer, close.
    Connections { lanes: usize, ending: Ending },
    /// iperf3 with these flags.
    Bulk { flags: &'static [&'static str] },
    /// Small requests beside iperf3 with these flags.
    Mix {
        connections: usize,
        flags: &'static [&'static str],
    },
    /// One connection, with ringway busy-polling or not; then idle.
    Spin,
    /// Memory of sessions that do nothing.
    Idle { sessions: usize },
    /// Requests at a fixed rate, so that different programs do the same work.
    Paced { connections: usize, rate: f64 },
    /// Requests at a fixed rate over 10 to 9,000 sessions.
    Sessions { rate: f64 },
}

#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    pub kind: Kind,
    pub subjects: &'static [&'static str],
    pub columns: &'static [&'static str],
    pub goals: &'static [Goal],
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

const RINGWAY: &str = "ringway";
const ALL: &[&str] = &["direct", "haproxy", "haproxy-splice", "nginx", RINGWAY];
const PEERS: &[&str] = &["haproxy", "haproxy-splice", "nginx"];

const P99: Goal = at_most("p99_us", 1.0, PEERS);
const REQUESTS: &[Goal] = &[
    at_most("own_us", 0.92, PEERS),
    at_most("machine_us", 0.92, PEERS),
    P99,
];
const CONNECTIONS: &[Goal] = &[
    at_most("own_us", 0.95, PEERS),
    at_most("machine_us", 0.95, PEERS),
    P99,
];
const BULK: &[Goal] = &[
    at_most("own_ms", 0.95, &["haproxy-splice"]),
    at_most("machine_ms", 0.95, &["haproxy-splice"]),
    at_most("own_ms", 0.55, &["nginx"]),
];

const UNIT_COLUMNS: &[&str] = &[
    "rate",
    "own_us",
    "machine_us",
    "procs_us",
    "p50_us",
    "p99_us",
    "packets",
    "acks",
    "switches",
    "calls",
    "ring_ops",
    "punted",
];
const BULK_COLUMNS: &[&str] = &[
    "gbit",
    "own_ms",
    "machine_ms",
    "procs_ms",
    "packets",
    "acks",
    "switches",
    "calls",
    "ring_ops",
    "punted",
];

const fn requests(
    name: &'static str,
    what: &'static str,
    connections: usize,
    size: usize,
    goals: &'static [Goal],
) -> Scenario {
    Scenario {
        name,
        what,
        kind: Kind::Requests { connections, size },
        subjects: ALL,
        columns: UNIT_COLUMNS,
        goals,
    }
}

const fn connections(
    name: &'static str,
    what: &'static str,
    lanes: usize,
    ending: Ending,
) -> Scenario {
    Scenario {
        name,
        what,
        kind: Kind::Connections { lanes, ending },
        subjects: ALL,
        columns: UNIT_COLUMNS,
        goals: CONNECTIONS,
    }
}

const fn bulk(name: &'static str, what: &'static str, flags: &'static [&'static str]) -> Scenario {
    Scenario {
        name,
        what,
        kind: Kind::Bulk { flags },
        subjects: ALL,
        columns: BULK_COLUMNS,
        goals: BULK,
    }
}

use Ending::{BackendFirst, ClientFin, ClientReset};

pub const SCENARIOS: &[Scenario] = &[
    requests(
        "rr1",
        "1 kept connection, 64 bytes each way; per request",
        1,
        64,
        &[P99],
    ),
    requests(
        "rr16",
        "16 kept connections, 64 bytes each way; per request",
        16,
        64,
        REQUESTS,
    ),
    requests(
        "rr256",
        "256 kept connections, 64 bytes each way; per request",
        256,
        64,
        REQUESTS,
    ),
    requests(
        "rr16-4k",
        "16 kept connections, 4 KiB each way; per request",
        16,
        4096,
        REQUESTS,
    ),
    requests(
        "rr256-4k",
        "256 kept connections, 4 KiB each way; per request",
        256,
        4096,
        REQUESTS,
    ),
    connections(
        "crr16-fin",
        "connect, 64 bytes each way, client closes; 16 at a time; per connection",
        16,
        ClientFin,
    ),
    connections("crr16-rst", "the same, client resets", 16, ClientReset),
    connections(
        "crr16-backend",
        "the same, backend closes first",
        16,
        BackendFirst,
    ),
    connections(
        "crr256-fin",
        "connect, 64 bytes each way, client closes; 256 at a time; per connection",
        256,
        ClientFin,
    ),
    connections("crr256-rst", "the same, client resets", 256, ClientReset),
    connections(
        "crr256-backend",
        "the same, backend closes first",
        256,
        BackendFirst,
    ),
    bulk("bulk1", "iperf3, 1 stream; per GB", &["-P", "1"]),
    bulk("bulk8", "iperf3, 8 streams; per GB", &["-P", "8"]),
    bulk("bulk64", "iperf3, 64 streams; per GB", &["-P", "64"]),
    bulk(
        "bulk8-sendfile",
        "iperf3, 8 streams, sendfile sender; per GB",
        &["-P", "8", "-Z"],
    ),
    bulk(
        "bulk8-reverse",
        "iperf3, 8 streams from the backend; per GB",
        &["-P", "8", "-R"],
    ),
    Scenario {
        name: "mix",
        what: "16 small-request connections beside 4 unpaced bulk streams; per request",
        kind: Kind::Mix {
            connections: 16,
            flags: &["-P", "4"],
        },
        subjects: ALL,
        columns: &[
            "rate",
            "p50_us",
            "p99_us",
            "bulk_gbit",
            "own_percent",
            "machine_us",
            "switches",
        ],
        goals: &[
            at_least("rate", 1.0, &["haproxy", "haproxy-splice"]),
            at_most("p99_us", 1.0, &["haproxy"]),
        ],
    },
    Scenario {
        name: "spin",
        what: "1 kept connection, 64 bytes each way, ringway busy-polling; then idle (CPU in ms a second)",
        kind: Kind::Spin,
        subjects: &["haproxy", "nginx", RINGWAY, "ringway-spin", "ringway-auto"],
        columns: &[
            "rate",
            "p50_us",
            "p99_us",
            "own_us",
            "machine_us",
            "idle_cpu_ms",
        ],
        goals: &[
            Goal {
                subject: "ringway-spin",
                ..at_least("rate", 2.0, &["haproxy", "nginx"])
            },
            Goal {
                subject: "ringway-auto",
                ..at_least("rate", 1.8, &["haproxy", "nginx"])
            },
            Goal {
                subject: "ringway-auto",
                ..at_most("idle_cpu_ms", 1.0, &[])
            },
        ],
    },
    Scenario {
        name: "idle",
        what: "memory of each of 5,000 idle sessions (the sockets at both ends included), and CPU in ms a second",
        kind: Kind::Idle { sessions: 5000 },
        subjects: ALL,
        columns: &["process_kib", "kernel_kib", "total_kib", "idle_cpu_ms"],
        goals: &[
            at_most("total_kib", 1.0, &["haproxy", "haproxy-splice"]),
            at_most("process_kib", 2.0, &[]),
        ],
    },
    Scenario {
        name: "workers",
        what: "40,000 requests a second over 64 connections, one worker and two; per request",
        kind: Kind::Paced {
            connections: 64,
            rate: 40_000.0,
        },
        subjects: &["haproxy", "nginx", RINGWAY, "ringway-2"],
        columns: UNIT_COLUMNS,
        goals: &[Goal {
            subject: "ringway-2",
            ..at_most("own_us", 1.10, &[RINGWAY])
        }],
    },
    Scenario {
        name: "sessions",
        what: "20,000 requests a second over 10, 100, 1,000 and 9,000 sessions; growth is the last over the first",
        kind: Kind::Sessions { rate: 20_000.0 },
        subjects: &["direct", "haproxy", "nginx", RINGWAY],
        columns: &[
            "own_us_10",
            "own_us_100",
            "own_us_1000",
            "own_us_9000",
            "own_growth",
            "machine_us_10",
            "machine_us_9000",
            "machine_growth",
        ],
        goals: &[
            at_most("own_growth", 1.1, &[]),
            at_most("own_growth", 1.0, &["haproxy", "nginx"]),
        ],
    },
];
