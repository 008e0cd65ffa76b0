//! What has piled up in sockets is taken in one turn, as far as buffers reach: what came together leaves together, so a turn
//! of many datagrams costs less than many turns.

use std::time::Instant;

use crate::uring::door::Patience;
use crate::uring::outcome::{Completion, ReceivePause};
use crate::uring::ring::Ring;
use crate::uring::tag::Op;

use super::sockets::DATAGRAM_BUFFERS;

/// So many the kernel takes from a socket at a time before it looks at others (MULTISHOT_MAX_RETRY, io_uring/net.c). Fewer
/// mean that nothing is left.
const ROUND: usize = 32;
/// When a turn has so many, it is enough. What it takes and what the turn before is still sending fit into all buffers.
pub(super) const TURN_ENOUGH: usize = DATAGRAM_BUFFERS as usize * 3 / 8;

impl Ring {
    /// How long the turn that begins waits for a second answer, in microseconds, for the sake of streams of datagrams: not
    /// at all where there are sessions, whose clients may wait for theirs.
    pub(in crate::uring) fn window_us(&mut self) -> u32 {
        let window_us = self.datagrams.coalescing.window_us(Instant::now);
        if self.streams.is_empty() {
            window_us
        } else {
            0
        }
    }

    /// After a turn's answers are copied out: more of them, while sockets have more.
    pub(in crate::uring) fn gather_datagrams(&mut self) {
        self.datagrams.behind = false;
        let (mut seen, mut received) = (0, 0);
        loop {
            let new = &self.completions[seen..];
            let came = new.iter().filter(|it| is_datagram(it)).count();
            received += came;
            if received >= TURN_ENOUGH || new.iter().any(lacked_buffer) {
                self.datagrams.behind = true;
                return;
            }
            if came < ROUND {
                return;
            }
            seen = self.completions.len();
            self.datagrams.buffers.publish_more(came);
            self.enter_with(0, Patience::None, 0);
            self.collect_more();
        }
    }
}

fn is_datagram(completion: &Completion) -> bool {
    completion.buffer().is_some() && is_of_datagrams(completion)
}

/// More was there than buffers: those that are still being sent have them.
fn lacked_buffer(completion: &Completion) -> bool {
    let lacked = matches!(completion.receive_pause(), Some(ReceivePause::NoBuffer));
    lacked && is_of_datagrams(completion)
}

fn is_of_datagrams(completion: &Completion) -> bool {
    let received = |op| matches!(op, Op::DatagramReceive | Op::FlowReceive);
    completion.tag().is_some_and(|tag| received(tag.op))
}
