//! The binary under test: started from a configuration text in a folder of its own, waited for, looked at, and ended
//! by its pid. A process that died or complained of a panic fails the test that dropped it.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use super::metrics::Metrics;
use super::wait::{seconds, until, within};
use super::{http, net, process};

/// The program that cargo built for these tests.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ringway");

const START_LIMIT: Duration = Duration::from_secs(20);

/// A configuration and an environment, not started yet.
pub struct Setup {
    global: String,
    admin_lines: String,
    body: String,
    environment: Vec<(String, String)>,
    through: Vec<String>,
    admin: SocketAddr,
    stdout: Option<File>,
    stderr: Option<File>,
    program: PathBuf,
    directory: tempfile::TempDir,
}

/// A running balancer.
pub struct Ringway {
    child: Child,
    setup: Setup,
    expect_end: bool,
}

/// How a command ended, and what it printed and said.
pub fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("admin.sock")
}

impl Setup {
    /// One worker, not pinned (other tests run beside it), and an admin address; `body` is the rest.
    pub fn new(body: impl Into<String>) -> Setup {
        net::raise_descriptor_limit();
        Setup {
            global: "workers = 1\npin = \"off\"\nshutdown_grace = \"5s\"\n".to_string(),
            admin_lines: String::new(),
            body: body.into(),
            environment: Vec::new(),
            through: Vec::new(),
            admin: net::free_address(),
            stdout: None,
            stderr: None,
            program: PathBuf::from(PROGRAM),
            directory: tempfile::tempdir().expect("a folder of our own"),
        }
    }

    /// Replaces the lines of `[global]`.
    pub fn global(mut self, lines: impl Into<String>) -> Setup {
        self.global = lines.into();
        self
    }

    /// Lines of `[admin]` besides its address.
    pub fn admin(mut self, lines: impl Into<String>) -> Setup {
        self.admin_lines = lines.into();
        self
    }

    /// With an admin socket as well, see [`Ringway::socket`].
    pub fn with_socket(self) -> Setup {
        let line = format!("socket = \"{}\"\n", socket_in(self.folder()).display());
        self.admin(line)
    }

    pub fn workers(self, workers: usize) -> Setup {
        self.global(format!(
            "workers = {workers}\npin = \"off\"\nshutdown_grace = \"5s\"\n"
        ))
    }

    pub fn body(mut self, body: impl Into<String>) -> Setup {
        self.body = body.into();
        self
    }

    /// Standard output goes there instead of into a file in its folder.
    pub fn stdout(mut self, file: File) -> Setup {
        self.stdout = Some(file);
        self
    }

    /// The same for standard error; what was said is not to be seen then.
    pub fn stderr(mut self, file: File) -> Setup {
        self.stderr = Some(file);
        self
    }

    /// Another program than the one under test, or that one by another path.
    pub fn program(mut self, program: PathBuf) -> Setup {
        self.program = program;
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Setup {
        self.environment.push((key.to_string(), value.to_string()));
        self
    }

    /// More of the same kind, behind the body.
    pub fn also(mut self, lines: &str) -> Setup {
        self.body += lines;
        self
    }

    /// Started by these words, which name a program that becomes the one under test.
    pub fn through(mut self, words: &[&str]) -> Setup {
        self.through
            .extend(words.iter().map(|word| word.to_string()));
        self
    }

    /// It may have so many, and no more (Debian: util-linux).
    pub fn descriptors(self, most: u32) -> Setup {
        self.through(&["prlimit", &format!("--nofile={most}")])
    }

    pub fn folder(&self) -> &Path {
        self.directory.path()
    }

    pub fn text(&self) -> String {
        format!(
            "[global]\n{}\n[admin]\nbind = \"{}\"\n{}\n\n{}\n",
            self.global, self.admin, self.admin_lines, self.body
        )
    }

    pub fn config(&self) -> PathBuf {
        self.folder().join("config.toml")
    }

    fn command(&self) -> Command {
        fs::write(self.config(), self.text()).expect("write the configuration");
        let mut command = match self.through.split_first() {
            None => Command::new(&self.program),
            Some((first, words)) => {
                let mut command = Command::new(first);
                command.args(words).arg(&self.program);
                command
            }
        };
        command.arg("run").arg("-c").arg(self.config());
        // Not the place of an instance that this machine serves with.
        command.env_remove("RUNTIME_DIRECTORY");
        command.env_remove("XDG_RUNTIME_DIR");
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.current_dir(self.folder());
        command.stdin(Stdio::null());
        command
    }

    /// Starts it and waits until it answers and every listener has an eligible backend.
    pub fn start(self) -> Ringway {
        let ringway = self.start_unready();
        ringway.wait_ready();
        ringway
    }

    /// Starts it and waits until it answers.
    pub fn start_unready(mut self) -> Ringway {
        let given = self.stdout.take();
        let given_stderr = self.stderr.take();
        let folder = self.folder();
        let stderr = given_stderr
            .unwrap_or_else(|| File::create(folder.join("stderr")).expect("a file for stderr"));
        let stdout = given
            .unwrap_or_else(|| File::create(folder.join("stdout")).expect("a file for stdout"));
        let child = self.command().stderr(stderr).stdout(stdout).spawn();
        let child = child.unwrap_or_else(|error| panic!("start {PROGRAM}: {error}"));
        let mut ringway = Ringway {
            child,
            setup: self,
            expect_end: false,
        };
        ringway.wait_answers();
        ringway
    }

    /// Runs it to its end, for configurations that must not start.
    pub fn run_to_end(&self) -> Output {
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start ringway");
        if process::wait_exit(&mut child, START_LIMIT).is_none() {
            let _ = child.kill();
            panic!("it should have refused to start:\n{}", self.text());
        }
        child.wait_with_output().expect("output of ringway")
    }
}

impl Ringway {
    /// Another process in the same folder, after the first has ended.
    #[track_caller]
    pub fn start_again(&mut self) {
        let stderr = fs::OpenOptions::new()
            .append(true)
            .open(self.folder().join("stderr"));
        let stdout = File::create(self.folder().join("stdout.again")).expect("a file for stdout");
        let mut command = self.setup.command();
        let command = command.stderr(stderr.expect("its stderr")).stdout(stdout);
        self.child = command.spawn().expect("start ringway again");
        self.expect_end = false;
        self.wait_answers();
        self.wait_ready();
    }

