//! The pools, each in a line: how many of its backends may get sessions, a bar and words that say in what states they are,
//! and what goes on.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Row, Table};

use crate::cli::columns::short;

use super::draw::look_of;
use super::look::{Pool, STATES};
use super::model::Model;

const POOLS_MAX: u16 = 8;
/// Below this height backends need the lines more.
const HEIGHT_MIN: u16 = 12;
const NAME_MAX: usize = 28;
const BAR: usize = 30;
const BAR_NARROW: usize = 12;

/// Lines that the pools take of a screen of this height, with a heading and a line below.
pub(super) fn height(model: &Model, screen: u16) -> u16 {
    let pools = u16::try_from(model.pools.len()).unwrap_or(POOLS_MAX);
    match pools {
        0 => 0,
        _ if screen < HEIGHT_MIN => 0,
        _ => pools.min(POOLS_MAX).min(screen / 4) + 2,
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let names = model.pools.iter().map(|pool| pool.name.chars().count());
    let name = names.max().unwrap_or(0).clamp(4, NAME_MAX);
    let bar = match area.width {
        110.. => BAR,
        80.. => BAR_NARROW,
        _ => 0,
    };
    let widths = [
        Constraint::Length(u16::try_from(name + 1).unwrap_or(u16::MAX)),
        Constraint::Length(9),
        Constraint::Length(u16::try_from(bar).unwrap_or(0)),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Fill(1),
    ];
    let right = |words: &'static str| Text::from(words).alignment(Alignment::Right);
    let headings = Row::new([
        Text::from(" POOL"),
        right("ELIGIBLE"),
        Text::default(),
        right("SESSIONS"),
        right("NEW/s"),
        right("WAITING"),
        Text::from("STATES"),
    ]);
    let most = usize::from(area.height.saturating_sub(2));
    let rows = model.pools.iter().take(most).map(|pool| line(pool, bar));
    let table = Table::new(rows.collect::<Vec<_>>(), widths)
        .header(headings.style(Style::new().dim()))
        .column_spacing(2);
    frame.render_widget(table, area);
}

fn line(pool: &Pool, width: usize) -> Row<'static> {
    let right = |text: String| Text::from(text).alignment(Alignment::Right);
    Row::new([
        Text::from(Span::styled(format!(" {}", pool.name), Style::new().bold())),
        right(format!("{}/{}", pool.eligible, pool.backends)),
        Text::from(bar(&pool.states, width)),
        right(short(pool.sessions)),
        right(short(pool.session_rate)),
        right(short(pool.waiting)),
        Text::from(words(&pool.states)),
    ])
}

/// The best first, as the bar is.
fn present(states: &[usize; STATES.len()]) -> Vec<(&'static str, usize)> {
    let counted = STATES.iter().copied().zip(states.iter().copied());
    counted.filter(|(_, count)| *count > 0).rev().collect()
}

fn words(states: &[usize; STATES.len()]) -> Line<'static> {
    let spans = present(states).into_iter().flat_map(|(state, count)| {
        let (colour, shape) = look_of(state);
        [
            Span::styled(format!("{shape} {count}"), Style::new().fg(colour)),
            Span::raw(format!(" {state}   ")),
        ]
    });
    Line::from(spans.collect::<Vec<_>>())
}

/// A cell at least for each state that somebody is in: one of 200 that is down is not to be lost in rounding.
fn bar(states: &[usize; STATES.len()], width: usize) -> Line<'static> {
    let present = present(states);
    let all: usize = present.iter().map(|(_, count)| count).sum();
    let mut cells: Vec<usize> = present
        .iter()
        .map(|(_, count)| (count * width / all.max(1)).max(1))
        .collect();
    // What rounding leaves or lacks is the largest part's.
    let largest = (0..cells.len()).max_by_key(|i| cells[*i]);
    if let Some(largest) = largest {
        let others = cells.iter().sum::<usize>() - cells[largest];
        cells[largest] = width.saturating_sub(others);
    }
    let spans = present.iter().zip(cells).map(|((state, _), count)| {
        Span::styled("█".repeat(count), Style::new().fg(look_of(state).0))
    });
    Line::from(spans.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(states: [usize; STATES.len()], width: usize) -> Vec<usize> {
        let line = bar(&states, width);
        line.spans
            .iter()
            .map(|span| span.content.chars().count())
            .collect()
    }

    #[test]
    fn a_bar_is_full_and_shows_even_one_of_many() {
        assert_eq!(cells([0, 0, 0, 0, 0, 0, 200], 30), [30]);
        assert_eq!(cells([1, 0, 0, 0, 0, 0, 199], 30), [29, 1]);
        assert_eq!(cells([100, 1, 1, 1, 1, 1, 1], 12), [1, 1, 1, 1, 1, 1, 6]);
        assert_eq!(cells([0; STATES.len()], 12), [0; 0]);
        assert_eq!(cells([1, 0, 0, 0, 0, 0, 3], 0).iter().sum::<usize>(), 1);
    }
}
