//! What is counted by hour, day and person: exact through folds and stops, owed where it replicates, kept as long as it
//! should be.

use super::*;
use crate::{
    model::{
        CoreDelta, CounterId, Day, KeyAttempts, LastKey, Rung, Set, SetId, SetKind, SpanId, SpanKind, Tally,
        UsageLog, UsageType,
    },
    store::shelf::{CORE, Inflight},
};

const USER: u128 = 77;
const TODAY: Day = Day(20_833);
const HOUR: Hour = Hour(500_000);

fn span(kind: SpanKind, at: u32) -> SpanId {
    let id = match kind {
        SpanKind::KeyDay | SpanKind::KeyHour | SpanKind::KeyTotal => key(1).0,
        SpanKind::TokenDay => token().id(P).0,
        SpanKind::UserClasses | SpanKind::UserErrors | SpanKind::UserUses => USER,
    };
    SpanId::new(kind, id, at)
}

fn set(kind: SetKind, at: u32) -> SetId {
    SetId { kind, at, id: if kind == SetKind::UserKeys { USER } else { key(1).0 } }
}

fn some(n: i64) -> Tally {
    Tally { success: n, failure: 1, prompt_tokens: 10 * n, last_used: Some(NOW), ..Tally::default() }
}

/// `n` of everything on that day and in that hour, by that user.
fn counted(day: Day, hour: Hour, n: u64, by: u128) -> Delta {
    let mut core = CoreDelta::default();
    // What is counted of keys follows from their attempts.
    for kind in SpanKind::ALL.iter().filter(|kind| span(**kind, 0).id != key(1).0) {
        core.tallies.insert(span(*kind, day.0), some(n as i64));
    }
    core.sets.insert(set(SetKind::KeyHour, hour.0), Set::of(by));
    core.sets.insert(set(SetKind::KeyDay, day.0), Set::of(by));
    let last = Some(LastKey { at: NOW, key: n as u32 });
    core.sets.insert(set(SetKind::UserKeys, day.0), Set { last, ..Set::of(by) });
    let mut delta = Delta { core, ..delta(hour, n) };
    let of = delta.providers.get_mut(P).unwrap();
    let by_key = std::mem::take(&mut of.keys);
    let attempts =
        by_key.into_iter().map(|(id, usage)| (id, KeyAttempts { usage, timed: 1, millis: 10 * n })).collect();
    of.attempts.insert((hour, day.0), attempts);
    delta
}

/// What two such deltas come to.
fn twice(kind: SpanKind, n: i64) -> Tally {
    let attempts = Tally { success: 2 * n, ..Tally::default() };
    match kind {
        SpanKind::KeyTotal | SpanKind::KeyDay => Tally { last_used: Some(NOW), ..attempts },
        SpanKind::KeyHour => Tally { prompt_tokens: 20 * n, completion_tokens: 2, ..attempts },
        _ => {
            let mut twice = some(n);
            twice.add(&some(n));
            twice
        }
    }
}

async fn is_there(store: &Store) {
    let found = store.counted().await.unwrap();
    for kind in SpanKind::ALL {
        let id = match kind {
            SpanKind::KeyTotal => span(*kind, 0),
            SpanKind::KeyHour => span(*kind, HOUR.0),
            _ => span(*kind, TODAY.0),
        };
        let expected = twice(*kind, 3);
        assert_eq!(found.tally(&id).unwrap(), expected, "{kind:?}");
        assert_eq!(found.all(*kind, id.at.number()).unwrap(), [(id.id, expected)]);
        assert_eq!(found.all(*kind, id.at.number() + 1).unwrap(), []);
    }
    for kind in [SetKind::KeyHour, SetKind::KeyDay] {
        let id = set(kind, if kind == SetKind::KeyHour { HOUR.0 } else { TODAY.0 });
        assert_eq!(found.set(id).unwrap().members, [USER, USER + 1].into());
        assert_eq!(found.members(id).unwrap(), 2);
    }
    let keys = found.set(set(SetKind::UserKeys, TODAY.0)).unwrap();
    assert_eq!(
        keys,
        Set { members: [USER, USER + 1].into(), more: false, last: Some(LastKey { at: NOW, key: 3 }) }
    );
}

