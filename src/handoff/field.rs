//! A pool's backends as a choice sees them: where each stands for a new session, and the walk over tiers when those that
//! serve have nobody to give. Workers choose here and the office explains here, so that what is explained is what happens.
//!
//! It reads atomics only, and reserves nothing: whether the chosen one takes the session is the caller's business.

use std::net::SocketAddr;

use crate::balance::{Candidates, Draw, Latency, Ramp, Service, TIERS_MAX, hash_client};
use crate::ids::{BackendId, Nanos};

use super::snapshot::{Pool, Target};
use super::verdict::{Admin, Health};

/// Where a backend stands for a new session. The order is that of the questions: the first that speaks against it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Open,
    /// Its weight is 0.
    NoWeight,
    /// Its name does not resolve.
    Unresolved,
    Admin(Admin),
    Health(Health),
    Full,
    /// Tried before, by the session in question.
    Tried,
    /// It could take one, but its tier does not serve.
    OtherTier,
    /// It could take one, but not so soon after the others (`connect_rate`).
    Paced,
}

/// A pool's backends at a moment, for one choice.
#[derive(Debug)]
pub struct Field<'a> {
    pool: &'a Pool,
    excluded: &'a [BackendId],
    /// Tiers that are chosen from.
    asked: u16,
    /// Tiers that were chosen from in vain.
    done: u16,
    ignoring_health: u16,
    now: Nanos,
}

impl<'a> Field<'a> {
    fn new(pool: &'a Pool, excluded: &'a [BackendId], now: Nanos) -> Field<'a> {
        let Service {
            serving,
            ignoring_health,
        } = pool.shared.tiers.service();
        Field {
            pool,
            excluded,
            asked: serving,
            done: 0,
            ignoring_health,
            now,
        }
    }

    #[inline]
    #[must_use]
    pub fn standing(&self, i: usize) -> Standing {
        let backend = &self.pool.backends[i];
        let shared = &backend.shared;
        let tier = 1u16 << (usize::from(backend.tier) % TIERS_MAX);
        if backend.weight == 0 {
            Standing::NoWeight
        } else if backend.target == Target::Unresolved {
            Standing::Unresolved
        } else if let Some(against) = shared.verdict.against(self.ignoring_health & tier != 0) {
            against
        } else if shared.is_full() {
            Standing::Full
        } else if self.excluded.contains(&shared.id) {
            Standing::Tried
        } else if self.asked & tier == 0 {
            Standing::OtherTier
        } else if shared.warm.idle() == 0 && !shared.pace.is_open(self.now) {
            Standing::Paced
        } else {
            Standing::Open
        }
    }

    /// When the first of those that are only paced takes a session again; `None` if no backend is.
    fn turn_due(&self) -> Option<Nanos> {
        let backends = self.pool.backends.iter().enumerate();
        let paced = backends.filter(|&(i, _)| self.standing(i) == Standing::Paced);
        paced
            .map(|(_, backend)| backend.shared.pace.due(self.now))
            .min()
    }

    /// Asks the next tier that does not serve, when those that do have nobody; false if there is none left.
    fn ask_next_tier(&mut self) -> bool {
        self.done |= self.asked;
        let left = self.pool.tiers & !self.done;
        self.asked = left & left.wrapping_neg();
        left != 0
    }
}

impl Candidates for Field<'_> {
    fn is_open(&self, i: usize) -> bool {
        self.standing(i) == Standing::Open
    }

    fn sessions(&self, i: usize) -> u32 {
        self.pool.backends[i].shared.sessions()
    }

    fn ramp(&self, i: usize) -> Ramp {
        if self.pool.slow_start_ns == 0 {
            return Ramp::FULL;
        }
        self.pool.ramp(i, self.now)
    }

    fn latency(&self, i: usize) -> Option<Latency> {
        self.pool.backends[i].shared.latency.read(self.now)
    }
}

/// What a choice would come to, for those who explain it.
#[derive(Debug)]
pub struct Prospect {
    /// In the order of the backends.
    pub standings: Vec<Standing>,
    /// The probability of each; all zero if nobody can be given.
    pub odds: Vec<f64>,
    /// Tiers that the choice is made from.
    pub tiers: u16,
}

impl Pool {
    /// The backend for a session now, `excluded` ones passed over; `None` if nobody is open. Tiers that serve come first;
    /// when all their backends are closed or full, the others are asked in their order.
    #[must_use]
    pub fn choose(&self, excluded: &[BackendId], draw: Draw, now: Nanos) -> Option<usize> {
        let mut field = Field::new(self, excluded, now);
        loop {
            let chosen = self.chooser.choose(&field, draw);
            // Who only has to wait for a turn is not passed over in favour of another tier.
            let waits = chosen.is_none() && field.turn_due().is_some();
            if chosen.is_some() || waits || !field.ask_next_tier() {
                return chosen;
            }
        }
    }

    /// When a choice that finds nobody now may find somebody, because a `connect_rate` lets one more in; `None` if it is not
    /// a rate that it waits for.
    #[must_use]
    pub fn turn_due(&self, excluded: &[BackendId], now: Nanos) -> Option<Nanos> {
        let mut field = Field::new(self, excluded, now);
        loop {
            let due = field.turn_due();
            if due.is_some() || !field.ask_next_tier() {
                return due;
            }
        }
    }

    /// Whether a choice would find anybody, now or when it is a backend's turn again.
    #[must_use]
    pub fn any_open(&self, now: Nanos) -> bool {
        let mut field = Field::new(self, &[], now);
        field.asked = u16::MAX;
        (0..self.backends.len())
            .any(|i| matches!(field.standing(i), Standing::Open | Standing::Paced))
    }

    /// What [`Pool::choose`] would return for a draw that is uniform in `random`. It allocates: not for workers.
    #[must_use]
    pub fn prospect(&self, draw: Draw, now: Nanos) -> Prospect {
        let mut field = Field::new(self, &[], now);
        loop {
            let odds = self.chooser.odds(&field, draw);
            let found = odds.iter().any(|&share| share > 0.0);
            if found || field.turn_due().is_some() || !field.ask_next_tier() {
                return Prospect {
                    standings: (0..odds.len()).map(|i| field.standing(i)).collect(),
                    odds,
                    tiers: field.asked,
                };
            }
        }
    }

    /// Where a backend stands by itself, whichever tier serves.
    #[must_use]
    pub fn standing(&self, i: usize, now: Nanos) -> Standing {
        let mut field = Field::new(self, &[], now);
        field.asked = u16::MAX;
        field.standing(i)
    }

    /// By which a hashing algorithm keeps this client at its backend.
    #[must_use]
    pub fn hash_of(&self, client: SocketAddr) -> u64 {
        let port = self.hash_port.then(|| client.port());
        hash_client(self.hash_seed, client.ip(), port)
    }

    /// How much of its weight a backend has now.
    #[must_use]
    pub fn ramp(&self, i: usize, now: Nanos) -> Ramp {
        match self.backends[i].shared.verdict.risen_at() {
            Some(risen) => Ramp::at(now.since(risen), self.slow_start_ns),
            None => Ramp::FULL,
        }
    }
}

#[cfg(test)]
#[path = "field_tests.rs"]
mod tests;
