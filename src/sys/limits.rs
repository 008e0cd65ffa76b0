//! What this process may use: descriptors, locked memory, memory, local ports. For the budget at start; nothing here is
//! called while serving.

use std::fs;
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::path::Path;

use super::affinity::cgroup_folders;

/// A limit as the kernel keeps it: the soft one holds, and may be raised to the hard one. `u64::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// RLIMIT_NOFILE: one more than the highest descriptor.
///
/// # Errors
/// None that the kernel documents for this call.
pub fn descriptors() -> io::Result<Limit> {
    limit(libc::RLIMIT_NOFILE)
}

/// RLIMIT_MEMLOCK in bytes, against which the kernel counts rings and registered buffers.
///
/// # Errors
/// None that the kernel documents for this call.
pub fn locked_memory() -> io::Result<Limit> {
    limit(libc::RLIMIT_MEMLOCK)
}

/// Raises the soft descriptor limit to the hard one, and both to `wanted` where that is more and the kernel allows it
/// (CAP_SYS_RESOURCE, fs.nr_open). Returns what holds now. Call it before a ring exists: a multishot accept keeps the
/// limit it was armed with.
///
/// # Errors
/// The kernel's, if not even the hard limit could be taken.
pub fn raise_descriptors(wanted: u64) -> io::Result<Limit> {
    let now = descriptors()?;
    let above = Limit {
        soft: wanted,
        hard: wanted,
    };
    if wanted > now.hard && set_limit(libc::RLIMIT_NOFILE, above).is_ok() {
        return descriptors();
    }
    if now.soft < now.hard {
        let up = Limit {
            soft: now.hard,
            hard: now.hard,
        };
        set_limit(libc::RLIMIT_NOFILE, up)?;
    }
    descriptors()
}

/// Descriptors that this process has open. Cheap on Linux 6.2 and later; before, each is counted.
///
/// # Errors
/// If /proc is not there.
pub fn open_descriptors() -> io::Result<u64> {
    let folder = "/proc/self/fd";
    match fs::metadata(folder)?.len() {
        // Before 6.2 the size of the folder says nothing.
        0 => Ok(fs::read_dir(folder)?.count() as u64),
        count => Ok(count),
    }
}

/// Pages that the pipes of one user may take until new ones are made small; `None`: as many as they like, also for who
/// has CAP_SYS_RESOURCE.
///
/// # Errors
/// If /proc is not there or not as expected.
pub fn pipe_pages() -> io::Result<Option<u64>> {
    const CAP_SYS_RESOURCE: u32 = 24;
    if has_power(CAP_SYS_RESOURCE) {
        return Ok(None);
    }
    let text = fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft")?;
    let pages: u64 = text
        .trim()
        .parse()
        .map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
    Ok((pages != 0).then_some(pages))
}

/// Whether this process has a capability, by its number.
#[must_use]
pub fn has_power(capability: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> capability & 1 == 1)
}

/// Bytes that this process could have at most: the machine's memory, or less where a control group caps it.
///
/// # Errors
/// If /proc is not there or not as expected.
pub fn memory_in_all() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let machine = parse_kibibytes(&text, "MemTotal:")
        .ok_or_else(|| io::Error::from(ErrorKind::InvalidData))?;
    let caps = cgroup_folders().into_iter().filter_map(|folder| {
        let text = fs::read_to_string(folder.join("memory.max")).ok()?;
        text.trim().parse().ok()
    });
    Ok(caps.fold(machine, u64::min))
}

/// The ports that the kernel hands out to outbound sockets.
///
/// # Errors
/// If /proc is not there or not as expected.
pub fn local_ports() -> io::Result<RangeInclusive<u16>> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    parse_port_range(&text).ok_or_else(|| io::Error::from(ErrorKind::InvalidData))
}

