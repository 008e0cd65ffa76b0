//! Counts that several processes of one service hold together: a memfd of cache lines, mapped by each. A line has a total,
//! which limits are held against, and one share for each process, so that what a crashed one held can be taken off again.
//!
//! The file carries its layout's version and size and can be neither shrunk nor grown, so that no reader faults; whoever
//! does not know the layout must not use it. A line can be had without a file, for counts that nobody shares.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Processes that may hold shares at a time.
pub const COLUMNS: usize = 8;

/// Of the layout, and of who changes which share: a change of [`Line`], of the header, or of that is another number.
const VERSION: u32 = 2;
const MAGIC: u32 = 0x7269_6e67;

/// One count. As large as two cache lines, since the kernel and the processor fetch them in pairs.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Line {
    pub total: AtomicU32,
    shares: [AtomicU32; COLUMNS],
}

impl Line {
    /// What the process of this column holds.
    #[must_use]
    pub fn share(&self, column: Column) -> &AtomicU32 {
        &self.shares[column.0]
    }

    /// Takes off what the process of this column held: it is gone. How much that was.
    pub fn forsake(&self, column: Column) -> u32 {
        let held = self.share(column).swap(0, Ordering::AcqRel);
        // Around the end of numbers: a share is less than nothing while its process has given back what another still holds.
        self.total.fetch_sub(held, Ordering::AcqRel);
        held
    }
}

/// The place of one process's shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Column(usize);

impl Column {
    /// `None` beyond the last.
    #[must_use]
    pub fn new(number: usize) -> Option<Column> {
        (number < COLUMNS).then_some(Column(number))
    }

    #[must_use]
    pub fn number(self) -> usize {
        self.0
    }
}

/// All lines of one file. The first one is the header.
pub struct Lines {
    first: NonNull<Line>,
    count: usize,
    file: File,
}

// SAFETY: the memory behind it is atomics only, and is unmapped when the last owner has gone.
unsafe impl Send for Lines {}
// SAFETY: as above; every access through a shared reference is atomic.
unsafe impl Sync for Lines {}

impl fmt::Debug for Lines {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Lines({})", self.count)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // SAFETY: this range was mapped by `map` and belongs to this value alone; no line outlives its `Arc<Lines>`.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<Line>()) };
    }
}

impl Lines {
    /// A new file of `count` lines; pages that nobody touches cost nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn create(count: usize) -> io::Result<Lines> {
        // SAFETY: takes a C string that outlives the call, and flags.
        let raw = unsafe {
            libc::memfd_create(
                c"ringway-shares".as_ptr(),
                libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
            )
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: memfd_create has just returned it, and nobody else owns it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(raw) });
        file.set_len((count * size_of::<Line>()) as u64)?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: a call with numbers only, on a descriptor that is open.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let lines = Lines::map(file, count)?;
        let [version, size, many, ..] = &lines.at(0).shares;
        version.store(VERSION, Ordering::Relaxed);
        size.store(size_of::<Line>() as u32, Ordering::Relaxed);
        many.store(count as u32, Ordering::Relaxed);
        lines.at(0).total.store(MAGIC, Ordering::Release);
        Ok(lines)
    }

    /// A file that another process has made.
    ///
    /// # Errors
    /// `InvalidData` if its layout is not the one that is known here; else the kernel's.
    pub fn adopt(file: OwnedFd) -> io::Result<Lines> {
        let file = File::from(file);
        let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(0);
        // SAFETY: a call without arguments, on a descriptor that is open.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        let strange = || io::Error::from(ErrorKind::InvalidData);
        let count = bytes / size_of::<Line>();
        if count == 0 || seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(strange());
        }
        let lines = Lines::map(file, count)?;
        let [version, size, many, ..] = &lines.at(0).shares;
        let is_known = lines.at(0).total.load(Ordering::Acquire) == MAGIC
            && version.load(Ordering::Relaxed) == VERSION
            && size.load(Ordering::Relaxed) as usize == size_of::<Line>()
            && many.load(Ordering::Relaxed) as usize == count
            && bytes == count * size_of::<Line>();
        if is_known { Ok(lines) } else { Err(strange()) }
    }

    fn map(file: File, count: usize) -> io::Result<Lines> {
        // SAFETY: a new mapping of a file that is at least that long; it touches no memory of ours.
        let first = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * size_of::<Line>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if first == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(first.cast()).ok_or(ErrorKind::Other)?;
        Ok(Lines { first, count, file })
    }

    fn at(&self, number: usize) -> &Line {
        debug_assert!(number < self.count);
        // SAFETY: within the mapping (callers check), aligned since mappings begin at pages, and valid for any content
        // since a line is integers; it lives as long as the borrow of `self`.
        unsafe { self.first.add(number).as_ref() }
    }

    /// A line by its number; not the header, and none beyond the end.
    #[must_use]
    pub fn line(self: &Arc<Lines>, number: usize) -> Option<LineRef> {
        (1..self.count).contains(&number).then(|| LineRef {
            line: NonNull::from(self.at(number)),
            _owner: Owner::File(Arc::clone(self)),
        })
    }

    /// How many lines there are, the header included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.file)
    }
}

