//! The command line: one command, one file, one exit status. It turns words into calls of the office and the front desk
//! and prints what they answer; it decides nothing about traffic.
//!
//! Exit status: 0 fine, 1 failed at run time, 2 bad command line or configuration, 3 cannot start, 4 a wait ran out.

mod check;
mod client;
mod columns;
mod demo;
mod explain;
mod operate;
mod out;
mod run;
mod shell;
mod status;
mod top;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A layer-4 load balancer for Linux on io_uring.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, arg_required_else_help = true)]
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
    /// Show listeners, pools, backends and sessions of a running instance
    Status(status::Status),
    /// Show the same live: sort, filter, see rates
    Top(top::Top),
    /// Give a backend new sessions again
    Ready(operate::One),
    /// Give a backend nothing new; its sessions end as the pool's on_drain says
    Drain(operate::Drain),
    /// Take a backend out: nothing new, and its sessions are closed
    Maintain(operate::One),
    /// Set the weight of a backend
    Weight(operate::Weight),
    /// List the oldest sessions
    Sessions(operate::Sessions),
    /// End a session at once
    Kill(operate::Kill),
    /// Read the configuration again, and print what changed
    Reload(operate::Reload),
    /// Have a successor take over, of the program as it is now; sessions stay where they are until they end
    Upgrade(operate::Asked),
    /// Keep the configuration that waits for its confirmation
    Confirm(operate::Asked),
    /// Print completions for a shell
    Completions {
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
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
        Command::Status(arguments) => status::status(&arguments),
        Command::Top(arguments) => top::top(&arguments),
        Command::Ready(one) => operate::admin(&one, "ready"),
        Command::Drain(arguments) => operate::drain(&arguments),
        Command::Maintain(one) => operate::admin(&one, "maintenance"),
        Command::Weight(arguments) => operate::weight(&arguments),
        Command::Sessions(arguments) => operate::sessions(&arguments),
        Command::Kill(arguments) => operate::kill(&arguments),
        Command::Reload(arguments) => operate::reload(&arguments),
        Command::Upgrade(asked) => operate::upgrade(&asked),
        Command::Confirm(asked) => operate::confirm(&asked),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man => shell::manual(),
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
