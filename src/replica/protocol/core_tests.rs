//! The core's stream over a store of its own, step by step.

use uuid::Uuid;

use super::{
    Bounds, Effect, Error, Outcome,
    document::{Batch, Part, StreamNote, Walk, Why},
    seal::Lap,
    stream::Stream,
    text::Shift,
};
use crate::{
    model::{
        Clock, CounterId, Day, Event, Hour, KeyId, KeyRecord, Limits, Secret, Set, SetId, SetKind, SpanId,
        SpanKind, Stamps, Tally, Timestamp, UsageLog, UsageType, UserId, UserRecord, UserVersions, Version,
    },
    replica::wire::{KeptFrom, Lane, RowAnswers, Rows, SetRow, ShareRow, Sums, TallyRow, UserRow},
    store::{
        self, Change, Store,
        shelf::{CORE, Dirty, Gone, Inflight, Row, Shelf, UserEntry},
    },
};

mod late;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const ANN: UserId = UserId(7);
const RUN: Uuid = Uuid::from_u128(9);

struct Scene {
    store: Store,
    _dir: tempfile::TempDir,
}

/// A stream in the middle of its life.
fn stream<T>(
    shelf: &mut dyn Shelf,
    note: &mut StreamNote,
    bounds: Bounds,
    work: impl FnOnce(&mut Stream<'_>) -> Result<T, Error>,
) -> Result<(T, Outcome), Error> {
    let providers = ["alpha".to_owned(), "beta".to_owned()];
    let (stamps, mut out) = (Stamps::new(1, 0, Version::ZERO), Outcome::default());
    let mut stream = Stream {
        shelf,
        stamps: &stamps,
        provider: CORE,
        providers: &providers,
        bounds,
        shift: Shift(0),
        now: NOW,
        out: &mut out,
        note: note.clone(),
        shed: false,
    };
    let value = work(&mut stream)?;
    *note = stream.note;
    Ok((value, out))
}

fn done(
    shelf: &mut dyn Shelf,
    note: &mut StreamNote,
    bounds: Bounds,
    work: impl FnOnce(&mut Stream<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let ((), _unheard) = stream(shelf, note, bounds, work)?;
    Ok(())
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&store::Options::new(dir.path()), Clock::manual(NOW)).unwrap();
        Self { store, _dir: dir }
    }

    async fn edit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Shelf) -> Result<T, Error> + Send + 'static,
    ) -> T {
        self.store.edit(work).await.unwrap()
    }
}

fn today() -> u32 {
    Day::of_utc(NOW).0
}

fn set(kind: SetKind, at: u32) -> SetId {
    SetId { kind, at, id: 3 }
}

fn members(many: u128) -> Set {
    Set { members: (1..=many).collect(), ..Set::default() }
}

fn event(n: u128) -> Event {
    Event {
        id: Uuid::from_u128(n),
        kind: "abuse".into(),
        user: Some(ANN),
        key: None,
        severity: 2,
        details: serde_json::Map::new(),
        at: NOW,
        weight: 3,
    }
}

fn log(n: u128) -> UsageLog {
    UsageLog {
        id: Uuid::from_u128(n),
        key: KeyId(3),
        user: ANN,
        usage_type: UsageType::Conversation,
        status: 200,
        at: NOW,
    }
}

fn span(kind: SpanKind, at: u32) -> CounterId {
    CounterId::Span(SpanId::new(kind, 3, at))
}

fn some(success: i64) -> Tally {
    Tally { success, ..Tally::default() }
}

/// A page of these.
fn tallies(rows: &[(&CounterId, i64)]) -> Rows {
    let row = |(id, s): &(&CounterId, i64)| {
        let CounterId::Span(id) = id else { unreachable!() };
        super::text::tally_row(id, Sums { s: *s, ..Sums::default() })
    };
    Rows { tallies: rows.iter().map(row).collect(), ..Rows::default() }
}

