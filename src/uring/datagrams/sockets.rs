//! The real kernel's side of [`Datagrams`]: sockets of listeners and flows, their receives, and the settling of sends.

use std::io;
use std::mem::ManuallyDrop;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use crate::ids::{ConnectFailure, FlowKey, Side, SocketId};
use crate::sys::datagram;
use crate::uring::buffers::{Buffers, Parcel};
use crate::uring::door::Outcome;
use crate::uring::ops;
use crate::uring::outcome::{self, Completion, ReceivePause, Refused};
use crate::uring::ring::{Listening, Ring};
use crate::uring::tag::{Op, Tag};

use super::door::{Datagram, Datagrams, Envelope, Undelivered};
use super::inbound::{self, PAYLOAD_AT};
use super::outbound::{Outbox, Toward};

/// Buffers for datagrams, and so the most that a turn can hold.
pub(in crate::uring) const DATAGRAM_BUFFERS: u16 = 512;
/// The largest datagram there is, what the kernel writes before it, and what rounds it up to whole cache lines.
pub(in crate::uring) const DATAGRAM_BUFFER_BYTES: u32 = 64 * 1024 + 256;

const NONE: u16 = u16::MAX;

#[derive(Debug)]
struct FlowSocket {
    generation: u16,
    /// Tells the answers for this socket from late ones for an earlier socket of the same flow.
    life: u16,
    socket: Option<OwnedFd>,
    /// The cell that is filling, by the side it goes to.
    filling: [u16; 2],
    /// By the same side: the way refuses sends of several datagrams.
    single: [bool; 2],
}

/// All that carries datagrams.
pub(in crate::uring) struct DatagramSide {
    pub(in crate::uring) buffers: Buffers,
    outbox: Outbox,
    /// What every receive shows the kernel; boxed, so that it stays where it is.
    layout: Box<libc::msghdr>,
    listeners: Vec<Listening>,
    flows: Vec<FlowSocket>,
    /// Receives that ended for want of buffers, which are there again when the next turn begins.
    rearm: Vec<Tag>,
    failed: Vec<(u16, Refused)>,
}

impl DatagramSide {
    /// Room for `flows_max` flows is reserved now and touched as it is used.
    pub(in crate::uring) fn new(buffers: Buffers, outbox: Outbox, flows_max: u32) -> DatagramSide {
        DatagramSide {
            buffers,
            outbox,
            layout: Box::new(inbound::layout()),
            listeners: Vec::new(),
            flows: Vec::with_capacity(flows_max as usize),
            rearm: Vec::with_capacity(64),
            failed: Vec::new(),
        }
    }

    fn flow(&mut self, flow: FlowKey) -> Option<&mut FlowSocket> {
        let found = self.flows.get_mut(flow.slot.index())?;
        (found.generation == flow.generation).then_some(found)
    }

    fn listener(&self, id: SocketId) -> Option<RawFd> {
        let found = self.listeners.iter().find(|it| it.id == id)?;
        Some(found.socket.as_raw_fd())
    }

    fn give_back(&mut self, parcels: Vec<Parcel>) -> Vec<Parcel> {
        let mut parcels = parcels;
        for parcel in parcels.drain(..) {
            self.buffers.give_back(parcel.buffer);
        }
        parcels
    }
}

fn flow_tag(flow: FlowKey, life: u16) -> Tag {
    Tag {
        buffer: life,
        ..Tag::flow(Op::FlowReceive, flow)
    }
}

impl Datagrams for Ring {
    fn open_datagrams(&mut self, id: SocketId, socket: BorrowedFd<'_>) -> io::Result<()> {
        let socket = socket.try_clone_to_owned()?;
        self.datagrams.listeners.push(Listening { id, socket });
        self.receive_datagrams(Tag::house(Op::DatagramReceive, u32::from(id.0)));
        Ok(())
    }

