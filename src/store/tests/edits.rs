//! Edits: replication's hand in the file, all or nothing.

use super::*;
use crate::{
    model::{CounterId, KeyVersions, Tally, TokenId, UserRecord, Version},
    store::{
        desk::digest,
        shelf::{CORE, Dirty, Inflight, KeyEntry, Row, Seen, Shelf},
    },
};

const Q: &str = "openrouter";

fn model() -> CounterId {
    CounterId::Model("llama3".into())
}

/// Of one request, as [`delta`] counts it.
fn one() -> Tally {
    (&usage(1)).into()
}

fn times(n: i64) -> Tally {
    Tally { success: n, prompt_tokens: 10 * n, completion_tokens: 3 * n, ..one() }
}

async fn replicated(dir: &Path) -> Store {
    let (store, _) = open(dir);
    store.edit(|shelf| shelf.set_replicated(P, true)).await.unwrap();
    store
}

#[tokio::test]
async fn what_is_counted_is_open_for_the_hub_and_in_the_view_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append(delta(Hour::of(NOW), 1)).await.unwrap();
    let before = store.edit(|shelf| Ok::<_, Error>((shelf.open_len(P)?, shelf.view(P, &model())?))).await;
    assert_eq!(before.unwrap(), (0, one()), "nobody waits for it");
    store.edit(|shelf| shelf.set_replicated(P, true)).await.unwrap();
    store.append(delta(Hour::of(NOW), 2)).await.unwrap();
    store.append(delta(Hour(Hour::of(NOW).0 - 1), 1)).await.unwrap();
    let other = delta(Hour::of(NOW), 5).providers.remove(P).unwrap();
    store.append(Delta { providers: [(Q.into(), other)].into(), ..Delta::default() }).await.unwrap();
    let (opens, views, of_key) = store
        .edit(|shelf| {
            let of_key = shelf.view(P, &CounterId::Key(key(1)))?;
            Ok::<_, Error>((shelf.opens(P, None, 99)?, shelf.views(P, None, 99)?, of_key))
        })
        .await
        .unwrap();
    let (now, model) = (Hour::of(NOW), "llama3");
    let of_keys = |n| Tally { prompt_tokens: 0, completion_tokens: 0, last_success: Some(NOW), ..times(n) };
    let expected = |key_count, token, hours: [i64; 2], total| {
        vec![
            (CounterId::Key(key(1)), of_keys(key_count)),
            (CounterId::Token(super::token().id(P)), times(token)),
            (CounterId::Model(model.into()), times(total)),
            (CounterId::Hour(Hour(now.0 - 1), model.into()), times(hours[0])),
            (CounterId::Hour(now, model.into()), times(hours[1])),
            (CounterId::Total, times(total)),
        ]
    };
    assert_eq!(opens, expected(3, 3, [1, 2], 3));
    assert_eq!(views, expected(4, 4, [1, 3], 4));
    assert_eq!(of_key, of_keys(4));
    store.close().await.unwrap();
}

