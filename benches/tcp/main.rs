//! ringway beside HAProxy, nginx and no balancer at all, over TCP on one machine: `cargo bench --bench tcp -- rr16 bulk8`.
//! README.md beside this folder says how to run it and how to read it. The balancer has one core, load tool and backends
//! the other; subjects take turns within each repetition. It starts and ends only processes of its own.

mod backend;
mod bulk;
mod catalogue;
mod connections;
mod histogram;
mod meter;
mod place;
mod report;
mod requests;
mod runs;
mod subjects;
mod system;
mod watch;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use catalogue::{Kind, Scenario};
use report::Results;
use runs::{Figures, Settings};
use subjects::Subject;
use watch::Watch;

#[derive(Debug, Parser)]
#[command(about = "ringway beside HAProxy and nginx over TCP (see benches/README.md)")]
struct Arguments {
    /// Names or beginnings of names; all if none is given.
    scenarios: Vec<String>,
    /// Repetitions of each scenario.
    #[arg(long, default_value_t = 5)]
    reps: u32,
    /// Length of each timed run.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Two short repetitions: to see that all works, not to judge by.
    #[arg(long)]
    quick: bool,
    /// Only these subjects, separated by commas.
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<String>,
    /// Measure this binary as ringway.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_ringway"))]
    ringway: PathBuf,
    /// Another build of ringway to measure beside it, as `other`.
    #[arg(long)]
    other: Option<PathBuf>,
    /// Write all figures there.
    #[arg(long)]
    json: Option<PathBuf>,
    /// No further run to count system calls.
    #[arg(long)]
    no_calls: bool,
    /// Take a profile of each balancer in each scenario into this folder (perf.data files).
    #[arg(long)]
    profile: Option<PathBuf>,
    /// Print the scenarios and end.
    #[arg(long)]
    list: bool,
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(long, hide = true, num_args = 3, value_names = ["PORT", "SIZE", "CLOSES"])]
    backend: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match act(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: &Arguments) -> io::Result<()> {
    if let [port, size, closes_first] = &arguments.backend[..] {
        let wrong = |_| io::Error::other("--backend takes a port and a size");
        return backend::serve(backend::BackendRules {
            port: port.parse().map_err(wrong)?,
            size: size.parse().map_err(wrong)?,
            closes_first: closes_first == "true",
        });
    }
    let scenarios = chosen(&arguments.scenarios)?;
    if arguments.list {
        for scenario in scenarios {
            println!("{:<16} {}", scenario.name, scenario.what);
        }
        return Ok(());
    }
    system::raise_descriptor_limit()?;
    system::pin_self(&[place::LOAD_CORE])?;
    let mut reports = Vec::new();
    let mut verdicts = Vec::new();
    for scenario in scenarios {
        let results = measure(scenario, arguments)?;
        report::print(scenario, &results);
        verdicts.extend(report::judged(scenario, &results));
        reports.push(report::as_json(scenario, &results));
        if let Some(file) = &arguments.json {
            std::fs::write(file, format!("{:#}\n", serde_json::json!(reports)))?;
        }
    }
    if !verdicts.is_empty() {
        println!("\n## goals");
        verdicts.iter().for_each(|verdict| println!("{verdict}"));
    }
    Ok(())
}

fn chosen(words: &[String]) -> io::Result<Vec<&'static Scenario>> {
    if words.is_empty() {
        return Ok(catalogue::SCENARIOS.iter().collect());
    }
    let mut found = Vec::new();
    for word in words {
        let named = catalogue::find(word);
        if named.is_empty() {
            return Err(io::Error::other(format!(
                "no scenario begins with {word:?}; --list names them"
            )));
        }
        found.extend(named);
    }
    Ok(found)
}

fn subject(name: &'static str, arguments: &Arguments) -> Option<Subject> {
    let ringway = |workers, spin| {
        Some(Subject::Ringway {
            name,
            binary: arguments.ringway.clone(),
            workers,
            spin,
        })
    };
    match name {
        "direct" => Some(Subject::Direct),
        "haproxy" => Some(Subject::Haproxy { splice: false }),
        "haproxy-splice" => Some(Subject::Haproxy { splice: true }),
        "nginx" => Some(Subject::Nginx),
        "ringway" => ringway(1, "0us"),
        "ringway-2" => ringway(2, "0us"),
        "ringway-spin" => ringway(1, "50us"),
        "ringway-auto" => ringway(1, "auto"),
        "other" => arguments.other.clone().map(|binary| Subject::Ringway {
            name,
            binary,
            workers: 1,
            spin: "0us",
        }),
        _ => None,
    }
}

fn taking_part(scenario: &Scenario, arguments: &Arguments) -> Vec<Subject> {
    let wanted = &arguments.subjects;
    scenario
        .subjects
        .iter()
        .chain(&["other"])
        .filter(|name| wanted.is_empty() || wanted.iter().any(|wish| wish == *name))
        .filter_map(|name| subject(name, arguments))
        .collect()
}

