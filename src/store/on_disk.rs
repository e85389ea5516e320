//! The shelf over the tables of the file.

mod lists;
mod views;

use std::{cell::RefCell, ops::Bound, path::Path};

use lists::{count, counters, list, rows, set, sets, start};
use redb::WriteTransaction;
use uuid::Uuid;

use super::{
    codec,
    desk::{self, Desk, GoneRecord, optional},
    error::{Error, Fault},
    kept::Undo,
    shelf::{Dirty, Gone, Inflight, KeyEntry, Row, Seen, Shelf, TokenEntry, UserEntry},
    tables::{counter_at, read, row_at, set_at},
};
use crate::model::{CounterId, Event, KeyId, Set, SetId, Tally, TokenId, UsageLog, UserId, Version};

/// What an edit leaves.
pub(super) struct Written {
    /// Whose file it is now.
    pub(super) instance: Uuid,
    /// What is stamped from now on is later than this.
    pub(super) latest: Version,
    /// Takes back what was written; empty when nothing was.
    pub(super) undo: Vec<Undo>,
}

/// One transaction's view of the file, for one edit.
pub(super) struct OnDisk<'txn> {
    file: &'txn Path,
    instance: Uuid,
    /// Of the versions that were written.
    latest: Version,
    desk: Desk<'txn>,
    /// Why the file cannot be used any further, if so: whatever comes of the edit, it is not kept.
    broken: RefCell<Option<Error>>,
}

type Result<T, E = Error> = std::result::Result<T, E>;

impl<'txn> OnDisk<'txn> {
    pub(super) fn new(txn: &'txn WriteTransaction, file: &'txn Path, instance: Uuid) -> Self {
        let desk = Desk::new(txn, true);
        Self { file, instance, latest: Version::ZERO, desk, broken: RefCell::new(None) }
    }

    /// Closes all tables.
    ///
    /// # Errors
    /// The transaction cannot be committed.
    pub(super) fn close(self) -> Result<Written> {
        match self.broken.into_inner() {
            Some(error) => Err(error),
            None => Ok(Written { instance: self.instance, latest: self.latest, undo: self.desk.close() }),
        }
    }

    fn told<T>(&self, result: Result<T, Fault>) -> Result<T> {
        result.map_err(|fault| {
            // A row that cannot be read is no reason to let go of the file.
            let breaks = matches!(fault, Fault::Redb(_) | Fault::Panic);
            let error = fault.at(self.file);
            if breaks {
                *self.broken.borrow_mut() = Some(error.clone());
            }
            error
        })
    }

    fn write<T>(&mut self, work: impl FnOnce(&mut Desk<'txn>) -> Result<T, Fault>) -> Result<T> {
        let result = work(&mut self.desk);
        self.told(result)
    }

    fn by_digest(&self, provider: &str, kind: u8, digest: [u8; 16]) -> Result<Option<u128>> {
        let at = (provider, kind, u128::from_be_bytes(digest));
        let found = self.desk.digests.get(at).and_then(|found| match found {
            Some(id) => <[u8; 16]>::try_from(id.value())
                .map(|bytes| Some(u128::from_be_bytes(bytes)))
                .map_err(|_| Fault::Row(codec::Error::Broken("no id".to_owned()), "a digest".to_owned())),
            None => Ok(None),
        });
        self.told(found)
    }
}

fn seen_at<'a>(provider: &'a str, mark: &'a Seen) -> (&'a str, u8, u128, &'a str) {
    /// Behind the kinds of counters.
    const ROWS: u8 = 16;
    const SETS: u8 = 32;
    match mark {
        Seen::Counter(id) => counter_at(provider, id),
        Seen::Row(row) => {
            let (provider, kind, id) = row_at(provider, *row);
            (provider, ROWS + kind, id, "")
        }
        Seen::Set { kind, id, at } => (provider, SETS + kind.number(), *id, at.digits()),
    }
}

