//! `ringway check`: validates, and prints what would run, what it needs, and the worst-case times that follow.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use super::{Ending, out};
use crate::config::{HealthPlan, ListenerPlan, Plan, breaker, duration_text, tiers, warm, worst};
use crate::office;

pub(super) fn check(file: &Path, defaults: bool) -> Result<(), Ending> {
    let plan = crate::config::load(file)?;
    let mut text = String::new();
    let mut budget = office::survey(&plan)?;
    if let Some(stored) = installed_store() {
        budget.hold_against_store(stored);
    }
    let workers = office::workers_of(&plan.global);
    let _ = describe(&mut text, &plan, workers);
    let _ = writeln!(text, "\nbudget\n{}", indented(&budget.to_string()));
    let _ = writeln!(
        text,
        "worst case\n{}",
        indented(&worst::sentences(&plan).join("\n"))
    );
    let breakers = breaker::sentences(&plan).join("\n");
    let _ = writeln!(text, "circuit breaking\n{}", indented(&breakers));
    let warm = warm::sentences(&plan);
    if !warm.is_empty() {
        let _ = writeln!(text, "warm connections\n{}", indented(&warm.join("\n")));
    }
    if defaults {
        text = commented(&text) + "\n" + &crate::config::written(&plan);
    }
    out::say(&text);
    for warning in budget.warnings() {
        out::complain(&format!("warning: {warning}"));
    }
    let shortages = budget.shortages();
    if !shortages.is_empty() {
        return Err(Ending {
            status: 3,
            sentence: shortages.join("; "),
        });
    }
    Ok(())
}

/// How many descriptors systemd would keep for the unit that is installed here, if one is.
fn installed_store() -> Option<u64> {
    let asked = ["LoadState", "FileDescriptorStoreMax"];
    let done = Command::new("systemctl")
        .args(["show", "ringway.service"])
        .args(asked.map(|property| format!("--property={property}")))
        .output()
        .ok()?;
    store_of(&String::from_utf8_lossy(&done.stdout))
}

fn store_of(shown: &str) -> Option<u64> {
    let value = |key: &str| {
        let mut lines = shown.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    (value("LoadState") == Some("loaded")).then_some(())?;
    value("FileDescriptorStoreMax")?.parse().ok()
}

/// The plan in words, as the head of a file that has it in full.
fn commented(text: &str) -> String {
    let lines = text.trim_end().lines();
    let lines = lines.map(|line| format!("# {line}").trim_end().to_owned() + "\n");
    lines.collect()
}

fn indented(text: &str) -> String {
    let lines = text.trim_end().lines();
    lines.map(|line| format!("  {line}\n")).collect()
}

fn describe(out: &mut String, plan: &Plan, workers: u16) -> std::fmt::Result {
    writeln!(out, "workers {workers}")?;
    match plan.admin.bind {
        Some(address) => writeln!(out, "admin http://{address}")?,
        None => writeln!(out, "admin off")?,
    }
    for listener in &plan.listeners {
        let binds: Vec<String> = listener.binds.iter().map(ToString::to_string).collect();
        let binds = match binds.len() {
            0..=4 => binds.join(", "),
            many => format!("{} … {} ({many} addresses)", binds[0], binds[many - 1]),
        };
        let pool = &plan.pools[listener.pool].name;
        let limits = limits(listener);
        writeln!(
            out,
            "listener {} on {binds} -> pool {pool}{limits}",
            listener.name
        )?;
    }
    for pool in &plan.pools {
        let check = match &pool.health {
            HealthPlan::None => "no check".to_owned(),
            HealthPlan::Check(check) => {
                let kind = check.kind.word();
                let role = match check.kind.role() {
                    Some(role) => format!(" for the role {role}"),
                    None => String::new(),
                };
                format!("{kind} check{role} every {}", duration_text(check.interval))
            }
        };
        let algorithm = pool.algorithm_text();
        writeln!(out, "pool {}: {algorithm}, {check}", pool.name)?;
        for sentence in tiers::sentences(pool) {
            writeln!(out, "  {sentence}")?;
        }
        for backend in &pool.backends {
            let limit = match backend.max_connections {
                Some(limit) => format!(", at most {limit} connections"),
                None => String::new(),
            };
            let tier = match backend.tier {
                0 => String::new(),
                tier => format!(", tier {tier}"),
            };
            writeln!(
                out,
                "  backend {} at {}, weight {}{limit}{tier}",
                backend.name, backend.address, backend.weight
            )?;
        }
    }
    Ok(())
}

/// What a listener holds its clients to.
fn limits(listener: &ListenerPlan) -> String {
    let limits = &listener.limits;
    let mut said = Vec::new();
    let mut say = |what: Option<String>| said.extend(what);
    say(listener
        .max_connections
        .map(|most| format!("at most {most} connections")));
    say(limits.rate.map(|rate| format!("{rate} new ones")));
    say(limits
        .source_connections
        .map(|most| format!("{most} per source")));
    say(limits
        .source_rate
        .map(|rate| format!("{rate} new ones per source")));
    let networks =
        |word: &str, count: usize| (count > 0).then(|| format!("{word} {count} networks"));
    say(networks("allow", limits.allow.len()));
    say(networks("deny", limits.deny.len()));
    said.iter().map(|what| format!(", {what}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_installed_unit_has_a_store() {
        let shown = |state: &str| format!("FileDescriptorStoreMax=4096\nLoadState={state}\n");
        assert_eq!(store_of(&shown("loaded")), Some(4096));
        assert_eq!(store_of(&shown("not-found")), None);
        assert_eq!(store_of(""), None);
    }
}
