//! From the figures of all repetitions to medians, paired ratios and goals; as a table and as JSON. A ratio pairs two
//! subjects within one repetition, where they ran seconds apart, and the median is over the repetitions.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Figures by the name of their column.
pub type Figures = BTreeMap<&'static str, f64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    AtMost,
    AtLeast,
}

/// The median of the paired ratios of `column`, of `subject` to each of `against`, has to keep to the bound; with no one
/// to compare to, the figure itself.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    pub subject: &'static str,
    pub column: &'static str,
    pub against: &'static [&'static str],
    pub bound: Bound,
    pub factor: f64,
}

pub const fn at_most(column: &'static str, factor: f64, against: &'static [&'static str]) -> Goal {
    Goal {
        subject: "ringway",
        column,
        against,
        bound: Bound::AtMost,
        factor,
    }
}

pub const fn at_least(column: &'static str, factor: f64, against: &'static [&'static str]) -> Goal {
    Goal {
        bound: Bound::AtLeast,
        ..at_most(column, factor, against)
    }
}

/// What a report has to know of a scenario.
#[derive(Debug, Clone, Copy)]
pub struct Sheet {
    pub name: &'static str,
    pub what: &'static str,
    pub columns: &'static [&'static str],
    pub goals: &'static [Goal],
}

/// All figures of one scenario: per repetition, per subject in the order of running.
#[derive(Debug, Default)]
pub struct Results {
    pub order: Vec<&'static str>,
    pub repetitions: Vec<BTreeMap<&'static str, Figures>>,
    /// Counts of the run that was not timed.
    pub counted: BTreeMap<&'static str, Figures>,
    pub failures: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

/// Columns that only the run that was not timed can fill.
const COUNTED: &[&str] = &["calls", "ring_ops", "punted"];

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let (least, most) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    };
    Some(Spread {
        median,
        least,
        most,
    })
}

impl Results {
    fn values(&self, subject: &str, column: &str) -> Vec<f64> {
        let figure = |figures: &Figures| figures.get(column).copied();
        if COUNTED.contains(&column) {
            return self
                .counted
                .get(subject)
                .and_then(figure)
                .into_iter()
                .collect();
        }
        self.repetitions
            .iter()
            .filter_map(|repetition| repetition.get(subject).and_then(figure))
            .collect()
    }

    pub fn figure(&self, subject: &str, column: &str) -> Option<Spread> {
        spread(self.values(subject, column))
    }

    pub fn ratio(&self, subject: &str, peer: &str, column: &str) -> Option<Spread> {
        let pair = |repetition: &BTreeMap<&'static str, Figures>| {
            let ours = repetition.get(subject)?.get(column)?;
            let theirs = repetition.get(peer)?.get(column)?;
            Some(ours / theirs)
        };
        spread(self.repetitions.iter().filter_map(pair).collect())
    }
}

/// Four digits are more than any figure here is good for.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn ratio_text(ratio: &Spread) -> String {
    format!("{:.3} ({:.2}-{:.2})", ratio.median, ratio.least, ratio.most)
}

fn width(column: &str) -> usize {
    column.len().max(9)
}

pub fn print(sheet: &Sheet, results: &Results) {
    println!("\n## {}: {}", sheet.name, sheet.what);
    print!("{:<16}", "median");
    for column in sheet.columns {
        print!(" {:>width$}", column, width = width(column));
    }
    println!();
    for subject in &results.order {
        print!("{subject:<16}");
        for column in sheet.columns {
            let figure = results.figure(subject, column);
            let text = figure.map_or("-".to_owned(), |figure| digits(figure.median));
            print!(" {:>width$}", text, width = width(column));
        }
        println!();
    }
    print_ratios(sheet, results);
    for (subject, failure) in &results.failures {
        println!("FAILED {subject}: {failure}");
    }
    for goal in judged(sheet, results) {
        println!("{goal}");
    }
    let runs: Vec<&Figures> = results
        .repetitions
        .iter()
        .flat_map(BTreeMap::values)
        .collect();
    let noisy = runs.iter().filter(|figures| is_noisy(figures)).count();
    if noisy > 0 {
        let all = runs.len();
        println!("NOISY: in {noisy} of {all} runs others used the machine; do not judge by these");
    }
}

/// Others used more than a tenth of a core meanwhile.
pub fn is_noisy(figures: &Figures) -> bool {
    figures.get("foreign").is_some_and(|foreign| *foreign > 0.1)
}

