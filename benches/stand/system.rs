//! The few system calls that the standard library lacks: epoll, a network namespace of our own, pinning, the CPU clock of
//! another process. The only file of this bench with `unsafe`; it knows nothing of balancers or scenarios.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

pub const SIGTERM: i32 = libc::SIGTERM;
pub const SIGINT: i32 = libc::SIGINT;
pub const SIGKILL: i32 = libc::SIGKILL;

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Moves the calling process (which must be single-threaded here) into a network namespace of its own. The kernel takes
/// the namespace away, with every socket left in it, when the last process inside has gone.
pub fn enter_new_network() -> io::Result<()> {
    // SAFETY: no pointers are involved.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

fn core_set(cores: &[usize]) -> libc::cpu_set_t {
    // SAFETY: cpu_set_t is a plain array of words, for which all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &core in cores {
        // SAFETY: CPU_SET checks the index against the size of the set.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    set
}

/// Pins the calling thread.
pub fn pin_self(cores: &[usize]) -> io::Result<()> {
    let set = core_set(cores);
    // SAFETY: the set is alive for the call and its size is passed.
    checked(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) }).map(drop)
}

/// The child runs on `cores` only, and is told to end when this process dies, however that happens.
pub fn tie(command: &mut Command, cores: &[usize]) {
    let set = core_set(cores);
    let prepare = move || {
        // SAFETY: the set lives in this closure and its size is passed.
        checked(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) })?;
        // SAFETY: PR_SET_PDEATHSIG takes a signal number and no pointer.
        checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) })?;
        Ok(())
    };
    // SAFETY: the closure makes two system calls and touches nothing of the parent's.
    unsafe { command.pre_exec(prepare) };
}

/// Raises the soft limit of descriptors to the hard one, for this process and its children; returns it.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct is alive and writable.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the struct is alive.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(limit.rlim_cur)
}

pub fn send_signal(pid: u32, signal: i32) {
    // SAFETY: no pointers; that the process may have gone already is fine.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}

/// CPU time of a whole process, ended threads and the kernel's io-wq workers included, to the nanosecond. None once the
/// process has gone. (utime + stime of /proc count in 10 ms.)
pub fn process_cpu(pid: u32) -> Option<Duration> {
    let mut clock = 0;
    // SAFETY: the clock id is alive and writable.
    if unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &mut clock) } != 0 {
        return None;
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the timespec is alive and writable.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return None;
    }
    let nanos = u32::try_from(time.tv_nsec).ok()?;
    Some(Duration::new(time.tv_sec.cast_unsigned(), nanos))
}

/// A level-triggered epoll set. Each descriptor has a number of its owner's choice.
#[derive(Debug)]
pub struct Poller {
    set: OwnedFd,
    ready: Vec<libc::epoll_event>,
}

pub const READ: u32 = libc::EPOLLIN.cast_unsigned();
pub const WRITE: u32 = libc::EPOLLOUT.cast_unsigned();

impl Poller {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are involved.
        let set = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor is new and owned by nobody else.
        let set = unsafe { OwnedFd::from_raw_fd(set) };
        let ready = vec![libc::epoll_event { events: 0, u64: 0 }; 512];
        Ok(Self { set, ready })
    }

    fn control(
        &self,
        operation: i32,
        socket: &impl AsFd,
        interest: u32,
        number: usize,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest,
            u64: number as u64,
        };
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: both descriptors are open, and the event is alive for the call.
        checked(unsafe { libc::epoll_ctl(self.set.as_raw_fd(), operation, socket, &mut event) })
            .map(drop)
    }

    pub fn add(&self, socket: &impl AsFd, interest: u32, number: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket, interest, number)
    }

    pub fn change(&self, socket: &impl AsFd, interest: u32, number: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, socket, interest, number)
    }

    /// Waits at most `timeout` and returns how many descriptors are ready; their numbers are then `ready(i)`.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<usize> {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: the array is alive and its length is passed; the timespec is alive; there is no signal mask.
        let ready = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.set.as_raw_fd(),
                self.ready.as_mut_ptr(),
                self.ready.len(),
                &raw const timeout,
                std::ptr::null::<libc::sigset_t>(),
                size_of::<u64>(),
            )
        };
        match usize::try_from(ready) {
            Ok(ready) => Ok(ready),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                error => Err(error),
            },
        }
    }

    pub fn ready(&self, index: usize) -> usize {
        self.ready[index].u64 as usize
    }
}
