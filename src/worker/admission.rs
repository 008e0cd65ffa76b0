//! Admission: whether a client may have a session of a listener, and what is reserved for it. The tests come in one order:
//! who it is (`allow`, `deny`), the listener's rate, the source's rate, the source's count, the listener's count.
//!
//! Nothing is taken until all tests have passed, so a source that is turned away again and again uses up nobody's rate,
//! its own neither. No slot, no allocation, no line is spent on who is refused. Called after accept (`accepting`), and,
//! where the client's address comes later, with the address that was told.

use std::net::IpAddr;

use crate::handoff::{Reservation, SourcePlace, Sources};
use crate::ids::{ListenerId, Nanos, Refusal, SessionKey, Side, StreamKey};
use crate::uring::Kernel;

use super::engine::Worker;
use super::tenant::Tenant;
use super::world::LocalListener;

/// What a session holds of its listener.
#[derive(Debug)]
pub(super) struct Admission {
    /// A unit of the listener's count.
    pub(super) listener_reserved: bool,
    /// A place in the table of sources.
    pub(super) source: Option<SourcePlace>,
}

impl LocalListener {
    /// Whether the client's address decides anything.
    pub(super) fn judges_addresses(&self) -> bool {
        self.access.is_some() || self.shared.source_limits.are_set()
    }

    /// `allow` and `deny`.
    pub(super) fn test_access(&self, client: IpAddr) -> Result<(), Refusal> {
        match &self.access {
            Some(access) if !access.lets_in(client) => Err(Refusal::Denied),
            _ => Ok(()),
        }
    }

    /// The source's rate and count. What is held then is to be given back at the session's end.
    pub(super) fn count_source(
        &self,
        sources: &Sources,
        client: IpAddr,
        now: Nanos,
    ) -> Result<Option<SourcePlace>, Refusal> {
        let limits = &self.shared.source_limits;
        if !limits.are_set() {
            return Ok(None);
        }
        sources.admit(self.shared.id, client.into(), limits, now)
    }

    /// All tests. A client without an internet address (`None`) has no source: only the listener's own limits count.
    pub(super) fn admit(
        &self,
        sources: &Sources,
        client: Option<IpAddr>,
        now: Nanos,
    ) -> Result<Admission, Refusal> {
        let shared = &self.shared;
        if let Some(client) = client {
            self.test_access(client)?;
        }
        if !shared.rate.is_open(now) {
            return Err(Refusal::Rate);
        }
        let source = match client {
            Some(client) => self.count_source(sources, client, now)?,
            None => None,
        };
        let reservation = shared.capacity.reserve();
        let admission = Admission {
            listener_reserved: reservation == Reservation::Held,
            source,
        };
        let refused = if reservation == Reservation::Full {
            Some(Refusal::ListenerLimit)
        } else if !shared.rate.take(now) {
            Some(Refusal::Rate)
        } else {
            None
        };
        match refused {
            Some(why) => {
                self.give_back(sources, &admission);
                Err(why)
            }
            None => Ok(admission),
        }
    }

    /// What was reserved for a client that gets no session after all.
    fn give_back(&self, sources: &Sources, admission: &Admission) {
        if admission.listener_reserved {
            self.shared.capacity.release();
        }
        if let Some(place) = admission.source {
            sources.withdraw(place, &self.shared.source_limits);
        }
    }
}

impl<K: Kernel> Worker<K> {
    /// An admitted client gets no session after all.
    pub(super) fn withdraw(&self, listener: ListenerId, admission: &Admission) {
        if let Some(local) = self.world.listener(listener) {
            local.give_back(&self.hatches.sources, admission);
            local.shared.rate.give_back();
        }
    }

    /// A session has ended: what it held of its listener is free.
    pub(super) fn leave_listener(&self, tenant: &Tenant) {
        if tenant.listener_reserved
            && let Some(local) = self.world.listener(tenant.listener)
        {
            local.shared.capacity.release();
        }
        if let Some(place) = tenant.source {
            self.hatches.sources.release(place);
        }
    }

