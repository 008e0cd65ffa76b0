//! Provided buffers: one mapping that the kernel fills as data arrives, so that an idle receive holds none. The ring of
//! free buffers is shared with the kernel (IORING_REGISTER_PBUF_RING); its tail is published once per turn.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// Buffers for streams, and buffers for datagrams.
pub(super) const STREAM_GROUP: u16 = 0;
pub(super) const DATAGRAM_GROUP: u16 = 1;

/// Buffers with the kernel at the start: enough for a turn of conversations, few enough to stay in the cache. Datagrams come
/// in bursts.
const fn window_min(group: u16) -> u16 {
    if group == DATAGRAM_GROUP { 64 } else { 32 }
}

/// A filled buffer, or the unsent rest of one. Whoever holds it owns the bytes; it goes back by
/// [`super::Kernel::release`] or by being sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Parcel {
    pub(super) buffer: u16,
    pub(super) start: u32,
    pub(super) length: u32,
    full: bool,
}

impl Parcel {
    /// A ticket for tests and fakes: `length` bytes in buffer `buffer`.
    #[must_use]
    pub fn new(buffer: u16, length: u32, full: bool) -> Parcel {
        Parcel {
            buffer,
            start: 0,
            length,
            full,
        }
    }

    #[must_use]
    pub fn buffer(&self) -> u16 {
        self.buffer
    }

    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.length
    }

    /// Whether it filled its buffer when it arrived.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// A second ticket for its first `bytes`: it may be read while this one is held, and is never given back.
    #[must_use]
    pub(super) fn lent(&self, bytes: u32) -> Parcel {
        debug_assert!(bytes <= self.length);
        Parcel {
            buffer: self.buffer,
            start: self.start,
            length: bytes,
            full: self.full,
        }
    }

    /// The same without its first `bytes`.
    #[must_use]
    pub fn without(self, bytes: u32) -> Parcel {
        debug_assert!(bytes <= self.length);
        Parcel {
            start: self.start + bytes,
            length: self.length - bytes,
            ..self
        }
    }
}

#[derive(Debug)]
pub(super) struct Buffers {
    /// `count` entries, then nothing; page aligned.
    entries: Mapping,
    data: Mapping,
    group: u16,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
    /// Free buffers that the kernel does not have: the last one given back is the first one out, as it is the warmest.
    idle: Vec<u16>,
    with_kernel: u16,
    /// So many buffers are to be with the kernel, which takes them in turn.
    window: u16,
}

#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Mapping> {
        // SAFETY: a fresh anonymous private mapping at an address of the kernel's choice; no pointer is passed.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Mapping { start, bytes })
            }
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and is unmapped once; whoever owns `Buffers` drops it after the ring.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

impl Buffers {
    /// `count` must be a power of two of at most 32,768.
    pub(super) fn new(group: u16, count: u16, buffer_bytes: u32) -> io::Result<Buffers> {
        debug_assert!(count.is_power_of_two());
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let data = Mapping::new(usize::from(count) * buffer_bytes as usize)?;
        let idle = (0..count).rev().collect();
        let window = window_min(group).min(count);
        Ok(Buffers {
            entries,
            data,
            group,
            count,
            buffer_bytes,
            tail: 0,
            idle,
            with_kernel: 0,
            window,
        })
    }

    pub(super) fn register(&mut self, ring: &IoUring) -> io::Result<()> {
        let address = self.entries.start.as_ptr() as u64;
        // SAFETY: the entries are page aligned, hold `count` entries, and outlive the ring (`Ring` drops them after it).
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(address, self.count, self.group, 0)?;
        };
        self.publish();
        Ok(())
    }

    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// Buffers that nobody holds.
    pub(super) fn free(&self) -> u16 {
        self.idle.len() as u16 + self.with_kernel
    }

    /// Whether the kernel has any to fill.
    pub(super) fn are_with_kernel(&self) -> bool {
        self.with_kernel > 0
    }

    /// A completion says that the kernel filled `buffer` with `length` bytes.
    pub(super) fn taken(&mut self, buffer: u16, length: u32) -> Parcel {
        self.with_kernel -= 1;
        debug_assert!(buffer < self.count && length <= self.buffer_bytes);
        Parcel {
            buffer,
            start: 0,
            length,
            full: length == self.buffer_bytes,
        }
    }

    pub(super) fn give_back(&mut self, buffer: u16) {
        debug_assert!(self.free() < self.count, "a buffer was given back twice");
        self.idle.push(buffer);
    }

    /// Tops up what the kernel has. Once a turn: a few warm buffers go round rather than all of them, which would not
    /// stay in the cache; a turn that used up most of them doubles their number.
    pub(super) fn publish(&mut self) {
        if self.with_kernel < self.window / 4 {
            self.window = (self.window * 2).min(self.count);
        }
        while self.with_kernel < self.window
            && let Some(buffer) = self.idle.pop()
        {
            self.hand_over(buffer);
        }
        self.show_tail();
    }

    /// So many more for the kernel, in the middle of a turn: answers that are not read yet have taken as many.
    pub(super) fn publish_more(&mut self, count: usize) {
        for _ in 0..count {
            if let Some(buffer) = self.idle.pop() {
                self.hand_over(buffer);
            }
        }
        self.show_tail();
    }

    fn show_tail(&mut self) {
        // SAFETY: the mapping starts with the first entry, whose reserved field is the ring's tail.
        let tail = unsafe { BufRingEntry::tail(self.entries.start.as_ptr().cast()) };
        // SAFETY: the pointer is aligned, inside the mapping, and shared with the kernel only, which reads it atomically.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.store(self.tail, Ordering::Release);
    }

    fn hand_over(&mut self, buffer: u16) {
        let place = usize::from(self.tail & (self.count - 1));
        // SAFETY: `place` is below `count`, so the entry lies in the mapping; the kernel reads it only once the tail that
        // covers it has been published.
        let entry = unsafe {
            &mut *self
                .entries
                .start
                .cast::<BufRingEntry>()
                .add(place)
                .as_ptr()
        };
        // SAFETY: `buffer` is below `count`, so the offset stays inside the data mapping.
        let address = unsafe {
            self.data
                .start
                .add(usize::from(buffer) * self.buffer_bytes as usize)
        };
        entry.set_addr(address.as_ptr() as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.with_kernel += 1;
    }

    /// Where a parcel's bytes are. A ticket that is not from here is refused: anybody can make one.
    pub(super) fn address(&self, parcel: &Parcel) -> *const u8 {
        let offset =
            usize::from(parcel.buffer) * self.buffer_bytes as usize + parcel.start as usize;
        let rest = self.buffer_bytes.checked_sub(parcel.start);
        let is_inside = rest.is_some_and(|rest| parcel.length <= rest);
        assert!(parcel.buffer < self.count && is_inside, "a forged parcel");
        // SAFETY: the parcel's buffer and extent lie inside the data mapping, as just asserted.
        unsafe { self.data.start.add(offset) }.as_ptr()
    }

    /// A parcel's bytes. The kernel does not touch them while somebody holds the parcel.
    pub(super) fn bytes(&self, parcel: &Parcel) -> &[u8] {
        // SAFETY: `address` is inside the mapping for `length` bytes, initialised (anonymous memory), and the buffer is not
        // with the kernel as long as the parcel exists.
        unsafe { std::slice::from_raw_parts(self.address(parcel), parcel.length as usize) }
    }
}
