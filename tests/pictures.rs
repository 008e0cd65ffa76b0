//! Makes the pictures of the README anew, from a real run: three pools, 200 backends, some in trouble. Run it by
//! `cargo test --test pictures -- --ignored`.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use support::browser::Browser;
use support::fleet::{Fleet, POOLS, Steady};
use support::ringway::PROGRAM;
use support::terminal::Terminal;
use support::wait::seconds;

fn save(name: &str, picture: &[u8]) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name);
    fs::write(&file, picture).unwrap();
    println!("{}: {} bytes", file.display(), picture.len());
}

#[test]
#[ignore = "it draws the pictures of the README anew, and takes a minute"]
fn pictures_of_a_real_run() {
    // The largest first.
    let [small, middle, large] = POOLS;
    let mut fleet = Fleet::of([large, small, middle]);
    let page = Browser::start();
    page.become_screen(1440, 1560, false);
    page.open(&format!("http://{}/", fleet.ringway.admin()));
    let load: Vec<Steady> = [
        ("pg", 23, 80_000),
        ("pg", 41, 9_000),
        ("cache", 11, 3_000),
        ("web", 7, 24_000),
        ("web", 31, 160_000),
    ]
    .map(|(pool, pause, count)| {
        Steady::start(fleet.front(pool), Duration::from_millis(pause), count)
    })
    .into();
    let mut held = vec![
        fleet.hold("pg", 61),
        fleet.hold("cache", 40),
        fleet.hold("web", 420),
    ];
    thread::sleep(seconds(20));
    fleet.say("web/web-021", "draining");
    fleet.say("web/web-022", "draining");
    held.push(fleet.hold("web", 160));
    thread::sleep(seconds(9));
    fleet.say("cache/cache-09", "maintenance");
    fleet.kill("web/web-046");
    thread::sleep(seconds(7));
    held.push(fleet.hold("pg", 22));
    fleet.kill("web/web-104");
    fleet.kill("web/web-105");
    thread::sleep(seconds(8));
    held.swap_remove(2);
    fleet.kill("cache/cache-38");
    thread::sleep(seconds(8));
    fleet.revive("web/web-105");
    held.push(fleet.hold("web", 210));
    thread::sleep(seconds(5));
    fleet.eject("pg/pg-03");
    thread::sleep(Duration::from_millis(1500));
    save("dashboard.png", &page.picture());

    let socket = fleet.socket.to_str().unwrap();
    let terminal = Terminal::run(164, 40, PROGRAM, &["top", "--socket", socket]);
    thread::sleep(seconds(4));
    let screen = tempfile::tempdir().unwrap();
    let file = screen.path().join("screen.html");
    fs::write(&file, terminal.page()).unwrap();
    page.open(&format!("file://{}", file.display()));
    let size = page.run("const box = document.querySelector('pre').getBoundingClientRect(); return [box.right + 27, box.bottom + 23]");
    let [width, height] = [0, 1].map(|i| size[i].as_f64().unwrap() as u32);
    page.become_screen(width, height, true);
    save("top.png", &page.picture());
    drop((load, held));
}