    fn wait_answers(&mut self) {
        until(START_LIMIT, "ringway answers on its admin address", || {
            let ended = self.child.try_wait().expect("look after the child");
            if let Some(status) = ended {
                self.expect_end = true;
                panic!("ringway ended at once, {status}: {}", self.stderr());
            }
            http::get(self.setup.admin, "/healthz").is_ok_and(|(code, _)| code == 200)
        });
    }

    pub fn start(body: impl Into<String>) -> Ringway {
        Setup::new(body).start()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it was started with.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    pub fn admin(&self) -> SocketAddr {
        self.setup.admin
    }

    /// Of a setup that has one.
    pub fn socket(&self) -> PathBuf {
        socket_in(self.folder())
    }

    pub fn folder(&self) -> &Path {
        self.setup.folder()
    }

    /// What it said so far. A thread of its own writes that: what was just said may take a moment, so the file must have
    /// been as it is for one.
    pub fn stderr(&self) -> String {
        let read = || fs::read_to_string(self.folder().join("stderr")).unwrap_or_default();
        let (mut text, end) = (read(), Instant::now() + seconds(2));
        loop {
            std::thread::sleep(Duration::from_millis(30));
            let now = read();
            if now == text || Instant::now() >= end {
                return now;
            }
            text = now;
        }
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(self.folder().join("stdout")).unwrap_or_default()
    }

    #[track_caller]
    pub fn wait_ready(&self) {
        until(START_LIMIT, "ringway is ready (/readyz)", || {
            self.get("/readyz").is_ok_and(|(code, _)| code == 200)
        });
    }

    pub fn get(&self, path: &str) -> io::Result<(u16, String)> {
        http::get(self.setup.admin, path)
    }

    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let (code, text) = self.get("/metrics").expect("scrape /metrics");
        assert_eq!(code, 200, "/metrics: {text}");
        Metrics::parse(&text)
    }

