//! What processes of one service say to each other, as JSON with descriptors beside it. Words and fields may be added:
//! who does not know a field passes over it, who does not know a word says so in the log. [`PROTOCOL`] grows when that is not
//! enough.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::Address;

pub const PROTOCOL: u32 = 1;

/// Numbers by name, of each identity by its key. Zeros are left out.
pub type Accounts = BTreeMap<String, BTreeMap<String, u64>>;

#[derive(Debug, Serialize, Deserialize)]
pub enum Word {
    /// The successor is there.
    Hello {
        protocol: u32,
        pid: u32,
        version: String,
    },
    /// All that it inherits; descriptors in the order of the fields.
    Estate(Box<Estate>),
    /// It has done all that can fail. Its limits by key.
    Ready { limits: BTreeMap<String, u32> },
    /// It does not become ready.
    No {
        sentence: String,
        /// What is wrong is in the configuration.
        #[serde(default)]
        of_configuration: bool,
    },
    /// UDP flows of one worker; a descriptor for each.
    Flows {
        worker: usize,
        flows: Vec<FlowState>,
    },
    /// It is to serve. A descriptor for each elder.
    Go(Box<Going>),
    /// It does.
    Serving,
    /// The service manager knows it as the main process.
    Yours,
    /// An older generation's numbers, to the newest.
    Report(Report),
    /// It ends now; these were its last numbers.
    Gone(Report),
    /// From the newest: sessions may end by themselves for so long, and are closed until then.
    Leave { from_ms: u64, until_ms: u64 },
    /// From the newest: open log files again.
    ReopenLogs,
    /// From the newest: the operator's word, a page of the ledger.
    Operator { page: String },
    /// From the newest: limits by key.
    Limits { limits: BTreeMap<String, u32> },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Estate {
    /// The successor's number.
    pub generation: u32,
    /// Which shares are its own.
    pub column: usize,
    /// This moment in nanoseconds of our clock.
    pub now_ns: u64,
    pub sockets: Vec<Sockets>,
    /// What the configuration asked for; a descriptor.
    pub admin: Option<SocketAddr>,
    /// A descriptor.
    pub admin_socket: Option<PathBuf>,
    /// Lines of the shares by key; a descriptor.
    pub lines: Option<BTreeMap<String, u32>>,
    /// Names in the service manager's store.
    pub stored: Vec<String>,
    /// A page of the ledger.
    pub operator: String,
    pub backends: Vec<BackendState>,
    pub upgrades: u64,
}

/// Sockets of one address, or one that the service manager has handed over and nobody uses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sockets {
    pub is_udp: bool,
    /// As the configuration writes it.
    pub address: Place,
    /// As it came out.
    pub bound: Place,
    /// Whose it is, where several ask for any port.
    pub owner: Option<(String, usize)>,
    pub of_unit: bool,
    /// The service manager's name for one that nobody uses.
    pub name: Option<String>,
    pub count: usize,
}

/// An address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Place {
    Inet(SocketAddr),
    Unix(PathBuf),
}

impl From<&Address> for Place {
    fn from(address: &Address) -> Place {
        match address {
            Address::Inet(address) => Place::Inet(*address),
            Address::Unix(path) => Place::Unix(path.clone()),
        }
    }
}

impl From<Place> for Address {
    fn from(place: Place) -> Address {
        match place {
            Place::Inet(address) => Address::Inet(address),
            Place::Unix(path) => Address::Unix(path),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendState {
    /// As [`super::accounts::key_of_backend`] makes it.
    pub key: String,
    pub health: String,
    pub risen_ns: Option<u64>,
    pub breaker: Option<BreakerState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BreakerState {
    pub state: String,
    pub since_ns: u64,
    pub row: u32,
    pub opens: u64,
}

/// Moments are of the clock that both processes have.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowState {
    pub listener: String,
    /// The address of ours that its client writes to.
    pub at: SocketAddr,
    pub client: SocketAddr,
    pub local: Option<IpAddr>,
    pub pool: String,
    /// As [`super::accounts::key_of_backend`] makes it.
    pub backend: String,
    /// Of limits: of the backend, the listener, the process, the pool.
    pub holds: [bool; 4],
    pub id: u64,
    pub hash: u64,
    pub opened_ns: u64,
    pub last_ns: u64,
    pub kill_ns: u64,
    pub kill_as: String,
    pub requests: u32,
    pub responses: u32,
    pub answered: bool,
    pub attempts: u8,
    pub bytes: [u64; 2],
    pub datagrams: [u64; 2],
    pub announced: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Going {
    pub own: Report,
    pub ended: Accounts,
    pub elders: Vec<Report>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub generation: u32,
    pub pid: u32,
    pub column: usize,
    pub sessions: u64,
    pub flows: u64,
    /// Since when another one serves, in milliseconds since 1970.
    pub since_ms: u64,
    pub accounts: Accounts,
}

/// A word and what came with it.
pub type Said = (Word, Vec<OwnedFd>);

impl Word {
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &[u8]) -> Result<Word, String> {
        serde_json::from_slice(text).map_err(|error| error.to_string())
    }
}
