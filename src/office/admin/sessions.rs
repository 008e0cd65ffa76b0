//! Long sessions over HTTP: the oldest listed, one ended. Workers are asked (see `handoff::asks`), one question at a time
//! in the whole process, and answer within a deadline or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::MutexGuard;

use crate::handoff::{Ask, Finding, Hatch, Question, SessionRow};
use crate::ids::{BackendId, Nanos, millis};
use crate::office::board::{Board, View};
use crate::office::operator::unknown as no_such;
use crate::office::scribe::line::{session_id, session_number};

use super::bodies::bad;
use super::replies::{Reply, json, problem, unknown};
use super::router::Call;

const LIMIT_USUAL: usize = 100;
pub const LIMIT_MAX: usize = 1000;
/// As long as for a change: a worker that has not answered by then is stuck.
const DEADLINE_NS: u64 = millis(2_000);

pub async fn list(call: Call) -> Reply {
    let board = &call.entrance.board;
    let (backend, limit) = match read_query(board, call.query()) {
        Ok(query) => query,
        Err(reply) => return reply,
    };
    let question = Question::Oldest { backend };
    let workers = &board.hatches.workers;
    // Whoever may only look has the same time for both: a stuck worker must not make a queue of askers.
    let deadline = board.clock.now().after(DEADLINE_NS);
    let Some(mut turn) = turn(board).await else {
        return late();
    };
    let Some(answers) = ask(board, &mut turn, deadline, workers, question, limit).await else {
        return late();
    };
    let matched: u64 = answers.iter().map(|answer| answer.matched).sum();
    let mut rows: Vec<SessionRow> = answers.into_iter().flat_map(|it| it.rows).collect();
    rows.sort_unstable();
    rows.truncate(limit);
    let view = board.view();
    let rows: Vec<Value> = rows.iter().map(|row| shown(board, &view, row)).collect();
    json(
        StatusCode::OK,
        &json!({ "sessions": rows, "matched": matched }),
    )
}

pub async fn kill(call: Call) -> Reply {
    let board = &call.entrance.board;
    let wanted = &call.names[0];
    let Some(id) = session_number(wanted) else {
        return bad(&format!(
            "{wanted:?} is no session; allowed: WORKER-NUMBER, like 0-42, as the log and /v1/sessions say"
        ));
    };
    let gone = || {
        let sentence = format!("there is no session {wanted}: it has ended, or never was");
        json(
            StatusCode::NOT_FOUND,
            &json!({ "error": sentence, "did_you_mean": [] }),
        )
    };
    let workers = &board.hatches.workers;
    let worker = usize::try_from(id >> 48).unwrap_or(usize::MAX);
    let Some(hatch) = workers.get(worker) else {
        return gone();
    };
    let hatch = std::slice::from_ref(hatch);
    // Those before it have had their time when its turn comes, and not all that it has.
    let Some(mut turn) = turn(board).await else {
        return late();
    };
    let deadline = board.clock.now().after(DEADLINE_NS);
    let question = Question::Kill { session: id };
    match ask(board, &mut turn, deadline, hatch, question, 0).await {
        None => late(),
        Some(answers) if answers[0].finding == Finding::Done => {
            json(StatusCode::OK, &json!({ "killed": wanted }))
        }
        Some(_) => gone(),
    }
}

fn late() -> Reply {
    problem(
        StatusCode::GATEWAY_TIMEOUT,
        "a worker has not answered within 2 s",
    )
}

/// The number of the last ask, as soon as nobody else asks; none if that takes too long.
async fn turn(board: &Board) -> Option<MutexGuard<'_, u64>> {
    let patience = Duration::from_nanos(DEADLINE_NS);
    tokio::time::timeout(patience, board.asking.lock())
        .await
        .ok()
}