    /// Counts a session that began without limits per source against those that a reload has set. Without room in the
    /// table it stays uncounted.
    pub(super) fn adopt_source(&mut self, key: SessionKey) {
        let now = self.now;
        let Some(tenant) = self.slots.get_mut(key) else {
            return;
        };
        let (listener, client) = (tenant.listener, tenant.client);
        let limited = self
            .world
            .listener(listener)
            .is_some_and(|local| local.shared.source_limits.are_set());
        if tenant.source.is_some() || !limited {
            return;
        }
        let stream = StreamKey {
            session: key,
            side: Side::Client,
        };
        let client = client.or_else(|| self.kernel.peer_of(stream));
        if let Some(client) = client {
            tenant.client = Some(client);
            let source = client.ip().into();
            tenant.source = self.hatches.sources.adopt(listener, source, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::handoff::{AccessList, ListenerShared, Rate};
    use crate::ids::{PoolId, millis};

    const NOW: Nanos = Nanos(millis(1_000));

    fn listener(deny: &[&str]) -> LocalListener {
        let deny: Vec<_> = deny.iter().map(|text| text.parse().unwrap()).collect();
        LocalListener {
            shared: Arc::new(ListenerShared::new(ListenerId(0), "l", 1)),
            pool: PoolId(0),
            wants_address: true,
            access: AccessList::new(&[], &deny).map(Arc::new),
            preface: std::sync::Arc::default(),
        }
    }

    fn opened() -> Sources {
        let sources = Sources::default();
        sources.open(100);
        sources
    }

    fn client(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    fn once() -> Option<Rate> {
        Some(Rate::new(1, 1))
    }

    /// Everything is exhausted; taking one limit away after the other shows the order.
    #[test]
    fn the_tests_come_in_their_order() {
        let sources = opened();
        let local = listener(&["10.0.0.1/32"]);
        let shared = &local.shared;
        shared.source_limits.set(1, once());
        assert!(local.admit(&sources, client(2), NOW).is_ok());
        shared.capacity.set_limit(1);
        shared.capacity.reserve_anyway();
        shared.rate.set_rate(once());
        assert!(shared.rate.take(NOW));
        let why = |last: u8| local.admit(&sources, client(last), NOW).unwrap_err();
        assert_eq!(why(1), Refusal::Denied);
        assert_eq!(why(2), Refusal::Rate);
        shared.rate.set_rate(None);
        assert_eq!(why(2), Refusal::SourceRate);
        shared.source_limits.set(1, None);
        assert_eq!(why(2), Refusal::SourceLimit);
        shared.source_limits.set(0, None);
        assert_eq!(why(2), Refusal::ListenerLimit);
        shared.capacity.set_limit(0);
        assert!(local.admit(&sources, client(2), NOW).is_ok());
    }

    /// One that is refused later in the order has taken nothing on the way.
    #[test]
    fn who_is_refused_uses_up_nothing() {
        let sources = opened();
        let local = listener(&[]);
        let shared = &local.shared;
        shared.rate.set_rate(once());
        shared.source_limits.set(5, once());
        shared.capacity.set_limit(1);
        shared.capacity.reserve_anyway();
        for _ in 0..10 {
            let why = local.admit(&sources, client(2), NOW).unwrap_err();
            assert_eq!(why, Refusal::ListenerLimit);
        }
        shared.capacity.release();
        let admission = local.admit(&sources, client(2), NOW).unwrap();
        assert!(admission.listener_reserved && admission.source.is_some());
        assert_eq!(shared.capacity.used(), 1);
        local.give_back(&sources, &admission);
        assert_eq!(shared.capacity.used(), 0);
        assert_eq!(sources.usage(NOW).1, 0);
    }

    #[test]
    fn a_client_without_an_address_is_held_to_the_listeners_own_limits() {
        let sources = opened();
        let local = listener(&["0.0.0.0/0", "::/0"]);
        local.shared.source_limits.set(1, once());
        local.shared.capacity.set_limit(2);
        assert!(local.admit(&sources, None, NOW).is_ok());
        assert!(local.admit(&sources, None, NOW).is_ok());
        let why = local.admit(&sources, None, NOW).unwrap_err();
        assert_eq!(why, Refusal::ListenerLimit);
    }

    #[test]
    fn an_ipv6_source_is_its_64_bit_network() {
        let sources = opened();
        let local = listener(&[]);
        local.shared.source_limits.set(1, None);
        let admit = |text: &str| {
            let client = text.parse().unwrap();
            local.admit(&sources, Some(client), NOW).is_ok()
        };
        assert!(admit("2001:db8:0:1::1"));
        assert!(!admit("2001:db8:0:1:ffff::9"));
        assert!(admit("2001:db8:0:2::1"));
        assert!(admit("10.0.0.1"));
        assert!(!admit("::ffff:10.0.0.1"));
        assert!(admit("10.0.0.2"));
    }
}
