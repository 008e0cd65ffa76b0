//! An upgrade as the process sees it that is to be replaced. Each step waits for the successor's word; until that serves,
//! every step can be undone.
//!
//! | waits for | hears | does |
//! |---|---|---|
//! | Hello | Hello | hands out the estate |
//! | Ready | Ready | stops accepting, says Go |
//! | Serving | Serving | lets go of everything, and retires |
//! | any | No, the end, nothing in time | goes on as before, and says why |

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sd_notify::NotifyState;
use tokio::sync::oneshot;

use crate::handoff::Phase;
use crate::office::demands::{Answer, Done, Refused, Unready};
use crate::office::world::nanoseconds;
use crate::office::{Office, ledger, notify};
use crate::sys::keeper::Report as Ending;
use crate::sys::link;
use crate::sys::shares::{COLUMNS, Column};

use super::line::{Heard, Line};
use super::words::{Estate, Going, PROTOCOL, Place, Report, Sockets, Word};
use super::{GENERATIONS_MAX, LineId, UpgradeNote, accounts, states};

/// From its start until it serves. A command waits for 20 s.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// Answers of the ring for datagrams that came before receiving stopped.
const LAST_DATAGRAMS: Duration = Duration::from_millis(5);
/// How long to wait for word of how a process ended, and for a keeper's end.
const POST_MORTEM: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Hello,
    Ready,
    Serving,
}

#[derive(Debug)]
pub struct Attempt {
    line: Line,
    stage: Stage,
    deadline: Instant,
    pid: u32,
    column: Column,
    /// What kind of failure it is, if it fails.
    unready: Unready,
    /// The keeper has said how it ended.
    has_ended: bool,
    askers: Vec<oneshot::Sender<Answer>>,
}

impl Attempt {
    /// One whose successor has been told to serve.
    #[cfg(test)]
    pub fn gone(line: Line) -> Attempt {
        Attempt {
            line,
            stage: Stage::Serving,
            deadline: Instant::now() + READY_WITHIN,
            pid: 0,
            column: Column::default(),
            unready: Unready::Broken,
            has_ended: false,
            askers: Vec::new(),
        }
    }

    #[must_use]
    pub fn is_on(&self, id: LineId) -> bool {
        self.line.id == id
    }
}

impl Office {
    /// Starts a successor, or says why not. What this process still borrows it cannot hand on, since the next one would not
    /// know whose it is: then it begins when the process before has let go, which is a matter of a moment.
    pub(in crate::office) fn begin_upgrade(&mut self, asker: Option<oneshot::Sender<Answer>>) {
        if self.succession.borrows_from.is_some() {
            let postponed = self.succession.postponed.get_or_insert_default();
            postponed.extend(asker);
            return;
        }
        if let Some(attempt) = &mut self.succession.attempt {
            attempt.askers.extend(asker);
            return;
        }
        match self.try_begin() {
            Ok((line, column)) => {
                log::info!("upgrade: a successor is started");
                self.succession.attempt = Some(Attempt {
                    line,
                    stage: Stage::Hello,
                    deadline: Instant::now() + READY_WITHIN,
                    pid: 0,
                    column,
                    unready: Unready::Broken,
                    has_ended: false,
                    askers: asker.into_iter().collect(),
                });
            }
            Err(sentence) => {
                self.note_failure(&sentence);
                if let Some(asker) = asker {
                    let _ = asker.send(Err(Refused::Conflict(sentence)));
                }
            }
        }
    }

    pub(super) fn begin_postponed_upgrade(&mut self) {
        if self.succession.borrows_from.is_some() {
            return;
        }
        if let Some(askers) = self.succession.postponed.take() {
            let mut askers = askers.into_iter();
            self.begin_upgrade(askers.next());
            askers.for_each(|asker| self.begin_upgrade(Some(asker)));
        }
    }

