//! Compares the parts of a configuration with each other: names that must be unique or must exist, addresses that must
//! not meet, backends that take their port from a listener. What passes here is a [`Plan`].
//!
//! Single values have been judged before; nothing here parses.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::ids::Address;

use super::check_plan::{CheckKind, HealthPlan, Said, UdpPlan};
use super::desk::{Desk, Located};
use super::listener::ListenerDraft;
use super::place::Bind;
use super::plan::{
    AcceptProxy, AdminPlan, BackendAddress, GlobalPlan, ListenerPlan, Plan, PoolPlan, Protocol,
    ProxyVersion, RoutePlan,
};
use super::pool::{BackendDraft, PoolDraft};

/// Identities are 16-bit numbers that a reload hands out anew while old holders live on; half of them is for one file.
pub(super) const OF_A_KIND_MAX: usize = 32_767;

pub(super) struct Drafts {
    pub global: GlobalPlan,
    pub admin: AdminPlan,
    pub listeners: Vec<ListenerDraft>,
    pub pools: Vec<PoolDraft>,
}

/// The plan; meaningful only if the desk has no fault afterwards.
pub(super) fn cross(desk: &mut Desk<'_>, drafts: Drafts) -> Plan {
    let Drafts {
        global,
        admin,
        listeners,
        mut pools,
    } = drafts;
    check_names(desk, &listeners, &pools);
    let few_enough = check_counts(desk, &listeners, &pools);
    check_binds(desk, &admin, &listeners);
    let reached = resolve_pools(desk, &listeners, &pools);
    refuse_what_datagrams_cannot(desk, &listeners, &reached, &pools);
    check_listener_ports(desk, &listeners, &reached, &pools);
    check_unix_checks(desk, &pools);
    check_by_datagrams(&listeners, &reached, &mut pools);
    let listeners = listeners.into_iter().zip(reached);
    Plan {
        global,
        admin,
        listeners: listeners
            .map(|(draft, reached)| finish_listener(draft, &reached, few_enough))
            .collect(),
        pools: pools.into_iter().map(finish_pool).collect(),
    }
}

/// Streams can do things that datagrams cannot.
fn refuse_what_datagrams_cannot(
    desk: &mut Desk<'_>,
    listeners: &[ListenerDraft],
    reached: &[Reached],
    pools: &[PoolDraft],
) {
    for (listener, reached) in listeners.iter().zip(reached) {
        let (Some(pool), Some(named)) =
            (reached.own.and_then(|pool| pools.get(pool)), &listener.pool)
        else {
            continue;
        };
        let is_unix = |address: &Located<BackendAddress>| {
            matches!(address.value, BackendAddress::Fixed(Address::Unix(_)))
        };
        let mut addresses = pool.backends.iter().filter_map(|it| it.address.as_ref());
        if listener.plan.protocol == Protocol::Udp && addresses.any(is_unix) {
            let sentence = format!(
                "found {:?}, which has a backend on a unix socket, with protocol = \"udp\"; allowed: a pool of internet \
                 addresses",
                named.value
            );
            desk.fault(named.at, "listener.pool", sentence);
        }
        let looks = listener.plan.accept_proxy != AcceptProxy::Off || !listener.routes.is_empty();
        if listener.plan.protocol == Protocol::Udp && looks {
            let sentence = "found accept_proxy or a route with protocol = \"udp\"; allowed: with protocol = \"tcp\" only, whose \
                            first bytes can be waited for";
            desk.fault(named.at, "listener.protocol", sentence);
        }
        if listener.plan.protocol == Protocol::Udp
            && pool.plan.send_proxy == Some(ProxyVersion::One)
        {
            let line = desk.line(named.at);
            let sentence = format!(
                "found \"v1\", but line {line} sends datagrams to this pool, for which version 1 has no words; allowed: \
                 off | v2"
            );
            desk.fault(pool.send_proxy_at, "pool.send_proxy", sentence);
        }
    }
}

