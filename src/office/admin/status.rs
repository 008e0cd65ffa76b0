//! `/v1/status`: the running process as one JSON object. Field names are part of the contract with users; fields may be
//! added.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::balance::{Service, TIERS_MAX};
use crate::handoff::{
    Backend, BackendShared, BreakerRules, Kept, Listener, Phase, Pool, Protocol, Standing, Target,
};
use crate::ids::{BackendId, Clock, ConnectFailure, End, Nanos, Refusal};
use crate::office::board::{Board, Reloads, View};
use crate::office::breakers::BreakerNote;
use crate::office::operator::Name;
use crate::office::upgrade::Family;
use crate::prober::{BackendReport, Conflict};

#[must_use]
pub fn of(board: &Board) -> Value {
    let view = board.view();
    let snapshot = &view.snapshot;
    let listeners: Vec<Value> = snapshot
        .listeners
        .iter()
        .map(|l| listener(&view, l))
        .collect();
    let checks = Checks::of(board);
    let pools = snapshot.pools.iter();
    let pools: Vec<Value> = pools.map(|p| pool(&view, &checks, p)).collect();
    let retired = view.retired.iter().filter_map(std::sync::Weak::upgrade);
    let removed: Vec<Value> = retired
        .filter(|shared| shared.sessions() > 0)
        .map(|shared| {
            let mut value = shared_part(&shared);
            value["pool"] = json!(shared.pool);
            value
        })
        .collect();
    let uptime = board.started.elapsed().unwrap_or_default();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": uptime.as_secs_f64(),
        "started": stamp(board.started),
        "phase": match (snapshot.phase, board.is_leaving()) {
            (Phase::Serving | Phase::HandingOver, false) => "serving",
            (Phase::Serving | Phase::HandingOver, true) => "leaving",
            (Phase::Draining { .. }, _) => "draining",
        },
        "generation": snapshot.generation,
        "reload": reload(&view.reloads),
        "process": process(&board.family.lock()),
        "sessions": { "active": board.process.used(), "limit": board.process.limit() },
        "workers": workers(board),
        "access_log": {
            "lines": board.log_lines.load(Ordering::Relaxed),
            "lost": board.lines_lost(),
        },
        "listeners": listeners,
        "pools": pools,
        "removed_backends": removed,
        "operator": view.operator,
    })
}

pub(super) fn stamp(moment: SystemTime) -> String {
    humantime::format_rfc3339_millis(moment).to_string()
}

fn reload(reloads: &Reloads) -> Value {
    let last = reloads.last.as_ref().map(|last| {
        json!({
            "at": stamp(last.at),
            "result": last.result(),
            "error": last.error,
            "reason": last.reverted,
            "changes": last.changes,
        })
    });
    json!({
        "taken": reloads.taken,
        "refused": reloads.refused,
        "reverted": reloads.reverted,
        "confirm_until": reloads.pending.map(|pending| stamp(pending.until)),
        "last": last,
    })
}

/// This process among those of its service.
fn process(family: &Family) -> Value {
    let older = family.older.iter().map(|older| {
        json!({
            "generation": older.generation,
            "pid": older.pid,
            "sessions": older.sessions,
            "flows": older.flows,
            "since": stamp(older.since),
        })
    });
    json!({
        "pid": std::process::id(),
        "generation": family.generation,
        "older": older.collect::<Vec<_>>(),
        "upgrades": family.done,
        "failed": family.failed,
        "last_upgrade": family.last.as_ref().map(|last| json!({
            "at": stamp(last.at),
            "error": last.error,
        })),
    })
}

fn workers(board: &Board) -> Vec<Value> {
    let hatches = board.hatches.workers.iter().zip(&board.busy_ppm);
    let workers = hatches.map(|(hatch, busy)| {
        let counters = &hatch.counters;
        json!({
            "worker": hatch.worker.0,
            "generation": counters.generation.read(),
            "sessions": counters.sessions.read(),
            "busy_ratio": busy.load(Ordering::Relaxed) as f64 / 1e6,
            "turns": counters.turns.read(),
            "pipes_open": counters.pipes_open.read(),
            "buffers_held": counters.buffers_held.read(),
            "accept_pauses": counters.accept_pauses.read(),
            "buffer_pauses": counters.buffer_pauses.read(),
            "cq_overflow": counters.cq_overflow.read(),
            "stale_answers": counters.stale_answers.read(),
            "silent": hatch.roll.silent.read() > 0,
        })
    });
    workers.collect()
}

