//! The contract of the door, held against what a worker asks for: a connect only to a backend that may be given sessions,
//! an end of stream only after the last byte, a close only when every answer is in. Each breach ends the run.

use std::net::IpAddr;

use ringway::handoff::{BreakerState, Health, Standing};
use ringway::ids::{Address, Side, StreamKey};

use super::kernel::{FakeKernel, Op};
use super::socket::Place;

const MILLISECOND: u64 = 1_000_000;

impl FakeKernel {
    pub fn backend_of(&self, address: &Address) -> usize {
        match address {
            Address::Inet(address) => match address.ip() {
                IpAddr::V4(ip) => usize::from(ip.octets()[3]),
                IpAddr::V6(_) => self.fail("an address that no backend has"),
            },
            Address::Unix(path) => {
                let name = path.to_string_lossy();
                name[1..].parse().expect("a backend's path")
            }
        }
    }

    /// A connect must go to a backend that may be given sessions and has room.
    pub fn check_choice(&self, backend: usize) {
        let net = self.net();
        let office = net.office();
        let seat = &office.backends[backend];
        let lately = net.now - seat.changed_at < 300 * MILLISECOND;
        let tiers = &office.pools[seat.pool];
        let ignored = tiers.shared.tiers.service().ignoring_health >> seat.tier & 1 == 1;
        let lately = lately || net.now - tiers.tiers_changed_at < 300 * MILLISECOND;
        let verdict = &seat.shared.verdict;
        let sound = match verdict.against(ignored) {
            None => true,
            // Half-open its only trial is the one that connects.
            Some(Standing::Health(Health::Ejected)) => {
                verdict.breaker.state() != BreakerState::Open
            }
            Some(_) => false,
        };
        let eligible = seat.present && seat.weight > 0 && sound;
        if !eligible && !lately {
            self.fail(&format!("connects to b{backend}, which is not eligible"));
        }
        let limit = seat.shared.capacity.limit();
        // A place that was promised before a limit came is still taken after it.
        let settled = office.hatches.all_have(seat.limit_since)
            && net.now - seat.limit_changed_at > 100 * MILLISECOND;
        let open = net.live.iter().map(|&id| &net.conns[id]);
        let open = open.filter(|it| it.side == Side::Backend && it.house == backend);
        let open = open.filter(|it| !it.leaving).count();
        let used = seat.shared.capacity.used() as usize;
        if limit > 0 && settled && (open >= limit as usize || open >= used) {
            self.fail(&format!(
                "b{backend} has {open} of at most {limit}, and {used} are counted"
            ));
        }
    }

    /// The end of stream towards `conn`: only when the other peer has ended, and all of its bytes are there.
    pub fn check_end(&self, conn: usize, what: &str) {
        let net = self.net();
        let sink = &net.conns[conn];
        let Some(partner) = sink.partner.map(|partner| &net.conns[partner]) else {
            self.fail(&format!("{what} c{conn}, which has no partner"));
        };
        let source = format!("c{}", sink.partner.unwrap_or(0));
        if !partner.fin {
            self.fail(&format!("{what} c{conn}, but {source} has not ended"));
        }
        if sink.accepted != partner.sent {
            self.fail(&format!(
                "{what} c{conn} after {} of {} bytes of {source}",
                sink.accepted, partner.sent
            ));
        }
    }

    pub fn check_close(&self, stream: StreamKey, reset: bool) {
        let end = self.end(stream);
        if end.ops.iter().any(|op| *op != Op::Off) || end.sends > 0 {
            self.fail(&format!("closes c{} over {:?}", end.conn, end));
        }
        let place = self.net().conns[end.conn].place;
        if reset || place != Place::Open {
            return;
        }
        let (warm, over) = {
            let net = self.net();
            let conn = &net.conns[end.conn];
            (conn.warm && conn.sent == 0, conn.fin || conn.is_dead())
        };
        if warm && over {
            // It died before it had said anything, and is replaced.
            return;
        }
        self.check_end(end.conn, "closes");
        let net = self.net();
        let conn = &net.conns[end.conn];
        if !conn.fin || conn.waiting() > 0 {
            self.fail(&format!(
                "closes c{} without a reset before its stream has ended",
                end.conn
            ));
        }
    }
}
