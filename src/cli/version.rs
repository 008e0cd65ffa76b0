//! `ringway version`: what this is, and what it runs on.

use std::fmt::Write as _;

use super::{Ending, out};

pub(super) fn version() -> Result<(), Ending> {
    let mut text = format!("ringway {}\n", env!("CARGO_PKG_VERSION"));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let _ = writeln!(text, "kernel {}", kernel.trim());
    let features = crate::office::kernel_features();
    for (name, found) in features.iter().flatten() {
        let found = if *found { "yes" } else { "no" };
        let _ = writeln!(text, "io_uring {name}: {found}");
    }
    out::say(&text);
    features?;
    Ok(())
}
