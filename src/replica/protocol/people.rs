//! Users, in the stream of the core: merged field by field, as keys and tokens are.

use super::{
    Effect, Result,
    state::{merge_limits, take},
    stream::Stream,
    text,
};
use crate::{
    model::{UserId, Version},
    replica::wire::UserRow,
    store::shelf::{Dirty, Gone, Row, UserEntry},
};

/// Merges `there` into `here`; returns whether something here is later than there.
pub fn merge_user(here: &mut UserEntry, there: UserEntry) -> bool {
    let mut ahead = false;
    let (record, versions) = (there.record, there.versions);
    if broken!(TakesWholeUsers) {
        if versions.latest() >= here.versions.latest() {
            *here = UserEntry { record, versions };
        }
        return false;
    }
    let (r, v) = (&mut here.record, &mut here.versions);
    take(&mut r.created_at, &mut v.added, record.created_at, versions.added, &mut ahead);
    take(&mut r.name, &mut v.name, record.name, versions.name, &mut ahead);
    take(&mut r.note, &mut v.note, record.note, versions.note, &mut ahead);
    take(&mut r.enabled, &mut v.enabled, record.enabled, versions.enabled, &mut ahead);
    ahead | merge_limits(&mut r.limits, &mut v.limits, record.limits, versions.limits)
}

impl Stream<'_> {
    pub fn take_user(&mut self, row: &UserRow) -> Result<()> {
        let id = text::user_of(row);
        let there = text::user_entry(row, self.shift);
        for version in there.versions.each() {
            self.observe(version);
        }
        self.is_there(Row::User(id))?;
        if self.stays_gone(Row::User(id), row.a)? {
            return Ok(());
        }
        let entry = match self.shelf.user(id)? {
            None => there,
            Some(mut here) => {
                let added_here = here.versions.added > row.a;
                let before = here.clone();
                if merge_user(&mut here, there) {
                    self.soil(Row::User(id), Dirty { added: added_here, gone: false, changed: true })?;
                }
                if here == before {
                    return Ok(());
                }
                here
            }
        };
        self.shelf.put_user(id, &entry)?;
        self.out.effects.push(Effect::UserPut { id, entry: Box::new(entry) });
        Ok(())
    }

    /// Someone else has deleted it, unless it was added again here since.
    pub fn lose_user(&mut self, row: &UserRow) -> Result<()> {
        let id = text::user_of(row);
        match self.shelf.user(id)? {
            Some(entry) if entry.versions.added <= row.a => self.drop_user(id, row.a),
            Some(_) | None => Ok(()),
        }
    }

    /// Its tokens stay, and are refused.
    pub fn drop_user(&mut self, id: UserId, version: Version) -> Result<()> {
        self.shelf.remove_user(id)?;
        let row = Row::User(id);
        let gone = Gone { version, digest: id.0.to_be_bytes(), text: None };
        self.shelf.set_gone(self.provider, row, Some(gone))?;
        self.shelf.set_dirty(self.provider, row, None)?;
        self.out.effects.push(Effect::UserRemoved { id });
        Ok(())
    }

    /// Versions from the future become versions of now.
    pub fn restamp_user(&mut self, row: &UserRow) -> Result<()> {
        let id = text::user_of(row);
        let Some(mut entry) = self.shelf.user(id)?.filter(|_| !broken!(UsersKeepTheFuture)) else {
            return Ok(());
        };
        let (now, most) = self.anew();
        for version in entry.versions.each_mut() {
            if *version > most {
                *version = now;
            }
        }
        self.shelf.put_user(id, &entry)?;
        self.soil(Row::User(id), Dirty { added: row.add, gone: false, changed: true })?;
        self.out.effects.push(Effect::UserPut { id, entry: Box::new(entry) });
        Ok(())
    }
}
