//! Many keys, and an adoption that leads nowhere: what the worlds of other seeds are too small and too good for.

use super::{
    edits::decide,
    hub::HubPort,
    local,
    shelf::MemoryShelf,
    world::{KEYS, PROVIDERS, TOKENS, World},
};
use crate::{
    model::{CounterId, KeyId, Tally},
    replica::protocol::{
        Error, Next, Note, Wishes,
        document::{self, StreamNote},
    },
    store::shelf::{Dirty, Row, Shelf},
};

const PROVIDER: &str = PROVIDERS[0].0;

fn world(pair: bool) -> World {
    // A seed of instances with good clocks.
    let mut world = World::new(3, 2, pair, false).unwrap();
    (world.loss, world.bounds.stride) = (0, 5);
    (world.bounds.rows, world.bounds.bytes, world.bounds.page) = (5, 100_000, 5);
    World::rebound(world).unwrap()
}

fn key(n: usize) -> CounterId {
    CounterId::Key(KeyId::derive(PROVIDER, &format!("key-{n}")))
}

/// Writes of the largest transaction in the life of that many keys.
fn most_writes(keys: usize) -> usize {
    let mut world = world(false);
    let now = world.local(0);
    for n in 0..keys {
        let it = &mut world.instances[0];
        local::add_key(&mut it.shelf, PROVIDER, &format!("key-{n}"), &it.stamps, now);
        world.count(0, PROVIDER, &key(n), &Tally { success: 1, ..Tally::default() });
    }
    // The first contact, and the other's first pull.
    world.heal().unwrap();
    assert!(world.instances[1].memory.keys.len() >= keys, "nothing has come over");
    let first = world.hub.db.clone();
    for at in [0, 1] {
        for n in 0..keys {
            world.count(at, PROVIDER, &key(n), &Tally { failure: 1, ..Tally::default() });
        }
    }
    world.heal().unwrap();
    // The hub forgets half of it.
    world.hub.recover(first);
    world.heal().unwrap();
    // A copy of a file that has much to tell.
    for n in 0..keys {
        world.count(0, PROVIDER, &key(n), &Tally { other: 1, ..Tally::default() });
    }
    let copy = world.instances[0].shelf.clone();
    world.crash(0).unwrap();
    world.copy(0, copy).unwrap();
    for at in [0, 2] {
        world.count(at, PROVIDER, &key(0), &Tally { other: at as i64 + 1, ..Tally::default() });
    }
    world.heal().unwrap();
    let forks = world.instances.iter().flat_map(|it| &it.notes);
    let forks = forks.filter(|note| matches!(note, Note::Forked { .. })).count();
    assert_eq!(forks, 1, "nobody has forked");
    world.most_writes
}

/// Two files that are copies have the same batch, which does not get through whole; each cuts it, and what the second
/// one tells is what the hub has already.
pub fn cut_alike() -> Result<(), String> {
    const MANY: usize = 40;
    let mut world = world(false);
    world.bounds.rows = 50;
    let mut world = World::rebound(world)?;
    let now = world.local(0);
    let it = &mut world.instances[0];
    for n in 0..MANY {
        local::add_key(&mut it.shelf, PROVIDER, &format!("key-{n}"), &it.stamps, now);
    }
    it.shelf.commit();
    world.crash(0)?;
    world.heal()?;
    for n in 0..MANY {
        world.count(0, PROVIDER, &key(n), &Tally { success: 1, ..Tally::default() });
    }
    let copy = world.instances[0].shelf.clone();
    world.crash(0)?;
    world.copy(0, copy)?;
    world.limit = Some(1100);
    for at in [0, 2] {
        world.round(at, Wishes { hello: false, stats: true, limits: false, only_push: false })?;
    }
    // And neither tells its parts before both have them.
    for at in [0, 2] {
        world.begin(at, Wishes { hello: false, stats: false, limits: false, only_push: true });
        while world.step(at)? && !has_cut(&world, at) {}
        if !has_cut(&world, at) {
            return Err(format!("instance {at} does not cut its batch"));
        }
    }
    world.heal()?;
    let counted: i64 = world.hub.db.tables[PROVIDERS[0].1].key_stats.values().map(|row| row.row.sums.s).sum();
    if counted != MANY as i64 {
        return Err(format!("the hub has {counted}, and {MANY} were counted"));
    }
    Ok(())
}

fn has_cut(world: &World, at: usize) -> bool {
    let name = document::stream_name(PROVIDER);
    let note: Option<StreamNote> = document::read(&world.instances[at].shelf, &name).unwrap();
    note.is_some_and(|note| note.walk.is_none() && note.sealed.seq > note.confirmed.seq + 1)
}

