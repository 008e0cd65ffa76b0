//! Checks of real PostgreSQL and MariaDB servers in every state that they must tell apart, and what the servers make of
//! being checked: no host shut out, no log flooded.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use support::clusters::{Cluster, Maria, has_maria_plugin};
use support::net;
use support::ringway::{Ringway, Setup, listener, pool_with};
use support::wait::{seconds, until};

/// A balancer that checks one backend often; `lines` say how.
fn checking(kind: &str, backend: SocketAddr, pool: &str, lines: &str) -> Ringway {
    let health = format!(
        "[pool.health]\nkind = \"{kind}\"\ninterval = \"50ms\"\nfast_interval = \"20ms\"\n{lines}\n"
    );
    let backends = [("db", backend.to_string(), "")];
    let body = listener("l", net::free_address(), "p") + &pool_with("p", pool, &health, &backends);
    Setup::new(body).start_unready()
}

/// The reason of the last check, once the backend has this health.
fn reason(ringway: &Ringway, health: &str) -> String {
    ringway.wait_state("db", health, seconds(30));
    let status = ringway.status();
    let check = &status["pools"][0]["backends"][0]["last_check"];
    check["reason"].as_str().unwrap_or_default().to_owned()
}

fn role(ringway: &Ringway) -> String {
    let status = ringway.status();
    let check = &status["pools"][0]["backends"][0]["last_check"];
    check["role"].as_str().unwrap_or_default().to_owned()
}

fn checks_made(ringway: &Ringway) -> f64 {
    ringway.metric("ringway_check_total")
}

fn after_checks(ringway: &Ringway, count: f64) {
    let before = checks_made(ringway);
    until(seconds(60), "checks were made", || {
        checks_made(ringway) >= before + count
    });
}

fn password_file(folder: &tempfile::TempDir, password: &str) -> PathBuf {
    let path = folder.path().join("password");
    std::fs::write(&path, format!("{password}\n")).expect("write the password");
    path
}

fn login(user: &str, file: &std::path::Path, role: &str) -> String {
    format!(
        "user = \"{user}\"\npassword_file = \"{}\"\nrole = \"{role}\"\n",
        file.display()
    )
}

/// A session of PostgreSQL's user `postgres`, held as long as the stream.
fn postgres_session(address: SocketAddr) -> TcpStream {
    let mut stream = net::connect(address);
    let start = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    stream.write_all(start).expect("ask to be let in");
    let mut said = Vec::new();
    let ready = b"Z\0\0\0\x05I";
    while !said.ends_with(ready) {
        let mut some = [0; 512];
        let count = stream.read(&mut some).expect("an answer");
        assert!(count > 0, "{}", String::from_utf8_lossy(&said));
        said.extend(&some[..count]);
    }
    stream
}

#[test]
fn postgres_tells_whether_it_accepts() {
    let mut cluster = Cluster::init();
    cluster.start(&[
        "max_connections=5",
        "superuser_reserved_connections=0",
        "max_wal_senders=0",
    ]);
    // A password is asked for, so that a stranger is not refused for who he is: that would be asked once a minute only.
    cluster.write(
        "pg_hba.conf",
        "local all all trust\nhost all postgres all trust\nhost all all all scram-sha-256\n",
    );
    support::servers::text_of(&mut support::servers::psql(
        cluster.address,
        "select pg_reload_conf()",
    ));
    let ringway = checking("postgres", cluster.address, "", "");
    assert!(reason(&ringway, "up").starts_with("check ok"));
    // Full: those who are in stay, and nothing is taken from them.
    let mut held: Vec<TcpStream> = Vec::new();
    until(seconds(30), "the server is full", || {
        if let Ok(stream) = std::panic::catch_unwind(|| postgres_session(cluster.address)) {
            held.push(stream);
        }
        held.len() >= 5
    });
    let said = reason(&ringway, "down");
    assert!(said.contains("53300"), "{said}");
    held.truncate(1);
    assert!(reason(&ringway, "up").starts_with("check ok"));
    // Shutting down while somebody is still there.
    support::process::signal(cluster.pid(), "TERM");
    let said = reason(&ringway, "down");
    assert!(
        said.contains("the database system is shutting down (57P03)"),
        "{said}"
    );
    drop(held);
}

