//! Work on more rows than one transaction should change: whoever writes to the store waits for it.
//!
//! A walk is some steps, each of them a transaction, and what the note has of it is enough to go on after a crash.
//! Nothing is asked of the hub, and so nothing taken from it, before it has come to its end; what is counted and
//! changed here meanwhile finds rows that hold every invariant.

use super::{Result, document::Walk, stream::Stream};

impl Walk {
    /// Whether it makes, moves or ends batches that are not sent yet. Then nothing is sealed before its end: what
    /// it finds may belong to this life or an earlier one.
    fn is_of_the_queue(&self) -> bool {
        match self {
            Self::Attach(_) | Self::Fork { .. } | Self::Split { .. } => true,
            Self::Settle(_) | Self::ForgetDeletions(_) | Self::RollBack { .. } => false,
        }
    }
}

impl Stream<'_> {
    pub fn is_walking(&self) -> bool {
        self.note.walk.is_some() || self.note.stale_marks
    }

    pub fn must_walk_before_sealing(&self) -> bool {
        self.note.walk.as_ref().is_some_and(Walk::is_of_the_queue)
    }

    /// One step.
    pub fn walk(&mut self) -> Result<()> {
        let Some(walk) = self.note.walk.take() else { return self.forget_marks() };
        self.note.walk = match walk {
            Walk::Attach(part) => self.attach_on(part)?,
            Walk::Settle(part) => self.settle_on(part)?,
            Walk::ForgetDeletions(after) => self.forget_deletions_on(after)?,
            Walk::Fork { fresh, taken, told, after } => self.fork_on(fresh, taken, told, after)?,
            Walk::RollBack { to, batches, settled, after } => {
                self.roll_back_on(to, batches, settled, after)?
            }
            Walk::Split { rows, at, more, fenced } => self.split_on(rows, at, more, fenced)?,
        };
        Ok(())
    }

    /// Those of a resync that is over, so that they say nothing in the next one.
    pub fn forget_marks(&mut self) -> Result<()> {
        self.note.stale_marks = self.shelf.forget_seen(self.provider, self.bounds.stride)?;
        Ok(())
    }
}
