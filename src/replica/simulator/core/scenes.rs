//! What the worlds of seeds are too short for, or come to too seldom.

use super::{DAY, day_of, deeds::USERS, deeds::decide};
use crate::{
    model::{Set, SetId, SetKind},
    replica::{
        protocol::Wishes,
        simulator::{
            edits,
            shelf::MemoryShelf,
            world::{KEYS, PROVIDERS, TOKENS, World},
        },
        wire::Function,
    },
};

/// Two with good clocks, and a core.
fn world() -> Result<World, String> {
    let mut world = World::with_core(3, 2, false, true, false)?;
    world.loss = 0;
    (world.bounds.rows, world.bounds.bytes, world.bounds.page) = (50, 100_000, 100);
    World::rebound(world)
}

/// A hub forgets what one instance told it. The file of that one is lost: another one has read it.
pub fn told_by_another() -> Result<(), String> {
    let mut world = world()?;
    world.heal()?;
    let backup = world.hub.keep();
    let id = SetId { kind: SetKind::KeyDay, at: day_of(world.now), id: 7 << 96 };
    world.put_into(0, id, &Set::of(USERS[0].0));
    world.whole_round(0)?;
    world.whole_round(1)?;
    let fresh = MemoryShelf::new(world.uuid());
    world.instances[0].shelf = fresh;
    world.crash(0)?;
    world.hub.recover(backup);
    world.hub_restarted();
    world.heal()?;
    world.check_core(true)
}

/// Somebody begins where there are days of which nobody keeps anything any more.
pub fn old_to_a_new_one() -> Result<(), String> {
    let mut world = world()?;
    add_some(&mut world)?;
    world.traffic_of(0, 0);
    world.heal()?;
    world.pass(6 * DAY);
    world.forget_all();
    let fresh = MemoryShelf::new(world.uuid());
    world.boot(fresh, 0)?;
    world.heal()?;
    let days = world.hub.db.tables[super::STREAM].core.as_ref().map_or(0, |core| core.token_days.len());
    if days == 0 {
        return Err("the hub has no old days".to_owned());
    }
    world.forget_before_check()?;
    world.check_core(true)
}

/// A key and a token, to be used.
fn add_some(world: &mut World) -> Result<(), String> {
    for kind in [0, 15] {
        edits::decide(world, 0, PROVIDERS[0].0, (KEYS[0], TOKENS[0]), kind)?;
    }
    Ok(())
}

/// One field of a user is set before a page with another one is read, and after it was told what there was.
pub fn two_fields() -> Result<(), String> {
    let mut world = world()?;
    decide(&mut world, 1, USERS[0], 0)?;
    world.heal()?;
    world.pass(1000);
    world.begin(0, Wishes::default());
    let asks = |world: &World| {
        let waiting = &world.instances[0].waiting;
        matches!(waiting, Some((call, None)) if call.function == Function::Pull)
    };
    while world.step(0)? && !asks(&world) {}
    decide(&mut world, 0, USERS[0], 4)?;
    world.pass(1000);
    decide(&mut world, 1, USERS[0], 9)?;
    world.whole_round(1)?;
    while world.step(0)? {}
    world.heal()?;
    world.check_core(true)
}

#[test]
fn what_somebody_has_told_who_is_no_more_is_told_again_by_others() {
    assert_eq!(told_by_another(), Ok(()));
}

#[test]
fn days_that_nobody_keeps_do_not_come_from_a_hub() {
    assert_eq!(old_to_a_new_one(), Ok(()));
}

#[test]
fn two_fields_of_a_user_are_set_in_two_places() {
    assert_eq!(two_fields(), Ok(()));
}
