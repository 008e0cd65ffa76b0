//! Seeded bugs of the flow table: each a small slip in what it remembers, made around one of its operations. The play against
//! the plain list must notice every one of them; one that is content with a slip proves nothing.

use super::*;

/// An operation of the table, and on which flow.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Before it there is no key yet.
    Begin(Option<FlowKey>),
    Request(FlowKey),
    Response(FlowKey),
    End(FlowKey),
}

/// What a slip keeps from before an operation until after it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    last: Nanos,
    answered: bool,
    places: Vec<u32>,
}

type Table = FlowTable<u64>;
type Slip = fn(&mut Table, Step, &mut Memory);

pub(super) struct Mutant {
    pub(super) name: &'static str,
    pub(super) before: Slip,
    pub(super) after: Slip,
}

const fn before(name: &'static str, slip: Slip) -> Mutant {
    Mutant {
        name,
        before: slip,
        after: |_, _, _| {},
    }
}

const fn after(name: &'static str, slip: Slip) -> Mutant {
    Mutant {
        name,
        before: |_, _, _| {},
        after: slip,
    }
}

const fn around(name: &'static str, before: Slip, after: Slip) -> Mutant {
    Mutant {
        name,
        before,
        after,
    }
}

/// The flow to which something happens, if it is there.
fn touched(table: &mut Table, step: Step) -> Option<&mut Flow<u64>> {
    let key = match step {
        Step::Begin(key) => key?,
        Step::Request(key) | Step::Response(key) | Step::End(key) => key,
    };
    table.entries[key.slot.index()].flow.as_mut()
}

fn keep_last(table: &mut Table, step: Step, memory: &mut Memory) {
    if let Some(flow) = touched(table, step) {
        memory.last = flow.last;
    }
}

/// The group of a flow.
fn group_of(table: &Table, key: FlowKey) -> usize {
    let flow = table.entries[key.slot.index()].flow.as_ref();
    flow.map_or(0, |flow| flow.group)
}

/// Makes a flow the first of its line by sending all others behind it.
fn to_the_front(table: &mut Table, key: FlowKey, line: fn(&mut Lines) -> &mut List) {
    let group = group_of(table, key);
    let line = line(&mut table.groups[group]);
    while let Some(oldest) = line.oldest().filter(|&oldest| oldest != key.slot.0) {
        line.renew(&mut table.entries, oldest);
    }
}

pub(super) const MUTANTS: &[Mutant] = &[
    around(
        "a request does not end the client's silence",
        keep_last,
        |table, step, memory| {
            if let (Step::Request(_), Some(flow)) = (step, touched(table, step)) {
                flow.last = memory.last;
            }
        },
    ),
    around(
        "an answer does not end the silence",
        keep_last,
        |table, step, memory| {
            if let (Step::Response(_), Some(flow)) = (step, touched(table, step)) {
                flow.last = memory.last;
            }
        },
    ),
    after("silence is a moment too long", |table, step, _| {
        if let (Step::Response(_), Some(flow)) = (step, touched(table, step)) {
            flow.last = flow.last.after(1);
        }
    }),
    around(
        "a request leaves an answered flow where it stands",
        |table, step, memory| {
            if let (Step::Request(_), Some(flow)) = (step, touched(table, step)) {
                memory.answered = std::mem::take(&mut flow.answered);
            }
        },
        |table, step, memory| {
            if let (Step::Request(_), Some(flow)) = (step, touched(table, step)) {
                flow.answered = memory.answered;
            }
        },
    ),
    after("an answer sends a flow to the front", |table, step, _| {
        if let Step::Response(key) = step
            && touched(table, step).is_some()
        {
            to_the_front(table, key, |lines| &mut lines.answered);
        }
    }),
    after("the newest unanswered is the oldest", |table, step, _| {
        if let Step::Begin(Some(key)) = step {
            to_the_front(table, key, |lines| &mut lines.unanswered);
        }
    }),
    before("the first answer changes no line", |table, step, _| {
        if let (Step::Response(_), Some(flow)) = (step, touched(table, step)) {
            flow.answered = true;
        }
    }),
    after("an answer is forgotten", |table, step, _| {
        if let (Step::Response(key), true) = (step, touched(table, step).is_some()) {
            let group = group_of(table, key);
            let lines = &mut table.groups[group];
            lines.answered.take_out(&mut table.entries, key.slot.0);
            lines.unanswered.push(&mut table.entries, key.slot.0);
            table.entries[key.slot.index()]
                .flow
                .as_mut()
                .expect("was just seen")
                .answered = false;
        }
    }),
    before("a choice anew comes one request early", |table, step, _| {
        if let (Step::Request(_), Some(flow)) = (step, touched(table, step)) {
            flow.requests += 1;
        }
    }),
    around(
        "requests are counted on after a choice anew",
        |_, _, _| {},
        |table, step, _| {
            if let (Step::Request(_), Some(flow)) = (step, touched(table, step))
                && flow.rules.requests > 0
                && flow.requests == 1
            {
                flow.requests = flow.rules.requests;
            }
        },
    ),
    before("the last answer is one too early", |table, step, _| {
        if let (Step::Response(_), Some(flow)) = (step, touched(table, step)) {
            flow.responses += 1;
        }
    }),
    after("answers have no limit", |table, step, _| {
        if let (Step::Begin(_), Some(flow)) = (step, touched(table, step)) {
            flow.rules.responses = 0;
        }
    }),
    after("a key outlives its flow", |table, step, _| {
        if let Step::End(key) = step {
            let entry = &mut table.entries[key.slot.index()];
            entry.generation = entry.generation.wrapping_sub(1);
        }
    }),
    after("a place is not given back", |table, step, _| {
        if let Step::End(_) = step {
            table.free.pop();
        }
    }),
    around(
        "whoever stood behind a hole stays there",
        |table, _, memory| memory.places = table.index.places().to_vec(),
        |table, step, memory| {
            if let Step::End(key) = step {
                let places = table.index.places();
                places.copy_from_slice(&memory.places);
                for place in places {
                    if *place == key.slot.0 {
                        *place = u32::MAX;
                    }
                }
            }
        },
    ),
    after(
        "which of our addresses it was is forgotten",
        |table, step, _| {
            if let (Step::Begin(_), Some(flow)) = (step, touched(table, step)) {
                flow.caller.local = None;
            }
        },
    ),
    after("all stand in one group's lines", |table, step, _| {
        if let Step::Begin(Some(key)) = step {
            let group = group_of(table, key);
            let own = &mut table.groups[group].unanswered;
            own.take_out(&mut table.entries, key.slot.0);
            let first = &mut table.groups[0].unanswered;
            first.push(&mut table.entries, key.slot.0);
            if let Some(flow) = touched(table, step) {
                flow.group = 0;
            }
        }
    }),
    after(
        "who was served last is forgotten between groups",
        |table, step, _| {
            if let (Step::Response(_), Some(flow)) = (step, touched(table, step)) {
                flow.order = 0;
            }
        },
    ),
    after("hope never ends", |table, step, _| {
        if let (Step::Begin(_), Some(flow)) = (step, touched(table, step)) {
            flow.born = flow.born.after(HOPE_NS);
        }
    }),
    after("nobody may hope", |table, step, _| {
        if let (Step::Begin(_), Some(flow)) = (step, touched(table, step)) {
            flow.born = Nanos::ZERO;
        }
    }),
    after("a full table takes one more", |table, step, _| {
        if let Step::Begin(Some(_)) = step {
            table.flows_max = table.flows_max.max(table.entries.len() as u32 + 1);
        }
    }),
];
