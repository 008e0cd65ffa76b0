//! The table of all routes: the one place from which requests are answered, the description at `/v1/openapi.json` is made,
//! and tests take what to try. A new page is a line here.

use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::ACCEPT;
use serde_json::json;

use crate::config::duration_of;
use crate::office::demands::Demand;

use super::replies::{self, Body, Reply, json, problem, refused};
use super::router::{Answering, Call, Door, Route, Verb};
use super::{
    backends, bodies, dashboard, events, explain, metrics, openapi, readiness, sessions, status,
};

const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const BACKEND: &str = "/v1/pools/{pool}/backends/{backend}";

/// Answers at once.
macro_rules! now {
    ($answer:path) => {
        |call| Box::pin(std::future::ready($answer(&call)))
    };
}

/// Waits for the office or for workers.
macro_rules! later {
    ($answer:path) => {
        |call| Box::pin($answer(call)) as Answering
    };
}

/// A page that is only looked at.
const fn page(path: &'static str, about: &'static str, answer: fn(Call) -> Answering) -> Route {
    Route {
        verb: Verb::Get,
        path,
        door: Door::Both,
        about,
        query: &[],
        body: None,
        answers: &[(200, "Object")],
        answer,
    }
}

pub static ROUTES: &[Route] = &[
    Route {
        answers: &[(200, "Page")],
        ..page(dashboard::PATH, "The dashboard", now!(dashboard_page))
    },
    Route {
        answers: &[(200, "Text")],
        ..page("/healthz", "The process lives", now!(healthz))
    },
    Route {
        answers: &[(200, "Readiness"), (503, "Readiness")],
        ..page(
            "/readyz",
            "Whether every listener has an eligible backend, and which has none",
            now!(readyz),
        )
    },
    Route {
        answers: &[(200, "Text")],
        ..page(
            "/metrics",
            "All numbers as Prometheus text; OpenMetrics if the client accepts it",
            now!(metrics_page),
        )
    },
    Route {
        answers: &[(200, "Status")],
        ..page(
            "/v1/status",
            "Listeners, pools, backends, sessions, the last reload",
            now!(status_page),
        )
    },
    Route {
        query: &[
            ("listener", "The listener that the client would come to"),
            ("client", "IP, or IP:PORT where the port decides"),
            (
                "sni",
                "The server name that the client would ask for, where names choose the pool",
            ),
        ],
        answers: &[(200, "Explanation"), (400, "Problem"), (404, "Unknown")],
        ..page(
            "/v1/explain",
            "Which backend a client would get now, why, and why not the others",
            now!(explain_page),
        )
    },
    Route {
        query: &[(
            "after",
            "The id of the last event that is known, as in Last-Event-ID; 0: all that are kept",
        )],
        answers: &[(200, "Events"), (503, "Problem")],
        ..page(
            "/v1/events",
            "What happens, as it happens: server-sent events",
            now!(events_page),
        )
    },
    Route {
        answers: &[(200, "Backend"), (404, "Unknown")],
        ..page(BACKEND, "One backend", now!(backends::get))
    },
    Route {
        verb: Verb::Put,
        path: BACKEND,
        door: Door::Socket,
        about: "Sets the operator's state of a backend, its weight, or both",
        query: &[],
        body: Some("Alteration"),
        answers: &[
            (200, "Changed"),
            (400, "Problem"),
            (404, "Unknown"),
            (409, "Problem"),
        ],
        answer: later!(backends::put),
    },
    Route {
        verb: Verb::Delete,
        path: BACKEND,
        door: Door::Socket,
        about: "Removes a backend; its sessions end as on_drain says",
        query: &[],
        body: None,
        answers: &[(200, "Changed"), (404, "Unknown"), (409, "Problem")],
        answer: later!(backends::delete),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/pools/{pool}/backends",
        door: Door::Socket,
        about: "Adds a backend, with the keys of [[pool.backend]]",
        query: &[],
        body: Some("NewBackend"),
        answers: &[
            (200, "Changed"),
            (201, "Changed"),
            (400, "Problem"),
            (404, "Unknown"),
            (409, "Problem"),
        ],
        answer: later!(backends::post),
    },
    Route {
        query: &[
            (
                "backend",
                "NAME or POOL/NAME: only sessions of this backend",
            ),
            ("limit", "At most so many, 1 to 1000; 100 if not given"),
        ],
        answers: &[
            (200, "Sessions"),
            (400, "Problem"),
            (404, "Unknown"),
            (504, "Problem"),
        ],
        ..page(
            "/v1/sessions",
            "The oldest TCP sessions",
            later!(sessions::list),
        )
    },
    Route {
        verb: Verb::Delete,
        path: "/v1/sessions/{id}",
        door: Door::Socket,
        about: "Ends a session at once, by reset; its end is killed",
        query: &[],
        body: None,
        answers: &[(200, "Killed"), (400, "Problem"), (404, "Unknown")],
        answer: later!(sessions::kill),
    },
    Route {
        answers: &[(200, "Object")],
        ..page(
            "/v1/openapi.json",
            "This description (OpenAPI 3.1)",
            now!(description),
        )
    },
    Route {
        verb: Verb::Post,
        path: "/v1/reload",
        door: Door::Socket,
        about: "Reads the configuration file again; with confirm, goes back after that time or if it does clearly worse",
        query: &[],
        body: Some("Reload"),
        answers: &[
            (200, "Reloaded"),
            (400, "Problem"),
            (409, "Problem"),
            (422, "Problem"),
        ],
        answer: later!(reload),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/reload/confirm",
        door: Door::Socket,
        about: "Keeps the configuration that waits for its confirmation",
        query: &[],
        body: None,
        answers: &[(200, "Confirmed"), (409, "Problem")],
        answer: later!(confirm),
    },
    Route {
        verb: Verb::Post,
        path: "/v1/upgrade",
        door: Door::Socket,
        about: "Has a successor of this process, of the program as it is now, take over; answers when that serves",
        query: &[],
        body: None,
        answers: &[
            (200, "Upgraded"),
            (409, "Problem"),
            (422, "Problem"),
            (500, "Problem"),
        ],
        answer: later!(upgrade),
    },
];

