//! The keeper: a small process, forked before the first thread and before the sandbox is closed, that can still start
//! programs. It starts one program only, the one that its service was started as, with the same arguments and environment,
//! and hands it one descriptor. It hears three orders (start, stop, done), answers how a started process ended, and goes
//! with its service: when the other end of its socket closes.
//!
//! | order | it |
//! |---|---|
//! | start, with a descriptor | starts the program with that descriptor as number 3 |
//! | stop | kills what it started |
//! | done | ends, so that what it started becomes a child of whoever looks after orphans: the service manager |
//!
//! Whatever ends it otherwise ends what it started, too.

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::link;

/// The name of the variable by which a started process learns of its descriptor.
pub const VARIABLE: &str = "RINGWAY_LINK";
/// The number of the descriptor.
pub const DESCRIPTOR: RawFd = 3;

/// What was meant for one process by its number, or for the first one only.
const NOT_PASSED_ON: [&str; 6] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "WATCHDOG_PID",
    VARIABLE,
];

/// These reach every process of a service or a terminal; the keeper's end is another.
const IGNORED: [libc::c_int; 6] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

const START: u8 = b's';
const STOP: u8 = b'k';
const DONE: u8 = b'd';
const ENDED: u8 = b'e';
const NOT_STARTED: u8 = b'x';

/// The way to the keeper.
#[derive(Debug)]
pub struct Keeper {
    socket: OwnedFd,
    pid: libc::pid_t,
}

/// What the keeper says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// What was started has ended: with this status, or by this signal.
    Ended {
        status: Option<i32>,
        signal: Option<i32>,
    },
    /// It could not be started; errno.
    NotStarted(i32),
}

impl Keeper {
    /// Forks it. Call it before the first thread: only the calling one lives on in the keeper.
    ///
    /// # Errors
    /// The kernel's.
    pub fn fork() -> io::Result<Keeper> {
        let (ours, its) = link::pair()?;
        let command = Command::own()?;
        // SAFETY: the caller says that there is one thread, so the child may go on as any program may.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(ours);
                keep(its, &command)
            }
            pid => {
                // Nobody asks how the keeper ended, so nothing of it is to be kept.
                // SAFETY: sets a disposition; no handler runs.
                unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
                link::set_waiting(ours.as_fd(), false, None)?;
                Ok(Keeper { socket: ours, pid })
            }
        }
    }

    /// Has it start the program, which gets `descriptor` as its number 3.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn start(&self, descriptor: OwnedFd) -> io::Result<()> {
        self.order(START, &[descriptor])
    }

    /// Has it kill what it started.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn stop(&self) -> io::Result<()> {
        self.order(STOP, &[])
    }

    /// Lets it go; what it started lives on.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn done(&self) -> io::Result<()> {
        self.order(DONE, &[])
    }

    /// Whether this process is a child of the keeper's still.
    #[must_use]
    pub fn is_parent_of(&self, pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name, which may hold anything: state, parent.
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        fields.split(' ').nth(1) == Some(&self.pid.to_string())
    }

    fn order(&self, order: u8, descriptors: &[OwnedFd]) -> io::Result<()> {
        link::send_all(self.socket.as_fd(), &[order], descriptors)
    }

    /// What it has said since the last call, without waiting.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        let message = link::Reader::default().wait(self.socket.as_fd()).ok()??;
        let (&what, rest) = message.bytes.split_first()?;
        let number = i32::from_le_bytes(rest.try_into().ok()?);
        match what {
            NOT_STARTED => Some(Report::NotStarted(number)),
            ENDED => Some(Report::Ended {
                status: libc::WIFEXITED(number).then(|| libc::WEXITSTATUS(number)),
                signal: libc::WIFSIGNALED(number).then(|| libc::WTERMSIG(number)),
            }),
            _ => None,
        }
    }
}

