//! A process of its own for tests that count descriptors, lower limits, or want a network that nobody else uses: the
//! test starts this test binary again with its own name.

use std::process::Command;

const MARK: &str = "RINGWAY_TEST_ALONE";

/// Runs `body` in a child process that runs only the test `name` (its path from the crate on).
pub(in crate::uring) fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        body();
        return;
    }
    run(&["--exact", name], &[(MARK, "1")]);
}

/// Runs the tests that `arguments` name in a child process; fails as it does.
pub(super) fn run(arguments: &[&str], variables: &[(&str, &str)]) {
    let binary = std::env::current_exe().unwrap();
    let answer = Command::new(binary)
        .args(arguments)
        .args(["--nocapture", "--test-threads=2"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&answer.stdout);
    let complaint = String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success(), "{told}\n{complaint}");
    assert!(!told.contains(" 0 passed"), "nothing was run: {told}");
}

/// Descriptors of this process that are open now.
pub(super) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Threads of io_uring's worker pool that this process has: none of our operations should need one.
pub(super) fn kernel_workers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("iou-wrk")).count()
}

/// Lowers RLIMIT_NOFILE so that `more` descriptors can still be opened, and returns what undoes it.
pub(super) fn leave_room_for(more: usize) -> impl FnOnce() {
    let before = limit();
    // Numbers are given lowest first, and the limit is on numbers.
    let lowest_free: Vec<i32> = (0..)
        .filter(|&number| !is_open(number))
        .take(more + 1)
        .collect();
    let lowered = libc::rlimit {
        rlim_cur: lowest_free[more] as libc::rlim_t,
        ..before
    };
    set(lowered);
    move || set(before)
}

/// Gives the rest of this process a network namespace with its loopback up, if that is allowed.
pub(in crate::uring) fn enter_own_network() -> bool {
    // SAFETY: takes flags only. This process runs one test; its other threads only wait.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        eprintln!("not allowed to make a network namespace here: nothing was tried");
        return false;
    }
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    // SAFETY: plain integers and arrays of them, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the kernel reads one ifreq from the local.
    unsafe { libc::ioctl(raw, libc::SIOCSIFFLAGS, &raw const request) == 0 }
}

fn is_open(number: i32) -> bool {
    // SAFETY: F_GETFD takes no argument and touches no memory.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

fn limit() -> libc::rlimit {
    let mut found = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one rlimit into the local.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut found) };
    assert_eq!(answer, 0);
    found
}

fn set(wanted: libc::rlimit) {
    // SAFETY: the kernel reads one rlimit from the local.
    let answer = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) };
    assert_eq!(answer, 0);
}
