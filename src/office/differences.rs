//! What differs between two plans, one line each, in the words of the file: what was added and removed, and of what was
//! kept each key with its value before and after.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::{
    AcceptProxy, AccessLog, AdminPlan, BackendPlan, GlobalPlan, HashKey, Keepalive, ListenerPlan,
    LogFormat, OnFin, OnLoss, Plan, PoolPlan, Protocol, ProxyVersion, Spin, TierMode,
    duration_text,
};

/// A longer value says nothing in a line: that it changed is enough.
const SHOWN_MAX: usize = 60;

/// A key of the file, and how the value of it is shown.
type Key<T> = (&'static str, fn(&T) -> String);

/// All differences, listeners first.
#[must_use]
pub fn between(before: &Plan, after: &Plan) -> Vec<String> {
    let mut said = Vec::new();
    keys("global", GLOBAL, &before.global, &after.global, &mut said);
    keys("admin", ADMIN, &before.admin, &after.admin, &mut said);
    let listeners = |plan: &Plan| -> Vec<(String, (ListenerPlan, Vec<String>))> {
        let named = plan.listeners.iter().map(|listener| {
            // Pools by their names: their places in the list say nothing.
            let reached = listener.pools();
            let pools = reached
                .map(|place| plan.pools[place].name.clone())
                .collect();
            let mut neutral = listener.clone();
            neutral.pool = 0;
            neutral.routes.iter_mut().for_each(|route| route.pool = 0);
            (listener.name.clone(), (neutral, pools))
        });
        named.collect()
    };
    compare(
        "listener",
        LISTENER,
        &listeners(before),
        &listeners(after),
        &mut said,
    );
    let pools = |plan: &Plan| -> Vec<(String, PoolPlan)> {
        let named = plan.pools.iter().map(|pool| {
            let mut without = pool.clone();
            without.backends.clear();
            (pool.name.clone(), without)
        });
        named.collect()
    };
    compare("pool", POOL, &pools(before), &pools(after), &mut said);
    let backends = |plan: &Plan| -> Vec<(String, BackendPlan)> {
        let pools = plan.pools.iter();
        let named = pools.flat_map(|pool| {
            let backends = pool.backends.iter();
            backends.map(|backend| (format!("{}/{}", pool.name, backend.name), backend.clone()))
        });
        named.collect()
    };
    compare(
        "backend",
        BACKEND,
        &backends(before),
        &backends(after),
        &mut said,
    );
    said
}

fn compare<T: PartialEq>(
    kind: &str,
    table: &[Key<T>],
    before: &[(String, T)],
    after: &[(String, T)],
    said: &mut Vec<String>,
) {
    let names: BTreeSet<&String> = before.iter().chain(after).map(|(name, _)| name).collect();
    let index = |list: &[(String, T)]| -> std::collections::BTreeMap<String, usize> {
        let places = list.iter().enumerate();
        places.map(|(i, (name, _))| (name.clone(), i)).collect()
    };
    let (old, new) = (index(before), index(after));
    for name in names {
        match (old.get(name), new.get(name)) {
            (Some(_), None) => said.push(format!("{kind} {name} removed")),
            (None, Some(_)) => said.push(format!("{kind} {name} added")),
            (Some(&old), Some(&new)) => {
                let what = format!("{kind} {name}");
                keys(&what, table, &before[old].1, &after[new].1, said);
            }
            (None, None) => {}
        }
    }
}

/// One line for each key whose value is another; one that says so much if no key of the table is.
fn keys<T: PartialEq>(what: &str, table: &[Key<T>], before: &T, after: &T, said: &mut Vec<String>) {
    if before == after {
        return;
    }
    let told = said.len();
    for (key, show) in table {
        let (old, new) = (show(before), show(after));
        if old == new {
            continue;
        }
        let fits = old.chars().count().max(new.chars().count()) <= SHOWN_MAX;
        said.push(match fits {
            true => format!("{what}: {key} {old} -> {new}"),
            false => format!("{what}: {key} changed"),
        });
    }
    if said.len() == told {
        said.push(format!("{what} changed"));
    }
}

fn time(time: Duration) -> String {
    duration_text(time)
}

fn or_off<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "off".to_owned(), show)
}

fn or_zero(limit: Option<u32>) -> String {
    limit.unwrap_or(0).to_string()
}

fn list<T: ToString>(items: &[T]) -> String {
    let shown: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!("[{}]", shown.join(", "))
}

fn on_loss(rule: OnLoss) -> String {
    match rule {
        OnLoss::Keep => "keep".to_owned(),
        OnLoss::AT_ONCE => "close".to_owned(),
        OnLoss::Close { over } => format!("close over {}", time(over)),
    }
}

fn keepalive(keepalive: Option<Keepalive>) -> String {
    or_off(keepalive, |it| {
        format!("{}/{}/{}", time(it.idle), time(it.interval), it.count)
    })
}

