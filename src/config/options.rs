//! Reads what listeners and pools share: keepalive and user timeout of their sockets.

use std::time::Duration;

use super::desk::Desk;
use super::measure::{MILLISECOND, Refusal, duration_or_off, parse_duration, whole};
use super::plan::Keepalive;
use super::section::{Section, Value};

/// MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL of the kernel's tcp.h.
const KEEPALIVE_SECONDS_MAX: u64 = 32_767;
/// MAX_TCP_KEEPCNT.
const KEEPALIVE_COUNT_MAX: i128 = 127;
/// TCP_USER_TIMEOUT is an int of milliseconds; 24 days stay inside it.
const USER_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 24 * 3600);

/// `None` if turned off by `idle = "0s"`.
pub(super) fn read_keepalive(desk: &mut Desk<'_>, owner: &mut Section) -> Option<Keepalive> {
    let path = owner.key("keepalive");
    let mut table = owner
        .table(desk, "keepalive")
        .unwrap_or_else(|| Section::absent(&path, owner.at()));
    let idle = table
        .read(desk, "idle", |value| match parse_duration(value) {
            Some(Duration::ZERO) => Ok(Duration::ZERO),
            _ => seconds(value, ", or \"0s\" for off"),
        })
        .unwrap_or(Duration::from_secs(60));
    let interval = table
        .read(desk, "interval", |value| seconds(value, ""))
        .unwrap_or(Duration::from_secs(10));
    let count = table
        .read(desk, "count", whole(1..=KEEPALIVE_COUNT_MAX))
        .unwrap_or(3);
    table.finish(desk);
    (!idle.is_zero()).then_some(Keepalive {
        idle,
        interval,
        count,
    })
}

/// The kernel counts keepalive in whole seconds.
fn seconds(value: &Value, also: &str) -> Result<Duration, Refusal> {
    match parse_duration(value) {
        Some(time)
            if time.subsec_nanos() == 0
                && (1..=KEEPALIVE_SECONDS_MAX).contains(&time.as_secs()) =>
        {
            Ok(time)
        }
        _ => Refusal::allowed(format!(
            "a duration of whole seconds from \"1s\" to \"{KEEPALIVE_SECONDS_MAX}s\"{also}"
        )),
    }
}

pub(super) fn read_user_timeout(desk: &mut Desk<'_>, owner: &mut Section) -> Option<Duration> {
    owner
        .read(
            desk,
            "user_timeout",
            duration_or_off(MILLISECOND, USER_TIMEOUT_MAX),
        )
        .flatten()
}
