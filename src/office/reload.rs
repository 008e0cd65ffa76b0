//! Takes a changed configuration over inside the running process, or refuses it as a whole. Whatever can fail (reading,
//! names, binding, ids) comes first; after that there is no way back and no failure.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::config::{self, OnLoss, Plan};
use crate::handoff::{Admin, BackendShared};
use crate::ids::End;

use super::board::ReloadNote;
use super::demands::{Answer, Done, Refused};
use super::failure::Failure;
use super::operator::Applied;
use super::registry::Change;
use super::resolver::{self, Resolved};
use super::world::{World, milliseconds};
use super::{AdminSeat, Office, admin, checks, differences, log_place, notify};

const READ_WITHIN: Duration = Duration::from_secs(5);

impl Office {
    /// Reads the file again. What came of it is logged and stands in the status; nothing changes if it is refused. With
    /// `confirm` what it changes is on trial for so long.
    pub(super) async fn reload(&mut self, confirm: Option<Duration>) -> Answer {
        notify::tell_reloading();
        let operator = self.operator.clone();
        let earlier = self.trial.take();
        let before = match &earlier {
            Some(_) => None,
            None => Some(self.before_trial()),
        };
        let outcome = self.try_reload().await;
        let mut note = ReloadNote::now();
        let answer = match outcome {
            Ok((changes, settled)) => {
                self.reloads.taken += 1;
                log_taken(&changes);
                note.changes.clone_from(&changes);
                if self.operator != operator {
                    self.kept = self.ledger.save(&self.operator).await;
                }
                self.put_on_trial(confirm, earlier, before, &changes);
                let done = Done {
                    changes,
                    kept: self.kept,
                    ..Done::default()
                };
                if settled {
                    Ok(done)
                } else {
                    Err(Refused::Late)
                }
            }
            Err(failure) => {
                self.trial = earlier;
                self.reloads.refused += 1;
                let sentence = failure.to_string().replace('\n', "; ");
                log::error!("reload refused, the running configuration stays: {sentence}");
                note.error = Some(sentence.clone());
                Err(Refused::Reload(sentence))
            }
        };
        self.board.events.reloaded(&note);
        self.reloads.last = Some(note);
        self.repin();
        notify::tell(&[NotifyState::Ready]);
        self.tell_status();
        self.tell_elders_of_changes();
        answer
    }

    /// What it changed, and whether every worker has it.
    async fn try_reload(&mut self) -> Result<(Vec<String>, bool), Failure> {
        let Some(file) = &self.file else {
            return Err(Failure::Broken("there is no file to reload".to_owned()));
        };
        let plan = read(file.clone()).await.map_err(|failure| {
            let sentence = failure.to_string();
            match self.sandbox.hint() {
                Some(hint) if sentence.to_lowercase().contains("permission denied") => {
                    Failure::Broken(format!("{sentence}: {hint}"))
                }
                _ => failure,
            }
        })?;
        let fixed = self.world.plan.fixed_changes(&plan);
        if !fixed.is_empty() {
            return Err(Failure::Broken(format!(
                "{} cannot change in a running process: restart it, or set the old value",
                fixed.join(", ")
            )));
        }
        let applied = self.operator.apply(&plan);
        self.sandbox
            .admits(&applied.plan)
            .map_err(Failure::Broken)?;
        let mut changes = differences::between(&self.world.plan, &applied.plan);
        changes.extend(applied.dropped.iter().cloned());
        let looked = resolver::resolve(resolver::names_of(&applied.plan)).await;
        let resolved = resolver::merge(&self.world.resolved, looked);
        let settled = self.take_over(applied, resolved).await?;
        self.file_plan = plan;
        Ok((changes, settled))
    }

