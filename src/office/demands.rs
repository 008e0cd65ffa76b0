//! Demands: what comes over the admin socket to be changed. The office takes them one at a time, on the same path as a
//! reload (plan → world → snapshot), and answers when every worker runs on the result.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::config::{self, BackendPlan, Plan};
use crate::handoff::Admin;

use super::Office;
use super::operator::{self, Name, Operator, Unknown};
use super::resolver::{self, Resolved};

/// Few ever ask at once; the next waits for its turn before it is taken.
const WAITING_MAX: usize = 16;

/// Why nothing changes while a successor starts.
pub const UNDER_WAY: &str = "an upgrade is under way: ask again in a moment";

#[derive(Clone, Debug, PartialEq)]
pub enum Demand {
    /// The operator's state of a backend, its weight, or both.
    Alter {
        name: Name,
        admin: Option<Admin>,
        weight: Option<u32>,
    },
    Add {
        pool: String,
        backend: BackendPlan,
    },
    Remove {
        name: Name,
    },
    /// With `confirm`, on trial for so long.
    Reload {
        confirm: Option<Duration>,
    },
    Confirm,
    /// A successor of this process is to take over.
    Upgrade,
}

/// What came of a demand.
pub type Answer = Result<Done, Refused>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// What it changed, in words; nothing if it was so already.
    pub changes: Vec<String>,
    /// Whether it is kept over a restart.
    pub kept: bool,
    /// Generation and process of the successor that serves now.
    pub successor: Option<(u32, u32)>,
}

/// Why a demand was not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    Unknown(Unknown),
    /// What is demanded is impossible anywhere.
    Invalid(String),
    /// It does not go with what is there.
    Conflict(String),
    /// The configuration file was not taken.
    Reload(String),
    /// The successor did not become ready.
    Upgrade(Unready, String),
    /// It is in force, but a worker has not said so in time.
    Late,
    /// The process is about to end.
    Leaving,
}

/// Of which kind the failure of an upgrade is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unready {
    Configuration,
    Late,
    /// It could not start, crashed, or something else went wrong.
    Broken,
}

impl From<Unknown> for Refused {
    fn from(unknown: Unknown) -> Refused {
        Refused::Unknown(unknown)
    }
}

/// A demand, and where its answer goes.
#[derive(Debug)]
pub struct Posted {
    demand: Demand,
    answer: oneshot::Sender<Answer>,
}

impl Posted {
    pub fn refuse(self, why: Refused) {
        let _ = self.answer.send(Err(why));
    }
}

/// The way to the office.
#[derive(Clone, Debug)]
pub struct Demands(mpsc::Sender<Posted>);

impl Demands {
    #[must_use]
    pub fn open() -> (Demands, mpsc::Receiver<Posted>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Demands(sender), receiver)
    }

    /// Waits for the answer, as long as the office takes; everything that it does has a deadline.
    pub async fn demand(&self, demand: Demand) -> Answer {
        let (answer, answered) = oneshot::channel();
        let posted = Posted { demand, answer };
        if self.0.send(posted).await.is_err() {
            return Err(Refused::Leaving);
        }
        answered.await.unwrap_or(Err(Refused::Leaving))
    }
}

impl Office {
    pub(super) async fn meet(&mut self, posted: Posted) {
        if self.succession.is_busy() && posted.demand != Demand::Upgrade {
            // A successor has taken over what is known; what is changed now would be lost.
            posted.refuse(Refused::Conflict(UNDER_WAY.to_owned()));
            return;
        }
        let answer = match posted.demand {
            Demand::Upgrade => {
                self.begin_upgrade(Some(posted.answer));
                return;
            }
            Demand::Alter {
                name,
                admin,
                weight,
            } => self.alter(&name, admin, weight).await,
            Demand::Add { pool, backend } => self.add(&pool, backend).await,
            Demand::Remove { name } => self.remove(&name).await,
            Demand::Reload { confirm } => {
                self.scribe.reopen();
                self.reload(confirm).await
            }
            Demand::Confirm => self.confirm(),
        };
        self.tell_elders_of_changes();
        let _ = posted.answer.send(answer);
    }