/// Where nothing is said of checks and only datagrams come, it is datagrams that check.
fn check_by_datagrams(listeners: &[ListenerDraft], reached: &[Reached], pools: &mut [PoolDraft]) {
    for (place, pool) in pools.iter_mut().enumerate() {
        let users = listeners.iter().zip(reached);
        let mut users = users.filter(|(_, reached)| reached.has(place)).peekable();
        let only_datagrams = users.peek().is_some()
            && users.all(|(listener, _)| listener.plan.protocol == Protocol::Udp);
        if only_datagrams
            && !pool.check_kind_given
            && let HealthPlan::Check(check) = &mut pool.plan.health
        {
            check.kind = CheckKind::Udp(UdpPlan {
                send: Said::default(),
                expect: None,
            });
        }
    }
}

fn finish_listener(draft: ListenerDraft, reached: &Reached, few_enough: bool) -> ListenerPlan {
    let binds = draft.binds.iter().filter(|_| few_enough);
    let routes = draft.routes.into_iter().zip(&reached.routes);
    let routes = routes.map(|(route, pool)| RoutePlan {
        sni: route.sni,
        pool: pool.unwrap_or(0),
    });
    ListenerPlan {
        name: draft.name.map(|name| name.value).unwrap_or_default(),
        binds: binds.flat_map(|bind| bind.value.addresses()).collect(),
        pool: reached.own.unwrap_or(0),
        routes: routes.collect(),
        ..draft.plan
    }
}

fn finish_pool(draft: PoolDraft) -> PoolPlan {
    let backends = draft.backends.into_iter();
    let backends = backends.filter_map(BackendDraft::finish);
    PoolPlan {
        name: draft.name.map(|name| name.value).unwrap_or_default(),
        backends: backends.collect(),
        ..draft.plan
    }
}

fn check_names(desk: &mut Desk<'_>, listeners: &[ListenerDraft], pools: &[PoolDraft]) {
    let names = listeners.iter().filter_map(|draft| draft.name.as_ref());
    check_unique(desk, "listener.name", "among listeners", names);
    let names = pools.iter().filter_map(|draft| draft.name.as_ref());
    check_unique(desk, "pool.name", "among pools", names);
    for pool in pools {
        let names = pool.backends.iter().filter_map(|draft| draft.name.as_ref());
        check_unique(desk, "pool.backend.name", "in its pool", names);
    }
}

fn check_unique<'d>(
    desk: &mut Desk<'_>,
    key: &str,
    scope: &str,
    names: impl Iterator<Item = &'d Located<String>>,
) {
    let mut first_at: HashMap<&str, usize> = HashMap::new();
    for name in names {
        if let Some(&first) = first_at.get(name.value.as_str()) {
            let line = desk.line(first);
            let sentence = format!(
                "found {:?}, which is the name at line {line} already; allowed: a name once {scope}",
                name.value
            );
            desk.fault(name.at, key, sentence);
        } else {
            first_at.insert(&name.value, name.at);
        }
    }
}

/// Whether the file stays inside the numbers that identities have room for.
fn check_counts(desk: &mut Desk<'_>, listeners: &[ListenerDraft], pools: &[PoolDraft]) -> bool {
    let binds = listeners.iter().flat_map(|draft| &draft.binds);
    let counts = [
        ("listener", "listeners", listeners.len()),
        (
            "listener.bind",
            "addresses",
            binds.map(|bind| bind.value.ports()).sum(),
        ),
        ("pool", "pools", pools.len()),
        (
            "pool.backend",
            "backends",
            pools.iter().map(|draft| draft.backends.len()).sum(),
        ),
    ];
    let mut few_enough = true;
    for (key, what, count) in counts {
        if count > OF_A_KIND_MAX {
            let sentence = format!("found {count} {what} in all; allowed: at most {OF_A_KIND_MAX}");
            desk.fault_of_file(key, sentence);
            few_enough = false;
        }
    }
    few_enough
}

/// One bind of some listener: its first and last port, and where it stands.
type Span = (u16, u16, usize);

