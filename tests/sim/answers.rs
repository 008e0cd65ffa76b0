//! Completions on their way to the worker: parsed as the real ring parses them, told, and noted for the counts. Here is
//! noticed who asks again and again and gets nothing new.

use ringway::ids::{Condition, Fault as Broken, Interest, ReceiveEnd, StreamKey};
use ringway::uring::{Answer, Outcome, Parcel};

use super::counts::Fault;
use super::kernel::{Completion, FakeKernel, Flight, Op, OpKind, Submission};
use super::socket::{ERR, HUP, Place};

impl FakeKernel {
    /// Answers of sends first, then completions, as many as this seed's turns bring.
    pub fn collect(&mut self, outcomes: &mut Vec<Outcome>) {
        for flight in std::mem::take(&mut self.flights) {
            match flight.result {
                Some(result) => self.settle(flight, result, outcomes),
                None => self.flights.push(flight),
            }
        }
        let most = self.net().weather.outcomes_max;
        if most < self.completions.len() {
            self.hit(Fault::SmallBatch);
        }
        for _ in 0..most {
            let Some(completion) = self.completions.pop_front() else {
                return;
            };
            self.parse(completion, outcomes);
        }
    }

    fn settle(&mut self, flight: Flight, result: Result<u32, Broken>, outcomes: &mut Vec<Outcome>) {
        let Flight { stream, parcel, .. } = flight;
        self.end_mut(stream).sends -= 1;
        let answer = match result {
            Ok(bytes) if bytes == parcel.bytes() => {
                self.give_back(parcel.buffer());
                Answer::Sent(bytes)
            }
            Ok(bytes) => Answer::SentShort(bytes, parcel.without(bytes)),
            Err(fault) => {
                self.give_back(parcel.buffer());
                self.note_told(stream, fault);
                Answer::SendBroken(fault)
            }
        };
        self.tell(stream, answer, outcomes);
    }

    fn parse(&mut self, completion: Completion, outcomes: &mut Vec<Outcome>) {
        match completion {
            Completion::SendFailed => {}
            Completion::Connect(stream, result) => {
                *self.op_mut(stream, OpKind::Connect) = Op::Off;
                let answer = match result {
                    Ok(()) => Answer::Connected,
                    Err(Some(failure)) => Answer::ConnectFailed(failure),
                    Err(None) => {
                        let conn = self.end(stream).conn;
                        self.net_mut().conns[conn].place = Place::Unconnected;
                        Answer::ConnectCancelled
                    }
                };
                self.tell(stream, answer, outcomes);
            }
            Completion::Received(stream, buffer, bytes, end) => {
                let full = bytes == self.net().weather.buffer_bytes;
                let parcel = Parcel::new(buffer, bytes, full);
                self.tell(stream, Answer::Received(parcel), outcomes);
                if let Some(end) = end {
                    *self.op_mut(stream, OpKind::Receive) = Op::Off;
                    self.tell(stream, Answer::ReceiveEnded(end), outcomes);
                }
            }
            Completion::ReceiveEnd(stream, mut end) => {
                *self.op_mut(stream, OpKind::Receive) = Op::Off;
                if let ReceiveEnd::Broken(fault) = end {
                    self.note_told(stream, fault);
                } else if end == ReceiveEnd::Fin {
                    end = self.told(stream).map_or(end, ReceiveEnd::Broken);
                }
                self.tell(stream, Answer::ReceiveEnded(end), outcomes);
            }
            Completion::Poll(stream, interest, mask) => {
                *self.op_mut(stream, OpKind::Poll(interest)) = Op::Off;
                let answer = match mask {
                    None => Answer::PollEnded(interest),
                    Some(mask) => Answer::Ready(interest, self.condition(stream, interest, mask)),
                };
                self.tell(stream, answer, outcomes);
            }
            Completion::Accepted(id, conn, end) => {
                outcomes.push(Outcome::Accepted(id, self.incoming(conn)));
                if let Some(end) = end {
                    outcomes.push(Outcome::AcceptEnded(id, end));
                }
            }
            Completion::AcceptEnd(id, end) => outcomes.push(Outcome::AcceptEnded(id, end)),
            Completion::Bell => {
                self.queue.push_back(Submission::Bell);
                outcomes.push(Outcome::Doorbell);
            }
        }
    }

    /// As the real one: an error is taken from the socket when the poll's answer is read.
    fn condition(&self, stream: StreamKey, interest: Interest, mask: u8) -> Condition {
        let mut net = self.net_mut();
        let (id, now) = (self.end(stream).conn, net.now);
        let conn = &mut net.conns[id];
        if mask & (ERR | HUP) != 0 {
            if let Some(fault) = conn.take_error() {
                conn.told.get_or_insert((fault, now));
                net.hit(Fault::ErrorTakenByPoll);
                return Condition::Broken(fault);
            }
            return Condition::HungUp;
        }
        if interest == Interest::Leave && conn.waiting() == 0 {
            return Condition::Left;
        }
        Condition::Fine
    }