    async fn alter(&mut self, name: &Name, admin: Option<Admin>, weight: Option<u32>) -> Answer {
        let now = operator::find(&self.world.plan, name)?;
        let mut operator = self.operator.clone();
        if let Some(weight) = weight {
            let wanted = BackendPlan {
                weight,
                ..now.clone()
            };
            operator.change(&self.file_plan, name, Some(wanted));
        }
        if let Some(admin) = admin {
            operator.set_admin(name, admin);
        }
        self.put_in_force(&operator).await
    }

    async fn add(&mut self, pool: &str, backend: BackendPlan) -> Answer {
        let plan = &self.world.plan;
        let place = operator::find_pool(plan, pool)?;
        let mut members = plan.pools[place].backends.iter();
        let mut operator = self.operator.clone();
        match members.find(|own| own.name == backend.name) {
            Some(own) if *own == backend => {}
            Some(own) => {
                return Err(Refused::Conflict(format!(
                    "pool {pool} has a backend {} already, at {} with weight {}: change its weight by PUT, or DELETE it \
                     first",
                    own.name, own.address, own.weight
                )));
            }
            None => {
                config::can_join(plan, place, &backend).map_err(Refused::Invalid)?;
                let name = Name {
                    pool: pool.to_owned(),
                    backend: backend.name.clone(),
                };
                operator.change(&self.file_plan, &name, Some(backend));
            }
        }
        self.put_in_force(&operator).await
    }

    async fn remove(&mut self, name: &Name) -> Answer {
        operator::find(&self.world.plan, name)?;
        let place = operator::find_pool(&self.world.plan, &name.pool)?;
        if self.world.plan.pools[place].backends.len() == 1 {
            return Err(Refused::Conflict(format!(
                "{name} is the last backend of its pool; allowed: draining or maintenance"
            )));
        }
        let mut operator = self.operator.clone();
        operator.change(&self.file_plan, name, None);
        self.put_in_force(&operator).await
    }

    /// Makes the operator's word the law, and waits until every worker knows it.
    async fn put_in_force(&mut self, operator: &Operator) -> Answer {
        if *operator == self.operator {
            // What was answered late may be repeated until it is known.
            return match self.publisher.settled().await {
                true => Ok(Done {
                    kept: self.kept,
                    ..Done::default()
                }),
                false => Err(Refused::Late),
            };
        }
        let applied = operator.apply(&self.file_plan);
        let mut changes = super::differences::between(&self.world.plan, &applied.plan);
        let states = states_changed(&self.operator, &applied.operator);
        let resolved = self.resolve_more(&applied.plan).await;
        let settled = self.take_over(applied, resolved).await;
        let settled = settled.map_err(|failure| Refused::Conflict(failure.to_string()))?;
        for change in &changes {
            log::info!("by the operator: {change}");
        }
        changes.extend(states);
        self.kept = self.ledger.save(&self.operator).await;
        match settled {
            true => Ok(Done {
                changes,
                kept: self.kept,
                ..Done::default()
            }),
            false => Err(Refused::Late),
        }
    }

    /// What is known of names, and what can be found out of those that are new.
    async fn resolve_more(&self, plan: &Plan) -> Resolved {
        let mut resolved = self.world.resolved.clone();
        let names = resolver::names_of(plan);
        let new: BTreeSet<String> = names
            .into_iter()
            .filter(|name| !resolved.contains_key(name))
            .collect();
        if !new.is_empty() {
            resolved.extend(resolver::resolve(new).await);
        }
        resolved
    }
}

/// What differs between the operator's states, in words.
fn states_changed(before: &Operator, after: &Operator) -> Vec<String> {
    let names: BTreeSet<&Name> = before.admin.keys().chain(after.admin.keys()).collect();
    let states = names.into_iter().map(|name| {
        let of = |operator: &Operator| operator.admin(&name.pool, &name.backend);
        (name, of(before), of(after))
    });
    let changed = states.filter(|(_, before, after)| before != after);
    changed
        .map(|(name, before, after)| {
            format!(
                "backend {name}: {} now, was {}",
                after.word(),
                before.word()
            )
        })
        .collect()
}
