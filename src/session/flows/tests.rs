//! The table against a plain model: a list of flows that is searched from end to end. Every answer must be the same, over
//! thousands of random steps from a seed, in a small table that is full most of the time.

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::ids::SocketId;

#[derive(Clone, Debug)]
struct Known {
    caller: Caller,
    key: FlowKey,
    tenant: u64,
    group: usize,
    born: u64,
    last: Nanos,
    /// When it last went to the end of its line.
    order: u64,
    requests: u32,
    responses: u32,
}

struct Model {
    flows: Vec<Known>,
    rules: FlowRules,
    steps: u64,
}

impl Model {
    fn find(&mut self, key: FlowKey) -> &mut Known {
        self.flows
            .iter_mut()
            .find(|it| it.key == key)
            .expect("known")
    }

    fn victim(&self, group: Option<usize>, spared: Option<FlowKey>, now: Nanos) -> Option<FlowKey> {
        let flows = || {
            let flows = self.flows.iter().filter(|it| Some(it.key) != spared);
            flows.filter(|it| group.is_none_or(|group| it.group == group))
        };
        let answered = || flows().filter(|it| it.responses > 0);
        let longest_silent = answered().min_by_key(|it| it.order);
        let silent = longest_silent.filter(|it| now.since(it.last) >= SILENT_NS);
        let unanswered = flows().filter(|it| it.responses == 0);
        silent
            .or(unanswered.min_by_key(|it| it.born))
            .or(longest_silent)
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

fn play(seed: u64, flows_max: u32, callers: u64, rules: FlowRules) {
    let mut dice = Dice(seed | 1);
    let mut table = FlowTable::new(flows_max, seed);
    let mut model = Model {
        flows: Vec::new(),
        rules,
        steps: 0,
    };
    let mut now = Nanos(1);
    for _ in 0..3_000 {
        model.steps += 1;
        now = now.after(dice.below(SILENT_NS / 4));
        let number = dice.below(callers);
        match dice.below(10) {
            0..5 => from_client(&mut table, &mut model, caller(number), number, now),
            5..8 => from_backend(&mut table, &mut model, &mut dice, now),
            _ => end_one(&mut table, &mut model, &mut dice),
        }
        compare(&table, &model, now, callers);
    }
}

fn from_client(
    table: &mut FlowTable<u64>,
    model: &mut Model,
    caller: Caller,
    number: u64,
    now: Nanos,
) {
    let step = model.steps;
    if let Some(key) = table.find(&caller) {
        let requests = model.rules.requests;
        let known = model.find(key);
        assert_eq!(known.caller, caller);
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
        assert_eq!(table.on_request(key, 1, now), wanted);
        return;
    }
    if table.is_full() {
        // A newcomer's own group, if it has anybody, else whoever.
        let own = Some(group(number)).filter(|own| table.victim(Some(*own), None, now).is_some());
        let victim = table.victim(own, None, now).expect("somebody is there");
        assert_eq!(Some(victim), model.victim(own, None, now));
        let tenant = table.remove(victim);
        assert_eq!(tenant, Some(model.find(victim).tenant));
        model.flows.retain(|it| it.key != victim);
    }
    let key = table
        .insert(caller, group(number), model.rules, number, now)
        .expect("room was made");
    model.flows.push(Known {
        caller,
        key,
        tenant: number,
        group: group(number),
        born: step,
        last: now,
        order: step,
        requests: 0,
        responses: 0,
    });
}

fn from_backend(table: &mut FlowTable<u64>, model: &mut Model, dice: &mut Dice, now: Nanos) {
    if model.flows.is_empty() {
        return;
    }
    let chosen = dice.below(model.flows.len() as u64) as usize;
    let (step, limit) = (model.steps, model.rules.responses);
    let known = &mut model.flows[chosen];
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
    assert_eq!(table.on_response(key, 1, now), wanted);
    if last {
        assert!(table.remove(key).is_some());
        model.flows.remove(chosen);
    }
}

fn end_one(table: &mut FlowTable<u64>, model: &mut Model, dice: &mut Dice) {
    if model.flows.is_empty() {
        return;
    }
    let chosen = dice.below(model.flows.len() as u64) as usize;
    let known = model.flows.remove(chosen);
    assert_eq!(table.remove(known.key), Some(known.tenant));
    // A key is good for one life only.
    assert_eq!(table.remove(known.key), None);
    assert_eq!(table.get(known.key), None);
    assert_eq!(table.silence_end(known.key), Nanos::NEVER);
}

fn compare(table: &FlowTable<u64>, model: &Model, now: Nanos, callers: u64) {
    assert_eq!(table.len(), model.flows.len());
    for known in &model.flows {
        assert_eq!(table.find(&known.caller), Some(known.key));
        assert_eq!(table.get(known.key), Some(&known.tenant));
        let end = match model.rules.idle_ns {
            0 => Nanos::NEVER,
            idle_ns => known.last.after(idle_ns),
        };
        assert_eq!(table.silence_end(known.key), end);
    }
    for group in [None, Some(0), Some(1), Some(2), Some(3)] {
        let spared = model.victim(group, None, now);
        assert_eq!(table.victim(group, None, now), spared);
        assert_eq!(
            table.victim(group, spared, now),
            model.victim(group, spared, now)
        );
    }
    let strangers = (0..callers).map(caller).filter(|caller| {
        let known = |it: &Known| it.caller == *caller;
        !model.flows.iter().any(known)
    });
    for stranger in strangers {
        assert_eq!(table.find(&stranger), None);
    }
}

#[test]
fn the_table_and_a_plain_list_agree() {
    let rules = |responses, requests, idle_ns| FlowRules {
        idle_ns,
        responses,
        requests,
    };
    for seed in 1..=20 {
        play(seed, 8, 24, rules(0, 0, 1_000));
        play(seed, 1, 3, rules(2, 0, 0));
        play(seed, 15, 40, rules(0, 3, 5));
        play(seed, 16, 12, rules(3, 2, 0));
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
