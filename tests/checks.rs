//! Health checks that speak: each kind against the real server it is for, and against servers that are slow, hostile or
//! not what they should be. What is asserted is the state, the result that was counted, and the reason in the server's
//! own words.
#![allow(clippy::unwrap_used)]

#[path = "checks/hostile.rs"]
mod hostile;
#[path = "checks/still.rs"]
mod still;
#[path = "checks/storm.rs"]
mod storm;
mod support;
#[path = "checks/undisturbed.rs"]
mod undisturbed;

use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;
use support::backends::{Backend, read_line};
use support::checked_servers::{memcached, nginx, nsd, redis};
use support::net;
use support::ringway::{Ringway, Setup, listener, pool_with};
use support::servers::{Redis, pong};
use support::wait::{seconds, until, within};

/// Long enough for a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(30);

/// Checks every 50 ms; a test that is about time says its own.
const OFTEN: &str =
    "interval = \"50ms\"\nfast_interval = \"50ms\"\ntimeout = \"2s\"\nrise = 1\nfall = 2\n";

/// One pool with the backend `b`, checked as `health` says.
fn checked(health: &str, address: impl Display) -> Ringway {
    setup(&[("main", &format!("{OFTEN}{health}"), address.to_string())]).start_unready()
}

/// A listener and a pool of the same name for each: name, lines of its health table, address of its backend `b`.
fn setup(pools: &[(&str, &str, String)]) -> Setup {
    let pools = pools.iter().map(|(name, health, address)| {
        let health = format!("[pool.health]\n{health}");
        listener(name, net::free_address(), name)
            + &pool_with(name, "", &health, &[("b", address.clone(), "")])
    });
    Setup::new(pools.collect::<String>())
}

/// What `/v1/status` says of the backend of the first pool.
fn backend(ringway: &Ringway) -> Value {
    backend_of(ringway, 0)
}

fn backend_of(ringway: &Ringway, pool: usize) -> Value {
    ringway.status()["pools"][pool]["backends"][0].clone()
}

/// Waits for a health and a last check whose reason holds these words.
#[track_caller]
fn wait_for(ringway: &Ringway, health: &str, words: &str) {
    wait_for_pool(ringway, 0, health, words);
}