/// What is started: made while the process is young, so that nothing later can change it.
struct Command {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Command {
    fn own() -> io::Result<Command> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let program = program_of(arguments.first())?;
        let text = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::other);
        let passed_on = std::env::vars_os().filter(|(name, _)| {
            let name = name.as_bytes();
            !NOT_PASSED_ON.iter().any(|own| own.as_bytes() == name)
        });
        let mut environment = passed_on
            .map(|(name, value)| text([name.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<io::Result<Vec<_>>>()?;
        environment.push(text(format!("{VARIABLE}={DESCRIPTOR}").into_bytes())?);
        Ok(Command {
            program: text(program.into_os_string().into_vec())?,
            arguments: arguments
                .into_iter()
                .map(|argument| text(argument.into_vec()))
                .collect::<io::Result<_>>()?,
            environment,
        })
    }

    /// Becomes the program; returns only if that fails, with errno.
    fn become_it(&self) -> i32 {
        let list = |texts: &[CString]| -> Vec<*const libc::c_char> {
            let pointers = texts.iter().map(|text| text.as_ptr());
            pointers.chain([std::ptr::null()]).collect()
        };
        let (arguments, environment) = (list(&self.arguments), list(&self.environment));
        // SAFETY: C strings and null-terminated lists of them, all of which outlive the call.
        unsafe {
            libc::execve(
                self.program.as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
            )
        };
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EINVAL)
    }
}

/// Where the program was started from. Links are not resolved: the next version may be behind them.
fn program_of(called: Option<&OsString>) -> io::Result<PathBuf> {
    let running = std::env::current_exe()?;
    let Some(called) = called else {
        return Ok(running);
    };
    if called.as_bytes().contains(&b'/') {
        return std::path::absolute(called);
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .map(|folder| folder.join(OsStr::new(called)))
        .find(|path| is_same_file(path, &running));
    Ok(found.unwrap_or(running))
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    match (std::fs::canonicalize(one), std::fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// What was started and has not ended.
struct Started {
    pid: libc::pid_t,
    /// Becomes readable when it ends.
    watch: OwnedFd,
}

/// The keeper's whole life.
fn keep(socket: OwnedFd, command: &Command) -> ! {
    let socket = alone_with(socket);
    let mut started: Option<Started> = None;
    loop {
        wait(socket.as_fd(), started.as_ref());
        if let Some(ended) = started.as_ref().and_then(reap) {
            started = None;
            say(socket.as_fd(), ENDED, ended);
        }
        let order = match link::Reader::default().wait(socket.as_fd()) {
            Ok(Some(message)) => message,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            // The service is gone.
            Ok(None) | Err(_) => {
                started.iter().for_each(kill);
                end()
            }
        };
        match order.bytes.first() {
            Some(&START) if started.is_none() => {
                let Some(descriptor) = order.descriptors.into_iter().next() else {
                    continue;
                };
                match start(command, &descriptor) {
                    Ok(process) => started = Some(process),
                    Err(error) => {
                        let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
                        say(socket.as_fd(), NOT_STARTED, errno);
                    }
                }
            }
            Some(&STOP) => started.iter().for_each(kill),
            Some(&DONE) => end(),
            _ => {}
        }
    }
}

/// Lets go of everything that is the service's. Its socket gets the lowest number beyond the standard streams.
fn alone_with(socket: OwnedFd) -> OwnedFd {
    let place = DESCRIPTOR;
    // SAFETY: numbers only. What is closed belongs to nobody in this process: its owners live in the service, and this
    // function's caller never returns to them.
    let socket = unsafe {
        let raw = socket.into_raw_fd();
        if raw != place {
            libc::dup2(raw, place);
        }
        libc::fcntl(place, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::close_range(4, libc::c_uint::MAX, 0);
        for signal in IGNORED {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::prctl(libc::PR_SET_NAME, c"keeper".as_ptr());
        OwnedFd::from_raw_fd(place)
    };
    // It looks only when there is something.
    let _ = link::set_waiting(socket.as_fd(), false, None);
    socket
}

fn wait(socket: BorrowedFd<'_>, started: Option<&Started>) {
    let look = |descriptor: RawFd| libc::pollfd {
        fd: descriptor,
        events: libc::POLLIN,
        revents: 0,
    };
    // A negative number is passed over.
    let watch = started.map_or(-1, |started| started.watch.as_raw_fd());
    let mut looks = [look(socket.as_raw_fd()), look(watch)];
    // SAFETY: the list is a local that outlives the call, with its own length.
    unsafe { libc::poll(looks.as_mut_ptr(), looks.len() as libc::nfds_t, -1) };
}

fn say(socket: BorrowedFd<'_>, what: u8, number: i32) {
    let mut bytes = vec![what];
    bytes.extend_from_slice(&number.to_le_bytes());
    let _ = link::send_all(socket, &bytes, &[]);
}

fn kill(started: &Started) {
    // SAFETY: numbers only; it is a child that was not waited for, so its number is its own.
    unsafe { libc::kill(started.pid, libc::SIGKILL) };
}

/// How it ended, if it has.
fn reap(started: &Started) -> Option<i32> {
    let mut status = 0;
    // SAFETY: the kernel writes one integer into a local.
    let waited = unsafe { libc::waitpid(started.pid, &raw mut status, libc::WNOHANG) };
    (waited == started.pid).then_some(status)
}

fn start(command: &Command, descriptor: &OwnedFd) -> io::Result<Started> {
    let (told, tell) = io::pipe()?;
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let errno = become_successor(command, descriptor);
            let _ = io::Write::write_all(&mut &tell, &errno.to_le_bytes());
            end()
        }
        pid => {
            drop(tell);
            let mut errno = [0; 4];
            // Closed on exec without a word.
            if io::Read::read_exact(&mut &told, &mut errno).is_ok() {
                let started = watch(pid)?;
                wait_for_end(&started);
                return Err(io::Error::from_raw_os_error(i32::from_le_bytes(errno)));
            }
            watch(pid)
        }
    }
}

fn watch(pid: libc::pid_t) -> io::Result<Started> {
    // SAFETY: numbers only; the child was not waited for, so its number is its own.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let raw = RawFd::try_from(raw).map_err(io::Error::other)?;
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Started {
        pid,
        // SAFETY: pidfd_open has just returned it, and nobody else owns it.
        watch: unsafe { OwnedFd::from_raw_fd(raw) },
    })
}

fn wait_for_end(started: &Started) {
    // SAFETY: a child of this process; no status is asked for.
    unsafe { libc::waitpid(started.pid, std::ptr::null_mut(), 0) };
}

/// In the child: the descriptor at its place, nothing else open, signals as they were.
fn become_successor(command: &Command, descriptor: &OwnedFd) -> i32 {
    // SAFETY: numbers only. dup2 leaves its copy open on exec; everything else here closes on exec.
    unsafe {
        if libc::dup2(descriptor.as_raw_fd(), DESCRIPTOR) < 0 {
            return io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EBADF);
        }
        for signal in IGNORED {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    command.become_it()
}

fn end() -> ! {
    // SAFETY: ends this process at once; destructors of what was the service's must not run here.
    unsafe { libc::_exit(0) }
}
