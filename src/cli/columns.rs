//! Tables for people: columns as wide as what stands in them, numbers to the right. And how numbers, sizes and times are
//! written short.

use std::time::Duration;

/// Rows of cells under their headings.
#[derive(Debug, Default)]
pub(super) struct Columns {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Columns {
    pub fn new(headings: &[&'static str]) -> Columns {
        Columns {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// All lines, each indented by two.
    pub fn text(&self) -> String {
        let width = |i: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(i));
            let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            widest.max(self.headings[i].len())
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        // Addresses and sessions begin with digits, too.
        let is_amount = |cell: &String| {
            let digit = cell.starts_with(|c: char| c.is_ascii_digit());
            cell == "-"
                || (digit && !cell.contains([':', '-', '/']) && cell.matches('.').count() < 2)
        };
        let is_number = |i: usize| {
            let mut cells = self.rows.iter().filter_map(|row| row.get(i));
            cells.all(is_amount)
        };
        let right: Vec<bool> = (0..self.headings.len()).map(is_number).collect();
        let mut out = String::new();
        let headings = self.headings.iter().map(|it| (*it).to_owned()).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::from(" ");
            for (i, cell) in row.iter().enumerate() {
                line.push(' ');
                let pad = " ".repeat(widths[i].saturating_sub(cell.chars().count()));
                match right[i] {
                    true => line.push_str(&format!("{pad}{cell}")),
                    false => line.push_str(&format!("{cell}{pad}")),
                }
                line.push(' ');
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// `950`, `12.3k`, `4.0M`
pub(super) fn short(count: f64) -> String {
    let (scaled, unit) = scale(count, 1000.0, &["", "k", "M", "G", "T"]);
    match unit {
        "" if scaled.fract() == 0.0 => format!("{scaled:.0}"),
        _ => format!("{scaled:.1}{unit}"),
    }
}

/// `950B`, `12.3KiB`
pub(super) fn bytes(count: f64) -> String {
    let (scaled, unit) = scale(count, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"]);
    match unit {
        "B" => format!("{scaled:.0}B"),
        _ => format!("{scaled:.1}{unit}"),
    }
}

/// `108us`, `1.2ms`, `310ms`; `-` where nothing is known.
pub(super) fn millis(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 1.0 => format!("{:.0}us", ms * 1000.0),
        Some(ms) if ms < 100.0 => format!("{ms:.1}ms"),
        Some(ms) => format!("{ms:.0}ms"),
    }
}

fn scale(mut count: f64, step: f64, units: &[&'static str]) -> (f64, &'static str) {
    let mut place = 0;
    while count >= step && place + 1 < units.len() {
        count /= step;
        place += 1;
    }
    (count, units[place])
}

/// The two largest units: `3h 12m`, `12m 4s`, `0.8s`
pub(super) fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 10.0 {
        return format!("{seconds:.1}s");
    }
    let whole = Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .as_secs();
    let units = [
        (whole / 86_400, "d"),
        (whole / 3600 % 24, "h"),
        (whole / 60 % 60, "m"),
        (whole % 60, "s"),
    ];
    let from = units.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let parts = units[from..].iter().take(2).filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_needed_and_numbers_stand_right() {
        let mut columns = Columns::new(&["BACKEND", "ADDRESS", "SESSIONS"]);
        let row = |a: &str, b: &str, c: &str| vec![a.to_owned(), b.to_owned(), c.to_owned()];
        columns.row(row("pg1", "10.0.0.1:5432", "7"));
        columns.row(row("a-long-name", "10.0.0.2:1", "1234"));
        assert_eq!(
            columns.text(),
            "  BACKEND      ADDRESS        SESSIONS\n  pg1          10.0.0.1:5432         7\n  \
             a-long-name  10.0.0.2:1         1234\n"
        );
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [short(0.0), short(950.0), short(12_340.0)],
            ["0", "950", "12.3k"]
        );
        assert_eq!(short(1.25), "1.2");
        assert_eq!(
            [bytes(12.0), bytes(12_600.0), bytes(3e9)],
            ["12B", "12.3KiB", "2.8GiB"]
        );
        assert_eq!(
            [
                millis(None),
                millis(Some(0.1081)),
                millis(Some(1.24)),
                millis(Some(310.2))
            ],
            ["-", "108us", "1.2ms", "310ms"]
        );
        let ages = [
            age(0.84),
            age(59.0),
            age(724.0),
            age(11_520.0),
            age(86_400.0),
        ];
        assert_eq!(ages, ["0.8s", "59s", "12m 4s", "3h 12m", "1d"]);
    }
}
