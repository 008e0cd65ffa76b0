//! Polls that are answered by what was asked for, and not by the peer's end of stream.
//!
//! io_uring adds POLLRDHUP to whatever is asked (IO_POLL_UNMASK in io_uring/poll.c). A plain poll of a half-closed stream
//! is therefore answered at once, and asked again at once: a spin, for as long as a slow reader that has sent its end
//! takes. So a poll that found nothing but that end is asked again as a multishot one, which tells the end once more and
//! then waits for a change; as soon as it finds what was asked for it is cancelled, and its last answer is ours.

use crate::ids::{Interest, StreamKey};

use super::door::{Answer, Outcome};
use super::ops;
use super::outcome::{Completion, Events};
use super::ring::Ring;
use super::tag::Op;

/// One poll of a stream, from asking to its last answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    /// Not cancelled by who asked.
    wanted: bool,
    found: Events,
}

impl Ring {
    pub(super) fn ask(&mut self, stream: StreamKey, interest: Interest) {
        if let Some(watch) = self.streams.watch(stream, interest) {
            *watch = Watch {
                wanted: true,
                found: Events::default(),
            };
        }
        self.push_stream(Op::from(interest), stream, |socket, tag| {
            ops::poll(socket, interest, tag)
        });
    }

    pub(super) fn ask_no_more(&mut self, stream: StreamKey, interest: Interest) {
        if let Some(watch) = self.streams.watch(stream, interest) {
            watch.wanted = false;
        }
        self.cancel(Op::from(interest), stream);
    }

    pub(super) fn read_poll(
        &mut self,
        stream: StreamKey,
        interest: Interest,
        completion: &Completion,
        outcomes: &mut Vec<Outcome>,
    ) {
        let Some(watch) = self.streams.watch(stream, interest) else {
            return;
        };
        let known = watch.found.any();
        watch.found.add(completion.found(interest));
        let (found, wanted) = (watch.found, watch.wanted);
        if !completion.is_last() {
            if found.any() && !known {
                self.cancel(Op::from(interest), stream);
            }
            return;
        }
        if !found.any() && wanted && completion.has_found() {
            self.push_stream(Op::from(interest), stream, |socket, tag| {
                ops::poll_on(socket, interest, tag)
            });
            return;
        }
        let Some(socket) = self.streams.socket(stream) else {
            return;
        };
        let answer = if found.any() {
            Answer::Ready(interest, found.condition(interest, socket))
        } else {
            Answer::PollEnded(interest)
        };
        outcomes.push(Outcome::Stream(stream, answer));
    }
}
