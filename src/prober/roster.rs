//! Who is watched and when the next check is due: the prober's memory and its decisions, without any I/O. The office's
//! target sets go in, checks to be made come out, findings go in; verdicts are written to the backends, changes of
//! health wait to be delivered. Time is handed in, chance comes from a seed: the same story gives the same outcome.

mod roles;
mod sooner;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use crate::handoff::{BackendShared, Health};
use crate::ids::{CheckResult, End, Nanos, Role, millis};

use super::chance::Chance;
use super::complaints::Complaints;
use super::kept::Kept;
use super::report::{Complaint, Finding, HealthChange, History, Reason};
use super::streak::Streak;
use super::target::{Check, OnDown, Place, Rules, Target};

use roles::{Bench, Part};

/// First checks of new backends come this far apart, so that a small pool has its verdicts at once.
const FIRST_CHECK_STEP_NS: u64 = millis(5);
/// First checks of a large pool are spread over this time, or over an interval if that is shorter.
const FIRST_CHECKS_NS: u64 = millis(1_000);
/// A void check is made again after the fast interval, at the latest after this.
const VOID_AGAIN_NS: u64 = millis(500);

/// Names one check in flight. The finding of a check whose backend left the roster meanwhile is recognised by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    place: usize,
    serial: u64,
}

/// A check to be made now.
#[derive(Debug)]
pub struct Assignment {
    pub ticket: Ticket,
    pub check: Check,
    pub place: Place,
    pub timeout_ns: u64,
    /// What the last check left for this one.
    pub kept: Kept,
}

#[derive(Debug)]
struct Entry {
    target: Target,
    streak: Streak,
    history: Arc<History>,
    /// Due times of the next check and of the end of the grace; each stands in the heap once.
    next: Next,
    /// When the last check began.
    started: Option<Nanos>,
    grace_ends: Option<Nanos>,
    /// What the last check left for the next one; let go when the target changes.
    kept: Kept,
    told: Complaints,
    part: Part,
    /// The last finding was that it is full.
    full: bool,
    /// It went down for being full, and its sessions were left alone.
    spared: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// No check configured, or nowhere to connect to.
    None,
    /// To be made soon; the spread over all newcomers gives it its moment before the publish ends.
    New,
    Due(Nanos),
    InFlight {
        serial: u64,
        started: Nanos,
        /// The target changed meanwhile: what it finds is about something else.
        outdated: bool,
    },
}

/// Heap entries; equal times go by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Appointment {
    at: Nanos,
    place: usize,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Check,
    GraceEnds,
}

#[derive(Debug)]
pub struct Roster {
    entries: Vec<Entry>,
    /// One that no longer names the time of its entry is void.
    appointments: BinaryHeap<Reverse<Appointment>>,
    benches: Vec<Bench>,
    chance: Chance,
    serials: u64,
    changes: Vec<HealthChange>,
    complaints: Vec<Complaint>,
    /// A verdict was written that workers should look at.
    bell: bool,
}

impl Roster {
    #[must_use]
    pub fn new(chance: Chance) -> Roster {
        Roster {
            entries: Vec::new(),
            appointments: BinaryHeap::new(),
            benches: Vec::new(),
            chance,
            serials: 0,
            changes: Vec::new(),
            complaints: Vec::new(),
            bell: false,
        }
    }

    /// Takes over a whole new set of targets. A kept backend keeps what is known of it; those not in the set are
    /// forgotten, their verdicts stay as they are.
    pub fn publish(&mut self, targets: Vec<Target>, now: Nanos) {
        let mut kept: HashMap<*const BackendShared, Entry> = self
            .entries
            .drain(..)
            .map(|entry| (Arc::as_ptr(&entry.target.backend), entry))
            .collect();
        let mut newcomers = Vec::new();
        for target in targets {
            let place = self.entries.len();
            let entry = match kept.remove(&Arc::as_ptr(&target.backend)) {
                Some(mut entry) => {
                    self.adapt(&mut entry, target, now);
                    entry
                }
                None => self.welcome(target, now),
            };
            if entry.next == Next::New {
                newcomers.push(place);
            }
            self.entries.push(entry);
        }
        self.spread(&newcomers, now);
        self.make_appointments();
        self.seat(now);
    }

