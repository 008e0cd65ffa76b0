//! A systemd of the test's own, booted by systemd-nspawn with a fresh /etc and /var and this machine's /usr. It shares the
//! network, so that the test's clients and backends reach what runs in it by loopback addresses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::support::process;
use crate::support::ringway::PROGRAM;
use crate::support::servers::{program, spawn};
use crate::support::wait::{seconds, until, within};

pub struct Container {
    child: Child,
    /// The systemd inside.
    init: u32,
    folder: tempfile::TempDir,
}

const TARGET: &str = "[Unit]\nRequires=ringway.service\nAfter=ringway.service\n";
const BARE_TARGET: &str = "[Unit]\nRequires=basic.target\nAfter=basic.target\n";
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nringway:x:987:987::/:/usr/sbin/nologin\n\
                      nobody:x:65534:65534::/:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nringway:x:987:\nnogroup:x:65534:\n";

/// A folder for what the container is made of.
struct Parts(tempfile::TempDir);

impl Parts {
    fn new(target: &str) -> Parts {
        let parts = Parts(tempfile::tempdir().unwrap());
        fs::create_dir(parts.at("units")).unwrap();
        parts.write("units/test.target", target);
        parts
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }
}

impl Container {
    /// Boots it with this unit as ringway.service, and this configuration in /etc/ringway.
    pub fn boot(unit: &str, configuration: &str) -> Container {
        Container::boot_parts(Parts::new(TARGET), unit, configuration)
    }

    /// The same with this unit as ringway.socket, which is started first.
    pub fn boot_with_sockets(socket: &str, unit: &str, configuration: &str) -> Container {
        let parts =
            Parts::new(&TARGET.replace("ringway.service", "ringway.socket ringway.service"));
        parts.write("units/ringway.socket", socket);
        Container::boot_parts(parts, unit, configuration)
    }

    fn boot_parts(parts: Parts, unit: &str, configuration: &str) -> Container {
        fs::create_dir(parts.at("etc")).unwrap();
        parts.write("units/ringway.service", unit);
        parts.write("etc/config.toml", configuration);
        parts.write("passwd", PASSWD);
        parts.write("group", GROUP);
        let shown = [
            (PathBuf::from(PROGRAM), "/ringway"),
            (parts.at("etc"), "/etc/ringway"),
            (parts.at("passwd"), "/etc/passwd"),
            (parts.at("group"), "/etc/group"),
        ];
        Container::launch(parts, &shown)
    }

    /// Boots it without ringway, ready for dpkg: /usr can be written, and what is installed here counts as installed there.
    /// `shown` is what it sees of this machine's files besides, and where.
    pub fn boot_bare(shown: &[(PathBuf, &str)]) -> Container {
        let parts = Parts::new(BARE_TARGET);
        let own = [
            (PathBuf::from("/var/lib/dpkg"), "/run/dpkg"),
            (PathBuf::from("/etc/manpath.config"), "/etc/manpath.config"),
        ];
        let container = Container::launch(parts, &[shown, &own].concat());
        let script = "mkdir -p /run/upper /run/work /var/lib \
                      && mount -t overlay overlay -o lowerdir=/usr,upperdir=/run/upper,workdir=/run/work /usr \
                      && cp -r /run/dpkg /var/lib/ && rm -f /var/lib/dpkg/statoverride /var/lib/dpkg/lock*";
        container.fine(&["sh", "-c", script]);
        container
    }

    fn launch(parts: Parts, shown: &[(PathBuf, &str)]) -> Container {
        let bind = |from: &Path, to: &str| format!("--bind-ro={}:{to}", from.display());
        let log = fs::File::create(parts.at("log")).unwrap();
        let mut command = Command::new(program("systemd-nspawn", "systemd-container"));
        command
            .args(["-D", "/", "--volatile=yes", "--register=no", "--keep-unit"])
            .args(["--console=pipe", "--quiet"])
            .arg(format!("--machine=ringway-{}", std::process::id()))
            .arg(bind(&parts.at("units"), "/run/systemd/system"))
            .args(shown.iter().map(|(from, to)| bind(from, to)))
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
        let container = Container {
            child,
            init,
            folder: parts.0,
        };
        until(seconds(20), "its systemd answers", || {
            let asked = container.inside(&["systemctl", "is-active", "test.target"]);
            asked.stdout.starts_with(b"active") || asked.stdout.starts_with(b"activating")
        });
        container
    }

    pub fn inside(&self, words: &[&str]) -> Output {
        Command::new(program("nsenter", "util-linux"))
            .args(["-t", &self.init.to_string(), "-m", "-p", "--"])
            .args(words)
            .output()
            .expect("nsenter")
    }

    /// Runs what must succeed in there, and gives back what it printed.
    #[track_caller]
    pub fn fine(&self, words: &[&str]) -> String {
        let done = self.inside(words);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{words:?}: {said} {}", self.log());
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    #[track_caller]
    pub fn systemctl(&self, words: &[&str]) {
        self.fine(&[&["systemctl"], words].concat());
    }

    /// A property of the service, as systemd shows it.
    pub fn show(&self, property: &str) -> String {
        let option = format!("--property={property}");
        let done = self.inside(&["systemctl", "show", "--value", &option, "ringway"]);
        String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
    }

    /// Another text for the configuration in /etc/ringway.
    pub fn configure(&self, text: &str) {
        fs::write(self.folder.path().join("etc/config.toml"), text).unwrap();
    }

    /// A process of this name in there, by the number it has out here.
    #[track_caller]
    pub fn process(&self, name: &str) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.init);
        let children = fs::read_to_string(children).unwrap();
        let mut children = children.split_whitespace();
        let found = children.find(|child| {
            let own = fs::read_to_string(format!("/proc/{child}/comm"));
            own.is_ok_and(|own| own.trim_end() == name)
        });
        found.expect("a process of this name").parse().unwrap()
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
