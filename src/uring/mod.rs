//! The boiler room: the kernel's ring, and everything the kernel may read or write later.
//!
//! The contract: whatever a submission points at belongs to that operation until its last completion. It lives here, at
//! a fixed address, allocated before the ring and freed after it. Callers hold tickets: a [`Parcel`] for a filled
//! buffer, an [`Incoming`] for an accepted socket, a [`crate::ids::StreamKey`] for a socket that lives in here. No safe
//! function takes an address or a raw descriptor.
//!
//! It moves bytes for keys and does not know what a session is. [`Kernel`] is the door; [`Ring`] is the kernel behind it,
//! and tests put a fake there.

mod answers;
mod buffers;
mod build;
mod datagrams;
mod door;
mod first_bytes;
mod kernel;
mod move_bytes;
mod ops;
mod outcome;
mod polls;
mod probe;
mod ring;
mod streams;
mod tag;
#[cfg(test)]
mod tests;

pub use buffers::Parcel;
pub use build::RingSize;
pub use datagrams::{Datagram, Datagrams, Envelope, HEADING_BYTES_MAX, Heading, Undelivered};
pub use door::{
    AcceptEnd, Answer, Incoming, Kernel, Outcome, PEEK_BYTES_MAX, Patience, Route, StartError,
};
pub use probe::{Features, MASK_VARIABLE, kernel_release, probe};
pub use ring::Ring;
