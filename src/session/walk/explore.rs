//! The walk itself: breadth first over every state that a plan can reach, so that what goes wrong is shown by a shortest
//! story. Afterwards each state that owes something is asked whether it can get on by what is sure to happen.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::event::{Action, Event};
use super::super::tcp::Desk;
use super::begin::begin;
use super::carry::Verdict;
use super::check::Cause;
use super::kernel::Step;
use super::mutants::Mutant;
use super::plan::Plan;
use super::table::Table;
use super::world::{NOW, Serial, World};

/// Beyond this a plan is too large to be walked in a test.
const STATES_MAX: u32 = 4_000_000;

/// Actions that follow from one event; more is an endless loop.
const ACTIONS_MAX: usize = 200;

/// The choices of one step, in the order in which they come up: repeated with the last one changed until all are through.
#[derive(Default)]
pub(super) struct Choices {
    script: Vec<(usize, usize)>,
    at: usize,
}

impl Choices {
    pub(super) fn pick(&mut self, of: usize) -> usize {
        if self.at == self.script.len() {
            self.script.push((0, of));
        }
        self.at += 1;
        self.script[self.at - 1].0
    }

    /// Sets up the next row of choices; false when there is none.
    fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((chosen, of)) = self.script.last_mut() {
            *chosen += 1;
            if chosen < of {
                return true;
            }
            self.script.pop();
        }
        false
    }
}

/// What a walk carries along.
pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) mutant: Option<&'a Mutant>,
    pub(super) choices: Choices,
    pub(super) table: Table,
    /// Written only while a story is told again.
    story: Option<Vec<String>>,
}

impl<'a> Run<'a> {
    pub(super) fn new(plan: &'a Plan, mutant: Option<&'a Mutant>) -> Run<'a> {
        Run {
            plan,
            mutant,
            choices: Choices::default(),
            table: Table::default(),
            story: None,
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(line());
        }
    }
}

impl World {
    /// Takes one step with all that follows at once.
    pub(super) fn take(&mut self, step: Step, run: &mut Run<'_>) -> Verdict<()> {
        run.note(|| format!("{step:?}"));
        if let Some(event) = self.happen(step, run.plan) {
            self.tell(event, run)?;
        }
        self.check_state(run.plan)
    }

    /// Tells the session of an event and carries out what it wants, each answer before the next action.
    pub(super) fn tell(&mut self, event: Event<Serial>, run: &mut Run<'_>) -> Verdict<()> {
        let mut actions = VecDeque::new();
        let mut carried = 0;
        self.decide(event, &mut actions, run)?;
        while let Some(action) = actions.pop_front() {
            carried += 1;
            if carried > ACTIONS_MAX {
                return Err("one event has no end of actions".to_owned());
            }
            run.note(|| format!("    {action:?}"));
            if let Some(answer) = self.carry(&action, run)? {
                run.note(|| format!("        {answer:?}"));
                self.decide(answer, &mut actions, run)?;
            }
        }
        Ok(())
    }

    fn decide(
        &mut self,
        mut event: Event<Serial>,
        actions: &mut VecDeque<Action<Serial>>,
        run: &mut Run<'_>,
    ) -> Verdict<()> {
        run.table.note(self.session.phase, &event);
        let (before, cause) = (self.session, Cause::of(&event));
        if let Some(mutant) = run.mutant {
            match mutant.bend_event(self, event) {
                Some(bent) => event = bent,
                None => return Ok(()),
            }
        }
        let word = super::table::word(&event);
        let mut wanted = Vec::new();
        self.step(event, &mut wanted);
        if let Some(mutant) = run.mutant {
            mutant.bend_actions(self, &before, word, &mut wanted);
        }
        actions.extend(wanted);
        self.judge_decision(cause, &before)
    }

    /// One step of the session under walk, at this walk's moment.
    pub(super) fn step(&mut self, event: Event<Serial>, actions: &mut Vec<Action<Serial>>) {
        let mut desk = Desk {
            now: NOW,
            parcels: &mut self.parcels,
            actions,
        };
        self.session.step(event, &mut desk);
    }
}

/// Two hashes of 64 bits with different factors: together a state's name.
#[derive(Clone, Copy)]
struct Print(u64, u64);

impl Print {
    fn of(world: &World) -> u128 {
        let mut print = Print(0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F);
        world.hash(&mut print);
        (u128::from(print.0) << 64) | u128::from(print.1)
    }
}

impl Hasher for Print {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517C_C1B7_2722_0A95);
        self.1 = (self.1.rotate_left(23) ^ value).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.1
    }
}

/// The map's hasher: its keys are hashes already.
#[derive(Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn write(&mut self, _: &[u8]) {}

    fn write_u128(&mut self, value: u128) {
        self.0 = (value as u64) ^ ((value >> 64) as u64).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// What a walk found.
pub(super) struct Found {
    pub(super) states: usize,
    pub(super) steps: usize,
    pub(super) table: Table,
    /// The rule that was broken, and how it came about.
    pub(super) broken: Option<(String, Vec<String>)>,
}

/// How a state was first reached: from which one, by its how-manieth successor.
type Origin = (u32, u32);

struct Walk<'a> {
    run: Run<'a>,
    known: HashMap<u128, u32, BuildHasherDefault<Ready>>,
    origins: Vec<Origin>,
    /// By state: whether it owes something. And the steps that are sure to come.
    owing: Vec<bool>,
    sure: Vec<(u32, u32)>,
    ahead: VecDeque<World>,
    steps: usize,
}

