//! The breaker's machine against a plain model of it, over every short story and over many long ones; and in the hands
//! of several threads at once.

use std::collections::HashSet;
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn rules() -> BreakerRules {
    BreakerRules {
        consecutive_failures: 3,
        early_reset_ns: SECOND / 10,
        error_percent: 50,
        window_ns: 10 * SECOND,
        volume: 20,
        open_ns: 5 * SECOND,
        open_max_ns: 60 * SECOND,
        trials: 2,
        max_ejected_percent: 50,
    }
}

/// Everything that can happen to a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connected,
    Proven,
    ConnectFailed,
    Reset(u32),
    /// The pool decides about a wish: it can spare the backend, or not.
    Decide(bool),
    Enter,
    Passed,
    Failed,
    Void,
    Rest,
    Lift,
    Later,
}

const STEPS: [Step; 14] = [
    Step::Connected,
    Step::Proven,
    Step::ConnectFailed,
    Step::Reset(1),
    Step::Reset(2),
    Step::Reset(3),
    Step::Decide(true),
    Step::Decide(false),
    Step::Enter,
    Step::Passed,
    Step::Failed,
    Step::Void,
    Step::Rest,
    Step::Lift,
];

/// What a careful reader of the rules would keep on paper.
#[derive(Clone, Debug)]
struct Model {
    state: BreakerState,
    connects: u32,
    resets: u32,
    clients: HashSet<u32>,
    wish: bool,
    /// Of the present half-open time.
    inside: u32,
    passed: u32,
    row: u32,
    closed_since: u64,
    opened_at: u64,
    now: u64,
}

impl Model {
    fn new() -> Model {
        Model {
            state: BreakerState::Closed,
            connects: 0,
            resets: 0,
            clients: HashSet::new(),
            wish: false,
            inside: 0,
            passed: 0,
            row: 0,
            closed_since: 0,
            opened_at: 0,
            now: 0,
        }
    }

    fn forget_failures(&mut self) {
        self.connects = 0;
        self.resets = 0;
        self.clients.clear();
    }

    fn open(&mut self) {
        self.state = BreakerState::Open;
        self.row += 1;
        self.opened_at = self.now;
        self.forget_failures();
    }

    fn close(&mut self) {
        self.state = BreakerState::Closed;
        self.closed_since = self.now;
        self.forget_failures();
    }

    fn is_due(&self) -> bool {
        let seen = self.resets > 0 && self.clients.len() as u32 >= CLIENTS_MIN;
        self.connects >= 3 || (seen && self.connects + self.resets >= 3)
    }

    fn open_ns(&self) -> u64 {
        (0..self.row - 1).fold(5 * SECOND, |length, _| (2 * length).min(60 * SECOND))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Connected => self.connects = 0,
            Step::Proven => self.forget_failures(),
            Step::ConnectFailed if self.state == BreakerState::Closed => {
                self.connects += 1;
                self.wish |= self.is_due();
            }
            Step::Reset(client) if self.state == BreakerState::Closed => {
                self.resets += 1;
                self.clients.insert(client);
                self.wish |= self.is_due();
            }
            Step::Decide(spared) => {
                let wish = std::mem::take(&mut self.wish);
                if wish && spared && self.state == BreakerState::Closed {
                    if self.now - self.closed_since >= 60 * SECOND {
                        self.row = 0;
                    }
                    self.open();
                }
            }
            Step::Enter
                if self.state == BreakerState::HalfOpen && self.inside + self.passed < 2 =>
            {
                self.inside += 1;
            }
            Step::Passed if self.inside > 0 => {
                self.inside -= 1;
                self.passed += 1;
                if self.passed == 2 {
                    self.close();
                }
            }
            Step::Failed if self.inside > 0 => self.open(),
            Step::Void if self.inside > 0 => self.inside -= 1,
            Step::Rest if self.state == BreakerState::Open => {
                self.state = BreakerState::HalfOpen;
                self.forget_failures();
            }
            Step::Lift if self.state != BreakerState::Closed => self.close(),
            Step::Later => self.now += 7 * SECOND,
            _ => {}
        }
        if self.state != BreakerState::HalfOpen {
            (self.inside, self.passed) = (0, 0);
        }
    }
}

