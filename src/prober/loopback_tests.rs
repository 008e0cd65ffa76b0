//! The prober against real sockets on loopback. What concerns the whole process (descriptors, standing still, CPU) runs
//! in a child: this test binary again, with one of the tests that are otherwise ignored.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::{Announce, BackendReport, Check, OnDown, Prober, Reason, Rules, Target};
use crate::handoff::{BackendShared, Hatches, Health};
use crate::ids::{Address, BackendId, CheckResult, Clock, Role, millis};
use crate::sys::thread_cpu::thread_cpu_ns;

const RULES: Rules = Rules {
    interval_ns: millis(40),
    fast_interval_ns: millis(20),
    timeout_ns: millis(2_000),
    rise: 2,
    fall: 3,
};

fn start() -> Prober {
    Prober::start(Arc::new(Hatches::new(2).unwrap()), Clock::start()).unwrap()
}

fn target(id: u16, address: Address) -> Target {
    let name = format!("b{id}");
    Target {
        backend: Arc::new(BackendShared::new(BackendId(id), "pool", &name, false, 2)),
        address: Some(address),
        rules: Some(RULES),
        check: Check::Tcp,
        on_down: OnDown::Keep,
        source: None,
        announce: Announce::Off,
        asked: Role::Unknown,
        on_role_change: OnDown::Keep,
        has_weight: true,
    }
}

