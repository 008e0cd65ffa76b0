//! Whether every listener could give a new client a backend now, and which could not. A pool that only some server names lead
//! to is told when it has none, but takes no other client's service away.

use serde_json::{Value, json};

use crate::office::board::Board;

/// What `/readyz` says.
#[derive(Debug)]
pub struct Readiness {
    leaving: bool,
    unready: bool,
    /// Listener and pool, by each pool without an eligible backend that clients of the listener may be led to.
    without: Vec<(String, String)>,
}

#[must_use]
pub fn of(board: &Board) -> Readiness {
    let view = board.view();
    let listeners = view.snapshot.listeners.iter();
    let now = board.clock.now();
    let mut unready = false;
    let without = listeners.flat_map(|listener| {
        let pools = view.snapshot.pools.iter();
        let own = pools.filter(|pool| listener.leads_to(pool.shared.id));
        let unserved = own.filter(|pool| !pool.any_open(now));
        let unserved: Vec<_> = unserved.collect();
        unready |= unserved.iter().any(|pool| pool.shared.id == listener.pool);
        let names = unserved.into_iter();
        names.map(|pool| (listener.shared.name.clone(), pool.shared.name.clone()))
    });
    let without = without.collect();
    Readiness {
        leaving: board.is_leaving(),
        unready,
        without,
    }
}

impl Readiness {
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.leaving && !self.unready
    }

    #[must_use]
    pub fn to_json(&self) -> Value {
        let without = self.without.iter();
        let without: Vec<Value> = without
            .map(|(listener, pool)| json!({ "listener": listener, "pool": pool }))
            .collect();
        json!({
            "ready": self.is_ready(),
            "leaving": self.leaving,
            "listeners_without_backend": without,
        })
    }
}
