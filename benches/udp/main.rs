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

use std::process::ExitCode;

use clap::Parser;

use catalogue::{SCENARIOS, Scenario};
use stand::course;
use stand::options::Options;
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
    let Arguments { options, backend } = Arguments::parse();
    match backend {
        Some(port) => course::exit_code(backend::serve(port)),
        None => course::run_all(SCENARIOS, &options, Scenario::sheet, |_| {
            taking_part(&options)
        }),
    }
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
