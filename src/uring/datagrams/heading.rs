//! Bytes of our own that go ahead of a client's in the same datagram, towards a backend: a PROXY header. They are copied
//! into the send's cell, so that the kernel finds them where the rest of the send is.

/// The longest there is: a PROXY header of version 2 with IPv6 addresses.
pub const HEADING_BYTES_MAX: usize = 16 + 36;

/// Ahead of which datagrams the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heading<'a> {
    Nothing,
    /// Of the first of them only.
    First(&'a [u8]),
    Each(&'a [u8]),
}

/// A heading's copy, of fixed size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    bytes: [u8; HEADING_BYTES_MAX],
    length: u8,
}

impl Head {
    pub(super) const NONE: Head = Head {
        bytes: [0; HEADING_BYTES_MAX],
        length: 0,
    };

    /// `bytes` are at most [`HEADING_BYTES_MAX`].
    pub(super) fn of(bytes: &[u8]) -> Head {
        let mut head = Head::NONE;
        head.bytes[..bytes.len()].copy_from_slice(bytes);
        head.length = bytes.len() as u8;
        head
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    pub(super) fn length(&self) -> u32 {
        u32::from(self.length)
    }
}
