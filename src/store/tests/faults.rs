//! Disks that fail, fill up and lose power: everything acknowledged is there afterwards, and nothing twice.

use redb::{Database, ReadableDatabase};

use super::{
    disk::{Disk, Failure},
    *,
};
use crate::model::CounterId;
use crate::store::{
    error::{Fault, guarded},
    shelf::Shelf,
    tables::{self, Identity, Origin},
    writer::Opener,
};

fn mount(disk: &Disk) -> Result<(Database, Identity), Error> {
    guarded(|| {
        let database = file::builder().create_with_backend(disk.clone())?;
        match tables::origin(&database.begin_read()?)? {
            Origin::Keytide(identity) => Ok((database, identity)),
            other => Err(Fault::Known(Error::corrupt(Path::new("disk"), format!("{other:?}")))),
        }
    })
    .map_err(|fault| fault.at(Path::new("disk")))
}

fn new_disk() -> Disk {
    let disk = Disk::default();
    let database = file::builder().create_with_backend(disk.clone()).unwrap();
    let txn = database.begin_write().unwrap();
    tables::create(&txn, &Identity { instance: uuid::Uuid::nil(), created_at: NOW }).unwrap();
    txn.commit().unwrap();
    database.close().unwrap();
    disk
}

fn start(disk: &Disk) -> Result<(Store, Contents), Error> {
    let disk = disk.clone();
    let open: Opener = Box::new(move || mount(&disk));
    Store::start("disk".into(), open, NOW.into())
}

/// A disk that is full may be so for a few attempts.
fn start_at_last(disk: &Disk, what: &str) -> (Store, Contents) {
    (0..10).find_map(|_| start(disk).ok()).unwrap_or_else(|| panic!("{what}: {:?}", start(disk).err()))
}

/// What a worker knows of its own doing.
#[derive(Default)]
struct Told {
    appended: u64,
    keys: Vec<KeyId>,
    failures: u32,
}

const ROUNDS: usize = 12;

/// Also takes another id in the middle, as a copied file does.
fn seal(shelf: &mut dyn Shelf, seq: u64) -> Result<(), Error> {
    shelf.set_replicated(P, true)?;
    let (sealed, open) = (number(shelf, "sealed")?, shelf.open(P, &CounterId::Total)?.unwrap_or_default());
    let edits = number(shelf, "edits")?;
    shelf.set_note("edits", Some((edits + 1).to_string().as_bytes()))?;
    shelf.set_note("sealed", Some((sealed + open.success).to_string().as_bytes()))?;
    shelf.set_open(P, &CounterId::Total, None)?;
    shelf.set_batch(P, seq, Some(b"batch"))?;
    let mut entry = shelf.key(P, key(seq as usize))?.expect("it was put before");
    entry.record.weight = 3;
    shelf.put_key(P, key(seq as usize), &entry)?;
    if seq == 5 {
        shelf.set_instance(uuid::Uuid::from_u128(5))?;
    }
    Ok(())
}

fn number(shelf: &dyn Shelf, note: &str) -> Result<i64, Error> {
    let note = shelf.note(note)?.unwrap_or_default();
    Ok(std::str::from_utf8(&note).unwrap().parse().unwrap_or(0))
}