#[tokio::test]
async fn what_is_counted_outlives_stops_and_kills() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append(counted(TODAY, HOUR, 3, USER)).await.unwrap();
    store.append(counted(TODAY, HOUR, 3, USER + 1)).await.unwrap();
    // Nothing of it was folded.
    let copy = killed_copy(dir.path());
    let (again, _) = open(copy.path());
    is_there(&again).await;
    again.close().await.unwrap();
    is_there(&store).await;
    let copy = killed_copy(dir.path());
    store.close().await.unwrap();
    for dir in [dir.path(), copy.path()] {
        assert!(offline::check(dir).unwrap().is_sound());
        let (store, _) = open(dir);
        is_there(&store).await;
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn an_hour_of_two_days_is_one_hour() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.edit(|shelf| shelf.set_replicated(CORE, true)).await.unwrap();
    // Where zones are half an hour apart; one entry has both.
    let mut both = counted(TODAY, HOUR, 3, USER);
    both.add(counted(TODAY.minus(1), HOUR, 4, USER));
    store.append(both).await.unwrap();
    let found = store.counted().await.unwrap();
    let opens = store.edit(|shelf| shelf.opens(CORE, None, 99)).await.unwrap();
    for (id, expected) in [
        (span(SpanKind::KeyHour, HOUR.0), 7),
        (span(SpanKind::KeyDay, TODAY.0), 3),
        (span(SpanKind::KeyDay, TODAY.minus(1).0), 4),
        (span(SpanKind::KeyTotal, 0), 7),
    ] {
        assert_eq!(found.tally(&id).unwrap().success, expected, "{id:?}");
        let open = opens.iter().find(|(of, _)| *of == CounterId::Span(id)).unwrap();
        assert_eq!(open.1.success, expected, "{id:?}");
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn it_is_open_while_it_replicates_and_only_then() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let owed = |shelf: &mut dyn shelf::Shelf| {
        Ok::<_, Error>((
            shelf.opens(CORE, None, 99)?,
            shelf.open_sets(None, 99)?,
            shelf.views(CORE, None, 99)?,
        ))
    };
    store.append(counted(TODAY, HOUR, 3, USER)).await.unwrap();
    let (opens, sets, views) = store.edit(owed).await.unwrap();
    assert_eq!((opens.len(), sets.len(), views.len()), (0, 0, SpanKind::ALL.len()));
    let both = |shelf: &mut dyn shelf::Shelf| {
        shelf.set_replicated(P, true)?;
        shelf.set_replicated(CORE, true)
    };
    store.edit(both).await.unwrap();
    store.append(counted(TODAY, HOUR, 3, USER)).await.unwrap();
    store.append(counted(TODAY, HOUR, 3, USER + 1)).await.unwrap();
    let of_provider = store.edit(|shelf| shelf.opens(P, None, 99)).await.unwrap();
    let of_key = of_provider.iter().find(|(id, _)| *id == CounterId::Key(key(1))).unwrap();
    let used = Tally { last_used: Some(NOW), last_success: Some(NOW), ..Tally::default() };
    assert_eq!(of_key.1, Tally { success: 6, ..used });
    let (opens, sets, views) = store.edit(owed).await.unwrap();
    assert!(opens.is_sorted_by_key(|(id, _)| id.clone()));
    assert_eq!(opens.len(), SpanKind::ALL.len());
    for (id, open) in &opens {
        let CounterId::Span(span) = id else { panic!("{id:?}") };
        assert_eq!(*open, twice(span.kind, 3), "{id:?}");
        let (_, view) = views.iter().find(|(of, _)| of == id).unwrap();
        assert_eq!(view.success, 9);
        assert_eq!(
            store
                .edit({
                    let id = id.clone();
                    move |shelf| shelf.view(CORE, &id)
                })
                .await
                .unwrap(),
            *view
        );
    }
    // Only who was not known before is told.
    for (id, open) in &sets {
        assert_eq!(open.members, [USER + 1].into(), "{id:?}");
    }
    assert_eq!(sets.len(), SetKind::ALL.len());
    // Page by page the same.
    for size in 1..4 {
        let paged = store.edit(move |shelf| {
            let (mut opens, mut views, mut sets) = (Vec::new(), Vec::new(), Vec::new());
            loop {
                let seen = shelf.opens(CORE, opens.last().map(|(id, _)| id), size)?;
                let shown = shelf.views(CORE, views.last().map(|(id, _)| id), size)?;
                let new = shelf.open_sets(sets.last().map(|(id, _)| *id), size)?;
                if seen.is_empty() && shown.is_empty() && new.is_empty() {
                    return Ok::<_, Error>((opens, sets, views));
                }
                opens.extend(seen);
                views.extend(shown);
                sets.extend(new);
            }
        });
        assert_eq!(paged.await.unwrap(), (opens.clone(), sets.clone(), views.clone()));
    }
    // What is set is there, and nothing is no row.
    let (id, first) = (opens[0].0.clone(), sets[0].0);
    let left = store
        .edit(move |shelf| {
            shelf.set_view(CORE, &id, &Tally::default())?;
            shelf.put_open_set(first, &Set::default())?;
            shelf.put_set(first, &Set::of(5))?;
            Ok::<_, Error>((
                shelf.views(CORE, None, 99)?.len(),
                shelf.open_sets(None, 99)?.len(),
                shelf.set(first)?,
            ))
        })
        .await
        .unwrap();
    assert_eq!(left, (views.len() - 1, sets.len() - 1, Set::of(5)));
    store.close().await.unwrap();
    assert!(offline::check(dir.path()).unwrap().is_sound());
}

#[tokio::test]
async fn what_is_old_leaves_and_days_become_months() {
    let dir = tempfile::tempdir().unwrap();
    let clock = crate::model::Clock::manual(NOW);
    let (store, _) = Store::open(&Options::new(dir.path()), clock.clone()).unwrap();
    store.edit(|shelf| shelf.set_replicated(CORE, true)).await.unwrap();
    assert_eq!(Day::of_utc(NOW), TODAY);
    assert_eq!(Hour::of(NOW), HOUR);
    // Every day at this hour, from before all that is kept.
    for ago in (0..40).rev() {
        store.append(counted(TODAY.minus(ago), Hour(HOUR.0 - 24 * ago), 1, USER)).await.unwrap();
    }
    let (a, b) = (TODAY.minus(39).month(), TODAY.minus(31).month());
    let looked = |found: &Counted| {
        let days = |kind: SpanKind| {
            (0..50)
                .filter(|ago| found.tally(&span(kind, TODAY.minus(*ago).0)).unwrap() != Tally::default())
                .count()
        };
        let hours = (0..48 * 24)
            .filter(|ago| found.tally(&span(SpanKind::KeyHour, HOUR.0 - ago)).unwrap().success > 0);
        let hour_sets =
            (0..99).filter(|ago| !found.set(set(SetKind::KeyHour, HOUR.0 - ago)).unwrap().is_empty());
        let hour_users =
            (0..99).map(|ago| found.members(set(SetKind::KeyHour, HOUR.0 - ago)).unwrap()).sum::<u32>();
        let sets = |kind| {
            (0..50).filter(|ago| !found.set(set(kind, TODAY.minus(*ago).0)).unwrap().is_empty()).count()
        };
        let users =
            (0..50).map(|ago| found.members(set(SetKind::KeyDay, TODAY.minus(ago).0)).unwrap()).sum::<u32>();
        let month = |at| found.month(SpanKind::UserUses, UserId(USER), at).unwrap().success;
        (
            [
                days(SpanKind::TokenDay),
                days(SpanKind::KeyDay),
                days(SpanKind::UserUses),
                days(SpanKind::UserErrors),
            ],
            [hours.count(), hour_sets.count(), hour_users as usize],
            [sets(SetKind::KeyDay), sets(SetKind::UserKeys), users as usize],
            if a == b { month(a) } else { month(a) + month(b) },
        )
    };
    // Today, and one day more than is promised, for all zones.
    let found = looked(&store.counted().await.unwrap());
    assert_eq!(found, ([5, 32, 32, 32], [3, 2, 3], [10, 32, 32], 8));
    // Looked at again in the same hour nothing moves; nothing is counted in months twice.
    store.append(counted(TODAY, HOUR, 1, USER)).await.unwrap();
    assert_eq!(looked(&store.counted().await.unwrap()), found);
    // A day later everything is a day older; what comes late for an hour that is not closed yet is in it.
    clock.advance(Duration::from_secs(24 * 3600));
    store.append(counted(TODAY.minus(1), Hour(HOUR.0 - 24), 1, USER + 1)).await.unwrap();
    let found = looked(&store.counted().await.unwrap());
    assert_eq!(found, ([4, 31, 31, 31], [2, 1, 3], [9, 31, 32], 9));
    // What comes later still changes no number of users.
    store.append(counted(TODAY.minus(20), Hour(HOUR.0 - 24), 1, USER + 2)).await.unwrap();
    let found = looked(&store.counted().await.unwrap());
    assert_eq!(found, ([5, 31, 31, 31], [2, 2, 3], [10, 31, 32], 9));
    clock.advance(Duration::from_secs(3600));
    store.append(counted(TODAY, HOUR, 1, USER)).await.unwrap();
    let found = looked(&store.counted().await.unwrap());
    assert_eq!(found, ([5, 31, 31, 31], [1, 1, 1], [10, 31, 32], 9));
    let total = store.counted().await.unwrap().tally(&span(SpanKind::KeyTotal, 0)).unwrap();
    assert_eq!(total.success, 44, "the total keeps all");
    let of_key = store.edit(|shelf| shelf.view(P, &CounterId::Key(key(1)))).await.unwrap();
    assert_eq!(of_key.success, 44, "and so do the provider's books");
    // The hub takes in thirty days: what is older is not owed any more.
    let (opens, sets) = store
        .edit(|shelf| Ok::<_, Error>((shelf.opens(CORE, None, 999)?, shelf.open_sets(None, 999)?)))
        .await
        .unwrap();
    let owed =
        |kind| opens.iter().filter(|(id, _)| matches!(id, CounterId::Span(of) if of.kind == kind)).count();
    assert_eq!(owed(SpanKind::KeyHour), 30, "longer than they are kept here");
    assert_eq!((owed(SpanKind::TokenDay), owed(SpanKind::UserUses), owed(SpanKind::KeyTotal)), (5, 31, 1));
    let told = |kind| sets.iter().filter(|(id, _)| id.kind == kind).count();
    assert_eq!((told(SetKind::KeyHour), told(SetKind::KeyDay), told(SetKind::UserKeys)), (1, 10, 10));
    // Of 40 periods of six kinds and of three kinds of sets, and of four that were begun again when they had been let go of.
    let late = 40 * (6 + 3) + 4 - (opens.len() - 1 + sets.len()) as u64;
    assert_eq!(
        (late, store.size().await.unwrap().dropped_late),
        (184, 184),
        "what no hub was told is counted"
    );
    store.close().await.unwrap();
    assert!(offline::check(dir.path()).unwrap().is_sound());
}

#[tokio::test]
async fn what_is_confirmed_of_old_days_is_let_go_of() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.edit(|shelf| shelf.set_replicated(CORE, true)).await.unwrap();
    let of = |ago: u32| CounterId::Span(span(SpanKind::UserUses, TODAY.minus(ago).0));
    let both = || Inflight { sealed: vec![(2, some(1))], confirmed: Some((1, some(1))) };
    store
        .edit(move |shelf| {
            shelf.set_inflight(CORE, &of(1), Some(&both()))?;
            shelf.set_inflight(CORE, &of(40), Some(&both()))?;
            shelf.set_inflight(CORE, &of(41), Some(&Inflight { sealed: vec![], ..both() }))
        })
        .await
        .unwrap();
    store.append(counted(TODAY, HOUR, 1, USER)).await.unwrap();
    let left = store.edit(|shelf| shelf.inflights(CORE, None, 9)).await.unwrap();
    assert_eq!(left, [(of(40), Inflight { confirmed: None, ..both() }), (of(1), both())]);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_full_file_keeps_less_of_what_is_optional() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.edit(|shelf| shelf.set_replicated(CORE, true)).await.unwrap();
    for ago in (0..30).rev() {
        store.append(counted(TODAY.minus(ago), Hour(HOUR.0 - 24 * ago), 1, USER)).await.unwrap();
    }
    let logs = |from: u128, count: u128| {
        let log = |n| UsageLog {
            id: uuid::Uuid::from_u128(n),
            key: key(1),
            user: UserId(USER),
            usage_type: UsageType::Conversation,
            status: 200,
            at: NOW,
        };
        let core = CoreDelta { logs: (from..from + count).map(log).collect(), ..CoreDelta::default() };
        Delta { core, ..Delta::default() }
    };
    store.append(logs(1, 50)).await.unwrap();
    let looked = async || {
        let found = store.counted().await.unwrap();
        let hours =
            (0..99).filter(|ago| found.tally(&span(SpanKind::KeyHour, HOUR.0 - ago)).unwrap().success > 0);
        let days = |kind| {
            let at = move |ago: u32| span(kind, TODAY.minus(ago).0);
            (0..40).filter(|ago| found.tally(&at(*ago)).unwrap() != Tally::default()).count()
        };
        let counted = (hours.count(), days(SpanKind::KeyDay), days(SpanKind::UserUses));
        let total = found.tally(&span(SpanKind::KeyTotal, 0)).unwrap().success;
        let (models, owed, logs) = store
            .edit(|shelf| {
                let opens = shelf.opens(CORE, None, 999)?;
                let is_hour =
                    |id: &CounterId| matches!(id, CounterId::Span(id) if id.kind == SpanKind::KeyHour);
                let hours = shelf
                    .views(P, None, 999)?
                    .into_iter()
                    .filter(|(id, _)| matches!(id, CounterId::Hour(..)));
                let owed = opens.iter().filter(|(id, _)| is_hour(id)).count();
                Ok::<_, Error>((hours.count(), owed, shelf.open_logs(999)?.len()))
            })
            .await
            .unwrap();
        (counted, models, owed, logs, total)
    };
    let whole = looked().await;
    assert_eq!(whole, ((3, 30, 30), 30, 30, 50, 30));
    store.keep(Rung::Early).await.unwrap();
    assert_eq!(looked().await, whole);
    store.keep(Rung::Short).await.unwrap();
    assert_eq!(looked().await, ((3, 10, 30), 8, 8, 50, 30), "users' days are small, and stay");
    store.keep(Rung::Bare).await.unwrap();
    assert_eq!(looked().await, ((2, 10, 30), 3, 3, 0, 30));
    store.append(logs(100, 5)).await.unwrap();
    assert_eq!(looked().await.3, 0);
    assert_eq!(store.size().await.unwrap().dropped_logs, 55, "counted all the same");
    store.keep(Rung::Normal).await.unwrap();
    store.append(logs(200, UsageLog::MOST as u128 + 7)).await.unwrap();
    let first = store.edit(|shelf| shelf.open_logs(1)).await.unwrap();
    assert_eq!(first[0].id.as_u128(), 207, "the oldest went first");
    store.close().await.unwrap();
    assert!(offline::check(dir.path()).unwrap().is_sound());
}

#[tokio::test]
async fn rows_of_requests_are_kept_for_a_hub_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let log = UsageLog {
        id: uuid::Uuid::from_u128(1),
        key: key(1),
        user: UserId(USER),
        usage_type: UsageType::Call,
        status: 200,
        at: NOW,
    };
    let delta = Delta { core: CoreDelta { logs: vec![log], ..CoreDelta::default() }, ..Delta::default() };
    store.append(delta.clone()).await.unwrap();
    assert!(store.edit(|shelf| shelf.open_logs(9)).await.unwrap().is_empty());
    store.edit(|shelf| shelf.set_replicated(CORE, true)).await.unwrap();
    store.append(delta).await.unwrap();
    assert_eq!(store.edit(|shelf| shelf.open_logs(9)).await.unwrap(), [log]);
    store.close().await.unwrap();
}
