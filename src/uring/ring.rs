//! The real kernel behind the door: one ring of one worker, built and used on that worker's thread.
//!
//! One turn is one system call as a rule: submit what is queued, wait, copy the completions out. Only then are they
//! looked at. See `ops.rs` for what is submitted and `outcome.rs` for what answers mean.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use io_uring::squeue::Entry;
use io_uring::{IoUring, types};

use crate::ids::{SocketId, StreamKey};

use super::buffers::{Buffers, Parcel};
use super::datagrams::KeptDatagrams;
use super::door::Patience;
use super::move_bytes::PipeStock;
use super::ops;
use super::outcome::{self, Completion, Unsent};
use super::streams::Streams;
use super::tag::{Op, Tag};

pub(super) const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
/// IORING_ENTER_NO_IOWAIT (Linux 6.15).
pub(super) const ENTER_NO_IOWAIT: u32 = 1 << 7;

/// How to wait: struct io_uring_getevents_arg.
#[repr(C)]
struct Wait<'a> {
    signals: u64,
    signals_bytes: u32,
    /// After so many microseconds one answer is enough.
    min_wait_us: u32,
    timeout: Option<&'a types::Timespec>,
}

impl<'a> Wait<'a> {
    fn new(min_wait_us: u32, timeout: Option<&'a types::Timespec>) -> Wait<'a> {
        Wait {
            signals: 0,
            signals_bytes: 0,
            min_wait_us,
            timeout,
        }
    }
}

/// How long to leave a kernel alone that has nothing left for a submission.
const SHORTAGE_REST: Duration = Duration::from_millis(1);

/// A send that the kernel has, or will have with the next submission.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) stream: StreamKey,
    pub(super) parcel: Parcel,
    /// Number of the submission, counted from the ring's start.
    pub(super) submission: u64,
}

#[derive(Debug)]
pub(super) struct Listening {
    pub(super) id: SocketId,
    pub(super) socket: OwnedFd,
}

/// A ring and all it points at. Fields are in the order in which they are given up: the ring first.
pub struct Ring {
    pub(super) io: ManuallyDrop<IoUring>,
    pub(super) buffers: ManuallyDrop<Buffers>,
    pub(super) datagrams: KeptDatagrams,
    pub(super) streams: ManuallyDrop<Streams>,
    pub(super) doorbell_cell: ManuallyDrop<Box<u64>>,
    pub(super) doorbell: OwnedFd,
    pub(super) listeners: Vec<Listening>,
    pub(super) stock: PipeStock,
    pub(super) flights: Vec<Flight>,
    /// Where first bytes are looked at.
    pub(super) glance: Box<[u8]>,
    /// By buffer: the answer of the send that has it, if there was one.
    pub(super) unsent: Box<[Option<Unsent>]>,
    /// Submissions queued so far, over the ring's life.
    pub(super) queued: u64,
    /// How each turn enters the kernel.
    pub(super) enter_flags: u32,
    /// Operations that owe a last completion.
    pub(super) in_flight: usize,
    pub(super) completions: Vec<Completion>,
    /// The kernel may have answered since the answers were copied out.
    pub(super) unread_answers: bool,
    pub(super) overflow_seen: u32,
    /// The kernel has dropped answers, see [`Ring::lose_nothing`].
    pub(super) lost: bool,
    pub(super) overflowed: bool,
    pub(super) stale: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Ring")
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// Provided buffers in all.
    #[must_use]
    pub fn buffers_total(&self) -> usize {
        usize::from(self.buffers.count())
    }

    pub(super) fn listen_to_doorbell(&mut self) {
        let cell = std::ptr::from_mut(&mut **self.doorbell_cell);
        self.push(
            &ops::doorbell(self.doorbell.as_raw_fd(), cell, Tag::house(Op::Doorbell, 0)),
            true,
        );
    }

    /// Queues a submission; `answered` if it owes a last completion. A full queue is submitted early, without waiting.
    pub(super) fn push(&mut self, entry: &Entry, answered: bool) {
        // SAFETY: `ops.rs` made the entry; what it points at (buffers, address cells, the doorbell's cell) lives in this
        // room until the operation's last completion, and descriptors stay open until their operations are answered.
        while unsafe { self.io.submission().push(entry) }.is_err() {
            self.enter(Patience::None);
        }
        self.queued += 1;
        self.in_flight += usize::from(answered);
    }

    pub(super) fn push_stream(
        &mut self,
        op: Op,
        stream: StreamKey,
        build: impl FnOnce(i32, Tag) -> Entry,
    ) {
        match self.streams.raw(stream) {
            Some(socket) => self.push(&build(socket, Tag::stream(op, stream)), true),
            None => self.stale += 1,
        }
    }

    pub(super) fn cancel(&mut self, op: Op, stream: StreamKey) {
        self.push(
            &ops::cancel(Tag::stream(op, stream), Tag::stream(Op::Cancel, stream)),
            false,
        );
    }

    pub(super) fn enter(&mut self, patience: Patience) {
        self.enter_for(patience, 0);
    }