    fn try_begin(&mut self) -> Result<(Line, Column), String> {
        if self.trial.is_some() {
            return Err(
                "a reload waits for its confirmation: confirm it first, or wait until it has gone back"
                    .to_owned(),
            );
        }
        let elders = &self.succession.elders;
        if elders.len() + 1 >= GENERATIONS_MAX {
            let oldest = elders.iter().min_by_key(|elder| elder.report.generation);
            let report = oldest.map(|elder| &elder.report);
            let (generation, pid, sessions) = report
                .map(|report| {
                    (
                        report.generation,
                        report.pid,
                        report.sessions + report.flows,
                    )
                })
                .unwrap_or_default();
            return Err(format!(
                "{GENERATIONS_MAX} generations are alive, as many as may be: the oldest, generation {generation} (process \
                 {pid}), still has {sessions} sessions: wait until they have ended, or end it with kill -TERM {pid} \
                 (global.upgrade_grace ends it by itself)"
            ));
        }
        let column = (0..COLUMNS).filter_map(Column::new).find(|column| {
            let mut used = elders.iter().map(|elder| elder.report.column);
            let mut departed = self.succession.departed.iter();
            *column != self.succession.column
                && !used.any(|used| used == column.number())
                && !departed.any(|(_, departed)| departed == column)
        });
        let column = column.ok_or_else(|| "no shares are left".to_owned())?;
        let keeper = self.succession.keeper.as_ref().ok_or_else(|| {
            "this process has nobody to start another one (only `ringway run` has): restart it"
                .to_owned()
        })?;
        // What it said of an earlier one.
        while keeper.report().is_some() {}
        let said = |error: io::Error| {
            format!("the keeper, who starts programs, does not answer: {error}: restart")
        };
        let (ours, theirs) = link::pair().map_err(said)?;
        keeper.start(theirs).map_err(said)?;
        let line = self.succession.open_line(ours).map_err(said)?;
        Ok((line, column))
    }

    pub(in crate::office) async fn on_attempt(&mut self, heard: Heard) {
        let Some(stage) = self.succession.attempt.as_ref().map(|it| it.stage) else {
            return;
        };
        match (stage, heard) {
            (_, Heard::Ended) => {
                let ending = self.post_mortem().await;
                self.fail_upgrade(&sentence_of(ending)).await;
            }
            (
                _,
                Heard::Said(
                    Word::No {
                        sentence,
                        of_configuration,
                    },
                    _,
                ),
            ) => {
                if of_configuration {
                    self.expect_failure(Unready::Configuration);
                }
                let sentence = sentence.replace('\n', "; ");
                self.fail_upgrade(&format!("the successor says: {sentence}"))
                    .await;
            }
            (
                Stage::Hello,
                Heard::Said(
                    Word::Hello {
                        protocol,
                        pid,
                        version,
                    },
                    _,
                ),
            ) => {
                self.on_hello(protocol, pid, &version).await;
            }
            (Stage::Ready, Heard::Said(Word::Ready { limits }, _)) => self.on_ready(&limits).await,
            (Stage::Serving, Heard::Said(Word::Serving, _)) => self.complete_upgrade().await,
            (_, Heard::Said(..)) => {}
        }
    }

    async fn on_hello(&mut self, protocol: u32, pid: u32, version: &str) {
        if protocol != PROTOCOL {
            let sentence = format!(
                "the successor (ringway {version}) speaks protocol {protocol} of handing over, this process {PROTOCOL}: \
                 restart instead"
            );
            self.fail_upgrade(&sentence).await;
            return;
        }
        match self.estate() {
            Ok((estate, descriptors)) => {
                if let Some(attempt) = &mut self.succession.attempt {
                    (attempt.pid, attempt.stage) = (pid, Stage::Ready);
                    let word = Word::Estate(Box::new(estate));
                    attempt.line.say(word, descriptors);
                }
            }
            Err(error) => {
                let sentence = format!("sockets cannot be handed over: {error}");
                self.fail_upgrade(&sentence).await;
            }
        }
    }

