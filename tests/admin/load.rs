//! Changes and questions beside work: sessions under load while backends come and go, long lists, a worker that hangs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::backends::Backend;
use super::support::frozen::Frozen;
use super::support::ringway::{listener, pool};
use super::support::wait::{seconds, until, within};
use super::support::{alone, net, pattern};
use super::{Scene, open, path_of, say, two};

#[test]
fn a_change_that_a_worker_does_not_take_is_not_called_done() {
    let _alone = alone();
    let (address, _servers, body) = two("");
    let scene = Scene::start(body);
    let hung = Frozen::thread(scene.ringway.pid(), "worker-0");
    let began = Instant::now();
    let (code, answer) = scene.ask("PUT", &path_of("a"), &json!({ "admin": "draining" }));
    let took = began.elapsed();
    let (code_of_list, _) = scene.ask("GET", "/v1/sessions", &Value::Null);
    drop(hung);
    assert_eq!(code, 504, "{answer:#}");
    assert!(
        took >= Duration::from_millis(1_900) && took < seconds(6),
        "{took:?}"
    );
    assert_eq!(code_of_list, 504);
    // The same once more tells when it is so.
    let answer = scene.set("a", &json!({ "admin": "draining" }));
    assert_eq!(answer["backend"]["admin"], "draining");
    for _ in 0..8 {
        assert_eq!(open(address).1, "b");
    }
    assert!(scene.done("GET", "/v1/sessions", &Value::Null)["matched"].is_u64());
}

/// Steady work of new and long sessions, while one backend after the other is drained, taken out and given back.
#[test]
fn draining_under_load_costs_nobody_anything() {
    let _alone = alone();
    let servers: Vec<Backend> = (0..3).map(|_| Backend::echo()).collect();
    let address = net::free_address();
    let names = ["a", "b", "c"];
    let members: Vec<_> = names
        .iter()
        .zip(&servers)
        .map(|(name, own)| (*name, own.address))
        .collect();
    let body = listener("main", address, "main")
        + &pool("main", "algorithm = \"least-connections\"", &members);
    let scene = Scene::start(body);
    let stop = AtomicBool::new(false);
    let (served, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let round = |stream: &mut TcpStream, number: u64, at: u64| -> std::io::Result<bool> {
        let mut piece = [0; 600];
        pattern::fill(number, at, &mut piece);
        stream.write_all(&piece)?;
        stream.read_exact(&mut piece)?;
        Ok(pattern::check(number, at, &piece).is_ok())
    };
    thread::scope(|scope| {
        for number in 0..4 {
            let (stop, served, failed) = (&stop, &served, &failed);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let fine = net::try_connect(address)
                        .and_then(|mut stream| round(&mut stream, number, 0));
                    served.fetch_add(1, Ordering::SeqCst);
                    if !matches!(fine, Ok(true)) {
                        eprintln!("a short session failed: {fine:?}");
                        failed.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        for number in 10..16 {
            let (stop, failed) = (&stop, &failed);
            scope.spawn(move || {
                let mut stream = net::connect(address);
                let mut at = 0;
                while !stop.load(Ordering::SeqCst) {
                    let fine = round(&mut stream, number, at);
                    at += 600;
                    if !matches!(fine, Ok(true)) {
                        eprintln!("a long session failed: {fine:?}");
                        failed.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            });
        }
        for turn in 0..12 {
            let name = names[turn % 3];
            scene.set(name, &json!({ "admin": "draining" }));
            let before = servers[turn % 3].accepted();
            // Some tenths of a second under load: nobody new comes to it.
            let from = served.load(Ordering::SeqCst);
            until(seconds(20), "others serve", || {
                served.load(Ordering::SeqCst) > from + 100
            });
            assert_eq!(servers[turn % 3].accepted(), before, "{name} drains");
            assert!(servers[turn % 3].active() > 0, "{name} keeps its long ones");
            scene.set(name, &json!({ "weight": 50 + turn }));
            scene.set(name, &json!({ "admin": "ready" }));
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(
        failed.load(Ordering::SeqCst),
        0,
        "of {}",
        served.load(Ordering::SeqCst)
    );
    assert!(served.load(Ordering::SeqCst) > 1200);
    for refused in [
        "drained",
        "killed",
        "no-backend",
        "wait-timeout",
        "backend-reset",
    ] {
        assert_eq!(scene.ends(refused), 0.0, "{refused}");
    }
}

/// Many sessions are looked through a slice a turn: the list is whole, and small requests beside it stay quick.
#[test]
fn a_long_list_is_complete_and_disturbs_nobody() {
    let _alone = alone();
    let server = Backend::hold();
    let echo = Backend::echo();
    let (held_at, address) = (net::free_address(), net::free_address());
    let body = listener("held", held_at, "held")
        + &listener("main", address, "main")
        + &pool("held", "", &[("h", server.address)])
        + &pool("main", "", &[("a", echo.address)]);
    let scene = Scene::start(body);
    let held: Vec<_> = (0..1500).map(|_| net::connect(held_at)).collect();
    until(seconds(20), "all are served", || server.accepted() == 1500);
    let mut stream = net::connect(address);
    let rows = within(seconds(10), "all sessions in one list", || {
        let listed = scene.done("GET", "/v1/sessions?limit=1000&backend=h", &Value::Null);
        (listed["matched"] == 1500).then(|| listed["sessions"].clone())
    });
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 1000);
    let mut ids: Vec<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 1000, "nobody is listed twice");
    say(&stream, "served");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                scene.done("GET", "/v1/sessions?limit=1000", &Value::Null);
            }
        });
        let mut worst = Vec::new();
        for _ in 0..500 {
            let began = Instant::now();
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            worst.push(began.elapsed());
        }
        stop.store(true, Ordering::SeqCst);
        worst.sort();
        assert!(
            worst[490] < Duration::from_millis(100),
            "p98 {:?}",
            worst[490]
        );
    });
    drop(held);
}
