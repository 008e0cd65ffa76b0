//! Brings the process up, in an order in which each step may still fail without anything having begun to serve: limits,
//! names, sockets, workers, admin, and the first snapshot last.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::mpsc;

use crate::config::Plan;
use crate::handoff::{Hatches, Phase, Snapshot, Spin};
use crate::ids::Clock;
use crate::sys::shares::Column;

use super::admin;
use super::admin::socket::{BoundSocket, SocketServer};
use super::binder::{Binder, Prepared};
use super::board::{Board, Names, Reloads, View};
use super::counting::{Counting, KEY_OF_PROCESS};
use super::crew::{Crew, Kit, workers_of};
use super::failure::Failure;
use super::headroom::Headroom;
use super::ledger::{self, Ledger};
use super::operator::Applied;
use super::publisher::Publisher;
use super::registry::Registry;
use super::resolver::{self, Resolved};
use super::roll_call::RollCall;
use super::sandbox::{self, Sandbox};
use super::scribe::Scribe;
use super::signals::Signals;
use super::tick::Tick;
use super::upgrade::heir::{Claim, Heritage};
use super::upgrade::words::BackendState;
use super::upgrade::{Succession, states};
use super::world::World;
use super::{Demands, Handed, Office, Ready, Setup, checks, diary, log_place, machine, notify};

/// How long the end of the process waits for the access log.
pub const SCRIBE_PATIENCE: Duration = Duration::from_secs(1);

pub async fn start(setup: Setup, mut heritage: Option<Heritage>) -> Result<Office, Failure> {
    let signals = Signals::listen()
        .map_err(|error| Failure::CannotStart(format!("signals cannot be heard: {error}")))?;
    let workers = workers_of(&setup.plan.global);
    let sessions_max = afford(&setup.plan)?;
    let hatches = Arc::new(Hatches::new(workers).map_err(|error| no_descriptor(&error))?);
    let (admin, socket) = bind_doors(&setup.plan, heritage.as_mut())?;
    let mut own = Descent::of(workers, setup.handed, heritage);
    let file_plan = setup.plan;
    let (ledger, applied) = recall(&file_plan, socket.as_ref(), own.operator.take());
    let prepared = own.binder.prepare(&applied.plan).await?;
    let closed = shut_in(&applied.plan, setup.file.as_deref(), &prepared);
    let (world, sandbox) = settle(applied.plan, prepared, &mut own, closed).await?;

    let kit = kit(&hatches, sessions_max, world.plan.global.pin, &mut own);
    let nothing = view(empty(), &world, &own.registry, &Reloads::default());
    let board = Board::new(kit.clock, kit.hatches.clone(), kit.process.clone(), nothing);
    let board = Arc::new(board);
    let (demands, demanded) = Demands::open();
    let up = bring_up(&kit, &board, log_place(&world.plan));
    // Paths of unix sockets must not be left behind.
    let (crew, scribe) = up.inspect_err(|_| own.binder.give_up())?;
    let office = Office {
        file: setup.file,
        file_plan,
        operator: applied.operator,
        kept: ledger.has_place(),
        ledger,
        demands: demanded,
        board,
        registry: own.registry,
        binder: own.binder,
        sandbox,
        world,
        publisher: Publisher::new(hatches),
        phase: Phase::Serving,
        reloads: Reloads::default(),
        trial: None,
        crew,
        scribe,
        admin: None,
        socket: None,
        signals,
        orders: setup.orders,
        lookups: mpsc::unbounded_channel(),
        tick: Tick::new(workers),
        roll_call: RollCall::new(usize::from(workers)),
        headroom: Headroom::default(),
        succession: Succession::new(setup.keeper, own.claim.as_ref()),
        old_places: Vec::new(),
    };
    let doors = (admin, socket.map(|bound| (bound, demands)));
    office.begin(doors, own.claim, setup.on_ready).await
}

type Admin = Option<(SocketAddr, admin::Bound)>;

/// Where the admin server is asked, bound here or by the process before.
fn bind_doors(
    plan: &Plan,
    mut heritage: Option<&mut Heritage>,
) -> Result<(Admin, Option<BoundSocket>), Failure> {
    let admin = match plan.admin.bind {
        Some(wanted) => Some((wanted, bind_admin(wanted, heritage.as_deref_mut())?)),
        None => None,
    };
    let socket = admin::socket::bind_socket(&plan.admin, heritage)?;
    Ok((admin, socket))
}

fn bind_admin(
    wanted: SocketAddr,
    heritage: Option<&mut Heritage>,
) -> Result<admin::Bound, Failure> {
    match heritage.and_then(|own| own.admin(wanted)) {
        Some(socket) => admin::adopt(socket),
        None => admin::bind(wanted),
    }
}

/// What a process begins with: everything new, or what the one before leaves to it.
struct Descent {
    binder: Binder,
    registry: Registry,
    clock: Clock,
    claim: Option<Claim>,
    /// A page of the ledger.
    operator: Option<String>,
    backends: Vec<BackendState>,
}

