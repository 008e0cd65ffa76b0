//! Limits of backends, listeners and sources: how they change, where clients come from, and that no source has more
//! sessions than its listener's limit once everybody knows of it.

use std::net::{Ipv4Addr, SocketAddr};

use super::counts::Fault;
use super::net::Net;
use super::office::Office;
use super::random::Random;

const MILLISECOND: u64 = 1_000_000;
/// Few, so that they meet their limits.
const SOURCES: usize = 5;

/// The address of a client; of some the kernel cannot tell it any more.
pub fn address_of(conn: usize) -> Option<SocketAddr> {
    let port = 2_000 + (conn % 50_000) as u16;
    let source = 1 + (conn * 7 / 3 % SOURCES) as u8;
    let told = conn % 29 != 3;
    told.then(|| SocketAddr::from((Ipv4Addr::new(10, 9, 8, source), port)))
}

impl Office {
    /// How many backends and listeners take.
    pub fn change_limits(&mut self, random: &mut Random, small: bool, now: u64) {
        let limits: &[u32] = if small {
            &[0, 1, 1, 2, 3]
        } else {
            &[0, 0, 4, 20]
        };
        for backend in &mut self.backends {
            if random.chance(500) {
                let limit = random.pick(limits);
                if limit != backend.shared.capacity.limit() {
                    backend.limit_since = self.generation + 1;
                    backend.limit_changed_at = now;
                }
                backend.shared.capacity.set_limit(limit);
            }
        }
        for listener in &mut self.listeners {
            if random.chance(300) {
                let limit = random.pick(&[0, 0, 0, 1, 3, 10]);
                if limit != listener.shared.capacity.limit() {
                    listener.limit_since = self.generation + 1;
                    listener.limit_changed_at = now;
                }
                listener.shared.capacity.set_limit(limit);
            }
        }
    }

    /// Before a snapshot is posted, as the real office does.
    pub fn change_source_limits(&mut self, random: &mut Random, sessions_max: u32, now: u64) {
        for listener in &mut self.listeners {
            if !random.chance(300) {
                continue;
            }
            let limit = random.pick(&[0, 0, 1, 2, 5]);
            if limit != listener.source_limit {
                listener.source_limit = limit;
                listener.source_limit_since = self.generation + 1;
                listener.source_limit_changed_at = now;
            }
            listener.shared.source_limits.set(limit, None);
            if limit > 0 {
                self.hatches.sources.open(sessions_max);
            }
        }
    }
}

impl Net {
    /// A client of this connection has just become a session.
    pub fn check_source(&self, conn: usize) {
        let office = self.office();
        let listener_of = |id: usize| office.socket_owners[self.conns[id].house];
        let listener = listener_of(conn);
        let seat = &office.listeners[listener];
        let settled = office.hatches.all_have(seat.source_limit_since)
            && self.now - seat.source_limit_changed_at > 100 * MILLISECOND;
        let Some(source) = address_of(conn).map(|it| it.ip()) else {
            return;
        };
        if seat.source_limit == 0 || !settled {
            return;
        }
        let same = self.live.iter().filter(|&&id| {
            let its = address_of(id).map(|it| it.ip());
            self.conns[id].is_client() && listener_of(id) == listener && its == Some(source)
        });
        let open = same.count();
        if open > seat.source_limit as usize {
            self.fail(&format!(
                "{source} has {open} of at most {} sessions at listener {listener}",
                seat.source_limit
            ));
        }
    }

    /// So many were refused for it.
    pub fn note_source_refusals(&mut self, count: u64) {
        for _ in 0..count {
            self.hit(Fault::SourceRefused);
        }
    }
}