#[track_caller]
fn wait_for_pool(ringway: &Ringway, pool: usize, health: &str, words: &str) {
    let end = std::time::Instant::now() + SOON;
    loop {
        let now = backend_of(ringway, pool);
        let reason = now["last_check"]["reason"].as_str().unwrap_or_default();
        if now["health"] == health && reason.contains(words) {
            return;
        }
        assert!(
            std::time::Instant::now() < end,
            "not {health} with {words:?}: {now:#}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How many checks found this, over all backends.
fn found(ringway: &Ringway, result: &str) -> f64 {
    let labels = [("result", result)];
    ringway.metrics().sum("ringway_check_total", &labels)
}

/// Waits for so many more checks with this result.
#[track_caller]
fn wait_for_more(ringway: &Ringway, result: &str, more: f64) {
    let before = found(ringway, result);
    until(SOON, &format!("{more} more checks are {result}"), || {
        found(ringway, result) >= before + more
    });
}

fn password_file(folder: &std::path::Path, password: &str) -> String {
    let file = folder.join(format!("password-{}", password.len()));
    fs::write(&file, format!("{password}\n")).expect("a password file");
    file.to_string_lossy().into_owned()
}

// ---------------------------------------------------------------------------------------------------------------------
// Redis

#[test]
fn redis_is_asked_for_pong_and_a_wanted_password_is_a_sign_of_life() {
    let server = Redis::start();
    let ringway = checked("kind = \"redis\"", server.address);
    wait_for(&ringway, "up", "check ok");
    Redis::cli(server.address, &["config", "set", "requirepass", "s3cret"]);
    wait_for(&ringway, "up", "check ok: NOAUTH Authentication required.");
    assert_eq!(found(&ringway, "failed"), 0.0);
    let refused = ringway.metrics();
    assert!(refused.has("ringway_check_duration_seconds_count"));
}

#[test]
fn redis_with_a_password_keeps_one_session_open() {
    let server = Redis::start();
    let cli = |arguments: &[&str]| {
        Redis::cli(
            server.address,
            &[&["--no-auth-warning", "-a", "s3cret"], arguments].concat(),
        )
    };
    Redis::cli(server.address, &["config", "set", "requirepass", "s3cret"]);
    let folder = tempfile::tempdir().unwrap();
    let file = password_file(folder.path(), "s3cret");
    let ringway = checked(
        &format!("kind = \"redis\"\npassword_file = \"{file}\"\ndatabase = \"3\""),
        server.address,
    );
    wait_for(&ringway, "up", "check ok");
    let connections = || -> u64 {
        let text = cli(&["info", "stats"]);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"));
        line.and_then(|number| number.trim().parse().ok())
            .expect("a count of connections")
    };
    let before = connections();
    wait_for_more(&ringway, "ok", 10.0);
    assert_eq!(
        connections(),
        before + 1,
        "only our own question was a new connection"
    );

    // Ended by the server: the next check opens another, and nothing was wrong with the server.
    let sessions = || {
        let list = cli(&["client", "list"]);
        list.lines().filter(|line| line.contains("db=3")).count()
    };
    until(SOON, "one session in database 3", || sessions() == 1);
    for _ in 0..5 {
        cli(&["client", "kill", "type", "normal", "skipme", "yes"]);
        wait_for_more(&ringway, "ok", 3.0);
    }
    for result in ["closed", "reset", "failed", "other"] {
        assert_eq!(found(&ringway, result), 0.0, "{result}");
    }
    until(SOON, "one session again", || sessions() == 1);
    // It goes with the process that kept it.
    drop(ringway);
    until(SOON, "no session is left", || sessions() == 0);
}

#[test]
fn redis_with_the_wrong_password_is_down_in_its_own_words_and_the_password_is_not_told() {
    let server = Redis::start();
    Redis::cli(server.address, &["config", "set", "requirepass", "right"]);
    let folder = tempfile::tempdir().unwrap();
    let file = password_file(folder.path(), "wrong-one-of-ours");
    let health = format!("kind = \"redis\"\nuser = \"default\"\npassword_file = \"{file}\"");
    let ringway = checked(&health, server.address);
    wait_for(
        &ringway,
        "down",
        "check failed: WRONGPASS invalid username-password pair",
    );
    let told = [
        ringway.stderr(),
        ringway.stdout(),
        ringway.status().to_string(),
    ];
    assert!(told.iter().all(|text| !text.contains("wrong-one-of-ours")));
    // The right one is read at the next reload.
    fs::write(&file, "right\n").unwrap();
    assert!(ringway.reload());
    wait_for(&ringway, "up", "check ok");
}

#[test]
fn redis_that_is_full_is_down_for_that_reason() {
    let server = Redis::start();
    let ringway = checked("kind = \"redis\"", server.address);
    wait_for(&ringway, "up", "check ok");
    Redis::cli(server.address, &["config", "set", "maxclients", "1"]);
    let mut occupant = within(SOON, "the only place", || {
        let mut stream = net::try_connect(server.address).ok()?;
        stream.write_all(b"PING\r\n").ok()?;
        (read_line(&stream).ok()? == "+PONG\r").then_some(stream)
    });
    wait_for(
        &ringway,
        "down",
        "check failed: ERR max number of clients reached",
    );
    occupant
        .write_all(b"CONFIG SET maxclients 100\r\n")
        .unwrap();
    wait_for(&ringway, "up", "check ok");
}

#[test]
fn redis_that_is_loading_is_down_until_it_has_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let address = net::free_address();
    let file = ["--dbfilename", "dump.rdb"];
    let debug = ["--enable-debug-command", "yes"];
    let options = [file, debug].concat();
    let mut first = redis(address, folder.path(), &options);
    until(seconds(10), "Redis answers PING", || pong(address));
    Redis::cli(address, &["debug", "populate", "20000"]);
    Redis::cli(address, &["save"]);
    first.kill();
    // A tenth of a millisecond a key; it looks at its clients meanwhile.
    let slow = [
        "--key-load-delay",
        "300",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let _second = redis(address, folder.path(), &[&options[..], &slow[..]].concat());
    let ringway = checked("kind = \"redis\"", address);
    wait_for(
        &ringway,
        "down",
        "check failed: LOADING Redis is loading the dataset in memory",
    );
    wait_for(&ringway, "up", "check ok");
}

#[test]
fn a_redis_replica_without_its_primary_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let address = net::free_address();
    let nobody = net::free_address();
    let (ip, port) = (nobody.ip().to_string(), nobody.port().to_string());
    let primary = format!("{ip} {port}");
    let options = ["--replicaof", &primary, "--replica-serve-stale-data", "no"];
    let _replica = redis(address, folder.path(), &options);
    let ringway = checked("kind = \"redis\"", address);
    wait_for(
        &ringway,
        "down",
        "check failed: MASTERDOWN Link with MASTER is down",
    );
    Redis::cli(address, &["replicaof", "no", "one"]);
    wait_for(&ringway, "up", "check ok");
}

#[test]
fn redis_behind_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis.sock");
    let socket = path.to_string_lossy().into_owned();
    let _server = redis(
        net::free_address(),
        folder.path(),
        &["--unixsocket", &socket],
    );
    let ringway = checked("kind = \"redis\"", format!("unix:{socket}"));
    wait_for(&ringway, "up", "check ok");
}

// ---------------------------------------------------------------------------------------------------------------------
// HTTP

#[test]
fn http_by_nginx_with_status_and_port() {
    let folder = tempfile::tempdir().unwrap();
    let address = net::free_address();
    let _server = nginx(address, folder.path());
    // The backend itself is elsewhere: the check has a port of its own.
    let elsewhere = net::free_address();
    let at = format!("{OFTEN}kind = \"http\"\nport = {}\n", address.port());
    let head = at.clone();
    let get = format!(
        "{at}method = \"GET\"\npath = \"/missing\"\nstatus = \"404\"\nhost = \"localhost\""
    );
    let sick = format!("{at}path = \"/sick\"");
    let missing = format!("{at}path = \"/missing\"\nstatus = \"200,204,300-399\"");
    let to = elsewhere.to_string();
    let pools = [
        ("head", &*head, to.clone()),
        ("get", &*get, to.clone()),
        ("sick", &*sick, to.clone()),
        ("missing", &*missing, to),
    ];
    let ringway = setup(&pools).start_unready();
    wait_for_pool(&ringway, 0, "up", "check ok");
    wait_for_pool(&ringway, 1, "up", "check ok");
    wait_for_pool(
        &ringway,
        2,
        "down",
        "check failed: HTTP/1.1 503 Service Temporarily Unavailable",
    );
    wait_for_pool(&ringway, 3, "down", "check failed: HTTP/1.1 404 Not Found");
    let log = fs::read_to_string(folder.path().join("error.log")).unwrap_or_default();
    assert_eq!(log, "", "checks leave no trace in the server's log");
}

#[test]
fn http_asks_as_it_was_told() {
    let (heard, asked) = std::sync::mpsc::channel();
    let responder = Backend::serve(move |mut stream| {
        let mut lines = Vec::new();
        loop {
            let line = read_line(stream)?;
            if line == "\r" {
                break;
            }
            lines.push(line.trim_end().to_string());
        }
        let _ = heard.send(lines);
        stream.write_all(
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
    });
    let health = "kind = \"http\"\nmethod = \"GET\"\npath = \"/a?b=c\"\nhost = \"db.example.com\"";
    let ringway = checked(health, responder.address);
    wait_for(&ringway, "up", "check ok");
    let lines = asked.recv_timeout(SOON).unwrap();
    assert_eq!(lines[0], "GET /a?b=c HTTP/1.1");
    assert!(lines.contains(&"Host: db.example.com".to_string()));
    assert!(lines.contains(&"Connection: close".to_string()));
}

// ---------------------------------------------------------------------------------------------------------------------
// DNS and UDP

#[test]
fn name_servers_are_alive_if_they_know_or_know_that_there_is_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let address = net::free_address();
    let _server = nsd(address, folder.path());
    let ask = |query: &str| format!("{OFTEN}kind = \"dns\"\nquery = \"{query}\"");
    let to = address.to_string();
    let questions = [
        ask("www.example.test A"),
        ask("nobody.example.test AAAA"),
        ask("example.org A"),
        ask("example.test. SOA"),
    ];
    let pools: Vec<_> = ["there", "not-there", "not-ours", "zone"]
        .iter()
        .zip(&questions)
        .map(|(name, question)| (*name, &**question, to.clone()))
        .collect();
    let ringway = setup(&pools).start_unready();
    wait_for_pool(&ringway, 0, "up", "check ok");
    wait_for_pool(&ringway, 1, "up", "check ok");
    wait_for_pool(&ringway, 2, "down", "check failed: REFUSED");
    wait_for_pool(&ringway, 3, "up", "check ok");
}

/// A datagram server that answers with what `answer` makes of what came, and with silence for nothing.
fn datagram_server(
    answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> std::net::SocketAddr {
    let socket = UdpSocket::bind((net::host(), 0)).expect("a datagram socket");
    let address = socket.local_addr().expect("its address");
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((count, peer)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = answer(&buffer[..count]) {
                let _ = socket.send_to(&answer, peer);
            }
        }
    });
    address
}

