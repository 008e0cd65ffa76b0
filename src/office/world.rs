//! A plan put to work: its names bound to identities, sockets and addresses, ready to be composed into snapshots. One
//! world may give many snapshots: each new address of a host name and each phase of the process's life is another.
//!
//! It must not bind, resolve or publish: what can fail has been done by others before.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::{self, Chooser, TierRules};
use crate::config::{
    self, AcceptProxy, AccessLog, BackendAddress, HealthPlan, Host, ListenerPlan, Plan, PoolPlan,
    TierMode, TierPlan,
};
use crate::handoff::{
    AccessList, Announcers, Backend, BackendOptions, BackendShared, FlowRules, Keepalive,
    ListenSocket, Listener, ListenerShared, NamePattern, Phase, Pool, PoolShared, Preface,
    Protocol, ProxyVersion, Rate, Route, SessionTimes, Snapshot, Sources, Spin, Target, TierMember,
    WaitRules, Waiters,
};
use crate::ids::{Address, BackendId, Nanos, SocketId};

use super::board::BackendNote;
use super::registry::{BackendKey, Exhausted, Registry};
use super::resolver::Resolved;

#[derive(Debug)]
pub struct World {
    pub plan: Plan,
    pub resolved: Resolved,
    pub listeners: Vec<Arc<ListenerShared>>,
    pub pools: Vec<Arc<PoolShared>>,
    /// Per pool, in the plan's order.
    pub backends: Vec<Vec<Arc<BackendShared>>>,
    /// Per listener, in the plan's order.
    sockets: Vec<Vec<Arc<ListenSocket>>>,
    waiters: Vec<Arc<Waiters>>,
    /// Per pool. Made once: a table for hashing takes its time.
    choosers: Vec<Chooser>,
    /// Per listener, in the plan's order.
    access: Vec<Option<Arc<AccessList>>>,
}

impl World {
    /// Claims an identity for everything in the plan, inside a round of the registry that the caller ends.
    ///
    /// # Errors
    /// When ids run out.
    pub fn claim(
        plan: Plan,
        resolved: Resolved,
        sockets: Vec<Vec<Arc<ListenSocket>>>,
        registry: &mut Registry,
        before: Option<&World>,
    ) -> Result<World, Exhausted> {
        let listeners = plan.listeners.iter();
        let listeners = listeners
            .map(|listener| registry.listener(&listener.name))
            .collect::<Result<_, _>>()?;
        let pools = plan.pools.iter();
        let pools: Vec<_> = pools
            .map(|pool| registry.pool(&pool.name))
            .collect::<Result<_, _>>()?;
        let mut backends = Vec::with_capacity(plan.pools.len());
        for pool in &plan.pools {
            let unchecked = pool.health == HealthPlan::None;
            let shared = pool.backends.iter().map(|backend| {
                let key = BackendKey {
                    pool: pool.name.clone(),
                    name: backend.name.clone(),
                    address: backend.address.to_string(),
                };
                registry.backend(&key, unchecked)
            });
            backends.push(shared.collect::<Result<Vec<_>, _>>()?);
        }
        let waiters = plan.pools.iter().zip(&pools);
        let waiters = waiters
            .map(|(pool, shared)| {
                let kept = before.and_then(|world| world.waiters_of(shared));
                kept.filter(|waiters| waiters.size() == pool.wait.size)
                    .unwrap_or_else(|| Arc::new(Waiters::new(pool.wait.size)))
            })
            .collect();
        let choosers = plan.pools.iter().map(|pool| {
            let kept = before.and_then(|world| world.chooser_for(pool));
            kept.unwrap_or_else(|| chooser(pool))
        });
        let access = plan.listeners.iter().map(|listener| {
            let list = AccessList::new(&listener.limits.allow, &listener.limits.deny);
            list.map(Arc::new)
        });
        let access = access.collect();
        Ok(World {
            choosers: choosers.collect(),
            plan,
            resolved,
            listeners,
            pools,
            backends,
            sockets,
            waiters,
            access,
        })
    }

    fn waiters_of(&self, pool: &Arc<PoolShared>) -> Option<Arc<Waiters>> {
        let place = self.pools.iter().position(|own| Arc::ptr_eq(own, pool))?;
        self.waiters.get(place).map(Arc::clone)
    }

