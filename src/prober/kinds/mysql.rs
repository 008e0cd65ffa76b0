//! MySQL and MariaDB. With a user: a session that is kept from check to check and asked each time whether the server is
//! read-only, which is its role, and in a Galera cluster whether the node is in sync. Without a user: the whole login of
//! a stranger, because a server counts every connection that leaves without one against `max_connect_errors`, and at its
//! limit shuts our host out; being refused is not counted, and tells that it accepts. It is logged, though, so after it
//! the backend rests (see `manners`) and is only looked at by connecting and resetting, which is neither.
//!
//! | stage | the server says | next |
//! |---|---|---|
//! | connected | error | finding: full, host blocked, host not allowed … |
//! | connected | greeting | login sent |
//! | login sent | wants another proof | proof sent; nonsense for a plugin that needs a protected connection |
//! | login sent | refused | finding |
//! | logged in, new session | – | asked whether Galera is on |
//! | logged in | – | asked for `read_only`, and in a cluster for the node's state |

use std::time::Duration;

use crate::ids::{Role, Secret};
use crate::prober::line::{Break, Farewell, Line};
use crate::prober::manners::{REFUSED, Rest, STRANGER};
use crate::prober::report::Finding;
use crate::prober::visit::Visit;
use crate::wire::mysql_login::{self as login, Plugin};
use crate::wire::mysql_server::{self as server, Answer, LoginAnswer, Malformed, Reader};

use super::Kind;

const READ_ONLY: &str = "SELECT @@global.read_only";
const GALERA: &str = "SHOW GLOBAL VARIABLES LIKE 'wsrep_on'";
const GALERA_STATE: &str = "SHOW STATUS LIKE 'wsrep_local_state_comment'";
const GOODBYE: Farewell = Farewell::Fin(b"\x01\0\0\0\x01");
const SILENT: Farewell = Farewell::Fin(b"");

const TOO_MANY_CONNECTIONS: u16 = 1040;
const TOO_MANY_OF_USER: u16 = 1203;
const USER_LIMIT: u16 = 1226;
const HOST_BLOCKED: u16 = 1129;
const HOST_NOT_ALLOWED: u16 = 1130;

#[derive(Debug, PartialEq, Eq)]
pub struct Mysql {
    /// `None`: nobody logs in.
    user: Option<String>,
    password: Option<Secret>,
    database: String,
}

/// Why a conversation ended early.
enum Stop {
    Broken(Break),
    Found(Finding, Option<Duration>),
}

impl From<Break> for Stop {
    fn from(broken: Break) -> Stop {
        Stop::Broken(broken)
    }
}

impl From<Malformed> for Stop {
    fn from(malformed: Malformed) -> Stop {
        Stop::Found(Finding::failed(malformed.to_string().as_bytes()), None)
    }
}

impl Mysql {
    /// A check that logs in as `user`, or as nobody; no database unless one is named.
    #[must_use]
    pub fn new(user: Option<&str>, password: Option<&Secret>, database: Option<&str>) -> Mysql {
        Mysql {
            user: user.map(str::to_owned),
            password: password.cloned(),
            database: database.unwrap_or_default().to_owned(),
        }
    }

    /// From the greeting until we are in.
    async fn log_in(&self, line: &mut Line) -> Result<(), Stop> {
        let (sequence, payload) = next(line).await?;
        if let Some(complaint) = server::complaint(&payload) {
            return Err(self.complain(complaint.code, complaint.message));
        }
        let greeting = server::greeting(&payload)?;
        let mut plugin = Plugin::named(greeting.plugin).unwrap_or(Plugin::NativePassword);
        let who = login::Login {
            user: self.user.as_deref().unwrap_or("ringway"),
            database: &self.database,
        };
        let mut out = Vec::new();
        let proof = plugin.proof(self.secret(), &greeting.scramble);
        login::login(&mut out, sequence.wrapping_add(1), who, plugin, &proof);
        line.send(&out).await?;
        let mut protected: Option<String> = None;
        loop {
            let (sequence, payload) = next(line).await?;
            let sequence = sequence.wrapping_add(1);
            let answer = match server::login_answer(&payload)? {
                LoginAnswer::Passed => return Ok(()),
                LoginAnswer::FastPassed => continue,
                LoginAnswer::Refused(complaint) => {
                    return Err(match protected {
                        Some(plugin) => needs_protection(&plugin),
                        None => self.complain(complaint.code, complaint.message),
                    });
                }
                LoginAnswer::Switch {
                    plugin: name,
                    scramble,
                } => match Plugin::named(name) {
                    Some(known) => {
                        plugin = known;
                        plugin.proof(self.secret(), &scramble)
                    }
                    None => {
                        protected = Some(String::from_utf8_lossy(name).into_owned());
                        NONSENSE[..64].to_vec()
                    }
                },
                LoginAnswer::WantsPassword => {
                    protected = Some(plugin.name().to_owned());
                    NONSENSE.to_vec()
                }
            };
            let mut out = Vec::new();
            login::switch(&mut out, sequence, &answer);
            line.send(&out).await?;
        }
    }

    fn secret(&self) -> &[u8] {
        self.password.as_ref().map_or(b"", Secret::bytes)
    }

