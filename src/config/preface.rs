//! Reads what listeners want to know of a client before it gets a backend (`accept_proxy`, `route`, `preface_timeout`),
//! and what pools tell their backends ahead (`send_proxy`), or do with a cancel request (`cancel`).

use std::net::IpAddr;
use std::time::Duration;

use super::desk::{Desk, Located};
use super::measure::{HOUR, MILLISECOND, Refusal, any_text, duration, switch, word};
use super::place::{Bind, is_host_name, network};
use super::plan::{AcceptProxy, ProxyVersion};
use super::section::{Section, Value};

/// A route whose pool has not been looked for.
pub(super) struct RouteDraft {
    pub sni: String,
    pub pool: Option<Located<String>>,
}

pub(super) fn read_preface_timeout(desk: &mut Desk<'_>, listener: &mut Section) -> Duration {
    listener
        .read(desk, "preface_timeout", duration(MILLISECOND, HOUR))
        .unwrap_or(Duration::from_secs(5))
}

pub(super) fn read_accept_proxy(
    desk: &mut Desk<'_>,
    listener: &mut Section,
    binds: &[Located<Bind>],
) -> AcceptProxy {
    let at = listener.place_of("accept_proxy");
    let accepts = listener.read(desk, "accept_proxy", switch).unwrap_or(false);
    let networks = listener.read_list(desk, "accept_proxy_from", false, "networks", network);
    let networks = networks.unwrap_or_default();
    match (accepts, networks.first()) {
        (false, None) => AcceptProxy::Off,
        (false, Some(first)) => {
            let key = listener.key("accept_proxy_from");
            let sentence = "found a list beside accept_proxy = false; allowed: only beside accept_proxy = true";
            desk.fault(first.at, &key, sentence);
            AcceptProxy::Off
        }
        (true, None) => {
            if let Some(open) = binds.iter().find(|bind| !is_local(&bind.value)) {
                // Anybody could claim to be anybody.
                let (key, line) = (listener.key("accept_proxy"), desk.line(open.at));
                let sentence = format!(
                    "found true, but line {line} listens beyond loopback; allowed: with accept_proxy_from, the networks \
                     of those who send the header"
                );
                desk.fault(at, &key, sentence);
            }
            AcceptProxy::Everybody
        }
        (true, Some(_)) => {
            AcceptProxy::From(networks.into_iter().map(|network| network.value).collect())
        }
    }
}

/// Whether only this machine reaches it.
fn is_local(bind: &Bind) -> bool {
    match bind {
        Bind::Unix(_) => true,
        Bind::Inet { first, .. } => is_loopback(first.ip()),
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

pub(super) fn read_routes(desk: &mut Desk<'_>, listener: &mut Section) -> Vec<RouteDraft> {
    let tables = listener.tables(desk, "route").unwrap_or_default();
    let mut routes = Vec::with_capacity(tables.len());
    for mut table in tables {
        let sni = table.require(desk, "sni", SNI_ALLOWED, server_name);
        let pool = table.require(desk, "pool", "the name of a [[pool]]", any_text);
        table.finish(desk);
        routes.push(RouteDraft {
            sni: sni.map(|sni| sni.value).unwrap_or_default(),
            pool,
        });
    }
    routes
}

const SNI_ALLOWED: &str =
    "a host name, or *. and a host name, like \"db1.example.com\" or \"*.db.example.com\"";

fn server_name(value: &Value) -> Result<String, Refusal> {
    let Value::Text(text) = value else {
        return Refusal::allowed(SNI_ALLOWED);
    };
    let name = text.strip_prefix("*.").unwrap_or(text);
    if is_host_name(name) && !name.ends_with('.') {
        Ok(text.to_ascii_lowercase())
    } else {
        Refusal::allowed(SNI_ALLOWED)
    }
}

pub(super) fn read_send_proxy(desk: &mut Desk<'_>, pool: &mut Section) -> Option<ProxyVersion> {
    let words = &[
        ("off", Some(None)),
        ("v1", Some(Some(ProxyVersion::One))),
        ("v2", Some(Some(ProxyVersion::Two))),
    ];
    pool.read(desk, "send_proxy", word(words)).flatten()
}

/// Whether cancel requests are carried to every backend.
pub(super) fn read_cancel(desk: &mut Desk<'_>, pool: &mut Section) -> bool {
    let words = &[("off", Some(false)), ("postgres", Some(true))];
    pool.read(desk, "cancel", word(words)).unwrap_or(false)
}
