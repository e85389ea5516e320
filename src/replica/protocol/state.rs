//! Keys, tokens and deletions as the hub has them, merged field by field into what is here.

use super::{Effect, Result, document::Walk, stream::Stream, text};
use crate::{
    model::{
        CounterId, KeyId, KeyRecord, LimitVersions, Limits, Tally, Timestamp, TokenId, TokenRecord, Version,
    },
    replica::wire::{GoneKind, GoneRow, KeyRow, Rows, TokenRow},
    store::shelf::{Dirty, Gone, KeyEntry, Row, Seen, TokenEntry},
};

/// How long deletions are remembered, in milliseconds: as long as the hub does.
const TOMBSTONES_KEPT: i64 = 30 * 24 * 3_600_000;

/// A field goes to the later version. On equal ones the hub's value stands, so that all have the same.
pub fn take<T: PartialEq>(here: &mut T, here_v: &mut Version, there: T, there_v: Version, ahead: &mut bool) {
    if there_v > *here_v || there_v == *here_v && !broken!(EqualVersionsDiffer) {
        (*here, *here_v) = (there, there_v);
    } else {
        *ahead = true;
    }
}

/// Merges `there` into `here`; returns whether something here is later than there.
pub fn merge_key(here: &mut KeyEntry, there: KeyEntry) -> bool {
    if broken!(TakesWholeRows) {
        if there.versions.note >= here.versions.note {
            *here = there;
        }
        return false;
    }
    let mut ahead = false;
    let (record, versions) = (there.record, there.versions);
    let (r, v) = (&mut here.record, &mut here.versions);
    take(&mut r.created_at, &mut v.added, record.created_at, versions.added, &mut ahead);
    take(&mut r.username, &mut v.username, record.username, versions.username, &mut ahead);
    take(&mut r.note, &mut v.note, record.note, versions.note, &mut ahead);
    take(&mut r.expires_at, &mut v.expires_at, record.expires_at, versions.expires_at, &mut ahead);
    take(&mut r.weight, &mut v.weight, record.weight, versions.weight, &mut ahead);
    take(&mut r.enabled, &mut v.enabled, record.enabled, versions.enabled, &mut ahead);
    take(&mut r.owner, &mut v.owner, record.owner, versions.owner, &mut ahead);
    let until = record.disabled_until;
    take(&mut r.disabled_until, &mut v.disabled_until, until, versions.disabled_until, &mut ahead);
    let added = v.added;
    let there = text::of_age(there.health, added);
    here.health = text::of_age(here.health.clone(), added);
    if broken!(IgnoresEpochs) {
        here.health.epoch = there.epoch;
    }
    if broken!(HealthIsOverwritten) && here.health.epoch == there.epoch {
        here.health = there.clone();
    }
    here.health.merge(&there);
    (ahead || here.health != there) && !broken!(StateIsNotToldAgain)
}

pub fn merge_token(here: &mut TokenEntry, there: TokenEntry) -> bool {
    let mut ahead = false;
    let (record, versions) = (there.record, there.versions);
    let (r, v) = (&mut here.record, &mut here.versions);
    take(&mut r.created_at, &mut v.added, record.created_at, versions.added, &mut ahead);
    take(&mut r.name, &mut v.name, record.name, versions.name, &mut ahead);
    take(&mut r.expires_at, &mut v.expires_at, record.expires_at, versions.expires_at, &mut ahead);
    take(&mut r.user, &mut v.user, record.user, versions.user, &mut ahead);
    ahead | merge_limits(&mut r.limits, &mut v.limits, record.limits, versions.limits)
}

pub fn merge_limits(r: &mut Limits, v: &mut LimitVersions, there: Limits, versions: LimitVersions) -> bool {
    let mut ahead = false;
    macro_rules! take_each {
        ($($field:ident),*) => {
            $(take(&mut r.$field, &mut v.$field, there.$field, versions.$field, &mut ahead);)*
        };
    }
    take_each!(requests_per_minute, requests_per_day, tokens_per_day, allowed_models, allowed_addresses);
    ahead
}

