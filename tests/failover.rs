//! Failover of real databases: the primary is killed, a replica promoted, and clients that come meanwhile wait instead of
//! failing. The old primary that comes back as a second one gets nothing until one of the two yields or the operator
//! decides.

#[path = "failover/patroni.rs"]
mod patroni;
mod support;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::clusters::{Cluster, Maria};
use support::ringway::{Ringway, Setup, listener, pool_with};
use support::servers::{Redis, program, text_of};
use support::wait::{seconds, until};
use support::{alone, net};

/// Of the checks that [`front`] configures: refused twice, which counts as four failures, an interval and a fast one
/// apart, each a tenth longer at most; then the promoted one is asked after a fast one.
const DETECTION: Duration = Duration::from_millis(1_100 + 220 + 220);
const CLIENTS: usize = 4;

fn front(kind: &str, user: &str, backends: &[(&str, SocketAddr)]) -> (Setup, SocketAddr) {
    let address = net::free_address();
    (Setup::new(body(kind, user, address, backends, "")), address)
}

fn body(
    kind: &str,
    user: &str,
    address: SocketAddr,
    backends: &[(&str, SocketAddr)],
    second: &str,
) -> String {
    let health = format!(
        "[pool.health]\nkind = \"{kind}\"\n{user}role = \"primary\"\ninterval = \"1s\"\nfast_interval = \"200ms\"\n"
    );
    let backends: Vec<_> = backends
        .iter()
        .enumerate()
        .map(|(n, (name, address))| (*name, address.to_string(), if n == 1 { second } else { "" }))
        .collect();
    listener("db", address, "db") + &pool_with("db", "", &health, &backends)
}

/// Connects as one client, up to the moment that the server lets it in.
type Connect = fn(SocketAddr) -> io::Result<std::net::TcpStream>;

fn postgres(front: SocketAddr) -> io::Result<std::net::TcpStream> {
    let mut stream = open(front)?;
    stream.write_all(b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0")?;
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut said = vec![0; length - 4];
        stream.read_exact(&mut said)?;
        match head[0] {
            b'Z' => return Ok(stream),
            b'E' => {
                return Err(io::Error::other(
                    String::from_utf8_lossy(&said).into_owned(),
                ));
            }
            _ => {}
        }
    }
}

fn redis(front: SocketAddr) -> io::Result<std::net::TcpStream> {
    let mut stream = open(front)?;
    stream.write_all(b"PING\r\n")?;
    expect(stream, b"+PONG\r\n")
}

fn maria(front: SocketAddr) -> io::Result<std::net::TcpStream> {
    let mut stream = open(front)?;
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    match head[4] {
        0x0a => Ok(stream),
        other => Err(io::Error::other(format!(
            "a greeting that begins with {other}"
        ))),
    }
}

fn open(front: SocketAddr) -> io::Result<std::net::TcpStream> {
    let stream = net::try_connect(front)?;
    // Longer than a client may have to wait.
    stream.set_read_timeout(Some(seconds(45)))?;
    Ok(stream)
}

fn expect(mut stream: std::net::TcpStream, wanted: &[u8]) -> io::Result<std::net::TcpStream> {
    let mut said = vec![0; wanted.len()];
    stream.read_exact(&mut said)?;
    match said == wanted {
        true => Ok(stream),
        false => Err(io::Error::other(format!("{}", said.escape_ascii()))),
    }
}

struct Attempt {
    begun: Instant,
    ended: Instant,
    failure: Option<String>,
}

/// Clients that connect again and again.
struct Crowd {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Attempt>>>,
}

