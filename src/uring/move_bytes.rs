//! Splice: socket to pipe to socket, by plain calls that never block. IORING_OP_SPLICE is not the way: it always goes to
//! the kernel's worker threads.
//!
//! A pipe is lent to a direction while it holds bytes, and returns to the stock only at accounted zero; else it is
//! closed, so that nobody ever finds another session's bytes in it. Where no pipe is left, what a stalled reader has not
//! taken is kept in memory of its own: a provided buffer is never held by somebody who does not move.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};

use crate::ids::{Moved, Sink, Source, StreamKey};
use crate::sys::pipe::{self, Pipe};
use crate::sys::stream;

use super::door::opposite;
use super::outcome;
use super::streams::{Carrier, Loan, Streams};

/// After so many bytes a move yields, so that a stream that never blocks starves nobody.
const MOVE_BYTES: u32 = 1024 * 1024;

/// What one direction may keep in memory: more than a receive can deliver before it is stopped.
const MEMORY_BYTES: usize = 2 * 1024 * 1024;

/// Pipes kept for the next stream rather than closed.
const STOCK_MAX: usize = 64;

/// Memory that stalled readers needed where there was no pipe, kept for the next ones rather than freed: so many pieces,
/// and so much in all.
const SHELVES_MAX: usize = 64;
const SHELVES_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct PipeStock {
    idle: Vec<Pipe>,
    /// Where pipes are short many readers stall, again and again: asking for memory each time would be an allocation for
    /// each of their messages.
    shelves: Vec<Vec<u8>>,
    shelves_bytes: usize,
    open: usize,
    open_max: usize,
    memory_stashes: u64,
}

impl PipeStock {
    pub(super) fn new(open_max: usize) -> PipeStock {
        PipeStock {
            idle: Vec::with_capacity(STOCK_MAX),
            shelves: Vec::with_capacity(SHELVES_MAX),
            shelves_bytes: 0,
            open: 0,
            open_max,
            memory_stashes: 0,
        }
    }

    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Stashes that found no pipe, since the start.
    pub(super) fn memory_stashes(&self) -> u64 {
        self.memory_stashes
    }

    fn lend(&mut self) -> Option<Loan> {
        let pipe = match self.idle.pop() {
            Some(pipe) => pipe,
            None if self.open >= self.open_max => return None,
            None => {
                let pipe = pipe::pipe(pipe::BULK_BYTES).ok()?;
                self.open += 1;
                pipe
            }
        };
        Some(Loan {
            carrier: Carrier::Pipe(pipe),
            bytes: 0,
        })
    }

    fn lend_memory(&mut self) -> Loan {
        self.memory_stashes += 1;
        let shelf = self.shelves.pop().unwrap_or_default();
        self.shelves_bytes -= shelf.capacity();
        Loan {
            carrier: Carrier::Memory(shelf),
            bytes: 0,
        }
    }

    /// Takes a carrier back; a pipe that still holds bytes is closed.
    pub(super) fn take_back(&mut self, loan: Loan) {
        match loan.carrier {
            Carrier::Pipe(pipe) if loan.bytes == 0 && self.idle.len() < STOCK_MAX => {
                self.idle.push(pipe);
            }
            Carrier::Pipe(_) => self.open -= 1,
            Carrier::Memory(mut shelf) => {
                let bytes = self.shelves_bytes + shelf.capacity();
                if bytes <= SHELVES_BYTES && self.shelves.len() < SHELVES_MAX {
                    shelf.clear();
                    self.shelves.push(shelf);
                    self.shelves_bytes = bytes;
                }
            }
        }
    }
}

/// Keeps `bytes` behind what the direction from `from` holds already; returns how many found room.
pub(super) fn stash(
    streams: &mut Streams,
    stock: &mut PipeStock,
    from: StreamKey,
    bytes: &[u8],
) -> u32 {
    let lent = streams.take_loan(from).or_else(|| stock.lend());
    let mut loan = lent.unwrap_or_else(|| stock.lend_memory());
    let written = match &mut loan.carrier {
        Carrier::Pipe(pipe) => pipe::write(pipe.write.as_fd(), bytes).unwrap_or(0),
        Carrier::Memory(kept) if kept.len() + bytes.len() <= MEMORY_BYTES => {
            kept.extend_from_slice(bytes);
            bytes.len()
        }
        Carrier::Memory(_) => 0,
    } as u32;
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
            if !take_in(&mut loan, stock, source, &mut moved) {
                break;
            }
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
    note_faults(streams, from, &mut moved);
    moved
}

/// An end of stream behind an error that another operation was told is none.
fn note_faults(streams: &mut Streams, from: StreamKey, moved: &mut Moved) {
    match (moved.source, streams.fault(from)) {
        (Source::Broken(fault), _) => streams.note_fault(from, fault),
        (Source::Fin, Some(fault)) => moved.source = Source::Broken(fault),
        _ => {}
    }
    if let Sink::Broken(fault) = moved.sink {
        streams.note_fault(opposite(from), fault);
    }
}

fn may_fill(moved: &Moved) -> bool {
    matches!(moved.source, Source::Untouched | Source::More) && moved.filled < MOVE_BYTES
}

/// Fills the empty pipe from the socket; false if there is none.
fn take_in(
    loan: &mut Loan,
    stock: &mut PipeStock,
    source: BorrowedFd<'_>,
    moved: &mut Moved,
) -> bool {
    if let Carrier::Memory(_) = loan.carrier {
        match stock.lend() {
            Some(other) => stock.take_back(std::mem::replace(loan, other)),
            None => moved.source = Source::NoPipe,
        }
    }
    let Carrier::Pipe(pipe) = &loan.carrier else {
        return false;
    };
    match splice(source, pipe.write.as_fd(), pipe.capacity_bytes, false) {
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
    true
}

fn drain(loan: &mut Loan, sink: BorrowedFd<'_>, more: bool, moved: &mut Moved) {
    while loan.bytes > 0 {
        let sent = match &loan.carrier {
            Carrier::Pipe(pipe) => splice(pipe.read.as_fd(), sink, loan.bytes as usize, more),
            Carrier::Memory(kept) => stream::send(sink, &kept[kept.len() - loan.bytes as usize..]),
        };
        match sent {
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
