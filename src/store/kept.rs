//! A table that remembers how its rows were, so that what was written can be taken back.
//!
//! A commit that reported an error may have reached the disk all the same. Whoever was told that it failed may
//! do it again, so it is taken back before anything else is written.

use std::{cell::OnceCell, ops::Bound};

use redb::{AccessGuard, Key, Range, ReadableTable, Table, WriteTransaction};

use super::{error::Fault, tables::Of};
use crate::breather;

/// Puts rows of one table back to how they were; the same whether they had been changed or not.
pub(super) struct Undo(Box<Restore>);

type Restore = dyn Fn(&WriteTransaction) -> Result<(), Fault> + Send;

impl Undo {
    pub(super) fn apply(&self, txn: &WriteTransaction) -> Result<(), Fault> {
        (self.0)(txn)
    }

    /// Takes back that a row was written that was not there before.
    pub(super) fn insertion<K: Key + Send + 'static>(table: Of<K>, at: &K::SelfType<'_>) -> Self {
        Self::of(table, vec![(K::as_bytes(at).as_ref().to_vec(), None)])
    }

    fn of<K: Key + Send + 'static>(table: Of<K>, before: Vec<Before>) -> Self {
        Self(Box::new(move |txn| {
            let mut rows = txn.open_table(table)?;
            // Of the values of one row the first is how it was.
            for (at, value) in before.iter().rev() {
                let at = K::from_bytes(at);
                match value {
                    Some(bytes) => rows.insert(&at, bytes.as_slice())?,
                    None => rows.remove(&at)?,
                };
            }
            Ok(())
        }))
    }
}

/// A row's key and how the row was.
type Before = (Vec<u8>, Option<Vec<u8>>);

/// Opened when it is first used.
pub(super) struct Kept<'txn, K: Key + 'static> {
    txn: &'txn WriteTransaction,
    definition: Of<K>,
    rows: OnceCell<Table<'txn, K, &'static [u8]>>,
    /// `None` where nothing has to be taken back.
    before: Option<Vec<Before>>,
}

impl<'txn, K: Key + Send + 'static> Kept<'txn, K> {
    pub(super) fn new(txn: &'txn WriteTransaction, definition: Of<K>, undoable: bool) -> Self {
        Self { txn, definition, rows: OnceCell::new(), before: undoable.then(Vec::new) }
    }

    pub(super) fn rows(&self) -> Result<&Table<'txn, K, &'static [u8]>, Fault> {
        match self.rows.get() {
            Some(rows) => Ok(rows),
            None => {
                let rows = self.txn.open_table(self.definition)?;
                Ok(self.rows.get_or_init(|| rows))
            }
        }
    }

    fn rows_mut(&mut self) -> Result<&mut Table<'txn, K, &'static [u8]>, Fault> {
        self.rows()?;
        Ok(self.rows.get_mut().expect("opened above"))
    }

    pub(super) fn get(&self, at: K::SelfType<'_>) -> Result<Option<AccessGuard<'_, &'static [u8]>>, Fault> {
        Ok(self.rows()?.get(&at)?)
    }

    pub(super) fn has(&self, at: K::SelfType<'_>) -> Result<bool, Fault> {
        Ok(self.get(at)?.is_some())
    }

    pub(super) fn put(&mut self, at: K::SelfType<'_>, bytes: &[u8]) -> Result<(), Fault> {
        breather::step();
        let undoable = self.before.is_some();
        let (changed, old) = match self.rows_mut()?.insert(&at, bytes)? {
            Some(old) => (old.value() != bytes, undoable.then(|| old.value().to_vec())),
            None => (true, None),
        };
        if changed {
            self.note(&at, old);
        }
        Ok(())
    }

    /// Returns what was there.
    pub(super) fn remove(&mut self, at: K::SelfType<'_>) -> Result<Option<Vec<u8>>, Fault> {
        breather::step();
        let old = self.rows_mut()?.remove(&at)?.map(|old| old.value().to_vec());
        if let Some(old) = &old {
            self.note(&at, Some(old.clone()));
        }
        Ok(old)
    }

    /// From there to the end of the table.
    pub(super) fn from<'a>(
        &self,
        start: Bound<K::SelfType<'a>>,
    ) -> Result<Range<'_, K, &'static [u8]>, Fault> {
        Ok(self.rows()?.range::<K::SelfType<'a>>((start, Bound::Unbounded))?)
    }

    /// Cannot be taken back.
    pub(super) fn drop_range<'a>(&mut self, range: std::ops::Range<K::SelfType<'a>>) -> Result<(), Fault> {
        Ok(self.rows_mut()?.retain_in::<K::SelfType<'a>, _>(range, |_, _| false)?)
    }

    fn note(&mut self, at: &K::SelfType<'_>, old: Option<Vec<u8>>) {
        if let Some(before) = &mut self.before {
            before.push((K::as_bytes(at).as_ref().to_vec(), old));
        }
    }

    /// Closes the table. `None` when nothing has changed, or nothing was noted.
    pub(super) fn close(self) -> Option<Undo> {
        let before = self.before.filter(|before| !before.is_empty())?;
        Some(Undo::of(self.definition, before))
    }
}
