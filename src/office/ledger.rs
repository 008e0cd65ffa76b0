//! The ledger: the small file in which the operator's changes outlive the process. `operator.json` in `$STATE_DIRECTORY`
//! (systemd's `StateDirectory=`), else beside the admin socket; without either, changes end with the process.
//!
//! It is replaced as a whole, so that a crash leaves the old or the new one. One that cannot be read is reported and
//! ignored: the configuration file alone holds then.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::config::{BackendPlan, backend_address_of};
use crate::handoff::Admin;

use super::operator::{Change, Name, Operator};

const VERSION: u32 = 1;
const BYTES_MAX: u64 = 64 << 20;
/// A disk that does not answer must not hold up the office.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where changes are kept.
#[derive(Debug)]
pub struct Ledger {
    path: Option<PathBuf>,
    /// A write that took longer than [`PATIENCE`].
    unfinished: Option<JoinHandle<Result<(), String>>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    version: u32,
    admin: Vec<State>,
    changes: Vec<Line>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    pool: String,
    backend: String,
    admin: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    pool: String,
    backend: String,
    said: Option<Written>,
    wanted: Option<Written>,
}

/// A backend as the file writes it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    address: String,
    weight: u32,
    tier: u8,
    max_connections: Option<u32>,
}

impl Written {
    fn of(plan: &BackendPlan) -> Written {
        Written {
            address: plan.address.to_string(),
            weight: plan.weight,
            tier: plan.tier,
            max_connections: plan.max_connections,
        }
    }

    fn read(self, name: &str) -> Option<BackendPlan> {
        let in_bounds = self.weight <= 1000 && self.tier <= 15 && self.max_connections != Some(0);
        in_bounds.then_some(BackendPlan {
            name: name.to_owned(),
            address: backend_address_of(&self.address)?,
            weight: self.weight,
            max_connections: self.max_connections,
            tier: self.tier,
        })
    }
}

impl Ledger {
    /// The ledger of a process whose admin socket is there.
    #[must_use]
    pub fn beside(socket: Option<&Path>) -> Ledger {
        let state = std::env::var("STATE_DIRECTORY").ok();
        Ledger {
            path: place(state.as_deref(), socket),
            unfinished: None,
        }
    }

    /// Whether there is a place for it.
    #[must_use]
    pub fn has_place(&self) -> bool {
        self.path.is_some()
    }

    /// What was written last; nothing if there is no such file.
    #[must_use]
    pub fn load(&self) -> Operator {
        let Some(path) = &self.path else {
            return Operator::default();
        };
        match read(path) {
            Ok(operator) => operator,
            Err(why) => {
                log::warn!(
                    "{}: {why}: the operator's changes are forgotten",
                    path.display()
                );
                Operator::default()
            }
        }
    }

    /// Writes all of it. False if it will not outlive the process; that is logged.
    pub async fn save(&mut self, operator: &Operator) -> bool {
        let Some(path) = self.path.clone() else {
            return false;
        };
        let page = write(operator);
        if let Some(earlier) = &mut self.unfinished {
            if tokio::time::timeout(PATIENCE, earlier).await.is_err() {
                log::error!(
                    "{}: still being written: a change is not kept",
                    path.display()
                );
                return false;
            }
            self.unfinished = None;
        }
        let shown = path.display().to_string();
        let mut writing = tokio::task::spawn_blocking(move || replace(&path, &page));
        match tokio::time::timeout(PATIENCE, &mut writing).await {
            Ok(Ok(Ok(()))) => true,
            Ok(Ok(Err(why))) => {
                log::error!("{shown}: {why}: a change is not kept over a restart");
                false
            }
            Ok(Err(_)) => false,
            Err(_) => {
                log::error!("{shown}: not written within 1 s: a change may not be kept");
                self.unfinished = Some(writing);
                false
            }
        }
    }
}

fn place(state_directory: Option<&str>, socket: Option<&Path>) -> Option<PathBuf> {
    let folder = state_directory.and_then(|value| value.split(':').next());
    let folder = folder.filter(|folder| folder.starts_with('/'));
    if let Some(folder) = folder {
        return Some(Path::new(folder).join("operator.json"));
    }
    // Two instances may have their sockets in one folder.
    let socket = socket?;
    let mut name = socket.file_name()?.to_owned();
    name.push(".operator.json");
    Some(socket.with_file_name(name))
}

fn read(path: &Path) -> Result<Operator, String> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Operator::default()),
        Err(error) => return Err(error.to_string()),
    };
    let mut text = Vec::new();
    let mut bounded = file.take(BYTES_MAX);
    let read = bounded.read_to_end(&mut text);
    read.map_err(|error| error.to_string())?;
    parse(&text)
}

