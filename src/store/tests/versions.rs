//! Who decided what when: every field bears the version of its last change.

use super::*;
use crate::{
    model::{KeyVersions, TokenVersions},
    store::shelf::{Dirty, Gone, Row},
};

async fn versions(store: &Store, n: usize) -> KeyVersions {
    let entry = store.edit(move |shelf| shelf.key(P, key(n))).await.unwrap();
    entry.unwrap().versions
}

async fn dirty(store: &Store, row: Row) -> Option<Dirty> {
    store.edit(move |shelf| shelf.dirty_row(P, row)).await.unwrap()
}

async fn replicate(store: &Store) {
    store.edit(|shelf| shelf.set_replicated(P, true)).await.unwrap();
}

fn delete(n: usize) -> Change {
    Change::DeleteKey { provider: P.into(), id: key(n) }
}

#[tokio::test]
async fn a_field_bears_the_version_of_its_own_last_change() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let added = store.change(vec![put(1)]).await.unwrap();
    assert_eq!(versions(&store, 1).await, KeyVersions::all(added));
    let mut edited = KeyRecord { note: Some("n".into()), weight: 3, ..record(1) };
    let put_edited = |record: &KeyRecord| Change::PutKey { provider: P.into(), record: record.clone() };
    let first = store.change(vec![put_edited(&edited)]).await.unwrap();
    let expected = KeyVersions { note: first, weight: first, ..KeyVersions::all(added) };
    assert_eq!(versions(&store, 1).await, expected);
    // One switch, even where only half of it moves.
    edited.disabled_until = Some(Timestamp::MAX);
    let second = store.change(vec![put_edited(&edited)]).await.unwrap();
    assert!(second > first && first > added);
    let expected = KeyVersions { enabled: second, disabled_until: second, ..expected };
    assert_eq!(versions(&store, 1).await, expected);
    // The same again is no decision.
    store.change(vec![put_edited(&edited)]).await.unwrap();
    assert_eq!(versions(&store, 1).await, expected);
    edited.username = None;
    edited.expires_at = Some(Timestamp::MAX);
    let third = store.change(vec![put_edited(&edited)]).await.unwrap();
    let expected = KeyVersions { username: third, expires_at: third, ..expected };
    assert_eq!(versions(&store, 1).await, expected);
    store.close().await.unwrap();

    let (store, contents) = open(dir.path());
    assert_eq!(contents.last_version, third);
    assert_eq!(versions(&store, 1).await, expected);
    let next = store.change(vec![put(2)]).await.unwrap();
    assert!(next > third, "also with a clock that stands still");
    store.close().await.unwrap();
}

#[tokio::test]
async fn tokens_have_versions_too() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let put = |record: TokenRecord| Change::PutToken { provider: P.into(), record };
    let added = store.change(vec![put(token())]).await.unwrap();
    let named = store.change(vec![put(TokenRecord { name: "other".into(), ..token() })]).await.unwrap();
    let id = token().id(P);
    let entry = store.edit(move |shelf| shelf.token(P, id)).await.unwrap().unwrap();
    assert_eq!(entry.versions, TokenVersions { name: named, ..TokenVersions::all(added) });
    let gone = store.change(vec![Change::DeleteToken { provider: P.into(), id }]).await.unwrap();
    let found = store.edit(move |shelf| shelf.gone(P, Row::Token(id))).await.unwrap().unwrap();
    assert_eq!((found.version, found.text), (gone, None));
    store.close().await.unwrap();
    let (store, contents) = open(dir.path());
    assert_eq!(contents.last_version, gone);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_deletion_stands_until_somebody_adds_the_key_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    replicate(&store).await;
    store.change(vec![put(1)]).await.unwrap();
    let deleted = store.change(vec![delete(1), delete(2)]).await.unwrap();
    let rows = || async { store.edit(|shelf| shelf.all_gone(P, None, 9)).await.unwrap() };
    let text = record(1).secret;
    let gone = Gone { version: deleted, digest: crate::store::desk::digest(&text), text: Some(text) };
    assert_eq!(rows().await, [(Row::Key(key(1)), gone)], "what was never there is not gone");
    let only_gone = Dirty { gone: true, ..Dirty::default() };
    assert_eq!(dirty(&store, Row::Key(key(1))).await, Some(only_gone));
    let again = store.change(vec![put(1)]).await.unwrap();
    assert!(again > deleted);
    assert_eq!(rows().await, []);
    let added = Dirty { added: true, changed: true, gone: false };
    assert_eq!(dirty(&store, Row::Key(key(1))).await, Some(added));
    store.close().await.unwrap();
    assert!(offline::check(dir.path()).unwrap().is_sound());
}

#[tokio::test]
async fn only_what_a_hub_waits_for_is_dirty() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let added = store.change(vec![put(1), put(2)]).await.unwrap();
    assert_eq!(dirty(&store, Row::Key(key(1))).await, None, "nobody to tell");
    replicate(&store).await;
    store.change(vec![put(1)]).await.unwrap();
    assert_eq!(dirty(&store, Row::Key(key(1))).await, None, "nothing to tell");
    let edited = KeyRecord { weight: 5, ..record(1) };
    store.change(vec![Change::PutKey { provider: P.into(), record: edited }]).await.unwrap();
    let changed = Dirty { changed: true, ..Dirty::default() };
    assert_eq!(dirty(&store, Row::Key(key(1))).await, Some(changed));
    // Health: only what is news.
    store.append(health_delta(2, since(added, Health::default()))).await.unwrap();
    assert_eq!(dirty(&store, Row::Key(key(2))).await, None);
    store.append(health_delta(2, since(added, failed(9)))).await.unwrap();
    assert_eq!(dirty(&store, Row::Key(key(2))).await, Some(changed));
    store.edit(|shelf| shelf.set_dirty(P, Row::Key(key(2)), None)).await.unwrap();
    store.append(health_delta(2, since(added, failed(8)))).await.unwrap();
    assert_eq!(dirty(&store, Row::Key(key(2))).await, None, "a shorter pause is no news");
    let entry = store.edit(|shelf| shelf.key(P, key(2))).await.unwrap().unwrap();
    assert_eq!(entry.health, since(added, failed(9)));
    store.close().await.unwrap();
}
