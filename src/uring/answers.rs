//! From completions to answers: each goes by its tag to the listener or stream it belongs to, and its buffer into a
//! ticket. What a result means is `outcome.rs`'s to say.

use super::door::{Answer, Outcome};
use super::outcome::{Completion, Unsent};
use super::ring::Ring;
use super::tag::{Op, Tag};
use crate::ids::{Condition, Interest, ReceiveEnd, SocketId};
use crate::sys;

impl Ring {
    /// Answers every send that has been submitted: those with a completion failed or were short, all others were whole.
    pub(super) fn settle_flights(&mut self, outcomes: &mut Vec<Outcome>) {
        if self.flights.is_empty() {
            return;
        }
        for completion in &self.completions {
            if let Some(Tag {
                op: Op::Send,
                buffer,
                ..
            }) = completion.tag()
            {
                self.unsent[usize::from(buffer)] = Some(completion.unsent());
            }
        }
        let unsubmitted = self.io.submission().len() as u64;
        let settled = self
            .flights
            .iter()
            .take_while(|it| it.submission < self.queued - unsubmitted)
            .count();
        for flight in self.flights.drain(..settled) {
            let parcel = flight.parcel;
            let answer = match self.unsent[usize::from(parcel.buffer)].take() {
                None => {
                    self.buffers.give_back(parcel.buffer);
                    Answer::Sent(parcel.length)
                }
                Some(Unsent::Rest(sent)) => Answer::SentShort(sent, parcel.without(sent)),
                Some(Unsent::Broken(failure)) => {
                    self.buffers.give_back(parcel.buffer);
                    let fault = failure.fault(self.streams.socket(flight.stream));
                    self.streams.note_fault(flight.stream, fault);
                    Answer::SendBroken(fault)
                }
            };
            outcomes.push(Outcome::Stream(flight.stream, answer));
        }
    }

    pub(super) fn read(&mut self, completion: Completion, outcomes: &mut Vec<Outcome>) {
        let Some(tag) = completion.tag() else {
            self.stale += 1;
            return;
        };
        self.in_flight -= usize::from(completion.is_owed());
        match tag.op {
            Op::Send | Op::DatagramSend | Op::Cancel | Op::Close => {}
            Op::DatagramReceive | Op::FlowReceive => {
                self.read_datagram(tag, &completion, outcomes);
            }
            Op::Doorbell => {
                self.listen_to_doorbell();
                outcomes.push(Outcome::Doorbell);
            }
            Op::Accept => {
                let id = SocketId(tag.stream.session.slot.0 as u16);
                read_accept(id, completion, outcomes);
            }
            Op::Connect | Op::Receive | Op::HangUp | Op::Leave | Op::Readable | Op::Writable => {
                self.read_stream(tag, &completion, outcomes);
            }
        }
    }

    fn read_stream(&mut self, tag: Tag, completion: &Completion, outcomes: &mut Vec<Outcome>) {
        let stream = tag.stream;
        let parcel = completion
            .buffer()
            .map(|buffer| self.buffers.taken(buffer, completion.bytes()));
        let Some(socket) = self.streams.socket(stream) else {
            // A late answer for a session that is gone: the contract says there is none.
            self.stale += 1;
            if let Some(parcel) = parcel {
                self.buffers.give_back(parcel.buffer);
            }
            return;
        };
        let told = self.streams.fault(stream);
        let from = outcomes.len();
        let mut tell = |answer| outcomes.push(Outcome::Stream(stream, answer));
        match tag.op {
            Op::Connect => {
                let answer = completion.connected();
                if matches!(answer, Answer::Connected) {
                    // The acknowledgement of the first answer rides on what is sent next, or on the end; a hint only.
                    let _ = sys::stream::delay_acknowledgements(socket);
                }
                tell(answer);
            }
            Op::Receive => {
                match parcel {
                    Some(parcel) if parcel.length > 0 => tell(Answer::Received(parcel)),
                    Some(parcel) => self.buffers.give_back(parcel.buffer),
                    None => {}
                }
                match (completion.receive_end(socket), told) {
                    // An end of stream behind an error that another operation was told is none.
                    (Some(ReceiveEnd::Fin), Some(fault)) => {
                        tell(Answer::ReceiveEnded(ReceiveEnd::Broken(fault)));
                    }
                    (Some(end), _) => tell(Answer::ReceiveEnded(end)),
                    (None, _) => {}
                }
            }
            Op::HangUp => self.read_poll(stream, Interest::HangUp, completion, outcomes),
            Op::Leave => self.read_poll(stream, Interest::Leave, completion, outcomes),
            Op::Readable => self.read_poll(stream, Interest::Readable, completion, outcomes),
            Op::Writable => self.read_poll(stream, Interest::Writable, completion, outcomes),
            _ => {}
        }
        for outcome in &outcomes[from..] {
            if let Outcome::Stream(
                _,
                Answer::ReceiveEnded(ReceiveEnd::Broken(fault))
                | Answer::Ready(_, Condition::Broken(fault)),
            ) = outcome
            {
                self.streams.note_fault(stream, *fault);
            }
        }
    }
}

fn read_accept(id: SocketId, completion: Completion, outcomes: &mut Vec<Outcome>) {
    let end = completion.accept_end();
    if let Some(incoming) = completion.accepted() {
        outcomes.push(Outcome::Accepted(id, incoming));
    }
    if let Some(end) = end {
        outcomes.push(Outcome::AcceptEnded(id, end));
    }
}
