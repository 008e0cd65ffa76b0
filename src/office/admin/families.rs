//! The families of `/metrics`, one function per owner of the numbers: process, workers, listeners, pools, backends,
//! checks. A family is a name, a sentence and a row per owner; sums over the workers are made here.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use crate::handoff::{
    Admin, Backend, BackendCounters, Discard, Handout, Health, Histogram, HistogramSum, Kept,
    ListenerCounters, PoolCounters, Protocol, Tally, WorkerCounters,
};
use crate::ids::{CancelResult, CheckResult, ConnectFailure, Drop, End, Refusal};
use crate::office::board::{Board, View};
use crate::office::diary;
use crate::office::events::Kind;

use super::metrics::{Labels, Page};

/// A family: its name, its sentence, and where its number stands in the counters of `C`.
type Family<C, N = Tally> = (&'static str, &'static str, fn(&C) -> &N);

const WORKER_GAUGES: [Family<WorkerCounters>; 3] = [
    ("worker_sessions", "Sessions in the worker's table", |c| {
        &c.sessions
    }),
    ("buffers_held", "Receive buffers held by sessions", |c| {
        &c.buffers_held
    }),
    ("pipes_open", "Pipes open for splicing", |c| &c.pipes_open),
];

const WORKER_COUNTERS: [Family<WorkerCounters>; 11] = [
    ("worker_turns", "Turns of the worker's loop", |c| &c.turns),
    ("cq_overflow", "Completions that overflowed the ring", |c| {
        &c.cq_overflow
    }),
    (
        "accept_pauses",
        "Times that accepting paused for want of room",
        |c| &c.accept_pauses,
    ),
    (
        "buffer_pauses",
        "Times that a receive found no buffer",
        |c| &c.buffer_pauses,
    ),
    (
        "pipe_misses",
        "Streams that wanted a pipe and found none",
        |c| &c.pipe_misses,
    ),
    (
        "memory_stashes",
        "Times that a stalled reader's bytes were kept in memory for want of a pipe",
        |c| &c.memory_stashes,
    ),
    (
        "pipe_cuts",
        "Closes and resets that found bytes in a pipe",
        |c| &c.pipe_cuts,
    ),
    (
        "stale_answers",
        "Answers of the kernel for a session that is gone",
        |c| &c.stale_answers,
    ),
    (
        "udp_flows_crowded_out",
        "Flows that had to go for want of room, a descriptor or a port",
        |c| &c.flows_crowded_out,
    ),
    (
        "transfers_given",
        "Accepted sockets given to another worker",
        |c| &c.transfers_given,
    ),
    (
        "transfers_taken",
        "Accepted sockets taken from another worker",
        |c| &c.transfers_taken,
    ),
];

const POOL_HISTOGRAMS: [Family<PoolCounters, Histogram>; 3] = [
    (
        "wait_duration_seconds",
        "How long clients waited for a backend",
        |c| &c.wait,
    ),
    (
        "connect_duration_seconds",
        "How long connecting to a backend took",
        |c| &c.connect,
    ),
    (
        "session_duration_seconds",
        "How long sessions lasted",
        |c| &c.session,
    ),
];

const BACKEND_COUNTERS: [Family<BackendCounters>; 3] = [
    (
        "backend_sessions",
        "Sessions that reached the backend",
        |c| &c.sessions_total,
    ),
    (
        "connect_attempts",
        "Attempts to connect to the backend",
        |c| &c.connect_attempts,
    ),
    (
        "spliced_bytes",
        "Bytes that went through a pipe instead of a buffer",
        |c| &c.spliced_bytes,
    ),
];

