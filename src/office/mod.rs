//! The office: the control plane, on one thread of its own with a tokio runtime. It turns the plan into snapshots and
//! publishes them, and everything that changes the world later (reload, resolved names, leaving) is another snapshot.
//!
//! What can fail, fails here, before workers hear of it. The office never waits for a worker without a deadline.
//!
//! | file | does |
//! |---|---|
//! | `start` | brings everything up, in order, nothing half started |
//! | `reload` | takes a changed file over, or refuses it as a whole |
//! | `trial`, `vitals` | goes back, where a reload is not confirmed or does harm |
//! | `demands`, `operator`, `ledger` | what operators change in the running process, and where that is kept |
//! | `leave` | drains and ends |
//! | `upgrade` | a successor takes over, and this process keeps its sessions until they end |
//! | `registry`, `counting` | identities over reloads, and where their limits are counted |
//! | `binder` | listening sockets over reloads |
//! | `bequest` | sockets of the process before |
//! | `inherited`, `store`, `notify` | what the service manager hands over, keeps for us, and is told |
//! | `headroom` | what is left of descriptors, memory, ports |
//! | `sandbox` | what the process may do and who it is, from its first thread on |
//! | `roll_call` | whether every worker still answers |
//! | `resolver` | host names |
//! | `world`, `publisher` | plan to snapshot, snapshot to workers |
//! | `board`, `events`, `admin`, `scribe` | what is seen from outside |
//! | `diary`, `journald` | what the process says of itself, and how it gets into the journal |

mod admin;
mod bequest;
mod binder;
mod board;
mod breakers;
mod checks;
mod conflicts;
mod counting;
mod crew;
mod demands;
mod diary;
mod differences;
mod events;
mod failure;
mod headroom;
mod inherited;
mod journald;
mod leave;
mod ledger;
mod machine;
mod notify;
mod operator;
mod publisher;
mod registry;
mod reload;
mod resolver;
mod roll_call;
mod sandbox;
mod scribe;
mod signals;
mod start;
mod store;
mod tick;
mod trial;
mod upgrade;
mod vitals;
mod warm;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::{AccessLog, LogFormat, Plan};
use crate::handoff::{Phase, Snapshot};
use crate::ids::Address;

use binder::Binder;
use board::{Board, ReloadNote, Reloads, View};
use crew::Crew;
use demands::{Demands, Posted};
use headroom::Headroom;
use ledger::Ledger;
use operator::Operator;
use publisher::Publisher;
use registry::Registry;
use resolver::Resolved;
use roll_call::RollCall;
use sandbox::Sandbox;
use scribe::Scribe;
use scribe::line::Format;
use scribe::sink::Place;
use sd_notify::NotifyState;
use signals::{Signals, Wish};
use upgrade::words::Word;
use upgrade::{Heard, LineId, Succession};
use world::World;

pub use crate::sys::handed::{Handed, take_handed};
pub use crate::sys::keeper::Keeper;
pub use crew::{kernel_features, workers_of};
pub use diary::{flush as flush_diary, open as open_diary};
pub use failure::Failure;
pub use machine::survey;
pub use upgrade::heir::{Predecessor, Teller};

/// What the office needs to begin.
#[derive(Debug)]
pub struct Setup {
    pub plan: Plan,
    /// Where the plan came from, to be read again at a reload.
    pub file: Option<PathBuf>,
    /// Sockets that the service manager handed to this process.
    pub handed: Vec<Handed>,
    /// Told once everything serves.
    pub on_ready: Option<std::sync::mpsc::Sender<Ready>>,
    /// Orders from inside the process, besides signals.
    pub orders: Option<mpsc::UnboundedReceiver<Order>>,
    /// Who can start a successor.
    pub keeper: Option<Keeper>,
    /// The process that this one succeeds.
    pub predecessor: Option<Predecessor>,
}

