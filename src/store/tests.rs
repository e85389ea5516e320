//! The room as a whole: what goes in comes out, also after stops of every kind.

mod core;
mod disk;
mod edits;
mod events;
mod faults;
mod layout;
mod older;
mod refusals;
mod versions;

use std::{path::Path, time::Duration};

use super::{offline, *};
use crate::model::{
    Cause, Counts, Health, Hour, KeyId, KeyRecord, KeyUsage, Limits, ProviderDelta, Secret, Timestamp,
    TokenRecord, Usage, UserId,
};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const P: &str = "ollama";

fn record(n: usize) -> KeyRecord {
    KeyRecord {
        username: Some("somebody".into()),
        ..KeyRecord::new(Secret::new(format!("sk-key-number-{n:08}")), NOW)
    }
}

fn key(n: usize) -> KeyId {
    record(n).id(P)
}

fn token() -> TokenRecord {
    TokenRecord {
        secret: Secret::new("sk-token-of-somebody"),
        name: "somebody".into(),
        created_at: NOW,
        expires_at: Some(Timestamp::MAX),
        user: Some(UserId(9)),
        limits: Limits {
            allowed_models: vec!["llama*".into()],
            requests_per_minute: Some(7),
            ..Limits::default()
        },
    }
}

fn put(n: usize) -> Change {
    Change::PutKey { provider: P.into(), record: record(n) }
}

fn failed(at: i64) -> Health {
    Health {
        failed_until: Some(Timestamp(at)),
        cause: Cause::Server,
        consecutive_failures: 1,
        ..Health::default()
    }
}

fn usage(requests: u64) -> Usage {
    Usage {
        counts: Counts { success: requests, failure: 0, other: 0 },
        prompt_tokens: requests * 10,
        completion_tokens: requests * 3,
        last_used: Some(NOW),
    }
}

/// `requests` of one model in one hour, through key 1.
fn delta(hour: Hour, requests: u64) -> Delta {
    let counts = Counts { success: requests, failure: 0, other: 0 };
    let mut of = ProviderDelta::default();
    of.keys.insert(
        key(1),
        KeyUsage { counts, last_used: Some(NOW), last_success: Some(NOW), last_failure: None },
    );
    of.hours.insert((hour, "llama3".into()), usage(requests));
    of.tokens.insert(token().id(P), usage(requests));
    Delta { providers: [(P.into(), of)].into(), ..Delta::default() }
}

fn health_delta(n: usize, health: Health) -> Delta {
    let of = ProviderDelta { health: [(key(n), health)].into_iter().collect(), ..ProviderDelta::default() };
    Delta { providers: [(P.into(), of)].into(), ..Delta::default() }
}

fn open(dir: &Path) -> (Store, Contents) {
    Store::open(&Options::new(dir), NOW).expect("opens")
}

/// What a killed process leaves behind: the file as it is, copied beside its writer.
fn killed_copy(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.join(FILE_NAME), copy.path().join(FILE_NAME)).unwrap();
    copy
}

/// A health as it is known since its key was added.
fn since(added: Version, health: Health) -> Health {
    Health { epoch: health.epoch.max(added), ..health }
}

fn provider(contents: &Contents) -> &ProviderContents {
    &contents.providers[P]
}

#[tokio::test]
async fn what_went_in_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("new/data");
    let (store, contents) = open(&data);
    assert!(contents.providers.is_empty());
    let other = Change::PutKey { provider: "openrouter".into(), record: record(1) };
    let added = store
        .change(vec![put(1), put(2), other, Change::PutToken { provider: P.into(), record: token() }])
        .await
        .unwrap();
    let hour = Hour::of(NOW);
    store.append(delta(hour, 2)).await.unwrap();
    store.append(delta(hour, 3)).await.unwrap();
    store.append(delta(Hour(hour.0 - 1), 4)).await.unwrap();
    store.append(health_delta(2, since(added, failed(5)))).await.unwrap();
    assert_eq!(store.healthy(), None);
    store.close().await.unwrap();

    let (store, again) = open(&data);
    assert_eq!(again.instance, contents.instance);
    assert_eq!(again.providers.len(), 2);
    let found = provider(&again);
    let well = since(added, Health::default());
    let mut keys = vec![(key(1), record(1), well), (key(2), record(2), since(added, failed(5)))];
    keys.sort_by_key(|(id, ..)| *id);
    assert_eq!(found.keys, keys);
    assert_eq!(found.key_usage[&key(1)].counts.success, 9);
    assert_eq!(found.tokens, [(token().id(P), token())]);
    assert_eq!(found.token_usage[&token().id(P)], usage(9));
    assert_eq!(found.models["llama3"], usage(9));
    assert_eq!(found.hours[&(hour, "llama3".into())], usage(5));
    assert_eq!(found.hours[&(Hour(hour.0 - 1), "llama3".into())], usage(4));
    assert_eq!(found.total, usage(9));
    assert_eq!(again.providers["openrouter"].keys.len(), 1);
    store.close().await.unwrap();
    let report = offline::check(&data).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.keys, report.tokens, report.journal_entries), (3, 1, 0));
}

