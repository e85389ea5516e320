//! Making batches: durable before they are sent, sent as they were made.
//!
//! What one holds is taken from what is dirty and open in the order of ids, so that two copies of one file make
//! the same batches of it, and the hub takes them once.

use uuid::Uuid;

use super::{
    Note, Result,
    counters::requests,
    document::{Batch, Mark},
    stream::{STRIDE, Stream},
    text,
};
use crate::{
    model::{CounterId, Tally},
    replica::wire::{GlobalRow, GoneKind, GoneRow, HourRow, ModelRow, Rows, TokenStatsRow},
    store::shelf::{Dirty, Row},
};

/// Whether batches that different lives of this process have counted may become one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lives {
    /// At a start: none of them is the one that begins.
    Together,
    Apart,
}
/// A row that is alone larger than a batch may be is sent all the same.
const LEAST_ROWS: usize = 1;

/// What still fits.
struct Room {
    rows: usize,
    bytes: usize,
    taken: usize,
}

impl Room {
    /// Whether a row of that size goes in.
    fn take(&mut self, bytes: usize) -> bool {
        if self.taken >= LEAST_ROWS
            && (self.rows == 0 || self.bytes < bytes)
            && !broken!(BatchesAreNotBounded)
        {
            return false;
        }
        self.rows = self.rows.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.taken += 1;
        true
    }
}

fn size<T: serde::Serialize>(row: &T) -> usize {
    serde_json::to_vec(row).map_or(0, |json| json.len() + 1)
}