/// Every given worker's answer, or none if one of them is late.
async fn ask(
    board: &Board,
    number: &mut u64,
    deadline: Nanos,
    workers: &[Arc<Hatch>],
    question: Question,
    rows_max: usize,
) -> Option<Vec<Ask>> {
    *number += 1;
    for hatch in workers {
        // What others did not wait for must not leave this one's answer without room.
        while hatch.asks.answered.pop().is_some() {}
        let ask = Ask::new(*number, deadline, question, rows_max);
        hatch.asks.asked.push(ask).ok()?;
        hatch.doorbell.ring();
    }
    let mut answers = Vec::with_capacity(workers.len());
    let mut pause = Duration::from_micros(200);
    loop {
        for hatch in workers {
            while let Some(answer) = hatch.asks.answered.pop() {
                // Others were left by somebody who did not wait for them.
                if answer.number == *number {
                    answers.push(answer);
                }
            }
        }
        if answers.len() == workers.len() {
            let late = answers.iter().any(|it| it.finding == Finding::Late);
            return (!late).then_some(answers);
        }
        if board.clock.now() >= deadline {
            return None;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn read_query(board: &Board, query: Option<&str>) -> Result<(Option<BackendId>, usize), Reply> {
    let parts = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let parts: BTreeMap<_, _> = parts.into_owned().collect();
    if let Some(other) = parts
        .keys()
        .find(|key| !["backend", "limit"].contains(&key.as_str()))
    {
        return Err(bad(&format!(
            "{other}: unknown key; allowed: backend, limit"
        )));
    }
    let limit = match parts.get("limit") {
        None => LIMIT_USUAL,
        Some(text) => match text.parse() {
            Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => limit,
            _ => {
                return Err(bad(&format!(
                    "limit: found {text:?}; allowed: a whole number from 1 to {LIMIT_MAX}"
                )));
            }
        },
    };
    let backend = parts.get("backend").filter(|name| !name.is_empty());
    let backend = backend.map(|name| find(&board.view(), name)).transpose()?;
    Ok((backend, limit))
}

/// The backend called `NAME` or `POOL/NAME`; one that was removed counts while nobody else has its name.
fn find(view: &View, wanted: &str) -> Result<BackendId, Reply> {
    let present = view.snapshot.pools.iter().flat_map(|pool| &pool.backends);
    let mut known: Vec<(String, String, BackendId)> = present
        .map(|own| &own.shared)
        .map(|own| (own.pool.clone(), own.name.clone(), own.id))
        .collect();
    let removed = view.retired.iter().filter_map(std::sync::Weak::upgrade);
    known.extend(removed.map(|own| (own.pool.clone(), own.name.clone(), own.id)));
    let fits = |(pool, name, _): &&(String, String, BackendId)| {
        name == wanted || wanted.split_once('/') == Some((pool, name))
    };
    let found: Vec<_> = known.iter().filter(fits).collect();
    match found.first() {
        Some(first) if found.iter().all(|other| other.0 == first.0) => Ok(first.2),
        Some(first) => Err(bad(&format!(
            "several pools have a backend {wanted}; allowed: POOL/BACKEND, like {}/{}",
            first.0, first.1
        ))),
        None => {
            let names = known.iter().map(|(_, name, _)| name.as_str());
            let full: Vec<String> = known
                .iter()
                .map(|(pool, name, _)| format!("{pool}/{name}"))
                .collect();
            let names = names.chain(full.iter().map(String::as_str));
            Err(unknown(&no_such(
                &format!("backend {wanted:?}"),
                wanted,
                names,
            )))
        }
    }
}

fn shown(board: &Board, view: &View, row: &SessionRow) -> Value {
    let names = &view.names;
    let age_ns = board.clock.now().since(row.opened);
    json!({
        "id": session_id(row.id),
        "listener": names.listener(row.listener),
        "client": row.client.map(|client| client.to_string()),
        "pool": names.pool(row.pool),
        "backend": row.backend.and_then(|backend| names.backend(backend)),
        "stage": row.stage.word(),
        "started": humantime::format_rfc3339_millis(board.clock.wall(row.opened)).to_string(),
        "age_seconds": age_ns as f64 / 1e9,
        "bytes_in": row.bytes_in,
        "bytes_out": row.bytes_out,
    })
}
