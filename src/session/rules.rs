//! The numbers a session is played by: those of its pool, which it keeps for life, and the constants of the house.

use crate::ids::millis;

/// What a session was given when it began; a reload does not change it. Durations in nanoseconds; 0 is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// How long the client's first bytes are waited for; 0: nobody wants to see them.
    pub preface_ns: u64,
    pub connect_timeout_ns: u64,
    pub connect_attempts: u8,
    /// All attempts together, waiting not counted.
    pub connect_budget_ns: u64,
    /// 0: a session without a backend does not wait.
    pub wait_timeout_ns: u64,
    /// A client that half-closed while it waits is dropped.
    pub leave_on_fin: bool,
    pub idle_ns: u64,
    pub half_close_ns: u64,
    pub lifetime_ns: u64,
}

/// Bytes that arrived before a reset have this long to be delivered.
pub const FLUSH_NS: u64 = millis(1_000);

/// Whether they were is asked first after this long, then ever less often.
pub const ASK_NS: u64 = millis(1);
/// And no less often than this: a session must not outlive the acknowledgement by more.
pub const ASK_MOST_NS: u64 = millis(40);

/// A side that is neither received from nor polled is watched for hang-up after this long: early enough to pass a reset
/// on within a second, late enough that short sessions never pay for the watch.
pub const WATCH_NS: u64 = millis(200);

/// After a look at first bytes that has found nothing new.
pub const LOOK_AGAIN_NS: u64 = millis(10);

/// Before a backend that this session has just failed to reach is tried again.
pub const PAUSE_NS: u64 = millis(100);

/// A session of this age gets the socket options that only long ones need.
pub const MATURE_NS: u64 = millis(900);

/// What a client sent on a warm connection is held for this long, unless the backend speaks before: a server that closed
/// the connection has said so by then.
pub const HOLD_NS: u64 = millis(1_000);

/// So many full buffers in a row make a stream of a conversation: the direction changes from copy to splice.
pub const FULL_STREAK: u8 = 3;

/// So many parcels in line stop the receive until the line is empty.
pub const LINE_MAX: u32 = 8;

/// Moves smaller than this are no stream: after [`SMALL_MOVES`] of them the direction goes back to copying.
pub const SMALL_MOVE_BYTES: u32 = 32 * 1024;
pub const SMALL_MOVES: u8 = 3;

/// A stream whose moves are at least this large, [`BULK_MOVES`] times in a row, is bulk: from then on its receiver is
/// woken only for a mark that follows its rate, or by the guard that fetches a tail that stays below the mark.
pub const BULK_MOVE_BYTES: u32 = 64 * 1024;
pub const BULK_MOVES: u8 = 16;
pub const BULK_MARK_BYTES_MAX: u32 = 1024 * 1024;
pub const GUARD_NS: u64 = millis(2);
