//! A configuration on trial: taken over by a reload that is to be confirmed. Without the operator's word in time, or when
//! the balancer does clearly worse (see `vitals`), the configuration before comes back, by the path of every reload.
//!
//! | state | event | then |
//! |---|---|---|
//! | none | reload --confirm that changes something | trial |
//! | trial | confirm, or a reload without --confirm | none: the new one stays |
//! | trial | reload --confirm | trial anew; what was confirmed last is still what comes back |
//! | trial | time is up · worse for the time a first check may take · errors | none: the old one is back |

use std::time::{Duration, SystemTime};

use crate::config::{Plan, duration_text};
use crate::ids::Nanos;

use super::Office;
use super::board::{Pending, ReloadNote};
use super::demands::{Answer, Done, Refused};
use super::operator::Operator;
use super::resolver;
use super::vitals::{Mark, Outcome, Strength};
use super::world::nanoseconds;

/// Besides a check's own timeout, so long may a backend take to be found well.
const SETTLING: Duration = Duration::from_secs(2);

/// How far back errors are counted to know what is usual.
const USUAL: usize = 30;

/// Marks of the last seconds, oldest first.
#[derive(Debug, Default)]
pub struct Past(std::collections::VecDeque<Mark>);

impl Past {
    /// To be called once a second.
    pub fn note(&mut self, mark: Mark) {
        if self.0.len() == USUAL {
            self.0.pop_front();
        }
        self.0.push_back(mark);
    }

    fn until(&self, now: &Mark) -> Outcome {
        self.0
            .front()
            .map(|first| first.until(now))
            .unwrap_or_default()
    }
}

/// What comes back, and what it is to be measured by.
#[derive(Debug)]
pub struct Before {
    plan: Plan,
    operator: Operator,
    strength: Strength,
    usual: Outcome,
}

#[derive(Debug)]
pub struct Trial {
    before: Before,
    ends: Nanos,
    /// Where errors begin to count.
    begun: Mark,
    /// Since when it has been weaker without a break.
    weak_since: Option<Nanos>,
}

impl Office {
    /// What a trial that begins now would go back to.
    pub(super) fn before_trial(&self) -> Before {
        let view = self.board.view();
        Before {
            plan: self.file_plan.clone(),
            operator: self.operator.clone(),
            strength: Strength::of(&view.snapshot),
            usual: self.tick.past().until(&Mark::of(&view.snapshot)),
        }
    }

    /// After a reload: begins a trial, goes on with the one that there was, or ends it.
    pub(super) fn put_on_trial(
        &mut self,
        confirm: Option<Duration>,
        earlier: Option<Trial>,
        before: Option<Before>,
        changes: &[String],
    ) {
        self.reloads.pending = None;
        let Some(patience) = confirm else {
            if earlier.is_some() {
                log::info!("reload: what waited for its confirmation is confirmed by this one");
            }
            return;
        };
        let before = match earlier {
            Some(trial) => Some(trial.before),
            None => before.filter(|_| !changes.is_empty()),
        };
        if let Some(before) = before {
            self.begin_trial(before, patience);
        }
    }

    fn begin_trial(&mut self, before: Before, patience: Duration) {
        let ends = self.board.clock.now().after(nanoseconds(patience));
        self.trial = Some(Trial {
            before,
            ends,
            begun: Mark::of(&self.board.view().snapshot),
            weak_since: None,
        });
        let until = SystemTime::now() + patience;
        self.reloads.pending = Some(Pending { until });
        log::info!(
            "reload: not confirmed yet, the configuration before comes back in {}",
            duration_text(patience)
        );
    }

    pub(super) fn confirm(&mut self) -> Answer {
        self.reloads.pending = None;
        if self.trial.take().is_none() {
            return Err(Refused::Conflict(
                "nothing waits for a confirmation: either there was no reload --confirm, or it went back already"
                    .to_owned(),
            ));
        }
        log::info!("reload: confirmed");
        self.repin();
        Ok(Done {
            changes: Vec::new(),
            kept: self.kept,
            ..Done::default()
        })
    }

    /// To be called at each tick.
    pub(super) async fn watch_trial(&mut self) {
        if let Some(why) = self.judge_trial() {
            self.go_back(&why).await;
        }
    }

    fn judge_trial(&mut self) -> Option<String> {
        let trial = self.trial.as_mut()?;
        let now = self.board.clock.now();
        if now >= trial.ends {
            return Some("it was not confirmed in time".to_owned());
        }
        let view = self.board.view();
        let snapshot = &view.snapshot;
        let since = trial.begun.until(&Mark::of(snapshot));
        if let Some(why) = trial.before.usual.worsened(since) {
            return Some(why);
        }
        let Some(why) = trial.before.strength.lost(&Strength::of(snapshot)) else {
            trial.weak_since = None;
            return None;
        };
        let since = *trial.weak_since.get_or_insert(now);
        let checks = self
            .world
            .plan
            .pools
            .iter()
            .filter_map(|pool| pool.health.check());
        let first_check = checks.map(|check| check.timeout).max().unwrap_or_default();
        (now.since(since) >= nanoseconds(first_check + SETTLING)).then_some(why)
    }

    pub(super) async fn go_back(&mut self, why: &str) {
        let Some(trial) = self.trial.take() else {
            return;
        };
        self.reloads.pending = None;
        let before = trial.before;
        // What the operator said meanwhile counts; what the reload made pointless counts again.
        let mut operator = self.operator.clone();
        for (name, change) in before.operator.changes {
            operator.changes.entry(name).or_insert(change);
        }
        for (name, admin) in before.operator.admin {
            let pool = self
                .world
                .plan
                .pools
                .iter()
                .find(|pool| pool.name == name.pool);
            let is_known =
                pool.is_some_and(|pool| pool.backends.iter().any(|own| own.name == name.backend));
            if !is_known {
                operator.set_admin(&name, admin);
            }
        }
        let applied = operator.apply(&before.plan);
        let changes = super::differences::between(&self.world.plan, &applied.plan);
        let looked = resolver::resolve(resolver::names_of(&applied.plan)).await;
        let resolved = resolver::merge(&self.world.resolved, looked);
        let mut note = ReloadNote::now();
        match self.take_over(applied, resolved).await {
            Ok(_) => {
                self.file_plan = before.plan;
                self.reloads.reverted += 1;
                log::warn!("reload: the configuration before is back: {why}");
                for change in &changes {
                    log::info!("reload: {change}");
                }
                let status = format!("serving the configuration before: {why}");
                super::notify::tell(&[sd_notify::NotifyState::Status(&status)]);
                self.kept = self.ledger.save(&self.operator).await;
                note.reverted = Some(why.to_owned());
                note.changes = changes;
            }
            Err(failure) => {
                let sentence = failure.to_string().replace('\n', "; ");
                log::error!(
                    "reload: {why}, but the configuration before cannot come back: {sentence}"
                );
                note.error = Some(format!("cannot go back: {sentence}"));
            }
        }
        self.board.events.reloaded(&note);
        self.reloads.last = Some(note);
        self.repin();
        self.tell_elders_of_changes();
    }
}