    fn tell(&mut self, stream: StreamKey, answer: Answer, outcomes: &mut Vec<Outcome>) {
        self.say(|| {
            let id = self.end(stream).conn;
            format!("<- c{id} {answer:?}")
        });
        self.note_fruit(stream, &answer);
        self.note_activity(stream, &answer);
        self.note_pair(stream, name_of(&answer), is_about_sending(&answer));
        outcomes.push(Outcome::Stream(stream, answer));
    }

    /// What comes after a cancel is no activity that a session must count.
    fn note_activity(&self, stream: StreamKey, answer: &Answer) {
        let id = self.end(stream).conn;
        let mut net = self.net_mut();
        let moved = match answer {
            Answer::Received(_) => !net.conns[id].unwanted,
            Answer::Sent(_) => true,
            Answer::SentShort(bytes, _) => *bytes > 0,
            _ => false,
        };
        if moved {
            net.conns[id].moved_at = net.now;
        }
    }

    pub fn note_pair(&self, stream: StreamKey, event: &'static str, about_sending: bool) {
        let Some((phase, routes)) = self.entry(stream.session).state else {
            return;
        };
        let from = if about_sending {
            stream.side.other()
        } else {
            stream.side
        };
        let state = (phase, routes[from.index()]);
        self.net_mut().counts.pair(state, event);
    }

    /// A session that asks again and again and gets nothing new burns the core as surely as a spinning worker.
    fn note_fruit(&self, stream: StreamKey, answer: &Answer) {
        let fruitless = matches!(
            answer,
            Answer::Ready(..)
                | Answer::PollEnded(_)
                | Answer::SentShort(0, _)
                | Answer::ReceiveEnded(ReceiveEnd::Stopped)
        );
        if !fruitless {
            return;
        }
        let mut net = self.net_mut();
        let now = net.now;
        let id = self.end(stream).conn;
        let other = net.conns[id].partner.map_or(0, |it| net.conns[it].stamp);
        let conn = &mut net.conns[id];
        let stamp = conn.stamp + other;
        let (count, since, last) = conn.fruitless;
        conn.fruitless = match last == stamp && now - since < 100_000_000 {
            true => (count + 1, since, stamp),
            false => (1, now, stamp),
        };
        if count > 150 {
            net.fail(&format!(
                "c{id} spins: 150 answers that brought nothing new"
            ));
        }
    }
}

fn is_about_sending(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Sent(_)
            | Answer::SentShort(..)
            | Answer::SendBroken(_)
            | Answer::Ready(Interest::Writable, _)
            | Answer::PollEnded(Interest::Writable)
    )
}

fn name_of(answer: &Answer) -> &'static str {
    match answer {
        Answer::Connected => "connected",
        Answer::ConnectFailed(_) => "connect-failed",
        Answer::ConnectCancelled => "connect-cancelled",
        Answer::Received(parcel) if parcel.is_full() => "received-full",
        Answer::Received(_) => "received",
        Answer::ReceiveEnded(ReceiveEnd::Fin) => "receive-fin",
        Answer::ReceiveEnded(ReceiveEnd::Stopped) => "receive-stopped",
        Answer::ReceiveEnded(ReceiveEnd::NoBuffer) => "receive-no-buffer",
        Answer::ReceiveEnded(ReceiveEnd::Broken(_)) => "receive-broken",
        Answer::Sent(_) => "sent",
        Answer::SentShort(0, _) => "sent-nothing",
        Answer::SentShort(..) => "sent-short",
        Answer::SendBroken(_) => "send-broken",
        Answer::PollEnded(Interest::HangUp) => "hang-up-cancelled",
        Answer::PollEnded(Interest::Leave) => "leave-cancelled",
        Answer::PollEnded(Interest::Readable) => "readable-cancelled",
        Answer::PollEnded(Interest::Writable) => "writable-cancelled",
        Answer::Ready(interest, condition) => name_of_poll(*interest, *condition),
    }
}

fn name_of_poll(interest: Interest, condition: Condition) -> &'static str {
    match (interest, condition) {
        (Interest::HangUp, Condition::Fine) => "hang-up-fine",
        (Interest::HangUp, Condition::HungUp) => "hang-up-hung-up",
        (Interest::HangUp, Condition::Left) => "hang-up-left",
        (Interest::HangUp, Condition::Broken(_)) => "hang-up-broken",
        (Interest::Leave, Condition::Fine) => "leave-fine",
        (Interest::Leave, Condition::HungUp) => "leave-hung-up",
        (Interest::Leave, Condition::Left) => "leave-left",
        (Interest::Leave, Condition::Broken(_)) => "leave-broken",
        (Interest::Readable, Condition::Fine) => "readable",
        (Interest::Readable, Condition::HungUp) => "readable-hung-up",
        (Interest::Readable, Condition::Left) => "readable-left",
        (Interest::Readable, Condition::Broken(_)) => "readable-broken",
        (Interest::Writable, Condition::Fine) => "writable",
        (Interest::Writable, Condition::HungUp) => "writable-hung-up",
        (Interest::Writable, Condition::Left) => "writable-left",
        (Interest::Writable, Condition::Broken(_)) => "writable-broken",
    }
}
