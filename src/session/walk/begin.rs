//! The way to where a walk begins: a fixed story, in which nothing is scarce and every answer is the plainest one.

use crate::ids::{Interest, ReceiveEnd, Side};

use super::super::event::Event;
use super::super::rules::{BULK_MOVES, FULL_STREAK, LINE_MAX};
use super::carry::Verdict;
use super::explore::{Choices, Run};
use super::kernel::Step;
use super::plan::Begin;
use super::world::World;

const CLIENT: Side = Side::Client;
const BACKEND: Side = Side::Backend;

/// Brings a new session to where its plan begins.
pub(super) fn begin(run: &mut Run<'_>) -> Verdict<World> {
    let mut world = World::new(run.plan);
    run.choices = Choices::default();
    world.tell(Event::Opened, run)?;
    world.check_state(run.plan)?;
    if run.plan.begin == Begin::Accepted {
        run.choices = Choices::default();
        return Ok(world);
    }
    if run.plan.begin == Begin::Warm {
        return Ok(world);
    }
    take_all(&mut world, &[Step::Connected], run)?;
    let keeps_time = run.plan.rules.idle_ns > 0;
    while run.plan.time && !keeps_time && !world.matured {
        take_all(&mut world, &[Step::TimePasses, Step::Tick], run)?;
    }
    let read = [Step::PeerSends(CLIENT), Step::Received(CLIENT, true)];
    match run.plan.begin {
        Begin::Accepted | Begin::Relaying | Begin::Warm => {}
        Begin::Splicing | Begin::Bulk => {
            for _ in 0..FULL_STREAK {
                take_all(&mut world, &read, run)?;
                take_all(&mut world, &[Step::Sent(BACKEND)], run)?;
            }
            take_all(&mut world, &[Step::Ended(CLIENT, ReceiveEnd::Stopped)], run)?;
        }
        Begin::LongLine => {
            for _ in 0..LINE_MAX {
                let read = [Step::PeerSends(CLIENT), Step::Received(CLIENT, false)];
                take_all(&mut world, &read, run)?;
            }
        }
    }
    if run.plan.begin == Begin::Bulk {
        let fetch = [
            Step::PeerSends(CLIENT),
            Step::Ready(CLIENT, Interest::Readable),
        ];
        for _ in 0..BULK_MOVES {
            take_all(&mut world, &fetch, run)?;
        }
    }
    Ok(world)
}

fn take_all(world: &mut World, steps: &[Step], run: &mut Run<'_>) -> Verdict<()> {
    for &step in steps {
        run.choices = Choices::default();
        world.take(step, run)?;
    }
    run.choices = Choices::default();
    Ok(())
}
