//! The binary: a panic anywhere ends it, and the rest is the command line's.

use std::process::ExitCode;

fn main() -> ExitCode {
    end_with_a_panic();
    ringway::cli::main()
}

/// Unwinding past buffers that the kernel still writes to would be unsound, and a process with a thread missing would
/// serve half of its clients. In a release the profile says the same.
fn end_with_a_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
