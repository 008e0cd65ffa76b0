//! The vocabulary that every room shares: sides, small ids, addresses, time, and why things end.
//!
//! Nothing here does anything. It must not grow behaviour, nor name another room; everyone may call it.

mod address;
mod end;
mod role;
mod secret;
mod stream;
mod time;

pub use address::{Address, Caller, NetworkKey};
pub use end::{CancelResult, CheckResult, ConnectFailure, Drop, End, Refusal};
pub use role::Role;
pub use secret::Secret;
pub use stream::{Condition, Fault, Interest, Moved, ReceiveEnd, Sink, Source};
pub use time::{Clock, Nanos, millis};

/// The most operations that one session can have in flight in a ring: per side a receive, a send, a hang-up watch, a
/// readable poll and a writable poll, plus one connect attempt. The exhaustive walk over session states asserts it, and
/// completion queues are sized from it.
pub const OPS_PER_SESSION_MAX: usize = 11;

/// One of the two ends of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Side {
    Client = 0,
    Backend = 1,
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::Client, Side::Backend];

    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Backend,
            Side::Backend => Side::Client,
        }
    }

    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

macro_rules! dense_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl $name {
            #[must_use]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

dense_id!(
    /// A data-plane thread, counted from 0.
    WorkerId, u16
);
dense_id!(
    /// A listener's identity: small, dense, kept over reloads as long as its name stays; recycled when nobody holds it.
    ListenerId, u16
);
dense_id!(
    /// A pool's identity, kept over reloads as long as its name stays.
    PoolId, u16
);
dense_id!(
    /// A backend's identity, kept over reloads as long as pool, name and address stay.
    BackendId, u16
);
dense_id!(
    /// One bound address of a listener. A reload that keeps the address keeps this, and with it the accept queue.
    SocketId, u16
);
dense_id!(
    /// A session's place in its worker's table. Reused, hence always used together with its generation.
    Slot, u32
);

/// The key of a session inside its worker: the slot, and the slot's generation that makes a late answer recognisable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    pub slot: Slot,
    pub generation: u16,
}

/// The key of a UDP flow inside its worker, in a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub slot: Slot,
    pub generation: u16,
}

/// One of the connections that a flow has had towards its backends, by its worker's count. What is told of an earlier one
/// is not said of the backend that the flow has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outlet(pub u32);

/// One of a session's two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    pub session: SessionKey,
    pub side: Side,
}
