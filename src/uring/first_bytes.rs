//! First bytes: looking at what a client has sent before it is read, and putting something before what a backend is sent.
//! Plain calls that never wait, for connections that ask for it; a client's bytes stay in the socket, so that one which
//! sends slowly holds no buffer.

use std::io;
use std::os::fd::AsFd;

use crate::ids::{Fault, StreamKey};
use crate::sys::stream as socket;

use super::door::PEEK_BYTES_MAX;
use super::outcome;
use super::ring::Ring;

impl Ring {
    pub(super) fn look_at(&mut self, stream: StreamKey, bytes_max: u32) -> Result<&[u8], Fault> {
        let Some(descriptor) = self.streams.socket(stream) else {
            return Ok(&[]);
        };
        let bytes_max = (bytes_max as usize).min(PEEK_BYTES_MAX);
        match socket::peek(descriptor, &mut self.glance[..bytes_max]) {
            Ok(count) => Ok(&self.glance[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(&[]),
            Err(error) => {
                let fault = outcome::fault_of(&error, descriptor);
                self.streams.note_fault(stream, fault);
                Err(fault)
            }
        }
    }

    /// The bytes are there, as a look has shown.
    pub(super) fn throw_away(&mut self, stream: StreamKey, bytes: u32) {
        let mut left = (bytes as usize).min(PEEK_BYTES_MAX);
        while left > 0
            && let Some(descriptor) = self.streams.socket(stream)
        {
            match socket::take(descriptor, &mut self.glance[..left]) {
                Ok(0) | Err(_) => return,
                Ok(taken) => left -= taken,
            }
        }
    }

    pub(super) fn put_first(&self, stream: StreamKey, bytes: &[u8]) -> bool {
        let sent = self
            .streams
            .socket(stream)
            .map(|descriptor| socket::send(descriptor.as_fd(), bytes));
        matches!(sent, Some(Ok(sent)) if sent as usize == bytes.len())
    }
}
