//! The worst-case times that follow from a plan: how long a dead backend stays unnoticed, how long a client may wait.
//!
//! Pure sums; `ringway check` prints them. They hold for the prober's rules: intervals (± 10 %) are from start to start, a
//! check that takes longer delays the next one; the fast interval while rising or falling; a refused connection counts
//! as two failures.

use std::time::Duration;

use crate::ids::Role;

use super::check_plan::{CheckPlan, HealthPlan};
use super::plan::{Plan, PoolPlan};

/// From a backend's falling silent (no answer, no refusal) until it is down.
#[must_use]
pub fn silent_found_within(check: &CheckPlan) -> Duration {
    // Dead right after a check began: that one may still go well.
    last_start(check, check.fall) + check.timeout
}

/// From a backend's refusing connections until it is down.
#[must_use]
pub fn refusing_found_within(check: &CheckPlan) -> Duration {
    let checks = check.fall.div_ceil(2);
    gap(check.interval, check.timeout) + late(check.fast_interval) * (checks - 1)
}

/// From a backend's answering again, each time only just in time, until it is up.
#[must_use]
pub fn revival_found_within(check: &CheckPlan) -> Duration {
    last_start(check, check.rise) + check.timeout
}

/// When the last of so many checks in a row begins, none of which began before the change.
fn last_start(check: &CheckPlan, checks: u32) -> Duration {
    gap(check.interval, check.timeout) + gap(check.fast_interval, check.timeout) * (checks - 1)
}

/// The most time from one check's start to the next one's.
fn gap(interval: Duration, timeout: Duration) -> Duration {
    late(interval).max(timeout)
}

/// The most time that a session spends on attempts to connect, waiting for a backend not counted.
#[must_use]
pub fn connecting_at_most(pool: &PoolPlan) -> Duration {
    let attempts = pool.connect_timeout * u32::from(pool.connect_attempts);
    attempts.min(pool.connect_budget)
}

/// The most time that a client spends waiting for an eligible backend.
#[must_use]
pub fn waiting_at_most(pool: &PoolPlan) -> Duration {
    if pool.wait.size == 0 {
        Duration::ZERO
    } else {
        pool.wait.timeout
    }
}

/// What `ringway check` says.
#[must_use]
pub fn sentences(plan: &Plan) -> Vec<String> {
    let pools = plan.pools.iter();
    let mut lines: Vec<String> = pools
        .flat_map(|pool| pool_sentences(pool).into_iter().chain(turns(pool)))
        .collect();
    let stop = plan.global.shutdown_delay + plan.global.shutdown_grace;
    lines.push(format!(
        "after SIGTERM the process ends within {}",
        seconds(stop)
    ));
    lines
}

/// From a backend's saying that it has the role that the pool asks for until it serves, while nobody else does: it is
/// asked at the fast interval then.
#[must_use]
pub fn successor_found_within(check: &CheckPlan) -> Duration {
    gap(check.fast_interval, check.timeout) + check.timeout
}

/// What follows for a pool that asks for a role.
fn role_sentence(pool: &PoolPlan, check: &CheckPlan) -> Option<String> {
    let role = check.kind.role()?;
    let (dead, refusing) = (silent_found_within(check), refusing_found_within(check));
    let successor = successor_found_within(check);
    Some(match role {
        Role::Primary => format!(
            "pool {}: after the death of its primary a promoted one serves within {} ({} if the dead one refuses connections), \
             or within {} of its promotion if that comes later",
            pool.name,
            seconds(dead + successor),
            seconds(refusing + successor),
            seconds(successor)
        ),
        role => format!(
            "pool {}: a backend that is no {role} any more gets no sessions after {}",
            pool.name,
            seconds(gap(check.interval, check.timeout) + check.timeout)
        ),
    })
}

