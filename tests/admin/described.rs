//! Holds the description at `/v1/openapi.json` against the answers: every operation in it is tried, each answer has a
//! status and a shape that it names, and what is tried is all that is described.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::events::EventStream;
use crate::support::http;
use crate::support::ringway::Ringway;

/// Operation, what is asked, the body, and the status that must come.
type Try = (&'static str, &'static str, Value, u16);

fn tries(third: SocketAddr, session: &str) -> Vec<(String, String, Value, u16)> {
    let c = json!({ "name": "c", "address": third.to_string() });
    let backend = "/v1/pools/{pool}/backends/{backend}";
    let fixed: Vec<(&str, Try)> = vec![
        ("/", ("get", "/", Value::Null, 200)),
        ("/healthz", ("get", "/healthz", Value::Null, 200)),
        ("/readyz", ("get", "/readyz", Value::Null, 200)),
        ("/metrics", ("get", "/metrics", Value::Null, 200)),
        ("/v1/status", ("get", "/v1/status", Value::Null, 200)),
        (
            "/v1/openapi.json",
            ("get", "/v1/openapi.json", Value::Null, 200),
        ),
        (
            "/v1/explain",
            (
                "get",
                "/v1/explain?listener=main&client=10.0.0.1",
                Value::Null,
                200,
            ),
        ),
        ("/v1/explain", ("get", "/v1/explain", Value::Null, 400)),
        (
            "/v1/explain",
            (
                "get",
                "/v1/explain?listener=x&client=10.0.0.1",
                Value::Null,
                404,
            ),
        ),
        (
            backend,
            ("get", "/v1/pools/main/backends/a", Value::Null, 200),
        ),
        (
            backend,
            ("get", "/v1/pools/main/backends/x", Value::Null, 404),
        ),
        (
            backend,
            (
                "put",
                "/v1/pools/main/backends/a",
                json!({ "weight": 50 }),
                200,
            ),
        ),
        (
            backend,
            (
                "put",
                "/v1/pools/main/backends/a",
                json!({ "weight": -1 }),
                400,
            ),
        ),
        (
            backend,
            ("put", "/v1/pools/x/backends/a", json!({ "weight": 1 }), 404),
        ),
        (
            "/v1/pools/{pool}/backends",
            ("post", "/v1/pools/main/backends", c.clone(), 201),
        ),
        (
            "/v1/pools/{pool}/backends",
            ("post", "/v1/pools/main/backends", c, 200),
        ),
        (
            "/v1/pools/{pool}/backends",
            ("post", "/v1/pools/main/backends", json!({}), 400),
        ),
        (
            backend,
            ("delete", "/v1/pools/main/backends/c", Value::Null, 200),
        ),
        (
            backend,
            ("delete", "/v1/pools/main/backends/c", Value::Null, 404),
        ),
        ("/v1/sessions", ("get", "/v1/sessions", Value::Null, 200)),
        (
            "/v1/sessions",
            ("get", "/v1/sessions?limit=x", Value::Null, 400),
        ),
        (
            "/v1/sessions/{id}",
            ("delete", "/v1/sessions/0-77777", Value::Null, 404),
        ),
        (
            "/v1/sessions/{id}",
            ("delete", "/v1/sessions/x", Value::Null, 400),
        ),
        (
            "/v1/reload",
            ("post", "/v1/reload", json!({ "confirm": "0s" }), 400),
        ),
        ("/v1/reload", ("post", "/v1/reload", Value::Null, 200)),
        (
            "/v1/reload/confirm",
            ("post", "/v1/reload/confirm", Value::Null, 409),
        ),
    ];
    let owned = |(path, (verb, target, body, code)): (&str, Try)| {
        let operation = format!("{verb} {path}");
        (operation, target.to_owned(), body, code)
    };
    let mut tries: Vec<_> = fixed.into_iter().map(owned).collect();
    let kill = format!("/v1/sessions/{session}");
    tries.push((
        "delete /v1/sessions/{id}".to_owned(),
        kill,
        Value::Null,
        200,
    ));
    // The file says nonsense by then, so that this process goes on.
    let upgrade = "/v1/upgrade".to_owned();
    tries.push((format!("post {upgrade}"), upgrade, Value::Null, 422));
    tries
}

