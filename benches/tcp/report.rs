//! From the figures of all repetitions to medians, paired ratios and goals; as a table and as JSON. A ratio pairs two
//! subjects within one repetition, where they ran seconds apart, and the median is over the repetitions.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::catalogue::{Bound, Goal, Scenario};
use crate::runs::Figures;

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
    format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.least, ratio.most)
}

fn width(column: &str) -> usize {
    column.len().max(9)
}

pub fn print(scenario: &Scenario, results: &Results) {
    println!("\n## {}: {}", scenario.name, scenario.what);
    print!("{:<16}", "median");
    for column in scenario.columns {
        print!(" {:>width$}", column, width = width(column));
    }
    println!();
    for subject in &results.order {
        print!("{subject:<16}");
        for column in scenario.columns {
            let figure = results.figure(subject, column);
            let text = figure.map_or("-".to_owned(), |figure| digits(figure.median));
            print!(" {:>width$}", text, width = width(column));
        }
        println!();
    }
    print_ratios(scenario, results);
    for (subject, failure) in &results.failures {
        println!("FAILED {subject}: {failure}");
    }
    for goal in judged(scenario, results) {
        println!("{goal}");
    }
}

fn print_ratios(scenario: &Scenario, results: &Results) {
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
    let columns: Vec<&str> = scenario
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

/// Each goal as a line: what was asked, what was seen, whether it is reached.
pub fn judged(scenario: &Scenario, results: &Results) -> Vec<String> {
    let mut lines = Vec::new();
    for goal in scenario.goals {
        let (sign, asked) = match goal.bound {
            Bound::AtMost => ("<=", goal.factor),
            Bound::AtLeast => (">=", goal.factor),
        };
        let head = format!(
            "{} {} {} {sign} {asked}",
            scenario.name, goal.subject, goal.column
        );
        if goal.against.is_empty()
            && let Some(seen) = results.figure(goal.subject, goal.column)
        {
            let verdict = verdict(goal, seen.median);
            lines.push(format!("{verdict} {head}: {}", digits(seen.median)));
        }
        for peer in goal.against {
            if let Some(seen) = results.ratio(goal.subject, peer, goal.column) {
                let verdict = verdict(goal, seen.median);
                lines.push(format!("{verdict} {head} x {peer}: {}", ratio_text(&seen)));
            }
        }
    }
    lines
}

fn verdict(goal: &Goal, seen: f64) -> &'static str {
    let is_reached = match goal.bound {
        Bound::AtMost => seen <= goal.factor,
        Bound::AtLeast => seen >= goal.factor,
    };
    if is_reached { "reached" } else { "MISSED " }
}

pub fn as_json(scenario: &Scenario, results: &Results) -> Value {
    let subjects: BTreeMap<_, _> = results
        .order
        .iter()
        .map(|subject| (*subject, subject_json(subject, results)))
        .collect();
    let mut ratios = BTreeMap::new();
    for subject in &results.order {
        for peer in results.order.iter().filter(|peer| *peer != subject) {
            let columns: BTreeMap<_, _> = scenario
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
        "name": scenario.name,
        "what": scenario.what,
        "subjects": subjects,
        "ratios": ratios,
        "goals": judged(scenario, results),
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
