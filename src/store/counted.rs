//! What was counted by hour, day and person, read from the file: with ten thousand keys in use these are hundreds of
//! thousands of rows, of which somebody wants to see a few now and then.

use std::path::PathBuf;

use redb::{ReadTransaction, ReadableTable};

use super::{
    codec::Record,
    error::{Error, Fault, guarded},
    tables::{
        Dated, MONTHS, OPEN_EVENTS, OPEN_LOGS, Of, SET_SIZES, SETS, SetSize, TALLIES, USERS, read, set_at,
        span_at,
    },
};
use crate::model::{Event, Month, Set, SetId, SpanId, SpanKind, Tally, UsageLog, UserId};

/// The counts of one moment.
pub struct Counted {
    txn: ReadTransaction,
    file: PathBuf,
}

impl Counted {
    pub(super) fn new(txn: ReadTransaction, file: PathBuf) -> Self {
        Self { txn, file }
    }

    /// Nothing where nothing was counted, or is kept no more.
    ///
    /// # Errors
    /// The file cannot be read; so with all that follow.
    pub fn tally(&self, id: &SpanId) -> Result<Tally, Error> {
        Ok(self.get(TALLIES, span_at(id))?.unwrap_or_default())
    }

    /// All rows of a kind in one period, in the order of their ids.
    ///
    /// # Errors
    /// As [`Counted::tally`].
    pub fn all(&self, kind: SpanKind, at: u32) -> Result<Vec<(u128, Tally)>, Error> {
        let kind = kind.number();
        self.told(|| {
            let table = self.txn.open_table(TALLIES)?;
            let mut found = Vec::new();
            for row in table.range((kind, at, 0)..=(kind, at, u128::MAX))? {
                let (of, value) = row?;
                found.push((of.value().2, read(value.value(), || "a count".to_owned())?));
            }
            Ok(found)
        })
    }

    /// What a user's days of that month came to, as far as they are kept as days no more.
    ///
    /// # Errors
    /// As [`Counted::tally`].
    pub fn month(&self, kind: SpanKind, user: UserId, month: Month) -> Result<Tally, Error> {
        Ok(self.get(MONTHS, (kind.number(), month.0, user.0))?.unwrap_or_default())
    }

    /// # Errors
    /// As [`Counted::tally`].
    pub fn set(&self, id: SetId) -> Result<Set, Error> {
        Ok(self.get(SETS, set_at(id))?.unwrap_or_default())
    }

    /// How many members a set has, or had when it was closed.
    ///
    /// # Errors
    /// As [`Counted::tally`].
    pub fn members(&self, id: SetId) -> Result<u32, Error> {
        let closed: Option<SetSize> = self.get(SET_SIZES, set_at(id))?;
        let open = u32::try_from(self.set(id)?.members.len()).unwrap_or(u32::MAX);
        Ok(closed.map_or(open, |SetSize(size)| size.max(open)))
    }

    /// # Errors
    /// As [`Counted::tally`].
    pub fn has_user(&self, id: UserId) -> Result<bool, Error> {
        self.told(|| Ok(self.txn.open_table(USERS)?.get(id.0)?.is_some()))
    }

    fn get<T: Record>(&self, table: Of<Dated>, at: (u8, u32, u128)) -> Result<Option<T>, Error> {
        self.told(|| {
            let table = self.txn.open_table(table)?;
            let found = ReadableTable::get(&table, at)?;
            found.map(|value| read(value.value(), || "a count".to_owned())).transpose()
        })
    }

    fn told<T>(&self, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Error> {
        guarded(work).map_err(|fault| fault.at(&self.file))
    }
}

/// Reads every row, for a check.
pub(super) fn check(txn: &ReadTransaction) -> Result<u64, Fault> {
    fn walk<T: Record>(txn: &ReadTransaction, table: Of<Dated>, what: &str) -> Result<u64, Fault> {
        let mut rows = 0;
        for row in txn.open_table(table)?.iter()? {
            let (at, value) = row?;
            let (_, period, id) = at.value();
            let _: T =
                read(value.value(), || format!("{what} of {} in {period}", uuid::Uuid::from_u128(id)))?;
            rows += 1;
        }
        Ok(rows)
    }
    fn single<T: Record>(txn: &ReadTransaction, table: Of<u128>, what: &str) -> Result<u64, Fault> {
        let mut rows = 0;
        for row in txn.open_table(table)?.iter()? {
            let (id, value) = row?;
            let _: T = read(value.value(), || format!("{what} {}", uuid::Uuid::from_u128(id.value())))?;
            rows += 1;
        }
        Ok(rows)
    }
    Ok(walk::<Tally>(txn, TALLIES, "the count")?
        + walk::<Tally>(txn, MONTHS, "the month's count")?
        + walk::<Set>(txn, SETS, "the set")?
        + walk::<Set>(txn, super::tables::OPEN_SETS, "what is new in the set")?
        + single::<Event>(txn, OPEN_EVENTS, "the event")?
        + single::<UsageLog>(txn, OPEN_LOGS, "the request")?
        + super::events::check(txn)?
        + walk::<SetSize>(txn, SET_SIZES, "the size of the set")?)
}
