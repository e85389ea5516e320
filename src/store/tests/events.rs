//! Events are kept once, for so long and at most so many; what rooms remember comes back as it was.

use serde_json::Map;
use uuid::Uuid;

use super::*;
use crate::{model::Event, store::shelf::CORE};

const DAY: Duration = Duration::from_secs(86_400);

fn event(n: u128, at: Timestamp) -> Event {
    let details = [("seen".to_owned(), 7.into())].into_iter().collect::<Map<_, _>>();
    Event {
        id: Uuid::from_u128(n),
        kind: "abuse".into(),
        user: None,
        key: None,
        severity: 3,
        details,
        at,
        weight: 1,
    }
}

/// The latest first.
async fn kept(store: &Store) -> Vec<u128> {
    let events = store.events().await.unwrap();
    let (total, found) = events.list((Timestamp(0), Timestamp::MAX), |_| true, 0, usize::MAX).unwrap();
    assert_eq!(total, found.len());
    found.iter().map(|event| event.id.as_u128()).collect()
}

#[tokio::test]
async fn events_are_kept_once_and_as_long_as_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(NOW);
    let (store, _) = Store::open(&Options::new(dir.path()), clock.clone()).unwrap();
    let first = event(1, NOW);
    store.record_events(vec![first.clone(), event(2, NOW.saturating_add(DAY / 2))], DAY * 2).await.unwrap();
    store.record_events(vec![first.clone()], DAY * 2).await.unwrap();
    assert_eq!(kept(&store).await, [2, 1]);
    let events = store.events().await.unwrap();
    assert_eq!(events.oldest().unwrap(), Some(NOW));
    let of = |from: i64, to: i64| events.list((Timestamp(from), Timestamp(to)), |_| true, 0, 9).unwrap();
    assert_eq!(of(NOW.0, NOW.0 + 1), (1, vec![first]));
    assert_eq!((of(NOW.0, NOW.0).0, of(NOW.0 + 1, NOW.0).0), (0, 0));
    assert_eq!(events.list((NOW, Timestamp::MAX), |_| true, 1, 1).unwrap().1[0].id.as_u128(), 1);
    clock.advance(DAY * 2 + Duration::from_millis(1));
    store.record_events(vec![event(3, clock.now())], DAY * 2).await.unwrap();
    assert_eq!(kept(&store).await, [3, 2]);
    store.close().await.unwrap();
    let (store, _) = Store::open(&Options::new(dir.path()), clock).unwrap();
    assert_eq!(kept(&store).await, [3, 2]);
    store.close().await.unwrap();
}

#[tokio::test]
async fn there_are_at_most_so_many_and_none_of_a_clock_that_was_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&Options::new(dir.path()), NOW).unwrap();
    let ahead = NOW.saturating_add(DAY * 400);
    let mut all: Vec<_> = (0..20_005).map(|n| event(n, Timestamp(NOW.0 - 30_000 + n as i64))).collect();
    all.push(event(1 << 64, ahead));
    store.record_events(all, DAY).await.unwrap();
    let kept = kept(&store).await;
    assert_eq!((kept.len(), kept[0], kept[19_999]), (20_000, 20_004, 5));
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_hub_is_told_of_each_as_long_as_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(NOW);
    let (store, _) = Store::open(&Options::new(dir.path()), clock.clone()).unwrap();
    let open = async || {
        let open = store.edit(|shelf| shelf.open_events(9)).await.unwrap();
        open.iter().map(|event| event.id.as_u128()).collect::<Vec<_>>()
    };
    store.record_events(vec![event(1, NOW)], DAY).await.unwrap();
    assert!(open().await.is_empty(), "nobody is to be told");
    store.edit(|shelf| shelf.set_replicated(CORE, true)).await.unwrap();
    store.record_events(vec![event(2, NOW), event(3, NOW)], DAY).await.unwrap();
    assert_eq!(open().await, [2, 3]);
    clock.advance(DAY * 2);
    store.record_events(vec![event(4, clock.now())], DAY).await.unwrap();
    assert_eq!((open().await, kept(&store).await), (vec![4], vec![4]));
    store.clone().close().await.unwrap();
}

#[tokio::test]
async fn what_is_remembered_is_recalled_in_its_own_layout_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&Options::new(dir.path()), NOW).unwrap();
    let large: Vec<u64> = (0..100_000).collect();
    assert_eq!(store.recall::<Vec<u64>>("a", 1).await.unwrap(), None);
    store.remember("a", 1, large.clone()).await.unwrap();
    store.remember("ab", 1, vec![7_u64]).await.unwrap();
    assert_eq!(store.recall("a", 1).await.unwrap(), Some(large));
    assert_eq!(store.recall::<Vec<u64>>("a", 2).await.unwrap(), None);
    // Of what was there before nothing is left.
    store.remember("a", 2, vec![1_u64, 2]).await.unwrap();
    assert_eq!(store.recall("a", 2).await.unwrap(), Some(vec![1_u64, 2]));
    assert_eq!(store.recall("ab", 1).await.unwrap(), Some(vec![7_u64]));
    let copy = dir.path().join("copy");
    store.record_events(vec![event(1, NOW)], DAY).await.unwrap();
    std::fs::create_dir(&copy).unwrap();
    store.backup(copy.join(FILE_NAME), |_| {}).await.unwrap();
    store.close().await.unwrap();
    let (store, _) = Store::open(&Options::new(&copy), NOW).unwrap();
    assert_eq!(store.recall("a", 2).await.unwrap(), Some(vec![1_u64, 2]));
    assert_eq!(kept(&store).await, [1]);
    store.close().await.unwrap();
}