#[cfg(unix)]
#[tokio::test]
async fn folder_and_file_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (store, _) = open(&data);
    assert_eq!((mode(&data), mode(&data.join(FILE_NAME))), (0o700, 0o600));
    store.backup(data.join("copy"), |_| ()).await.unwrap();
    assert_eq!(mode(&data.join("copy")), 0o600);
    store.close().await.unwrap();
    std::fs::set_permissions(data.join(FILE_NAME), PermissionsExt::from_mode(0o644)).unwrap();
    open(&data).0.close().await.unwrap();
    assert_eq!(mode(&data.join(FILE_NAME)), 0o600);
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 2, "no drafts are left behind");
}

#[tokio::test]
async fn a_killed_process_loses_nothing_acknowledged_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for n in 1..=20 {
        store.append(delta(Hour::of(NOW), 1)).await.unwrap();
        store.change(vec![put(n)]).await.unwrap();
        if n == 10 {
            // Some of it folded, some in the journal.
            tokio::time::sleep(writer::FOLD_EVERY + Duration::from_millis(300)).await;
        }
        if n % 3 == 1 {
            let copy = killed_copy(dir.path());
            for _ in 0..2 {
                let (again, contents) = open(copy.path());
                assert_eq!(provider(&contents).total, usage(n as u64));
                assert_eq!(provider(&contents).keys.len(), n);
                again.close().await.unwrap();
            }
        }
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn the_journal_is_folded_after_a_while_and_then_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append(delta(Hour::of(NOW), 1)).await.unwrap();
    assert_eq!(store.size().await.unwrap().journal_entries, 1);
    tokio::time::sleep(writer::FOLD_EVERY + Duration::from_millis(500)).await;
    let sizes = store.size().await.unwrap();
    assert_eq!(sizes.journal_entries, 0);
    assert_eq!(sizes.tables.iter().find(|table| table.name == "models").unwrap().rows, 1);
    let before = std::fs::read(store.file()).unwrap();
    tokio::time::sleep(writer::FOLD_EVERY + Duration::from_millis(500)).await;
    assert!(before == std::fs::read(store.file()).unwrap(), "an idle store was written");
    store.close().await.unwrap();
}

#[tokio::test]
async fn hours_are_forgotten_after_thirty_days_and_totals_keep_them() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let now = Hour::of(NOW);
    for days in [0, 29, 31, 400] {
        store.append(delta(Hour(now.0 - days * 24), 1)).await.unwrap();
    }
    store.close().await.unwrap();
    let (store, contents) = open(dir.path());
    assert_eq!(provider(&contents).hours.len(), 2);
    assert_eq!((provider(&contents).total, provider(&contents).models["llama3"]), (usage(4), usage(4)));
    store.close().await.unwrap();
    assert!(offline::check(dir.path()).unwrap().is_sound());
}

#[tokio::test]
async fn a_deleted_key_takes_its_health_along_and_leaves_its_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let added = store.change(vec![put(1)]).await.unwrap();
    store.append(delta(Hour::of(NOW), 2)).await.unwrap();
    store.append(health_delta(1, since(added, failed(9)))).await.unwrap();
    store.change(vec![Change::DeleteKey { provider: P.into(), id: key(1) }]).await.unwrap();
    // What was under way when the key went.
    store.append(delta(Hour::of(NOW), 3)).await.unwrap();
    store.append(health_delta(1, since(added, failed(99)))).await.unwrap();
    store.close().await.unwrap();
    let (store, contents) = open(dir.path());
    assert!(provider(&contents).keys.is_empty());
    let again = store.change(vec![put(1)]).await.unwrap();
    assert!(again > added);
    // What was longer under way.
    store.append(health_delta(1, since(added, failed(999)))).await.unwrap();
    store.close().await.unwrap();
    let (store, contents) = open(dir.path());
    assert_eq!(provider(&contents).keys, [(key(1), record(1), since(again, Health::default()))]);
    assert_eq!(provider(&contents).key_usage[&key(1)].counts.success, 5);
    store.close().await.unwrap();
    assert!(offline::check(dir.path()).unwrap().is_sound());
}

