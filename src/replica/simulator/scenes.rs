//! Short stretches in which things coincide that seldom do: in worlds that are about them.

use super::{
    edits::decide,
    story::round,
    world::{Focus, KEYS, PROVIDERS, TOKENS, World},
};
use crate::replica::protocol::Wishes;

/// A key is deleted while a page with it is on its way.
pub fn crossing(world: &mut World) -> Result<(), String> {
    let loss = world.loss;
    world.heal()?;
    let (provider, _) = PROVIDERS[0];
    decide(world, 1, provider, (KEYS[0], TOKENS[0]), 0)?;
    world.whole_round(1)?;
    world.whole_round(0)?;
    decide(world, 1, provider, (KEYS[0], TOKENS[0]), 8)?;
    world.whole_round(1)?;
    world.read_under_way(0)?;
    decide(world, 0, provider, (KEYS[0], TOKENS[0]), 6)?;
    while world.step(0)? {}
    world.loss = loss;
    Ok(())
}

/// One edits what another one has just edited, and a third one another field while that is on its way.
pub fn ties(world: &mut World) -> Result<(), String> {
    let loss = world.loss;
    world.heal()?;
    let (provider, row) = (PROVIDERS[0].0, (KEYS[0], TOKENS[0]));
    for at in 0..3 {
        decide(world, at, provider, row, 0)?;
        world.whole_round(at)?;
    }
    for _ in 0..2 {
        decide(world, 1, provider, row, 8)?;
    }
    world.whole_round(1)?;
    world.whole_round(2)?;
    decide(world, 2, provider, row, 8)?;
    world.whole_round(2)?;
    world.read_under_way(0)?;
    decide(world, 0, provider, row, 12)?;
    while world.step(0)? {}
    world.loss = loss;
    Ok(())
}

/// Counts are read whose keys are not, and are deleted before they are.
pub fn early(world: &mut World) -> Result<(), String> {
    let loss = world.loss;
    world.heal()?;
    let provider = PROVIDERS[0].0;
    let (known, unknown) = ((KEYS[0], TOKENS[0]), (KEYS[5], TOKENS[0]));
    decide(world, 1, provider, known, 0)?;
    world.whole_round(1)?;
    world.whole_round(0)?;
    decide(world, 1, provider, known, 12)?;
    decide(world, 1, provider, unknown, 0)?;
    world.attempt(1, provider, KEYS[5]);
    world.whole_round(1)?;
    world.begin(0, Wishes { hello: false, stats: true, limits: false, only_push: false });
    while world.step(0)? && !world.is_answered(0) {}
    world.step(0)?;
    decide(world, 1, provider, unknown, 6)?;
    world.whole_round(1)?;
    world.whole_round(0)?;
    world.loss = loss;
    Ok(())
}

/// A batch arrives after its sender has read that keys in it are deleted.
pub fn late(world: &mut World) -> Result<(), String> {
    let loss = world.loss;
    world.heal()?;
    let (provider, _) = PROVIDERS[0];
    for key in &KEYS[..2] {
        decide(world, 1, provider, (key, TOKENS[0]), 0)?;
    }
    world.whole_round(1)?;
    world.whole_round(0)?;
    (0..4).for_each(|_| world.traffic(0));
    for key in &KEYS[..2] {
        decide(world, 1, provider, (key, TOKENS[0]), 6)?;
    }
    world.whole_round(1)?;
    world.begin(0, Wishes { hello: false, stats: true, limits: false, only_push: false });
    while world.step(0)? {
        world.is_late(0)?;
    }
    world.settle_strays()?;
    world.whole_round(0)?;
    world.loss = loss;
    Ok(())
}

/// One has more to tell, and others to read, than comes over in time.
pub fn heavy(world: &mut World) -> Result<(), String> {
    let (provider, _) = PROVIDERS[0];
    for kind in [0, 8] {
        for key in KEYS {
            decide(world, 0, provider, (key, TOKENS[0]), kind)?;
        }
    }
    for _ in 0..12 {
        world.traffic(0);
    }
    for at in [0, 0, 1] {
        round(world, at, None)?;
    }
    Ok(())
}

/// Two that go by one file have many batches to tell, of keys that are deleted meanwhile.
pub fn twins(world: &mut World) -> Result<(), String> {
    let loss = world.loss;
    world.heal()?;
    let (at, other, (provider, _)) = (0, 1, PROVIDERS[0]);
    for key in KEYS {
        decide(world, other, provider, (key, TOKENS[0]), 0)?;
    }
    round(world, other, None)?;
    round(world, at, None)?;
    for _ in 0..12 {
        world.traffic(at);
    }
    let mut shelf = world.instances[at].shelf.clone();
    shelf.give_up();
    world.crash(at)?;
    world.copy(at, shelf)?;
    let copy = world.instances.len() - 1;
    for key in KEYS {
        decide(world, other, provider, (key, TOKENS[0]), 6)?;
    }
    round(world, other, None)?;
    if world.focus == Focus::Queues {
        drop(world.backup(at)?);
    }
    // A round of theirs reads while batches wait.
    round(world, at, None)?;
    round(world, copy, None)?;
    round(world, copy, None)?;
    round(world, at, None)?;
    world.loss = loss;
    Ok(())
}

/// Both of two that go by one file decide something in the same microsecond.
pub fn at_once(world: &mut World, at: usize) -> Result<(), String> {
    let (copy, (provider, _)) = (world.instances.len() - 1, PROVIDERS[0]);
    if world.focus == Focus::Ties {
        decide(world, at, provider, (KEYS[0], TOKENS[0]), 12)?;
        decide(world, copy, provider, (KEYS[0], TOKENS[0]), 12)?;
    }
    Ok(())
}
