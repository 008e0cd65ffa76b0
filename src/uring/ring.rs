//! The real kernel behind the door: one ring of one worker, built and used on that worker's thread.
//!
//! One turn is one system call as a rule: submit what is queued, wait, copy the completions out. Only then are they
//! looked at. See `ops.rs` for what is submitted and `outcome.rs` for what answers mean.

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

use io_uring::register::Restriction;
use io_uring::squeue::Entry;
use io_uring::{IoUring, cqueue, types};
use socket2::SockAddr;

use crate::ids::{
    Address, ConnectFailure, Fault, Interest, Moved, ReceiveEnd, SessionKey, SocketId, StreamKey,
};
use crate::sys::{listen, stream};

use super::buffers::{Buffers, Parcel};
use super::door::{
    self, AcceptEnd, Answer, Incoming, Kernel, Outcome, Patience, Route, StartError,
};
use super::move_bytes::{self, PipeStock};
use super::ops;
use super::outcome;
use super::probe::Features;
use super::streams::Streams;
use super::tag::{self, Op, Tag};

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;

/// IORING_REGISTER_ENABLE_RINGS, the one register call left once the ring is restricted.
const REGISTER_ENABLE_RINGS: u8 = 12;

/// How large things are; all of it is allocated before the first turn.
#[derive(Clone, Copy, Debug)]
pub struct RingSize {
    pub slots_max: u32,
    /// Submissions queued between two system calls; more are submitted early.
    pub submissions: u32,
    /// The most operations in flight; at most 65,536, the kernel's limit.
    pub completions: u32,
    /// A power of two.
    pub buffers: u16,
    pub buffer_bytes: u32,
    pub pipes_max: usize,
}

/// A send that the kernel has, or will have with the next submission.
#[derive(Debug)]
struct Flight {
    stream: StreamKey,
    parcel: Option<Parcel>,
    /// Number of the submission, counted from the ring's start.
    submission: u64,
    /// The answer, if there was one: bytes sent, or -errno.
    failed: Option<i32>,
}

#[derive(Debug)]
struct Listening {
    id: SocketId,
    socket: OwnedFd,
}

/// A ring and all it points at. Fields are in the order in which they are given up: the ring first.
pub struct Ring {
    io: ManuallyDrop<IoUring>,
    buffers: ManuallyDrop<Buffers>,
    streams: ManuallyDrop<Streams>,
    doorbell_cell: ManuallyDrop<Box<u64>>,
    doorbell: OwnedFd,
    listeners: Vec<Listening>,
    stock: PipeStock,
    flights: Vec<Flight>,
    /// Submissions queued so far, over the ring's life.
    queued: u64,
    /// Operations that owe a last completion.
    in_flight: usize,
    completions: Vec<(u64, i32, u32)>,
    overflow_seen: u32,
    overflowed: bool,
    stale: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Ring")
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

/// What every ring of ours is set up with.
pub(super) fn required_flags(builder: &mut io_uring::Builder) {
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_r_disabled()
        .setup_submit_all();
}

impl Ring {
    /// Builds a ring for the calling thread, which alone may use it. `doorbell` is the eventfd that wakes it.
    ///
    /// # Errors
    /// Names the step that failed and the remedy.
    pub fn build(
        size: RingSize,
        features: Features,
        doorbell: BorrowedFd<'_>,
    ) -> Result<Ring, StartError> {
        assert!(
            size.slots_max <= tag::SLOTS_MAX,
            "more slots than a tag can name"
        );
        let mut builder = IoUring::builder();
        required_flags(&mut builder);
        builder.setup_clamp().setup_cqsize(size.completions);
        if features.no_sqarray {
            builder.setup_no_sqarray();
        }
        let io = builder
            .build(size.submissions)
            .map_err(StartError::at("setting up a ring"))?;
        let mut buffers = Buffers::new(size.buffers, size.buffer_bytes)
            .map_err(StartError::at("allocating buffers"))?;
        buffers
            .register(&io)
            .map_err(StartError::at("registering buffers"))?;
        restrict(&io).map_err(StartError::at("restricting the ring"))?;
        io.submitter()
            .register_enable_rings()
            .map_err(StartError::at("enabling the ring"))?;
        let doorbell = doorbell
            .try_clone_to_owned()
            .map_err(StartError::at("duplicating the doorbell"))?;
        let mut ring = Ring {
            io: ManuallyDrop::new(io),
            buffers: ManuallyDrop::new(buffers),
            streams: ManuallyDrop::new(Streams::new(size.slots_max)),
            doorbell_cell: ManuallyDrop::new(Box::new(0)),
            doorbell,
            listeners: Vec::with_capacity(64),
            stock: PipeStock::new(size.pipes_max),
            flights: Vec::with_capacity(size.submissions as usize * 2),
            queued: 0,
            in_flight: 0,
            completions: Vec::with_capacity(size.completions.min(16_384) as usize),
            overflow_seen: 0,
            overflowed: false,
            stale: 0,
        };
        ring.listen_to_doorbell();
        Ok(ring)
    }

