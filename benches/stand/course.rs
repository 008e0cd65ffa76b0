//! Repetitions: the subjects of a scenario one after the other, the next time beginning with another, and again where the
//! machine changed in between; then the runs that are not timed.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;

use super::options::Options;
use super::place;
use super::report::{self, Figures, Results, Sheet};
use super::system;
use super::watch::Watch;

/// Who is measured.
pub trait Subject {
    fn name(&self) -> &'static str;
}

/// No balancer at all.
pub const DIRECT: &str = "direct";

/// What a scenario is run by.
pub trait Course {
    type Subject: Subject;

    fn sheet(&self) -> Sheet;
    /// Whether its figures are times, which the distance of the cores changes.
    fn counts_time(&self) -> bool;
    /// Whether it is one stretch of load, of which a profile can be taken.
    fn has_stretch(&self) -> bool;
    fn run(&self, subject: &Self::Subject, options: &Options, watch: &Watch)
    -> io::Result<Figures>;
}

/// The cores' distance within one repetition may vary by so much.
const DISTANCE_RATIO_MAX: f64 = 1.8;
const REPEATS_MAX: u32 = 3;

fn measure<C: Course>(course: &C, mut subjects: Vec<C::Subject>, options: &Options) -> Results {
    let mut results = Results {
        order: subjects.iter().map(C::Subject::name).collect(),
        ..Results::default()
    };
    let mut repeats = 0;
    while !subjects.is_empty() && results.repetitions.len() < options.repetitions() {
        let (figures, distances) = repetition(course, &subjects, options, &mut results);
        let least = distances.iter().copied().fold(f64::MAX, f64::min);
        let most = distances.iter().copied().fold(0.0, f64::max);
        if course.counts_time() && most > least * DISTANCE_RATIO_MAX && repeats < REPEATS_MAX {
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
    look_closer(course, options, &subjects, &mut results);
    results
}

/// Every subject once, and the distance of the cores before each and at the end.
fn repetition<C: Course>(
    course: &C,
    subjects: &[C::Subject],
    options: &Options,
    results: &mut Results,
) -> (BTreeMap<&'static str, Figures>, Vec<f64>) {
    let sheet = course.sheet();
    let mut all = BTreeMap::new();
    let mut distances = Vec::new();
    for subject in subjects {
        let distance = place::core_distance_ns();
        distances.push(distance);
        match course.run(subject, options, &Watch::Nothing) {
            Ok(mut figures) => {
                figures.insert("core_distance_ns", distance);
                if subject.name() == DIRECT {
                    figures.retain(|column, _| !column.starts_with("own"));
                }
                progress(&sheet, subject.name(), &figures);
                all.insert(subject.name(), figures);
            }
            Err(error) => {
                eprintln!("   {} {} failed: {error}", sheet.name, subject.name());
                results.failures.insert(subject.name(), error.to_string());
            }
        }
    }
    distances.push(place::core_distance_ns());
    (all, distances)
}

fn progress(sheet: &Sheet, subject: &str, figures: &Figures) {
    let shown: Vec<String> = sheet
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
    let name = sheet.name;
    eprintln!("   {name:<14} {subject:<15} {}{noise}", shown.join("  "));
}

/// The runs that are not timed.
fn look_closer<C: Course>(
    course: &C,
    options: &Options,
    subjects: &[C::Subject],
    results: &mut Results,
) {
    let sheet = course.sheet();
    let has_calls = sheet.columns.contains(&"calls") && !options.no_calls;
    for subject in subjects.iter().filter(|subject| subject.name() != DIRECT) {
        let name = subject.name();
        if has_calls {
            match course.run(subject, options, &Watch::Calls) {
                Ok(figures) => drop(results.counted.insert(name, figures)),
                Err(error) => eprintln!("   {name}: calls not counted: {error}"),
            }
        }
        if let Some(folder) = options.profile.as_ref().filter(|_| course.has_stretch()) {
            let file = folder.join(format!("{}-{name}.data", sheet.name));
            if let Err(error) = course.run(subject, options, &Watch::Profile(file)) {
                eprintln!("   {name}: no profile: {error}");
            }
        }
    }
}

/// What a bench does with its command line: lists, or measures.
pub fn run_all<T>(
    all: &'static [T],
    options: &Options,
    sheet: fn(&T) -> Sheet,
    taking_part: impl Fn(&T) -> Vec<<&'static T as Course>::Subject>,
) -> ExitCode
where
    &'static T: Course,
{
    let run = || {
        let scenarios = options.chosen(all, sheet)?;
        if options.list {
            for scenario in scenarios {
                let Sheet { name, what, .. } = sheet(scenario);
                println!("{name:<16} {what}");
            }
            return Ok(());
        }
        system::raise_descriptor_limit()?;
        system::pin_self(&[place::LOAD_CORE])?;
        measure_all(&scenarios, options, |scenario| taking_part(scenario))
    };
    exit_code(run())
}

pub fn exit_code(done: io::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures all that is asked for, prints it and, at the end, what became of the goals.
fn measure_all<C: Course>(
    courses: &[C],
    options: &Options,
    taking_part: impl Fn(&C) -> Vec<C::Subject>,
) -> io::Result<()> {
    let mut reports = Vec::new();
    let mut verdicts = Vec::new();
    for course in courses {
        let sheet = course.sheet();
        let results = measure(course, taking_part(course), options);
        report::print(&sheet, &results);
        verdicts.extend(report::judged(&sheet, &results));
        reports.push(report::as_json(&sheet, &results));
        if let Some(file) = &options.json {
            std::fs::write(file, format!("{:#}\n", serde_json::json!(reports)))?;
        }
    }
    if !verdicts.is_empty() {
        println!("\n## goals");
        verdicts.iter().for_each(|verdict| println!("{verdict}"));
    }
    Ok(())
}
