//! Real clients and real servers through the balancer: iperf3, PostgreSQL with pgbench, Redis with redis-benchmark.
//! Each fails when bytes or results differ from what the server itself says.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::net::SocketAddr;

use support::ringway::Front;
use support::servers::{Iperf, Postgres, Redis};
use support::{alone, pattern};

/// Runs iperf3 with a fixed amount and checks what each side counted.
///
/// Its server leaves unread what is under way in socket buffers when the sender has sent enough, with or without a
/// balancer between: at full speed that is any amount, so `missing` says how much this run may lose. A paced sender
/// leaves next to nothing behind, and a reverse test is ended by its receiver.
fn iperf_bytes(front: &Front, arguments: &[&str], streams: usize, expected: u64, missing: u64) {
    let report = Iperf::client(front.address, arguments);
    let count = |sum: &str| {
        report["end"][sum]["bytes"]
            .as_u64()
            .expect("a count of bytes")
    };
    let (sent, received) = (count("sum_sent"), count("sum_received"));
    assert!(
        sent >= expected && received + missing >= expected && received <= sent,
        "iperf3 {arguments:?}: {sent} sent, {received} received, {expected} asked for"
    );
    let flows = report["end"]["streams"].as_array().expect("streams");
    assert_eq!(flows.len(), streams, "every stream took part");
    for flow in flows {
        let bytes = flow["receiver"]["bytes"]
            .as_u64()
            .expect("bytes of a stream");
        assert!(bytes > 0, "a stream carried nothing: {flow}");
    }
}

/// What a paced sender may leave behind: its last few writes.
const LAST_WRITES: u64 = 1 << 20;

/// The same with writes of 16 KiB.
const LAST_SMALL_WRITES: u64 = 64 << 10;

#[test]
fn iperf3_one_stream_8_and_64_and_reverse() {
    let _alone = alone();
    let server = Iperf::start();
    let front = Front::to(server.address);
    let any = u64::MAX >> 1;
    let mb = 1 << 20;
    iperf_bytes(&front, &["-n", "400M"], 1, 400 * mb, any);
    iperf_bytes(&front, &["-n", "400M", "-P", "8"], 8, 400 * mb, any);
    iperf_bytes(&front, &["-n", "256M", "-P", "64"], 64, 256 * mb, any);
    iperf_bytes(&front, &["-n", "400M", "-Z"], 1, 400 * mb, any);
    iperf_bytes(
        &front,
        &["-n", "4M", "-l", "1000", "-b", "30M"],
        1,
        4 * mb,
        LAST_WRITES,
    );
    iperf_bytes(
        &front,
        &["-n", "150M", "-b", "1G"],
        1,
        150 * mb,
        LAST_WRITES,
    );
    iperf_bytes(
        &front,
        &["-n", "160M", "-b", "160M", "-P", "8"],
        8,
        160 * mb,
        8 * LAST_WRITES,
    );
    // Small writes, so that little is left behind of each.
    let paced = ["-n", "96M", "-b", "20M", "-l", "16K", "-P", "64"];
    iperf_bytes(&front, &paced, 64, 96 * mb, 64 * LAST_SMALL_WRITES);
    iperf_bytes(&front, &["-n", "400M", "-R"], 1, 400 * mb, 0);
    iperf_bytes(&front, &["-n", "256M", "-R", "-P", "8"], 8, 256 * mb, 0);
    iperf_bytes(&front, &["-n", "256M", "-R", "-P", "64"], 64, 256 * mb, 0);
    if let Some(ringway) = front.ringway() {
        let metrics = ringway.metrics();
        let carried = metrics.sum("ringway_bytes_total", &[]);
        assert!(carried > 1e9, "only {carried} bytes were counted");
        let spliced = metrics.sum("ringway_spliced_bytes_total", &[]);
        assert!(spliced > 5e8, "only {spliced} bytes were spliced");
    }
}

#[test]
fn iperf3_bidirectional() {
    let _alone = alone();
    let server = Iperf::start();
    let front = Front::to(server.address);
    let full = ["-t", "2", "--bidir", "-P"];
    let paced = ["-t", "2", "--bidir", "-b", "10M", "-l", "16K", "-P"];
    for (arguments, streams, missing) in [
        (&full[..], "1", u64::MAX),
        (&full, "8", u64::MAX),
        (&paced, "64", 64 * LAST_SMALL_WRITES),
    ] {
        let report = Iperf::client(front.address, &[arguments, &[streams]].concat());
        let end = &report["end"];
        for (sent, received) in [
            ("sum_sent", "sum_received"),
            ("sum_sent_bidir_reverse", "sum_received_bidir_reverse"),
        ] {
            let sent = end[sent]["bytes"].as_u64().expect("bytes sent");
            let received = end[received]["bytes"].as_u64().expect("bytes received");
            // What was under way when the clock stopped was never asked for; more than was sent cannot arrive.
            assert!(received <= sent, "{received} received of {sent} sent");
            // Who is paced has next to nothing under way.
            assert!(
                sent - received <= missing,
                "{streams} streams: {received} received of {sent} sent"
            );
            assert!(
                received > 1 << 20,
                "{streams} streams: only {received} bytes"
            );
        }
    }
}

