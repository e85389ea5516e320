//! Whose the keys of all providers are, as the core tells it: stated anew whenever it has changed, and never read back,
//! since a key's own row says it too.

use super::{Result, stream::Stream, text};
use crate::{
    model::{KeyId, Version, version::MAX_AHEAD},
    replica::wire::ShareRow,
    store::shelf::{CORE, Dirty, Row},
};

impl Stream<'_> {
    /// The core is to tell whose that key of this provider is now.
    pub fn tell_share(&mut self, id: KeyId) -> Result<()> {
        if self.shelf.replicates(CORE)? && !broken!(SharesAreNotToldAgain) {
            let changed = Dirty { changed: true, ..Dirty::default() };
            self.shelf.set_dirty(CORE, Row::Key(id), Some(changed))?;
        }
        Ok(())
    }

    /// As it is now. None where nobody knows the key any more, or its versions are of a future that is told again
    /// when they are made anew: a later statement would never be heard.
    pub fn share(&self, id: KeyId) -> Result<Option<ShareRow>> {
        let most = Version::at(self.hub_now().saturating_add(MAX_AHEAD));
        for provider in self.providers {
            if let Some(entry) = self.shelf.key(provider, id)? {
                let versions = [entry.versions.added, entry.versions.owner, entry.versions.enabled];
                let is_past = versions.iter().all(|version| *version <= most);
                return Ok(is_past.then(|| text::share_row(provider, id, &entry)));
            }
            let gone = self.shelf.gone(provider, Row::Key(id))?.filter(|gone| gone.is_deletion());
            if let Some(gone) = gone.filter(|_| !broken!(SharesForgetDeletion)) {
                let is_past = gone.version <= most;
                return Ok(is_past.then(|| text::share_ended(provider, id, gone.version)));
            }
        }
        Ok(None)
    }

    /// The keys of one provider after another, from behind that one on. None at the end.
    pub fn keys_of_all(
        &self,
        after: Option<&(String, KeyId)>,
        max: usize,
    ) -> Result<Option<(String, Vec<KeyId>)>> {
        for provider in self.providers {
            let last = match after {
                Some((of, _)) if of > provider => continue,
                Some((of, last)) if of == provider => Some(*last),
                _ => None,
            };
            let keys = self.shelf.keys(provider, last, max)?;
            if !keys.is_empty() {
                return Ok(Some((provider.clone(), keys.into_iter().map(|(id, _)| id).collect())));
            }
        }
        Ok(None)
    }
}
