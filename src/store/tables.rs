//! The tables of the file, and the rows that say whose file it is.

use redb::{ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};
use uuid::Uuid;

use super::{
    codec::{self, Record},
    error::Fault,
};
use crate::model::Timestamp;

type ById = TableDefinition<'static, (&'static str, u128), &'static [u8]>;

pub(super) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub(super) const KEYS: ById = TableDefinition::new("keys");
pub(super) const HEALTH: ById = TableDefinition::new("health");
/// Outlives its key: a key that is added again goes on from its old counts.
pub(super) const KEY_USAGE: ById = TableDefinition::new("key_usage");
pub(super) const TOKENS: ById = TableDefinition::new("tokens");
pub(super) const TOKEN_USAGE: ById = TableDefinition::new("token_usage");
pub(super) const MODELS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("models");
pub(super) const HOURS: TableDefinition<(&str, u32, &str), &[u8]> = TableDefinition::new("hours");
pub(super) const TOTALS: TableDefinition<&str, &[u8]> = TableDefinition::new("totals");
/// Deltas in the order they came, not yet folded into the other tables.
pub(super) const JOURNAL: TableDefinition<u64, &[u8]> = TableDefinition::new("journal");

/// The layout of the file as a whole; a record's own layout has its own version in `codec`.
pub(super) const FORMAT: u8 = 1;
const MAGIC: &[u8] = b"keytide";

/// Who the file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
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
    meta.insert("format", [FORMAT].as_slice())?;
    meta.insert("instance", identity.instance.as_bytes().as_slice())?;
    meta.insert("created_at", identity.created_at.0.to_le_bytes().as_slice())?;
    Ok(())
}

/// What the rows of `META` say about a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Keytide(Identity),
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
    match row("format")?.as_deref() {
        Some([FORMAT]) => {}
        Some([newer, ..]) if *newer > FORMAT => return Ok(Origin::Newer(*newer)),
        _ => return Ok(Origin::Broken("its format row cannot be read")),
    }
    let instance = row("instance")?.and_then(|bytes| Uuid::from_slice(&bytes).ok());
    let created_at = row("created_at")?.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    Ok(match (instance, created_at) {
        (Some(instance), Some(at)) => {
            Origin::Keytide(Identity { instance, created_at: Timestamp(i64::from_le_bytes(at)) })
        }
        _ => Origin::Broken("its identity row cannot be read"),
    })
}

/// Reads a row's value; `place` names the row in an error without quoting it.
pub(super) fn read<T: Record>(bytes: &[u8], place: impl FnOnce() -> String) -> Result<T, Fault> {
    codec::decode(bytes).map_err(|error| Fault::Row(error, place()))
}
