//! Real servers from Debian's packages, each on an address of its own, waited for until it answers, ended by pid. A
//! missing one fails the test and names the package: a test that skips itself proves nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::wait::{seconds, until, within};
use super::{net, process};

/// The full path of a program, or a failure that names the package.
pub fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/bin", "/usr/sbin"].map(PathBuf::from));
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|entry| entry.path().join("bin")));
    }
    let found = folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: apt-get install {package}"))
}

/// A child process that is ended with its owner.
pub struct Server {
    child: Child,
    polite: &'static str,
    _directory: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        process::end(&mut self.child, self.polite);
    }
}

impl Server {
    /// Starts a program that is ended by the signal `polite`.
    pub fn start(command: &mut Command, polite: &'static str) -> Server {
        Server {
            child: spawn(command),
            polite,
            _directory: None,
        }
    }

    /// The same with a folder that goes after it.
    pub fn start_in(
        folder: tempfile::TempDir,
        command: &mut Command,
        polite: &'static str,
    ) -> Server {
        Server {
            child: spawn(command),
            polite,
            _directory: Some(folder),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
        .spawn()
        .unwrap_or_else(|error| panic!("start {command:?}: {error}"))
}

/// iperf3's server: one client test at a time.
pub struct Iperf {
    pub address: SocketAddr,
    _server: Server,
}

impl Iperf {
    pub fn start() -> Iperf {
        Iperf::start_with(&[])
    }

    /// A server that writes what it receives to a file.
    pub fn start_storing(file: &Path) -> Iperf {
        Iperf::start_with(&["-F", &file.to_string_lossy()])
    }

    fn start_with(arguments: &[&str]) -> Iperf {
        let address = net::free_address();
        let mut command = Command::new(program("iperf3", "iperf3"));
        command.args(arguments);
        command.args(["-s", "-B", &address.ip().to_string()]);
        command.args(["-p", &address.port().to_string()]);
        let server = Server {
            child: spawn(&mut command),
            polite: "TERM",
            _directory: None,
        };
        // A connection that says nothing would occupy it: look for the listening socket instead.
        let wanted = format!(":{:04X} 00000000:0000 0A", address.port());
        until(seconds(10), "iperf3 listens", || {
            fs::read_to_string("/proc/net/tcp").is_ok_and(|table| table.contains(&wanted))
        });
        Iperf {
            address,
            _server: server,
        }
    }

    /// Runs iperf3's client against `target` and returns its JSON report.
    pub fn client(target: SocketAddr, arguments: &[&str]) -> serde_json::Value {
        within(seconds(10), "iperf3's server is free", || {
            let mut command = Command::new(program("iperf3", "iperf3"));
            command.args(["-c", &target.ip().to_string()]);
            command.args(["-p", &target.port().to_string(), "-J"]);
            let output = command.args(arguments).output().expect("run iperf3");
            let text = String::from_utf8_lossy(&output.stdout);
            let report: serde_json::Value = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("iperf3's report: {error}: {text}"));
            let error = report["error"].as_str().unwrap_or("");
            if error.contains("busy") {
                // It still cleans up after the test before.
                return None;
            }
            let fine = output.status.success() && error.is_empty();
            assert!(fine, "iperf3 {arguments:?}: {error}");
            Some(report)
        })
    }
}

/// Redis without persistence.
pub struct Redis {
    pub address: SocketAddr,
    pub server: Server,
}

impl Redis {
    pub fn start() -> Redis {
        Redis::start_on(net::free_address())
    }

