//! Datagrams: received many at a time into provided buffers, passed on from the very same buffers, many to one send where
//! they go the same way and have one size (UDP_SEGMENT).
//!
//! A flow has a connected socket of its own towards its backend; its replies leave through the listener's. Everything that
//! a send points at (buffers, its [`outbound::Cell`]) stays until the kernel has answered, or until the submitting call has
//! returned without an answer: a send never waits (MSG_DONTWAIT), and only one that failed is answered.
//!
//! Sockets of listeners and their receives are in [`sockets`], what these bring in [`receiving`], the sockets of flows in
//! [`seats`], sends in [`sending`].

mod ceiling;
mod coalescing;
mod door;
mod gathering;
mod heading;
mod inbound;
mod outbound;
mod receiving;
mod seats;
mod sending;
mod sockets;
#[cfg(test)]
mod tests;

pub use door::{Datagram, Datagrams, Envelope, Undelivered};
pub use heading::{HEADING_BYTES_MAX, Heading};
pub(super) use outbound::Outbox;
pub(super) use sockets::{DATAGRAM_BUFFER_BYTES, DATAGRAM_BUFFERS, DatagramSide, KeptDatagrams};
