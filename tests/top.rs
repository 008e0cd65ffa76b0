//! `ringway top` as people use it: on a real pseudo-terminal, before three pools and 200 backends whose states change; what
//! it shows is held against `/v1/status`.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::alone;
use support::fleet::{BACKENDS, Fleet, Steady};
use support::ringway::PROGRAM;
use support::terminal::Terminal;
use support::wait::seconds;

const PAGE_DOWN: &str = "\u{1b}[6~";
const HOME: &str = "\u{1b}[H";
const END: &str = "\u{1b}[F";
const ESCAPE: &str = "\u{1b}";
const BREAK: &str = "\u{3}";

fn top(fleet: &Fleet, columns: u16, rows: u16) -> Terminal {
    let socket = fleet.socket.to_str().unwrap();
    let arguments = ["top", "--interval", "200ms", "--socket", socket];
    let terminal = Terminal::run(columns, rows, PROGRAM, &arguments);
    terminal.until("it shows all backends", |lines| {
        lines[1].starts_with(&format!("{BACKENDS} of {BACKENDS} backends"))
    });
    terminal
}

/// The cells of a row, by heading.
type Cells = BTreeMap<String, String>;

/// The table of backends as it stands on the screen.
fn table(lines: &[String]) -> Vec<Cells> {
    let Some(at) = lines.iter().position(|line| line.contains("BACKEND")) else {
        return Vec::new();
    };
    let headings: Vec<char> = lines[at].chars().collect();
    let mut columns = Vec::new();
    let mut from = None;
    for place in 0..=headings.len() {
        let is_blank = headings
            .get(place)
            .is_none_or(|letter| *letter == ' ' || "│┃".contains(*letter));
        match (from, is_blank) {
            (None, false) => from = Some(place),
            (Some(begin), true) => {
                let heading: String = headings[begin..place].iter().collect();
                columns.push((heading.trim_matches(['▲', '▼']).to_owned(), begin, place));
                from = None;
            }
            _ => {}
        }
    }
    let rows = lines[at + 1..lines.len() - 1].iter();
    rows.filter(|line| line.contains('/'))
        .map(|line| cells(&line.chars().collect::<Vec<_>>(), &columns))
        .collect()
}

fn cells(line: &[char], columns: &[(String, usize, usize)]) -> Cells {
    let is_left = |heading: &str| ["BACKEND", "ADDRESS", "STATE", "WHY"].contains(&heading);
    let found = columns.iter().map(|(heading, begin, end)| {
        let text: String = match is_left(heading) {
            true => line.iter().skip(*begin).collect(),
            false => line.iter().take(*end).collect(),
        };
        let text = text.replace(['│', '┃'], " ");
        let cell = match is_left(heading) {
            true => text.split("  ").next().unwrap_or_default().trim_end(),
            false => text.rsplit(' ').next().unwrap_or_default(),
        };
        (heading.clone(), cell.to_owned())
    });
    found.collect()
}

