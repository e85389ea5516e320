//! Adoptions of hubs that others have told something meanwhile, over lines that take little, and of such as have
//! another time.

use super::{
    local,
    world::{PROVIDERS, World},
};
use crate::{
    model::{CounterId, KeyId, Tally},
    replica::protocol::{Note, Wishes},
};

const PROVIDER: &str = PROVIDERS[0].0;

/// Three with good clocks, who keep what they have confirmed or only the last of it.
fn world(kept: [bool; 3]) -> Result<World, String> {
    let mut world = World::new(3, 3, false, false)?;
    (world.loss, world.keeps, world.oracle.lossy) = (0, false, true);
    (world.bounds.rows, world.bounds.bytes, world.bounds.page) = (50, 100_000, 100);
    world.hub.bounds = world.bounds;
    for (at, kept) in kept.into_iter().enumerate() {
        world.bounds.kept_bytes = if kept { 1 << 20 } else { 1 };
        world.crash(at)?;
    }
    Ok(world)
}

pub fn count(world: &mut World, at: usize, id: &CounterId, n: i64) {
    world.count(at, PROVIDER, id, &Tally { success: n, ..Tally::default() });
}

/// In a round of its own.
fn tell(world: &mut World, at: usize, n: i64) -> Result<(), String> {
    count(world, at, &CounterId::Total, n);
    world.whole_round(at)
}

pub fn total(world: &World) -> i64 {
    world.hub.db.tables[PROVIDERS[0].1].global.values().next().map_or(0, |row| row.row.sums.s)
}

fn uncertain(world: &World, at: usize) -> Vec<u64> {
    let of = |note: &Note| match note {
        Note::Uncertain { requests, .. } => Some(*requests),
        _ => None,
    };
    world.instances[at].notes.iter().filter_map(of).collect()
}

pub fn equal<T: PartialEq + std::fmt::Debug>(what: &str, is: T, should: T) -> Result<(), String> {
    if is == should { Ok(()) } else { Err(format!("{what}: {is:?}, and not {should:?}")) }
}

/// The hub forgets of the first one four requests that it does not keep, and of the second forty that it does.
fn forgetful() -> Result<World, String> {
    let mut world = world([false, true, true])?;
    for at in 0..3 {
        tell(&mut world, at, 1)?;
    }
    world.heal()?;
    let backup = world.hub.keep();
    for _ in 0..4 {
        tell(&mut world, 0, 1)?;
    }
    tell(&mut world, 1, 40)?;
    world.whole_round(0)?;
    world.hub.recover(backup);
    Ok(world)
}

/// The hub has forgotten of the adopter what he does not keep, of another one what is kept, and a third one has told it
/// more since.
pub fn among_others() -> Result<(), String> {
    let mut world = forgetful()?;
    tell(&mut world, 2, 30)?;
    world.whole_round(0)?;
    world.adopt(0)?;
    equal("what was told since", total(&world), 33)?;
    world.heal()?;
    // The adopter's four are in doubt, and he says so. Three of them are lost.
    equal("in the end", total(&world), 73)?;
    equal("of the adopter", uncertain(&world, 0), vec![4])?;
    equal("of the others", [uncertain(&world, 1), uncertain(&world, 2)], [vec![], vec![]])?;
    let inexact = |note: &Note| matches!(note, Note::AdoptedInexactly { raised: false, .. });
    equal("is said to be inexact", world.instances[0].notes.iter().any(inexact), true)?;
    world.check_numbers()
}

/// An emptied hub, which somebody whom nobody knows has told something.
pub fn among_strangers() -> Result<(), String> {
    let mut world = world([true; 3])?;
    let model = CounterId::Model("m".into());
    count(&mut world, 0, &model, 2);
    for at in 0..2 {
        tell(&mut world, at, 10)?;
    }
    world.heal()?;
    let id = world.uuid();
    world.hub.replace(id);
    // The third one has never met the other hub, as it was before it began.
    let shelf = super::shelf::MemoryShelf::new(world.uuid());
    world.instances[2].shelf = shelf;
    world.crash(2)?;
    count(&mut world, 2, &model, 5);
    tell(&mut world, 2, 7)?;
    world.whole_round(0)?;
    world.adopt(0)?;
    equal("after the adoption", total(&world), 20)?;
    let of_model = world.hub.db.tables[PROVIDERS[0].1].models.get("m").map(|row| row.row.sums.s);
    equal("of a model", of_model, Some(5))?;
    // Its next batch goes before it has read anything.
    count(&mut world, 2, &CounterId::Total, 3);
    world.round(2, Wishes { hello: false, stats: false, limits: false, only_push: true })?;
    world.heal()?;
    tell(&mut world, 2, 1)?;
    world.heal()?;
    equal("in the end", total(&world), 24)?;
    equal("said by those that were known", [uncertain(&world, 0), uncertain(&world, 1)], [vec![], vec![]])?;
    equal("times that a stranger says it", uncertain(&world, 2), vec![10])?;
    world.check_numbers()
}