#[test]
fn name_servers_that_answer_something_else_are_not_believed() {
    let quick = "interval = \"50ms\"\nfast_interval = \"50ms\"\ntimeout = \"200ms\"\nfall = 2\nrise = 1\nkind = \"dns\"\nquery = \"a.test A\"";
    let servers = [
        datagram_server(|_| Some(b"not DNS at all".to_vec())),
        datagram_server(|question| {
            let mut answer = question.to_vec();
            answer[2] |= 0x80;
            answer[0] ^= 0xff;
            Some(answer)
        }),
        datagram_server(|question| Some(question.to_vec())),
        datagram_server(|_| None),
        // Records are promised and missing.
        datagram_server(|question| {
            let mut answer = question.to_vec();
            answer[2] |= 0x80;
            answer[7] = 200;
            Some(answer)
        }),
    ];
    let names = ["garbage", "forged", "mirror", "silent", "broken"];
    let pools: Vec<_> = names
        .iter()
        .zip(servers)
        .map(|(name, address)| (*name, quick, address.to_string()))
        .collect();
    let ringway = setup(&pools).start_unready();
    let others = "check failed: no answer to the question, but other datagrams";
    for (pool, reason) in [
        (0, others),
        (1, others),
        (2, others),
        (3, "check timeout"),
        (4, others),
    ] {
        wait_for_pool(&ringway, pool, "down", reason);
    }
}

