//! The tool shed: small system calls that are not io_uring. Each tool is one thing, safe to call, and returns an
//! `io::Error` with the kernel's own errno. It knows no listener, session or configuration.
//!
//! `unsafe` is allowed here and in `uring` alone.

pub mod account;
pub mod affinity;
pub mod datagram;
mod doorbell;
pub mod handed;
mod idle_set;
pub mod keeper;
pub mod limits;
pub mod link;
pub mod listen;
mod option;
pub mod pipe;
pub mod shares;
pub mod stream;
pub mod syscalls;
pub mod tcp_state;
pub mod thread;
pub mod thread_cpu;

pub use doorbell::Doorbell;
pub use idle_set::IdleSet;
pub use option::Keepalive;
