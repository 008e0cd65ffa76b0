//! The tool shed: small system calls that are not io_uring. Each tool is one thing, safe to call, and returns an
//! `io::Error` with the kernel's own errno. It knows no listener, session or configuration.
//!
//! `unsafe` is allowed here and in `uring` alone.

mod doorbell;

pub use doorbell::Doorbell;
