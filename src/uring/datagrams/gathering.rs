//! What has piled up in sockets is taken in one turn, as far as buffers reach: what came together leaves together, so a turn
//! of many datagrams costs less than many turns.

use crate::uring::door::Patience;
use crate::uring::outcome::Completion;
use crate::uring::ring::Ring;
use crate::uring::tag::Op;

use super::sockets::DATAGRAM_BUFFERS;

/// So many the kernel takes from a socket at a time before it looks at others (MULTISHOT_MAX_RETRY, io_uring/net.c). Fewer
/// mean that nothing is left.
const ROUND: usize = 32;
/// When a turn has so many, it is enough. What it takes and what the turn before is still sending fit into all buffers.
pub(super) const TURN_ENOUGH: usize = DATAGRAM_BUFFERS as usize * 3 / 8;

impl Ring {
    /// After a turn's answers are copied out: more of them, while sockets have more.
    pub(in crate::uring) fn gather_datagrams(&mut self) {
        self.datagrams.behind = false;
        let (mut seen, mut received) = (0, 0);
        loop {
            let came = self.completions[seen..].iter();
            let came = came.filter(|it| is_datagram(it)).count();
            received += came;
            if came < ROUND {
                return;
            }
            if received >= TURN_ENOUGH {
                self.datagrams.behind = true;
                return;
            }
            seen = self.completions.len();
            self.datagrams.buffers.publish_more(came);
            self.enter_with(0, Patience::None);
            self.collect_more();
        }
    }
}

fn is_datagram(completion: &Completion) -> bool {
    let received = |op| matches!(op, Op::DatagramReceive | Op::FlowReceive);
    completion.buffer().is_some() && completion.tag().is_some_and(|tag| received(tag.op))
}