    fn make_appointments(&mut self) {
        self.appointments.clear();
        for (place, entry) in self.entries.iter().enumerate() {
            let check = match entry.next {
                Next::Due(at) => Some((at, What::Check)),
                Next::None | Next::New | Next::InFlight { .. } => None,
            };
            let grace = entry.grace_ends.map(|at| (at, What::GraceEnds));
            for (at, what) in [check, grace].into_iter().flatten() {
                self.appointments
                    .push(Reverse(Appointment { at, place, what }));
            }
            entry.tell_next_check();
        }
    }

    /// The prober stood still for so long, until `now`. Checks that came due meanwhile are put off by as much, so that
    /// they stay as far apart as they were instead of being made all at once.
    pub fn stood_still(&mut self, now: Nanos, late_ns: u64) {
        for entry in &mut self.entries {
            if let Next::Due(at) = &mut entry.next
                && *at < now
            {
                *at = at.after(late_ns).max(now);
            }
        }
        self.make_appointments();
    }

    /// When something is due next.
    #[must_use]
    pub fn next_due(&self) -> Option<Nanos> {
        self.appointments.peek().map(|Reverse(next)| next.at)
    }

    /// The next check that is due by `now`, if any. Ends of grace that are due on the way are carried out.
    pub fn take_due(&mut self, now: Nanos) -> Option<Assignment> {
        while let Some(Reverse(next)) = self.appointments.peek().copied() {
            if next.at > now {
                return None;
            }
            self.appointments.pop();
            match next.what {
                What::GraceEnds => self.end_grace(next.place, now),
                What::Check if self.entries[next.place].next != Next::Due(next.at) => {}
                What::Check => {
                    let assignment = self.start(next.place, now);
                    if assignment.is_some() {
                        return assignment;
                    }
                }
            }
        }
        None
    }

    /// Takes in what a check found and what it left for the next one; `now` is the moment it was found.
    pub fn hear(&mut self, ticket: Ticket, finding: Finding, kept: Kept, now: Nanos) {
        // A publish may have moved the backend to another place.
        let is_it = |entry: &Entry| matches!(entry.next, Next::InFlight { serial, .. } if serial == ticket.serial);
        let place = match self.entries.get(ticket.place) {
            Some(entry) if is_it(entry) => ticket.place,
            _ => match self.entries.iter().position(is_it) {
                Some(place) => place,
                None => return,
            },
        };
        let entry = &mut self.entries[place];
        let Next::InFlight {
            started, outdated, ..
        } = entry.next
        else {
            return;
        };
        let Some(rules) = entry.target.rules else {
            entry.next = Next::None;
            return;
        };
        let due = if outdated {
            now
        } else {
            let result = finding.result;
            entry.kept = kept;
            self.weigh(place, finding, &rules, now);
            if result == CheckResult::Void {
                // Many may be void at once, after a stall: not all at this moment again.
                let wait = rules.fast_interval_ns.min(VOID_AGAIN_NS);
                now.after(self.chance.about(wait))
            } else {
                let wait = self.entries[place].pace(&rules);
                started.after(self.chance.about(wait)).max(now)
            }
        };
        self.entries[place].next = Next::Due(due);
        self.entries[place].tell_next_check();
        self.appointments.push(Reverse(Appointment {
            at: due,
            place,
            what: What::Check,
        }));
    }

    /// What a finding changes: health, by rise and fall or by role, and what is told.
    fn weigh(&mut self, place: usize, finding: Finding, rules: &Rules, now: Nanos) {
        let entry = &mut self.entries[place];
        let result = finding.result;
        entry.part.hear(&finding);
        entry.full = finding.full;
        let change = entry.streak.hear(result, rules);
        self.bell |= entry.stop_sparing(result);
        self.bell |= entry.dispel_doubt(result);
        let reason = finding.reason();
        if change.is_some() {
            entry.told.is_due(&reason, now);
        } else {
            self.complaints.extend(entry.complain(&finding, now));
        }
        entry.history.record(finding, now);
        if !self.rule_on(place, &reason, now)
            && let Some(health) = change
        {
            let change = self.entries[place].change_health(health, reason, now);
            self.changes.push(change);
            self.bell = true;
        }
    }

    /// Changes of health since the last call.
    pub fn take_changes(&mut self) -> Vec<HealthChange> {
        std::mem::take(&mut self.changes)
    }

    /// Failed checks since the last call that are worth a line.
    pub fn take_complaints(&mut self) -> Vec<Complaint> {
        std::mem::take(&mut self.complaints)
    }

    /// Whether the workers' bells are to be rung for what happened since the last call.
    pub fn take_bell(&mut self) -> bool {
        std::mem::take(&mut self.bell)
    }

