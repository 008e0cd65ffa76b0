//! A plan as the file that asks for it: every key with the value that holds, set or not, so that reading it again gives
//! the same plan. `ringway check --defaults` prints it.
//!
//! Each part of the plan is taken apart whole (no `..`): a new field that nobody writes here does not compile. What a file
//! has but a plan does not (passwords, keys of a table that is off) is not made up.

mod health;
mod page;
mod pool;

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use crate::ids::Address;

use super::measure::{Rate, shown};
use super::plan::{
    AcceptProxy, AccessLog, AdminPlan, GlobalPlan, Keepalive, LimitsPlan, ListenerPlan, LogFormat,
    Plan, Protocol, RoutePlan, Spin,
};
use page::{Page, quoted};

/// The text of a configuration file that asks for this plan.
#[must_use]
pub fn written(plan: &Plan) -> String {
    let Plan {
        global,
        admin,
        listeners,
        pools,
    } = plan;
    let mut page = Page::default();
    write_global(&mut page, global);
    write_admin(&mut page, admin);
    for listener in listeners {
        write_listener(&mut page, listener, plan);
    }
    for pool in pools {
        pool::write_pool(&mut page, pool);
    }
    page.text()
}

fn write_global(page: &mut Page, plan: &GlobalPlan) {
    let GlobalPlan {
        workers,
        pin,
        max_sessions,
        shutdown_grace,
        shutdown_delay,
        upgrade_grace,
        access_log,
        access_log_format,
        log_interval,
        spin,
        user,
        group,
        sandbox,
    } = plan;
    page.table("[global]");
    page.line("workers", workers.unwrap_or(0));
    page.text_line("pin", if *pin { "on" } else { "off" });
    page.line("max_sessions", max_sessions.unwrap_or(0));
    page.text_line("shutdown_grace", shown(*shutdown_grace));
    page.text_line("shutdown_delay", shown(*shutdown_delay));
    page.text_line("upgrade_grace", or_off(*upgrade_grace));
    page.text_line(
        "access_log",
        match access_log {
            AccessLog::Off => "off".to_owned(),
            AccessLog::Stdout => "stdout".to_owned(),
            AccessLog::Stderr => "stderr".to_owned(),
            AccessLog::File(path) => path.display().to_string(),
        },
    );
    page.text_line(
        "access_log_format",
        match access_log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        },
    );
    page.text_line("log_interval", or_off(*log_interval));
    page.text_line(
        "spin",
        match spin {
            Spin::Off => "0us".to_owned(),
            Spin::Fixed(time) => shown(*time),
            Spin::Auto => "auto".to_owned(),
        },
    );
    page.text_line("user", user.as_deref().unwrap_or_default());
    page.text_line("group", group.as_deref().unwrap_or_default());
    page.text_line("sandbox", if *sandbox { "on" } else { "off" });
}

fn write_admin(page: &mut Page, plan: &AdminPlan) {
    let AdminPlan { bind, socket } = plan;
    page.table("[admin]");
    page.text_line(
        "bind",
        bind.map(|address| address.to_string()).unwrap_or_default(),
    );
    let socket = socket.as_deref().map(Path::display);
    page.text_line(
        "socket",
        socket.map(|path| path.to_string()).unwrap_or_default(),
    );
}

fn write_listener(page: &mut Page, listener: &ListenerPlan, plan: &Plan) {
    let ListenerPlan {
        name,
        binds,
        protocol,
        pool,
        freebind,
        max_connections,
        limits,
        keepalive,
        user_timeout,
        backlog,
        accept_proxy,
        preface_timeout,
        routes,
    } = listener;
    let pool_name = |place: usize| plan.pools.get(place).map_or("", |pool| &pool.name);
    page.table("[[listener]]");
    page.text_line("name", name);
    let binds = as_ranges(binds);
    match binds.as_slice() {
        [bind] => page.text_line("bind", bind),
        _ => page.list("bind", &binds),
    }
    page.text_line(
        "protocol",
        match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        },
    );
    page.text_line("pool", pool_name(*pool));
    page.line("freebind", freebind);
    page.line("max_connections", max_connections.unwrap_or(0));
    write_limits(page, limits);
    write_keepalive(page, *keepalive);
    page.text_line("user_timeout", or_off(*user_timeout));
    page.line("backlog", backlog);
    let everybody: &[IpNet] = &[];
    let (accepts, from) = match accept_proxy {
        AcceptProxy::Off => (false, everybody),
        AcceptProxy::Everybody => (true, everybody),
        AcceptProxy::From(networks) => (true, networks.as_slice()),
    };
    page.line("accept_proxy", accepts);
    page.list("accept_proxy_from", from);
    page.text_line("preface_timeout", shown(*preface_timeout));
    let routes = routes.iter().map(|RoutePlan { sni, pool }| {
        let (sni, pool) = (quoted(sni), quoted(pool_name(*pool)));
        format!("{{ sni = {sni}, pool = {pool} }}")
    });
    page.line(
        "route",
        format!("[{}]", routes.collect::<Vec<_>>().join(", ")),
    );
}

fn write_limits(page: &mut Page, plan: &LimitsPlan) {
    let LimitsPlan {
        rate,
        source_connections,
        source_rate,
        allow,
        deny,
    } = plan;
    page.text_line("connection_rate", rate_text(*rate));
    page.line("source_max_connections", source_connections.unwrap_or(0));
    page.text_line("source_connection_rate", rate_text(*source_rate));
    page.list("allow", allow);
    page.list("deny", deny);
}

fn write_keepalive(page: &mut Page, plan: Option<Keepalive>) {
    let value = match plan {
        Some(Keepalive {
            idle,
            interval,
            count,
        }) => {
            let (idle, interval) = (quoted(shown(idle)), quoted(shown(interval)));
            format!("{{ idle = {idle}, interval = {interval}, count = {count} }}")
        }
        None => "{ idle = \"0s\" }".to_owned(),
    };
    page.line("keepalive", value);
}

fn rate_text(rate: Option<Rate>) -> String {
    rate.map(|rate| rate.to_string()).unwrap_or_default()
}

fn or_off(time: Option<Duration>) -> String {
    shown(time.unwrap_or(Duration::ZERO))
}

/// Addresses as a file names them: ports that follow each other on one host as a range.
fn as_ranges(binds: &[Address]) -> Vec<String> {
    let follows = |one: &Address, next: &Address| match (one, next) {
        (Address::Inet(one), Address::Inet(next)) => {
            let mut expected = *one;
            expected.set_port(one.port().wrapping_add(1));
            one.port() != 0 && expected == *next
        }
        _ => false,
    };
    let runs = binds.chunk_by(follows);
    let run = |run: &[Address]| match (run.first(), run.last().and_then(Address::inet)) {
        (Some(first), Some(last)) if run.len() > 1 => format!("{first}-{}", last.port()),
        (Some(first), _) => first.to_string(),
        (None, _) => String::new(),
    };
    runs.map(run).collect()
}

/// For lists: each item in its own quotes.
fn all_quoted<T: Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}
