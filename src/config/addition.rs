//! One backend that is to join the pool of a plan in force: read as the file would write it, and compared with what it
//! comes to. The office calls this for what the operator adds to a running process.

use toml::de::DeTable;

use crate::ids::Address;

use super::crossing::OF_A_KIND_MAX;
use super::desk::Desk;
use super::plan::{BackendAddress, BackendPlan, Plan, Protocol};
use super::pool::read_backend;
use super::section::Section;

/// Reads the keys of one `[[pool.backend]]`. No variable is replaced: the text comes from outside.
///
/// # Errors
/// All faults in one line, each naming its key, what was found and what is allowed.
pub fn backend_of(text: &str) -> Result<BackendPlan, String> {
    let environment = |_: &str| None;
    let mut desk = Desk::new("", text, &environment);
    let table = DeTable::parse(text).map_err(|error| error.message().replace('\n', "; "))?;
    let table = Section::of_file(&mut desk, &table);
    let backend = read_backend(&mut desk, table).finish();
    desk.close(backend).map_err(|error| {
        let faults = error.faults.iter();
        let faults: Vec<String> = faults
            .map(|fault| format!("{}: {}", fault.key, fault.sentence))
            .collect();
        faults.join("; ")
    })
}

/// The same from a JSON object.
///
/// # Errors
/// As above.
pub fn backend_of_json(
    keys: &serde_json::Map<String, serde_json::Value>,
) -> Result<BackendPlan, String> {
    let null = keys.iter().find(|(_, value)| value.is_null());
    if let Some((key, _)) = null {
        return Err(format!(
            "{key}: found null; allowed: a value, or no such key"
        ));
    }
    let text = toml::to_string(keys).map_err(|error| error.to_string())?;
    backend_of(&text)
}

/// Whether a backend may join the pool at this place of the plan; its name is the caller's business.
///
/// # Errors
/// Why it may not, and what would be allowed.
pub fn can_join(plan: &Plan, pool: usize, backend: &BackendPlan) -> Result<(), String> {
    let count: usize = plan.pools.iter().map(|pool| pool.backends.len()).sum();
    if count >= OF_A_KIND_MAX {
        return Err(format!(
            "there are {count} backends; allowed: at most {OF_A_KIND_MAX} in all"
        ));
    }
    let refuse = |why: &str| {
        Err(format!(
            "address: found \"{}\" {why}; allowed: HOST:PORT",
            backend.address
        ))
    };
    match &backend.address {
        BackendAddress::ListenerPort { .. } => {
            refuse("for a backend that is added at run time, where ports are not compared")
        }
        BackendAddress::Fixed(Address::Unix(_)) => {
            let mut listeners = plan.listeners.iter();
            let datagrams = listeners
                .any(|it| it.protocol == Protocol::Udp && it.pools().any(|own| own == pool));
            let check = plan.pools[pool].health.check();
            if datagrams {
                refuse("in a pool of a listener with protocol = \"udp\"")
            } else if check.is_some_and(|check| check.kind.is_datagram() || check.port.is_some()) {
                refuse("in a pool whose check needs a port")
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn a_backend_reads_as_in_the_file_and_faults_name_their_key() {
        let backend = backend_of("address = \"10.0.0.1:5432\"\nweight = 7").unwrap();
        assert_eq!(backend.name, "10.0.0.1:5432");
        assert_eq!((backend.weight, backend.tier), (7, 0));
        let said = backend_of("address = \"10.0.0.1\"\nwieght = 7").unwrap_err();
        assert!(
            said.contains("address: found \"10.0.0.1\"; allowed: HOST:PORT"),
            "{said}"
        );
        assert!(said.contains("did you mean \"weight\"?"), "{said}");
        let said = backend_of("address = \"${HOST}:1\"").unwrap_err();
        assert!(said.contains("not set"), "{said}");
        assert!(backend_of("").unwrap_err().contains("address: missing"));
        let json = |text: &str| backend_of_json(&serde_json::from_str(text).unwrap());
        let same = json(r#"{"weight": 7, "name": "10.0.0.1:5432", "address": "10.0.0.1:5432"}"#);
        assert_eq!(same, Ok(backend));
        assert!(
            json(r#"{"address": null}"#)
                .unwrap_err()
                .contains("address: found null")
        );
        let said = json(r#"{"address": {"host": "a"}, "tier": 1.5}"#).unwrap_err();
        assert!(said.contains("address: found a table"), "{said}");
        assert!(said.contains("tier: found 1.5"), "{said}");
    }

    #[test]
    fn a_unix_socket_joins_only_where_nothing_needs_a_port() {
        let plan = |protocol: &str, health: &str| {
            let text = format!(
                "[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:7000\"\nprotocol = \"{protocol}\"\npool = \"p\"\n\
                 [[pool]]\nname = \"p\"\n[pool.health]\n{health}\n[[pool.backend]]\naddress = \"127.0.0.1:1\"\n"
            );
            parse(&text, "test", &|_| None).unwrap()
        };
        let unix = backend_of("name = \"u\"\naddress = \"unix:/x\"").unwrap();
        assert_eq!(can_join(&plan("tcp", ""), 0, &unix), Ok(()));
        assert!(can_join(&plan("tcp", "port = 8"), 0, &unix).is_err());
        assert!(can_join(&plan("udp", "kind = \"none\""), 0, &unix).is_err());
        let port = backend_of("name = \"u\"\naddress = \"10.0.0.1:+0\"").unwrap();
        assert!(can_join(&plan("tcp", ""), 0, &port).is_err());
    }
}
