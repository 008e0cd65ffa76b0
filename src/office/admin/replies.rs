//! What the admin server says: JSON and text as whole answers, and problems as one JSON object with a sentence.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::office::demands::{Refused, Unready};
use crate::office::operator::Unknown;

/// Whole answers and streams alike.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;
pub type Reply = Response<Body>;

const JSON: &str = "application/json";

pub fn text(status: StatusCode, kind: &'static str, text: String) -> Reply {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub fn json_text(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_else(|_| "{}".to_owned());
    text.push('\n');
    text
}

pub fn json(status: StatusCode, value: &Value) -> Reply {
    text(status, JSON, json_text(value))
}

/// Whether it goes on for as long as the client stays.
pub fn is_stream(reply: &Reply) -> bool {
    let kind = reply.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

pub fn problem(status: StatusCode, sentence: &str) -> Reply {
    json(status, &json!({ "error": sentence }))
}

/// There is no such thing; perhaps another was meant.
pub fn unknown(unknown: &Unknown) -> Reply {
    let value = json!({ "error": unknown.sentence, "did_you_mean": unknown.near });
    json(StatusCode::NOT_FOUND, &value)
}

/// Why the office did not do what was demanded.
pub fn refused(why: &Refused) -> Reply {
    match why {
        Refused::Unknown(name) => unknown(name),
        Refused::Invalid(sentence) => problem(StatusCode::BAD_REQUEST, sentence),
        Refused::Conflict(sentence) => problem(StatusCode::CONFLICT, sentence),
        Refused::Reload(sentence) => {
            let sentence =
                format!("the configuration was not taken, the old one stays: {sentence}");
            problem(StatusCode::UNPROCESSABLE_ENTITY, &sentence)
        }
        Refused::Upgrade(kind, sentence) => {
            let status = match kind {
                Unready::Configuration => StatusCode::UNPROCESSABLE_ENTITY,
                Unready::Late => StatusCode::GATEWAY_TIMEOUT,
                Unready::Broken => StatusCode::INTERNAL_SERVER_ERROR,
            };
            problem(status, &format!("not upgraded: {sentence}"))
        }
        Refused::Late => problem(
            StatusCode::GATEWAY_TIMEOUT,
            "a worker has not taken the change within 2 s; it will when it goes on: ask again",
        ),
        Refused::Leaving => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "the process is about to end and changes nothing more",
        ),
    }
}
