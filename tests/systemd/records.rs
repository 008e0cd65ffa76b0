//! Session records into systemd's journal as fast as sessions come: each is an entry or counted as lost, and a worker pays
//! next to nothing for it. `RINGWAY_SOAK=1` measures longer, and then holds the figure to its bound.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::container::Container;
use super::support::backends::{Backend, read_line};
use super::support::metrics::Metrics;
use super::support::ringway::single;
use super::support::servers::is_root;
use super::support::wait::{seconds, until};
use super::support::{alone, http, net, process, soak};
use super::unit_with;

/// A start, a connection and an end.
const RECORDS_PER_SESSION: u64 = 3;
/// Of a worker's time, for one record.
const BOUND: Duration = Duration::from_micros(2);

fn configuration(admin: SocketAddr, log: &str, body: &str) -> String {
    format!(
        "[global]\nworkers = 1\npin = \"off\"\naccess_log = \"{log}\"\nlog_interval = \"1h\"\n[admin]\nbind = \"{admin}\"\n\n\
         {body}"
    )
}

/// Clients that come and go for so long; how many there were.
fn crowd(address: SocketAddr, span: Duration) -> u64 {
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let stream = net::connect(address);
                    assert_eq!(read_line(&stream).expect("served"), "a");
                    net::reset(stream);
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        thread::sleep(span);
        stop.store(true, Ordering::SeqCst);
    });
    served.into_inner()
}

/// Entries of sessions that have come since the last call.
fn new_entries(container: &Container) -> f64 {
    let count = "journalctl -u ringway -o cat --cursor-file=/run/seen RINGWAY_LISTENER=main | grep -c ' event='";
    // Without any, grep fails.
    let said = container.inside(&["sh", "-c", count]).stdout;
    let said = String::from_utf8_lossy(&said);
    said.trim().parse().expect("a number")
}

#[test]
fn records_are_in_the_journal_or_counted_and_cost_a_worker_little() {
    assert!(is_root(), "a container needs root: run the tests as root");
    let _alone = alone();
    let backend = Backend::named("a");
    let (address, admin) = (net::free_address(), net::free_address());
    let body = single(address, backend.address);
    let on = configuration(admin, "stderr", &body);
    let off = configuration(admin, "off", &body);
    let unit = unit_with("/ringway run -c /etc/ringway/config.toml");
    let container = Container::boot(&unit, &on);
    until(seconds(30), "the service serves", || {
        http::get(admin, "/readyz").is_ok_and(|(code, _)| code == 200)
    });
    let pid = container.process("ringway");
    let metric = |name: &str| {
        let (_, text) = http::get(admin, "/metrics").expect("metrics");
        Metrics::parse(&text).sum(name, &[])
    };
    let idle = || {
        until(seconds(20), "the last session ended", || {
            metric("ringway_sessions_active") == 0.0
        });
    };
    let rounds = if soak() { 20 } else { 2 };
    let span = Duration::from_millis(if soak() { 1_500 } else { 700 });
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let (mut logged, mut entries) = (0, 0.0);
    for _ in 0..rounds {
        for (text, costs) in [(&on, &mut with), (&off, &mut without)] {
            container.configure(text);
            container.systemctl(&["reload", "ringway"]);
            let (before, began) = (process::cpu_time_of(pid, "worker"), Instant::now());
            let sessions = crowd(address, span);
            let took = began.elapsed();
            idle();
            let spent = process::cpu_time_of(pid, "worker") - before;
            costs.push(spent.as_secs_f64() / sessions as f64);
            if std::ptr::eq(text, &on) {
                logged += sessions;
                let rate = sessions as f64 / took.as_secs_f64();
                println!("{:.0} records a second", rate * RECORDS_PER_SESSION as f64);
                // Now: the journal forgets the oldest when it has no room for more.
                until(seconds(60), "what is written is in the journal", || {
                    entries += new_entries(&container);
                    let written = metric("ringway_access_log_lines_total");
                    let lost = metric("ringway_access_log_lines_lost_total");
                    entries == written && written + lost >= (logged * RECORDS_PER_SESSION) as f64
                });
            }
        }
    }
    let records = (logged * RECORDS_PER_SESSION) as f64;
    let written = || metric("ringway_access_log_lines_total");
    let lost = || metric("ringway_access_log_lines_lost_total");
    until(seconds(30), "each is written or lost", || {
        written() + lost() >= records
    });
    assert_eq!(written() + lost(), records);
    let median = |costs: &mut Vec<f64>| {
        costs.sort_by(f64::total_cmp);
        costs[costs.len() / 2]
    };
    let (with, without) = (median(&mut with), median(&mut without));
    let each = (with - without) / RECORDS_PER_SESSION as f64;
    println!(
        "{records} records, {} lost; a session costs a worker {:.1} us with its records, {:.1} us without: {:.2} us a record",
        lost(),
        with * 1e6,
        without * 1e6,
        each * 1e6
    );
    if soak() {
        assert!(each <= BOUND.as_secs_f64(), "{:.2} us", each * 1e6);
    }
}
