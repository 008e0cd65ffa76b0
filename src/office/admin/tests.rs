//! What the admin server says of a small world whose numbers are known.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::config::parse;
use crate::handoff::{Capacity, Hatches, Health, Phase};
use crate::ids::{Clock, End, WorkerId};
use crate::office::board::{Board, Reloads};
use crate::office::registry::Registry;
use crate::office::resolver::Resolved;
use crate::office::start::view;
use crate::office::world::World;

use super::{Entrance, Places, accept, metrics, readiness, status};

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
    board_of(TEXT)
}

/// The same, but who asks for `db.test` goes to backend `c` of pool `q`.
pub(in crate::office) fn board_with_route() -> Arc<Board> {
    let route = "pool = \"p\"\nroute = [{ sni = \"db.test\", pool = \"q\" }]\n";
    let other =
        "[[pool]]\nname = \"q\"\n[[pool.backend]]\nname = \"c\"\naddress = \"127.0.0.1:2\"\n";
    board_of(&(TEXT.replacen("pool = \"p\"\n", route, 1) + other))
}

fn board_of(text: &str) -> Arc<Board> {
    let plan = parse(text, "test", &|_| None).unwrap();
    let sockets = plan.listeners.iter().map(|_| Vec::new()).collect();
    let mut registry = Registry::new(2);
    registry.begin();
    let world = World::claim(plan, Resolved::new(), sockets, &mut registry, None).unwrap();
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
fn a_dead_pool_that_only_names_lead_to_is_told_and_takes_nobody_else_away() {
    let board = board_with_route();
    let view = board.view();
    for pool in &view.snapshot.pools {
        pool.backends[0].shared.verdict.set_health(Health::Up);
    }
    assert!(readiness::of(&board).is_ready());
    let routed = view.snapshot.pools.iter().find(|it| it.shared.name == "q");
    let dead = &routed.unwrap().backends[0].shared;
    dead.verdict.set_health(Health::Down);
    let told = readiness::of(&board).to_json();
    let without = json!([{ "listener": "l", "pool": "q" }]);
    assert_eq!(told["listeners_without_backend"], without);
    assert_eq!(told["ready"], true);
    let own = view.snapshot.pools.iter().find(|it| it.shared.name == "p");
    let dead = &own.unwrap().backends[0].shared;
    dead.verdict.set_health(Health::Down);
    assert!(!readiness::of(&board).is_ready());
}

/// The only place is that of a client that reads slowly, and others come.
#[tokio::test(flavor = "current_thread")]
async fn an_answer_is_written_to_its_end_in_a_crowd_and_then_its_place_is_idle() {
    let grace = Duration::from_millis(20);
    let places = Places::new(1, grace);
    let (come, coming) = tokio::sync::mpsc::unbounded_channel();
    let coming = Arc::new(tokio::sync::Mutex::new(coming));
    let next = move || {
        let coming = Arc::clone(&coming);
        async move {
            let stream = coming.lock().await.recv().await;
            stream.ok_or_else(|| std::io::ErrorKind::NotConnected.into())
        }
    };
    let accepting = tokio::spawn(accept(next, Entrance::tcp(board()), places));
    let visit = |request: &'static [u8]| {
        let (mut far, near) = tokio::io::duplex(64);
        come.send(near).unwrap();
        async move {
            far.write_all(request).await.unwrap();
            far
        }
    };
    let mut slow = visit(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut text = vec![0; 40];
    slow.read_exact(&mut text).await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(grace * 2).await;
        let mut turned_away = visit(b"").await;
        assert_eq!(turned_away.read(&mut [0]).await.unwrap(), 0);
    }
    let mut piece = [0; 64];
    while !text.ends_with(b"\n") || length_told(&text).is_none_or(|told| told > text.len()) {
        let count = slow.read(&mut piece).await.unwrap();
        assert!(count > 0, "cut after {} bytes", text.len());
        text.extend_from_slice(&piece[..count]);
    }
    assert_eq!(length_told(&text), Some(text.len()));
    let mut next = visit(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut answer = [0; 12];
    next.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(slow.read(&mut piece).await.unwrap(), 0, "it gave way");
    accepting.abort();
}

/// Of head and body together, once the head is there.
fn length_told(answer: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(answer).unwrap();
    let (head, _) = text.split_once("\r\n\r\n")?;
    let told = head
        .lines()
        .find_map(|it| it.strip_prefix("content-length: "))?;
    Some(head.len() + 4 + told.parse::<usize>().unwrap())
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
