//! Reads `[global]`.

use std::path::PathBuf;
use std::time::Duration;

use super::desk::Desk;
use super::measure::{Refusal, YEAR, duration, duration_or_off, whole, word};
use super::plan::{AccessLog, GlobalPlan, LogFormat, Spin};
use super::section::{Section, Value};

/// Each takes two descriptors; the kernel's own limit for a process (fs.nr_open) is 1048576 of them unless it was raised.
const SESSIONS_MAX: i128 = 1_048_576;

const ACCESS_LOGS: &str = "off | stdout | stderr | a file's path with a / in it";

pub(super) fn read_global(desk: &mut Desk<'_>, mut table: Section) -> GlobalPlan {
    let (user, group) = read_account(desk, &mut table);
    let plan = GlobalPlan {
        workers: table
            .read(desk, "workers", whole(0..=1024))
            .filter(|&workers| workers != 0),
        pin: table
            .read(
                desk,
                "pin",
                word(&[("on", Some(true)), ("off", Some(false))]),
            )
            .unwrap_or(true),
        max_sessions: table
            .read(desk, "max_sessions", whole(0..=SESSIONS_MAX))
            .filter(|&sessions| sessions != 0),
        shutdown_grace: table
            .read(desk, "shutdown_grace", duration(Duration::ZERO, YEAR))
            .unwrap_or(Duration::from_secs(300)),
        shutdown_delay: table
            .read(desk, "shutdown_delay", duration(Duration::ZERO, YEAR))
            .unwrap_or(Duration::ZERO),
        upgrade_grace: read_upgrade_grace(desk, &mut table),
        access_log: table
            .read(desk, "access_log", access_log)
            .unwrap_or(AccessLog::Off),
        access_log_format: table
            .read(
                desk,
                "access_log_format",
                word(&[
                    ("text", Some(LogFormat::Text)),
                    ("json", Some(LogFormat::Json)),
                ]),
            )
            .unwrap_or(LogFormat::Text),
        log_interval: table
            .read(
                desk,
                "log_interval",
                duration_or_off(Duration::from_secs(1), YEAR),
            )
            .flatten(),
        spin: table.read(desk, "spin", spin).unwrap_or(Spin::Off),
        user,
        group,
        sandbox: table
            .read(
                desk,
                "sandbox",
                word(&[("on", Some(true)), ("off", Some(false))]),
            )
            .unwrap_or(true),
    };
    table.finish(desk);
    plan
}

fn read_upgrade_grace(desk: &mut Desk<'_>, table: &mut Section) -> Option<Duration> {
    let shortest = Duration::from_secs(1);
    let read = duration_or_off(shortest, YEAR);
    table.read(desk, "upgrade_grace", read).flatten()
}

fn read_account(desk: &mut Desk<'_>, table: &mut Section) -> (Option<String>, Option<String>) {
    let group_at = table.place_of("group");
    let mut name = |key| {
        let found = table.read(desk, key, account_name);
        found.filter(|name| !name.is_empty())
    };
    let (user, group) = (name("user"), name("group"));
    if user.is_none() && group.is_some() {
        let sentence = "found a group without a user; allowed: only beside user";
        desk.fault(group_at, "global.group", sentence);
    }
    (user, group)
}

fn account_name(value: &Value) -> Result<String, Refusal> {
    match value {
        Value::Text(text) if text.len() <= 256 && !text.contains(['\0', ':']) => Ok(text.clone()),
        _ => Refusal::allowed("a name of this machine's, or \"\" for nobody else"),
    }
}

fn access_log(value: &Value) -> Result<AccessLog, Refusal> {
    let Value::Text(text) = value else {
        return Refusal::allowed(ACCESS_LOGS);
    };
    match text.as_str() {
        "off" => Ok(AccessLog::Off),
        "stdout" => Ok(AccessLog::Stdout),
        "stderr" => Ok(AccessLog::Stderr),
        // Without a slash it is more likely a misspelt word than a file in an unknown directory.
        path if path.contains('/') && !path.ends_with('/') && !path.contains('\0') => {
            Ok(AccessLog::File(PathBuf::from(path)))
        }
        _ => Refusal::allowed(ACCESS_LOGS),
    }
}

fn spin(value: &Value) -> Result<Spin, Refusal> {
    const LONGEST: Duration = Duration::from_secs(1);
    if let Value::Text(text) = value
        && text == "auto"
    {
        return Ok(Spin::Auto);
    }
    match duration_or_off(Duration::from_micros(1), LONGEST)(value) {
        Ok(Some(time)) => Ok(Spin::Fixed(time)),
        Ok(None) => Ok(Spin::Off),
        Err(_) => {
            Refusal::allowed("a duration from \"1us\" to \"1s\", \"0us\" for off, or \"auto\"")
        }
    }
}
