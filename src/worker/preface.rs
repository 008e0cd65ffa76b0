//! A client's first bytes, read where they lie: a PROXY header tells whose connection it is, a TLS ClientHello which pool
//! it is for, a PostgreSQL packet whether it is a cancel request and no session at all. One after the other, each only
//! where listener or pool asks for it.
//!
//! When to look is the session's business ([`crate::session`], `preface`); formats are `wire`'s. Nothing is taken from the
//! socket here but a PROXY header, and a cancel request that others carry on.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::handoff::{CANCEL_BYTES_MAX, CancelOrder, Cancelled, ProxyVersion};
use crate::ids::{
    CancelResult, ConnectFailure, End, ListenerId, NetworkKey, PoolId, Refusal, SessionKey, Side,
    StreamKey,
};
use crate::session::{Event, Look, Phase};
use crate::uring::{Kernel, PEEK_BYTES_MAX};
use crate::wire::client_hello::{self, Seen};
use crate::wire::postgres::{self, FirstPacket};
use crate::wire::proxy::{self, Endpoints, Parsed, Transport};

use super::engine::Worker;

const _: () = assert!(CANCEL_BYTES_MAX == postgres::CANCEL_BYTES_MAX);
const _: () = assert!(proxy::HEADER_BYTES_MAX <= PEEK_BYTES_MAX);
const _: () = assert!(client_hello::HELLO_BYTES_MAX <= PEEK_BYTES_MAX);

/// What is to be read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing, or nothing more.
    Done,
    Header,
    Hello,
    Packet,
    /// The prober carries a cancel request out.
    Cancelling,
}

/// What reading has come to.
enum Reading {
    Go(Stage),
    /// So many bytes are there, so many are wanted in all.
    More(usize, usize),
    Over(Look),
}

fn client_of(key: SessionKey) -> StreamKey {
    StreamKey {
        session: key,
        side: Side::Client,
    }
}

impl<K: Kernel> Worker<K> {
    /// What a client that comes to this listener from `peer` must show first, and how long it may take.
    pub(super) fn first_stage(
        &self,
        listener: ListenerId,
        pool: PoolId,
        peer: Option<SocketAddr>,
    ) -> (Stage, u64) {
        let Some(local) = self.world.listener(listener) else {
            return (Stage::Done, 0);
        };
        let announcers = &local.preface.announcers;
        let stage = if announcers.include(peer.map(|peer| peer.ip())) {
            Stage::Header
        } else {
            self.stage_after_header(listener, pool)
        };
        let timeout_ns = match stage {
            Stage::Done => 0,
            _ => local.preface.timeout_ns,
        };
        (stage, timeout_ns)
    }

    fn stage_after_header(&self, listener: ListenerId, pool: PoolId) -> Stage {
        let local = self.world.listener(listener);
        if local.is_some_and(|local| !local.preface.routes.is_empty()) {
            Stage::Hello
        } else {
            self.stage_after_hello(pool)
        }
    }

    fn stage_after_hello(&self, pool: PoolId) -> Stage {
        match self.world.pool(pool) {
            Some(pool) if pool.cancel => Stage::Packet,
            _ => Stage::Done,
        }
    }

    /// Answers a session that wants to know what its client has sent.
    pub(super) fn look(&mut self, key: SessionKey, late: bool) {
        let look = self.read_preface(key, late);
        self.answer(key, Event::Looked(look));
    }

