//! What a call does that failed: which of the round goes on without it, and what is made smaller for the next one.

use super::{
    Machine, Outcome, Result,
    round::{Awaited, What},
};
use crate::{model::Timestamp, replica::transport::ErrorKind, store::shelf::Shelf};

impl Machine {
    /// The call failed: whether it was carried out shows later. Ends the round, unless the hub has answered that
    /// it cannot take this stream's batch, which is nothing to the other streams or to what is to be read, or that it
    /// cannot read some stream's tables, which is nothing to the others.
    ///
    /// # Errors
    /// The shelf's.
    pub fn failed(
        &mut self,
        shelf: &mut dyn Shelf,
        id: u64,
        kind: ErrorKind,
        now: Timestamp,
    ) -> Result<Outcome> {
        let mut out = Outcome::default();
        let awaited = self.awaited.take().filter(|awaited| awaited.id == id);
        let round = self.round.take();
        if let Some(Awaited { what: What::Pull { asks }, .. }) = &awaited
            && is_of_some_table(kind)
        {
            let culprit = self.apart.failed(asks);
            self.round = round.filter(|_| self.hub.streams.len() > 1).map(|mut round| {
                if let Some(at) = culprit {
                    round.streams[at].lanes.clear();
                }
                round
            });
            if let Some(at) = culprit
                && matches!(kind, ErrorKind::Timeout | ErrorKind::TooLarge)
            {
                let asks = asks.clone();
                self.stream(shelf, at, now, &mut out, |stream| {
                    asks.iter().for_each(|(_, ask)| stream.shrink_page(ask));
                    Ok(())
                })?;
            }
        } else if let Some(Awaited { what: What::Adopt(asked), .. }) = &awaited {
            let less = self.adopt_less(shelf, asked, kind, now, &mut out)?;
            self.round = round.filter(|_| less);
        } else if let Some(Awaited { what: What::Push { stream, sent }, .. }) = awaited {
            self.round = round.filter(|_| is_one_streams(kind)).map(|mut round| {
                round.streams[stream].pushing = false;
                round
            });
            self.stream(shelf, stream, now, &mut out, |stream| match kind {
                ErrorKind::TooLarge => stream.refuse(sent.seq),
                ErrorKind::Timeout => stream.was_late(sent.seq),
                _ => Ok(()),
            })?;
        }
        Ok(out)
    }
}

/// Failures of a batch, rather than of the way to the hub or of the hub as a whole.
fn is_one_streams(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Timeout
        | ErrorKind::Forbidden
        | ErrorKind::Missing
        | ErrorKind::ReadOnly
        | ErrorKind::Full
        | ErrorKind::TooLarge
        | ErrorKind::Server => true,
        ErrorKind::Unreachable
        | ErrorKind::Certificate
        | ErrorKind::Credentials
        | ErrorKind::NoSchema
        | ErrorKind::Busy
        | ErrorKind::Garbage
        | ErrorKind::Settings => false,
    }
}

/// Failures that may come of one table's rows or columns. One of another type has no operator, which is told as a
/// function that is not there; too many rows are an answer that nobody gives.
fn is_of_some_table(kind: ErrorKind) -> bool {
    is_one_streams(kind) || matches!(kind, ErrorKind::NoSchema | ErrorKind::Garbage)
}