/// Two files are copies, made between the first contacts of two streams, of which the first one forks: what both have
/// of the second is told once.
pub fn attach_apart() -> Result<(), String> {
    const SECOND: &str = PROVIDERS[1].0;
    let mut world = world(true);
    world.count(0, SECOND, &CounterId::Total, &Tally { success: 1, ..Tally::default() });
    world.begin(0, Wishes::default());
    while world.step(0)? && note(&world, PROVIDER).is_none() {}
    if note(&world, SECOND).is_some() {
        return Err("both streams have begun".to_owned());
    }
    let copy = world.instances[0].shelf.clone();
    world.crash(0)?;
    world.copy(0, copy)?;
    for at in [0, 2] {
        world.traffic_of(at, 0);
        world.crash(at)?;
    }
    world.heal()?;
    let forks = world.instances.iter().flat_map(|it| &it.notes);
    if !forks.clone().any(|note| matches!(note, Note::Forked { .. })) {
        return Err("nobody has forked".to_owned());
    }
    match world.hub.db.tables[PROVIDERS[1].1].global.values().next().map(|row| row.row.sums.s) {
        Some(1) => Ok(()),
        other => Err(format!("the hub has {other:?}, and 1 was counted")),
    }
}

/// A hub that was recovered to an earlier point is adopted by one who has another's batch in its total, and not in the
/// row of the key that it has deleted and added again: the other one has in the end what the hub has.
pub fn adopt_unseen() -> Result<(), String> {
    let mut world = world(false);
    (world.bounds.page, world.bounds.kept_bytes) = (100, 1);
    let mut world = World::rebound(world)?;
    (world.keeps, world.oracle.lossy) = (false, true);
    let (key, other, adopter) = ((KEYS[0], TOKENS[0]), 0, 1);
    decide(&mut world, adopter, PROVIDER, key, 0)?;
    world.attempt(adopter, PROVIDER, KEYS[0]);
    world.heal()?;
    let backup = world.hub.keep();
    decide(&mut world, adopter, PROVIDER, key, 6)?;
    world.whole_round(adopter)?;
    world.attempt(other, PROVIDER, KEYS[0]);
    world.round(other, Wishes { hello: false, stats: false, limits: false, only_push: true })?;
    world.whole_round(adopter)?;
    decide(&mut world, adopter, PROVIDER, key, 0)?;
    world.round(adopter, Wishes::default())?;
    world.hub.recover(backup);
    world.whole_round(other)?;
    world.whole_round(adopter)?;
    world.adopt(adopter)?;
    world.heal()?;
    world.check_numbers()
}

/// A hub has lost what one instance can tell it again, and of another stream what nobody can. Whoever adopts it has read
/// the first one's totals since, and knows that the batch is not in them.
pub fn adopt_anew() -> Result<(), String> {
    let mut world = world(true);
    (world.bounds.rows, world.bounds.page, world.bounds.kept_bytes) = (50, 100, 1);
    let mut world = World::rebound(world)?;
    world.keeps = false;
    let (other, adopter) = (0, 1);
    world.traffic_of(adopter, 1);
    world.heal()?;
    let backup = world.hub.keep();
    world.traffic_of(other, 0);
    world.whole_round(other)?;
    for _ in 0..3 {
        world.traffic_of(adopter, 1);
        world.whole_round(adopter)?;
    }
    world.hub.recover(backup);
    world.whole_round(adopter)?;
    world.adopt(adopter)?;
    world.heal()?;
    world.check_numbers()
}

fn note(world: &World, provider: &str) -> Option<Vec<u8>> {
    world.instances[0].shelf.note(&document::stream_name(provider)).unwrap()
}

#[test]
fn what_an_adopter_had_in_its_totals_alone_is_not_awaited() {
    assert_eq!(adopt_unseen(), Ok(()));
}

#[test]
fn what_an_adopter_has_read_anew_is_all_that_it_vouches_for() {
    assert_eq!(adopt_anew(), Ok(()));
}

