//! Writes `[[pool]]`, its tables and its backends.

use std::time::Duration;

use crate::config::breaker::BreakerPlan;
use crate::config::measure::shown;
use crate::config::plan::{
    BackendPlan, FlowPlan, HashKey, OnFin, OnLoss, PoolPlan, ProxyVersion, WaitPlan, WarmPlan,
    WarmProfile,
};
use crate::config::tiers::{TierMode, TierPlan};

use super::health::write_health;
use super::page::{Page, quoted};
use super::{or_off, rate_text, write_keepalive};

pub(super) fn write_pool(page: &mut Page, plan: &PoolPlan) {
    let PoolPlan {
        name,
        algorithm,
        hash_key,
        hash_seed,
        source,
        connect_timeout,
        connect_attempts,
        connect_budget,
        wait,
        connect_rate,
        idle_timeout,
        half_close_timeout,
        max_lifetime,
        keepalive,
        user_timeout,
        on_down,
        on_drain,
        tiers,
        send_proxy,
        cancel,
        on_role_change,
        health,
        udp,
        warm,
        breaker,
        backends,
    } = plan;
    page.table("[[pool]]");
    page.text_line("name", name);
    page.text_line("algorithm", algorithm.word());
    page.text_line("hash_key", hash_key_word(*hash_key));
    page.line("hash_seed", hash_seed);
    page.list("source", source);
    page.text_line("connect_timeout", shown(*connect_timeout));
    page.line("connect_attempts", connect_attempts);
    page.text_line("connect_budget", shown(*connect_budget));
    write_wait(page, *wait);
    page.text_line("connect_rate", rate_text(*connect_rate));
    page.text_line("idle_timeout", or_off(*idle_timeout));
    page.text_line("half_close_timeout", shown(*half_close_timeout));
    page.text_line("max_lifetime", or_off(*max_lifetime));
    page.text_line("send_proxy", send_proxy_word(*send_proxy));
    write_keepalive(page, *keepalive);
    page.text_line("user_timeout", or_off(*user_timeout));
    write_tiers(page, tiers);
    page.text_line("on_down", on_loss(*on_down));
    page.text_line("on_drain", on_loss(*on_drain));
    page.text_line("on_role_change", on_loss(*on_role_change));
    page.text_line("cancel", if *cancel { "postgres" } else { "off" });
    write_health(page, health);
    write_udp(page, *udp);
    write_warm(page, *warm, send_proxy.is_some());
    write_breaker(page, *breaker);
    for backend in backends {
        write_backend(page, backend);
    }
}

fn hash_key_word(key: HashKey) -> &'static str {
    match key {
        HashKey::Address => "address",
        HashKey::AddressPort => "address-port",
    }
}

fn send_proxy_word(version: Option<ProxyVersion>) -> &'static str {
    match version {
        None => "off",
        Some(ProxyVersion::One) => "v1",
        Some(ProxyVersion::Two) => "v2",
    }
}

fn write_wait(page: &mut Page, plan: WaitPlan) {
    let WaitPlan {
        size,
        timeout,
        on_fin,
    } = plan;
    let on_fin = match on_fin {
        OnFin::Keep => "keep",
        OnFin::Leave => "leave",
    };
    let timeout = quoted(shown(timeout));
    page.line(
        "wait",
        format!("{{ size = {size}, timeout = {timeout}, on_fin = \"{on_fin}\" }}"),
    );
}

fn write_tiers(page: &mut Page, plan: &TierPlan) {
    let TierPlan {
        min_eligible,
        mode,
        failback_after,
        fail_open,
        slow_start,
    } = plan;
    page.line("min_eligible", min_eligible);
    page.text_line(
        "tier_mode",
        match mode {
            TierMode::Takeover => "takeover",
            TierMode::Join => "join",
        },
    );
    page.text_line("failback_after", shown(*failback_after));
    page.line("fail_open", fail_open);
    page.text_line("slow_start", or_off(*slow_start));
}

fn on_loss(rule: OnLoss) -> String {
    match rule {
        OnLoss::Keep => "keep".to_owned(),
        OnLoss::Close {
            over: Duration::ZERO,
        } => "close".to_owned(),
        OnLoss::Close { over } => format!("close over {}", shown(over)),
    }
}

fn write_udp(page: &mut Page, plan: FlowPlan) {
    let FlowPlan {
        idle_timeout,
        responses,
        requests,
        max_flows,
        send_proxy_every,
    } = plan;
    page.table("[pool.udp]");
    page.text_line("idle_timeout", shown(idle_timeout));
    page.line("responses", responses);
    page.line("requests", requests);
    page.line("max_flows", max_flows.unwrap_or(0));
    page.line("send_proxy_every", send_proxy_every);
}

/// `force` stands where the reader would insist on it.
fn write_warm(page: &mut Page, plan: Option<WarmPlan>, sends_proxy: bool) {
    page.table("[pool.warm]");
    let Some(WarmPlan {
        size,
        max_age,
        profile,
    }) = plan
    else {
        page.line("size", 0);
        return;
    };
    page.line("size", size);
    page.text_line("max_age", shown(max_age));
    page.text_line("profile", profile.word());
    page.line("force", profile == WarmProfile::Mysql || sends_proxy);
}

fn write_breaker(page: &mut Page, plan: Option<BreakerPlan>) {
    page.table("[pool.breaker]");
    let Some(BreakerPlan {
        consecutive_failures,
        early_reset,
        error_percent,
        window,
        volume,
        open,
        open_max,
        trials,
        max_ejected_percent,
    }) = plan
    else {
        page.line("max_ejected_percent", 0);
        return;
    };
    page.line("consecutive_failures", consecutive_failures);
    page.text_line("early_reset", shown(early_reset));
    page.line("error_percent", error_percent);
    page.text_line("window", shown(window));
    page.line("volume", volume);
    page.text_line("open", shown(open));
    page.text_line("open_max", shown(open_max));
    page.line("trials", trials);
    page.line("max_ejected_percent", max_ejected_percent);
}

fn write_backend(page: &mut Page, plan: &BackendPlan) {
    let BackendPlan {
        name,
        address,
        weight,
        max_connections,
        tier,
    } = plan;
    page.table("[[pool.backend]]");
    // Without a name of its own it is called by its address, which a name given could not be.
    if *name != address.to_string() {
        page.text_line("name", name);
    }
    page.text_line("address", address);
    page.line("weight", weight);
    page.line("tier", tier);
    page.line("max_connections", max_connections.unwrap_or(0));
}
