//! A thread of this process as the kernel knows it: its id, and what it is at.

use std::fs;

/// The kernel's id of the calling thread.
#[must_use]
pub fn thread_id() -> i32 {
    // SAFETY: gettid takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// What the kernel says a thread of ours is at, in a few words: its state, and where in the kernel it sleeps if that is
/// told.
#[must_use]
pub fn state_of_thread(thread: i32) -> String {
    let read = |file: &str| fs::read_to_string(format!("/proc/self/task/{thread}/{file}"));
    let state = read("stat").ok().and_then(|text| state_in(&text));
    let words = match state {
        Some('R') => "running",
        Some('S') => "asleep",
        Some('D') => "waiting for a device",
        Some('T') => "stopped by a signal",
        Some('t') => "stopped by a debugger",
        Some('Z' | 'X') => "dead",
        Some(_) => "in an unknown state",
        None => "gone",
    };
    match read("wchan") {
        Ok(place) if !matches!(place.as_str(), "" | "0") => format!("{words} in {place}"),
        _ => words.to_owned(),
    }
}

/// The letter after the name, which stands in parentheses and may hold some itself.
fn state_in(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_thread_runs_and_a_missing_one_is_gone() {
        assert!(state_of_thread(thread_id()).starts_with("running"));
        assert_eq!(state_of_thread(i32::MAX), "gone");
        assert_eq!(state_in("12 (a) b) t 1 2"), Some('t'));
        assert_eq!(state_in(""), None);
    }
}
