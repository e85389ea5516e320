//! Parts of tables in their order: some rows from a place on, or how many.

use std::ops::Bound;

use redb::{AccessGuard, ReadableTable, ReadableTableMetadata};

use crate::{
    model::{CounterId, Set, SetId, SetKind},
    store::{
        codec::{self, Record},
        error::Fault,
        kept::Kept,
        shelf::Row,
        tables::{CounterKey, Dated, RowKey, counter_at, counter_of, read, row_at, row_of, set_at},
    },
};

/// Reads at most `max` rows of a provider from `start` on.
pub(super) fn list<K: redb::Key + Send + 'static, T>(
    table: &Kept<'_, K>,
    start: Bound<K::SelfType<'_>>,
    max: usize,
    mut row: impl FnMut(K::SelfType<'_>, &[u8]) -> Result<Option<T>, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut found = Vec::new();
    if max == 0 {
        return Ok(found);
    }
    for next in table.from(start)? {
        let (at, value): (AccessGuard<'_, K>, AccessGuard<'_, &'static [u8]>) = next?;
        match row(at.value(), value.value())? {
            Some(row) => found.push(row),
            None => break,
        }
        if found.len() == max {
            break;
        }
    }
    Ok(found)
}

pub(super) fn start<T>(after: Option<T>, first: T) -> Bound<T> {
    after.map_or(Bound::Included(first), Bound::Excluded)
}

pub(super) fn unknown_kind<T>() -> Result<T, Fault> {
    Err(Fault::Row(codec::Error::Broken("an unknown kind of row".to_owned()), "a row".to_owned()))
}

pub(super) fn counters<T: Record>(
    table: &Kept<'_, CounterKey>,
    provider: &str,
    after: Option<&CounterId>,
    max: usize,
) -> Result<Vec<(CounterId, T)>, Fault> {
    let start = start(after.map(|id| counter_at(provider, id)), (provider, 0, 0, ""));
    list(table, start, max, |(of, kind, number, name), value| {
        if of != provider {
            return Ok(None);
        }
        match counter_of(kind, number, name) {
            Some(id) => Ok(Some((id, read(value, || "a counter".to_owned())?))),
            None => unknown_kind(),
        }
    })
}

pub(super) fn rows<T: Record>(
    table: &Kept<'_, RowKey>,
    provider: &str,
    after: Option<Row>,
    max: usize,
) -> Result<Vec<(Row, T)>, Fault> {
    let start = start(after.map(|row| row_at(provider, row)), (provider, 0, 0));
    list(table, start, max, |(of, kind, id), value| {
        if of != provider {
            return Ok(None);
        }
        match row_of(kind, id) {
            Some(row) => Ok(Some((row, read(value, || "a row".to_owned())?))),
            None => unknown_kind(),
        }
    })
}

/// How many rows of a table are a provider's: its own are counted, or those before and behind them, whichever are
/// fewer. Often it has all of them, and there is nothing to count.
pub(super) fn count<'a, K: redb::Key + Send + 'static>(
    table: &Kept<'_, K>,
    start: impl Fn() -> K::SelfType<'a>,
    is_theirs: impl Fn(K::SelfType<'_>) -> bool,
) -> Result<u64, Fault> {
    let all = table.rows()?.len()?;
    let mut before = table.rows()?.range::<K::SelfType<'a>>(..start())?;
    let mut behind = table.rows()?.range::<K::SelfType<'a>>(start()..)?.rev();
    let mut theirs = table.from(Bound::Included(start()))?;
    let (mut own, mut others) = (0, 0);
    loop {
        match theirs.next().transpose()? {
            Some((at, _)) if is_theirs(at.value()) => own += 1,
            Some(_) | None => return Ok(own),
        }
        let other = match before.next().transpose()? {
            Some(_) => true,
            None => behind.next().transpose()?.is_some_and(|(at, _)| !is_theirs(at.value())),
        };
        if !other {
            return Ok(all - others);
        }
        others += 1;
    }
}

pub(super) fn sets(
    table: &Kept<'_, Dated>,
    after: Option<SetId>,
    max: usize,
) -> Result<Vec<(SetId, Set)>, Fault> {
    list(table, start(after.map(set_at), (0, 0, 0)), max, |(kind, at, id), value| {
        match SetKind::of_number(kind) {
            Some(kind) => Ok(Some((SetId { kind, at, id }, read(value, || "a set".to_owned())?))),
            None => unknown_kind(),
        }
    })
}

/// Nothing at all is no row.
pub(super) fn set<K: redb::Key + Send + 'static>(
    table: &mut Kept<'_, K>,
    at: K::SelfType<'_>,
    value: Option<Vec<u8>>,
) -> Result<(), Fault> {
    match value {
        Some(bytes) => table.put(at, &bytes),
        None => table.remove(at).map(drop),
    }
}