fn shape(word: &str) -> &'static str {
    match word {
        "up" => "●",
        "down" => "✕",
        "ejected" => "▲",
        "draining" => "◐",
        "maintenance" => "‖",
        other => panic!("{other} is not of this test"),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// What must stand there for each backend.
fn expected(status: &Value) -> BTreeMap<String, Cells> {
    let mut all = BTreeMap::new();
    for pool in status["pools"].as_array().unwrap() {
        for backend in pool["backends"].as_array().unwrap() {
            let name = format!("{}/{}", text(pool, "name"), text(backend, "name"));
            let (admin, health) = (text(backend, "admin"), text(backend, "health"));
            let state = match (admin, health) {
                ("ready", health) => format!("{} {health}", shape(health)),
                (admin, "up") => format!("{} {admin}", shape(admin)),
                (admin, health) => format!("{} {admin}, {health}", shape(admin)),
            };
            let why = match (admin, health) {
                ("ready", "up") => "",
                (_, "ejected") => text(&backend["breaker"]["last_change"], "reason"),
                (_, "up") => "by the operator",
                _ => text(&backend["last_change"], "reason"),
            };
            let sessions = match backend["max_connections"].as_u64().unwrap() {
                0 => backend["sessions"].to_string(),
                most => format!("{}/{most}", backend["sessions"]),
            };
            let failed = backend["connect_failures"].as_object().unwrap();
            let failed: u64 = failed.values().map(|n| n.as_u64().unwrap()).sum();
            let cells = [
                ("BACKEND", name.clone()),
                ("ADDRESS", text(backend, "address").to_owned()),
                ("STATE", state),
                ("WEIGHT", backend["weight"].to_string()),
                ("SESSIONS", sessions),
                ("FAILED", failed.to_string()),
                ("WHY", why.to_owned()),
            ];
            let cells = cells.map(|(heading, cell)| (heading.to_owned(), cell));
            all.insert(name, Cells::from(cells));
        }
    }
    all
}

/// Whether a row says what it must; a long reason may be cut.
fn says(row: &Cells, wanted: &Cells) -> bool {
    wanted.iter().all(|(heading, cell)| match heading.as_str() {
        "WHY" => {
            let shown = &row[heading];
            shown == cell || shown.len() >= 20 && cell.starts_with(shown.as_str())
        }
        _ => row.get(heading) == Some(cell),
    })
}

fn marked(lines: &[String]) -> Option<String> {
    let line = lines.iter().find(|line| line.starts_with('▌'))?;
    line.trim_start_matches('▌')
        .split_whitespace()
        .next()
        .map(str::to_owned)
}

/// All rows, from the first page to the last. Every row that stands on a screen must be right.
fn walk(terminal: &mut Terminal, order: &str, wanted: &BTreeMap<String, Cells>) -> Vec<String> {
    terminal.press(HOME);
    let mut seen: Vec<String> = Vec::new();
    let mut before = None;
    while seen.len() < wanted.len() {
        let (names, mark) = terminal.find("a page of right rows", |lines| {
            let rows = table(lines);
            let mark = marked(lines).filter(|mark| Some(mark) != before.as_ref())?;
            let is_right = |row: &Cells| {
                wanted
                    .get(&row["BACKEND"])
                    .is_some_and(|own| says(row, own))
            };
            let names: Vec<String> = rows.iter().map(|row| row["BACKEND"].clone()).collect();
            let is_next = match seen.is_empty() {
                true => lines[1].contains(order) && names.first() == Some(&mark),
                false => names.iter().any(|name| !seen.contains(name)),
            };
            (rows.len() > 20 && rows.iter().all(is_right) && is_next).then_some((names, mark))
        });
        let new = names.into_iter().filter(|name| !seen.contains(name));
        let new: Vec<String> = new.collect();
        seen.extend(new);
        before = Some(mark);
        terminal.press(PAGE_DOWN);
    }
    seen
}

fn amount(text: &str) -> f64 {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: f64 = digits.split('/').next().unwrap().parse().unwrap_or(-1.0);
    match &text[digits.len()..] {
        "k" => number * 1e3,
        "KiB" => number * 1024.0,
        "MiB" => number * 1024.0 * 1024.0,
        "ms" => number * 1e3,
        "B" | "us" | "" => number,
        "-" => -1.0,
        other => panic!("{other} of {text}"),
    }
}

/// The line of a pool, taken apart at its blanks.
fn pool_line(lines: &[String], pool: &str) -> Vec<String> {
    let line = lines
        .iter()
        .find(|line| line.starts_with(&format!(" {pool} ")));
    let words = line.map_or("", String::as_str).split_whitespace();
    words.map(str::to_owned).collect()
}

#[test]
fn two_hundred_backends_as_they_are_and_as_they_become() {
    let _alone = alone();
    let mut fleet = Fleet::start();
    fleet.kill("web/web-017");
    fleet.kill("web/web-090");
    fleet.wait_health("web/web-090", "down");
    fleet.wait_health("web/web-017", "down");
    let held =
        [("pg", 60), ("cache", 100), ("web", 300)].map(|(pool, count)| fleet.hold(pool, count));
    let mut terminal = top(&fleet, 170, 48);

    // Everything that stands there is so, on every page, in the order of the names.
    let status = fleet.ringway.status();
    let wanted = expected(&status);
    assert_eq!(wanted.len(), BACKENDS);
    let all = walk(&mut terminal, "by state ▲", &wanted);
    assert_eq!(
        all[..2],
        ["web/web-017", "web/web-090"],
        "those in trouble first"
    );
    assert_eq!(all[2], "cache/cache-01");
    terminal.press("S");
    terminal.press(HOME);
    let by_name = walk(&mut terminal, "by name ▲", &wanted);
    assert!(
        by_name.is_sorted() && by_name.len() == BACKENDS,
        "{by_name:?}"
    );
    terminal.press("s");
    terminal.press(HOME);
    terminal.until("the head is right", |lines| {
        let head = format!(
            "ringway {} serving for ",
            status["version"].as_str().unwrap().to_owned() + " "
        );
        lines[0].starts_with(&head)
            && lines[0].contains("  460 of ")
            && lines[0].contains("workers busy ")
    });
    terminal.until("pools are told", |lines| {
        let is = |pool: &str, eligible: &str, sessions: &str| {
            let words = pool_line(lines, pool);
            words.len() > 6 && words[1] == eligible && words[3] == sessions && words[5] == "0"
        };
        is("pg", "8/8", "60") && is("cache", "52/52", "100") && is("web", "138/140", "300")
    });

    // States change while it runs, and are seen at once, with the reason.
    changes(&mut fleet, &mut terminal);
    let wanted = expected(&fleet.ringway.status());
    let all = walk(&mut terminal, "by state ▲", &wanted);
    assert_eq!(all.len(), BACKENDS);
    drop(held);
    leaves_the_terminal_in_order(terminal, "q");
}

fn changes(fleet: &mut Fleet, terminal: &mut Terminal) {
    let shows = |terminal: &Terminal, name: &str, state: &str, why: &str| {
        terminal.until(&format!("{name} is {state}: {why}"), |lines| {
            let rows = table(lines);
            let row = rows.iter().find(|row| row["BACKEND"] == name);
            row.is_some_and(|row| row["STATE"] == state && row["WHY"].starts_with(why))
        });
    };
    fleet.kill("cache/cache-07");
    shows(terminal, "cache/cache-07", "✕ down", "check refused");
    fleet.say("web/web-003", "draining");
    shows(terminal, "web/web-003", "◐ draining", "by the operator");
    fleet.say("web/web-017", "maintenance");
    shows(
        terminal,
        "web/web-017",
        "‖ maintenance, down",
        "check refused",
    );
    fleet.eject("pg/pg-02");
    shows(terminal, "pg/pg-02", "▲ ejected", "");
    let why = terminal.find("why it is ejected", |lines| {
        let rows = table(lines);
        let row = rows.iter().find(|row| row["BACKEND"] == "pg/pg-02")?;
        (!row["WHY"].is_empty()).then(|| row["WHY"].clone())
    });
    assert!(!why.contains("check"), "its checks succeed: {why}");
    terminal.until("the pools tell it", |lines| {
        let ends = |pool: &str, states: &str| {
            let words = pool_line(lines, pool);
            words.join(" ").ends_with(states)
        };
        ends("pg", "● 7 up ▲ 1 ejected")
            && ends("cache", "● 51 up ✕ 1 down")
            && ends("web", "● 137 up ◐ 1 draining ‖ 1 maintenance ✕ 1 down")
    });
    fleet.revive("cache/cache-07");
    terminal.until("it is up again", |lines| {
        pool_line(lines, "cache").join(" ").ends_with("● 52 up")
    });
    fleet.say("web/web-003", "ready");
    terminal.until("it is ready again", |lines| {
        table(lines)
            .iter()
            .all(|row| row["BACKEND"] != "web/web-003")
    });
}

#[test]
fn rates_sorting_filter_and_sizes() {
    let _alone = alone();
    let fleet = Fleet::start();
    let _held = [("cache", 60), ("web", 150)].map(|(pool, count)| fleet.hold(pool, count));
    let mut terminal = top(&fleet, 170, 48);

    // Rates are those of what happens.
    let steady = Steady::start(fleet.front("pg"), Duration::from_millis(15), 20_000);
    let (began, before) = (Instant::now(), steady.served());
    let mut seen = Vec::new();
    terminal.press("/pg/\r");
    while began.elapsed() < seconds(3) {
        std::thread::sleep(Duration::from_millis(200));
        let (fresh, out) = terminal.find("the rates", |lines| {
            let rows = table(lines);
            let out: f64 = rows.iter().map(|row| amount(&row["OUT/s"])).sum();
            Some((pool_line(lines, "pg").get(4).map(|word| amount(word))?, out))
        });
        seen.push((fresh, out));
    }
    let passed = began.elapsed().as_secs_f64();
    let served = steady.served() - before;
    terminal.press(ESCAPE);
    terminal.until("all again", |lines| lines[1].starts_with("200 of 200"));
    let rate = served as f64 / passed;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| {
        // The first looks may be of before.
        let late = &seen[4..];
        late.iter().map(of).sum::<f64>() / late.len() as f64
    };
    let fresh = mean(&|(fresh, _)| *fresh);
    assert!(
        fresh > rate * 0.7 && fresh < rate * 1.4,
        "{fresh} shown, {rate} in truth"
    );
    sorts(&mut terminal);
    // Sorted by bytes out those with the work are the first.
    terminal.until("the busy ones", |lines| {
        let rows = table(lines);
        let is_busy =
            |row: &Cells| row["BACKEND"].starts_with("pg/") && amount(&row["OUT/s"]) > 0.0;
        rows.first().is_some_and(is_busy)
    });
    let out = mean(&|(_, out)| *out);
    assert!(
        out > rate * 20_000.0 * 0.6 && out < rate * 20_000.0 * 1.6,
        "{out} bytes a second, {rate} sessions"
    );
    drop(steady);
    filters(&mut terminal);
    sizes(&mut terminal);
    leaves_the_terminal_in_order(terminal, BREAK);
}

/// Goes through all orders, and leaves it at bytes out.
fn sorts(terminal: &mut Terminal) {
    for heading in [
        "WEIGHT", "SESSIONS", "NEW/s", "IN/s", "OUT/s", "CONNECT", "FAILED",
    ] {
        terminal.press("s");
        for (mark, is_downwards) in [("▼", true), ("▲", false)] {
            terminal.until(&format!("by {heading}{mark}"), |lines| {
                let rows = table(lines);
                let amounts: Vec<f64> = rows.iter().map(|row| amount(&row[heading])).collect();
                let in_order = amounts.windows(2).all(|two| match is_downwards {
                    true => two[0] >= two[1],
                    false => two[0] <= two[1],
                });
                // Not all the same, at one of its ends, where there is anything of it.
                let found =
                    !is_downwards || amounts.first() > amounts.last() || heading == "FAILED";
                let named = lines
                    .iter()
                    .any(|line| line.contains(&format!("{heading}{mark}")));
                named && rows.len() > 30 && in_order && found
            });
            terminal.press("r");
        }
    }
    terminal.press("SS");
    terminal.until("by bytes out again", |lines| {
        lines[1].contains("by bytes out ▼")
    });
}

fn filters(terminal: &mut Terminal) {
    terminal.press("/WEB-01");
    terminal.until("as it is written", |lines| {
        let rows = table(lines);
        lines[1].starts_with("10 of 200 backends")
            && lines.last().unwrap().starts_with("filter: WEB-01_")
            && rows.len() == 10
            && rows
                .iter()
                .all(|row| row["BACKEND"].starts_with("web/web-01"))
    });
    // A letter of the filter is no key, and Enter keeps it.
    terminal.press("q\u{7f}\r");
    terminal.until("kept", |lines| {
        lines[1].ends_with("filter: WEB-01")
            && lines[1].starts_with("10 of 200")
            && lines.last().unwrap().contains("Esc clear")
    });
    terminal.press(ESCAPE);
    terminal.until("all again", |lines| {
        lines[1].starts_with("200 of 200 backends")
    });
}

fn sizes(terminal: &mut Terminal) {
    terminal.press(HOME);
    for (columns, rows, headings) in [
        (80, 24, &["BACKEND", "STATE", "SESSIONS", "WHY"][..]),
        (40, 10, &["BACKEND", "STATE"]),
        (
            300,
            90,
            &["BACKEND", "ADDRESS", "WEIGHT", "CONNECT", "FAILED", "WHY"],
        ),
        (20, 4, &["BACKEND"]),
        (3, 1, &[]),
        (170, 48, &["BACKEND", "FAILED", "WHY"]),
    ] {
        terminal.resize(columns, rows);
        terminal.until(&format!("{columns} by {rows}"), |lines| {
            let rows_shown = table(lines);
            let fits = headings.iter().all(|heading| {
                lines.iter().any(|line| line.contains(heading))
                    && rows_shown.iter().all(|row| row.contains_key(*heading))
            });
            let keys = columns < 20 || lines.last().unwrap().starts_with("q quit   s/S sort");
            let own = usize::from(rows).saturating_sub(if rows >= 12 { 9 } else { 4 });
            fits && keys && (rows_shown.len() == own || rows < 12 && rows_shown.len() >= own.min(1))
        });
    }
    // The last one can be reached on a small screen, too.
    terminal.resize(60, 12);
    terminal.until("a small screen", |lines| table(lines).len() == 3);
    // A key in the very moment of a resize may wait for the next one (crossterm 0.29).
    std::thread::sleep(Duration::from_millis(500));
    terminal.press(END);
    terminal.until("the last", |lines| {
        marked(lines).is_some() && table(lines).len() > 2 && lines[10].starts_with('▌')
    });
}

#[track_caller]
fn leaves_the_terminal_in_order(mut terminal: Terminal, key: &str) {
    assert!(terminal.look(|screen| screen.alternate_screen() && screen.hide_cursor()));
    assert!(!terminal.is_as_before(), "it reads keys one by one");
    terminal.press(key);
    let Some(status) = terminal.ended(seconds(10)) else {
        let pid = terminal.pid();
        let of =
            |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        panic!(
            "it does not end: {} {}\n{}",
            of("wchan"),
            of("status"),
            terminal.lines().join("\n")
        );
    };
    assert_eq!(status.code(), Some(0));
    terminal.until("the screen of before", |_| {
        terminal.look(|screen| !screen.alternate_screen() && !screen.hide_cursor())
    });
    assert!(terminal.is_as_before(), "its line is as it was");
    assert_eq!(
        terminal.lines().concat().trim(),
        "",
        "and nothing is left on it"
    );
}

#[test]
fn an_instance_that_goes_and_comes_back() {
    let mut fleet = Fleet::start();
    let mut terminal = top(&fleet, 120, 30);
    fleet.ringway.signal("TERM");
    let _ = fleet.ringway.wait_exit(seconds(10));
    terminal.until("it says so", |lines| {
        lines[1].contains("no ringway answers at")
    });
    // What was seen last still stands, and keys are heard.
    terminal.press("/web-1\r");
    terminal.until("the filter", |lines| {
        let rows = table(lines);
        !rows.is_empty()
            && rows
                .iter()
                .all(|row| row["BACKEND"].starts_with("web/web-1"))
    });
    fleet.ringway.start_again();
    terminal.until("it is back", |lines| {
        lines[1].starts_with("41 of 200 backends")
    });
    leaves_the_terminal_in_order(terminal, "q");
}
