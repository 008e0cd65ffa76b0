//! The table of a worker's UDP flows: who speaks to whom, when a flow is over, and who must go when the table is full.
//! Pure: time is handed in, nothing is sent or opened here, and nothing is allocated once the table has its size.
//!
//! A flow is one client address that writes to one of our addresses. It is *unanswered* until its backend's first datagram
//! passed; what a stranger can make us hold with a forged source address stays unanswered. A full table therefore lets go,
//! in this order, of
//! 1. the answered flow that is silent longest, if that is [`SILENT_NS`] at least;
//! 2. the oldest unanswered flow, unless all unanswered ones are younger than [`HOPE_NS`] and few ([`FEW`]);
//! 3. the answered flow that is silent longest, whatever it is;
//! 4. the oldest unanswered flow.
//!
//! So a flood of forged sources pushes out its own, and real clients that speak at least every two seconds stay, all but
//! one in [`FEW`] at a time: the room in which a newcomer can wait for its first answer although all others speak. Flows
//! come in groups (those of one pool): where only a group is full, the same order holds among its own.

mod fairness;
mod index;
mod lists;
#[cfg(test)]
mod mutants;
#[cfg(test)]
mod tests;

use crate::ids::{Caller, FlowKey, Nanos, Slot};

pub use fairness::{Fairness, Lately};
use index::Index;
use lists::{Link, List};

/// An answered flow that is silent for so long is the first to go from a full table.
pub const SILENT_NS: u64 = 2_000_000_000;

/// An unanswered flow that is younger may be answered yet.
pub const HOPE_NS: u64 = 100_000_000;

/// Unanswered flows are few while they are not more than one in so many.
pub const FEW: usize = 64;

/// What ends a flow, or its backend's turn; kept as they were when the flow began. 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowRules {
    /// Both directions silent for so long.
    pub idle_ns: u64,
    /// After so many datagrams from the backend.
    pub responses: u32,
    /// A new choice after so many datagrams from the client.
    pub requests: u32,
}

/// What becomes of datagrams from a flow's client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Pass,
    /// They go to a backend that is chosen anew.
    ChooseAnew,
}

/// What becomes of a flow after datagrams from its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    GoesOn,
    /// They were the last it may have.
    Last,
}

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub last: Nanos,
    pub requests: u32,
    pub responses: u32,
    pub answered: bool,
}

#[derive(Debug)]
struct Flow<T> {
    caller: Caller,
    hash: u64,
    rules: FlowRules,
    group: usize,
    born: Nanos,
    last: Nanos,
    /// When it last went to the end of its line, in changes of any line.
    order: u64,
    requests: u32,
    responses: u32,
    answered: bool,
    tenant: T,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u16,
    link: Link,
    flow: Option<Flow<T>>,
}

/// The lines of one group.
#[derive(Debug, Default)]
struct Lines {
    /// By birth.
    unanswered: List,
    /// By last datagram in either direction.
    answered: List,
}

/// `T` is what the engine room keeps with a flow.
#[derive(Debug)]
pub struct FlowTable<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    index: Index,
    groups: Vec<Lines>,
    /// Changes of any line so far.
    changes: u64,
    flows_max: u32,
}

