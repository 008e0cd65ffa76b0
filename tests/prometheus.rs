//! A real Prometheus scrapes a real ringway, and answers every query of the Grafana dashboard in the repository: each with
//! something, so that a renamed metric or label leaves no empty panel. `promtool` finds nothing to say of `/metrics`.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use support::backends::Backend;
use support::ringway::{Ringway, Setup, listener, pool_with};
use support::servers::{Server, program};
use support::wait::{seconds, until, within};
use support::{datagrams, http, net};

const DASHBOARD: &str = include_str!("../grafana/ringway.json");

/// Prometheus with one target, scraped four times a second.
struct Prometheus {
    address: SocketAddr,
    _server: Server,
}

impl Prometheus {
    fn start(target: SocketAddr) -> Prometheus {
        let address = net::free_address();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 250ms\n  scrape_timeout: 250ms\nscrape_configs:\n  - job_name: ringway\n    static_configs:\n      - targets: ['{target}']\n"
        );
        fs::write(&file, text).expect("write its configuration");
        let mut command = Command::new(program("prometheus", "prometheus"));
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"));
        let server = Server::start_in(folder, &mut command, "TERM");
        until(seconds(30), "Prometheus is ready", || {
            http::get(address, "/-/ready").is_ok_and(|(code, _)| code == 200)
        });
        Prometheus {
            address,
            _server: server,
        }
    }

    /// The series that a query finds now.
    fn query(&self, text: &str) -> Vec<Value> {
        let asked: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("query", text)
            .finish();
        let (code, answer) =
            http::get(self.address, &format!("/api/v1/query?{asked}")).expect("ask Prometheus");
        assert_eq!(code, 200, "{text}: {answer}");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

/// A balancer with a listener of each kind, a backend that lives and one that does not.
fn start() -> (Ringway, SocketAddr, SocketAddr, Backend, datagrams::Echo) {
    let (streams, answers) = (net::free_address(), net::free_address());
    let (server, echo) = (Backend::echo(), datagrams::Echo::plain());
    let dead = net::free_address();
    let backends = [
        ("a", server.address.to_string(), ""),
        ("dead", dead.to_string(), ""),
    ];
    let quick = "[pool.health]\ninterval = \"200ms\"\nfast_interval = \"100ms\"\n";
    let unchecked = "[pool.health]\nkind = \"none\"\n";
    let udp = listener("answers", answers, "echo").replacen(
        "\npool =",
        "\nprotocol = \"udp\"\npool =",
        1,
    );
    let body = listener("streams", streams, "tcp")
        + &udp
        + &pool_with("tcp", "", quick, &backends)
        + &pool_with(
            "echo",
            "",
            unchecked,
            &[("e", echo.address.to_string(), "")],
        );
    (Setup::new(body).start(), streams, answers, server, echo)
}

/// Some sessions, each with an answer, and some datagrams.
fn traffic(streams: SocketAddr, answers: SocketAddr) {
    for _ in 0..5 {
        let mut client = net::connect(streams);
        client.write_all(b"?").expect("ask");
        let mut answer = [0; 1];
        client.read_exact(&mut answer).expect("an answer");
    }
    let socket = datagrams::client(answers);
    datagrams::ask(&socket, b"ping").expect("an answer");
}

fn expressions(panels: &Value) -> Vec<(String, String)> {
    let panels = panels.as_array().expect("panels");
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().unwrap_or_default().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let found = targets.into_iter().map(move |target| {
            let text = target["expr"].as_str().expect("an expression");
            (title.clone(), text.to_owned())
        });
        found.collect::<Vec<_>>()
    };
    panels.iter().flat_map(of_panel).collect()
}

/// What Grafana would ask with everything selected.
fn filled_in(expression: &str) -> String {
    let mut text = expression.replace("$__rate_interval", "5s");
    for variable in ["$instance", "$listener", "$pool", "$backend"] {
        text = text.replace(variable, ".*");
    }
    assert!(!text.contains('$'), "an unknown variable in {expression}");
    text
}

/// The metric and label that a variable of the dashboard takes its values from.
fn variables(dashboard: &Value) -> Vec<(String, String)> {
    let list = dashboard["templating"]["list"].as_array().expect("a list");
    let asked = list
        .iter()
        .filter_map(|one| one["query"]["query"].as_str())
        .map(|query| {
            let inner = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')'))
                .unwrap_or_else(|| panic!("not label_values: {query}"));
            let (series, label) = inner.rsplit_once(',').expect("series and label");
            (filled_in(series), label.trim().to_owned())
        });
    asked.collect()
}