#[test]
fn udp_by_answer_by_silence_and_by_refusal() {
    let echo = datagram_server(|came| Some(came.to_vec()));
    let silent = datagram_server(|_| None);
    let closed = {
        let socket = UdpSocket::bind((net::host(), 0)).unwrap();
        socket.local_addr().unwrap()
    };
    let quick = "interval = \"50ms\"\nfast_interval = \"50ms\"\ntimeout = \"200ms\"\nfall = 2\nrise = 1\nkind = \"udp\"\n";
    let asks = format!("{quick}send = \"hex:01 02 ff\"\nexpect = \"hex:02ff\"");
    let hopes = format!("{quick}send = \"ping\"\nexpect = \"pong\"");
    let pools = [
        ("answered", &*asks, echo.to_string()),
        ("other", &*hopes, echo.to_string()),
        ("unanswered", &*asks, silent.to_string()),
        ("not-asked", quick, silent.to_string()),
        ("closed", quick, closed.to_string()),
        ("closed-asked", &*asks, closed.to_string()),
    ];
    let ringway = setup(&pools).start_unready();
    wait_for_pool(&ringway, 0, "up", "check ok");
    wait_for_pool(&ringway, 1, "down", "check failed: unexpected answer: ping");
    wait_for_pool(&ringway, 2, "down", "check timeout");
    wait_for_pool(&ringway, 3, "up", "check ok");
    wait_for_pool(&ringway, 4, "down", "check refused");
    wait_for_pool(&ringway, 5, "down", "check refused");
}