fn parse(text: &[u8]) -> Result<Operator, String> {
    let page: Page = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if page.version != VERSION {
        return Err(format!(
            "found version {}, this ringway reads {VERSION}",
            page.version
        ));
    }
    let mut operator = Operator::default();
    for State {
        pool,
        backend,
        admin,
    } in page.admin
    {
        let known = Admin::ALL.into_iter().find(|word| word.word() == admin);
        let admin = known.ok_or_else(|| format!("{admin:?} is no state"))?;
        operator.set_admin(&Name { pool, backend }, admin);
    }
    for line in page.changes {
        let backend = line.backend;
        let read = |written: Option<Written>| match written {
            None => Ok(None),
            Some(written) => written
                .read(&backend)
                .map(Some)
                .ok_or("an impossible backend"),
        };
        let change = Change {
            said: read(line.said)?,
            wanted: read(line.wanted)?,
        };
        let pool = line.pool;
        operator.changes.insert(Name { pool, backend }, change);
    }
    Ok(operator)
}

/// The operator's word as one page of text.
#[must_use]
pub fn page(operator: &Operator) -> String {
    String::from_utf8(write(operator)).unwrap_or_default()
}

/// Reads a page.
///
/// # Errors
/// What is wrong with it.
pub fn read_page(text: &str) -> Result<Operator, String> {
    parse(text.as_bytes())
}

fn write(operator: &Operator) -> Vec<u8> {
    let admin = operator.admin.iter().map(|(name, admin)| State {
        pool: name.pool.clone(),
        backend: name.backend.clone(),
        admin: admin.word().to_owned(),
    });
    let changes = operator.changes.iter().map(|(name, change)| Line {
        pool: name.pool.clone(),
        backend: name.backend.clone(),
        said: change.said.as_ref().map(Written::of),
        wanted: change.wanted.as_ref().map(Written::of),
    });
    let page = Page {
        version: VERSION,
        admin: admin.collect(),
        changes: changes.collect(),
    };
    serde_json::to_vec_pretty(&page).unwrap_or_default()
}

/// Puts a new file in the old one's place; nothing to say is no file.
fn replace(path: &Path, page: &[u8]) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = std::fs::File::create(&new).map_err(said)?;
    file.write_all(page).map_err(said)?;
    file.sync_all().map_err(said)?;
    std::fs::rename(&new, path).map_err(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::backend_of;

    fn operator() -> Operator {
        let name = |backend: &str| Name {
            pool: "p".into(),
            backend: backend.into(),
        };
        let mut operator = Operator::default();
        operator.set_admin(&name("a"), Admin::Draining);
        operator.set_admin(&name("b"), Admin::Maintenance);
        for (i, address) in ["10.0.0.1:1", "[::1]:80", "db.test:5432", "unix:/run/x"]
            .into_iter()
            .enumerate()
        {
            let text = format!("name = \"n{i}\"\naddress = \"{address}\"\ntier = 3");
            let wanted = backend_of(&text).unwrap();
            let said = (i % 2 == 0).then(|| BackendPlan {
                max_connections: Some(9),
                ..wanted.clone()
            });
            let change = Change {
                said,
                wanted: (i < 3).then_some(wanted),
            };
            operator.changes.insert(name(&format!("n{i}")), change);
        }
        operator
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger {
            path: Some(folder.path().join("operator.json")),
            unfinished: None,
        };
        assert_eq!(ledger.load(), Operator::default());
        assert!(ledger.save(&operator()).await);
        assert_eq!(ledger.load(), operator());
        assert!(ledger.save(&Operator::default()).await);
        assert_eq!(ledger.load(), Operator::default());
        let mut nowhere = Ledger {
            path: None,
            unfinished: None,
        };
        assert!(!nowhere.save(&operator()).await);
    }

    #[test]
    fn damage_is_an_error_and_not_a_guess() {
        let text = write(&operator());
        assert_eq!(parse(&text), Ok(operator()));
        for length in 0..text.len() {
            assert!(parse(&text[..length]).is_err(), "cut at {length}");
        }
        let text = String::from_utf8(text).unwrap();
        for (old, new) in [
            ("\"version\": 1", "\"version\": 2"),
            ("draining", "asleep"),
            ("10.0.0.1:1", "nowhere"),
            ("\"weight\": 100", "\"weight\": 1001"),
        ] {
            assert!(text.contains(old), "{old}");
            assert!(parse(text.replace(old, new).as_bytes()).is_err(), "{new}");
        }
    }

    #[test]
    fn it_lies_in_the_state_directory_or_beside_the_socket() {
        let socket = Some(Path::new("/run/ringway/admin.sock"));
        let path = |text: &str| Some(PathBuf::from(text));
        let first = place(Some("/var/lib/ringway:/var/lib/other"), socket);
        assert_eq!(first, path("/var/lib/ringway/operator.json"));
        let beside = path("/run/ringway/admin.sock.operator.json");
        assert_eq!(place(None, socket), beside);
        assert_eq!(place(Some(""), socket), beside);
        assert_eq!(place(None, None), None);
    }
}
