//! Pools that ask for a role, on a clock of our own: a failover, two primaries and how that is decided, sessions closed or
//! left, checks that come sooner.

use std::sync::Arc;

use super::chance::Chance;
use super::kept::Kept;
use super::report::{Finding, HealthChange};
use super::roster::Roster;
use super::target::{Announce, Check, OnDown, Rules, Target};
use crate::handoff::{Admin, BackendShared, Health};
use crate::ids::{Address, BackendId, CheckResult, End, Nanos, Role, millis};

const RULES: Rules = Rules {
    interval_ns: millis(2_000),
    fast_interval_ns: millis(500),
    timeout_ns: millis(1_000),
    rise: 2,
    fall: 3,
};

#[derive(Clone, Copy, Debug)]
enum Says {
    Role(Role),
    Refuses,
    Full,
}

const PRIMARY: Says = Says::Role(Role::Primary);
const REPLICA: Says = Says::Role(Role::Replica);

struct Scene {
    roster: Roster,
    backends: Vec<Arc<BackendShared>>,
    says: Vec<Says>,
    asked: Role,
    now: Nanos,
    told: Vec<HealthChange>,
    weights: Vec<bool>,
}

impl Scene {
    fn new(asked: Role, says: &[Says]) -> Scene {
        let backends = (0..says.len()).map(|n| {
            let id = BackendId(n as u16);
            Arc::new(BackendShared::new(id, "pool", &format!("b{n}"), false, 1))
        });
        let mut scene = Scene {
            roster: Roster::new(Chance::from_seed(3)),
            backends: backends.collect(),
            says: says.to_vec(),
            asked,
            now: Nanos(millis(1_000)),
            told: Vec::new(),
            weights: vec![true; says.len()],
        };
        scene.publish();
        scene
    }

    fn publish(&mut self) {
        let targets = self.backends.iter().enumerate();
        let targets = targets.map(|(n, backend)| Target {
            backend: Arc::clone(backend),
            address: Some(Address::Inet(([127, 0, 0, 1], 1000 + n as u16).into())),
            rules: Some(RULES),
            check: Check::Tcp,
            on_down: OnDown::Close { over_ms: 0 },
            source: None,
            announce: Announce::Off,
            asked: self.asked,
            on_role_change: OnDown::Close { over_ms: 7 },
            has_weight: self.weights[n],
        });
        self.roster.publish(targets.collect(), self.now);
    }

    /// Lets time pass; every check is answered at once.
    fn pass(&mut self, ms: u64) {
        let end = self.now.after(millis(ms));
        while let Some(due) = self.roster.next_due().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            while let Some(assignment) = self.roster.take_due(self.now) {
                let Address::Inet(address) = &assignment.place.address else {
                    panic!("all addresses are of the internet");
                };
                let finding = match self.says[usize::from(address.port() - 1000)] {
                    Says::Role(role) => Finding::alive(role),
                    Says::Refuses => Finding::of(CheckResult::Refused),
                    Says::Full => Finding {
                        full: true,
                        ..Finding::failed(b"too many clients")
                    },
                };
                self.roster
                    .hear(assignment.ticket, finding, Kept::default(), self.now);
            }
            self.told.extend(self.roster.take_changes());
        }
        self.now = end;
    }

    fn health(&self) -> Vec<&'static str> {
        let backends = self.backends.iter();
        backends
            .map(|backend| backend.verdict.health().word())
            .collect()
    }

    /// The end that sessions of a backend were ordered to last, and how often one was ordered.
    fn eviction(&self, n: usize) -> Option<(End, u32)> {
        let eviction = self.backends[n].verdict.eviction()?;
        Some((eviction.end, eviction.epoch))
    }

    fn claimants(&self) -> Vec<String> {
        let conflicts = self.roster.conflicts();
        assert!(conflicts.len() <= 1);
        let claimants = conflicts
            .into_iter()
            .flat_map(|conflict| conflict.claimants);
        claimants.collect()
    }

    /// Since when the next change of that backend's health came, in milliseconds.
    fn changed_ms(&self, n: usize, from: Nanos, to: Health) -> u64 {
        let mut changes = self.told.iter();
        let change = changes.find(|change| {
            Arc::ptr_eq(&change.backend, &self.backends[n]) && change.to == to && change.at >= from
        });
        let change = change.unwrap_or_else(|| panic!("b{n} never became {}", to.word()));
        change.at.since(from) / millis(1)
    }
}

#[test]
fn a_failover_takes_finding_the_dead_and_one_quick_check() {
    for promoted_after_ms in [0, 1_000, 2_500, 3_300, 5_000, 9_000] {
        let mut scene = Scene::new(Role::Primary, &[PRIMARY, REPLICA, REPLICA]);
        scene.pass(10_000);
        assert_eq!(scene.health(), ["up", "wrong-role", "wrong-role"]);
        let killed = scene.now;
        scene.says[0] = Says::Refuses;
        scene.pass(promoted_after_ms);
        let promoted = scene.now;
        scene.says[2] = PRIMARY;
        scene.pass(10_000);
        assert_eq!(scene.health(), ["down", "wrong-role", "up"]);
        assert_eq!(scene.claimants(), Vec::<String>::new());
        assert_eq!(scene.eviction(0), Some((End::BackendDown, 1)));
        // Refused twice counts as four failures: an interval and a fast one, each a tenth longer at most.
        let found = scene.changed_ms(0, killed, Health::Down);
        assert!(found <= 2_750, "{found}");
        let served = scene.changed_ms(2, killed, Health::Up);
        let latest = found.max(promoted.since(killed) / millis(1)) + 550;
        assert!(served >= found, "two would have served");
        assert!(
            served <= latest,
            "promoted after {promoted_after_ms}: {served} > {latest}"
        );
    }
}

