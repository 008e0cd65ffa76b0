//! Pipes and what goes through them: lent to a direction while they hold bytes, filled from its source, drained into its
//! sink, short and blocked as often as the weather wants.

use ringway::ids::{Moved, Sink, Source, StreamKey};
use ringway::uring::Parcel;

use super::counts::Fault;
use super::kernel::{FakeKernel, Op, OpKind};
use super::socket::Range;

/// After so many bytes a move yields.
const MOVE_BYTES: u32 = 1024 * 1024;

/// What one direction may keep in memory where no pipe is left.
const MEMORY_BYTES: u32 = 2 * 1024 * 1024;

/// What a direction keeps its bytes in while its sink does not take them.
#[derive(Clone, Copy, Debug)]
pub struct Loan {
    pub held: Option<Range>,
    /// Memory instead of a pipe: how much has been put there.
    memory: Option<u32>,
}

impl Loan {
    fn bytes(&self) -> u32 {
        self.held.map_or(0, |range| range.bytes)
    }
}

impl FakeKernel {
    pub fn stash_bytes(&mut self, stream: StreamKey, parcel: Parcel) -> (u32, Option<Parcel>) {
        self.busy = true;
        self.end(stream);
        let mut loan = match self.borrow_pipe(stream) {
            Some(loan) => loan,
            None => {
                self.net_mut().hit(Fault::MemoryStash);
                Loan {
                    held: None,
                    memory: Some(0),
                }
            }
        };
        let range = self.range(&parcel);
        if let Some(held) = loan.held
            && (held.origin, held.start + u64::from(held.bytes)) != (range.origin, range.start)
        {
            self.fail(&format!("{range:?} is stashed behind {held:?}"));
        }
        let stashed = match &mut loan.memory {
            Some(kept) if *kept + parcel.bytes() <= MEMORY_BYTES => {
                *kept += parcel.bytes();
                parcel.bytes()
            }
            Some(_) => 0,
            None => {
                let most = self.net().weather.pipe_bytes;
                most.saturating_sub(loan.bytes()).min(parcel.bytes())
            }
        };
        loan.held = Some(Range {
            start: loan.held.map_or(range.start, |held| held.start),
            bytes: loan.bytes() + stashed,
            ..range
        });
        self.return_pipe(stream, loan);
        if stashed == parcel.bytes() {
            self.give_back(parcel.buffer());
            return (stashed, None);
        }
        self.net_mut().hit(Fault::FullPipe);
        (stashed, Some(parcel.without(stashed)))
    }

    pub fn splice(&mut self, stream: StreamKey, fill: bool) -> Moved {
        self.busy = true;
        if fill && self.op(stream, OpKind::Receive) != Op::Off {
            self.fail(&format!("{stream:?} is spliced under a receive"));
        }
        let sink_stream = StreamKey {
            side: stream.side.other(),
            ..stream
        };
        if self.end(sink_stream).sends > 0 {
            self.fail(&format!("{sink_stream:?} is spliced into under a send"));
        }
        let mut moved = Moved {
            filled: 0,
            drained: 0,
            source: Source::Untouched,
            sink: Sink::Open,
        };
        let Some(mut loan) = self.borrow_pipe(stream) else {
            moved.source = Source::NoPipe;
            self.note_move(stream, &moved);
            return moved;
        };
        let (source, sink) = (self.end(stream).conn, self.end(sink_stream).conn);
        self.drain_pipe(&mut loan.held, sink, &mut moved);
        while fill
            && loan.bytes() == 0
            && moved.sink == Sink::Open
            && matches!(moved.source, Source::Untouched | Source::More)
            && moved.filled < MOVE_BYTES
        {
            if loan.memory.is_some() {
                match self.lend() {
                    Some(pipe) => loan = pipe,
                    None => {
                        moved.source = Source::NoPipe;
                        break;
                    }
                }
            }
            self.fill_pipe(&mut loan.held, source, &mut moved);
            self.drain_pipe(&mut loan.held, sink, &mut moved);
        }
        self.return_pipe(stream, loan);
        self.note_faults(stream, sink_stream, &mut moved);
        self.note_move(stream, &moved);
        moved
    }

    /// What looks like an end of stream behind an error is none.
    fn note_faults(&self, stream: StreamKey, sink: StreamKey, moved: &mut Moved) {
        match (moved.source, self.told(stream)) {
            (Source::Broken(fault), _) => self.note_told(stream, fault),
            (Source::Fin, Some(fault)) => moved.source = Source::Broken(fault),
            // A send that was submitted early may know of an error that nobody has been told yet.
            (Source::Fin, None) if self.end(stream).sends > 0 => moved.source = Source::Dry,
            _ => {}
        }
        if let Sink::Broken(fault) = moved.sink {
            self.note_told(sink, fault);
        }
    }

