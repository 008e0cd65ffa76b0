//! The front desk: a configuration file's text becomes a validated [`Plan`], or a [`ConfigError`] that names file, line,
//! key, what was found and what is allowed.
//!
//! It must not bind, resolve, or look at the machine: what it needs to know about that is handed in. The office and the
//! commands call it; the data plane never sees it.

mod addition;
mod admin;
pub mod breaker;
pub mod budget;
mod check_plan;
mod crossing;
mod desk;
mod extras;
mod fault;
mod global;
mod health;
mod kinds;
mod limits;
mod listener;
mod login;
mod measure;
mod near;
mod options;
mod place;
mod plan;
mod pool;
mod preface;
mod section;
pub mod tiers;
mod udp;
pub mod warm;
pub mod worst;
mod written;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::de::DeTable;

use crossing::{Drafts, cross};
use desk::Desk;
use section::Section;

pub use addition::{backend_of, backend_of_json, can_join};
pub use admin::admin_socket;
pub use breaker::BreakerPlan;
pub use check_plan::{
    CheckKind, CheckPlan, DnsPlan, Expect, HealthPlan, HttpPlan, LoginPlan, Pattern, Said,
    StepPlan, UdpPlan,
};
pub use fault::{ConfigError, Fault};
pub use measure::{Rate, duration_of, rate_of, shown as duration_text};
pub use near::near_matches;
pub use place::backend_address_of;
pub use plan::{
    AcceptProxy, AccessLog, AdminPlan, Algorithm, BackendAddress, BackendPlan, FlowPlan,
    GlobalPlan, HashKey, Host, Keepalive, LimitsPlan, ListenerPlan, LogFormat, OnFin, OnLoss, Plan,
    PoolPlan, Protocol, ProxyVersion, RoutePlan, Spin, WaitPlan, WarmPlan, WarmProfile,
};
pub use tiers::{TierMode, TierPlan};
pub use written::written;

/// A larger file is refused unread: it is not a configuration but a mistake (a device, a log).
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads the file and replaces `${NAME}` from this process's environment.
///
/// # Errors
/// The file cannot be read, or its text does not validate.
pub fn load(path: &Path) -> Result<Plan, ConfigError> {
    let name = path.display().to_string();
    match read(path) {
        Ok(text) => parse(&text, &name, &|variable| std::env::var(variable).ok()),
        Err(sentence) => Err(ConfigError {
            faults: vec![Fault {
                file: name,
                line: None,
                key: String::new(),
                sentence,
            }],
        }),
    }
}

fn read(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    let mut bounded = file.take(FILE_BYTES_MAX + 1);
    bounded.read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!(
            "found more than {} MiB; allowed: at most that",
            FILE_BYTES_MAX >> 20
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("found a byte that is not UTF-8 at offset {at}; allowed: UTF-8 text")
    })
}

/// Validates a configuration's text; `file_name` is for messages only, `environment` answers `${NAME}`.
///
/// # Errors
/// All faults found, in the order of lines; of faults in the TOML itself only the first.
pub fn parse(
    text: &str,
    file_name: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Plan, ConfigError> {
    let mut desk = Desk::new(file_name, text, environment);
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            let message = error.message().replace('\n', "; ");
            desk.fault(at, "", format!("not valid TOML: {message}"));
            return desk.close(None);
        }
    };
    let file = Section::of_file(&mut desk, &table);
    let drafts = read_file(&mut desk, file);
    let plan = cross(&mut desk, drafts);
    desk.close(Some(plan))
}

fn read_file(desk: &mut Desk<'_>, mut file: Section) -> Drafts {
    let absent = |path| Section::absent(path, 0);
    let global = file
        .table(desk, "global")
        .unwrap_or_else(|| absent("global"));
    let admin = file.table(desk, "admin").unwrap_or_else(|| absent("admin"));
    let present = file.has("listener");
    let listeners = file.tables(desk, "listener");
    if !present || listeners.as_ref().is_some_and(Vec::is_empty) {
        desk.fault_of_file("listener", "missing; allowed: at least one [[listener]]");
    }
    let listeners = listeners.unwrap_or_default();
    let pools = file.tables(desk, "pool").unwrap_or_default();
    file.finish(desk);
    Drafts {
        global: global::read_global(desk, global),
        admin: admin::read_admin(desk, admin),
        listeners: listeners
            .into_iter()
            .map(|table| listener::read_listener(desk, table))
            .collect(),
        pools: pools
            .into_iter()
            .map(|table| pool::read_pool(desk, table))
            .collect(),
    }
}
