//! The roster's pools that ask for a role: who says what, whom `claims` lets serve, and what follows from it: verdicts,
//! sessions closed after a change of role, sooner checks while nobody serves, and the conflict that an operator must see.
//!
//! Sessions are closed on a backend that says itself that it is something else now. A conflict closes none: who is right
//! is not known, and the one that served before keeps what it has.

use std::collections::HashMap;
use std::sync::Arc;

use crate::handoff::{Admin, Health};
use crate::ids::{CheckResult, End, Nanos, Role};
use crate::prober::claims::{Ruling, Standing, judge};
use crate::prober::report::{Conflict, Finding, Reason};
use crate::prober::target::OnDown;

use super::{Entry, Roster};

/// What a backend has to do with roles.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    /// Its place among the benches; `None`: its pool asks for no role.
    bench: Option<usize>,
    heard: bool,
    said: Role,
    ruling: Ruling,
    /// Its pool has nobody who serves, and it may be the next: checks come sooner.
    pub hurries: bool,
}

impl Part {
    /// What it said, it said from another place or by another check.
    pub fn forget(&mut self) {
        self.heard = false;
        self.said = Role::Unknown;
    }

    pub fn hear(&mut self, finding: &Finding) {
        self.heard |= finding.result != CheckResult::Void;
        if finding.result == CheckResult::Ok {
            self.said = finding.role;
        }
    }
}

/// The backends of one pool that asks for a role.
#[derive(Debug)]
pub(super) struct Bench {
    pool: String,
    asked: Role,
    places: Vec<usize>,
    /// Since when two of them say that they are the primary.
    disputed_since: Option<Nanos>,
}

impl Roster {
    /// Seats everybody anew after a publish.
    pub(super) fn seat(&mut self, now: Nanos) {
        let mut since: HashMap<String, Nanos> = HashMap::new();
        for bench in self.benches.drain(..) {
            since.extend(bench.disputed_since.map(|moment| (bench.pool, moment)));
        }
        let mut seats: HashMap<String, usize> = HashMap::new();
        for (place, entry) in self.entries.iter_mut().enumerate() {
            entry.part.bench = None;
            let asked = entry.target.asked;
            if asked == Role::Unknown || entry.target.rules.is_none() {
                entry.part.ruling = Ruling::Silent;
                entry.part.hurries = false;
                continue;
            }
            let pool = &entry.target.backend.pool;
            let seat = *seats.entry(pool.clone()).or_insert_with(|| {
                self.benches.push(Bench {
                    pool: pool.clone(),
                    asked,
                    places: Vec::new(),
                    disputed_since: since.get(pool).copied(),
                });
                self.benches.len() - 1
            });
            self.benches[seat].places.push(place);
            entry.part.bench = Some(seat);
        }
        for bench in 0..self.benches.len() {
            self.rule(bench, None, now);
        }
    }

    /// Follows what was heard of the backend at `place`; false if its pool asks for no role.
    pub(super) fn rule_on(&mut self, place: usize, why: &Reason, now: Nanos) -> bool {
        match self.entries[place].part.bench {
            Some(bench) => {
                self.rule(bench, Some((place, why)), now);
                true
            }
            None => false,
        }
    }

    /// Judges a whole bench. `heard` is who gave the occasion, and what was found.
    fn rule(&mut self, bench: usize, heard: Option<(usize, &Reason)>, now: Nanos) {
        let places = self.benches[bench].places.clone();
        let standings: Vec<Standing> = places
            .iter()
            .map(|&place| self.entries[place].standing())
            .collect();
        let mut rulings = Vec::with_capacity(places.len());
        judge(self.benches[bench].asked, &standings, &mut rulings);
        let disputed = |&(_, ruling): &(&usize, &Ruling)| *ruling == Ruling::Disputed;
        let claimants: Vec<usize> = places
            .iter()
            .zip(&rulings)
            .filter(disputed)
            .map(|(&place, _)| place)
            .collect();
        for (&place, &ruling) in places.iter().zip(&rulings) {
            let rival = claimants.iter().find(|&&other| other != place);
            let why = match (heard, ruling) {
                (Some((who, why)), Ruling::Silent) if who == place => why.clone(),
                (_, Ruling::Waits) => Reason::Waits,
                (_, Ruling::Disputed) if let Some(&rival) = rival => {
                    let name = &self.entries[rival].target.backend.name;
                    Reason::Conflict(Arc::from(name.as_str()))
                }
                _ => Reason::Role(self.entries[place].part.said),
            };
            self.obey(place, ruling, why, now);
        }
        self.note_conflict(bench, !claimants.is_empty(), now);
        let anybody_serves = rulings.contains(&Ruling::Serves);
        for place in places {
            self.hurry(place, !anybody_serves, now);
        }
    }

