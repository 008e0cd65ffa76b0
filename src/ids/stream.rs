//! Words for what happens to a stream, spoken by the boiler room (which parses errno into them, once) and the study
//! (which decides by them).

/// Why a stream broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The peer sent a reset, or answered our bytes with one.
    Reset,
    /// The kernel gave up on a peer that acknowledged nothing.
    TimedOut,
    /// The peer answered no keepalive probe.
    Keepalive,
    /// The same, within TCP_USER_TIMEOUT.
    UserTimeout,
    /// The way to the peer is gone (host or network unreachable).
    Unreachable,
    /// The kernel ran out of memory for this socket.
    Resources,
}

/// How a receive ended; it is off afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReceiveEnd {
    /// The peer finished its stream.
    Fin,
    /// We asked for it, or the kernel stopped a multishot receive; the stream goes on.
    Stopped,
    /// No provided buffer was free: to be resumed when [`Event::Resume`] comes.
    NoBuffer,
    Broken(Fault),
}

/// What to wait for on a socket that is not being received from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Interest {
    /// Errors and hang-up only: a reset must not go unseen while receiving is off.
    HangUp = 0,
    /// The same, and the peer's end of stream: for a client that waits.
    Leave = 1,
    Readable = 2,
    Writable = 3,
}

/// What a poll found besides the readiness that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    Fine,
    /// Both directions are shut without an error (a unix socket's peer closed).
    HungUp,
    /// The peer has finished its stream, and nothing is left to be read.
    Left,
    Broken(Fault),
}

/// Where the bytes came from in a move through the pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Not asked: the pipe was only to be emptied.
    Untouched,
    /// It may hold more.
    More,
    /// It is empty now.
    Dry,
    Fin,
    Broken(Fault),
    /// No pipe could be had.
    NoPipe,
}

/// Where the bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sink {
    Open,
    /// It takes no more now.
    Full,
    Broken(Fault),
}

/// What a move brought: bytes from the socket into the pipe, and from the pipe into the other socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Moved {
    pub filled: u32,
    pub drained: u32,
    pub source: Source,
    pub sink: Sink,
}