    /// Provided buffers in all.
    #[must_use]
    pub fn buffers_total(&self) -> usize {
        usize::from(self.buffers.count())
    }

    fn listen_to_doorbell(&mut self) {
        let cell = std::ptr::from_mut(&mut **self.doorbell_cell);
        self.push(
            &ops::doorbell(self.doorbell.as_raw_fd(), cell, Tag::house(Op::Doorbell, 0)),
            true,
        );
    }

    /// Queues a submission; `answered` if it owes a last completion. A full queue is submitted early, without waiting.
    fn push(&mut self, entry: &Entry, answered: bool) {
        // SAFETY: `ops.rs` made the entry; what it points at (buffers, address cells, the doorbell's cell) lives in this
        // room until the operation's last completion, and descriptors stay open until their operations are answered.
        while unsafe { self.io.submission().push(entry) }.is_err() {
            self.enter(Patience::None);
        }
        self.queued += 1;
        self.in_flight += usize::from(answered);
    }

    fn push_stream(&mut self, op: Op, stream: StreamKey, build: impl FnOnce(i32, Tag) -> Entry) {
        match self.streams.raw(stream) {
            Some(socket) => self.push(&build(socket, Tag::stream(op, stream)), true),
            None => self.stale += 1,
        }
    }

    fn cancel(&mut self, op: Op, stream: StreamKey) {
        self.push(
            &ops::cancel(Tag::stream(op, stream), Tag::stream(Op::Cancel, stream)),
            false,
        );
    }

    fn enter(&mut self, patience: Patience) {
        let to_submit = self.io.submission().len() as u32;
        let submitter = self.io.submitter();
        let min_complete = u32::from(patience != Patience::None);
        // An interrupted or timed-out wait, and a busy kernel, all mean: look again. What was submitted is told by the
        // queue's head, not by this answer.
        let answer = if let Patience::Nanoseconds(nanoseconds) = patience {
            let timeout = types::Timespec::from(Duration::from_nanos(nanoseconds));
            let arguments = types::SubmitArgs::new().timespec(&timeout);
            // SAFETY: the flags announce the extended argument that is passed; it and the timespec live until the call ends.
            unsafe {
                submitter.enter(
                    to_submit,
                    min_complete,
                    ENTER_GETEVENTS | ENTER_EXT_ARG,
                    Some(&arguments),
                )
            }
        } else {
            // SAFETY: no argument is passed.
            unsafe {
                submitter.enter::<libc::sigset_t>(to_submit, min_complete, ENTER_GETEVENTS, None)
            }
        };
        debug_assert!(
            answer.as_ref().map_or_else(is_transient, |_| true),
            "io_uring_enter refused: {answer:?}"
        );
    }

    /// Copies all completions out of the shared queue before any is looked at.
    fn collect(&mut self) {
        self.completions.clear();
        let queue = self.io.completion();
        let overflow = queue.overflow();
        self.completions
            .extend(queue.map(|entry| (entry.user_data(), entry.result(), entry.flags())));
        if overflow != self.overflow_seen || self.io.submission().cq_overflow() {
            self.overflow_seen = overflow;
            self.overflowed = true;
        }
    }

    /// Answers every send that has been submitted: those with a completion failed or were short, all others were whole.
    fn settle_flights(&mut self, outcomes: &mut Vec<Outcome>) {
        if self.flights.is_empty() {
            return;
        }
        for &(bits, result, _) in &self.completions {
            if let Some(Tag {
                op: Op::Send,
                buffer,
                ..
            }) = Tag::unpack(bits)
            {
                let parcel_is = |flight: &&mut Flight| {
                    flight.parcel.as_ref().is_some_and(|it| it.buffer == buffer)
                };
                if let Some(flight) = self.flights.iter_mut().find(parcel_is) {
                    flight.failed = Some(result);
                }
            }
        }
        let unsubmitted = self.io.submission().len() as u64;
        let settled = self
            .flights
            .iter()
            .take_while(|it| it.submission < self.queued - unsubmitted)
            .count();
        for flight in self.flights.drain(..settled) {
            let Some(parcel) = flight.parcel else {
                continue;
            };
            let answer = match flight.failed {
                None => {
                    self.buffers.give_back(parcel.buffer);
                    Answer::Sent(parcel.length)
                }
                Some(result) if result >= 0 => {
                    Answer::SentShort(result.unsigned_abs(), parcel.without(result.unsigned_abs()))
                }
                Some(result) if matches!(-result, libc::EAGAIN | libc::EINTR | libc::ECANCELED) => {
                    Answer::SentShort(0, parcel)
                }
                Some(result) => {
                    self.buffers.give_back(parcel.buffer);
                    let fault = |socket| outcome::fault(-result, socket);
                    Answer::SendBroken(
                        self.streams
                            .socket(flight.stream)
                            .map_or(Fault::Reset, fault),
                    )
                }
            };
            outcomes.push(Outcome::Stream(flight.stream, answer));
        }
    }

