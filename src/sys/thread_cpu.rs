//! CPU time used so far, for the workers' busy ratio and the benches. One system call each (the kernel has no shortcut
//! for these clocks), so not for every turn.

/// Nanoseconds of CPU time of the calling thread, user and kernel.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Nanoseconds of CPU time of all threads of this process, user and kernel. The kernel's own io_uring workers count.
#[must_use]
pub fn process_cpu_ns() -> u64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec into the local; it fails for unknown clocks only, and these two exist
    // since 2.6.12, so that a failure would leave zeros, not garbage.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_time_grows_by_work_and_not_by_waiting() {
        let process = process_cpu_ns();
        let start = thread_cpu_ns();
        while thread_cpu_ns() < start + 2_000_000 {}
        assert!(process_cpu_ns() >= process + 2_000_000);
        let worked = thread_cpu_ns();
        let slept = std::time::Instant::now();
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        never
            .recv_timeout(std::time::Duration::from_millis(50))
            .unwrap_err();
        assert!(slept.elapsed().as_millis() >= 50);
        assert!(thread_cpu_ns() - worked < 25_000_000);
    }
}