    /// The chooser of the pool of this name, if it would not be made otherwise now.
    fn chooser_for(&self, plan: &PoolPlan) -> Option<Chooser> {
        let place = self
            .plan
            .pools
            .iter()
            .position(|own| own.name == plan.name)?;
        let own = &self.plan.pools[place];
        let pairs = || own.backends.iter().zip(&plan.backends);
        let same = own.algorithm == plan.algorithm
            && own.backends.len() == plan.backends.len()
            && pairs().all(|(own, new)| own.name == new.name && own.weight == new.weight);
        same.then(|| self.choosers[place].clone())
    }

    /// Tells each pool's tiers who is there, and has them judged. Before a snapshot with changed backends is published.
    pub fn set_up_tiers(&self, now: Nanos) {
        for (place, pool) in self.plan.pools.iter().enumerate() {
            let members = pool.backends.iter().zip(&self.backends[place]);
            let members: Vec<TierMember> = members
                .map(|(backend, shared)| TierMember {
                    tier: backend.tier,
                    weight: backend.weight,
                    backend: Arc::clone(shared),
                })
                .collect();
            let tiers = &self.pools[place].tiers;
            tiers.set_up(tier_rules(&pool.tiers), &members, now);
        }
    }

    /// The queue of the pool at this place.
    #[must_use]
    pub fn waiters(&self, pool: usize) -> Arc<Waiters> {
        Arc::clone(&self.waiters[pool])
    }

    /// The weight that each backend has here, by its identity.
    #[must_use]
    pub fn weights(&self) -> HashMap<*const BackendShared, u32> {
        let pools = self.plan.pools.iter().zip(&self.backends);
        let backends = pools.flat_map(|(pool, shared)| pool.backends.iter().zip(shared));
        backends
            .map(|(plan, shared)| (Arc::as_ptr(shared), plan.weight))
            .collect()
    }

    /// The socket for datagrams at this address.
    #[must_use]
    pub fn udp_socket(&self, address: SocketAddr) -> Option<SocketId> {
        let listeners = self.plan.listeners.iter().zip(&self.sockets);
        let udp = listeners.filter(|(plan, _)| plan.protocol == config::Protocol::Udp);
        let mut sockets = udp.flat_map(|(_, sockets)| sockets);
        let found = sockets.find(|socket| socket.address.inet() == Some(address));
        found.map(|socket| socket.id)
    }

    /// The process stops accepting: sockets go, everything else stays.
    pub fn release_sockets(&mut self) {
        self.sockets.iter_mut().for_each(Vec::clear);
    }

    /// Sets limits, which count at once for kept identities, too.
    pub fn apply_limits(&self) {
        let limit = |limit: Option<u32>| limit.unwrap_or(0);
        for (listener, shared) in self.plan.listeners.iter().zip(&self.listeners) {
            shared.capacity.set_limit(limit(listener.max_connections));
            let limits = &listener.limits;
            shared.rate.set_rate(limits.rate.map(rate));
            let per_source = limit(limits.source_connections);
            let source_rate = limits.source_rate.map(rate);
            shared.source_limits.set(per_source, source_rate);
        }
        for (pool, shared) in self.plan.pools.iter().zip(&self.pools) {
            shared.flows.set_limit(limit(pool.udp.max_flows));
        }
        for (pool, shared) in self.plan.pools.iter().zip(&self.backends) {
            for (backend, shared) in pool.backends.iter().zip(shared) {
                shared.capacity.set_limit(limit(backend.max_connections));
                shared.pace.set_rate(pool.connect_rate.map(rate));
            }
        }
    }

    /// Makes the table of client addresses, if a listener has limits for each of them.
    pub fn open_sources(&self, sources: &Sources, sessions_max: u32) {
        let mut listeners = self.listeners.iter();
        if listeners.any(|listener| listener.source_limits.are_set()) {
            sources.open(sessions_max);
        }
    }