/// Something of everything is open.
fn open_some(shelf: &mut dyn Shelf) -> Result<(), Error> {
    shelf.set_replicated(CORE, true)?;
    for (kind, at) in [(SetKind::KeyDay, today()), (SetKind::KeyHour, Hour::of(NOW).0)] {
        shelf.put_set(set(kind, at), &members(1200))?;
        shelf.put_open_set(set(kind, at), &members(1200))?;
    }
    for n in 1..=3 {
        shelf.set_open_event(Uuid::from_u128(n), Some(&event(n)))?;
        shelf.set_open_log(Uuid::from_u128(n), Some(&log(n)))?;
        let id = span(SpanKind::UserUses, today() - n as u32);
        shelf.set_open(CORE, &id, Some(&some(n as i64)))?;
        shelf.set_view(CORE, &id, &some(n as i64))?;
    }
    Ok(())
}

type Owed = (Vec<(SetId, Set)>, Vec<Event>, Vec<UsageLog>, Vec<(CounterId, Tally)>);

fn owed(shelf: &dyn Shelf) -> Result<Owed, Error> {
    Ok((
        shelf.open_sets(None, 99)?,
        shelf.open_events(99)?,
        shelf.open_logs(99)?,
        shelf.opens(CORE, None, 99)?,
    ))
}

/// Seals all there is.
fn seal_all(shelf: &mut dyn Shelf, note: &mut StreamNote, bounds: Bounds) -> Result<Vec<Batch>, Error> {
    let mut batches = Vec::new();
    while stream(shelf, note, bounds, |stream| stream.seal(RUN))?.0 {}
    for seq in shelf.batches(CORE, 0, usize::MAX)? {
        batches.push(Batch::decode(&shelf.batch(CORE, seq)?.unwrap())?);
    }
    Ok(batches)
}

#[tokio::test]
async fn rows_of_requests_that_came_meanwhile_are_for_the_next_round() {
    let (told, left) = Scene::new()
        .edit(|shelf| {
            open_some(shelf)?;
            for n in 4..=5 {
                let later = UsageLog { at: Timestamp(NOW.0 + 1), ..log(n) };
                shelf.set_open_log(later.id, Some(&later))?;
            }
            let mut note = StreamNote::default();
            let seal = |stream: &mut Stream<'_>| stream.seal_in(RUN, &mut Lap::new(None, NOW));
            let (left, _unheard) = stream(shelf, &mut note, Bounds::default(), seal)?;
            assert!(!left, "nothing that this round has to tell");
            let batch = Batch::decode(&shelf.batch(CORE, 1)?.unwrap())?;
            Ok((batch.rows.logs.len(), shelf.open_logs(99)?.len()))
        })
        .await;
    assert_eq!((told, left), (3, 2));
}

#[tokio::test]
async fn whatever_is_open_goes_into_batches_once_and_comes_back_out_of_them() {
    let scene = Scene::new();
    for bounds in [Bounds::default(), Bounds { rows: 2, stride: 2, ..Bounds::default() }] {
        let (batches, before, sealed, back) = scene
            .edit(move |shelf| {
                open_some(shelf)?;
                let (before, mut note) = (owed(shelf)?, StreamNote::default());
                let batches = seal_all(shelf, &mut note, bounds)?;
                let sealed = owed(shelf)?;
                for batch in batches.iter().rev() {
                    done(shelf, &mut note, bounds, |stream| stream.unseal(batch))?;
                }
                let back = owed(shelf)?;
                assert_eq!(shelf.batches(CORE, 0, 99)?, [] as [u64; 0]);
                Ok((batches, before, sealed, back))
            })
            .await;
        assert!(batches.iter().all(|batch| batch.head.rows as usize <= bounds.rows));
        assert!(batches.len() > 1 || bounds.rows > 2);
        let mut told: Vec<SetRow> = batches.iter().flat_map(|batch| batch.rows.sets.clone()).collect();
        assert!(told.iter().all(|row| row.m.len() <= 500), "no row is larger than others");
        told.sort_by(|a, b| (&a.t, &a.m).cmp(&(&b.t, &b.m)));
        let names: Vec<_> = told.iter().filter(|row| row.t == "kd").flat_map(|row| row.m.clone()).collect();
        assert_eq!(names, (1..=1200).map(|n| format!("{n:032x}")).collect::<Vec<_>>());
        let count = |of: fn(&Rows) -> usize| batches.iter().map(|batch| of(&batch.rows)).sum::<usize>();
        assert_eq!(
            (count(|r| r.events.len()), count(|r| r.logs.len()), count(|r| r.tallies.len())),
            (3, 3, 3)
        );
        assert_eq!(sealed, Owed::default());
        assert_eq!(back, before);
    }
}