fn listener(view: &View, listener: &Listener) -> Value {
    let shards = || listener.shared.workers.iter();
    let addresses: Vec<String> = listener
        .sockets
        .iter()
        .map(|s| s.address.to_string())
        .collect();
    let ends = counted(End::ALL, |end: End| {
        let counts = shards().map(|shard| shard.ends[end.index()].read());
        (end.word(), counts.sum())
    });
    let refused = counted(Refusal::ALL, |reason: Refusal| {
        let counts = shards().map(|shard| shard.refused[reason.index()].read());
        (reason.word(), counts.sum())
    });
    json!({
        "name": listener.shared.name,
        "addresses": addresses,
        "protocol": match listener.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        },
        "pool": view.names.pool(listener.pool),
        "max_connections": listener.shared.capacity.limit(),
        "sessions": shards().map(|shard| shard.sessions_active.read()).sum::<u64>(),
        "sessions_total": shards().map(|shard| shard.sessions_total.read()).sum::<u64>(),
        "bytes_in": shards().map(|shard| shard.bytes_in.read()).sum::<u64>(),
        "bytes_out": shards().map(|shard| shard.bytes_out.read()).sum::<u64>(),
        "ends": ends,
        "refused": refused,
    })
}

/// An object of those counts that are not zero.
fn counted<T: Copy>(all: &[T], count: impl Fn(T) -> (&'static str, u64)) -> Value {
    let counts = all.iter().map(|&item| count(item));
    let counts = counts.filter(|(_, n)| *n > 0);
    Value::Object(
        counts
            .map(|(word, n)| (word.to_owned(), json!(n)))
            .collect(),
    )
}

/// What the prober says, by backend.
struct Checks {
    clock: Clock,
    reports: BTreeMap<BackendId, BackendReport>,
    conflicts: Vec<Conflict>,
    breaker_notes: BTreeMap<BackendId, BreakerNote>,
}

impl Checks {
    fn of(board: &Board) -> Checks {
        let reports = board.check_reports().into_iter();
        Checks {
            clock: board.clock,
            reports: reports.map(|report| (report.backend.id, report)).collect(),
            conflicts: board.conflicts(),
            breaker_notes: board.breaker_notes.all(),
        }
    }

    /// Since when which backends of a pool say that they are its primary; null while at most one does.
    fn conflict(&self, pool: &str) -> Value {
        let conflict = self.conflicts.iter().find(|conflict| conflict.pool == pool);
        json!(conflict.map(|conflict| json!({
            "backends": conflict.claimants,
            "since": stamp(self.clock.wall(conflict.since)),
        })))
    }

    /// The last check, and the last change of health with its reason.
    fn write(&self, backend: BackendId, value: &mut Value) {
        let latest = self.reports.get(&backend).map(|report| &report.latest);
        let at = |moment| stamp(self.clock.wall(moment));
        value["last_check"] = json!(latest.and_then(|latest| {
            let finding = latest.finding.as_ref()?;
            Some(json!({
                "at": at(latest.found_at?),
                "result": finding.result.word(),
                "reason": finding.reason().to_string(),
                "took_ms": finding.took_ns as f64 / 1e6,
                "role": finding.role.word(),
            }))
        }));
        value["last_change"] = json!(latest.and_then(|latest| {
            let (moment, reason) = latest.changed.as_ref()?;
            Some(json!({ "at": at(*moment), "reason": reason.to_string() }))
        }));
    }
}

fn pool(view: &View, checks: &Checks, pool: &Pool) -> Value {
    let now = checks.clock.now();
    let members = 0..pool.backends.len();
    let backends: Vec<Value> = members
        .map(|i| member(view, checks, pool, i, now))
        .collect();
    let Service {
        serving,
        ignoring_health,
    } = pool.shared.tiers.service();
    let retries = pool.shared.workers.iter().map(|shard| shard.retries.read());
    json!({
        "name": pool.shared.name,
        "algorithm": view.algorithm(pool.shared.id),
        "waiting": pool.waiters.live(),
        "wait_size": pool.waiters.size(),
        "serving_tiers": tier_list(serving & pool.tiers),
        "ignoring_health": ignoring_health != 0,
        "retries": retries.sum::<u64>(),
        "role_conflict": checks.conflict(&pool.shared.name),
        "backends": backends,
    })
}

/// One backend of a pool, with what the pool makes of it.
fn member(view: &View, checks: &Checks, pool: &Pool, i: usize, now: Nanos) -> Value {
    let backend = &pool.backends[i];
    let mut value = backend_of(view, checks, backend, pool.breaker.as_ref());
    value["eligible"] = json!(matches!(
        pool.standing(i, now),
        Standing::Open | Standing::Paced
    ));
    value["weight_now"] = json!(pool.ramp(i, now).share() * f64::from(backend.weight));
    value
}

/// The same of one backend alone, if there is one of this name.
#[must_use]
pub fn backend(board: &Board, name: &Name) -> Option<Value> {
    let view = board.view();
    let mut pools = view.snapshot.pools.iter();
    let pool = pools.find(|pool| pool.shared.name == name.pool)?;
    let mut backends = pool.backends.iter();
    let i = backends.position(|backend| backend.shared.name == name.backend)?;
    let mut value = member(&view, &Checks::of(board), pool, i, board.clock.now());
    value["pool"] = json!(name.pool);
    Some(value)
}

/// Bit n stands for tier n.
pub(super) fn tier_list(mask: u16) -> Vec<usize> {
    let is_in = |tier: &usize| mask >> tier & 1 == 1;
    (0..TIERS_MAX).filter(is_in).collect()
}

fn backend_of(
    view: &View,
    checks: &Checks,
    backend: &Backend,
    rules: Option<&BreakerRules>,
) -> Value {
    let mut value = shared_part(&backend.shared);
    let note = view.notes.get(&backend.shared.id);
    value["address"] = json!(note.map(|note| &note.address));
    value["target"] = match &backend.target {
        Target::Fixed(address) => json!(address.to_string()),
        Target::ListenerPort { host, offset } => json!(format!("{host} port +{offset}")),
        Target::Unresolved => Value::Null,
    };
    value["unresolved"] = json!(note.and_then(|note| note.unresolved.as_ref()));
    value["weight"] = json!(backend.weight);
    value["tier"] = json!(backend.tier);
    checks.write(backend.shared.id, &mut value);
    value["breaker"] = breaker(checks, &backend.shared, rules);
    value
}

/// Null in a pool that ejects nobody.
fn breaker(checks: &Checks, shared: &BackendShared, rules: Option<&BreakerRules>) -> Value {
    let Some(rules) = rules else {
        return Value::Null;
    };
    let breaker = &shared.verdict.breaker;
    let (connects, resets) = breaker.failures();
    let until = breaker.open_until(rules);
    let last = checks.breaker_notes.get(&shared.id);
    let kept = counted(&Kept::ALL, |why: Kept| (why.word(), breaker.kept(why)));
    json!({
        "state": breaker.state().word(),
        "opens": breaker.opens(),
        "opens_in_a_row": breaker.row(),
        "open_until": until.map(|moment| stamp(checks.clock.wall(moment))),
        "failures_in_a_row": { "connects": connects, "early_resets": resets },
        "kept": kept,
        "last_change": last.map(|note| json!({ "at": stamp(note.at), "reason": note.reason })),
    })
}

/// What hangs on a backend's identity, in the plan or not.
fn shared_part(shared: &BackendShared) -> Value {
    let shards = || shared.workers.iter();
    let failures = counted(ConnectFailure::ALL, |reason: ConnectFailure| {
        let counts = shards().map(|shard| shard.connect_failures[reason.index()].read());
        (reason.word(), counts.sum())
    });
    json!({
        "name": shared.name,
        "admin": shared.verdict.admin().word(),
        "health": shared.verdict.health().word(),
        "sessions": shared.sessions(),
        "max_connections": shared.capacity.limit(),
        "sessions_total": shards().map(|shard| shard.sessions_total.read()).sum::<u64>(),
        "connect_attempts": shards().map(|shard| shard.connect_attempts.read()).sum::<u64>(),
        "connect_failures": failures,
        "connects": shards().map(|shard| shard.connects.read()).sum::<u64>(),
        "connect_ms": shards().map(|shard| shard.connect_ns.read()).sum::<u64>() as f64 / 1e6,
        "bytes_in": shards().map(|shard| shard.bytes_in.read()).sum::<u64>(),
        "bytes_out": shards().map(|shard| shard.bytes_out.read()).sum::<u64>(),
        "spliced_bytes": shards().map(|shard| shard.spliced_bytes.read()).sum::<u64>(),
    })
}