/// No two listeners, nor the admin's HTTP, may want one address. A wildcard beside one of its own addresses is fine
/// among listeners: the kernel gives the more specific socket its own.
fn check_binds(desk: &mut Desk<'_>, admin: &AdminPlan, listeners: &[ListenerDraft]) {
    let mut spans: BTreeMap<(bool, IpAddr, u32), Vec<Span>> = BTreeMap::new();
    let mut paths: BTreeMap<&PathBuf, usize> = BTreeMap::new();
    let binds = listeners.iter().flat_map(|draft| {
        let is_udp = draft.plan.protocol == Protocol::Udp;
        draft.binds.iter().map(move |bind| (is_udp, bind))
    });
    for (is_udp, bind) in binds {
        match &bind.value {
            Bind::Unix(path) if is_udp => {
                let sentence = format!(
                    "found \"unix:{}\" with protocol = \"udp\"; allowed: internet addresses",
                    path.display()
                );
                desk.fault(bind.at, "listener.bind", sentence);
            }
            Bind::Unix(path) => {
                if let Some(&first) = paths.get(path) {
                    note_meeting(desk, bind.at, &format!("unix:{}", path.display()), first);
                } else {
                    paths.insert(path, bind.at);
                }
            }
            Bind::Inet { first, .. } if first.port() == 0 => {}
            Bind::Inet { first, last } => {
                let span = (first.port(), *last, bind.at);
                let scope = match first {
                    SocketAddr::V6(address) => address.scope_id(),
                    SocketAddr::V4(_) => 0,
                };
                let place = (is_udp, first.ip(), scope);
                spans.entry(place).or_default().push(span);
                if !is_udp {
                    check_against_admin(desk, admin, *first, *last, bind.at);
                }
            }
        }
    }
    for ((_, ip, _), mut of_address) in spans {
        of_address.sort_unstable();
        let mut reached: Option<(u16, usize)> = None;
        for (first, last, at) in of_address {
            if let Some((until, earlier)) = reached
                && first <= until
            {
                let address = SocketAddr::new(ip, first).to_string();
                note_meeting(desk, at.max(earlier), &address, at.min(earlier));
            }
            if reached.is_none_or(|(until, _)| last > until) {
                reached = Some((last, at));
            }
        }
    }
}

fn note_meeting(desk: &mut Desk<'_>, at: usize, address: &str, first: usize) {
    let line = desk.line(first);
    let sentence = format!(
        "found \"{address}\", which line {line} binds already; allowed: each address once in the file"
    );
    desk.fault(at, "listener.bind", sentence);
}

fn check_against_admin(
    desk: &mut Desk<'_>,
    admin: &AdminPlan,
    first: SocketAddr,
    last: u16,
    at: usize,
) {
    let Some(http) = admin.bind else {
        return;
    };
    let same_family = first.is_ipv4() == http.is_ipv4();
    let wildcard = first.ip().is_unspecified() || http.ip().is_unspecified();
    let ips_meet = same_family && (wildcard || first.ip() == http.ip());
    if ips_meet && (first.port()..=last).contains(&http.port()) {
        let sentence = format!(
            "found \"{}\", which is taken by admin.bind = \"{http}\"; allowed: an address of its own",
            SocketAddr::new(first.ip(), http.port())
        );
        desk.fault(at, "listener.bind", sentence);
    }
}

/// The pools that a listener's sessions may go to, by index; `None` is a fault that has been noted.
struct Reached {
    own: Option<usize>,
    routes: Vec<Option<usize>>,
}

impl Reached {
    fn has(&self, pool: usize) -> bool {
        self.own == Some(pool) || self.routes.contains(&Some(pool))
    }
}

/// Each listener's pools.
fn resolve_pools(
    desk: &mut Desk<'_>,
    listeners: &[ListenerDraft],
    pools: &[PoolDraft],
) -> Vec<Reached> {
    let names: Vec<&str> = pools
        .iter()
        .map(|pool| pool.name.as_ref().map_or("", |name| name.value.as_str()))
        .collect();
    let index: HashMap<&str, usize> = names.iter().copied().zip(0..).collect();
    let mut offered: Vec<String> = names
        .iter()
        .take(10)
        .map(|name| format!("{name:?}"))
        .collect();
    if names.len() > offered.len() {
        offered.push("…".to_owned());
    }
    let mut find = |key: &str, wanted: &Located<String>| {
        let pool = index.get(wanted.value.as_str()).copied();
        if pool.is_none() {
            let found = &wanted.value;
            let sentence = if offered.is_empty() {
                format!("found {found:?}, but there is no [[pool]]; allowed: the name of one")
            } else {
                let offered = offered.join(" | ");
                format!("found {found:?}, which is no pool; allowed: {offered}")
            };
            desk.fault(wanted.at, key, sentence);
        }
        pool
    };
    let mut reached = Vec::with_capacity(listeners.len());
    for listener in listeners {
        let own = listener.pool.as_ref();
        let own = own.and_then(|wanted| find("listener.pool", wanted));
        let routes = listener.routes.iter().map(|route| {
            let wanted = route.pool.as_ref();
            wanted.and_then(|wanted| find("listener.route.pool", wanted))
        });
        reached.push(Reached {
            own,
            routes: routes.collect(),
        });
    }
    reached
}

