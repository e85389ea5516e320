//! The end of a batch: the hub has it.

use super::{
    Effect, Note, Result,
    document::{Batch, Head},
    stream::Stream,
    text,
};
use crate::{
    model::{CounterId, Health, KeyId, SetKind, SpanId, SpanKind, TokenId, Version, version::MAX_AHEAD},
    replica::wire::{GoneRow, KeyRow, RowAnswers, Rows, TokenRow},
    store::shelf::{Dirty, Gone, Row},
};

/// How long a confirmed batch is kept, in milliseconds.
const KEPT: i64 = 7 * 24 * 3_600_000;
/// How many old ones go with each that is confirmed.
const FORGOTTEN: usize = 4;

fn named(list: &[(String, usize)], place: (&str, usize)) -> bool {
    list.iter().any(|(name, at)| (name.as_str(), *at) == place)
}

/// What a hub that is nearly full leaves to those who count it.
fn is_optional(id: &CounterId) -> bool {
    matches!(id, CounterId::Span(SpanId { kind: SpanKind::KeyHour, .. }))
}

/// Rows of which an operator is to hear that they came too late. Not of what a full hub refuses all day.
fn expired_rows(rows: &Rows, answers: &RowAnswers, shed: bool) -> u64 {
    let is_told = |(list, at): &&(String, usize)| match list.as_str() {
        "hours" | "events" => true,
        "tallies" => rows.tallies.get(*at).is_some_and(|row| row.t != SpanKind::KeyHour.code()),
        "sets" => rows.sets.get(*at).is_some_and(|row| !shed || row.t != SetKind::KeyHour.code()),
        _ => false,
    };
    answers.expired.iter().filter(is_told).count() as u64
}