fn print_ratios(sheet: &Sheet, results: &Results) {
    let ours = |subject: &&&str| subject.starts_with("ringway") || **subject == "other";
    let mut focus: Vec<&str> = results.order.iter().filter(ours).copied().collect();
    if focus.is_empty() {
        focus = results
            .order
            .iter()
            .copied()
            .filter(|subject| !["direct", "haproxy"].contains(subject))
            .collect();
    }
    let columns: Vec<&str> = sheet
        .columns
        .iter()
        .copied()
        .filter(|column| !COUNTED.contains(column) && *column != "idle_cpu_ms")
        .take(6)
        .collect();
    println!(
        "{:<32} {}",
        "paired ratio: median (min-max)",
        columns.join(", ")
    );
    for subject in focus {
        for peer in results.order.iter().filter(|peer| **peer != subject) {
            let texts: Vec<String> = columns
                .iter()
                .filter_map(|column| results.ratio(subject, peer, column))
                .map(|ratio| ratio_text(&ratio))
                .collect();
            if *peer != "direct" && !texts.is_empty() {
                println!("{:<32} {}", format!("{subject} / {peer}"), texts.join("  "));
            }
        }
    }
}

/// Each goal as a line: whether it is reached, what was asked, what was seen. A goal against several peers is one against
/// the best of them.
pub fn judged(sheet: &Sheet, results: &Results) -> Vec<String> {
    let mut lines = Vec::new();
    for goal in sheet.goals {
        let sign = match goal.bound {
            Bound::AtMost => "<=",
            Bound::AtLeast => ">=",
        };
        let mut seen = Vec::new();
        if goal.against.is_empty() {
            let figure = results.figure(goal.subject, goal.column);
            seen.extend(figure.map(|figure| (figure.median, digits(figure.median))));
        }
        for peer in goal.against {
            if let Some(ratio) = results.ratio(goal.subject, peer, goal.column) {
                seen.push((ratio.median, format!("{} x {peer}", ratio_text(&ratio))));
            }
        }
        if !seen.is_empty() {
            let is_reached = seen.iter().all(|(median, _)| is_within(goal, *median));
            let verdict = if is_reached { "reached" } else { "MISSED " };
            let texts: Vec<String> = seen.into_iter().map(|(_, text)| text).collect();
            lines.push(format!(
                "{verdict} {:<14} {} {} {sign} {}: {}",
                sheet.name,
                goal.subject,
                goal.column,
                goal.factor,
                texts.join(", ")
            ));
        }
    }
    lines
}

fn is_within(goal: &Goal, seen: f64) -> bool {
    match goal.bound {
        Bound::AtMost => seen <= goal.factor,
        Bound::AtLeast => seen >= goal.factor,
    }
}

pub fn as_json(sheet: &Sheet, results: &Results) -> Value {
    let subjects: BTreeMap<_, _> = results
        .order
        .iter()
        .map(|subject| (*subject, subject_json(subject, results)))
        .collect();
    let mut ratios = BTreeMap::new();
    for subject in &results.order {
        for peer in results.order.iter().filter(|peer| *peer != subject) {
            let columns: BTreeMap<_, _> = sheet
                .columns
                .iter()
                .filter_map(|column| {
                    let ratio = results.ratio(subject, peer, column)?;
                    Some((*column, spread_json(&ratio)))
                })
                .collect();
            ratios.insert(format!("{subject}/{peer}"), json!(columns));
        }
    }
    json!({
        "name": sheet.name,
        "what": sheet.what,
        "subjects": subjects,
        "ratios": ratios,
        "goals": judged(sheet, results),
        "failures": results.failures,
    })
}

fn spread_json(spread: &Spread) -> Value {
    json!({ "median": spread.median, "min": spread.least, "max": spread.most })
}

fn subject_json(subject: &str, results: &Results) -> Value {
    let mut columns = BTreeMap::new();
    let timed = results
        .repetitions
        .iter()
        .filter_map(|all| all.get(subject));
    let names: Vec<&str> = timed.flat_map(Figures::keys).copied().collect();
    for column in names.into_iter().chain(COUNTED.iter().copied()) {
        if let Some(figure) = results.figure(subject, column) {
            let mut entry = spread_json(&figure);
            entry["values"] = json!(results.values(subject, column));
            columns.insert(column, entry);
        }
    }
    json!(columns)
}
