//! The dashboard in a real browser: three pools, 200 backends in one of them, states that change; on a phone and a large
//! screen, light and dark, by keyboard; nothing from elsewhere, nothing on the console.
#![allow(clippy::unwrap_used)]

#[path = "dashboard/live.rs"]
mod live;
#[path = "dashboard/look.rs"]
mod look;
mod support;

use std::net::SocketAddr;

use support::alone;
use support::backends::{Backend, read_line};
use support::browser::Browser;
use support::net;
use support::ringway::{Ringway, Setup, listener, pool_with};
use support::wait::{seconds, within};

const CHECKED: &str =
    "[pool.health]\nkind = \"tcp\"\ninterval = \"500ms\"\nfast_interval = \"100ms\"\nfall = 2\n";
/// As WebDriver writes them.
const TAB: &str = "\u{e004}";
const ESCAPE: &str = "\u{e00c}";

struct Scene {
    ringway: Ringway,
    front: SocketAddr,
    victim: Backend,
    patient: Backend,
    _others: Vec<Backend>,
}

/// Of the large pool's backends two are dead; `victim` is one of the small pool's three.
fn scene() -> Scene {
    let others: Vec<Backend> = (0..4).map(|n| Backend::named(&format!("b{n}"))).collect();
    let victim = Backend::named("victim");
    let patient = Backend::named("patient");
    let dead = net::free_address();
    let front = net::free_address();
    let name = |n: usize| format!("web-{n:03}");
    let names: Vec<String> = (0..200).map(name).collect();
    let many: Vec<_> = (0..200)
        .map(|n| {
            let address = if n == 17 || n == 90 {
                dead
            } else {
                others[n % 4].address
            };
            (names[n].as_str(), address.to_string(), "")
        })
        .collect();
    let small = [
        (
            "one",
            others[0].address.to_string(),
            "max_connections = 100",
        ),
        ("two", others[1].address.to_string(), ""),
        ("victim", victim.address.to_string(), "tier = 1"),
    ];
    let text = [
        listener("small", front, "small"),
        listener("large", net::free_address(), "large"),
        pool_with("small", "algorithm = \"round-robin\"", CHECKED, &small),
        pool_with("large", "algorithm = \"maglev\"", CHECKED, &many),
        pool_with(
            "spare",
            "",
            &CHECKED.replace("fall = 2", "fall = 1000"),
            &[("patient", patient.address.to_string(), "")],
        ),
    ];
    let ringway = Setup::new(text.concat()).start();
    ringway.wait_state("web-090", "down", seconds(20));
    Scene {
        ringway,
        front,
        victim,
        patient,
        _others: others,
    }
}

/// The page of an instance on a screen of this size, live.
fn opened(ringway: &Ringway, width: u32, height: u32) -> Browser {
    let browser = Browser::start();
    browser.become_screen(width, height, false);
    browser.open(&format!("http://{}/", ringway.admin()));
    browser.until(
        "it is live",
        "document.querySelector('#live').textContent === 'live'",
    );
    browser
}

fn no_wider_than_its_screen(browser: &Browser) {
    let width = browser.run("return document.documentElement.scrollWidth - innerWidth");
    assert_eq!(width, 0, "nothing stands beside the screen");
}

