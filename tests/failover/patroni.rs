//! Patroni's pair of PostgreSQL servers, with etcd to decide who leads: nobody here promotes anything, and clients still
//! notice nothing but a wait. Long, as a lease of etcd has to run out: only with `RINGWAY_SOAK`. Debian: patroni,
//! python3-etcd, python3-psycopg2, etcd-server.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::support::http;
use super::support::servers::{Server, account, as_user, is_root, program, psql, spawn, text_of};
use super::support::wait::{seconds, until, within};
use super::support::{net, process, soak};
use super::{Attempt, Crowd, Ringway, body, judge, pgbench, postgres};

const SCOPE: &str = "pair";
/// How long a leader that says nothing is waited for: the shortest that Patroni takes.
const LEASE: u64 = 20;

/// Of one process; everything else is in its folder.
struct Node {
    name: &'static str,
    address: SocketAddr,
    rest: SocketAddr,
    folder: tempfile::TempDir,
    patroni: Option<Child>,
}

fn owner() -> Option<(u32, u32)> {
    is_root().then(|| account("postgres"))
}

fn etcd() -> (Server, SocketAddr) {
    let (clients, peers) = (net::free_address(), net::free_address());
    let folder = tempfile::tempdir().expect("a folder for etcd");
    let mut command = Command::new(program("etcd", "etcd-server"));
    let (for_clients, for_peers) = (format!("http://{clients}"), format!("http://{peers}"));
    command
        .args(["--name", "e1", "--data-dir"])
        .arg(folder.path().join("data"));
    command.args([
        "--listen-client-urls",
        &for_clients,
        "--advertise-client-urls",
        &for_clients,
    ]);
    command.args([
        "--listen-peer-urls",
        &for_peers,
        "--initial-advertise-peer-urls",
        &for_peers,
    ]);
    command.args(["--initial-cluster", &format!("e1={for_peers}")]);
    let server = Server::start_in(folder, &mut command, "TERM");
    until(seconds(20), "etcd is healthy", || {
        http::get(clients, "/health").is_ok_and(|(code, _)| code == 200)
    });
    (server, clients)
}

impl Node {
    fn new(name: &'static str, etcd: SocketAddr) -> Node {
        let folder = tempfile::tempdir().expect("a folder for Patroni");
        let node = Node {
            name,
            address: net::free_address(),
            rest: net::free_address(),
            folder,
            patroni: None,
        };
        fs::set_permissions(node.folder.path(), fs::Permissions::from_mode(0o755))
            .expect("let pass");
        if let Some((user, group)) = owner() {
            chown(node.folder.path(), Some(user), Some(group)).expect("give the folder away");
        }
        // Of those that Patroni runs, the one that nobody puts elsewhere.
        let tools = program("pg_controldata", "postgresql");
        let tools = tools
            .parent()
            .expect("a folder of PostgreSQL's programs")
            .display();
        let (address, rest) = (node.address, node.rest);
        let place = node.folder.path().display();
        let text = format!(
            "scope: {SCOPE}\nname: {name}\netcd3: {{host: '{etcd}'}}\n\
             restapi: {{listen: '{rest}', connect_address: '{rest}'}}\n\
             bootstrap:\n  dcs:\n    ttl: {LEASE}\n    loop_wait: 2\n    retry_timeout: 5\n    postgresql:\n      \
             use_pg_rewind: false\n      remove_data_directory_on_diverged_timelines: true\n      \
             remove_data_directory_on_rewind_failure: true\n      parameters: {{fsync: 'off', max_connections: 60}}\n  \
             initdb: [{{encoding: UTF8}}, no-sync]\n\
             postgresql:\n  listen: '{address}'\n  connect_address: '{address}'\n  data_dir: '{place}/data'\n  \
             bin_dir: '{tools}'\n  pgpass: '{place}/pgpass'\n  parameters: {{unix_socket_directories: '{place}'}}\n  \
             pg_hba: ['local all all trust', 'host all all all trust', 'host replication all all trust']\n  \
             authentication:\n    superuser: {{username: postgres, password: p}}\n    \
             replication: {{username: replicator, password: r}}\n"
        );
        fs::write(node.config(), text).expect("Patroni's configuration");
        node
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("patroni.yml")
    }

    fn start(&mut self) {
        // Debian's own Python, for which the package is, whatever is first in the path.
        let mut command = as_user(owner(), "/usr/bin/python3".as_ref(), self.folder.path());
        command
            .arg(program("patroni", "patroni"))
            .arg(self.config());
        let log = fs::File::create(self.folder.path().join("log")).expect("a file for its log");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn();
        self.patroni = Some(child.expect("start Patroni"));
    }

    /// Whether it says of itself that it leads, or follows and is up to date.
    fn is(&self, role: &str) -> bool {
        http::get(self.rest, &format!("/{role}")).is_ok_and(|(code, _)| code == 200)
    }