    /// The world as workers see it.
    #[must_use]
    pub fn compose(&self, generation: u64, phase: Phase) -> Snapshot {
        let journal = self.plan.global.access_log != AccessLog::Off;
        let listeners = self.plan.listeners.iter().enumerate();
        let listeners = listeners.map(|(i, listener)| {
            Arc::new(Listener {
                shared: Arc::clone(&self.listeners[i]),
                pool: self.pools[listener.pool].id,
                protocol: match listener.protocol {
                    config::Protocol::Tcp => Protocol::Tcp,
                    config::Protocol::Udp => Protocol::Udp,
                },
                sockets: match phase {
                    Phase::HandingOver => Vec::new(),
                    _ => self.sockets[i].clone(),
                },
                wants_address: journal || self.needs_address(listener),
                access: self.access[i].clone(),
                preface: Arc::new(self.preface(listener)),
            })
        });
        Snapshot {
            generation,
            phase,
            listeners: listeners.collect(),
            pools: (0..self.pools.len())
                .map(|i| Arc::new(self.pool(i)))
                .collect(),
            spin: match self.plan.global.spin {
                config::Spin::Off => Spin::Off,
                config::Spin::Fixed(time) => Spin::Fixed(nanoseconds(time)),
                config::Spin::Auto => Spin::Auto,
            },
            journal,
            report_ns: nanoseconds(self.plan.global.log_interval.unwrap_or_default()),
        }
    }

    /// Whether any pool of this listener's chooses by the client's address, or announces it.
    fn needs_address(&self, listener: &ListenerPlan) -> bool {
        let mut pools = listener.pools().map(|pool| &self.plan.pools[pool]);
        listener.accept_proxy != AcceptProxy::Off
            || pools.any(|pool| {
                algorithm(pool.algorithm).hashes() || pool.send_proxy.is_some() || pool.cancel
            })
    }

    fn preface(&self, listener: &ListenerPlan) -> Preface {
        let routes = listener.routes.iter().map(|route| Route {
            pattern: NamePattern::new(&route.sni),
            pool: self.pools[route.pool].id,
        });
        Preface {
            timeout_ns: nanoseconds(listener.preface_timeout),
            announcers: match &listener.accept_proxy {
                AcceptProxy::Off => Announcers::Nobody,
                AcceptProxy::Everybody => Announcers::Everybody,
                AcceptProxy::From(networks) => AccessList::new(networks, &[])
                    .map_or(Announcers::Nobody, |list| Announcers::From(Box::new(list))),
            },
            routes: routes.collect(),
        }
    }

    fn pool(&self, place: usize) -> Pool {
        let plan = &self.plan.pools[place];
        let tiers = plan.backends.iter().map(|backend| 1u16 << backend.tier);
        let backends = plan.backends.iter().zip(&self.backends[place]);
        let backends = backends.map(|(backend, shared)| Backend {
            shared: Arc::clone(shared),
            target: target(&backend.address, &self.resolved).unwrap_or(Target::Unresolved),
            weight: backend.weight,
            tier: backend.tier,
        });
        Pool {
            shared: Arc::clone(&self.pools[place]),
            chooser: self.choosers[place].clone(),
            tiers: tiers.fold(0, |all, tier| all | tier),
            slow_start_ns: nanoseconds(plan.tiers.slow_start.unwrap_or_default()),
            hash_seed: plan.hash_seed,
            hash_port: plan.hash_key == config::HashKey::AddressPort,
            backends: backends.collect(),
            source: plan.source.clone(),
            waiters: Arc::clone(&self.waiters[place]),
            wait: WaitRules {
                timeout_ns: nanoseconds(plan.wait.timeout),
                leave_on_fin: plan.wait.on_fin == config::OnFin::Leave,
            },
            connect_timeout_ns: nanoseconds(plan.connect_timeout),
            connect_attempts: plan.connect_attempts,
            connect_budget_ns: nanoseconds(plan.connect_budget),
            times: session_times(plan),
            flow_rules: FlowRules {
                idle_ns: nanoseconds(plan.udp.idle_timeout),
                responses: plan.udp.responses,
                requests: plan.udp.requests,
            },
            doubts: plan.health.role().is_some(),
            options: BackendOptions {
                keepalive: plan.keepalive.map(keepalive),
                user_timeout_ms: milliseconds(plan.user_timeout.unwrap_or_default()),
            },
            breaker: plan.breaker.as_ref().map(super::breakers::rules),
            send_proxy: plan.send_proxy.map(|version| match version {
                config::ProxyVersion::One => ProxyVersion::One,
                config::ProxyVersion::Two => ProxyVersion::Two,
            }),
            send_proxy_every: plan.udp.send_proxy_every,
            cancel: plan.cancel,
        }
    }

