//! What a kernel of datagrams does between asking and answering: sends leave or are refused, with every datagram held
//! against whom it is for; what has come is put into buffers, several of one size together.

use ppp::v2::{Addresses, Header};
use ringway::ids::{Caller, FlowKey, Slot};
use ringway::uring::{Datagram, Envelope, Outcome, Undelivered};

use super::kernel::{FlowKernel, Send, To, any_refusal, outlet};
use super::world::{Arrival, Lie, Message, Trouble};

/// Datagrams of one size that come together at most.
const TOGETHER_MAX: usize = 20;

impl FlowKernel {
    pub fn submit(&mut self) {
        for send in std::mem::take(&mut self.sends) {
            self.free(send.buffer);
            let rate = self.world().weather.refuse;
            if self.chance(rate) {
                self.refuse(&send);
                continue;
            }
            match &send.to {
                To::Client(envelope) => self.deliver_to_client(*envelope, &send),
                To::Backend(way, heading) => {
                    let mut heading = heading.clone();
                    if self.world().lies(Lie::HeadingLost) {
                        heading = None;
                    }
                    self.deliver_to_backend(*way, heading.as_ref(), &send);
                    if self.world().lies(Lie::SentTwice) {
                        self.passed[0] += send.messages.len() as u64;
                    }
                }
            }
        }
    }

    fn refuse(&mut self, send: &Send) {
        self.world().meet(Trouble::Refused);
        let headed = matches!(&send.to, To::Backend(_, Some((false, _))));
        if headed {
            self.world().meet(Trouble::HeadingRefused);
        }
        let through = match &send.to {
            To::Client(_) => None,
            To::Backend(number, heading) => {
                let way = self.ways.values_mut().find(|way| way.number == *number);
                let way = way.expect("what a socket was to send leaves before it is closed");
                way.excused |= heading.is_some();
                Some((outlet(*number), way.backend))
            }
        };
        let why = any_refusal(&mut self.world());
        let refused = Outcome::Undelivered {
            flow: send.flow,
            outlet: through.map(|(outlet, _)| outlet),
            datagrams: send.messages.len() as u32,
            why,
            headed,
        };
        self.answers
            .push_back((refused, through.map(|(_, place)| place)));
    }

    fn deliver_to_client(&mut self, envelope: Envelope, send: &Send) {
        let to = Caller {
            socket: envelope.socket,
            client: envelope.client,
            local: envelope.local,
        };
        for message in &send.messages {
            if message.caller != to {
                self.fail(&format!("{to:?} was sent what is of {:?}", message.caller));
            }
        }
    }

    fn deliver_to_backend(&mut self, number: u64, heading: Option<&(bool, Vec<u8>)>, send: &Send) {
        let owner = self.known.get(&send.flow).and_then(|known| known.caller);
        let place = match self.ways.values().find(|way| way.number == number) {
            Some(way) => way.backend,
            // Closed since, and what it was to send was sent before that.
            None => return,
        };
        let wanted = self.world().office().headers;
        for (place_in_send, message) in send.messages.iter().enumerate() {
            if Some(message.caller) != owner {
                self.fail(&format!("{:?} went out as {owner:?}'s", message.caller));
            }
            let ahead = heading.filter(|(each, _)| *each || place_in_send == 0);
            if let Some((_, bytes)) = ahead {
                self.check_header(bytes, message);
            }
            self.check_told(number, wanted, ahead.is_some());
            let mut world = self.world();
            world.backend_hears(place, number, *message);
        }
    }

    /// A header goes ahead of each datagram where that is wanted, else of the first that a backend gets.
    fn check_told(&mut self, number: u64, wanted: Option<bool>, ahead: bool) {
        let way = self.ways.values_mut().find(|way| way.number == number);
        let way = way.expect("was just seen");
        let right = match wanted {
            None => !ahead,
            Some(true) => ahead,
            Some(false) => ahead != way.told || way.excused,
        };
        way.told |= ahead;
        if ahead {
            way.excused = false;
        }
        if !right {
            self.fail(&format!("a header ahead is {ahead}, wanted {wanted:?}"));
        }
    }

    fn check_header(&self, bytes: &[u8], message: &Message) {
        let bound = self.world().office().bound(message.caller.socket);
        let to = message.caller.local.unwrap_or(bound.ip());
        let header = Header::try_from(bytes).unwrap_or_else(|error| {
            self.fail(&format!("no header: {error:?}"));
        });
        let Addresses::IPv4(it) = header.addresses else {
            self.fail(&format!("{:?}", header.addresses));
        };
        let source = (it.source_address.into(), it.source_port);
        let destination = (it.destination_address.into(), it.destination_port);
        let client = message.caller.client;
        let wanted = ((client.ip(), client.port()), (to, bound.port()));
        if (source, destination) != wanted {
            self.fail(&format!(
                "{source:?} {destination:?} is announced for {wanted:?}"
            ));
        }
    }

    /// What has reached the sockets of flows by now.
    pub fn collect_arrivals(&mut self) {
        loop {
            let next = {
                let world = self.world();
                let first = world.arrivals.iter().next();
                first
                    .filter(|((at, _), _)| *at <= world.now)
                    .map(|(key, what)| (*key, *what))
            };
            let Some((key, (number, arrival))) = next else {
                return;
            };
            self.world().arrivals.remove(&key);
            // Another worker's is taken by its own kernel: both look in turn, so it waits for a moment.
            match self.ways.values_mut().find(|way| way.number == number) {
                Some(way) if way.arrived.len() < 64 => way.arrived.push_back(arrival),
                Some(_) => {}
                None => self.leave_to_others(number, arrival),
            }
        }
    }

