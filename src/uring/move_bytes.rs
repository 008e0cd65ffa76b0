//! Splice: socket to pipe to socket, by plain calls that never block. IORING_OP_SPLICE is not the way: it always goes to
//! the kernel's worker threads.
//!
//! A pipe is lent to a direction while it holds bytes, and returns to the stock only at accounted zero; else it is
//! closed, so that nobody ever finds another session's bytes in it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};

use crate::ids::{Moved, Sink, Source, StreamKey};
use crate::sys::pipe::{self, Pipe};
use crate::sys::stream;

use super::door::opposite;
use super::outcome;
use super::streams::{Loan, Streams};

/// What is asked of the kernel for each pipe; it may grant less to a user without privileges.
const PIPE_BYTES: usize = 512 * 1024;

/// After so many bytes a move yields, so that a stream that never blocks starves nobody.
const MOVE_BYTES: u32 = 1024 * 1024;

/// Pipes kept for the next stream rather than closed.
const STOCK_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct PipeStock {
    idle: Vec<Pipe>,
    open: usize,
    open_max: usize,
}

impl PipeStock {
    pub(super) fn new(open_max: usize) -> PipeStock {
        PipeStock {
            idle: Vec::with_capacity(STOCK_MAX),
            open: 0,
            open_max,
        }
    }

    pub(super) fn open(&self) -> usize {
        self.open
    }

    fn lend(&mut self) -> Option<Loan> {
        if let Some(pipe) = self.idle.pop() {
            return Some(Loan { pipe, bytes: 0 });
        }
        if self.open >= self.open_max {
            return None;
        }
        let pipe = pipe::pipe(PIPE_BYTES).ok()?;
        self.open += 1;
        Some(Loan { pipe, bytes: 0 })
    }

    /// Takes a pipe back; one that still holds bytes is closed.
    pub(super) fn take_back(&mut self, loan: Loan) {
        if loan.bytes == 0 && self.idle.len() < STOCK_MAX {
            self.idle.push(loan.pipe);
        } else {
            self.open -= 1;
        }
    }
}

/// Writes `bytes` into the pipe of the direction from `from`; returns how many went in.
pub(super) fn stash(
    streams: &mut Streams,
    stock: &mut PipeStock,
    from: StreamKey,
    bytes: &[u8],
) -> u32 {
    let Some(mut loan) = streams.take_loan(from).or_else(|| stock.lend()) else {
        return 0;
    };
    let written = pipe::write(loan.pipe.write.as_fd(), bytes).unwrap_or(0) as u32;
    loan.bytes += written;
    if loan.bytes == 0 {
        stock.take_back(loan);
    } else {
        streams.put_loan(from, loan);
    }
    written
}

/// Moves bytes from `from` to the other side of its session until the source is dry, the sink is full, or enough was
/// moved for one turn.
pub(super) fn move_bytes(
    streams: &mut Streams,
    stock: &mut PipeStock,
    from: StreamKey,
    fill: bool,
) -> Moved {
    let mut moved = Moved {
        filled: 0,
        drained: 0,
        source: Source::Untouched,
        sink: Sink::Open,
    };
    let Some(mut loan) = streams.take_loan(from).or_else(|| stock.lend()) else {
        return Moved {
            source: Source::NoPipe,
            ..moved
        };
    };
    if let (Some(source), Some(sink)) = (streams.socket(from), streams.socket(opposite(from))) {
        drain(&mut loan, sink, false, &mut moved);
        while fill && loan.bytes == 0 && moved.sink == Sink::Open && may_fill(&moved) {
            take_in(&mut loan, source, &mut moved);
            // Only while the source is known to hold more may the last segment wait to be filled.
            let more = stream::readable_bytes(source).is_ok_and(|bytes| bytes > 0);
            drain(&mut loan, sink, more, &mut moved);
        }
    }
    if loan.bytes == 0 {
        stock.take_back(loan);
    } else {
        streams.put_loan(from, loan);
    }
    moved
}

fn may_fill(moved: &Moved) -> bool {
    matches!(moved.source, Source::Untouched | Source::More) && moved.filled < MOVE_BYTES
}

fn take_in(loan: &mut Loan, source: BorrowedFd<'_>, moved: &mut Moved) {
    match splice(
        source,
        loan.pipe.write.as_fd(),
        loan.pipe.capacity_bytes,
        false,
    ) {
        Ok(0) => moved.source = Source::Fin,
        Ok(bytes) => {
            loan.bytes += bytes;
            moved.filled += bytes;
            moved.source = Source::More;
        }
        // The pipe is empty, so it is the socket that has nothing.
        Err(error) if error.kind() == ErrorKind::WouldBlock => moved.source = Source::Dry,
        Err(error) => {
            moved.source = Source::Broken(outcome::fault_of(&error, source));
        }
    }
}

fn drain(loan: &mut Loan, sink: BorrowedFd<'_>, more: bool, moved: &mut Moved) {
    while loan.bytes > 0 {
        match splice(loan.pipe.read.as_fd(), sink, loan.bytes as usize, more) {
            Ok(bytes) if bytes > 0 => {
                loan.bytes -= bytes;
                moved.drained += bytes;
            }
            Ok(_) => {
                moved.sink = Sink::Full;
                return;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                moved.sink = Sink::Full;
                return;
            }
            Err(error) => {
                moved.sink = Sink::Broken(outcome::fault_of(&error, sink));
                return;
            }
        }
    }
}

fn splice(from: BorrowedFd<'_>, into: BorrowedFd<'_>, bytes: usize, more: bool) -> io::Result<u32> {
    pipe::splice(from, into, bytes, more).map(|bytes| bytes as u32)
}