    /// What status and log say of each backend beyond the snapshot.
    #[must_use]
    pub fn notes(&self) -> BTreeMap<BackendId, BackendNote> {
        let pools = self.plan.pools.iter().zip(&self.backends);
        let backends = pools.flat_map(|(pool, shared)| pool.backends.iter().zip(shared));
        let notes = backends.map(|(backend, shared)| {
            let note = BackendNote {
                address: backend.address.to_string(),
                unresolved: target(&backend.address, &self.resolved).err(),
            };
            (shared.id, note)
        });
        notes.collect()
    }
}

/// Where a backend is reached now, or why nowhere.
pub fn target(address: &BackendAddress, resolved: &Resolved) -> Result<Target, String> {
    let look_up = |name: &String| match resolved.get(name) {
        Some(Ok(addresses)) if !addresses.is_empty() => Ok(addresses[0]),
        Some(Err(reason)) => Err(format!("{name} does not resolve: {reason}")),
        _ => Err(format!("{name} was not looked up yet")),
    };
    Ok(match address {
        BackendAddress::Fixed(address) => Target::Fixed(address.clone()),
        BackendAddress::Name { host, port } => {
            Target::Fixed(Address::Inet(SocketAddr::new(look_up(host)?, *port)))
        }
        BackendAddress::ListenerPort { host, offset } => Target::ListenerPort {
            host: match host {
                Host::Ip(ip) => *ip,
                Host::Name(name) => look_up(name)?,
            },
            offset: *offset,
        },
    })
}

fn algorithm(algorithm: config::Algorithm) -> balance::Algorithm {
    match algorithm {
        config::Algorithm::RoundRobin => balance::Algorithm::RoundRobin,
        config::Algorithm::LeastConnections => balance::Algorithm::LeastConnections,
        config::Algorithm::PowerOfTwo => balance::Algorithm::PowerOfTwo,
        config::Algorithm::Random => balance::Algorithm::Random,
        config::Algorithm::SourceHash => balance::Algorithm::SourceHash,
        config::Algorithm::Maglev => balance::Algorithm::Maglev,
        config::Algorithm::LeastLatency => balance::Algorithm::LeastLatency,
        config::Algorithm::First => balance::Algorithm::First,
    }
}

fn chooser(plan: &PoolPlan) -> Chooser {
    let weights: Vec<u32> = plan.backends.iter().map(|backend| backend.weight).collect();
    let names: Vec<&str> = plan.backends.iter().map(|b| b.name.as_str()).collect();
    Chooser::new(algorithm(plan.algorithm), &weights, &names)
}

fn tier_rules(plan: &TierPlan) -> TierRules {
    TierRules {
        min_eligible: plan.min_eligible,
        mode: match plan.mode {
            TierMode::Takeover => balance::TierMode::Takeover,
            TierMode::Join => balance::TierMode::Join,
        },
        failback_after_ns: nanoseconds(plan.failback_after),
        fail_open_percent: plan.fail_open,
    }
}

fn rate(rate: config::Rate) -> Rate {
    Rate::new(rate.per_second, rate.burst)
}

fn session_times(pool: &PoolPlan) -> SessionTimes {
    SessionTimes {
        idle_ns: nanoseconds(pool.idle_timeout.unwrap_or_default()),
        half_close_ns: nanoseconds(pool.half_close_timeout),
        lifetime_ns: nanoseconds(pool.max_lifetime.unwrap_or_default()),
    }
}

fn keepalive(keepalive: config::Keepalive) -> Keepalive {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    Keepalive {
        idle_s: seconds(keepalive.idle),
        interval_s: seconds(keepalive.interval),
        count: keepalive.count,
    }
}