impl Walk<'_> {
    /// Numbers a state, and puts it on the list if it is new.
    fn reach(&mut self, world: World, origin: Origin) -> u32 {
        let next = self.origins.len() as u32;
        match self.known.entry(Print::of(&world)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                assert!(next < STATES_MAX, "{} is too large", self.run.plan.name);
                place.insert(next);
                self.origins.push(origin);
                self.owing.push(world.is_owing());
                self.ahead.push_back(world);
                next
            }
        }
    }

    /// Takes every possible step from a state.
    fn spread(&mut self, from: u32, world: &World) -> Result<(), (String, Origin)> {
        let mut nth = 0;
        let mut possible = Vec::new();
        world.steps(self.run.plan, &mut possible);
        for step in possible {
            let sure = world.is_owed(step);
            loop {
                let mut next = world.clone();
                take_safely(&mut next, step, &mut self.run).map_err(|why| (why, (from, nth)))?;
                let reached = self.reach(next, (from, nth));
                if sure && reached != from {
                    self.sure.push((from, reached));
                }
                self.steps += 1;
                nth += 1;
                if !self.run.choices.advance() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Everything from the list, and what follows from it; then the question after what is stuck.
    fn all(&mut self) -> Option<(String, Origin)> {
        let mut state = 0;
        while let Some(world) = self.ahead.pop_front() {
            if let Err(broken) = self.spread(state, &world) {
                return Some(broken);
            }
            state += 1;
        }
        let stuck = self.stuck()?;
        Some((
            "what is owed is done without waiting for anybody's mood".to_owned(),
            self.origins[stuck as usize],
        ))
    }

    /// A state that owes something and cannot get to one that owes nothing by what is sure to happen.
    fn stuck(&self) -> Option<u32> {
        let states = self.owing.len();
        let mut starts = vec![0_u32; states + 1];
        for &(_, to) in &self.sure {
            starts[to as usize + 1] += 1;
        }
        for state in 0..states {
            starts[state + 1] += starts[state];
        }
        let mut sources = vec![0_u32; self.sure.len()];
        let mut fill = starts.clone();
        for &(from, to) in &self.sure {
            sources[fill[to as usize] as usize] = from;
            fill[to as usize] += 1;
        }
        let mut fine: Vec<bool> = self.owing.iter().map(|owing| !owing).collect();
        let mut list: Vec<u32> = (0..states as u32)
            .filter(|&state| fine[state as usize])
            .collect();
        while let Some(state) = list.pop() {
            let range = starts[state as usize] as usize..starts[state as usize + 1] as usize;
            for &source in &sources[range] {
                if !std::mem::replace(&mut fine[source as usize], true) {
                    list.push(source);
                }
            }
        }
        fine.iter().position(|fine| !fine).map(|state| state as u32)
    }

    /// Tells again how a state was reached, and what the last step from there did.
    fn story(&mut self, (mut state, nth): Origin) -> Vec<String> {
        let mut turns = vec![nth];
        while state != 0 {
            let (before, nth) = self.origins[state as usize];
            turns.push(nth);
            state = before;
        }
        self.run.story = Some(Vec::new());
        let mut world = begin(&mut self.run).expect("it began before");
        self.run.note(|| "--- here the walk begins".to_owned());
        while let Some(nth) = turns.pop() {
            retake(&mut world, nth, &mut self.run);
        }
        self.run.note(|| format!("{world:#?}"));
        self.run.story.take().unwrap_or_default()
    }
}

/// Takes the how-manieth step from a state once more; the last one of a story may fail.
fn retake(world: &mut World, mut nth: u32, run: &mut Run<'_>) {
    let mut possible = Vec::new();
    world.steps(run.plan, &mut possible);
    let story = run.story.take();
    for step in possible {
        run.choices = Choices::default();
        loop {
            let script = run.choices.script.clone();
            if nth == 0 {
                run.choices = Choices { script, at: 0 };
                run.story = story;
                let _ = take_safely(world, step, run);
                run.choices = Choices::default();
                return;
            }
            nth -= 1;
            let _ = take_safely(&mut world.clone(), step, run);
            if !run.choices.advance() {
                break;
            }
        }
    }
    run.story = story;
}

/// A step in which the session's own assertions count as rules, too.
fn take_safely(world: &mut World, step: Step, run: &mut Run<'_>) -> Verdict<()> {
    catch_unwind(AssertUnwindSafe(|| world.take(step, run))).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("it panics: {}", text.unwrap_or("without a word")))
    })
}

/// Walks a plan from its beginning, to the first broken rule if there is one.
pub(super) fn explore(plan: &Plan, mutant: Option<&Mutant>) -> Found {
    let mut walk = Walk {
        run: Run::new(plan, mutant),
        known: HashMap::default(),
        origins: Vec::new(),
        owing: Vec::new(),
        sure: Vec::new(),
        ahead: VecDeque::new(),
        steps: 0,
    };
    let broken = match begin(&mut walk.run) {
        Err(why) => Some((why, Vec::new())),
        Ok(world) => {
            walk.reach(world, (0, 0));
            walk.all().map(|(why, origin)| (why, walk.story(origin)))
        }
    };
    Found {
        states: walk.origins.len(),
        steps: walk.steps,
        table: walk.run.table,
        broken,
    }
}
