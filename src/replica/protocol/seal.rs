//! Making batches: durable before they are sent, sent as they were made.
//!
//! What one holds is taken from what is dirty and open in the order of ids, so that two copies of one file make
//! the same batches of it, and the hub takes them once.

use serde::Serialize;
use uuid::Uuid;

use super::{
    Note, Result,
    counters::requests,
    document::{Batch, Head, Mark},
    stream::Stream,
    text,
};
use crate::{
    model::{CounterId, Tally, Timestamp, UserId},
    replica::wire::{GlobalRow, HourRow, ModelRow, Rows, TokenStatsRow},
    store::shelf::{Dirty, KeyEntry, Row, TokenEntry, UserEntry},
};

/// A row that is alone larger than a batch may be is sent all the same.
const LEAST_ROWS: u64 = 1;

/// Whether batches that different lives of this process have counted may become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lives {
    /// At a start: none of them is the one that begins.
    Together,
    Apart,
}

/// Once around all open counters, and the rows of requests up to now. Counters that are used all the time are open again
/// at once, and rows keep coming: whoever goes on until none is open does not end.
#[derive(Clone, Debug)]
pub struct Lap {
    start: Option<CounterId>,
    /// Where the last batch ended.
    after: Option<CounterId>,
    around: bool,
    over: bool,
    /// Rows of later requests are not in it.
    until: Timestamp,
}

impl Lap {
    /// That begins behind this one.
    pub fn new(start: Option<CounterId>, until: Timestamp) -> Self {
        Self { around: start.is_none(), after: start.clone(), start, over: false, until }
    }
}

/// A batch that is being made, and what still fits.
pub struct Draft {
    seq: u64,
    rows: Rows,
    room: usize,
    bytes: usize,
    taken: u64,
    full: bool,
}

impl Draft {
    /// Whether there is room for that row.
    fn fits<T: Serialize>(&mut self, row: &T) -> bool {
        let size = serde_json::to_vec(row).map_or(0, |json| json.len() + 1);
        if self.taken >= LEAST_ROWS && (self.room == 0 || self.bytes < size) && !broken!(BatchesAreNotBounded)
        {
            self.full = true;
            return false;
        }
        self.room = self.room.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size);
        self.taken += 1;
        true
    }

    pub fn push<T: Serialize>(&mut self, list: fn(&mut Rows) -> &mut Vec<T>, row: T) -> bool {
        let fits = self.fits(&row);
        list(&mut self.rows).extend(fits.then_some(row));
        fits
    }

    pub fn put_global(&mut self, row: GlobalRow) -> bool {
        let fits = self.fits(&row);
        self.rows.global = self.rows.global.take().or(fits.then_some(row));
        fits
    }

    pub fn is_full(&self) -> bool {
        self.full
    }

    pub fn into_rows(self) -> Rows {
        self.rows
    }
}

