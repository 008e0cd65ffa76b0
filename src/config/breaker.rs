//! Reads `[pool.breaker]`: by which signs in real traffic a backend is ejected, and for how long. It is on by default; with
//! `consecutive_failures = 0` and `error_percent = 0`, or with `max_ejected_percent = 0`, nobody is ever ejected.

use std::time::Duration;

use super::desk::Desk;
use super::measure::{HOUR, MILLISECOND, YEAR, duration, shown, whole};
use super::plan::{Plan, PoolPlan};
use super::section::Section;

/// By their share of failures, windows shorter than this say nothing.
const WINDOW_MIN: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPlan {
    /// Connect errors and early resets in a row; 0: they do not count.
    pub consecutive_failures: u32,
    /// A reset so soon after connecting is a failure; zero: none is.
    pub early_reset: Duration,
    /// Of the attempts of `window`, from `volume` on; 0: the share does not count.
    pub error_percent: u8,
    pub window: Duration,
    pub volume: u32,
    pub open: Duration,
    /// At least `open`.
    pub open_max: Duration,
    pub trials: u32,
    /// At least 1.
    pub max_ejected_percent: u8,
}

/// `None`: nobody is ever ejected.
pub(super) fn read_breaker(desk: &mut Desk<'_>, pool: &mut Section) -> Option<BreakerPlan> {
    let path = pool.key("breaker");
    let mut table = pool
        .table(desk, "breaker")
        .unwrap_or_else(|| Section::absent(&path, pool.at()));
    let open = table.read(desk, "open", duration(MILLISECOND, YEAR));
    let open = open.unwrap_or(Duration::from_secs(5));
    let open_max_at = table.place_of("open_max");
    let open_max = table.read(desk, "open_max", duration(MILLISECOND, YEAR));
    if let Some(shorter) = open_max.filter(|most| *most < open) {
        let sentence = format!(
            "found \"{}\", which is less than pool.breaker.open; allowed: at least \"{}\"",
            shown(shorter),
            shown(open)
        );
        desk.fault(open_max_at, &table.key("open_max"), sentence);
    }
    let plan = BreakerPlan {
        consecutive_failures: table
            .read(desk, "consecutive_failures", whole(0..=65_535))
            .unwrap_or(3),
        early_reset: table
            .read(desk, "early_reset", duration(Duration::ZERO, HOUR))
            .unwrap_or(Duration::from_millis(100)),
        error_percent: table
            .read(desk, "error_percent", whole(0..=100))
            .unwrap_or(50),
        window: table
            .read(desk, "window", duration(WINDOW_MIN, HOUR))
            .unwrap_or(Duration::from_secs(10)),
        volume: table
            .read(desk, "volume", whole(1..=1_000_000))
            .unwrap_or(20),
        open,
        open_max: open_max.unwrap_or(Duration::from_secs(60)).max(open),
        trials: table.read(desk, "trials", whole(1..=32_767)).unwrap_or(1),
        max_ejected_percent: table
            .read(desk, "max_ejected_percent", whole(0..=100))
            .unwrap_or(50),
    };
    table.finish(desk);
    let counts = plan.consecutive_failures > 0 || plan.error_percent > 0;
    (counts && plan.max_ejected_percent > 0).then_some(plan)
}

/// What `ringway check` says: one sentence for each pool.
#[must_use]
pub fn sentences(plan: &Plan) -> Vec<String> {
    plan.pools.iter().map(sentence).collect()
}

fn sentence(pool: &PoolPlan) -> String {
    let name = &pool.name;
    let Some(breaker) = &pool.breaker else {
        return format!("pool {name}: off, whatever traffic meets");
    };
    let served = pool.backends.iter().filter(|backend| backend.weight > 0);
    let served = served.count();
    let most = served * usize::from(breaker.max_ejected_percent) / 100;
    let most = most.min(served.saturating_sub(1));
    if most == 0 {
        return format!(
            "pool {name}: never ejects a backend: {} % of {served} is none to spare (max_ejected_percent)",
            breaker.max_ejected_percent
        );
    }
    let early = match breaker.early_reset {
        Duration::ZERO => String::new(),
        early => format!(
            " (or sessions of 3 client addresses reset within {})",
            shown(early)
        ),
    };
    let row = match breaker.consecutive_failures {
        0 => None,
        1 => Some(format!("one connect error{early}")),
        many => Some(format!("{many} connect errors in a row{early}")),
    };
    let share = (breaker.error_percent > 0).then(|| {
        format!(
            "{} % failures among at least {} attempts within {}",
            breaker.error_percent,
            breaker.volume,
            shown(breaker.window)
        )
    });
    let causes: Vec<String> = [row, share].into_iter().flatten().collect();
    let open = match breaker.open == breaker.open_max {
        true => shown(breaker.open),
        false => format!(
            "{}, twice as long each time in a row up to {}",
            shown(breaker.open),
            shown(breaker.open_max)
        ),
    };
    let tries = match breaker.trials {
        1 => "1 session tries".to_owned(),
        many => format!("{many} sessions try"),
    };
    format!(
        "pool {name}: a backend is ejected by {}, for {open}; then {tries}; at most {most} of {served} at a time",
        causes.join(", or by ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn said(breaker: &str, backends: usize) -> String {
        let backend = |n| format!("[[pool.backend]]\naddress = \"127.0.0.1:{}\"\n", n + 1);
        let backends: String = (0..backends).map(backend).collect();
        let text = format!(
            "[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:7000\"\npool = \"p\"\n[[pool]]\nname = \"p\"\n{breaker}\n{backends}"
        );
        sentences(&parse(&text, "test", &|_| None).unwrap()).remove(0)
    }

    #[test]
    fn check_says_what_a_breaker_does() {
        assert_eq!(
            said("", 4),
            "pool p: a backend is ejected by 3 connect errors in a row (or sessions of 3 client addresses reset within 100ms), \
             or by 50 % failures among at least 20 attempts within 10s, for 5s, twice as long each time in a row up to 1m; \
             then 1 session tries; at most 2 of 4 at a time"
        );
        assert_eq!(
            said(
                "breaker = { consecutive_failures = 0, open = \"2m\", trials = 3, max_ejected_percent = 100 }",
                3
            ),
            "pool p: a backend is ejected by 50 % failures among at least 20 attempts within 10s, for 2m; then 3 sessions \
             try; at most 2 of 3 at a time"
        );
        assert_eq!(
            said("", 1),
            "pool p: never ejects a backend: 50 % of 1 is none to spare (max_ejected_percent)"
        );
        for off in [
            "consecutive_failures = 0, error_percent = 0",
            "max_ejected_percent = 0",
        ] {
            assert_eq!(
                said(&format!("breaker = {{ {off} }}"), 4),
                "pool p: off, whatever traffic meets"
            );
        }
    }
}