impl Crowd {
    fn start(front: SocketAddr, connect: Connect) -> Crowd {
        let stop = Arc::new(AtomicBool::new(false));
        let client = || {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut attempts = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    let outcome = connect(front);
                    attempts.push(Attempt {
                        begun,
                        ended: Instant::now(),
                        failure: outcome.err().map(|error| error.to_string()),
                    });
                    std::thread::sleep(Duration::from_millis(20));
                }
                attempts
            })
        };
        let threads = (0..CLIENTS).map(|_| client()).collect();
        Crowd { stop, threads }
    }

    fn stop(self) -> Vec<Attempt> {
        self.stop.store(true, Ordering::SeqCst);
        let threads = self.threads.into_iter();
        threads
            .flat_map(|thread| thread.join().expect("a client"))
            .collect()
    }
}

/// What became of a failover: how long nobody was let in.
fn judge(attempts: &[Attempt], killed: Instant, promoted: Instant, what: &str) -> Duration {
    // In between it was neither alive nor dead: the clients that came then had a session with it, or were on their way.
    let broken: Vec<_> = attempts
        .iter()
        .filter(|attempt| attempt.failure.is_some())
        .collect();
    for attempt in &broken {
        assert!(
            attempt.begun < killed,
            "{what}: a client that came {:?} after the death failed: {:?}",
            attempt.begun - killed,
            attempt.failure
        );
    }
    assert!(
        broken.len() <= CLIENTS,
        "{what}: {} clients were cut",
        broken.len()
    );
    let after = attempts.iter().filter(|attempt| attempt.begun >= killed);
    let first = after.clone().map(|attempt| attempt.ended).min();
    let gap = first.expect("somebody was let in again") - killed;
    println!(
        "{what}: {} connects, {} of them begun after the death, 0 of these failed; {} cut with the old primary; gap \
         {gap:?}, promoted after {:?}, found within {DETECTION:?} at worst",
        attempts.len(),
        after.count(),
        broken.len(),
        promoted - killed
    );
    gap
}

/// Whether the gap is what the configuration promises. It is measured again if the machine was too busy, three times.
fn is_prompt(gap: Duration, promotion: Duration) -> bool {
    gap <= DETECTION + promotion + Duration::from_millis(500)
}

fn pgbench(front: SocketAddr, arguments: &[&str]) -> Child {
    let mut command = Command::new(program("pgbench", "postgresql-contrib"));
    command.args(["-h", &front.ip().to_string(), "-U", "postgres"]);
    command.args(["-p", &front.port().to_string(), "-n", "-C", "-S"]);
    command.args(arguments).arg("postgres");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("start pgbench")
}

#[test]
fn postgres_fails_over_and_no_client_that_comes_meanwhile_fails() {
    let _alone = alone();
    for round in 1..=3 {
        let mut old = Cluster::init();
        old.start(&[]);
        text_of(
            Command::new(program("pgbench", "postgresql-contrib"))
                .args(["-i", "-q", "-s", "1", "-U", "postgres"])
                .args(["-h", &old.address.ip().to_string()])
                .args(["-p", &old.address.port().to_string(), "postgres"]),
        );
        let mut new = Cluster::replica_of(&old);
        new.start(&[]);
        let backends = [("old", old.address), ("new", new.address)];
        let user = "user = \"postgres\"\n";
        let (setup, address) = front("postgres", user, &backends);
        let mut ringway = setup.start();
        ringway.wait_state("new", "wrong-role", seconds(20));

        let holders: Vec<_> = (0..8)
            .map(|_| postgres(address).expect("a session"))
            .collect();
        let bench = pgbench(address, &["-c", "4", "-T", "30"]);
        let crowd = Crowd::start(address, postgres);
        std::thread::sleep(seconds(1));
        old.kill();
        let killed = Instant::now();
        let late = pgbench(address, &["-c", "4", "-t", "25"]);
        std::thread::sleep(Duration::from_millis(300));
        new.promote();
        let promoted = Instant::now();
        ringway.wait_state("new", "up", seconds(60));
        let output = late.wait_with_output().expect("pgbench's report");
        let report = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "begun after the death: {complaints}"
        );
        assert!(report.contains("actually processed: 100/100"), "{report}");
        let attempts = crowd.stop();
        let gap = judge(&attempts, killed, promoted, "PostgreSQL");
        for mut holder in holders {
            // It may still say why before it goes.
            let end = holder.read_to_end(&mut Vec::new());
            let is_cut = end.as_ref().map_or_else(net::is_reset, |_| true);
            assert!(is_cut, "a session outlived its server: {end:?}");
        }
        // Those of the first pgbench had sessions with the old one; each is cut once and given up by pgbench.
        support::process::signal(bench.id(), "INT");
        let complaints = bench.wait_with_output().expect("pgbench's report").stderr;
        let complaints = String::from_utf8_lossy(&complaints);
        assert!(complaints.matches("aborted").count() <= 4, "{complaints}");
        if !is_prompt(gap, promoted - killed) {
            assert!(round < 3, "three times too slow");
            continue;
        }

        a_second_primary_is_fenced(&mut ringway, &mut old, &backends, address);
        return;
    }
}

