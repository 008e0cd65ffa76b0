//! `ringway version`: what this is, and what it runs on.

use super::Ending;

pub(super) fn version() -> Result<(), Ending> {
    println!("ringway {}", env!("CARGO_PKG_VERSION"));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("kernel {}", kernel.trim());
    for (name, found) in crate::office::kernel_features()? {
        println!("io_uring {name}: {}", if found { "yes" } else { "no" });
    }
    Ok(())
}