#[test]
fn what_others_keep_is_told_again_beside_what_was_told_since() {
    let mut world = world(false);
    (world.bounds.rows, world.bounds.page, world.bounds.kept_bytes) = (50, 100, 1);
    let mut world = World::rebound(world).unwrap();
    (world.keeps, world.oracle.lossy) = (false, true);
    let shelf = MemoryShelf::new(world.uuid());
    let (other, adopter, third) = (0, 1, world.boot(shelf, 0).unwrap());
    decide(&mut world, adopter, PROVIDER, (KEYS[0], TOKENS[0]), 0).unwrap();
    world.heal().unwrap();
    let backup = world.hub.keep();
    (0..3).for_each(|_| world.attempt(other, PROVIDER, KEYS[0]));
    world.whole_round(other).unwrap();
    for _ in 0..2 {
        world.attempt(adopter, PROVIDER, KEYS[0]);
        world.whole_round(adopter).unwrap();
    }
    world.hub.recover(backup);
    (0..10).for_each(|_| world.attempt(third, PROVIDER, KEYS[0]));
    for at in [other, adopter, third] {
        world.whole_round(at).unwrap();
    }
    world.adopt(adopter).unwrap();
    world.heal().unwrap();
    // The adopter's own two are lost, and said to be uncertain.
    let total = world.hub.db.tables[PROVIDERS[0].1].global.values().next().map(|row| row.row.sums.f);
    let uncertain = world.instances.iter().flat_map(|it| &it.notes).filter_map(|note| match note {
        Note::Uncertain { requests, .. } => Some(*requests),
        _ => None,
    });
    assert_eq!((total, uncertain.sum()), (Some(13), 2_u64));
    assert_eq!(world.check_numbers(), Ok(()));
}

#[test]
fn a_deletion_stands_though_the_hub_was_recovered_before() {
    let mut world = world(false);
    let key = (KEYS[0], TOKENS[0]);
    decide(&mut world, 1, PROVIDER, key, 0).unwrap();
    world.heal().unwrap();
    let backup = world.hub.keep();
    world.hub.recover(backup);
    // It sees all rows of the recovered hub, and none of its totals.
    world.round(0, Wishes::default()).unwrap();
    assert!(world.instances[0].notes.iter().any(|note| matches!(note, Note::ResyncBegun { .. })));
    decide(&mut world, 1, PROVIDER, key, 6).unwrap();
    // All that the recovered hub may lack is told again, the deletion too.
    (0..3).for_each(|_| world.whole_round(1).unwrap());
    world.pass(40 * 24 * 3_600_000);
    world.hub.sweep();
    world.heal().unwrap();
    let keys: Vec<_> = world.hub.db.tables[PROVIDERS[0].1].keys.keys().collect();
    assert!(keys.is_empty(), "{keys:?} came back");
}

#[test]
fn copies_attach_alike() {
    assert_eq!(attach_apart(), Ok(()));
}

#[test]
fn copies_cut_a_batch_alike() {
    assert_eq!(cut_alike(), Ok(()));
}

#[test]
fn no_transaction_grows_with_the_number_of_keys() {
    let (few, many) = (most_writes(50), most_writes(200));
    assert!(many <= few + few / 4, "{few} of a few keys, {many} of many");
}

/// Two instances, of which the first was away for longer than deletions are remembered and reads all anew, in rounds of
/// two pages of one row each.
fn back_from_long_ago() -> World {
    let mut world = World::new(3, 2, false, true).unwrap();
    (world.loss, world.bounds.stride) = (0, 5);
    (world.bounds.rows, world.bounds.bytes, world.bounds.page) = (50, 100_000, 1);
    let mut world = World::rebound(world).unwrap();
    for key in &KEYS[1..] {
        decide(&mut world, 1, PROVIDER, (key, TOKENS[0]), 0).unwrap();
    }
    decide(&mut world, 1, PROVIDER, (KEYS[1], TOKENS[0]), 6).unwrap();
    world.traffic_of(1, 0);
    world.heal().unwrap();
    world.instances[0].cut_off = true;
    world.pass(40 * 24 * 3_600_000);
    world.whole_round(1).unwrap();
    world.sweep(0, false);
    world.whole_round(1).unwrap();
    world.instances[0].cut_off = false;
    world.bounds.calls = 2;
    world.crash(0).unwrap();
    world
}

