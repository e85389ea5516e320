//! A copy of the file from one snapshot, complete or absent.

use std::path::Path;

use redb::{
    Key, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, Value, WriteTransaction,
    backends::FileBackend,
};
use serde::{Deserialize, Serialize};

use super::{
    error::{Error, Fault, guarded},
    file::{Draft, builder},
    offline,
    tables::{
        BATCHES, DIGESTS, DIRTY, EVENTS, GONE, HEALTH, HOURS, INFLIGHT, JOURNAL, KEY_USAGE, KEY_VERSIONS,
        KEYS, MEMORY, META, MODELS, MONTHS, NOTES, OPEN, OPEN_EVENTS, OPEN_LOGS, OPEN_SETS, REPLICATED, SEEN,
        SET_SIZES, SETS, TALLIES, TOKEN_USAGE, TOKEN_VERSIONS, TOKENS, TOTALS, USER_VERSIONS, USERS,
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub rows_done: u64,
    pub rows_total: u64,
}

/// Rows between two reports.
const REPORT_EVERY: u64 = 1000;

pub(super) fn write(
    snapshot: &ReadTransaction,
    from: &Path,
    to: &Path,
    progress: impl FnMut(Progress),
) -> Result<(), Error> {
    let (draft, raw) = Draft::new(to)?;
    let mut copy = Copy { snapshot, progress, done: 0, total: 0 };
    // Rows that cannot be read are the source's fault, all else the copy's.
    copy.total = guarded(|| count(snapshot)).map_err(|fault| fault.at(from))?;
    guarded(|| {
        let database = builder().create_with_backend(FileBackend::new(raw)?)?;
        let txn = database.begin_write()?;
        copy.table(&txn, META)?;
        for table in [KEYS, KEY_VERSIONS, HEALTH, KEY_USAGE, TOKENS, TOKEN_VERSIONS, TOKEN_USAGE] {
            copy.table(&txn, table)?;
        }
        for table in [USERS, USER_VERSIONS, OPEN_EVENTS, OPEN_LOGS] {
            copy.table(&txn, table)?;
        }
        for table in [TALLIES, MONTHS, SETS, SET_SIZES, OPEN_SETS] {
            copy.table(&txn, table)?;
        }
        for table in [GONE, DIGESTS, DIRTY] {
            copy.table(&txn, table)?;
        }
        for table in [OPEN, INFLIGHT, SEEN] {
            copy.table(&txn, table)?;
        }
        for table in [REPLICATED, NOTES] {
            copy.table(&txn, table)?;
        }
        copy.table(&txn, EVENTS)?;
        copy.table(&txn, MEMORY)?;
        copy.table(&txn, BATCHES)?;
        copy.table(&txn, MODELS)?;
        copy.table(&txn, HOURS)?;
        copy.table(&txn, TOTALS)?;
        copy.table(&txn, JOURNAL)?;
        txn.commit()?;
        Ok(database.close()?)
    })
    .map_err(|fault| fault.at(to))?;
    // A backup that cannot be read back is none; what it was copied from is then to blame.
    let report = offline::check_file(draft.path()).map_err(|error| match error {
        Error::Corrupt { detail, .. } => Error::corrupt(from, detail),
        other => other,
    })?;
    if let Some(problem) = report.problems.first() {
        return Err(Error::corrupt(from, problem));
    }
    draft.publish()
}

fn count(snapshot: &ReadTransaction) -> Result<u64, Fault> {
    let mut rows = 0;
    for handle in snapshot.list_tables()? {
        rows += snapshot.open_untyped_table(handle)?.len()?;
    }
    Ok(rows)
}

struct Copy<'a, P> {
    snapshot: &'a ReadTransaction,
    progress: P,
    done: u64,
    total: u64,
}

impl<P: FnMut(Progress)> Copy<'_, P> {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        txn: &WriteTransaction,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), Fault> {
        let mut rows = txn.open_table(table)?;
        for row in self.snapshot.open_table(table)?.iter()? {
            let (at, value) = row?;
            rows.insert(at.value(), value.value())?;
            self.done += 1;
            if self.done.is_multiple_of(REPORT_EVERY) {
                self.report();
            }
        }
        self.report();
        Ok(())
    }

    fn report(&mut self) {
        (self.progress)(Progress { rows_done: self.done, rows_total: self.total });
    }
}
