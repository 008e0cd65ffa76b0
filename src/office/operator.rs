//! What the operator has changed in the running process: states of backends, weights, backends added and removed. Each
//! change remembers what the file said of that backend then, and stands as long as the file says the same; once it says
//! something else, the file is right again.
//!
//! Pure: it turns the file's plan into the plan in force. The ledger keeps it over restarts.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::{self, BackendPlan, Plan, near_matches};
use crate::handoff::Admin;

/// A backend as operators name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub pool: String,
    pub backend: String,
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.pool, self.backend)
    }
}

/// A backend that is not as the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What the file said when the change was made; `None`: nothing.
    pub said: Option<BackendPlan>,
    /// What holds instead; `None`: it is removed.
    pub wanted: Option<BackendPlan>,
}

/// All that the operator has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operator {
    /// Of backends that are not ready.
    pub admin: BTreeMap<Name, Admin>,
    pub changes: BTreeMap<Name, Change>,
}

/// A file's plan under the operator's changes.
#[derive(Debug)]
pub struct Applied {
    /// What is to run.
    pub plan: Plan,
    /// What of the operator's word still stands.
    pub operator: Operator,
    /// What does not, one sentence each.
    pub dropped: Vec<String>,
}

/// A name that is not in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    pub sentence: String,
    pub near: Vec<String>,
}

impl Operator {
    #[must_use]
    pub fn admin(&self, pool: &str, backend: &str) -> Admin {
        let name = Name {
            pool: pool.to_owned(),
            backend: backend.to_owned(),
        };
        self.admin.get(&name).copied().unwrap_or(Admin::Ready)
    }

    pub fn set_admin(&mut self, name: &Name, admin: Admin) {
        match admin {
            Admin::Ready => self.admin.remove(name),
            other => self.admin.insert(name.clone(), other),
        };
    }

    /// From now on this holds instead of what the file says of the backend.
    pub fn change(&mut self, file: &Plan, name: &Name, wanted: Option<BackendPlan>) {
        let said = find(file, name).ok().cloned();
        if said == wanted {
            self.changes.remove(name);
        } else {
            self.changes.insert(name.clone(), Change { said, wanted });
        }
        // One that comes back later begins ready.
        if !self.stays(file, name) {
            self.admin.remove(name);
        }
    }

    fn stays(&self, file: &Plan, name: &Name) -> bool {
        match self.changes.get(name) {
            Some(change) => change.wanted.is_some(),
            None => find(file, name).is_ok(),
        }
    }

    /// The file's plan as it holds under these changes.
    #[must_use]
    pub fn apply(&self, file: &Plan) -> Applied {
        let mut applied = Applied {
            plan: file.clone(),
            operator: Operator::default(),
            dropped: Vec::new(),
        };
        // What is added comes first, so that what is removed does not leave a pool empty on the way.
        let (removed, others): (Vec<_>, Vec<_>) = self
            .changes
            .iter()
            .partition(|(_, change)| change.wanted.is_none());
        for (name, change) in others.into_iter().chain(removed) {
            match applied.carry_out(file, name, change) {
                Ok(()) => {
                    let kept = &mut applied.operator.changes;
                    kept.insert(name.clone(), change.clone());
                }
                Err(why) => applied.dropped.push(format!(
                    "the operator's change of backend {name} ended: {why}"
                )),
            }
        }
        for (name, admin) in &self.admin {
            if find(&applied.plan, name).is_ok() {
                applied.operator.set_admin(name, *admin);
            }
        }
        applied
    }

    /// One sentence for each change that is in force.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let sentence = |(name, change): (&Name, &Change)| match (&change.said, &change.wanted) {
            (_, None) => format!("backend {name} is removed, the file has it"),
            (None, Some(_)) => format!("backend {name} is added, the file does not have it"),
            (Some(said), Some(wanted)) if said.address == wanted.address => format!(
                "backend {name} has weight {}, the file says {}",
                wanted.weight, said.weight
            ),
            (Some(_), Some(_)) => format!("backend {name} is another than the file's"),
        };
        self.changes.iter().map(sentence).collect()
    }
}

