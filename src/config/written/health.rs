//! Writes `[pool.health]`: what all checks have in common, and what each kind says and wants to hear.

use std::path::Path;

use crate::config::check_plan::{
    CheckKind, CheckPlan, DnsPlan, Expect, HealthPlan, HttpPlan, LoginPlan, Said, StepPlan, UdpPlan,
};
use crate::config::kinds::record_word;
use crate::config::measure::shown;

use super::page::{Page, quoted};

pub(super) fn write_health(page: &mut Page, plan: &HealthPlan) {
    page.table("[pool.health]");
    let HealthPlan::Check(check) = plan else {
        page.text_line("kind", "none");
        return;
    };
    let CheckPlan {
        kind,
        interval,
        fast_interval,
        timeout,
        rise,
        fall,
        port,
    } = check;
    page.text_line("kind", kind.word());
    page.text_line("interval", shown(*interval));
    page.text_line("fast_interval", shown(*fast_interval));
    page.text_line("timeout", shown(*timeout));
    page.line("rise", rise);
    page.line("fall", fall);
    page.line("port", port.unwrap_or(0));
    match kind {
        CheckKind::Tcp => {}
        CheckKind::SendExpect(steps) => {
            let steps: Vec<String> = steps.iter().map(step).collect();
            page.line("step", format!("[{}]", steps.join(", ")));
        }
        CheckKind::Http(http) => write_http(page, http),
        CheckKind::Postgres(login) | CheckKind::Mysql(login) | CheckKind::Redis(login) => {
            write_login(page, login);
        }
        CheckKind::Dns(DnsPlan { name, record }) => {
            page.text_line("query", format!("{name}. {}", record_word(*record)));
        }
        CheckKind::Udp(UdpPlan { send, expect }) => {
            page.text_line("send", said(send));
            if let Some(expect) = expect {
                page.text_line("expect", said(expect));
            }
        }
    }
}

fn step(StepPlan { send, expect }: &StepPlan) -> String {
    let send = quoted(said(send));
    match expect {
        None => format!("{{ send = {send} }}"),
        Some(Expect::Bytes(bytes)) => {
            format!("{{ send = {send}, expect = {} }}", quoted(said(bytes)))
        }
        Some(Expect::Pattern(pattern)) => {
            let pattern = quoted(pattern.0.as_str());
            format!("{{ send = {send}, expect_regex = {pattern} }}")
        }
    }
}

fn write_http(page: &mut Page, plan: &HttpPlan) {
    let HttpPlan {
        method,
        path,
        host,
        status,
    } = plan;
    page.text_line("method", method);
    page.text_line("path", path);
    page.text_line("host", host.as_deref().unwrap_or_default());
    let ranges = status.iter().map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    page.text_line("status", ranges.collect::<Vec<_>>().join(","));
}

fn write_login(page: &mut Page, plan: &LoginPlan) {
    let LoginPlan {
        user,
        // Not to be shown; where it is, is.
        password: _,
        password_file,
        database,
        role,
    } = plan;
    page.text_line("user", user.as_deref().unwrap_or_default());
    let file = password_file.as_deref().map(Path::display);
    page.text_line(
        "password_file",
        file.map(|path| path.to_string()).unwrap_or_default(),
    );
    page.text_line("database", database.as_deref().unwrap_or_default());
    page.text_line(
        "role",
        role.map_or("any".to_owned(), |role| role.to_string()),
    );
}

/// Text where the file could say it as text, else its bytes.
fn said(Said(bytes): &Said) -> String {
    let plain = |text: &&str| {
        let odd = |c: char| c.is_control() && !"\r\n\t".contains(c);
        !text.starts_with("hex:") && !text.contains("${") && !text.contains(odd)
    };
    match std::str::from_utf8(bytes).ok().filter(plain) {
        Some(text) => text.to_owned(),
        None => {
            let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("hex:{}", digits.join(" "))
        }
    }
}
