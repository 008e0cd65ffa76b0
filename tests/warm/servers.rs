//! Real PostgreSQL, MariaDB and Redis behind warm connections: none is shut out, blocked, or told the wrong thing.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::ringway::Setup;
use crate::support::servers::{Postgres, Redis, make_database, mariadb_install, program};
use crate::support::wait::{seconds, until};
use crate::support::{net, process};
use crate::{discards, handouts, text, wait_warm, warm_now};

/// A MariaDB of the test's own; root has no password.
struct MariaDb {
    address: SocketAddr,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        process::end(&mut self.child, "TERM");
    }
}

impl MariaDb {
    fn start(arguments: &[&str]) -> MariaDb {
        let directory = tempfile::tempdir().expect("a folder for MariaDB");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let data = directory.path().join("data");
        let server = program("mariadbd", "mariadb-server");
        let mut install = mariadb_install();
        install.args(["--no-defaults", "--auth-root-authentication-method=normal"]);
        install.arg("--user=mysql");
        install.arg(format!("--datadir={}", data.display()));
        make_database(install.arg("--innodb-use-native-aio=0"));
        let owner = fs::metadata(&data).unwrap();
        let _ = chown(
            directory.path(),
            Some(std::os::unix::fs::MetadataExt::uid(&owner)),
            None,
        );
        let address = net::free_address();
        let mut command = Command::new(server);
        command.args(["--no-defaults", "--user=mysql", "--skip-name-resolve=0"]);
        command.arg("--innodb-use-native-aio=0");
        command.arg(format!("--datadir={}", data.display()));
        command.arg(format!("--bind-address={}", address.ip()));
        command.arg(format!("--port={}", address.port()));
        command.arg(format!("--socket={}", data.join("socket").display()));
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start mariadbd");
        let server = MariaDb {
            address,
            child,
            _directory: directory,
        };
        until(seconds(60), "MariaDB answers a query", || {
            query(address, "select 1").is_ok()
        });
        // A host name for the address that the balancer comes from, or it is not counted.
        query(address, "create user lb@'%'; grant all on *.* to lb@'%'").expect("a user");
        server
    }
}

/// The answer of a real client that logs in and asks; or what it was told instead.
fn query(address: SocketAddr, sql: &str) -> Result<String, String> {
    query_as("root", address, sql)
}