impl Descent {
    fn of(workers: u16, handed: Vec<Handed>, heritage: Option<Heritage>) -> Descent {
        let Some(mut own) = heritage else {
            return Descent {
                binder: Binder::new(workers, handed),
                registry: Registry::counting(workers, Counting::begin(Column::default())),
                clock: Clock::start(),
                claim: None,
                operator: None,
                backends: Vec::new(),
            };
        };
        let bequests = std::mem::take(&mut own.bequests);
        let spare = std::mem::take(&mut own.spare);
        let counting = std::mem::take(&mut own.counting);
        Descent {
            binder: Binder::after(workers, bequests, spare, &own.stored),
            registry: Registry::counting(workers, counting),
            clock: own.clock,
            operator: Some(std::mem::take(&mut own.operator)),
            backends: std::mem::take(&mut own.backends),
            claim: Some(own.into_claim()),
        }
    }
}

/// What the operator has said to an earlier process, as far as it stands with this file.
fn recall(
    file_plan: &Plan,
    socket: Option<&BoundSocket>,
    page: Option<String>,
) -> (Ledger, Applied) {
    let ledger = Ledger::beside(socket.map(BoundSocket::path));
    let told = page.and_then(|page| ledger::read_page(&page).ok());
    let operator = told.unwrap_or_else(|| ledger.load());
    let applied = operator.apply(file_plan);
    for dropped in &applied.dropped {
        log::info!("{dropped}");
    }
    (ledger, applied)
}

fn kit(hatches: &Arc<Hatches>, sessions_max: u32, pin: bool, own: &mut Descent) -> Kit {
    let process = own.registry.counting.capacity(KEY_OF_PROCESS.to_owned());
    process.set_limit(sessions_max);
    Kit {
        hatches: Arc::clone(hatches),
        clock: own.clock,
        sessions_max,
        process: Arc::new(process),
        pin,
    }
}

/// Everything is bound, and no other thread is there yet: from here on the process may do no more than it must.
fn shut_in(plan: &Plan, file: Option<&Path>, prepared: &Prepared) -> Result<Sandbox, Failure> {
    let mut sandbox = Sandbox::around(plan, file);
    sandbox::become_user(plan, prepared.sockets.iter().flatten().map(AsRef::as_ref))?;
    if plan.global.sandbox {
        sandbox.close()?;
    }
    diary::start_thread()
        .map_err(|error| Failure::CannotStart(format!("no thread for the log: {error}")))?;
    Ok(sandbox)
}

/// Resolves and claims what the first plan needs besides sockets.
async fn settle(
    plan: Plan,
    prepared: Prepared,
    own: &mut Descent,
    shut_in: Result<Sandbox, Failure>,
) -> Result<(World, Sandbox), Failure> {
    let (binder, registry) = (&mut own.binder, &mut own.registry);
    let sandbox = match shut_in {
        Ok(sandbox) => sandbox,
        Err(failure) => {
            binder.abandon(prepared);
            return Err(failure);
        }
    };
    let resolved = resolver::resolve(resolver::names_of(&plan)).await;
    let sockets = prepared.sockets.clone();
    registry.begin();
    match World::claim(plan, resolved, sockets, registry, None) {
        Ok(world) => {
            registry.commit();
            binder.commit(prepared);
            binder.sort_out(&world.plan);
            world.apply_limits();
            states::restore(registry, &own.backends);
            Ok((world, sandbox))
        }
        Err(error) => {
            binder.abandon(prepared);
            Err(Failure::CannotStart(error.to_string()))
        }
    }
}

/// Starts what runs beside the office.
fn bring_up(
    kit: &Kit,
    board: &Arc<Board>,
    log: (super::Place, super::Format),
) -> Result<(Crew, Scribe), Failure> {
    let crew = Crew::start(kit)?;
    checks::start(board, kit.clock)?;
    let scribe = Scribe::start(Arc::clone(board), log.0, log.1)
        .map_err(|error| Failure::CannotStart(format!("no thread for the access log: {error}")))?;
    Ok((crew, scribe))
}

/// Bound, and not answered yet.
type Doors = (Admin, Option<(BoundSocket, Demands)>);

impl Office {
    /// The first snapshot, and the word that all is there.
    async fn begin(
        mut self,
        doors: Doors,
        claim: Option<Claim>,
        on_ready: Option<std::sync::mpsc::Sender<Ready>>,
    ) -> Result<Office, Failure> {
        let succeeds = claim.is_some();
        if let Some(claim) = claim {
            let claimed = self.await_go(claim).await;
            claimed.inspect_err(|_| self.binder.give_up())?;
        }
        self.recount();
        self.board.watch(checks::targets(&self.world));
        self.set_states();
        self.publish();
        if !self.publisher.settled().await {
            self.binder.give_up();
            return Err(Failure::CannotStart(
                "a worker did not take the configuration within 2 s".to_owned(),
            ));
        }
        self.open_doors(doors)
            .inspect_err(|_| self.binder.give_up())?;
        self.announce(on_ready);
        if succeeds {
            self.confirm_going();
        }
        Ok(self)
    }