#[tokio::test]
async fn a_batch_that_is_cut_or_left_to_a_copy_loses_nothing() {
    let scene = Scene::new();
    let bounds = Bounds { rows: 100, ..Bounds::default() };
    let (whole, parts, left) = scene
        .edit(move |shelf| {
            open_some(shelf)?;
            let mut note = StreamNote::default();
            let whole = seal_all(shelf, &mut note, bounds)?;
            note.rows = Some(2);
            done(shelf, &mut note, bounds, |stream| {
                stream.split(false)?;
                while stream.is_walking() {
                    stream.walk()?;
                }
                Ok(())
            })?;
            let parts: Vec<_> = (1..=note.sealed.seq)
                .map(|seq| Batch::decode(&shelf.batch(CORE, seq).unwrap().unwrap()).unwrap())
                .collect();
            note.walk = Some(Walk::Fork { fresh: Uuid::from_u128(77), taken: 0, told: false, after: None });
            // Of an earlier life.
            note.run = Uuid::from_u128(8);
            done(shelf, &mut note, bounds, |stream| {
                while stream.is_walking() {
                    stream.walk()?;
                }
                Ok(())
            })?;
            Ok((whole, parts, owed(shelf)?))
        })
        .await;
    let [whole] = &whole[..] else { panic!("{}", whole.len()) };
    let mut together = Rows::default();
    for Batch { head, rows } in parts {
        assert!(head.rows <= 2);
        together.sets.extend(rows.sets);
        together.tallies.extend(rows.tallies);
        together.events.extend(rows.events);
        together.logs.extend(rows.logs);
    }
    assert_eq!(together, whole.rows);
    let (sets, events, logs, counts) = left;
    // What is the same however often it is told is told again; the rest the copy has told.
    assert_eq!((sets.len(), events.len(), logs.len(), counts.len()), (2, 3, 0, 0));
}

#[tokio::test]
async fn members_come_together_and_what_a_hub_has_lost_is_told_again() {
    let scene = Scene::new();
    let (day, hour) = (set(SetKind::KeyDay, today()), set(SetKind::KeyHour, Hour::of(NOW).0));
    let old = set(SetKind::KeyDay, today() - 20);
    let row = move |id: SetId, members: &[u128]| SetRow {
        t: id.kind.code().to_owned(),
        i: Uuid::from_u128(id.id),
        n: id.at,
        m: members.iter().map(|member| format!("{member:032x}")).collect(),
        more: false,
        k: None,
        at: None,
    };
    let found = scene
        .edit(move |shelf| {
            let (mut note, bounds) = (StreamNote::default(), Bounds::default());
            shelf.put_set(day, &members(2))?;
            shelf.put_set(hour, &members(2))?;
            shelf.put_set(old, &members(2))?;
            done(shelf, &mut note, bounds, |stream| stream.take_sets(&[row(day, &[2, 5]), row(old, &[9])]))?;
            let merged = shelf.set(day)?;
            let untold = shelf.open_sets(None, 9)?;
            done(shelf, &mut note, bounds, |stream| {
                stream.begin_resync(Why::Moved)?;
                stream.take_sets(&[row(day, &[2, 6])])?;
                stream.end_lane(Lane::Stats, Some(0), KeptFrom::default())?;
                while stream.is_walking() {
                    stream.walk()?;
                }
                Ok(())
            })?;
            Ok((merged, untold, shelf.open_sets(None, 9)?, shelf.set(old)?, shelf.set(day)?))
        })
        .await;
    let (merged, untold, told, old, all) = found;
    assert_eq!(merged.members, [1, 2, 5].into());
    assert_eq!(untold, [], "what others have told is not told by this one");
    let lacking = Set { members: [1, 5].into(), ..Set::default() };
    assert_eq!(told, [(day, lacking), (hour, members(2))], "and none that nobody takes in any more");
    assert_eq!(old, members(2), "nothing is added to what is closed");
    assert_eq!(all.members, [1, 2, 5, 6].into());
}