/// `host:+offset` needs a client's port: listeners on unix sockets have none, and the sum must be a port. Checks need one
/// port, which must then be plain.
fn check_listener_ports(
    desk: &mut Desk<'_>,
    listeners: &[ListenerDraft],
    reached: &[Reached],
    pools: &[PoolDraft],
) {
    for (number, pool) in pools.iter().enumerate() {
        let binds: Vec<&Located<Bind>> = listeners
            .iter()
            .zip(reached)
            .filter(|(_, reached)| reached.has(number))
            .flat_map(|(listener, _)| &listener.binds)
            .collect();
        for backend in &pool.backends {
            if let Some(address) = &backend.address
                && let BackendAddress::ListenerPort { offset, .. } = address.value
            {
                check_listener_port(desk, pool, address, offset, &binds);
            }
        }
    }
}

fn check_listener_port(
    desk: &mut Desk<'_>,
    pool: &PoolDraft,
    address: &Located<BackendAddress>,
    offset: u16,
    binds: &[&Located<Bind>],
) {
    const KEY: &str = "pool.backend.address";
    let shown = address.value.to_string();
    for bind in binds {
        let line = desk.line(bind.at);
        match &bind.value {
            Bind::Unix(_) => {
                let sentence = format!(
                    "found {shown:?}, but line {line} listens on a unix socket, which has no port; allowed: HOST:PORT"
                );
                desk.fault(address.at, KEY, sentence);
            }
            Bind::Inet { last, .. } if last.checked_add(offset).is_none() => {
                let most = u16::MAX - last;
                let sentence = format!(
                    "found {shown:?}, but line {line} listens on port {last}; allowed: an offset from 0 to {most}"
                );
                desk.fault(address.at, KEY, sentence);
            }
            Bind::Inet { .. } => {}
        }
    }
    let ports = binds.iter().filter_map(|bind| match &bind.value {
        Bind::Inet { first, last } => Some([first.port(), *last]),
        Bind::Unix(_) => None,
    });
    let mut ports: Vec<u16> = ports.flatten().collect();
    ports.sort_unstable();
    ports.dedup();
    let checked_at_own_port =
        matches!(pool.plan.health.check(), Some(check) if check.port.is_none());
    if checked_at_own_port && (ports.len() > 1 || ports == [0]) {
        let sentence = format!(
            "found {shown:?} behind more than one port, so a check does not know which; allowed: with pool.health.port \
             set, or kind = \"none\""
        );
        desk.fault(address.at, KEY, sentence);
    }
}

/// A check at another port cannot reach a backend that has no ports, nor datagrams one that takes streams.
fn check_unix_checks(desk: &mut Desk<'_>, pools: &[PoolDraft]) {
    for pool in pools {
        let unix = pool
            .backends
            .iter()
            .find_map(|backend| match &backend.address {
                Some(address) => match &address.value {
                    BackendAddress::Fixed(Address::Unix(path)) => Some(path),
                    _ => None,
                },
                None => None,
            });
        let Some(path) = unix else {
            continue;
        };
        if let Some(check) = pool.plan.health.check()
            && check.kind.is_datagram()
        {
            let sentence = format!(
                "found {:?}, but backend \"unix:{}\" takes no datagrams; allowed: another kind in a pool with unix sockets",
                check.kind.word(),
                path.display()
            );
            desk.fault(pool.check_kind_at, "pool.health.kind", sentence);
        }
        if let Some(at) = pool.check_port_at {
            let sentence = format!(
                "found a port, but backend \"unix:{}\" has none; allowed: 0 in a pool with unix sockets",
                path.display()
            );
            desk.fault(at, "pool.health.port", sentence);
        }
    }
}