    fn open_doors(&mut self, (tcp, unix): Doors) -> Result<(), Failure> {
        let cannot = |error| Failure::CannotStart(format!("admin: {error}"));
        if let Some((wanted, bound)) = tcp {
            let server = admin::Server::start(bound, Arc::clone(&self.board)).map_err(cannot)?;
            self.admin = Some((wanted, server));
        }
        if let Some((bound, demands)) = unix {
            let board = Arc::clone(&self.board);
            let server = SocketServer::start(bound, board, demands).map_err(cannot)?;
            self.socket = Some(server);
        }
        Ok(())
    }

    fn announce(&self, on_ready: Option<std::sync::mpsc::Sender<Ready>>) {
        let snapshot = Arc::clone(&self.board.view().snapshot);
        let listeners = snapshot.listeners.iter().map(|listener| {
            let addresses = listener.sockets.iter().map(|s| s.address.clone());
            (listener.shared.name.clone(), addresses.collect())
        });
        let ready = Ready {
            listeners: listeners.collect(),
            admin: self.admin.as_ref().map(|(_, server)| server.address),
        };
        if let Some(address) = ready.admin {
            log::info!("admin on http://{address}");
        }
        let names: Vec<&str> = ready
            .listeners
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        let workers = self.board.hatches.workers.len();
        let limit = self.board.process.limit();
        let are = |count: usize| if count == 1 { "" } else { "s" };
        log::info!(
            "ready: {workers} worker{}, at most {limit} sessions, listener{} {}",
            are(workers),
            are(names.len()),
            names.join(", ")
        );
        notify::tell(&[NotifyState::Ready]);
        self.tell_status();
        if let Some(on_ready) = on_ready {
            let _ = on_ready.send(ready);
        }
    }
}

fn no_descriptor(error: &std::io::Error) -> Failure {
    Failure::CannotStart(format!(
        "no descriptor left: {error}: raise the limit (ulimit -n, LimitNOFILE=)"
    ))
}

/// Holds the plan against the machine; what is short is an error, what may become short a warning.
fn afford(plan: &Plan) -> Result<u32, Failure> {
    let budget = machine::survey(plan)?;
    let shortages = budget.shortages();
    if !shortages.is_empty() {
        return Err(Failure::CannotStart(shortages.join("; ")));
    }
    log::info!("budget: {}", budget.line());
    for warning in budget.warnings() {
        log::warn!("{warning}");
    }
    Ok(budget.sessions_max)
}

fn empty() -> Arc<Snapshot> {
    Arc::new(Snapshot {
        generation: 0,
        phase: Phase::Serving,
        listeners: Vec::new(),
        pools: Vec::new(),
        spin: Spin::Off,
        journal: false,
        report_ns: 0,
    })
}

/// The view that goes with a snapshot.
pub fn view(
    snapshot: Arc<Snapshot>,
    world: &World,
    registry: &Registry,
    reloads: &Reloads,
) -> View {
    let algorithms = world.plan.pools.iter().zip(&world.pools);
    let algorithms: BTreeMap<_, _> = algorithms
        .map(|(plan, shared)| (shared.id, plan.algorithm.word()))
        .collect();
    let retired = registry.backends().filter(|(_, retired)| *retired);
    let retired_listeners = registry.retired_listeners().map(Arc::downgrade);
    View {
        snapshot,
        names: Arc::new(names(registry)),
        notes: Arc::new(world.notes()),
        algorithms: Arc::new(algorithms),
        retired: retired.map(|(shared, _)| Arc::downgrade(shared)).collect(),
        retired_listeners: retired_listeners.collect(),
        reloads: reloads.clone(),
        operator: Vec::new(),
    }
}

fn names(registry: &Registry) -> Names {
    fn put(list: &mut Vec<Option<Arc<str>>>, place: usize, name: &str) {
        if list.len() <= place {
            list.resize(place + 1, None);
        }
        list[place] = Some(Arc::from(name));
    }
    let mut names = Names::default();
    for listener in registry.listeners() {
        put(&mut names.listeners, listener.id.index(), &listener.name);
    }
    for pool in registry.pools() {
        put(&mut names.pools, pool.id.index(), &pool.name);
    }
    for (backend, _) in registry.backends() {
        put(&mut names.backends, backend.id.index(), &backend.name);
    }
    names
}

/// Looks names up again, beside the office's other work.
pub fn look_up_again(world: &World, answer_to: &mpsc::UnboundedSender<Resolved>) {
    let names = resolver::names_of(&world.plan);
    if names.is_empty() {
        return;
    }
    let answer_to = answer_to.clone();
    tokio::spawn(async move {
        let _ = answer_to.send(resolver::resolve(names).await);
    });
}