#[derive(Clone, Debug)]
enum Owner {
    File(#[allow(dead_code)] Arc<Lines>),
    Alone(#[allow(dead_code)] Arc<Line>),
}

/// One line, for as long as it is wanted; reading through it costs no more than through a reference.
#[derive(Clone, Debug)]
pub struct LineRef {
    line: NonNull<Line>,
    _owner: Owner,
}

// SAFETY: it points to atomics that its owner keeps alive.
unsafe impl Send for LineRef {}
// SAFETY: as above; every access through a shared reference is atomic.
unsafe impl Sync for LineRef {}

impl LineRef {
    /// A line that no other process sees.
    #[must_use]
    pub fn alone() -> LineRef {
        let line = Arc::new(Line::default());
        LineRef {
            line: NonNull::from(&*line),
            _owner: Owner::Alone(line),
        }
    }
}

impl Deref for LineRef {
    type Target = Line;

    fn deref(&self) -> &Line {
        // SAFETY: the owner keeps the line where it is for as long as this value lives.
        unsafe { self.line.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn two_mappings_see_one_count_and_a_gone_share_is_taken_off() {
        let ours = Arc::new(Lines::create(16).unwrap());
        let theirs = ours.file().try_clone_to_owned().unwrap();
        let theirs = Arc::new(Lines::adopt(theirs).unwrap());
        let (a, b) = (ours.line(3).unwrap(), theirs.line(3).unwrap());
        let (first, second) = (Column::new(0).unwrap(), Column::new(1).unwrap());
        a.total.store(5, Ordering::Relaxed);
        a.share(first).store(2, Ordering::Relaxed);
        b.share(second).store(3, Ordering::Relaxed);
        assert_eq!(b.forsake(first), 2);
        assert_eq!(a.total.load(Ordering::Relaxed), 3);
        assert_eq!(a.forsake(first), 0);
        assert!(ours.line(0).is_none() && ours.line(16).is_none());
        assert!(Column::new(COLUMNS).is_none());
    }

    #[test]
    fn a_strange_layout_is_refused() {
        let lines = Lines::create(4).unwrap();
        lines.at(0).shares[0].store(VERSION + 1, Ordering::Relaxed);
        let file = lines.file().try_clone_to_owned().unwrap();
        let error = Lines::adopt(file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let file = file.as_fd().try_clone_to_owned().unwrap();
        assert!(Lines::adopt(file).is_err(), "it could be shrunk");
    }

    #[test]
    fn a_line_of_ones_own_outlives_its_maker() {
        let line = LineRef::alone();
        let other = line.clone();
        drop(line);
        assert_eq!(other.total.fetch_add(1, Ordering::Relaxed), 0);
    }
}
