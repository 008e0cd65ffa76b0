//! The successor's side: it says that it is there, takes what it inherits before it binds anything, and serves when it is
//! told to. Until the process before has let go (`Yours`), or is gone, it removes nothing and tells the service manager
//! nothing: that process may go on in its place.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::ids::{Clock, Nanos};
use crate::office::bequest::{Bequest, Bequests};
use crate::office::binder::BindKey;
use crate::office::counting::Counting;
use crate::office::failure::Failure;
use crate::office::{Office, notify};
use crate::sys::handed::Handed;
use crate::sys::shares::Column;
use crate::sys::{keeper, link};

use super::elders::Elder;
use super::line::{Heard, Line};
use super::words::{BackendState, Estate, FlowState, Going, PROTOCOL, Word};
use super::{Succession, accounts};

/// The process before has all of it at hand.
const ESTATE_WITHIN: Duration = Duration::from_secs(10);
/// It has to stop accepting first.
const GO_WITHIN: Duration = Duration::from_secs(10);

/// The link to the process that has started this one.
#[derive(Debug)]
pub struct Predecessor {
    link: OwnedFd,
}

/// Tells the process before why this one comes to nothing.
#[derive(Debug)]
pub struct Teller(OwnedFd);

impl Teller {
    pub fn refuse(&self, sentence: &str, of_configuration: bool) {
        let word = Word::No {
            sentence: sentence.to_owned(),
            of_configuration,
        };
        // If it is gone, nobody wants to know.
        let _ = link::send_all(self.0.as_fd(), &word.text(), &[]);
    }
}

impl Predecessor {
    /// The link that this process was started with, if it was started by another one. Call it before anything has opened a
    /// descriptor.
    #[must_use]
    pub fn find() -> Option<Predecessor> {
        let number: RawFd = std::env::var(keeper::VARIABLE).ok()?.parse().ok()?;
        let link = link::inherited(number)?;
        Some(Predecessor { link })
    }

    #[must_use]
    pub fn teller(&self) -> Option<Teller> {
        self.link.try_clone().ok().map(Teller)
    }