    #[must_use]
    pub fn histories(&self) -> Vec<Arc<History>> {
        self.entries
            .iter()
            .map(|entry| Arc::clone(&entry.history))
            .collect()
    }

    /// A backend that was not in the last set.
    fn welcome(&mut self, target: Target, now: Nanos) -> Entry {
        let backend = Arc::clone(&target.backend);
        let mut entry = Entry {
            target,
            streak: Streak::new(backend.verdict.checked()),
            history: Arc::new(History::new(backend)),
            next: Next::None,
            started: None,
            grace_ends: None,
            kept: Kept::default(),
            told: Complaints::default(),
            part: Part::default(),
            full: false,
            spared: false,
        };
        if entry.target.address.is_none() {
            self.settle(&mut entry, Health::Down, Reason::Unresolved, now);
        } else if let Some(rules) = entry.target.rules {
            entry.next = Next::New;
            entry.begin_grace(&rules, now);
        } else {
            self.leave_unchecked(&mut entry, now);
        }
        entry
    }

    /// A backend that stays, with what is new about it.
    fn adapt(&mut self, entry: &mut Entry, target: Target, now: Nanos) {
        let old = std::mem::replace(&mut entry.target, target);
        let new = &entry.target;
        let moved = old.place() != new.place() || old.check != new.check;
        if moved || new.rules.is_none() {
            entry.kept = Kept::default();
            entry.part.forget();
        }
        if let Next::InFlight { outdated, .. } = &mut entry.next {
            *outdated |= moved;
        }
        let in_flight = matches!(entry.next, Next::InFlight { .. });
        if new.address.is_none() {
            if !in_flight {
                entry.next = Next::None;
            }
            entry.grace_ends = None;
            if old.address.is_some() {
                self.settle(entry, Health::Down, Reason::Unresolved, now);
            }
            return;
        }
        let Some(rules) = new.rules else {
            if !in_flight {
                entry.next = Next::None;
            }
            entry.grace_ends = None;
            self.leave_unchecked(entry, now);
            return;
        };
        if old.address.is_none() {
            // Nothing is known of what the name stands for now.
            entry.begin_grace(&rules, now);
            self.settle(entry, Health::Unknown, Reason::Resolved, now);
        }
        if old.asked != entry.target.asked {
            self.adapt_role(entry, &rules, now);
        }
        match entry.next {
            Next::InFlight { .. } | Next::New => {}
            Next::None => entry.next = Next::New,
            Next::Due(_) if moved => entry.next = Next::New,
            Next::Due(at) if old.rules != Some(rules) => {
                let by_new_rules = now.after(self.chance.about(entry.pace(&rules)));
                entry.next = Next::Due(at.min(by_new_rules));
            }
            Next::Due(_) => {}
        }
    }

    /// Another role is asked for, or none: the checks' word stands without what roles made of it.
    fn adapt_role(&mut self, entry: &mut Entry, rules: &Rules, now: Nanos) {
        let health = entry.streak.health();
        if entry.target.backend.verdict.checked() != health {
            let change = entry.change_health(health, Reason::Configured, now);
            self.changes.push(change);
            self.bell = true;
        }
        if health == Health::Unknown {
            entry.begin_grace(rules, now);
        }
    }

    /// No check: unknown for ever, and eligible.
    fn leave_unchecked(&mut self, entry: &mut Entry, now: Nanos) {
        entry.target.backend.verdict.set_unknown_is_eligible(true);
        self.settle(entry, Health::Unknown, Reason::Unchecked, now);
    }

    /// Sets health by decree instead of by checks.
    fn settle(&mut self, entry: &mut Entry, health: Health, reason: Reason, now: Nanos) {
        entry.streak = Streak::new(health);
        self.bell = true;
        if entry.target.backend.verdict.checked() != health {
            self.changes.push(entry.change_health(health, reason, now));
        } else if health == Health::Down {
            entry.history.latest.lock().changed = Some((now, reason));
        }
    }

    /// Gives first checks their moments.
    fn spread(&mut self, newcomers: &[usize], now: Nanos) {
        let count = newcomers.len() as u64;
        for (nth, &place) in newcomers.iter().enumerate() {
            let entry = &mut self.entries[place];
            let interval = entry.target.rules.map_or(0, |rules| rules.interval_ns);
            let window = (FIRST_CHECK_STEP_NS * count)
                .min(FIRST_CHECKS_NS)
                .min(interval);
            entry.next = Next::Due(now.after(window / count * nth as u64));
        }
    }

