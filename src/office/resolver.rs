//! Turns host names into addresses, with a deadline. A name that stops resolving keeps the addresses it had, so that a
//! failing name server takes nothing down; one that never resolved is reported with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::{BackendAddress, Host, Plan};

/// All lookups of a plan together may take this long.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often names are looked up again.
pub const AGAIN: Duration = Duration::from_secs(30);

/// What is known of each name: its addresses in the resolver's order, or why there are none.
pub type Resolved = BTreeMap<String, Result<Vec<IpAddr>, String>>;

/// The host names that a plan's backends use.
#[must_use]
pub fn names_of(plan: &Plan) -> BTreeSet<String> {
    let backends = plan.pools.iter().flat_map(|pool| &pool.backends);
    let names = backends.filter_map(|backend| match &backend.address {
        BackendAddress::Name { host, .. }
        | BackendAddress::ListenerPort {
            host: Host::Name(host),
            ..
        } => Some(host.clone()),
        _ => None,
    });
    names.collect()
}

/// Looks all names up at the same time.
pub async fn resolve(names: BTreeSet<String>) -> Resolved {
    let mut lookups = tokio::task::JoinSet::new();
    for name in names.clone() {
        lookups.spawn(async move {
            let outcome = match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(found) => {
                    let mut addresses: Vec<IpAddr> = Vec::new();
                    for address in found.map(|address| address.ip()) {
                        if !addresses.contains(&address) {
                            addresses.push(address);
                        }
                    }
                    match addresses.is_empty() {
                        true => Err("it has no address".to_owned()),
                        false => Ok(addresses),
                    }
                }
                Err(error) => Err(plain(&error.to_string())),
            };
            (name, outcome)
        });
    }
    let mut resolved: Resolved = names
        .into_iter()
        .map(|name| (name, Err("the name server does not answer".to_owned())))
        .collect();
    let all = async {
        while let Some(done) = lookups.join_next().await {
            if let Ok((name, outcome)) = done {
                resolved.insert(name, outcome);
            }
        }
    };
    // What is not there by then stays an error until the next round.
    let _ = tokio::time::timeout(PATIENCE, all).await;
    resolved
}

/// Without the library's preamble.
fn plain(error: &str) -> String {
    let preamble = "failed to lookup address information: ";
    error.strip_prefix(preamble).unwrap_or(error).to_owned()
}

/// Merges a new round into what is known. A failure does not overwrite addresses. An address that was in use stays in
/// front while the name still has it, so that a rotating answer does not move a backend around.
#[must_use]
pub fn merge(before: &Resolved, mut now: Resolved) -> Resolved {
    for (name, outcome) in &mut now {
        let Some(Ok(known)) = before.get(name) else {
            continue;
        };
        match outcome {
            Err(_) => *outcome = Ok(known.clone()),
            Ok(addresses) => {
                if let Some(place) = addresses.iter().position(|a| known.first() == Some(a)) {
                    addresses[..=place].rotate_right(1);
                }
            }
        }
    }
    now
}

/// Whether any backend's address would change.
#[must_use]
pub fn differs(before: &Resolved, now: &Resolved) -> bool {
    let first = |outcome: &Result<Vec<IpAddr>, String>| match outcome {
        Ok(addresses) => Ok(addresses.first().copied()),
        Err(reason) => Err(reason.clone()),
    };
    now.iter()
        .any(|(name, outcome)| before.get(name).map(first) != Some(first(outcome)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str, outcome: Result<&[&str], &str>) -> Resolved {
        let outcome = outcome
            .map(|list| list.iter().map(|ip| ip.parse().unwrap()).collect())
            .map_err(str::to_owned);
        BTreeMap::from([(name.to_owned(), outcome)])
    }

    #[test]
    fn a_failing_name_server_takes_nothing_down() {
        let before = known("db", Ok(&["192.0.2.1"]));
        let merged = merge(&before, known("db", Err("SERVFAIL")));
        assert_eq!(merged, before);
        assert!(!differs(&before, &merged));
    }

    #[test]
    fn a_rotating_answer_moves_nothing_but_a_lost_address_does() {
        let before = known("db", Ok(&["192.0.2.1", "192.0.2.2"]));
        let rotated = merge(
            &before,
            known("db", Ok(&["192.0.2.2", "192.0.2.3", "192.0.2.1"])),
        );
        assert!(!differs(&before, &rotated));
        let moved = merge(&before, known("db", Ok(&["192.0.2.2"])));
        assert!(differs(&before, &moved));
    }
}
