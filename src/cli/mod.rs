//! The command line: one command, one file, one exit status. It turns words into calls of the office and the front desk
//! and prints what they answer; it decides nothing about traffic.
//!
//! Exit status: 0 fine, 1 failed at run time, 2 bad command line or configuration, 3 cannot start, 4 a wait ran out.

mod check;
mod client;
mod demo;
mod explain;
mod out;
mod run;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A layer-4 load balancer for Linux on io_uring.
#[derive(Debug, Parser)]
#[command(
    name = "ringway",
    disable_version_flag = true,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve in the foreground
    Run {
        /// The configuration file
        #[arg(short, long, value_name = "FILE", default_value = "config.toml")]
        config: PathBuf,
    },
    /// Validate a configuration; print the plan, what it needs, and its worst-case times
    Check {
        /// The configuration file
        #[arg(short, long, value_name = "FILE", default_value = "config.toml")]
        config: PathBuf,
        /// Print every value that holds, defaults included
        #[arg(long)]
        defaults: bool,
    },
    /// Watch it work, needing nothing: built-in backends and clients, a backend dies and comes back
    Demo {
        /// End after this many seconds
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
        /// Send no traffic and kill nothing: for a client of your own
        #[arg(long)]
        no_load: bool,
    },
    /// Tell which backend a client would get now, and why
    Explain(explain::Question),
    /// Print the version and what the kernel offers
    Version,
}

/// How a command ended, if not well.
#[derive(Debug)]
struct Ending {
    status: u8,
    sentence: String,
}

impl From<crate::office::Failure> for Ending {
    fn from(failure: crate::office::Failure) -> Ending {
        Ending {
            status: failure.exit_status(),
            sentence: failure.to_string(),
        }
    }
}

impl From<crate::config::ConfigError> for Ending {
    fn from(error: crate::config::ConfigError) -> Ending {
        Ending {
            status: 2,
            sentence: error.to_string(),
        }
    }
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    // clap prints help to stdout with status 0, and what is wrong to stderr with status 2.
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Run { config } => run::run(config),
        Command::Check { config, defaults } => check::check(&config, defaults),
        Command::Demo { seconds, no_load } => demo::demo(seconds, !no_load),
        Command::Explain(question) => explain::explain(&question),
        Command::Version => version::version(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(ending) => {
            out::complain(&ending.sentence);
            ExitCode::from(ending.status)
        }
    }
}

/// The application log: to stderr, `RUST_LOG` chooses what.
fn start_log(default: &str) {
    let environment = env_logger::Env::default().default_filter_or(default);
    env_logger::Builder::from_env(environment)
        .format_timestamp_millis()
        .format_target(false)
        .init();
}
