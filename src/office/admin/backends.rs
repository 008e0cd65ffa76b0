//! Backends over HTTP: one looked at, its state and weight set, one added, one removed. What is asked for is read here and
//! handed to the office; the answer comes when every worker has it.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::config;
use crate::handoff::Admin;
use crate::office::demands::{Demand, Done, Refused};
use crate::office::operator::{self, Name};

use super::bodies::{self, bad};
use super::replies::{Reply, json, refused, unknown};
use super::router::Call;
use super::status;

/// `/v1/pools/{pool}/backends/{backend}`
fn name_of(call: &Call) -> Name {
    Name {
        pool: call.names[0].clone(),
        backend: call.names[1].clone(),
    }
}

pub fn get(call: &Call) -> Reply {
    let name = name_of(call);
    let board = &call.entrance.board;
    if let Some(value) = status::backend(board, &name) {
        return json(StatusCode::OK, &value);
    }
    let view = board.view();
    let pools = || view.snapshot.pools.iter();
    let pool = pools().find(|pool| pool.shared.name == name.pool);
    let missing = match pool {
        None => {
            let known = pools().map(|pool| pool.shared.name.as_str());
            operator::unknown(&format!("pool {:?}", name.pool), &name.pool, known)
        }
        Some(pool) => {
            let known = pool.backends.iter().map(|own| own.shared.name.as_str());
            let what = format!("backend {:?} in pool {}", name.backend, name.pool);
            operator::unknown(&what, &name.backend, known)
        }
    };
    unknown(&missing)
}

pub async fn put(call: Call) -> Reply {
    let name = name_of(&call);
    match read_alteration(call.body).await {
        Err(reply) => reply,
        Ok((None, None)) => bad("nothing to change; allowed: \"admin\", \"weight\" or both"),
        Ok((admin, weight)) => {
            let demand = Demand::Alter {
                name: name.clone(),
                admin,
                weight,
            };
            let done = call.entrance.demand(demand).await;
            let backend = status::backend(&call.entrance.board, &name);
            told(done, StatusCode::OK, backend)
        }
    }
}

async fn read_alteration(
    body: hyper::body::Incoming,
) -> Result<(Option<Admin>, Option<u32>), Reply> {
    let keys = bodies::object(body).await?;
    bodies::no_others(&keys, &["admin", "weight"])?;
    let admin = bodies::read(&keys, "admin", "ready | draining | maintenance", |value| {
        let word = value.as_str()?;
        Admin::ALL.into_iter().find(|admin| admin.word() == word)
    })?;
    let weight = bodies::read(&keys, "weight", "a whole number from 0 to 1000", |value| {
        let weight = u32::try_from(value.as_u64()?).ok()?;
        (weight <= 1000).then_some(weight)
    })?;
    Ok((admin, weight))
}

pub async fn post(call: Call) -> Reply {
    let keys = match bodies::object(call.body).await {
        Ok(keys) => keys,
        Err(reply) => return reply,
    };
    let backend = match config::backend_of_json(&keys) {
        Ok(backend) => backend,
        Err(sentence) => return bad(&sentence),
    };
    let name = Name {
        pool: call.names[0].clone(),
        backend: backend.name.clone(),
    };
    let pool = name.pool.clone();
    let done = call.entrance.demand(Demand::Add { pool, backend }).await;
    let new = done.as_ref().is_ok_and(|done| !done.changes.is_empty());
    let status = if new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let backend = status::backend(&call.entrance.board, &name);
    told(done, status, backend)
}

pub async fn delete(call: Call) -> Reply {
    let name = name_of(&call);
    let done = call.entrance.demand(Demand::Remove { name }).await;
    told(done, StatusCode::OK, None)
}

/// What was done, and the backend as it is now.
fn told(done: Result<Done, Refused>, status: StatusCode, backend: Option<Value>) -> Reply {
    match done {
        Ok(done) => {
            let mut value = json!({ "changes": done.changes, "kept_over_restarts": done.kept });
            if let Some(backend) = backend {
                value["backend"] = backend;
            }
            json(status, &value)
        }
        Err(why) => refused(&why),
    }
}