/// iperf3 can send a file and store what it receives: the content itself is compared.
#[test]
fn iperf3_carries_a_file_unchanged() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let (given, stored) = (folder.path().join("given"), folder.path().join("stored"));
    let mut content = vec![0; 48 << 20];
    pattern::fill(7, 0, &mut content);
    fs::write(&given, &content).expect("write the file");
    let server = Iperf::start_storing(&stored);
    let front = Front::to(server.address);
    let path = given.to_string_lossy().into_owned();
    Iperf::client(front.address, &["-F", &path, "-n", "48M", "-b", "800M"]);
    let found = fs::read(&stored).expect("read what the server stored");
    let missing = content.len() - found.len();
    assert!(missing as u64 <= LAST_WRITES, "{missing} bytes are missing");
    pattern::check(7, 0, &found).expect("the same content");
}

fn processed(report: &str) -> &str {
    let line = report
        .lines()
        .find(|line| line.starts_with("number of transactions actually processed:"));
    let line = line.unwrap_or_else(|| panic!("no count of transactions in {report}"));
    line.rsplit(' ').next().expect("a number")
}

fn same_answers(direct: SocketAddr, front: SocketAddr) {
    let long =
        "select md5(string_agg(aid || filler || abalance, ',' order by aid)) from pgbench_accounts";
    assert_eq!(Postgres::query(direct, long), Postgres::query(front, long));
    // Megabytes of answer, and megabytes of question.
    let rows = "select aid, repeat(md5(aid::text), 10) from pgbench_accounts where aid <= 20000 order by aid";
    let answer = Postgres::query(front, rows);
    assert!(answer.len() > 6_000_000, "only {} bytes", answer.len());
    assert_eq!(Postgres::query(direct, rows), answer);
    let literal = "x".repeat(100_000);
    let question = format!("select length('{literal}') + 1");
    assert_eq!(Postgres::query(front, &question).trim(), "100001");
}

#[test]
fn pgbench_select_only_and_reconnecting() {
    let _alone = alone();
    let server = Postgres::start();
    Postgres::pgbench(server.address, &["-i", "-q", "-s", "1"]);
    let front = Front::to(server.address);
    same_answers(server.address, front.address);

    let select = ["-n", "-S", "-c", "16", "-j", "2", "-t", "1500"];
    let report = Postgres::pgbench(front.address, &select);
    assert_eq!(processed(&report), "24000/24000", "{report}");
    assert!(
        report.contains("number of failed transactions: 0 "),
        "{report}"
    );

    let reconnect = ["-n", "-S", "-C", "-c", "16", "-j", "2", "-t", "40"];
    let report = Postgres::pgbench(front.address, &reconnect);
    assert_eq!(processed(&report), "640/640", "{report}");

    // Writing transactions: the books must balance afterwards, as the server itself says.
    let write = ["-n", "-c", "8", "-j", "2", "-t", "100"];
    let report = Postgres::pgbench(front.address, &write);
    assert_eq!(processed(&report), "800/800", "{report}");
    let books = "select count(*), sum(delta) = (select sum(abalance) from pgbench_accounts) from pgbench_history";
    assert_eq!(Postgres::query(server.address, books).trim(), "800|t");
    if let Some(ringway) = front.ringway() {
        ringway.wait_empty();
        assert!(ringway.metric("ringway_sessions_total") >= 640.0);
    }
}

#[test]
fn redis_benchmark_counts_what_the_server_counts() {
    let _alone = alone();
    let server = Redis::start();
    let front = Front::to(server.address);
    for extra in [
        &["-c", "50"][..],
        &["-c", "16", "-P", "16"],
        &["-c", "50", "-k", "0"],
    ] {
        Redis::cli(server.address, &["config", "resetstat"]);
        let requests = if extra.contains(&"-k") {
            "3000"
        } else {
            "30000"
        };
        let mut arguments = vec!["-q", "-t", "set,get,lpush", "-n", requests, "-d", "200"];
        arguments.extend(extra);
        let report = Redis::benchmark(front.address, &arguments);
        assert!(!report.to_lowercase().contains("error"), "{report}");
        let counted = Redis::cli(server.address, &["info", "commandstats"]);
        for command in ["set", "get", "lpush"] {
            let line = format!("cmdstat_{command}:calls={requests},");
            assert!(counted.contains(&line), "{extra:?}: no {line} in {counted}");
        }
        assert!(counted.contains("failed_calls=0"), "{counted}");
    }
    // Large values come back as they went.
    let value = "v".repeat(100_000);
    Redis::cli(front.address, &["set", "large", &value]);
    assert_eq!(Redis::cli(server.address, &["get", "large"]).trim(), value);
    assert_eq!(Redis::cli(front.address, &["get", "large"]).trim(), value);
}
