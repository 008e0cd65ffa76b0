//! ringway beside nginx and no balancer at all, with datagrams on one machine: `cargo bench --bench udp -- rr16 stream`.
//! README.md beside this folder says how to run it and how to read it. The balancer has one core, load tool and backends
//! the other; subjects take turns within each repetition. It starts and ends only processes of its own.

mod backend;
mod catalogue;
mod message;
mod newcomers;
mod requests;
mod runs;
#[path = "../stand/mod.rs"]
mod stand;
mod stream;
mod subjects;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use catalogue::{SCENARIOS, Scenario};
use stand::options::Options;
use stand::{course, place, system};
use subjects::{Program, Subject};

#[derive(Debug, Parser)]
#[command(about = "ringway beside nginx with datagrams (see benches/README.md)")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[arg(long, hide = true, value_name = "PORT")]
    backend: Option<u16>,
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
    if let Some(port) = arguments.backend {
        return backend::serve(port);
    }
    let options = &arguments.options;
    let scenarios = options.chosen(SCENARIOS, Scenario::sheet)?;
    if options.list {
        for scenario in scenarios {
            println!("{:<16} {}", scenario.name, scenario.what);
        }
        return Ok(());
    }
    system::raise_descriptor_limit()?;
    system::pin_self(&[place::LOAD_CORE])?;
    course::measure_all(&scenarios, options, |_| taking_part(options))
}

fn taking_part(options: &Options) -> Vec<Subject> {
    let subject = |name, program| Subject { name, program };
    let mut all = vec![
        subject(course::DIRECT, Program::Nothing),
        subject("nginx", Program::Nginx),
        subject("ringway", Program::Ringway(options.ringway.clone())),
    ];
    let other = options.other.clone();
    all.extend(other.map(|binary| subject("other", Program::Ringway(binary))));
    all.retain(|subject| options.wants(subject.name));
    all
}