    /// Puts one ruling into effect.
    fn obey(&mut self, place: usize, ruling: Ruling, why: Reason, now: Nanos) {
        let entry = &mut self.entries[place];
        let before = std::mem::replace(&mut entry.part.ruling, ruling);
        let verdict = &entry.target.backend.verdict;
        let health = match ruling {
            Ruling::Silent => entry.streak.health(),
            Ruling::Serves | Ruling::Benched => Health::Up,
            Ruling::Waits if verdict.checked() == Health::Unknown => Health::Unknown,
            Ruling::WrongRole | Ruling::Disputed | Ruling::Waits => Health::WrongRole,
        };
        if verdict.checked() != health {
            self.changes.push(entry.change_health(health, why, now));
            self.bell = true;
        } else if ruling != before && ruling != Ruling::Silent {
            entry.history.latest.lock().changed = Some((now, why));
        }
        let left = ruling == Ruling::WrongRole && before != Ruling::WrongRole;
        if let OnDown::Close { over_ms } = entry.target.on_role_change
            && left
            && entry.part.said != Role::Unknown
        {
            let verdict = &entry.target.backend.verdict;
            verdict.evict(End::RoleChange, over_ms);
            self.bell = true;
        }
    }

    fn note_conflict(&mut self, bench: usize, is_disputed: bool, now: Nanos) {
        let bench = &mut self.benches[bench];
        match (bench.disputed_since, is_disputed) {
            (None, true) => bench.disputed_since = Some(now),
            (Some(_), false) => bench.disputed_since = None,
            _ => {}
        }
    }

    /// Checks that backend sooner from now on, or no longer so.
    fn hurry(&mut self, place: usize, nobody_serves: bool, now: Nanos) {
        let entry = &mut self.entries[place];
        // Not those that are down: many a server logs each time that it is not ready.
        let hurries = nobody_serves && entry.streak.health() == Health::Up;
        let begins = hurries && !std::mem::replace(&mut entry.part.hurries, hurries);
        entry.part.hurries = hurries;
        if let Some(rules) = entry.target.rules.filter(|_| begins) {
            self.hasten(place, now.after(rules.fast_interval_ns));
        }
    }

    /// The pools of which two backends say that they are the primary.
    #[must_use]
    pub fn conflicts(&self) -> Vec<Conflict> {
        let disputed = self.benches.iter().filter_map(|bench| {
            let since = bench.disputed_since?;
            let claimants = bench.places.iter().map(|&place| &self.entries[place]);
            let claimants = claimants.filter(|entry| entry.part.ruling == Ruling::Disputed);
            Some(Conflict {
                pool: bench.pool.clone(),
                claimants: claimants
                    .map(|entry| entry.target.backend.name.clone())
                    .collect(),
                since,
            })
        });
        disputed.collect()
    }
}

impl Entry {
    fn standing(&self) -> Standing {
        let is_ready = self.target.backend.verdict.admin() == Admin::Ready;
        Standing {
            heard: self.part.heard || self.target.address.is_none(),
            health: self.streak.health(),
            falters: self.streak.failures() > 0,
            said: self.part.said,
            contends: is_ready && self.target.has_weight,
            before: self.part.ruling,
        }
    }
}
