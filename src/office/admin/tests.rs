//! What the admin server says of a small world whose numbers are known.

use std::sync::Arc;

use crate::config::parse;
use crate::handoff::{Capacity, Hatches, Health, Phase};
use crate::ids::{Clock, End, WorkerId};
use crate::office::board::{Board, Reloads};
use crate::office::registry::Registry;
use crate::office::resolver::Resolved;
use crate::office::start::view;
use crate::office::world::World;

use super::{metrics, readiness, status};

const TEXT: &str = r#"
[[listener]]
name = "l"
bind = "127.0.0.1:7000"
pool = "p"
[[pool]]
name = "p"
[[pool.backend]]
name = "b"
address = "127.0.0.1:1"
"#;

pub(in crate::office) fn board() -> Arc<Board> {
    let plan = parse(TEXT, "test", &|_| None).unwrap();
    let mut registry = Registry::new(2);
    registry.begin();
    let world = World::claim(plan, Resolved::new(), vec![vec![]], &mut registry, None).unwrap();
    registry.commit();
    let snapshot = Arc::new(world.compose(1, Phase::Serving));
    let view = view(snapshot, &world, &registry, &Reloads::default());
    let hatches = Arc::new(Hatches::new(2).unwrap());
    let process = Arc::new(Capacity::new(100));
    Arc::new(Board::new(Clock::start(), hatches, process, view))
}

fn count(board: &Board) {
    let view = board.view();
    for worker in [WorkerId(0), WorkerId(1)] {
        let listener = view.snapshot.listeners[0].shared.of(worker);
        listener.sessions_active.add(2);
        listener.ends[End::ClientFin.index()].add(3);
        listener.bytes_out.add(1000);
        let pool = view.snapshot.pools[0].shared.of(worker);
        pool.connect.record(20_000);
    }
}

fn has(text: &str, line: &str) {
    assert!(
        text.lines().any(|own| own == line),
        "no {line:?} in\n{text}"
    );
}

#[test]
fn metrics_are_summed_over_the_workers_and_named_as_promised() {
    let board = board();
    count(&board);
    let open = metrics::text(&board, true).unwrap();
    has(&open, "# TYPE ringway_session_ends counter");
    has(&open, "ringway_sessions_active{listener=\"l\"} 4.0");
    has(
        &open,
        "ringway_session_ends_total{listener=\"l\",end=\"client-fin\"} 6",
    );
    has(
        &open,
        "ringway_bytes_total{listener=\"l\",direction=\"out\"} 2000",
    );
    has(
        &open,
        "ringway_connect_duration_seconds_count{pool=\"p\"} 2",
    );
    has(
        &open,
        "ringway_connect_duration_seconds_bucket{le=\"0.000032\",pool=\"p\"} 2",
    );
    has(&open, "ringway_reloads_total{result=\"taken\"} 0");
    assert!(open.ends_with("# EOF\n"));

    let older = metrics::text(&board, false).unwrap();
    has(&older, "# TYPE ringway_session_ends_total counter");
    has(&older, "# TYPE ringway_connect_duration_seconds histogram");
    assert!(!older.contains("# EOF"));
    let states = |text: &str| text.matches("ringway_backend_state{").count();
    assert_eq!(states(&older), 8, "three of admin and five of health");
}

#[test]
fn ready_is_when_every_listener_has_an_eligible_backend_and_nobody_leaves() {
    let board = board();
    let view = board.view();
    let backend = &view.snapshot.pools[0].backends[0].shared;
    let readiness = readiness::of(&board);
    assert!(!readiness.is_ready(), "checked, and no verdict yet");
    assert_eq!(
        readiness.to_json()["listeners_without_backend"][0]["listener"],
        "l"
    );
    backend.verdict.set_health(Health::Up);
    assert!(readiness::of(&board).is_ready());
    board.set_leaving();
    assert!(!readiness::of(&board).is_ready());
}

#[test]
fn the_status_names_what_is_there() {
    let board = board();
    count(&board);
    let status = status::of(&board);
    assert_eq!(status["generation"], 1);
    assert_eq!(status["phase"], "serving");
    assert_eq!(status["listeners"][0]["sessions"], 4);
    assert_eq!(status["listeners"][0]["ends"]["client-fin"], 6);
    let backend = &status["pools"][0]["backends"][0];
    assert_eq!(backend["address"], "127.0.0.1:1");
    assert_eq!(backend["admin"], "ready");
    assert_eq!(backend["health"], "unknown");
    assert_eq!(status["sessions"]["limit"], 100);
}
