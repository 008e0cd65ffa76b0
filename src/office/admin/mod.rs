//! The admin server: HTTP/1.1 on `[admin] bind`, where everything is only looked at, and on the admin socket, where the
//! operator changes things. Answers are read from the board, demands go to the office; nothing is decided here.
//!
//! Clients here are not trusted either: few connections, small heads and bodies, a deadline for each. Who comes when all
//! places are taken gets that of the connection that has been idle longest.

mod backends;
mod bodies;
mod client;
mod dashboard;
mod events;
mod explain;
mod families;
pub mod metrics;
mod openapi;
mod places;
pub mod readiness;
mod replies;
mod router;
mod routes;
mod sessions;
pub mod socket;
pub mod status;
#[cfg(test)]
pub(super) mod tests;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use socket2::SockRef;

use super::board::Board;
use super::failure::Failure;
use client::{Client, PATIENCE};
use places::Place;
pub use places::Places;
use router::Entrance;

const CONNECTIONS_MAX: usize = 64;
/// Who waits for a place waits in the kernel's queue: a crowd must not fill it, or whoever comes then is not heard for
/// seconds (his SYN is dropped, and comes again together with the crowd's).
const QUEUE: i32 = 4096;
/// A request follows its connection within this, if both come at once.
const GRACE: Duration = Duration::from_millis(50);
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A connection, however it is used, lives no longer.
const LIFETIME_MAX: Duration = Duration::from_secs(600);

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
        SockRef::from(&socket).listen(QUEUE)?;
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

/// Takes the address over from the process before.
///
/// # Errors
/// The kernel's.
pub fn adopt(socket: OwnedFd) -> Result<Bound, Failure> {
    let socket = std::net::TcpListener::from(socket);
    let address = socket.local_addr();
    let address = address.map_err(|error| Failure::CannotStart(format!("admin: {error}")))?;
    Ok(Bound { socket, address })
}

/// A running admin server; dropping it stops accepting, answers under way are finished.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
    listener: Arc<TcpListener>,
    places: Arc<Places>,
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
        let places = Places::new(CONNECTIONS_MAX, GRACE);
        let own = Arc::clone(&listener);
        let next = move || {
            let listener = Arc::clone(&own);
            async move { listener.accept().await.map(|(stream, _)| stream) }
        };
        let entrance = Entrance::tcp(board);
        Ok(Server {
            address: bound.address,
            accepting: tokio::spawn(accept(next, entrance, Arc::clone(&places))),
            listener,
            places,
        })
    }

    /// A copy of the socket, for a successor.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is left.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Stops accepting. What is left are connections.
    #[must_use]
    pub fn leave(self) -> Arc<Places> {
        Arc::clone(&self.places)
    }
}

/// Serves each stream that `next` gives, as many at a time as there are places.
async fn accept<S, F, A>(next: F, entrance: Entrance, places: Arc<Places>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn() -> A,
    A: Future<Output = io::Result<S>>,
{
    loop {
        match next().await {
            Ok(stream) => {
                let Some(place) = places.wait_for_one().await else {
                    continue;
                };
                let number = place.number();
                let entrance = entrance.clone();
                let task = tokio::spawn(async move {
                    let _ =
                        tokio::time::timeout(LIFETIME_MAX, serve(stream, entrance, place)).await;
                });
                places.belongs(number, task.abort_handle());
            }
            // Out of descriptors, most likely: the sessions come first.
            Err(error) => {
                log::debug!("admin: accept: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn serve<S>(stream: S, entrance: Entrance, place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let place = Arc::new(place);
    let stream = Client::new(stream, PATIENCE).at(Arc::clone(&place));
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (entrance, place) = (entrance.clone(), Arc::clone(&place));
        Box::pin(async move {
            place.set_busy();
            let reply = router::answer(entrance, request).await;
            // A stream keeps its place as long as it lasts.
            if !replies::is_stream(&reply) {
                place.set_answered();
            }
            Ok::<_, Infallible>(reply)
        })
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let served = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    if let Err(error) = served {
        log::debug!("admin: {error}");
        // Who has said nothing is closed without a word.
        if error.is_timeout() && !parts.read_buf.is_empty() {
            let late = client::words("408 Request Timeout", "the head did not come within 10 s");
            let _ = stream.write_all(&late).await;
        }
    }
    let _ = stream.shutdown().await;
}