/// What was bound, when everything serves.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Each listener's name and its addresses.
    pub listeners: Vec<(String, Vec<Address>)>,
    pub admin: Option<SocketAddr>,
}

/// What another thread of this process may ask for.
#[derive(Debug)]
pub enum Order {
    Leave,
}

/// Serves until told to leave. Blocks the calling thread, which becomes the office's.
///
/// # Errors
/// The office could not start (nothing is left bound or running then), or broke while running.
pub fn run(mut setup: Setup) -> Result<(), Failure> {
    let heritage = setup.predecessor.take().map(Predecessor::inherit);
    let heritage = heritage.transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::CannotStart(format!("no runtime for the office: {error}")))?;
    let outcome = runtime.block_on(async {
        let office = start::start(setup, heritage).await?;
        office.work().await
    });
    // A name server that does not answer must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// Everything the control plane holds.
struct Office {
    file: Option<PathBuf>,
    /// What the file said when it was taken; the plan in force has the operator's changes, too.
    file_plan: Plan,
    operator: Operator,
    ledger: Ledger,
    /// Whether the ledger has the operator's last word.
    kept: bool,
    demands: mpsc::Receiver<Posted>,
    board: Arc<Board>,
    registry: Registry,
    binder: Binder,
    sandbox: Sandbox,
    world: World,
    publisher: Publisher,
    phase: Phase,
    reloads: Reloads,
    /// A configuration that is not confirmed yet.
    trial: Option<trial::Trial>,
    crew: Crew,
    scribe: Scribe,
    admin: Option<AdminSeat>,
    socket: Option<admin::socket::SocketServer>,
    signals: Signals,
    orders: Option<mpsc::UnboundedReceiver<Order>>,
    lookups: (
        mpsc::UnboundedSender<Resolved>,
        mpsc::UnboundedReceiver<Resolved>,
    ),
    tick: tick::Tick,
    roll_call: RollCall,
    headroom: Headroom,
    succession: Succession,
    /// Connections to the admin server that a successor has now.
    old_places: Vec<Arc<admin::Places>>,
}

/// Where the admin server was asked to be, and the server.
type AdminSeat = (SocketAddr, admin::Server);

enum Event {
    Wish(Wish),
    Looked(Resolved),
    Demand(Posted),
    /// Another generation says something.
    Heard(LineId, Heard),
    Tick,
    /// Older generations may have given something back.
    Look,
}