    /// Puts a plan and the operator's word in force. False if a worker has not said in time that it has them.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub(super) async fn take_over(
        &mut self,
        applied: Applied,
        resolved: Resolved,
    ) -> Result<bool, Failure> {
        let plan = applied.plan;
        let next_admin = self.next_admin(&plan)?;
        let prepared = self.binder.prepare(&plan).await?;
        let sockets = prepared.sockets.clone();
        self.registry.begin();
        let claimed = World::claim(
            plan,
            resolved,
            sockets,
            &mut self.registry,
            Some(&self.world),
        );
        let world = match claimed {
            Ok(world) => world,
            Err(error) => {
                self.registry.rollback();
                self.binder.abandon(prepared);
                return Err(Failure::Broken(error.to_string()));
            }
        };
        // From here on nothing fails.
        let change = self.registry.commit();
        self.binder.commit(prepared);
        let before = std::mem::replace(&mut self.world, world);
        self.operator = applied.operator;
        self.world.apply_limits();
        self.drain_removed(&before, &change);
        self.set_states();
        self.drain_weightless(&before);
        drop(before);
        let (place, format) = log_place(&self.world.plan);
        self.scribe.write_to(place, format);
        self.board.watch(checks::targets(&self.world));
        self.publish();
        if let Some(next) = next_admin {
            self.admin = next;
        }
        let settled = self.publisher.settled().await;
        if !settled {
            log::error!("a worker did not take the configuration within 2 s");
        }
        Ok(settled)
    }

    /// The admin server that the plan asks for, bound and running, if it is not the one that runs. The outer `None`
    /// means that it stays.
    fn next_admin(&self, plan: &Plan) -> Result<Option<Option<AdminSeat>>, Failure> {
        if plan.admin.bind == self.admin.as_ref().map(|(wanted, _)| *wanted) {
            return Ok(None);
        }
        let Some(wanted) = plan.admin.bind else {
            return Ok(Some(None));
        };
        let bound = admin::bind(wanted)?;
        let server = admin::Server::start(bound, Arc::clone(&self.board))
            .map_err(|error| Failure::CannotStart(format!("admin: {error}")))?;
        log::info!("admin on http://{}", server.address);
        Ok(Some(Some((wanted, server))))
    }

    /// Removed backends get nothing new, and lose what they have as `on_drain` says.
    fn drain_removed(&self, before: &World, change: &Change<BackendShared>) {
        for backend in &change.retired {
            self.set_admin(backend, Admin::Draining, "removed from the configuration");
            let rule = on_drain(&self.world.plan, &backend.pool)
                .or_else(|| on_drain(&before.plan, &backend.pool));
            obey(backend, rule);
        }
        for backend in &change.returned {
            self.set_admin(backend, Admin::Ready, "in the configuration again");
        }
    }

    /// Gives each backend the operator's state: who drains loses sessions as `on_drain` says; in maintenance nobody keeps
    /// any.
    pub(super) fn set_states(&self) {
        for (pool, shared) in self.world.plan.pools.iter().zip(&self.world.backends) {
            for (backend, shared) in pool.backends.iter().zip(shared) {
                let admin = self.operator.admin(&pool.name, &backend.name);
                if admin == shared.verdict.admin() {
                    continue;
                }
                self.set_admin(shared, admin, "by the operator");
                match (admin, pool.on_drain) {
                    (Admin::Ready, _) => shared.rises(self.board.clock.now()),
                    (Admin::Draining, rule) => obey(shared, Some(rule)),
                    (Admin::Maintenance, OnLoss::Keep) => obey(shared, Some(OnLoss::AT_ONCE)),
                    (Admin::Maintenance, rule) => obey(shared, Some(rule)),
                }
            }
        }
    }

    /// Weight 0 drains, too.
    fn drain_weightless(&self, before: &World) {
        let weights = before.weights();
        for (pool, shared) in self.world.plan.pools.iter().zip(&self.world.backends) {
            for (backend, shared) in pool.backends.iter().zip(shared) {
                let before = weights.get(&Arc::as_ptr(shared)).copied();
                if before.is_none() {
                    shared.rises(self.board.clock.now());
                }
                let had_weight = before.is_some_and(|weight| weight > 0);
                if backend.weight == 0 && had_weight {
                    obey(shared, Some(pool.on_drain));
                }
            }
        }
    }

    fn set_admin(&self, backend: &BackendShared, to: Admin, reason: &str) {
        let from = backend.verdict.admin();
        backend.verdict.set_admin(to);
        let events = &self.board.events;
        events.admin_changed(backend, from, to, reason);
    }

    /// Takes a new round of lookups; publishes only if an address changed.
    pub(super) async fn take_lookups(&mut self, looked: Resolved) {
        if self.succession.is_busy() {
            // Each snapshot is a step of the hand-over now. The next round brings it again.
            return;
        }
        let merged = resolver::merge(&self.world.resolved, looked);
        // A reload may have come between question and answer.
        let names = resolver::names_of(&self.world.plan);
        let merged: Resolved = merged
            .into_iter()
            .filter(|(name, _)| names.contains(name))
            .collect();
        let changed = resolver::differs(&self.world.resolved, &merged);
        self.world.resolved.extend(merged);
        if changed {
            log::info!("a backend's name resolves to another address");
            self.board.watch(checks::targets(&self.world));
            self.publish();
            let _ = self.publisher.settled().await;
        }
    }
}

/// Reads the file beside the office's work: one that is no plain file may keep its reader waiting for ever.
async fn read(file: PathBuf) -> Result<Plan, Failure> {
    let name = file.display().to_string();
    let reading = tokio::task::spawn_blocking(move || config::load(&file));
    match tokio::time::timeout(READ_WITHIN, reading).await {
        Ok(Ok(plan)) => Ok(plan?),
        _ => Err(Failure::Broken(format!(
            "{name}: cannot be read within {READ_WITHIN:?}"
        ))),
    }
}

fn on_drain(plan: &Plan, pool: &str) -> Option<OnLoss> {
    let pool = plan.pools.iter().find(|plan| plan.name == pool)?;
    Some(pool.on_drain)
}

/// Closes a draining backend's sessions, if the rule says so.
fn obey(backend: &BackendShared, rule: Option<OnLoss>) {
    if let Some(OnLoss::Close { over }) = rule {
        backend.verdict.evict(End::Drained, milliseconds(over));
    }
}

fn log_taken(changes: &[String]) {
    match changes.len() {
        0 => log::info!("reload taken: nothing changed"),
        1 => log::info!("reload taken: 1 change"),
        many => log::info!("reload taken: {many} changes"),
    }
    for change in changes {
        log::info!("reload: {change}");
    }
}
