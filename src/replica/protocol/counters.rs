//! The numbers: which deltas a view holds besides what the hub has said.

use super::{Effect, Result, stream::Stream, text};
use crate::{
    model::{CounterId, Hour, KeyId, Secret, SpanKind, Tally, TokenId, Version},
    replica::wire::Rows,
    store::{
        self,
        shelf::{Gone, Inflight, Row, Seen},
    },
};

impl Stream<'_> {
    /// The counter rows of a batch or page, in the wire's order.
    pub fn tallies(&self, rows: &Rows) -> Vec<(CounterId, Tally)> {
        self.tallies_by_place(rows).into_iter().map(|(_, id, tally)| (id, tally)).collect()
    }

    /// With the list and the position in it that answers name.
    pub fn tallies_by_place(&self, rows: &Rows) -> Vec<((&'static str, usize), CounterId, Tally)> {
        let (provider, shift) = (self.provider, self.shift);
        let keys = rows.key_stats.iter().enumerate().map(|(at, row)| {
            let id = CounterId::Key(KeyId::derive(provider, row.k.expose()));
            (("key_stats", at), id, text::of_key_stats(row, shift))
        });
        let tokens = rows.token_stats.iter().enumerate().map(|(at, row)| {
            let id = CounterId::Token(TokenId::derive(provider, row.k.expose()));
            (("token_stats", at), id, text::of_sums(&row.sums, shift))
        });
        let models = rows.models.iter().enumerate().map(|(at, row)| {
            (("models", at), CounterId::Model(row.m.as_str().into()), text::of_sums(&row.sums, shift))
        });
        let hours = rows.hours.iter().enumerate().map(|(at, row)| {
            let id = CounterId::Hour(Hour(row.h), row.m.as_str().into());
            (("hours", at), id, text::of_sums(&row.sums, shift))
        });
        let global =
            rows.global.iter().map(|row| (("global", 0), CounterId::Total, text::of_sums(&row.sums, shift)));
        let spans = rows.tallies.iter().enumerate().filter_map(|(at, row)| {
            Some((("tallies", at), text::tally_of(row)?, text::of_sums(&row.sums, shift)))
        });
        keys.chain(tokens).chain(models).chain(hours).chain(global).chain(spans).collect()
    }

    pub fn put_inflight(&mut self, id: &CounterId, inflight: Inflight) -> Result<()> {
        let value = (!inflight.is_empty()).then_some(&inflight);
        Ok(self.shelf.set_inflight(self.provider, id, value)?)
    }

    /// The hub's totals of a row have come, with this instance's batches up to `contained` in them; or its row is
    /// no more, and counts begin again from nothing.
    pub fn rebase(&mut self, id: &CounterId, base: &Tally, contained: u64) -> Result<()> {
        let mut inflight = self.shelf.inflight(self.provider, id)?.unwrap_or_default();
        if let Some((seq, _)) = inflight.confirmed {
            if seq > contained {
                // Older than what the hub confirmed: the row was stamped again after this, and comes again.
                return Ok(());
            }
            inflight.confirmed = None;
            self.put_inflight(id, inflight.clone())?;
        }
        let view = self.view_upon(id, base, &inflight)?;
        self.show(id, &view)
    }

    /// What the hub has, and what it has not been told.
    fn view_upon(&self, id: &CounterId, base: &Tally, inflight: &Inflight) -> Result<Tally> {
        let mut view = bounded(*base);
        for (_, sealed) in inflight.sealed.iter().filter(|_| !broken!(ForgetsSealed)) {
            view.add(sealed);
        }
        if let Some(open) = self.shelf.open(self.provider, id)?.filter(|_| !broken!(ForgetsOpen)) {
            view.add(&open);
        }
        Ok(view)
    }

    /// Whether anybody looks at it here.
    pub fn is_shown(&self, id: &CounterId) -> bool {
        !matches!(id, CounterId::Span(span) if !store::keeps(span, self.now))
    }

    /// Sets the view.
    pub fn show(&mut self, id: &CounterId, to: &Tally) -> Result<()> {
        if !self.is_shown(id) && !broken!(OldSpansComeBack) {
            // The hub keeps it longer. Here it would be looked at by nobody, and never forgotten.
            return Ok(());
        }
        let from = self.shelf.view(self.provider, id)?;
        if from != *to {
            self.shelf.set_view(self.provider, id, to)?;
            self.effect(|provider| Effect::Counter { provider, id: id.clone(), from, to: *to });
        }
        Ok(())
    }

    /// What of a view is not the hub's.
    pub fn own(&self, id: &CounterId) -> Result<Tally> {
        let mut own = Tally::default();
        let inflight = self.shelf.inflight(self.provider, id)?.unwrap_or_default();
        inflight.sealed.iter().chain(&inflight.confirmed).for_each(|(_, tally)| own.add(tally));
        if let Some(open) = self.shelf.open(self.provider, id)? {
            own.add(&open);
        }
        Ok(own)
    }

    /// Counts have come of a row that is not here. If it was deleted, then so long ago that the hub has forgotten it,
    /// and somebody has added it again since.
    fn await_row(&mut self, row: Row, text: &Secret) -> Result<()> {
        let gone = self.shelf.gone(self.provider, row)?;
        let is_known = match &gone {
            Some(gone) if gone.is_deletion() && matches!(row, Row::Key(_)) => {
                gone.version >= self.deletions_kept_from()
                    || self.shelf.dirty_row(self.provider, row)?.is_some()
            }
            gone => gone.is_some(),
        };
        if is_known || broken!(EarlyCountsAreStrangers) {
            return Ok(());
        }
        let digest = text::digest(text.expose().as_bytes());
        // Counts that are still to be told of it need its text.
        let text = gone.and_then(|gone| gone.text);
        let awaited = Gone { version: Version::default(), digest, text };
        Ok(self.shelf.set_gone(self.provider, row, Some(awaited))?)
    }

    /// Of a provider's total, which was `before`: after a hub has lost something it may be less.
    pub fn count_missing(&mut self, before: &Tally) -> Result<()> {
        let now = self.shelf.view(self.provider, &CounterId::Total)?;
        if let Some(resync) = &mut self.note.resync {
            resync.missing = resync.missing.saturating_add(requests(&before.minus(&now)));
        }
        Ok(())
    }

    /// What others have used of limits, before it comes with all statistics. It is told and not kept: how far everybody
    /// is in the totals is known of those that came with the statistics, and whoever adopts a hub tells it both.
    pub fn hear_of_limits(&mut self, rows: &Rows, contained: u64) -> Result<()> {
        for (id, base) in self.tallies(rows) {
            let CounterId::Span(span) = &id else { continue };
            if span.kind != SpanKind::TokenDay || !self.is_shown(&id) {
                continue;
            }
            let inflight = self.shelf.inflight(self.provider, &id)?.unwrap_or_default();
            if inflight.confirmed.is_some_and(|(seq, _)| seq > contained) {
                // The row comes again, as in `rebase`.
                continue;
            }
            let to = self.view_upon(&id, &base, &inflight)?;
            let view = self.shelf.view(self.provider, &id)?;
            self.out.effects.push(Effect::Used { id: *span, view, to });
        }
        Ok(())
    }

    pub fn take_counters(&mut self, rows: &Rows, contained: u64) -> Result<()> {
        let marks = self.note.resync.is_some();
        for row in &rows.key_stats {
            let id = KeyId::derive(self.provider, row.k.expose());
            if self.shelf.key(self.provider, id)?.is_none() {
                self.await_row(Row::Key(id), &row.k)?;
            }
        }
        for row in &rows.token_stats {
            let id = TokenId::derive(self.provider, row.k.expose());
            if self.shelf.token(self.provider, id)?.is_none() {
                self.await_row(Row::Token(id), &row.k)?;
            }
        }
        for (id, base) in self.tallies(rows) {
            if matches!(id, CounterId::Span(_)) && broken!(SpansAreNotRebased) {
                continue;
            }
            if marks {
                self.shelf.mark_seen(self.provider, &Seen::Counter(id.clone()))?;
            }
            let before = self.shelf.view(self.provider, &id)?;
            self.rebase(&id, &base, contained)?;
            if id == CounterId::Total {
                self.count_missing(&before)?;
            }
        }
        Ok(())
    }
}

/// More than anybody counts, and far enough from where sums end: what is counted here has to show in them.
const MOST: i64 = i64::MAX / 4;

/// Another program can write what no count can be.
fn bounded(tally: Tally) -> Tally {
    let within = |count: i64| count.clamp(0, MOST);
    Tally {
        success: within(tally.success),
        failure: within(tally.failure),
        other: within(tally.other),
        prompt_tokens: within(tally.prompt_tokens),
        completion_tokens: within(tally.completion_tokens),
        ..tally
    }
}

pub fn requests(tally: &Tally) -> u64 {
    let sum = tally.success.saturating_add(tally.failure).saturating_add(tally.other);
    u64::try_from(sum).unwrap_or(0)
}
