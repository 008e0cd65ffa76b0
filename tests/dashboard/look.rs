//! How the page looks and is used: by keyboard alone, on a phone, light and dark.

use serde_json::Value;

use super::support::browser::Browser;
use super::support::fleet::Fleet;
use super::{ESCAPE, TAB, opened};

const ENTER: &str = "\u{e006}";
const DOWN: &str = "\u{e015}";

/// Texts whose colour is hard to tell from what is behind them: contrast as WCAG 2 reckons it.
const HARD_TO_READ: &str = "\
    const channel = (n) => { n /= 255; return n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4; };\
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);\
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);\
    const behind = (node) => { for (; node; node = node.parentElement) {\
      const found = parts(getComputedStyle(node).backgroundColor);\
      if (found.length === 3 || found[3] === 1) return found; } return [255, 255, 255]; };\
    const found = new Map();\
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);\
    let texts = 0;\
    while (walk.nextNode()) { const node = walk.currentNode.parentElement;\
      if (!walk.currentNode.data.trim() || !node.checkVisibility() || ['SCRIPT', 'OPTION', 'NOSCRIPT'].includes(node.tagName)) continue;\
      texts += 1;\
      const [a, b] = [light(parts(getComputedStyle(node).color)), light(behind(node))];\
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);\
      if (ratio < 4.5) found.set(`${node.className} ${getComputedStyle(node).color}`, `${ratio.toFixed(2)} ${walk.currentNode.data}`); }\
    return [texts, [...found]];";

/// Whatever is to be seen and does not lie wholly between the edges of the screen.
const OVER_THE_EDGE: &str = "\
    return [...document.querySelectorAll('body *')].filter((node) => {\
      if (node.closest('.unseen, svg.shapes, symbol') || !node.checkVisibility()) return false;\
      const box = node.getBoundingClientRect();\
      return box.width > 0 && (box.left < -0.5 || box.right > innerWidth + 0.5);\
    }).map((node) => `${node.tagName} ${node.className.baseVal ?? node.className} ${node.textContent.slice(0, 40)}`);";

/// Screens, and where the page changes its shape.
const WIDTHS: [u32; 9] = [1920, 1440, 1280, 1241, 1240, 1024, 881, 880, 360];

/// Each kind of state is on the page.
fn in_trouble() -> Fleet {
    let mut fleet = Fleet::start();
    fleet.kill("web/web-017");
    fleet.kill("cache/cache-30");
    fleet.say("web/web-021", "draining");
    fleet.say("cache/cache-02", "maintenance");
    fleet.eject("pg/pg-03");
    fleet.wait_health("cache/cache-30", "down");
    fleet.wait_health("web/web-017", "down");
    fleet
}

fn text(browser: &Browser, question: &str) -> String {
    let value = browser.run(&format!("return {question}"));
    value.as_str().unwrap_or_default().to_owned()
}

#[test]
fn every_text_is_easy_to_read_in_light_and_dark_and_nothing_is_cut_on_a_phone() {
    let fleet = in_trouble();
    let browser = opened(&fleet.ringway, 1440, 1400);
    for state in ["ejected", "down", "draining", "maintenance"] {
        browser.until(
            state,
            &format!("document.querySelector('.backends .state.{state}')"),
        );
    }
    let papers = [false, true].map(|dark| {
        for width in WIDTHS {
            browser.become_screen(width, 1000, dark);
            let shown = browser.run("return document.documentElement.scrollWidth");
            assert!(
                shown.as_u64().unwrap() <= u64::from(width),
                "{width}: {shown} wide"
            );
            let over = browser.run(OVER_THE_EDGE);
            assert_eq!(over, Value::Array(Vec::new()), "{width}: over the edge");
            let hard = browser.run(HARD_TO_READ);
            assert!(hard[0].as_u64().unwrap() > 100, "{hard}");
            assert_eq!(
                hard[1],
                Value::Array(Vec::new()),
                "{width}, dark {dark}: hard to read"
            );
        }
        text(&browser, "getComputedStyle(document.body).backgroundColor")
    });
    assert_ne!(papers[0], papers[1]);
    // On a phone words stand beside their figures, and what is pressed is large enough for a thumb.
    browser.become_screen(360, 740, false);
    let labels = browser.run("return [...document.querySelectorAll('.backends small')].every((one) => one.checkVisibility())");
    assert_eq!(labels, true);
    let small = browser.run(
        "return [...document.querySelectorAll('button, input, select')].filter((one) => one.checkVisibility())\
         .map((one) => one.getBoundingClientRect()).filter((box) => box.width < 24 || box.height < 24).length",
    );
    assert_eq!(small, 0);
}

