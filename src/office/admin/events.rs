//! `GET /v1/events`: events as they happen, in the format of server-sent events. `Last-Event-ID` (or `?after=ID`) goes on
//! after that event; `?after=0` begins with all that is kept.
//!
//! A stream has no queue of its own, so a slow client costs nothing but its place. It ends by itself before the
//! connection's time is up, or when a successor has taken over, and the client comes again with the last id, as browsers do.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use tokio::time::{Instant, Sleep};

use crate::office::board::Board;
use crate::office::events::Cursor;

/// Something is written at least this often, so that everybody in between, and we, see that the other is there.
const BEAT: Duration = Duration::from_secs(15);
/// Less than a connection may live.
const LIFE: Duration = Duration::from_secs(540);

/// A stream of events; `None` if all places are taken.
pub fn stream(board: &Arc<Board>, head: &Parts) -> Option<Response<Stream>> {
    let header = head.headers.get("last-event-id");
    let header = header.and_then(|value| value.to_str().ok());
    let query = head.uri.query().unwrap_or_default();
    let asked = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "after");
    let after = header.or(asked.as_ref().map(|(_, id)| &**id));
    let mut response = Response::new(Stream {
        cursor: board.events.cursor(after),
        place: board.events.join()?,
        board: Arc::clone(board),
        begun: false,
        beat: Box::pin(tokio::time::sleep(BEAT)),
        ends: Instant::now() + LIFE,
    });
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// The body of the answer.
#[derive(Debug)]
pub struct Stream {
    board: Arc<Board>,
    cursor: Cursor,
    place: usize,
    begun: bool,
    beat: Pin<Box<Sleep>>,
    ends: Instant,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.board.events.leave(self.place);
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let own = &mut *self;
        if Instant::now() >= own.ends {
            return Poll::Ready(None);
        }
        let mut out = String::new();
        if !std::mem::replace(&mut own.begun, true) {
            out.push_str("retry: 1000\n\n");
        }
        let events = &own.board.events;
        if !events.read(&mut own.cursor, own.place, context.waker(), &mut out) {
            if events.are_over() {
                return Poll::Ready(None);
            }
            if own.beat.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            out.push_str(":\n\n");
        }
        own.beat.as_mut().reset(Instant::now() + BEAT);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(out)))))
    }
}