#[test]
fn operators_see_what_is_and_what_happens() {
    let _alone = alone();
    let mut scene = scene();
    let browser = opened(&scene.ringway, 1440, 1400);
    let count = |what: &str| {
        let found = browser.run(&format!(
            "return document.querySelectorAll('{what}').length"
        ));
        found.as_u64().unwrap()
    };
    assert_eq!(
        (count(".pool"), count(".listener"), count(".glyph")),
        (3, 2, 200)
    );
    // Of many backends those in trouble come first, by word and shape and colour; the rest is one key away.
    let first = browser.run(
        "const row = document.querySelectorAll('.pool')[1].querySelector('.backends .backend');\
         return [row.querySelector('.state span').textContent, row.querySelector('use').getAttribute('href'),\
         row.querySelector('.name').textContent, row.querySelector('.why').textContent]",
    );
    assert_eq!(
        (first[0].as_str(), first[1].as_str()),
        (Some("down"), Some("#s-down"))
    );
    assert!(
        first[3].as_str().unwrap().starts_with("check refused"),
        "{first}"
    );
    assert!(count(".backends .backend") < 40, "a large pool is folded");
    no_wider_than_its_screen(&browser);

    // Sessions come, and are seen.
    let held: Vec<_> = (0..20).map(|_| net::connect(scene.front)).collect();
    held.iter()
        .for_each(|stream| drop(read_line(stream).unwrap()));
    browser.until(
        "sessions are shown",
        "document.querySelector('#totals .figure span').textContent === '20'",
    );
    // Something happens, and is seen without asking.
    scene.victim.kill();
    browser.until(
        "the event is shown",
        "[...document.querySelectorAll('#events li')].some((one) => one.textContent.includes('small/victim is down'))",
    );
    browser.until(
        "the backend is shown",
        "[...document.querySelectorAll('.backend.is-down .name')].some((one) => one.textContent === 'victim')",
    );

    // One that is up although its last check failed says so.
    scene.patient.kill();
    let row = "[...document.querySelectorAll('.backend')].find((row) => row.querySelector('.name')?.textContent === 'patient')";
    browser.until(
        "its last check",
        &format!("{row}.querySelector('.why').textContent === 'last check refused'"),
    );
    let state = browser.run(&format!(
        "return {row}.querySelector('.state span').textContent"
    ));
    assert_eq!(state, "up");

    // By keyboard: the filter, and back.
    browser.press("/");
    browser.press("web-1");
    browser.until(
        "it filters",
        "document.activeElement.id === 'filter' && document.activeElement.value === 'web-1'",
    );
    let names = "[...document.querySelectorAll('.backends .name')].map((one) => one.textContent)";
    browser.until(
        "only those",
        &format!("{names}.length > 10 && {names}.every((name) => name.startsWith('web-1'))"),
    );
    browser.press(ESCAPE);
    browser.until("all again", &format!("{names}.includes('victim')"));
    browser.run("document.querySelector('.glyph').focus()");
    browser.press(TAB);
    let second =
        browser.run("return document.activeElement.className + document.activeElement.title");
    assert_eq!(second, "glyphweb-001, up");

    for (width, dark) in [(360, false), (360, true), (1440, true)] {
        browser.become_screen(width, 900, dark);
        no_wider_than_its_screen(&browser);
        let paper = browser.run("return getComputedStyle(document.body).backgroundColor");
        assert_eq!(paper == "rgb(20, 23, 27)", dark, "{paper}");
    }
    let said = browser.console();
    assert!(said.is_empty(), "{said:#?}");

    // The balancer goes and the page says so, calmly.
    drop(held);
    drop(scene);
    browser.until(
        "it is lost",
        "document.querySelector('#live').className === 'lost'",
    );
}

#[test]
fn the_page_may_fetch_nothing_from_elsewhere() {
    let backend = Backend::hold();
    let body = support::ringway::single(net::free_address(), backend.address);
    let ringway = Ringway::start(body);
    let answer = within(seconds(10), "the page", || {
        use std::io::{Read, Write};
        let mut stream = net::try_connect(ringway.admin()).ok()?;
        stream
            .write_all(b"GET / HTTP/1.0\r\nHost: r\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    });
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_lowercase();
    assert!(
        head.starts_with("http/1.0 200") || head.starts_with("http/1.1 200"),
        "{head}"
    );
    assert!(
        head.contains("content-security-policy: default-src 'none'; script-src 'sha256-"),
        "{head}"
    );
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    assert!(!head.contains("unsafe"), "{head}");
    assert!(page.starts_with("<!doctype html>") && page.contains("<title>ringway</title>"));
}