impl Stream<'_> {
    pub fn draft(&self) -> Draft {
        let room = self.note.rows.unwrap_or(usize::MAX).min(self.bounds.rows);
        let (seq, bytes) = (self.note.sealed.seq + 1, self.bounds.bytes);
        Draft { seq, rows: Rows::default(), room, bytes, taken: 0, full: false }
    }

    /// Puts it behind the others, if anything is in it.
    pub fn put(&mut self, draft: Draft, run: Uuid) -> Result<()> {
        if draft.taken > 0 {
            let prev = self.note.sealed.digest.clone();
            let batch = batch_of(draft.seq, prev, run, draft.rows);
            self.put_batch(&batch)?;
            self.note.sealed = batch.head.mark();
            self.note.pending_rows += batch.head.rows;
        }
        Ok(())
    }

    /// Seals one batch, if there is anything to seal; returns whether something is left.
    pub fn seal(&mut self, run: Uuid) -> Result<bool> {
        let mut lap = Lap::new(self.note.turn.clone(), Timestamp(i64::MAX));
        self.seal_in(run, &mut lap)
    }

    /// As [`Stream::seal`], with no counter and no row of a request beyond that lap.
    pub fn seal_in(&mut self, run: Uuid, lap: &mut Lap) -> Result<bool> {
        let mut draft = self.draft();
        if self.shed && self.is_core() {
            self.keep_back()?;
        }
        self.seal_dirty(&mut draft)?;
        // Who used what comes before how often: members are new once, and counters change all the time.
        if !draft.full && self.is_core() {
            self.seal_seen(&mut draft)?;
        }
        if !draft.full {
            self.seal_open(&mut draft, lap)?;
        }
        if !draft.full && self.is_core() {
            self.seal_logs(&mut draft, lap.until)?;
        }
        let left = draft.full;
        self.put(draft, run)?;
        Ok(left)
    }

    fn seal_dirty(&mut self, draft: &mut Draft) -> Result<()> {
        let mut after = None;
        loop {
            let dirty = self.shelf.dirty(self.provider, after, self.bounds.stride)?;
            let Some((last, _)) = dirty.last() else { return Ok(()) };
            after = Some(*last);
            for (row, dirty) in dirty {
                if !self.seal_row(row, dirty, draft)? {
                    return Ok(());
                }
                self.shelf.set_dirty(self.provider, row, None)?;
            }
        }
    }

    /// A row that is there is told as it is, whatever happened before; its deletion only while it is not. Returns
    /// whether that fitted in.
    pub fn seal_row(&mut self, row: Row, dirty: Dirty, draft: &mut Draft) -> Result<bool> {
        match row {
            // Nothing else of a key is the core's.
            Row::Key(id) if self.is_core() => {
                let row = self.share(id)?;
                return Ok(row.is_none_or(|row| draft.push(|rows| &mut rows.shares, row)));
            }
            Row::Key(id) => {
                if let Some(entry) = self.shelf.key(self.provider, id)? {
                    return Ok(self.seal_key(&entry, dirty.added, draft));
                }
            }
            Row::Token(id) => {
                if let Some(entry) = self.shelf.token(self.provider, id)? {
                    return Ok(self.seal_token(&entry, dirty.added, draft));
                }
            }
            Row::User(id) => {
                if let Some(entry) = self.shelf.user(id)? {
                    return Ok(self.seal_user(id, &entry, dirty.added, draft));
                }
            }
        }
        let gone = if dirty.gone { self.shelf.gone(self.provider, row)? } else { None };
        Ok(gone.is_none_or(|gone| draft.push(|rows| &mut rows.gone, text::gone_row(row, &gone))))
    }

    pub fn seal_key(&self, entry: &KeyEntry, add: bool, draft: &mut Draft) -> bool {
        let row = text::key_row(entry, add && !broken!(AddIsNotTold), self.shift);
        draft.push(|rows| &mut rows.keys, row)
    }

    pub fn seal_token(&self, entry: &TokenEntry, add: bool, draft: &mut Draft) -> bool {
        draft.push(|rows| &mut rows.tokens, text::token_row(entry, add, self.shift))
    }

    pub fn seal_user(&self, id: UserId, entry: &UserEntry, add: bool, draft: &mut Draft) -> bool {
        draft.push(
            |rows| &mut rows.users,
            text::user_row(id, entry, add && !broken!(UsersAreNotAdded), self.shift),
        )
    }

    /// From where the last batch ended to the end of the lap.
    fn seal_open(&mut self, draft: &mut Draft, lap: &mut Lap) -> Result<()> {
        while !lap.over {
            let opens = self.shelf.opens(self.provider, lap.after.as_ref(), self.bounds.stride)?;
            if opens.is_empty() {
                (lap.over, lap.around, lap.after) = (lap.around, true, None);
                continue;
            }
            for (id, tally) in opens {
                lap.over = lap.around && lap.start.as_ref().is_some_and(|start| id > *start);
                if lap.over || !self.seal_counter(&id, &tally, draft)? {
                    return Ok(());
                }
                self.shelf.set_open(self.provider, &id, None)?;
                self.note.turn = Some(id.clone());
                lap.after = Some(id);
            }
        }
        Ok(())
    }

    /// Returns whether it fitted in.
    pub fn seal_counter(&mut self, id: &CounterId, tally: &Tally, draft: &mut Draft) -> Result<bool> {
        let sums = text::sums(tally, self.shift);
        let fits = match id {
            CounterId::Key(key) => {
                let Some(k) = self.key_text(*key)? else { return self.lose(id, tally) };
                draft.push(|rows| &mut rows.key_stats, text::key_stats_row(k, tally, self.shift))
            }
            CounterId::Token(token) => {
                let Some(k) = self.token_text(*token)? else { return self.lose(id, tally) };
                draft.push(|rows| &mut rows.token_stats, TokenStatsRow { k, sums })
            }
            CounterId::Model(model) => {
                draft.push(|rows| &mut rows.models, ModelRow { m: model.to_string(), sums })
            }
            CounterId::Hour(hour, model) => {
                draft.push(|rows| &mut rows.hours, HourRow { h: hour.0, m: model.to_string(), sums })
            }
            CounterId::Total => draft.put_global(GlobalRow { sums }),
            CounterId::Span(id) => draft.push(|rows| &mut rows.tallies, text::tally_row(id, sums)),
        };
        if fits {
            let mut inflight = self.shelf.inflight(self.provider, id)?.unwrap_or_default();
            inflight.sealed.push((draft.seq, *tally));
            self.put_inflight(id, inflight)?;
        }
        Ok(fits)
    }

    /// Nothing on the wire can name it. Its provider's and model's totals are other rows.
    fn lose(&mut self, id: &CounterId, tally: &Tally) -> Result<bool> {
        let view = self.shelf.view(self.provider, id)?.minus(tally);
        self.show(id, &view)?;
        if !tally.counts_nothing() {
            self.say(|provider| Note::Lost { provider, requests: requests(tally) });
        }
        Ok(true)
    }

    /// A step of sealing everything, so that a copy of the file holds nothing that only it could tell. Returns
    /// whether it was the last. `begun` is false at the first step.
    pub fn seal_on(&mut self, run: Uuid, lives: Lives, begun: bool) -> Result<bool> {
        if self.must_walk_before_sealing() {
            self.walk()?;
            return Ok(false);
        }
        if !begun && self.is_worth_merging(lives) {
            self.note.merging = true;
        }
        if self.note.merging {
            self.merge(run, lives)?;
            return Ok(false);
        }
        let left = self.seal(run)?;
        if !left {
            self.note.merged = self.note.merged.min(self.note.sealed.seq);
        }
        Ok(!left)
    }

    /// Too many batches wait. Of what was taken apart before and made so many again, others have to have come: else
    /// every start would do it all over, for nothing.
    fn is_worth_merging(&mut self, lives: Lives) -> bool {
        let most = self.bounds.queue;
        if self.waiting() <= most || lives == Lives::Apart {
            // What one life alone has sealed is little.
            return self.waiting() > most;
        }
        let more = self.note.sealed.seq.saturating_sub(self.note.merged) > most;
        if more {
            self.note.merged = self.note.sealed.seq;
        }
        more
    }

    /// Takes the newest batch apart, if it was never sent.
    fn merge(&mut self, run: Uuid, lives: Lives) -> Result<()> {
        let last = self.note.sealed.seq;
        if last > self.note.sent
            && last > self.note.confirmed.seq
            && let Some(batch) = self.batch(last)?
            // What an earlier life sealed may lie in a copy of the file, too: as this life's own it would be told
            // twice.
            && (lives == Lives::Together || batch.head.run == run || broken!(MergesWhatACopyMayTell))
        {
            return self.unseal(&batch);
        }
        // All over again: after a crash in the middle of it the batches are to be the same.
        (self.note.merging, self.note.turn) = (false, None);
        Ok(())
    }

    pub fn shrink(&mut self, below: Option<u64>) {
        let rows = self.note.rows.unwrap_or(self.bounds.rows);
        let rows = below.and_then(|below| usize::try_from(below).ok()).map_or(rows, |below| rows.min(below));
        self.note.rows = Some((rows / 2).max(1));
    }

    pub fn grow(&mut self) {
        if let Some(rows) = self.note.rows {
            let more = rows + rows / 8 + 1;
            self.note.rows = (more < self.bounds.rows).then_some(more);
        }
    }

    pub fn confirmed(&self) -> &Mark {
        &self.note.confirmed
    }
}

