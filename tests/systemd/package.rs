//! The Debian package, built as `make deb` builds it, and installed under a systemd of the test's own as somebody new to it
//! would: read the manual, configure, start, look, drain, restart, remove.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::container::Container;
use super::support::backends::{Backend, read_line};
use super::support::ringway::{PROGRAM, listener, pool};
use super::support::servers::{is_root, program};
use super::support::wait::{seconds, until, within};
use super::support::{alone, net};

/// Of the program that these tests drive, not of a release.
fn build(into: &Path) -> PathBuf {
    let done = Command::new(program("make", "make"))
        .arg("package")
        .arg(format!("DEB_PROGRAM={PROGRAM}"))
        .args(["DEB_PROFILE=dev", "DEB_OPTIONS=--fast"])
        .arg(format!("DEB_INTO={}/", into.display()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // Those that make and cargo have set for this test are not meant for another.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .expect("make");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "make tools, then: {said}");
    let files = fs::read_dir(into).unwrap().flatten();
    let mut packages = files.filter(|file| file.path().extension().is_some_and(|it| it == "deb"));
    let package = packages.next().expect("a package");
    package.path()
}

fn configuration(address: SocketAddr, servers: &[(&str, SocketAddr)]) -> String {
    format!(
        "[global]\nworkers = 1\npin = \"off\"\naccess_log = \"stderr\"\n[admin]\nbind = \"{}\"\n\n{}{}",
        net::free_address(),
        listener("front", address, "pg"),
        pool("pg", "algorithm = \"round-robin\"", servers)
    )
}

/// The journal's entries of finished sessions.
fn session_entries(container: &Container) -> Vec<Value> {
    let words = [
        "journalctl",
        "-u",
        "ringway",
        "-o",
        "json",
        "RINGWAY_LISTENER=front",
    ];
    let text = container.fine(&words);
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_debian_package_installs_a_service_that_serves_and_leaves_nothing_behind() {
    assert!(is_root(), "a container needs root: run the tests as root");
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let package = build(folder.path());
    let inner = format!("/run/new/{}", package.file_name().unwrap().display());
    let shown = [(folder.path().to_owned(), "/run/new")];
    let container = Container::boot_bare(&shown);
    let is_there = |path: &str| container.inside(&["test", "-e", path]).status.success();
    let show = |property: &str| container.show(property);

    container.fine(&["dpkg", "--install", &inner]);
    assert_eq!(show("ActiveState"), "inactive", "nothing is started");
    assert_eq!(show("UnitFileState"), "disabled");
    let account = container.fine(&["getent", "passwd", "ringway"]);
    assert!(account.ends_with(":/:/usr/sbin/nologin\n"), "{account}");
    assert_eq!(container.fine(&["dpkg", "--verify", "ringway"]), "");
    let conffiles = container.fine(&["dpkg-query", "-W", "-f=${Conffiles}", "ringway"]);
    assert!(
        conffiles.contains(" /etc/ringway/config.toml ") && conffiles.trim().lines().count() == 1,
        "{conffiles}"
    );
    read_what_comes_with_it(&container);

    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let address = net::free_address();
    let servers = [("a", a.address), ("b", b.address)];
    let text = configuration(address, &servers);
    let put = folder.path().join("config.toml");
    fs::write(put, text).unwrap();
    container.fine(&["cp", "/run/new/config.toml", "/etc/ringway/config.toml"]);
    let checked = container.fine(&["ringway", "check", "-c", "/etc/ringway/config.toml"]);
    let store = "the service manager's descriptor store: 1 needed, 4096 available";
    assert!(checked.contains(store), "{checked}");
    container.systemctl(&["enable", "--now", "ringway"]);
    assert_eq!(show("StatusText"), "serving on 1 listener");
    let visit = || read_line(net::connect(address)).expect("served");
    let names: Vec<String> = (0..100).map(|_| visit()).collect();
    assert_eq!(names.iter().filter(|name| *name == "a").count(), 50);
    every_session_is_a_journal_entry(&container);

    // The commands find the installed service by themselves; what the operator said stays over a restart.
    let status = container.fine(&["ringway", "status"]);
    assert!(status.contains("pool pg: round-robin"), "{status}");
    let drained = container.fine(&["ringway", "drain", "pg/a"]);
    assert!(!drained.contains("not kept over a restart"), "{drained}");
    container.fine(&["ringway", "weight", "pg/b", "7"]);
    for verb in ["restart", "kill"] {
        let (pid, words) = (show("MainPID"), [verb, "--signal=KILL", "ringway"]);
        match verb {
            "kill" => container.systemctl(&words),
            _ => container.systemctl(&[verb, "ringway"]),
        }
        until(seconds(20), "another process serves", || {
            show("MainPID") != pid && show("ActiveState") == "active"
        });
        let text = container.fine(&["ringway", "status", "--json"]);
        let status: Value = serde_json::from_str(&text).unwrap();
        let backends = &status["pools"][0]["backends"];
        assert_eq!(backends[0]["admin"], "draining", "after {verb}");
        assert_eq!(backends[1]["weight"], 7, "after {verb}");
        assert!((0..6).all(|_| visit() == "b"), "after {verb}");
    }

    container.fine(&["dpkg", "--remove", "ringway"]);
    assert!(net::try_connect(address).is_err(), "removed, it is stopped");
    assert!(is_there("/etc/ringway/config.toml"), "a conffile stays");
    assert!(is_there("/var/lib/ringway/operator.json"));
    container.fine(&["dpkg", "--purge", "ringway"]);
    let find = "find /etc /var /usr -xdev -name '*ringway*' -not -path '/var/lib/dpkg/*'";
    let left = container.fine(&["sh", "-c", find]);
    assert_eq!(left, "", "what a purge leaves behind");
}

fn read_what_comes_with_it(container: &Container) {
    let page = container.fine(&["sh", "-c", "MANPAGER=cat man --warnings ringway"]);
    // Without the spaces that fill its lines.
    let page: Vec<&str> = page.split_whitespace().collect();
    let page = page.join(" ");
    for part in [
        "ringway drain [--json]",
        "EXIT STATUS",
        "SIGHUP",
        "/etc/ringway/config.toml",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    for (shell, file) in [
        ("bash", "/usr/share/bash-completion/completions/ringway"),
        ("zsh", "/usr/share/zsh/vendor-completions/_ringway"),
        ("fish", "/usr/share/fish/vendor_completions.d/ringway.fish"),
    ] {
        let printed = container.fine(&["ringway", "completions", shell]);
        assert_eq!(container.fine(&["cat", file]), printed, "{shell}");
    }
    let script = "source /usr/share/bash-completion/completions/ringway; COMP_WORDS=(ringway dr); COMP_CWORD=1; \
                  _ringway ringway dr ringway; echo ${COMPREPLY[@]}";
    assert_eq!(container.fine(&["bash", "-c", script]), "drain\n");
    container.fine(&["ringway", "check", "-c", "/etc/ringway/config.toml"]);
}

fn every_session_is_a_journal_entry(container: &Container) {
    let entries = within(seconds(10), "a hundred entries", || {
        let entries = session_entries(container);
        (entries.len() >= 100).then_some(entries)
    });
    assert_eq!(entries.len(), 100);
    let keys = "TIME ID LISTENER CLIENT POOL BACKEND ATTEMPTS WAIT_MS CONNECT_MS DURATION_MS BYTES_IN BYTES_OUT END RTT_US \
                RETRANS";
    for key in keys.split_whitespace() {
        let field = format!("RINGWAY_{key}");
        assert!(
            entries.iter().all(|entry| entry[&field].is_string()),
            "{field}"
        );
    }
    let entry = &entries[0];
    assert_eq!(entry["SYSLOG_IDENTIFIER"], "ringway");
    assert_eq!(entry["PRIORITY"], "6");
    let line = entry["MESSAGE"].as_str().unwrap();
    let id = entry["RINGWAY_ID"].as_str().unwrap();
    assert!(
        line.contains(&format!(" id={id} ")) && line.contains(" pool=pg "),
        "{line}"
    );
    let of_a = entries
        .iter()
        .filter(|entry| entry["RINGWAY_BACKEND"] == "a");
    assert_eq!(of_a.count(), 50);
}
