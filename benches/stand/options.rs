//! What every bench can be told on its command line.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::report::Sheet;
use super::stage::Settings;

#[derive(Debug, Args)]
pub struct Options {
    /// Names or beginnings of names; all if none is given.
    pub scenarios: Vec<String>,
    /// Repetitions of each scenario.
    #[arg(long, default_value_t = 5)]
    pub reps: u32,
    /// Length of each timed run.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Two short repetitions: to see that all works, not to judge by.
    #[arg(long)]
    pub quick: bool,
    /// Only these subjects, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub subjects: Vec<String>,
    /// Measure this binary as ringway.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_ringway"))]
    pub ringway: PathBuf,
    /// Another build of ringway to measure beside it, as `other`.
    #[arg(long)]
    pub other: Option<PathBuf>,
    /// Write all figures there.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// No further run to count system calls.
    #[arg(long)]
    pub no_calls: bool,
    /// Take a profile of each balancer in each scenario into this folder (perf.data files).
    #[arg(long)]
    pub profile: Option<PathBuf>,
    /// Print the scenarios and end.
    #[arg(long)]
    pub list: bool,
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Options {
    pub fn repetitions(&self) -> usize {
        let most = if self.quick { 2 } else { u32::MAX };
        self.reps.min(most) as usize
    }

    pub fn settings(&self) -> Settings {
        let most = if self.quick { 1.0 } else { f64::MAX };
        let seconds = self.seconds.min(most);
        Settings {
            length: Duration::from_secs_f64(seconds),
            warm: Duration::from_secs_f64((seconds / 6.0).clamp(0.2, 0.5)),
        }
    }

    /// Whether a subject of this name is to take part.
    pub fn wants(&self, name: &str) -> bool {
        self.subjects.is_empty() || self.subjects.iter().any(|wish| wish == name)
    }

    /// The scenarios asked for: of exactly this name, or else all whose names begin so.
    pub fn chosen<T>(
        &self,
        all: &'static [T],
        sheet: fn(&T) -> Sheet,
    ) -> io::Result<Vec<&'static T>> {
        if self.scenarios.is_empty() {
            return Ok(all.iter().collect());
        }
        let mut found = Vec::new();
        for word in &self.scenarios {
            let exact = all.iter().filter(|one| sheet(one).name == word);
            let mut named: Vec<_> = exact.collect();
            if named.is_empty() {
                named.extend(all.iter().filter(|one| sheet(one).name.starts_with(word)));
            }
            if named.is_empty() {
                return Err(io::Error::other(format!(
                    "no scenario begins with {word:?}; --list names them"
                )));
            }
            found.extend(named);
        }
        Ok(found)
    }
}