impl Applied {
    fn carry_out(&mut self, file: &Plan, name: &Name, change: &Change) -> Result<(), String> {
        let place = self
            .plan
            .pools
            .iter()
            .position(|pool| pool.name == name.pool);
        let Some(place) = place else {
            return Err("its pool is gone".to_owned());
        };
        if find(file, name).ok() != change.said.as_ref() {
            return Err("the file says otherwise now".to_owned());
        }
        if change.said.is_none()
            && let Some(wanted) = &change.wanted
        {
            config::can_join(&self.plan, place, wanted)?;
        }
        let backends = &mut self.plan.pools[place].backends;
        let at = backends.iter().position(|own| own.name == name.backend);
        match (at, &change.wanted) {
            (Some(at), Some(wanted)) => backends[at] = wanted.clone(),
            (Some(_), None) if backends.len() == 1 => {
                return Err("it is the last of its pool".to_owned());
            }
            (Some(at), None) => {
                backends.remove(at);
            }
            (None, Some(wanted)) => backends.push(wanted.clone()),
            (None, None) => return Err("nobody has it".to_owned()),
        }
        Ok(())
    }
}

/// The backend of this name.
///
/// # Errors
/// Pool or backend is unknown.
pub fn find<'a>(plan: &'a Plan, name: &Name) -> Result<&'a BackendPlan, Unknown> {
    let pool = &plan.pools[find_pool(plan, &name.pool)?];
    let own = || pool.backends.iter();
    own().find(|own| own.name == name.backend).ok_or_else(|| {
        let known = own().map(|own| own.name.as_str());
        unknown(
            &format!("backend {:?} in pool {}", name.backend, name.pool),
            &name.backend,
            known,
        )
    })
}

/// The place of the pool of this name.
///
/// # Errors
/// It is unknown.
pub fn find_pool(plan: &Plan, name: &str) -> Result<usize, Unknown> {
    let place = plan.pools.iter().position(|pool| pool.name == name);
    place.ok_or_else(|| {
        let known = plan.pools.iter().map(|pool| pool.name.as_str());
        unknown(&format!("pool {name:?}"), name, known)
    })
}

