//! PROXY headers for datagrams: they tell a backend whose flow it is, ahead of the first datagram that goes to it, or of
//! each. A header and its datagram leave as one; one that would be too long with it is dropped and counted.

use crate::handoff::ProxyVersion;
use crate::ids::{Caller, Drop, FlowKey, Side};
use crate::uring::{Datagram, Heading, Kernel};
use crate::wire::proxy::{self, Announcement, Endpoints, Transport, Version};
use crate::worker::engine::Worker;

/// The longest payload of a datagram over IPv4.
const PAYLOAD_BYTES_MAX: u32 = 65_507;

/// What the flow's present backend is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Announcing {
    #[default]
    Never,
    /// Ahead of the next datagram, and of no other.
    Due,
    /// It has been told.
    Done,
    Each,
}

impl<K: Kernel> Worker<K> {
    /// The flow has a backend that has heard nothing of it yet.
    pub(super) fn begin_announcing(&mut self, flow: FlowKey) {
        let Some(tenant) = self.flows.table.get_mut(flow) else {
            return;
        };
        let pool = self.world.pool(tenant.pool);
        let sends = pool.is_some_and(|pool| pool.send_proxy == Some(ProxyVersion::Two));
        tenant.announcing = match pool {
            Some(pool) if sends && pool.send_proxy_every => Announcing::Each,
            Some(_) if sends => Announcing::Due,
            _ => Announcing::Never,
        };
    }

    /// The datagram with which the header went was not taken, so nobody has heard it.
    pub(super) fn announce_again(&mut self, flow: FlowKey) {
        if let Some(tenant) = self.flows.table.get_mut(flow)
            && tenant.announcing == Announcing::Done
        {
            tenant.announcing = Announcing::Due;
        }
    }

    /// Passes a client's datagrams on to the flow's backend.
    pub(super) fn pass_to_backend(&mut self, flow: FlowKey, caller: Caller, datagram: Datagram) {
        let tenant = self.flows.table.get(flow);
        let announcing = tenant.map_or(Announcing::Never, |tenant| tenant.announcing);
        if matches!(announcing, Announcing::Never | Announcing::Done) {
            self.count_passed(flow, Side::Client, true, &datagram);
            self.kernel.to_backend(flow, Heading::Nothing, datagram);
            return;
        }
        let header = self.header_of(caller);
        let bytes = header.as_bytes();
        // What came together is of one size, or shorter, so that none of it is too long if the longest is not.
        if datagram.longest() + bytes.len() as u32 > PAYLOAD_BYTES_MAX {
            self.count_drop(flow, Drop::TooLong, datagram.count());
            self.kernel.discard(datagram);
            return;
        }
        self.count_passed(flow, Side::Client, true, &datagram);
        let heading = match announcing {
            Announcing::Each => Heading::Each(bytes),
            _ => Heading::First(bytes),
        };
        self.kernel.to_backend(flow, heading, datagram);
        if let Some(tenant) = self.flows.table.get_mut(flow)
            && announcing == Announcing::Due
        {
            tenant.announcing = Announcing::Done;
        }
    }

    /// From the client's address to the one that it wrote to.
    fn header_of(&self, caller: Caller) -> Announcement {
        let mut sockets = self.flows.sockets.iter();
        let local = sockets.find(|local| local.socket.id == caller.socket);
        let bound = local.and_then(|local| local.socket.address.inet());
        let destination = bound.map(|mut bound| {
            bound.set_ip(caller.local.unwrap_or(bound.ip()));
            bound
        });
        let Some(destination) = destination else {
            return proxy::local(Version::Two);
        };
        let endpoints = Endpoints::Inet {
            source: caller.client,
            destination,
        };
        proxy::announce(Version::Two, Transport::Datagram, endpoints, false)
    }
}