    /// As [`Ring::enter`]; a wait goes on for `window_us` microseconds unless there are two answers before.
    pub(super) fn enter_for(&mut self, patience: Patience, window_us: u32) {
        let to_submit = self.io.submission().len() as u32;
        self.enter_with(to_submit, patience, window_us);
    }

    pub(super) fn enter_with(&mut self, to_submit: u32, patience: Patience, window_us: u32) {
        self.unread_answers = true;
        let timeout = match patience {
            Patience::Nanoseconds(nanoseconds) => {
                Some(types::Timespec::from(Duration::from_nanos(nanoseconds)))
            }
            Patience::None | Patience::Endless => None,
        };
        let min_complete = match patience {
            Patience::None => 0,
            _ if window_us > 0 => 2,
            _ => 1,
        };
        let answer = if min_complete > 0 && (window_us > 0 || timeout.is_some()) {
            self.wait_as(
                to_submit,
                min_complete,
                &Wait::new(window_us, timeout.as_ref()),
            )
        } else {
            // SAFETY: no argument is passed.
            unsafe {
                self.io.submitter().enter::<Wait<'_>>(
                    to_submit,
                    min_complete,
                    self.enter_flags,
                    None,
                )
            }
        };
        // An interrupted or timed-out wait, and a busy kernel, all mean: look again. What was submitted is told by the
        // queue's head, not by this answer. Anything else could only be met by trying again forever.
        assert!(
            answer.as_ref().map_or_else(outcome::is_transient, |_| true),
            "io_uring_enter refused: {answer:?}"
        );
        if to_submit > 0 && answer.as_ref().is_err_and(outcome::is_shortage) {
            self.rest();
        }
    }

    fn wait_as(&self, to_submit: u32, min_complete: u32, wait: &Wait<'_>) -> io::Result<usize> {
        let flags = self.enter_flags | ENTER_EXT_ARG;
        // SAFETY: the flags announce the extended argument that is passed; it and the timespec live until the call ends.
        unsafe {
            self.io
                .submitter()
                .enter(to_submit, min_complete, flags, Some(wait))
        }
    }

    /// The kernel has no memory for what is submitted now: trying again at once would spin as long as that lasts. Waits for
    /// a completion beyond those that are there already.
    pub(super) fn rest(&mut self) {
        let ready = self.io.completion().len() as u32;
        let timeout = types::Timespec::from(SHORTAGE_REST);
        let wait = Wait::new(0, Some(&timeout));
        let _ = self.wait_as(0, ready + 1, &wait);
    }

    /// Copies all completions out of the shared queue before any is looked at, and those in the kernel's backlog, too:
    /// a send without an answer passes for a whole one, so none may be overlooked.
    pub(super) fn collect(&mut self) {
        self.completions.clear();
        self.collect_more();
    }

    pub(super) fn collect_more(&mut self) {
        self.copy_out();
        while self.io.submission().cq_overflow() {
            self.overflowed = true;
            self.enter_with(0, Patience::None, 0);
            self.copy_out();
        }
        self.unread_answers = false;
    }

    fn copy_out(&mut self) {
        let queue = self.io.completion();
        let overflow = queue.overflow();
        self.completions.extend(queue.map(Completion::from));
        if overflow != self.overflow_seen {
            self.overflow_seen = overflow;
            self.overflowed = true;
            self.lost = true;
        }
    }

    /// Ends the process if the kernel has dropped an answer: nobody can tell whose it was. Were it an accept's, that door
    /// would stay shut; were it a receive's, there would be a hole in a stream or a session that waits for ever, and a
    /// cancel of it would find nothing; so nothing here could be trusted any more, and whoever looks after the process
    /// starts it anew.
    ///
    /// It takes two things at once. First an overflow, which is legal: FEAT_NODROP keeps what the queue cannot hold in a
    /// backlog. Then the kernel must fail to allocate the few bytes for one more answer there (io_alloc_ocqe in
    /// io_uring/io_uring.c): since Linux 6.16 with GFP_KERNEL for rings with DEFER_TASKRUN, where so small a request fails
    /// only for a task that is being killed for want of memory; before, with GFP_ATOMIC, when the reserves are gone, too.
    pub(super) fn lose_nothing(&self) {
        assert!(
            !self.lost,
            "the kernel had no memory for {} answers of io_uring and dropped them; give this machine, or this service's \
             cgroup, more",
            self.overflow_seen
        );
    }

    pub(super) fn listener(&self, id: SocketId) -> Option<&Listening> {
        self.listeners.iter().find(|listening| listening.id == id)
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
            for completion in self.completions.drain(..) {
                self.in_flight -= usize::from(completion.is_owed());
                completion.discard();
            }
        }
        let quiet = self.in_flight == 0;
        // SAFETY: the fields are dropped here once and never used again; the ring goes before what it points at.
        unsafe {
            ManuallyDrop::drop(&mut self.io);
            if quiet {
                ManuallyDrop::drop(&mut self.buffers);
                ManuallyDrop::drop(&mut self.datagrams);
                ManuallyDrop::drop(&mut self.streams);
                ManuallyDrop::drop(&mut self.doorbell_cell);
            }
        }
    }
}