    fn read(&mut self, bits: u64, result: i32, flags: u32, outcomes: &mut Vec<Outcome>) {
        let Some(tag) = Tag::unpack(bits) else {
            self.stale += 1;
            return;
        };
        let last = !cqueue::more(flags);
        match tag.op {
            Op::Send | Op::Cancel | Op::Close => return,
            Op::Doorbell => {
                self.listen_to_doorbell();
                outcomes.push(Outcome::Doorbell);
            }
            Op::Accept => read_accept(
                SocketId(tag.stream.session.slot.0 as u16),
                result,
                last,
                outcomes,
            ),
            Op::Connect | Op::Receive | Op::HangUp | Op::Leave | Op::Readable | Op::Writable => {
                self.read_stream(tag, result, flags, outcomes);
            }
        }
        self.in_flight -= usize::from(last);
    }

    fn read_stream(&mut self, tag: Tag, result: i32, flags: u32, outcomes: &mut Vec<Outcome>) {
        let stream = tag.stream;
        let buffer = cqueue::buffer_select(flags);
        let Some(socket) = self.streams.socket(stream) else {
            // A late answer for a session that is gone: the contract says there is none.
            self.stale += 1;
            if let Some(buffer) = buffer {
                self.buffers.taken(buffer, 0);
                self.buffers.give_back(buffer);
            }
            return;
        };
        let mut tell = |answer| outcomes.push(Outcome::Stream(stream, answer));
        match tag.op {
            Op::Connect => tell(match result {
                0 => Answer::Connected,
                _ => outcome::connect_failure(-result)
                    .map_or(Answer::ConnectCancelled, Answer::ConnectFailed),
            }),
            Op::Receive => {
                let end = (!cqueue::more(flags)).then(|| match result {
                    1.. => ReceiveEnd::Stopped,
                    _ => outcome::receive_end(result, socket),
                });
                match buffer {
                    Some(buffer) if result > 0 => {
                        tell(Answer::Received(
                            self.buffers.taken(buffer, result.unsigned_abs()),
                        ));
                    }
                    Some(buffer) => {
                        self.buffers.taken(buffer, 0);
                        self.buffers.give_back(buffer);
                    }
                    None => {}
                }
                if let Some(end) = end {
                    tell(Answer::ReceiveEnded(end));
                }
            }
            Op::HangUp => tell(poll_answer(Interest::HangUp, result, socket)),
            Op::Leave => tell(poll_answer(Interest::Leave, result, socket)),
            Op::Readable => tell(poll_answer(Interest::Readable, result, socket)),
            Op::Writable => tell(poll_answer(Interest::Writable, result, socket)),
            Op::Doorbell | Op::Accept | Op::Send | Op::Cancel | Op::Close => {}
        }
    }

    fn listener(&self, id: SocketId) -> Option<&Listening> {
        self.listeners.iter().find(|listening| listening.id == id)
    }
}

fn is_transient(error: &io::Error) -> bool {
    let errno = error.raw_os_error().unwrap_or(0);
    matches!(
        errno,
        libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN | libc::ENOMEM
    )
}

fn poll_answer(interest: Interest, result: i32, socket: BorrowedFd<'_>) -> Answer {
    if result < 0 {
        Answer::PollEnded(interest)
    } else {
        Answer::Ready(interest, outcome::condition(interest, result, socket))
    }
}

fn read_accept(id: SocketId, result: i32, last: bool, outcomes: &mut Vec<Outcome>) {
    if result >= 0 {
        // SAFETY: an accept's completion hands over a fresh descriptor that nobody else owns.
        outcomes.push(Outcome::Accepted(
            id,
            Incoming(unsafe { OwnedFd::from_raw_fd(result) }),
        ));
    }
    if last {
        let end = if result >= 0 {
            AcceptEnd::Retry
        } else {
            outcome::accept_end(result)
        };
        outcomes.push(Outcome::AcceptEnded(id, end));
    }
}

fn restrict(io: &IoUring) -> io::Result<()> {
    let mut rules: Vec<Restriction> = ops::OPCODES
        .iter()
        .map(|&code| Restriction::sqe_op(code))
        .collect();
    rules.push(Restriction::sqe_flags_allowed(ops::FLAGS.bits()));
    rules.push(Restriction::register_op(REGISTER_ENABLE_RINGS));
    io.submitter().register_restrictions(&mut rules)
}

impl Kernel for Ring {
    fn turn(&mut self, patience: Patience, outcomes: &mut Vec<Outcome>) {
        self.buffers.publish();
        self.enter(patience);
        self.collect();
        self.settle_flights(outcomes);
        for index in 0..self.completions.len() {
            let (bits, result, flags) = self.completions[index];
            self.read(bits, result, flags, outcomes);
        }
    }

