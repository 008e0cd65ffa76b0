//! The backend that answers connects the fastest for the load it has: peak EWMA of the connect time, which decays while
//! nothing is heard, times (sessions + 1) / weight. After Finagle's peak-EWMA balancer (Twitter, 2014, `PeakEwma`, decay time
//! 10 s): a sample above the average is taken over at once, one below moves it by the time since the last one, so that a
//! backend which turns slow is left at once and comes back by and by. The decay also is what tries a slow one again: when its
//! average has fallen far enough it gets a session, and with it a new sample.
//!
//! A backend without a sample is judged as if it were as fast as the fastest known, so it gets its share of newcomers by
//! load, not all of them, until its first connect has answered.

use std::cmp::Ordering;

use super::Candidates;
use super::least::{Cost, Load, least};

/// The time in which a sample loses all but 1/e of its weight.
const DECAY_NS: f64 = 10e9;
/// Differences below a microsecond say nothing; backends not heard of for minutes end here, and then load decides.
const FLOOR_NS: f64 = 1_000.0;

/// What is known of a backend's connect time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// The average when the last sample came, in nanoseconds.
    pub average_ns: f32,
    /// How long ago that was.
    pub age_ns: u64,
}

impl Latency {
    /// The average as it counts now: decayed towards zero, never below a microsecond.
    #[must_use]
    pub fn now_ns(self) -> f64 {
        (f64::from(self.average_ns) * left_after(self.age_ns)).max(FLOOR_NS)
    }

    /// The average after a connect that took `took_ns`; its age is 0 then.
    #[must_use]
    pub fn after_sample(known: Option<Latency>, took_ns: u64) -> f32 {
        let took = took_ns as f64;
        let Some(known) = known else {
            return took as f32;
        };
        let average = f64::from(known.average_ns);
        if took >= average {
            return took as f32;
        }
        let old = left_after(known.age_ns);
        (average * old + took * (1.0 - old)) as f32
    }
}

