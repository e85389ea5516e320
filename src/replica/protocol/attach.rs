//! The first contact of a provider with a hub: what was counted and set before is this instance's to tell.
//!
//! It goes from the tables into batches, one at each step, and not by way of what is open: there lies only what this
//! process has counted since it began, which no copy of the file can know. So two copies make the same batches of what
//! both have.

use uuid::Uuid;

use super::{
    Machine, Note, Outcome, Result,
    document::{self, Part, Walk},
    seal::Draft,
    stream::Stream,
    text,
};
use crate::{
    model::{CounterId, Tally},
    store::shelf::{CORE, Dirty, Row, Shelf},
};

impl Machine {
    /// A step of what a stream needs that has no hub yet: what is counted from now on is open, since only this life
    /// can tell it. What others counted is not, and is told from the totals. None if that was the last step.
    pub(super) fn before_contact(
        &self,
        shelf: &mut dyn Shelf,
        at: usize,
        out: &mut Outcome,
    ) -> Result<Option<bool>> {
        let (provider, stride) = (self.hub.streams[at].provider.as_str(), self.hub.bounds.stride);
        if broken!(FirstContactForgetsLives) {
            return Ok(None);
        }
        shelf.set_replicated(provider, true)?;
        let earlier = shelf.opens(provider, None, stride)?;
        for (id, _) in &earlier {
            shelf.set_open(provider, id, None)?;
        }
        // A row of a request that two copies tell is there twice: nothing says that it is the same.
        let logs = if provider == CORE { shelf.open_logs(stride)? } else { Vec::new() };
        for log in &logs {
            shelf.set_open_log(log.id, None)?;
        }
        if !logs.is_empty() {
            out.notes.push(Note::LogsLeftOut { logs: logs.iter().map(|log| log.id).collect() });
        }
        Ok((!earlier.is_empty() || !logs.is_empty()).then_some(false))
    }
}

