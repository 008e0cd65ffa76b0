//! What keeps the program from starting: addresses in use, wrong configurations, a kernel that refuses io_uring, limits that
//! are too low. Each is one sentence with the right exit status, and nothing is left half started.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::support::net;
use super::support::ringway::{Ringway, Setup, run, single};
use super::support::servers::is_root;

/// A setup that must not start, with all that it would bind.
struct Refused {
    setup: Setup,
    address: SocketAddr,
    paths: [PathBuf; 2],
}

impl Refused {
    fn new() -> Refused {
        let address = net::free_address();
        let setup = Setup::new("");
        let paths = ["listen.sock", "admin.sock"].map(|name| setup.folder().join(name));
        let one = format!("bind = \"{address}\"");
        let both = format!("bind = [\"unix:{}\", \"{address}\"]", paths[0].display());
        let body = single(address, net::free_address()).replace(&one, &both);
        let socket = format!("socket = \"{}\"", paths[1].display());
        Refused {
            setup: setup.body(body).admin(socket),
            address,
            paths,
        }
    }

    /// Puts something else into its configuration.
    fn with(mut self, from: &str, to: &str) -> Refused {
        let text = self.setup.text();
        let body = text.split_once("[[listener]]").expect("a listener").1;
        assert!(body.contains(from), "{from} in {body}");
        self.setup = self
            .setup
            .body(format!("[[listener]]{}", body.replacen(from, to, 1)));
        self
    }

    /// It ends with this status, says exactly this besides what the log says, and leaves nothing behind. <file> is its
    /// configuration, and LINE(…) the number of the first line in there that contains this.
    #[track_caller]
    fn ends(&self, status: i32, complaint: &str) {
        let mut expected = complaint.replace("<file>", &self.setup.config().display().to_string());
        if let Some((ahead, rest)) = complaint.split_once("LINE(") {
            let (wanted, behind) = rest.split_once(')').expect("LINE(…)");
            let text = self.setup.text();
            let line = text.lines().position(|line| line.contains(wanted));
            let number = line.unwrap_or_else(|| panic!("{wanted} in {text}")) + 1;
            let ahead = ahead.replace("<file>", &self.setup.config().display().to_string());
            expected = format!("{ahead}{number}{behind}");
        }
        let output = self.setup.run_to_end();
        let text = String::from_utf8_lossy(&output.stderr);
        let said: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("ringway: "))
            .collect();
        assert_eq!(said, [expected], "{text}");
        assert_eq!(output.status.code(), Some(status), "{text}");
        assert!(!text.contains("ready: "), "{text}");
        for path in &self.paths {
            assert!(!path.exists(), "{} is left: {text}", path.display());
        }
    }

    fn nothing_is_bound(&self) {
        TcpListener::bind(self.address).expect("the address is free");
    }
}

#[test]
fn an_address_in_use_is_exit_status_3_and_named() {
    let refused = Refused::new();
    let taken = net::listen(refused.address);
    refused.ends(3, &format!(
            "listener \"main\" cannot bind {}: address in use: stop the process that has it (ss -ltnp shows which) or choose \
             another",
            refused.address
        ));
    drop(taken);
    refused.nothing_is_bound();

    // The admin's address, too.
    let body = single(net::free_address(), net::free_address());
    let running = Ringway::start(body);
    let second = running.setup().run_to_end();
    assert_eq!(second.status.code(), Some(3));
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains(&running.admin().to_string()), "{text}");
}

