//! Databases that a test starts, kills, promotes and starts again: PostgreSQL clusters with a streaming replica, and
//! MariaDB servers. Each is in a folder of its own and is ended by the pids of its own processes.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::servers::{
    account, as_user, is_root, make_database, mariadb_install, program, psql, spawn, text_of,
};
use super::wait::{seconds, until};
use super::{net, process};

/// A PostgreSQL cluster; superuser `postgres` without password.
pub struct Cluster {
    pub address: SocketAddr,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

fn owner() -> Option<(u32, u32)> {
    is_root().then(|| account("postgres"))
}

/// A folder that another user can pass through, and one inside it that is that user's.
fn folder_of(owner: Option<(u32, u32)>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder for a database");
    let inner = folder.path().join("data");
    fs::create_dir(&inner).expect("a folder inside");
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).expect("for its owner only");
    if let Some((user, group)) = owner {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))
            .expect("let another user pass");
        chown(&inner, Some(user), Some(group)).expect("give the folder away");
    }
    folder
}

impl Cluster {
    /// Made and not started.
    pub fn init() -> Cluster {
        let folder = folder_of(owner());
        let cluster = Cluster {
            address: net::free_address(),
            folder,
            child: None,
        };
        let mut initdb = cluster.command("initdb");
        initdb.args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8"]);
        text_of(initdb.arg("-D").arg(cluster.data()));
        cluster
    }

    /// A streaming replica of a running one, made and not started.
    pub fn replica_of(primary: &Cluster) -> Cluster {
        let folder = folder_of(owner());
        let cluster = Cluster {
            address: net::free_address(),
            folder,
            child: None,
        };
        let mut backup = cluster.command("pg_basebackup");
        backup.args(["-R", "-X", "stream", "-c", "fast", "--no-sync"]);
        backup.args(["-U", "postgres", "-h", &primary.address.ip().to_string()]);
        backup.args(["-p", &primary.address.port().to_string()]);
        text_of(backup.arg("-D").arg(cluster.data()));
        cluster
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, name: &str) -> Command {
        as_user(owner(), &program(name, "postgresql"), &self.data())
    }

    /// Replaces a file of the cluster, or makes it.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).expect("write a file of the cluster");
        if let Some((user, group)) = owner() {
            chown(path, Some(user), Some(group)).expect("give the file away");
        }
    }

    /// Starts it with settings like `max_connections=5`; does not wait.
    pub fn spawn(&mut self, settings: &[&str]) {
        let mut command = self.command("postgres");
        let data = self.data();
        command.arg("-D").arg(&data).arg("-k").arg(&data);
        command.args(["-h", &self.address.ip().to_string()]);
        command.args(["-p", &self.address.port().to_string()]);
        let log = format!("log_directory={}", data.display());
        let always = [
            "fsync=off",
            "logging_collector=on",
            "log_filename=server.log",
        ];
        for setting in always
            .iter()
            .copied()
            .chain([log.as_str()])
            .chain(settings.iter().copied())
        {
            command.args(["-c", setting]);
        }
        self.child = Some(spawn(&mut command));
    }

    pub fn start(&mut self, settings: &[&str]) {
        self.spawn(settings);
        until(seconds(60), "PostgreSQL answers a query", || {
            psql(self.address, "select 1")
                .output()
                .is_ok_and(|output| output.status.success())
        });
    }

    pub fn promote(&self) {
        text_of(
            self.command("pg_ctl")
                .args(["promote", "-w", "-D"])
                .arg(self.data()),
        );
    }

    /// What the server wrote into its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.data().join("server.log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    /// Kills all its processes as a power cut would, and returns when the first of them is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let children = children_of(child.id());
            let _ = child.kill();
            let _ = child.wait();
            for pid in children {
                // Some follow their postmaster by themselves.
                let _ = Command::new("kill")
                    .args(["-KILL", &pid.to_string()])
                    .output();
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::end(&mut child, "INT");
        }
    }
}

/// Processes whose parent is `parent`.
fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc");
    let pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in brackets may hold anything; the parent is the second word behind it.
        let after = stat.rsplit(") ").next().unwrap_or_default();
        after.split(' ').nth(1) == Some(&parent.to_string())
    };
    pids.filter(is_child).collect()
}

/// A MariaDB server. User `app` may do everything without a password from anywhere.
pub struct Maria {
    pub address: SocketAddr,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Maria {
    /// Made and started with options like `--read-only=1`; `sql` is carried out at its first start.
    pub fn start(options: &[&str], sql: &str) -> Maria {
        let owner = is_root().then(|| account("mysql"));
        let mut maria = Maria {
            address: net::free_address(),
            folder: folder_of(owner),
            child: None,
        };
        let mut install = mariadb_install();
        install.args(["--no-defaults", "--auth-root-authentication-method=normal"]);
        install.args(["--skip-test-db", "--skip-name-resolve"]);
        if owner.is_some() {
            install.arg("--user=mysql");
        }
        make_database(install.arg(format!("--datadir={}", maria.data().display())));
        let first = maria.data().join("first.sql");
        // One statement a line.
        let app = "CREATE USER app@'%';\nGRANT ALL ON *.* TO app@'%';\n";
        fs::write(&first, format!("{app}{sql}\n")).expect("write the first statements");
        let init = format!("--init-file={}", first.display());
        let options: Vec<&str> = options.iter().copied().chain([init.as_str()]).collect();
        maria.start_again(&options);
        maria
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn start_again(&mut self, options: &[&str]) {
        let data = self.data();
        let mut command = Command::new(program("mariadbd", "mariadb-server"));
        command.arg("--no-defaults");
        if is_root() {
            command.arg("--user=mysql");
        }
        command.arg(format!("--datadir={}", data.display()));
        command.arg(format!("--socket={}", data.join("s").display()));
        command.arg(format!("--pid-file={}", data.join("pid").display()));
        command.arg(format!("--log-error={}", data.join("log.err").display()));
        command.arg(format!("--bind-address={}", self.address.ip()));
        command.arg(format!("--port={}", self.address.port()));
        command.args(["--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"]);
        // For who turns names on again: where nobody answers, it must not take long.
        command.env("RES_OPTIONS", "timeout:1 attempts:1");
        command.args(options);
        self.child = Some(spawn(&mut command));
        until(seconds(60), "MariaDB answers a query", || {
            let answer = self.client("select 1").output();
            answer.is_ok_and(|output| output.status.success())
        });
    }

    fn client(&self, sql: &str) -> Command {
        let mut command = maria_client(sql);
        command.arg("--socket").arg(self.data().join("s"));
        command.arg("--user=app");
        command
    }

    /// Carries a statement out, by the server's own socket.
    pub fn query(&self, sql: &str) -> String {
        text_of(&mut self.client(sql)).trim().to_owned()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.data().join("log.err")).unwrap_or_default()
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn maria_client(sql: &str) -> Command {
    let mut command = Command::new(program("mariadb", "mariadb-client"));
    command.args(["--no-defaults", "-N", "-B", "-e", sql]);
    command
}

impl Drop for Maria {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::end(&mut child, "TERM");
        }
    }
}

/// Whether a file of this name is among MariaDB's plugins.
pub fn has_maria_plugin(name: &str) -> bool {
    Path::new("/usr/lib/mysql/plugin").join(name).is_file()
}
