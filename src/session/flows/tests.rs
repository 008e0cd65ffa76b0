//! The table against a plain model: a list of flows that is searched from end to end. Every answer must be the same, over
//! thousands of random steps from a seed, in a small table that is full most of the time.

use std::net::{IpAddr, SocketAddr};

use super::mutants::{MUTANTS, Memory, Mutant, Step};
use super::*;
use crate::ids::SocketId;

#[derive(Clone, Debug)]
struct Known {
    caller: Caller,
    key: FlowKey,
    tenant: u64,
    group: usize,
    born: Nanos,
    birth: u64,
    last: Nanos,
    /// When it last went to the end of its line.
    order: u64,
    requests: u32,
    responses: u32,
}

struct Model {
    flows: Vec<Known>,
    /// Keys of flows that have ended: good for one life only.
    dead: Vec<FlowKey>,
    flows_max: usize,
    rules: FlowRules,
    steps: u64,
}

impl Model {
    fn find(&mut self, key: FlowKey) -> Result<&mut Known, Differs> {
        let mut flows = self.flows.iter_mut();
        let known = flows.find(|it| it.key == key);
        known.ok_or_else(|| format!("{key:?} is nobody's"))
    }

    fn victim(&self, group: Option<usize>, spared: Option<FlowKey>, now: Nanos) -> Option<FlowKey> {
        let flows = || {
            let flows = self.flows.iter().filter(|it| Some(it.key) != spared);
            flows.filter(|it| group.is_none_or(|group| it.group == group))
        };
        let answered = || flows().filter(|it| it.responses > 0);
        let longest_silent = answered().min_by_key(|it| it.order);
        let silent = longest_silent.filter(|it| now.since(it.last) >= SILENT_NS);
        let in_group = |it: &&Known| group.is_none_or(|group| it.group == group);
        let all = self.flows.iter().filter(in_group).count();
        let waiting = self.flows.iter().filter(in_group);
        let few = waiting.filter(|it| it.responses == 0).count() <= all / FEW;
        let unanswered = flows().filter(|it| it.responses == 0);
        let oldest = unanswered.min_by_key(|it| it.birth);
        let hopes = |it: &&Known| few && now.since(it.born) < HOPE_NS;
        silent
            .or(oldest.filter(|it| !hopes(it)))
            .or(longest_silent)
            .or(oldest)
            .map(|it| it.key)
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn caller(number: u64) -> Caller {
    let [.., high, low] = (number as u16).to_be_bytes();
    Caller {
        socket: SocketId((number % 2) as u16),
        client: SocketAddr::from(([127, 0, high, low], 5_000 + (number % 3) as u16)),
        local: number
            .is_multiple_of(5)
            .then(|| IpAddr::from([127, 0, 0, 2])),
    }
}

const GROUPS: u64 = 3;

fn group(number: u64) -> usize {
    (number % GROUPS) as usize
}

/// A table that is played with, and the list that it is held against. `mutant` bends what the table does.
struct Play {
    table: FlowTable<u64>,
    model: Model,
    dice: Dice,
    now: Nanos,
    callers: u64,
    mutant: Option<&'static Mutant>,
    memory: Memory,
}

/// Where table and list differ.
type Differs = String;

#[allow(
    clippy::needless_pass_by_value,
    reason = "what is compared is made for that"
)]
fn agree<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<(), Differs> {
    match found == wanted {
        true => Ok(()),
        false => Err(format!("{what}: found {found:?}, wanted {wanted:?}")),
    }
}

/// How a table is played with.
#[derive(Clone, Copy)]
struct Manner {
    flows_max: u32,
    callers: u64,
    rules: FlowRules,
    /// Steps are so far apart at most.
    step_ns: u64,
    /// Answers go to the newest of those that wait for their first, so that one of them waits long.
    prompt: bool,
}

