//! Breakers on a clock of our own: what time, the window and the pool's need make of them.

use super::*;
use crate::balance::{Algorithm, Chooser};
use crate::handoff::{
    BackendOptions, Call, Entry, FlowRules, PoolShared, SessionTimes, Target, TierMember, TierMode,
    TierRules, WaitRules, Waiters,
};
use crate::ids::{Address, BackendId, ConnectFailure, PoolId, WorkerId};

const SECOND: u64 = millis(1_000);
const START: Nanos = Nanos(1_000 * SECOND);

fn rules() -> BreakerRules {
    BreakerRules {
        consecutive_failures: 3,
        early_reset_ns: millis(100),
        error_percent: 50,
        window_ns: 10 * SECOND,
        volume: 20,
        open_ns: 5 * SECOND,
        open_max_ns: 60 * SECOND,
        trials: 1,
        max_ejected_percent: 50,
    }
}

struct Bench {
    breakers: Breakers,
    hatches: Hatches,
    pool: Arc<Pool>,
    now: Nanos,
}

fn pool_of(
    shared: Arc<PoolShared>,
    backends: &[Arc<BackendShared>],
    rules: Option<BreakerRules>,
) -> Arc<Pool> {
    let weights = vec![100; backends.len()];
    let names: Vec<&str> = backends.iter().map(|own| own.name.as_str()).collect();
    let chooser = Chooser::new(Algorithm::RoundRobin, &weights, &names);
    let backends = backends.iter().map(|shared| Backend {
        shared: Arc::clone(shared),
        target: Target::Fixed(Address::Inet(([127, 0, 0, 1], 1).into())),
        weight: 100,
        tier: 0,
    });
    Arc::new(Pool {
        shared,
        chooser,
        hash_seed: 0,
        hash_port: false,
        breaker: rules,
        flow_rules: FlowRules::default(),
        tiers: 1,
        backends: backends.collect(),
        slow_start_ns: 0,
        source: Vec::new(),
        waiters: Arc::new(Waiters::new(1)),
        wait: WaitRules {
            timeout_ns: 0,
            leave_on_fin: false,
        },
        connect_timeout_ns: SECOND,
        connect_attempts: 1,
        connect_budget_ns: SECOND,
        times: SessionTimes::default(),
        doubts: false,
        options: BackendOptions {
            keepalive: None,
            user_timeout_ms: 0,
        },
        send_proxy: None,
        send_proxy_every: false,
        cancel: false,
    })
}

impl Bench {
    fn new(backends: u16) -> Bench {
        let backends = (0..backends).map(|n| {
            let backend = BackendShared::new(BackendId(n), "p", &format!("b{n}"), true, 1);
            Arc::new(backend)
        });
        let backends: Vec<_> = backends.collect();
        let shared = Arc::new(PoolShared::new(PoolId(0), "p", 1));
        let members = backends.iter().map(|backend| TierMember {
            tier: 0,
            weight: 100,
            backend: Arc::clone(backend),
        });
        let tiers = TierRules {
            min_eligible: 1,
            mode: TierMode::Takeover,
            failback_after_ns: 0,
            fail_open_percent: 0,
        };
        let members: Vec<_> = members.collect();
        shared.tiers.set_up(tiers, &members, START);
        let pool = pool_of(shared, &backends, Some(rules()));
        let mut bench = Bench {
            breakers: Breakers::default(),
            hatches: Hatches::new(1).unwrap(),
            pool: Arc::clone(&pool),
            now: START,
        };
        bench.breakers.publish(vec![pool]);
        bench.look();
        bench
    }

    fn backend(&self, n: usize) -> &Arc<BackendShared> {
        &self.pool.backends[n].shared
    }

    fn state(&self, n: usize) -> BreakerState {
        self.backend(n).verdict.breaker.state()
    }

    /// As a worker does whose connects are refused.
    fn fail(&self, n: usize, times: u32) {
        let rules = self.pool.breaker.unwrap();
        for _ in 0..times {
            let counters = self.backend(n).of(WorkerId(0));
            counters.connect_faults.add(1);
            let breaker = &self.backend(n).verdict.breaker;
            if breaker.connect_failed(ConnectFailure::Refused, &rules) == Call::Open {
                let (referee, notices) = (&self.pool.shared.referee, &self.hatches.notices);
                referee.decide(&self.pool.backends, &rules, self.now, notices);
            }
        }
    }

    fn serve(&self, n: usize, times: u64) {
        let backend = self.backend(n);
        backend.of(WorkerId(0)).connects.add(times);
        backend.verdict.breaker.connected();
    }

