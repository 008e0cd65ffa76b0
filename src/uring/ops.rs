//! Submissions: this file alone writes SQEs. Each function names one operation; what it points at is owned by the
//! caller in this room until the last completion.

use std::os::fd::RawFd;

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

use crate::ids::Interest;

use super::buffers::{DATAGRAM_GROUP, STREAM_GROUP};
use super::tag::Tag;

/// All operations in use, for the ring's restrictions.
pub(super) const OPCODES: [u8; 10] = [
    opcode::Read::CODE,
    opcode::AcceptMulti::CODE,
    opcode::Connect::CODE,
    opcode::RecvMulti::CODE,
    opcode::Send::CODE,
    opcode::PollAdd::CODE,
    opcode::AsyncCancel::CODE,
    opcode::Close::CODE,
    opcode::RecvMsgMulti::CODE,
    opcode::SendMsg::CODE,
];

/// All submission flags in use.
pub(super) const FLAGS: Flags = Flags::SKIP_SUCCESS.union(Flags::BUFFER_SELECT);

/// IORING_RECVSEND_POLL_FIRST.
const RECVSEND_POLL_FIRST: u16 = 1;

pub(super) fn doorbell(eventfd: RawFd, cell: *mut u64, tag: Tag) -> Entry {
    opcode::Read::new(types::Fd(eventfd), cell.cast(), 8)
        .build()
        .user_data(tag.pack())
}

/// Multishot, and without an address: one address cell shared by a batch would give all but the last client a wrong one.
pub(super) fn accept(listener: RawFd, tag: Tag) -> Entry {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    opcode::AcceptMulti::new(types::Fd(listener))
        .flags(flags)
        .build()
        .user_data(tag.pack())
}

pub(super) fn connect(
    socket: RawFd,
    address: *const libc::sockaddr,
    length: libc::socklen_t,
    tag: Tag,
) -> Entry {
    opcode::Connect::new(types::Fd(socket), address, length)
        .build()
        .user_data(tag.pack())
}

pub(super) fn receive(socket: RawFd, tag: Tag) -> Entry {
    opcode::RecvMulti::new(types::Fd(socket), STREAM_GROUP)
        .build()
        .user_data(tag.pack())
}

/// Ends within the submission, whatever the socket does: MSG_DONTWAIT keeps it from waiting for room, MSG_WAITALL makes a
/// short send a failure, and a failure alone is answered. So a send that has no completion when the submitting system
/// call returns was a whole one, and the many that are cost no completion at all.
pub(super) fn send(socket: RawFd, bytes: *const u8, length: u32, tag: Tag) -> Entry {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
    let send = opcode::Send::new(types::Fd(socket), bytes, length)
        .flags(flags)
        .build();
    send.flags(Flags::SKIP_SUCCESS).user_data(tag.pack())
}

/// Multishot. The kernel reads the layout at once and the buffers' place in it for ever. A socket that is known to be
/// empty is not looked into before the first datagram comes.
pub(super) fn receive_messages(
    socket: RawFd,
    layout: *const libc::msghdr,
    is_empty: bool,
    tag: Tag,
) -> Entry {
    opcode::RecvMsgMulti::new(types::Fd(socket), layout, DATAGRAM_GROUP)
        .ioprio(if is_empty { RECVSEND_POLL_FIRST } else { 0 })
        .build()
        .user_data(tag.pack())
}

/// One datagram, to the address given or a connected socket's peer. Like every send of datagrams it ends within the
/// submission, and only its failure is answered.
pub(super) fn send_datagram(
    socket: RawFd,
    (bytes, length): (*const u8, u32),
    (name, name_bytes): (*const libc::sockaddr, libc::socklen_t),
    tag: Tag,
) -> Entry {
    let send = opcode::Send::new(types::Fd(socket), bytes, length)
        .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        .dest_addr(name)
        .dest_addr_len(name_bytes)
        .build();
    send.flags(Flags::SKIP_SUCCESS).user_data(tag.pack())
}

pub(super) fn send_message(socket: RawFd, header: *const libc::msghdr, tag: Tag) -> Entry {
    let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).unsigned_abs();
    let send = opcode::SendMsg::new(types::Fd(socket), header)
        .flags(flags)
        .build();
    send.flags(Flags::SKIP_SUCCESS).user_data(tag.pack())
}

pub(super) fn poll(socket: RawFd, interest: Interest, tag: Tag) -> Entry {
    opcode::PollAdd::new(types::Fd(socket), asked(interest))
        .build()
        .user_data(tag.pack())
}

/// Multishot: answered by each change, until cancelled.
pub(super) fn poll_on(socket: RawFd, interest: Interest, tag: Tag) -> Entry {
    opcode::PollAdd::new(types::Fd(socket), asked(interest))
        .multi(true)
        .build()
        .user_data(tag.pack())
}

/// The events to ask for. The kernel adds error, hang-up, and the peer's end of stream.
pub(super) fn asked(interest: Interest) -> u32 {
    let events = match interest {
        Interest::HangUp => 0,
        Interest::Leave => libc::POLLRDHUP,
        Interest::Readable => libc::POLLIN | libc::POLLRDHUP,
        Interest::Writable => libc::POLLOUT,
    };
    u32::from(events.unsigned_abs())
}

/// Cancels the operation tagged `target`, whose own answer then comes.
pub(super) fn cancel(target: Tag, tag: Tag) -> Entry {
    let cancel = opcode::AsyncCancel::new(target.pack()).build();
    cancel.flags(Flags::SKIP_SUCCESS).user_data(tag.pack())
}

/// Cancels whatever is in flight in the ring.
pub(super) fn cancel_everything(tag: Tag) -> Entry {
    opcode::AsyncCancel2::new(types::CancelBuilder::any())
        .build()
        .user_data(tag.pack())
}

pub(super) fn close(socket: RawFd, tag: Tag) -> Entry {
    opcode::Close::new(types::Fd(socket))
        .build()
        .flags(Flags::SKIP_SUCCESS)
        .user_data(tag.pack())
}
