//! PostgreSQL. Without a user: the start-up packet of a stranger, whose answer says whether the server lets anybody in:
//! it asks for a password (accepting), or says that it is starting up, shutting down or full. With a user: a session that
//! is kept from check to check and asked each time whether the server is in recovery, which is its role.
//!
//! Connections end by FIN or goodbye: PostgreSQL logs a reset. A refused login rests (see `manners`): it is logged, too.
//!
//! | stage | the server says | next |
//! |---|---|---|
//! | start-up sent | wants a password, no user configured | accepting |
//! | start-up sent | wants a password | proof sent, as it asks |
//! | any | error | finding, by its SQLSTATE |
//! | any | passed, parameters | go on |
//! | any | ready, role told by a parameter (14 and later) | role |
//! | any | ready | asked `pg_is_in_recovery()` |
//! | asked | row, ready | role |

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::ids::{CheckResult, Role, Secret};
use crate::prober::line::{Break, Farewell, Line};
use crate::prober::manners::{REFUSED, Rest, STRANGER};
use crate::prober::report::Finding;
use crate::prober::visit::Visit;
use crate::wire::postgres_login as login;
use crate::wire::postgres_server::{self as server, Authentication, Complaint, Said};
use crate::wire::scram;

use super::Kind;

const QUESTION: &str = "select pg_is_in_recovery()";
const GOODBYE: Farewell = Farewell::Fin(b"X\0\0\0\x04");
const SILENT: Farewell = Farewell::Fin(b"");
/// Rounds of SCRAM's salting between two breaths: a few milliseconds. A server's default is this many in all.
const ROUNDS_AT_A_TIME: u32 = 4096;

#[derive(Debug, PartialEq, Eq)]
pub struct Postgres {
    /// `None`: nobody logs in.
    user: Option<String>,
    password: Option<Secret>,
    database: String,
}

/// What a message means for the conversation, free of the line's buffer.
enum Step {
    Continue,
    /// Send this and go on.
    Send(Vec<u8>),
    /// Salt, then send.
    Salt(Box<scram::Salting>),
    InRecovery(bool),
    Ready,
    /// The end: what it found, and how long to rest after it.
    Found(Finding, Option<Duration>),
}

/// Where a login stands.
struct Login<'a> {
    check: &'a Postgres,
    begun: Option<scram::Begun>,
    proof: Option<scram::Proof>,
    in_recovery: Option<bool>,
}

impl Postgres {
    /// A check that logs in as `user`, or as nobody. The database defaults to `postgres`, which every cluster has.
    #[must_use]
    pub fn new(user: Option<&str>, password: Option<&Secret>, database: Option<&str>) -> Postgres {
        Postgres {
            user: user.map(str::to_owned),
            password: password.cloned(),
            database: database.unwrap_or("postgres").to_owned(),
        }
    }

    fn login(&self) -> Login<'_> {
        Login {
            check: self,
            begun: None,
            proof: None,
            in_recovery: None,
        }
    }

    /// Asks on a session that is open. `Err` leaves it to a new session to find out.
    async fn ask_again(&self, line: &mut Line) -> Result<Finding, Break> {
        let mut question = Vec::new();
        login::query(&mut question, QUESTION);
        let sent = line.send(&question).await;
        let mut login = self.login();
        let (finding, _) = login.hear(line, true).await?;
        sent.map(|()| finding)
    }

    async fn log_in(&self, line: &mut Line) -> Result<(Finding, Option<Duration>), Break> {
        let mut first = Vec::new();
        let user = self.user.as_deref().unwrap_or("ringway");
        login::start_up(&mut first, user, &self.database);
        let _ = line.send(&first).await;
        self.login().hear(line, false).await
    }
}