#[test]
fn prometheus_answers_every_query_of_the_dashboard() {
    let (ringway, streams, answers, _server, _echo) = start();
    let prometheus = Prometheus::start(ringway.admin());
    within(seconds(20), "Prometheus has scraped some traffic", || {
        traffic(streams, answers);
        let found = prometheus.query("rate(ringway_sessions_total[5s]) > 0");
        (!found.is_empty()).then_some(())
    });
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("the dashboard is JSON");
    let asked = expressions(&dashboard["panels"]);
    assert!(asked.len() > 30, "only {} queries", asked.len());
    for (title, expression) in asked {
        let query = filled_in(&expression);
        within(
            seconds(10),
            &format!("{title}: {query} finds something"),
            || {
                traffic(streams, answers);
                (!prometheus.query(&query).is_empty()).then_some(())
            },
        );
    }
    for (series, label) in variables(&dashboard) {
        let found = prometheus.query(&series);
        let named = found.iter().any(|one| one["metric"][&label].is_string());
        assert!(named, "{series} has no label {label}");
    }
}

/// Everything that the contract with users names at least, each with a query that finds only what truly happened here.
const CONTRACT: [(&str, &str); 43] = [
    ("sessions_active", "{listener=\"streams\"} == 2"),
    ("sessions_total", "{listener=\"streams\"} > 4"),
    (
        "session_ends_total",
        "{listener=\"streams\",end=\"client-fin\"} > 0",
    ),
    (
        "session_ends_total",
        "{listener=\"full\",end=\"wait-timeout\"} > 0",
    ),
    (
        "bytes_total",
        "{listener=\"streams\",direction=\"in\"} > 8e6",
    ),
    (
        "bytes_total",
        "{listener=\"streams\",direction=\"out\"} > 8e6",
    ),
    ("spliced_bytes_total", "{backend=\"a\"} > 1e6"),
    (
        "refused_total",
        "{listener=\"closed\",reason=\"denied\"} > 0",
    ),
    ("waiting", "{pool=\"full\"} > 0"),
    ("wait_duration_seconds_count", "{pool=\"full\"} > 0"),
    ("wait_duration_seconds_sum", "{pool=\"full\"} > 0.1"),
    ("connect_duration_seconds_count", "{pool=\"tcp\"} > 4"),
    ("connect_duration_seconds_sum", "{pool=\"tcp\"} > 0 < 5"),
    ("session_duration_seconds_count", "{pool=\"tcp\"} > 4"),
    ("session_duration_seconds_sum", "{pool=\"tcp\"} > 0"),
    ("check_duration_seconds_count", "{backend=\"a\"} > 2"),
    ("check_duration_seconds_sum", "{backend=\"a\"} > 0 < 5"),
    ("connect_attempts_total", "{backend=\"a\"} > 4"),
    ("connect_attempts_total", "{backend=\"refuses\"} > 2"),
    (
        "connect_failures_total",
        "{backend=\"refuses\",reason=\"refused\"} > 2",
    ),
    ("retries_total", "{pool=\"unchecked\"} > 2"),
    ("backend_state", "{backend=\"a\",state=\"up\"} == 1"),
    ("backend_state", "{backend=\"a\",state=\"ready\"} == 1"),
    ("backend_state", "{backend=\"a\",state=\"down\"} == 0"),
    ("backend_state", "{backend=\"dead\",state=\"down\"} == 1"),
    (
        "backend_state",
        "{backend=\"refuses\",state=\"ejected\"} == 1",
    ),
    ("backend_weight", "{backend=\"a\"} == 70"),
    ("check_total", "{backend=\"a\",result=\"ok\"} > 2"),
    ("check_total", "{backend=\"dead\",result=\"refused\"} > 0"),
    ("breaker_opens_total", "{backend=\"refuses\"} > 0"),
    ("warm_connections", "{backend=\"w\"} == 2"),
    ("warm_handouts_total", "{backend=\"w\",result=\"hit\"} > 0"),
    ("udp_flows_active", "{listener=\"answers\"} > 0"),
    ("udp_flows_total", "{listener=\"answers\"} > 0"),
    (
        "udp_datagrams_total",
        "{listener=\"answers\",direction=\"in\"} > 0",
    ),
    (
        "udp_datagrams_total",
        "{listener=\"answers\",direction=\"out\"} > 0",
    ),
    (
        "udp_drops_total",
        "{listener=\"strict\",reason=\"denied\"} > 0",
    ),
    ("worker_busy_ratio", "{worker=\"0\"} > 0 <= 1"),
    ("cq_overflow_total", " >= 0"),
    ("headroom_ratio", "{resource=\"descriptors\"} > 0 < 1"),
    ("headroom_ratio", "{resource=\"ports\"} > 0 <= 1"),
    ("reloads_total", "{result=\"taken\"} == 1"),
    ("build_info", "{version=~\".+\"} == 1"),
];

