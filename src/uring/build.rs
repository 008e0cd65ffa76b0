//! Building a ring: set up, buffers registered, restricted to what `ops.rs` uses, enabled; in this order, on the thread
//! that will use it. Here is all that the kernel may refuse a ring for; afterwards nothing of it changes.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::BorrowedFd;

use io_uring::IoUring;
use io_uring::register::Restriction;

use super::buffers::{Buffers, DATAGRAM_GROUP, STREAM_GROUP};
use super::datagrams::{DATAGRAM_BUFFER_BYTES, DATAGRAM_BUFFERS, DatagramSide, Outbox};
use super::door::{PEEK_BYTES_MAX, StartError};
use super::move_bytes::PipeStock;
use super::ops;
use super::probe::Features;
use super::ring::{ENTER_GETEVENTS, ENTER_NO_IOWAIT, Ring};
use super::streams::Streams;
use super::tag;

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
        // Before the ring, so that a step that fails gives it up after the ring.
        let mut buffers = Buffers::new(STREAM_GROUP, size.buffers, size.buffer_bytes)
            .map_err(StartError::at("allocating buffers"))?;
        let mut of_datagrams =
            Buffers::new(DATAGRAM_GROUP, DATAGRAM_BUFFERS, DATAGRAM_BUFFER_BYTES)
                .map_err(StartError::at("allocating buffers for datagrams"))?;
        let io = set_up(size, features).map_err(StartError::at("setting up a ring"))?;
        buffers
            .register(&io)
            .map_err(StartError::at("registering buffers"))?;
        of_datagrams
            .register(&io)
            .map_err(StartError::at("registering buffers for datagrams"))?;
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
            datagrams: ManuallyDrop::new(Box::new(DatagramSide::new(
                of_datagrams,
                Outbox::new(DATAGRAM_BUFFERS),
                size.slots_max,
                features.min_wait,
            ))),
            streams: ManuallyDrop::new(Streams::new(size.slots_max)),
            doorbell_cell: ManuallyDrop::new(Box::new(0)),
            doorbell,
            listeners: Vec::with_capacity(64),
            stock: PipeStock::new(size.pipes_max),
            flights: Vec::with_capacity(size.submissions as usize * 2),
            glance: vec![0; PEEK_BYTES_MAX].into_boxed_slice(),
            unsent: vec![None; usize::from(size.buffers)].into_boxed_slice(),
            queued: 0,
            enter_flags: ENTER_GETEVENTS | (ENTER_NO_IOWAIT * u32::from(features.no_iowait)),
            in_flight: 0,
            completions: Vec::with_capacity(size.completions.min(16_384) as usize),
            unread_answers: false,
            overflow_seen: 0,
            lost: false,
            overflowed: false,
            stale: 0,
        };
        ring.listen_to_doorbell();
        Ok(ring)
    }
}

fn set_up(size: RingSize, features: Features) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    required_flags(&mut builder);
    builder.setup_clamp().setup_cqsize(size.completions);
    if features.no_sqarray {
        builder.setup_no_sqarray();
    }
    builder.build(size.submissions)
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