    fn look(&mut self) -> bool {
        self.breakers.look(&self.hatches, self.now)
    }

    /// Looks at each beat until so much time has passed.
    fn pass(&mut self, time_ns: u64) {
        let end = self.now.after(time_ns);
        while self.now < end {
            self.now = self.now.after(BEAT_NS);
            self.look();
        }
    }

    fn causes(&self) -> Vec<(String, Why)> {
        let notices = std::iter::from_fn(|| self.hatches.notices.pop());
        let told = notices.map(|notice| (notice.backend.name.clone(), notice.change.why));
        told.collect()
    }

    fn set_rules(&mut self, rules: Option<BreakerRules>) {
        let backends = self.pool.backends.iter().map(|own| Arc::clone(&own.shared));
        self.pool = pool_of(
            Arc::clone(&self.pool.shared),
            &backends.collect::<Vec<_>>(),
            rules,
        );
        self.breakers.publish(vec![Arc::clone(&self.pool)]);
    }
}

#[test]
fn an_open_breaker_is_tried_after_its_time_and_twice_as_long_after_a_failed_trial() {
    let mut bench = Bench::new(3);
    bench.fail(0, 3);
    assert_eq!(bench.state(0), BreakerState::Open);
    assert!(bench.look(), "tiers and workers look again");
    bench.pass(5 * SECOND - millis(200));
    assert_eq!(bench.state(0), BreakerState::Open);
    bench.pass(millis(300));
    assert_eq!(bench.state(0), BreakerState::HalfOpen);
    let breaker = &bench.backend(0).verdict.breaker;
    let Entry::Trial(trial) = breaker.enter() else {
        panic!("a trial");
    };
    assert!(breaker.trial_failed(trial, &rules(), bench.now).is_some());
    bench.pass(10 * SECOND - millis(200));
    assert_eq!(bench.state(0), BreakerState::Open);
    bench.pass(millis(300));
    assert_eq!(bench.state(0), BreakerState::HalfOpen);
    let said: Vec<_> = bench.causes().into_iter().map(|(_, why)| why).collect();
    assert_eq!(
        said,
        [
            Why::Connects(3, ConnectFailure::Refused),
            Why::Rested,
            Why::Rested
        ]
    );
}

#[test]
fn nobody_came_to_try_it() {
    let mut bench = Bench::new(2);
    bench.fail(0, 3);
    bench.pass(5 * SECOND + millis(100));
    assert_eq!(bench.state(0), BreakerState::HalfOpen);
    bench.pass(60 * SECOND - millis(200));
    assert_eq!(bench.state(0), BreakerState::HalfOpen);
    bench.pass(millis(300));
    assert_eq!(bench.state(0), BreakerState::Closed);
    assert_eq!(bench.causes().last().unwrap().1, Why::Untried);
}

#[test]
fn the_share_of_failures_counts_within_its_window_and_from_its_volume_on() {
    let mut bench = Bench::new(2);
    // Too few to judge.
    for _ in 0..9 {
        bench.fail(0, 1);
        bench.serve(0, 1);
    }
    bench.pass(SECOND);
    assert_eq!(bench.state(0), BreakerState::Closed);
    // They leave the window, so that as many again are too few again.
    bench.pass(11 * SECOND);
    for _ in 0..9 {
        bench.fail(0, 1);
        bench.serve(0, 1);
    }
    bench.pass(SECOND);
    assert_eq!(bench.state(0), BreakerState::Closed);
    // Enough, and too few failures among them.
    bench.serve(0, 10);
    bench.pass(millis(100));
    assert_eq!(bench.state(0), BreakerState::Closed);
    bench.pass(11 * SECOND);
    for _ in 0..10 {
        bench.fail(0, 2);
        bench.serve(0, 1);
    }
    bench.pass(millis(100));
    assert_eq!(bench.state(0), BreakerState::Open);
    let errors = Why::Errors {
        percent: 66,
        attempts: 30,
    };
    assert_eq!(bench.causes(), [("b0".to_owned(), errors)]);
    // What was counted before it opened does not open it again.
    bench
        .backend(0)
        .verdict
        .breaker
        .lift(Why::Needed, bench.now);
    bench.pass(SECOND);
    assert_eq!(bench.state(0), BreakerState::Closed);
}