/// The old one is started again as if nothing had happened.
fn a_second_primary_is_fenced(
    ringway: &mut Ringway,
    old: &mut Cluster,
    backends: &[(&str, SocketAddr)],
    address: SocketAddr,
) {
    let kept = postgres(address).expect("a session with the new one");
    let conflict = |ringway: &Ringway| {
        let labels = [("pool", "db")];
        ringway.metrics().sum("ringway_role_conflict", &labels) == 1.0
    };
    assert!(!conflict(ringway));
    old.start(&[]);
    until(seconds(30), "the conflict is seen", || conflict(ringway));
    for backend in ["old", "new"] {
        ringway.wait_state(backend, "wrong-role", seconds(10));
    }
    let status = ringway.status();
    let claimants = status["pools"][0]["role_conflict"]["backends"].as_array();
    assert_eq!(claimants.expect("names").len(), 2, "{status}");
    until(seconds(10), "the alarm is logged", || {
        let said = ringway.stderr();
        said.contains("pool db: old and new all say that they are the primary")
    });
    // Whoever comes waits.
    let waiting = std::thread::spawn(move || postgres(address).map(drop));
    until(seconds(10), "a client waits", || {
        ringway.metric("ringway_waiting") == 1.0
    });
    // Only one line for all that time, and one more if a slow check has interrupted it.
    let said = |what: &str| ringway.stderr().matches(what).count();
    assert_eq!(
        said("all say that they are the primary"),
        1 + said("the conflict of roles is over")
    );

    // The operator decides: the old one drains.
    let user = "user = \"postgres\"\n";
    let turned: Vec<_> = backends.iter().rev().copied().collect();
    ringway.rewrite(body("postgres", user, address, &turned, "weight = 0"));
    assert!(ringway.reload());
    ringway.wait_state("new", "up", seconds(20));
    waiting.join().expect("the client").expect("it was let in");
    assert!(!conflict(ringway));
    let mut kept = kept;
    kept.write_all(b"Q\0\0\0\x0dselect 1\0")
        .expect("the kept session lives");
    kept.read_exact(&mut [0; 1]).expect("and is answered");

    // And takes it back; then one yields.
    ringway.rewrite(body("postgres", user, address, &turned, ""));
    assert!(ringway.reload());
    until(seconds(20), "there is a conflict again", || {
        conflict(ringway)
    });
    old.kill();
    ringway.wait_state("new", "up", seconds(20));
    until(seconds(10), "the conflict is over", || !conflict(ringway));
    drop(postgres(address).expect("it serves again"));
}

