//! A client's stream, as the HTTP library gets it. It is given up when the client takes nothing for too long: somebody who
//! never reads must not keep a place, nor what waits to be written to it. And where the library would answer a malformed
//! head with a bare status, it says plainly, in a sentence, what cannot be read, as for every other mistake.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::places::Place;
use super::replies::json_text;

/// How long a client may take nothing while something waits for it.
pub const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    limit: Option<Pin<Box<Sleep>>>,
    /// Told when nothing is left to write.
    place: Option<Arc<Place>>,
    /// Our own words instead of the library's, and how much of them is written.
    own: Option<(Vec<u8>, usize)>,
}

impl<S: Unpin> Client<S> {
    #[must_use]
    pub fn new(stream: S, patience: Duration) -> Client<S> {
        Client {
            stream,
            patience,
            limit: None,
            place: None,
            own: None,
        }
    }

    #[must_use]
    pub fn at(mut self, place: Arc<Place>) -> Client<S> {
        self.place = Some(place);
        self
    }

    /// What a write came to, once it is known whether it waits, and for how long.
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.limit = None;
            return written;
        }
        let until = Instant::now() + self.patience;
        let limit = self
            .limit
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        match limit.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// The answer to a head that never became a request.
#[must_use]
pub fn words(status: &str, sentence: &str) -> Vec<u8> {
    let body = json_text(&serde_json::json!({ "error": sentence }));
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncache-control: no-store\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// What to say instead of these bytes. Every answer of ours has a body, so an empty one is the library's.
fn instead(bytes: &[u8]) -> Option<Vec<u8>> {
    let status = bytes.strip_prefix(b"HTTP/1.1 ")?;
    let empty = b"content-length: 0\r\n";
    if !bytes.windows(empty.len()).any(|window| window == empty) {
        return None;
    }
    Some(match status.get(..3)? {
        b"400" => words(
            "400 Bad Request",
            "this is not HTTP/1.1: the request cannot be read",
        ),
        b"414" => words(
            "414 URI Too Long",
            "the path is too long; allowed: at most 16 KiB for the whole head",
        ),
        b"431" => words(
            "431 Request Header Fields Too Large",
            "the head is too long; allowed: at most 16 KiB and 100 headers",
        ),
        _ => return None,
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for Client<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> Client<S> {
    fn write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }
}

// Without vectored writes: what is to be said instead must stand in one piece.
impl<S: AsyncWrite + Unpin> AsyncWrite for Client<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.own.is_none() {
            this.own = instead(bytes).map(|own| (own, 0));
        }
        let Some((own, mut written)) = this.own.take() else {
            return this.write(context, bytes);
        };
        while written < own.len() {
            match this.write(context, &own[written..]) {
                Poll::Pending => {
                    this.own = Some((own, written));
                    return Poll::Pending;
                }
                Poll::Ready(more) => match more? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    count => written += count,
                },
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        // The library flushes when it has handed over all that it had.
        if let (Poll::Ready(Ok(())), Some(place)) = (&flushed, &self.place) {
            place.on_written();
        }
        self.judge(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_reader_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let patience = Duration::from_millis(200);
        let (near, mut far) = duplex(64);
        let mut stream = Client::new(near, patience);
        let slow = async {
            let mut piece = [0; 8];
            for _ in 0..10 {
                tokio::time::sleep(patience / 4).await;
                far.read_exact(&mut piece).await.unwrap();
            }
            far
        };
        let bytes = [7; 144];
        let (written, _far) = tokio::join!(stream.write_all(&bytes), slow);
        written.expect("a slow reader takes all");
        let stalled = stream.write_all(&bytes).await.unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
    }
}
