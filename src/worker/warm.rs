//! Warm connections in the engine room: taken with the choice of a backend, looked at once more, and given to the session
//! as its backend's socket; and the first bytes sent on them in a way that leaves them with the session. The prober
//! opens and watches them, the study decides what a death means.

use crate::handoff::{BackendShared, Handout, Reservation, WarmSocket};
use crate::ids::{End, SessionKey, Side, StreamKey};
use crate::session::{Event, due_after};
use crate::uring::{Kernel, Parcel};

use super::engine::Worker;
use super::tenant::Tenant;

/// Of a worker's buffers at most this share may be held for bytes that were sent already.
const HELD_SHARE: usize = 4;

/// A place on a backend, with a connection to it if there is one. The connection brings its own place, so that one held
/// in stock never stands in a client's way.
pub(super) fn reserve_with_warm(
    shared: &BackendShared,
    start: usize,
) -> (Reservation, Option<WarmSocket>) {
    let Some(mut socket) = shared.warm.take(start) else {
        return (shared.capacity.reserve(), None);
    };
    let mut held = std::mem::take(&mut socket.reserved);
    if !held && shared.capacity.limit() != 0 {
        // A reload has set a limit meanwhile: it needs a place like any other.
        match shared.capacity.reserve() {
            Reservation::Full => return (Reservation::Full, None),
            Reservation::Held => held = true,
            Reservation::Unneeded => {}
        }
    }
    let reservation = if held {
        Reservation::Held
    } else {
        Reservation::Unneeded
    };
    (reservation, Some(socket))
}

impl<K: Kernel> Worker<K> {
    /// Gives the session the warm connection that came with its choice; false if there is none that is fit.
    pub(super) fn connect_warm(&mut self, key: SessionKey) -> bool {
        let now = self.now;
        let Some(tenant) = self.slots.get_mut(key) else {
            return false;
        };
        let taken = tenant.warm.take();
        let Some(backend) = tenant.backend.and_then(|id| self.world.backend(id)) else {
            return false;
        };
        let stock = &backend.shared.warm;
        let counters = backend.shared.of(self.world.worker);
        let count = |what: Handout| counters.handouts[what.index()].add(1);
        let Some(socket) = taken else {
            if stock.is_wanted() {
                count(Handout::Miss);
                if stock.wake() {
                    self.hatches.warm_bell.ring();
                }
            }
            return false;
        };
        self.hatches.warm_bell.ring();
        let profile = socket.profile();
        let Some(descriptor) = socket.hand_over(now) else {
            count(Handout::Stale);
            // The connect that follows counts for the backend's rate, though it does not wait for it.
            let _ = backend.shared.pace.take(now);
            return false;
        };
        count(Handout::Hit);
        tenant.handout = Some(profile);
        let attempts = tenant.session.attempts();
        if let Some(counters) = self.world.pool_counters(tenant.pool) {
            counters.retries.add(u64::from(attempts.saturating_sub(1)));
        }
        if !self.kernel.adopt(key, descriptor) {
            return false;
        }
        self.note_attempt(key);
        // One that does not take the header has died, which the session finds out as of any other.
        let _ = self.announce(key);
        self.answer(key, Event::Warm);
        true
    }

    /// The session's warm connection died unnoticed: what was delivered to it was not.
    pub(super) fn forget_handout(&mut self, key: SessionKey) {
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        tenant.warm = None;
        if tenant.handout.take().is_none() {
            return;
        }
        let undone = std::mem::take(&mut tenant.bytes[Side::Client.index()]);
        let backend = tenant
            .backend
            .and_then(|id| self.world.backend_counters(id));
        if let (Some(listener), Some(backend)) =
            (self.world.listener_counters(tenant.listener), backend)
        {
            listener.bytes_in.sub(undone);
            backend.bytes_in.sub(undone);
            backend.handouts[Handout::Replayed.index()].add(1);
        }
    }

    /// Counts a session that ended because its warm connection did.
    pub(super) fn note_death(&self, tenant: &Tenant, end: End) {
        let silent = tenant.bytes[Side::Backend.index()] == 0;
        let left = matches!(end, End::BackendFin | End::BackendReset);
        if let Some(id) = tenant
            .backend
            .filter(|_| tenant.handout.is_some() && silent && left)
            && let Some(counters) = self.world.backend_counters(id)
        {
            counters.handouts[Handout::Died.index()].add(1);
        }
    }

    /// Sends the client's first bytes so that the parcel stays, if they may be sent twice.
    pub(super) fn offer(&mut self, key: SessionKey, parcel: Parcel, due: Option<u32>) {
        let handout = self.slots.get_mut(key).and_then(|tenant| tenant.handout);
        let room = self.parcels.waiting() < self.parcels.capacity() / HELD_SHARE;
        let due = handout.filter(|_| room).and_then(|profile| {
            let bytes = self.kernel.bytes(&parcel);
            due_after(profile.has_postgres_start(), due, bytes)
        });
        if due.is_none() {
            self.answer(key, Event::Offered { parcel, due });
            return;
        }
        let stream = StreamKey {
            session: key,
            side: Side::Backend,
        };
        let sent = self.kernel.send_now(stream, &parcel);
        self.note_delivered(key, Side::Client, sent, false);
        let whole = sent == parcel.bytes();
        let event = Event::Offered {
            parcel: parcel.without(sent * u32::from(!whole)),
            due: due.filter(|_| whole),
        };
        self.answer(key, event);
    }
}
