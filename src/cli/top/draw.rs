//! Draws the model on a terminal: the process in two lines, pools in a few, backends in a table, the keys at the bottom.
//! States have a colour and a word, so that nothing is told by colour alone.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use crate::cli::columns::{age, bytes, short};

use super::model::{Model, Row as Backend, Sort};

const POOLS_MAX: u16 = 6;

pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let pools = u16::try_from(model.head.pools.len()).unwrap_or(POOLS_MAX);
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(pools.min(POOLS_MAX)),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .split(frame.area());
    head(frame, model, areas[0]);
    let lines = model.head.pools.iter().take(POOLS_MAX.into());
    let lines: Vec<Line<'_>> = lines.map(|pool| Line::from(pool.as_str())).collect();
    frame.render_widget(Paragraph::new(lines), areas[1]);
    table(frame, model, areas[2]);
    foot(frame, model, areas[3]);
}

fn head(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let head = &model.head;
    let busy: Vec<String> = head
        .busy
        .iter()
        .map(|it| format!("{:.0}%", it * 100.0))
        .collect();
    let first = format!(
        "ringway {} {}  up {}  {} of {} sessions  workers {}",
        head.version,
        head.phase,
        age(head.uptime),
        head.sessions,
        head.limit,
        busy.join(" ")
    );
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let second = match (&model.trouble, &head.pending) {
        (Some(trouble), _) => Span::styled(trouble.clone(), Style::new().fg(Color::Red)),
        (None, Some(until)) => Span::styled(
            format!("not confirmed: the configuration before comes back at {until}"),
            Style::new().fg(Color::Yellow),
        ),
        (None, None) => Span::raw(format!(
            "{} of {} backends",
            model.visible().len(),
            model.total()
        )),
    };
    let lines = vec![Line::styled(first, bold), Line::from(second)];
    frame.render_widget(Paragraph::new(lines), area);
}

/// Heading, what it sorts by, width.
const COLUMNS: [(&str, Option<Sort>, Constraint); 10] = [
    ("BACKEND", Some(Sort::Name), Constraint::Min(16)),
    ("ADDRESS", None, Constraint::Length(22)),
    ("STATE", Some(Sort::State), Constraint::Length(20)),
    ("WEIGHT", Some(Sort::Weight), Constraint::Length(7)),
    ("SESSIONS", Some(Sort::Sessions), Constraint::Length(9)),
    ("NEW/s", Some(Sort::SessionRate), Constraint::Length(8)),
    ("IN/s", Some(Sort::In), Constraint::Length(10)),
    ("OUT/s", Some(Sort::Out), Constraint::Length(10)),
    ("FAILED", Some(Sort::Failures), Constraint::Length(8)),
    ("WHY", None, Constraint::Fill(1)),
];

fn table(frame: &mut Frame<'_>, model: &mut Model, area: Rect) {
    let headings = COLUMNS.iter().map(|(heading, sort, _)| {
        let mark = match (*sort == Some(model.sort), model.downwards) {
            (false, _) => "",
            (true, true) => "▼",
            (true, false) => "▲",
        };
        Cell::from(format!("{heading}{mark}"))
    });
    let headings = Row::new(headings).style(Style::new().add_modifier(Modifier::REVERSED));
    // Only what can be seen is made: a row costs more than a look at it.
    let page = usize::from(area.height.saturating_sub(1)).max(1);
    model.page = page;
    let visible = model.visible();
    let first = (model.selected + 1).saturating_sub(page);
    let shown = visible.iter().skip(first).take(page);
    let rows: Vec<Row<'_>> = shown.map(|row| line(row)).collect();
    let widths = COLUMNS.map(|(_, _, width)| width);
    let table = Table::new(rows, widths)
        .header(headings)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(Some(model.selected - first));
    frame.render_stateful_widget(table, area, &mut state);
}

fn line(row: &Backend) -> Row<'static> {
    let state = match (row.admin.as_str(), row.health.as_str()) {
        ("ready", health) => health.to_owned(),
        (admin, health) => format!("{admin}, {health}"),
    };
    let colour = match (row.admin.as_str(), row.health.as_str(), row.eligible) {
        ("ready", "up", true) => Color::Green,
        ("ready", "down" | "ejected" | "wrong-role", _) => Color::Red,
        _ => Color::Yellow,
    };
    let right = |text: String, width: usize| Cell::from(format!("{text:>width$}"));
    Row::new([
        Cell::from(row.name.clone()),
        Cell::from(row.address.clone()),
        Cell::from(state).style(Style::new().fg(colour)),
        right(short(row.weight), 6),
        right(short(row.sessions), 8),
        right(short(row.session_rate), 6),
        right(bytes(row.in_rate), 9),
        right(bytes(row.out_rate), 9),
        right(short(row.failures), 6),
        Cell::from(row.reason.clone()),
    ])
}

fn foot(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let keys = match model.editing {
        true => format!("filter: {}_   Enter keep   Esc clear", model.filter),
        false => {
            let filter = match model.filter.is_empty() {
                true => String::new(),
                false => format!("   filter: {}   Esc clear", model.filter),
            };
            format!(
                "q quit   s/S sort   r reverse   / filter   arrows, PgUp, PgDn, Home, End move{filter}"
            )
        }
    };
    let line = Line::styled(keys, Style::new().add_modifier(Modifier::DIM));
    frame.render_widget(Paragraph::new(line), area);
}

#[cfg(test)]
mod tests {
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
        let lines = screen(&mut model, 140, 40);
        assert_eq!(
            lines[0],
            "ringway 0.1.0 serving  up 1h 2m  1234 of 9326 sessions  workers 25% 50%"
        );
        assert_eq!(lines[1], "200 of 200 backends");
        assert_eq!(lines[2], "pg: 84/120 eligible, 2640 sessions, 3 waiting");
        assert!(
            lines[3].starts_with("redis: ") && lines[4].starts_with("dns: "),
            "{lines:#?}"
        );
        assert!(
            lines[5].contains("BACKEND▲") && lines[5].contains("WHY"),
            "{}",
            lines[5]
        );
        let first = &lines[6];
        for part in [
            "dns/b180",
            "10.0.0.180:5432",
            "up",
            "100",
            "90",
            "87.9KiB",
            "439.5KiB",
        ] {
            assert!(first.contains(part), "{part}: {first}");
        }
        assert!(
            lines[9].contains("down") && lines[9].contains("check refused"),
            "{}",
            lines[9]
        );
        assert!(
            lines[39].starts_with("q quit   s/S sort   r reverse   / filter"),
            "{}",
            lines[39]
        );
        assert_eq!(lines.iter().filter(|line| line.contains("/b")).count(), 33);

        // The last row can be reached, and is on the screen then.
        model.press(Key::End);
        let lines = screen(&mut model, 140, 40);
        assert!(lines[38].contains("redis/b179"), "{}", lines[38]);
        model.press(Key::Letter('/'));
        "b17"
            .chars()
            .for_each(|letter| assert!(model.press(Key::Letter(letter))));
        let lines = screen(&mut model, 140, 40);
        assert_eq!(lines[1], "11 of 200 backends");
        assert_eq!(lines[39], "filter: b17_   Enter keep   Esc clear");
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
        assert_eq!(screen(&mut model, 100, 20)[1], "200 of 200 backends");
        let mut nothing = Model::default();
        screen(&mut nothing, 80, 24);
    }
}