fn user(name: &str, v: i64) -> UserEntry {
    UserEntry {
        record: UserRecord {
            name: name.into(),
            note: None,
            created_at: NOW,
            enabled: true,
            limits: Limits::default(),
        },
        versions: UserVersions::all(Version(v)),
    }
}

fn user_row(a: i64) -> UserRow {
    super::text::user_row(ANN, &user("Ann", a), false, Shift(0))
}

#[tokio::test]
async fn of_each_thing_said_of_a_user_the_last_word_stands() {
    let scene = Scene::new();
    scene
        .edit(|shelf| {
            let (mut note, bounds) = (StreamNote::default(), Bounds::default());
            shelf.set_replicated(CORE, true)?;
            let mut take = |shelf: &mut dyn Shelf, row: UserRow| {
                let rows = Rows { users: vec![row], ..Rows::default() };
                Ok::<_, Error>(
                    stream(shelf, &mut note, bounds, |stream| stream.take_state(&rows, 0))?.1.effects,
                )
            };
            assert_eq!(take(shelf, user_row(10))?.len(), 1);
            assert_eq!(take(shelf, user_row(10))?, [], "nothing new");
            let mut here = shelf.user(ANN)?.unwrap();
            here.record.limits.requests_per_day = Some(5);
            here.versions.limits.requests_per_day = Version(30);
            here.record.name = "Anna".into();
            here.versions.name = Version(20);
            shelf.put_user(ANN, &here)?;
            // Later in one field, earlier in another, the same in a third.
            let there = UserRow {
                n: Some("Anne".to_owned()),
                nv: Some(Version(21)),
                d: Some(9),
                dv: Some(Version(29)),
                e: Some(false),
                ..user_row(10)
            };
            let effects = take(shelf, there)?;
            let entry = shelf.user(ANN)?.unwrap();
            assert_eq!(effects, [Effect::UserPut { id: ANN, entry: Box::new(entry.clone()) }]);
            assert_eq!((&*entry.record.name, entry.record.limits.requests_per_day), ("Anne", Some(5)));
            assert!(!entry.record.enabled, "the hub's word counts for more than the same here");
            let dirty = Dirty { changed: true, ..Dirty::default() };
            assert_eq!(
                shelf.dirty(CORE, None, 9)?,
                [(Row::User(ANN), dirty)],
                "the hub has not heard of one"
            );
            Ok(())
        })
        .await;
}

#[tokio::test]
async fn a_user_who_was_deleted_stays_so_unless_added_again() {
    let scene = Scene::new();
    scene
        .edit(|shelf| {
            let (mut note, bounds) = (StreamNote::default(), Bounds::default());
            shelf.set_replicated(CORE, true)?;
            shelf.put_user(ANN, &user("Ann", 10))?;
            let gone = |v: i64| Gone { version: Version(v), digest: ANN.0.to_be_bytes(), text: None };
            let gone_row = |v: i64| super::text::gone_row(Row::User(ANN), &gone(v));
            assert_eq!(gone_row(1).id, ANN.to_string());
            let mut take = |shelf: &mut dyn Shelf, rows: Rows| {
                Ok::<_, Error>(
                    stream(shelf, &mut note, bounds, |stream| stream.take_state(&rows, 0))?.1.effects,
                )
            };
            assert_eq!(take(shelf, Rows { gone: vec![gone_row(9)], ..Rows::default() })?, []);
            let added = Dirty { added: true, changed: true, gone: false };
            assert_eq!(shelf.dirty_row(CORE, Row::User(ANN))?, Some(added), "it was added later");
            let removed = take(shelf, Rows { gone: vec![gone_row(11)], ..Rows::default() })?;
            assert_eq!(removed, [Effect::UserRemoved { id: ANN }]);
            assert_eq!((shelf.user(ANN)?, shelf.dirty_row(CORE, Row::User(ANN))?), (None, None));
            // Someone who has not heard of it tells of the user.
            assert_eq!(take(shelf, Rows { users: vec![user_row(10)], ..Rows::default() })?, []);
            assert_eq!(shelf.user(ANN)?, None);
            assert_eq!(take(shelf, Rows { users: vec![user_row(12)], ..Rows::default() })?.len(), 1);
            assert_eq!(shelf.gone(CORE, Row::User(ANN))?, None);
            Ok(())
        })
        .await;
}

