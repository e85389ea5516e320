//! A batch that the hub, or the way to it, finds too large becomes several.
//!
//! Rows keep the life that counted them: another life's, told as this one's, could be told by a copy too. So
//! batches are cut, not made anew, and all that wait move up to make room.

use super::{
    Result,
    document::{Head, Mark, Walk},
    seal::batch_of,
    stream::Stream,
};
use crate::replica::wire::Rows;

/// How long an attempt of which nothing was heard may still be carried out, in milliseconds: a hub's calls end within
/// seconds, and what lies between drops what it cannot deliver.
const DOUBT: i64 = 3_600_000;

impl Stream<'_> {
    /// Whether the hub may still come to apply it as it is, though it was refused since.
    pub fn is_in_doubt(&self, seq: u64) -> bool {
        !broken!(SplitsWhatIsInDoubt)
            && self.note.doubtful == seq
            && self.now.0.abs_diff(self.note.doubted_at) < DOUBT.unsigned_abs()
    }

    /// Begins it once `there` shows that the hub has not applied it. Those behind it were made for the same room.
    pub fn split_if_refused(&mut self, there: &Mark) -> Result<()> {
        let head = self.note.confirmed.seq + 1;
        let refused = self.note.refused == Some(head) && !self.is_in_doubt(head);
        if !refused || there.seq + 1 != head {
            return Ok(());
        }
        self.note.refused = None;
        let rows = self.note.rows.unwrap_or(self.bounds.rows).max(1);
        let mut more = 0;
        for seq in self.queue() {
            more += parts(&self.head_of(seq)?, rows) - 1;
        }
        if more > 0 {
            self.note.sent = self.note.sent.min(head - 1);
            self.note.walk = Some(Walk::Split { rows, at: self.note.sealed.seq, more });
        }
        Ok(())
    }

    /// Cuts the batch `at`; the last part of it becomes number `at + more`.
    pub fn split_on(&mut self, rows: usize, at: u64, more: u64) -> Result<Option<Walk>> {
        let batch = self.waiting_batch(at)?;
        let run = if broken!(SplitsAsItsOwn) { self.note.run } else { batch.head.run };
        let parts = cut(batch.rows, rows);
        let before = more.saturating_sub(parts.len() as u64 - 1);
        self.shelf.set_batch(self.provider, at, None)?;
        let (mut prev, mut seq) = (batch.head.prev, at + before);
        for rows in parts {
            for (id, _) in self.tallies(&rows) {
                let mut inflight = self.shelf.inflight(self.provider, &id)?.unwrap_or_default();
                inflight.sealed.iter_mut().filter(|(sealed, _)| *sealed == at).for_each(|(of, _)| *of = seq);
                self.put_inflight(&id, inflight)?;
            }
            let part = batch_of(seq, prev, run, rows);
            self.put_batch(&part)?;
            (prev, seq) = (part.head.digest, seq + 1);
        }
        let last = Mark { seq: at + more, digest: prev };
        if self.note.sealed.seq == at {
            self.note.sealed = last;
        } else {
            // It has moved already, and names its predecessor as that was.
            let next = last.seq + 1;
            self.restate(next, |head| head.prev = last.digest)?;
        }
        Ok((before > 0).then_some(Walk::Split { rows, at: at - 1, more: before }))
    }
}

fn parts(head: &Head, rows: usize) -> u64 {
    head.rows.div_ceil(rows as u64).max(1)
}

/// Keys come before their counts, as in one batch.
fn cut(mut rows: Rows, most: usize) -> Vec<Rows> {
    fn take<T>(list: &mut Vec<T>, left: &mut usize) -> Vec<T> {
        let taken: Vec<T> = list.drain(..list.len().min(*left)).collect();
        *left -= taken.len();
        taken
    }
    let mut parts = Vec::new();
    loop {
        let mut left = most;
        let mut part = Rows {
            gone: take(&mut rows.gone, &mut left),
            keys: take(&mut rows.keys, &mut left),
            tokens: take(&mut rows.tokens, &mut left),
            key_stats: take(&mut rows.key_stats, &mut left),
            token_stats: take(&mut rows.token_stats, &mut left),
            models: take(&mut rows.models, &mut left),
            hours: take(&mut rows.hours, &mut left),
            ..Rows::default()
        };
        if left > 0 {
            part.global = rows.global.take();
        }
        parts.push(part);
        if rows.count() == 0 {
            return parts;
        }
    }
}
