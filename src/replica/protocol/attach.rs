//! The first contact of a provider with a hub: what was counted and set before is this instance's to tell.

use uuid::Uuid;

use super::{
    Result,
    seal::Lives,
    stream::{STRIDE, Stream},
};
use crate::{
    model::CounterId,
    store::shelf::{Dirty, Row},
};

impl Stream<'_> {
    /// All that is shown is open, since no hub knows of it.
    pub fn attach(&mut self, run: Uuid) -> Result<()> {
        self.note.instance = self.shelf.instance();
        self.note.run = run;
        self.shelf.set_replicated(self.provider, true)?;
        let mut after: Option<CounterId> = None;
        loop {
            let views = self.shelf.views(self.provider, after.as_ref(), STRIDE)?;
            let Some((last, _)) = views.last() else { break };
            after = Some(last.clone());
            for (id, view) in views {
                self.shelf.set_open(self.provider, &id, Some(&view))?;
            }
        }
        let all = Dirty { added: true, gone: false, changed: true };
        let mut after = None;
        loop {
            let keys = self.shelf.keys(self.provider, after, STRIDE)?;
            let Some((last, _)) = keys.last() else { break };
            after = Some(*last);
            for (id, _) in keys {
                self.soil(Row::Key(id), all)?;
            }
        }
        let mut after = None;
        loop {
            let tokens = self.shelf.tokens(self.provider, after, STRIDE)?;
            let Some((last, _)) = tokens.last() else { break };
            after = Some(*last);
            for (id, _) in tokens {
                self.soil(Row::Token(id), all)?;
            }
        }
        self.tell_deletions()?;
        // Counted before this process began, as far as anyone can know: a copy of the file may tell the same.
        self.seal_all(Uuid::nil(), Lives::Apart)
    }
}
