//! `/v1/explain`: which backend a client would get now, and why; which were passed over, and for what reason. It is
//! computed by the same code that workers choose with, from the same counters, so that it tells what would happen.
//!
//! It reserves and changes nothing: a moment later, or for the next client in turn, the answer may be another one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::balance::{Algorithm, Draw, Latency};
use crate::handoff::{BackendShared, BreakerState, Health, Listener, Pool, Prospect, Standing};
use crate::ids::{BackendId, Nanos, PoolId};
use crate::office::board::{Board, View};
use crate::office::breakers::BreakerNote;
use crate::office::operator::unknown as no_such;

use super::bodies::bad;
use super::replies::{Reply, unknown};
use super::status::tier_list;

/// Answers the query `listener=NAME&client=IP[:PORT]`, with `sni=NAME` where server names choose the pool.
///
/// # Errors
/// A part of the question is missing, not understood or unknown.
pub fn of(board: &Board, query: Option<&str>) -> Result<Value, Reply> {
    let parts = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let parts: BTreeMap<_, _> = parts.into_owned().collect();
    let wanted = |key: &str| {
        let missing = || {
            bad(&format!(
                "{key} is missing: ask ?listener=NAME&client=IP[:PORT]"
            ))
        };
        parts.get(key).ok_or_else(missing)
    };
    let (name, client) = (wanted("listener")?, wanted("client")?);
    let (address, has_port) = parse_client(client)?;
    let view = board.view();
    let mut listeners = view.snapshot.listeners.iter();
    let listener = listeners
        .find(|listener| listener.shared.name == *name)
        .ok_or_else(|| no_listener(&view, name))?;
    let wanted = pool_of(listener, parts.get("sni").map(String::as_str));
    let mut pools = view.snapshot.pools.iter();
    let pool = pools
        .find(|pool| pool.shared.id == wanted)
        .ok_or_else(|| bad(&format!("listener {name} has no pool now")))?;
    if pool.hash_port && pool.chooser.algorithm().hashes() && !has_port {
        return Err(bad(&format!(
            "pool {} goes by address and port (hash_key = \"address-port\"): ask for client={client}:PORT",
            pool.shared.name
        )));
    }
    let mut answer = explain(board, &view, listener, pool, address);
    answer["client"] = json!(client);
    Ok(answer)
}

fn no_listener(view: &View, name: &str) -> Reply {
    let listeners = view.snapshot.listeners.iter();
    let names = listeners.map(|own| own.shared.name.as_str());
    unknown(&no_such(&format!("listener {name:?}"), name, names))
}

/// Where a client goes that asks for this server, or for none.
fn pool_of(listener: &Listener, sni: Option<&str>) -> PoolId {
    let name = sni.map(|name| name.to_ascii_lowercase());
    let routed = name.and_then(|name| listener.preface.pool_for(&name));
    routed.unwrap_or(listener.pool)
}

fn parse_client(text: &str) -> Result<(SocketAddr, bool), Reply> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address, true));
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match bare.unwrap_or(text).parse::<IpAddr>() {
        Ok(ip) => Ok((SocketAddr::new(ip, 0), false)),
        Err(_) => Err(bad(&format!(
            "client {text:?} is no address: IP, IP:PORT or [IPv6]:PORT"
        ))),
    }
}

fn explain(
    board: &Board,
    view: &View,
    listener: &Listener,
    pool: &Pool,
    client: SocketAddr,
) -> Value {
    let now = board.clock.now();
    let draw = Draw {
        turn: pool.shared.turn.load(std::sync::atomic::Ordering::Relaxed),
        random: 0,
        hash: pool.hash_of(client),
    };
    let prospect = pool.prospect(draw, now);
    let certain = prospect.odds.iter().position(|&share| share >= 1.0 - 1e-9);
    let waits = turned_back(listener, pool, client.ip(), &prospect);
    let telling = Telling {
        pool,
        now,
        changes: changes(board),
        breakers: board.breaker_notes.all(),
    };
    let candidates = (0..pool.backends.len()).map(|i| {
        json!({
            "backend": pool.backends[i].shared.name,
            "eligible": prospect.standings[i] == Standing::Open,
            "probability": prospect.odds[i],
            "why": telling.why(i, prospect.standings[i]),
        })
    });
    let candidates: Vec<Value> = candidates.collect();
    let backend = certain.filter(|_| waits.is_none());
    let algorithm = view.algorithm(pool.shared.id).unwrap_or_default();
    let reason = match (waits, certain) {
        (Some(reason), _) => reason,
        (None, Some(i)) => format!("{algorithm}: {}", telling.why(i, Standing::Open)),
        (None, None) => format!("{algorithm}: one of several, by the probabilities of each"),
    };
    let service = pool.shared.tiers.service();
    let overflows = service.serving & prospect.tiers == 0 && backend.is_some();
    let reason = match overflows {
        true => format!("{reason}; no backend of the serving tiers can take it"),
        false => reason,
    };
    json!({
        "listener": listener.shared.name,
        "pool": pool.shared.name,
        "backend": backend.map(|i| &pool.backends[i].shared.name),
        "deterministic": pool.chooser.is_deterministic() || certain.is_some(),
        "reason": reason,
        "tiers": tier_list(prospect.tiers & pool.tiers),
        "candidates": candidates,
    })
}

