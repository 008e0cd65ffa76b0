//! Carries PostgreSQL's cancel requests from clients to every backend of their pool that has sessions: only the server
//! that gave the key out knows it, the others ignore it, as the protocol has it. Orders come from workers through the
//! hatch; when every server has closed, which it does after the request took effect, the client's worker is told.
//!
//! A request is cheap for who sends it and costs each backend a process, so a source may have ten a second.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::SockAddr;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::handoff::{Backend, CancelOrder, Cancelled, Hatches, ProxyVersion, Target};
use crate::ids::{Address, CancelResult, Clock, End, Nanos, NetworkKey, millis};
use crate::sys::stream;
use crate::wire::proxy::{self, Version};

use super::line::{self, Break, Line};
use super::ring;
use super::watch::Desk;

/// Requests that one source may have carried in any second.
const PER_SECOND: usize = 10;
/// Sources that are remembered; more at a time are refused.
const SOURCES_MAX: usize = 1024;
/// Requests on their way at a time, each with a socket for every backend with sessions.
const ON_THEIR_WAY_MAX: usize = 64;
/// A server that takes longer to answer is left to itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// When each source had its last requests carried.
#[derive(Debug, Default)]
struct Allowances(HashMap<Option<NetworkKey>, [Nanos; PER_SECOND]>);

impl Allowances {
    /// Whether one more may be carried for this source.
    fn take(&mut self, source: Option<NetworkKey>, now: Nanos) -> bool {
        let is_over = |at: &Nanos| *at == Nanos::ZERO || now.since(*at) >= millis(1_000);
        if !self.0.contains_key(&source) && self.0.len() >= SOURCES_MAX {
            self.0.retain(|_, times| !times.iter().all(is_over));
            if self.0.len() >= SOURCES_MAX {
                return false;
            }
        }
        let times = self.0.entry(source).or_default();
        match times.iter_mut().find(|at| is_over(at)) {
            Some(free) => {
                *free = now;
                true
            }
            None => false,
        }
    }
}

/// Carries what is ordered, until the prober stops.
pub async fn carry_all(desk: Arc<Desk>, hatches: Arc<Hatches>, clock: Clock) {
    // The hatches outlive every look at the bell.
    let bell = hatches.cancels.doorbell.as_fd().as_raw_fd();
    let mut allowances = Allowances::default();
    let mut on_their_way = JoinSet::new();
    while !desk.stop.load(Ordering::Acquire) {
        hatches.cancels.doorbell.silence();
        while let Some(order) = hatches.cancels.orders.pop() {
            while on_their_way.try_join_next().is_some() {}
            let room = on_their_way.len() < ON_THEIR_WAY_MAX;
            if room && allowances.take(order.source, clock.now()) {
                let hatches = Arc::clone(&hatches);
                on_their_way.spawn_local(async move {
                    let result = carry(&order).await;
                    report(&hatches, &order, result);
                });
            } else {
                report(&hatches, &order, CancelResult::Limited);
            }
        }
        ring::readable(bell).await;
    }
}

fn report(hatches: &Hatches, order: &CancelOrder, result: CancelResult) {
    order.pool.shared.count_cancel(result);
    let Some(worker) = hatches.workers.get(order.worker.index()) else {
        return;
    };
    let end = match result {
        CancelResult::Limited => End::Limited,
        CancelResult::Sent | CancelResult::Failed => End::BackendFin,
    };
    // A client that cannot be told about is closed when its time is over.
    let _ = worker.cancelled.push(Cancelled {
        session: order.session,
        end,
    });
    worker.doorbell.ring();
}

/// One request, to all that have sessions at the same time.
async fn carry(order: &CancelOrder) -> CancelResult {
    let deadline =
        Instant::now() + PATIENCE.min(Duration::from_nanos(order.pool.connect_timeout_ns));
    let request: Rc<[u8]> = Rc::from(&order.request[..order.length]);
    let mut visits = JoinSet::new();
    for backend in &order.pool.backends {
        if backend.shared.sessions() == 0 {
            continue;
        }
        let Some(address) = address_of(backend, order.port) else {
            continue;
        };
        let source = order.pool.source.iter().copied();
        let family = address.inet().map(|address| address.is_ipv4());
        let source = source.into_iter().find(|own| Some(own.is_ipv4()) == family);
        let (request, header) = (Rc::clone(&request), order.pool.send_proxy);
        visits.spawn_local(async move {
            let socket = stream::outbound(&address, source).map_err(|_| ())?;
            let target = match &address {
                Address::Inet(address) => SockAddr::from(*address),
                Address::Unix(path) => SockAddr::unix(path).map_err(|_| ())?,
            };
            let socket = line::dial(socket, target, deadline).await.map_err(|_| ())?;
            let mut line = Line::stream(socket, deadline);
            if let Some(version) = header {
                let version = match version {
                    ProxyVersion::One => Version::One,
                    ProxyVersion::Two => Version::Two,
                };
                let header = proxy::local(version);
                line.send(header.as_bytes()).await.map_err(|_| ())?;
            }
            line.send(&request).await.map_err(|_| ())?;
            // It closes without a word. A reset says as much.
            match line.receive().await {
                Err(Break::Closed | Break::Kernel(_)) => Ok(()),
                Ok(()) | Err(Break::Timeout | Break::TooMuch) => Err(()),
            }
        });
    }
    let mut result = CancelResult::Sent;
    while let Some(visit) = visits.join_next().await {
        if !matches!(visit, Ok(Ok(()))) {
            result = CancelResult::Failed;
        }
    }
    result
}

fn address_of(backend: &Backend, port: u16) -> Option<Address> {
    match &backend.target {
        Target::Fixed(address) => Some(address.clone()),
        Target::ListenerPort { host, offset } => {
            Some(Address::Inet((*host, port.wrapping_add(*offset)).into()))
        }
        Target::Unresolved => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_ten_in_any_second_and_not_more() {
        let mut allowances = Allowances::default();
        let (one, other) = (Some(NetworkKey(1)), Some(NetworkKey(2)));
        let mut carried = Vec::new();
        for tick in 1..500 {
            let now = Nanos(millis(tick * 7));
            if allowances.take(one, now) {
                carried.push(now);
            }
        }
        assert!(
            carried
                .windows(PER_SECOND + 1)
                .all(|it| it[PER_SECOND].since(it[0]) >= millis(1_000))
        );
        assert_eq!(carried.len(), 40, "ten at once in each of 3.5 seconds");
        assert!(allowances.take(other, Nanos(millis(3_400))));
    }

    #[test]
    fn more_sources_than_are_remembered_are_refused_for_a_while() {
        let mut allowances = Allowances::default();
        let source = |n: usize| Some(NetworkKey(n as u128));
        for n in 0..SOURCES_MAX {
            assert!(allowances.take(source(n), Nanos(millis(5))));
        }
        assert!(!allowances.take(source(SOURCES_MAX), Nanos(millis(6))));
        assert!(allowances.take(source(3), Nanos(millis(6))));
        assert!(allowances.take(source(SOURCES_MAX), Nanos(millis(1_005))));
        assert!(allowances.0.len() <= 3);
    }
}
