//! The system calls that this program ever makes after its start, as a seccomp filter over all its threads (crate
//! seccompiler). Everything else answers "not implemented", which libraries take for an older kernel and live with.
//!
//! It is sized to the program, not to a configuration: names, logs, reload and every kind of check are in it. No program is
//! started any more, no memory is both writable and executable, no socket is of another family, no process is forked. What
//! a ring does is held by the ring's own restrictions (see `uring`), since seccomp does not see it.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Calls that are allowed whatever their arguments.
const ALLOWED: &[c_long] = &[
    // Rings, queues of events, clocks.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_signalfd4,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    // Sockets.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    // Descriptors and files.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_pipe2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_flock,
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_mkdirat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fadvise64,
    libc::SYS_umask,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    // Threads and signals.
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_tgkill,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // About ourselves and the machine.
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_capget,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
];

/// Older forms that this architecture still has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_chmod,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_time,
    libc::SYS_arch_prctl,
    libc::SYS_getrlimit,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

const FAMILIES: [libc::c_int; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    // The resolver asks the kernel for the machine's addresses.
    libc::AF_NETLINK,
];

/// Allows this process, all its threads and all it will have, nothing but what this program needs. There is no way back.
///
/// # Errors
/// The kernel's, or what it knows no filter for: an architecture that is not supported.
pub fn allow_only_ours() -> io::Result<()> {
    let filter = filter().map_err(io::Error::other)?;
    seccompiler::apply_filter_all_threads(&filter).map_err(|error| match error {
        Error::Prctl(error) | Error::Seccomp(error) => error,
        other => io::Error::other(other),
    })
}

