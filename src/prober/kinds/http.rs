//! One request and the status of its response, HTTP/1.1 with `Connection: close`. Nothing of a body is read: the server
//! ends the connection by itself, or finds it ended.

use crate::ids::Role;
use crate::prober::line::{Break, Farewell, Line};
use crate::prober::report::Finding;
use crate::prober::visit::Visit;
use crate::wire::http::{self, NotHttp};

use super::Kind;

#[derive(Debug, PartialEq, Eq)]
pub struct Http {
    request: Vec<u8>,
    /// First and last code of each range that counts as alive.
    alive: Vec<(u16, u16)>,
}

impl Http {
    /// None of the texts may hold a line end.
    #[must_use]
    pub fn new(method: &str, path: &str, host: &str, alive: &[(u16, u16)]) -> Http {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ringway-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        Http {
            request: request.into_bytes(),
            alive: alive.to_vec(),
        }
    }

    async fn ask(&self, line: &mut Line) -> Result<Finding, Break> {
        // A server may answer without having read: what it says counts.
        let not_sent = line.send(&self.request).await.err();
        loop {
            match http::status(line.unread()) {
                Ok(Some((code, words))) => return Ok(self.judge(code, words)),
                Ok(None) => {}
                Err(NotHttp) => {
                    return Ok(Finding::failed(
                        &[b"this is not HTTP/1: ", line.unread()].concat(),
                    ));
                }
            }
            if let Err(broken) = line.receive().await {
                return Err(not_sent.unwrap_or(broken));
            }
        }
    }

    fn judge(&self, code: u16, words: &[u8]) -> Finding {
        let is_alive = |range: &(u16, u16)| (range.0..=range.1).contains(&code);
        match self.alive.iter().any(is_alive) {
            true => Finding::alive(Role::Unknown),
            false => Finding::failed(words),
        }
    }
}

impl Kind for Http {
    async fn check(&self, visit: &mut Visit) -> Finding {
        let mut line = match visit.open().await {
            Ok(line) => line,
            Err(finding) => return finding,
        };
        match self.ask(&mut line).await {
            Ok(finding) => {
                line.set_farewell(Farewell::Fin(b""));
                finding
            }
            Err(broken) => broken.finding(),
        }
    }
}
