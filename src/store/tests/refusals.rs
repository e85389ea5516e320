//! Files that are not to be used: one clear sentence, and they stay as they are.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

fn refused(dir: &Path) -> Error {
    match Store::open(&Options::new(dir), NOW) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

/// Opening fails, names the file and leaves every byte of it.
fn refused_untouched(dir: &Path) -> Error {
    let file = dir.join(FILE_NAME);
    let before = fs::read(&file).unwrap();
    let error = refused(dir);
    assert!(fs::read(&file).unwrap() == before, "{error}");
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    error
}

async fn sound() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.change((0..300).map(put).collect()).await.unwrap();
    store.append(delta(Hour::of(NOW), 5)).await.unwrap();
    store.close().await.unwrap();
    let bytes = fs::read(dir.path().join(FILE_NAME)).unwrap();
    (dir, bytes)
}

#[tokio::test]
async fn files_that_are_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(FILE_NAME);
    fs::write(&file, "").unwrap();
    assert_eq!(refused_untouched(dir.path()), Error::Empty(file.clone()));
    for foreign in ["x", "hello, world, this is a text of some length", "re", "redb"] {
        fs::write(&file, foreign).unwrap();
        let error = refused_untouched(dir.path());
        assert!(matches!(error, Error::Foreign(_) | Error::Corrupt { .. }), "{foreign} {error}");
    }
    fs::remove_file(&file).unwrap();
    let other = redb::Database::create(&file).unwrap();
    let txn = other.begin_write().unwrap();
    txn.open_table(redb::TableDefinition::<u64, u64>::new("meta")).unwrap().insert(1, 2).unwrap();
    txn.commit().unwrap();
    drop(other);
    assert_eq!(refused_untouched(dir.path()), Error::Foreign(file.clone()));
    fs::remove_file(&file).unwrap();
    drop(redb::Database::create(&file).unwrap());
    assert_eq!(refused_untouched(dir.path()), Error::Foreign(file));
}

#[tokio::test]
async fn folders_and_files_in_each_others_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(FILE_NAME)).unwrap();
    assert_eq!(refused(dir.path()), Error::NotAFile(dir.path().join(FILE_NAME)));
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    assert_eq!(refused(&file), Error::NotAFolder(file.clone()));
    assert_eq!(refused(&file.join("data")), Error::NotAFolder(file.join("data")));
    assert_eq!(offline::check(&file), Err(Error::NotAFolder(file)));
    let nowhere = dir.path().join("nowhere");
    assert_eq!(offline::check(&nowhere), Err(Error::Missing(nowhere.join(FILE_NAME))));
    assert!(!nowhere.exists());
}

#[tokio::test]
async fn files_that_may_only_be_read() {
    let (dir, _) = sound().await;
    let file = dir.path().join(FILE_NAME);
    fs::set_permissions(&file, PermissionsExt::from_mode(0o400)).unwrap();
    let error = refused_untouched(dir.path());
    assert!(matches!(&error, Error::Permission { .. }), "{error}");
    // A backup may well be.
    assert!(offline::check(dir.path()).unwrap().is_sound());
    offline::restore(&file, &dir.path().join("restored")).unwrap();
    // A file system that nobody may write to.
    assert!(matches!(refused(Path::new("/proc/keytide")), Error::Permission { .. } | Error::Missing(_)));
    let empty = tempfile::tempdir().unwrap();
    fs::set_permissions(empty.path(), PermissionsExt::from_mode(0o500)).unwrap();
    assert!(matches!(refused(empty.path()), Error::Permission { .. }));
}

#[tokio::test]
async fn cut_off_files_at_many_lengths() {
    let (dir, bytes) = sound().await;
    let file = dir.path().join(FILE_NAME);
    let lengths = (1..400)
        .step_by(13)
        .chain((4096..bytes.len()).step_by(bytes.len() / 60 + 1))
        .chain([bytes.len() - 1]);
    for length in lengths {
        fs::write(&file, &bytes[..length]).unwrap();
        let error = refused_untouched(dir.path());
        assert!(matches!(error, Error::Corrupt { .. }), "{length}: {error}");
        assert!(offline::check(dir.path()).is_err());
    }
}

#[tokio::test]
async fn flipped_bits_are_harmless_or_refused() {
    let (dir, bytes) = sound().await;
    let file = dir.path().join(FILE_NAME);
    let mut random = fastrand::Rng::with_seed(7);
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let offsets = (0..320).chain((0..300).map(|_| random.usize(0..used)).collect::<Vec<_>>());
    let mut refusals = 0;
    for offset in offsets {
        let mut flipped = bytes.clone();
        flipped[offset] ^= 1 << random.u8(0..8);
        fs::write(&file, &flipped).unwrap();
        match Store::open(&Options::new(dir.path()), NOW) {
            // Bytes that nothing uses, or that redb keeps twice.
            Ok((store, contents)) => {
                let found = provider(&contents);
                assert_eq!((found.keys.len(), found.total), (300, usage(5)), "at {offset}");
                assert!(found.keys.iter().all(|(id, record, _)| *id == record.id(P)), "at {offset}");
                store.close().await.unwrap();
            }
            Err(error) => {
                refusals += 1;
                assert!(fs::read(&file).unwrap() == flipped, "at {offset}: {error}");
                assert!(!error.to_string().contains("sk-key"), "{error}");
            }
        }
    }
    assert!(refusals > 50, "{refusals}");
}

