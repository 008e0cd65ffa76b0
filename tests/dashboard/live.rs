//! What the page says, held against `/v1/status` and `/v1/events` while there is traffic: rates, connect times, the minute's
//! charts, breakers, the reasons of checks, events.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::opened;
use super::support::alone;
use super::support::browser::Browser;
use super::support::events::EventStream;
use super::support::fleet::{Fleet, Steady};
use super::support::soak;
use super::support::wait::{seconds, within};

/// Some questions of the page, as functions in it.
const QUESTIONS: &str = "\
    const rowOf = (name) => [...document.querySelectorAll('.backends .backend')]\
      .find((row) => row.querySelector('.name').textContent === name);\
    const poolOf = (name) => [...document.querySelectorAll('.pool')]\
      .find((pool) => pool.querySelector('h3').textContent === name);\
    const cell = (node, word) => [...node.querySelectorAll('.cell')]\
      .find((one) => one.querySelector('small').textContent === word).querySelector('b').textContent;\
    const tile = (word) => [...document.querySelectorAll('.tile')]\
      .find((one) => one.querySelector('.what').textContent === word);\
    const points = (svg) => (svg.querySelector('.curve').getAttribute('d') ?? '').slice(1).split('L')\
      .filter(Boolean).map((pair) => pair.split(' ').map(Number));";

fn ask(browser: &Browser, question: &str) -> Value {
    browser.run(&format!("{QUESTIONS} return {question}"))
}

