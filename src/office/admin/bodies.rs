//! What clients send: a small JSON object, read whole within a limit and a deadline, and its keys taken one by one. What
//! is wrong is said in one sentence that names key, found and allowed.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use serde_json::{Map, Value};

use crate::config::near_matches;

use super::replies::{Reply, problem};

pub const BYTES_MAX: usize = 64 * 1024;
/// Up to here what is too long is read and forgotten.
const READ_MAX: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// The body as an object; an empty one has no keys.
pub async fn object(body: Incoming) -> Result<Map<String, Value>, Reply> {
    let bytes = whole(body).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(keys)) => Ok(keys),
        Ok(_) => Err(bad("the body is no JSON object, like {\"weight\": 50}")),
        Err(error) => Err(bad(&format!("the body is not JSON: {error}"))),
    }
}

async fn whole(body: Incoming) -> Result<Bytes, Reply> {
    match tokio::time::timeout(PATIENCE, collect(body)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("the body is too long; allowed: at most {BYTES_MAX} bytes"),
        )),
        Ok(Err(error)) => Err(bad(&format!("the body broke off: {error}"))),
        Err(_) => Err(problem(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not come within 10 s",
        )),
    }
}

/// The whole body; `None` if it is too long. Some of what is too much is read all the same: a client that is cut while it
/// writes may never see the answer.
async fn collect(mut body: Incoming) -> Result<Option<Bytes>, hyper::Error> {
    if body.size_hint().lower() > READ_MAX {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else {
            continue;
        };
        read += piece.len() as u64;
        if read <= BYTES_MAX as u64 {
            bytes.extend_from_slice(&piece);
        } else if read > READ_MAX {
            break;
        }
    }
    Ok((read <= BYTES_MAX as u64).then(|| Bytes::from(bytes)))
}

pub fn bad(sentence: &str) -> Reply {
    problem(StatusCode::BAD_REQUEST, sentence)
}

/// The first key that nobody knows.
pub fn no_others(keys: &Map<String, Value>, known: &[&str]) -> Result<(), Reply> {
    let Some(key) = keys.keys().find(|key| !known.contains(&key.as_str())) else {
        return Ok(());
    };
    let hint = match near_matches(key, known.iter().copied()).first() {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("allowed: {}", known.join(", ")),
    };
    Err(bad(&format!("{key}: unknown key; {hint}")))
}

/// A key's value as `read` understands it; `None` if the key is not there.
pub fn read<T>(
    keys: &Map<String, Value>,
    key: &str,
    allowed: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, Reply> {
    let Some(value) = keys.get(key) else {
        return Ok(None);
    };
    match read(value) {
        Some(read) => Ok(Some(read)),
        None => {
            let mut shown = value.to_string();
            if shown.chars().count() > 80 {
                shown = shown.chars().take(80).chain(['…']).collect();
            }
            Err(bad(&format!("{key}: found {shown}; allowed: {allowed}")))
        }
    }
}