#[tokio::test]
async fn whose_keys_are_is_told_whenever_it_changes() {
    let scene = Scene::new();
    scene.edit(|shelf| Ok(shelf.set_replicated(CORE, true)?)).await;
    let record = KeyRecord::new(Secret::new("sk-1"), NOW);
    let id = record.id("beta");
    let shares = async || {
        scene
            .edit(move |shelf| {
                let mut note = StreamNote::default();
                let batches = seal_all(shelf, &mut note, Bounds::default())?;
                let rows: Vec<ShareRow> = batches.into_iter().flat_map(|batch| batch.rows.shares).collect();
                for seq in shelf.batches(CORE, 0, 99)? {
                    shelf.set_batch(CORE, seq, None)?;
                }
                Ok(rows)
            })
            .await
    };
    let change = async |change: Change| scene.store.change(vec![change]).await.unwrap();
    let put = |record: &KeyRecord| Change::PutKey { provider: "beta".into(), record: record.clone() };
    let row = |u: Option<u128>, on: Option<bool>, a: Version, v: Version| ShareRow {
        i: Uuid::from_u128(id.0),
        p: "beta".to_owned(),
        u: u.map(Uuid::from_u128),
        on,
        a,
        v,
    };
    let a = change(put(&record)).await;
    let both = |owner: Version, enabled: Version| Version(owner.0 + enabled.0);
    assert_eq!(shares().await, [row(None, None, a, both(a, a))]);
    assert_eq!(shares().await, []);
    change(put(&KeyRecord { weight: 7, ..record.clone() })).await;
    assert_eq!(shares().await, [], "it is nobody else's for that");
    let owned = KeyRecord { owner: Some(ANN), ..record.clone() };
    let given = change(put(&owned)).await;
    assert_eq!(shares().await, [row(Some(ANN.0), None, a, both(given, a))]);
    let v = change(put(&KeyRecord { enabled: false, ..owned })).await;
    assert_eq!(shares().await, [row(Some(ANN.0), Some(false), a, both(given, v))]);
    let v = change(Change::DeleteKey { provider: "beta".into(), id }).await;
    assert_eq!(shares().await, [row(None, Some(false), v, v)]);

    // A statement of the future would silence all that follow.
    change(put(&record)).await;
    let ahead = scene
        .edit(move |shelf| {
            let mut entry = shelf.key("beta", id)?.unwrap();
            entry.versions.owner = Version::at(Timestamp(NOW.0 + 3_600_000));
            shelf.put_key("beta", id, &entry)?;
            Ok(())
        })
        .await;
    assert_eq!((shares().await, ahead), (vec![], ()));
}

#[tokio::test]
async fn what_is_no_more_kept_here_does_not_come_back_from_a_hub() {
    let scene = Scene::new();
    let (old, fresh) =
        (span(SpanKind::KeyHour, Hour::of(NOW).0 - 50), span(SpanKind::KeyHour, Hour::of(NOW).0));
    let mut rows = tallies(&[(&old, 5), (&fresh, 5)]);
    rows.tallies.push(TallyRow { t: "zz".to_owned(), i: Uuid::nil(), n: 1, sums: Sums::default() });
    let (views, effects) = scene
        .edit(move |shelf| {
            let mut note = StreamNote::default();
            let (_, out) =
                stream(shelf, &mut note, Bounds::default(), |stream| stream.take_counters(&rows, 0))?;
            Ok((shelf.views(CORE, None, 9)?, out.effects))
        })
        .await;
    assert_eq!(views, [(fresh, some(5))]);
    assert_eq!(effects.len(), 1);
}