#[test]
fn two_primaries_get_nothing_until_one_yields() {
    let mut scene = Scene::new(Role::Primary, &[PRIMARY, REPLICA]);
    scene.pass(5_000);
    assert_eq!(scene.health(), ["up", "wrong-role"]);
    let replica_evictions = scene.eviction(1);
    scene.says[1] = PRIMARY;
    scene.pass(2_300);
    assert_eq!(scene.health(), ["wrong-role", "wrong-role"]);
    assert_eq!(scene.claimants(), ["b0", "b1"]);
    assert_eq!(scene.eviction(0), None, "its sessions are kept");
    assert_eq!(scene.eviction(1), replica_evictions);
    let said = scene.told.last().unwrap().reason.to_string();
    assert!(
        said.contains("says that it is primary, and so does b"),
        "{said}"
    );
    // A reload in between changes nothing.
    let since = scene.roster.conflicts()[0].since;
    scene.publish();
    assert_eq!(scene.roster.conflicts()[0].since, since);

    scene.says[0] = REPLICA;
    scene.pass(600);
    assert_eq!(scene.health(), ["wrong-role", "up"]);
    assert_eq!(scene.eviction(0), Some((End::RoleChange, 1)));
    assert_eq!(scene.claimants(), Vec::<String>::new());
}

#[test]
fn the_operator_decides_between_two_primaries() {
    let mut scene = Scene::new(Role::Primary, &[PRIMARY, PRIMARY]);
    scene.pass(5_000);
    assert_eq!(scene.health(), ["wrong-role", "wrong-role"]);
    assert!(scene.told.iter().all(|change| change.to != Health::Up));
    scene.backends[0].verdict.set_admin(Admin::Maintenance);
    scene.pass(600);
    assert_eq!(scene.health(), ["up", "up"]);
    assert!(!scene.backends[0].verdict.is_eligible());
    assert!(scene.backends[1].verdict.is_eligible());
    scene.backends[0].verdict.set_admin(Admin::Ready);
    scene.pass(2_300);
    assert_eq!(scene.health(), ["wrong-role", "wrong-role"]);
    // Weight 0 is the same decision, made in the file.
    scene.weights[1] = false;
    scene.publish();
    assert_eq!(scene.health(), ["up", "up"]);
}

#[test]
fn the_first_to_speak_waits_for_the_others() {
    let mut scene = Scene::new(Role::Primary, &[PRIMARY, Says::Refuses]);
    scene.pass(0);
    assert_eq!(scene.health(), ["unknown", "unknown"]);
    scene.pass(10);
    assert_eq!(scene.health(), ["up", "unknown"]);
    // Nobody may serve without having told its role, however long that takes.
    let mut scene = Scene::new(Role::Primary, &[Says::Refuses]);
    scene.pass(1_200);
    assert!(!scene.backends[0].verdict.is_eligible());
}

#[test]
fn a_pool_of_replicas_takes_all_of_them() {
    let mut scene = Scene::new(
        Role::Replica,
        &[PRIMARY, REPLICA, REPLICA, Says::Role(Role::Unknown)],
    );
    scene.pass(5_000);
    assert_eq!(scene.health(), ["wrong-role", "up", "up", "wrong-role"]);
    scene.says[1] = PRIMARY;
    scene.pass(2_300);
    assert_eq!(
        scene.health(),
        ["wrong-role", "wrong-role", "up", "wrong-role"]
    );
    assert_eq!(scene.eviction(1), Some((End::RoleChange, 1)));
    assert_eq!(scene.eviction(3), None, "who does not tell is not accused");
}

#[test]
fn another_role_may_be_asked_for_later() {
    let mut scene = Scene::new(Role::Unknown, &[PRIMARY, REPLICA]);
    scene.pass(5_000);
    assert_eq!(scene.health(), ["up", "up"]);
    scene.asked = Role::Primary;
    scene.publish();
    assert_eq!(scene.health(), ["up", "wrong-role"]);
    scene.asked = Role::Replica;
    scene.publish();
    assert_eq!(scene.health(), ["wrong-role", "up"]);
    scene.asked = Role::Unknown;
    scene.publish();
    assert_eq!(scene.health(), ["up", "up"]);
}

#[test]
fn a_full_server_keeps_its_sessions_until_it_is_gone() {
    let mut scene = Scene::new(Role::Primary, &[PRIMARY]);
    scene.pass(5_000);
    scene.says[0] = Says::Full;
    scene.pass(10_000);
    assert_eq!(scene.health(), ["down"]);
    assert_eq!(scene.eviction(0), None);
    scene.says[0] = Says::Refuses;
    scene.pass(2_300);
    assert_eq!(scene.eviction(0), Some((End::BackendDown, 1)));
    scene.pass(10_000);
    assert_eq!(
        scene.eviction(0),
        Some((End::BackendDown, 1)),
        "once is enough"
    );
}