    fn close_datagrams(&mut self, id: SocketId) {
        let listeners = &mut self.datagrams.listeners;
        let Some(place) = listeners.iter().position(|it| it.id == id) else {
            return;
        };
        let socket = listeners.swap_remove(place).socket;
        // What it was to send must leave before its number can be another's.
        self.submit_filling();
        let tag = Tag::house(Op::DatagramReceive, u32::from(id.0));
        self.cancel_and_close(tag, socket);
    }

    fn resume_datagrams(&mut self, id: SocketId) {
        self.receive_datagrams(Tag::house(Op::DatagramReceive, u32::from(id.0)));
    }

    fn open_flow(
        &mut self,
        flow: FlowKey,
        backend: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<(), ConnectFailure> {
        self.close_flow(flow);
        let socket = datagram::outbound(backend, source)
            .map_err(|error| outcome::datagram_socket_failure(&error))?;
        datagram::accept_aggregates(socket.as_fd());
        let flows = &mut self.datagrams.flows;
        while flows.len() <= flow.slot.index() {
            flows.push(FlowSocket {
                generation: 0,
                life: 0,
                socket: None,
                filling: [NONE; 2],
                single: [false; 2],
            });
        }
        let entry = &mut flows[flow.slot.index()];
        entry.generation = flow.generation;
        entry.life = entry.life.wrapping_add(1);
        entry.socket = Some(socket);
        entry.filling = [NONE; 2];
        entry.single = [false; 2];
        let tag = flow_tag(flow, entry.life);
        self.receive_datagrams(tag);
        Ok(())
    }

    fn has_flow(&self, flow: FlowKey) -> bool {
        let found = self.datagrams.flows.get(flow.slot.index());
        found.is_some_and(|it| it.generation == flow.generation && it.socket.is_some())
    }

    fn close_flow(&mut self, flow: FlowKey) {
        let Some(entry) = self.datagrams.flow(flow) else {
            return;
        };
        let (life, sends) = (entry.life, entry.filling[Side::Backend.index()] != NONE);
        if let Some(socket) = entry.socket.take() {
            if sends {
                self.submit_filling();
            }
            self.cancel_and_close(flow_tag(flow, life), socket);
        }
    }

    fn to_backend(&mut self, flow: FlowKey, datagram: Datagram) {
        let socket = self
            .datagrams
            .flow(flow)
            .and_then(|entry| entry.socket.as_ref())
            .map(AsRawFd::as_raw_fd);
        match socket {
            Some(socket) => self.pass_on(flow, Toward::Backend, socket, datagram),
            None => self.discard(datagram),
        }
    }

    fn to_client(&mut self, flow: FlowKey, envelope: Envelope, datagram: Datagram) {
        match self.datagrams.listener(envelope.socket) {
            Some(socket) => self.pass_on(flow, Toward::Client(envelope), socket, datagram),
            None => self.discard(datagram),
        }
    }

    fn discard(&mut self, datagram: Datagram) {
        self.datagrams.buffers.give_back(datagram.parcel.buffer);
    }
}

impl Ring {
    /// Puts a datagram behind what goes the same way already, or begins a new send.
    fn pass_on(&mut self, flow: FlowKey, toward: Toward, socket: RawFd, datagram: Datagram) {
        let DatagramSide { outbox, flows, .. } = &mut **self.datagrams;
        let side = toward.side().index();
        let Some(entry) = flows.get_mut(flow.slot.index()) else {
            self.discard(datagram);
            return;
        };
        let (filling, single) = (entry.filling[side], entry.single[side]);
        let rest = if filling == NONE || single {
            Err(datagram)
        } else {
            outbox.join(filling, flow, toward, datagram)
        };
        if let Err(datagram) = rest {
            entry.filling[side] = outbox.begin(flow, toward, socket, datagram);
        }
    }

