//! The tables of the file, and the rows that say whose file it is.

use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    codec::{self, Record},
    error::Fault,
    shelf::Row,
};
use crate::model::{
    CounterId, Hour, KeyId, KeyUsage, Period, SetId, SpanId, SpanKind, Tally, Timestamp, TokenId, UserId,
};

/// Provider and id.
pub(super) type Id = (&'static str, u128);
/// Provider, kind of row and id: see [`row_at`].
pub(super) type RowKey = (&'static str, u8, u128);
/// Provider and counter: see [`counter_at`].
pub(super) type CounterKey = (&'static str, u8, u128, &'static str);
/// Kind, period and id: see [`span_at`] and [`set_at`]. In the order of periods, so that what is counted together
/// and what is forgotten together stand together.
pub(super) type Dated = (u8, u32, u128);

pub(super) type Of<K> = TableDefinition<'static, K, &'static [u8]>;

pub(super) const META: Of<&str> = TableDefinition::new("meta");
pub(super) const KEYS: Of<Id> = TableDefinition::new("keys");
/// Of keys that were changed since files have versions; the others' fields are as old as the key.
pub(super) const KEY_VERSIONS: Of<Id> = TableDefinition::new("key_versions");
/// Of keys about which there is something to say.
pub(super) const HEALTH: Of<Id> = TableDefinition::new("health");
/// Outlives its key: a key that is added again goes on from its old counts.
pub(super) const KEY_USAGE: Of<Id> = TableDefinition::new("key_usage");
pub(super) const TOKENS: Of<Id> = TableDefinition::new("tokens");
pub(super) const TOKEN_VERSIONS: Of<Id> = TableDefinition::new("token_versions");
pub(super) const TOKEN_USAGE: Of<Id> = TableDefinition::new("token_usage");
/// Belong to no provider.
pub(super) const USERS: Of<u128> = TableDefinition::new("users");
pub(super) const USER_VERSIONS: Of<u128> = TableDefinition::new("user_versions");
pub(super) const MODELS: Of<(&str, &str)> = TableDefinition::new("models");
pub(super) const HOURS: Of<(&str, u32, &str)> = TableDefinition::new("hours");
pub(super) const TOTALS: Of<&str> = TableDefinition::new("totals");
/// What was counted by hour, day and person.
pub(super) const TALLIES: Of<Dated> = TableDefinition::new("tallies");
/// What user days that are kept no more came to, by month.
pub(super) const MONTHS: Of<Dated> = TableDefinition::new("months");
pub(super) const SETS: Of<Dated> = TableDefinition::new("sets");
/// How many members sets had that are kept no more.
pub(super) const SET_SIZES: Of<Dated> = TableDefinition::new("set_sizes");
/// By when they were.
pub(super) const EVENTS: Of<(i64, u128)> = TableDefinition::new("events");
/// What other rooms remember, by name and part.
pub(super) const MEMORY: Of<(&str, u32)> = TableDefinition::new("memory");
/// Deltas in the order they came, not yet folded into the other tables.
pub(super) const JOURNAL: Of<u64> = TableDefinition::new("journal");
/// Keys and tokens that were deleted.
pub(super) const GONE: Of<RowKey> = TableDefinition::new("gone");

// What follows has rows for providers that replicate only.

/// The providers that do.
pub(super) const REPLICATED: Of<&str> = TableDefinition::new("replicated");
/// The ids of keys and tokens by the digest of their text.
pub(super) const DIGESTS: Of<RowKey> = TableDefinition::new("digests");
pub(super) const DIRTY: Of<RowKey> = TableDefinition::new("dirty");
pub(super) const OPEN: Of<CounterKey> = TableDefinition::new("open");
pub(super) const INFLIGHT: Of<CounterKey> = TableDefinition::new("inflight");
pub(super) const BATCHES: Of<(&str, u64)> = TableDefinition::new("batches");
/// Members of sets that are in no batch yet.
pub(super) const OPEN_SETS: Of<Dated> = TableDefinition::new("open_sets");
/// Events and requests that are in no batch yet, by their ids.
pub(super) const OPEN_EVENTS: Of<u128> = TableDefinition::new("open_events");
pub(super) const OPEN_LOGS: Of<u128> = TableDefinition::new("open_logs");
pub(super) const SEEN: Of<CounterKey> = TableDefinition::new("seen");
pub(super) const NOTES: Of<&str> = TableDefinition::new("notes");

/// Where a key or token stands in tables of both; in the order of [`Row`].
pub(super) fn row_at(provider: &str, row: Row) -> (&str, u8, u128) {
    match row {
        Row::Key(id) => (provider, 0, id.0),
        Row::Token(id) => (provider, 1, id.0),
        Row::User(id) => (provider, 2, id.0),
    }
}

pub(super) fn row_of(kind: u8, id: u128) -> Option<Row> {
    match kind {
        0 => Some(Row::Key(KeyId(id))),
        1 => Some(Row::Token(TokenId(id))),
        2 => Some(Row::User(UserId(id))),
        _ => None,
    }
}

/// Where a counter stands in tables of all kinds of them; in the order of [`CounterId`].
pub(super) fn counter_at<'a>(provider: &'a str, id: &'a CounterId) -> (&'a str, u8, u128, &'a str) {
    match id {
        CounterId::Key(id) => (provider, 0, id.0, ""),
        CounterId::Token(id) => (provider, 1, id.0, ""),
        CounterId::Model(name) => (provider, 2, 0, name),
        CounterId::Hour(hour, name) => (provider, HOUR, hour.0.into(), name),
        CounterId::Total => (provider, 4, 0, ""),
        CounterId::Span(SpanId { kind, id, at }) => (provider, SPANS + kind.number(), *id, at.digits()),
    }
}

/// The first kind of spans in [`counter_at`].
const SPANS: u8 = 5;

pub(super) fn span_kinds() -> std::ops::Range<u8> {
    SPANS..SPANS + SpanKind::ALL.len() as u8
}

/// Where a span stands in tables of them alone.
pub(super) fn span_at(id: &SpanId) -> (u8, u32, u128) {
    (id.kind.number(), id.at.number(), id.id)
}

pub(super) fn span_of((kind, at, id): (u8, u32, u128)) -> Option<SpanId> {
    SpanKind::of_number(kind).map(|kind| SpanId::new(kind, id, at))
}

/// In the order of [`SetId`].
pub(super) fn set_at(id: SetId) -> (u8, u32, u128) {
    (id.kind.number(), id.at, id.id)
}

/// A row of [`SET_SIZES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct SetSize(pub(super) u32);

/// The kind of hours in [`counter_at`].
pub(super) const HOUR: u8 = 3;

pub(super) fn counter_of(kind: u8, number: u128, name: &str) -> Option<CounterId> {
    match kind {
        0 => Some(CounterId::Key(KeyId(number))),
        1 => Some(CounterId::Token(TokenId(number))),
        2 => Some(CounterId::Model(name.into())),
        HOUR => Some(CounterId::Hour(Hour(u32::try_from(number).ok()?), name.into())),
        4 => Some(CounterId::Total),
        _ => {
            let kind = SpanKind::of_number(kind.checked_sub(SPANS)?)?;
            Some(CounterId::Span(SpanId { kind, id: number, at: Period::read(name)? }))
        }
    }
}

/// The layout of the file as a whole; a record's own layout has its own version in `codec`.
///
/// 2: the tables of replication. Whoever does not know them would lose what is open.
/// 3: users, and what is counted by hour, day and person.
pub(super) const FORMAT: u8 = 3;
const MAGIC: &[u8] = b"keytide";

/// Who the file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Who writes it, until it takes another id.
    pub(super) instance: Uuid,
    pub(super) created_at: Timestamp,
}