#[test]
fn when_all_others_are_down_the_one_ejected_longest_serves_again() {
    let mut bench = Bench::new(4);
    bench.fail(1, 3);
    bench.pass(millis(100));
    bench.fail(0, 3);
    bench.pass(millis(100));
    assert_eq!(
        (bench.state(0), bench.state(1)),
        (BreakerState::Open, BreakerState::Open)
    );
    bench.backend(2).verdict.set_health(Health::Down);
    bench.pass(millis(100));
    assert_eq!(bench.causes().len(), 2, "one still serves");
    bench.backend(3).verdict.set_health(Health::Down);
    bench.pass(millis(200));
    assert_eq!(
        (bench.state(0), bench.state(1)),
        (BreakerState::Open, BreakerState::Closed)
    );
    assert_eq!(bench.causes(), [("b1".to_owned(), Why::Needed)]);
    // It is down itself: the other one.
    bench.backend(1).verdict.set_health(Health::Down);
    bench.pass(millis(100));
    assert_eq!(bench.state(0), BreakerState::Closed);
}

#[test]
fn rules_that_change_hold_at_once_and_rules_that_go_away_close_all() {
    let mut bench = Bench::new(4);
    bench.fail(0, 3);
    bench.pass(millis(100));
    bench.fail(1, 3);
    assert_eq!(bench.state(1), BreakerState::Open);
    let fewer = BreakerRules {
        max_ejected_percent: 25,
        ..rules()
    };
    bench.set_rules(Some(fewer));
    bench.pass(millis(100));
    assert_eq!(
        (bench.state(0), bench.state(1)),
        (BreakerState::Closed, BreakerState::Open)
    );
    assert_eq!(bench.causes().last().unwrap().1, Why::TooMany);
    bench.set_rules(None);
    bench.pass(millis(100));
    assert_eq!(bench.state(1), BreakerState::Closed);
    assert_eq!(bench.causes().last().unwrap().1, Why::Off);
    // A worker that has not heard of it yet opens one: it is closed again.
    bench.pool = pool_of(
        Arc::clone(&bench.pool.shared),
        &(0..4)
            .map(|n| Arc::clone(bench.backend(n)))
            .collect::<Vec<_>>(),
        Some(rules()),
    );
    bench.fail(2, 3);
    assert_eq!(bench.state(2), BreakerState::Open);
    bench.pass(millis(100));
    assert_eq!(bench.state(2), BreakerState::Closed);
    bench.pass(10 * SECOND);
    assert_eq!(bench.breakers.due(), Nanos::NEVER, "nothing is left to do");
}

#[test]
fn an_early_reset_seen_by_too_few_asks_for_a_check_once() {
    let bench = Bench::new(2);
    let breaker = &bench.backend(1).verdict.breaker;
    assert_eq!(breaker.reset_early(7, &rules()), Call::Check);
    let wanted = bench.breakers.take_wanted();
    assert_eq!(wanted.len(), 1);
    assert!(Arc::ptr_eq(&wanted[0], bench.backend(1)));
    assert!(bench.breakers.take_wanted().is_empty());
}

#[test]
fn it_rests_in_quiet_times_and_the_first_failure_ends_them() {
    let mut bench = Bench::new(2);
    bench.pass(10 * SECOND);
    let next = |bench: &Bench| bench.breakers.due().since(bench.now);
    assert!(next(&bench) > millis(100), "nothing happens");
    assert!(bench.breakers.rests(bench.now));
    // Work without failures wakes nobody.
    bench.serve(0, 100);
    bench.pass(QUIET_NS);
    assert!(next(&bench) > millis(100));
    // Half a second later one fails.
    bench.now = bench.now.after(millis(500));
    bench.fail(0, 1);
    bench.breakers.wake(bench.now);
    bench.look();
    assert_eq!(next(&bench), millis(100));
    assert!(!bench.breakers.rests(bench.now));
    // As long as it is within the window, which moves on by a tenth, and then no more.
    bench.pass(rules().window_ns / 10 * 9 - millis(200));
    assert_eq!(next(&bench), millis(100));
    bench.pass(2 * SECOND);
    assert!(next(&bench) > millis(100));
}

#[test]
fn a_failure_that_ends_a_quiet_time_counts_for_a_whole_window() {
    let mut window = Window::default();
    let (window_ns, at) = (SECOND, |ms: u64| START.after(millis(ms)));
    assert_eq!(window.note((100, 0), window_ns, at(0)), (0, 0));
    assert_eq!(window.note((200, 0), window_ns, at(1_000)).1, 0);
    // It failed just now, a second after the last look.
    assert_eq!(window.note((201, 1), window_ns, at(2_000)).1, 1);
    for ms in (2_100..3_000).step_by(100) {
        assert_eq!(window.note((201, 1), window_ns, at(ms)).1, 1, "at {ms} ms");
    }
    assert_eq!(window.note((201, 1), window_ns, at(3_100)).1, 0);
}
