//! What people decide, as rows: durable before it is acknowledged, undone when it was not.

use redb::{Table, TableDefinition, WriteTransaction};

use super::{
    codec,
    error::Fault,
    tables::{HEALTH, JOURNAL, KEYS, TOKENS},
};
use crate::model::{Health, KeyId, KeyRecord, TokenId, TokenRecord};

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Adds the key or replaces its record; its health stays.
    PutKey {
        provider: Box<str>,
        record: KeyRecord,
    },
    /// Removes the key and its health; its statistics stay.
    DeleteKey {
        provider: Box<str>,
        id: KeyId,
    },
    /// Replaces what was concluded about a key, and all that was appended about its health before. Nothing
    /// happens when there is no such key.
    PutHealth {
        provider: Box<str>,
        id: KeyId,
        health: Health,
    },
    PutToken {
        provider: Box<str>,
        record: TokenRecord,
    },
    /// Removes the token; its statistics stay.
    DeleteToken {
        provider: Box<str>,
        id: TokenId,
    },
}

impl Change {
    fn row(&self) -> (&str, u128) {
        match self {
            Self::PutKey { provider, record } => (provider, record.id(provider).0),
            Self::DeleteKey { provider, id } | Self::PutHealth { provider, id, .. } => (provider, id.0),
            Self::PutToken { provider, record } => (provider, record.id(provider).0),
            Self::DeleteToken { provider, id } => (provider, id.0),
        }
    }

    /// Whether older health may still lie in the journal, to be folded first so that it cannot win later.
    pub(super) fn settles_health(&self) -> bool {
        matches!(self, Self::DeleteKey { .. } | Self::PutHealth { .. })
    }
}

type ById = TableDefinition<'static, (&'static str, u128), &'static [u8]>;
type Rows<'txn> = Table<'txn, (&'static str, u128), &'static [u8]>;

/// How a row was before. A commit that reported an error may have reached the disk all the same; whoever was
/// told that it failed may do it again, so it is taken back before anything else is written.
pub(super) enum Undo {
    Entry(u64),
    Row { table: ById, provider: Box<str>, id: u128, old: Option<Vec<u8>> },
}

impl Undo {
    pub(super) fn apply(&self, txn: &WriteTransaction) -> Result<(), Fault> {
        match self {
            Self::Entry(seq) => {
                txn.open_table(JOURNAL)?.remove(seq)?;
            }
            Self::Row { table, provider, id, old } => {
                let mut rows = txn.open_table(*table)?;
                let at = (provider.as_ref(), *id);
                match old {
                    Some(bytes) => rows.insert(at, bytes.as_slice())?,
                    None => rows.remove(at)?,
                };
            }
        }
        Ok(())
    }
}

pub(super) fn apply(txn: &WriteTransaction, changes: &[Change], undo: &mut Vec<Undo>) -> Result<(), Fault> {
    // In the order of the rows each page is touched once; changes of one row keep their order.
    let mut sorted: Vec<_> = changes.iter().map(|change| (change.row(), change)).collect();
    sorted.sort_by_key(|(row, _)| *row);
    let mut keys = txn.open_table(KEYS)?;
    let mut healths = txn.open_table(HEALTH)?;
    let mut tokens = txn.open_table(TOKENS)?;
    for (at, change) in sorted {
        match change {
            Change::PutKey { record, .. } => put(&mut keys, KEYS, at, &codec::encode(record), undo)?,
            Change::DeleteKey { .. } => {
                remove(&mut keys, KEYS, at, undo)?;
                remove(&mut healths, HEALTH, at, undo)?;
            }
            Change::PutHealth { health, .. } => {
                if redb::ReadableTable::get(&keys, at)?.is_some() {
                    put(&mut healths, HEALTH, at, &codec::encode(health), undo)?;
                }
            }
            Change::PutToken { record, .. } => put(&mut tokens, TOKENS, at, &codec::encode(record), undo)?,
            Change::DeleteToken { .. } => remove(&mut tokens, TOKENS, at, undo)?,
        }
    }
    Ok(())
}

fn put(
    rows: &mut Rows<'_>,
    table: ById,
    at: (&str, u128),
    bytes: &[u8],
    undo: &mut Vec<Undo>,
) -> Result<(), Fault> {
    let old = rows.insert(at, bytes)?.map(|old| old.value().to_vec());
    undo.push(Undo::Row { table, provider: at.0.into(), id: at.1, old });
    Ok(())
}

fn remove(rows: &mut Rows<'_>, table: ById, at: (&str, u128), undo: &mut Vec<Undo>) -> Result<(), Fault> {
    if let Some(old) = rows.remove(at)?.map(|old| old.value().to_vec()) {
        undo.push(Undo::Row { table, provider: at.0.into(), id: at.1, old: Some(old) });
    }
    Ok(())
}