const GLOBAL: &[Key<GlobalPlan>] = &[
    ("pin", |it| if it.pin { "on" } else { "off" }.to_owned()),
    ("shutdown_grace", |it| time(it.shutdown_grace)),
    ("shutdown_delay", |it| time(it.shutdown_delay)),
    ("upgrade_grace", |it| or_off(it.upgrade_grace, time)),
    ("access_log", |it| match &it.access_log {
        AccessLog::Off => "off".to_owned(),
        AccessLog::Stdout => "stdout".to_owned(),
        AccessLog::Stderr => "stderr".to_owned(),
        AccessLog::File(path) => path.display().to_string(),
    }),
    ("access_log_format", |it| match it.access_log_format {
        LogFormat::Text => "text".to_owned(),
        LogFormat::Json => "json".to_owned(),
    }),
    ("spin", |it| match it.spin {
        Spin::Off => "0us".to_owned(),
        Spin::Fixed(for_long) => time(for_long),
        Spin::Auto => "auto".to_owned(),
    }),
];

const ADMIN: &[Key<AdminPlan>] = &[("bind", |it| or_off(it.bind, |address| address.to_string()))];

const LISTENER: &[Key<(ListenerPlan, Vec<String>)>] = &[
    ("bind", |(it, _)| list(&it.binds)),
    ("protocol", |(it, _)| match it.protocol {
        Protocol::Tcp => "tcp".to_owned(),
        Protocol::Udp => "udp".to_owned(),
    }),
    ("pool", |(_, pools)| pools[0].clone()),
    ("freebind", |(it, _)| it.freebind.to_string()),
    ("max_connections", |(it, _)| or_zero(it.max_connections)),
    ("connection_rate", |(it, _)| {
        or_off(it.limits.rate, |rate| rate.to_string())
    }),
    ("source_max_connections", |(it, _)| {
        or_zero(it.limits.source_connections)
    }),
    ("source_connection_rate", |(it, _)| {
        or_off(it.limits.source_rate, |rate| rate.to_string())
    }),
    ("allow", |(it, _)| list(&it.limits.allow)),
    ("deny", |(it, _)| list(&it.limits.deny)),
    ("accept_proxy", |(it, _)| match &it.accept_proxy {
        AcceptProxy::Off => "off".to_owned(),
        AcceptProxy::Everybody => "from everybody".to_owned(),
        AcceptProxy::From(networks) => format!("from {}", list(networks)),
    }),
    ("preface_timeout", |(it, _)| time(it.preface_timeout)),
    ("keepalive", |(it, _)| keepalive(it.keepalive)),
    ("user_timeout", |(it, _)| or_off(it.user_timeout, time)),
    ("backlog", |(it, _)| it.backlog.to_string()),
    ("route", |(it, pools)| {
        let routes = it.routes.iter().zip(&pools[1..]);
        let routes: Vec<String> = routes
            .map(|(route, pool)| format!("{} to {pool}", route.sni))
            .collect();
        list(&routes)
    }),
];

const POOL: &[Key<PoolPlan>] = &[
    ("algorithm", |it| it.algorithm.word().to_owned()),
    ("hash_key", |it| match it.hash_key {
        HashKey::Address => "address".to_owned(),
        HashKey::AddressPort => "address-port".to_owned(),
    }),
    ("hash_seed", |it| it.hash_seed.to_string()),
    ("source", |it| list(&it.source)),
    ("connect_timeout", |it| time(it.connect_timeout)),
    ("connect_attempts", |it| it.connect_attempts.to_string()),
    ("connect_budget", |it| time(it.connect_budget)),
    ("wait.size", |it| it.wait.size.to_string()),
    ("wait.timeout", |it| time(it.wait.timeout)),
    ("wait.on_fin", |it| match it.wait.on_fin {
        OnFin::Keep => "keep".to_owned(),
        OnFin::Leave => "leave".to_owned(),
    }),
    ("connect_rate", |it| {
        or_off(it.connect_rate, |rate| rate.to_string())
    }),
    ("idle_timeout", |it| or_off(it.idle_timeout, time)),
    ("half_close_timeout", |it| time(it.half_close_timeout)),
    ("max_lifetime", |it| or_off(it.max_lifetime, time)),
    ("keepalive", |it| keepalive(it.keepalive)),
    ("user_timeout", |it| or_off(it.user_timeout, time)),
    ("on_down", |it| on_loss(it.on_down)),
    ("on_drain", |it| on_loss(it.on_drain)),
    ("on_role_change", |it| on_loss(it.on_role_change)),
    ("min_eligible", |it| it.tiers.min_eligible.to_string()),
    ("tier_mode", |it| match it.tiers.mode {
        TierMode::Takeover => "takeover".to_owned(),
        TierMode::Join => "join".to_owned(),
    }),
    ("failback_after", |it| time(it.tiers.failback_after)),
    ("fail_open", |it| it.tiers.fail_open.to_string()),
    ("slow_start", |it| or_off(it.tiers.slow_start, time)),
    ("send_proxy", |it| {
        or_off(it.send_proxy, |version| match version {
            ProxyVersion::One => "v1".to_owned(),
            ProxyVersion::Two => "v2".to_owned(),
        })
    }),
    ("cancel", |it| {
        if it.cancel { "postgres" } else { "off" }.to_owned()
    }),
    ("health.kind", |it| {
        or_off(it.health.check(), |check| check.kind.word().to_owned())
    }),
    ("health.interval", |it| {
        or_off(it.health.check(), |check| time(check.interval))
    }),
    ("health.fast_interval", |it| {
        or_off(it.health.check(), |check| time(check.fast_interval))
    }),
    ("health.timeout", |it| {
        or_off(it.health.check(), |check| time(check.timeout))
    }),
    ("health.rise", |it| {
        or_off(it.health.check(), |check| check.rise.to_string())
    }),
    ("health.fall", |it| {
        or_off(it.health.check(), |check| check.fall.to_string())
    }),
    ("health.port", |it| {
        or_zero(
            it.health
                .check()
                .and_then(|check| check.port)
                .map(u32::from),
        )
    }),
    ("warm.size", |it| or_zero(it.warm.map(|warm| warm.size))),
    ("udp.idle_timeout", |it| time(it.udp.idle_timeout)),
    ("udp.responses", |it| it.udp.responses.to_string()),
    ("udp.requests", |it| it.udp.requests.to_string()),
    ("udp.max_flows", |it| or_zero(it.udp.max_flows)),
];

