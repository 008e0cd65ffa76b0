//! Which request goes to which answer, by the table of `routes`: path, then method, then whether this entrance may have it.
//! What fits nothing gets a sentence that says what would.

use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;

use crate::office::board::Board;
use crate::office::demands::{Answer, Demand, Demands, Refused};
use crate::office::operator;

use super::replies::{Reply, problem, unknown};
use super::routes::ROUTES;

/// A way in, and what may be done there: who comes over TCP looks, who may open the socket's file changes.
#[derive(Clone, Debug)]
pub struct Entrance {
    pub board: Arc<Board>,
    demands: Option<Demands>,
}

impl Entrance {
    #[must_use]
    pub fn tcp(board: Arc<Board>) -> Entrance {
        Entrance {
            board,
            demands: None,
        }
    }

    #[must_use]
    pub fn socket(board: Arc<Board>, demands: Demands) -> Entrance {
        Entrance {
            board,
            demands: Some(demands),
        }
    }

    pub async fn demand(&self, demand: Demand) -> Answer {
        match &self.demands {
            Some(demands) => demands.demand(demand).await,
            None => Err(Refused::Leaving),
        }
    }
}

/// Where a route may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Both,
    Socket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    Put,
    Post,
    Delete,
}

impl Verb {
    pub fn word(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Put => "PUT",
            Verb::Post => "POST",
            Verb::Delete => "DELETE",
        }
    }
}

/// One request that found its route.
#[derive(Debug)]
pub struct Call {
    pub entrance: Entrance,
    /// What stands in the places of `{…}`, in their order.
    pub names: Vec<String>,
    pub head: Parts,
    pub body: Incoming,
}

impl Call {
    pub fn query(&self) -> Option<&str> {
        self.head.uri.query()
    }
}

pub type Answering = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// One line of the table.
pub struct Route {
    pub verb: Verb,
    /// With `{name}` for a segment that is a name.
    pub path: &'static str,
    pub door: Door,
    /// What it does, for those who read the description.
    pub about: &'static str,
    /// Keys of the query, and what each is.
    pub query: &'static [(&'static str, &'static str)],
    /// The schema of the body, if it takes one.
    pub body: Option<&'static str>,
    /// Statuses that it answers with besides those of every route, and the schema of each.
    pub answers: &'static [(u16, &'static str)],
    pub answer: fn(Call) -> Answering,
}

/// The names in a path that fits the pattern.
pub fn fit(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut segments = path.split('/');
    for wanted in pattern.split('/') {
        let segment = segments.next()?;
        if wanted.starts_with('{') {
            let name = percent_decode_str(segment).decode_utf8().ok()?;
            if name.is_empty() {
                return None;
            }
            names.push(name.into_owned());
        } else if segment != wanted {
            return None;
        }
    }
    segments.next().is_none().then_some(names)
}

/// Answers a request that has come through this entrance.
pub async fn answer(entrance: Entrance, request: Request<Incoming>) -> Reply {
    let path = request.uri().path();
    let here: Vec<(&Route, Vec<String>)> = ROUTES
        .iter()
        .filter_map(|route| Some((route, fit(route.path, path)?)))
        .collect();
    if here.is_empty() {
        return nothing_at(path);
    }
    // Who asks for the head alone gets the same; the server leaves the body out.
    let method = match request.method() {
        &Method::HEAD => &Method::GET,
        other => other,
    };
    let allowed = allowed(here.iter().map(|(route, _)| route.verb));
    let mut here = here.into_iter();
    let Some((route, names)) = here.find(|(route, _)| route.verb.word() == method.as_str()) else {
        let sentence = format!("{method} means nothing here; allowed: {allowed}");
        let mut reply = problem(StatusCode::METHOD_NOT_ALLOWED, &sentence);
        if let Ok(value) = HeaderValue::from_str(&allowed) {
            reply.headers_mut().insert(ALLOW, value);
        }
        return reply;
    };
    if route.door == Door::Socket && entrance.demands.is_none() {
        return problem(
            StatusCode::FORBIDDEN,
            "changes are made on the admin socket only, by those who may open it; over TCP everything is read-only",
        );
    }
    let (head, body) = request.into_parts();
    let call = Call {
        entrance,
        names,
        head,
        body,
    };
    (route.answer)(call).await
}

fn allowed(verbs: impl Iterator<Item = Verb>) -> String {
    let mut words: Vec<&str> = verbs.map(Verb::word).collect();
    if words.contains(&"GET") {
        words.push("HEAD");
    }
    words.sort_unstable();
    words.join(", ")
}

fn nothing_at(path: &str) -> Reply {
    let mut known: Vec<&str> = ROUTES.iter().map(|route| route.path).collect();
    known.dedup();
    let shown: String = path.chars().take(80).collect();
    unknown(&operator::unknown(&format!("page {shown}"), path, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_from_their_places() {
        let pattern = "/v1/pools/{pool}/backends/{backend}";
        let names = |path: &str| fit(pattern, path);
        let two = |a: &str, b: &str| Some(vec![a.to_owned(), b.to_owned()]);
        assert_eq!(names("/v1/pools/pg/backends/pg1"), two("pg", "pg1"));
        assert_eq!(
            names("/v1/pools/pg/backends/unix:%2Frun%2Fx"),
            two("pg", "unix:/run/x")
        );
        for wrong in [
            "/v1/pools/pg/backends",
            "/v1/pools/pg/backends/",
            "/v1/pools/pg/backends/a/b",
            "/v1/pools/pg/backend/a",
            "/v1/pools/pg/backends/%ff",
            "",
        ] {
            assert_eq!(names(wrong), None, "{wrong}");
        }
        assert_eq!(fit("/", "/"), Some(vec![]));
    }

    #[test]
    fn each_route_stands_once_in_the_table() {
        let mut seen = std::collections::BTreeSet::new();
        for route in ROUTES {
            assert!(
                seen.insert((route.path, route.verb.word())),
                "{}",
                route.path
            );
            assert!(!route.about.is_empty() && !route.answers.is_empty());
            let reads = route.verb == Verb::Get;
            assert_eq!(reads, route.door == Door::Both, "{}", route.path);
        }
    }
}
