//! A batch that the hub, or the way to it, finds too large becomes several.
//!
//! What was sent of it before may still arrive, and be applied as it was. So first another batch is told in its place,
//! with the same number and without rows: the hub takes one of the two, whichever comes first, and what it holds then
//! says for good whether the rows are to be told again. However long something is on its way, nothing has to be waited
//! for.
//!
//! Rows keep the life that counted them: another life's, told as this one's, could be told by a copy too. So
//! batches are cut, not made anew, and all that wait move up to make room.

use super::{
    Result,
    document::{Head, Mark, Walk},
    seal::batch_of,
    stream::Stream,
    text,
};
use crate::replica::wire::Rows;

/// So many times in a row a batch can be late before it counts as too large.
const LATE: u32 = 3;

impl Head {
    /// What is told in its place, when it can not be told as it is.
    pub fn fence(&self) -> Mark {
        Mark { seq: self.seq, digest: text::digest_instead_of(&self.digest) }
    }
}

impl Stream<'_> {
    /// No answer to a batch came in time: on a slow line none ever may.
    pub fn was_late(&mut self, seq: u64) -> Result<()> {
        if self.note.refused == Some(seq) {
            // What was sent in its place is as small as can be: the hub is slow.
            return Ok(());
        }
        self.note.late = self.note.late.saturating_add(1);
        if self.note.late >= LATE && !broken!(LateBatchesStay) {
            return self.refuse(seq);
        }
        self.shrink(None);
        Ok(())
    }

    /// It is too large.
    pub fn refuse(&mut self, seq: u64) -> Result<()> {
        if self.note.refused == Some(seq) {
            return Ok(());
        }
        let rows = self.head_of(seq)?.rows;
        self.note.late = 0;
        self.note.refused = (rows > 1).then_some(seq);
        self.shrink(Some(rows));
        if broken!(SplitsWhatIsInDoubt) && self.note.refused.take().is_some() {
            self.split(false)?;
        }
        Ok(())
    }

    /// Begins it. Those behind the first were made for the same room.
    pub fn split(&mut self, fenced: bool) -> Result<()> {
        (self.note.refused, self.note.late) = (None, 0);
        let rows = self.note.rows.unwrap_or(self.bounds.rows).max(1);
        let mut more = u64::from(fenced);
        for seq in self.queue() {
            more += parts(&self.head_of(seq)?, rows) - 1;
        }
        if more > 0 {
            self.note.sent = self.note.sent.min(self.note.confirmed.seq);
            self.note.walk = Some(Walk::Split { rows, at: self.note.sealed.seq, more, fenced });
        }
        Ok(())
    }

    /// Cuts the batch `at`; the last part of it becomes number `at + more`.
    pub fn split_on(&mut self, rows: usize, at: u64, more: u64, fenced: bool) -> Result<Option<Walk>> {
        let batch = self.waiting_batch(at)?;
        let run = if broken!(SplitsAsItsOwn) { self.note.run } else { batch.head.run };
        let fence = Some(batch.head.fence()).filter(|_| fenced && at == self.note.confirmed.seq + 1);
        let parts = cut(batch.rows, rows);
        let before = more.saturating_sub(parts.len() as u64 - 1);
        self.shelf.set_batch(self.provider, at, None)?;
        let (mut prev, mut seq) = (batch.head.prev, at + before);
        if let Some(fence) = &fence {
            let mut none = batch_of(at, prev, run, Rows::default());
            none.head.digest.clone_from(&fence.digest);
            self.put_batch(&none)?;
            prev = none.head.digest;
        }
        for rows in parts {
            for (id, _) in self.tallies(&rows) {
                let mut inflight = self.shelf.inflight(self.provider, &id)?.unwrap_or_default();
                inflight.sealed.iter_mut().filter(|(sealed, _)| *sealed == at).for_each(|(of, _)| *of = seq);
                self.put_inflight(&id, inflight)?;
            }
            let part = batch_of(seq, prev, run, rows);
            #[cfg(test)]
            crate::replica::simulator::cuts::note(self.note.instance, (at, &batch.head.digest), &part.head);
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
        let left = before > 0 && fence.is_none();
        Ok(left.then_some(Walk::Split { rows, at: at - 1, more: before, fenced }))
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
            users: take(&mut rows.users, &mut left),
            shares: take(&mut rows.shares, &mut left),
            tallies: take(&mut rows.tallies, &mut left),
            sets: take(&mut rows.sets, &mut left),
            events: take(&mut rows.events, &mut left),
            logs: take(&mut rows.logs, &mut left),
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