/// Somebody tells what was forgotten while another one adopts the hub.
pub fn while_batches_come() -> Result<(), String> {
    let mut world = forgetful()?;
    world.whole_round(0)?;
    let now = world.local(0);
    let it = &mut world.instances[0];
    it.machine.begin_adoption(&mut it.shelf, now).map_err(|error| error.to_string())?;
    it.shelf.commit();
    while world.step(0)? {
        // When totals are raised, and nobody's stream is yet.
        if total(&world) > 3 {
            world.whole_round(1)?;
        }
    }
    world.heal()?;
    equal("in the end", total(&world), 47)?;
    equal("in doubt", uncertain(&world, 0), vec![4])?;
    world.check_numbers()
}

/// Over a line that takes no large calls.
pub fn in_parts() -> Result<(), String> {
    const MANY: i64 = 40;
    let mut world = world([true; 3])?;
    let now = world.local(0);
    let it = &mut world.instances[0];
    for n in 0..MANY {
        local::add_key(&mut it.shelf, PROVIDER, &format!("key-{n}"), &it.stamps, now);
    }
    it.shelf.commit();
    // As if it had just begun: what is in memory is made of the file.
    world.crash(0)?;
    for n in 0..MANY {
        let id = CounterId::Key(KeyId::derive(PROVIDER, &format!("key-{n}")));
        count(&mut world, 0, &id, 1);
    }
    world.heal()?;
    let id = world.uuid();
    world.hub.replace(id);
    world.whole_round(0)?;
    world.limit = Some(1100);
    world.adopt(0)?;
    equal("is adopted at once", world.is_stopped(0), false)?;
    let told = world.hub.db.tables[PROVIDERS[0].1].key_stats.values().map(|row| row.row.sums.s).sum();
    equal("what it has", told, MANY)?;
    world.heal()?;
    world.check_numbers()
}

/// A hub in whose time what is known here is yet to come.
pub fn of_another_time() -> Result<(), String> {
    const BEFORE: i64 = 1_200_000;
    let mut world = world([true; 3])?;
    world.honest = false;
    let now = world.local(0);
    let it = &mut world.instances[0];
    local::add_key(&mut it.shelf, PROVIDER, "key", &it.stamps, now);
    it.shelf.commit();
    world.crash(0)?;
    let id = CounterId::Key(KeyId::derive(PROVIDER, "key"));
    count(&mut world, 0, &id, 5);
    world.heal()?;
    let empty = world.uuid();
    world.hub.replace(empty);
    world.pass(-BEFORE);
    world.instances.iter_mut().for_each(|it| it.skew += BEFORE);
    world.whole_round(0)?;
    world.adopt(0)?;
    let told = world.hub.db.tables[PROVIDERS[0].1].key_stats.get("key").map(|row| row.row.sums.s);
    equal("what it has", told, Some(5))?;
    world.heal()?;
    world.check_numbers()
}

#[test]
fn what_others_have_told_since_is_not_hidden_by_an_adoption() {
    assert_eq!(among_others(), Ok(()));
}

#[test]
fn those_whom_an_adopter_does_not_know_say_what_may_be_lost() {
    assert_eq!(among_strangers(), Ok(()));
}

#[test]
fn a_hub_takes_no_batches_while_it_is_adopted() {
    assert_eq!(while_batches_come(), Ok(()));
}

#[test]
fn an_adoption_goes_over_a_line_that_takes_little() {
    assert_eq!(in_parts(), Ok(()));
}

#[test]
fn an_adopted_hub_may_have_another_time() {
    assert_eq!(of_another_time(), Ok(()));
}
