//! Draws the model on a terminal: the process in a line, a line of what is wrong or shown, pools, backends, and the keys at
//! the bottom. States have a colour, a word and a shape, so that nothing is told by colour alone; colours are those of the
//! terminal's own palette, which suits its background.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use crate::cli::columns::age;

use super::model::Model;
use super::{backends, pools};

const ACCENT: Style = Style::new().fg(Color::Cyan);
const SOFT: Style = Style::new().dim();
/// So many workers are told one by one.
const WORKERS_TOLD: usize = 8;

pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let area = frame.area();
    let listed = pools::height(model, area.height);
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(listed),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .split(area);
    frame.render_widget(Paragraph::new(head(model)), areas[0]);
    frame.render_widget(Paragraph::new(notice(model)), areas[1]);
    if listed > 0 {
        pools::draw(frame, model, areas[2]);
    }
    backends::draw(frame, model, areas[3]);
    frame.render_widget(Paragraph::new(foot(model, area)), areas[4]);
}

/// Colour and shape of a state.
pub(super) fn look_of(state: &str) -> (Color, &'static str) {
    match state {
        "up" => (Color::Green, "●"),
        "down" => (Color::Red, "✕"),
        "ejected" => (Color::Yellow, "▲"),
        "wrong-role" => (Color::Magenta, "◆"),
        "draining" => (Color::Blue, "◐"),
        "maintenance" => (Color::Blue, "‖"),
        _ => (Color::Reset, "○"),
    }
}

fn head(model: &Model) -> Line<'static> {
    let head = &model.head;
    let phase = match head.phase.as_str() {
        "serving" => Color::Green,
        _ => Color::Yellow,
    };
    Line::from(vec![
        Span::styled("ringway ", ACCENT.bold()),
        Span::styled(head.version.clone(), SOFT),
        Span::raw("  "),
        Span::styled(head.phase.clone(), Style::new().fg(phase)),
        Span::styled(format!(" for {}", age(head.uptime)), SOFT),
        Span::raw("  "),
        Span::styled(head.sessions.to_string(), Style::new().bold()),
        Span::styled(format!(" of {} sessions", head.limit), SOFT),
        Span::raw("  "),
        Span::styled(busy(&head.busy), SOFT),
    ])
}

fn busy(workers: &[f64]) -> String {
    let percent = |share: f64| format!("{:.0}%", share * 100.0);
    let each: Vec<String> = workers.iter().map(|share| percent(*share)).collect();
    match workers.len() {
        0..=WORKERS_TOLD => format!("workers busy {}", each.join(" ")),
        count => {
            let sum: f64 = workers.iter().sum();
            let most = workers.iter().copied().fold(0.0, f64::max);
            let mean = sum / f64::from(u32::try_from(count).unwrap_or(u32::MAX));
            format!(
                "{count} workers busy {}, at most {}",
                percent(mean),
                percent(most)
            )
        }
    }
}

/// What is wrong, or else what is shown.
fn notice(model: &Model) -> Line<'static> {
    if let Some(trouble) = &model.trouble {
        return Line::styled(trouble.clone(), Style::new().fg(Color::Red));
    }
    if let Some(until) = &model.head.pending {
        let said = format!("not confirmed: the configuration before comes back at {until}");
        return Line::styled(said, Style::new().fg(Color::Yellow));
    }
    let arrow = if model.downwards { "▼" } else { "▲" };
    let shown = format!(
        "{} of {} backends",
        model.visible().len(),
        model.rows().len()
    );
    let mut spans = vec![
        Span::raw(shown),
        Span::styled(format!(" by {} {arrow}", model.sort.word()), SOFT),
    ];
    if !model.filter.is_empty() && !model.editing {
        spans.push(Span::styled("  filter: ", SOFT));
        spans.push(Span::styled(model.filter.clone(), ACCENT));
    }
    Line::from(spans)
}

/// The keys, and what they do; where there is little room, those that matter most.
fn foot(model: &Model, area: Rect) -> Line<'static> {
    if model.editing {
        return Line::from(vec![
            Span::styled("filter: ", SOFT),
            Span::styled(format!("{}_", model.filter), ACCENT.bold()),
            Span::styled("   Enter keep   Esc clear", SOFT),
        ]);
    }
    let mut keys = vec![
        ("q", "quit"),
        ("s/S", "sort"),
        ("r", "reverse"),
        ("/", "filter"),
        ("arrows, PgUp, PgDn, Home, End", "move"),
    ];
    if !model.filter.is_empty() {
        keys.insert(4, ("Esc", "clear"));
    }
    let long = |keys: &[(&str, &str)]| -> usize {
        let each = keys.iter().map(|(key, word)| key.len() + word.len() + 4);
        each.sum()
    };
    if long(&keys) > usize::from(area.width) {
        keys.pop();
        keys.push(("↑↓", "move"));
    }
    let spans = keys.into_iter().flat_map(|(key, word)| {
        [
            Span::styled(key, Style::new().bold()),
            Span::styled(format!(" {word}   "), SOFT),
        ]
    });
    Line::from(spans.collect::<Vec<_>>())
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