fn left_after(age_ns: u64) -> f64 {
    (-(age_ns as f64) / DECAY_NS).exp()
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Slowness(f64);

impl Slowness {
    /// What the next session costs on a backend; `unknown_ns` stands for the connect time where there is no sample.
    pub fn of(candidates: &impl Candidates, i: usize, weight: u32, unknown_ns: f64) -> Slowness {
        let latency = candidates.latency(i).map_or(unknown_ns, Latency::now_ns);
        Slowness(latency * Load::of(candidates, i, weight).as_number())
    }
}

impl Cost for Slowness {
    fn compare(self, other: Slowness) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// What stands for the connect time of an unknown backend where it is compared with one other only.
pub(super) const UNKNOWN_OF_TWO_NS: f64 = FLOOR_NS;

#[derive(Clone, Debug)]
pub(super) struct LeastLatency {
    weights: Vec<u32>,
}

impl LeastLatency {
    pub fn new(weights: &[u32]) -> LeastLatency {
        LeastLatency {
            weights: weights.to_vec(),
        }
    }

    pub fn choose(&self, candidates: &impl Candidates, turn: u64) -> Option<usize> {
        let weighted = || self.weights.iter().copied().enumerate();
        let open = || weighted().filter(|&(i, weight)| weight > 0 && candidates.is_open(i));
        let known = open().filter_map(|(i, _)| candidates.latency(i));
        let fastest = known.map(Latency::now_ns).fold(f64::INFINITY, f64::min);
        let unknown_ns = if fastest.is_finite() {
            fastest
        } else {
            FLOOR_NS
        };
        least(
            || open().map(|(i, weight)| (i, Slowness::of(candidates, i, weight, unknown_ns))),
            turn,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Field;
    use super::*;

    const MS: u64 = 1_000_000;

    fn latency(average_ms: u64, age_ms: u64) -> Option<Latency> {
        Some(Latency {
            average_ns: (average_ms * MS) as f32,
            age_ns: age_ms * MS,
        })
    }

    #[test]
    fn a_peak_counts_at_once_and_fades_by_time() {
        assert_eq!(Latency::after_sample(None, 5 * MS), 5e6);
        assert_eq!(Latency::after_sample(latency(5, 1), 100 * MS), 1e8);
        // A good sample right after a bad one changes little; one after the decay time most of it.
        let soon = Latency::after_sample(latency(100, 10), MS);
        assert!((99.8e6..100e6).contains(&f64::from(soon)), "{soon}");
        let later = Latency::after_sample(latency(100, 10_000), MS);
        let exact = 1e6 + 99e6 / std::f64::consts::E;
        assert!((f64::from(later) - exact).abs() < 1e3, "{later}");
    }

    #[test]
    fn silence_fades_too_down_to_a_microsecond() {
        let at = |age_ms| latency(100, age_ms).unwrap().now_ns();
        assert!((at(0) - 1e8).abs() < 10.0);
        assert!((at(10_000) - 1e8 / std::f64::consts::E).abs() < 10.0);
        assert_eq!(at(3_600_000), 1_000.0);
        let forever = Latency {
            average_ns: 1e8,
            age_ns: u64::MAX,
        };
        assert_eq!(forever.now_ns(), 1_000.0);
    }

    #[test]
    fn the_fast_one_is_preferred_by_load_and_weight() {
        let method = LeastLatency::new(&[100, 100, 200]);
        let mut field = Field::all_open(3);
        field.latencies = vec![latency(10, 0), latency(1, 0), latency(10, 0)];
        assert_eq!(method.choose(&field, 0), Some(1));
        // Ten times as fast carries four times as much before the heavy one is the better place: 5 x 1/100 = 1 x 10/200.
        field.sessions = vec![0, 3, 0];
        assert_eq!(method.choose(&field, 0), Some(1));
        field.sessions = vec![0, 5, 0];
        assert_eq!(method.choose(&field, 0), Some(2));
        field.open = vec![true, false, false];
        assert_eq!(method.choose(&field, 0), Some(0));
    }

    #[test]
    fn a_backend_without_samples_gets_its_share_by_load_and_no_flood() {
        let method = LeastLatency::new(&[1, 1]);
        let mut field = Field::all_open(2);
        field.latencies = vec![latency(50, 0), None];
        for turn in 0..100 {
            let chosen = method.choose(&field, turn).unwrap();
            field.sessions[chosen] += 1;
        }
        assert_eq!(field.sessions, [50, 50]);
        // Nobody known: by load alone.
        field.latencies = vec![None, None];
        field.sessions = vec![3, 1];
        assert_eq!(method.choose(&field, 0), Some(1));
    }

    /// A connect each millisecond, sessions of 20 ms: a backend that turns slow is left at once, and when it has become
    /// fast again it is found out within the time that the decay takes.
    #[test]
    fn a_slow_backend_is_left_at_once_and_found_again_when_it_recovers() {
        let method = LeastLatency::new(&[1, 1]);
        let mut averages = [None; 2];
        let mut heard_ms = [0u64; 2];
        let mut open = std::collections::VecDeque::new();
        let mut second_of = |from_ms: u64, to_ms: u64, took_ms: [u64; 2]| -> u64 {
            let mut second = 0;
            for now_ms in from_ms..to_ms {
                if open.len() == 20 {
                    open.pop_front();
                }
                let mut field = Field::all_open(2);
                for i in 0..2 {
                    field.sessions[i] = open.iter().filter(|&&own| own == i).count() as u32;
                    field.latencies[i] = averages[i].map(|average_ns| Latency {
                        average_ns,
                        age_ns: (now_ms - heard_ms[i]) * MS,
                    });
                }
                let chosen = method.choose(&field, now_ms).unwrap();
                let took_ns = took_ms[chosen] * MS;
                averages[chosen] = Some(Latency::after_sample(field.latencies[chosen], took_ns));
                heard_ms[chosen] = now_ms;
                open.push_back(chosen);
                second += chosen as u64;
            }
            second
        };
        let alike = second_of(0, 2_000, [1, 1]);
        assert!((900..=1_100).contains(&alike), "{alike} of 2000");
        // A hundred times slower for half a minute.
        let slow = second_of(2_000, 32_000, [1, 100]);
        assert!((1..=4).contains(&slow), "{slow} of 30000");
        let _ = second_of(32_000, 112_000, [1, 1]);
        let healed = second_of(112_000, 132_000, [1, 1]);
        assert!((8_000..=12_000).contains(&healed), "{healed} of 20000");
    }
}