#[tokio::test]
async fn a_persons_word_stands_over_health_that_was_appended_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let added = store.change(vec![put(1)]).await.unwrap();
    store.append(health_delta(1, since(added, failed(9)))).await.unwrap();
    let cleared = Health { epoch: store.stamps().next(NOW), ..Health::default() };
    let word = Change::PutHealth { provider: P.into(), id: key(1), health: cleared.clone() };
    let nobody = Change::PutHealth { provider: P.into(), id: key(2), health: failed(1) };
    store.change(vec![word, nobody]).await.unwrap();
    store.close().await.unwrap();
    let (store, contents) = open(dir.path());
    assert_eq!(provider(&contents).keys, [(key(1), record(1), cleared)]);
    store.close().await.unwrap();
    assert!(offline::check(dir.path()).unwrap().is_sound());
}

#[tokio::test]
async fn changes_of_one_row_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let delete = || Change::DeleteKey { provider: P.into(), id: key(1) };
    let edited = KeyRecord { weight: 9, ..record(1) };
    let edit = Change::PutKey { provider: P.into(), record: edited.clone() };
    store.change(vec![put(1), delete(), put(1), edit, put(2), delete(), put(1)]).await.unwrap();
    store.change(vec![Change::PutToken { provider: P.into(), record: token() }]).await.unwrap();
    store.change(vec![Change::DeleteToken { provider: P.into(), id: token().id(P) }]).await.unwrap();
    store.close().await.unwrap();
    let (store, contents) = open(dir.path());
    assert_eq!(provider(&contents).keys.len(), 2);
    assert!(provider(&contents).keys.iter().all(|(_, record, _)| record.weight == 1));
    assert!(provider(&contents).tokens.is_empty());
    store.close().await.unwrap();
}

#[tokio::test]
async fn many_writers_at_once_share_commits_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let tasks: Vec<_> = (0..400)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                store.append(delta(Hour::of(NOW), 1)).await.unwrap();
                store.change(vec![put(n)]).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let clone = store.clone();
    store.close().await.unwrap();
    assert_eq!(clone.append(delta(Hour(0), 1)).await, Err(Error::Closed));
    let (store, contents) = open(dir.path());
    assert_eq!((provider(&contents).total, provider(&contents).keys.len()), (usage(400), 400));
    store.close().await.unwrap();
}

