//! One provider's stream inside one transaction: what the steps of the protocol share.

use uuid::Uuid;

use super::{
    Bounds, Effect, Error, Note, Outcome, Result,
    document::{self, Batch, Head, Mark, StreamNote},
    text::{self, Shift},
};
use crate::{
    model::{KeyId, Secret, Stamps, Timestamp, TokenId, UserId, Version, version::MAX_AHEAD},
    replica::wire::Rows,
    store::shelf::{Dirty, Row, Shelf},
};

pub struct Stream<'a> {
    pub shelf: &'a mut dyn Shelf,
    pub stamps: &'a Stamps,
    pub provider: &'a str,
    /// All that are configured.
    pub providers: &'a [String],
    pub bounds: Bounds,
    pub shift: Shift,
    pub now: Timestamp,
    pub out: &'a mut Outcome,
    pub note: StreamNote,
    /// The hub has no room for what is optional: it is not told, and stays here.
    pub shed: bool,
}

impl Stream<'_> {
    pub fn save(&mut self) -> Result<()> {
        document::write(self.shelf, &document::stream_name(self.provider), &self.note)
    }

    pub fn effect(&mut self, effect: impl FnOnce(String) -> Effect) {
        self.out.effects.push(effect(self.provider.to_owned()));
    }

    pub fn say(&mut self, note: impl FnOnce(String) -> Note) {
        self.out.notes.push(note(self.provider.to_owned()));
    }

    pub fn hub_now(&self) -> Timestamp {
        Timestamp(self.now.0.saturating_add(self.shift.0))
    }

    /// What comes after will be later, unless it is from a future that nobody's clock can have seen.
    pub fn observe(&self, version: Version) {
        if broken!(IgnoresSeenVersions) {
            return;
        }
        if version <= Version::at(self.hub_now().saturating_add(MAX_AHEAD)) {
            self.stamps.observe(version);
        }
    }

    pub fn batch(&self, seq: u64) -> Result<Option<Batch>> {
        self.shelf.batch(self.provider, seq)?.map(|bytes| Batch::decode(&bytes)).transpose()
    }

    pub fn put_batch(&mut self, batch: &Batch) -> Result<()> {
        Ok(self.shelf.set_batch(self.provider, batch.head.seq, Some(&batch.encode()))?)
    }

    pub fn kept_head(&self, seq: u64) -> Result<Option<Head>> {
        self.shelf.batch(self.provider, seq)?.map(|bytes| Head::of(&bytes)).transpose()
    }

    pub fn head_of(&self, seq: u64) -> Result<Head> {
        self.kept_head(seq)?.ok_or_else(|| lost(seq))
    }

    /// Changes a batch's head; returns how many bytes it has.
    pub fn restate(&mut self, seq: u64, change: impl FnOnce(&mut Head)) -> Result<u64> {
        let bytes = self.shelf.batch(self.provider, seq)?.ok_or_else(|| lost(seq))?;
        let mut head = Head::of(&bytes)?;
        change(&mut head);
        let bytes = head.put_before(&bytes)?;
        self.shelf.set_batch(self.provider, seq, Some(&bytes))?;
        Ok(bytes.len() as u64)
    }

    /// Sealed and not confirmed, in order.
    pub fn queue(&self) -> std::ops::RangeInclusive<u64> {
        self.note.confirmed.seq + 1..=self.note.sealed.seq
    }

    pub fn waiting(&self) -> u64 {
        self.note.sealed.seq.saturating_sub(self.note.confirmed.seq)
    }

    /// One of the queue.
    pub fn waiting_batch(&self, seq: u64) -> Result<Batch> {
        self.batch(seq)?.ok_or_else(|| lost(seq))
    }

    /// The batch that is sent next.
    pub fn head(&self) -> Result<Option<Batch>> {
        let first = (self.waiting() > 0).then_some(self.note.confirmed.seq + 1);
        first.map(|seq| self.waiting_batch(seq)).transpose()
    }

    /// Makes a row dirty in one more way.
    pub fn soil(&mut self, row: Row, more: Dirty) -> Result<()> {
        let old = self.shelf.dirty_row(self.provider, row)?;
        let was = old.unwrap_or_default();
        let dirty = Dirty {
            added: was.added || more.added,
            gone: was.gone || more.gone,
            changed: was.changed || more.changed,
        };
        if old != Some(dirty) {
            self.shelf.set_dirty(self.provider, row, Some(dirty))?;
        }
        Ok(())
    }

    /// The text of a key, there or deleted.
    pub fn key_text(&self, id: KeyId) -> Result<Option<Secret>> {
        if let Some(entry) = self.shelf.key(self.provider, id)? {
            return Ok(Some(entry.record.secret));
        }
        Ok(self.shelf.gone(self.provider, Row::Key(id))?.and_then(|gone| gone.text))
    }

    pub fn token_text(&self, id: TokenId) -> Result<Option<Secret>> {
        if let Some(entry) = self.shelf.token(self.provider, id)? {
            return Ok(Some(entry.record.secret));
        }
        Ok(self.shelf.gone(self.provider, Row::Token(id))?.and_then(|gone| gone.text))
    }

    /// Takes the newest batch apart again: nobody has applied it, and nobody will.
    pub fn unseal(&mut self, batch: &Batch) -> Result<()> {
        let head = &batch.head;
        for (id, tally) in self.tallies(&batch.rows) {
            let mut inflight = self.shelf.inflight(self.provider, &id)?.unwrap_or_default();
            inflight.sealed.retain(|(seq, _)| *seq != head.seq);
            self.put_inflight(&id, inflight)?;
            let mut open = self.shelf.open(self.provider, &id)?.unwrap_or_default();
            open.add(&tally);
            self.shelf.set_open(self.provider, &id, Some(&open))?;
        }
        self.soil_rows(&batch.rows)?;
        self.reopen(&batch.rows, true)?;
        self.drop_newest(head)
    }

    /// The newest batch is none any more.
    pub fn drop_newest(&mut self, head: &Head) -> Result<()> {
        self.shelf.set_batch(self.provider, head.seq, None)?;
        self.note.sealed = Mark { seq: head.seq - 1, digest: head.prev.clone() };
        self.note.sent = self.note.sent.min(head.seq - 1);
        self.note.pending_rows = self.note.pending_rows.saturating_sub(head.rows);
        Ok(())
    }

    /// What a batch said of keys, tokens and users is to be told again.
    pub fn soil_rows(&mut self, rows: &Rows) -> Result<()> {
        for row in &rows.keys {
            let id = Row::Key(KeyId::derive(self.provider, row.k.expose()));
            self.soil(id, Dirty { added: row.add, gone: false, changed: true })?;
        }
        for row in &rows.tokens {
            let id = Row::Token(TokenId::derive(self.provider, row.k.expose()));
            self.soil(id, Dirty { added: row.add, gone: false, changed: true })?;
        }
        for row in &rows.users {
            let id = Row::User(text::user_of(row));
            self.soil(id, Dirty { added: row.add, gone: false, changed: true })?;
        }
        for row in &rows.shares {
            let id = Row::Key(KeyId(row.i.as_u128()));
            self.soil(id, Dirty { changed: true, ..Dirty::default() })?;
        }
        for row in &rows.gone {
            if let Some(row) = self.gone_here(row)? {
                self.soil(row, Dirty { gone: true, ..Dirty::default() })?;
            }
        }
        Ok(())
    }

    /// Which row of the shelf a deletion is of.
    pub fn gone_here(&self, row: &crate::replica::wire::GoneRow) -> Result<Option<Row>> {
        use crate::replica::wire::GoneKind;
        if row.t == GoneKind::User {
            let Some(id) = row.id.parse::<UserId>().ok().filter(|_| self.is_core()) else { return Ok(None) };
            let row = Row::User(id);
            let known = self.shelf.user(id)?.is_some() || self.shelf.gone(self.provider, row)?.is_some();
            return Ok(known.then_some(row));
        }
        let Some(digest) = text::unhex(&row.id) else { return Ok(None) };
        Ok(match row.t {
            GoneKind::Key => self.shelf.key_by_digest(self.provider, digest)?.map(Row::Key),
            GoneKind::Token => self.shelf.token_by_digest(self.provider, digest)?.map(Row::Token),
            _ => None,
        })
    }

    /// Another id, under which the stream begins anew; the file's, unless that is the one that is taken.
    pub fn rename(&mut self, fresh: Uuid) -> Result<()> {
        if self.shelf.instance() == self.note.instance {
            if document::read::<Uuid>(self.shelf, document::ORIGIN)?.is_none() {
                document::write(self.shelf, document::ORIGIN, &self.note.instance)?;
            }
            self.shelf.set_instance(fresh)?;
            self.stamps.set_writer(fresh.as_u128());
        }
        self.note.instance = self.shelf.instance();
        Ok(())
    }
}

fn lost(seq: u64) -> Error {
    Error::Document(format!("batch {seq} is missing"))
}
