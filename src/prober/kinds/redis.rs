//! Redis and Valkey: PING must be answered by PONG before ROLE is believed, because ROLE says "master" while the server
//! still loads its data. With credentials, or where the role matters, one session is kept open from check to check; else
//! each check is a connection that says PING.
//!
//! A server that wants a password and was given none is alive: it said so itself.

use crate::ids::{CheckResult, Role, Secret};
use crate::prober::line::{Break, Farewell, Line};
use crate::prober::report::Finding;
use crate::prober::visit::Visit;
use crate::wire::redis::{self, Reply};

use super::Kind;

#[derive(Debug, PartialEq, Eq)]
pub struct Redis {
    /// Sent on a new session, with the number of its replies.
    greeting: Vec<u8>,
    greetings: usize,
    /// Sent by every check.
    question: Vec<u8>,
    asks_role: bool,
    keeps: bool,
}

impl Redis {
    /// A user without a password is not logged in; `database` is a number, as Redis has it.
    #[must_use]
    pub fn new(
        user: Option<&str>,
        password: Option<&Secret>,
        database: Option<u32>,
        asks_role: bool,
    ) -> Redis {
        let mut greeting = Vec::new();
        let mut greetings = 0;
        match (user, password) {
            (Some(user), Some(password)) => {
                redis::put_command(&mut greeting, &[b"AUTH", user.as_bytes(), password.bytes()]);
                greetings += 1;
            }
            (None, Some(password)) => {
                redis::put_command(&mut greeting, &[b"AUTH", password.bytes()]);
                greetings += 1;
            }
            (_, None) => {}
        }
        if let Some(database) = database {
            redis::put_command(&mut greeting, &[b"SELECT", database.to_string().as_bytes()]);
            greetings += 1;
        }
        let mut question = Vec::new();
        redis::put_command(&mut question, &[b"PING"]);
        if asks_role {
            redis::put_command(&mut question, &[b"ROLE"]);
        }
        Redis {
            greeting,
            greetings,
            question,
            asks_role,
            keeps: asks_role || password.is_some(),
        }
    }

    /// Keeps the line for the next check where that is of use. All replies must have been read, else the next check would
    /// read this one's: only a plain yes leaves none behind.
    fn leave(&self, visit: &mut Visit, mut line: Line, finding: Finding) -> Finding {
        let complete = finding.result == CheckResult::Ok && finding.words.is_none();
        if self.keeps && complete && line.unread().is_empty() {
            line.set_farewell(Farewell::Fin(b""));
            visit.keep(line);
        }
        finding
    }

    async fn ask(&self, line: &mut Line, new: bool) -> Result<Finding, Break> {
        let mut bytes = Vec::new();
        if new {
            bytes.extend_from_slice(&self.greeting);
        }
        bytes.extend_from_slice(&self.question);
        let sent = line.send(&bytes).await.err();
        let greetings = if new { self.greetings } else { 0 };
        for _ in 0..greetings {
            if let Err(finding) = next(line, sent, |reply| match reply {
                Reply::Simple(b"OK") => Ok(()),
                other => Err(refusal(other)),
            })
            .await?
            {
                return Ok(finding);
            }
        }
        if let Err(finding) = next(line, sent, |reply| match reply {
            Reply::Simple(b"PONG") => Ok(()),
            // It wants a password that nobody gave us.
            Reply::Error(words) if words.starts_with(b"NOAUTH") => {
                Err(Finding::alive(Role::Unknown).saying(words))
            }
            other => Err(refusal(other)),
        })
        .await?
        {
            return Ok(finding);
        }
        if !self.asks_role {
            return Ok(Finding::alive(Role::Unknown));
        }
        let role = next(line, sent, |reply| Ok::<_, Finding>(role_finding(reply)));
        role.await
            .map(|found| found.unwrap_or_else(|finding| finding))
    }
}

impl Kind for Redis {
    async fn check(&self, visit: &mut Visit) -> Finding {
        if let Some(mut line) = visit.take_kept() {
            match self.ask(&mut line, false).await {
                Ok(finding) => return self.leave(visit, line, finding),
                // Ended meanwhile (an idle timeout, an operator): no fault of the server's until a new one fails, too.
                Err(Break::Closed | Break::Kernel(_)) => {}
                Err(broken) => return broken.finding(),
            }
        }
        let mut line = match visit.open().await {
            Ok(line) => line,
            Err(finding) => return finding,
        };
        match self.ask(&mut line, true).await {
            Ok(finding) => self.leave(visit, line, finding),
            Err(broken) => broken.finding(),
        }
    }
}

/// Waits for the next reply and has it judged. What the server said before it ended the connection counts even if our
/// question could not be sent any more.
async fn next<T>(
    line: &mut Line,
    not_sent: Option<Break>,
    judge: impl FnOnce(&Reply<'_>) -> Result<T, Finding>,
) -> Result<Result<T, Finding>, Break> {
    loop {
        match redis::reply(line.unread()) {
            Ok(Some((reply, used))) => {
                let judged = judge(&reply);
                line.consume(used);
                return Ok(judged);
            }
            Ok(None) => {}
            Err(redis::NotAReply) => {
                let words = [b"this is not Redis: ", line.unread()].concat();
                return Ok(Err(Finding::failed(&words)));
            }
        }
        if let Err(broken) = line.receive().await {
            return Err(not_sent.unwrap_or(broken));
        }
    }
}

/// The server answered something else than was asked for.
fn refusal(reply: &Reply<'_>) -> Finding {
    match reply {
        Reply::Error(words) => Finding::failed(words),
        Reply::Simple(words) | Reply::Bulk(Some(words)) => {
            Finding::failed(&[b"unexpected answer: ", *words].concat())
        }
        _ => Finding::failed(b"unexpected answer"),
    }
}

fn role_finding(reply: &Reply<'_>) -> Finding {
    let Reply::Array(Some(parts)) = reply else {
        return refusal(reply);
    };
    match parts.first() {
        Some(Reply::Bulk(Some(b"master"))) => Finding::alive(Role::Primary),
        Some(Reply::Bulk(Some(b"slave"))) => Finding::alive(Role::Replica),
        // A sentinel, or something newer than this: alive, and neither.
        _ => Finding::alive(Role::Unknown),
    }
}