#[test]
fn what_is_added_behind_the_place_of_a_pull_was_not_deleted() {
    let mut world = back_from_long_ago();
    for _ in 0..2 {
        world.whole_round(0).unwrap();
    }
    // A key whose place has passed is told in the next round, and edited while that reads on.
    decide(&mut world, 0, PROVIDER, (KEYS[0], TOKENS[0]), 0).unwrap();
    let mut edited = false;
    for _ in 0..6 {
        world.begin(0, Wishes { hello: false, stats: true, limits: false, only_push: false });
        while world.step(0).unwrap() {
            let is_told = world.hub.db.tables[PROVIDERS[0].1].keys.contains_key(KEYS[0]);
            if !edited && is_told && world.is_answered(0) {
                edited = true;
                decide(&mut world, 0, PROVIDER, (KEYS[0], TOKENS[0]), 8).unwrap();
            }
            let id = KeyId::derive(PROVIDER, KEYS[0]);
            assert!(world.instances[0].shelf.key(PROVIDER, id).unwrap().is_some(), "it is dropped");
        }
    }
    world.bounds.calls = 400;
    world.crash(0).unwrap();
    world.heal().unwrap();
    world.check().unwrap();
}

#[test]
fn what_is_counted_behind_the_place_of_a_pull_is_shown() {
    let mut world = back_from_long_ago();
    let place = |world: &World| {
        let name = document::stream_name(PROVIDER);
        let note: StreamNote = document::read(&world.instances[0].shelf, &name).unwrap().unwrap();
        (note.stats.drain.map_or(0, |drain| drain.rows), note.resync.is_some())
    };
    while place(&world).0 < 4 {
        world.whole_round(0).unwrap();
    }
    let id = CounterId::Model("a-model".into());
    world.count(0, PROVIDER, &id, &Tally { success: 1, ..Tally::default() });
    assert!(place(&world).1, "it has read everything");
    while place(&world).1 {
        world.whole_round(0).unwrap();
        assert_eq!(world.instances[0].shelf.view(PROVIDER, &id).unwrap().success, 1);
    }
}

#[test]
fn what_cannot_be_merged_is_not_made_anew_at_every_start() {
    let mut world = world(false);
    world.bounds.queue = 3;
    let mut world = World::rebound(world).unwrap();
    world.heal().unwrap();
    world.instances[0].cut_off = true;
    let now = world.local(0);
    let it = &mut world.instances[0];
    for n in 0..50 {
        local::add_key(&mut it.shelf, PROVIDER, &format!("key-{n}"), &it.stamps, now);
    }
    it.shelf.commit();
    let writes = [0; 3].map(|_| {
        let before = world.instances[0].shelf.writes;
        world.crash(0).unwrap();
        world.instances[0].shelf.writes - before
    });
    assert!(writes[1] > 10 && writes[2] < 5, "{writes:?}");
    // Those of many starts are.
    for _ in 0..20 {
        world.traffic_of(0, 0);
        world.crash(0).unwrap();
    }
    let name = document::stream_name(PROVIDER);
    let note: StreamNote = document::read(&world.instances[0].shelf, &name).unwrap().unwrap();
    assert!(note.sealed.seq - note.confirmed.seq < 20, "{} batches wait", note.sealed.seq);
}

/// Requests go on while their counts are told, of more rows than a batch may have; some rows of keys fill the first ones,
/// also to where a batch ends.
#[test]
fn what_is_counted_meanwhile_is_for_the_next_round() {
    const MANY: usize = 12;
    for most in [1, 5] {
        let mut world = world(false);
        world.bounds.rows = most;
        let mut world = World::rebound(world).unwrap();
        let now = world.local(0);
        for n in 0..MANY {
            let it = &mut world.instances[0];
            local::add_key(&mut it.shelf, PROVIDER, &format!("key-{n}"), &it.stamps, now);
        }
        world.heal().unwrap();
        let counters: Vec<_> = (0..MANY).map(key).chain([CounterId::Total]).collect();
        let count = |world: &mut World| {
            for id in &counters {
                world.count(0, PROVIDER, id, &Tally { success: 1, ..Tally::default() });
            }
        };
        let view = |world: &World, id| world.instances[0].shelf.view(PROVIDER, id).unwrap().success;
        let told = |world: &World, id| {
            let open = world.instances[0].shelf.open(PROVIDER, id).unwrap().unwrap_or_default();
            view(world, id) - open.success
        };
        let batches = |world: &World| {
            let name = document::stream_name(PROVIDER);
            let note: Option<StreamNote> = document::read(&world.instances[0].shelf, &name).unwrap();
            note.unwrap().confirmed.seq
        };
        for dirty in 0..=11 {
            count(&mut world);
            for n in 0..dirty {
                let row = Row::Key(KeyId::derive(PROVIDER, &format!("key-{n}")));
                let changed = Dirty { changed: true, ..Dirty::default() };
                local::soil(&mut world.instances[0].shelf, PROVIDER, row, changed);
            }
            let (before, due) = (batches(&world), view(&world, &CounterId::Total));
            world.begin(0, Wishes::default());
            while world.step(0).unwrap() {
                count(&mut world);
            }
            let least = (dirty + counters.len()).div_ceil(most) as u64;
            let sent = batches(&world) - before;
            assert!((least..=least + 1).contains(&sent), "{most} rows, {dirty} of keys: {sent} batches");
            let behind: Vec<_> = counters.iter().filter(|id| told(&world, id) < due).collect();
            assert!(behind.is_empty(), "{most} rows, {dirty} of keys: of {behind:?} not all was told");
        }
        world.heal().unwrap();
        let rows = &world.hub.db.tables[PROVIDERS[0].1].key_stats;
        let there: Vec<_> = rows.values().map(|row| row.row.sums.s).collect();
        assert_eq!(there, [view(&world, &CounterId::Total); MANY]);
    }
}

