//! Files of format 1, as keytide 0.1 made them before it could replicate.

use redb::{Database, TableDefinition};

use super::{layout::unhex, *};
use crate::{
    model::{Counts, KeyAttempts, KeyVersions, SpanId, SpanKind, Tally},
    store::{shelf::Row, tables},
};

type ById = TableDefinition<'static, (&'static str, u128), &'static [u8]>;

/// `sk-1` of the account `u`, added at 1 ms, in the layout of `layout::layouts`.
const RECORD: &str = "0104736b2d31010175000201fb580202010101";
/// Failed until 5 ms, cleared at 7 ms, as health was written first.
const HEALTH: &str = "01010a04010203010e";
const USAGE: &str = "010102fb2c01fc70110100040112";
const KEY_USAGE: &str = "010102fb2c010112000108";

fn make(dir: &Path) -> KeyId {
    let id = KeyId::derive(P, "sk-1");
    let database = Database::create(dir.join(FILE_NAME)).unwrap();
    let txn = database.begin_write().unwrap();
    let put = |name: &'static str, bytes: &str| {
        let mut rows = txn.open_table(ById::new(name)).unwrap();
        if !bytes.is_empty() {
            rows.insert((P, id.0), unhex(bytes).as_slice()).unwrap();
        }
    };
    put("keys", RECORD);
    put("health", HEALTH);
    put("key_usage", KEY_USAGE);
    put("tokens", "");
    put("token_usage", "");
    let usage = unhex(USAGE);
    let models = TableDefinition::<(&str, &str), &[u8]>::new("models");
    txn.open_table(models).unwrap().insert((P, "m"), usage.as_slice()).unwrap();
    txn.open_table(TableDefinition::<(&str, u32, &str), &[u8]>::new("hours")).unwrap();
    let totals = TableDefinition::<&str, &[u8]>::new("totals");
    txn.open_table(totals).unwrap().insert(P, usage.as_slice()).unwrap();
    txn.open_table(TableDefinition::<u64, &[u8]>::new("journal")).unwrap();
    let mut meta = txn.open_table(TableDefinition::<&str, &[u8]>::new("meta")).unwrap();
    meta.insert("magic", b"keytide".as_slice()).unwrap();
    meta.insert("format", [1].as_slice()).unwrap();
    meta.insert("instance", uuid::Uuid::from_u128(7).as_bytes().as_slice()).unwrap();
    meta.insert("created_at", 1_i64.to_le_bytes().as_slice()).unwrap();
    drop(meta);
    txn.commit().unwrap();
    id
}

fn format(dir: &Path) -> Vec<u8> {
    let database = Database::open(dir.join(FILE_NAME)).unwrap();
    let txn = redb::ReadableDatabase::begin_read(&database).unwrap();
    let meta = txn.open_table(tables::META).unwrap();
    let format = redb::ReadableTable::get(&meta, "format").unwrap().unwrap();
    format.value().to_vec()
}

#[tokio::test]
async fn a_file_from_before_replication_opens_with_everything_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let id = make(dir.path());
    // Looking changes nothing.
    assert!(offline::check(dir.path()).unwrap().is_sound());
    offline::size_of(dir.path()).unwrap();
    assert_eq!(format(dir.path()), [1]);
    let (store, contents) = open(dir.path());
    let found = provider(&contents);
    let (found_id, record, health) = &found.keys[0];
    assert_eq!((*found_id, record.secret.expose(), found.keys.len()), (id, "sk-1", 1));
    let added = Version::at(Timestamp(1));
    assert_eq!((health.failed_until, health.epoch), (Some(Timestamp(5)), Version::at(Timestamp(7))));
    assert_eq!((found.total.counts.other, found.key_usage[&id].counts.other), (300, 300));
    assert_eq!(contents.instance, uuid::Uuid::from_u128(7));
    let ever = SpanId::new(SpanKind::KeyTotal, id.0, 0);
    let ever = store.counted().await.unwrap().tally(&ever).unwrap();
    let usage = &found.key_usage[&id];
    assert_eq!((Counts::from(&ever), ever.last_used), (usage.counts, usage.last_used));
    let versions = store.edit(move |shelf| shelf.key(P, id)).await.unwrap().unwrap().versions;
    assert_eq!(versions, KeyVersions::all(added));
    // And is worked with as any other.
    let edited = KeyRecord { weight: 9, ..record.clone() };
    let at = store.change(vec![Change::PutKey { provider: P.into(), record: edited }]).await.unwrap();
    let entry = store.edit(move |shelf| shelf.key(P, id)).await.unwrap().unwrap();
    assert_eq!(entry.versions, KeyVersions { weight: at, ..KeyVersions::all(added) });
    assert_eq!(&entry.health, health, "an edit leaves the health alone");
    store.change(vec![Change::DeleteKey { provider: P.into(), id }]).await.unwrap();
    let gone = store.edit(move |shelf| shelf.gone(P, Row::Key(id))).await.unwrap();
    assert!(gone.is_some_and(|gone| gone.version > at));
    store.close().await.unwrap();
    assert_eq!(format(dir.path()), [tables::FORMAT]);
    assert!(offline::check(dir.path()).unwrap().is_sound());
}