pub(super) fn process(page: &mut Page<'_>, board: &Board, view: &View) -> fmt::Result {
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    page.gauge("build_info", "What runs here", [(version, 1.0)])?;
    let started = board.started.duration_since(UNIX_EPOCH);
    let started = started.map_or(0.0, |since| since.as_secs_f64());
    page.gauge(
        "start_time_seconds",
        "When the process started, in seconds since 1970",
        [(vec![], started)],
    )?;
    page.gauge(
        "generation",
        "Generation of the published world",
        [(vec![], view.snapshot.generation as f64)],
    )?;
    generations(page, board)?;
    page.gauge(
        "sessions_limit",
        "Sessions that the process takes at most",
        [(vec![], f64::from(board.process.limit()))],
    )?;
    let (places, sources) = board.hatches.sources.usage(board.clock.now());
    page.gauge(
        "sources_active",
        "Client addresses that have sessions or owe time to a rate, at listeners with limits per source",
        [(vec![], sources as f64)],
    )?;
    page.gauge(
        "sources_limit",
        "Client addresses that can be told apart at a time; 0 without limits per source",
        [(vec![], places as f64)],
    )?;
    let headroom = board.headroom.lock().clone();
    page.gauge(
        "headroom_ratio",
        "Share of a resource that is left; of local ports, that towards the backend with the least",
        headroom
            .into_iter()
            .map(|(resource, left)| (vec![("resource", resource)], left)),
    )?;
    page.counter(
        "reloads",
        "Reloads of the configuration",
        [
            (vec![("result", "taken")], view.reloads.taken),
            (vec![("result", "refused")], view.reloads.refused),
            (vec![("result", "reverted")], view.reloads.reverted),
        ],
    )?;
    logs(page, board)
}

/// This process and those before it.
fn generations(page: &mut Page<'_>, board: &Board) -> fmt::Result {
    let family = board.family.lock().clone();
    page.gauge(
        "process_generation",
        "Of this process: 1, and one more with each upgrade",
        [(vec![], f64::from(family.generation))],
    )?;
    page.gauge(
        "older_processes",
        "Processes before this one that still have sessions",
        [(vec![], family.older.len() as f64)],
    )?;
    let left = family.older.iter().map(|it| it.sessions + it.flows);
    page.gauge(
        "older_sessions",
        "Sessions and flows of the processes before this one",
        [(vec![], left.sum::<u64>() as f64)],
    )?;
    page.counter(
        "upgrades",
        "Upgrades of the process",
        [
            (vec![("result", "done")], family.done),
            (vec![("result", "failed")], family.failed),
        ],
    )
}

fn logs(page: &mut Page<'_>, board: &Board) -> fmt::Result {
    page.counter(
        "access_log_lines",
        "Lines written to the access log",
        [(vec![], board.log_lines.load(Ordering::Relaxed))],
    )?;
    page.counter(
        "access_log_lines_lost",
        "Access-log lines that could not be written",
        [(vec![], board.lines_lost())],
    )?;
    page.counter(
        "log_lines_lost",
        "Lines of the process's own log that could not be written",
        [(vec![], diary::lost())],
    )
}

/// What is told at `/v1/events`, and to how many.
pub(super) fn events(page: &mut Page<'_>, board: &Board) -> fmt::Result {
    page.counter(
        "events",
        "Events told at /v1/events",
        Kind::ALL.map(|kind| (vec![("kind", kind.word())], board.events.told(kind))),
    )?;
    page.counter(
        "changes_lost",
        "Changes of health and breakers that came too fast to be told; they happened all the same",
        [(vec![], board.changes_lost())],
    )?;
    page.gauge(
        "event_streams",
        "Clients that read events now",
        [(vec![], board.events.listeners() as f64)],
    )
}

pub(super) fn workers(page: &mut Page<'_>, board: &Board) -> fmt::Result {
    let hatches = &board.hatches.workers;
    let numbers: Vec<String> = hatches.iter().map(|h| h.worker.0.to_string()).collect();
    let label = |i: usize| vec![("worker", numbers[i].as_str())];
    let busy = board.busy_ppm.iter().enumerate();
    page.gauge(
        "worker_busy_ratio",
        "Share of the last second that the worker was busy",
        busy.map(|(i, ppm)| (label(i), ppm.load(Ordering::Relaxed) as f64 / 1e6)),
    )?;
    let read = |pick: fn(&WorkerCounters) -> &Tally| {
        let hatches = hatches.iter().enumerate();
        hatches.map(move |(i, hatch)| (label(i), pick(&hatch.counters).read()))
    };
    for (name, help, pick) in WORKER_GAUGES {
        page.gauge(name, help, read(pick).map(|(l, n)| (l, n as f64)))?;
    }
    for (name, help, pick) in WORKER_COUNTERS {
        page.counter(name, help, read(pick))?;
    }
    let rolls = || hatches.iter().map(|hatch| &hatch.roll).enumerate();
    page.gauge(
        "worker_silent",
        "1 while the worker does not answer its doorbell",
        rolls().map(|(i, roll)| (label(i), roll.silent.read() as f64)),
    )?;
    page.counter(
        "worker_silences",
        "Times that the worker left its doorbell unanswered for a second",
        rolls().map(|(i, roll)| (label(i), roll.silences.read())),
    )?;
    Ok(())
}