    /// Hands the kernel all sends that were begun. Called when a turn begins.
    pub(in crate::uring) fn submit_filling(&mut self) {
        for place in 0..self.datagrams.outbox.filling.len() {
            let number = self.datagrams.outbox.filling[place];
            let DatagramSide {
                outbox,
                buffers,
                flows,
                ..
            } = &mut **self.datagrams;
            let cell = outbox.cell(number);
            let side = cell.toward.side().index();
            if let Some(entry) = flows.get_mut(cell.flow.slot.index())
                && entry.filling[side] == number
            {
                entry.filling[side] = NONE;
            }
            let tag = Tag::house(Op::DatagramSend, u32::from(number));
            let entry = if cell.is_plain() {
                let parcel = &cell.parcels[0];
                ops::send_datagram(cell.socket, buffers.address(parcel), parcel.bytes(), tag)
            } else {
                let socket = cell.socket;
                let header = cell.lay_out(|parcel| buffers.address(parcel));
                ops::send_message(socket, header, tag)
            };
            self.push(&entry, false);
            self.datagrams.outbox.cell(number).submission = self.queued - 1;
            self.datagrams.outbox.flying.push(number);
        }
        self.datagrams.outbox.filling.clear();
    }

    /// Takes back what sends held whose submission is over: those that were answered have failed.
    pub(in crate::uring) fn settle_datagrams(&mut self, outcomes: &mut Vec<Outcome>) {
        if self.datagrams.outbox.flying.is_empty() {
            return;
        }
        let mut failed = std::mem::take(&mut self.datagrams.failed);
        for completion in &self.completions {
            if let Some(Tag {
                op: Op::DatagramSend,
                stream,
                ..
            }) = completion.tag()
                && let Some(refused) = completion.refused()
            {
                failed.push((stream.session.slot.0 as u16, refused));
            }
        }
        let unsubmitted = self.io.submission().len() as u64;
        let gone = self.queued - unsubmitted;
        let mut flying = std::mem::take(&mut self.datagrams.outbox.flying);
        flying.retain(|&number| {
            let over = self.datagrams.outbox.cell(number).submission < gone;
            if over {
                let refused = failed.iter().find(|(of, _)| *of == number);
                self.settle_cell(number, refused.map(|(_, refused)| *refused), outcomes);
            }
            !over
        });
        failed.clear();
        (self.datagrams.failed, self.datagrams.outbox.flying) = (failed, flying);
    }

    fn settle_cell(&mut self, number: u16, refused: Option<Refused>, outcomes: &mut Vec<Outcome>) {
        let DatagramSide {
            outbox,
            buffers,
            flows,
            ..
        } = &mut **self.datagrams;
        let cell = outbox.cell(number);
        let (flow, side) = (cell.flow, cell.toward.side());
        let mut lost = refused.map(|refused| (cell.count, refused));
        if refused == Some(Refused::Segments) && cell.count > 1 {
            // This way takes no sends of several datagrams, and so it is remembered: each leaves by itself.
            if let Some(entry) = flows.get_mut(flow.slot.index())
                && entry.generation == flow.generation
            {
                entry.single[side.index()] = true;
            }
            lost = cell.send_singly(|parcel| buffers.address(parcel));
        }
        let parcels = std::mem::take(&mut cell.parcels);
        let emptied = self.datagrams.give_back(parcels);
        let outbox = &mut self.datagrams.outbox;
        outbox.cell(number).parcels = emptied;
        outbox.free(number);
        if let Some((datagrams, refused)) = lost.filter(|(datagrams, _)| *datagrams > 0) {
            outcomes.push(Outcome::Undelivered {
                flow,
                side,
                datagrams,
                why: refused.into(),
            });
        }
    }

    fn receive_datagrams(&mut self, tag: Tag) {
        let socket = match tag.op {
            Op::DatagramReceive => self.datagrams.listener(tag.socket()),
            _ => self
                .datagrams
                .flow(tag.flow_key())
                .filter(|entry| entry.life == tag.buffer)
                .and_then(|entry| entry.socket.as_ref())
                .map(AsRawFd::as_raw_fd),
        };
        if let Some(socket) = socket {
            let entry = ops::receive_messages(socket, &raw const *self.datagrams.layout, tag);
            self.push(&entry, true);
        }
    }

