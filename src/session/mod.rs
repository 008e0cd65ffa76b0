//! The study: what a session does next, computed without socket, clock, ring or allocation, so that it can be walked
//! exhaustively and simulated from a seed. It is told [`Event`]s and answers with [`Action`]s; whoever carries them out
//! is none of its business.
//!
//! A session's life, and where each part is decided:
//!
//! ```text
//!            Opened          Chosen             Connected            both ends passed on
//! (accept) ─────────► Choosing ─────► Connecting ─────► Relaying ───────────────────────► Closing ──► Done
//!        │ ▲ Looked       │  ▲            │    ▲              │  reset, timeout, kill          ▲ (every answer in)
//!        ▼ │     NoneOpen ▼  │ Granted    ▼    │ Tick         └────────────────────────────────┘
//!      Preface         Waiting        Pausing (the same backend again)
//!     `preface`    `opening`                       `relaying`, `pump`, `replay`             `closing`
//! ```

mod closing;
mod event;
mod flows;
mod harmless;
mod opening;
mod parcels;
mod preface;
mod pump;
mod relaying;
mod replay;
mod rules;
mod slots;
mod tcp;
mod timers;
#[cfg(test)]
mod walk;
mod watermark;

pub use event::{Action, Event, Look, Ticket};
pub use flows::{Fairness, FlowRules, FlowTable, Lately, Progress, Request, Response, SILENT_NS};
pub use harmless::due_after;
pub use parcels::{Line, Parcels};
pub use pump::{Pump, Route};
pub use rules::{
    BULK_MARK_BYTES_MAX, BULK_MOVE_BYTES, FLUSH_NS, FULL_STREAK, GUARD_NS, HOLD_NS, LINE_MAX,
    MATURE_NS, PAUSE_NS, Rules, WATCH_NS,
};
pub use slots::Slots;
pub use tcp::{Desk, Phase, TcpSession};
pub use timers::Timers;