#[test]
fn postgres_that_recovers_is_not_up() {
    let mut cluster = Cluster::init();
    // A standby that lets nobody in: recovery that never ends.
    cluster.write("standby.signal", "");
    cluster.spawn(&["hot_standby=off"]);
    let ringway = checking("postgres", cluster.address, "", "");
    until(seconds(30), "it says so", || {
        let said = reason(&ringway, "down");
        said.contains("57P03")
    });
    let wrong = checking(
        "postgres",
        cluster.address,
        "",
        "user = \"postgres\"\nrole = \"replica\"\n",
    );
    until(seconds(30), "it says so to who logs in", || {
        reason(&wrong, "down").contains("57P03")
    });
}

#[test]
fn postgres_lets_checks_in_by_scram_and_md5_and_keeps_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = password_file(&folder, "s3cret ü");
    let mut cluster = Cluster::init();
    cluster.start(&["log_connections=on"]);
    support::servers::text_of(&mut support::servers::psql(
        cluster.address,
        "set password_encryption = 'scram-sha-256'; create role strong login password 's3cret ü'; \
         set password_encryption = 'md5'; create role old login password 's3cret ü'",
    ));
    cluster.write(
        "pg_hba.conf",
        "local all all trust\nhost all strong all scram-sha-256\nhost all old all md5\nhost all postgres all trust\n",
    );
    support::servers::text_of(&mut support::servers::psql(
        cluster.address,
        "select pg_reload_conf()",
    ));
    for user in ["strong", "old"] {
        let ringway = checking(
            "postgres",
            cluster.address,
            "",
            &login(user, &file, "primary"),
        );
        assert_eq!(reason(&ringway, "up"), "check ok", "{user}");
        assert_eq!(role(&ringway), "primary");
        after_checks(&ringway, 100.0);
        let log = cluster.log();
        let logins = log.matches(&format!("user={user} ")).count();
        assert!(
            logins <= 2,
            "{user} logged in {logins} times, once or twice would do:\n{log}"
        );
    }
    // Wrong, and unknown: said in the server's words, and not tried again and again.
    let wrong = password_file(&folder, "guessed");
    for user in ["strong", "old", "nobody"] {
        let ringway = checking("postgres", cluster.address, "", &login(user, &wrong, "any"));
        let said = reason(&ringway, "down");
        assert!(
            said.contains("(28P01)") || said.contains("(28000)"),
            "{user}: {said}"
        );
        let before = cluster.log().matches("FATAL").count();
        after_checks(&ringway, 100.0);
        let after = cluster.log().matches("FATAL").count();
        assert!(
            after <= before + 1,
            "{} lines for 100 checks",
            after - before
        );
    }
}

const STRANGER: &str = "source = [\"127.0.0.2\"]";

/// MariaDB counts what a host does wrong only if it looks hosts up, and only for hosts but 127.0.0.1.
const COUNTS_HOSTS: [&str; 2] = ["--skip-name-resolve=0", "--max-connect-errors=5"];
/// A server that looks hosts up answers late where nobody can tell it a name.
const PATIENT: &str = "timeout = \"5s\"\n";

/// A connection from the address that was checked from, and what MariaDB said first: a greeting (10) or an error (255).
fn greeted(address: SocketAddr) -> (TcpStream, u8) {
    let mut stream = net::connect_with(Some([127, 0, 0, 2].into()), address, 0).expect("connect");
    let mut head = [0; 5];
    stream.read_exact(&mut head).expect("an answer");
    (stream, head[4])
}

#[track_caller]
fn assert_not_shut_out(maria: &Maria) {
    let (_stream, first) = greeted(maria.address);
    assert_eq!(first, 10, "we are shut out");
}