impl Login<'_> {
    /// Listens, and answers what the server asks, up to a finding.
    async fn hear(
        &mut self,
        line: &mut Line,
        mut asked: bool,
    ) -> Result<(Finding, Option<Duration>), Break> {
        loop {
            let step = match server::read(line.unread()) {
                Ok(Some((said, length))) => {
                    let step = self.step(said);
                    line.consume(length);
                    step
                }
                Ok(None) => {
                    line.receive().await?;
                    continue;
                }
                Err(malformed) => {
                    let finding = Finding::failed(malformed.to_string().as_bytes());
                    return Ok((finding, None));
                }
            };
            match step {
                Step::Continue => {}
                Step::Send(bytes) => line.send(&bytes).await?,
                Step::Salt(salting) => {
                    let answer = self.salt(*salting).await;
                    line.send(&answer).await?;
                }
                Step::InRecovery(truth) => self.in_recovery = Some(truth),
                Step::Ready if self.in_recovery.is_none() && !asked => {
                    asked = true;
                    let mut question = Vec::new();
                    login::query(&mut question, QUESTION);
                    line.send(&question).await?;
                }
                Step::Ready => return Ok((alive(self.in_recovery), None)),
                Step::Found(finding, rest) => return Ok((finding, rest)),
            }
        }
    }

    fn step(&mut self, said: Said<'_>) -> Step {
        match said {
            Said::Authentication(Authentication::Passed) => Step::Continue,
            Said::Authentication(_) if self.check.user.is_none() => {
                Step::Found(Finding::alive(Role::Unknown), None)
            }
            Said::Authentication(wanted) => self.prove(wanted),
            Said::Error(complaint) => self.complain(complaint),
            Said::Parameter(b"in_hot_standby", value) => Step::InRecovery(value == b"on"),
            Said::Row(Some(value)) => Step::InRecovery(value == b"t"),
            Said::Ready => Step::Ready,
            Said::Parameter(..) | Said::Row(None) | Said::Other(_) => Step::Continue,
        }
    }

    /// Answers a request for a password.
    fn prove(&mut self, wanted: Authentication<'_>) -> Step {
        let (Some(user), Some(password)) = (&self.check.user, &self.check.password) else {
            let words = b"the server wants a password, and none is configured";
            return Step::Found(Finding::failed(words), Some(REFUSED));
        };
        let mut out = Vec::new();
        match wanted {
            Authentication::Cleartext => login::password(&mut out, password.bytes()),
            Authentication::Md5 { salt } => {
                login::password_md5(&mut out, user, password.bytes(), salt);
            }
            Authentication::Sasl(mechanisms) if server::offers(mechanisms, scram::MECHANISM) => {
                let begun = scram::begin("", &nonce());
                login::sasl_begin(&mut out, scram::MECHANISM, begun.first().as_bytes());
                self.begun = Some(begun);
            }
            Authentication::SaslContinue(message) => {
                let begun = self.begun.take().ok_or(scram::Broken::Malformed);
                return match begun.and_then(|begun| begun.hear(message, password.bytes())) {
                    Ok(salting) => Step::Salt(Box::new(salting)),
                    Err(broken) => refused(&broken.to_string()),
                };
            }
            Authentication::SaslFinal(message) => {
                let proof = self.proof.take().ok_or(scram::Broken::Malformed);
                return match proof.and_then(|proof| proof.hear(message)) {
                    Ok(()) => Step::Continue,
                    Err(broken) => refused(&broken.to_string()),
                };
            }
            Authentication::Passed | Authentication::Sasl(_) | Authentication::Unsupported(_) => {
                return refused(
                    "the server wants a proof that checks cannot give: allow scram-sha-256 or md5 in pg_hba.conf",
                );
            }
        }
        Step::Send(out)
    }

    async fn salt(&mut self, mut salting: scram::Salting) -> Vec<u8> {
        while !salting.work(ROUNDS_AT_A_TIME) {
            // Others are served meanwhile; the ring is looked at only when the thread sleeps.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (answer, proof) = salting.finish();
        self.proof = Some(proof);
        let mut out = Vec::new();
        login::sasl_answer(&mut out, answer.as_bytes());
        out
    }

    /// An error, by its SQLSTATE (PostgreSQL documentation, appendix "Error Codes").
    fn complain(&self, complaint: Complaint<'_>) -> Step {
        let mut words = complaint.message.to_vec();
        words.extend(format!(" ({})", complaint.code()).bytes());
        match &complaint.code {
            // Too many connections.
            b"53300" => Step::Found(
                Finding {
                    full: true,
                    ..Finding::failed(&words)
                },
                None,
            ),
            // Out of something, told to stop, not ready yet (57P03), broken, or no reason given.
            [b'5', b'3' | b'7' | b'8', ..] | [b'X', b'X', ..] | b"00000" => {
                Step::Found(Finding::failed(&words), None)
            }
            // It speaks to us: whoever has the right name will be let in.
            _ if self.check.user.is_none() => {
                let finding = Finding::alive(Role::Unknown).saying(&words);
                Step::Found(finding, Some(STRANGER))
            }
            _ => Step::Found(Finding::failed(&words), Some(REFUSED)),
        }
    }
}

fn refused(words: &str) -> Step {
    Step::Found(Finding::failed(words.as_bytes()), Some(REFUSED))
}

fn alive(in_recovery: Option<bool>) -> Finding {
    Finding::alive(match in_recovery {
        Some(true) => Role::Replica,
        Some(false) => Role::Primary,
        None => Role::Unknown,
    })
}

/// New for each login, and nobody else's: hashes under keys that the system's chance gave.
fn nonce() -> [u8; 24] {
    let mut nonce = [0; 24];
    for (i, part) in nonce.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&RandomState::new().hash_one(i).to_ne_bytes());
    }
    nonce
}

impl Kind for Postgres {
    async fn check(&self, visit: &mut Visit) -> Finding {
        if let Some(mut line) = visit.take_kept() {
            match self.ask_again(&mut line).await {
                Ok(finding) if finding.result == CheckResult::Ok => {
                    visit.keep(line);
                    return finding;
                }
                // Ended meanwhile: by an operator, a restart, a timeout. Whether the server is well, a new one tells.
                Ok(_) | Err(Break::Closed | Break::Kernel(_)) => {}
                Err(broken) => return broken.finding(),
            }
        }
        let mut line = match visit.open().await {
            Ok(line) => line,
            Err(finding) => return finding,
        };
        line.set_farewell(SILENT);
        let (finding, rest) = match self.log_in(&mut line).await {
            Ok(found) => found,
            Err(broken) => return broken.finding(),
        };
        if let Some(pause) = rest {
            visit.rest(Rest::after(&finding, pause));
        } else if finding.role != Role::Unknown {
            line.set_farewell(GOODBYE);
            if self.user.is_some() {
                visit.keep(line);
            }
        }
        finding
    }
}