/// Writes the first transaction of a new file: every table, and the identity.
pub(super) fn create(txn: &WriteTransaction, identity: &Identity) -> Result<(), Fault> {
    for table in [KEYS, HEALTH, KEY_USAGE, TOKENS, TOKEN_USAGE] {
        txn.open_table(table)?;
    }
    txn.open_table(MODELS)?;
    txn.open_table(HOURS)?;
    txn.open_table(TOTALS)?;
    txn.open_table(JOURNAL)?;
    let mut meta = txn.open_table(META)?;
    meta.insert("magic", MAGIC)?;
    meta.insert("instance", identity.instance.as_bytes().as_slice())?;
    meta.insert("created_at", identity.created_at.0.to_le_bytes().as_slice())?;
    drop(meta);
    migrate(txn)
}

/// Makes a file of any older format one of this format.
pub(super) fn migrate(txn: &WriteTransaction) -> Result<(), Fault> {
    for table in [KEY_VERSIONS, TOKEN_VERSIONS] {
        txn.open_table(table)?;
    }
    for table in [USERS, USER_VERSIONS, OPEN_EVENTS, OPEN_LOGS] {
        txn.open_table(table)?;
    }
    for table in [TALLIES, MONTHS, SETS, SET_SIZES, OPEN_SETS] {
        txn.open_table(table)?;
    }
    for table in [GONE, DIGESTS, DIRTY] {
        txn.open_table(table)?;
    }
    for table in [OPEN, INFLIGHT, SEEN] {
        txn.open_table(table)?;
    }
    txn.open_table(EVENTS)?;
    txn.open_table(MEMORY)?;
    txn.open_table(REPLICATED)?;
    txn.open_table(NOTES)?;
    txn.open_table(BATCHES)?;
    begin_key_totals(txn)?;
    txn.open_table(META)?.insert("format", [FORMAT].as_slice())?;
    Ok(())
}