/// A target whose checks the server's program gets to see.
fn noticed(id: u16, address: Address) -> Target {
    Target {
        announce: Announce::V1,
        ..target(id, address)
    }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A port where nobody listens; bound, so that nobody else gets it.
fn closed_port() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A listener whose queue is full: it answers no SYN. The sockets keep it so.
fn black_hole() -> (Vec<Socket>, SocketAddr) {
    let (listener, address) = closed_port();
    listener.listen(0).unwrap();
    let mut sockets = vec![listener];
    loop {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let answer = filler.connect_timeout(&address.into(), Duration::from_millis(200));
        sockets.push(filler);
        if answer.is_err() {
            return (sockets, address);
        }
    }
}

/// Asks until `condition` holds; fails after ten seconds.
#[track_caller]
fn within_ten_seconds(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "ran out of time");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn count(report: &BackendReport, result: CheckResult) -> u64 {
    report.checks[result.index()]
}

#[test]
fn up_when_it_listens_down_when_it_does_not_and_back() {
    let (socket, address) = closed_port();
    let target = target(0, address.into());
    let verdict = &target.backend.verdict;
    let prober = start();
    let published = Instant::now();
    prober.publish(vec![target.clone()]);
    within_ten_seconds(|| verdict.health() == Health::Down);
    socket.listen(64).unwrap();
    within_ten_seconds(|| verdict.health() == Health::Up);
    drop(socket);
    within_ten_seconds(|| verdict.health() == Health::Down);

    let changes: Vec<_> = prober.changes().try_iter().collect();
    let told: Vec<_> = changes.iter().map(|c| (c.to, c.reason.clone())).collect();
    let refused = Reason::Check {
        result: CheckResult::Refused,
        errno: Some(libc::ECONNREFUSED),
        words: None,
    };
    let ok = Reason::Check {
        result: CheckResult::Ok,
        errno: None,
        words: None,
    };
    assert_eq!(
        told,
        [
            (Health::Down, refused.clone()),
            (Health::Up, ok),
            (Health::Down, refused)
        ]
    );
    assert!(changes[0].at.0 < published.elapsed().as_nanos() as u64 + millis(1_000));
    let report = &prober.report()[0];
    assert_eq!(report.health, Health::Down);
    assert!(count(report, CheckResult::Refused) >= 4 && count(report, CheckResult::Ok) >= 2);
    assert!(prober.stop());
}

#[test]
fn every_workers_bell_rings_when_health_changes() {
    let (_listener, address) = listener();
    let hatches = Arc::new(Hatches::new(2).unwrap());
    let mut bells: Vec<fs::File> = hatches
        .workers
        .iter()
        .map(|hatch| hatch.doorbell.as_fd().try_clone_to_owned().unwrap().into())
        .collect();
    let prober = Prober::start(Arc::clone(&hatches), Clock::start()).unwrap();
    let target = target(0, address.into());
    prober.publish(vec![target.clone()]);
    for bell in &mut bells {
        within_ten_seconds(|| bell.read(&mut [0; 8]).is_ok());
        assert_eq!(target.backend.verdict.health(), Health::Up);
    }
    assert!(prober.stop());
}

#[test]
fn a_plain_check_does_not_reach_the_servers_program() {
    let (listener, address) = listener();
    let prober = start();
    prober.publish(vec![target(0, address.into())]);
    within_ten_seconds(|| {
        let reports = prober.report();
        reports
            .first()
            .is_some_and(|report| count(report, CheckResult::Ok) >= 100)
    });
    listener.set_nonblocking(true).unwrap();
    let mut reached = 0;
    while listener.accept().is_ok() {
        reached += 1;
    }
    // A prober that is held up for 200 ms between two of its lines cannot prevent it.
    assert!(reached < 20, "{reached} of 100");
    assert!(prober.stop());
}

#[test]
fn an_announced_check_says_where_it_comes_from_and_ends_by_fin() {
    let (listener, address) = listener();
    let prober = start();
    prober.publish(vec![noticed(0, address.into())]);
    for _ in 0..20 {
        let (mut client, _) = listener.accept().unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert_eq!(said, "PROXY UNKNOWN\r\n");
    }
    assert!(prober.stop());
}

#[test]
fn silence_is_a_timeout() {
    let (_full, address) = black_hole();
    let mut target = target(0, address.into());
    target.rules = Some(Rules {
        timeout_ns: millis(50),
        ..RULES
    });
    let prober = start();
    prober.publish(vec![target.clone()]);
    within_ten_seconds(|| target.backend.verdict.health() == Health::Down);
    let report = &prober.report()[0];
    assert!(count(report, CheckResult::Timeout) >= 3);
    assert_eq!(count(report, CheckResult::Ok), 0);
    let timeouts = count(report, CheckResult::Timeout);
    let mean_ns = report.duration.sum_ns / timeouts;
    assert!(
        (millis(50)..millis(150)).contains(&mean_ns),
        "{mean_ns} ns for a timeout of 50 ms"
    );
    assert!(prober.stop());
}

#[test]
fn silent_backends_do_not_hold_up_others_nor_the_end() {
    let (_full, silent) = black_hole();
    let (listener, alive) = listener();
    let mut targets: Vec<_> = (0..100).map(|id| target(id, silent.into())).collect();
    for silent in &mut targets {
        silent.rules.as_mut().unwrap().timeout_ns = millis(30_000);
    }
    targets.push(noticed(100, alive.into()));
    let prober = start();
    prober.publish(targets.clone());
    within_ten_seconds(|| targets[100].backend.verdict.health() == Health::Up);
    for _ in 0..5 {
        listener.accept().unwrap();
    }
    let told = Instant::now();
    assert!(prober.stop());
    assert!(
        told.elapsed() < Duration::from_millis(500),
        "{:?}",
        told.elapsed()
    );
}

#[test]
fn a_prober_that_is_dropped_ends_by_itself() {
    let (listener, address) = listener();
    let prober = start();
    prober.publish(vec![noticed(0, address.into())]);
    listener.accept().unwrap();
    let ended = prober.ended.clone();
    drop(prober);
    ended.recv_timeout(Duration::from_secs(10)).unwrap();
}

#[test]
fn unix_sockets_listening_missing_and_full() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let _alive = UnixListener::bind(path("alive")).unwrap();
    let full = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let full_address = socket2::SockAddr::unix(path("full")).unwrap();
    full.bind(&full_address).unwrap();
    full.listen(0).unwrap();
    let filler = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    filler.connect(&full_address).unwrap();

    let mut targets: Vec<_> = ["alive", "missing", "full"]
        .iter()
        .zip(0..)
        .map(|(name, id)| target(id, Address::Unix(path(name))))
        .collect();
    targets[2].rules.as_mut().unwrap().timeout_ns = millis(50);
    let prober = start();
    prober.publish(targets.clone());
    for (target, health) in targets.iter().zip([Health::Up, Health::Down, Health::Down]) {
        within_ten_seconds(|| target.backend.verdict.health() == health);
    }
    let report = prober.report();
    assert!(count(&report[1], CheckResult::Refused) >= 2);
    assert!(count(&report[2], CheckResult::Timeout) >= 3);
    assert!(prober.stop());
}

