//! Turns among tests, over all test programs, since several run at once.

use std::cell::Cell;
use std::fs::File;
use std::path::Path;

/// Set for a child that its parent waits for while holding the turn.
const PARENT_HAS_IT: &str = "RINGWAY_TEST_ALONE";

thread_local! {
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// Given back when dropped.
pub struct Turn(Option<File>);

impl Drop for Turn {
    fn drop(&mut self) {
        if self.0.is_some() {
            HELD.set(false);
        }
    }
}

/// Held by tests that measure or that load the machine, so that they do not disturb each other.
pub fn alone() -> Turn {
    if std::env::var_os(PARENT_HAS_IT).is_some() {
        return Turn(None);
    }
    let turn = one_at_a_time("alone");
    HELD.set(true);
    Turn(Some(turn))
}

/// What to tell a child that runs instead of the calling thread.
pub fn environment() -> Option<(&'static str, &'static str)> {
    HELD.get().then_some((PARENT_HAS_IT, "1"))
}

/// Waits until nobody else, in this process or another, is at this; dropping the file lets the next one in.
pub fn one_at_a_time(what: &str) -> File {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(what);
    let lock = File::create(path).expect("the folder for tests' files");
    lock.lock().expect("a lock on a file");
    lock
}
