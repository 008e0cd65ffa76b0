//! What a worker has asked for, on its way into the fake kernel: the submission queue and what becomes of each entry as it
//! is submitted, cancels and sends included; and the plain reading and writing of sockets, where every byte is checked
//! against its place in its stream. `door.rs` fills the queue, a turn empties it.

use ringway::ids::{ConnectFailure, Fault as Broken, StreamKey};
use ringway::uring::AcceptEnd;

use super::counts::Fault;
use super::kernel::{Completion, FakeKernel, Op, OpKind, Submission};
use super::net::Happening;
use super::office::Mood;
use super::socket::Range;

const MILLISECOND: u64 = 1_000_000;

impl FakeKernel {
    pub fn push(&mut self, submission: Submission) {
        self.busy = true;
        self.queue.push_back(submission);
        let early = self.net().weather.early_submit;
        if self.chance(early) {
            self.hit(Fault::EarlySubmit);
            self.enter();
        }
    }

    /// Submits, and runs what the kernel has put off until the worker enters.
    pub fn enter(&mut self) {
        let now = self.net().now;
        self.net_mut().advance(now);
        while let Some(submission) = self.queue.pop_front() {
            self.submit(submission);
        }
        self.run_tasks();
    }

    /// A ring that is given up submits what is queued before it goes.
    pub fn submit_the_rest(&mut self) {
        self.enter();
    }

    fn submit(&mut self, submission: Submission) {
        match submission {
            Submission::Arm(stream, kind) => {
                if kind == OpKind::Connect {
                    self.dial(stream);
                }
                *self.op_mut(stream, kind) = Op::Armed {
                    late: None,
                    cancelled: None,
                };
                // As the real one, which tries before it waits: who asked first is served first.
                self.look_at(stream, kind, None, None);
            }
            Submission::Cancel(stream, kind) => self.cancel(stream, kind),
            Submission::Send(number) => self.send_now(number),
            Submission::Close(conn, reset) => self.net_mut().close_ours(conn, reset),
            Submission::Accept(id) => {
                if let Some(listening) = self.listeners.iter_mut().find(|it| it.id == id) {
                    listening.armed = true;
                }
            }
            Submission::StopAccept(id) => {
                let found = self.listeners.iter_mut().find(|it| it.id == id && it.armed);
                if let Some(listening) = found {
                    listening.armed = false;
                    let end = Completion::AcceptEnd(id, AcceptEnd::Stopped);
                    self.completions.push_back(end);
                }
            }
            Submission::Bell => self.bell_armed = true,
        }
    }

    fn cancel(&mut self, stream: StreamKey, kind: OpKind) {
        let gone = self
            .entries
            .get(stream.session.slot.index())
            .is_none_or(|entry| {
                entry.key != Some(stream.session) || entry.ends[stream.side.index()].is_none()
            });
        // Its answer came before the cancel was submitted, and the socket has been closed since.
        if gone {
            return;
        }
        let late = self.net().weather.late_cancel;
        match self.op(stream, kind) {
            Op::Armed { late: held, .. } => {
                let mut when = self.net().now;
                if self.chance(late) {
                    self.hit(Fault::LateCancel);
                    let mut net = self.net_mut();
                    when += net.random.below(3_000_000);
                    net.at(when, Happening::Look);
                }
                *self.op_mut(stream, kind) = Op::Armed {
                    late: held,
                    cancelled: Some(when),
                };
            }
            Op::Answered | Op::Off => self.hit(Fault::CancelRaced),
            Op::Queued => {}
        }
    }

    fn send_now(&mut self, number: u64) {
        let at = self.flights.iter().position(|it| it.number == number);
        let at = at.expect("a submitted send has a flight");
        let (stream, range) = (
            self.flights[at].stream,
            self.range(&self.flights[at].parcel),
        );
        let conn = self.end(stream).conn;
        let result = self.write(conn, range, true);
        if result != Ok(range.bytes) {
            self.completions.push_back(Completion::SendFailed);
        }
        self.flights[at].result = Some(result);
    }