// ---------------------------------------------------------------------------------------------------------------------
// Dialogues

#[test]
fn dialogues_with_real_servers() {
    let redis = Redis::start();
    let cache = net::free_address();
    let _cache = memcached(cache);
    let dialogue = |steps: &str| format!("{OFTEN}kind = \"send-expect\"\nstep = [{steps}]");
    let ping = dialogue("{ send = \"PING\\r\\n\", expect = \"+PONG\" }");
    let hex = dialogue(
        "{ send = \"hex:50494e470d0a\", expect = \"hex:2b 50 4f 4e 47\" }, { send = \"SELECT 1\\r\\n\", expect = \"+OK\" }, \
         { send = \"QUIT\\r\\n\" }",
    );
    let version = dialogue(
        "{ send = \"version\\r\\n\", expect_regex = '^VERSION \\d+\\.\\d+' }, { send = \"quit\\r\\n\" }",
    );
    let wrong = dialogue("{ send = \"version\\r\\n\", expect = \"VERSION\" }, { send = \"nonsense\\r\\n\", expect = \"OK\" }")
        .replace("timeout = \"2s\"", "timeout = \"300ms\"");
    let pools = [
        ("ping", &*ping, redis.address.to_string()),
        ("hex", &*hex, redis.address.to_string()),
        ("version", &*version, cache.to_string()),
        ("wrong", &*wrong, cache.to_string()),
    ];
    let ringway = setup(&pools).start_unready();
    for pool in 0..3 {
        wait_for_pool(&ringway, pool, "up", "check ok");
    }
    // What was left of the first answer comes first.
    wait_for_pool(
        &ringway,
        3,
        "down",
        "check failed: step 2: unexpected answer:",
    );
    wait_for_pool(&ringway, 3, "down", "ERROR");
    // A server that wants a password says so.
    Redis::cli(redis.address, &["config", "set", "requirepass", "x"]);
    wait_for_pool(
        &ringway,
        0,
        "down",
        "check failed: unexpected answer: -NOAUTH Authentication required.",
    );
}

#[test]
fn a_server_that_speaks_first() {
    let mail = Backend::serve(|mut stream| {
        stream.write_all(b"220-mail.example\r\n")?;
        stream.write_all(b"220 ready\r\n")?;
        assert_eq!(read_line(stream)?, "QUIT\r");
        stream.write_all(b"221 bye\r\n")
    });
    let steps = "kind = \"send-expect\"\nstep = [{ expect_regex = '(?m)^220 ' }, { send = \"QUIT\\r\\n\", expect = \"221\" }]";
    let ringway = checked(steps, mail.address);
    wait_for(&ringway, "up", "check ok");
    wait_for_more(&ringway, "ok", 5.0);
    assert_eq!(mail.failed(), 0, "the server saw whole dialogues only");

    let busy = Backend::serve(|mut stream| stream.write_all(b"421 too busy\x1b[2J\r\n"));
    let ringway = checked(steps, busy.address);
    wait_for(
        &ringway,
        "down",
        "check failed: step 1: unexpected answer: 421 too busy.[2J",
    );
}

#[test]
fn a_host_that_does_not_resolve_is_down_for_that_reason() {
    let pools = [(
        "main",
        "kind = \"redis\"",
        "nowhere.invalid:6379".to_string(),
    )];
    let ringway = setup(&pools).start_unready();
    until(SOON, "it is down", || backend(&ringway)["health"] == "down");
    assert_eq!(
        backend(&ringway)["last_change"]["reason"],
        "name does not resolve"
    );
}