#[test]
fn redis_fails_over() {
    let _alone = alone();
    for round in 1..=3 {
        let mut old = Redis::start();
        let new = Redis::start();
        let (ip, port) = (old.address.ip().to_string(), old.address.port().to_string());
        Redis::cli(new.address, &["replicaof", &ip, &port]);
        let (setup, address) = front("redis", "", &[("old", old.address), ("new", new.address)]);
        let ringway = setup.start();
        ringway.wait_state("new", "wrong-role", seconds(20));
        let holder = redis(address).expect("a session");
        let crowd = Crowd::start(address, redis);
        std::thread::sleep(Duration::from_millis(500));
        old.server.kill();
        let killed = Instant::now();
        std::thread::sleep(Duration::from_millis(300));
        Redis::cli(new.address, &["replicaof", "no", "one"]);
        let promoted = Instant::now();
        ringway.wait_state("new", "up", seconds(60));
        std::thread::sleep(Duration::from_millis(300));
        let gap = judge(&crowd.stop(), killed, promoted, "Redis");
        let mut holder = holder;
        assert!(matches!(holder.read(&mut [0; 8]), Ok(0) | Err(_)));
        if !is_prompt(gap, promoted - killed) {
            assert!(round < 3, "three times too slow");
            continue;
        }
        // The old one comes back and believes in itself, until it is told better.
        let back = Redis::start_on(old.address);
        until(seconds(20), "the conflict is seen", || {
            ringway.metric("ringway_role_conflict") == 1.0
        });
        let (ip, port) = (new.address.ip().to_string(), new.address.port().to_string());
        Redis::cli(back.address, &["replicaof", &ip, &port]);
        ringway.wait_state("new", "up", seconds(20));
        assert_eq!(ringway.metric("ringway_role_conflict"), 0.0);
        return;
    }
}

#[test]
fn mariadb_switches_over_and_fails_over() {
    let _alone = alone();
    for round in 1..=3 {
        let mut one = Maria::start(&["--server-id=1"], "");
        let two = Maria::start(&["--server-id=2", "--read-only=1"], "");
        let user = "user = \"app\"\n";
        let (setup, address) = front("mysql", user, &[("one", one.address), ("two", two.address)]);
        let ringway = setup.start();
        ringway.wait_state("two", "wrong-role", seconds(20));

        // A switch in order: between the two there is no primary, and clients wait.
        let crowd = Crowd::start(address, maria);
        let mut holder = maria(address).expect("a session");
        std::thread::sleep(Duration::from_millis(500));
        one.query("set global read_only = 1");
        ringway.wait_state("one", "wrong-role", seconds(20));
        // It is told to leave, as it would write where it may not.
        let end = holder
            .read(&mut [0; 1024])
            .and_then(|_| holder.read(&mut [0; 1024]));
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        assert!(ends(&ringway, "role-change") >= 1.0);
        two.query("set global read_only = 0");
        ringway.wait_state("two", "up", seconds(20));
        one.query("set global read_only = 0");
        until(seconds(20), "the conflict is seen", || {
            ringway.metric("ringway_role_conflict") == 1.0
        });
        two.query("set global read_only = 1");
        ringway.wait_state("one", "up", seconds(20));
        let cut = crowd.stop();
        let cut = cut
            .iter()
            .filter(|attempt| attempt.failure.is_some())
            .count();
        // One switch of a primary's role, and one of its rival's, can meet each client on its way in.
        assert!(cut <= 2 * CLIENTS, "{cut} clients were cut by two switches");

        let crowd = Crowd::start(address, maria);
        std::thread::sleep(Duration::from_millis(500));
        one.kill();
        let killed = Instant::now();
        std::thread::sleep(Duration::from_millis(300));
        two.query("set global read_only = 0");
        let promoted = Instant::now();
        ringway.wait_state("two", "up", seconds(60));
        std::thread::sleep(Duration::from_millis(300));
        let gap = judge(&crowd.stop(), killed, promoted, "MariaDB");
        if is_prompt(gap, promoted - killed) {
            return;
        }
        assert!(round < 3, "three times too slow");
    }
}

fn ends(ringway: &Ringway, end: &str) -> f64 {
    let labels = [("end", end)];
    ringway.metrics().sum("ringway_session_ends_total", &labels)
}
