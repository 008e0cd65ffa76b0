//! Reads `[[listener]]`. What needs the other tables (the pool's name, binds of other listeners) is left to `crossing`.

use super::desk::{Desk, Located};
use super::limits::read_limits;
use super::measure::{any_text, limit, name, switch, whole, word};
use super::options::{read_keepalive, read_user_timeout};
use super::place::{Bind, bind};
use super::plan::{AcceptProxy, ListenerPlan, Protocol};
use super::preface::{RouteDraft, read_accept_proxy, read_preface_timeout, read_routes};
use super::section::Section;

/// A listener whose pool and addresses have not been compared with the rest of the file.
pub(super) struct ListenerDraft {
    pub name: Option<Located<String>>,
    pub pool: Option<Located<String>>,
    pub binds: Vec<Located<Bind>>,
    pub routes: Vec<RouteDraft>,
    /// Complete but for `name`, `pool`, `binds` and `routes`.
    pub plan: ListenerPlan,
}

pub(super) fn read_listener(desk: &mut Desk<'_>, mut table: Section) -> ListenerDraft {
    let found_name = table.require(desk, "name", "a name of its own", name);
    let binds = read_binds(desk, &mut table);
    let pool = table.require(desk, "pool", "the name of a [[pool]]", any_text);
    let plan = ListenerPlan {
        name: String::new(),
        binds: Vec::new(),
        protocol: read_protocol(desk, &mut table),
        pool: 0,
        freebind: table.read(desk, "freebind", switch).unwrap_or(false),
        max_connections: table.read(desk, "max_connections", limit).flatten(),
        limits: read_limits(desk, &mut table),
        keepalive: read_keepalive(desk, &mut table),
        user_timeout: read_user_timeout(desk, &mut table),
        backlog: table
            .read(desk, "backlog", whole(1..=65_535))
            .unwrap_or(4096),
        accept_proxy: AcceptProxy::Off,
        preface_timeout: read_preface_timeout(desk, &mut table),
        routes: Vec::new(),
    };
    let accept_proxy = read_accept_proxy(desk, &mut table, &binds);
    let routes = read_routes(desk, &mut table);
    table.finish(desk);
    ListenerDraft {
        name: found_name,
        pool,
        binds,
        routes,
        plan: ListenerPlan {
            accept_proxy,
            ..plan
        },
    }
}

fn read_protocol(desk: &mut Desk<'_>, table: &mut Section) -> Protocol {
    let words = &[("tcp", Some(Protocol::Tcp)), ("udp", Some(Protocol::Udp))];
    table
        .read(desk, "protocol", word(words))
        .unwrap_or(Protocol::Tcp)
}

fn read_binds(desk: &mut Desk<'_>, table: &mut Section) -> Vec<Located<Bind>> {
    const ALLOWED: &str = "addresses";
    if !table.has("bind") {
        let key = table.key("bind");
        desk.fault(
            table.at(),
            &key,
            "missing; allowed: an address or a list of addresses",
        );
    }
    let at = table.place_of("bind");
    match table.read_list(desk, "bind", true, ALLOWED, bind) {
        Some(binds) if binds.is_empty() => {
            let key = table.key("bind");
            desk.fault(
                at,
                &key,
                "found an empty list; allowed: at least one address",
            );
            binds
        }
        Some(binds) => binds,
        None => Vec::new(),
    }
}