pub(super) fn listeners(page: &mut Page<'_>, view: &View) -> fmt::Result {
    let listeners = view.counting_listeners();
    let sum = |i: usize, pick: &dyn Fn(&ListenerCounters) -> u64| -> u64 {
        let shards = listeners[i].workers.iter();
        shards.map(|shard| pick(shard)).sum()
    };
    let label = |i: usize| vec![("listener", listeners[i].name.as_str())];
    let all = || 0..listeners.len();
    page.gauge(
        "sessions_active",
        "Sessions now",
        all().map(|i| (label(i), sum(i, &|c| c.sessions_active.read()) as f64)),
    )?;
    page.counter(
        "sessions",
        "Sessions begun",
        all().map(|i| (label(i), sum(i, &|c| c.sessions_total.read()))),
    )?;
    let ends = all().flat_map(|i| End::ALL.iter().map(move |&end| (i, end)));
    page.counter(
        "session_ends",
        "Sessions ended, by side and cause",
        ends.map(|(i, end)| {
            let count = sum(i, &|c| c.ends[end.index()].read());
            (with(label(i), "end", end.word()), count)
        }),
    )?;
    let directions = all().flat_map(|i| ["in", "out"].map(|direction| (i, direction)));
    page.counter(
        "bytes",
        "Bytes carried; in is from the client",
        directions.map(|(i, direction)| {
            let count = match direction {
                "in" => sum(i, &|c| c.bytes_in.read()),
                _ => sum(i, &|c| c.bytes_out.read()),
            };
            (with(label(i), "direction", direction), count)
        }),
    )?;
    let refusals = all().flat_map(|i| Refusal::ALL.iter().map(move |&reason| (i, reason)));
    page.counter(
        "refused",
        "Clients turned away at accept",
        refusals.map(|(i, reason)| {
            let count = sum(i, &|c| c.refused[reason.index()].read());
            (with(label(i), "reason", reason.word()), count)
        }),
    )
}

/// What listeners for datagrams carry.
pub(super) fn flows(page: &mut Page<'_>, view: &View) -> fmt::Result {
    let listeners = view.snapshot.listeners.iter();
    let udp: Vec<_> = listeners
        .filter(|listener| listener.protocol == Protocol::Udp)
        .collect();
    let sum = |i: usize, pick: &dyn Fn(&ListenerCounters) -> u64| -> u64 {
        let shards = udp[i].shared.workers.iter();
        shards.map(|shard| pick(shard)).sum()
    };
    let label = |i: usize| vec![("listener", udp[i].shared.name.as_str())];
    let all = || 0..udp.len();
    page.gauge(
        "udp_flows_active",
        "Flows now",
        all().map(|i| (label(i), sum(i, &|c| c.flows_active.read()) as f64)),
    )?;
    page.counter(
        "udp_flows",
        "Flows begun",
        all().map(|i| (label(i), sum(i, &|c| c.flows_total.read()))),
    )?;
    page.counter(
        "udp_flows_moved",
        "Times that a flow went on to another backend",
        all().map(|i| (label(i), sum(i, &|c| c.flows_moved.read()))),
    )?;
    let directions = all().flat_map(|i| ["in", "out"].map(|direction| (i, direction)));
    page.counter(
        "udp_datagrams",
        "Datagrams passed on; in is from the client",
        directions.map(|(i, direction)| {
            let count = match direction {
                "in" => sum(i, &|c| c.datagrams_in.read()),
                _ => sum(i, &|c| c.datagrams_out.read()),
            };
            (with(label(i), "direction", direction), count)
        }),
    )?;
    let drops = all().flat_map(|i| Drop::ALL.iter().map(move |&reason| (i, reason)));
    page.counter(
        "udp_drops",
        "Datagrams dropped, in either direction",
        drops.map(|(i, reason)| {
            let count = sum(i, &|c| c.drops[reason.index()].read());
            (with(label(i), "reason", reason.word()), count)
        }),
    )
}

