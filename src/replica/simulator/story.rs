//! What happens in a world.

use super::{
    local,
    world::{KEYS, PROVIDERS, TOKENS, World},
};
use crate::{
    model::{KeyId, Policy, Timestamp, TokenId},
    replica::protocol::Wishes,
    store::shelf::Shelf,
};

pub fn live(seed: u64, traced: bool, trace: &mut Vec<String>) -> Result<(), String> {
    let count = if seed % 400 == 0 { 50 } else { 3 + (seed % 4) as usize };
    let mut world = World::new(seed, count, traced)?;
    let result = run(&mut world);
    trace.append(&mut world.trace.take().unwrap_or_default());
    result
}

fn run(world: &mut World) -> Result<(), String> {
    let steps = world.rng.usize(30..120);
    for _ in 0..steps {
        happen(world)?;
    }
    world.heal()?;
    world.check()?;
    // What is decided and counted after all that goes the same way.
    for _ in 0..3 {
        let at = world.rng.usize(..world.instances.len());
        world.traffic(at);
        edit(world, at);
    }
    world.heal()?;
    world.check()
}

fn happen(world: &mut World) -> Result<(), String> {
    let at = world.rng.usize(..world.instances.len());
    let pause = world.rng.i64(1..3000);
    world.pass(pause);
    match world.rng.u32(..100) {
        0..20 => world.traffic(at),
        20..32 => edit(world, at),
        32..40 => health(world, at),
        40..43 => world.crash(at)?,
        43..46 => {
            world.instances[at].cut_off ^= true;
        }
        46..50 => world.stray()?,
        50..54 => {
            let ms = world.rng.i64(10_000..3_000_000);
            world.pass(ms);
        }
        54..85 => round(world, at, None)?,
        _ => {
            let steps = world.rng.usize(1..8);
            round(world, at, Some(steps))?;
        }
    }
    Ok(())
}

/// A round, or the first steps of one; another may go on with it.
fn round(world: &mut World, at: usize, steps: Option<usize>) -> Result<(), String> {
    if world.instances[at].waiting.is_none() {
        let wishes = Wishes { hello: world.rng.bool(), stats: world.rng.bool(), only_push: world.chance(50) };
        world.begin(at, wishes);
    }
    for _ in 0..steps.unwrap_or(5000) {
        if !world.step(at)? {
            return Ok(());
        }
    }
    if steps.is_none() {
        return Err(format!("instance {at}: a round that never ends"));
    }
    Ok(())
}

pub fn edit(world: &mut World, at: usize) {
    let (provider, _) = PROVIDERS[world.rng.usize(..world.providers)];
    let (text, token) = (KEYS[world.rng.usize(..KEYS.len())], TOKENS[world.rng.usize(..TOKENS.len())]);
    let (kind, value, flag) = (world.rng.u8(..20), world.rng.u32(1..1000), world.rng.bool());
    let now = world.local(at);
    world.say(|| format!("{at} edits {provider} {text} {token} {kind}"));
    let it = &mut world.instances[at];
    let (shelf, stamps) = (&mut it.shelf, it.stamps.as_ref());
    let (id, token_id) = (KeyId::derive(provider, text), TokenId::derive(provider, token));
    match kind {
        0..6 => drop(local::add_key(shelf, provider, text, stamps, now)),
        6..8 => drop(local::delete_key(shelf, provider, id, stamps, now)),
        8..10 => {
            local::edit_key(shelf, provider, id, stamps, now, |record, versions, version| {
                (record.note, versions.note) = (Some(format!("note {value}").into()), version);
            });
        }
        10..12 => {
            local::edit_key(shelf, provider, id, stamps, now, |record, versions, version| {
                (record.enabled, record.disabled_until) = (flag, None);
                (versions.enabled, versions.disabled_until) = (version, version);
            });
        }
        12 => {
            local::edit_key(shelf, provider, id, stamps, now, |record, versions, version| {
                (record.weight, versions.weight) = (value as u16, version);
            });
        }
        13 => {
            local::edit_key(shelf, provider, id, stamps, now, |record, versions, version| {
                let until = flag.then_some(Timestamp(now.0 + i64::from(value) * 1000));
                (record.expires_at, versions.expires_at) = (until, version);
            });
        }
        14 => {
            local::edit_key(shelf, provider, id, stamps, now, |record, versions, version| {
                (record.username, versions.username) = (flag.then_some("someone".into()), version);
            });
        }
        15 | 16 => drop(local::add_token(shelf, provider, token, stamps, now)),
        17 => local::delete_token(shelf, provider, token_id, stamps, now),
        18 => local::edit_token(shelf, provider, token_id, stamps, now, |record, versions, version| {
            (record.name, versions.name) = (format!("name {value}").into(), version);
        }),
        _ => local::edit_token(shelf, provider, token_id, stamps, now, |record, versions, version| {
            record.requests_per_minute = flag.then_some(value);
            versions.requests_per_minute = version;
        }),
    }
    it.shelf.commit();
    it.memory = super::world::Memory::of(&it.shelf);
}

fn health(world: &mut World, at: usize) {
    use crate::model::Effect;
    let (provider, _) = PROVIDERS[world.rng.usize(..world.providers)];
    let now = world.local(at);
    let (which, kind, ms) = (world.rng.usize(..KEYS.len()), world.rng.u8(..5), world.rng.i64(1000..90_000));
    let current = world.rng.u8(..5) > 0;
    let it = &mut world.instances[at];
    let until = Timestamp(now.0 + ms);
    let effect = match kind {
        0 => Effect::Success,
        1 => Effect::RateLimit { until },
        2 => Effect::Quota { until },
        3 => Effect::Auth { cooldown: None },
        _ => Effect::Server { cooldown: None },
    };
    let (policy, stamps) = (Policy::default(), it.stamps.clone());
    let id = KeyId::derive(provider, KEYS[which]);
    local::change_health(&mut it.shelf, provider, id, |health| {
        health.apply(effect, current, now, &policy, &stamps)
    });
    let _ = it.shelf.keys(provider, None, 1);
    it.shelf.commit();
    it.memory = super::world::Memory::of(&it.shelf);
}
