//! How large the file is and what is in it.

use std::{fs, path::Path};

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableHandle};
use serde::{Deserialize, Serialize};

use super::{
    error::{Error, Fault, guarded},
    fold::core,
    tables::{JOURNAL, META},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Sizes {
    pub file_bytes: u64,
    pub tables: Vec<TableSize>,
    /// Deltas that are on disk but not yet in the totals.
    pub journal_entries: u64,
    /// Rows of requests that were dropped before a hub had them.
    #[serde(default)]
    pub dropped_logs: u64,
    /// Counters and sets of hours and days that were, which no hub takes in that late.
    #[serde(default)]
    pub dropped_late: u64,
}

impl Sizes {
    /// Without pages that are free.
    pub fn used(&self) -> u64 {
        self.tables.iter().map(TableSize::bytes).sum()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TableSize {
    pub name: String,
    pub rows: u64,
    /// Keys and values themselves.
    pub stored_bytes: u64,
    /// What it takes to find them.
    pub metadata_bytes: u64,
    /// Free space inside its pages.
    pub fragmented_bytes: u64,
}

impl TableSize {
    /// Of all its pages.
    pub fn bytes(&self) -> u64 {
        self.stored_bytes + self.metadata_bytes + self.fragmented_bytes
    }
}

/// Walks every page of every table.
pub(super) fn measure(txn: &ReadTransaction, file: &Path) -> Result<Sizes, Error> {
    let file_bytes = fs::metadata(file).map_err(|error| Error::io(file, &error))?.len();
    guarded(|| {
        let tables = txn
            .list_tables()?
            .map(|handle| {
                let name = handle.name().to_owned();
                let table = txn.open_untyped_table(handle)?;
                let stats = table.stats()?;
                Ok(TableSize {
                    name,
                    rows: table.len()?,
                    stored_bytes: stats.stored_bytes(),
                    metadata_bytes: stats.metadata_bytes(),
                    fragmented_bytes: stats.fragmented_bytes(),
                })
            })
            .collect::<Result<Vec<_>, Fault>>()?;
        let journal_entries = txn.open_table(JOURNAL)?.len()?;
        let meta = txn.open_table(META)?;
        let dropped = |what| -> Result<u64, Fault> {
            Ok(ReadableTable::get(&meta, what)?.map_or(0, |value| core::dropped(value.value())))
        };
        let (dropped_logs, dropped_late) = (dropped(core::LOGS)?, dropped(core::LATE)?);
        Ok(Sizes { file_bytes, tables, journal_entries, dropped_logs, dropped_late })
    })
    .map_err(|fault| fault.at(file))
}
