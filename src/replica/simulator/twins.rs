//! Copies of a file that nobody should make, and those of which there is nothing yet to tell them apart.

use super::{
    adoptions::{count, equal, total},
    world::{PROVIDERS, World},
};
use crate::{
    model::{CounterId, Tally},
    replica::protocol::{Note, Sealing},
};

const SECOND: &str = PROVIDERS[1].0;

fn world(providers: usize, rows: usize) -> Result<World, String> {
    let mut world = World::new(3, 2, true, false)?;
    (world.loss, world.providers) = (0, providers);
    (world.bounds.rows, world.bounds.bytes, world.bounds.page) = (rows, 100_000, 100);
    let mut world = World::rebound(world)?;
    world.heal()?;
    Ok(world)
}

fn forks(world: &World) -> Vec<(u64, u64)> {
    let of = |note: &Note| match note {
        Note::Forked { taken, doubled, .. } => Some((*taken, *doubled)),
        _ => None,
    };
    world.instances.iter().flat_map(|it| it.notes.iter().filter_map(of)).collect()
}

/// A copy of the file of a process that lives on: what may be counted twice is said.
pub fn of_one_that_lives_on() -> Result<(), String> {
    let mut world = world(1, 50)?;
    count(&mut world, 0, &CounterId::Total, 5);
    let copy = world.instances[0].shelf.clone();
    world.copy(0, copy)?;
    count(&mut world, 0, &CounterId::Total, 1);
    world.whole_round(2)?;
    world.heal()?;
    let twice = total(&world) - 6;
    equal("counted twice", twice, 5)?;
    let said: i64 = forks(&world).iter().map(|(_, doubled)| *doubled as i64).sum();
    if said < twice {
        return Err(format!("{twice} are counted twice, and {said} are said to be"));
    }
    Ok(())
}

/// Such a copy has told several batches that the process itself has never sent.
pub fn that_is_ahead() -> Result<(), String> {
    let mut world = world(1, 1)?;
    for model in ["a", "b", "c"] {
        count(&mut world, 0, &CounterId::Model(model.into()), 1);
    }
    world.seal(0, Sealing::new(None))?;
    let copy = world.instances[0].shelf.clone();
    world.copy(0, copy)?;
    world.whole_round(2)?;
    count(&mut world, 0, &CounterId::Model("d".into()), 1);
    world.whole_round(0)?;
    let copied =
        |at: usize| world.instances[at].notes.iter().filter(|note| matches!(note, Note::Copied { .. }));
    equal("who says that a copy is in use", [copied(0).count(), copied(2).count()], [1, 0])?;
    world.heal()?;
    world.check_numbers()
}

/// Two that are copies, of which one has forked, have counted for another provider before either met its hub for that.
pub fn before_contact(restarts: bool) -> Result<(), String> {
    let mut world = world(1, 50)?;
    let copy = world.instances[0].shelf.clone();
    world.crash(0)?;
    world.copy(0, copy)?;
    for at in [0, 2] {
        world.traffic_of(at, 0);
        world.whole_round(at)?;
    }
    world.heal()?;
    equal("who has forked", forks(&world).len(), 1)?;
    world.providers = 2;
    (0..3).try_for_each(|at| world.crash(at))?;
    for (at, n) in [(0, 5), (2, 7)] {
        world.count(at, SECOND, &CounterId::Total, &Tally { success: n, ..Tally::default() });
    }
    if restarts {
        (0..3).try_for_each(|at| world.crash(at))?;
    }
    world.heal()?;
    let told = world.hub.db.tables[PROVIDERS[1].1].global.values().map(|row| row.row.sums.s).sum::<i64>();
    let taken: u64 = forks(&world).iter().skip(1).map(|(taken, _)| taken).sum();
    // What was counted before they began may lie in both, as far as anyone can know.
    equal("told and taken", told + taken as i64, 12)?;
    equal("taken", taken > 0, restarts)
}

#[test]
fn a_copy_of_the_file_of_a_process_that_lives_on_is_not_passed_over() {
    assert_eq!(of_one_that_lives_on(), Ok(()));
}

#[test]
fn a_copy_that_tells_what_this_process_has_counted_is_noticed() {
    assert_eq!(that_is_ahead(), Ok(()));
}

#[test]
fn what_a_process_counts_before_the_first_contact_is_its_own() {
    assert_eq!(before_contact(false), Ok(()));
    assert_eq!(before_contact(true), Ok(()));
}