impl Desk<'_> {
    fn set_replicated(&mut self, provider: &str, on: bool) -> Result<(), Fault> {
        if self.replicates(provider)? == on {
            return Ok(());
        }
        if !on {
            self.replicated.remove(provider)?;
            let theirs = |(of, kind, digest): (&str, u8, u128), _: &[u8]| {
                Ok((of == provider).then_some((kind, digest)))
            };
            for (kind, digest) in list(&self.digests, Bound::Included((provider, 0, 0)), usize::MAX, theirs)?
            {
                self.digests.remove((provider, kind, digest))?;
            }
            return Ok(());
        }
        self.replicated.put(provider, &[])
    }
}

impl Shelf for OnDisk<'_> {
    fn instance(&self) -> Uuid {
        self.instance
    }

    fn set_instance(&mut self, id: Uuid) -> Result<()> {
        self.write(|desk| desk.meta.put("instance", id.as_bytes()))?;
        self.instance = id;
        Ok(())
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.told(self.desk.notes.get(name).map(|value| value.map(|value| value.value().to_vec())))
    }

    fn set_note(&mut self, name: &str, value: Option<&[u8]>) -> Result<()> {
        self.write(|desk| set(&mut desk.notes, name, value.map(<[u8]>::to_vec)))
    }

    fn set_replicated(&mut self, provider: &str, on: bool) -> Result<()> {
        self.write(|desk| desk.set_replicated(provider, on))
    }

    fn replicates(&self, provider: &str) -> Result<bool> {
        self.told(self.desk.replicates(provider))
    }

    fn key(&self, provider: &str, id: KeyId) -> Result<Option<KeyEntry>> {
        self.told(self.desk.key(provider, id))
    }

    fn put_key(&mut self, provider: &str, id: KeyId, entry: &KeyEntry) -> Result<()> {
        self.latest = self.latest.max(entry.versions.latest()).max(entry.health.epoch);
        self.write(|desk| desk.put_key(provider, id, entry))
    }

    fn remove_key(&mut self, provider: &str, id: KeyId) -> Result<()> {
        self.write(|desk| desk.remove_key(provider, id).map(drop))
    }

    fn keys(&self, provider: &str, after: Option<KeyId>, max: usize) -> Result<Vec<(KeyId, KeyEntry)>> {
        let start = start(after.map(|id| (provider, id.0)), (provider, 0));
        self.told(list(&self.desk.keys, start, max, |(of, id), value| {
            let entry = || Ok((KeyId(id), self.desk.key_entry(provider, KeyId(id), value)?));
            (of == provider).then(entry).transpose()
        }))
    }

    fn token(&self, provider: &str, id: TokenId) -> Result<Option<TokenEntry>> {
        self.told(self.desk.token(provider, id))
    }

    fn put_token(&mut self, provider: &str, id: TokenId, entry: &TokenEntry) -> Result<()> {
        self.latest = self.latest.max(entry.versions.latest());
        self.write(|desk| desk.put_token(provider, id, entry))
    }

    fn remove_token(&mut self, provider: &str, id: TokenId) -> Result<()> {
        self.write(|desk| desk.remove_token(provider, id).map(drop))
    }

    fn tokens(
        &self,
        provider: &str,
        after: Option<TokenId>,
        max: usize,
    ) -> Result<Vec<(TokenId, TokenEntry)>> {
        let start = start(after.map(|id| (provider, id.0)), (provider, 0));
        self.told(list(&self.desk.tokens, start, max, |(of, id), value| {
            let entry = || Ok((TokenId(id), self.desk.token_entry(provider, TokenId(id), value)?));
            (of == provider).then(entry).transpose()
        }))
    }

    fn gone(&self, provider: &str, row: Row) -> Result<Option<Gone>> {
        self.told(self.desk.gone(provider, row))
    }

    fn set_gone(&mut self, provider: &str, row: Row, gone: Option<Gone>) -> Result<()> {
        self.latest = self.latest.max(gone.as_ref().map_or(Version::ZERO, |gone| gone.version));
        self.write(|desk| desk.set_gone(provider, row, gone.as_ref()))
    }

    fn all_gone(&self, provider: &str, after: Option<Row>, max: usize) -> Result<Vec<(Row, Gone)>> {
        let found = self.told(rows::<GoneRecord>(&self.desk.gone, provider, after, max))?;
        Ok(found.into_iter().map(|(row, gone)| (row, gone.into())).collect())
    }

    fn set_digest(&mut self, provider: &str, row: Row, digest: [u8; 16]) -> Result<()> {
        self.write(|desk| desk.put_digest(provider, row, digest))
    }

    fn key_by_digest(&self, provider: &str, digest: [u8; 16]) -> Result<Option<KeyId>> {
        Ok(self.by_digest(provider, desk::KEY, digest)?.map(KeyId))
    }

    fn token_by_digest(&self, provider: &str, digest: [u8; 16]) -> Result<Option<TokenId>> {
        Ok(self.by_digest(provider, desk::TOKEN, digest)?.map(TokenId))
    }

    fn dirty(&self, provider: &str, after: Option<Row>, max: usize) -> Result<Vec<(Row, Dirty)>> {
        self.told(rows(&self.desk.dirty, provider, after, max))
    }

    fn dirty_row(&self, provider: &str, row: Row) -> Result<Option<Dirty>> {
        self.told(self.desk.dirty(provider, row))
    }

    fn set_dirty(&mut self, provider: &str, row: Row, dirty: Option<Dirty>) -> Result<()> {
        self.write(|desk| desk.set_dirty(provider, row, dirty))
    }

    fn dirty_len(&self, provider: &str) -> Result<u64> {
        self.told(count(&self.desk.dirty, || (provider, 0, 0), |(of, ..)| of == provider))
    }

    fn view(&self, provider: &str, id: &CounterId) -> Result<Tally> {
        self.told(self.desk.view(provider, id))
    }

    fn set_view(&mut self, provider: &str, id: &CounterId, value: &Tally) -> Result<()> {
        self.write(|desk| desk.set_view(provider, id, value))
    }

    fn views(
        &self,
        provider: &str,
        after: Option<&CounterId>,
        max: usize,
    ) -> Result<Vec<(CounterId, Tally)>> {
        self.told(self.desk.views(provider, after, max))
    }

    fn open(&self, provider: &str, id: &CounterId) -> Result<Option<Tally>> {
        let found = self.desk.open.get(counter_at(provider, id));
        self.told(found.and_then(|value| optional(value, "what is open")))
    }

    fn set_open(&mut self, provider: &str, id: &CounterId, value: Option<&Tally>) -> Result<()> {
        self.write(|desk| set(&mut desk.open, counter_at(provider, id), value.map(codec::encode)))
    }

    fn opens(
        &self,
        provider: &str,
        after: Option<&CounterId>,
        max: usize,
    ) -> Result<Vec<(CounterId, Tally)>> {
        self.told(counters(&self.desk.open, provider, after, max))
    }

    fn open_len(&self, provider: &str) -> Result<u64> {
        self.told(count(&self.desk.open, || (provider, 0, 0, ""), |(of, ..)| of == provider))
    }

    fn inflight(&self, provider: &str, id: &CounterId) -> Result<Option<Inflight>> {
        let found = self.desk.inflight.get(counter_at(provider, id));
        self.told(found.and_then(|value| optional(value, "deltas under way")))
    }

    fn set_inflight(&mut self, provider: &str, id: &CounterId, value: Option<&Inflight>) -> Result<()> {
        self.write(|desk| {
            let value = value.filter(|value| !value.is_empty());
            set(&mut desk.inflight, counter_at(provider, id), value.map(codec::encode))
        })
    }

    fn inflights(
        &self,
        provider: &str,
        after: Option<&CounterId>,
        max: usize,
    ) -> Result<Vec<(CounterId, Inflight)>> {
        self.told(counters(&self.desk.inflight, provider, after, max))
    }

    fn set(&self, id: SetId) -> Result<Set> {
        self.told(self.desk.set(id))
    }

    fn put_set(&mut self, id: SetId, value: &Set) -> Result<()> {
        let row = (!value.is_empty()).then(|| codec::encode(value));
        self.write(|desk| set(&mut desk.sets, set_at(id), row))
    }

    fn sets(&self, after: Option<SetId>, max: usize) -> Result<Vec<(SetId, Set)>> {
        self.told(sets(&self.desk.sets, after, max))
    }

    fn open_set(&self, id: SetId) -> Result<Set> {
        self.told(self.desk.open_set(id))
    }

    fn put_open_set(&mut self, id: SetId, value: &Set) -> Result<()> {
        let row = (!value.is_empty()).then(|| codec::encode(value));
        self.write(|desk| set(&mut desk.open_sets, set_at(id), row))
    }

    fn open_sets(&self, after: Option<SetId>, max: usize) -> Result<Vec<(SetId, Set)>> {
        self.told(sets(&self.desk.open_sets, after, max))
    }

    fn open_events(&self, max: usize) -> Result<Vec<Event>> {
        self.told(list(&self.desk.open_events, Bound::Included(0), max, |_, value| {
            read(value, || "an event".to_owned()).map(Some)
        }))
    }

    fn set_open_event(&mut self, id: Uuid, event: Option<&Event>) -> Result<()> {
        self.write(|desk| set(&mut desk.open_events, id.as_u128(), event.map(codec::encode)))
    }

    fn open_logs(&self, max: usize) -> Result<Vec<UsageLog>> {
        self.told(list(&self.desk.open_logs, Bound::Included(0), max, |_, value| {
            read(value, || "a request".to_owned()).map(Some)
        }))
    }

    fn set_open_log(&mut self, id: Uuid, log: Option<&UsageLog>) -> Result<()> {
        self.write(|desk| set(&mut desk.open_logs, id.as_u128(), log.map(codec::encode)))
    }

    fn user(&self, id: UserId) -> Result<Option<UserEntry>> {
        self.told(self.desk.user(id))
    }

    fn put_user(&mut self, id: UserId, entry: &UserEntry) -> Result<()> {
        self.latest = self.latest.max(entry.versions.latest());
        self.write(|desk| desk.put_user(id, entry))
    }

    fn remove_user(&mut self, id: UserId) -> Result<()> {
        self.write(|desk| desk.remove_user(id).map(drop))
    }

    fn users(&self, after: Option<UserId>, max: usize) -> Result<Vec<(UserId, UserEntry)>> {
        let start = start(after.map(|id| id.0), 0);
        let ids = self.told(list(&self.desk.users, start, max, |id, _| Ok(Some(UserId(id)))))?;
        let entry = |id| Ok(self.told(self.desk.user(id))?.map(|entry| (id, entry)));
        ids.into_iter().filter_map(|id| entry(id).transpose()).collect()
    }

    fn batch(&self, provider: &str, seq: u64) -> Result<Option<Vec<u8>>> {
        let found = self.desk.batches.get((provider, seq));
        self.told(found.map(|value| value.map(|value| value.value().to_vec())))
    }

    fn set_batch(&mut self, provider: &str, seq: u64, batch: Option<&[u8]>) -> Result<()> {
        self.write(|desk| set(&mut desk.batches, (provider, seq), batch.map(<[u8]>::to_vec)))
    }

    fn batches(&self, provider: &str, from: u64, max: usize) -> Result<Vec<u64>> {
        let start = Bound::Included((provider, from));
        self.told(list(&self.desk.batches, start, max, |(of, seq), _| Ok((of == provider).then_some(seq))))
    }

    fn mark_seen(&mut self, provider: &str, mark: &Seen) -> Result<()> {
        self.write(|desk| desk.seen.put(seen_at(provider, mark), &[]))
    }

    fn was_seen(&self, provider: &str, mark: &Seen) -> Result<bool> {
        self.told(self.desk.seen.has(seen_at(provider, mark)))
    }

    fn forget_seen(&mut self, provider: &str, max: usize) -> Result<bool> {
        self.write(|desk| {
            let start = Bound::Included((provider, 0, 0, ""));
            let marks = list(&desk.seen, start, max, |(of, kind, number, name), _| {
                Ok((of == provider).then(|| (kind, number, Box::<str>::from(name))))
            })?;
            for (kind, number, name) in &marks {
                desk.seen.remove((provider, *kind, *number, &**name))?;
            }
            Ok(marks.len() == max)
        })
    }
}
