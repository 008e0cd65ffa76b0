//! ringway beside HAProxy, nginx and no balancer at all, over TCP on one machine: `cargo bench --bench tcp -- rr16 bulk8`.
//! README.md beside this folder says how to run it and how to read it. The balancer has one core, load tool and backends
//! the other; subjects take turns within each repetition. It starts and ends only processes of its own.

mod backend;
mod bulk;
mod catalogue;
mod connections;
mod requests;
mod runs;
#[path = "../stand/mod.rs"]
mod stand;
mod subjects;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use catalogue::{SCENARIOS, Scenario};
use stand::course;
use stand::options::Options;
use subjects::Subject;

#[derive(Debug, Parser)]
#[command(about = "ringway beside HAProxy and nginx over TCP (see benches/README.md)")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[arg(long, hide = true, num_args = 3, value_names = ["PORT", "SIZE", "CLOSES"])]
    backend: Vec<String>,
}

fn main() -> ExitCode {
    let Arguments { options, backend } = Arguments::parse();
    match &backend[..] {
        [port, size, closes_first] => course::exit_code(serve(port, size, closes_first)),
        _ => course::run_all(SCENARIOS, &options, Scenario::sheet, |scenario| {
            taking_part(scenario, &options)
        }),
    }
}

fn serve(port: &str, size: &str, closes_first: &str) -> io::Result<()> {
    let wrong = |_| io::Error::other("--backend takes a port and a size");
    backend::serve(backend::BackendRules {
        port: port.parse().map_err(wrong)?,
        size: size.parse().map_err(wrong)?,
        closes_first: closes_first == "true",
    })
}

fn subject(name: &'static str, options: &Options) -> Option<Subject> {
    let ringway = |workers, spin| {
        Some(Subject::Ringway {
            name,
            binary: options.ringway.clone(),
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
        "other" => options.other.clone().map(|binary| Subject::Ringway {
            name,
            binary,
            workers: 1,
            spin: "0us",
        }),
        _ => None,
    }
}

fn taking_part(scenario: &Scenario, options: &Options) -> Vec<Subject> {
    scenario
        .subjects
        .iter()
        .chain(&["other"])
        .filter(|name| options.wants(name))
        .filter_map(|name| subject(name, options))
        .collect()
}
