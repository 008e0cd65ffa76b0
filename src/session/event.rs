//! What a session is told, and what it wants done. These two enums are the whole contract between the study (which
//! decides) and the engine room (which carries): no descriptor, errno or completion crosses it.

use crate::ids::{Condition, ConnectFailure, End, Fault, Interest, Moved, ReceiveEnd, Side};

/// A filled buffer on its way through: owned by exactly one place at each moment.
pub trait Ticket {
    /// Whether it filled its buffer, so that more is probably waiting in the socket.
    fn is_full(&self) -> bool;
}

/// What a look at a client's first bytes has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Look {
    /// So many bytes are there; it takes `wanted` in all to get further. Not an answer to a late look.
    More { bytes: u32, wanted: u32 },
    /// All that has to be known is known: a backend may be chosen.
    Known,
    /// Others carry out what the client wants; when they have, it comes as another `Looked`.
    Busy,
    /// What the client wanted is done: it is closed by an end of stream.
    Served(End),
    /// It is turned away, by reset.
    Refused(End),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// The client was accepted and has a slot.
    Opened,
    /// Answer to [`Action::Look`].
    Looked(Look),
    /// Answer to [`Action::Choose`]: a backend is reserved; `repeated` if this session has tried it before.
    Chosen {
        repeated: bool,
    },
    /// Answer to [`Action::Choose`]: no backend may take a session now.
    NoneOpen,
    /// Answer to [`Action::Wait`].
    Queued(bool),
    /// A waiting session's turn has come: a backend is reserved for it.
    Granted,
    Connected,
    /// Answer to [`Action::Connect`] that comes at once: a connection that was opened before is ready.
    Warm,
    ConnectFailed(ConnectFailure),
    /// The connect was cancelled as asked.
    ConnectCancelled,
    /// Bytes from `Side`; the receive stays on.
    Received(Side, T),
    ReceiveEnded(Side, ReceiveEnd),
    /// Buffers are free again for a receive that ended with `NoBuffer`.
    Resume(Side),
    /// All of the last parcel sent to `Side` is with the kernel.
    Sent(Side),
    /// Answer to [`Action::Offer`]: sent whole, and may be sent again; `due` bytes of the same message are to come. With
    /// `None` the parcel is still to be sent.
    Offered {
        parcel: T,
        due: Option<u32>,
    },
    /// `Side` took a part or nothing; this is the rest.
    SentShort(Side, T),
    SendBroken(Side, Fault),
    /// Answer to [`Action::Stash`] of a parcel that came from `from`: so many of its bytes are in the pipe, and what
    /// found no room, or no pipe, comes back.
    Stashed {
        from: Side,
        bytes: u32,
        rest: Option<T>,
    },
    Ready(Side, Interest, Condition),
    /// The poll was cancelled as asked.
    PollEnded(Side, Interest),
    /// Answer to [`Action::Move`] from `Side`.
    Moved(Side, Moved),
    /// A yielded move may go on.
    Again(Side),
    /// Answer to [`Action::AskDelivered`]: whether the peer has acknowledged all that was sent to `Side`.
    Delivered(Side, bool),
    /// The moment asked for by [`super::TcpSession::wake_at`] has come.
    Tick,
    /// Somebody orders the end: drain, shutdown, operator.
    Kill(End),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Action<T> {
    /// Look at the client's first bytes, without taking what is for the backend; answer at once. `late`: it is the last
    /// look, and what is known must do.
    Look {
        late: bool,
    },
    /// Reserve a backend, another than those tried if there is one; answer at once.
    Choose,
    /// Give back the reserved backend: connecting to it failed.
    GiveUp,
    /// Join the queue of those who wait; answer at once.
    Wait,
    /// Leave that queue.
    StopWaiting,
    /// With `afresh` only by a connect of its own, else also by a warm connection (answered at once).
    Connect {
        afresh: bool,
    },
    CancelConnect,
    Receive(Side),
    StopReceive(Side),
    Send(Side, T),
    /// Send a parcel to the backend and keep it, if it may be sent twice and all of it is taken; answer at once. `due`:
    /// bytes missing of a message that was begun, `None` at the beginning.
    Offer {
        parcel: T,
        due: Option<u32>,
    },
    /// Something waits for the answer of a send of this turn: do not sleep.
    Hurry,
    /// Put a parcel's bytes, which came from `Side`, into that direction's pipe; answer at once.
    Stash(Side, T),
    /// Give back a parcel unsent.
    Release(T),
    Poll(Side, Interest),
    CancelPoll(Side, Interest),
    /// Move bytes from `Side` through the pipe, taking from the socket only if `fill`; answer at once.
    Move {
        from: Side,
        fill: bool,
    },
    /// Go on with the move in the next turn, after others had theirs.
    Yield(Side),
    /// Before a reset is passed on to `Side`: has its peer got all that was sent to it? A reset drops what waits in the
    /// socket. Answer at once.
    AskDelivered(Side),
    /// Close the pipe of the direction from `Side` with what is in it.
    DropPipe(Side),
    /// Wake the receiver of this side only for this many bytes (SO_RCVLOWAT); 1 is the normal state.
    Watermark(Side, u32),
    /// Pass on the end of stream: shut down our sending towards `Side`.
    Finish(Side),
    /// The session has lived long enough to be worth socket options that only long ones need.
    Mature,
    /// Close the socket of `Side`; with a reset if the stream was cut.
    Close {
        side: Side,
        reset: bool,
    },
    /// Everything is answered and closed; the slot can be reused.
    Done(End),
}
