//! Security events: what was abnormal, as long as it is kept and at most so many.

use std::{path::PathBuf, time::Duration};

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, WriteTransaction};

use super::{
    codec,
    desk::Desk,
    error::{Error, Fault, guarded},
    kept::Undo,
    shelf::CORE,
    tables::{EVENTS, read},
};
use crate::model::{Event, Timestamp};

/// Some five megabytes.
const MOST: u64 = 20_000;
/// An event further in the future was told by a clock that was wrong, and would never be the oldest.
const AHEAD: Duration = Duration::from_secs(86_400);

/// Writes events, those for the hub too, and lets go of those that are older than `oldest`, or too many.
pub(super) fn record(
    txn: &WriteTransaction,
    events: &[Event],
    oldest: Timestamp,
    now: Timestamp,
) -> Result<Vec<Undo>, Fault> {
    let mut desk = Desk::new(txn, true);
    let replicates = desk.replicates(CORE)?;
    for event in events {
        let (id, bytes) = (event.id.as_u128(), codec::encode(event));
        desk.events.put((event.at.0, id), &bytes)?;
        if replicates {
            desk.open_events.put(id, &bytes)?;
        }
    }
    let latest = now.saturating_add(AHEAD);
    let mut gone = Vec::new();
    let rows = desk.events.rows()?;
    for row in rows.range((latest.0.saturating_add(1), 0)..)? {
        gone.push(row?.0.value());
    }
    let too_many = rows.len()?.saturating_sub(MOST + gone.len() as u64);
    for (n, row) in rows.range(..(latest.0, u128::MAX))?.enumerate() {
        let (at, _) = row?;
        if n as u64 >= too_many && at.value().0 >= oldest.0 {
            break;
        }
        gone.push(at.value());
    }
    for at in gone {
        desk.events.remove(at)?;
        // A hub that is away for so long hears of them no more.
        desk.open_events.remove(at.1)?;
    }
    Ok(desk.close())
}

/// The events of one moment.
pub struct Events {
    txn: ReadTransaction,
    file: PathBuf,
}

impl Events {
    pub(super) fn new(txn: ReadTransaction, file: PathBuf) -> Self {
        Self { txn, file }
    }

    /// How many are `wanted`, of those from `from` to before `to`, and `most` of them after the first `skip`; the latest
    /// first.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn list(
        &self,
        (from, to): (Timestamp, Timestamp),
        wanted: impl Fn(&Event) -> bool,
        skip: usize,
        most: usize,
    ) -> Result<(usize, Vec<Event>), Error> {
        self.told(|| {
            let table = self.txn.open_table(EVENTS)?;
            let (mut total, mut found) = (0, Vec::new());
            if from >= to {
                return Ok((total, found));
            }
            for row in table.range((from.0, 0)..(to.0, 0))?.rev() {
                let event: Event = read(row?.1.value(), || "an event".to_owned())?;
                if wanted(&event) {
                    if total >= skip && found.len() < most {
                        found.push(event);
                    }
                    total += 1;
                }
            }
            Ok((total, found))
        })
    }

    /// # Errors
    /// As [`Events::list`].
    pub fn oldest(&self) -> Result<Option<Timestamp>, Error> {
        self.told(|| {
            let table = self.txn.open_table(EVENTS)?;
            Ok(table.first()?.map(|(at, _)| Timestamp(at.value().0)))
        })
    }

    fn told<T>(&self, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Error> {
        guarded(work).map_err(|fault| fault.at(&self.file))
    }
}

/// Reads every event, for a check.
pub(super) fn check(txn: &ReadTransaction) -> Result<u64, Fault> {
    let mut rows = 0;
    for row in txn.open_table(EVENTS)?.iter()? {
        let _: Event = read(row?.1.value(), || "an event".to_owned())?;
        rows += 1;
    }
    Ok(rows)
}