pub fn every_route(socket: &Path, ringway: &Ringway, third: SocketAddr) {
    let (_, description) = http::over_socket(socket, "GET", "/v1/openapi.json", "").unwrap();
    let (_, listed) = http::over_socket(socket, "GET", "/v1/sessions", "").unwrap();
    let session = listed["sessions"][0]["id"]
        .as_str()
        .expect("a session")
        .to_owned();
    // Streams have no end to wait for.
    assert_eq!(EventStream::open(ringway.admin(), Some("0")).code(), 200);
    assert_eq!(EventStream::open_unix(socket, Some("0")).code(), 200);
    let mut tried = BTreeSet::from(["get /v1/events".to_owned()]);
    for (operation, target, body, code) in tries(third, &session) {
        let (verb, path) = operation.split_once(' ').unwrap();
        let described = &description["paths"][path][verb];
        if path == "/v1/upgrade" {
            ringway.write_raw("nonsense");
        }
        assert!(described.is_object(), "{operation} is not described");
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (found, answer) =
            http::over_socket(socket, &verb.to_uppercase(), &target, &text).unwrap();
        assert_eq!(found, code, "{operation} {target}: {answer:#}");
        hold(&description, described, code, &answer, &operation);
        // The other way in gives the same for what reads, and nothing for what writes.
        let (found, text) =
            http::over_tcp(ringway.admin(), &verb.to_uppercase(), &target, &text).unwrap();
        let reads = verb == "get";
        assert_eq!(
            found,
            if reads { code } else { 403 },
            "{operation} over TCP: {text}"
        );
        let answer = serde_json::from_str(&text).unwrap_or_default();
        hold(&description, described, found, &answer, &operation);
        tried.insert(operation);
    }
    let paths = description["paths"].as_object().unwrap().iter();
    let all: BTreeSet<String> = paths
        .flat_map(|(path, verbs)| {
            let verbs = verbs.as_object().unwrap().keys();
            let verbs = verbs.filter(|verb| *verb != "parameters");
            verbs
                .map(move |verb| format!("{verb} {path}"))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(tried, all, "what is tried is what is described");
}

/// While a successor starts, whatever would change something says so, and that it may is described.
pub fn every_change_during_an_upgrade(socket: &Path) {
    let (_, description) = http::over_socket(socket, "GET", "/v1/openapi.json", "").unwrap();
    let backend = "/v1/pools/{pool}/backends/{backend}";
    let added = json!({ "address": "127.0.0.1:9" });
    for (operation, target, body) in [
        (
            format!("put {backend}"),
            "/v1/pools/main/backends/a",
            json!({ "weight": 7 }),
        ),
        (
            format!("delete {backend}"),
            "/v1/pools/main/backends/a",
            Value::Null,
        ),
        (
            "post /v1/pools/{pool}/backends".to_owned(),
            "/v1/pools/main/backends",
            added,
        ),
        ("post /v1/reload".to_owned(), "/v1/reload", Value::Null),
        (
            "post /v1/reload/confirm".to_owned(),
            "/v1/reload/confirm",
            Value::Null,
        ),
    ] {
        let (verb, path) = operation.split_once(' ').unwrap();
        let text = body
            .as_object()
            .map(|_| body.to_string())
            .unwrap_or_default();
        let (code, answer) =
            http::over_socket(socket, &verb.to_uppercase(), target, &text).unwrap();
        let sentence = answer["error"].as_str().unwrap_or_default();
        assert!(
            sentence.starts_with("an upgrade is under way"),
            "{operation} {code}: {answer:#}"
        );
        assert_eq!(code, 409, "{operation}");
        hold(
            &description,
            &description["paths"][path][verb],
            code,
            &answer,
            &operation,
        );
    }
}

/// The answer of an upgrade that came to nothing.
pub fn upgrade_answer(socket: &Path, code: u16, answer: &Value) {
    let (_, description) = http::over_socket(socket, "GET", "/v1/openapi.json", "").unwrap();
    let described = &description["paths"]["/v1/upgrade"]["post"];
    hold(&description, described, code, answer, "post /v1/upgrade");
}

/// The status is described, and the answer has the shape that stands there.
fn hold(description: &Value, described: &Value, code: u16, answer: &Value, operation: &str) {
    let response = &described["responses"][code.to_string()];
    assert!(
        response.is_object(),
        "{operation} does not tell of status {code}"
    );
    let content = response["content"].as_object().unwrap();
    if content.contains_key("text/plain") || content.contains_key("text/html") {
        return;
    }
    let schema = &content["application/json"]["schema"];
    let mut faults = Vec::new();
    fits(description, schema, answer, "", &mut faults);
    assert!(
        faults.is_empty(),
        "{operation} {code}: {faults:#?}\n{answer:#}"
    );
}

/// As much of JSON Schema as the description uses.
fn fits(description: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let target = description.pointer(name.trim_start_matches('#'));
        let target = target.unwrap_or_else(|| panic!("{name} is not there"));
        return fits(description, target, value, at, faults);
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => panic!("{at}: a schema without a type: {schema}"),
    };
    let is = |kind: &&str| match *kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "null" => value.is_null(),
        other => panic!("{at}: {other} is no type"),
    };
    if !kinds.iter().any(is) {
        faults.push(format!("{at}: {value} is none of {kinds:?}"));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        faults.push(format!("{at}: {value} is none of {words:?}"));
    }
    for key in schema["required"].as_array().into_iter().flatten() {
        let key = key.as_str().unwrap();
        if value.is_object() && value.get(key).is_none() {
            faults.push(format!("{at}: {key} is missing"));
        }
    }
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(found) = value.get(key) {
            fits(description, inner, found, &format!("{at}.{key}"), faults);
        }
    }
    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
        fits(
            description,
            &schema["items"],
            item,
            &format!("{at}[{i}]"),
            faults,
        );
    }
}

#[test]
fn what_does_not_fit_is_found() {
    let description = json!({ "components": { "schemas": { "A": {
        "type": "object", "required": ["n"], "properties": { "n": { "type": "integer" }, "w": { "type": "string", "enum": ["x"] } }
    } } } });
    let schema = json!({ "type": "array", "items": { "$ref": "#/components/schemas/A" } });
    let found = |value: Value| {
        let mut faults = Vec::new();
        fits(&description, &schema, &value, "", &mut faults);
        faults.len()
    };
    assert_eq!(found(json!([{ "n": 1, "w": "x" }])), 0);
    assert_eq!(found(json!([{ "n": 1 }, { "w": "x" }])), 1);
    assert_eq!(found(json!([{ "n": 1.5, "w": "y" }])), 2);
    assert_eq!(found(json!({})), 1);
}