fn dashboard_page(_: &Call) -> Reply {
    dashboard::page()
}

fn healthz(_: &Call) -> Reply {
    replies::text(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        "ok\n".to_owned(),
    )
}

fn readyz(call: &Call) -> Reply {
    let readiness = readiness::of(&call.entrance.board);
    let status = match readiness.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(status, &readiness.to_json())
}

fn metrics_page(call: &Call) -> Reply {
    let accept = call.head.headers.get(ACCEPT);
    let open = accept
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("application/openmetrics-text"));
    let kind = if open { OPEN_METRICS } else { PLAIN };
    match metrics::text(&call.entrance.board, open) {
        Ok(text) => replies::text(StatusCode::OK, kind, text),
        Err(_) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the metrics cannot be written",
        ),
    }
}

fn status_page(call: &Call) -> Reply {
    json(StatusCode::OK, &status::of(&call.entrance.board))
}

fn explain_page(call: &Call) -> Reply {
    match explain::of(&call.entrance.board, call.query()) {
        Ok(value) => json(StatusCode::OK, &value),
        Err(reply) => reply,
    }
}

fn events_page(call: &Call) -> Reply {
    match events::stream(&call.entrance.board, &call.head) {
        Some(stream) => stream.map(Body::new),
        None => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "as many clients read events as may (16): try again later",
        ),
    }
}

fn description(_: &Call) -> Reply {
    json(StatusCode::OK, &openapi::describe())
}

async fn reload(call: Call) -> Reply {
    let confirm = match read_confirm(call.body).await {
        Ok(confirm) => confirm,
        Err(reply) => return reply,
    };
    match call.entrance.demand(Demand::Reload { confirm }).await {
        Ok(done) => {
            let view = call.entrance.board.view();
            let until = view.reloads.pending.map(|it| status::stamp(it.until));
            let value = json!({ "changes": done.changes, "confirm_until": until });
            json(StatusCode::OK, &value)
        }
        Err(why) => refused(&why),
    }
}

async fn read_confirm(body: Incoming) -> Result<Option<Duration>, Reply> {
    let keys = bodies::object(body).await?;
    bodies::no_others(&keys, &["confirm"])?;
    let allowed = "a duration from \"1s\" to \"1h\"";
    bodies::read(&keys, "confirm", allowed, |value| {
        let patience = duration_of(value.as_str()?)?;
        let fits = (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&patience);
        fits.then_some(patience)
    })
}

async fn upgrade(call: Call) -> Reply {
    match call.entrance.demand(Demand::Upgrade).await {
        Ok(done) => {
            let (generation, pid) = done.successor.unwrap_or_default();
            json(
                StatusCode::OK,
                &json!({ "generation": generation, "pid": pid }),
            )
        }
        Err(why) => refused(&why),
    }
}

async fn confirm(call: Call) -> Reply {
    match call.entrance.demand(Demand::Confirm).await {
        Ok(_) => json(StatusCode::OK, &json!({ "confirmed": true })),
        Err(why) => refused(&why),
    }
}
