//! A pull of all rows, begun when the hub may have lost some or deletions may have been missed, and what absence
//! means at its end.

use std::collections::HashSet;

use super::{
    Note, Result,
    counters::requests,
    document::{Part, Resync, Walk, Why},
    stream::Stream,
    text,
};
use crate::{
    model::{CounterId, KeyId, SpanKind, Tally, TokenId, UserId, Version},
    replica::wire::{KeptFrom, Lane},
    store::shelf::{Dirty, Gone, Row, Seen},
};

impl Resync {
    /// Whether a row that the hub no longer has was deleted there while this instance was away. Otherwise the hub
    /// has lost it, and is told it again.
    ///
    /// Of a hub that was moved or rolled back while this instance was away for longer than deletions are
    /// remembered, nobody can tell which: it may have lost the row before it began to forget deletions. There the
    /// row comes back. A key too many is seen and deleted again, a lost one is lost; and of what may never come back,
    /// the revoked tokens, deletions are not forgotten.
    fn says_deleted(&self) -> bool {
        self.why == Why::Away || broken!(AbsenceIsDeletion)
    }
}

fn is_let_go(id: &CounterId, kept: KeptFrom) -> bool {
    match id {
        CounterId::Hour(hour, _) => hour.0 < kept.hours,
        CounterId::Span(id) => match id.kind {
            SpanKind::KeyHour => id.at.number() < kept.hours,
            SpanKind::UserClasses | SpanKind::UserErrors | SpanKind::UserUses => id.at.number() < kept.days,
            SpanKind::KeyDay | SpanKind::KeyTotal | SpanKind::TokenDay => false,
        },
        CounterId::Key(_) | CounterId::Token(_) | CounterId::Model(_) | CounterId::Total => false,
    }
}