#[test]
fn mariadb_is_neither_flooded_nor_made_to_shut_us_out() {
    let maria = Maria::start(&COUNTS_HOSTS, "");
    for kind in ["tcp", "mysql"] {
        let ringway = checking(kind, maria.address, STRANGER, PATIENT);
        ringway.wait_state("db", "up", seconds(30));
        let before = maria.log().lines().count();
        after_checks(&ringway, 300.0);
        let lines = maria.log().lines().count() - before;
        assert!(
            lines <= 2,
            "{lines} lines for 300 checks by {kind}:\n{}",
            maria.log()
        );
        assert_not_shut_out(&maria);
        maria.query("flush hosts");
    }
    // A wrong password, an unknown user, and a plugin that needs a protected connection.
    let folder = tempfile::tempdir().expect("a folder");
    let file = password_file(&folder, "guessed");
    let mut users = vec![("app", "(1045)"), ("nobody", "(1045)")];
    if has_maria_plugin("auth_ed25519.so") {
        maria.query("install soname 'auth_ed25519'");
        maria.query("create user modern@'%' identified via ed25519 using password('guessed')");
        users.push(("modern", "needs TLS"));
    }
    for (user, expected) in users {
        let ringway = checking(
            "mysql",
            maria.address,
            STRANGER,
            &(PATIENT.to_owned() + &login(user, &file, "any")),
        );
        let said = reason(&ringway, "down");
        assert!(said.contains(expected), "{user}: {said}");
        let before = maria.log().lines().count();
        after_checks(&ringway, 100.0);
        let lines = maria.log().lines().count() - before;
        assert!(lines <= 2, "{lines} lines for 100 checks");
        assert_not_shut_out(&maria);
        maria.query("flush hosts");
    }
}

#[test]
fn mariadb_tells_its_role_in_a_session_that_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = password_file(&folder, "s3cret");
    let maria = Maria::start(
        &["--max-connections=12", "--max-connect-errors=5"],
        "CREATE USER probe@'%' IDENTIFIED BY 's3cret';",
    );
    let ringway = checking(
        "mysql",
        maria.address,
        STRANGER,
        &login("probe", &file, "primary"),
    );
    assert_eq!(reason(&ringway, "up"), "check ok");
    assert_eq!(role(&ringway), "primary");
    let before: u64 = connections(&maria);
    after_checks(&ringway, 100.0);
    assert!(
        connections(&maria) <= before + 5,
        "the session was not kept"
    );
    maria.query("set global read_only = 1");
    ringway.wait_state("db", "wrong-role", seconds(30));
    assert_eq!(role(&ringway), "replica");
    maria.query("set global read_only = 0");
    ringway.wait_state("db", "up", seconds(30));
}

/// Full, our host blocked, our host not wanted: down with the server's own words, and up again once it is over.
#[test]
fn mariadb_says_why_it_cannot_serve() {
    const BLOCKED: &str = "Host '127.0.0.2' is blocked because of many connection errors; unblock with 'mariadb-admin flush-hosts' (1129)";
    const UNWANTED: &str =
        "Host '127.0.0.2' is not allowed to connect to this MariaDB server (1130)";
    let options = [&COUNTS_HOSTS[..], &["--max-connections=10"]].concat();
    let maria = Maria::start(&options, "");
    let guarded = Maria::start(&["--skip-name-resolve"], "");
    let check = |maria: &Maria| checking("mysql", maria.address, STRANGER, PATIENT);

    let mut held = Vec::new();
    until(seconds(30), "the server is full", || {
        let mut stream = net::connect(maria.address);
        let mut head = [0; 5];
        stream.read_exact(&mut head).expect("an answer");
        held.push(stream);
        head[4] == 255
    });
    let full = check(&maria);
    assert_eq!(
        reason(&full, "down"),
        "check failed: Too many connections (1040)"
    );
    drop(held);
    // Nobody is left in peace who says this: it passes by itself.
    full.wait_state("db", "up", seconds(10));
    drop(full);

    // Somebody on our host leaves again and again without a word.
    until(seconds(30), "our host is blocked", || {
        greeted(maria.address).1 == 255
    });
    let blocked = check(&maria);
    assert_eq!(reason(&blocked, "down"), format!("check failed: {BLOCKED}"));
    // A server forgets a host that nobody may come from only when it reads its users again.
    guarded.query("rename user app@'%' to app@localhost; flush privileges");
    let unwanted = check(&guarded);
    assert_eq!(
        reason(&unwanted, "down"),
        format!("check failed: {UNWANTED}")
    );
    // The operator mends both. We had stopped asking, so that their logs are not flooded.
    maria.query("flush hosts");
    guarded.query("rename user app@localhost to app@'%'; flush privileges");
    for mended in [blocked, unwanted] {
        mended.wait_state("db", "up", seconds(60));
    }
    assert_not_shut_out(&maria);
}

/// Connections that the server ever counted.
fn connections(maria: &Maria) -> u64 {
    let said = maria.query("show global status like 'Connections'");
    let number = said
        .split_whitespace()
        .last()
        .and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("{said}"))
}