fn query_as(user: &str, address: SocketAddr, sql: &str) -> Result<String, String> {
    let mut command = Command::new(program("mariadb", "mariadb-client"));
    command.args(["--no-defaults", "-N", "-B", "--skip-ssl"]);
    command.arg(format!("-u{user}"));
    command.args(["-h", &address.ip().to_string()]);
    command.args(["-P", &address.port().to_string(), "-e", sql]);
    let output = command.stdin(Stdio::null()).output().expect("run mariadb");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

const MYSQL: &str = "profile = \"mysql\"\nforce = true";

#[test]
fn a_greeting_of_mariadb_arrives_unchanged() {
    let server = MariaDb::start(&[]);
    let address = net::free_address();
    let warm = format!("size = 2\n{MYSQL}");
    let ringway = Setup::new(text(address, "", &warm, server.address, "")).start();
    // Twice as many as there are places: some by warm connections, some not.
    for n in 0..4 {
        wait_warm(&ringway, 2);
        let sql = format!("select {n} + 1");
        assert_eq!(query_as("lb", address, &sql), Ok((n + 1).to_string()));
    }
    assert!(handouts(&ringway, "hit") >= 3);
    // The bytes themselves: length, protocol 10, the version that the server tells of itself.
    wait_warm(&ringway, 2);
    let version = query(server.address, "select version()").unwrap();
    let mut client = net::connect(address);
    let mut greeting = [0; 512];
    let count = client.read(&mut greeting).unwrap();
    let told = String::from_utf8_lossy(&greeting[5..count]).into_owned();
    let length = u32::from_le_bytes([greeting[0], greeting[1], greeting[2], 0]) as usize;
    assert_eq!((length + 4, greeting[3], greeting[4]), (count, 0, 10));
    assert!(told.contains(&version), "{told:?} of {version}");
    assert_eq!(handouts(&ringway, "died"), 0);
}

/// Each one that nobody uses counts as an error of this host; the default of max_connect_errors is 100.
#[test]
fn mariadb_does_not_block_us_because_nobody_comes() {
    let server = MariaDb::start(&["--max-connect-errors=30", "--max-connections=20"]);
    let address = net::free_address();
    // Ages of the profile, but shorter: what takes minutes of a quiet night is to be seen in seconds.
    let warm = format!("size = 4\nmax_age = \"100ms\"\n{MYSQL}");
    let lines = "source = [\"127.0.0.2\"]";
    let ringway = Setup::new(text(address, lines, &warm, server.address, "")).start();
    until(seconds(60), "the prober rests", || {
        let unused = discards(&ringway, "expired") + discards(&ringway, "closed");
        unused >= 10 && warm_now(&ringway) == 0
    });
    let begin = Instant::now();
    while begin.elapsed() < seconds(2) {
        assert_eq!(warm_now(&ringway), 0, "it rests until somebody comes");
    }
    let unused = discards(&ringway, "expired") + discards(&ringway, "closed");
    assert!(unused <= 16, "{unused} were opened for nobody");
    // Night after night: each visit resets the server's count and wakes the prober.
    for night in 0..6 {
        let answer = query_as("lb", address, "select user()");
        assert_eq!(answer.as_deref(), Ok("lb@127.0.0.2"), "after night {night}");
        let before = discards(&ringway, "expired");
        until(seconds(60), "it rests again", || {
            discards(&ringway, "expired") >= before + 8 && warm_now(&ringway) == 0
        });
    }
    println!(
        "MariaDB with max_connect_errors = 30: {} warm connections died unused over 7 nights, nobody was blocked",
        discards(&ringway, "expired")
    );
}

/// With a limit smaller than what the prober allows itself the host is blocked: then it says so, and stops.
#[test]
fn a_mariadb_that_blocks_us_is_left_alone_and_told_of() {
    let server = MariaDb::start(&["--max-connect-errors=3"]);
    let address = net::free_address();
    let warm = format!("size = 4\nmax_age = \"100ms\"\n{MYSQL}");
    let lines = "source = [\"127.0.0.2\"]";
    let ringway = Setup::new(text(address, lines, &warm, server.address, "")).start();
    until(seconds(60), "the log says that it is blocked", || {
        ringway
            .stderr()
            .contains("greets warm connections with an error")
    });
    let refused = discards(&ringway, "spoke");
    assert!(refused >= 1);
    std::thread::sleep(seconds(1));
    assert!(discards(&ringway, "spoke") <= refused + 4);
    query(server.address, "flush hosts").unwrap();
    let answer = query_as("lb", address, "select 1");
    assert_eq!(answer.as_deref(), Ok("1"), "no error was handed out");
}

#[test]
fn postgres_with_few_places_is_not_shut_out() {
    let server = Postgres::start();
    let own = "max_connections = 12";
    let address = net::free_address();
    let warm = "size = 4\nmax_age = \"300ms\"\nprofile = \"postgres\"";
    let ringway = Setup::new(text(address, "", warm, server.address, own)).start();
    wait_warm(&ringway, 4);
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < seconds(4) {
        assert_eq!(Postgres::query(address, "select 40 + 2").trim(), "42");
        let direct = Postgres::query(server.address, "select count(*) from pg_stat_activity");
        let sessions: u32 = direct.trim().parse().unwrap();
        assert!(sessions < 30, "{sessions} processes of PostgreSQL");
        rounds += 1;
    }
    println!(
        "PostgreSQL: {rounds} clients, {} hits, {} grown old, {} closed by the server",
        handouts(&ringway, "hit"),
        discards(&ringway, "expired"),
        discards(&ringway, "closed")
    );
    assert!(discards(&ringway, "expired") >= 8, "some ages have passed");
    assert!(handouts(&ringway, "hit") > 0);
    assert_eq!(handouts(&ringway, "died"), 0);
    let report = Postgres::pgbench(address, &["-i", "-q"]);
    let report = report + &Postgres::pgbench(address, &["-C", "-c", "4", "-t", "20", "-S"]);
    assert!(
        report.contains("number of failed transactions: 0"),
        "{report}"
    );
}

#[test]
fn redis_answers_on_warm_connections() {
    let server = Redis::start();
    let address = net::free_address();
    let warm = "size = 4\nprofile = \"redis\"";
    let ringway = Setup::new(text(address, "", warm, server.address, "")).start();
    wait_warm(&ringway, 4);
    for n in 1..=20 {
        assert_eq!(
            Redis::cli(address, &["INCR", "visits"]).trim(),
            n.to_string()
        );
    }
    assert!(handouts(&ringway, "hit") > 0);
    assert_eq!(
        handouts(&ringway, "died") + handouts(&ringway, "replayed"),
        0
    );
    // A timeout of the server's own ends idle ones; nobody notices.
    Redis::cli(server.address, &["CONFIG", "SET", "timeout", "1"]);
    until(seconds(30), "the server closes idle ones", || {
        discards(&ringway, "closed") >= 2
    });
    assert_eq!(Redis::cli(address, &["INCR", "visits"]).trim(), "21");
    std::thread::sleep(Duration::from_millis(5));
}
