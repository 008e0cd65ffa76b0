//! The head of an HTTP/1 response, as far as a health check needs it: the status. Reading is the work of httparse, which
//! is strict; this adds the bounds and the skipping of interim responses.

use httparse::{EMPTY_HEADER, Response, Status};

/// No head that a check reads is longer, interim responses included.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 100;

/// The bytes are no HTTP/1 response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHttp;

/// The status code of the first final response in `bytes`, and its status line; `None` while its head is not complete.
///
/// # Errors
/// What is there cannot become a response, or its head is too long.
pub fn status(bytes: &[u8]) -> Result<Option<(u16, &[u8])>, NotHttp> {
    let mut rest = bytes;
    loop {
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut response = Response::new(&mut headers);
        let used = match response.parse(rest) {
            Ok(Status::Complete(used)) => used,
            Ok(Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => return Err(NotHttp),
            Ok(Status::Partial) => return Ok(None),
            Err(_) => return Err(NotHttp),
        };
        let code = response.code.ok_or(NotHttp)?;
        if code >= 200 {
            let line = rest
                .split(|byte| *byte == b'\n')
                .find(|line| line.len() > 1);
            return Ok(Some((code, line.unwrap_or(rest).trim_ascii())));
        }
        rest = &rest[used..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_final_status_is_found() {
        let read = |text: &'static str| status(text.as_bytes());
        let fine = "HTTP/1.1 200 OK\r\nServer: x\r\nConnection: close\r\n\r\nbody";
        assert_eq!(read(fine), Ok(Some((200, &b"HTTP/1.1 200 OK"[..]))));
        assert_eq!(
            read("HTTP/1.0 503 Service Unavailable\n\n"),
            Ok(Some((503, &b"HTTP/1.0 503 Service Unavailable"[..])))
        );
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(
            read(interim),
            Ok(Some((204, &b"HTTP/1.1 204 No Content"[..])))
        );
        assert_eq!(read("HTTP/1.1 100 Continue\r\n\r\n"), Ok(None));
        assert_eq!(read("HTTP/1.1 200 OK\r\nA: b\r\n"), Ok(None));
        assert_eq!(read(""), Ok(None));
    }

    #[test]
    fn what_is_no_response_is_refused_at_once() {
        for wrong in [
            "220 mail.example ESMTP\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 20000 OK\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        ] {
            assert_eq!(status(wrong.as_bytes()), Err(NotHttp), "{wrong}");
        }
        let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
        while endless.len() < HEAD_BYTES_MAX {
            endless.extend_from_slice(b"X: y\r\n");
        }
        assert_eq!(status(&endless), Err(NotHttp));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(start in prop_oneof![Just(&b""[..]), Just(&b"HTTP/1.1 200 OK\r\n"[..]), Just(&b"HTTP/1.1 "[..])],
                                  bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = [start, &bytes].concat();
            if let Ok(Some((code, _))) = status(&bytes) {
                prop_assert!((200..1000).contains(&code));
            }
        }

        #[test]
        fn in_pieces_it_is_waited_for(cut in 0usize..56) {
            let whole = b"HTTP/1.1 301 Moved Permanently\r\nLocation: /elsewhere\r\n\r\n";
            prop_assert_eq!(status(&whole[..cut]), Ok(None));
        }
    }
}