    /// An error, by its number (MariaDB and MySQL "Error Codes").
    fn complain(&self, code: u16, message: &[u8]) -> Stop {
        let mut words = message.to_vec();
        words.extend(format!(" ({code})").bytes());
        let failed = Finding::failed(&words);
        match code {
            TOO_MANY_CONNECTIONS | TOO_MANY_OF_USER | USER_LIMIT => {
                let full = true;
                Stop::Found(Finding { full, ..failed }, None)
            }
            HOST_BLOCKED | HOST_NOT_ALLOWED => Stop::Found(failed, Some(REFUSED)),
            _ if !is_refusal(code) => Stop::Found(failed, None),
            // It speaks to us: whoever has the right name will be let in.
            _ if self.user.is_none() => {
                let finding = Finding::alive(Role::Unknown).saying(&words);
                Stop::Found(finding, Some(STRANGER))
            }
            _ => Stop::Found(failed, Some(REFUSED)),
        }
    }

    /// Asks a session that is logged in what the server is.
    async fn ask(&self, line: &mut Line, galera: bool) -> Result<Finding, Stop> {
        if galera {
            let state = self.query(line, GALERA_STATE).await?;
            let state = state.and_then(|row| row.into_iter().nth(1).flatten());
            let state = state.unwrap_or_default();
            if state != b"Synced" {
                let words = [b"Galera: ", &state[..]].concat();
                return Ok(Finding::failed(&words));
            }
        }
        let row = self.query(line, READ_ONLY).await?;
        let value = row.and_then(|row| row.into_iter().next().flatten());
        Ok(Finding::alive(match value.as_deref() {
            Some(b"0" | b"OFF") => Role::Primary,
            Some(_) => Role::Replica,
            None => Role::Unknown,
        }))
    }

    async fn has_galera(&self, line: &mut Line) -> Result<bool, Stop> {
        let row = self.query(line, GALERA).await?;
        let value = row.and_then(|row| row.into_iter().nth(1).flatten());
        Ok(value.as_deref() == Some(b"ON"))
    }

    /// The first row that a query brings.
    async fn query(&self, line: &mut Line, sql: &str) -> Result<Option<server::Row>, Stop> {
        let mut out = Vec::new();
        login::query(&mut out, sql);
        let sent = line.send(&out).await;
        let mut reader = Reader::default();
        loop {
            // A server that ended the session may have said why.
            let (_, payload) = next(line).await?;
            match reader.take(&payload)? {
                Some(Answer::Rows(rows)) => {
                    sent?;
                    return Ok(rows.into_iter().next());
                }
                Some(Answer::Refused { code, message }) => {
                    return Err(self.complain(code, &message));
                }
                None => {}
            }
        }
    }
}

/// In place of a proof that must not travel unprotected: the server then refuses us, which it does not hold against our
/// host as it would a connection that just leaves. Long enough for any plugin's idea of a proof.
const NONSENSE: [u8; 256] = [0x55; 256];

fn needs_protection(plugin: &str) -> Stop {
    let words = format!(
        "the user's plugin {plugin} needs TLS, which checks do not speak: use mysql_native_password for it"
    );
    Stop::Found(Finding::failed(words.as_bytes()), Some(REFUSED))
}

/// Whether an error means this login and not the server as a whole.
fn is_refusal(code: u16) -> bool {
    matches!(
        code,
        // Access denied (to database, with and without password, without plugin), no such database.
        1044 | 1045 | 1049 | 1698 |
        // Unsupported way of logging in, plugin not loaded, password expired, account locked (MySQL, MariaDB).
        1251 | 1524 | 1862 | 3118 | 4151 |
        // A privilege is missing, a command denied.
        1142 | 1143 | 1227
    )
}

/// The next packet: its number and payload.
async fn next(line: &mut Line) -> Result<(u8, Vec<u8>), Stop> {
    loop {
        if let Some((packet, length)) = server::packet(line.unread())? {
            let found = (packet.sequence, packet.payload.to_vec());
            line.consume(length);
            return Ok(found);
        }
        line.receive().await?;
    }
}

impl Kind for Mysql {
    async fn check(&self, visit: &mut Visit) -> Finding {
        if let Some(mut line) = visit.take_kept() {
            let galera = visit.is_in_cluster();
            match self.ask(&mut line, galera).await {
                Ok(finding) => {
                    visit.keep(line);
                    return finding;
                }
                // Ended meanwhile: by an operator, a restart, a timeout. Whether the server is well, a new one tells.
                Err(Stop::Found(..) | Stop::Broken(Break::Closed | Break::Kernel(_))) => {}
                Err(Stop::Broken(broken)) => return broken.finding(),
            }
        }
        let mut line = match visit.open().await {
            Ok(line) => line,
            Err(finding) => return finding,
        };
        line.set_farewell(SILENT);
        match self.begin(visit, &mut line).await {
            Ok(finding) => {
                line.set_farewell(GOODBYE);
                if self.user.is_some() && line.unread().is_empty() {
                    visit.keep(line);
                }
                finding
            }
            Err(Stop::Found(finding, rest)) => {
                if let Some(pause) = rest {
                    visit.rest(Rest::after(&finding, pause));
                }
                finding
            }
            Err(Stop::Broken(broken)) => broken.finding(),
        }
    }
}

impl Mysql {
    /// Logs in on a new line and asks.
    async fn begin(&self, visit: &mut Visit, line: &mut Line) -> Result<Finding, Stop> {
        self.log_in(line).await?;
        if self.user.is_none() {
            return Ok(Finding::alive(Role::Unknown));
        }
        let galera = self.has_galera(line).await?;
        visit.set_in_cluster(galera);
        self.ask(line, galera).await
    }
}