/// The attempts of keys ever go on from what an older file has counted of them. Of a provider that replicates it has
/// counted everybody's, of which nobody could say which part is this instance's to tell: there they begin now.
fn begin_key_totals(txn: &WriteTransaction) -> Result<(), Fault> {
    let (usage, replicated) = (txn.open_table(KEY_USAGE)?, txn.open_table(REPLICATED)?);
    let mut tallies = txn.open_table(TALLIES)?;
    for row in usage.iter()? {
        let (at, value) = row?;
        let (provider, id) = at.value();
        if ReadableTable::get(&replicated, provider)?.is_some() {
            continue;
        }
        let usage: KeyUsage = read(value.value(), || format!("the usage of key {}", KeyId(id).short()))?;
        let total = Tally { last_success: None, last_failure: None, ..(&usage).into() };
        tallies.insert(span_at(&SpanId::new(SpanKind::KeyTotal, id, 0)), codec::encode(&total).as_slice())?;
    }
    Ok(())
}

/// What the rows of `META` say about a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Keytide(Identity),
    /// Of a format that has to be migrated first.
    Older(Identity),
    Foreign,
    Newer(u8),
    Broken(&'static str),
}

pub(super) fn origin(txn: &ReadTransaction) -> Result<Origin, Fault> {
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Ok(Origin::Foreign),
    };
    let row = |name: &str| -> Result<Option<Vec<u8>>, Fault> {
        Ok(ReadableTable::get(&meta, name)?.map(|value| value.value().to_vec()))
    };
    if row("magic")?.as_deref() != Some(MAGIC) {
        return Ok(Origin::Foreign);
    }
    let format = match row("format")?.as_deref() {
        Some([format @ 1..=FORMAT]) => *format,
        Some([newer, ..]) if *newer > FORMAT => return Ok(Origin::Newer(*newer)),
        _ => return Ok(Origin::Broken("its format row cannot be read")),
    };
    let instance = row("instance")?.and_then(|bytes| Uuid::from_slice(&bytes).ok());
    let created_at = row("created_at")?.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    Ok(match (instance, created_at) {
        (Some(instance), Some(at)) => {
            let identity = Identity { instance, created_at: Timestamp(i64::from_le_bytes(at)) };
            if format == FORMAT { Origin::Keytide(identity) } else { Origin::Older(identity) }
        }
        _ => Origin::Broken("its identity row cannot be read"),
    })
}

/// Reads a row's value; `place` names the row in an error without quoting it.
pub(super) fn read<T: Record>(bytes: &[u8], place: impl FnOnce() -> String) -> Result<T, Fault> {
    codec::decode(bytes).map_err(|error| Fault::Row(error, place()))
}