impl<T> FlowTable<T> {
    /// A table for at most `flows_max` flows. `seed` keys its hash, so that nobody can craft addresses that collide.
    #[must_use]
    pub fn new(flows_max: u32, seed: u64) -> FlowTable<T> {
        FlowTable {
            entries: Vec::with_capacity(flows_max as usize),
            free: Vec::with_capacity(flows_max as usize),
            index: Index::new(flows_max, seed),
            groups: Vec::new(),
            changes: 0,
            flows_max,
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it was made for any flow at all.
    #[must_use]
    pub fn has_size(&self) -> bool {
        self.flows_max > 0
    }

    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= self.flows_max as usize
    }

    /// How many slots have ever been in use; slots below this number exist.
    #[must_use]
    pub fn extent(&self) -> u32 {
        self.entries.len() as u32
    }

    #[must_use]
    pub fn find(&self, caller: &Caller) -> Option<FlowKey> {
        let hash = self.index.hash(caller);
        let slot = self.index.find(hash, |slot| {
            let flow = self.entries[slot as usize].flow.as_ref();
            flow.is_some_and(|flow| flow.hash == hash && flow.caller == *caller)
        })?;
        Some(self.key(slot))
    }

    fn key(&self, slot: u32) -> FlowKey {
        FlowKey {
            slot: Slot(slot),
            generation: self.entries[slot as usize].generation,
        }
    }

    /// The flow in slot number `slot`, if there is one.
    #[must_use]
    pub fn at(&self, slot: u32) -> Option<(FlowKey, &T)> {
        let flow = self.entries.get(slot as usize)?.flow.as_ref()?;
        Some((self.key(slot), &flow.tenant))
    }

    /// Begins a flow. The caller must have none yet.
    ///
    /// # Errors
    /// Gives the tenant back if the table is full.
    pub fn insert(
        &mut self,
        caller: Caller,
        group: usize,
        rules: FlowRules,
        tenant: T,
        now: Nanos,
    ) -> Result<FlowKey, T> {
        if self.is_full() {
            return Err(tenant);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry {
                generation: 0,
                link: Link::default(),
                flow: None,
            });
            self.entries.len() as u32 - 1
        });
        let hash = self.index.hash(&caller);
        while self.groups.len() <= group {
            self.groups.push(Lines::default());
        }
        self.changes += 1;
        self.entries[slot as usize].flow = Some(Flow {
            caller,
            hash,
            rules,
            group,
            born: now,
            last: now,
            order: self.changes,
            requests: 0,
            responses: 0,
            answered: false,
            tenant,
        });
        self.index.insert(hash, slot);
        let unanswered = &mut self.groups[group].unanswered;
        unanswered.push(&mut self.entries, slot);
        Ok(self.key(slot))
    }

    /// How far a flow has come: when it last heard something, datagrams each way, and whether it was answered.
    #[must_use]
    pub fn progress(&self, key: FlowKey) -> Option<Progress> {
        self.flow(key).map(|flow| Progress {
            last: flow.last,
            requests: flow.requests,
            responses: flow.responses,
            answered: flow.answered,
        })
    }

    /// A flow that has just been inserted had come so far already, elsewhere.
    pub fn go_on_from(&mut self, key: FlowKey, progress: Progress) {
        if progress.answered {
            self.on_response(key, 0, progress.last);
        }
        if let Some(flow) = self.flow_mut(key) {
            flow.last = progress.last;
            flow.requests = progress.requests;
            flow.responses = progress.responses;
        }
    }

    #[must_use]
    pub fn get(&self, key: FlowKey) -> Option<&T> {
        self.flow(key).map(|flow| &flow.tenant)
    }

    #[must_use]
    pub fn get_mut(&mut self, key: FlowKey) -> Option<&mut T> {
        self.flow_mut(key).map(|flow| &mut flow.tenant)
    }

    #[must_use]
    pub fn caller(&self, key: FlowKey) -> Option<Caller> {
        self.flow(key).map(|flow| flow.caller)
    }

    fn flow(&self, key: FlowKey) -> Option<&Flow<T>> {
        let entry = self.entries.get(key.slot.index())?;
        let current = entry.generation == key.generation;
        entry.flow.as_ref().filter(|_| current)
    }

    fn flow_mut(&mut self, key: FlowKey) -> Option<&mut Flow<T>> {
        let entry = self.entries.get_mut(key.slot.index())?;
        let current = entry.generation == key.generation;
        entry.flow.as_mut().filter(|_| current)
    }

    /// `datagrams` came from the flow's client.
    pub fn on_request(&mut self, key: FlowKey, datagrams: u32, now: Nanos) -> Request {
        let change = self.changes + 1;
        let Some(flow) = self.flow_mut(key) else {
            return Request::Pass;
        };
        flow.last = now;
        let due = flow.rules.requests > 0 && flow.requests >= flow.rules.requests;
        flow.requests = if due { 0 } else { flow.requests }.saturating_add(datagrams);
        if flow.answered {
            flow.order = change;
            let group = flow.group;
            let answered = &mut self.groups[group].answered;
            answered.renew(&mut self.entries, key.slot.0);
            self.changes = change;
        }
        if due {
            Request::ChooseAnew
        } else {
            Request::Pass
        }
    }

    /// `datagrams` came from the flow's backend.
    pub fn on_response(&mut self, key: FlowKey, datagrams: u32, now: Nanos) -> Response {
        let change = self.changes + 1;
        let Some(flow) = self.flow_mut(key) else {
            return Response::Last;
        };
        flow.last = now;
        flow.order = change;
        flow.responses = flow.responses.saturating_add(datagrams);
        let last = flow.rules.responses > 0 && flow.responses >= flow.rules.responses;
        let before = std::mem::replace(&mut flow.answered, true);
        let slot = key.slot.0;
        let group = flow.group;
        let lines = &mut self.groups[group];
        self.changes = change;
        if before {
            lines.answered.renew(&mut self.entries, slot);
        } else {
            lines.unanswered.take_out(&mut self.entries, slot);
            lines.answered.push(&mut self.entries, slot);
        }
        if last {
            Response::Last
        } else {
            Response::GoesOn
        }
    }

    /// When the flow ends for want of datagrams, as things stand: [`Nanos::NEVER`] without such a limit, or without a flow.
    #[must_use]
    pub fn silence_end(&self, key: FlowKey) -> Nanos {
        match self.flow(key) {
            Some(flow) if flow.rules.idle_ns > 0 => flow.last.after(flow.rules.idle_ns),
            _ => Nanos::NEVER,
        }
    }

    /// Who must go for a newcomer, among all or in one group; `None` if nobody is there. One may be spared: who is to have
    /// what the victim leaves.
    #[must_use]
    pub fn victim(
        &self,
        group: Option<usize>,
        spared: Option<FlowKey>,
        now: Nanos,
    ) -> Option<FlowKey> {
        let groups = match group {
            None => &self.groups[..],
            Some(group) => self.groups.get(group..=group)?,
        };
        let spared = spared.map(|flow| flow.slot.0);
        let first_of = |line: fn(&Lines) -> &List| {
            let lines = groups.iter().map(line);
            let firsts = lines.filter_map(|line| line.oldest_but(&self.entries, spared));
            firsts.min_by_key(|&slot| self.entry(slot).map_or(u64::MAX, |flow| flow.order))
        };
        let answered = first_of(|lines| &lines.answered);
        let silent = answered.filter(|&slot| {
            self.entry(slot)
                .is_some_and(|flow| now.since(flow.last) >= SILENT_NS)
        });
        let unanswered = first_of(|lines| &lines.unanswered);
        let length_of = |line: fn(&Lines) -> &List| groups.iter().map(line).map(List::length).sum();
        let waiting: usize = length_of(|lines| &lines.unanswered);
        let others: usize = length_of(|lines| &lines.answered);
        let few = waiting * FEW <= waiting + others;
        let hopeless = unanswered.filter(|&slot| {
            let hopes = |flow: &Flow<T>| few && now.since(flow.born) < HOPE_NS;
            !self.entry(slot).is_some_and(hopes)
        });
        let slot = silent.or(hopeless).or(answered).or(unanswered)?;
        Some(self.key(slot))
    }

    fn entry(&self, slot: u32) -> Option<&Flow<T>> {
        self.entries[slot as usize].flow.as_ref()
    }

    /// Ends a flow, and its key's life.
    pub fn remove(&mut self, key: FlowKey) -> Option<T> {
        let flow = self.flow(key)?;
        let (answered, group) = (flow.answered, flow.group);
        let lines = &mut self.groups[group];
        let list = if answered {
            &mut lines.answered
        } else {
            &mut lines.unanswered
        };
        list.take_out(&mut self.entries, key.slot.0);
        let entry = &mut self.entries[key.slot.index()];
        let flow = entry.flow.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        let entries = &self.entries;
        self.index.remove(flow.hash, key.slot.0, |slot| {
            let flow = entries[slot as usize].flow.as_ref();
            flow.map_or(0, |flow| flow.hash)
        });
        self.free.push(key.slot.0);
        Some(flow.tenant)
    }
}
