//! Cores: which ones this process may use, how much of them its control group carries, and pinning a thread to one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Room for 8,192 cores, Linux's largest build; the kernel refuses a smaller set than it has cores.
const MASK_WORDS: usize = 128;
const WORD_BITS: usize = u64::BITS as usize;

/// Where version 2 of the control groups is mounted, alone or beside version 1.
const CGROUP_ROOTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The cores that the calling thread, hence a thread it starts, may run on, in ascending order.
///
/// # Errors
/// The kernel's, on a machine of more than 8,192 cores.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    let mut mask = [0u64; MASK_WORDS];
    // SAFETY: the kernel writes at most `size_of_val(&mask)` bytes into the local mask; 0 means this thread.
    let answer = unsafe {
        libc::sched_getaffinity(0, size_of_val(&mask), std::ptr::from_mut(&mut mask).cast())
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    let is_set = |core: &usize| mask[core / WORD_BITS] >> (core % WORD_BITS) & 1 == 1;
    Ok((0..MASK_WORDS * WORD_BITS).filter(is_set).collect())
}

/// Lets the calling thread run on one core only.
///
/// # Errors
/// `InvalidInput` if this process may not use that core.
pub fn pin_to(core: usize) -> io::Result<()> {
    let mut mask = [0u64; MASK_WORDS];
    let Some(word) = mask.get_mut(core / WORD_BITS) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    *word = 1 << (core % WORD_BITS);
    // SAFETY: the kernel only reads the local mask, of the length given; 0 means this thread.
    let answer =
        unsafe { libc::sched_setaffinity(0, size_of_val(&mask), std::ptr::from_ref(&mask).cast()) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How many cores' worth of time the control groups (version 2) of this process grant, rounded up; `None` without a
/// quota. The narrowest group on the way to the root counts.
#[must_use]
pub fn cgroup_cores() -> Option<usize> {
    let quotas = cgroup_folders().into_iter().filter_map(|folder| {
        let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
        parse_cpu_max(&text)
    });
    quotas.min()
}

/// The folders of this process's control group and all those above it, as far as they can be seen from here.
pub(super) fn cgroup_folders() -> Vec<PathBuf> {
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(group) = parse_membership(&membership) else {
        return Vec::new();
    };
    let is_version_2 = |root: &&&str| Path::new(root).join("cgroup.controllers").exists();
    let Some(root) = CGROUP_ROOTS.iter().find(is_version_2) else {
        return Vec::new();
    };
    let root = Path::new(root);
    let below = Path::new(group.trim_start_matches('/'));
    below.ancestors().map(|part| root.join(part)).collect()
}

/// The version 2 line is the one with number 0 and no controller.
fn parse_membership(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// "QUOTA PERIOD" in microseconds, or "max PERIOD".
fn parse_cpu_max(text: &str) -> Option<usize> {
    let mut words = text.split_whitespace();
    let quota: usize = words.next()?.parse().ok()?;
    let period: usize = words.next()?.parse().ok()?;
    (period > 0).then(|| quota.div_ceil(period).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_has_one_core() {
        let all = allowed_cores().unwrap();
        let last = *all.last().unwrap();
        let seen = std::thread::spawn(move || {
            pin_to(last).unwrap();
            allowed_cores().unwrap()
        });
        assert_eq!(seen.join().unwrap(), vec![last]);
        assert_eq!(allowed_cores().unwrap(), all);
    }

    #[test]
    fn a_core_that_is_not_there_is_refused() {
        for absent in [8_191, 8_192, usize::MAX] {
            let error = std::thread::spawn(move || pin_to(absent).unwrap_err());
            assert_eq!(error.join().unwrap().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn quotas_round_up() {
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(2));
        assert_eq!(parse_cpu_max("200000 100000\n"), Some(2));
        assert_eq!(parse_cpu_max("1000 100000\n"), Some(1));
        assert_eq!(parse_cpu_max("1000 0\n"), None);
        assert_eq!(parse_cpu_max(""), None);
    }

    #[test]
    fn the_version_2_group_is_found_among_others() {
        let text = "4:memory:/old\n0::/system.slice/ringway.service\n";
        assert_eq!(
            parse_membership(text),
            Some("/system.slice/ringway.service")
        );
        assert_eq!(parse_membership("4:memory:/old\n"), None);
    }
}