impl Stream<'_> {
    pub fn begin_resync(&mut self, why: Why) -> Result<()> {
        // A hub that may have lost rows says more than one that has forgotten deletions, until its rows have been seen.
        let weight = |why: Why| match why {
            Why::Forked | Why::Clock => 0,
            Why::Away => 1,
            Why::Moved | Why::RolledBack => 2,
        };
        let why = match &self.note.resync {
            Some(before) if !before.state_done && weight(before.why) > weight(why) => before.why,
            _ => why,
        };
        let missing = self.note.resync.as_ref().map_or(0, |before| before.missing);
        self.note.resync = Some(Resync {
            why,
            state_done: false,
            stats_done: false,
            missing,
            contained: None,
            kept: KeptFrom::default(),
        });
        for lane in [Lane::State, Lane::Stats, Lane::Limits] {
            let lane = self.note.lane(lane);
            (lane.cursor, lane.drain) = (None, None);
        }
        self.forget_marks()?;
        self.say(|provider| Note::ResyncBegun { provider, why });
        Ok(())
    }

    /// Deletions were forgotten that this instance has not seen: a full pull is under way already, and what it
    /// does not show was deleted.
    pub fn deletions_missed(&mut self) {
        if let Some(resync) = &mut self.note.resync
            && (matches!(resync.why, Why::Forked | Why::Clock) || broken!(LossIsDeletion))
        {
            resync.why = Why::Away;
        }
    }

    /// A lane has come by whole, which began when the hub had this instance's batches up to `contained`.
    pub fn end_lane(&mut self, lane: Lane, contained: Option<u64>, kept: KeptFrom) -> Result<()> {
        let Some(resync) = &mut self.note.resync else { return Ok(()) };
        match lane {
            // After a fork only the totals were in doubt, after a change of the clock only dates.
            Lane::State if matches!(resync.why, Why::Forked | Why::Clock) || broken!(AbsenceIsNothing) => {
                self.settled(lane)
            }
            Lane::State if !resync.state_done => {
                self.note.walk = Some(Walk::Settle(self.first_part()));
                Ok(())
            }
            Lane::Stats if !resync.stats_done => {
                (resync.contained, resync.kept) = (contained, kept);
                self.note.walk = Some(Walk::Settle(Part::Counters(None)));
                Ok(())
            }
            Lane::State | Lane::Stats | Lane::Limits => Ok(()),
        }
    }

    fn settled(&mut self, lane: Lane) -> Result<()> {
        let Some(resync) = &mut self.note.resync else { return Ok(()) };
        match lane {
            Lane::State => resync.state_done = true,
            Lane::Stats => resync.stats_done = true,
            Lane::Limits => {}
        }
        if resync.state_done && resync.stats_done {
            let (why, missing) = (resync.why, resync.missing);
            self.note.resync = None;
            self.forget_marks()?;
            self.say(|provider| Note::ResyncDone { provider, why, missing });
        }
        Ok(())
    }

    /// What the pages have not shown.
    pub fn settle_on(&mut self, part: Part) -> Result<Option<Walk>> {
        let Some(resync) = self.note.resync.clone() else { return Ok(None) };
        let (lane, next) = match part {
            Part::Keys(after) => {
                let last = self.settle_keys(&resync, after)?;
                (Lane::State, Some(last.map_or(Part::Tokens(None), |last| Part::Keys(Some(last)))))
            }
            Part::Tokens(after) => {
                let last = self.settle_tokens(&resync, after)?;
                // A hub that has lost rows may have lost deletions as well.
                let deletions = matches!(resync.why, Why::RolledBack | Why::Moved);
                let then = deletions.then_some(Part::Gone(None));
                (Lane::State, last.map_or(then, |last| Some(Part::Tokens(Some(last)))))
            }
            Part::Users(after) => {
                let last = self.settle_users(&resync, after)?;
                let deletions = matches!(resync.why, Why::RolledBack | Why::Moved);
                let then = deletions.then_some(Part::Gone(None));
                (Lane::State, last.map_or(then, |last| Some(Part::Users(Some(last)))))
            }
            Part::Gone(after) => {
                let last = self.tell_deletions(after)?;
                let then = self.is_core().then_some(Part::Shares(None));
                (Lane::State, last.map_or(then, |last| Some(Part::Gone(Some(last)))))
            }
            Part::Shares(after) => {
                let last = self.tell_shares(after.as_ref())?;
                (Lane::State, last.map(|last| Part::Shares(Some(last))))
            }
            Part::Counters(after) => {
                let last = self.settle_counters(after.as_ref())?;
                let then = self.is_core().then_some(Part::Sets(None));
                (Lane::Stats, last.map_or(then, |last| Some(Part::Counters(Some(last)))))
            }
            Part::Sets(after) => {
                let last = self.settle_sets(after.map(|(id, _)| id))?;
                (Lane::Stats, last.map(|last| Part::Sets(Some((last, None)))))
            }
            Part::Streams(_) => return Ok(None),
        };
        if next.is_some() {
            return Ok(next.map(Walk::Settle));
        }
        self.settled(lane)?;
        // After so long a time there may be something to forget.
        Ok((lane == Lane::State).then_some(Walk::ForgetDeletions(None)))
    }

    /// Rows whose addition is in a batch that the hub may not have yet, where that makes a difference.
    fn being_added(&self, resync: &Resync) -> Result<HashSet<Row>> {
        let mut found = HashSet::new();
        if !resync.says_deleted() {
            return Ok(found);
        }
        for seq in self.queue() {
            let batch = self.waiting_batch(seq)?;
            let keys = batch.rows.keys.iter().filter(|row| row.add);
            found.extend(keys.map(|row| Row::Key(KeyId::derive(self.provider, row.k.expose()))));
            let tokens = batch.rows.tokens.iter().filter(|row| row.add);
            found.extend(tokens.map(|row| Row::Token(TokenId::derive(self.provider, row.k.expose()))));
            let users = batch.rows.users.iter().filter(|row| row.add);
            found.extend(users.map(|row| Row::User(text::user_of(row))));
        }
        Ok(found)
    }

    fn settle_keys(&mut self, resync: &Resync, after: Option<KeyId>) -> Result<Option<KeyId>> {
        let keys = self.shelf.keys(self.provider, after, self.bounds.stride)?;
        let last = keys.last().map(|(last, _)| *last);
        let unknown_there = self.being_added(resync)?;
        for (id, entry) in keys {
            if self.is_deleted_there(resync, Row::Key(id), &unknown_there)? {
                self.drop_key(id, entry.versions.added)?;
                if self.shelf.was_seen(self.provider, &Seen::Counter(CounterId::Key(id)))?
                    && let Some(gone) = self.shelf.gone(self.provider, Row::Key(id))?
                {
                    // Its counts were there: somebody has added it again where pages had passed by, and it comes.
                    let awaited = Gone { version: Version::default(), ..gone };
                    self.shelf.set_gone(self.provider, Row::Key(id), Some(awaited))?;
                }
            }
        }
        Ok(last)
    }

    fn settle_tokens(&mut self, resync: &Resync, after: Option<TokenId>) -> Result<Option<TokenId>> {
        let tokens = self.shelf.tokens(self.provider, after, self.bounds.stride)?;
        let last = tokens.last().map(|(last, _)| *last);
        let unknown_there = self.being_added(resync)?;
        for (id, entry) in tokens {
            if self.is_deleted_there(resync, Row::Token(id), &unknown_there)? {
                self.drop_token(id, entry.versions.added)?;
            }
        }
        Ok(last)
    }

    fn settle_users(&mut self, resync: &Resync, after: Option<UserId>) -> Result<Option<UserId>> {
        let users = self.shelf.users(after, self.bounds.stride)?;
        let last = users.last().map(|(last, _)| *last);
        let unknown_there = self.being_added(resync)?;
        for (id, entry) in users {
            if self.is_deleted_there(resync, Row::User(id), &unknown_there)? {
                self.drop_user(id, entry.versions.added)?;
            }
        }
        Ok(last)
    }

    /// A hub that has lost rows does not show whose keys are whose.
    fn tell_shares(&mut self, after: Option<&(String, KeyId)>) -> Result<Option<(String, KeyId)>> {
        let Some((provider, keys)) = self.keys_of_all(after, self.bounds.stride)? else { return Ok(None) };
        for id in &keys {
            self.tell_share(*id)?;
        }
        Ok(keys.last().map(|id| (provider, *id)))
    }

    /// Whether the hub has had the row and has it no more, because it was deleted. If it was not, it is told again.
    fn is_deleted_there(&mut self, resync: &Resync, row: Row, unknown_there: &HashSet<Row>) -> Result<bool> {
        if self.shelf.was_seen(self.provider, &Seen::Row(row))? {
            return Ok(false);
        }
        let dirty = self.shelf.dirty_row(self.provider, row)?.unwrap_or_default();
        if resync.says_deleted() && !dirty.added && !unknown_there.contains(&row) {
            return Ok(true);
        }
        self.soil(row, Dirty { added: true, gone: false, changed: true })?;
        Ok(false)
    }

    fn tell_deletions(&mut self, after: Option<Row>) -> Result<Option<Row>> {
        let gone = self.shelf.all_gone(self.provider, after, self.bounds.stride)?;
        let last = gone.last().map(|(last, _)| *last);
        for (row, _) in gone.into_iter().filter(|(_, gone)| gone.is_deletion()) {
            self.soil(row, Dirty { gone: true, ..Dirty::default() })?;
            if let Row::Key(id) = row {
                self.tell_share(id)?;
            }
        }
        Ok(last)
    }

    /// Counters that the hub does not have begin again from nothing; the requests that its total lacks are noted. Those
    /// that it was told of meanwhile are there, and come. Of what it has let go of for its age or its size, absence says
    /// nothing: this instance keeps it for as long as it does.
    fn settle_counters(&mut self, after: Option<&CounterId>) -> Result<Option<CounterId>> {
        let views = self.shelf.views(self.provider, after, self.bounds.stride)?;
        let last = views.last().map(|(last, _)| last.clone());
        let shown = self.note.resync.as_ref().and_then(|resync| resync.contained);
        let contained = shown.unwrap_or(self.note.confirmed.seq);
        let kept = self.note.resync.as_ref().map(|resync| resync.kept).unwrap_or_default();
        for (id, view) in views {
            if is_let_go(&id, kept)
                || self.shelf.was_seen(self.provider, &Seen::Counter(id.clone()))?
                || broken!(AbsentCountersStay)
            {
                continue;
            }
            if id == CounterId::Total {
                let missing = requests(&view.minus(&self.own(&id)?));
                let resync = self.note.resync.iter_mut();
                resync.for_each(|resync| resync.missing = resync.missing.saturating_add(missing));
            }
            self.rebase(&id, &Tally::default(), contained)?;
        }
        Ok(last)
    }
}