/// Why a client would get none at once, if so.
fn turned_back(
    listener: &Listener,
    pool: &Pool,
    client: IpAddr,
    prospect: &Prospect,
) -> Option<String> {
    let access = listener.access.as_ref();
    if access.is_some_and(|access| !access.lets_in(client)) {
        return Some("refused: denied by the listener's allow and deny lists".to_owned());
    }
    let limit = listener.shared.capacity.limit();
    if listener.shared.capacity.looks_full() {
        return Some(format!("refused: the listener has its {limit} connections"));
    }
    let waiting = pool.waiters.live();
    let found = prospect.odds.iter().any(|&share| share > 0.0);
    match (found, waiting) {
        (true, 0) => None,
        _ if waiting >= pool.waiters.size() => Some(match waiting {
            0 => "turned away: no backend can take it, and nobody may wait here".to_owned(),
            _ => format!("turned away: {waiting} clients wait, and no more may"),
        }),
        (true, _) => Some(format!("waits behind {waiting} clients who came before it")),
        (false, _) => Some(format!(
            "waits for at most {} s, {waiting} before it: no backend can take it now",
            pool.wait.timeout_ns as f64 / 1e9
        )),
    }
}

/// Why each backend's health is what it is.
fn changes(board: &Board) -> BTreeMap<BackendId, String> {
    let reports = board.check_reports().into_iter();
    reports
        .filter_map(|report| {
            let (_, reason) = report.latest.changed?;
            Some((report.backend.id, reason.to_string()))
        })
        .collect()
}

struct Telling<'a> {
    pool: &'a Pool,
    now: Nanos,
    changes: BTreeMap<BackendId, String>,
    breakers: BTreeMap<BackendId, BreakerNote>,
}

impl Telling<'_> {
    fn why(&self, i: usize, standing: Standing) -> String {
        let backend = &self.pool.backends[i];
        let shared = &backend.shared;
        match standing {
            Standing::Open => self.merits(i),
            Standing::NoWeight => "weight 0: it drains".to_owned(),
            Standing::Unresolved => "its name does not resolve".to_owned(),
            Standing::Admin(admin) => format!("admin {}", admin.word()),
            Standing::Health(Health::Ejected) => self.ejection(shared),
            Standing::Health(health) => match self.changes.get(&shared.id) {
                Some(reason) => format!("health {}: {reason}", health.word()),
                None => format!("health {}", health.word()),
            },
            Standing::Full => {
                let capacity = &shared.capacity;
                format!("full: {} of {}", capacity.used(), capacity.limit())
            }
            Standing::Tried => "tried before".to_owned(),
            Standing::Paced => "it had a new connection just now (connect_rate)".to_owned(),
            Standing::OtherTier => format!("tier {} does not serve now", backend.tier),
        }
    }

    /// Why its breaker keeps sessions away, and for how long.
    fn ejection(&self, shared: &BackendShared) -> String {
        let breaker = &shared.verdict.breaker;
        let reason = match self.breakers.get(&shared.id) {
            Some(note) => format!("ejected: {}", note.reason),
            None => "ejected".to_owned(),
        };
        let until = self
            .pool
            .breaker
            .as_ref()
            .and_then(|rules| breaker.open_until(rules));
        match (breaker.state(), until) {
            (BreakerState::Open, Some(until)) => {
                let left = until.since(self.now) as f64 / 1e9;
                format!("{reason}; it may be tried in {left:.1} s")
            }
            (BreakerState::HalfOpen, _) => format!("{reason}; others try it just now"),
            _ => reason,
        }
    }

    /// What counts for an open one.
    fn merits(&self, i: usize) -> String {
        let backend = &self.pool.backends[i];
        let shared = &backend.shared;
        let mut said = format!("{} sessions, weight {}", shared.sessions(), backend.weight);
        let ramp = self.pool.ramp(i, self.now).share();
        if ramp < 1.0 && !self.pool.chooser.algorithm().hashes() {
            said += &format!(
                ", of which {:.0} % count while it starts slowly",
                ramp * 100.0
            );
        }
        if self.pool.chooser.algorithm() == Algorithm::LeastLatency {
            said += &match shared.latency.read(self.now).map(Latency::now_ns) {
                Some(ns) => format!(", connects in {:.3} ms", ns / 1e6),
                None => ", connect time unknown".to_owned(),
            };
        }
        if backend.tier > 0 {
            said += &format!(", tier {}", backend.tier);
        }
        if shared.verdict.breaker.state() == BreakerState::HalfOpen {
            said += ", its breaker half-open: this session would be a trial";
        }
        let health = shared.verdict.checked();
        if !matches!(health, Health::Up | Health::Unknown) {
            said += &format!(", health {} ignored (fail_open)", health.word());
        }
        said
    }
}