/// The real one beside it, with the trials that are under way.
struct Real {
    breaker: Breaker,
    trials: Vec<Trial>,
}

impl Real {
    fn new() -> Real {
        Real {
            breaker: Breaker::default(),
            trials: Vec::new(),
        }
    }

    fn step(&mut self, step: Step, now: u64) {
        let (rules, now, breaker) = (&rules(), Nanos(now), &self.breaker);
        match step {
            Step::Connected => breaker.connected(),
            Step::Proven => breaker.proven(),
            Step::ConnectFailed => drop(breaker.connect_failed(ConnectFailure::Refused, rules)),
            Step::Reset(client) => drop(breaker.reset_early(client, rules)),
            Step::Decide(spared) => {
                if let Some(why) = breaker.take_wish()
                    && spared
                {
                    breaker.open(why, rules, now);
                }
            }
            Step::Enter => {
                if let Entry::Trial(trial) = breaker.enter() {
                    self.trials.push(trial);
                }
            }
            // The newest: older ones may be of a time that is over, and must then change nothing.
            Step::Passed => drop(self.trials.pop().map(|it| breaker.trial_passed(it, now))),
            Step::Failed => drop(
                self.trials
                    .pop()
                    .map(|it| breaker.trial_failed(it, rules, now)),
            ),
            Step::Void => drop(self.trials.pop().map(|it| breaker.trial_void(it))),
            Step::Rest => drop(breaker.rest(rules, now)),
            Step::Lift => drop(breaker.lift(Why::Needed, now)),
            Step::Later => {}
        }
        if self.breaker.state() != BreakerState::HalfOpen {
            self.trials.clear();
        }
    }
}

fn agree(model: &Model, real: &Real) -> Result<(), String> {
    let breaker = &real.breaker;
    let (connects, resets) = breaker.failures();
    let expected = (model.state, model.connects, model.resets, model.row);
    let found = (breaker.state(), connects, resets, breaker.row());
    if expected != found {
        return Err(format!("expected {expected:?}, found {found:?}"));
    }
    let admits = match model.state {
        BreakerState::Closed => true,
        BreakerState::Open => false,
        BreakerState::HalfOpen => model.inside + model.passed < 2,
    };
    if breaker.admits() != admits {
        return Err(format!("admits {} instead of {admits}", breaker.admits()));
    }
    let until =
        (model.state == BreakerState::Open).then(|| Nanos(model.opened_at).after(model.open_ns()));
    if breaker.open_until(&rules()) != until {
        return Err(format!(
            "{:?} instead of {until:?}",
            breaker.open_until(&rules())
        ));
    }
    Ok(())
}

/// Every story of up to five steps, after each of some beginnings.
#[test]
fn every_short_story_goes_as_the_rules_say() {
    use Step::{ConnectFailed as F, Decide, Enter, Failed, Later, Passed, Reset, Rest};
    let opened = [F, F, F, Decide(true)];
    let beginnings: [&[Step]; 6] = [
        &[],
        &[Reset(1), Reset(2)],
        &opened,
        &[F, F, F, Decide(true), Rest, Enter],
        &[
            F,
            F,
            F,
            Decide(true),
            Rest,
            Enter,
            Failed,
            Rest,
            Enter,
            Passed,
        ],
        &[
            F,
            F,
            F,
            Decide(true),
            Later,
            Rest,
            Enter,
            Enter,
            Passed,
            Passed,
            F,
            F,
        ],
    ];
    let mut stories = 0_u32;
    for beginning in beginnings {
        for number in 0..STEPS.len().pow(5) {
            let mut rest = number;
            let story = (0..5).map(|_| {
                let step = STEPS[rest % STEPS.len()];
                rest /= STEPS.len();
                step
            });
            let story: Vec<Step> = beginning.iter().copied().chain(story).collect();
            let (mut model, mut real) = (Model::new(), Real::new());
            for (at, &step) in story.iter().enumerate() {
                model.step(step);
                real.step(step, model.now);
                // The beginning is the same every time.
                if at + 5 >= story.len()
                    && let Err(error) = agree(&model, &real)
                {
                    panic!("{error} after {:?}", &story[..=at]);
                }
            }
            stories += 1;
        }
    }
    assert_eq!(stories, 6 * 14_u32.pow(5));
}

