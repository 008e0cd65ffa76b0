//! The 64 bits that travel with an operation and come back with its completions: which operation, for which slot in
//! which generation, on which side, with which buffer.
//!
//! ```text
//! 63      58 57    56 55          40 39          24 23           0
//! operation | side   | generation   | buffer       | slot
//! ```

use crate::ids::{Interest, SessionKey, Side, Slot, SocketId, StreamKey};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    Doorbell,
    /// The slot is the listening socket's id.
    Accept,
    Connect,
    Receive,
    Send,
    HangUp,
    Leave,
    Readable,
    Writable,
    /// Its answer says nothing: the cancelled operation's own does.
    Cancel,
    Close,
    /// On a listener's socket for datagrams; the slot is its id.
    DatagramReceive,
    /// The slot is the seat's number, the buffer's place has the seat's life.
    FlowReceive,
    /// The slot is the number of the cell.
    DatagramSend,
}

const OPS: [Op; 14] = [
    Op::Doorbell,
    Op::Accept,
    Op::Connect,
    Op::Receive,
    Op::Send,
    Op::HangUp,
    Op::Leave,
    Op::Readable,
    Op::Writable,
    Op::Cancel,
    Op::Close,
    Op::DatagramReceive,
    Op::FlowReceive,
    Op::DatagramSend,
];

impl From<Interest> for Op {
    fn from(interest: Interest) -> Op {
        match interest {
            Interest::HangUp => Op::HangUp,
            Interest::Leave => Op::Leave,
            Interest::Readable => Op::Readable,
            Interest::Writable => Op::Writable,
        }
    }
}

/// Slots must fit into 24 bits.
pub(super) const SLOTS_MAX: u32 = 1 << 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) op: Op,
    pub(super) stream: StreamKey,
    pub(super) buffer: u16,
}

impl Tag {
    pub(super) fn stream(op: Op, stream: StreamKey) -> Tag {
        Tag {
            op,
            stream,
            buffer: 0,
        }
    }

    /// For operations that belong to no session; `number` takes the slot's place.
    pub(super) fn house(op: Op, number: u32) -> Tag {
        let session = SessionKey {
            slot: Slot(number),
            generation: 0,
        };
        Tag {
            op,
            stream: StreamKey {
                session,
                side: Side::Client,
            },
            buffer: 0,
        }
    }

    /// For the receive of a flow's socket: where it sits, and in which life of that seat.
    pub(super) fn seat(seat: u32, life: u16) -> Tag {
        Tag {
            buffer: life,
            ..Tag::house(Op::FlowReceive, seat)
        }
    }

    /// Of a receive that [`Tag::seat`] tagged.
    pub(super) fn seat_number(self) -> u32 {
        self.stream.session.slot.0
    }

    /// Of an operation on a listener's socket.
    pub(super) fn socket(self) -> SocketId {
        SocketId(self.stream.session.slot.0 as u16)
    }

    pub(super) fn pack(self) -> u64 {
        (self.op as u64) << 58
            | (self.stream.side as u64) << 56
            | u64::from(self.stream.session.generation) << 40
            | u64::from(self.buffer) << 24
            | u64::from(self.stream.session.slot.0)
    }

    /// `None` for bits that no operation of ours was tagged with.
    pub(super) fn unpack(bits: u64) -> Option<Tag> {
        let op = *OPS.get((bits >> 58) as usize)?;
        let side = if bits >> 56 & 3 == 0 {
            Side::Client
        } else {
            Side::Backend
        };
        let session = SessionKey {
            slot: Slot((bits & 0xff_ffff) as u32),
            generation: (bits >> 40 & 0xffff) as u16,
        };
        Some(Tag {
            op,
            stream: StreamKey { session, side },
            buffer: (bits >> 24 & 0xffff) as u16,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_packed_comes_back(op in 0usize..OPS.len(), slot in 0..SLOTS_MAX, generation: u16, buffer: u16, backend: bool) {
            let side = if backend { Side::Backend } else { Side::Client };
            let session = SessionKey { slot: Slot(slot), generation };
            let tag = Tag { op: OPS[op], stream: StreamKey { session, side }, buffer };
            prop_assert_eq!(Tag::unpack(tag.pack()), Some(tag));
        }

        #[test]
        fn any_bits_are_a_tag_or_none(bits: u64) {
            let _ = Tag::unpack(bits);
        }
    }

    #[test]
    fn operations_are_listed_in_the_order_of_their_numbers() {
        for (number, op) in OPS.iter().enumerate() {
            assert_eq!(*op as usize, number);
        }
    }
}