fn play(seed: u64, manner: Manner, mutant: Option<&'static Mutant>) -> Result<(), Differs> {
    let Manner {
        flows_max,
        callers,
        rules,
        ..
    } = manner;
    let mut play = Play {
        table: FlowTable::new(flows_max, seed),
        model: Model {
            flows: Vec::new(),
            dead: Vec::new(),
            flows_max: flows_max as usize,
            rules,
            steps: 0,
        },
        dice: Dice(seed | 1),
        now: Nanos(1),
        callers,
        mutant,
        memory: Memory::default(),
    };
    for _ in 0..3_000 {
        play.model.steps += 1;
        play.now = play.now.after(play.dice.below(manner.step_ns));
        let number = play.dice.below(callers);
        match play.dice.below(10) {
            0..5 => play.client_writes(caller(number), number)?,
            5..8 => play.backend_answers(manner.prompt)?,
            _ => play.end_one()?,
        }
        play.compare()?;
    }
    Ok(())
}

impl Play {
    /// An operation of the table, with what a mutant makes of it.
    fn step<R>(&mut self, step: Step, operate: impl FnOnce(&mut FlowTable<u64>) -> R) -> R {
        if let Some(mutant) = self.mutant {
            (mutant.before)(&mut self.table, step, &mut self.memory);
        }
        let result = operate(&mut self.table);
        if let Some(mutant) = self.mutant.filter(|_| !matches!(step, Step::Begin(_))) {
            (mutant.after)(&mut self.table, step, &mut self.memory);
        }
        result
    }

    fn remove(&mut self, key: FlowKey) -> Option<u64> {
        self.model.dead.push(key);
        self.step(Step::End(key), |table| table.remove(key))
    }

    fn client_writes(&mut self, caller: Caller, number: u64) -> Result<(), Differs> {
        let (step, now) = (self.model.steps, self.now);
        if let Some(key) = self.table.find(&caller) {
            let requests = self.model.rules.requests;
            let known = self.model.find(key)?;
            agree("caller", known.caller, caller)?;
            let due = requests > 0 && known.requests >= requests;
            known.requests = if due { 1 } else { known.requests + 1 };
            known.last = now;
            if known.responses > 0 {
                known.order = step;
            }
            let wanted = if due {
                Request::ChooseAnew
            } else {
                Request::Pass
            };
            let found = self.step(Step::Request(key), |table| table.on_request(key, 1, now));
            return agree("request", found, wanted);
        }
        if self.table.is_full() {
            // A newcomer's own group, if it has anybody, else whoever.
            let own = Some(group(number))
                .filter(|own| self.table.victim(Some(*own), None, now).is_some());
            let victim = self.table.victim(own, None, now);
            let victim = victim.ok_or("a full table without a victim")?;
            agree("victim", Some(victim), self.model.victim(own, None, now))?;
            let tenant = self.remove(victim);
            agree("tenant", tenant, Some(self.model.find(victim)?.tenant))?;
            self.model.flows.retain(|it| it.key != victim);
        }
        let rules = self.model.rules;
        let begun = self.step(Step::Begin(None), |table| {
            table.insert(caller, group(number), rules, number, now)
        });
        let key = begun.map_err(|_| "no room where room was made")?;
        if let Some(mutant) = self.mutant {
            (mutant.after)(&mut self.table, Step::Begin(Some(key)), &mut self.memory);
        }
        agree("an old key", self.model.dead.contains(&key), false)?;
        self.model.flows.push(Known {
            caller,
            key,
            tenant: number,
            group: group(number),
            born: now,
            birth: step,
            last: now,
            order: step,
            requests: 0,
            responses: 0,
        });
        Ok(())
    }