impl Stream<'_> {
    /// Without answers, when only those to a later batch are known: what a row lacks then comes with the pages,
    /// unless its deletion was on one already.
    pub fn confirm(&mut self, batch: Batch, answers: Option<&RowAnswers>) -> Result<()> {
        let nothing = RowAnswers::default();
        let unknown = answers.is_none();
        let answers = answers.filter(|_| !broken!(IgnoresAnswers)).unwrap_or(&nothing);
        let places = self.tallies_by_place(&batch.rows);
        for (place, id, _) in places {
            let expired = named(&answers.expired, place) && !broken!(IgnoresExpired);
            if expired && is_optional(&id) {
                self.keep_here(batch.head.seq, &id)?;
                continue;
            }
            let told_off = expired
                || named(&answers.gone, place)
                || unknown && self.is_deleted(&id)? && !broken!(UnknownAnswersAreNone);
            self.confirm_counter(batch.head.seq, &id, told_off)?;
        }
        let gone = answers.gone.len() as u64;
        for (at, row) in batch.rows.keys.iter().enumerate() {
            if named(&answers.gone, ("keys", at)) {
                self.lose_key(row)?;
            } else if row.add && !named(&answers.clock, ("keys", at)) {
                self.is_there(Row::Key(KeyId::derive(self.provider, row.k.expose())))?;
            }
        }
        for (at, row) in batch.rows.tokens.iter().enumerate() {
            if named(&answers.gone, ("tokens", at)) {
                self.lose_token(row)?;
            } else if row.add && !named(&answers.clock, ("tokens", at)) {
                self.is_there(Row::Token(TokenId::derive(self.provider, row.k.expose())))?;
            }
        }
        for (at, row) in batch.rows.users.iter().enumerate() {
            if named(&answers.gone, ("users", at)) {
                self.lose_user(row)?;
            } else if row.add && !named(&answers.clock, ("users", at)) {
                self.is_there(Row::User(text::user_of(row)))?;
            }
        }
        self.stamp_anew(&batch.rows, answers)?;
        for (rows, note) in [
            (gone, (|provider, rows| Note::Gone { provider, rows }) as fn(String, u64) -> Note),
            (expired_rows(&batch.rows, answers, self.shed), |provider, rows| Note::Expired {
                provider,
                rows,
            }),
        ] {
            if rows > 0 && !broken!(RefusalsAreSilent) {
                self.say(|provider| note(provider, rows));
            }
        }
        self.note.told = self.note.told.saturating_add(batch.requests());
        let (at, told) = (self.hub_now().0, self.note.told);
        self.note.kept_bytes +=
            self.restate(batch.head.seq, |head| (head.confirmed, head.told) = (Some(at), told))?;
        self.note.confirmed = batch.head.mark();
        (self.note.refused, self.note.late) = (None, 0);
        self.note.pending_rows = self.note.pending_rows.saturating_sub(batch.head.rows);
        self.forget_old_batches()
    }

    /// Of these rows those that the hub has refused, since they bear a time that is yet to come.
    pub fn stamp_anew(&mut self, rows: &Rows, answers: &RowAnswers) -> Result<()> {
        for (at, row) in rows.keys.iter().enumerate() {
            if named(&answers.clock, ("keys", at)) && !named(&answers.gone, ("keys", at)) {
                self.restamp_key(row)?;
            }
        }
        for (at, row) in rows.tokens.iter().enumerate() {
            if named(&answers.clock, ("tokens", at)) && !named(&answers.gone, ("tokens", at)) {
                self.restamp_token(row)?;
            }
        }
        for (at, row) in rows.users.iter().enumerate() {
            if named(&answers.clock, ("users", at)) && !named(&answers.gone, ("users", at)) {
                self.restamp_user(row)?;
            }
        }
        for (at, row) in rows.gone.iter().enumerate() {
            if named(&answers.clock, ("gone", at)) {
                self.restamp_gone(row)?;
            }
        }
        let rows = answers.clock.len() as u64;
        if rows > 0 && !broken!(RefusalsAreSilent) {
            self.say(|provider| Note::Clock { provider, rows });
        }
        Ok(())
    }

    fn is_deleted(&self, id: &CounterId) -> Result<bool> {
        let row = match id {
            CounterId::Key(id) => Row::Key(*id),
            CounterId::Token(id) => Row::Token(*id),
            CounterId::Model(_) | CounterId::Hour(..) | CounterId::Total | CounterId::Span(_) => {
                return Ok(false);
            }
        };
        Ok(self.shelf.gone(self.provider, row)?.is_some_and(|gone| gone.is_deletion()))
    }

    fn confirm_counter(&mut self, seq: u64, id: &CounterId, told_off: bool) -> Result<()> {
        let mut inflight = self.shelf.inflight(self.provider, id)?.unwrap_or_default();
        let Some(at) = inflight.sealed.iter().position(|(sealed, _)| *sealed == seq) else {
            return Ok(());
        };
        let (_, tally) = inflight.sealed.remove(at);
        if told_off {
            // Counted, and in a row that will not come back.
            self.put_inflight(id, inflight)?;
            let (mut view, own) = (self.shelf.view(self.provider, id)?.minus(&tally), self.own(id)?);
            if view.minus(&own).counts_nothing() {
                // Dates have no minus: without a base, what is left is this instance's.
                view = own;
            }
            return self.show(id, &view);
        }
        if broken!(DropsConfirmedAtOnce) {
            self.put_inflight(id, inflight)?;
            let view = self.shelf.view(self.provider, id)?.minus(&tally);
            return self.show(id, &view);
        }
        let mut sum = tally;
        if let Some((_, before)) = &inflight.confirmed {
            sum.add(before);
        }
        inflight.confirmed = Some((seq, sum));
        self.put_inflight(id, inflight)
    }

    /// The hub has no room for it: it stays what this instance knows alone.
    fn keep_here(&mut self, seq: u64, id: &CounterId) -> Result<()> {
        let mut inflight = self.shelf.inflight(self.provider, id)?.unwrap_or_default();
        if let Some(at) = inflight.sealed.iter().position(|(sealed, _)| *sealed == seq) {
            let (_, tally) = inflight.sealed.remove(at);
            if self.is_shown(id) {
                inflight.keep(&tally);
            }
        }
        self.put_inflight(id, inflight)
    }

    fn lose_key(&mut self, row: &KeyRow) -> Result<()> {
        let id = KeyId::derive(self.provider, row.k.expose());
        match self.shelf.key(self.provider, id)? {
            // Added again here since.
            Some(entry) if entry.versions.added > row.a => Ok(()),
            Some(_) => self.drop_key(id, row.a),
            None => Ok(()),
        }
    }

    fn lose_token(&mut self, row: &TokenRow) -> Result<()> {
        let id = TokenId::derive(self.provider, row.k.expose());
        match self.shelf.token(self.provider, id)? {
            Some(entry) if entry.versions.added > row.a => Ok(()),
            Some(_) => self.drop_token(id, row.a),
            None => Ok(()),
        }
    }

    /// Someone else has deleted it.
    pub fn drop_key(&mut self, id: KeyId, version: Version) -> Result<()> {
        let Some(entry) = self.shelf.key(self.provider, id)? else { return Ok(()) };
        let secret = entry.record.secret;
        let digest = text::digest(secret.expose().as_bytes());
        self.shelf.remove_key(self.provider, id)?;
        let row = Row::Key(id);
        self.shelf.set_gone(self.provider, row, Some(Gone { version, digest, text: Some(secret) }))?;
        self.shelf.set_dirty(self.provider, row, None)?;
        self.tell_share(id)?;
        self.effect(|provider| Effect::KeyRemoved { provider, id });
        Ok(())
    }

    pub fn drop_token(&mut self, id: TokenId, version: Version) -> Result<()> {
        let Some(entry) = self.shelf.token(self.provider, id)? else { return Ok(()) };
        let secret = entry.record.secret;
        let digest = text::digest(secret.expose().as_bytes());
        self.shelf.remove_token(self.provider, id)?;
        let row = Row::Token(id);
        self.shelf.set_gone(self.provider, row, Some(Gone { version, digest, text: Some(secret) }))?;
        self.shelf.set_dirty(self.provider, row, None)?;
        self.effect(|provider| Effect::TokenRemoved { provider, id });
        Ok(())
    }

    /// The present, for what was stamped by a clock that ran ahead; and up to where versions are believed.
    pub fn anew(&self) -> (Version, Version) {
        let hub_now = self.hub_now();
        if !broken!(ClockIsNotRewound) {
            self.stamps.rewind(hub_now);
        }
        (self.stamps.next(self.now), Version::at(hub_now.saturating_add(MAX_AHEAD)))
    }

    fn restamp_key(&mut self, row: &KeyRow) -> Result<()> {
        let id = KeyId::derive(self.provider, row.k.expose());
        let Some(mut entry) = self.shelf.key(self.provider, id)? else { return Ok(()) };
        let (now, most) = self.anew();
        if broken!(ClockIsNotRestamped) {
            return Ok(());
        }
        let fields = entry.versions.each_mut().into_iter();
        for version in fields.chain([&mut entry.health.epoch]) {
            if *version > most {
                *version = now;
            }
        }
        // A date so far ahead can be a wrong clock's too, and is left: it is a person's or the provider's word.
        entry.health =
            text::of_age(Health { epoch: entry.health.epoch, ..entry.health }, entry.versions.added);
        self.shelf.put_key(self.provider, id, &entry)?;
        self.tell_share(id)?;
        self.soil(Row::Key(id), Dirty { added: row.add, gone: false, changed: true })?;
        self.effect(|provider| Effect::KeyPut { provider, id, entry: Box::new(entry) });
        Ok(())
    }

    fn restamp_token(&mut self, row: &TokenRow) -> Result<()> {
        let id = TokenId::derive(self.provider, row.k.expose());
        let Some(mut entry) = self.shelf.token(self.provider, id)? else { return Ok(()) };
        let (now, most) = self.anew();
        for version in entry.versions.each_mut() {
            if *version > most {
                *version = now;
            }
        }
        self.shelf.put_token(self.provider, id, &entry)?;
        self.soil(Row::Token(id), Dirty { added: row.add, gone: false, changed: true })?;
        self.effect(|provider| Effect::TokenPut { provider, id, entry: Box::new(entry) });
        Ok(())
    }

    fn restamp_gone(&mut self, row: &GoneRow) -> Result<()> {
        let Some(id) = self.gone_here(row)? else { return Ok(()) };
        let Some(mut gone) = self.shelf.gone(self.provider, id)? else { return Ok(()) };
        let (now, most) = self.anew();
        if gone.version > most {
            gone.version = now;
        }
        self.shelf.set_gone(self.provider, id, Some(gone))?;
        self.soil(id, Dirty { gone: true, ..Dirty::default() })
    }

    /// Confirmed batches are kept for a hub that may be rolled back, not for ever.
    fn forget_old_batches(&mut self) -> Result<()> {
        let oldest = self.hub_now().0.saturating_sub(KEPT);
        for seq in self.shelf.batches(self.provider, 0, FORGOTTEN)? {
            if seq >= self.note.confirmed.seq {
                break;
            }
            let Some(bytes) = self.shelf.batch(self.provider, seq)? else { continue };
            let head = Head::of(&bytes)?;
            let too_old = head.confirmed.is_some_and(|at| at < oldest);
            if !too_old && self.note.kept_bytes <= self.bounds.kept_bytes && !broken!(KeepsNoBatches) {
                break;
            }
            self.note.forget(seq, head.told);
            self.shelf.set_batch(self.provider, seq, None)?;
            self.note.kept_bytes = self.note.kept_bytes.saturating_sub(bytes.len() as u64);
        }
        Ok(())
    }
}