impl Office {
    async fn work(mut self) -> Result<(), Failure> {
        loop {
            if self.succession.is_over() {
                return self.retire().await;
            }
            match self.next_event().await {
                Event::Wish(Wish::Leave) => return self.leave().await,
                Event::Wish(Wish::Reload) => {
                    self.reopen_logs();
                    if self.succession.is_busy() {
                        self.refuse_reload(demands::UNDER_WAY);
                    } else {
                        // What came of it is in log and status.
                        let _ = self.reload(None).await;
                    }
                }
                Event::Wish(Wish::ReopenLogs) => self.reopen_logs(),
                Event::Wish(Wish::Upgrade) => self.begin_upgrade(None),
                Event::Heard(id, heard) => self.on_heard(id, heard).await,
                Event::Look => self.look_after_waiting(),
                Event::Looked(resolved) => self.take_lookups(resolved).await,
                Event::Demand(posted) => self.meet(posted).await,
                Event::Tick => {
                    self.on_tick();
                    self.watch_trial().await;
                    self.watch_upgrade().await;
                    if self.crew.any_finished() {
                        self.scribe.stop(start::SCRIBE_PATIENCE);
                        return Err(Failure::Broken("a worker ended unasked".to_owned()));
                    }
                }
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let orders = async {
            match &mut self.orders {
                Some(orders) => orders.recv().await,
                None => None,
            }
        };
        tokio::select! {
            wish = self.signals.next() => Event::Wish(wish),
            Some(Order::Leave) = orders => Event::Wish(Wish::Leave),
            Some(resolved) = self.lookups.1.recv() => Event::Looked(resolved),
            Some(posted) = self.demands.recv() => Event::Demand(posted),
            (id, heard) = self.succession.next() => Event::Heard(id, heard),
            () = self.tick.next() => Event::Tick,
            () = tokio::time::sleep(upgrade::LOOK), if self.succession.has_elders() => Event::Look,
        }
    }

    /// A reload by signal that cannot be now: whoever sent it looks at log and status.
    fn refuse_reload(&mut self, why: &str) {
        log::error!("reload refused: {why}");
        self.reloads.refused += 1;
        let note = ReloadNote {
            error: Some(why.to_owned()),
            ..ReloadNote::now()
        };
        self.board.events.reloaded(&note);
        self.reloads.last = Some(note);
        self.repin();
        self.tell_status();
    }

    fn reopen_logs(&self) {
        self.scribe.reopen();
        self.tell_elders(|| Word::ReopenLogs);
    }

    /// A successor has the admin server now: who asks anew asks that, and who listens is sent there.
    fn leave_admin(&mut self) {
        self.board.events.end();
        let tcp = self.admin.take().map(|(_, server)| server.leave());
        let unix = self.socket.take().map(admin::socket::SocketServer::leave);
        self.old_places.extend(tcp.into_iter().chain(unix));
    }

    fn dismiss_admin(&self) {
        for places in &self.old_places {
            places.dismiss_idle();
        }
    }

    /// Publishes the world as it is now, and pins the view that goes with it.
    fn publish(&mut self) {
        self.world.set_up_tiers(self.board.clock.now());
        let sources = &self.board.hatches.sources;
        self.world.open_sources(sources, self.board.process.limit());
        let generation = self.publisher.next_generation();
        let snapshot = Arc::new(self.world.compose(generation, self.phase));
        self.publisher.publish(Arc::clone(&snapshot));
        self.board.keep_warm(warm::orders(&self.world, self.phase));
        self.board.move_breakers(snapshot.pools.clone());
        let before = self.board.view();
        self.board.pin(self.view(Arc::clone(&snapshot)));
        // One that is handed over listens on.
        let handed_over = |snapshot: &Snapshot| snapshot.phase == Phase::HandingOver;
        if !handed_over(&before.snapshot) && !handed_over(&snapshot) {
            let events = &self.board.events;
            events.listeners_changed(&before.snapshot, &snapshot);
        }
    }

    fn view(&self, snapshot: Arc<Snapshot>) -> View {
        View {
            operator: self.operator.sentences(),
            ..start::view(snapshot, &self.world, &self.registry, &self.reloads)
        }
    }

    /// How it goes, in one line for the service manager.
    fn tell_status(&self) {
        let refused = self
            .reloads
            .last
            .as_ref()
            .and_then(|note| note.error.as_ref());
        let refused = refused.map(|sentence| format!("reload refused: {sentence}"));
        let troubles: Vec<String> = self.missing_workers().into_iter().chain(refused).collect();
        let status = match troubles.is_empty() {
            true => match self.world.plan.listeners.len() {
                1 => "serving on 1 listener".to_owned(),
                listeners => format!("serving on {listeners} listeners"),
            },
            false => troubles.join("; "),
        };
        notify::tell(&[NotifyState::Status(&status)]);
    }

    /// Renews what is seen from outside without a new snapshot.
    fn repin(&mut self) {
        let snapshot = Arc::clone(&self.board.view().snapshot);
        self.board.pin(self.view(snapshot));
    }
}

fn log_place(plan: &Plan) -> (Place, Format) {
    let place = match &plan.global.access_log {
        AccessLog::Off => Place::Off,
        AccessLog::Stdout => Place::Stdout,
        AccessLog::Stderr if journald::is_stderr() => Place::Journal,
        AccessLog::Stderr => Place::Stderr,
        AccessLog::File(path) => Place::File(path.clone()),
    };
    let format = match plan.global.access_log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    (place, format)
}
