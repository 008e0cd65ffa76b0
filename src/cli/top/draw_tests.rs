//! What stands on screens of several sizes, drawn into memory.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::model::Key;
use super::super::model::tests::{model, status};
use super::*;

fn screen(model: &mut Model, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let cells = buffer.content().chunks(width.into());
    cells
        .map(|row| {
            let line: String = row.iter().map(|cell| cell.symbol()).collect();
            line.trim_end().to_owned()
        })
        .collect()
}

#[test]
fn two_hundred_backends_in_three_pools_are_clear() {
    let mut model = model();
    let lines = screen(&mut model, 150, 40);
    assert_eq!(
        lines[0],
        "ringway 0.1.0  serving for 1h 2m  1234 of 9326 sessions  workers busy 25% 50%"
    );
    assert_eq!(lines[1], "200 of 200 backends by state ▲");
    assert!(lines[2].starts_with(" POOL ") && lines[2].ends_with("STATES"));
    for part in [
        " pg ",
        "84/120",
        "2.6k",
        "● 84 up",
        "◐ 8 draining",
        "✕ 28 down",
    ] {
        assert!(lines[3].contains(part), "{part}: {}", lines[3]);
    }
    assert!(lines[4].starts_with(" redis ") && lines[5].starts_with(" dns "));
    assert!(
        lines[7].contains("STATE▲") && lines[7].contains("WHY"),
        "{}",
        lines[7]
    );
    for part in [
        "dns/b183",
        "10.0.0.183:5432",
        "✕ down",
        "100",
        "33",
        "check refused",
    ] {
        assert!(lines[8].contains(part), "{part}: {}", lines[8]);
    }
    assert_eq!(
        lines[39],
        "q quit   s/S sort   r reverse   / filter   arrows, PgUp, PgDn, Home, End move"
    );
    assert_eq!(lines.iter().filter(|line| line.contains("/b")).count(), 31);

    // The last row can be reached, is on the screen then, and the window stays while the mark moves inside it.
    model.press(Key::End);
    let lines = screen(&mut model, 150, 40);
    assert!(
        lines[38].contains("▌") && lines[38].contains("redis/b178"),
        "{}",
        lines[38]
    );
    model.press(Key::Up);
    let lines = screen(&mut model, 150, 40);
    assert!(
        !lines[38].contains("▌") && lines[38].contains("redis/b178"),
        "{}",
        lines[38]
    );
    for part in ["28", "86.9KiB", "250us"] {
        assert!(
            lines.iter().any(|line| line.contains(part)),
            "{part}: {lines:#?}"
        );
    }
    model.press(Key::Letter('/'));
    "b17"
        .chars()
        .for_each(|letter| assert!(model.press(Key::Letter(letter))));
    let lines = screen(&mut model, 150, 40);
    assert_eq!(lines[1], "11 of 200 backends by state ▲");
    assert_eq!(lines[39], "filter: b17_   Enter keep   Esc clear");
}

#[test]
fn a_narrow_terminal_has_fewer_columns_and_none_is_cut() {
    let mut model = model();
    let lines = screen(&mut model, 80, 24);
    assert!(lines[7].contains("  WHY"), "{}", lines[7]);
    assert!(
        lines[8].contains("✕ down") && lines[8].contains("check refused"),
        "{}",
        lines[8]
    );
    assert!(!lines[7].contains("ADDRESS") && !lines[8].contains("10.0"));
    let lines = screen(&mut model, 30, 10);
    assert!(
        lines[2].starts_with(" BACKEND") && lines[2].contains("STATE▲"),
        "{lines:#?}"
    );
    assert!(
        !lines[2].contains("WHY") && lines[3].contains("✕ down"),
        "{lines:#?}"
    );
    assert!(lines[9].starts_with("q quit   s/S sort"), "{lines:#?}");
}

#[test]
fn no_screen_is_too_small_and_trouble_is_said() {
    let mut model = model();
    for (width, height) in [(1, 1), (20, 3), (80, 5), (300, 100)] {
        screen(&mut model, width, height);
    }
    model.trouble = Some("no ringway answers".to_owned());
    assert_eq!(screen(&mut model, 100, 20)[1], "no ringway answers");
    model.update(&status(3), std::time::Duration::from_secs(14));
    assert_eq!(
        screen(&mut model, 100, 20)[1],
        "200 of 200 backends by state ▲"
    );
    let mut nothing = Model::default();
    screen(&mut nothing, 80, 24);
}

#[test]
fn many_workers_are_told_together() {
    assert_eq!(
        busy(&[0.25; 8]),
        "workers busy 25% 25% 25% 25% 25% 25% 25% 25%"
    );
    let mut many = [0.25; 9];
    many[3] = 1.0;
    assert_eq!(busy(&many), "9 workers busy 33%, at most 100%");
}
