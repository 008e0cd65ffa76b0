//! The real kernel's side of sending datagrams: which leave together, what that costs when a way refuses it, and the
//! settling of what was sent.

use crate::uring::door::Outcome;
use crate::uring::ops;
use crate::uring::outcome::{Completion, Refused};
use crate::uring::ring::Ring;
use crate::uring::tag::{Op, Tag};

use super::door::{Datagram, Undelivered};
use super::heading::Head;
use super::outbound::{Passage, room};
use super::sockets::{DatagramSide, NONE};

impl Ring {
    /// Puts a datagram behind what goes the same way already, or begins a new send. What came together and does not fit
    /// into one send any more, for what goes ahead of each, leaves in several.
    pub(super) fn pass_on(&mut self, passage: Passage, head: Head, datagram: Datagram) {
        let DatagramSide { outbox, ways, .. } = &mut **self.datagrams;
        let side = passage.toward.side().index();
        let Some(way) = ways.get_mut(passage.flow.slot.index()) else {
            self.discard_datagram(datagram);
            return;
        };
        let mut datagram = datagram;
        let most = room(datagram.longest(), &head);
        while head.length() > 0 && datagram.count() > most {
            let (first, rest) = datagram.lend(most);
            outbox.begin_lent(passage, head, first);
            way.filling[side] = NONE;
            datagram = rest;
        }
        let filling = way.filling[side];
        let longest = datagram.longest() + head.length();
        let joins = filling != NONE && longest <= u32::from(way.joined_max[side]);
        let rest = if joins {
            outbox.join(filling, passage, &head, datagram)
        } else {
            Err(datagram)
        };
        if let Err(datagram) = rest {
            way.filling[side] = outbox.begin(passage, head, datagram);
        }
    }

    /// The first of these leaves by itself behind a heading, the others, if there are any, without.
    pub(super) fn pass_on_headed_once(&mut self, passage: Passage, head: Head, datagram: Datagram) {
        let DatagramSide { outbox, ways, .. } = &mut **self.datagrams;
        let Some(way) = ways.get_mut(passage.flow.slot.index()) else {
            self.discard_datagram(datagram);
            return;
        };
        let (number, rest) = if datagram.count() > 1 {
            let (first, rest) = datagram.lend(1);
            (outbox.begin_lent(passage, head, first), Some(rest))
        } else {
            (outbox.begin(passage, head, datagram), None)
        };
        outbox.cell(number).heads_once = true;
        // What comes later goes without, so that it cannot join; but who closes the socket sees that this waits.
        way.filling[passage.toward.side().index()] = number;
        if let Some(rest) = rest {
            self.pass_on(passage, Head::NONE, rest);
        }
    }

    /// Hands the kernel all sends that were begun. Called when a turn begins.
    pub(super) fn submit_filling(&mut self) {
        for place in 0..self.datagrams.outbox.filling.len() {
            let number = self.datagrams.outbox.filling[place];
            let DatagramSide {
                outbox,
                buffers,
                ways,
                coalescing,
                ..
            } = &mut **self.datagrams;
            let cell = outbox.cell(number);
            let pieces = cell.parcels.len() as u32;
            coalescing.note_send(cell.toward.side(), pieces);
            let side = cell.toward.side().index();
            let mut joined_max = u16::MAX;
            if let Some(way) = ways.get_mut(cell.flow.slot.index()) {
                if way.filling[side] == number {
                    way.filling[side] = NONE;
                }
                if way.generation == cell.flow.generation {
                    joined_max = way.joined_max[side];
                }
            }
            let tag = Tag::house(Op::DatagramSend, u32::from(number));
            let entry = if cell.count > 1 && cell.longest() > u32::from(joined_max) {
                // They arrived joined, and this way is known to refuse that.
                cell.lost = cell.send_singly(|parcel| buffers.address(parcel));
                None
            } else if let Some(name) = cell.plain_name() {
                let parcel = &cell.parcels[0];
                let bytes = (buffers.address(parcel), parcel.bytes());
                Some(ops::send_datagram(cell.socket, bytes, name, tag))
            } else {
                let socket = cell.socket;
                let header = cell.lay_out(|parcel| buffers.address(parcel));
                Some(ops::send_message(socket, header, tag))
            };
            if let Some(entry) = entry {
                self.push(&entry, false);
            }
            let last = self.queued.saturating_sub(1);
            self.datagrams.outbox.cell(number).submission = last;
            self.datagrams.outbox.flying.push(number);
        }
        self.datagrams.outbox.filling.clear();
        self.datagrams.sends_queued = true;
    }

    /// Takes back what sends held whose submission is over: those that were answered have failed.
    pub(in crate::uring) fn settle_datagrams(&mut self, outcomes: &mut Vec<Outcome>) {
        let unsubmitted = self.io.submission().len() as u64;
        self.datagrams.sends_queued = unsubmitted > 0;
        if self.datagrams.outbox.flying.is_empty() {
            return;
        }
        for completion in &self.completions {
            if let Some((number, refused)) = refused_send(completion) {
                self.datagrams.outbox.cell(number).refused = Some(refused);
            }
        }
        let gone = self.queued - unsubmitted;
        let mut flying = std::mem::take(&mut self.datagrams.outbox.flying);
        flying.retain(|&number| {
            let over = self.datagrams.outbox.cell(number).submission < gone;
            if over {
                self.settle_cell(number, outcomes);
            }
            !over
        });
        self.datagrams.outbox.flying = flying;
    }

    fn settle_cell(&mut self, number: u16, outcomes: &mut Vec<Outcome>) {
        let cell = self.datagrams.outbox.cell(number);
        let (flow, outlet, headed) = (cell.flow, cell.toward.outlet(), cell.heads_once);
        let DatagramSide {
            outbox,
            buffers,
            ways,
            ..
        } = &mut **self.datagrams;
        let cell = outbox.cell(number);
        let side = cell.toward.side();
        let refused = cell.refused.take();
        let mut lost = cell.lost.take();
        if let Some(refused) = refused {
            lost = Some((cell.count, refused));
            // One by one they may be shortened on the way, or do without what joined ones need of a device.
            let joined_max = match refused {
                _ if cell.count == 1 => None,
                Refused::Segments => Some(0),
                Refused::As(Undelivered::TooLong) => Some(cell.longest().saturating_sub(1) as u16),
                Refused::As(_) => None,
            };
            if let Some(joined_max) = joined_max {
                if let Some(way) = ways.get_mut(flow.slot.index())
                    && way.generation == flow.generation
                {
                    way.joined_max[side.index()] = joined_max;
                }
                lost = cell.send_singly(|parcel| buffers.address(parcel));
            }
        }
        let lent = cell.lent;
        let mut parcels = std::mem::take(&mut cell.parcels);
        if lent {
            parcels.clear();
        }
        let emptied = self.datagrams.give_back(parcels);
        let outbox = &mut self.datagrams.outbox;
        outbox.cell(number).parcels = emptied;
        outbox.free(number);
        if let Some((datagrams, refused)) = lost.filter(|(datagrams, _)| *datagrams > 0) {
            outcomes.push(Outcome::Undelivered {
                flow,
                outlet,
                datagrams,
                why: refused.into(),
                headed,
            });
        }
    }
}

/// The cell of a send that failed, and why it did.
fn refused_send(completion: &Completion) -> Option<(u16, Refused)> {
    let tag = completion.tag().filter(|tag| tag.op == Op::DatagramSend)?;
    Some((tag.stream.session.slot.0 as u16, completion.refused()?))
}
