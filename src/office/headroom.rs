//! What is left of the resources that the budget counted at start: for the metric, and for a line a minute before local
//! ports or descriptors run out. Looked at every second while sessions come and go, every fifteen else, since an idle
//! process must stay idle. What cannot be read is left out.

use std::time::{Duration, Instant};

use crate::config::budget::ports_towards;
use crate::sys::limits;
use crate::sys::pipe::BULK_BYTES;

use super::Office;

/// Below this share it is worth a line.
const LOW: f64 = 0.1;
const COMPLAIN: Duration = Duration::from_secs(60);
/// While nothing changes; who calls does so once a second.
const LOOK_EVERY: Duration = Duration::from_secs(15);
const PAGE_BYTES: f64 = 4096.0;

#[derive(Debug, Default)]
pub struct Headroom {
    complained: Option<Instant>,
    looked: Option<Instant>,
    /// Sessions and flows at the last look.
    sessions: u32,
}

/// The share that is left when `used` of `most` is gone.
fn left(used: f64, most: f64) -> f64 {
    if most <= 0.0 {
        return 0.0;
    }
    (1.0 - used / most).clamp(0.0, 1.0)
}

impl Office {
    pub(super) fn look_at_headroom(&mut self) {
        let looked = self.headroom.looked.map(|moment| moment.elapsed());
        let sessions = self.board.process.used();
        if sessions == self.headroom.sessions && looked.is_some_and(|since| since < LOOK_EVERY) {
            return;
        }
        self.headroom.looked = Some(Instant::now());
        self.headroom.sessions = sessions;
        let mut found: Vec<(&'static str, f64)> = Vec::with_capacity(5);
        let mut alarms: Vec<String> = Vec::new();
        let process = &self.board.process;
        let sessions = left(f64::from(process.used()), f64::from(process.limit()));
        found.push(("sessions", sessions));
        if let (Ok(open), Ok(limit)) = (limits::open_descriptors(), limits::descriptors()) {
            let share = left(open as f64, limit.soft as f64);
            found.push(("descriptors", share));
            if share < LOW {
                alarms.push(format!(
                    "{open} of {} descriptors are in use: raise LimitNOFILE= in the unit (ulimit -n in a shell)",
                    limit.soft
                ));
            }
        }
        if let (Ok(available), Ok(all)) = (limits::available_memory(), limits::memory_in_all()) {
            found.push(("memory", left(all as f64 - available as f64, all as f64)));
        }
        if let Ok(Some(pages)) = limits::pipe_pages() {
            let workers = self.board.hatches.workers.iter();
            let pipes: u64 = workers.map(|hatch| hatch.counters.pipes_open.read()).sum();
            let taken = pipes as f64 * BULK_BYTES as f64 / PAGE_BYTES;
            found.push(("pipes", left(taken, pages as f64)));
        }
        if let Some((share, alarm)) = self.least_ports() {
            found.push(("ports", share));
            if share < LOW {
                alarms.push(alarm);
            }
        }
        *self.board.headroom.lock() = found;
        self.headroom.say(&alarms);
    }

    /// Of all backends, the one that local ports run out towards first.
    fn least_ports(&self) -> Option<(f64, String)> {
        let range = limits::local_ports().ok()?;
        let range = (*range.start(), *range.end());
        let pools = self.world.plan.pools.iter().zip(&self.world.backends);
        let backends = pools.flat_map(|(pool, shared)| {
            let backends = pool.backends.iter().zip(shared);
            backends.map(move |(backend, shared)| (pool, backend, shared))
        });
        let shares = backends.filter_map(|(pool, backend, shared)| {
            let ports = ports_towards(pool, backend, range)?;
            let sessions = shared.sessions();
            let share = left(f64::from(sessions), ports as f64);
            Some((share, pool, backend, sessions, ports))
        });
        let least = shares.min_by(|one, other| one.0.total_cmp(&other.0));
        let (share, pool, backend, sessions, ports) = least?;
        let alarm = format!(
            "backend {}/{}: {sessions} of {ports} local ports towards it are in use: more addresses in pool.source or a \
             wider net.ipv4.ip_local_port_range give more",
            pool.name, backend.name
        );
        Some((share, alarm))
    }
}

impl Headroom {
    fn say(&mut self, alarms: &[String]) {
        let since = self.complained.map(|moment| moment.elapsed());
        if alarms.is_empty() || since.is_some_and(|since| since < COMPLAIN) {
            return;
        }
        self.complained = Some(Instant::now());
        for alarm in alarms {
            log::warn!("{alarm}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_a_share() {
        for (used, most, share) in [(0.0, 10.0, 1.0), (9.0, 10.0, 0.1), (12.0, 10.0, 0.0)] {
            assert!((left(used, most) - share).abs() < 1e-9);
        }
        assert!(left(0.0, 0.0).abs() < f64::EPSILON);
    }
}