/// Each kind of fault: file, line, key, what was found, what is allowed.
#[test]
fn wrong_configurations_are_exit_status_2_and_say_where() {
    let cases = [
        (
            "pool = \"main\"",
            "pool = \"mian\"",
            "LINE(mian): listener.pool: found \"mian\", which is no pool; allowed: \"main\"",
        ),
        (
            "bind = [",
            "bcklog = 9\nbind = [",
            "LINE(bcklog): listener.bcklog: unknown key; did you mean \"backlog\"?",
        ),
        (
            "[pool.health]",
            "[pool.haelth]",
            "LINE(haelth): pool.haelth: unknown key; did you mean \"health\"?",
        ),
        (
            "name = \"only\"",
            "weight = 5000",
            "LINE(weight): pool.backend.weight: found 5000; allowed: a whole number from 0 to 1000",
        ),
        (
            "name = \"only\"",
            "weight = \"heavy\"",
            "LINE(weight): pool.backend.weight: found \"heavy\"; allowed: a whole number from 0 to 1000",
        ),
        (
            "bind = [",
            "bind = [\"nowhere\", ",
            "LINE(nowhere): listener.bind: found \"nowhere\"; allowed: IP:PORT, IP:FIRST-LAST or unix:/PATH (IPv6 in brackets, \
             a path of at most 107 bytes), like \"127.0.0.1:5433\", \"[::]:5433\", \"0.0.0.0:7000-7010\", \"unix:/run/x.sock\"",
        ),
        (
            "kind = \"none\"",
            "kind = \"guess\"",
            "LINE(guess): pool.health.kind: found \"guess\"; allowed: none | tcp | send-expect | http | postgres | mysql | \
             redis | dns | udp",
        ),
        (
            "kind = \"none\"",
            "interval = \"soon\"",
            "LINE(soon): pool.health.interval: found \"soon\"; allowed: a duration from \"10ms\" to \"1h\"",
        ),
        (
            "kind = \"none\"",
            "kind = \"redis\"\npassword_file = \"/no/such/file\"",
            "LINE(such): pool.health.password_file: found \"/no/such/file\"; allowed: a readable file with one line, the \
             password, of at most 1024 bytes (no such file or directory)",
        ),
        (
            "address =",
            "tier = 1 #",
            "LINE([[pool.backend]]): pool.backend.address: missing; allowed: HOST:PORT or unix:/PATH",
        ),
        (
            "[[pool.backend]]",
            "[[pool.backend]]\nname = \"twin\"\naddress = \"127.0.0.1:1\"\n[[pool.backend]]\nname = \"twin\" # again\n\
             address = \"127.0.0.1:2\"\n[[pool.backend]]",
            "LINE(# again): pool.backend.name: found \"twin\", which is the name at line 22 already; allowed: a name once in \
             its pool",
        ),
        (
            "[[pool.backend]]",
            "[[pool.backend]",
            "LINE([[pool.backend]): not valid TOML: unclosed array table, expected `]`",
        ),
    ];
    for (from, to, complaint) in cases {
        let refused = Refused::new().with(from, to);
        refused.ends(2, &format!("<file>:{complaint}"));
        refused.nothing_is_bound();
    }
    let output = run(&["run", "-c", "no-such-file.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-file.toml"));
    assert_eq!(run(&["no-such-command"]).status.code(), Some(2));
}

/// As in a container whose seccomp profile knows no io_uring, and as on a kernel that has none.
#[test]
fn without_io_uring_the_exit_status_is_3_and_the_remedy_is_named() {
    for (errno, remedy) in [
        (
            libc::EPERM,
            "io_uring: setting up a ring failed (Operation not permitted (os error 1)); io_uring is forbidden here: set \
             sysctl kernel.io_uring_disabled=0, or let the container's seccomp profile allow io_uring_setup, io_uring_enter \
             and io_uring_register",
        ),
        (
            libc::ENOSYS,
            "io_uring: setting up a ring failed (Function not implemented (os error 38)); this kernel has no io_uring: Linux \
             6.1 or later is needed, with CONFIG_IO_URING",
        ),
    ] {
        let refused = Refused::new();
        thread::scope(|scope| {
            // The filter is this thread's, and of the program that it starts.
            let under_filter = scope.spawn(|| {
                refuse_io_uring(errno);
                refused.ends(3, remedy);
            });
            under_filter.join().expect("as expected");
        });
        refused.nothing_is_bound();
    }
}

fn refuse_io_uring(errno: i32) {
    let errno = u32::try_from(errno).expect("a number of an error");
    let filter = SeccompFilter::new(
        [(libc::SYS_io_uring_setup, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        std::env::consts::ARCH.try_into().expect("a known machine"),
    );
    let program: BpfProgram = filter.expect("a filter").try_into().expect("a program");
    seccompiler::apply_filter(&program).expect("the filter");
}

/// Without the powers with which root may have more than its limits say.
fn limited(limits: &str) -> Refused {
    let mut refused = Refused::new();
    let mut words = vec!["prlimit", limits];
    if is_root() {
        words.extend(["setpriv", "--bounding-set", "-ipc_lock,-sys_resource"]);
    }
    refused.setup = refused.setup.through(&words);
    refused
}

#[test]
fn limits_that_are_too_low_are_exit_status_3_with_the_remedy() {
    let descriptors = limited("--nofile=64");
    descriptors.ends(
        3,
        "descriptors: 773 needed, 64 available: raise LimitNOFILE= in the unit (ulimit -n in a shell)",
    );
    descriptors.nothing_is_bound();
    let memory = limited("--memlock=65536");
    memory.ends(
        3,
        "locked memory: 1344 KiB needed, 64 KiB available: raise LimitMEMLOCK= in the unit (ulimit -l in a shell)",
    );
    memory.nothing_is_bound();
}