impl Stream<'_> {
    pub fn take_state(&mut self, rows: &Rows, contained: u64) -> Result<()> {
        for row in &rows.gone {
            self.take_gone(row, contained)?;
        }
        for row in &rows.keys {
            self.take_key(row)?;
        }
        for row in &rows.tokens {
            self.take_token(row)?;
        }
        for row in &rows.users {
            self.take_user(row)?;
        }
        Ok(())
    }

    /// The hub has forgotten what was deleted before.
    pub fn deletions_kept_from(&self) -> Version {
        Version::at(Timestamp(self.hub_now().0.saturating_sub(TOMBSTONES_KEPT)))
    }

    /// What the hub forgets as well, by its clock: deletions of keys, and the texts of revoked tokens, whose digests
    /// are kept for good. What is still to be told, or has counts under way that need the text, stays.
    pub fn forget_deletions_on(&mut self, after: Option<Row>) -> Result<Option<Walk>> {
        let old = self.deletions_kept_from();
        let some = self.shelf.all_gone(self.provider, after, self.bounds.stride)?;
        let next = some.last().map(|(last, _)| Walk::ForgetDeletions(Some(*last)));
        for (row, gone) in some {
            let counter = match row {
                Row::Key(id) => CounterId::Key(id),
                Row::Token(id) => CounterId::Token(id),
                Row::User(_) => {
                    if gone.version < old && self.shelf.dirty_row(self.provider, row)?.is_none() {
                        self.shelf.set_gone(self.provider, row, None)?;
                    }
                    continue;
                }
            };
            let wanted = self.shelf.dirty_row(self.provider, row)?.is_some()
                || self.shelf.open(self.provider, &counter)?.is_some()
                || self.shelf.inflight(self.provider, &counter)?.is_some()
                || !gone.is_deletion() && self.shelf.view(self.provider, &counter)? != Tally::default();
            if gone.version >= old || wanted {
                continue;
            }
            match row {
                Row::Key(_) => {
                    self.shelf.set_gone(self.provider, row, None)?;
                    // Nobody would know any more whose counts these are, if the hub's deletion came only now.
                    self.show(&counter, &Tally::default())?;
                }
                Row::Token(_) if broken!(TokensAreForgotten) => {
                    self.shelf.set_gone(self.provider, row, None)?;
                }
                Row::Token(_) if gone.text.is_some() => {
                    let brief = Gone { text: None, ..gone };
                    self.shelf.set_gone(self.provider, row, Some(brief))?;
                }
                Row::Token(_) | Row::User(_) => {}
            }
        }
        Ok(next)
    }

    /// The hub has it. A pull of all rows that has passed its place by before it was added does not show it.
    pub fn is_there(&mut self, row: Row) -> Result<()> {
        if self.note.resync.is_some() {
            self.shelf.mark_seen(self.provider, &Seen::Row(row))?;
        }
        Ok(())
    }

    /// Whether a deletion here is later than what comes. Otherwise it is forgotten: the row was added again.
    pub fn stays_gone(&mut self, row: Row, added: Version) -> Result<bool> {
        let Some(gone) = self.shelf.gone(self.provider, row)? else { return Ok(false) };
        if added < gone.version && !broken!(OwnDeletionsAreForgotten) {
            self.soil(row, Dirty { gone: true, ..Dirty::default() })?;
            return Ok(true);
        }
        self.shelf.set_gone(self.provider, row, None)?;
        self.shelf.set_dirty(self.provider, row, None)?;
        Ok(false)
    }

    fn date_deletion(&mut self, row: Row, version: Version) -> Result<()> {
        match self.shelf.gone(self.provider, row)? {
            Some(gone) if gone.version < version => {
                Ok(self.shelf.set_gone(self.provider, row, Some(Gone { version, ..gone }))?)
            }
            _ => Ok(()),
        }
    }

    fn take_key(&mut self, row: &KeyRow) -> Result<()> {
        let secret = row.k.expose();
        if secret.is_empty() || secret.len() > KeyRecord::MAX_SECRET_LEN {
            // Another program's; nothing here could use it.
            return Ok(());
        }
        let id = KeyId::derive(self.provider, secret);
        let there = text::key_entry(row, self.shift);
        for version in there.versions.each().into_iter().chain([there.health.epoch]) {
            self.observe(version);
        }
        self.is_there(Row::Key(id))?;
        if self.stays_gone(Row::Key(id), row.a)? {
            return Ok(());
        }
        let mut shares = true;
        let entry = match self.shelf.key(self.provider, id)? {
            None => there,
            Some(mut here) => {
                let added_here = here.versions.added > row.a;
                let before = here.clone();
                if merge_key(&mut here, there) {
                    self.soil(Row::Key(id), Dirty { added: added_here, gone: false, changed: true })?;
                }
                if here == before {
                    return Ok(());
                }
                let whose = |entry: &KeyEntry| (entry.versions.owner, entry.versions.enabled);
                shares = whose(&here) != whose(&before);
                here
            }
        };
        if shares {
            // Whoever has changed it may have done so at the tables.
            self.tell_share(id)?;
        }
        self.shelf.put_key(self.provider, id, &entry)?;
        self.effect(|provider| Effect::KeyPut { provider, id, entry: Box::new(entry) });
        Ok(())
    }

    fn take_token(&mut self, row: &TokenRow) -> Result<()> {
        let secret = row.k.expose();
        if secret.is_empty() || secret.len() > TokenRecord::MAX_SECRET_LEN {
            return Ok(());
        }
        let id = TokenId::derive(self.provider, secret);
        let there = text::token_entry(row, self.shift);
        for version in there.versions.each() {
            self.observe(version);
        }
        self.is_there(Row::Token(id))?;
        if self.stays_gone(Row::Token(id), row.a)? {
            return Ok(());
        }
        let entry = match self.shelf.token(self.provider, id)? {
            None => there,
            Some(mut here) => {
                let added_here = here.versions.added > row.a;
                let before = here.clone();
                if merge_token(&mut here, there) {
                    self.soil(Row::Token(id), Dirty { added: added_here, gone: false, changed: true })?;
                }
                if here == before {
                    return Ok(());
                }
                here
            }
        };
        self.shelf.put_token(self.provider, id, &entry)?;
        self.effect(|provider| Effect::TokenPut { provider, id, entry: Box::new(entry) });
        Ok(())
    }

    fn take_gone(&mut self, row: &GoneRow, contained: u64) -> Result<()> {
        if broken!(IgnoresDeletions) {
            return Ok(());
        }
        self.observe(row.v);
        let digest = text::unhex(&row.id);
        let id = match row.t {
            GoneKind::Model => CounterId::Model(row.id.as_str().into()),
            GoneKind::Global => CounterId::Total,
            GoneKind::User => {
                let Some(Row::User(id)) = self.gone_here(row)? else { return Ok(()) };
                if broken!(UsersAreNotDeleted) {
                    return Ok(());
                }
                return match self.shelf.user(id)? {
                    Some(entry) if entry.versions.added > row.v => {
                        self.soil(Row::User(id), Dirty { added: true, gone: false, changed: true })
                    }
                    Some(_) => self.drop_user(id, row.v),
                    None => self.date_deletion(Row::User(id), row.v),
                };
            }
            GoneKind::KeyStats => {
                let key = digest.map(|digest| self.shelf.key_by_digest(self.provider, digest)).transpose()?;
                let Some(Some(id)) = key else { return Ok(()) };
                CounterId::Key(id)
            }
            GoneKind::Key | GoneKind::Token => match self.gone_here(row)? {
                None | Some(Row::User(_)) => return Ok(()),
                Some(Row::Key(id)) => {
                    match self.shelf.key(self.provider, id)? {
                        Some(entry) if entry.versions.added > row.v => {
                            return self
                                .soil(Row::Key(id), Dirty { added: true, gone: false, changed: true });
                        }
                        Some(_) => self.drop_key(id, row.v)?,
                        None => self.date_deletion(Row::Key(id), row.v)?,
                    }
                    CounterId::Key(id)
                }
                Some(Row::Token(id)) => {
                    match self.shelf.token(self.provider, id)? {
                        Some(entry) if entry.versions.added > row.v => {
                            return self
                                .soil(Row::Token(id), Dirty { added: true, gone: false, changed: true });
                        }
                        Some(_) => self.drop_token(id, row.v)?,
                        None => self.date_deletion(Row::Token(id), row.v)?,
                    }
                    CounterId::Token(id)
                }
            },
        };
        if broken!(DeletionKeepsCounts) {
            return Ok(());
        }
        self.rebase(&id, &Tally::default(), contained)
    }
}
