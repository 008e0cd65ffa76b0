//! A network of the test's own: the test runs itself again inside a new network namespace, which goes when it ends. Needs
//! `unshare` (util-linux) and `ip` (iproute2).

use std::process::{Child, Command, Stdio};

const INSIDE: &str = "RINGWAY_TEST_INSIDE";

fn unshare() -> Command {
    let status = std::fs::read_to_string("/proc/self/status").expect("status of this process");
    let uid = status.lines().find(|line| line.starts_with("Uid:"));
    let root = uid.and_then(|line| line.split_whitespace().nth(1)) == Some("0");
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !root {
        command.arg("--map-root-user");
    }
    command
}

/// This test program, to run one of its tests in a new namespace.
fn again(test: &str) -> Command {
    let program = std::env::current_exe().expect("this program");
    let mut command = unshare();
    command
        .arg(program)
        .args(["--exact", test, "--nocapture", "--include-ignored"]);
    command.env(INSIDE, test).envs(super::turns::environment());
    command
}

/// Whether the caller runs inside a namespace of its own now, with its loopback up. If not, the test `test` is run there,
/// and must pass.
#[track_caller]
pub fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some_and(|name| name == *test) {
        ip("link set lo up");
        return true;
    }
    let status = again(test).stdin(Stdio::null()).status();
    let status = status.expect("unshare (Debian: util-linux)");
    assert!(status.success(), "{test} in its own network: {status}");
    false
}

/// Runs the test `helper` in a namespace of its own, with pipes to talk to it.
pub fn helper(helper: &str) -> Child {
    again(helper)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare (Debian: util-linux)")
}

/// Whether the caller is a helper that another test started.
pub fn is_helper(helper: &str) -> bool {
    std::env::var_os(INSIDE).is_some_and(|name| name == *helper)
}

#[track_caller]
pub fn ip(words: &str) {
    let done = Command::new("ip").args(words.split_whitespace()).status();
    let done = done.expect("ip (Debian: iproute2)");
    assert!(done.success(), "ip {words}");
}

/// Many lines for `ip` at once.
#[track_caller]
pub fn ip_batch(lines: &str) {
    use std::io::Write;
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("ip (Debian: iproute2)");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(lines.as_bytes()).expect("lines for ip");
    drop(pipe);
    assert!(child.wait().expect("ip").success(), "ip -batch");
}