    fn leave_to_others(&mut self, number: u64, arrival: Arrival) {
        let others = self.world().weather.workers > 1;
        let mut world = self.world();
        if others && world.random.chance(500) {
            let later = (world.now + 1_000, world.random.bits());
            world.arrivals.insert(later, (number, arrival));
        } else {
            world.meet(Trouble::LateReply);
        }
    }

    pub fn receive_requests(&mut self, outcomes: &mut Vec<Outcome>) {
        for place in 0..self.listeners.len() {
            let id = self.listeners[place].id;
            if self.listeners[place].paused {
                continue;
            }
            let (pause, cut) = {
                let world = self.world();
                (world.weather.pause, world.weather.cut)
            };
            while let Some(messages) = self.take_written(id) {
                if self.chance(pause) {
                    self.world().meet(Trouble::ListenerPaused);
                    self.listeners[place].paused = true;
                    self.put_back(id, messages);
                    outcomes.push(Outcome::DatagramsPaused(id, Undelivered::Resources));
                    break;
                }
                if self.chance(cut) {
                    self.world().meet(Trouble::Cut);
                    outcomes.push(Outcome::DatagramCut(id));
                    continue;
                }
                let (caller, count) = (messages[0].caller, messages.len() as u64);
                let Some(datagram) = self.fill(messages.clone()) else {
                    self.world().meet(Trouble::NoBuffer);
                    self.put_back(id, messages);
                    outcomes.push(Outcome::NoDatagramBuffer);
                    break;
                };
                self.received[0] += count;
                let now = self.world().now;
                self.heard_at.insert(caller, now);
                let mut envelope = Envelope {
                    socket: id,
                    client: caller.client,
                    local: caller.local,
                };
                if self.world().lies(Lie::AnotherClient) {
                    envelope.client.set_port(caller.client.port() ^ 1);
                }
                outcomes.push(Outcome::Request(envelope, datagram));
            }
        }
    }

    /// The next datagrams of one client and one size.
    fn take_written(&mut self, id: ringway::ids::SocketId) -> Option<Vec<Message>> {
        let worker = self.worker;
        let mut world = self.world();
        let together = world.random.pick(&[1, TOGETHER_MAX]);
        let queue = world.written.get_mut(&(worker, id))?;
        let first = queue.pop_front()?;
        let mut messages = vec![first];
        let joins = |next: &Message| {
            first.bytes > 0 && next.caller == first.caller && next.bytes == first.bytes
        };
        while messages.len() < together && queue.front().is_some_and(joins) {
            messages.extend(queue.pop_front());
        }
        Some(messages)
    }

    fn put_back(&mut self, id: ringway::ids::SocketId, messages: Vec<Message>) {
        let worker = self.worker;
        let mut world = self.world();
        let queue = world.written.entry((worker, id)).or_default();
        for message in messages.into_iter().rev() {
            queue.push_front(message);
        }
    }

    pub fn receive_answers(&mut self, outcomes: &mut Vec<Outcome>) {
        let mut slots: Vec<u32> = self.ways.keys().copied().collect();
        slots.sort_unstable();
        for slot in &slots {
            let mut flow = FlowKey {
                slot: Slot(*slot),
                generation: self.ways[slot].generation,
            };
            while let Some(arrival) = self
                .ways
                .get_mut(slot)
                .and_then(|way| way.arrived.pop_front())
            {
                let Arrival::Answer(message) = arrival else {
                    self.world().meet(Trouble::FlowBroken);
                    self.told[self.ways[slot].backend] += 1;
                    let through = outlet(self.ways[slot].number);
                    let why = Undelivered::Unreachable;
                    outcomes.push(Outcome::FlowBroken(flow, through, why));
                    continue;
                };
                let Some(datagram) = self.fill_with_answers(*slot, message) else {
                    self.world().meet(Trouble::NoBuffer);
                    outcomes.push(Outcome::NoDatagramBuffer);
                    self.ways
                        .get_mut(slot)
                        .expect("was just seen")
                        .arrived
                        .push_front(arrival);
                    break;
                };
                self.received[1] += u64::from(datagram.count());
                if self.world().lies(Lie::AnotherFlow)
                    && let Some(other) = slots.iter().find(|other| *other != slot)
                {
                    flow = FlowKey {
                        slot: Slot(*other),
                        generation: self.ways[other].generation,
                    };
                }
                let through = outlet(self.ways[&flow.slot.0].number);
                outcomes.push(Outcome::Response(flow, through, datagram));
            }
        }
    }

    fn fill_with_answers(&mut self, slot: u32, first: Message) -> Option<Datagram> {
        let way = self.ways.get_mut(&slot)?;
        let mut messages = vec![first];
        while let Some(Arrival::Answer(next)) = way.arrived.front().copied() {
            if first.bytes == 0 || next.bytes != first.bytes || first.bytes > 1_200 {
                break;
            }
            way.arrived.pop_front();
            messages.push(next);
        }
        let rest = messages[1..].to_vec();
        let filled = self.fill(messages);
        if filled.is_none() {
            let way = self.ways.get_mut(&slot)?;
            for message in rest.into_iter().rev() {
                way.arrived.push_front(Arrival::Answer(message));
            }
        }
        filled
    }
}
