//! A client's stream on which the server says plainly what it cannot read: where the HTTP library would answer a malformed
//! head with a bare status, the client gets a sentence, as for every other mistake.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::replies::json_text;

#[derive(Debug)]
pub struct Plainly<S> {
    stream: S,
    /// Our own words instead of the library's, and how much of them is written.
    own: Option<(Vec<u8>, usize)>,
}

impl<S> Plainly<S> {
    #[must_use]
    pub fn new(stream: S) -> Plainly<S> {
        Plainly { stream, own: None }
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

impl<S: AsyncRead + Unpin> AsyncRead for Plainly<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Plainly<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.own.is_none() {
            this.own = instead(bytes).map(|own| (own, 0));
        }
        let Some((own, written)) = &mut this.own else {
            return Pin::new(&mut this.stream).poll_write(context, bytes);
        };
        while *written < own.len() {
            let more = Pin::new(&mut this.stream).poll_write(context, &own[*written..]);
            match ready!(more)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => *written += count,
            }
        }
        this.own = None;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