#[tokio::test]
async fn lists_are_in_order_and_go_on_after_any_row() {
    let dir = tempfile::tempdir().unwrap();
    let store = replicated(dir.path()).await;
    store.edit(|shelf| shelf.set_replicated(Q, true)).await.unwrap();
    let of = |provider: &str, n| Change::PutKey { provider: provider.into(), record: record(n) };
    let changes = (0..5).map(|n| of(P, n)).chain((0..5).map(|n| of(Q, n)));
    store.change(changes.collect()).await.unwrap();
    store.change(vec![Change::PutToken { provider: P.into(), record: token() }]).await.unwrap();
    store.append(delta(Hour::of(NOW), 1)).await.unwrap();
    store.append(delta(Hour(Hour::of(NOW).0 - 1), 1)).await.unwrap();
    store
        .edit(|shelf| {
            assert_eq!((shelf.dirty_len(P)?, shelf.dirty_len(Q)?, shelf.dirty_len("p")?), (6, 5, 0));
            let keys = shelf.keys(P, None, 99)?;
            assert!(keys.len() == 5 && keys.is_sorted_by_key(|(id, _)| *id));
            let dirty = shelf.dirty(P, None, 99)?;
            assert!(dirty.is_sorted_by_key(|(row, _)| *row) && dirty.len() == 6);
            let (views, opens) = (shelf.views(P, None, 99)?, shelf.opens(P, None, 99)?);
            assert!(views.is_sorted_by(|a, b| a.0 < b.0) && views.len() == 6);
            for size in 1..4 {
                let mut paged = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
                loop {
                    let page = shelf.keys(P, paged.0.last().map(|(id, _)| *id), size)?;
                    paged.0.extend(page.clone());
                    let rows = shelf.dirty(P, paged.1.last().map(|(row, _)| *row), size)?;
                    paged.1.extend(rows.clone());
                    let seen = shelf.views(P, paged.2.last().map(|(id, _)| id), size)?;
                    let open = shelf.opens(P, paged.3.last().map(|(id, _)| id), size)?;
                    let done = page.is_empty() && rows.is_empty() && seen.is_empty() && open.is_empty();
                    paged.2.extend(seen);
                    paged.3.extend(open);
                    if done {
                        break;
                    }
                }
                assert_eq!(paged, (keys.clone(), dirty.clone(), views.clone(), opens.clone()));
            }
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn an_edit_that_fails_leaves_nothing_and_the_store_well() {
    #[derive(Debug)]
    enum Refused {
        Work,
        Store(#[expect(dead_code, reason = "shown when the test fails")] Error),
    }
    impl From<Error> for Refused {
        fn from(error: Error) -> Self {
            Self::Store(error)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = replicated(dir.path()).await;
    store.append(delta(Hour::of(NOW), 1)).await.unwrap();
    let refused = store
        .edit(|shelf| {
            shelf.set_note("a", Some(b"1"))?;
            shelf.set_open(P, &model(), None)?;
            shelf.set_view(P, &model(), &times(9))?;
            shelf.set_instance(uuid::Uuid::from_u128(9))?;
            assert_eq!(shelf.note("a")?.as_deref(), Some(&b"1"[..]), "an edit sees what it wrote");
            Err::<(), _>(Refused::Work)
        })
        .await;
    assert!(matches!(refused, Err(Refused::Work)));
    assert_eq!(store.healthy(), None);
    let found = store.edit(|shelf| {
        let instance = shelf.instance();
        Ok::<_, Error>((shelf.note("a")?, shelf.open(P, &model())?, shelf.view(P, &model())?, instance))
    });
    let (note, open, view, instance) = found.await.unwrap();
    assert_eq!((note, open, view), (None, Some(one()), one()));
    assert_ne!(instance, uuid::Uuid::from_u128(9));
    store.close().await.unwrap();
}

#[tokio::test]
async fn an_edit_that_changes_nothing_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = replicated(dir.path()).await;
    store.change(vec![put(1)]).await.unwrap();
    let before = std::fs::read(store.file()).unwrap();
    store
        .edit(|shelf| {
            let entry = shelf.key(P, key(1))?.unwrap();
            shelf.put_key(P, key(1), &entry)?;
            shelf.set_note("a", None)?;
            shelf.set_replicated(P, true)
        })
        .await
        .unwrap();
    assert!(before == std::fs::read(store.file()).unwrap());
    store.close().await.unwrap();
}

#[tokio::test]
async fn keys_are_found_by_the_hubs_word_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let token_id: TokenId = token().id(P);
    let put_token = Change::PutToken { provider: P.into(), record: token() };
    store.change(vec![put(1), put(2), put_token]).await.unwrap();
    let find = |n: usize| {
        let store = store.clone();
        async move { store.edit(move |shelf| shelf.key_by_digest(P, digest(&record(n).secret))).await.unwrap() }
    };
    let token_of = move |shelf: &mut dyn Shelf| {
        shelf.set_digest(P, Row::Token(token_id), digest(&token().secret))?;
        for n in [1, 2] {
            shelf.set_digest(P, Row::Key(key(n)), digest(&record(n).secret))?;
        }
        shelf.set_replicated(P, true)
    };
    store.edit(token_of).await.unwrap();
    assert_eq!((find(1).await, find(2).await, find(3).await), (Some(key(1)), Some(key(2)), None));
    let found = store.edit(|shelf| shelf.token_by_digest(P, digest(&token().secret))).await.unwrap();
    assert_eq!(found, Some(token_id));
    store.change(vec![put(3), Change::DeleteKey { provider: P.into(), id: key(1) }]).await.unwrap();
    assert_eq!((find(1).await, find(3).await), (Some(key(1)), Some(key(3))), "also a deleted one");
    store
        .edit(|shelf| {
            shelf.set_dirty(P, Row::Key(key(1)), None)?;
            shelf.set_gone(P, Row::Key(key(1)), None)
        })
        .await
        .unwrap();
    assert_eq!(find(1).await, None);
    store
        .edit(|shelf| {
            let entry = shelf.key(P, key(2))?.unwrap();
            shelf.remove_key(P, key(2))?;
            let put_by_hub = KeyEntry { record: record(4), ..entry };
            shelf.put_key(P, key(4), &put_by_hub)
        })
        .await
        .unwrap();
    assert_eq!((find(2).await, find(4).await), (None, Some(key(4))));
    store.change(vec![Change::DeleteKey { provider: P.into(), id: key(4) }]).await.unwrap();
    store.edit(|shelf| shelf.set_replicated(P, false)).await.unwrap();
    assert_eq!(find(4).await, None);
    store.close().await.unwrap();
    assert!(offline::check(dir.path()).unwrap().is_sound());
}

#[tokio::test]
async fn a_decision_here_is_later_than_every_one_that_came_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let store = replicated(dir.path()).await;
    // Of an instance whose clock is ahead.
    let ahead = Version::at(Timestamp(NOW.0 + 60_000));
    store
        .edit(move |shelf| {
            let versions = KeyVersions::all(ahead);
            let health = Health { epoch: ahead, ..Health::default() };
            shelf.put_key(P, key(1), &KeyEntry { record: record(1), versions, health })
        })
        .await
        .unwrap();
    let edited = KeyRecord { weight: 2, ..record(1) };
    let here = store.change(vec![Change::PutKey { provider: P.into(), record: edited }]).await.unwrap();
    assert!(here > ahead);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_new_identity_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let (store, contents) = open(dir.path());
    let id = uuid::Uuid::from_u128(12345);
    assert_ne!(contents.instance, id);
    let tag = |version: Version| version.0 & 1023;
    let before = store.stamps().next(NOW);
    store.edit(move |shelf| shelf.set_instance(id)).await.unwrap();
    let after = store.stamps().next(NOW);
    assert_eq!(tag(after), (12345 % 1023) + 1);
    assert!(after > before);
    store.close().await.unwrap();
    let (store, contents) = open(dir.path());
    assert_eq!(contents.instance, id);
    assert_eq!(tag(store.stamps().next(NOW)), tag(after));
    store.close().await.unwrap();
}

#[tokio::test]
async fn rows_of_one_provider_are_counted_among_those_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = replicated(dir.path()).await;
    let of = [("a", 3), (P, 5), (Q, 2), ("zz", 9)];
    store
        .edit(move |shelf| {
            for (provider, rows) in of {
                for n in 0..rows {
                    let changed = Dirty { changed: true, ..Dirty::default() };
                    shelf.set_dirty(provider, Row::Key(key(n)), Some(changed))?;
                    shelf.set_open(provider, &CounterId::Key(key(n)), Some(&one()))?;
                }
                assert_eq!(shelf.dirty_len(provider)?, rows as u64, "{provider}, alone or the last");
            }
            for (provider, rows) in of.into_iter().chain([("b", 0), ("zzz", 0), ("", 0)]) {
                assert_eq!(shelf.dirty_len(provider)?, rows as u64, "{provider}");
                assert_eq!(shelf.open_len(provider)?, rows as u64, "{provider}");
            }
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn batches_marks_and_deltas_under_way_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = replicated(dir.path()).await;
    let inflight = Inflight { sealed: vec![(3, one())], confirmed: Some((2, times(2))) };
    let kept = inflight.clone();
    store
        .edit(move |shelf| {
            for seq in [3, 1, 2] {
                shelf.set_batch(P, seq, Some(&[seq as u8]))?;
            }
            shelf.set_batch(P, 2, None)?;
            shelf.set_batch(Q, 7, Some(b"q"))?;
            shelf.set_inflight(P, &model(), Some(&kept))?;
            shelf.set_inflight(P, &CounterId::Total, Some(&Inflight::default()))?;
            shelf.mark_seen(P, &Seen::Row(Row::Key(key(1))))?;
            shelf.mark_seen(P, &Seen::Counter(model()))?;
            shelf.mark_seen(Q, &Seen::Counter(model()))
        })
        .await
        .unwrap();
    store.close().await.unwrap();
    let (store, _) = open(dir.path());
    store
        .edit(move |shelf| {
            assert_eq!((shelf.batches(P, 0, 9)?, shelf.batches(P, 2, 9)?), (vec![1, 3], vec![3]));
            assert_eq!(shelf.batch(P, 3)?, Some(vec![3]));
            assert_eq!(shelf.inflights(P, None, 9)?, [(model(), inflight)]);
            assert!(shelf.was_seen(P, &Seen::Row(Row::Key(key(1))))?);
            assert!(!shelf.was_seen(P, &Seen::Counter(CounterId::Key(key(1))))?);
            assert!(!shelf.was_seen(P, &Seen::Row(Row::Token(TokenId(key(1).0))))?);
            shelf.forget_seen(P, 9)?;
            assert!(!shelf.was_seen(P, &Seen::Counter(model()))?);
            assert!(shelf.was_seen(Q, &Seen::Counter(model()))?);
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    let copy = dir.path().join("copy");
    store.backup(copy.clone(), |_| ()).await.unwrap();
    store.close().await.unwrap();
    let restored = dir.path().join("restored");
    assert!(offline::restore(&copy, &restored).unwrap().is_sound());
    let (store, _) = open(&restored);
    assert_eq!(store.edit(|shelf| shelf.batches(P, 0, 9)).await.unwrap(), [1, 3]);
    store.close().await.unwrap();
}

#[tokio::test]
async fn hours_that_are_forgotten_are_owed_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = replicated(dir.path()).await;
    let (now, old) = (Hour::of(NOW), Hour(Hour::of(NOW).0 - 31 * 24));
    let of = |hour| CounterId::Hour(hour, "llama3".into());
    store
        .edit(move |shelf| {
            let both = Inflight { sealed: vec![(2, one())], confirmed: Some((1, one())) };
            let confirmed = Inflight { sealed: vec![], confirmed: Some((1, one())) };
            shelf.set_inflight(P, &of(old), Some(&both))?;
            shelf.set_inflight(P, &of(Hour(old.0 - 1)), Some(&confirmed))?;
            shelf.set_inflight(P, &of(now), Some(&confirmed))
        })
        .await
        .unwrap();
    for hour in [now, old] {
        store.append(delta(hour, 1)).await.unwrap();
    }
    let (opens, inflights, total) = store
        .edit(|shelf| {
            let opens = shelf.opens(P, Some(&model()), 9)?;
            Ok::<_, Error>((opens, shelf.inflights(P, None, 9)?, shelf.open(P, &CounterId::Total)?))
        })
        .await
        .unwrap();
    assert_eq!(opens, [(of(now), one()), (CounterId::Total, times(2))]);
    assert_eq!(total, Some(times(2)), "totals keep them");
    let sealed = Inflight { sealed: vec![(2, one())], confirmed: None };
    let confirmed = Inflight { sealed: vec![], confirmed: Some((1, one())) };
    assert_eq!(inflights, [(of(old), sealed), (of(now), confirmed)]);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_replicated_total_need_not_be_the_sum_of_its_models() {
    let dir = tempfile::tempdir().unwrap();
    let store = replicated(dir.path()).await;
    store.append(delta(Hour::of(NOW), 5)).await.unwrap();
    store.edit(|shelf| shelf.set_view(P, &model(), &one())).await.unwrap();
    store.close().await.unwrap();
    assert!(offline::check(dir.path()).unwrap().is_sound());
    let (store, contents) = open(dir.path());
    assert_eq!((provider(&contents).total, provider(&contents).models["llama3"]), (usage(5), usage(1)));
    store.edit(|shelf| shelf.set_view(P, &model(), &Tally::default())).await.unwrap();
    store.close().await.unwrap();
    let (store, contents) = open(dir.path());
    assert!(provider(&contents).models.is_empty(), "nothing is no row");
    store.close().await.unwrap();
}

/// `cargo test --release -- --ignored --nocapture edits_beside_a_hundred_thousand`
#[ignore = "prints times"]
#[tokio::test]
async fn edits_beside_a_hundred_thousand_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change((0..100_000).map(put).collect()).await.unwrap();
    let timed = |what: &'static str, start: std::time::Instant| println!("{what}: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    store.edit(|shelf| shelf.set_replicated(P, true)).await.unwrap();
    timed("attach", start);
    let start = std::time::Instant::now();
    store
        .edit(|shelf| {
            for n in (0..100_000).step_by(50) {
                let mut entry = shelf.key(P, key(n))?.unwrap();
                entry.record.weight = 7;
                shelf.put_key(P, key(n), &entry)?;
            }
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    timed("2,000 keys put", start);
    let start = std::time::Instant::now();
    store
        .edit(|shelf| {
            for n in (0..100_000).step_by(50) {
                let id = CounterId::Key(key(n));
                let mut view = shelf.view(P, &id)?;
                view.add(&one());
                shelf.set_view(P, &id, &view)?;
                shelf.set_inflight(P, &id, Some(&Inflight { sealed: vec![(1, one())], confirmed: None }))?;
            }
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
    timed("2,000 counters moved and sealed", start);
    let mut of = ProviderDelta::default();
    for n in (0..100_000).step_by(100) {
        let counts = Counts::SUCCESS;
        of.keys.insert(key(n), KeyUsage { counts, ..KeyUsage::default() });
    }
    store.append(Delta { providers: [(P.into(), of)].into(), ..Delta::default() }).await.unwrap();
    let start = std::time::Instant::now();
    store.edit(|shelf| shelf.open_len(P)).await.unwrap();
    timed("a fold of 1,000 keys, with what is open", start);
    store.close().await.unwrap();
}

#[tokio::test]
async fn users_are_kept_and_their_fields_have_versions_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let user = |name: &str| UserRecord {
        name: name.into(),
        note: None,
        created_at: NOW,
        enabled: true,
        limits: Limits::default(),
    };
    let put = |record: UserRecord| vec![Change::PutUser { id: UserId(1), record }];
    store.change(put(user("a"))).await.unwrap();
    let limits = Limits { tokens_per_day: Some(5), ..Limits::default() };
    store.change(put(UserRecord { limits: limits.clone(), ..user("a") })).await.unwrap();
    store.change(vec![Change::PutUser { id: UserId(2), record: user("b") }]).await.unwrap();
    store.change(vec![Change::DeleteUser { id: UserId(2) }]).await.unwrap();
    let last = store.change(put(UserRecord { limits: limits.clone(), ..user("c") })).await.unwrap();
    store.close().await.unwrap();
    let (store, contents) = open(dir.path());
    assert_eq!(contents.users, [(UserId(1), UserRecord { limits, ..user("c") })]);
    assert_eq!(contents.last_version, last);
    let gone = store.edit(|shelf| shelf.gone(CORE, Row::User(UserId(2)))).await.unwrap().unwrap();
    assert!(gone.is_deletion() && gone.text.is_none());
}
