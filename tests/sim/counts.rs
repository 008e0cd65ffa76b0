//! What a run has met: how often each kind of fault was hit, and which events came in which state of a session. The
//! latter are held against a file, so that nobody narrows the simulation, or widens the sessions, without seeing it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use ringway::session::{Phase, Route};

macro_rules! faults {
    ($($name:ident)*) => {
        /// A kind of trouble that the fake kernel or the world makes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($name,)* }

        impl Fault {
            pub const ALL: &'static [Fault] = &[$(Fault::$name,)*];
        }
    };
}

faults! {
    ShortSend BlockedSend SendAfterError EarlySubmit
    PeerReset ResetInCloseWait PeerTimedOut HalfClose ClosedUnread ClosedBeforeOurData UnixHangUp ErrorTakenByPoll
    StalledReader
    ConnectRefused ConnectUnreachable ConnectTimedOut ConnectUnanswered ConnectNotStarted
    NoBuffer BufferRefused ReceiveStopped ReceiveInterrupted ManyParcels
    NoPipe MemoryStash FullPipe SourceMore SourceDry SourceFin SourceBroken SinkFull SinkBroken NotAcknowledged
    AcceptPressure AcceptRetry AcceptBacklog ListenerNotOpened
    LateAnswer LateCancel CancelRaced EarlyWake WorkerStalled SmallBatch Overflow
    Reload ListenerRemoved SocketReplaced BackendRemoved BackendReturned LimitChanged QueueReplaced PoolRemoved
    BackendDown BackendUp BreakerOpened BreakerTried BreakerClosed Evicted Drained Transferred
    TiersChanged OtherTierServed HealthIgnored SourceLimitChanged SourceRefused
    WarmHit WarmStale WarmReplayed WarmDied
}

/// Phase, route from the event's side, event.
pub type Pair = (&'static str, &'static str, &'static str);

/// Counters of one or many runs.
#[derive(Clone, Default)]
pub struct Counts {
    faults: Vec<u64>,
    pub pairs: BTreeMap<Pair, u64>,
    pub ends: BTreeMap<&'static str, u64>,
    pub turns: u64,
    pub sessions: u64,
    pub bytes: u64,
}

impl Counts {
    pub fn hit(&mut self, fault: Fault) {
        self.faults.resize(Fault::ALL.len(), 0);
        self.faults[fault as usize] += 1;
    }

    pub fn hits(&self, fault: Fault) -> u64 {
        self.faults.get(fault as usize).copied().unwrap_or(0)
    }

    pub fn pair(&mut self, (phase, route): (Phase, Route), event: &'static str) {
        let key = (name_of_phase(phase), name_of_route(route), event);
        *self.pairs.entry(key).or_insert(0) += 1;
    }

    pub fn add(&mut self, other: &Counts) {
        self.faults.resize(Fault::ALL.len(), 0);
        for (own, other) in self.faults.iter_mut().zip(&other.faults) {
            *own += other;
        }
        for (pair, count) in &other.pairs {
            *self.pairs.entry(*pair).or_insert(0) += count;
        }
        for (end, count) in &other.ends {
            *self.ends.entry(end).or_insert(0) += count;
        }
        self.turns += other.turns;
        self.sessions += other.sessions;
        self.bytes += other.bytes;
    }
}

fn name_of_phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Choosing => "choosing",
        Phase::Preface => "preface",
        Phase::Waiting => "waiting",
        Phase::Pausing => "pausing",
        Phase::Connecting => "connecting",
        Phase::Relaying => "relaying",
        Phase::Closing { reset: false } => "closing-whole",
        Phase::Closing { reset: true } => "closing-cut",
        Phase::Done => "done",
    }
}

fn name_of_route(route: Route) -> &'static str {
    match route {
        Route::Copy => "copy",
        Route::Leaving => "leaving",
        Route::Splice => "splice",
    }
}

/// Pairs that come less often than this in a thousand seeds may stay away in another run.
const SURE: u64 = 50;

/// The file of reached pairs: one a line, with `rare` behind those that may stay away.
pub fn write_pairs(counts: &Counts, seeds: u64) -> String {
    let mut text = String::from(
        "# Reached pairs of the simulation: phase, route on the event's way, event. Written by RINGWAY_SIM_WRITE=1.\n",
    );
    for ((phase, route, event), count) in &counts.pairs {
        let rare = if *count * 1000 < SURE * seeds {
            " rare"
        } else {
            ""
        };
        let _ = writeln!(text, "{phase} {route} {event}{rare}");
    }
    text
}

/// How the reached pairs differ from those in the file: `+` is new, `-` is missing.
pub fn compare_pairs(counts: &Counts, file: &str) -> Vec<String> {
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    let lines: Vec<Vec<&str>> = lines.map(|line| line.split(' ').collect()).collect();
    let known: BTreeSet<String> = lines.iter().map(|words| words[..3].join(" ")).collect();
    let sure = lines.iter().filter(|words| words.len() == 3);
    let sure: BTreeSet<String> = sure.map(|words| words.join(" ")).collect();
    let reached = counts.pairs.keys();
    let reached: BTreeSet<String> = reached
        .map(|(phase, route, event)| format!("{phase} {route} {event}"))
        .collect();
    let new = reached.difference(&known).map(|pair| format!("+ {pair}"));
    let missing = sure.difference(&reached).map(|pair| format!("- {pair}"));
    new.chain(missing).collect()
}