/// Rounds until that is so, each of them once.
fn rounds_until(world: &mut World, at: usize, is_so: impl Fn(&World) -> bool) -> usize {
    for round in 0..40 {
        if is_so(world) {
            return round;
        }
        world.whole_round(at).unwrap();
        world.pass(60_000);
    }
    panic!("a slow line carries nothing");
}

#[test]
fn a_slow_line_carries_what_it_can_in_time() {
    const MANY: usize = 40;
    let mut world = world(false);
    (world.bounds.rows, world.bounds.page) = (50, 100);
    let mut world = World::rebound(world).unwrap();
    world.heal().unwrap();
    let now = world.local(0);
    let it = &mut world.instances[0];
    for n in 0..MANY {
        local::add_key(&mut it.shelf, PROVIDER, &format!("key-{n}"), &it.stamps, now);
    }
    it.shelf.commit();
    world.crash(0).unwrap();
    world.slow = Some(1100);
    let there = |world: &World| world.hub.db.tables[PROVIDERS[0].1].keys.len() == MANY;
    let rounds = rounds_until(&mut world, 0, there);
    assert!(rounds < 12, "{rounds} rounds to tell it");
    let here = |world: &World| world.instances[1].shelf.keys(PROVIDER, None, 100).unwrap().len() == MANY;
    let rounds = rounds_until(&mut world, 1, here);
    assert!(rounds < 12, "{rounds} rounds to read it");
    world.heal().unwrap();
    world.check_numbers().unwrap();
}

/// A batch that was given up for late is applied after all, before or after what is told in its place.
#[test]
fn what_is_given_up_may_arrive_at_any_time() {
    for first in [true, false] {
        let mut world = world(false);
        world.bounds.rows = 50;
        let mut world = World::rebound(world).unwrap();
        world.heal().unwrap();
        (0..6).for_each(|_| world.traffic_of(0, 0));
        for _ in 0..3 {
            world.push_under_way(0).unwrap();
            world.is_late(0).unwrap();
        }
        if first {
            world.settle_strays().unwrap();
        }
        world.whole_round(0).unwrap();
        let applied = world.hub.db.applied.len();
        assert_eq!(applied == 1, first, "{applied} batches");
        world.pass(3 * 24 * 3_600_000);
        world.settle_strays().unwrap();
        assert_eq!(world.hub.db.applied.len(), applied, "one came too late");
        world.heal().unwrap();
        world.check().unwrap();
    }
}

#[test]
fn an_adoption_without_progress_ends() {
    let mut world = world(false);
    world.heal().unwrap();
    let id = world.uuid();
    world.hub.move_house(id.to_string());
    world.round(0, Wishes::default()).unwrap();
    let (now, fresh) = (world.local(0), world.uuid());
    let it = &mut world.instances[0];
    assert!(it.machine.begin_adoption(&mut it.shelf, now).unwrap());
    let mut stamped = Vec::new();
    for _ in 0..100 {
        let (next, _outcome) = it.machine.next(&mut it.shelf, now).unwrap();
        let Next::Call(call) = next else { continue };
        let mut body = world.hub.call(call.function.name(), &call.request).unwrap();
        if call.request.contains("\"step\":\"restamp\"") {
            let left = [9, 4, 4][stamped.len()];
            body = body.replace("\"left\":0", &format!("\"left\":{left}"));
            stamped.push(left);
        }
        let took = std::time::Duration::ZERO;
        match it.machine.answered(&mut it.shelf, call.id, &body, took, now, fresh) {
            Ok(_) => {}
            Err(Error::Garbage(why)) => {
                assert_eq!((stamped, why.contains("none fewer")), (vec![9, 4, 4], true));
                return;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it goes on and on: {stamped:?}");
}