    fn overflowed(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }

    fn open_listener(&mut self, id: SocketId, socket: BorrowedFd<'_>) -> io::Result<()> {
        let socket = socket.try_clone_to_owned()?;
        self.listeners.push(Listening { id, socket });
        Ok(())
    }

    fn accept(&mut self, id: SocketId) {
        if let Some(socket) = self
            .listener(id)
            .map(|listening| listening.socket.as_raw_fd())
        {
            self.push(
                &ops::accept(socket, Tag::house(Op::Accept, u32::from(id.0))),
                true,
            );
        }
    }

    fn stop_accept(&mut self, id: SocketId) {
        let target = Tag::house(Op::Accept, u32::from(id.0));
        self.push(&ops::cancel(target, Tag::house(Op::Cancel, 0)), false);
    }

    fn accept_now(&mut self, id: SocketId) -> Option<Incoming> {
        let socket = self.listener(id)?.socket.as_fd();
        listen::accept(socket).ok().map(Incoming)
    }

    fn close_listener(&mut self, id: SocketId) {
        self.listeners.retain(|listening| listening.id != id);
    }

    fn peer_address(&self, incoming: &Incoming) -> Option<SocketAddr> {
        stream::peer_address(incoming.0.as_fd()).ok().flatten()
    }

    fn refuse(&mut self, incoming: Incoming) {
        // Without linger the close is a FIN: worse, but still an answer.
        let _ = stream::set_reset_on_close(incoming.0.as_fd());
        self.push(
            &ops::close(incoming.0.into_raw_fd(), Tag::house(Op::Close, 0)),
            false,
        );
    }

    fn attach(&mut self, session: SessionKey, incoming: Incoming) {
        self.streams.move_in(session, incoming.0);
    }

    fn connect(&mut self, session: SessionKey, route: Route<'_>) -> Result<(), ConnectFailure> {
        let failure = |error: io::Error| {
            outcome::connect_failure(error.raw_os_error().unwrap_or(0))
                .unwrap_or(ConnectFailure::Other)
        };
        let socket = stream::outbound(route.address, route.source).map_err(failure)?;
        let address = match route.address {
            Address::Inet(address) => {
                // A kernel that refuses one of these options still carries the session.
                let _ = stream::set_nodelay(socket.as_fd());
                if route.user_timeout_ms > 0 {
                    let _ = stream::set_user_timeout(socket.as_fd(), route.user_timeout_ms);
                }
                SockAddr::from(*address)
            }
            Address::Unix(path) => SockAddr::unix(path).map_err(failure)?,
        };
        let raw = socket.as_raw_fd();
        self.streams.put(door::backend(session), socket);
        let cell = self.streams.keep_address(session, address);
        let (pointer, length) = (cell.as_ptr().cast(), cell.len());
        self.push(
            &ops::connect(
                raw,
                pointer,
                length,
                Tag::stream(Op::Connect, door::backend(session)),
            ),
            true,
        );
        Ok(())
    }

    fn cancel_connect(&mut self, session: SessionKey) {
        self.cancel(Op::Connect, door::backend(session));
    }

    fn receive(&mut self, stream: StreamKey) {
        self.push_stream(Op::Receive, stream, ops::receive);
    }

    fn stop_receive(&mut self, stream: StreamKey) {
        self.cancel(Op::Receive, stream);
    }