fn with<'a>(mut labels: Labels<'a>, key: &'static str, value: &'a str) -> Labels<'a> {
    labels.push((key, value));
    labels
}

/// Pools of which several backends say that they are the primary.
pub(super) fn conflicts(page: &mut Page<'_>, board: &Board, view: &View) -> fmt::Result {
    let conflicts = board.conflicts();
    let pools = view.snapshot.pools.iter().map(|pool| {
        let name = pool.shared.name.as_str();
        let disputed = conflicts.iter().any(|conflict| conflict.pool == name);
        (vec![("pool", name)], if disputed { 1.0 } else { 0.0 })
    });
    page.gauge(
        "role_conflict",
        "1 while several backends of the pool say that they are its primary, and none of them gets new sessions",
        pools,
    )
}

pub(super) fn pools(page: &mut Page<'_>, view: &View) -> fmt::Result {
    let pools = &view.snapshot.pools;
    let label = |i: usize| vec![("pool", pools[i].shared.name.as_str())];
    let all = || 0..pools.len();
    page.gauge(
        "waiting",
        "Clients that wait for a backend now",
        all().map(|i| (label(i), f64::from(pools[i].waiters.live()))),
    )?;
    page.counter(
        "retries",
        "Connection attempts after a session's first",
        all().map(|i| {
            let shards = pools[i].shared.workers.iter();
            (label(i), shards.map(|shard| shard.retries.read()).sum())
        }),
    )?;
    page.counter(
        "connect_rate_waits",
        "Clients that waited because connect_rate held every open backend back",
        all().map(|i| {
            let shards = pools[i].shared.workers.iter();
            (label(i), shards.map(|shard| shard.paced.read()).sum())
        }),
    )?;
    let cancels = all().flat_map(|i| CancelResult::ALL.iter().map(move |&result| (i, result)));
    page.counter(
        "cancels",
        "PostgreSQL cancel requests, by what became of them",
        cancels.map(|(i, result)| {
            let count = pools[i].shared.cancels[result.index()].load(Ordering::Relaxed);
            (with(label(i), "result", result.word()), count)
        }),
    )?;
    for (name, help, pick) in POOL_HISTOGRAMS {
        let rows = all().map(|i| {
            let mut sum = HistogramSum::default();
            for shard in &pools[i].shared.workers {
                sum.add(pick(shard));
            }
            (label(i), sum)
        });
        page.histogram(name, help, rows)?;
    }
    Ok(())
}

fn all_backends(view: &View) -> Vec<&Backend> {
    let pools = view.snapshot.pools.iter();
    pools.flat_map(|pool| &pool.backends).collect()
}

fn backend_label(backend: &Backend) -> Labels<'_> {
    let shared = &backend.shared;
    vec![("pool", &*shared.pool), ("backend", &*shared.name)]
}

pub(super) fn backends(page: &mut Page<'_>, view: &View) -> fmt::Result {
    let backends = all_backends(view);
    let label = |i: usize| backend_label(backends[i]);
    let sum = |i: usize, pick: &dyn Fn(&BackendCounters) -> u64| -> u64 {
        let shards = backends[i].shared.workers.iter();
        shards.map(|shard| pick(shard)).sum()
    };
    let all = || 0..backends.len();
    page.gauge(
        "backend_sessions_active",
        "Sessions on the backend now",
        all().map(|i| (label(i), f64::from(backends[i].shared.sessions()))),
    )?;
    for (name, help, pick) in BACKEND_COUNTERS {
        let rows = all().map(|i| (label(i), sum(i, &|c| pick(c).read())));
        page.counter(name, help, rows)?;
    }
    breakers(page, &backends)?;
    warm(page, &backends)?;
    let directions = all().flat_map(|i| ["in", "out"].map(|direction| (i, direction)));
    page.counter(
        "backend_bytes",
        "Bytes carried; in is from the client to the backend",
        directions.map(|(i, direction)| {
            let count = match direction {
                "in" => sum(i, &|c| c.bytes_in.read()),
                _ => sum(i, &|c| c.bytes_out.read()),
            };
            (with(label(i), "direction", direction), count)
        }),
    )?;
    let failures = all().flat_map(|i| ConnectFailure::ALL.iter().map(move |&why| (i, why)));
    page.counter(
        "connect_failures",
        "Attempts to connect that failed",
        failures.map(|(i, why)| {
            let count = sum(i, &|c| c.connect_failures[why.index()].read());
            (with(label(i), "reason", why.word()), count)
        }),
    )
}