    fn read_preface(&mut self, key: SessionKey, late: bool) -> Look {
        loop {
            let Some(stage) = self.slots.get_mut(key).map(|tenant| tenant.stage) else {
                return Look::Refused(End::Internal);
            };
            let reading = match stage {
                Stage::Header => self.read_header(key),
                Stage::Hello => self.read_hello(key),
                Stage::Packet => self.read_packet(key),
                Stage::Cancelling if late => Reading::Over(Look::Served(End::BackendFin)),
                Stage::Cancelling => Reading::Over(Look::Busy),
                Stage::Done => Reading::Over(self.client_is_known(key)),
            };
            match reading {
                Reading::Go(stage) => self.set_stage(key, stage),
                Reading::Over(look) => return look,
                Reading::More(bytes, wanted) => {
                    if !late && !self.kernel.has_ended(client_of(key)) {
                        return Look::More {
                            bytes: bytes as u32,
                            wanted: wanted as u32,
                        };
                    }
                    // Nothing more will come, or it would come too late.
                    match (stage, bytes) {
                        (Stage::Header, 0) if !late => return Look::Refused(End::ClientGone),
                        (Stage::Hello | Stage::Packet, 0) => self.set_stage(key, Stage::Done),
                        _ => return Look::Refused(End::PrefaceInvalid),
                    }
                }
            }
        }
    }

    fn set_stage(&mut self, key: SessionKey, stage: Stage) {
        if let Some(tenant) = self.slots.get_mut(key) {
            tenant.stage = stage;
        }
    }

    fn read_header(&mut self, key: SessionKey) -> Reading {
        let bytes_max = proxy::HEADER_BYTES_MAX as u32;
        let Ok(bytes) = self.kernel.peek(client_of(key), bytes_max) else {
            return Reading::Over(Look::Refused(End::ClientGone));
        };
        let header = match proxy::parse(bytes) {
            Parsed::More(wanted) => return Reading::More(bytes.len(), wanted),
            Parsed::Invalid(_) => return Reading::Over(Look::Refused(End::PrefaceInvalid)),
            Parsed::Header(header) => header,
        };
        self.kernel.skip(client_of(key), header.length as u32);
        let Some(tenant) = self.slots.get_mut(key) else {
            return Reading::Over(Look::Refused(End::Internal));
        };
        match (header.endpoints, header.transport) {
            (
                Endpoints::Inet {
                    source,
                    destination,
                },
                Transport::Stream,
            ) => {
                tenant.client = Some(source);
                tenant.announced = Some(destination);
            }
            // It has no address that we could name; the sender's would be another's.
            (Endpoints::Unix { .. }, _) => tenant.client = None,
            // The sender speaks for itself.
            (Endpoints::Connection | Endpoints::Inet { .. }, _) => {}
        }
        let (listener, pool) = (tenant.listener, tenant.pool);
        match self.judge_announced(key) {
            Ok(()) => Reading::Go(self.stage_after_header(listener, pool)),
            Err(refusal) => Reading::Over(Look::Refused(refusal.as_end())),
        }
    }

    fn read_hello(&mut self, key: SessionKey) -> Reading {
        let bytes_max = client_hello::HELLO_BYTES_MAX as u32;
        let Ok(bytes) = self.kernel.peek(client_of(key), bytes_max) else {
            return Reading::Over(Look::Refused(End::ClientGone));
        };
        let Some(tenant) = self.slots.get_mut(key) else {
            return Reading::Over(Look::Refused(End::Internal));
        };
        match client_hello::server_name(bytes) {
            Seen::More(wanted) => return Reading::More(bytes.len(), wanted),
            Seen::Malformed => return Reading::Over(Look::Refused(End::PrefaceInvalid)),
            Seen::NotTls | Seen::NoName => {}
            Seen::Name(name) => {
                let local = self.world.listener(tenant.listener);
                if let Some(pool) = local.and_then(|it| it.preface.pool_for(name.as_str())) {
                    tenant.pool = pool;
                }
            }
        }
        let pool = tenant.pool;
        Reading::Go(self.stage_after_hello(pool))
    }

    fn read_packet(&mut self, key: SessionKey) -> Reading {
        let mut request = [0; CANCEL_BYTES_MAX];
        let Ok(bytes) = self.kernel.peek(client_of(key), CANCEL_BYTES_MAX as u32) else {
            return Reading::Over(Look::Refused(End::ClientGone));
        };
        let length = match postgres::first_packet(bytes) {
            FirstPacket::More(wanted) => return Reading::More(bytes.len(), wanted),
            FirstPacket::Cancel { length } => length,
            _ => return Reading::Go(Stage::Done),
        };
        request[..length].copy_from_slice(&bytes[..length]);
        self.kernel.skip(client_of(key), length as u32);
        if self.order_cancel(key, request, length) {
            Reading::Go(Stage::Cancelling)
        } else {
            Reading::Over(Look::Served(End::Limited))
        }
    }