    fn send(&mut self, stream: StreamKey, parcel: Parcel) {
        let Some(socket) = self.streams.raw(stream) else {
            self.stale += 1;
            self.buffers.give_back(parcel.buffer);
            return;
        };
        let tag = Tag {
            buffer: parcel.buffer,
            ..Tag::stream(Op::Send, stream)
        };
        self.push(
            &ops::send(socket, self.buffers.address(&parcel), parcel.length, tag),
            false,
        );
        self.flights.push(Flight {
            stream,
            parcel: Some(parcel),
            submission: self.queued - 1,
            failed: None,
        });
    }

    fn poll(&mut self, stream: StreamKey, interest: Interest) {
        self.push_stream(Op::from(interest), stream, |socket, tag| {
            ops::poll(socket, interest, tag)
        });
    }

    fn cancel_poll(&mut self, stream: StreamKey, interest: Interest) {
        self.cancel(Op::from(interest), stream);
    }

    fn close(&mut self, stream: StreamKey, reset: bool) {
        if let Some(socket) = self.streams.take(stream) {
            if reset {
                let _ = stream::set_reset_on_close(socket.as_fd());
            }
            self.push(
                &ops::close(socket.into_raw_fd(), Tag::stream(Op::Close, stream)),
                false,
            );
        }
    }

    fn release(&mut self, parcel: Parcel) {
        self.buffers.give_back(parcel.buffer);
    }

    fn buffers_free(&self) -> usize {
        usize::from(self.buffers.free())
    }

    fn stash(&mut self, stream: StreamKey, parcel: Parcel) -> (u32, Option<Parcel>) {
        let stashed = move_bytes::stash(
            &mut self.streams,
            &mut self.stock,
            stream,
            self.buffers.bytes(&parcel),
        );
        if stashed == parcel.length {
            self.buffers.give_back(parcel.buffer);
            (stashed, None)
        } else {
            (stashed, Some(parcel.without(stashed)))
        }
    }

    fn move_bytes(&mut self, stream: StreamKey, fill: bool) -> Moved {
        move_bytes::move_bytes(&mut self.streams, &mut self.stock, stream, fill)
    }

    fn drop_pipe(&mut self, stream: StreamKey) {
        if let Some(loan) = self.streams.take_loan(stream) {
            self.stock.take_back(loan);
        }
    }

    fn pipes_open(&self) -> usize {
        self.stock.open()
    }

    fn finish(&mut self, stream: StreamKey) {
        if let Some(socket) = self.streams.socket(stream) {
            // It fails only for a stream that broke meanwhile, which its receive or poll will tell.
            let _ = stream::shutdown_write(socket);
        }
    }

    fn set_watermark(&mut self, stream: StreamKey, bytes: u32) {
        if let Some(socket) = self.streams.socket(stream) {
            let _ = stream::set_receive_low_water(socket, bytes);
        }
    }

    fn set_keepalive(&mut self, stream: StreamKey, idle_s: u32, interval_s: u32, count: u32) {
        if let Some(socket) = self.streams.socket(stream) {
            let keepalive = crate::sys::Keepalive {
                idle_s,
                interval_s,
                count,
            };
            let _ = stream::set_keepalive(socket, Some(keepalive));
        }
    }

    fn tcp_info(&self, stream: StreamKey) -> (u32, u32) {
        let info = self
            .streams
            .socket(stream)
            .and_then(|socket| stream::tcp_info(socket).ok());
        info.map_or((0, 0), |info| (info.rtt_us, info.retransmits))
    }

    fn vacate(&mut self, session: SessionKey) {
        self.streams.move_out(session);
    }

    fn stale_answers(&self) -> u64 {
        self.stale
    }
}

impl Drop for Ring {
    /// Cancels everything and waits for the answers; then the ring goes, then what it pointed at. If the kernel does not
    /// answer in time, the buffers are leaked rather than freed under its hands.
    fn drop(&mut self) {
        self.push(&ops::cancel_everything(Tag::house(Op::Cancel, 0)), false);
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.in_flight > 0 && Instant::now() < deadline {
            self.enter(Patience::Nanoseconds(50_000_000));
            self.collect();
            for index in 0..self.completions.len() {
                let (bits, _, flags) = self.completions[index];
                let counted = Tag::unpack(bits)
                    .is_some_and(|tag| !matches!(tag.op, Op::Send | Op::Cancel | Op::Close));
                self.in_flight -= usize::from(counted && !cqueue::more(flags));
            }
        }
        let quiet = self.in_flight == 0;
        // SAFETY: the fields are dropped here once and never used again; the ring goes before what it points at.
        unsafe {
            ManuallyDrop::drop(&mut self.io);
            if quiet {
                ManuallyDrop::drop(&mut self.buffers);
                ManuallyDrop::drop(&mut self.streams);
                ManuallyDrop::drop(&mut self.doorbell_cell);
            }
        }
    }
}