#[tokio::test]
async fn what_a_full_hub_has_no_room_for_stays_here() {
    let scene = Scene::new();
    let (hour, day) = (span(SpanKind::KeyHour, Hour::of(NOW).0), span(SpanKind::UserUses, today() - 25));
    let ids = [hour.clone(), day.clone()];
    let of_page = tallies(&[(&hour, 100)]);
    let (views, left, notes, later) = scene
        .edit(move |shelf| {
            let (mut note, bounds) = (StreamNote::default(), Bounds::default());
            for id in &ids {
                shelf.set_open(CORE, id, Some(&some(4)))?;
                shelf.set_view(CORE, id, &some(4))?;
            }
            let batch = seal_all(shelf, &mut note, bounds)?.remove(0);
            let expired = (0..2).map(|at| ("tallies".to_owned(), at)).collect();
            let answers = RowAnswers { expired, ..RowAnswers::default() };
            let (_, out) = stream(shelf, &mut note, bounds, |stream| stream.confirm(batch, Some(&answers)))?;
            let (views, left) = (shelf.views(CORE, None, 9)?, shelf.inflights(CORE, None, 9)?);
            // More of the hour, of which the hub is not even told.
            shelf.set_open(CORE, &ids[0], Some(&some(2)))?;
            done(shelf, &mut note, bounds, |stream| {
                stream.shed = true;
                assert!(!stream.seal(RUN)?);
                stream.take_counters(&of_page, 1)
            })?;
            Ok((views, left, out.notes, shelf.views(CORE, None, 9)?))
        })
        .await;
    assert_eq!(views, [(hour.clone(), some(4))], "the day is with the hub's months, if with anyone");
    let never_told = Inflight { sealed: vec![(Inflight::NEVER_TOLD, some(4))], confirmed: None };
    assert_eq!(left, [(hour.clone(), never_told)]);
    assert_eq!(notes, [super::Note::Expired { provider: CORE.to_owned(), rows: 1 }]);
    assert_eq!(later, [(hour, some(106))], "what others have counted, and what stayed here");
}

/// An adopter's totals have to be those of which it knows who is in them.
#[tokio::test]
async fn what_is_heard_of_limits_is_told_and_changes_no_view() {
    let scene = Scene::new();
    let (used, confirmed) = (span(SpanKind::TokenDay, today()), span(SpanKind::TokenDay, today() - 1));
    let page = tallies(&[(&used, 8), (&confirmed, 8), (&span(SpanKind::UserUses, today()), 8)]);
    let views = [(confirmed.clone(), some(5)), (used.clone(), some(5))];
    let before = views.clone();
    let (after, effects) = scene
        .edit(move |shelf| {
            let mut note = StreamNote::default();
            for (id, view) in &before {
                shelf.set_view(CORE, id, view)?;
                shelf.set_open(CORE, id, Some(&some(2)))?;
            }
            // One that the page does not have yet.
            let inflight = Inflight { sealed: vec![], confirmed: Some((4, some(1))) };
            shelf.set_inflight(CORE, &confirmed, Some(&inflight))?;
            let (_, out) =
                stream(shelf, &mut note, Bounds::default(), |stream| stream.hear_of_limits(&page, 3))?;
            Ok((shelf.views(CORE, None, 9)?, out.effects))
        })
        .await;
    assert_eq!(after, views);
    let CounterId::Span(id) = used else { unreachable!() };
    assert_eq!(effects, [Effect::Used { id, view: some(5), to: some(10) }]);
}

#[test]
fn what_was_never_told_is_told_after_all_when_its_batch_waits_again() {
    let mut inflight = Inflight::default();
    inflight.keep(&some(4));
    inflight.keep(&some(2));
    inflight.tell_after_all(&some(7));
    assert_eq!(inflight.sealed, [(Inflight::NEVER_TOLD, some(6))], "that was another's");
    inflight.tell_after_all(&some(4));
    assert_eq!(inflight.sealed, [(Inflight::NEVER_TOLD, some(2))]);
    inflight.tell_after_all(&some(2));
    assert!(inflight.is_empty());
}