impl Stream<'_> {
    pub fn attach(&mut self, run: Uuid) -> Result<()> {
        // A copy of a file whose other streams were forked has the same to tell of this one: only under the same id
        // can the hub see that it is.
        let origin = document::read(self.shelf, document::ORIGIN)?.filter(|_| !broken!(CopiesAttachApart));
        self.note.instance = origin.unwrap_or_else(|| self.shelf.instance());
        self.note.run = run;
        self.shelf.set_replicated(self.provider, true)?;
        // Keys first: counts of a key that the hub does not have would be those of a deleted one.
        self.note.walk = Some(Walk::Attach(self.first_part()));
        Ok(())
    }

    /// Where a walk over all rows begins.
    pub fn first_part(&self) -> Part {
        if self.is_core() { Part::Users(None) } else { Part::Keys(None) }
    }

    pub fn attach_on(&mut self, part: Part) -> Result<Option<Walk>> {
        let (mut draft, mut next, mut looked) = (self.draft(), Some(part), 0);
        // Rows of which there is nothing to tell fill no batch.
        while looked <= self.bounds.rows
            && !draft.is_full()
            && let Some(part) = next
        {
            next = self.attach_some(part, &mut draft)?;
            looked += self.bounds.stride;
        }
        // Counted before this process began, as far as anyone can know: a copy of the file may tell the same.
        self.put(draft, Uuid::nil())?;
        Ok(next.map(Walk::Attach))
    }

    /// What comes after the rows that were taken; none at the end.
    fn attach_some(&mut self, part: Part, draft: &mut Draft) -> Result<Option<Part>> {
        let stride = self.bounds.stride;
        match part {
            Part::Keys(mut last) => {
                let keys = self.shelf.keys(self.provider, last, stride)?;
                if keys.is_empty() {
                    return Ok(Some(Part::Tokens(None)));
                }
                for (id, entry) in keys {
                    if !self.seal_key(&entry, true, draft) {
                        break;
                    }
                    let digest = text::digest(entry.record.secret.expose().as_bytes());
                    self.told(Row::Key(id), digest)?;
                    last = Some(id);
                }
                Ok(Some(Part::Keys(last)))
            }
            Part::Tokens(mut last) => {
                let tokens = self.shelf.tokens(self.provider, last, stride)?;
                if tokens.is_empty() {
                    return Ok(Some(Part::Gone(None)));
                }
                for (id, entry) in tokens {
                    if !self.seal_token(&entry, true, draft) {
                        break;
                    }
                    let digest = text::digest(entry.record.secret.expose().as_bytes());
                    self.told(Row::Token(id), digest)?;
                    last = Some(id);
                }
                Ok(Some(Part::Tokens(last)))
            }
            Part::Users(mut last) => {
                let users = self.shelf.users(last, stride)?;
                if users.is_empty() {
                    return Ok(Some(Part::Gone(None)));
                }
                for (id, entry) in users {
                    if !self.seal_user(id, &entry, true, draft) {
                        break;
                    }
                    self.shelf.set_dirty(self.provider, Row::User(id), None)?;
                    last = Some(id);
                }
                Ok(Some(Part::Users(last)))
            }
            Part::Gone(mut last) => {
                let gone = self.shelf.all_gone(self.provider, last, stride)?;
                if gone.is_empty() {
                    return Ok(Some(if self.is_core() { Part::Shares(None) } else { Part::Counters(None) }));
                }
                for (row, gone) in gone {
                    let dirty = Dirty { gone: gone.is_deletion(), ..Dirty::default() };
                    if !self.seal_row(row, dirty, draft)? {
                        break;
                    }
                    self.told(row, gone.digest)?;
                    last = Some(row);
                }
                Ok(Some(Part::Gone(last)))
            }
            Part::Shares(mut last) => {
                let Some((provider, keys)) = self.keys_of_all(last.as_ref(), stride)? else {
                    return Ok(Some(Part::Counters(None)));
                };
                for id in keys {
                    if !self.seal_row(Row::Key(id), Dirty::default(), draft)? {
                        break;
                    }
                    self.shelf.set_dirty(self.provider, Row::Key(id), None)?;
                    last = Some((provider.clone(), id));
                }
                Ok(Some(Part::Shares(last)))
            }
            Part::Counters(mut last) => {
                let views = self.shelf.views(self.provider, last.as_ref(), stride)?;
                if views.is_empty() {
                    return Ok(self.is_core().then_some(Part::Sets(None)));
                }
                for (id, view) in views {
                    let before = self.before_this(&id, view)?;
                    if before != Tally::default() && !self.seal_counter(&id, &before, draft)? {
                        break;
                    }
                    last = Some(id);
                }
                Ok(Some(Part::Counters(last)))
            }
            Part::Sets(after) => {
                let some = self.sets_from(after.as_ref(), stride)?;
                if some.is_empty() {
                    return Ok(None);
                }
                let mut last = after;
                for (id, set, from) in some {
                    let before = self.set_before_this(id, &set)?;
                    let told = match before.is_empty() {
                        true => None,
                        false => self.seal_set(id, &before, from, draft),
                    };
                    last = Some((id, told));
                    if told.is_some() {
                        break;
                    }
                }
                Ok(Some(Part::Sets(last)))
            }
            Part::Streams(_) => Ok(None),
        }
    }

    /// Told as it is now, whatever became of it since; and found by the hub's word for it.
    fn told(&mut self, row: Row, digest: [u8; 16]) -> Result<()> {
        self.shelf.set_dirty(self.provider, row, None)?;
        Ok(self.shelf.set_digest(self.provider, row, digest)?)
    }

    /// What is shown of a row without what this process has counted.
    fn before_this(&self, id: &CounterId, view: Tally) -> Result<Tally> {
        let Some(open) = self.shelf.open(self.provider, id)? else { return Ok(view) };
        let before = view.minus(&open);
        Ok(if before.counts_nothing() { Tally::default() } else { before })
    }
}
