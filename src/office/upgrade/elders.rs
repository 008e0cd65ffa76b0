//! Older generations as the newest sees them: their numbers, their end, and what they are told.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::office::{Office, notify};
use crate::sys::shares::Column;

use super::heir::moment;
use super::line::{Heard, Line};
use super::words::{Report, Word};
use super::{LineId, Older, accounts};

/// After so long the connections of a process that is gone are closed.
pub(super) const CLOSED_WITHIN: Duration = Duration::from_secs(1);

/// One older generation that lives.
#[derive(Debug)]
pub struct Elder {
    id: LineId,
    /// `None` while its socket is on its way to a successor.
    line: Option<Line>,
    parked: Option<OwnedFd>,
    /// Its last numbers.
    pub report: Report,
}

impl Elder {
    #[must_use]
    pub fn new(line: Line, report: Report) -> Elder {
        Elder {
            id: line.id,
            line: Some(line),
            parked: None,
            report,
        }
    }

    pub fn say(&self, word: Word) {
        if let Some(line) = &self.line {
            line.say(word, Vec::new());
        }
    }

    /// Stops listening to it: its socket goes to somebody else, who is not to miss a word.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is left; the line stays as it was then.
    pub fn park(&mut self) -> std::io::Result<OwnedFd> {
        let Some(line) = &self.line else {
            return Err(std::io::Error::from(std::io::ErrorKind::NotConnected));
        };
        let (socket, parked) = (line.copy()?, line.copy()?);
        self.parked = Some(parked);
        self.line = None;
        Ok(socket)
    }

    /// The socket's new owner came to nothing.
    pub fn unpark(&mut self) -> Option<OwnedFd> {
        self.parked.take()
    }

    pub fn resume(&mut self, line: Line) {
        self.id = line.id;
        self.line = Some(line);
    }
}

impl Office {
    /// Something was heard on a line.
    pub(in crate::office) async fn on_heard(&mut self, id: LineId, heard: Heard) {
        if self
            .succession
            .attempt
            .as_ref()
            .is_some_and(|it| it.is_on(id))
        {
            self.on_attempt(heard).await;
            return;
        }
        let mut elders = self.succession.elders.iter();
        if let Some(place) = elders.position(|elder| elder.id == id) {
            self.on_elder(place, heard);
        }
    }

    fn on_elder(&mut self, place: usize, heard: Heard) {
        match heard {
            Heard::Said(Word::Yours, _) => self.come_into_own(place),
            Heard::Said(Word::Report(report), _) => {
                self.succession.elders[place].report = report;
                self.recount();
            }
            Heard::Said(Word::Gone(report), _) => self.lose_elder(place, Some(report)),
            Heard::Ended => self.lose_elder(place, None),
            Heard::Said(..) => {}
        }
        self.begin_postponed_upgrade();
    }

    /// The process before has let go, or is gone: until then all that it could need again is left as it is. It happens once;
    /// the end of another generation is no such moment.
    fn come_into_own(&mut self, place: usize) {
        let before = &self.succession.elders[place].report;
        if self.succession.borrows_from != Some(before.generation) {
            return;
        }
        let column = Column::new(before.column);
        self.succession.borrows_from = None;
        notify::speak();
        self.tell_status();
        if let Some(column) = column {
            self.take_bequests(column);
        }
        self.binder.own();
        if let Some(socket) = &mut self.socket {
            socket.own();
        }
    }

    /// It is gone: what it held is free, and what it has counted stays.
    fn lose_elder(&mut self, place: usize, last: Option<Report>) {
        // Flows that it gave out and still held; nor is anybody else left to speak to the service manager.
        self.come_into_own(place);
        let elder = self.succession.elders.remove(place);
        let (generation, pid) = (elder.report.generation, elder.report.pid);
        let column = Column::new(elder.report.column);
        match &last {
            Some(_) => {
                log::info!("generation {generation} (process {pid}) has ended");
                column.map(|column| self.registry.counting.forsake(column));
            }
            None => {
                log::error!(
                    "generation {generation} (process {pid}) is gone without a word: its sessions are lost; what it held \
                     of limits is free in a moment"
                );
                let departed = column.map(|column| (Instant::now(), column));
                self.succession.departed.extend(departed);
            }
        }
        let last = last.unwrap_or(elder.report);
        accounts::add(
            &mut self.succession.ended,
            &accounts::lasting(last.accounts),
        );
        self.registry.counting.has_others = self.succession.has_elders();
        self.recount();
        // Whoever waits may find a place now.
        self.board.hatches.ring();
    }

    /// What a crashed generation held is free once the kernel has closed its connections, too: rings outlive their process
    /// by a moment, and with them the sockets that they receive on.
    pub(in crate::office) fn forsake_departed(&mut self) {
        let gone = |(since, _): &(Instant, Column)| since.elapsed() >= CLOSED_WITHIN;
        let departed = &mut self.succession.departed;
        let columns: Vec<Column> = departed
            .extract_if(.., |it| gone(it))
            .map(|it| it.1)
            .collect();
        for column in &columns {
            self.registry.counting.forsake(*column);
        }
        if !columns.is_empty() {
            self.board.hatches.ring();
        }
    }

    /// Adds up what older generations have counted, for all who read counters.
    pub(in crate::office) fn recount(&mut self) {
        accounts::carry(&self.registry, &self.succession.others());
        let elders = self.succession.elders.iter();
        let older = elders.map(|elder| Older {
            generation: elder.report.generation,
            pid: elder.report.pid,
            sessions: elder.report.sessions,
            flows: elder.report.flows,
            since: moment(elder.report.since_ms),
        });
        self.succession.family.older = older.collect();
        *self.board.family.lock() = self.succession.family.clone();
    }

    /// Nobody rings across processes.
    pub(in crate::office) fn look_after_waiting(&self) {
        let view = self.board.view();
        let mut pools = view.snapshot.pools.iter();
        if pools.any(|pool| pool.waiters.live() > 0) {
            self.board.hatches.ring();
        }
    }

    /// Says the same to all older generations.
    pub(in crate::office) fn tell_elders(&self, word: impl Fn() -> Word) {
        for elder in &self.succession.elders {
            elder.say(word());
        }
    }

    /// The operator's word and the limits hold for older generations, too.
    pub(in crate::office) fn tell_elders_of_changes(&self) {
        if !self.succession.has_elders() {
            return;
        }
        let page = crate::office::ledger::page(&self.operator);
        self.tell_elders(|| Word::Operator { page: page.clone() });
        let limits = self.registry.limits();
        let limits: std::collections::BTreeMap<String, u32> = limits
            .map(|(key, capacity)| (key, capacity.limit()))
            .collect();
        self.tell_elders(|| Word::Limits {
            limits: limits.clone(),
        });
    }
}
