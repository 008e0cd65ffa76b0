//! Answers what the office asks of this worker's sessions: a slice of the table a turn, between batches, so that a large
//! table delays nobody. It reserves no memory: an ask brings its own.

use crate::handoff::{Ask, Finding, Question, SessionRow, Stage};
use crate::ids::{End, SessionKey, Side, StreamKey};
use crate::session::{Event, Phase};
use crate::uring::Kernel;

use super::engine::Worker;
use super::tenant::Tenant;

/// Slots looked at in one turn: some ten microseconds.
const SLICE: u32 = 256;

/// An ask, and the slot where it goes on.
#[derive(Debug)]
pub(super) struct Asking {
    ask: Ask,
    next: u32,
}

impl<K: Kernel> Worker<K> {
    /// Goes on with the ask under way, or takes the next. To be called each turn while there is one, and when the bell rang.
    pub(super) fn answer_asks(&mut self) {
        if self.asking.is_none() {
            let asked = self.hatch.asks.asked.pop();
            self.asking = asked.map(|ask| Asking { ask, next: 0 });
        }
        let Some(mut asking) = self.asking.take() else {
            return;
        };
        if self.now >= asking.ask.deadline {
            asking.ask.finding = Finding::Late;
        } else {
            self.look_through(&mut asking);
        }
        if asking.ask.finding == Finding::Open {
            self.asking = Some(asking);
            return;
        }
        // Without room nobody has fetched the last answers, and nobody will this one.
        let _ = self.hatch.asks.answered.push(asking.ask);
        let asked = self.hatch.asks.asked.pop();
        self.asking = asked.map(|ask| Asking { ask, next: 0 });
    }

    fn look_through(&mut self, asking: &mut Asking) {
        let extent = self.slots.extent();
        let until = asking.next.saturating_add(SLICE).min(extent);
        for slot in asking.next..until {
            let Some((key, tenant)) = self.slots.at(slot) else {
                continue;
            };
            match asking.ask.question {
                Question::Oldest { backend } => {
                    if backend.is_none() || tenant.backend == backend {
                        asking.ask.note(row(key, tenant));
                    }
                }
                Question::Kill { session } if tenant.id == session => {
                    self.deliver(key, Event::Kill(End::Killed));
                    asking.ask.finding = Finding::Done;
                    return;
                }
                Question::Kill { .. } => {}
            }
        }
        asking.next = until;
        if until == extent {
            asking.ask.finding = match asking.ask.question {
                Question::Oldest { .. } => Finding::Done,
                Question::Kill { .. } => Finding::Nobody,
            };
            self.tell_clients(&mut asking.ask);
        }
    }

    /// Where nothing else needs a client's address, it is asked of the kernel now, of those that are shown.
    fn tell_clients(&mut self, ask: &mut Ask) {
        let mut rows = std::mem::take(&mut ask.rows).into_vec();
        for row in rows.iter_mut().filter(|row| row.client.is_none()) {
            if self.slots.get_mut(row.key).is_some() {
                row.client = self.kernel.peer_of(StreamKey {
                    session: row.key,
                    side: Side::Client,
                });
            }
        }
        ask.rows = rows.into();
    }
}

fn row(key: SessionKey, tenant: &Tenant) -> SessionRow {
    SessionRow {
        opened: tenant.opened,
        id: tenant.id,
        key,
        listener: tenant.listener,
        pool: tenant.pool,
        backend: tenant.backend,
        client: tenant.client,
        stage: match tenant.session.phase() {
            Phase::Choosing | Phase::Preface => Stage::Preface,
            Phase::Waiting => Stage::Waiting,
            Phase::Pausing | Phase::Connecting => Stage::Connecting,
            Phase::Relaying => Stage::Relaying,
            Phase::Closing { .. } | Phase::Done => Stage::Closing,
        },
        bytes_in: tenant.bytes[Side::Client.index()],
        bytes_out: tenant.bytes[Side::Backend.index()],
    }
}