fn filter() -> Result<BpfProgram, Error> {
    let calls = ALLOWED.iter().chain(ALLOWED_HERE);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        calls.map(|&call| (call, Vec::new())).collect();
    let families = FAMILIES
        .iter()
        .map(|&family| only_if(0, SeccompCmpOp::Eq, family));
    let families: Vec<SeccompRule> = families.collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_socket, families.clone());
    rules.insert(libc::SYS_socketpair, families);
    let (write, execute) = (libc::PROT_WRITE, libc::PROT_EXEC);
    let without =
        |bits: libc::c_int| only_if(2, SeccompCmpOp::MaskedEq(u64::from(bits.unsigned_abs())), 0);
    // Libraries may still be loaded (the resolver does), code may not be written.
    rules.insert(libc::SYS_mmap, vec![without(write)?, without(execute)?]);
    rules.insert(libc::SYS_mprotect, vec![without(execute)?]);
    // Threads, no processes. clone3 hides its flags, so it is left out; the C library then uses clone.
    let thread = libc::CLONE_THREAD;
    let thread_only = SeccompCmpOp::MaskedEq(u64::from(thread.unsigned_abs()));
    rules.insert(libc::SYS_clone, vec![only_if(0, thread_only, thread)?]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

fn only_if(
    argument: u8,
    compare: SeccompCmpOp,
    value: libc::c_int,
) -> Result<SeccompRule, seccompiler::BackendError> {
    let value = u64::from(value.unsigned_abs());
    SeccompRule::new(vec![SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        compare,
        value,
    )?])
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Read, Write};
    use std::ptr::null;

    use super::*;

    /// A name, and whether the kernel knows this call at all.
    type Attempt = (&'static str, fn() -> bool);

    /// Whether what has just returned this was done, or refused for another reason than that there is no such call.
    fn is_known(returned: c_long) -> bool {
        returned >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
    }

    fn map(protection: libc::c_int) -> c_long {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at no given place, of no file; it is left to the end of this short process.
        unsafe {
            libc::syscall(
                libc::SYS_mmap,
                0_usize,
                4096_usize,
                protection,
                flags,
                -1,
                0_usize,
            )
        }
    }

    fn socket(family: libc::c_int) -> bool {
        // SAFETY: takes three integers.
        is_known(unsafe { libc::syscall(libc::SYS_socket, family, libc::SOCK_DGRAM, 0) })
    }

    fn fork_again() -> bool {
        // SAFETY: without a stack of its own it is a fork; the child ends at once.
        let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        if child == 0 {
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) };
        }
        is_known(child)
    }

    const REFUSED: &[Attempt] = &[
        ("execve", || {
            let nowhere = c"/nowhere/program";
            // SAFETY: a path that ends with 0, and no arguments; there is no such program.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_execve,
                    nowhere.as_ptr(),
                    null::<u8>(),
                    null::<u8>(),
                )
            };
            is_known(done)
        }),
        ("execveat", || {
            let nowhere = c"/nowhere/program";
            // SAFETY: as above.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_execveat,
                    -1,
                    nowhere.as_ptr(),
                    null::<u8>(),
                    null::<u8>(),
                    0,
                )
            };
            is_known(done)
        }),
        ("a fork", fork_again),
        ("clone3", || {
            // SAFETY: it is told of no memory, which every kernel refuses.
            is_known(unsafe { libc::syscall(libc::SYS_clone3, null::<u8>(), 0_usize) })
        }),
        ("AF_PACKET", || socket(libc::AF_PACKET)),
        ("AF_ALG", || socket(libc::AF_ALG)),
        ("mmap for writing and executing", || {
            is_known(map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC))
        }),
        ("mprotect for executing", || {
            let place = map(libc::PROT_READ | libc::PROT_WRITE);
            let protection = libc::PROT_READ | libc::PROT_EXEC;
            // SAFETY: a page that is mapped above and used by nobody.
            is_known(unsafe { libc::syscall(libc::SYS_mprotect, place, 4096_usize, protection) })
        }),
        ("ptrace", || {
            // SAFETY: asks about no process, which every kernel refuses.
            is_known(unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_DETACH, 0, 0, 0) })
        }),
        ("setuid", || {
            // SAFETY: takes an integer; -1 is no user.
            is_known(unsafe { libc::syscall(libc::SYS_setuid, -1) })
        }),
        ("mount", || {
            let nowhere = c"/nowhere";
            // SAFETY: paths that end with 0 and lead nowhere.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_mount,
                    nowhere.as_ptr(),
                    nowhere.as_ptr(),
                    null::<u8>(),
                    0,
                    0,
                )
            };
            is_known(done)
        }),
    ];

    const ALLOWED_STILL: &[Attempt] = &[
        ("AF_INET", || socket(libc::AF_INET)),
        ("AF_UNIX", || socket(libc::AF_UNIX)),
        ("mmap", || is_known(map(libc::PROT_READ | libc::PROT_WRITE))),
        ("mmap of code", || {
            is_known(map(libc::PROT_READ | libc::PROT_EXEC))
        }),
        ("getpid", || {
            // SAFETY: takes nothing.
            is_known(unsafe { libc::syscall(libc::SYS_getpid) })
        }),
    ];

    /// Tries all of it and tells, one byte for each. Allocates nothing: other threads were not forked, and may have held the
    /// allocator.
    fn tell(shut_in: Option<&BpfProgram>, mut told: PipeWriter) {
        if let Some(filter) = shut_in
            && seccompiler::apply_filter(filter).is_err()
        {
            return;
        }
        for (_, attempt) in REFUSED.iter().chain(ALLOWED_STILL) {
            let _ = told.write_all(&[u8::from(attempt())]);
        }
    }

    /// What a child of this process finds that the kernel knows, in the order of the attempts.
    fn known_to_a_child(shut_in: Option<&BpfProgram>) -> Vec<bool> {
        let (mut reader, writer) = io::pipe().unwrap();
        // SAFETY: the child makes system calls alone, and ends without coming back.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            tell(shut_in, writer);
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) };
        }
        drop(writer);
        let mut told = Vec::new();
        reader.read_to_end(&mut told).unwrap();
        let mut status = 0;
        // SAFETY: writes one integer into a local.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(
            (status, told.len()),
            (0, REFUSED.len() + ALLOWED_STILL.len())
        );
        told.into_iter().map(|known| known == 1).collect()
    }

    #[test]
    fn what_is_never_needed_does_not_exist_for_who_is_shut_in() {
        let attempts = || REFUSED.iter().chain(ALLOWED_STILL).map(|(name, _)| *name);
        let names = |known: &[bool], wanted: bool| {
            let named = attempts().zip(known);
            let named = named.filter(|(_, known)| **known == wanted);
            named.map(|(name, _)| name).collect::<Vec<_>>()
        };
        let free = known_to_a_child(None);
        assert_eq!(
            names(&free, false),
            Vec::<&str>::new(),
            "the kernel of this machine has all"
        );
        let shut_in = known_to_a_child(Some(&filter().unwrap()));
        let refused: Vec<&str> = REFUSED.iter().map(|(name, _)| *name).collect();
        assert_eq!(names(&shut_in, false), refused);
    }
}