    /// Says hello, and waits for what is inherited.
    ///
    /// # Errors
    /// The process before does not answer, or makes no sense.
    pub(in crate::office) fn inherit(self) -> Result<Heritage, Failure> {
        let failed = |why: &str| {
            Failure::CannotStart(format!("the process before does not hand over: {why}"))
        };
        let said = |error: std::io::Error| failed(&error.to_string());
        link::set_waiting(self.link.as_fd(), true, Some(ESTATE_WITHIN)).map_err(said)?;
        let hello = Word::Hello {
            protocol: PROTOCOL,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        link::send_all(self.link.as_fd(), &hello.text(), &[]).map_err(said)?;
        let answer = link::Reader::default()
            .wait(self.link.as_fd())
            .map_err(said)?;
        let answer = answer.ok_or_else(|| failed("it is gone"))?;
        match Word::read(&answer.bytes) {
            Ok(Word::Estate(estate)) => {
                notify::hold_back();
                Heritage::of(self.link, *estate, answer.descriptors)
                    .ok_or_else(|| failed("descriptors are missing"))
            }
            Ok(_) => Err(failed("it said something else")),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// What is inherited.
#[derive(Debug)]
pub struct Heritage {
    link: OwnedFd,
    generation: u32,
    column: Column,
    pub clock: Clock,
    pub bequests: Bequests,
    /// Sockets of a socket unit that nobody uses.
    pub spare: Vec<Handed>,
    pub stored: Vec<String>,
    admin: Option<(SocketAddr, OwnedFd)>,
    admin_socket: Option<(PathBuf, OwnedFd)>,
    pub counting: Counting,
    /// A page of the ledger.
    pub operator: String,
    pub backends: Vec<BackendState>,
    upgrades: u64,
}

impl Heritage {
    pub(super) fn of(link: OwnedFd, estate: Estate, descriptors: Vec<OwnedFd>) -> Option<Heritage> {
        let clock = Clock::resume(Nanos(estate.now_ns));
        let mut descriptors = descriptors.into_iter();
        let mut bequests = Vec::new();
        let mut spare = Vec::new();
        for sockets in estate.sockets {
            let own: Vec<OwnedFd> = descriptors.by_ref().take(sockets.count).collect();
            if own.len() < sockets.count {
                return None;
            }
            match sockets.name {
                Some(name) => spare.extend(own.into_iter().map(|descriptor| Handed {
                    name: name.clone(),
                    descriptor,
                })),
                None => bequests.push(Bequest {
                    key: BindKey {
                        is_udp: sockets.is_udp,
                        address: sockets.address.into(),
                        owner: sockets.owner,
                    },
                    bound: sockets.bound.into(),
                    of_unit: sockets.of_unit,
                    descriptors: own,
                }),
            }
        }
        let column = Column::new(estate.column)?;
        let admin = with(estate.admin, &mut descriptors)?;
        let admin_socket = with(estate.admin_socket, &mut descriptors)?;
        let lines = with(estate.lines, &mut descriptors)?;
        let inherited = lines.map(|(places, file)| Counting::inherit(file, places, column));
        let counting = match inherited {
            Some(Ok(counting)) => counting,
            Some(Err(error)) => {
                log::warn!(
                    "the counts of the process before are not understood ({error}): limits are counted anew here, and \
                     what it still holds is not counted"
                );
                Counting::begin(column)
            }
            None => Counting::begin(column),
        };
        Some(Heritage {
            link,
            generation: estate.generation,
            column,
            clock,
            bequests: Bequests::new(bequests),
            spare,
            stored: estate.stored,
            admin,
            admin_socket,
            counting,
            operator: estate.operator,
            backends: estate.backends,
            upgrades: estate.upgrades,
        })
    }

    /// The admin address's socket, if the same address is wanted.
    pub fn admin(&mut self, wanted: SocketAddr) -> Option<OwnedFd> {
        let (own, socket) = self.admin.take()?;
        (own == wanted).then_some(socket)
    }

    /// The admin socket, if the same path is wanted.
    pub fn admin_socket(&mut self, wanted: &Path) -> Option<OwnedFd> {
        let (own, socket) = self.admin_socket.take()?;
        (own == wanted).then_some(socket)
    }

    /// What is left once everything is in its place: the way to the process before.
    pub fn into_claim(self) -> Claim {
        Claim {
            link: self.link,
            generation: self.generation,
            column: self.column,
            upgrades: self.upgrades,
        }
    }
}

/// A value that brings a descriptor along, if there is one. The outer `None`: the descriptor is missing.
fn with<T>(
    value: Option<T>,
    descriptors: &mut impl Iterator<Item = OwnedFd>,
) -> Option<Option<(T, OwnedFd)>> {
    match value {
        None => Some(None),
        Some(value) => Some(Some((value, descriptors.next()?))),
    }
}

/// Flows of a worker, with their sockets.
type Flows = Vec<(usize, Vec<FlowState>, Vec<OwnedFd>)>;

/// The right to serve in the place of the process before, once that has stopped.
#[derive(Debug)]
pub struct Claim {
    link: OwnedFd,
    pub generation: u32,
    pub column: Column,
    upgrades: u64,
}

impl Office {
    /// Says that all that can fail is done, and waits for the word to serve.
    pub(in crate::office) async fn await_go(&mut self, claim: Claim) -> Result<(), Failure> {
        let broken = |error: std::io::Error| {
            Failure::CannotStart(format!("the link to the process before: {error}"))
        };
        let line = self.succession.open_line(claim.link).map_err(broken)?;
        let limits = self.registry.limits();
        let limits = limits.map(|(key, capacity)| (key, capacity.limit()));
        let limits = limits.filter(|(_, limit)| *limit > 0).collect();
        line.say(Word::Ready { limits }, Vec::new());
        let (going, sockets, flows) = self.next_go(&line).await?;
        self.place_flows(flows);
        self.succession.family.done = claim.upgrades + 1;
        let Going { own, ended, elders } = going;
        if elders.len() != sockets.len() {
            return Err(Failure::CannotStart(
                "links to older generations were lost: too few descriptors are left".to_owned(),
            ));
        }
        self.succession.ended = ended;
        for (report, socket) in elders.into_iter().zip(sockets) {
            // Without it nobody would know of that generation any more, nor give back what it holds when it crashes.
            let line = self.succession.open_line(socket).map_err(broken)?;
            self.succession.elders.push(Elder::new(line, report));
        }
        let generation = self.succession.generation;
        log::info!(
            "generation {generation}: taking over from process {}",
            own.pid
        );
        self.succession.borrows_from = Some(own.generation);
        self.succession.elders.push(Elder::new(line, own));
        self.recount();
        Ok(())
    }

    async fn next_go(&mut self, line: &Line) -> Result<(Going, Vec<OwnedFd>, Flows), Failure> {
        let failed = |why: &str| {
            Failure::CannotStart(format!("the process before did not hand over: {why}"))
        };
        let deadline = tokio::time::Instant::now() + GO_WITHIN;
        let mut moving = Flows::new();
        loop {
            match tokio::time::timeout_at(deadline, self.succession.next()).await {
                Err(_) => return Err(failed("it did not say so within 10 s")),
                Ok((id, _)) if id != line.id => {}
                Ok((_, Heard::Said(Word::Go(going), sockets))) => {
                    return Ok((*going, sockets, moving));
                }
                Ok((_, Heard::Said(Word::Flows { flows, .. }, sockets)))
                    if flows.len() != sockets.len() =>
                {
                    return Err(failed("sockets of flows were lost"));
                }
                Ok((_, Heard::Said(Word::Flows { worker, flows }, sockets))) => {
                    moving.push((worker, flows, sockets));
                }
                Ok((_, Heard::Said(..))) => {}
                Ok((_, Heard::Ended)) => return Err(failed("it is gone")),
            }
        }
    }

    /// It serves: the process before may let go.
    pub(in crate::office) fn confirm_going(&self) {
        if let Some(elder) = self.succession.elders.last() {
            elder.say(Word::Serving);
        }
    }
}

/// Older generations began to be old at this moment.
pub(super) fn moment(since_ms: u64) -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_millis(since_ms)
}

impl Succession {
    /// What older generations have counted.
    #[must_use]
    pub fn others(&self) -> super::words::Accounts {
        let mut sum = self.ended.clone();
        for elder in &self.elders {
            accounts::add(&mut sum, &elder.report.accounts);
        }
        sum
    }
}