    /// A peer has announced its client, who is now judged as others are at accept.
    fn judge_announced(&mut self, key: SessionKey) -> Result<(), Refusal> {
        let Some(tenant) = self.slots.get_mut(key) else {
            return Ok(());
        };
        let Some(client) = tenant.client.map(|client| client.ip()) else {
            return Ok(());
        };
        if let Some(local) = self.world.listener(tenant.listener) {
            local.test_access(client)?;
            // A reload may have brought limits, and counted it, meanwhile.
            if tenant.source.is_none() {
                tenant.source = local.count_source(&self.hatches.sources, client, self.now)?;
            }
        }
        Ok(())
    }

    /// The client's address and pool are known: from here on its session is like any other.
    fn client_is_known(&mut self, key: SessionKey) -> Look {
        let Some(tenant) = self.slots.get_mut(key) else {
            return Look::Refused(End::Internal);
        };
        let (pool, client) = (tenant.pool, tenant.client);
        let hash = self.hash_of(pool, client);
        let rules = self.rules_for(pool, 0);
        if let Some(tenant) = self.slots.get_mut(key) {
            tenant.hash = hash;
            tenant.session.adopt(rules);
        }
        Look::Known
    }

    fn order_cancel(
        &mut self,
        key: SessionKey,
        request: [u8; CANCEL_BYTES_MAX],
        length: usize,
    ) -> bool {
        let Some(tenant) = self.slots.get_mut(key) else {
            return false;
        };
        let source = tenant.client.map(|client| NetworkKey::from(client.ip()));
        let (pool, port) = (tenant.pool, tenant.port);
        let Some(pool) = self.world.pool(pool) else {
            return false;
        };
        let ordered = self.hatches.cancels.order(CancelOrder {
            pool: Arc::clone(pool),
            port,
            source,
            worker: self.world.worker,
            session: key,
            request,
            length,
        });
        if !ordered {
            pool.shared.count_cancel(CancelResult::Limited);
        }
        ordered
    }

    /// Closes the clients whose cancel requests were carried out.
    pub(super) fn take_cancelled(&mut self) {
        for _ in 0..self.hatch.cancelled.capacity() {
            let Some(Cancelled { session, end }) = self.hatch.cancelled.pop() else {
                return;
            };
            let waits = |tenant: &mut super::tenant::Tenant| tenant.stage == Stage::Cancelling;
            if self.slots.get_mut(session).is_some_and(waits) {
                self.deliver(session, Event::Looked(Look::Served(end)));
            }
        }
    }

    /// Tells a backend that has just been connected to whose connection it is, where its pool wants that: before any
    /// other byte. A connection that does not take that much is none.
    pub(super) fn announce(&mut self, key: SessionKey) -> Result<(), ConnectFailure> {
        let Some(tenant) = self.slots.get_mut(key) else {
            return Ok(());
        };
        let pool = self.world.pool(tenant.pool);
        let version = match pool.and_then(|pool| pool.send_proxy) {
            _ if tenant.session.phase() != Phase::Connecting => return Ok(()),
            None => return Ok(()),
            Some(ProxyVersion::One) => proxy::Version::One,
            Some(ProxyVersion::Two) => proxy::Version::Two,
        };
        let (client, announced) = (tenant.client, tenant.announced);
        let destination = announced.or_else(|| self.kernel.local_address(client_of(key)));
        let header = match client.zip(destination) {
            Some((source, destination)) => {
                let endpoints = Endpoints::Inet {
                    source,
                    destination,
                };
                proxy::announce(version, Transport::Stream, endpoints, false)
            }
            None => proxy::local(version),
        };
        let backend = StreamKey {
            session: key,
            side: Side::Backend,
        };
        if self.kernel.send_first(backend, header.as_bytes()) {
            Ok(())
        } else {
            Err(ConnectFailure::Reset)
        }
    }
}