#[must_use]
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[must_use]
pub fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const TEXT: &str = r#"
[[listener]]
name = "l"
bind = "127.0.0.1:7000"
pool = "p"
max_connections = 7
[[pool]]
name = "p"
connect_timeout = "250ms"
idle_timeout = "1m"
wait = { size = 3, on_fin = "leave" }
keepalive = { idle = "30s", interval = "5s", count = 2 }
user_timeout = "1500ms"
[[pool.backend]]
name = "fixed"
address = "127.0.0.1:1"
weight = 5
max_connections = 9
[[pool.backend]]
name = "named"
address = "db.test:2"
[[pool.backend]]
name = "same-port"
address = "db.test:+10"
"#;

    fn world(
        text: &str,
        registry: &mut Registry,
        resolved: Resolved,
        old: Option<&World>,
    ) -> World {
        let plan = parse(text, "test", &|_| None).unwrap();
        registry.begin();
        let world = World::claim(plan, resolved, vec![Vec::new()], registry, old).unwrap();
        registry.commit();
        world
    }

    #[test]
    fn what_check_says_of_large_pools_is_what_they_do() {
        let text = |backends: usize| -> String {
            let backend = |n| format!("[[pool.backend]]\naddress = \"127.0.0.1:{}\"\n", n + 1);
            let backends: String = (0..backends).map(backend).collect();
            format!(
                "[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:7000\"\npool = \"p\"\n[[pool]]\nname = \"p\"\n{backends}"
            )
        };
        for (backends, exact) in [(64, true), (65, false)] {
            let world = world(
                &text(backends),
                &mut Registry::new(1),
                Resolved::new(),
                None,
            );
            assert_eq!(world.choosers[0].is_deterministic(), exact);
            let said = world.plan.pools[0].algorithm_text();
            assert_eq!(said == "least-connections", exact, "{said}");
        }
    }

    #[test]
    fn a_plan_becomes_a_snapshot() {
        let mut registry = Registry::new(2);
        let known = Resolved::from([("db.test".into(), Ok(vec!["192.0.2.1".parse().unwrap()]))]);
        let world = world(TEXT, &mut registry, known, None);
        world.apply_limits();
        let snapshot = world.compose(4, Phase::Serving);
        assert_eq!(snapshot.generation, 4);
        assert_eq!(snapshot.listeners[0].shared.capacity.limit(), 7);
        let pool = &snapshot.pools[0];
        assert_eq!(snapshot.listeners[0].pool, pool.shared.id);
        assert_eq!(pool.connect_timeout_ns, 250_000_000);
        assert_eq!(pool.times.idle_ns, 60_000_000_000);
        assert_eq!((pool.waiters.size(), pool.wait.leave_on_fin), (3, true));
        assert_eq!(pool.options.user_timeout_ms, 1500);
        assert_eq!(pool.options.keepalive.unwrap().idle_s, 30);
        let targets: Vec<_> = pool.backends.iter().map(|b| b.target.clone()).collect();
        let fixed = |text: &str| Target::Fixed(Address::Inet(text.parse().unwrap()));
        assert_eq!(targets[0], fixed("127.0.0.1:1"));
        assert_eq!(targets[1], fixed("192.0.2.1:2"));
        let host = "192.0.2.1".parse().unwrap();
        assert_eq!(targets[2], Target::ListenerPort { host, offset: 10 });
        assert_eq!(pool.backends[0].weight, 5);
        assert_eq!(pool.backends[0].shared.capacity.limit(), 9);
    }

    #[test]
    fn a_name_that_does_not_resolve_is_a_backend_without_target_and_with_a_reason() {
        let mut registry = Registry::new(1);
        let known = Resolved::from([("db.test".into(), Err("no such host".into()))]);
        let world = world(TEXT, &mut registry, known, None);
        let snapshot = world.compose(1, Phase::Serving);
        assert_eq!(snapshot.pools[0].backends[1].target, Target::Unresolved);
        let note = &world.notes()[&snapshot.pools[0].backends[1].shared.id];
        let reason = note.unresolved.as_deref().unwrap();
        assert_eq!(reason, "db.test does not resolve: no such host");
    }

    #[test]
    fn the_queue_of_waiting_clients_outlives_a_reload_that_keeps_its_size() {
        let mut registry = Registry::new(1);
        let first = world(TEXT, &mut registry, Resolved::new(), None);
        let second = world(TEXT, &mut registry, Resolved::new(), Some(&first));
        assert!(Arc::ptr_eq(&first.waiters[0], &second.waiters[0]));
        assert!(Arc::ptr_eq(&first.backends[0][0], &second.backends[0][0]));
        let wider = TEXT.replace("size = 3", "size = 4");
        let third = world(&wider, &mut registry, Resolved::new(), Some(&second));
        assert_eq!(third.waiters[0].size(), 4);
    }
}
