//! Why sessions end and why clients are refused: the book of which system test produces each of these words, held against
//! the tests themselves; and the scenarios that no other file has.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "ends/announced.rs"]
mod announced;
#[path = "ends/full.rs"]
mod full;
#[path = "ends/silence.rs"]
mod silence;

use std::fs;
use std::path::Path;

use ringway::ids::{End, Refusal};
use support::ringway::Ringway;

/// A word, the file below `tests` and the test in it that sees the word counted.
type Entry = (End, &'static str, &'static str);

const ENDS: &[Entry] = &[
    (End::ClientFin, "resets", "a_clean_end_stays_clean"),
    (
        End::ClientReset,
        "resets",
        "ends_are_counted_by_the_side_that_reset",
    ),
    (
        End::ClientTimeout,
        "ends/silence",
        "each_silence_has_its_own_end",
    ),
    (End::BackendFin, "resets", "a_clean_end_stays_clean"),
    (
        End::BackendReset,
        "resets",
        "ends_are_counted_by_the_side_that_reset",
    ),
    (
        End::BackendTimeout,
        "ends/silence",
        "each_silence_has_its_own_end",
    ),
    (
        End::ConnectRefused,
        "failure",
        "a_client_without_a_backend_is_reset",
    ),
    (
        End::ConnectTimeout,
        "ends/silence",
        "each_silence_has_its_own_end",
    ),
    (
        End::NoBackend,
        "ends/full",
        "without_a_wait_there_is_no_backend",
    ),
    (
        End::WaitFull,
        "waiting",
        "clients_wait_for_a_backend_and_are_served_when_it_comes",
    ),
    (
        End::WaitTimeout,
        "waiting",
        "waiting_ends_after_its_timeout",
    ),
    (
        End::ClientGone,
        "waiting",
        "clients_wait_for_a_backend_and_are_served_when_it_comes",
    ),
    (End::Idle, "waiting", "idle_and_lifetime_end_sessions"),
    (End::Lifetime, "waiting", "idle_and_lifetime_end_sessions"),
    (
        End::HalfCloseTimeout,
        "waiting",
        "half_close_timeout_ends_a_silent_half_closed_session",
    ),
    (
        End::Keepalive,
        "ends/silence",
        "each_silence_has_its_own_end",
    ),
    (
        End::UserTimeout,
        "ends/silence",
        "each_silence_has_its_own_end",
    ),
    (
        End::Drained,
        "reload",
        "on_drain_close_ends_the_sessions_of_a_removed_backend",
    ),
    (
        End::BackendDown,
        "waiting",
        "on_down_close_ends_sessions_and_keep_does_not",
    ),
    (
        End::RoleChange,
        "failover",
        "mariadb_switches_over_and_fails_over",
    ),
    (
        End::Denied,
        "ends/announced",
        "an_announced_client_is_held_to_the_lists_and_limits",
    ),
    (
        End::Limited,
        "ends/announced",
        "an_announced_client_is_held_to_the_lists_and_limits",
    ),
    (
        End::PrefaceInvalid,
        "preface",
        "wrong_headers_are_refused_by_reset_and_never_reach_a_backend",
    ),
    (
        End::Resources,
        "ends/full",
        "without_a_port_to_connect_from_resources_are_to_blame",
    ),
    (
        End::Shutdown,
        "ends/full",
        "who_is_cut_at_shutdown_is_told_so_in_the_log",
    ),
];

/// Ends that no test produces, and why.
const NO_TEST: &[(End, &str)] = &[
    (End::Internal, "our own bug; tests see that it stays at 0"),
    (
        End::Killed,
        "an operator's order, which belongs to the tests of the admin API",
    ),
];

const REFUSALS: &[(Refusal, &str, &str)] = &[
    (
        Refusal::Denied,
        "limits/counts",
        "long_lists_of_networks_decide_who_comes",
    ),
    (
        Refusal::Rate,
        "limits/rates",
        "a_listeners_rate_holds_within_5_percent",
    ),
    (
        Refusal::SourceRate,
        "limits/rates",
        "a_sources_rate_holds_within_5_percent",
    ),
    (
        Refusal::SourceLimit,
        "limits/counts",
        "counts_per_source_and_listener_are_exact_under_a_storm",
    ),
    (
        Refusal::SourcesFull,
        "ends/full",
        "more_sources_than_the_table_holds_are_refused_and_counted",
    ),
    (
        Refusal::ListenerLimit,
        "limits/counts",
        "counts_per_source_and_listener_are_exact_under_a_storm",
    ),
];

/// Refusals that a client of a TCP listener never meets, and why.
const NEVER_REFUSED: &[(Refusal, &str)] = &[
    (
        Refusal::Resources,
        "accepting pauses instead: see ends/full",
    ),
    (Refusal::Shutdown, "the listening socket is gone by then"),
];

/// The text of a test function, from its name to the line that closes it.
fn body_of(file: &str, test: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(file);
    let text = fs::read_to_string(path.with_extension("rs")).expect("a file of the book");
    let head = format!("#[test]\nfn {test}() {{\n");
    let Some((_, rest)) = text.split_once(&head) else {
        panic!("{file} has no test {test}");
    };
    let (body, _) = rest.split_once("\n}\n").expect("the end of a function");
    body.to_owned()
}

fn assert_named(word: &str, file: &str, test: &str) {
    let body = body_of(file, test);
    let named = [format!("\"{word}\""), format!("end={word}")];
    assert!(
        named.iter().any(|named| body.contains(named)),
        "{test} in {file} does not name {word}"
    );
}

#[test]
fn every_end_and_every_refusal_has_its_test() {
    for &end in End::ALL {
        let entries = ENDS.iter().filter(|(which, ..)| *which == end).count();
        let excused = NO_TEST.iter().filter(|(which, _)| *which == end).count();
        assert_eq!(
            entries + excused,
            1,
            "{end} stands in the book {entries} times"
        );
    }
    for &(end, file, test) in ENDS {
        assert_named(end.word(), file, test);
    }
    for &reason in Refusal::ALL {
        let entries = REFUSALS
            .iter()
            .filter(|(which, ..)| *which == reason)
            .count();
        let excused = NEVER_REFUSED
            .iter()
            .filter(|(which, _)| *which == reason)
            .count();
        assert_eq!(
            entries + excused,
            1,
            "{reason} stands in the book {entries} times"
        );
    }
    for &(reason, file, test) in REFUSALS {
        assert_named(reason.word(), file, test);
    }
}

/// Sessions that a listener's counter has with this end.
fn ended(ringway: &Ringway, listener: &str, end: &str) -> f64 {
    let labels = [("listener", listener), ("end", end)];
    ringway.metrics().sum("ringway_session_ends_total", &labels)
}