    /// Bytes that nobody wants any more; a pipe with them in it is closed.
    pub fn drop_bytes(&mut self, stream: StreamKey) {
        self.busy = true;
        let loan = self.entry_mut(stream.session).pipes[stream.side.index()].take();
        self.pipes_out -= usize::from(loan.is_some_and(|loan| loan.memory.is_none()));
    }

    fn lend(&mut self) -> Option<Loan> {
        let (most, rate) = {
            let weather = &self.net().weather;
            (weather.pipes_max, weather.no_pipe)
        };
        let refused = self.net_mut().random.chance(rate);
        if self.pipes_out >= most || refused {
            self.net_mut().hit(Fault::NoPipe);
            return None;
        }
        self.pipes_out += 1;
        Some(Loan {
            held: None,
            memory: None,
        })
    }

    /// The direction's pipe, taken out of the table.
    fn borrow_pipe(&mut self, stream: StreamKey) -> Option<Loan> {
        let loan = self.entry_mut(stream.session).pipes[stream.side.index()].take();
        loan.or_else(|| self.lend())
    }

    fn return_pipe(&mut self, stream: StreamKey, loan: Loan) {
        if loan.bytes() > 0 {
            self.entry_mut(stream.session).pipes[stream.side.index()] = Some(loan);
        } else if loan.memory.is_none() {
            self.pipes_out -= 1;
        }
    }

    fn drain_pipe(&self, held: &mut Option<Range>, sink: usize, moved: &mut Moved) {
        let short = self.net().weather.move_short;
        while let Some(range) = held.filter(|range| range.bytes > 0) {
            let mut piece = range;
            {
                let mut net = self.net_mut();
                if net.random.chance(short) {
                    piece.bytes = net.random.between(1, u64::from(range.bytes)) as u32;
                }
            }
            match self.write(sink, piece, false) {
                Ok(0) => {
                    self.net_mut().hit(Fault::SinkFull);
                    moved.sink = Sink::Full;
                    return;
                }
                Ok(bytes) => {
                    moved.drained += bytes;
                    *held = Some(Range {
                        start: range.start + u64::from(bytes),
                        bytes: range.bytes - bytes,
                        ..range
                    });
                }
                Err(fault) => {
                    self.net_mut().hit(Fault::SinkBroken);
                    moved.sink = Sink::Broken(fault);
                    return;
                }
            }
        }
    }

    fn fill_pipe(&self, held: &mut Option<Range>, source: usize, moved: &mut Moved) {
        let (most, short) = {
            let weather = &self.net().weather;
            (u64::from(weather.pipe_bytes), weather.move_short)
        };
        let tired = self.net_mut().random.chance(short / 4);
        let dry = self.net().conns[source].waiting() == 0;
        if dry {
            let end = self.net_mut().conns[source].dry_end();
            let (found, fault) = match end {
                None => (Source::Dry, Fault::SourceDry),
                Some(Ok(())) => (Source::Fin, Fault::SourceFin),
                Some(Err(fault)) => (Source::Broken(fault), Fault::SourceBroken),
            };
            self.net_mut().hit(fault);
            moved.source = found;
            return;
        }
        if tired {
            moved.source = Source::Dry;
            return;
        }
        let most = match self.net_mut().random.chance(short) {
            true => most / 7 + 1,
            false => most,
        };
        if let Some(range) = self.read(source, most) {
            moved.filled += range.bytes;
            moved.source = Source::More;
            *held = Some(range);
        }
    }

    fn note_move(&self, stream: StreamKey, moved: &Moved) {
        if moved.filled + moved.drained > 0 {
            let id = self.end(stream).conn;
            let mut net = self.net_mut();
            net.conns[id].moved_at = net.now;
        }
        let source = match moved.source {
            Source::Untouched => ["drain-open", "drain-full", "drain-sink-broken"],
            Source::More => {
                self.net_mut().hit(Fault::SourceMore);
                ["more-open", "more-full", "more-sink-broken"]
            }
            Source::Dry => ["dry-open", "dry-full", "dry-sink-broken"],
            Source::Fin => ["fin-open", "fin-full", "fin-sink-broken"],
            Source::Broken(_) => ["broken-open", "broken-full", "broken-sink-broken"],
            Source::NoPipe => ["no-pipe", "no-pipe", "no-pipe"],
        };
        let event = match moved.sink {
            Sink::Open => source[0],
            Sink::Full => source[1],
            Sink::Broken(_) => source[2],
        };
        self.note_pair(stream, event, false);
        self.say(|| format!("-- c{} {moved:?}", self.end(stream).conn));
    }
}
