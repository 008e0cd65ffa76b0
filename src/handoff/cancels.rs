//! PostgreSQL's cancel requests on their way from a worker, who has read one, to the prober, who carries it to every
//! backend that has sessions; and back, that it was done. A client that asks for a cancel waits for its connection to be
//! closed, which must not happen before the servers have read it.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::ids::{End, NetworkKey, SessionKey, WorkerId};
use crate::sys::Doorbell;

use super::snapshot::Pool;

/// Requests that wait for the prober over all workers; what comes beyond is refused.
const ORDERS_MAX: usize = 256;

/// The longest cancel request of protocol 3.
pub const CANCEL_BYTES_MAX: usize = 268;

/// One request.
#[derive(Debug)]
pub struct CancelOrder {
    pub pool: Arc<Pool>,
    /// The port that the client came to.
    pub port: u16,
    /// Who asks; `None` is a unix socket's client.
    pub source: Option<NetworkKey>,
    pub worker: WorkerId,
    pub session: SessionKey,
    pub request: [u8; CANCEL_BYTES_MAX],
    pub length: usize,
}

/// A session whose request was carried out, or was not; it ends so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled {
    pub session: SessionKey,
    pub end: End,
}

/// The queue to the prober, and its bell.
#[derive(Debug)]
pub struct Cancels {
    pub orders: ArrayQueue<CancelOrder>,
    pub doorbell: Doorbell,
}

impl Cancels {
    /// # Errors
    /// The kernel's, when no descriptor is left for the bell.
    pub fn new() -> std::io::Result<Cancels> {
        Ok(Cancels {
            orders: ArrayQueue::new(ORDERS_MAX),
            doorbell: Doorbell::new()?,
        })
    }

    /// Hands a request over; false if too many wait.
    #[must_use]
    pub fn order(&self, order: CancelOrder) -> bool {
        let room = self.orders.push(order).is_ok();
        if room {
            self.doorbell.ring();
        }
        room
    }
}