fn pool_sentences(pool: &PoolPlan) -> Vec<String> {
    let name = &pool.name;
    let connecting = connecting_at_most(pool);
    let waiting = waiting_at_most(pool);
    let found = match &pool.health {
        HealthPlan::None => format!(
            "pool {name}: there are no checks: a dead backend stays eligible, and an attempt on a silent one costs a \
             client {}",
            seconds(pool.connect_timeout.min(connecting))
        ),
        HealthPlan::Check(check) if check.kind.passes_silence() => format!(
            "pool {name}: a backend whose host refuses datagrams is found within {}; a silent one is not found, because no \
             answer is expected; one that is back, within {}",
            seconds(refusing_found_within(check)),
            seconds(revival_found_within(check))
        ),
        HealthPlan::Check(check) => format!(
            "pool {name}: a dead backend is found within {} ({} if it refuses connections); one that is back, within {}",
            seconds(silent_found_within(check)),
            seconds(refusing_found_within(check)),
            seconds(revival_found_within(check))
        ),
    };
    let waits = format!(
        "pool {name}: a client waits at most {}: {} until a backend is eligible, {} for {} to connect",
        seconds(waiting + connecting),
        seconds(waiting),
        seconds(connecting),
        match pool.connect_attempts {
            1 => "its attempt".to_owned(),
            attempts => format!("up to {attempts} attempts"),
        }
    );
    let role = pool
        .health
        .check()
        .and_then(|check| role_sentence(pool, check));
    [Some(found), role, Some(waits)]
        .into_iter()
        .flatten()
        .collect()
}

/// How long a `connect_rate` makes a full queue wait.
fn turns(pool: &PoolPlan) -> Option<String> {
    let rate = pool.connect_rate?;
    let (name, size, backends) = (&pool.name, pool.wait.size, pool.backends.len());
    let served = |backends: u32| Duration::from_secs(u64::from(size)) / rate.per_second / backends;
    let one = served(1);
    let then = if size == 0 {
        "who comes faster is turned away (wait.size = 0)".to_owned()
    } else {
        let all = u32::try_from(backends).map_or(one, |backends| served(backends.max(1)));
        let within = match backends {
            1 => seconds(one),
            many => format!(
                "{} ({} with one of the {many} backends)",
                seconds(all),
                seconds(one)
            ),
        };
        let too_long = if one > pool.wait.timeout {
            ", longer than some may wait (wait.timeout)"
        } else {
            ""
        };
        format!("a full queue of {size} clients is served within {within}{too_long}")
    };
    Some(format!(
        "pool {name}: each backend takes {} new connections a second, {} at once: {then}",
        rate.per_second, rate.burst
    ))
}

/// An interval with its jitter.
fn late(interval: Duration) -> Duration {
    interval + interval / 10
}

