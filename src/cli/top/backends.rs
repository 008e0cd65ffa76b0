//! The backends in a table: as many columns as the terminal has room for, those that matter most first.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{
    HighlightSpacing, Row, Scrollbar, ScrollbarOrientation, ScrollbarState, Table, TableState,
};

use crate::cli::columns::{bytes, millis, short};

use super::draw::look_of;
use super::look::Row as Backend;
use super::model::{Model, Sort};

const SPACING: u16 = 2;
/// The mark before the selected row.
const MARK: &str = "▌";
const LOAD: u16 = 10;
const EIGHTHS: [&str; 8] = ["▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"];

/// Heading, what it sorts by, how much it matters (0 is most), its least width.
struct Column {
    heading: &'static str,
    sort: Option<Sort>,
    rank: u8,
    width: u16,
}

const fn column(heading: &'static str, sort: Option<Sort>, rank: u8, width: u16) -> Column {
    Column {
        heading,
        sort,
        rank,
        width,
    }
}

const COLUMNS: [Column; 12] = [
    column("BACKEND", Some(Sort::Name), 0, 10),
    column("ADDRESS", None, 7, 9),
    column("STATE", Some(Sort::State), 1, 13),
    column("WEIGHT", Some(Sort::Weight), 9, 7),
    column("SESSIONS", Some(Sort::Sessions), 2, 9),
    column("", None, 11, LOAD),
    column("NEW/s", Some(Sort::SessionRate), 4, 7),
    column("IN/s", Some(Sort::In), 8, 9),
    column("OUT/s", Some(Sort::Out), 5, 9),
    column("CONNECT", Some(Sort::Connect), 6, 8),
    column("FAILED", Some(Sort::Failures), 10, 7),
    column("WHY", None, 3, 22),
];
const WHY: usize = COLUMNS.len() - 1;

pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model, area: Rect) {
    let [area, side] = Layout::horizontal([Constraint::Min(1), Constraint::Length(1)]).areas(area);
    model.scroll(usize::from(area.height.saturating_sub(1)));
    let visible = model.visible();
    let shown = fitting(model, area.width);
    let most = model
        .rows()
        .iter()
        .map(|row| row.sessions)
        .fold(1.0, f64::max);
    // Only what can be seen is made: a row costs more than a look at it.
    let rows = visible.iter().skip(model.first).take(model.page);
    let rows: Vec<Row<'_>> = rows.map(|row| line(row, most, &shown)).collect();
    let widths = shown.iter().map(|(i, width)| match *i {
        WHY => Constraint::Fill(1),
        _ => Constraint::Length(*width),
    });
    let table = Table::new(rows, widths)
        .header(headings(model, &shown))
        .column_spacing(SPACING)
        .highlight_symbol(Span::styled(MARK, Style::new().fg(Color::Cyan)))
        .highlight_spacing(HighlightSpacing::Always)
        .row_highlight_style(Style::new().bold());
    let mut state = TableState::default().with_selected(Some(model.selected - model.first));
    frame.render_stateful_widget(table, area, &mut state);
    if visible.len() > model.page {
        let places = visible.len() - model.page + 1;
        let mut state = ScrollbarState::new(places)
            .position(model.first)
            .viewport_content_length(model.page);
        let bar = Scrollbar::new(ScrollbarOrientation::VerticalRight)
            .begin_symbol(None)
            .end_symbol(None)
            .track_symbol(Some("│"))
            .track_style(Style::new().dim())
            .thumb_symbol("┃")
            .thumb_style(Style::new().fg(Color::Cyan));
        frame.render_stateful_widget(bar, side, &mut state);
    }
}

/// Places of the columns that there is room for, with their widths.
fn fitting(model: &Model, width: u16) -> Vec<(usize, u16)> {
    let longest = |of: &dyn Fn(&Backend) -> usize, least: u16, most: u16| {
        let found = model.rows().iter().map(of).max().unwrap_or(0);
        u16::try_from(found).unwrap_or(most).clamp(least, most)
    };
    let width_of = |i: usize| match i {
        0 => longest(&|row| row.name.chars().count(), COLUMNS[0].width, 32),
        1 => longest(&|row| row.address.chars().count(), COLUMNS[1].width, 26),
        2 => longest(&|row| row.state_in_full().len() + 2, COLUMNS[2].width, 25),
        _ => COLUMNS[i].width,
    };
    let mut by_rank: Vec<usize> = (0..COLUMNS.len()).collect();
    by_rank.sort_by_key(|i| COLUMNS[*i].rank);
    let mut left = width.saturating_sub(1);
    let mut shown = Vec::new();
    for i in by_rank {
        let own = width_of(i);
        if own > left && !shown.is_empty() {
            break;
        }
        left = left.saturating_sub(own + SPACING);
        shown.push((i, own));
    }
    shown.sort_unstable();
    shown
}

