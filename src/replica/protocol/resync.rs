//! A pull of all rows, begun when the hub may have lost some or deletions may have been missed, and what absence
//! means at its end.

use std::time::Duration;

use super::{
    Note, Result,
    counters::requests,
    document::{LaneNote, Resync, Why},
    stream::{STRIDE, Stream},
};
use crate::{
    model::{CounterId, Tally, Timestamp, Version, version::MAX_AHEAD},
    replica::wire::Lane,
    store::shelf::{Dirty, Row, Seen},
};

impl Stream<'_> {
    pub fn begin_resync(&mut self, why: Why) -> Result<()> {
        let since = self.note.state.complete;
        // A hub that may have lost rows says more than one that has forgotten deletions.
        let weight = |why: Why| match why {
            Why::Forked | Why::Clock => 0,
            Why::Away => 1,
            Why::Moved | Why::RolledBack => 2,
        };
        let why = match &self.note.resync {
            Some(before) if weight(before.why) > weight(why) => before.why,
            _ => why,
        };
        let missing = self.note.resync.as_ref().map_or(0, |before| before.missing);
        self.note.resync = Some(Resync { why, since, state_done: false, stats_done: false, missing });
        for lane in [Lane::State, Lane::Stats] {
            let complete = self.note.lane(lane).complete;
            *self.note.lane(lane) = LaneNote { cursor: None, drain: None, complete };
        }
        self.shelf.forget_seen(self.provider)?;
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

    /// A lane has come by whole.
    pub fn end_lane(&mut self, lane: Lane) -> Result<()> {
        let Some(mut resync) = self.note.resync.take() else { return Ok(()) };
        match lane {
            Lane::State if !resync.state_done => {
                // After a fork only the totals were in doubt, after a change of the clock only dates.
                if !matches!(resync.why, Why::Forked | Why::Clock) && !broken!(AbsenceIsNothing) {
                    self.settle_keys(&resync)?;
                    self.settle_tokens(&resync)?;
                }
                if matches!(resync.why, Why::RolledBack | Why::Moved) {
                    self.tell_deletions()?;
                }
                resync.state_done = true;
            }
            Lane::Stats if !resync.stats_done => {
                resync.missing = resync.missing.saturating_add(self.settle_counters()?);
                resync.stats_done = true;
            }
            Lane::State | Lane::Stats => {}
        }
        if resync.state_done && resync.stats_done {
            self.shelf.forget_seen(self.provider)?;
            let (why, missing) = (resync.why, resync.missing);
            self.say(|provider| Note::ResyncDone { provider, why, missing });
        } else {
            self.note.resync = Some(resync);
        }
        Ok(())
    }

    /// Whether a row that the hub does not have was deleted there while this instance was away. Otherwise the hub
    /// has lost it, and is told it again.
    ///
    /// Of a hub that was moved or rolled back while this instance was away for longer than deletions are
    /// remembered, nobody can tell which: it may have lost the row before it began to forget deletions. There the
    /// row comes back. A key too many is seen and deleted again, a lost one is lost; and of what may never come back,
    /// the revoked tokens, deletions are not forgotten.
    fn was_deleted(resync: &Resync, added: Version) -> bool {
        if broken!(AbsenceIsDeletion) {
            return true;
        }
        // What the hub showed then may bear a version from as far ahead as it takes them.
        let ahead = if broken!(ClocksAreTrusted) { Duration::ZERO } else { MAX_AHEAD };
        let since = resync.since.map(|at| Version::at(Timestamp(at).saturating_add(ahead)));
        resync.why == Why::Away && since.is_some_and(|since| added <= since)
    }

    fn settle_keys(&mut self, resync: &Resync) -> Result<()> {
        let mut after = None;
        loop {
            let keys = self.shelf.keys(self.provider, after, STRIDE)?;
            let Some((last, _)) = keys.last() else { return Ok(()) };
            after = Some(*last);
            for (id, entry) in keys {
                let row = Row::Key(id);
                if self.shelf.was_seen(self.provider, &Seen::Row(row))? {
                    continue;
                }
                let dirty = self.shelf.dirty_row(self.provider, row)?.unwrap_or_default();
                if Self::was_deleted(resync, entry.versions.added) && !dirty.added {
                    self.drop_key(id, entry.versions.added)?;
                } else {
                    self.soil(row, Dirty { added: true, gone: false, changed: true })?;
                }
            }
        }
    }

    fn settle_tokens(&mut self, resync: &Resync) -> Result<()> {
        let mut after = None;
        loop {
            let tokens = self.shelf.tokens(self.provider, after, STRIDE)?;
            let Some((last, _)) = tokens.last() else { return Ok(()) };
            after = Some(*last);
            for (id, entry) in tokens {
                let row = Row::Token(id);
                if self.shelf.was_seen(self.provider, &Seen::Row(row))? {
                    continue;
                }
                let dirty = self.shelf.dirty_row(self.provider, row)?.unwrap_or_default();
                if Self::was_deleted(resync, entry.versions.added) && !dirty.added {
                    self.drop_token(id, entry.versions.added)?;
                } else {
                    self.soil(row, Dirty { added: true, gone: false, changed: true })?;
                }
            }
        }
    }

    /// The hub may have forgotten those as well.
    pub fn tell_deletions(&mut self) -> Result<()> {
        let mut after = None;
        loop {
            let gone = self.shelf.all_gone(self.provider, after, STRIDE)?;
            let Some((last, _)) = gone.last() else { return Ok(()) };
            after = Some(*last);
            // Not those that nobody has deleted: see `await_row`.
            for (row, _) in gone.into_iter().filter(|(_, gone)| gone.version > Version::ZERO) {
                self.soil(row, Dirty { gone: true, ..Dirty::default() })?;
            }
        }
    }

    /// Counters that the hub does not have begin again from nothing; returns the requests that its total lacks.
    fn settle_counters(&mut self) -> Result<u64> {
        let (mut after, mut missing) = (None::<CounterId>, 0);
        loop {
            let views = self.shelf.views(self.provider, after.as_ref(), STRIDE)?;
            let Some((last, _)) = views.last() else { return Ok(missing) };
            after = Some(last.clone());
            for (id, view) in views {
                if self.shelf.was_seen(self.provider, &Seen::Counter(id.clone()))?
                    || broken!(AbsentCountersStay)
                {
                    continue;
                }
                if id == CounterId::Total {
                    missing = requests(&view.minus(&self.own(&id)?));
                }
                let contained = self.note.confirmed.seq;
                self.rebase(&id, &Tally::default(), contained)?;
            }
        }
    }
}