    fn estate(&self) -> io::Result<(Estate, Vec<OwnedFd>)> {
        let column = self.succession.attempt.as_ref().map(|it| it.column);
        let mut descriptors = Vec::new();
        let mut sockets = Vec::new();
        let (bound, spare) = self.binder.copies()?;
        for bequest in bound {
            sockets.push(Sockets {
                is_udp: bequest.key.is_udp,
                address: Place::from(&bequest.key.address),
                bound: Place::from(&bequest.bound),
                owner: bequest.key.owner,
                of_unit: bequest.of_unit,
                name: None,
                count: bequest.descriptors.len(),
            });
            descriptors.extend(bequest.descriptors);
        }
        for handed in spare {
            let nowhere = Place::Unix(std::path::PathBuf::new());
            sockets.push(Sockets {
                is_udp: false,
                address: nowhere.clone(),
                bound: nowhere,
                owner: None,
                of_unit: true,
                name: Some(handed.name),
                count: 1,
            });
            descriptors.push(handed.descriptor);
        }
        let admin = self.admin.as_ref().map(|(wanted, _)| *wanted);
        if let Some((_, server)) = &self.admin {
            descriptors.push(server.copy()?);
        }
        if let Some(socket) = &self.socket {
            descriptors.push(socket.copy()?);
        }
        let lines = self.registry.counting.bequest();
        let lines = lines.map(|(file, places)| {
            descriptors.push(file);
            places
        });
        let estate = Estate {
            generation: self.succession.generation + 1,
            column: column.unwrap_or_default().number(),
            now_ns: self.board.clock.now().0,
            sockets,
            admin,
            admin_socket: self.socket.as_ref().map(|it| it.path().to_owned()),
            lines,
            stored: self.binder.stored(),
            operator: ledger::page(&self.operator),
            backends: states::of(&self.registry),
            upgrades: self.succession.family.done,
        };
        Ok((estate, descriptors))
    }

    /// It has done all that can fail: nobody is accepted here any more, and it is told to go.
    async fn on_ready(&mut self, limits: &BTreeMap<String, u32>) {
        self.take_limits(limits);
        self.phase = Phase::HandingOver;
        self.publish();
        if !self.publisher.settled().await {
            self.fail_upgrade("a worker of this process did not stop accepting within 2 s")
                .await;
            return;
        }
        self.tell_who_waits();
        let (sockets, elders) = match self.park_elders() {
            Ok(parked) => parked,
            Err(error) => {
                let sentence = format!("links to older generations cannot be handed over: {error}");
                self.fail_upgrade(&sentence).await;
                return;
            }
        };
        if self.registry.has_flows() {
            // What was received until now is passed on; then flows are given out.
            tokio::time::sleep(LAST_DATAGRAMS).await;
            self.publish();
            let _ = self.publisher.settled().await;
            for (word, sockets) in self.flows_given_out() {
                if let Some(attempt) = &self.succession.attempt {
                    attempt.line.say(word, sockets);
                }
            }
        }
        let going = Going {
            own: self.own_report(SystemTime::now()),
            ended: self.succession.ended.clone(),
            elders,
        };
        if let Some(attempt) = &mut self.succession.attempt {
            attempt.stage = Stage::Serving;
            attempt.line.say(Word::Go(Box::new(going)), sockets);
        }
    }

    /// A successor that does not get all of them would not know who else holds what.
    fn park_elders(&mut self) -> io::Result<(Vec<OwnedFd>, Vec<Report>)> {
        let parked = self.succession.elders.iter_mut().map(|elder| {
            let socket = elder.park()?;
            Ok((socket, elder.report.clone()))
        });
        let parked: Vec<(OwnedFd, Report)> = parked.collect::<io::Result<_>>()?;
        Ok(parked.into_iter().unzip())
    }

    /// Who waits here goes before those who come to the newest. Whether anybody does.
    pub(super) fn tell_who_waits(&self) -> bool {
        let mut somebody = false;
        for pool in &self.board.view().snapshot.pools {
            let waiting = pool.waiters.live();
            pool.shared.seniors.tell(waiting);
            somebody |= waiting > 0;
        }
        if somebody {
            // Places may have become free in other processes, which do not ring here.
            self.board.hatches.ring();
        }
        somebody
    }

    /// Limits of the newest, in so far as they are about what is here. What is in use is counted with the next snapshot.
    pub(super) fn take_limits(&self, limits: &BTreeMap<String, u32>) {
        for (key, capacity) in self.registry.limits() {
            let limit = limits.get(&key).copied().unwrap_or(capacity.limit());
            capacity.set_limit(limit);
        }
    }

    /// What this process has counted itself.
    pub(super) fn own_report(&self, since: SystemTime) -> Report {
        let accounts = accounts::own(&self.registry);
        let (sessions, flows) = accounts::alive(&accounts);
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
        Report {
            generation: self.succession.generation,
            pid: std::process::id(),
            column: self.succession.column.number(),
            sessions,
            flows,
            since_ms: nanoseconds(since) / 1_000_000,
            accounts,
        }
    }