#[tokio::test]
async fn what_everybody_has_counted_is_not_told_once_more_by_each() {
    let dir = tempfile::tempdir().unwrap();
    let id = make(dir.path());
    let database = Database::open(dir.path().join(FILE_NAME)).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(tables::REPLICATED).unwrap().insert(P, [].as_slice()).unwrap();
    txn.open_table(tables::META).unwrap().insert("format", [2].as_slice()).unwrap();
    txn.commit().unwrap();
    drop(database);
    let (store, contents) = open(dir.path());
    assert_eq!(provider(&contents).key_usage[&id].counts.other, 300);
    let ever = SpanId::new(SpanKind::KeyTotal, id.0, 0);
    assert_eq!(store.counted().await.unwrap().tally(&ever).unwrap(), Tally::default());
    store.close().await.unwrap();
}

/// `layout::layouts` has the same bytes: 303 requests of model `m` in hour 400,000, of token 2 and key 1.
const SECOND_DELTA: &str = "020101700110000000000000000000000000000000010102fb2c01011200010801fc801a0600016d0102fb2c01fc701101000401120110000000000000000000000000000000020102fb2c01fc70110100040112011000000000000000000000000000000001010a0401020301fc00c0da00";
const FIRST_DELTA: &str = "010101700110000000000000000000000000000000010102fb2c01011200010801fc801a0600016d0102fb2c01fc701101000401120110000000000000000000000000000000020102fb2c01fc70110100040112011000000000000000000000000000000001010a04010203010e";

#[tokio::test]
async fn what_an_older_keytide_left_in_the_journal_is_folded() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let database = Database::open(dir.path().join(FILE_NAME)).unwrap();
    let txn = database.begin_write().unwrap();
    let journal = TableDefinition::<u64, &[u8]>::new("journal");
    for (seq, delta) in [(3, FIRST_DELTA), (4, SECOND_DELTA)] {
        txn.open_table(journal).unwrap().insert(seq, unhex(delta).as_slice()).unwrap();
    }
    txn.commit().unwrap();
    drop(database);
    assert_eq!(offline::check(dir.path()).unwrap().journal_entries, 2);
    let (store, contents) = Store::open(&Options::new(dir.path()), Hour(400_000).start()).unwrap();
    let counts = contents.providers["p"].total.counts;
    assert_eq!((counts.success, counts.failure, counts.other), (2, 4, 600));
    let of_key = SpanId::new(SpanKind::KeyTotal, 1, 0);
    assert_eq!(
        store.counted().await.unwrap().tally(&of_key).unwrap().other,
        600,
        "they count for the key, too"
    );
    store.close().await.unwrap();
    assert!(offline::check(dir.path()).unwrap().is_sound());
}

/// The same requests, with the key's hour and day, of which 3 took 300 ms together.
const FOURTH_DELTA: &str = "040101700110000000000000000000000000000000010102fb2c01011200010801fc801a0600016d0102fb2c01fc701101000401120110000000000000000000000000000000020102fb2c01fc701101000401120002001000000000000000000000000000000001fb1a410204fb5802000001120000011000000000000000000000000000000001fc801a06000204fb5802fb5802060000000000";

#[tokio::test]
async fn what_an_older_keytide_counted_of_a_key_by_hour_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let database = Database::open(dir.path().join(FILE_NAME)).unwrap();
    let txn = database.begin_write().unwrap();
    let journal = TableDefinition::<u64, &[u8]>::new("journal");
    txn.open_table(journal).unwrap().insert(3, unhex(FOURTH_DELTA).as_slice()).unwrap();
    txn.commit().unwrap();
    drop(database);
    let of = |kind, at| SpanId::new(kind, 1, at);
    for (times, ends) in [(1, 300), (2, 600)] {
        let (store, contents) = Store::open(&Options::new(dir.path()), Hour(400_000).start()).unwrap();
        let counts = contents.providers["p"].key_usage[&KeyId(1)].counts;
        assert_eq!((counts.success, counts.failure, counts.other), (times, 2 * times, ends));
        let found = store.counted().await.unwrap();
        let (ever, day) =
            (found.tally(&of(SpanKind::KeyTotal, 0)), found.tally(&of(SpanKind::KeyDay, 16_666)));
        assert_eq!((ever.unwrap().other, day.unwrap().other), (ends as i64, ends as i64));
        let hour = found.tally(&of(SpanKind::KeyHour, 400_000)).unwrap();
        let timed = (hour.other, hour.prompt_tokens, hour.completion_tokens);
        assert_eq!(timed, (ends as i64, 300 * times as i64, 3 * times as i64));
        // The same again, as it is written now, and read when it is opened again.
        let counts = Counts { success: 1, failure: 2, other: 300 };
        let usage = KeyUsage { counts, ..KeyUsage::default() };
        let mut delta = Delta::default();
        let of_provider = delta.providers.entry("p".into()).or_default();
        let attempts = KeyAttempts { usage, timed: 3, millis: 300 };
        of_provider.attempts.entry((Hour(400_000), 16_666)).or_default().insert(KeyId(1), attempts);
        store.append(delta).await.unwrap();
        store.close().await.unwrap();
        assert!(offline::check(dir.path()).unwrap().is_sound());
    }
}

#[test]
fn a_backup_from_before_replication_can_be_restored() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let data = dir.path().join("data");
    assert!(offline::restore(&dir.path().join(FILE_NAME), &data).unwrap().is_sound());
    let (_store, contents) = open(&data);
    assert_eq!(provider(&contents).keys.len(), 1);
}
