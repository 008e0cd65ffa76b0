//! The description of the API for programs (OpenAPI 3.1), made from the table of routes. What is said of answers here is
//! held true by a test that calls every route. Fields may be added to answers, so schemas name what is always there.

use serde_json::{Map, Value, json};

use super::router::{Door, Route, Verb};
use super::routes::ROUTES;

#[must_use]
pub fn describe() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let verb = route.verb.word().to_ascii_lowercase();
        let path = paths
            .entry(route.path)
            .or_insert_with(|| json!({ "parameters": names_in(route.path) }));
        path[verb] = operation(route);
    }
    let schemas: Map<String, Value> = SCHEMAS
        .iter()
        .map(|(name, schema)| ((*name).to_owned(), schema()))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ringway",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "The admin API of a running ringway",
            "description": "GET everywhere; what changes something is answered on the admin socket only, when every \
                            worker has the change.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn names_in(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|segment| {
        let name = segment.strip_prefix('{')?;
        name.strip_suffix('}')
    });
    names
        .map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
        })
        .collect()
}

fn operation(route: &Route) -> Value {
    let mut answers: Map<String, Value> = Map::new();
    let own = route.answers.iter().copied();
    for (status, schema) in own.chain(usual(route).iter().copied()) {
        answers.entry(status.to_string()).or_insert_with(
            || json!({ "description": reason(status), "content": content(schema) }),
        );
    }
    let query: Vec<Value> = route
        .query
        .iter()
        .map(|(name, about)| {
            let schema = match *name {
                "limit" => json!({ "type": "integer", "minimum": 1, "maximum": 1000 }),
                _ => json!({ "type": "string" }),
            };
            json!({ "name": name, "in": "query", "description": about, "schema": schema })
        })
        .collect();
    let mut value = json!({
        "summary": route.about,
        "operationId": operation_id(route),
        "responses": answers,
    });
    if !query.is_empty() {
        value["parameters"] = json!(query);
    }
    if let Some(body) = route.body {
        let required = body != "Reload";
        value["requestBody"] = json!({ "required": required, "content": content(body) });
    }
    value
}

/// `put-v1-pools-pool-backends-backend`
fn operation_id(route: &Route) -> String {
    let words = route.path.split(['/', '{', '}', '.']);
    let words = words.filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    format!(
        "{}-{}",
        route.verb.word().to_ascii_lowercase(),
        words.join("-")
    )
}

/// What every route of a kind may answer.
fn usual(route: &Route) -> &'static [(u16, &'static str)] {
    match (route.door, route.verb) {
        (Door::Both, _) => &[],
        (Door::Socket, Verb::Delete) => &[(403, "Problem"), (503, "Problem"), (504, "Problem")],
        (Door::Socket, _) => &[
            (403, "Problem"),
            (408, "Problem"),
            (413, "Problem"),
            (503, "Problem"),
            (504, "Problem"),
        ],
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "done",
        201 => "added",
        400 => "not understood: the sentence names key, found and allowed",
        403 => "over TCP nothing is changed",
        404 => "no such name; near ones are told",
        408 => "the body did not come in time",
        409 => "it does not go with what is there",
        413 => "the body is too long",
        422 => "the configuration file was not taken",
        500 => "the successor did not become ready; it goes on as before",
        503 => "not now",
        504 => "a worker has not answered within 2 s, or a successor was not ready within 15 s",
        _ => "see the sentence",
    }
}

fn content(schema: &str) -> Value {
    match schema {
        "Text" => json!({ "text/plain": { "schema": { "type": "string" } } }),
        "Page" => json!({ "text/html": { "schema": { "type": "string" } } }),
        "Events" => json!({ "text/event-stream": { "schema": { "type": "string" } } }),
        name => {
            let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
            json!({ "application/json": { "schema": schema } })
        }
    }
}

/// An object with these keys, all of which are there.
fn object(properties: &Value) -> Value {
    let keys: Vec<&String> = properties
        .as_object()
        .into_iter()
        .flat_map(Map::keys)
        .collect();
    json!({ "type": "object", "required": keys, "properties": properties })
}

fn list(item: &Value) -> Value {
    json!({ "type": "array", "items": item })
}

fn word(allowed: &[&str]) -> Value {
    json!({ "type": "string", "enum": allowed })
}