/// Bytes that can be taken without swapping: the machine's MemAvailable, or less where a control group caps it.
///
/// # Errors
/// If /proc is not there or not as expected.
pub fn available_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let machine =
        parse_mem_available(&text).ok_or_else(|| io::Error::from(ErrorKind::InvalidData))?;
    let groups = cgroup_folders().into_iter();
    Ok(groups
        .filter_map(|folder| group_headroom(&folder))
        .fold(machine, u64::min))
}

/// How much more the control group in `folder` may take; `None` without a cap. File pages that nobody used lately count
/// against the cap but are given up on demand.
fn group_headroom(folder: &Path) -> Option<u64> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    // "max" does not parse, which is the answer wanted.
    let cap: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    let reclaimable = read("memory.stat").and_then(|text| parse_inactive_file(&text));
    Some(cap.saturating_sub(used.saturating_sub(reclaimable.unwrap_or(0))))
}

fn parse_inactive_file(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("inactive_file "))?;
    line.trim().parse().ok()
}

fn parse_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace();
    let low = words.next()?.parse().ok()?;
    let high = words.next()?.parse().ok()?;
    Some(low..=high)
}

fn parse_mem_available(text: &str) -> Option<u64> {
    parse_kibibytes(text, "MemAvailable:")
}

fn parse_kibibytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn limit(resource: libc::__rlimit_resource_t) -> io::Result<Limit> {
    let mut found = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one rlimit into `found`, a local of that type.
    if unsafe { libc::getrlimit(resource, &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Limit {
        soft: found.rlim_cur,
        hard: found.rlim_max,
    })
}

fn set_limit(resource: libc::__rlimit_resource_t, limit: Limit) -> io::Result<()> {
    let wanted = libc::rlimit {
        rlim_cur: limit.soft,
        rlim_max: limit.hard,
    };
    // SAFETY: the kernel only reads `wanted`, a local that is fully set.
    if unsafe { libc::setrlimit(resource, &raw const wanted) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_reach_the_hard_limit() {
        let before = descriptors().unwrap();
        let after = raise_descriptors(0).unwrap();
        assert_eq!(after.soft, before.hard);
        assert_eq!(after, descriptors().unwrap());
    }

    #[test]
    fn wishes_beyond_every_limit_still_give_the_hard_one() {
        let before = descriptors().unwrap();
        let after = raise_descriptors(u64::MAX - 1).unwrap();
        assert!(after.soft >= before.hard);
    }

    #[test]
    fn the_machine_answers() {
        assert!(available_memory().unwrap() > 1 << 20);
        assert!(!local_ports().unwrap().is_empty());
        assert!(locked_memory().unwrap().hard > 0);
        assert!(memory_in_all().unwrap() >= available_memory().unwrap() / 2);
        assert!(pipe_pages().unwrap().is_none_or(|pages| pages > 0));
        let before = open_descriptors().unwrap();
        let _more: Vec<_> = (0..50)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        // Other tests open and close some meanwhile.
        assert!(open_descriptors().unwrap() > before.saturating_sub(50));
    }

    #[test]
    fn texts_of_proc_are_understood() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse_port_range("32768"), None);
        let text = "MemTotal:  100 kB\nMemAvailable:     42 kB\n";
        assert_eq!(parse_mem_available(text), Some(42 * 1024));
        assert_eq!(parse_mem_available("MemTotal: 1 kB"), None);
        let text = "anon 1\ninactive_file 4096\nactive_file 7\n";
        assert_eq!(parse_inactive_file(text), Some(4096));
    }

    #[test]
    fn a_group_is_capped_by_what_it_cannot_give_back() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        assert_eq!(group_headroom(folder.path()), None);
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(group_headroom(folder.path()), None);
        write("memory.max", "1000\n");
        assert_eq!(group_headroom(folder.path()), Some(300));
        write("memory.stat", "anon 1\ninactive_file 200\n");
        assert_eq!(group_headroom(folder.path()), Some(500));
        write("memory.current", "1700\n");
        assert_eq!(group_headroom(folder.path()), Some(0));
    }
}