    fn start(&mut self, place: usize, now: Nanos) -> Option<Assignment> {
        let entry = &mut self.entries[place];
        let (Some(place_of_target), Some(rules)) = (entry.target.place(), entry.target.rules)
        else {
            entry.next = Next::None;
            return None;
        };
        self.serials += 1;
        let serial = self.serials;
        entry.started = Some(now);
        entry.next = Next::InFlight {
            serial,
            started: now,
            outdated: false,
        };
        entry.history.latest.lock().next_check = None;
        Some(Assignment {
            ticket: Ticket { place, serial },
            check: entry.target.check.clone(),
            place: place_of_target,
            timeout_ns: rules.timeout_ns,
            kept: std::mem::take(&mut entry.kept),
        })
    }

    /// One check timeout has passed since the backend came: without a verdict it may serve.
    fn end_grace(&mut self, place: usize, now: Nanos) {
        let entry = &mut self.entries[place];
        entry.grace_ends = None;
        if entry.streak.health() == Health::Unknown {
            entry.target.backend.verdict.set_unknown_is_eligible(true);
            entry.target.backend.review_tiers(now);
            self.bell = true;
        }
    }
}

impl Entry {
    /// The interval that applies now.
    fn pace(&self, rules: &Rules) -> u64 {
        if self.streak.is_moving() || self.part.hurries {
            rules.fast_interval_ns
        } else {
            rules.interval_ns
        }
    }

    /// Writes the verdict where the workers look, and orders sessions closed where that is asked for.
    fn change_health(&mut self, to: Health, reason: Reason, now: Nanos) -> HealthChange {
        let backend = &self.target.backend;
        let from = backend.verdict.health();
        // A first verdict is no coming up: at the start all are alike, and a newcomer has risen when it was loaded.
        let was_known = backend.verdict.checked() != Health::Unknown;
        backend.verdict.set_health(to);
        if to == Health::Up && was_known {
            backend.rises(now);
        }
        backend.review_tiers(now);
        if let (Health::Down, OnDown::Close { over_ms }) = (to, self.target.on_down)
            && !self.full
        {
            backend.verdict.evict(End::BackendDown, over_ms);
        }
        self.spared = to == Health::Down && self.full;
        self.history.latest.lock().changed = Some((now, reason.clone()));
        HealthChange {
            backend: Arc::clone(backend),
            from,
            to: backend.verdict.health(),
            reason,
            at: now,
        }
    }

    /// A failure that changed nothing, if it is to be told.
    fn complain(&mut self, finding: &Finding, now: Nanos) -> Option<Complaint> {
        if matches!(finding.result, CheckResult::Ok | CheckResult::Void) {
            return None;
        }
        let reason = finding.reason();
        self.told.is_due(&reason, now).then(|| Complaint {
            backend: Arc::clone(&self.target.backend),
            health: self.streak.health(),
            reason,
        })
    }

    /// Without a verdict by the end of it the backend may serve, unless it has to tell its role first.
    fn begin_grace(&mut self, rules: &Rules, now: Nanos) {
        self.target.backend.verdict.set_unknown_is_eligible(false);
        let asks_none = self.target.asked == Role::Unknown;
        self.grace_ends = asks_none.then(|| now.after(rules.timeout_ns));
    }

    /// One that was down for being full does not even say that now: its sessions go the way of all others. True if they
    /// were ordered closed.
    fn stop_sparing(&mut self, result: CheckResult) -> bool {
        let silent = !matches!(result, CheckResult::Ok | CheckResult::Void) && !self.full;
        if !(self.spared && silent) {
            return false;
        }
        self.spared = false;
        if let OnDown::Close { over_ms } = self.target.on_down {
            let verdict = &self.target.backend.verdict;
            verdict.evict(End::BackendDown, over_ms);
        }
        true
    }

    /// Who could not connect waits for a check. It is well: they were wrong. It is found dead: no doubt is left. True if
    /// somebody may wait for this.
    fn dispel_doubt(&self, result: CheckResult) -> bool {
        let spoken = result == CheckResult::Ok || self.streak.health() != Health::Up;
        spoken && self.target.backend.verdict.dispel_doubt()
    }

    fn tell_next_check(&self) {
        let mut latest = self.history.latest.lock();
        latest.successes = self.streak.successes();
        latest.failures = self.streak.failures();
        latest.next_check = match self.next {
            Next::Due(at) => Some(at),
            Next::None | Next::New | Next::InFlight { .. } => None,
        };
    }
}
