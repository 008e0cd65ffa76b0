//! What receives on sockets for datagrams answer: filled buffers become datagrams of somebody, ends are mended or told.

use crate::ids::{FlowKey, Outlet, SocketId};
use crate::uring::buffers::Parcel;
use crate::uring::door::Outcome;
use crate::uring::outcome::{Completion, ReceivePause, Refused};
use crate::uring::ring::Ring;
use crate::uring::tag::{Op, Tag};

use super::door::{Datagram, Envelope, Undelivered};
use super::inbound::{self, PAYLOAD_AT};

/// Whose socket a datagram came to.
#[derive(Clone, Copy)]
enum Whose {
    Listeners(SocketId),
    Flows(FlowKey, Outlet),
}

fn cut(whose: Whose) -> Outcome {
    match whose {
        Whose::Flows(flow, _) => Outcome::Undelivered {
            flow,
            outlet: None,
            datagrams: 1,
            why: Undelivered::TooLong,
            headed: false,
        },
        Whose::Listeners(socket) => Outcome::DatagramCut(socket),
    }
}

impl Ring {
    /// One answer of a receive on a listener's or a flow's socket.
    pub(in crate::uring) fn read_datagram(
        &mut self,
        tag: Tag,
        completion: &Completion,
        outcomes: &mut Vec<Outcome>,
    ) {
        let datagrams = &mut **self.datagrams;
        let (current, whose) = match tag.op {
            Op::DatagramReceive => {
                let known = datagrams.listener(tag.socket()).is_some();
                let quiet = datagrams.quiet.contains(&tag.socket());
                let whose = known.then_some(Whose::Listeners(tag.socket()));
                (known && !quiet, whose)
            }
            _ => match datagrams.seats.of(tag) {
                Some(seat) => (
                    !seat.quiet,
                    seat.flow.map(|(flow, outlet)| Whose::Flows(flow, outlet)),
                ),
                None => (false, None),
            },
        };
        if let Some(buffer) = completion.buffer() {
            let parcel = datagrams.buffers.taken(buffer, completion.bytes());
            match whose {
                Some(whose) => outcomes.extend(self.open_parcel(whose, parcel)),
                None => datagrams.buffers.give_back(parcel.buffer),
            }
        }
        match completion.receive_pause() {
            Some(pause) if current => {
                let told = self.on_receive_pause(tag, pause, whose);
                outcomes.extend(told);
            }
            Some(_) => self.note_disarmed(tag),
            None => {}
        }
    }

    /// A receive that is still wanted goes on no more: it is armed again, or somebody is told.
    fn on_receive_pause(
        &mut self,
        tag: Tag,
        pause: ReceivePause,
        whose: Option<Whose>,
    ) -> Option<Outcome> {
        match (pause, whose) {
            (ReceivePause::Over, _) => self.receive_datagrams(tag),
            (ReceivePause::NoBuffer, _) => {
                self.datagrams.rearm.push(tag);
                return Some(Outcome::NoDatagramBuffer);
            }
            // A router on the way has no room for one so long. It is told once, and the way is as it was.
            (
                ReceivePause::Broken(Refused::As(why @ Undelivered::TooLong)),
                Some(Whose::Flows(flow, outlet)),
            ) => {
                self.receive_datagrams(tag);
                return Some(Outcome::Undelivered {
                    flow,
                    outlet: Some(outlet),
                    datagrams: 1,
                    why,
                    headed: false,
                });
            }
            // An error of the socket as a whole is told once and taken by being told.
            (ReceivePause::Broken(refused), whose) => {
                self.note_disarmed(tag);
                let why = refused.into();
                return whose.map(|whose| match whose {
                    Whose::Listeners(id) => Outcome::DatagramsPaused(id, why),
                    Whose::Flows(flow, outlet) => Outcome::FlowBroken(flow, outlet, why),
                });
            }
            (ReceivePause::Cancelled, _) => {}
        }
        None
    }

    fn note_disarmed(&mut self, tag: Tag) {
        if tag.op == Op::FlowReceive
            && let Some(seat) = self.datagrams.seats.of(tag)
        {
            seat.armed = false;
        }
    }

    /// What a filled buffer says; it goes back at once if it is not to be passed on.
    fn open_parcel(&mut self, whose: Whose, parcel: Parcel) -> Option<Outcome> {
        let filled = parcel.bytes();
        let read = inbound::read(self.datagrams.buffers.bytes(&parcel), filled as usize);
        let whole =
            read.filter(|read| !read.truncated && read.payload_bytes + PAYLOAD_AT as u32 == filled);
        let Some(read) = whole else {
            self.datagrams.buffers.give_back(parcel.buffer);
            return Some(cut(whose));
        };
        let segment = read.segment.unwrap_or(read.payload_bytes);
        let datagram = Datagram {
            parcel: parcel.without(PAYLOAD_AT as u32),
            segment: if segment == 0 {
                read.payload_bytes
            } else {
                segment
            },
        };
        match (whose, read.from) {
            (Whose::Flows(flow, outlet), _) => Some(Outcome::Response(flow, outlet, datagram)),
            (Whose::Listeners(socket), Some(client)) => Some(Outcome::Request(
                Envelope {
                    socket,
                    client,
                    local: read.local,
                },
                datagram,
            )),
            (whose, None) => {
                self.discard_datagram(datagram);
                Some(cut(whose))
            }
        }
    }
}