#[test]
fn checks_come_from_the_source_asked_for() {
    let (listener, address) = listener();
    let source = IpAddr::from([127, 0, 0, 9]);
    let mut ours = noticed(0, address.into());
    ours.source = Some(source);
    let mut stranger = target(1, address.into());
    stranger.source = Some(IpAddr::from([192, 0, 2, 1]));
    let prober = start();
    prober.publish(vec![ours, stranger.clone()]);
    for _ in 0..5 {
        assert_eq!(listener.accept().unwrap().1.ip(), source);
    }
    within_ten_seconds(|| stranger.backend.verdict.health() == Health::Down);
    let changes: Vec<_> = prober.changes().try_iter().collect();
    let reason = changes.iter().find(|c| c.to == Health::Down).unwrap();
    assert!(
        reason
            .reason
            .to_string()
            .contains("Cannot assign requested address"),
        "{}",
        reason.reason
    );
    assert!(prober.stop());
}

#[test]
fn after_a_publish_only_the_new_set_is_checked() {
    let (old, old_address) = listener();
    let (new, new_address) = listener();
    let prober = start();
    let first = noticed(0, old_address.into());
    prober.publish(vec![first]);
    old.accept().unwrap();
    prober.publish(vec![noticed(1, new_address.into())]);
    for _ in 0..10 {
        new.accept().unwrap();
    }
    // What was in flight at the publish is in the old queue by now, and nothing follows.
    old.set_nonblocking(true).unwrap();
    while old.accept().is_ok() {}
    for _ in 0..10 {
        new.accept().unwrap();
    }
    assert_eq!(old.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(prober.report().len(), 1);
    assert!(prober.stop());
}

/// This binary again, with one ignored test that talks through stdin and stdout.
struct Story {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Story {
    fn begin(test: &str, argument: &str) -> Story {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture"])
            .arg(format!("prober::loopback_tests::{test}"))
            .env("PROBER_STORY", argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Story { child, lines }
    }

    /// What the child says after `word`.
    fn hear(&mut self, word: &str) -> String {
        loop {
            let line = self.lines.next().expect("the child ended early").unwrap();
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for_stdin_to_close() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn standing_still_is_not_the_backends_fault() {
    let (_full, address) = black_hole();
    let mut story = Story::begin("child_checks_until_stdin_closes", &address.to_string());
    story.hear("begun");
    story.signal("-STOP");
    std::thread::sleep(Duration::from_millis(800));
    story.signal("-CONT");
    drop(story.child.stdin.take());
    assert_ne!(story.hear("void"), "0");
}

#[test]
#[ignore = "the child of standing_still_is_not_the_backends_fault"]
fn child_checks_until_stdin_closes() {
    let address: SocketAddr = std::env::var("PROBER_STORY").unwrap().parse().unwrap();
    let mut target = target(0, address.into());
    target.rules.as_mut().unwrap().timeout_ns = millis(400);
    let prober = start();
    prober.publish(vec![target.clone()]);
    let made = || -> u64 {
        let report = prober.report();
        report
            .first()
            .map_or(0, |report| report.checks.iter().sum())
    };
    // The first check's timeout ends the grace, too: from then on nothing but the check in flight is on the agenda. It
    // is in flight once the next one's moment is not known.
    within_ten_seconds(|| made() >= 1);
    within_ten_seconds(|| prober.report()[0].latest.next_check.is_none());
    println!("begun");
    wait_for_stdin_to_close();
    within_ten_seconds(|| made() >= 2);
    println!("void {}", count(&prober.report()[0], CheckResult::Void));
}

#[test]
fn a_thousand_checks_leak_no_descriptor_and_running_out_is_no_failure() {
    let mut story = Story::begin("child_counts_descriptors", "");
    assert_eq!(story.hear("leaked"), "0");
    assert_eq!(story.hear("while out of descriptors"), "Up");
    story.hear("found again");
}

#[test]
#[ignore = "the child of a_thousand_checks_leak_no_descriptor_and_running_out_is_no_failure"]
fn child_counts_descriptors() {
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let (listener, alive) = listener();
    let (_bound, closed) = closed_port();
    let (_full, silent) = black_hole();
    std::thread::spawn(move || for _client in listener.incoming() {});
    let mut targets: Vec<_> = (0..30)
        .map(|id| {
            let address = [alive, closed, silent][usize::from(id) % 3];
            let mut target = target(id, address.into());
            target.rules = Some(Rules {
                interval_ns: millis(10),
                fast_interval_ns: millis(10),
                timeout_ns: millis(15),
                ..RULES
            });
            target
        })
        .collect();
    let prober = start();
    // An empty set: everything the prober needs for itself is open once it has been taken.
    let before = open();
    prober.publish(targets.clone());
    let sum = |reports: &[BackendReport], result| -> u64 {
        reports.iter().map(|report| count(report, result)).sum()
    };
    within_ten_seconds(|| {
        let reports = prober.report();
        sum(&reports, CheckResult::Ok) > 400
            && sum(&reports, CheckResult::Refused) > 400
            && sum(&reports, CheckResult::Timeout) > 200
    });
    prober.publish(Vec::new());
    let mut after = open();
    within_ten_seconds(|| {
        after = open();
        after <= before
    });
    println!("leaked {}", after - before);

    targets.truncate(1);
    targets[0].rules.as_mut().unwrap().fall = 1;
    prober.publish(targets.clone());
    let verdict = &targets[0].backend.verdict;
    within_ten_seconds(|| verdict.health() == Health::Up);
    let spare = fs::File::open("/dev/null").unwrap();
    let mut held = Vec::new();
    while let Ok(copy) = spare.try_clone() {
        held.push(copy);
    }
    within_ten_seconds(|| count(&prober.report()[0], CheckResult::Void) > 20);
    println!("while out of descriptors {:?}", verdict.health());
    drop(held);
    let found = count(&prober.report()[0], CheckResult::Ok);
    within_ten_seconds(|| count(&prober.report()[0], CheckResult::Ok) > found + 10);
    println!("found again");
}

#[test]
fn checking_500_backends_every_500_ms_costs_little() {
    let mut story = Story::begin("child_measures_cpu", "");
    let mut number = |word: &str| story.hear(word).parse::<f64>().unwrap();
    let (each_ns, bare_ns) = (number("each_ns"), number("bare_ns"));
    let percent = number("percent");
    println!("{each_ns} ns a check (bare sockets {bare_ns}), {percent:.2} % of one core");
    // On a busy machine everything costs more, bare sockets, too. Loopback's other end is in both.
    assert!(percent < 5.0 || each_ns < 3.0 * bare_ns);
}

#[test]
#[ignore = "the child of checking_500_backends_every_500_ms_costs_little"]
fn child_measures_cpu() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    // Deep enough for the bare sockets below: a full queue would make each of them wait for a second.
    listener.listen(4096).unwrap();
    let listener = TcpListener::from(listener);
    let port = listener.local_addr().unwrap().port();
    let alive = SocketAddr::from(([127, 0, 0, 1], port));
    std::thread::spawn(move || for _client in listener.incoming() {});
    let targets = (0..500u16)
        .map(|id| {
            let [high, low] = id.to_be_bytes();
            let mut target = target(id, Address::Inet(([127, 1, high, low], port).into()));
            target.rules.as_mut().unwrap().interval_ns = millis(500);
            target
        })
        .collect();
    let prober = start();
    prober.publish(targets);
    let ok = || -> u64 {
        let reports = prober.report();
        reports
            .iter()
            .map(|report| count(report, CheckResult::Ok))
            .sum()
    };
    within_ten_seconds(|| ok() >= 500);
    let (checks, cpu_ns, began) = (ok(), prober_cpu_ns(), Instant::now());
    within_ten_seconds(|| began.elapsed() > Duration::from_secs(3));
    let (checks, cpu_ns) = (ok() - checks, prober_cpu_ns() - cpu_ns);
    let elapsed_ns = began.elapsed().as_nanos() as f64;
    assert!(checks > 2_400, "{checks} checks in 3 s");
    let (bare_ns, bare_checks) = (thread_cpu_ns(), 2_000);
    for _ in 0..bare_checks {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        socket.connect(&alive.into()).unwrap();
    }
    let bare_ns = (thread_cpu_ns() - bare_ns) / bare_checks;
    println!("each_ns {}\nbare_ns {bare_ns}", cpu_ns / checks);
    println!("percent {}", cpu_ns as f64 / elapsed_ns * 100.0);
}

/// CPU time of the prober's thread: the first number of its schedstat.
fn prober_cpu_ns() -> u64 {
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let folder = task.unwrap().path();
        if fs::read_to_string(folder.join("comm")).unwrap().trim() == "ringway-prober" {
            let times = fs::read_to_string(folder.join("schedstat")).unwrap();
            return times.split_whitespace().next().unwrap().parse().unwrap();
        }
    }
    panic!("no prober thread");
}

#[test]
fn a_connection_to_itself_is_told_from_a_listener() {
    let (socket, address) = closed_port();
    socket.connect(&address.into()).unwrap();
    let socket = socket.into();
    assert!(super::visit::is_own_echo(&socket, &address.into()));
    let (_listener, address) = listener();
    let socket = TcpStream::connect(address).unwrap().into();
    assert!(!super::visit::is_own_echo(&socket, &address.into()));
}