    /// As a power cut would: Patroni first, so that it mends nothing.
    fn kill(&mut self) {
        let mut patroni = self.patroni.take().expect("a running node");
        let _ = patroni.kill();
        let _ = patroni.wait();
        let file = fs::read_to_string(self.folder.path().join("data/postmaster.pid"));
        let file = file.expect("the pid of a running server");
        let pid: u32 = file
            .lines()
            .next()
            .and_then(|pid| pid.parse().ok())
            .expect("a pid");
        process::signal(pid, "KILL");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            eprintln!(
                "--- Patroni's last words, {} ---\n{}",
                self.name,
                last.join("\n")
            );
        }
        if let Some(mut patroni) = self.patroni.take() {
            // It stops its server, which takes a moment.
            process::signal(patroni.id(), "TERM");
            if process::wait_exit(&mut patroni, seconds(20)).is_none() {
                let _ = patroni.kill();
                let _ = patroni.wait();
            }
        }
    }
}

/// Clients that connect again and again while `change` makes `next` the primary; none that began after `change` began may
/// fail. How long nobody was let in.
fn during(front: SocketAddr, next: &Node, what: &str, change: impl FnOnce()) -> Duration {
    let crowd = Crowd::start(front, postgres);
    std::thread::sleep(seconds(1));
    change();
    let begun = Instant::now();
    let late = pgbench(front, &["-c", "4", "-t", "25"]);
    until(seconds(90), "the other one leads", || next.is("primary"));
    let promoted = Instant::now();
    let output = late.wait_with_output().expect("pgbench's report");
    let report = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {complaints}");
    assert!(report.contains("actually processed: 100/100"), "{report}");
    judge(&crowd.stop(), begun, promoted, what)
}

#[test]
fn patronis_pair_fails_over_and_no_client_that_comes_meanwhile_fails() {
    if !soak() {
        eprintln!("a lease has to run out: only with RINGWAY_SOAK");
        return;
    }
    let (_etcd, dcs) = etcd();
    let (mut one, mut two) = (Node::new("one", dcs), Node::new("two", dcs));
    one.start();
    until(seconds(60), "one leads", || one.is("primary"));
    two.start();
    until(seconds(60), "two follows", || two.is("replica"));
    text_of(&mut psql(
        one.address,
        "create table pgbench_accounts(aid int primary key, abalance int); \
        insert into pgbench_accounts select n, 0 from generate_series(1, 100000) n; \
        create table pgbench_branches(bid int); insert into pgbench_branches values (1)",
    ));

    let front = net::free_address();
    let backends = [("one", one.address), ("two", two.address)];
    // Longer than a lease, so that who comes right after the death is still waiting when it has run out.
    let text = body("postgres", "user = \"postgres\"\n", front, &backends, "").replace(
        "name = \"db\"\n\n",
        "name = \"db\"\nwait = { timeout = \"60s\" }\n\n",
    );
    assert!(text.contains("60s"), "{text}");
    let ringway = Ringway::start(text);
    ringway.wait_state("two", "wrong-role", seconds(20));

    let gap = during(front, &two, "Patroni, primary killed", || one.kill());
    assert!(gap <= seconds(LEASE + 20), "{gap:?}");
    ringway.wait_state("two", "up", seconds(10));

    // The old one comes back and is told to follow.
    one.start();
    within(seconds(90), "one follows", || {
        one.is("replica").then_some(())
    });
    ringway.wait_state("one", "wrong-role", seconds(20));
    assert!(
        !ringway
            .stderr()
            .contains("all say that they are the primary"),
        "two primaries"
    );

    switch_over(&ringway, front, &two, &one);
}

/// In order: the operator asks Patroni to change them. Until a check has heard it, a primary that is shutting down tells
/// its new clients so itself; from then on they wait.
fn switch_over(ringway: &Ringway, front: SocketAddr, old: &Node, new: &Node) {
    let crowd = Crowd::start(front, postgres);
    std::thread::sleep(seconds(1));
    let control = program("patronictl", "patroni");
    let mut command = as_user(owner(), "/usr/bin/python3".as_ref(), new.folder.path());
    command.arg(control).arg("-c").arg(new.config());
    command.args([
        "switchover",
        SCOPE,
        "--force",
        "--master",
        old.name,
        "--candidate",
        new.name,
    ]);
    let ordered = Instant::now();
    let mut order = spawn(&mut command);
    until(seconds(60), "a check hears that it is over", || {
        let labels = [("backend", old.name), ("state", "up")];
        ringway.metrics().sum("ringway_backend_state", &labels) == 0.0
    });
    let heard = Instant::now();
    until(seconds(60), "the other one leads", || new.is("primary"));
    ringway.wait_state(new.name, "up", seconds(10));
    std::thread::sleep(seconds(1));
    let attempts = crowd.stop();
    let failed = |attempt: &&Attempt| attempt.failure.is_some();
    let (early, late): (Vec<_>, Vec<_>) = attempts
        .iter()
        .filter(failed)
        .partition(|attempt| attempt.begun < heard);
    let waited = attempts.iter().map(|attempt| attempt.ended - attempt.begun);
    println!(
        "Patroni, switchover: {} connects, heard {:?} after the order, {} told by the old primary before that, 0 of the \
         later ones failed, the longest wait was {:?}",
        attempts.len(),
        heard - ordered,
        early.len(),
        waited.max().unwrap_or_default()
    );
    assert!(late.is_empty(), "{:?}", late[0].failure);
    let _ = process::wait_exit(&mut order, seconds(30));
    ringway.wait_state(old.name, "wrong-role", seconds(30));
}