fn words(browser: &Browser, question: &str) -> String {
    ask(browser, question)
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// As the page writes it: `77`, `1.2 MB/s`, `108 µs`, `12.3 k`; in bytes, or in milliseconds.
fn amount(text: &str) -> f64 {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let scale = match unit.trim_end_matches("/s") {
        "" | "B" | "ms" => 1.0,
        "k" | "kB" => 1e3,
        "M" | "MB" => 1e6,
        "GB" => 1e9,
        "µs" => 1e-3,
        other => panic!("{other} in {text}"),
    };
    number.parse().unwrap_or(f64::NAN) * scale
}

fn about(shown: f64, truth: f64, tolerance: f64) -> bool {
    shown > truth / tolerance && shown < truth * tolerance
}

fn backend(status: &Value, pool: usize, place: usize) -> &Value {
    &status["pools"][pool]["backends"][place]
}

#[test]
fn rates_and_connect_times_are_those_of_the_traffic() {
    let _alone = alone();
    let fleet = Fleet::start();
    let browser = opened(&fleet.ringway, 1440, 1400);
    let quiet = ask(&browser, "cell(poolOf('pg'), 'connect')");
    assert_eq!(quiet, "–", "no connect was seen, so none has taken no time");
    let load = Steady::start(fleet.front("pg"), Duration::from_millis(12), 30_000);
    std::thread::sleep(seconds(2));
    let (began, before, first) = (Instant::now(), load.served(), fleet.ringway.status());
    let (mut shown, mut last) = (Vec::new(), String::new());
    while shown.len() < 5 {
        std::thread::sleep(Duration::from_millis(150));
        let fresh = words(&browser, "cell(poolOf('pg'), 'new/s')");
        let all = ask(
            &browser,
            "[cell(poolOf('pg'), 'new/s'), tile('New sessions').querySelector('.figure span').textContent,\
             tile('To clients').querySelector('.figure').textContent, cell(document.querySelector('.listener'), 'new/s'),\
             cell(document.querySelector('.listener'), 'out'), cell(rowOf('pg-01'), 'connect'), cell(rowOf('pg-01'), 'out')]",
        );
        if fresh != last {
            shown.push(all);
            last = fresh;
        }
        assert!(
            began.elapsed() < seconds(20),
            "rates do not move: {shown:?}"
        );
    }
    let passed = began.elapsed().as_secs_f64();
    let rate = (load.served() - before) as f64 / passed;
    let second = fleet.ringway.status();
    drop(load);
    let mean = |place: usize| {
        let amounts = shown.iter().map(|all| amount(all[place].as_str().unwrap()));
        amounts.sum::<f64>() / shown.len() as f64
    };
    for (place, truth) in [
        (0, rate),
        (1, rate),
        (2, rate * 30_000.0),
        (3, rate),
        (4, rate * 30_000.0),
    ] {
        assert!(
            about(mean(place), truth, 1.4),
            "{place}: {} shown, {truth} in truth: {shown:?}",
            mean(place)
        );
    }
    let grown = |key: &str| {
        let of = |status: &Value| backend(status, 0, 0)[key].as_f64().unwrap();
        of(&second) - of(&first)
    };
    let connect = grown("connect_ms") / grown("connects");
    assert!(
        about(mean(5), connect, 2.5),
        "{} ms shown, {connect} in truth",
        mean(5)
    );
    let out = grown("bytes_out") / passed;
    assert!(
        about(mean(6), out, 1.6),
        "{} shown, {out} in truth",
        mean(6)
    );
}

/// A chart has a point for each second, stands at nothing before the load, high in it, and falls with it.
#[test]
fn charts_follow_what_happened_in_the_minute() {
    let _alone = alone();
    let fleet = Fleet::start();
    let browser = opened(&fleet.ringway, 1440, 1400);
    let opened = Instant::now();
    std::thread::sleep(seconds(3));
    let load = Steady::start(fleet.front("pg"), Duration::from_millis(12), 3_000);
    let held = fleet.hold("pg", 24);
    std::thread::sleep(seconds(3));
    let say = |question: &str| words(&browser, question);
    let label = say("poolOf('pg').querySelector('.head .spark').getAttribute('aria-label')");
    let most = label.strip_prefix("New sessions a second, the last minute: at most ");
    assert!(amount(most.expect(&label)) > 20.0, "{label}");
    let sessions = say("rowOf('pg-01').querySelector('.spark').getAttribute('aria-label')");
    assert!(
        sessions.starts_with("Sessions, the last minute: at most "),
        "{sessions}"
    );
    assert_ne!(sessions.rsplit(' ').next(), Some("0"), "{sessions}");
    drop((load, held));
    std::thread::sleep(seconds(3));
    // y is 19 at nothing, and 1 at the most.
    for chart in [
        "poolOf('pg').querySelector('.head .spark')",
        "tile('New sessions').querySelector('.spark')",
        "tile('To clients').querySelector('.spark')",
        "document.querySelector('.listener .spark')",
        "rowOf('pg-01').querySelector('.spark')",
    ] {
        let points: Vec<(f64, f64)> =
            serde_json::from_value(ask(&browser, &format!("points({chart})"))).unwrap();
        let highest = (0..points.len()).min_by(|a, b| points[*a].1.total_cmp(&points[*b].1));
        let highest = highest.expect("points");
        // Fewer on a machine that is busy, and the first stands for what was before it.
        let passed = opened.elapsed().as_secs() as usize;
        assert!(
            (passed / 2..=passed + 2).contains(&points.len()),
            "one a second: {chart}: {points:?}"
        );
        assert!(
            (points[highest].1 - 1.0).abs() < 0.01,
            "it uses its height: {chart}: {points:?}"
        );
        assert_eq!(points[0].1, 19.0, "nothing was before: {chart}: {points:?}");
        assert_eq!(
            points.last().unwrap(),
            &(59.0, 19.0),
            "now nothing is: {chart}: {points:?}"
        );
        let steps = points.windows(2).all(|two| two[1].0 - two[0].0 == 1.0);
        assert!(steps, "{chart}: {points:?}");
        assert!(
            highest > 1 && highest + 2 < points.len(),
            "{chart}: {points:?}"
        );
    }
    let idle = ask(
        &browser,
        "points(poolOf('web').querySelector('.head .spark')).every(([, y]) => y === 19)",
    );
    assert_eq!(idle, true, "nobody came to the others");
    if soak() {
        std::thread::sleep(seconds(65));
        let count = ask(
            &browser,
            "points(tile('Sessions').querySelector('.spark')).length",
        );
        assert_eq!(count, 60, "a minute, and no more");
    }
}

#[test]
fn breakers_checks_and_events_are_told_with_their_reasons() {
    let mut fleet = Fleet::start();
    let mut events = EventStream::open(fleet.ringway.admin(), Some("0"));
    let browser = opened(&fleet.ringway, 1440, 1400);
    let row = |name: &str| {
        let question = format!(
            "(() => {{ const row = rowOf('{name}'); return row ? [row.querySelector('.state span').textContent,\
             row.querySelector('use').getAttribute('href'), row.querySelector('.why').textContent, row.className] : null }})()"
        );
        ask(&browser, &question)
    };
    let clock = |stamp: &Value| {
        words(
            &browser,
            &format!("new Date({stamp}).toLocaleTimeString([], {{ hour12: false }})"),
        )
    };
    let why = |name: &str, state: &str| {
        let what = format!("{name} is {state}");
        within(seconds(10), &what, || {
            let row = row(name);
            let is_it = row[0] == state && row[1] == format!("#s-{state}");
            is_it.then(|| row[2].as_str().unwrap().to_owned())
        })
    };

    // A breaker: its state, its reason, and until when.
    fleet.eject("pg/pg-02");
    let told = Instant::now();
    let event = events.find(seconds(5), "its event", |event| {
        event.kind == "breaker" && event.text("to") == "open"
    });
    within(seconds(6), "its reason, and until when", || {
        let breaker = backend(&fleet.ringway.status(), 0, 1)["breaker"].clone();
        let until = clock(&breaker["open_until"]);
        let reason = breaker["last_change"]["reason"].as_str().unwrap();
        let row = row("pg-02");
        let is_it = row[0] == "ejected" && row[1] == "#s-ejected";
        (is_it && row[2] == format!("{reason}, until {until}")).then_some(())
    });
    assert!(told.elapsed() < seconds(4), "{:?}", told.elapsed());
    assert!(row("pg-02")[3].as_str().unwrap().contains("trouble"));
    let newest = || {
        ask(
            &browser,
            "[...document.querySelectorAll('#events li')].map((one) => [one.querySelector('span').textContent,\
                                   one.querySelector('.because')?.textContent ?? '', one.querySelector('time').dateTime])",
        )
    };
    let has = |text: &str, because: &str| {
        within(seconds(5), text, || {
            let list = newest();
            let list = list.as_array().unwrap().clone();
            list.iter()
                .any(|one| one[0] == text && one[1] == because)
                .then_some(())
        });
    };
    let open = event.data["open_ms"].as_u64().unwrap() / 1000;
    has(
        &format!("pg/pg-02 ejected for {open} s"),
        event.text("reason"),
    );

    // A check: its reason, and since when.
    fleet.kill("cache/cache-11");
    let said = why("cache-11", "down");
    let change = backend(&fleet.ringway.status(), 1, 10)["last_change"].clone();
    assert_eq!(
        said,
        format!(
            "{}, since {}",
            change["reason"].as_str().unwrap(),
            clock(&change["at"])
        )
    );
    has("cache/cache-11 is down", change["reason"].as_str().unwrap());
    fleet.say("web/web-004", "draining");
    assert_eq!(why("web-004", "draining"), "by the operator");
    has("web/web-004 is draining", "by the operator");

    // It may be tried, is, and is back.
    fleet.revive("pg/pg-02");
    let half = Instant::now();
    within(seconds(20), "the breaker closes", || {
        drop(fleet.hold("pg", 8));
        let row = row("pg-02");
        (row[0] == "up").then_some(())
    });
    has(
        "pg/pg-02 may be tried",
        "its time is over, sessions may try",
    );
    has(
        "pg/pg-02 is back, up",
        backend(&fleet.ringway.status(), 0, 1)["breaker"]["last_change"]["reason"]
            .as_str()
            .unwrap(),
    );
    println!("back after {:?}", half.elapsed());

    // All that was told is there, the newest first, and nothing twice.
    let mut all = Vec::new();
    while let Some(event) = events.next(Duration::from_millis(300)) {
        all.push(event.text("at").to_owned());
    }
    let shown = newest();
    let shown: Vec<&str> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one[2].as_str().unwrap())
        .collect();
    assert!(shown.iter().rev().is_sorted(), "{shown:?}");
    let tail: Vec<&str> = all.iter().rev().map(String::as_str).collect();
    assert_eq!(shown[..tail.len()], tail[..]);
    assert!(browser.console().is_empty(), "{:#?}", browser.console());
}