    /// Decides what becomes of a connect, as it is submitted.
    pub fn dial(&mut self, stream: StreamKey) {
        let conn = self.end(stream).conn;
        let mut net = self.net_mut();
        let backend = net.conns[conn].house;
        let mood = net.office().backends[backend].mood;
        let mood = match mood {
            Mood::Flaky => net.random.pick(&[Mood::Fine, Mood::Refuses, Mood::Silent]),
            other => other,
        };
        let now = net.now;
        let near = net.random.below(3 * MILLISECOND);
        let far = net.random.below(1_000 * MILLISECOND);
        let answer = match (mood, net.random.below(10)) {
            (Mood::Refuses, 0 | 1) => {
                net.hit(Fault::ConnectUnreachable);
                let failures = [
                    ConnectFailure::Unreachable,
                    ConnectFailure::Reset,
                    ConnectFailure::Other,
                ];
                Some((now + near, Err(net.random.pick(&failures))))
            }
            (Mood::Refuses, _) => {
                net.hit(Fault::ConnectRefused);
                Some((now + near, Err(ConnectFailure::Refused)))
            }
            (Mood::Silent, 0..4) => {
                net.hit(Fault::ConnectTimedOut);
                Some((now + far, Err(ConnectFailure::Timeout)))
            }
            (Mood::Silent, _) => {
                net.hit(Fault::ConnectUnanswered);
                None
            }
            (Mood::Fine | Mood::Flaky, 0) => Some((now + far / 4, Ok(()))),
            (Mood::Fine | Mood::Flaky, _) => Some((now + near, Ok(()))),
        };
        net.conns[conn].answer = answer;
        if let Some((at, _)) = answer {
            net.at(at, Happening::Look);
        }
    }

    /// Bytes go into a socket; as many as it takes.
    pub fn write(&self, conn: usize, range: Range, is_send: bool) -> Result<u32, Broken> {
        let mut net = self.net_mut();
        let short = net.weather.short_send;
        let partner = net.conns[conn].partner;
        if let Some(fault) = net.conns[conn].send_fault() {
            net.hit(Fault::SendAfterError);
            return Err(fault);
        }
        if partner != Some(range.origin) {
            let what = format!("c{conn} got bytes of c{}, not of {partner:?}", range.origin);
            net.fail(&what);
        }
        let expected = net.conns[conn].accepted;
        if range.start != expected {
            let what = format!("c{conn} was at byte {expected} and got {range:?}");
            net.fail(&what);
        }
        let mut taken = u64::from(range.bytes).min(net.conns[conn].room());
        if net.random.chance(short) {
            taken = net.random.below(taken + 1);
        }
        if is_send && taken < u64::from(range.bytes) {
            let fault = match taken {
                0 => Fault::BlockedSend,
                _ => Fault::ShortSend,
            };
            net.hit(fault);
        }
        let target = &mut net.conns[conn];
        target.accepted += taken;
        target.stamp += u64::from(taken > 0);
        if target.peer.closed && taken > 0 {
            let wait = net.random.below(300_000);
            net.hit(Fault::ClosedBeforeOurData);
            net.later(wait, Happening::Break(conn));
        }
        net.counts.bytes += taken;
        Ok(taken as u32)
    }

    /// Takes up to `most` bytes out of a socket.
    pub fn read(&self, conn: usize, most: u64) -> Option<Range> {
        let mut net = self.net_mut();
        let source = &mut net.conns[conn];
        let bytes = source.waiting().min(most);
        if bytes == 0 {
            return None;
        }
        let range = Range {
            origin: conn,
            start: source.taken,
            bytes: bytes as u32,
        };
        source.taken += bytes;
        source.stamp += 1;
        Some(range)
    }
}
