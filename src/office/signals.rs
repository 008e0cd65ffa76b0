//! What the process is asked to do from outside by signals, as wishes of one word each. It acts on none of them.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// SIGTERM, SIGINT: drain and end.
    Leave,
    /// SIGHUP: read the configuration again, reopen logs.
    Reload,
    /// SIGUSR1: only reopen logs.
    ReopenLogs,
    /// SIGUSR2: start a successor.
    Upgrade,
}

/// The signals that the office listens to. While one exists, none of them has its default effect.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// Must be called inside the runtime.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is left.
    pub fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next wish; several signals of a kind that come close together are one.
    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Leave,
            _ = self.interrupt.recv() => Wish::Leave,
            _ = self.hangup.recv() => Wish::Reload,
            _ = self.user1.recv() => Wish::ReopenLogs,
            _ = self.user2.recv() => Wish::Upgrade,
        }
    }
}
