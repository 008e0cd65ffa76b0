//! How commands speak: to stdout for who asked, to stderr for who must know. A reader that went away (`| head`) is no
//! error, and whoever goes on writing for ever can see it.

use std::io::Write;

/// Prints for the reader of stdout; false if nobody reads any more.
pub(super) fn say(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    let said = stdout.write_all(text.as_bytes());
    said.and_then(|()| stdout.flush()).is_ok()
}

/// Prints one sentence to stderr.
pub(super) fn complain(sentence: &str) {
    let _ = writeln!(std::io::stderr().lock(), "ringway: {sentence}");
}
