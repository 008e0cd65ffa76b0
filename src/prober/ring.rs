//! All that the prober wants of tokio-uring 0.5, and how it must be used: one-shot entries only (more than one answer
//! per entry panics it); entries reach the kernel when the thread parks, so nothing here may be waited for in a busy
//! loop; a dropped operation goes on in the kernel, so every operation is either answered or cancelled, and owns the
//! socket and the address that the kernel uses until then.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use io_uring_06::types::{CancelBuilder, Fd};
use io_uring_06::{cqueue, opcode};
use socket2::SockAddr;
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// Builds the ring for at most `in_flight_max` operations and the runtime around it, on the calling thread.
///
/// # Errors
/// The kernel's: io_uring is refused, or the limit on locked memory is too low.
pub fn runtime(in_flight_max: u32) -> io::Result<tokio_uring::Runtime> {
    let mut ring = tokio_uring::uring_builder();
    // No interrupt for a thread that sleeps anyway when it waits.
    ring.setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    builder.entries(in_flight_max).uring_builder(&ring);
    tokio_uring::Runtime::new(&builder)
}

/// What a connect works on, at rest until its answer is there.
#[derive(Debug)]
pub struct Connect {
    socket: OwnedFd,
    address: Box<SockAddr>,
}

#[derive(Debug)]
pub struct ConnectAnswer;

impl OneshotOutputTransform for ConnectAnswer {
    type Output = (io::Result<()>, OwnedFd);
    type StoredData = Connect;

    fn transform_oneshot_output(self, data: Connect, answer: cqueue::Entry) -> Self::Output {
        (result(&answer), data.socket)
    }
}

/// Connects `socket`; it comes back with the answer.
#[must_use]
pub fn connect(socket: OwnedFd, address: SockAddr) -> InFlightOneshot<Connect, ConnectAnswer> {
    let connect = Connect {
        socket,
        address: Box::new(address),
    };
    let entry = opcode::Connect::new(
        Fd(connect.socket.as_raw_fd()),
        connect.address.as_ptr().cast(),
        connect.address.len(),
    )
    .build();
    UnsubmittedOneshot::new(connect, ConnectAnswer, entry).submit()
}

/// What a send or a receive works on, at rest until its answer is there.
#[derive(Debug)]
pub struct Carry {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct CarryAnswer;

impl OneshotOutputTransform for CarryAnswer {
    type Output = (io::Result<usize>, OwnedFd, Vec<u8>);
    type StoredData = Carry;

    fn transform_oneshot_output(self, data: Carry, answer: cqueue::Entry) -> Self::Output {
        let count = result(&answer).map(|()| usize::try_from(answer.result()).unwrap_or(0));
        (count, data.socket, data.buffer)
    }
}

/// Receives into `buffer` from index `from` on, which must not be past its end; socket and buffer come back with the count
/// of bytes.
#[must_use]
pub fn receive(
    socket: OwnedFd,
    mut buffer: Vec<u8>,
    from: usize,
) -> InFlightOneshot<Carry, CarryAnswer> {
    let free = &mut buffer[from..];
    let length = u32::try_from(free.len()).unwrap_or(u32::MAX);
    let entry = opcode::Recv::new(Fd(socket.as_raw_fd()), free.as_mut_ptr(), length).build();
    UnsubmittedOneshot::new(Carry { socket, buffer }, CarryAnswer, entry).submit()
}

/// Sends `buffer` from index `from` on; it may take a part only.
#[must_use]
pub fn send(socket: OwnedFd, buffer: Vec<u8>, from: usize) -> InFlightOneshot<Carry, CarryAnswer> {
    let rest = &buffer[from..];
    let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
    let entry = opcode::Send::new(Fd(socket.as_raw_fd()), rest.as_ptr(), length)
        .flags(libc::MSG_NOSIGNAL)
        .build();
    UnsubmittedOneshot::new(Carry { socket, buffer }, CarryAnswer, entry).submit()
}

#[derive(Debug)]
pub struct CancelAnswer;

impl OneshotOutputTransform for CancelAnswer {
    type Output = io::Result<()>;
    type StoredData = ();

    fn transform_oneshot_output(self, (): (), answer: cqueue::Entry) -> io::Result<()> {
        result(&answer)
    }
}

/// Cancels every operation on `socket`, whose owner is one of them: its answer will come, cancelled or not.
pub fn cancel(socket: RawFd) -> InFlightOneshot<(), CancelAnswer> {
    submit_cancel(CancelBuilder::fd(Fd(socket)).all())
}

/// Cancels every operation of this ring.
pub fn cancel_all() -> InFlightOneshot<(), CancelAnswer> {
    submit_cancel(CancelBuilder::any())
}

#[derive(Debug)]
pub struct PollAnswer;

impl OneshotOutputTransform for PollAnswer {
    type Output = ();
    type StoredData = ();

    fn transform_oneshot_output(self, (): (), _answer: cqueue::Entry) {}
}

pub type Readable = InFlightOneshot<(), PollAnswer>;

/// Is answered once `descriptor` is readable, or when it is cancelled. The caller keeps it open until then.
pub fn readable(descriptor: RawFd) -> Readable {
    let events = libc::POLLIN.unsigned_abs().into();
    let entry = opcode::PollAdd::new(Fd(descriptor), events).build();
    UnsubmittedOneshot::new((), PollAnswer, entry).submit()
}

fn submit_cancel(which: CancelBuilder) -> InFlightOneshot<(), CancelAnswer> {
    let entry = opcode::AsyncCancel2::new(which).build();
    UnsubmittedOneshot::new((), CancelAnswer, entry).submit()
}

fn result(answer: &cqueue::Entry) -> io::Result<()> {
    match answer.result() {
        errno @ ..0 => Err(io::Error::from_raw_os_error(-errno)),
        _ => Ok(()),
    }
}