    /// What a turn begins with: buffers go to the kernel, sends leave, receives that had found no buffer are armed again.
    pub(in crate::uring) fn begin_datagrams(&mut self) {
        self.datagrams.buffers.publish();
        self.submit_filling();
        let mut rearm = std::mem::take(&mut self.datagrams.rearm);
        for tag in rearm.drain(..) {
            self.receive_datagrams(tag);
        }
        self.datagrams.rearm = rearm;
    }

    /// The receive keeps the socket alive until it has answered; the number is free at once.
    fn cancel_and_close(&mut self, receive: Tag, socket: OwnedFd) {
        self.push(&ops::cancel(receive, Tag::house(Op::Cancel, 0)), false);
        let close = ops::close(socket.into_raw_fd(), Tag::house(Op::Close, 0));
        self.push(&close, false);
    }

    /// One answer of a receive on a listener's or a flow's socket.
    pub(in crate::uring) fn read_datagram(
        &mut self,
        tag: Tag,
        completion: &Completion,
        outcomes: &mut Vec<Outcome>,
    ) {
        let is_listener = tag.op == Op::DatagramReceive;
        let current = if is_listener {
            self.datagrams.listener(tag.socket()).is_some()
        } else {
            let entry = self.datagrams.flow(tag.flow_key());
            entry.is_some_and(|entry| entry.life == tag.buffer && entry.socket.is_some())
        };
        if let Some(buffer) = completion.buffer() {
            let parcel = self.datagrams.buffers.taken(buffer, completion.bytes());
            if current {
                outcomes.extend(self.open_parcel(tag, parcel));
            } else {
                self.datagrams.buffers.give_back(parcel.buffer);
            }
        }
        match completion.receive_pause() {
            Some(ReceivePause::Over) if current => self.receive_datagrams(tag),
            Some(ReceivePause::NoBuffer) if current => {
                outcomes.push(Outcome::NoDatagramBuffer);
                self.datagrams.rearm.push(tag);
            }
            Some(ReceivePause::Broken(refused)) if current && is_listener => {
                // An error of the socket as a whole is told once and taken by being told.
                outcomes.push(Outcome::DatagramsPaused(tag.socket(), refused.into()));
            }
            Some(ReceivePause::Broken(refused)) if current => {
                outcomes.push(Outcome::FlowBroken(tag.flow_key(), refused.into()));
            }
            _ => {}
        }
    }

    /// What a filled buffer says; it goes back at once if it is not to be passed on.
    fn open_parcel(&mut self, tag: Tag, parcel: Parcel) -> Option<Outcome> {
        let filled = parcel.bytes();
        let read = inbound::read(self.datagrams.buffers.bytes(&parcel), filled as usize);
        let whole =
            read.filter(|read| !read.truncated && read.payload_bytes + PAYLOAD_AT as u32 == filled);
        let Some(read) = whole else {
            self.datagrams.buffers.give_back(parcel.buffer);
            return Some(cut(tag));
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
        match (tag.op, read.from) {
            (Op::FlowReceive, _) => Some(Outcome::Response(tag.flow_key(), datagram)),
            (_, Some(client)) => Some(Outcome::Request(
                Envelope {
                    socket: tag.socket(),
                    client,
                    local: read.local,
                },
                datagram,
            )),
            (_, None) => {
                self.discard(datagram);
                Some(cut(tag))
            }
        }
    }
}

fn cut(tag: Tag) -> Outcome {
    match tag.op {
        Op::FlowReceive => Outcome::Undelivered {
            flow: tag.flow_key(),
            side: Side::Client,
            datagrams: 1,
            why: Undelivered::TooLong,
        },
        _ => Outcome::DatagramCut(tag.socket()),
    }
}

/// The kernel may still read what is in here when a ring could not be quieted: then it is leaked.
pub(in crate::uring) type KeptDatagrams = ManuallyDrop<Box<DatagramSide>>;