    fn backend_answers(&mut self, prompt: bool) -> Result<(), Differs> {
        if self.model.flows.is_empty() {
            return Ok(());
        }
        let any = self.dice.below(self.model.flows.len() as u64) as usize;
        let flows = self.model.flows.iter().enumerate();
        let mut waiting = flows.rev().filter(|(_, it)| it.responses == 0);
        let newest = waiting.next().filter(|_| waiting.next().is_some());
        let chosen = match newest {
            Some((newest, _)) if prompt => newest,
            _ => any,
        };
        let (step, limit) = (self.model.steps, self.model.rules.responses);
        let now = self.now;
        let known = &mut self.model.flows[chosen];
        known.responses += 1;
        known.last = now;
        known.order = step;
        let last = limit > 0 && known.responses >= limit;
        let wanted = if last {
            Response::Last
        } else {
            Response::GoesOn
        };
        let key = known.key;
        let found = self.step(Step::Response(key), |table| table.on_response(key, 1, now));
        agree("response", found, wanted)?;
        if last {
            let removed = self.remove(key).is_some();
            agree("a flow that had its last answer", removed, true)?;
            self.model.flows.remove(chosen);
        }
        Ok(())
    }

    fn end_one(&mut self) -> Result<(), Differs> {
        if self.model.flows.is_empty() {
            return Ok(());
        }
        let chosen = self.dice.below(self.model.flows.len() as u64) as usize;
        let known = self.model.flows.remove(chosen);
        agree("removed", self.remove(known.key), Some(known.tenant))?;
        agree("a dead key's flow", self.table.get(known.key), None)?;
        agree(
            "a dead key's end",
            self.table.silence_end(known.key),
            Nanos::NEVER,
        )
    }

    fn compare(&self) -> Result<(), Differs> {
        let Play { table, model, .. } = self;
        agree("flows", table.len(), model.flows.len())?;
        agree(
            "full",
            table.is_full(),
            model.flows.len() >= model.flows_max,
        )?;
        for known in &model.flows {
            agree("found", table.find(&known.caller), Some(known.key))?;
            agree("tenant", table.get(known.key), Some(&known.tenant))?;
            let end = match model.rules.idle_ns {
                0 => Nanos::NEVER,
                idle_ns => known.last.after(idle_ns),
            };
            agree("end of silence", table.silence_end(known.key), end)?;
        }
        for group in [None, Some(0), Some(1), Some(2), Some(3)] {
            let victim = model.victim(group, None, self.now);
            agree("victim", table.victim(group, None, self.now), victim)?;
            let next = model.victim(group, victim, self.now);
            agree("spared", table.victim(group, victim, self.now), next)?;
        }
        let strangers = (0..self.callers).map(caller).filter(|caller| {
            let known = |it: &Known| it.caller == *caller;
            !model.flows.iter().any(known)
        });
        for stranger in strangers {
            agree("a stranger", table.find(&stranger), None)?;
        }
        Ok(())
    }
}

/// All plays: small tables that are full most of the time, under all kinds of rules; and one in which few wait.
fn play_all(seed: u64, mutant: Option<&'static Mutant>) -> Result<(), Differs> {
    let rules = |responses, requests, idle_ns| FlowRules {
        idle_ns,
        responses,
        requests,
    };
    let slow = |flows_max, callers, rules| Manner {
        flows_max,
        callers,
        rules,
        step_ns: SILENT_NS / 4,
        prompt: false,
    };
    play(seed, slow(8, 24, rules(0, 0, 1_000)), mutant)?;
    play(seed, slow(1, 3, rules(2, 0, 0)), mutant)?;
    play(seed, slow(15, 40, rules(0, 3, 5)), mutant)?;
    play(seed, slow(16, 12, rules(3, 2, 0)), mutant)?;
    let quick = Manner {
        step_ns: HOPE_NS / 50,
        prompt: true,
        ..slow(FEW as u32 * 2, FEW as u64 * 3, rules(0, 0, 0))
    };
    play(seed, quick, mutant)
}

#[test]
fn the_table_and_a_plain_list_agree() {
    for seed in 1..=20 {
        play_all(seed, None).unwrap_or_else(|differs| panic!("seed {seed}: {differs}"));
    }
}