/// The cores' distance within one repetition may vary by so much.
const DISTANCE_RATIO_MAX: f64 = 1.8;
const REPEATS_MAX: u32 = 3;

fn measure(scenario: &Scenario, arguments: &Arguments) -> io::Result<Results> {
    let (reps, seconds) = if arguments.quick {
        (arguments.reps.min(2), arguments.seconds.min(1.0))
    } else {
        (arguments.reps, arguments.seconds)
    };
    let settings = Settings {
        length: Duration::from_secs_f64(seconds),
        warm: Duration::from_secs_f64((seconds / 6.0).clamp(0.2, 0.5)),
    };
    let mut subjects = taking_part(scenario, arguments);
    let mut results = Results {
        order: subjects.iter().map(Subject::name).collect(),
        ..Results::default()
    };
    let mut repeats = 0;
    while !subjects.is_empty() && results.repetitions.len() < reps as usize {
        let (figures, distances) = repetition(scenario, &subjects, &settings, &mut results);
        let least = distances.iter().copied().fold(f64::MAX, f64::min);
        let most = distances.iter().copied().fold(0.0, f64::max);
        let counts_time = !matches!(scenario.kind, Kind::Idle { .. });
        if counts_time && most > least * DISTANCE_RATIO_MAX && repeats < REPEATS_MAX {
            eprintln!("   the cores moved ({least:.0} to {most:.0} ns): again");
            repeats += 1;
            continue;
        }
        results.repetitions.push(figures);
        // The next repetition starts with another subject, so that none is always first; who failed does not come back.
        subjects.retain(|subject| !results.failures.contains_key(subject.name()));
        if !subjects.is_empty() {
            subjects.rotate_left(1);
        }
    }
    look_closer(scenario, arguments, &subjects, &settings, &mut results);
    Ok(results)
}

/// Every subject once, and the distance of the cores before each and at the end.
fn repetition(
    scenario: &Scenario,
    subjects: &[Subject],
    settings: &Settings,
    results: &mut Results,
) -> (std::collections::BTreeMap<&'static str, Figures>, Vec<f64>) {
    let mut all = std::collections::BTreeMap::new();
    let mut distances = Vec::new();
    for subject in subjects {
        let distance = place::core_distance_ns();
        distances.push(distance);
        match runs::run(scenario.kind, subject, settings, &Watch::Nothing) {
            Ok(mut figures) => {
                figures.insert("core_distance_ns", distance);
                if matches!(subject, Subject::Direct) {
                    figures.retain(|column, _| !column.starts_with("own"));
                }
                progress(scenario, subject, &figures);
                all.insert(subject.name(), figures);
            }
            Err(error) => {
                eprintln!("   {} {} failed: {error}", scenario.name, subject.name());
                results.failures.insert(subject.name(), error.to_string());
            }
        }
    }
    distances.push(place::core_distance_ns());
    (all, distances)
}

fn progress(scenario: &Scenario, subject: &Subject, figures: &Figures) {
    let shown: Vec<String> = scenario
        .columns
        .iter()
        .filter_map(|column| {
            figures
                .get(column)
                .map(|figure| format!("{column} {figure:.2}"))
        })
        .take(5)
        .collect();
    let foreign = figures.get("foreign").copied().unwrap_or(0.0);
    let noise = if report::is_noisy(figures) {
        format!("  NOISY: others used {:.0} % of a core", foreign * 100.0)
    } else {
        String::new()
    };
    let (name, subject) = (scenario.name, subject.name());
    eprintln!("   {name:<14} {subject:<15} {}{noise}", shown.join("  "));
}

/// The runs that are not timed.
fn look_closer(
    scenario: &Scenario,
    arguments: &Arguments,
    subjects: &[Subject],
    settings: &Settings,
    results: &mut Results,
) {
    let has_calls = scenario.columns.contains(&"calls") && !arguments.no_calls;
    let has_stretch = !matches!(scenario.kind, Kind::Idle { .. } | Kind::Sessions { .. });
    for subject in subjects
        .iter()
        .filter(|subject| **subject != Subject::Direct)
    {
        let name = subject.name();
        if has_calls {
            match runs::run(scenario.kind, subject, settings, &Watch::Calls) {
                Ok(figures) => drop(results.counted.insert(name, figures)),
                Err(error) => eprintln!("   {name}: calls not counted: {error}"),
            }
        }
        if let Some(folder) = arguments.profile.as_ref().filter(|_| has_stretch) {
            let file = folder.join(format!("{}-{name}.data", scenario.name));
            if let Err(error) = runs::run(scenario.kind, subject, settings, &Watch::Profile(file)) {
                eprintln!("   {name}: no profile: {error}");
            }
        }
    }
}