fn breakers(page: &mut Page<'_>, backends: &[&Backend]) -> fmt::Result {
    let breaker = |it: &Backend| it.shared.verdict.breaker.opens();
    page.counter(
        "breaker_opens",
        "Times that the backend was ejected by its breaker",
        backends.iter().map(|it| (backend_label(it), breaker(it))),
    )?;
    let reasons = backends
        .iter()
        .flat_map(|it| Kept::ALL.iter().map(move |&why| (it, why)));
    page.counter(
        "breaker_kept",
        "Times that the backend should have been ejected, and the pool could not spare it",
        reasons.map(|(it, why)| {
            let count = it.shared.verdict.breaker.kept(why);
            (with(backend_label(it), "reason", why.word()), count)
        }),
    )?;
    page.counter(
        "early_resets",
        "Sessions that the backend reset early, without a byte from it",
        backends.iter().map(|it| {
            let shards = it.shared.workers.iter();
            let count = shards.map(|shard| shard.early_resets.read()).sum();
            (backend_label(it), count)
        }),
    )
}

fn warm(page: &mut Page<'_>, backends: &[&Backend]) -> fmt::Result {
    page.gauge(
        "warm_connections",
        "Connections that wait for a session now",
        backends
            .iter()
            .map(|it| (backend_label(it), f64::from(it.shared.warm.idle()))),
    )?;
    let results = backends
        .iter()
        .flat_map(|it| Handout::ALL.iter().map(move |&what| (it, what)));
    page.counter(
        "warm_handouts",
        "Sessions' wishes for a warm connection, by what came of them; replayed and died are hits, too",
        results.map(|(it, what)| {
            let shards = it.shared.workers.iter();
            let count = shards.map(|shard| shard.handouts[what.index()].read());
            (with(backend_label(it), "result", what.word()), count.sum())
        }),
    )?;
    let reasons = backends
        .iter()
        .flat_map(|it| Discard::ALL.iter().map(move |&why| (it, why)));
    page.counter(
        "warm_discards",
        "Warm connections that no session had",
        reasons.map(|(it, why)| {
            let count = it.shared.warm.discards[why.index()].read();
            (with(backend_label(it), "reason", why.word()), count)
        }),
    )
}

pub(super) fn backend_states(page: &mut Page<'_>, view: &View) -> fmt::Result {
    let backends = all_backends(view);
    let states = backends.iter().flat_map(|backend| {
        let verdict = &backend.shared.verdict;
        let (admin, health) = (verdict.admin(), verdict.health());
        let admins = Admin::ALL.map(|state| (*backend, state.word(), state == admin));
        let healths = Health::ALL.map(|state| (*backend, state.word(), state == health));
        admins.into_iter().chain(healths)
    });
    page.gauge(
        "backend_state",
        "1 for the operator's and the checks' state of the backend, 0 for the others",
        states.map(|(backend, word, holds)| {
            let value = if holds { 1.0 } else { 0.0 };
            (with(backend_label(backend), "state", word), value)
        }),
    )?;
    let weights = backends.iter();
    page.gauge(
        "backend_weight",
        "The backend's weight",
        weights.map(|backend| (backend_label(backend), f64::from(backend.weight))),
    )
}

/// What the prober counted.
pub(super) fn checks(page: &mut Page<'_>, board: &Board) -> fmt::Result {
    let reports = board.check_reports();
    let label = |i: usize| {
        let shared = &reports[i].backend;
        vec![("pool", &*shared.pool), ("backend", &*shared.name)]
    };
    let results = (0..reports.len()).flat_map(|i| CheckResult::ALL.iter().map(move |&r| (i, r)));
    page.counter(
        "check",
        "Health checks, by what they found",
        results.map(|(i, result)| {
            let count = reports[i].checks[result.index()];
            (with(label(i), "result", result.word()), count)
        }),
    )?;
    let durations = reports.iter().enumerate();
    page.histogram(
        "check_duration_seconds",
        "How long health checks took",
        durations.map(|(i, report)| (label(i), report.duration.clone())),
    )
}