    pub fn start_on(address: SocketAddr) -> Redis {
        let directory = tempfile::tempdir().expect("a folder for Redis");
        let mut command = Command::new(program("redis-server", "redis-server"));
        command.args(["--bind", &address.ip().to_string()]);
        command.args(["--port", &address.port().to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--tcp-backlog", "4096"]);
        command.args(["--dir", &directory.path().to_string_lossy()]);
        let server = Server {
            child: spawn(&mut command),
            polite: "TERM",
            _directory: Some(directory),
        };
        until(seconds(10), "Redis answers PING", || pong(address));
        Redis { address, server }
    }

    /// One command through redis-cli.
    pub fn cli(target: SocketAddr, arguments: &[&str]) -> String {
        let mut command = Command::new(program("redis-cli", "redis-tools"));
        command.args(["-h", &target.ip().to_string()]);
        command.args(["-p", &target.port().to_string()]);
        text_of(command.args(arguments))
    }

    /// Runs redis-benchmark; returns what it printed.
    pub fn benchmark(target: SocketAddr, arguments: &[&str]) -> String {
        let mut command = Command::new(program("redis-benchmark", "redis-tools"));
        command.args(["-h", &target.ip().to_string()]);
        command.args(["-p", &target.port().to_string()]);
        text_of(command.args(arguments))
    }
}

/// Whether a Redis at `address` answers.
pub fn pong(address: SocketAddr) -> bool {
    let mut answer = [0; 7];
    net::try_connect(address)
        .and_then(|mut stream| {
            stream.write_all(b"PING\r\n")?;
            stream.read_exact(&mut answer)
        })
        .is_ok_and(|()| &answer == b"+PONG\r\n")
}

/// PostgreSQL with a fresh cluster; the superuser is `postgres` and needs no password on loopback.
pub struct Postgres {
    pub address: SocketAddr,
    _server: Server,
}

impl Postgres {
    pub fn start() -> Postgres {
        let directory = tempfile::tempdir().expect("a folder for PostgreSQL");
        let cluster = directory.path().join("cluster");
        fs::create_dir(&cluster).expect("a folder for the cluster");
        // PostgreSQL refuses to run as root; it then runs as the user of its package.
        let owner = is_root().then(|| account("postgres"));
        if let Some((user, group)) = owner {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))
                .expect("let another user pass");
            chown(&cluster, Some(user), Some(group)).expect("give the cluster away");
        }
        let mut initdb = as_user(owner, &program("initdb", "postgresql"), &cluster);
        initdb.args([
            "--no-sync",
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "-D",
        ]);
        text_of(initdb.arg(&cluster));

        let address = net::free_address();
        let mut command = as_user(owner, &program("postgres", "postgresql"), &cluster);
        command.arg("-D").arg(&cluster).arg("-k").arg(&cluster);
        command.args(["-h", &address.ip().to_string()]);
        command.args(["-p", &address.port().to_string()]);
        command.args(["-c", "fsync=off", "-c", "max_connections=100"]);
        let server = Server {
            child: spawn(&mut command),
            polite: "INT",
            _directory: Some(directory),
        };
        until(seconds(30), "PostgreSQL answers a query", || {
            psql(address, "select 1")
                .output()
                .is_ok_and(|output| output.status.success())
        });
        Postgres {
            address,
            _server: server,
        }
    }

    /// The answer to a query, columns and rows joined as psql does unaligned.
    pub fn query(target: SocketAddr, sql: &str) -> String {
        text_of(&mut psql(target, sql))
    }

    /// Runs pgbench on the database `postgres`; returns what it printed.
    pub fn pgbench(target: SocketAddr, arguments: &[&str]) -> String {
        let mut command = Command::new(program("pgbench", "postgresql-contrib"));
        command.args(["-h", &target.ip().to_string(), "-U", "postgres"]);
        command.args(["-p", &target.port().to_string()]);
        text_of(command.args(arguments).arg("postgres"))
    }
}

pub fn psql(target: SocketAddr, sql: &str) -> Command {
    let mut command = Command::new(program("psql", "postgresql-client"));
    command.args([
        "-X",
        "-A",
        "-t",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-U",
        "postgres",
    ]);
    command.args(["-h", &target.ip().to_string()]);
    command.args(["-p", &target.port().to_string()]);
    command.args(["-c", sql, "postgres"]);
    command
}

pub fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("status of this process");
    status
        .lines()
        .any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}

/// User and group number of an account.
pub fn account(name: &str) -> (u32, u32) {
    let accounts = fs::read_to_string("/etc/passwd").expect("the accounts of this machine");
    let line = accounts
        .lines()
        .find(|line| line.split(':').next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no account {name}: apt-get install postgresql"));
    let mut numbers = line
        .split(':')
        .skip(2)
        .map(|word| word.parse().expect("a number"));
    let user = numbers.next().expect("a user number");
    (user, numbers.next().expect("a group number"))
}

pub fn as_user(owner: Option<(u32, u32)>, program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("LC_ALL", "C.UTF-8");
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    command
}

/// Standard output of a command that must succeed.
pub fn text_of(command: &mut Command) -> String {
    let output: Output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// The program that makes MariaDB's folder of data, for [`make_database`].
pub fn mariadb_install() -> Command {
    Command::new(program("mariadb-install-db", "mariadb-server"))
}

/// One at a time: side by side they have been seen to fail.
pub fn make_database(install: &mut Command) {
    let _turn = super::one_at_a_time("installing MariaDB");
    text_of(install);
}