proptest! {
    #[test]
    fn long_stories_go_as_the_rules_say(
        story in proptest::collection::vec(
            prop_oneof![
                10 => (0..STEPS.len()).prop_map(|i| STEPS[i]),
                2 => Just(Step::ConnectFailed),
                2 => Just(Step::Decide(true)),
                1 => Just(Step::Later),
            ],
            0..200,
        )
    ) {
        let (mut model, mut real) = (Model::new(), Real::new());
        for step in story {
            model.step(step);
            real.step(step, model.now);
            if let Err(error) = agree(&model, &real) {
                return Err(TestCaseError::fail(format!("{error} after {step:?}")));
            }
        }
    }
}

#[test]
fn open_times_double_up_to_the_longest_and_begin_again_after_quiet() {
    let breaker = Breaker::default();
    let mut now = Nanos(0);
    let mut times = Vec::new();
    for _ in 0..7 {
        let change = breaker.open(Why::Connects(3, ConnectFailure::Refused), &rules(), now);
        times.push(change.expect("opens").open_ns / SECOND);
        now = breaker.open_until(&rules()).expect("is open");
        assert!(breaker.rest(&rules(), now).is_some());
        assert!(breaker.lift(Why::TrialsPassed, now).is_some());
        now = now.after(SECOND);
    }
    assert_eq!(times, [5, 10, 20, 40, 60, 60, 60]);
    now = now.after(60 * SECOND);
    let change = breaker.open(Why::Resets(3), &rules(), now).expect("opens");
    assert_eq!(change.open_ns, 5 * SECOND);
}

#[test]
fn one_client_s_resets_never_call_for_opening() {
    let breaker = Breaker::default();
    for _ in 0..10_000 {
        assert_eq!(breaker.reset_early(7, &rules()), Call::Check);
        assert_eq!(breaker.errors_of_reset(7, Nanos(SECOND), &rules()), 0);
    }
    assert_eq!(breaker.reset_early(8, &rules()), Call::Check);
    assert!(breaker.take_check_wanted());
    assert!(!breaker.take_check_wanted());
    assert_eq!(breaker.reset_early(9, &rules()), Call::Open);
}

/// In the share of errors each client stands once in a window, from the third on.
#[test]
fn in_a_window_each_client_is_one_error() {
    let breaker = Breaker::default();
    let errors = |client, at| breaker.errors_of_reset(client, Nanos(at), &rules());
    assert_eq!([errors(1, 0), errors(2, 0), errors(1, 0)], [0, 0, 0]);
    assert_eq!(errors(3, 1), 3);
    assert_eq!([errors(3, 2), errors(1, 2), errors(4, 2)], [0, 0, 1]);
    // The next window begins with none.
    assert_eq!([errors(1, 10 * SECOND), errors(5, 11 * SECOND)], [0, 0]);
    assert_eq!(errors(4, 12 * SECOND), 3);
}

#[test]
fn a_full_count_stays_full_and_apart() {
    let breaker = Breaker::default();
    let patient = BreakerRules {
        consecutive_failures: u32::MAX,
        ..rules()
    };
    for client in 0..FAILURES_MAX + 10 {
        let _ = breaker.connect_failed(ConnectFailure::Timeout, &patient);
        let _ = breaker.reset_early(client, &patient);
    }
    assert_eq!(breaker.failures(), (FAILURES_MAX, FAILURES_MAX));
    breaker.connected();
    assert_eq!(breaker.failures(), (0, FAILURES_MAX));
}