fn is_number(i: usize) -> bool {
    (3..WHY).contains(&i) && !COLUMNS[i].heading.is_empty()
}

fn headings(model: &Model, shown: &[(usize, u16)]) -> Row<'static> {
    let cells = shown.iter().map(|(i, _)| {
        let column = &COLUMNS[*i];
        let (mark, style) = match (column.sort == Some(model.sort), model.downwards) {
            (false, _) => ("", Style::new().dim()),
            (true, true) => ("▼", Style::new().fg(Color::Cyan).bold()),
            (true, false) => ("▲", Style::new().fg(Color::Cyan).bold()),
        };
        let text = Text::from(Span::styled(format!("{}{mark}", column.heading), style));
        match is_number(*i) {
            true => text.alignment(Alignment::Right),
            false => text,
        }
    });
    Row::new(cells.collect::<Vec<_>>())
}

fn line(row: &Backend, most: f64, shown: &[(usize, u16)]) -> Row<'static> {
    let cells = shown.iter().map(|(i, _)| match is_number(*i) {
        true => Text::from(number(row, *i)).alignment(Alignment::Right),
        false => words(row, *i, most),
    });
    Row::new(cells.collect::<Vec<_>>())
}

fn number(row: &Backend, i: usize) -> Span<'static> {
    let (amount, text) = match COLUMNS[i].sort {
        Some(Sort::Weight) => (row.weight, short(row.weight)),
        Some(Sort::Sessions) => (row.sessions, sessions(row)),
        Some(Sort::SessionRate) => (row.session_rate, short(row.session_rate)),
        Some(Sort::In) => (row.in_rate, bytes(row.in_rate)),
        Some(Sort::Out) => (row.out_rate, bytes(row.out_rate)),
        Some(Sort::Connect) => (row.connect_ms.unwrap_or(0.0), millis(row.connect_ms)),
        _ => (row.failures, short(row.failures)),
    };
    let style = match amount > 0.0 {
        true => Style::new(),
        false => Style::new().dim(),
    };
    Span::styled(text, style)
}

/// Beside its limit, where it has one.
fn sessions(row: &Backend) -> String {
    match row.sessions_max > 0.0 {
        true => format!("{}/{}", short(row.sessions), short(row.sessions_max)),
        false => short(row.sessions),
    }
}

fn words(row: &Backend, i: usize, most: f64) -> Text<'static> {
    match COLUMNS[i].heading {
        "BACKEND" => {
            let (pool, name) = row.name.split_once('/').unwrap_or(("", &row.name));
            Text::from(Line::from(vec![
                Span::styled(format!("{pool}/"), Style::new().dim()),
                Span::raw(name.to_owned()),
            ]))
        }
        "ADDRESS" => Text::from(Span::styled(row.address.clone(), Style::new().dim())),
        "STATE" => {
            let (colour, shape) = look_of(row.state());
            let style = match row.state() == "up" && !row.eligible {
                // Up, but the one that gets nothing: the reason says why.
                true => Style::new(),
                false => Style::new().fg(colour),
            };
            Text::from(Span::styled(
                format!("{shape} {}", row.state_in_full()),
                style,
            ))
        }
        "" => {
            let of = if row.sessions_max > 0.0 {
                row.sessions_max
            } else {
                most
            };
            Text::from(Span::styled(
                load(row.sessions / of),
                Style::new().fg(Color::Cyan),
            ))
        }
        _ => Text::from(row.reason.clone()),
    }
}

/// A bar in eighths of a cell: something where there is something.
fn load(share: f64) -> String {
    let all = f64::from(LOAD) * 8.0;
    let eighths = (1..=usize::from(LOAD) * 8)
        .take_while(|n| f64::from(u16::try_from(*n - 1).unwrap_or(u16::MAX)) < share * all - 0.5)
        .count();
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    let mut bar = EIGHTHS[7].repeat(eighths / 8);
    if eighths % 8 > 0 {
        bar.push_str(EIGHTHS[eighths % 8 - 1]);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_the_share() {
        assert_eq!(load(0.0), "");
        assert_eq!(load(0.0001), "▏");
        assert_eq!(load(0.5), "█████");
        assert_eq!(load(1.0), "██████████");
        assert_eq!(load(7.0), "██████████");
    }
}