#[test]
fn every_seeded_bug_is_found() {
    assert!(MUTANTS.len() >= 10);
    for mutant in MUTANTS {
        // A slip may also break the table so far that it stops itself.
        let found = (1..=20).find_map(|seed| {
            let played = std::panic::catch_unwind(|| play_all(seed, Some(mutant)));
            match played {
                Ok(Ok(())) => None,
                Ok(Err(differs)) => Some(differs),
                Err(_) => Some("it stopped itself".to_owned()),
            }
        });
        let Some(how) = found else {
            panic!("nobody noticed that {}", mutant.name);
        };
        println!("{}: {how}", mutant.name);
    }
}

#[test]
fn a_flood_of_strangers_leaves_those_who_speak_alone() {
    let mut table = FlowTable::new(100, 7);
    let mut now = Nanos(1);
    let real: Vec<FlowKey> = (0..40)
        .map(|number| {
            let key = table
                .insert(caller(number), 0, FlowRules::default(), number, now)
                .expect("room");
            let _ = table.on_response(key, 1, now);
            key
        })
        .collect();
    for number in 0..50_000 {
        now = now.after(SILENT_NS / 10_000);
        if table.is_full() {
            let victim = table.victim(None, None, now).expect("a victim");
            table.remove(victim);
        }
        let stranger = Caller {
            socket: SocketId(9),
            ..caller(1_000 + number)
        };
        if table.find(&stranger).is_none() {
            table
                .insert(stranger, 1, FlowRules::default(), 0, now)
                .expect("room was made");
        }
        if number % 5_000 == 0 {
            for &key in &real {
                assert_eq!(table.on_request(key, 1, now), Request::Pass);
            }
        }
    }
    assert!(real.iter().all(|&key| table.get(key).is_some()));
}

#[test]
fn where_all_others_speak_a_newcomer_has_time_for_its_answer_and_a_flood_pushes_out_few() {
    let flows = FEW as u64 * 4;
    let mut table = FlowTable::new(flows as u32, 7);
    let mut now = Nanos(1);
    let begin = |table: &mut FlowTable<u64>, number: u64, now: Nanos| {
        if table.is_full() {
            let victim = table.victim(None, None, now).expect("a victim");
            table.remove(victim);
        }
        let begun = table.insert(caller(number), 0, FlowRules::default(), number, now);
        begun.expect("room was made")
    };
    let speakers: Vec<FlowKey> = (0..flows)
        .map(|number| begin(&mut table, number, now))
        .collect();
    for &key in &speakers {
        let _ = table.on_response(key, 1, now);
    }
    // One newcomer after the other is answered in time, whoever comes in between.
    for number in 0..flows {
        now = now.after(HOPE_NS / 200);
        let newcomer = begin(&mut table, 1_000 + 2 * number, now);
        begin(&mut table, 1_001 + 2 * number, now);
        assert!(table.get(newcomer).is_some(), "it was pushed out");
        let _ = table.on_response(newcomer, 1, now);
        for &key in &speakers {
            let _ = table.on_request(key, 1, now);
        }
    }
    // Of those who speak a flood takes the places of a few at a time; who lost his comes back with his next word.
    let callers: Vec<Caller> = (0..FEW as u64 * 3)
        .map(|number| caller(50_000 + number))
        .collect();
    for number in 0..flows * 20 {
        now = now.after(HOPE_NS / 1_000);
        let speaker = number % callers.len() as u64;
        if let Some(key) = table.find(&callers[speaker as usize]) {
            let _ = table.on_request(key, 1, now);
        } else {
            let key = begin(&mut table, 50_000 + speaker, now);
            let _ = table.on_response(key, 1, now);
        }
        begin(&mut table, 10_000 + number, now);
        let away = callers.iter().filter(|it| table.find(it).is_none()).count();
        let all_have_spoken = number > flows * 2;
        assert!(
            !all_have_spoken || away <= flows as usize / FEW + 1,
            "{away} who speak are away"
        );
    }
}