#[test]
fn a_trial_of_a_time_that_is_over_changes_nothing() {
    let (breaker, rules) = (Breaker::default(), rules());
    let open = |now| breaker.open(Why::Resets(3), &rules, Nanos(now)).is_some();
    assert!(open(1));
    assert!(breaker.rest(&rules, Nanos(2)).is_some());
    let (Entry::Trial(first), Entry::Trial(second)) = (breaker.enter(), breaker.enter()) else {
        panic!("two may try");
    };
    assert_eq!(breaker.enter(), Entry::Shut);
    assert!(breaker.trial_failed(first, &rules, Nanos(3)).is_some());
    assert!(breaker.rest(&rules, Nanos(4)).is_some());
    assert_eq!(breaker.trial_passed(second, Nanos(5)), None);
    assert_eq!(breaker.trial_failed(second, &rules, Nanos(5)), None);
    breaker.trial_void(second);
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert!(matches!(breaker.enter(), Entry::Trial(_)));
    assert!(matches!(breaker.enter(), Entry::Trial(_)));
    assert_eq!(breaker.enter(), Entry::Shut);
}

/// Threads that enter, pass, fail and give back at the same time: never more inside than may try, none lost.
#[test]
fn trials_are_exact_from_many_threads() {
    for round in 0..200 {
        let (breaker, rules) = (Breaker::default(), rules());
        breaker.open(Why::Resets(3), &rules, Nanos(1));
        breaker.rest(&rules, Nanos(2));
        let (entered, closed) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let (breaker, entered, closed) = (&breaker, &entered, &closed);
                scope.spawn(move || {
                    for turn in 0..8_u32 {
                        let Entry::Trial(trial) = breaker.enter() else {
                            continue;
                        };
                        let inside = entered.fetch_add(1, AcqRel) + 1;
                        assert!(inside <= 2, "{inside} try at once");
                        entered.fetch_sub(1, AcqRel);
                        if round % 2 == 0 && (turn + thread) % 3 == 0 {
                            breaker.trial_void(trial);
                        } else if breaker.trial_passed(trial, Nanos(3)).is_some() {
                            closed.fetch_add(1, AcqRel);
                        }
                    }
                });
            }
        });
        if round % 2 == 1 {
            assert_eq!(closed.into_inner(), 1, "exactly one closes it");
            assert_eq!(breaker.state(), BreakerState::Closed);
        }
        if breaker.state() == BreakerState::HalfOpen {
            assert!(breaker.admits(), "what was given back can be had again");
        }
    }
}

/// Failing trials of several threads open it once, and the time is known to who sees it open.
#[test]
fn of_many_failing_trials_one_opens() {
    for _ in 0..300 {
        let breaker = Breaker::default();
        let rules = BreakerRules {
            trials: 4,
            ..rules()
        };
        breaker.open(Why::Resets(3), &rules, Nanos(1));
        breaker.rest(&rules, Nanos(2));
        let opened = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let Entry::Trial(trial) = breaker.enter() else {
                        return;
                    };
                    if breaker.trial_failed(trial, &rules, Nanos(SECOND)).is_some() {
                        opened.fetch_add(1, AcqRel);
                    }
                });
            }
        });
        assert_eq!(opened.into_inner(), 1);
        assert_eq!((breaker.row(), breaker.opens()), (2, 2));
        assert_eq!(breaker.open_until(&rules), Some(Nanos(11 * SECOND)));
    }
}

/// A success on one thread ends the run of failures that others count: never is more counted than came after it.
#[test]
fn failures_in_a_row_are_exact_from_many_threads() {
    let patient = BreakerRules {
        consecutive_failures: u32::MAX,
        ..rules()
    };
    for _ in 0..100 {
        let breaker = Breaker::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let _ = breaker.connect_failed(ConnectFailure::Refused, &patient);
                    }
                });
            }
        });
        assert_eq!(breaker.failures(), (2_000, 0));
        breaker.connected();
        assert_eq!(breaker.failures(), (0, 0));
    }
}