    /// The successor serves.
    async fn complete_upgrade(&mut self) {
        let Some(attempt) = self.succession.attempt.take() else {
            return;
        };
        let (pid, generation) = (attempt.pid, self.succession.generation + 1);
        if let Some(keeper) = self.succession.keeper.take() {
            let _ = keeper.done();
            // The service manager looks whose child the new main process is when it hears of it, and never again.
            let deadline = Instant::now() + POST_MORTEM;
            while keeper.is_parent_of(pid) && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        notify::tell(&[NotifyState::MainPid(pid)]);
        notify::be_silent();
        attempt.line.say(Word::Yours, Vec::new());
        self.leave_admin();
        self.binder.hand_over();
        self.succession.elders.clear();
        self.succession.newer = Some(attempt.line);
        log::info!(
            "upgraded: generation {generation} is process {pid}; what is left here ends here"
        );
        for asker in attempt.askers {
            let _ = asker.send(Ok(Done {
                successor: Some((generation, pid)),
                ..Done::default()
            }));
        }
    }

    /// How the successor ended; the keeper says it once, and then nothing more is to be waited for.
    async fn post_mortem(&mut self) -> Option<Ending> {
        let deadline = Instant::now() + POST_MORTEM;
        loop {
            let keeper = self.succession.keeper.as_ref();
            match keeper.and_then(crate::sys::keeper::Keeper::report) {
                None if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                ending => {
                    if let Some(attempt) = &mut self.succession.attempt {
                        attempt.has_ended = ending.is_some();
                    }
                    return ending;
                }
            }
        }
    }

    /// Goes on as before, and says why.
    pub(in crate::office) async fn fail_upgrade(&mut self, why: &str) {
        let Some(attempt) = self.succession.attempt.take() else {
            return;
        };
        if let Some(keeper) = &self.succession.keeper {
            let _ = keeper.stop();
        }
        for place in 0..self.succession.elders.len() {
            let socket = self.succession.elders[place].unpark();
            match socket.map(|socket| self.succession.open_line(socket)) {
                Some(Ok(line)) => self.succession.elders[place].resume(line),
                Some(Err(error)) => {
                    log::error!("an older generation is not heard any more: {error}");
                }
                None => {}
            }
        }
        let plan = self.world.plan.clone();
        self.binder.set_options_again(&plan).await;
        self.world.apply_limits();
        if self.phase == Phase::HandingOver {
            for pool in &self.board.view().snapshot.pools {
                pool.shared.seniors.tell(0);
            }
            self.phase = Phase::Serving;
            self.publish();
            let _ = self.publisher.settled().await;
        }
        // What it had taken of limits goes with it.
        if !attempt.has_ended {
            self.post_mortem().await;
        }
        self.registry.counting.forsake(attempt.column);
        let sentence = format!("this process goes on: {why}");
        self.note_failure(&sentence);
        for asker in attempt.askers {
            let refused = Refused::Upgrade(attempt.unready, sentence.clone());
            let _ = asker.send(Err(refused));
        }
    }

    fn expect_failure(&mut self, kind: Unready) {
        if let Some(attempt) = &mut self.succession.attempt {
            attempt.unready = kind;
        }
    }

    fn note_failure(&mut self, sentence: &str) {
        log::error!("upgrade failed: {sentence}");
        self.succession.family.failed += 1;
        self.succession.family.last = Some(UpgradeNote {
            at: SystemTime::now(),
            error: Some(sentence.to_owned()),
        });
        self.recount();
    }

    /// Once a pulse.
    pub(in crate::office) async fn watch_upgrade(&mut self) {
        self.forsake_departed();
        let attempt = self.succession.attempt.as_ref();
        if attempt.is_some_and(|attempt| Instant::now() >= attempt.deadline) {
            self.expect_failure(Unready::Late);
            let why = format!("the successor was not ready within {READY_WITHIN:?}");
            self.fail_upgrade(&why).await;
        }
    }
}

fn sentence_of(ending: Option<Ending>) -> String {
    match ending {
        Some(Ending::NotStarted(errno)) => {
            let error = io::Error::from_raw_os_error(errno);
            format!("the program cannot be started: {error}")
        }
        Some(Ending::Ended {
            status: Some(status),
            ..
        }) => {
            format!("the successor ended with exit status {status} before it was ready")
        }
        Some(Ending::Ended {
            signal: Some(signal),
            ..
        }) => {
            format!("the successor was ended by signal {signal} before it was ready")
        }
        _ => "the successor closed its link before it was ready".to_owned(),
    }
}
