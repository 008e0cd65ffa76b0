//! A systemd of the test's own, booted by systemd-nspawn with a fresh /etc and /var and this machine's /usr. It shares the
//! network, so that the test's clients and backends reach what runs in it by loopback addresses.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::support::process;
use crate::support::ringway::PROGRAM;
use crate::support::servers::{program, spawn};
use crate::support::wait::{seconds, within};

pub struct Container {
    child: Child,
    /// The systemd inside.
    init: u32,
    folder: tempfile::TempDir,
}

const TARGET: &str = "[Unit]\nRequires=ringway.service\nAfter=ringway.service\n";
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nringway:x:987:987::/:/usr/sbin/nologin\n\
                      nobody:x:65534:65534::/:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nringway:x:987:\nnogroup:x:65534:\n";

impl Container {
    /// Boots it with this unit as ringway.service, and this configuration in /etc/ringway.
    pub fn boot(unit: &str, configuration: &str) -> Container {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| fs::write(at(name), text).unwrap();
        for inner in ["units", "etc"] {
            fs::create_dir(at(inner)).unwrap();
        }
        write("units/ringway.service", unit);
        write("units/test.target", TARGET);
        write("etc/config.toml", configuration);
        write("passwd", PASSWD);
        write("group", GROUP);
        let bind = |from: &Path, to: &str| format!("--bind-ro={}:{to}", from.display());
        let log = fs::File::create(at("log")).unwrap();
        let mut command = Command::new(program("systemd-nspawn", "systemd-container"));
        command
            .args(["-D", "/", "--volatile=yes", "--register=no", "--keep-unit"])
            .args(["--console=pipe", "--quiet"])
            .arg(format!("--machine=ringway-{}", std::process::id()))
            .arg(bind(Path::new(PROGRAM), "/ringway"))
            .arg(bind(&at("units"), "/run/systemd/system"))
            .arg(bind(&at("etc"), "/etc/ringway"))
            .arg(bind(&at("passwd"), "/etc/passwd"))
            .arg(bind(&at("group"), "/etc/group"))
            .args(["--boot", "systemd.unit=test.target"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = spawn(&mut command);
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let init = within(seconds(20), "the container boots", || {
            // Before it there is a helper that goes away.
            let text = fs::read_to_string(&children).ok()?;
            let mut children = text.split_whitespace();
            let init = children.find(|child| {
                let name = fs::read_to_string(format!("/proc/{child}/comm"));
                name.is_ok_and(|name| name.trim_end() == "systemd")
            });
            init?.parse().ok()
        });
        Container {
            child,
            init,
            folder,
        }
    }

    fn inside(&self, words: &[&str]) -> Output {
        Command::new(program("nsenter", "util-linux"))
            .args(["-t", &self.init.to_string(), "-m", "-p", "--"])
            .args(words)
            .output()
            .expect("nsenter")
    }

    #[track_caller]
    pub fn systemctl(&self, words: &[&str]) {
        let mut all = vec!["systemctl"];
        all.extend(words);
        let done = self.inside(&all);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{words:?}: {said} {}", self.log());
    }

    /// A property of the service, as systemd shows it.
    pub fn show(&self, property: &str) -> String {
        let option = format!("--property={property}");
        let done = self.inside(&["systemctl", "show", "--value", &option, "ringway"]);
        String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
    }

    /// Where a path of its own is seen from outside.
    pub fn path(&self, inner: &str) -> String {
        format!("/proc/{}/root{inner}", self.init)
    }

    /// What was said on its console.
    pub fn log(&self) -> String {
        let text = fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = self.inside(&["systemctl", "--no-pager", "-l", "status", "ringway"]);
            eprintln!("{}", String::from_utf8_lossy(&status.stdout));
            let journal = self.inside(&["journalctl", "--no-pager", "-n", "40"]);
            eprintln!("{}", String::from_utf8_lossy(&journal.stdout));
            eprintln!("{}", self.log());
        }
        // Once asks the systemd inside to shut down, twice ends it.
        process::signal(self.child.id(), "TERM");
        process::signal(self.child.id(), "TERM");
        if process::wait_exit(&mut self.child, seconds(10)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