/// Something of everything: waiting, refusing, retrying, warm, spliced, dropped.
fn eventful(server: SocketAddr, echo: SocketAddr) -> (Setup, Vec<SocketAddr>) {
    let fronts: Vec<SocketAddr> = (0..7).map(|_| net::free_address()).collect();
    let quick = "[pool.health]\ninterval = \"200ms\"\nfast_interval = \"100ms\"\n";
    let unchecked = "[pool.health]\nkind = \"none\"\n";
    let once = format!("{unchecked}[pool.breaker]\nopen = \"60s\"\n");
    let warm = format!("{quick}[pool.warm]\nsize = 2\n");
    let dead = || net::free_address().to_string();
    let own = |name: &'static str, lines: &'static str| (name, server.to_string(), lines);
    let with = |name: &str, front: usize, pool: &str, lines: &str| {
        listener(name, fronts[front], pool).replacen("\npool =", &format!("\n{lines}\npool ="), 1)
    };
    let body = listener("streams", fronts[0], "tcp")
        + &with("closed", 1, "tcp", "deny = [\"127.0.0.0/8\"]")
        + &listener("full", fronts[2], "full")
        + &listener("unchecked", fronts[3], "unchecked")
        + &listener("warm", fronts[4], "warm")
        + &with("answers", 5, "echo", "protocol = \"udp\"")
        + &with(
            "strict",
            6,
            "echo",
            "protocol = \"udp\"\ndeny = [\"127.0.0.0/8\"]",
        )
        + &pool_with(
            "tcp",
            "",
            quick,
            &[own("a", "weight = 70"), ("dead", dead(), "")],
        )
        + &pool_with(
            "full",
            "wait = { size = 9, timeout = \"1s\" }",
            unchecked,
            &[own("one", "max_connections = 1")],
        )
        + &pool_with(
            "unchecked",
            "algorithm = \"round-robin\"",
            &once,
            &[own("b", ""), own("c", ""), ("refuses", dead(), "")],
        )
        + &pool_with("warm", "", &warm, &[own("w", "")])
        + &pool_with("echo", "", unchecked, &[("e", echo.to_string(), "")]);
    (Setup::new(body), fronts)
}

fn echoed(stream: &TcpStream, count: usize) {
    let (mut writer, mut reader) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
    let sent = std::thread::spawn(move || writer.write_all(&vec![7; count]));
    reader
        .read_exact(&mut vec![0; count])
        .expect("it comes back");
    sent.join().unwrap().expect("it goes out");
}

#[test]
fn every_metric_of_the_contract_tells_what_happened() {
    let (server, echo) = (Backend::echo(), datagrams::Echo::plain());
    let (setup, fronts) = eventful(server.address, echo.address);
    let ringway = setup.start_unready();
    ringway.wait_state("a", "up", seconds(10));
    ringway.wait_state("dead", "down", seconds(10));
    let prometheus = Prometheus::start(ringway.admin());
    assert!(ringway.reload());
    let held = [net::connect(fronts[0]), net::connect(fronts[0])];
    held.iter().for_each(|stream| echoed(stream, 100));
    echoed(&net::connect(fronts[0]), 8 << 20);
    (0..4).for_each(|_| echoed(&net::connect(fronts[0]), 10));
    net::expect_turned_away(fronts[1]);
    let _only = net::connect(fronts[2]);
    echoed(&_only, 10);
    for _ in 0..12 {
        echoed(&net::connect(fronts[3]), 10);
    }
    ringway.wait_state("refuses", "ejected", seconds(10));
    datagrams::ask(&datagrams::client(fronts[5]), b"ping").expect("an answer");
    datagrams::client(fronts[6]).send(b"ping").expect("sent");
    let mut waiting = vec![net::connect(fronts[2])];
    let mut came = Instant::now();
    for (metric, condition) in CONTRACT {
        let query = format!("ringway_{metric}{condition}");
        within(seconds(15), &query, || {
            if metric.starts_with("warm_handouts") {
                echoed(&net::connect(fronts[4]), 10);
            }
            if metric == "waiting" && came.elapsed() > seconds(1) {
                waiting.push(net::connect(fronts[2]));
                came = Instant::now();
            }
            (!prometheus.query(&query).is_empty()).then_some(())
        });
    }
    // Each backend is in one state of the operator's and in one of health.
    let odd = "sum by (pool, backend) (ringway_backend_state) != 2";
    assert_eq!(prometheus.query(odd), Vec::<Value>::new());
    drop(held);
}

#[test]
fn promtool_has_nothing_to_say_of_the_metrics() {
    let (ringway, streams, answers, _server, _echo) = start();
    traffic(streams, answers);
    let (_, text) = ringway.get("/metrics").expect("scrape");
    let mut child = Command::new(program("promtool", "prometheus"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start promtool");
    let mut stdin = child.stdin.take().expect("its standard input");
    stdin.write_all(text.as_bytes()).expect("write to promtool");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