const BACKEND: &[Key<BackendPlan>] = &[
    ("address", |it| it.address.to_string()),
    ("weight", |it| it.weight.to_string()),
    ("tier", |it| it.tier.to_string()),
    ("max_connections", |it| or_zero(it.max_connections)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn plan(listeners: &[(&str, u16, &str)], pools: &[(&str, &str, &[&str])]) -> Plan {
        let mut text = String::new();
        for (name, port, pool) in listeners {
            text.push_str(&format!(
                "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:{port}\"\npool = \"{pool}\"\n"
            ));
        }
        for (name, lines, backends) in pools {
            text.push_str(&format!("[[pool]]\nname = \"{name}\"\n{lines}\n"));
            for backend in *backends {
                text.push_str(&format!("[[pool.backend]]\naddress = \"{backend}\"\n"));
            }
        }
        config::parse(&text, "test", &|_| None).unwrap()
    }

    #[test]
    fn what_changed_is_named_and_what_did_not_is_not() {
        let a = ("a", "", &["127.0.0.1:1", "127.0.0.1:2"][..]);
        let b = ("b", "", &["127.0.0.1:3"][..]);
        let before = plan(&[("l", 7000, "a"), ("m", 7001, "b")], &[a, b]);
        assert_eq!(between(&before, &before), Vec::<String>::new());

        // The same pools in another order are the same.
        let turned = plan(&[("l", 7000, "a"), ("m", 7001, "b")], &[b, a]);
        assert_eq!(between(&before, &turned), Vec::<String>::new());

        let lines = "algorithm = \"first\"\nidle_timeout = \"90s\"\non_drain = \"close over 10s\"";
        let a = ("a", lines, &["127.0.0.1:1", "127.0.0.1:4"][..]);
        let after = plan(&[("l", 7009, "b"), ("n", 7001, "a")], &[a, b]);
        assert_eq!(
            between(&before, &after),
            [
                "listener l: bind [127.0.0.1:7000] -> [127.0.0.1:7009]",
                "listener l: pool a -> b",
                "listener m removed",
                "listener n added",
                "pool a: algorithm least-connections -> first",
                "pool a: idle_timeout off -> 90s",
                "pool a: on_drain keep -> close over 10s",
                "backend a/127.0.0.1:2 removed",
                "backend a/127.0.0.1:4 added",
            ]
        );
    }

    #[test]
    fn a_change_that_no_key_of_the_table_tells_is_told_all_the_same() {
        let text = |more: &str| {
            format!(
                "[global]\n{more}\n[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:7000\"\npool = \"a\"\n\
                 [[pool]]\nname = \"a\"\n[[pool.backend]]\naddress = \"127.0.0.1:1\"\n"
            )
        };
        let plan = |more: &str| config::parse(&text(more), "test", &|_| None).unwrap();
        let said = between(&plan(""), &plan("max_sessions = 77"));
        assert_eq!(said, ["global changed"]);
        let path = format!("access_log = \"/{}\"", "x".repeat(80));
        assert_eq!(
            between(&plan(""), &plan(&path)),
            ["global: access_log changed"]
        );
    }
}