/// Says that there is no such thing, and what may have been meant.
#[must_use]
pub fn unknown<'a>(what: &str, wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Unknown {
    let near: Vec<String> = near_matches(wrong, known)
        .into_iter()
        .map(str::to_owned)
        .collect();
    let sentence = match near.is_empty() {
        true => format!("there is no {what}"),
        false => format!("there is no {what}; did you mean {}?", near.join(" or ")),
    };
    Unknown { sentence, near }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn file(backends: &[(&str, u32)]) -> Plan {
        let mut text = "[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:7000\"\npool = \"p\"\n\
                        [[pool]]\nname = \"p\"\n"
            .to_owned();
        for (i, (name, weight)) in backends.iter().enumerate() {
            text.push_str(&format!(
                "[[pool.backend]]\nname = \"{name}\"\naddress = \"127.0.0.1:{}\"\nweight = {weight}\n",
                i + 1
            ));
        }
        parse(&text, "test", &|_| None).unwrap()
    }

    fn name(backend: &str) -> Name {
        Name {
            pool: "p".into(),
            backend: backend.into(),
        }
    }

    fn weights(plan: &Plan) -> Vec<(&str, u32)> {
        let backends = plan.pools[0].backends.iter();
        backends.map(|it| (it.name.as_str(), it.weight)).collect()
    }

    fn added(name: &str) -> Option<BackendPlan> {
        config::backend_of(&format!("name = \"{name}\"\naddress = \"127.0.0.9:9\"")).ok()
    }

    #[test]
    fn a_change_stands_until_the_file_says_otherwise_of_that_backend() {
        let before = file(&[("a", 100), ("b", 100)]);
        let mut operator = Operator::default();
        let mut wanted = find(&before, &name("a")).unwrap().clone();
        wanted.weight = 7;
        operator.change(&before, &name("a"), Some(wanted));
        assert_eq!(
            weights(&operator.apply(&before).plan),
            [("a", 7), ("b", 100)]
        );

        // Another backend's weight is another matter.
        let other = operator.apply(&file(&[("a", 100), ("b", 50)]));
        assert_eq!(weights(&other.plan), [("a", 7), ("b", 50)]);
        assert_eq!(other.operator, operator);

        let own = operator.apply(&file(&[("a", 60), ("b", 50)]));
        assert_eq!(weights(&own.plan), [("a", 60), ("b", 50)]);
        assert_eq!(own.operator, Operator::default());
        assert_eq!(own.dropped.len(), 1);
    }

    #[test]
    fn added_and_removed_ones_stand_until_the_file_knows_better() {
        let before = file(&[("a", 100), ("b", 100)]);
        let mut operator = Operator::default();
        operator.change(&before, &name("c"), added("c"));
        operator.change(&before, &name("a"), None);
        let applied = operator.apply(&before);
        assert_eq!(weights(&applied.plan), [("b", 100), ("c", 100)]);
        assert_eq!(operator.sentences().len(), 2);

        let later = operator.apply(&file(&[("b", 100), ("c", 5)]));
        assert_eq!(weights(&later.plan), [("b", 100), ("c", 5)]);
        assert_eq!(later.operator.changes.len(), 0);
        assert_eq!(later.dropped.len(), 2, "{:?}", later.dropped);

        // Undone by its opposite.
        operator.change(&before, &name("c"), None);
        operator.change(&before, &name("a"), find(&before, &name("a")).ok().cloned());
        assert_eq!(operator, Operator::default());
    }

    #[test]
    fn a_pool_never_loses_its_last_backend() {
        let before = file(&[("a", 100), ("b", 100)]);
        let mut operator = Operator::default();
        operator.change(&before, &name("a"), None);
        operator.change(&before, &name("b"), None);
        let applied = operator.apply(&before);
        assert_eq!(weights(&applied.plan), [("b", 100)]);
        assert!(applied.dropped[0].contains("last"), "{:?}", applied.dropped);
        // All replaced in one go.
        operator.change(&before, &name("c"), added("c"));
        assert_eq!(weights(&operator.apply(&before).plan), [("c", 100)]);
    }

    #[test]
    fn states_are_kept_by_name_and_forgotten_with_the_backend() {
        let before = file(&[("a", 100), ("b", 100)]);
        let mut operator = Operator::default();
        operator.set_admin(&name("a"), Admin::Draining);
        operator.set_admin(&name("b"), Admin::Maintenance);
        operator.set_admin(&name("b"), Admin::Ready);
        let applied = operator.apply(&file(&[("a", 3)]));
        assert_eq!(applied.operator.admin("p", "a"), Admin::Draining);
        assert_eq!(applied.operator.admin("p", "b"), Admin::Ready);
        let gone = operator.apply(&file(&[("b", 3)]));
        assert_eq!(gone.operator, Operator::default());
        operator.change(&before, &name("a"), None);
        assert!(operator.admin.is_empty());
    }

    #[test]
    fn unknown_names_come_with_near_ones() {
        let plan = file(&[("pg1", 1), ("pg2", 1)]);
        let unknown = find(&plan, &name("pg3")).unwrap_err();
        assert_eq!(unknown.near, ["pg1", "pg2"]);
        assert!(
            unknown.sentence.contains("did you mean pg1 or pg2?"),
            "{unknown:?}"
        );
        assert!(find_pool(&plan, "q").unwrap_err().near == ["p"]);
        assert!(find_pool(&plan, "elsewhere").unwrap_err().near.is_empty());
    }
}
