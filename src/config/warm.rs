//! Reads `[pool.warm]`: how many connections are opened before a client needs them, and what the protocol allows there.
//! Nothing here knows how they are kept.

use std::time::Duration;

use super::desk::Desk;
use super::measure::{HOUR, MILLISECOND, duration, shown, switch, whole, word};
use super::plan::{BackendAddress, Plan, PoolPlan, WarmPlan, WarmProfile};
use super::pool::BackendDraft;
use super::section::Section;

/// Each costs the server a process or a place, so more than a few per backend do harm.
const SIZE_MAX: i128 = 16;

const PROFILES: &[(&str, Option<WarmProfile>)] = &[
    ("generic", Some(WarmProfile::Generic)),
    ("postgres", Some(WarmProfile::Postgres)),
    ("mysql", Some(WarmProfile::Mysql)),
    ("redis", Some(WarmProfile::Redis)),
];

/// `None`: the pool keeps none.
pub(super) fn read_warm(
    desk: &mut Desk<'_>,
    pool: &mut Section,
    sends_proxy: bool,
) -> Option<WarmPlan> {
    let mut table = pool.table(desk, "warm")?;
    let size: u32 = table.read(desk, "size", whole(0..=SIZE_MAX)).unwrap_or(0);
    let max_age = table.read(desk, "max_age", duration(MILLISECOND, HOUR));
    let profile_at = table.place_of("profile");
    let profile = table
        .read(desk, "profile", word(PROFILES))
        .unwrap_or(WarmProfile::Generic);
    let force = table.read(desk, "force", switch).unwrap_or(false);
    let (at, key) = (table.at(), table.key(""));
    table.finish(desk);
    if size == 0 {
        return None;
    }
    if profile == WarmProfile::Mysql && !force {
        desk.fault(
            profile_at,
            &format!("{key}profile"),
            "found \"mysql\", where each connection that nobody uses counts towards the server's max_connect_errors; \
             allowed: with force = true",
        );
    }
    if sends_proxy && !force {
        desk.fault(
            at,
            &format!("{key}size"),
            format!(
                "found {size} in a pool that sends the PROXY header, which a server may expect at once, and here gets at \
                 hand-out; allowed: with force = true"
            ),
        );
    }
    Some(WarmPlan {
        size,
        max_age: max_age.unwrap_or(profile.max_age()),
        profile,
    })
}

/// A warm connection is opened before there is a client, so before there is a client's port.
pub(super) fn check_backends(desk: &mut Desk<'_>, plan: &PoolPlan, backends: &[BackendDraft]) {
    if plan.warm.is_none() {
        return;
    }
    for address in backends.iter().filter_map(|draft| draft.address.as_ref()) {
        if matches!(address.value, BackendAddress::ListenerPort { .. }) {
            let sentence = format!(
                "found \"{}\" in a pool with warm connections, which have no client's port; allowed: HOST:PORT",
                address.value
            );
            desk.fault(address.at, "pool.backend.address", sentence);
        }
    }
}

/// What `ringway check` says of warm connections: one sentence for each pool that keeps some.
#[must_use]
pub fn sentences(plan: &Plan) -> Vec<String> {
    let warm = plan
        .pools
        .iter()
        .filter_map(|pool| Some((pool, pool.warm?)));
    warm.map(|(pool, warm)| {
        let (least, most) = (warm.max_age.mul_f64(0.8), warm.max_age.mul_f64(1.2));
        format!(
            "pool {}: {} warm connections per backend, replaced at an age of {} to {}; profile {}: {}",
            pool.name,
            warm.size,
            shown(least),
            shown(most),
            warm.profile.word(),
            warm.profile.explanation()
        )
    })
    .collect()
}

impl WarmProfile {
    /// As in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            WarmProfile::Generic => "generic",
            WarmProfile::Postgres => "postgres",
            WarmProfile::Mysql => "mysql",
            WarmProfile::Redis => "redis",
        }
    }

    /// A third of the time that such a server waits for a client's first bytes, as configured by default.
    #[must_use]
    pub fn max_age(self) -> Duration {
        Duration::from_secs(match self {
            WarmProfile::Generic => 5,
            WarmProfile::Postgres => 15,
            WarmProfile::Mysql => 3,
            WarmProfile::Redis => 60,
        })
    }

    fn explanation(self) -> &'static str {
        match self {
            WarmProfile::Generic => {
                "anything that the server says before a client does ends the connection; only a TLS ClientHello is sent \
                 again when the server closes at hand-out"
            }
            WarmProfile::Postgres => {
                "a client's SSLRequest, StartupMessage or TLS ClientHello is sent again when the server closes at \
                 hand-out"
            }
            WarmProfile::Mysql => {
                "the server's greeting waits for the client; unused connections are closed by reset, and after 10 in a \
                 row none is opened until a client comes"
            }
            WarmProfile::Redis => {
                "anything that the server says before a client does ends the connection; commands are never sent again"
            }
        }
    }
}
