//! The admin server: HTTP/1.1 on `[admin] bind` and on the admin socket, answers read from the board. It changes nothing.
//!
//! Clients here are not trusted either: few connections, small heads, a deadline for each. One that is over the limit is
//! closed at once.

mod dashboard;
mod events;
mod explain;
mod families;
pub mod metrics;
mod patience;
pub mod readiness;
pub mod socket;
pub mod status;
#[cfg(test)]
pub(super) mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::board::Board;
use super::failure::Failure;
use patience::{Impatient, PATIENCE};

const CONNECTIONS_MAX: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A connection, however it is used, lives no longer.
const LIFETIME_MAX: Duration = Duration::from_secs(600);

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A bound address that nobody answers yet.
#[derive(Debug)]
pub struct Bound {
    socket: std::net::TcpListener,
    pub address: SocketAddr,
}

/// Binds the admin address.
///
/// # Errors
/// Names the address and the remedy.
pub fn bind(address: SocketAddr) -> Result<Bound, Failure> {
    let bound = std::net::TcpListener::bind(address).and_then(|socket| {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Bound { socket, address })
    });
    bound.map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "address in use: choose another, or bind = \"\" to turn it off".to_owned()
            }
            io::ErrorKind::PermissionDenied => {
                "permission denied: choose a port from 1024 on".to_owned()
            }
            _ => error.to_string(),
        };
        Failure::CannotStart(format!("admin cannot bind {address}: {remedy}"))
    })
}

/// A running admin server; dropping it stops accepting, answers under way are finished.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    /// Must be called inside the runtime.
    ///
    /// # Errors
    /// The kernel's, when the socket cannot be watched.
    pub fn start(bound: Bound, board: Arc<Board>) -> io::Result<Server> {
        let listener = Arc::new(TcpListener::from_std(bound.socket)?);
        let next = move || {
            let listener = Arc::clone(&listener);
            async move { listener.accept().await.map(|(stream, _)| stream) }
        };
        Ok(Server {
            address: bound.address,
            accepting: tokio::spawn(accept(next, board)),
        })
    }
}

/// Serves each stream that `next` gives, as many at a time as there are places.
async fn accept<S, F, A>(next: F, board: Arc<Board>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn() -> A,
    A: Future<Output = io::Result<S>>,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        match next().await {
            Ok(stream) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    continue;
                };
                let board = Arc::clone(&board);
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(LIFETIME_MAX, serve(stream, board)).await;
                    drop(place);
                });
            }
            // Out of descriptors, most likely: the sessions come first.
            Err(error) => {
                log::debug!("admin: accept: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn serve<S>(stream: S, board: Arc<Board>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answer = match events::stream(&board, &request) {
            Some(stream) => stream.map(Either::Left),
            None => answer(&board, request.method(), &request).map(Either::Right),
        };
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Impatient::new(stream, PATIENCE)), service)
        .await;
    if let Err(error) = served {
        log::debug!("admin: {error}");
    }
}

fn answer<B>(board: &Arc<Board>, method: &Method, request: &Request<B>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    const KNOWN: [&str; 7] = [
        dashboard::PATH,
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/status",
        "/v1/explain",
        events::PATH,
    ];
    let known = KNOWN.contains(&path);
    if !known {
        return problem(StatusCode::NOT_FOUND, "there is nothing at this path");
    }
    if method != Method::GET && method != Method::HEAD {
        let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "this path is only for GET");
        let headers = response.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/healthz" => reply(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".into()),
        "/readyz" => {
            let readiness = readiness::of(board);
            let status = match readiness.is_ready() {
                true => StatusCode::OK,
                false => StatusCode::SERVICE_UNAVAILABLE,
            };
            json(status, &readiness.to_json())
        }
        dashboard::PATH => dashboard::page(),
        events::PATH => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "as many clients read events as may (16): try again later",
        ),
        "/v1/status" => json(StatusCode::OK, &status::of(board)),
        "/v1/explain" => match explain::of(board, request.uri().query()) {
            Ok(value) => json(StatusCode::OK, &value),
            Err((status, sentence)) => problem(status, &sentence),
        },
        _ => {
            let accept = request.headers().get(ACCEPT);
            let open = accept
                .and_then(|value| value.to_str().ok())
                .is_some_and(|value| value.contains("application/openmetrics-text"));
            match metrics::text(board, open) {
                Ok(text) if open => reply(StatusCode::OK, OPEN_METRICS, text),
                Ok(text) => reply(StatusCode::OK, PLAIN, text),
                Err(_) => problem(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the metrics cannot be written",
                ),
            }
        }
    }
}

fn problem(status: StatusCode, sentence: &str) -> Response<Full<Bytes>> {
    json(status, &serde_json::json!({ "error": sentence }))
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_else(|_| "{}".to_owned());
    text.push('\n');
    reply(status, JSON, text)
}

fn reply(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