    /// The sum over all series of one metric.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        self.metrics().sum(name, &[])
    }

    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let (code, text) = self.get("/v1/status").expect("GET /v1/status");
        assert_eq!(code, 200, "/v1/status: {text}");
        serde_json::from_str(&text).expect("/v1/status is JSON")
    }

    /// Waits until the balancer holds no session.
    #[track_caller]
    pub fn wait_empty(&self) {
        until(seconds(20), "the last session ended", || {
            self.metric("ringway_sessions_active") == 0.0
        });
    }

    /// Waits until `/metrics` shows this health of a backend.
    #[track_caller]
    pub fn wait_state(&self, backend: &str, state: &str, limit: Duration) {
        until(limit, &format!("{backend} is {state}"), || {
            let labels = [("backend", backend), ("state", state)];
            self.metrics().sum("ringway_backend_state", &labels) == 1.0
        });
    }

    pub fn signal(&self, name: &str) {
        process::signal(self.pid(), name);
    }

    /// Writes another configuration (same `[global]` and `[admin]`) without telling the process.
    pub fn rewrite(&mut self, body: impl Into<String>) {
        self.setup.body = body.into();
        self.write_raw(&self.setup.text());
    }

    /// The configuration that it was started with, or that was last written.
    pub fn text(&self) -> String {
        self.setup.text()
    }

    pub fn write_raw(&self, text: &str) {
        let new = self.folder().join("config.new");
        fs::write(&new, text).expect("write the configuration");
        fs::rename(new, self.setup.config()).expect("put the configuration in place");
    }

    /// SIGHUP, and waits until the reload was counted; says whether it was taken.
    #[track_caller]
    pub fn reload(&self) -> bool {
        let before = self.reloads();
        self.signal("HUP");
        let after = within(seconds(20), "the reload is counted", || {
            let now = self.reloads();
            (now.0 + now.1 > before.0 + before.1).then_some(now)
        });
        after.0 > before.0
    }

    /// Reloads taken and refused.
    fn reloads(&self) -> (f64, f64) {
        let metrics = self.metrics();
        let all = metrics.sum("ringway_reloads_total", &[]);
        let taken = metrics.sum("ringway_reloads_total", &[("result", "taken")]);
        (taken, all - taken)
    }

    /// Waits for the end of a process that was told to end.
    #[track_caller]
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        self.expect_end = true;
        process::wait_exit(&mut self.child, limit)
            .unwrap_or_else(|| panic!("ringway did not end within {limit:?}"))
    }

    /// It may end by itself: another process serves in its place.
    pub fn may_end(&mut self) {
        self.expect_end = true;
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Ringway {
    fn drop(&mut self) {
        let ended = self.child.try_wait().ok().flatten();
        if ended.is_none() {
            // Twice: the first would wait for sessions to end.
            process::signal(self.pid(), "TERM");
            process::signal(self.pid(), "TERM");
            if process::wait_exit(&mut self.child, seconds(5)).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
                eprintln!("ringway did not end after two SIGTERM and was killed");
            }
        }
        let stderr = self.stderr();
        if std::thread::panicking() {
            let lines: Vec<_> = stderr.lines().collect();
            let from = lines.len().saturating_sub(30);
            eprintln!("--- ringway's last words ---\n{}", lines[from..].join("\n"));
            return;
        }
        if let Some(status) = ended {
            assert!(self.expect_end, "ringway died, {status}: {stderr}");
        }
        assert!(!stderr.contains("panicked at"), "{stderr}");
    }
}

/// Runs the program with arguments to its end.
pub fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("run ringway")
}

/// A `[[listener]]` table on `address` for `pool`.
pub fn listener(name: &str, address: impl std::fmt::Display, pool: &str) -> String {
    format!("[[listener]]\nname = \"{name}\"\nbind = \"{address}\"\npool = \"{pool}\"\n\n")
}

/// A `[[pool]]` with lines of its own and backends given as name and address, without health checks.
pub fn pool(name: &str, lines: &str, backends: &[(&str, SocketAddr)]) -> String {
    let unchecked = "[pool.health]\nkind = \"none\"\n";
    let backends: Vec<_> = backends
        .iter()
        .map(|(name, address)| (*name, address.to_string(), ""))
        .collect();
    pool_with(name, lines, unchecked, &backends)
}

/// The same with tables (health and so on) and, for each backend, lines of its own.
pub fn pool_with(
    name: &str,
    lines: &str,
    tables: &str,
    backends: &[(&str, String, &str)],
) -> String {
    let mut text = format!("[[pool]]\nname = \"{name}\"\n{lines}\n{tables}\n");
    for (backend, address, own) in backends {
        text +=
            &format!("[[pool.backend]]\nname = \"{backend}\"\naddress = \"{address}\"\n{own}\n");
    }
    text
}

/// One listener before one backend, without checks: what most tests of bytes need.
pub fn single(listen: SocketAddr, backend: SocketAddr) -> String {
    listener("main", listen, "main") + &pool("main", "", &[("only", backend)])
}

/// A listener before one backend. With `RINGWAY_TEST_DIRECT` set there is no balancer: the test then shows what it
/// says of the backend alone, which is how to tell a fault of the test from one of the balancer.
pub struct Front {
    pub address: SocketAddr,
    ringway: Option<Ringway>,
}

impl Front {
    pub fn to(backend: SocketAddr) -> Front {
        Front::with(backend, |setup| setup)
    }

    pub fn with(backend: SocketAddr, change: impl FnOnce(Setup) -> Setup) -> Front {
        if std::env::var_os("RINGWAY_TEST_DIRECT").is_some() {
            net::raise_descriptor_limit();
            return Front {
                address: backend,
                ringway: None,
            };
        }
        let address = net::free_address();
        let ringway = change(Setup::new(single(address, backend))).start();
        Front {
            address,
            ringway: Some(ringway),
        }
    }

    /// The balancer, if there is one.
    pub fn ringway(&self) -> Option<&Ringway> {
        self.ringway.as_ref()
    }
}