pub fn batch_of(seq: u64, prev: String, run: Uuid, mut rows: Rows) -> Batch {
    sort(&mut rows);
    let digest = text::digest_of_batch(run, &rows);
    Batch { head: Head { seq, prev, digest, run, rows: rows.count(), confirmed: None, told: 0 }, rows }
}

/// Bytewise by primary key: everybody locks in this order.
pub fn sort(rows: &mut Rows) {
    if broken!(RowsAreNotSorted) {
        return;
    }
    rows.gone.sort_by(|a, b| (a.t, &a.id).cmp(&(b.t, &b.id)));
    rows.keys.sort_by(|a, b| a.k.cmp(&b.k));
    rows.tokens.sort_by(|a, b| a.k.cmp(&b.k));
    rows.key_stats.sort_by(|a, b| a.k.cmp(&b.k));
    rows.token_stats.sort_by(|a, b| a.k.cmp(&b.k));
    rows.models.sort_by(|a, b| a.m.cmp(&b.m));
    rows.hours.sort_by(|a, b| (&a.m, a.h).cmp(&(&b.m, b.h)));
    rows.users.sort_by_key(|row| row.i);
    rows.shares.sort_by_key(|row| row.i);
    rows.tallies.sort_by(|a, b| (&a.t, a.i, a.n).cmp(&(&b.t, b.i, b.n)));
    rows.sets.sort_by(|a, b| (&a.t, a.i, a.n, &a.m).cmp(&(&b.t, b.i, b.n, &b.m)));
    rows.events.sort_by_key(|row| row.x);
    rows.logs.sort_by_key(|row| row.x);
}