#[tokio::test]
async fn dropping_the_handle_lets_go_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.append(delta(Hour::of(NOW), 1)).await.unwrap();
    drop(store);
    for _ in 0..500 {
        match Store::open(&Options::new(dir.path()), NOW) {
            Ok((store, contents)) => {
                assert_eq!(provider(&contents).total, usage(1));
                return store.close().await.unwrap();
            }
            Err(Error::InUse(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the file is still held");
}

#[tokio::test]
async fn a_backup_of_a_live_store_can_be_restored() {
    let dir = tempfile::tempdir().unwrap();
    let (store, first) = open(&dir.path().join("data"));
    store.change((0..3000).map(put).collect()).await.unwrap();
    store.append(delta(Hour::of(NOW), 6)).await.unwrap();
    let copy = dir.path().join("copy.redb");
    let (report, reports) = std::sync::mpsc::channel();
    store.backup(copy.clone(), move |at| report.send(at).unwrap()).await.unwrap();
    let reports: Vec<Progress> = reports.iter().collect();
    assert!(reports.len() > 3 && reports.is_sorted_by_key(|at| at.rows_done));
    assert!(reports.last().is_some_and(|at| at.rows_done == at.rows_total));
    assert_eq!(store.backup(copy.clone(), |_| ()).await, Err(Error::Exists(copy.clone())));
    // Written after the snapshot.
    store.append(delta(Hour::of(NOW), 1)).await.unwrap();
    let live = offline::restore(store.file(), &dir.path().join("other"));
    assert_eq!(live, Err(Error::InUse(store.file().to_owned())));
    store.close().await.unwrap();

    let data = dir.path().join("data");
    assert_eq!(offline::restore(&copy, &data), Err(Error::Exists(data.join(FILE_NAME))));
    let restored = dir.path().join("restored");
    let found = offline::restore(&copy, &restored).unwrap();
    assert_eq!((found.keys, found.journal_entries, found.instance), (3000, 1, first.instance));
    let (store, contents) = open(&restored);
    assert_eq!((provider(&contents).keys.len(), provider(&contents).total), (3000, usage(6)));
    store.close().await.unwrap();
}

/// A process that was killed while it made the store could not.
#[tokio::test]
async fn drafts_that_a_crash_left_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.close().await.unwrap();
    let draft = |name: &str| dir.path().join(format!(".{name}.{}.part", uuid::Uuid::new_v4().simple()));
    let write = |path: &Path, age: Duration| {
        let file = std::fs::File::create(path).unwrap();
        file.set_modified(std::time::SystemTime::now() - age).unwrap();
    };
    let hour = Duration::from_secs(3600);
    let (left, fresh, other) = (draft(FILE_NAME), draft(FILE_NAME), draft("copy.redb"));
    let (published, named) = (draft(FILE_NAME), dir.path().join(format!(".{FILE_NAME}.mine.part")));
    write(&left, hour);
    write(&fresh, Duration::ZERO);
    write(&other, hour);
    write(&named, hour);
    std::fs::hard_link(dir.path().join(FILE_NAME), &published).unwrap();
    let (store, _) = open(dir.path());
    assert!(!left.exists() && !published.exists());
    assert!(fresh.exists() && other.exists() && named.exists());
    store.close().await.unwrap();
}

#[tokio::test]
async fn compacting_gives_space_back_and_changes_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change((0..5000).map(put).collect()).await.unwrap();
    let gone = (0..4900).map(|n| Change::DeleteKey { provider: P.into(), id: key(n) });
    store.change(gone.collect()).await.unwrap();
    store.close().await.unwrap();
    let sizes = offline::size_of(dir.path()).unwrap();
    let (before, after) = offline::compact(dir.path()).unwrap();
    assert_eq!(sizes.file_bytes, before);
    assert!(after * 2 < before, "{before} {after}");
    let (store, contents) = open(dir.path());
    assert_eq!(provider(&contents).keys.len(), 100);
    store.close().await.unwrap();
}

/// `cargo test --release -- --ignored --nocapture at_a_hundred_thousand`
#[ignore = "prints times"]
#[tokio::test]
async fn at_a_hundred_thousand_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let changes: Vec<_> = (0..100_000).map(put).collect();
    let start = std::time::Instant::now();
    let added = store.change(changes).await.unwrap();
    println!("put: {:?}", start.elapsed());
    let mut of = ProviderDelta::default();
    for n in 0..100_000 {
        of.keys.insert(key(n), KeyUsage::default());
        of.health.insert(key(n), since(added, failed(n as i64)));
    }
    store.append(Delta { providers: [(P.into(), of)].into(), ..Delta::default() }).await.unwrap();
    let start = std::time::Instant::now();
    store.backup(dir.path().join("copy"), |_| ()).await.unwrap();
    println!("fold and backup: {:?}", start.elapsed());
    store.close().await.unwrap();
    let size = std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().len();
    let start = std::time::Instant::now();
    let (store, contents) = open(dir.path());
    println!("open: {:?}, {size} bytes", start.elapsed());
    assert_eq!(provider(&contents).keys.len(), 100_000);
    store.close().await.unwrap();
    let start = std::time::Instant::now();
    drop(file::inspect(&dir.path().join(FILE_NAME)).unwrap());
    println!("of which the look: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    let (database, identity) = file::open(&dir.path().join(FILE_NAME)).unwrap();
    println!("look and open: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    let txn = redb::ReadableDatabase::begin_read(&database).unwrap();
    let contents = load::contents(&txn, identity.instance).unwrap();
    println!("rows: {:?}", start.elapsed());
    assert_eq!(provider(&contents).keys.len(), 100_000);
}

#[tokio::test]
async fn a_backup_has_every_table() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir.path().join("data"));
    let copy = dir.path().join("copy.redb");
    store.backup(copy.clone(), |_| ()).await.unwrap();
    let file = store.file().to_owned();
    store.close().await.unwrap();
    let names = |file: &Path| {
        let database = redb::Database::open(file).unwrap();
        let txn = redb::ReadableDatabase::begin_read(&database).unwrap();
        let names = txn.list_tables().unwrap().map(|table| redb::TableHandle::name(&table).to_owned());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(&copy), names(&file));
}