fn named(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn number() -> Value {
    json!({ "type": "number" })
}

fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn or_null(kind: &str) -> Value {
    json!({ "type": [kind, "null"] })
}

const ADMIN: &[&str] = &["ready", "draining", "maintenance"];
const HEALTH: &[&str] = &["unknown", "up", "down", "ejected", "wrong-role"];
const STAGES: &[&str] = &["preface", "waiting", "connecting", "relaying", "closing"];

type Schema = fn() -> Value;

const SCHEMAS: &[(&str, Schema)] = &[
    ("Object", || json!({ "type": "object" })),
    ("Problem", || object(&json!({ "error": text() }))),
    ("Unknown", || {
        object(&json!({ "error": text(), "did_you_mean": list(&text()) }))
    }),
    ("Readiness", || {
        let without = object(&json!({ "listener": text(), "pool": text() }));
        object(&json!({
            "ready": { "type": "boolean" },
            "leaving": { "type": "boolean" },
            "listeners_without_backend": list(&without),
        }))
    }),
    ("Status", status),
    ("Listener", || {
        object(&json!({
            "name": text(), "addresses": list(&text()), "protocol": text(), "pool": or_null("string"),
            "max_connections": count(), "sessions": count(), "sessions_total": count(), "bytes_in": count(),
            "bytes_out": count(), "ends": { "type": "object" }, "refused": { "type": "object" },
        }))
    }),
    ("Pool", || {
        object(&json!({
            "name": text(), "algorithm": or_null("string"), "waiting": count(), "wait_size": count(),
            "serving_tiers": list(&count()), "retries": count(), "backends": list(&named("Backend")),
        }))
    }),
    ("Backend", || {
        object(&json!({
            "name": text(), "address": or_null("string"), "admin": word(ADMIN), "health": word(HEALTH),
            "eligible": { "type": "boolean" }, "weight": count(), "weight_now": number(), "tier": count(),
            "sessions": count(), "max_connections": count(), "sessions_total": count(), "connect_attempts": count(),
            "connect_failures": { "type": "object" }, "bytes_in": count(), "bytes_out": count(),
            "last_check": or_null("object"), "last_change": or_null("object"),
        }))
    }),
    ("Explanation", || {
        let candidate = object(&json!({
            "backend": text(), "eligible": { "type": "boolean" }, "probability": number(), "why": text(),
        }));
        object(&json!({
            "listener": text(), "client": text(), "pool": text(), "backend": or_null("string"),
            "deterministic": { "type": "boolean" }, "reason": text(), "candidates": list(&candidate),
        }))
    }),
    ("Alteration", || {
        json!({
            "type": "object",
            "minProperties": 1,
            "additionalProperties": false,
            "properties": {
                "admin": word(ADMIN),
                "weight": { "type": "integer", "minimum": 0, "maximum": 1000 },
            },
        })
    }),
    ("NewBackend", || {
        json!({
            "type": "object",
            "required": ["address"],
            "additionalProperties": false,
            "properties": {
                "name": text(),
                "address": text(),
                "weight": { "type": "integer", "minimum": 0, "maximum": 1000, "default": 100 },
                "tier": { "type": "integer", "minimum": 0, "maximum": 15, "default": 0 },
                "max_connections": { "type": "integer", "minimum": 0, "default": 0 },
            },
        })
    }),
    ("Changed", || {
        let mut schema = object(&json!({
            "changes": list(&text()), "kept_over_restarts": { "type": "boolean" },
        }));
        schema["properties"]["backend"] = named("Backend");
        schema
    }),
    ("Sessions", || {
        let session = object(&json!({
            "id": text(), "listener": or_null("string"), "client": or_null("string"), "pool": or_null("string"),
            "backend": or_null("string"), "stage": word(STAGES), "started": text(), "age_seconds": number(),
            "bytes_in": count(), "bytes_out": count(),
        }));
        object(&json!({ "sessions": list(&session), "matched": count() }))
    }),
    ("Killed", || object(&json!({ "killed": text() }))),
    ("Reload", || {
        let confirm = json!({ "type": "string", "description": "a duration from 1s to 1h" });
        json!({
            "type": "object",
            "additionalProperties": false,
            "properties": { "confirm": confirm },
        })
    }),
    ("Reloaded", || {
        object(&json!({ "changes": list(&text()), "confirm_until": or_null("string") }))
    }),
    ("Upgraded", || {
        object(&json!({ "generation": count(), "pid": count() }))
    }),
    ("Confirmed", || {
        object(&json!({ "confirmed": { "type": "boolean" } }))
    }),
];

fn status() -> Value {
    let sessions = object(&json!({ "active": count(), "limit": count() }));
    let reload = object(
        &json!({ "taken": count(), "refused": count(), "reverted": count(), "last": or_null("object") }),
    );
    object(&json!({
        "version": text(),
        "uptime_seconds": number(),
        "started": text(),
        "phase": word(&["serving", "leaving", "draining"]),
        "generation": count(),
        "reload": reload,
        "process": process_schema(),
        "sessions": sessions,
        "workers": list(&json!({ "type": "object" })),
        "listeners": list(&named("Listener")),
        "pools": list(&named("Pool")),
        "removed_backends": list(&json!({ "type": "object" })),
        "operator": list(&text()),
    }))
}

fn process_schema() -> Value {
    let older = object(&json!({
        "generation": count(), "pid": count(), "sessions": count(), "flows": count(), "since": text(),
    }));
    object(&json!({
        "pid": count(), "generation": count(), "older": list(&older), "upgrades": count(), "failed": count(),
        "last_upgrade": or_null("object"),
    }))
}