#[tokio::test]
async fn a_newer_file_is_named_as_such() {
    let (dir, _) = sound().await;
    let file = dir.path().join(FILE_NAME);
    let edit = |format: u8, record: Option<u8>| {
        let database = redb::Database::open(&file).unwrap();
        let txn = database.begin_write().unwrap();
        txn.open_table(tables::META).unwrap().insert("format", [format].as_slice()).unwrap();
        if let Some(version) = record {
            txn.open_table(tables::TOTALS).unwrap().insert(P, [version, 0].as_slice()).unwrap();
        }
        txn.commit().unwrap();
    };
    let (format, newer) = (tables::FORMAT, u32::from(tables::FORMAT) + 1);
    edit(format + 1, None);
    let refusal = Error::Newer { file: file.clone(), found: newer, known: newer - 1 };
    assert_eq!(refused_untouched(dir.path()), refusal);
    edit(format, Some(9));
    assert_eq!(refused(dir.path()), Error::Newer { file: file.clone(), found: 9, known: 1 });
    edit(format, Some(1));
    assert!(matches!(refused(dir.path()), Error::Corrupt { .. }));
}

#[tokio::test]
async fn sums_that_do_not_agree_are_reported() {
    let (dir, _) = sound().await;
    let database = redb::Database::open(dir.path().join(FILE_NAME)).unwrap();
    let txn = database.begin_write().unwrap();
    let bytes = codec::encode(&usage(4));
    txn.open_table(tables::TOTALS).unwrap().insert(P, bytes.as_slice()).unwrap();
    let bytes = codec::encode(&record(1000));
    txn.open_table(tables::KEYS).unwrap().insert((P, 5), bytes.as_slice()).unwrap();
    let bytes = codec::encode(&failed(1));
    txn.open_table(tables::HEALTH).unwrap().insert((P, 6), bytes.as_slice()).unwrap();
    txn.commit().unwrap();
    drop(database);
    let report = offline::check(dir.path()).unwrap();
    assert_eq!(report.problems.len(), 3, "{report:?}");
    let copy = tempfile::tempdir().unwrap();
    assert!(matches!(offline::restore(&dir.path().join(FILE_NAME), copy.path()), Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn a_second_user_is_told_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let in_use = Error::InUse(dir.path().join(FILE_NAME));
    assert_eq!(refused(dir.path()), in_use);
    assert_eq!(offline::check(dir.path()), Err(in_use.clone()));
    assert_eq!(offline::compact(dir.path()), Err(in_use.clone()));
    assert_eq!(offline::size_of(dir.path()), Err(in_use.clone()));
    assert!(in_use.to_string().starts_with("another keytide is using "));
    // The same from another process: this test binary again, in the role below.
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::refusals::child_process", "--ignored", "--nocapture"])
        .env("KEYTIDE_TEST_DIR", dir.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    store.append(delta(Hour::of(NOW), 1)).await.unwrap();
    store.close().await.unwrap();
}

#[ignore = "the other process of a_second_user_is_told_of_the_first"]
#[test]
fn child_process() {
    let Some(dir) = std::env::var_os("KEYTIDE_TEST_DIR") else { return };
    let dir = Path::new(&dir);
    assert_eq!(refused(dir), Error::InUse(dir.join(FILE_NAME)));
}

/// Needs the right to mount; where that is missing, `faults` covers it with a disk in memory.
#[tokio::test]
async fn a_full_disk_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let run = |program: &str, args: &[&str]| {
        std::process::Command::new(program)
            .args(args)
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !run("mount", &["-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs"]) {
        return;
    }
    let data = dir.path().join("data");
    let (store, _) = open(&data);
    store.append(delta(Hour::of(NOW), 1)).await.unwrap();
    let ballast = dir.path().join("ballast");
    let _ = fs::write(&ballast, vec![1; 8 << 20]);
    let (mut written, mut error) = (0, None);
    while error.is_none() {
        let changes = (written..written + 2000).map(put).collect();
        match store.change(changes).await {
            Ok(_) => written += 2000,
            Err(found) => error = Some(found),
        }
    }
    assert_eq!(error, Some(Error::Full(data.join(FILE_NAME))));
    assert!(store.healthy().is_some());
    let full = Store::open(&Options::new(dir.path().join("more")), NOW).err();
    assert!(matches!(full, Some(Error::Full(_))), "{full:?}");
    fs::remove_file(&ballast).unwrap();
    while store.append(delta(Hour::of(NOW), 1)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(store.healthy(), None);
    store.close().await.unwrap();
    let (store, contents) = open(&data);
    assert_eq!((provider(&contents).total, provider(&contents).keys.len()), (usage(2), written));
    store.close().await.unwrap();
    assert!(run("umount", &[]));
}