/// Appends, changes and closes, trying again whatever fails.
async fn work(store: Store) -> Told {
    let mut told = Told::default();
    for round in 0..ROUNDS {
        while store.append(delta(Hour::of(NOW), 1)).await.is_err() {
            told.failures += 1;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        told.appended += 1;
        // A delete folds first, so that folds fail too.
        let mut changes = vec![put(round)];
        if round % 3 == 2 {
            changes.push(Change::DeleteKey { provider: P.into(), id: key(round - 1) });
        }
        while store.change(changes.clone()).await.is_err() {
            told.failures += 1;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        // What is open moves into a batch, which counts it.
        while store.edit(move |shelf| seal(shelf, round as u64)).await.is_err() {
            told.failures += 1;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        told.keys.push(key(round));
        if round % 3 == 2 {
            told.keys.retain(|id| *id != key(round - 1));
        }
    }
    told.keys.sort();
    let _ = store.close().await;
    told
}

fn assert_as_told(contents: &Contents, told: &Told, what: &str) {
    let found = provider(contents);
    assert_eq!(found.total, usage(told.appended), "{what}");
    assert_eq!(found.models["llama3"], usage(told.appended), "{what}");
    assert_eq!(found.key_usage[&key(1)].counts.success, told.appended, "{what}");
    assert_eq!(found.keys.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), told.keys, "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failure_anywhere_loses_and_doubles_nothing() {
    let calm = new_disk();
    let before = calm.operations();
    let told = work(start(&calm).unwrap().0).await;
    assert_eq!(told.failures, 0);
    let operations = calm.operations() - before;
    assert!(operations > 100, "{operations}");
    let failures = [Failure::Nothing, Failure::Reported, Failure::Full(3)];
    let mut tasks = tokio::task::JoinSet::new();
    for (n, failure) in (1..operations).step_by(3).flat_map(|n| failures.map(|failure| (n, failure))) {
        tasks.spawn(async move {
            let what = format!("{failure:?} at {n}");
            let disk = new_disk();
            disk.fail_after(n, failure);
            // It may fail already while opening.
            let store = start_at_last(&disk, &what).0;
            let told = work(store).await;
            assert!(disk.has_failed(), "{what}");
            let (again, contents) = start_at_last(&disk, &what);
            assert_as_told(&contents, &told, &what);
            assert_eq!(contents.instance, uuid::Uuid::from_u128(5), "{what}");
            let (batches, counted) = again
                .edit(|shelf| {
                    let open = shelf.open(P, &CounterId::Total)?.unwrap_or_default();
                    assert_eq!(number(shelf, "edits")?, ROUNDS as i64, "an edit was done twice");
                    Ok::<_, Error>((
                        shelf.batches(P, 0, usize::MAX)?,
                        number(shelf, "sealed")? + open.success,
                    ))
                })
                .await
                .unwrap();
            assert_eq!(batches, (0..ROUNDS as u64).collect::<Vec<_>>(), "{what}");
            // All but what was counted before the first round's edit.
            assert_eq!(counted as u64, told.appended - 1, "{what}");
            assert_eq!(again.healthy(), None);
            again.close().await.unwrap();
            told.failures
        });
    }
    let seen: u32 = tasks.join_all().await.into_iter().sum();
    assert!(seen > 50, "the failures were noticed: {seen}");
}

#[tokio::test]
async fn a_power_loss_keeps_everything_acknowledged() {
    let disk = new_disk();
    let (store, _) = start(&disk).unwrap();
    for n in 1..=15 {
        store.append(delta(Hour::of(NOW), 1)).await.unwrap();
        store.change(vec![put(n)]).await.unwrap();
        for seed in 0..8 {
            let (again, contents) = start(&Disk::holding(disk.after_power_loss(seed))).unwrap();
            assert_eq!(provider(&contents).total, usage(n as u64));
            assert_eq!(provider(&contents).keys.len(), n);
            again.close().await.unwrap();
        }
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_power_loss_in_the_middle_of_a_commit_leaves_all_or_nothing_of_it() {
    for n in 1..40 {
        let disk = new_disk();
        let (store, _) = start(&disk).unwrap();
        store.append(delta(Hour::of(NOW), 1)).await.unwrap();
        disk.fail_after(n, Failure::Nothing);
        let acknowledged = 1 + u64::from(store.append(delta(Hour::of(NOW), 1)).await.is_ok());
        for seed in 0..8 {
            let (again, contents) = start(&Disk::holding(disk.after_power_loss(seed))).unwrap();
            let found = provider(&contents).total.counts.success;
            assert!((acknowledged..=2).contains(&found), "{found} at {n}, seed {seed}");
            again.close().await.unwrap();
        }
        drop(store);
    }
}

#[tokio::test]
async fn a_problem_is_told_and_forgotten_again() {
    let disk = new_disk();
    let (store, _) = start(&disk).unwrap();
    disk.fail_after(1, Failure::Full(4));
    let error = store.append(delta(Hour::of(NOW), 1)).await.unwrap_err();
    assert_eq!(error, Error::Full("disk".into()));
    assert!(store.healthy().unwrap().contains("full"));
    // Nobody writes: the store finds out by itself that the disk is well again.
    tokio::time::timeout(Duration::from_secs(60), async {
        while store.healthy().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    store.append(delta(Hour::of(NOW), 1)).await.unwrap();
    store.close().await.unwrap();
    let (store, contents) = start(&disk).unwrap();
    assert_eq!(provider(&contents).total, usage(1));
    store.close().await.unwrap();
}