#[test]
fn everything_can_be_done_by_keyboard() {
    let fleet = in_trouble();
    let browser = opened(&fleet.ringway, 1440, 900);
    browser.until(
        "a breaker is open",
        "document.querySelector('.backends .state.ejected')",
    );
    let active = |what: &str| text(&browser, &format!("document.activeElement.{what}"));
    let is_outlined = || {
        text(
            &browser,
            "getComputedStyle(document.activeElement).outlineStyle",
        ) == "solid"
    };

    // Tab goes to the filter, the order, and each backend of the maps; where it is can be seen.
    browser.press(TAB);
    assert_eq!(active("id"), "filter");
    assert!(is_outlined());
    browser.press(TAB);
    assert_eq!(active("id"), "order");
    assert!(is_outlined());
    browser.press(DOWN);
    browser.until(
        "another order",
        "document.querySelector('#order').value === 'file'",
    );
    let first =
        "[...document.querySelectorAll('.pool')][1].querySelector('.backends .name').textContent";
    assert_eq!(text(&browser, first), "cache-01");
    browser.press("\u{e013}");
    browser.until("trouble first", &format!("{first} !== 'cache-01'"));
    browser.press(TAB);
    assert_eq!(active("className"), "glyph");
    assert!(is_outlined());
    assert!(
        active("title").starts_with("cache-01, up"),
        "{}",
        active("title")
    );

    // Enter on one of the map shows it in the list.
    for _ in 0..30 {
        browser.press(TAB);
    }
    let name = active("title").split(',').next().unwrap().to_owned();
    assert_eq!(name, "cache-31");
    browser.press(ENTER);
    browser.until(
        "it is shown",
        "(() => { const found = document.querySelector('.backend.found'); const box = found?.getBoundingClientRect();\
         return box && box.top >= 0 && box.bottom <= innerHeight && found.querySelector('.name').textContent === 'cache-31' })()",
    );
    let rows =
        "[...document.querySelectorAll('.pool')][1].querySelectorAll('.backends .backend').length";
    browser.until("with all others", &format!("{rows} === 52"));

    // And the button below shows fewer again.
    let button = "[...document.querySelectorAll('.pool')][1].querySelector('.more button')";
    let mut presses = 0;
    while browser.run(&format!("return document.activeElement === {button}")) != true {
        browser.press(TAB);
        presses += 1;
        assert!(presses < 60, "Tab does not reach the button");
    }
    assert!(is_outlined());
    browser.press(ENTER);
    browser.until("folded", &format!("{rows} < 30"));

    // From wherever one is: the filter, and out of it.
    browser.press("/");
    assert_eq!(active("id"), "filter");
    browser.press("maintenance");
    let names = "[...document.querySelectorAll('.backends .name')].map((one) => one.textContent)";
    browser.until(
        "states are words, too",
        &format!("{names}.join() === 'cache-02'"),
    );
    browser.press(ESCAPE);
    browser.until("all again", &format!("{names}.length > 30"));
    assert_ne!(active("id"), "filter");
    assert!(browser.console().is_empty(), "{:#?}", browser.console());
}