/// At most two decimals, rounded up: a promise is not rounded down.
fn seconds(time: Duration) -> String {
    let hundredths = time.as_nanos().div_ceil(10_000_000);
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    match rest {
        0 => format!("{whole} s"),
        _ if rest % 10 == 0 => format!("{whole}.{} s", rest / 10),
        _ => format!("{whole}.{rest:02} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn plan(pool: &str) -> Plan {
        let text = format!(
            "[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:7000\"\npool = \"p\"\n[[pool]]\nname = \"p\"\n{pool}\n\
             [[pool.backend]]\naddress = \"127.0.0.1:1\"\n"
        );
        parse(&text, "test.toml", &|_| None).unwrap()
    }

    fn check(text: &str) -> CheckPlan {
        match plan(&format!("[pool.health]\n{text}")).pools[0].health {
            HealthPlan::Check(ref check) => check.clone(),
            HealthPlan::None => panic!("the plan has no check"),
        }
    }

    #[test]
    fn times_of_the_default_check() {
        let check = check("");
        // 2.2, twice the timeout (it outlasts the fast interval), and the last check's own.
        assert_eq!(silent_found_within(&check), Duration::from_millis(5200));
        // 2.2, then 0.55: two refusals count as four failures.
        assert_eq!(refusing_found_within(&check), Duration::from_millis(2750));
        assert_eq!(revival_found_within(&check), Duration::from_millis(4200));
    }

    #[test]
    fn where_silence_passes_only_a_refusal_is_found() {
        let plan = plan("[pool.health]\nkind = \"udp\"");
        assert_eq!(
            sentences(&plan)[0],
            "pool p: a backend whose host refuses datagrams is found within 2.75 s; a silent one is not found, because no \
             answer is expected; one that is back, within 4.2 s"
        );
    }

    #[test]
    fn a_connect_rate_makes_a_full_queue_wait() {
        let said = |pool: &str| sentences(&plan(pool))[2].clone();
        assert_eq!(
            said("connect_rate = \"50/s burst 5\""),
            "pool p: each backend takes 50 new connections a second, 5 at once: a full queue of 1024 clients is served within \
             20.48 s, longer than some may wait (wait.timeout)"
        );
        assert_eq!(
            said(
                "connect_rate = \"50/s\"\nwait = { size = 100 }\n[[pool.backend]]\naddress = \"127.0.0.1:2\""
            ),
            "pool p: each backend takes 50 new connections a second, 50 at once: a full queue of 100 clients is served within \
             1 s (2 s with one of the 2 backends)"
        );
        assert_eq!(
            said("connect_rate = \"50/s\"\nwait = { size = 0 }"),
            "pool p: each backend takes 50 new connections a second, 50 at once: who comes faster is turned away \
             (wait.size = 0)"
        );
    }

    #[test]
    fn a_failover_is_the_death_found_and_one_more_check() {
        let lines = sentences(&plan(
            "[pool.health]\nkind = \"redis\"\nrole = \"primary\"\ninterval = \"1s\"",
        ));
        assert_eq!(
            lines[1],
            "pool p: after the death of its primary a promoted one serves within 6.1 s (3.65 s if the dead one refuses \
             connections), or within 2 s of its promotion if that comes later"
        );
        assert!(
            lines[2].contains("at most 39 s: 30 s until"),
            "{}",
            lines[2]
        );
        let lines = sentences(&plan("[pool.health]\nkind = \"redis\"\nrole = \"replica\""));
        assert_eq!(
            lines[1],
            "pool p: a backend that is no replica any more gets no sessions after 3.2 s"
        );
    }

    #[test]
    fn one_failure_suffices_with_fall_1() {
        let check = check("fall = 1\nrise = 1\ninterval = \"1s\"\ntimeout = \"200ms\"");
        assert_eq!(silent_found_within(&check), Duration::from_millis(1300));
        assert_eq!(refusing_found_within(&check), Duration::from_millis(1100));
        assert_eq!(revival_found_within(&check), Duration::from_millis(1300));
    }

    #[test]
    fn a_client_waits_for_a_backend_and_for_its_attempts() {
        assert_eq!(
            sentences(&plan("")),
            [
                "pool p: a dead backend is found within 5.2 s (2.75 s if it refuses connections); one that is back, \
                 within 4.2 s",
                "pool p: a client waits at most 14 s: 5 s until a backend is eligible, 9 s for up to 3 attempts to \
                 connect",
                "after SIGTERM the process ends within 300 s",
            ]
        );
        let hasty = "wait = { size = 0 }\nconnect_attempts = 1\nconnect_timeout = \"1234567us\"\n[pool.health]\n\
                     kind = \"none\"";
        assert_eq!(
            sentences(&plan(hasty))[..2],
            [
                "pool p: there are no checks: a dead backend stays eligible, and an attempt on a silent one costs a \
                 client 1.24 s",
                "pool p: a client waits at most 1.24 s: 0 s until a backend is eligible, 1.24 s for its attempt to connect",
            ]
        );
        let many = plan("connect_attempts = 100");
        assert_eq!(connecting_at_most(&many.pools[0]), Duration::from_secs(10));
    }
}