#[tokio::test]
async fn what_a_hub_has_let_go_of_is_not_taken_for_lost() {
    let scene = Scene::new();
    let (day, hour) = (today(), Hour::of(NOW).0);
    let counted = [
        span(SpanKind::UserUses, day - 9),
        span(SpanKind::UserUses, day - 8),
        span(SpanKind::UserClasses, day - 9),
        span(SpanKind::KeyHour, hour - 40),
        span(SpanKind::KeyHour, hour - 20),
        span(SpanKind::KeyDay, day - 9),
    ];
    let views = scene
        .edit(move |shelf| {
            let mut note = StreamNote::default();
            for id in &counted {
                shelf.set_view(CORE, id, &some(4))?;
            }
            done(shelf, &mut note, Bounds::default(), |stream| {
                stream.begin_resync(Why::Clock)?;
                let kept = KeptFrom { hours: hour - 24, days: day - 8 };
                stream.end_lane(Lane::Stats, Some(0), kept)?;
                while stream.is_walking() {
                    stream.walk()?;
                }
                Ok(())
            })?;
            let mut left = shelf.views(CORE, None, 9)?;
            left.retain(|(_, view)| *view != Tally::default());
            Ok(left.into_iter().map(|(id, _)| id).collect::<Vec<_>>())
        })
        .await;
    let left = [
        span(SpanKind::KeyHour, hour - 40),
        span(SpanKind::UserClasses, day - 9),
        span(SpanKind::UserUses, day - 9),
    ];
    assert_eq!(views.len(), left.len(), "{views:?}");
    assert!(left.iter().all(|id| views.contains(id)), "{views:?}");
}

#[tokio::test]
async fn the_first_hub_is_told_all_that_was_there_before() {
    let scene = Scene::new();
    let keys: Vec<_> = (0..5)
        .flat_map(|n| {
            let record = KeyRecord::new(Secret::new(format!("sk-{n}")), NOW);
            ["alpha", "beta"]
                .map(|provider| Change::PutKey { provider: provider.into(), record: record.clone() })
        })
        .collect();
    scene.store.change(keys).await.unwrap();
    let user = Change::PutUser { id: ANN, record: user("Ann", 1).record };
    scene.store.change(vec![user]).await.unwrap();
    for rows in [1, 3, 2000] {
        let bounds = Bounds { rows, stride: 2, ..Bounds::default() };
        let told = scene
            .edit(move |shelf| {
                let mut note = StreamNote::default();
                shelf.put_set(set(SetKind::KeyDay, today()), &members(1100))?;
                shelf.put_open_set(set(SetKind::KeyDay, today()), &Set::of(1100))?;
                shelf.put_set(set(SetKind::KeyDay, today() - 20), &members(3))?;
                shelf.set_view(CORE, &span(SpanKind::UserUses, today()), &some(6))?;
                shelf.set_open(CORE, &span(SpanKind::UserUses, today()), Some(&some(2)))?;
                done(shelf, &mut note, bounds, |stream| {
                    stream.attach(RUN)?;
                    while stream.is_walking() {
                        stream.walk()?;
                    }
                    Ok(())
                })?;
                let mut told = Rows::default();
                for seq in shelf.batches(CORE, 0, usize::MAX)? {
                    let Batch { head, rows: of } = Batch::decode(&shelf.batch(CORE, seq)?.unwrap())?;
                    assert!(head.rows as usize <= rows);
                    told.users.extend(of.users);
                    told.shares.extend(of.shares);
                    told.tallies.extend(of.tallies);
                    told.sets.extend(of.sets);
                    shelf.set_batch(CORE, seq, None)?;
                }
                shelf.set_inflight(CORE, &span(SpanKind::UserUses, today()), None)?;
                Ok(told)
            })
            .await;
        assert_eq!((told.users.len(), told.users[0].add), (1, true));
        assert_eq!(told.shares.len(), 10);
        assert_eq!(
            (told.tallies.len(), told.tallies[0].sums.s),
            (1, 4),
            "what this life has counted is open"
        );
        let members: Vec<_> = told.sets.iter().flat_map(|row| row.m.clone()).collect();
        assert_eq!(members.len(), 1099, "with {rows} rows");
    }
}

#[test]
fn a_walk_of_an_older_keytide_goes_on() {
    let json = r#"{"settle":{"tokens":null}}"#;
    assert_eq!(serde_json::from_str::<Walk>(json).unwrap(), Walk::Settle(Part::Tokens(None)));
}