impl Stream<'_> {
    /// Seals one batch; returns how many rows it has, and whether it is full.
    pub fn seal(&mut self, run: Uuid) -> Result<(usize, bool)> {
        let most = self.note.rows.unwrap_or(usize::MAX).min(self.bounds.rows);
        let mut room = Room { rows: most, bytes: self.bounds.bytes, taken: 0 };
        let mut rows = Rows::default();
        let seq = self.note.sealed.seq + 1;
        let mut fits = self.seal_dirty(&mut rows, &mut room)?;
        if fits {
            fits = self.seal_open(seq, &mut rows, &mut room)?;
        }
        let sealed = room.taken;
        if sealed == 0 {
            return Ok((0, false));
        }
        sort(&mut rows);
        let prev = self.note.sealed.digest.clone();
        let batch = Batch {
            seq,
            prev,
            digest: text::digest_of_batch(run, &rows),
            run,
            rows,
            confirmed: None,
            told: 0,
        };
        self.put_batch(&batch)?;
        self.note.sealed = batch.mark();
        Ok((sealed, !fits))
    }

    fn seal_dirty(&mut self, rows: &mut Rows, room: &mut Room) -> Result<bool> {
        let mut after = None;
        loop {
            let dirty = self.shelf.dirty(self.provider, after, STRIDE)?;
            let Some((last, _)) = dirty.last() else { return Ok(true) };
            after = Some(*last);
            for (row, dirty) in dirty {
                if !self.seal_row(row, dirty, rows, room)? {
                    return Ok(false);
                }
                self.shelf.set_dirty(self.provider, row, None)?;
            }
        }
    }

    /// A row that is there is told as it is, whatever happened before; its deletion only while it is not.
    fn seal_row(&mut self, row: Row, dirty: Dirty, rows: &mut Rows, room: &mut Room) -> Result<bool> {
        let there = match row {
            Row::Key(id) => match self.shelf.key(self.provider, id)? {
                Some(entry) => {
                    let told = text::key_row(&entry, dirty.added && !broken!(AddIsNotTold), self.shift);
                    if !room.take(size(&told)) {
                        return Ok(false);
                    }
                    rows.keys.push(told);
                    true
                }
                None => false,
            },
            Row::Token(id) => match self.shelf.token(self.provider, id)? {
                Some(entry) => {
                    let told = text::token_row(&entry, dirty.added, self.shift);
                    if !room.take(size(&told)) {
                        return Ok(false);
                    }
                    rows.tokens.push(told);
                    true
                }
                None => false,
            },
        };
        if there || !dirty.gone {
            return Ok(true);
        }
        if let Some(gone) = self.shelf.gone(self.provider, row)? {
            let kind = if matches!(row, Row::Key(_)) { GoneKind::Key } else { GoneKind::Token };
            let told = GoneRow { t: kind, id: text::hex(&gone.digest), v: gone.version };
            if !room.take(size(&told)) {
                return Ok(false);
            }
            rows.gone.push(told);
        }
        Ok(true)
    }

    /// From where the last batch ended, once around.
    fn seal_open(&mut self, seq: u64, rows: &mut Rows, room: &mut Room) -> Result<bool> {
        let start = self.note.turn.clone();
        let mut after = start.clone();
        let mut around = start.is_none();
        loop {
            let opens = self.shelf.opens(self.provider, after.as_ref(), STRIDE)?;
            let Some((last, _)) = opens.last() else {
                if around {
                    return Ok(true);
                }
                (around, after) = (true, None);
                continue;
            };
            after = Some(last.clone());
            for (id, tally) in opens {
                if around && start.as_ref().is_some_and(|start| id > *start) {
                    return Ok(true);
                }
                if !self.seal_counter(seq, &id, &tally, rows, room)? {
                    return Ok(false);
                }
                self.note.turn = Some(id);
            }
        }
    }

    fn seal_counter(
        &mut self,
        seq: u64,
        id: &CounterId,
        tally: &Tally,
        rows: &mut Rows,
        room: &mut Room,
    ) -> Result<bool> {
        let shift = self.shift;
        let taken = match id {
            CounterId::Key(key) => {
                let Some(secret) = self.key_text(*key)? else { return self.lose(id, tally) };
                let row = text::key_stats_row(secret, tally, shift);
                let fits = room.take(size(&row));
                rows.key_stats.extend(fits.then_some(row));
                fits
            }
            CounterId::Token(token) => {
                let Some(k) = self.token_text(*token)? else { return self.lose(id, tally) };
                let row = TokenStatsRow { k, sums: text::sums(tally, shift) };
                let fits = room.take(size(&row));
                rows.token_stats.extend(fits.then_some(row));
                fits
            }
            CounterId::Model(model) => {
                let row = ModelRow { m: model.to_string(), sums: text::sums(tally, shift) };
                let fits = room.take(size(&row));
                rows.models.extend(fits.then_some(row));
                fits
            }
            CounterId::Hour(hour, model) => {
                let row = HourRow { h: hour.0, m: model.to_string(), sums: text::sums(tally, shift) };
                let fits = room.take(size(&row));
                rows.hours.extend(fits.then_some(row));
                fits
            }
            CounterId::Total => {
                let row = GlobalRow { sums: text::sums(tally, shift) };
                let fits = room.take(size(&row));
                rows.global = rows.global.take().or(fits.then_some(row));
                fits
            }
        };
        if taken {
            let mut inflight = self.shelf.inflight(self.provider, id)?.unwrap_or_default();
            inflight.sealed.push((seq, *tally));
            self.put_inflight(id, inflight)?;
            self.shelf.set_open(self.provider, id, None)?;
        }
        Ok(taken)
    }

    /// Nothing on the wire can name it. Its provider's and model's totals are other rows.
    fn lose(&mut self, id: &CounterId, tally: &Tally) -> Result<bool> {
        self.shelf.set_open(self.provider, id, None)?;
        let mut view = self.shelf.view(self.provider, id)?;
        view = view.minus(tally);
        self.show(id, &view)?;
        if !tally.counts_nothing() {
            self.say(|provider| Note::Lost { provider, requests: requests(tally) });
        }
        Ok(true)
    }

    /// Seals everything, so that a copy of the file holds nothing that only it could tell.
    pub fn seal_all(&mut self, run: Uuid, lives: Lives) -> Result<()> {
        let queue = self.queue()?;
        if queue.len() > self.bounds.queue {
            for seq in queue.into_iter().rev().take_while(|seq| *seq > self.note.sent).collect::<Vec<_>>() {
                let Some(batch) = self.batch(seq)? else { break };
                // What an earlier life sealed may lie in a copy of the file, too: as this life's own it would be
                // told twice.
                if lives == Lives::Apart && batch.run != run && !broken!(MergesWhatACopyMayTell) {
                    break;
                }
                self.unseal(&batch)?;
            }
        }
        while self.seal(run)?.0 > 0 {}
        Ok(())
    }

    /// A batch that the hub found too large, and that is not in `there`, is made anew, smaller.
    pub fn split_if_refused(&mut self, there: &Mark) -> Result<()> {
        let Some(head) = self.head()? else { return Ok(()) };
        let refused = self.note.refused == Some(head.seq)
            && (self.note.doubtful != head.seq || broken!(SplitsWhatIsInDoubt));
        if !refused || there.seq + 1 != head.seq || there.digest != head.prev {
            return Ok(());
        }
        for seq in self.queue()?.into_iter().rev() {
            if let Some(batch) = self.batch(seq)? {
                self.unseal(&batch)?;
            }
        }
        self.note.refused = None;
        self.seal_all(head.run, Lives::Apart)
    }

    pub fn shrink(&mut self) {
        let rows = self.note.rows.unwrap_or(self.bounds.rows);
        self.note.rows = Some((rows / 2).max(1));
    }

    pub fn grow(&mut self) {
        if let Some(rows) = self.note.rows {
            let more = rows + rows / 8 + 1;
            self.note.rows = (more < self.bounds.rows).then_some(more);
        }
    }

    pub fn head(&self) -> Result<Option<Batch>> {
        match self.queue()?.first() {
            Some(seq) => self.batch(*seq),
            None => Ok(None),
        }
    }

    pub fn confirmed(&self) -> &Mark {
        &self.note.confirmed
    }
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
}
